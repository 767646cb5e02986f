"""Certificates of one run: an authority made for it, and a server certificate for this machine's loopback."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from parley_client.errors import MissingProgram

NAME = "localhost"
LIFE = datetime.timedelta(days=2)
SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """A folder with ca.crt, tls.crt and tls.key, and the name that clients verify."""

    folder: Path
    name: str = NAME

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"


def make_server_files(folder: Path, now: datetime.datetime) -> ServerFiles:
    """Write an authority's certificate and a server's for localhost, 127.0.0.1 and the bench's namespaces.

    Raises:
        MissingProgram: the package cryptography is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
        from cryptography.x509.oid import NameOID
    except ImportError:
        raise MissingProgram("the Python package cryptography", "pip install 'parley[bench]'") from None

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("parley bench CA"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + LIFE)
        )

    ca_key = ec.generate_private_key(ec.SECP256R1())
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    ca = builder("parley bench CA", ca_key.public_key()).add_extension(constraints, critical=True)
    ca_certificate = ca.sign(ca_key, hashes.SHA256())
    key = ec.generate_private_key(ec.SECP256R1())
    hosts = [x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = builder(NAME, key.public_key()).add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    certificate = server.sign(ca_key, hashes.SHA256())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = ServerFiles(folder)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.ca.write_bytes(ca_certificate.public_bytes(Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.touch(mode=0o600)
    files.key.write_bytes(private)
    return files
