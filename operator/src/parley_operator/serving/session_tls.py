"""The certificate that the session service is served under: of the operator's CA, or from a folder of the
user's.

gRPC asks before each handshake, on a thread of its own; connections that are open keep theirs.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from parley_operator import pki
from parley_operator.clock import Clock

log = logging.getLogger(__name__)


class ServerCertificate:
    """`source` gives the newest pair when the last one is due or was replaced, else `None`; it may raise
    `OSError`, and then the last one is kept."""

    def __init__(self, first: pki.KeyPair, source: Callable[[], pki.KeyPair | None]) -> None:
        self._first = first
        self._source = source
        self._lock = threading.Lock()

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._first),
            self._fetch,  # type: ignore[arg-type]
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            try:
                found = self._source()
            except (OSError, ValueError) as error:
                log.warning("the certificate of the session service is kept: %s", error)
                return None
        return _configuration(found) if found is not None else None


def issued(ca: Callable[[], pki.KeyPair], names: Sequence[str], clock: Clock) -> ServerCertificate:
    """Of the operator's CA, renewed when due. `names` are not empty."""
    current = pki.issue_server(ca(), names[0], clock.now(), names[1:])
    first = current

    def renew() -> pki.KeyPair | None:
        nonlocal current
        if not pki.due(current.certificate, clock.now()) and pki.issued_by(current.certificate, ca()):
            return None
        current = pki.issue_server(ca(), names[0], clock.now(), names[1:])
        return current

    return ServerCertificate(first, renew)


def from_folder(folder: Path) -> ServerCertificate:
    """`tls.crt` and `tls.key` of the folder, followed when they are replaced. Raises `OSError` or
    `ValueError`."""
    stamp = _stamp(folder)
    first = _read(folder)

    def newer() -> pki.KeyPair | None:
        nonlocal stamp
        now = _stamp(folder)
        if now == stamp:
            return None
        found = _read(folder)
        stamp = now
        return found

    return ServerCertificate(first, newer)


def _stamp(folder: Path) -> tuple[tuple[int, int, int], ...]:
    stats = [os.stat(folder / name) for name in ("tls.crt", "tls.key")]
    return tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in stats)


def _read(folder: Path) -> pki.KeyPair:
    pair = pki.KeyPair((folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes())
    pki.check_pair(pair)
    return pair


def _configuration(pair: pki.KeyPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], None)
