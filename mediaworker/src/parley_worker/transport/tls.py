"""TLS of the servers from files, read anew when they change; what connections to others trust."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import ssl
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

log = logging.getLogger(__name__)

MAX_CONTEXTS = 64
"""Of different certificates; each takes about 0.7 MiB."""
Stamp = tuple[tuple[int, int, int], ...]


class CertificateFiles:
    """`tls.crt`, `tls.key` and, for mutual TLS, `ca.crt` in one directory.

    gRPC asks before each handshake; files are read again when one of them was replaced. Files that do not fit
    together leave the certificates as they were.
    """

    def __init__(self, directory: Path, *, mutual: bool) -> None:
        self._mutual = mutual
        self._paths = [directory / name for name in ("tls.key", "tls.crt", *(("ca.crt",) if mutual else ()))]
        self._stamp = self._look()
        self._current = self._read()
        try:
            check_pair(self._current[0], self._current[1])
        except ValueError as error:
            raise OSError(f"the certificate files in {directory} cannot be used: {error}") from error

    def credentials(self) -> grpc.ServerCredentials:
        """Server credentials that follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(self._current),
            self._fetch,  # type: ignore[arg-type]
            require_client_authentication=self._mutual,
        )

    def changed(self) -> bool:
        """True once for each replacement by files that can be used."""
        return self._fetch() is not None

    def _look(self) -> Stamp:
        stats = [os.stat(path) for path in self._paths]
        return tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in stats)

    def _read(self) -> list[bytes]:
        return [path.read_bytes() for path in self._paths]

    def _configuration(self, files: list[bytes]) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(files[0], files[1])], files[2] if self._mutual else None
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return None
            files = self._read()
            check_pair(files[0], files[1])
        except (OSError, ValueError) as error:
            log.warning("certificates in %s are kept: %s", self._paths[0].parent, error)
            return None
        self._stamp = stamp
        if files == self._current:
            return None
        self._current = files
        log.info("certificates in %s were replaced", self._paths[0].parent)
        return self._configuration(files)


class TlsContext:
    """An `ssl.SSLContext` of `tls.crt` and `tls.key` in one directory, for servers that gRPC does not run.

    The files are looked at before each handshake; ones that cannot be used leave the certificate as it was.
    """

    def __init__(self, directory: Path) -> None:
        self._files = CertificateFiles(directory, mutual=False)
        self._directory = directory
        self._current = self._load()
        self.context = self._load()
        self.context.sni_callback = self._before_handshake

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._directory / "tls.crt", self._directory / "tls.key")
        return context

    def _before_handshake(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if self._files.changed():
            try:
                self._current = self._load()
            except (OSError, ssl.SSLError) as error:
                log.warning("certificates in %s are kept: %s", self._directory, error)
        connection.context = self._current


_trusted: OrderedDict[str, ssl.SSLContext] = OrderedDict()
_being_made: dict[str, asyncio.Future[ssl.SSLContext]] = {}


@functools.cache
def _tls_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, "tls")


def trusting(ca_pem: str) -> ssl.SSLContext:
    """Trusts the system's certificates and these; one context serves all who share them.

    Making one takes 30 ms and more: on an event loop `await prepare(ca_pem)` before. ValueError when
    `ca_pem` holds no certificate.
    """
    context = _trusted.get(ca_pem)
    if context is None:
        context = _make(ca_pem)
        _keep(ca_pem, context)
    else:
        _trusted.move_to_end(ca_pem)
    return context


async def prepare(ca_pem: str) -> None:
    """Make what `trusting` gives, in a thread. ValueError as there."""
    if ca_pem in _trusted:
        return
    loop = asyncio.get_running_loop()
    making = _being_made.get(ca_pem)
    if making is None or making.get_loop() is not loop:
        making = _being_made[ca_pem] = loop.run_in_executor(_tls_threads(), _make, ca_pem)
        making.add_done_callback(functools.partial(_made, ca_pem))
    await asyncio.shield(making)


def _made(ca_pem: str, making: asyncio.Future[ssl.SSLContext]) -> None:
    _being_made.pop(ca_pem, None)
    if not making.cancelled() and making.exception() is None:
        _keep(ca_pem, making.result())


def _keep(ca_pem: str, context: ssl.SSLContext) -> None:
    _trusted[ca_pem] = context
    while len(_trusted) > MAX_CONTEXTS:
        _trusted.popitem(last=False)


def _make(ca_pem: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_pem:
        try:
            context.load_verify_locations(cadata=ca_pem)
        except ssl.SSLError as error:
            raise ValueError("ca_pem holds no certificate in PEM form") from error
    return context


def check_pair(key: bytes, certificate: bytes) -> None:
    """Raise ValueError when they are not PEM or do not belong together."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate

    def spki(public: object) -> bytes:
        result: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
        return result

    try:
        private = load_pem_private_key(key, None)
        public = load_pem_x509_certificate(certificate).public_key()
    except TypeError as error:
        raise ValueError("tls.key is encrypted") from error
    if spki(private.public_key()) != spki(public):
        raise ValueError("tls.key is not the key of tls.crt")
