"""The control CA: made once, kept in a Secret of the operator's namespace; certificates for pools and the
operator.

Keys are ECDSA P-256. A certificate is renewed when less than a third of its life is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=90)
CLIENT_LIFE = timedelta(days=30)
OPERATOR_NAME = "parley-operator"
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM of a certificate and its key."""

    certificate: bytes
    key: bytes = field(repr=False)


def make_ca(now: float) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "parley control CA")])
    builder = _builder(name, name, key, now, CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def issue_server(ca: KeyPair, dns_name: str, now: float, others: Sequence[str] = ()) -> KeyPair:
    """For whoever serves under `dns_name` and the other names: the workers of a pool, the operator's
    replicas."""
    return _issue(ca, dns_name, [ExtendedKeyUsageOID.SERVER_AUTH], SERVER_LIFE, now, others)


def issue_client(ca: KeyPair, now: float) -> KeyPair:
    """For the operator: common name and DNS name `parley-operator`."""
    return _issue(ca, OPERATOR_NAME, [ExtendedKeyUsageOID.CLIENT_AUTH], CLIENT_LIFE, now)


def due(certificate: bytes, now: float) -> bool:
    """Whether it is time to renew: less than a third of its life is left, or it cannot be read."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
    except ValueError:
        return True
    life = found.not_valid_after_utc - found.not_valid_before_utc
    return datetime.fromtimestamp(now, UTC) > found.not_valid_after_utc - life / 3


def issued_by(certificate: bytes, ca: KeyPair) -> bool:
    try:
        found = x509.load_pem_x509_certificate(certificate)
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.certificate))
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not one of ours
        return False
    return True


def check_pair(pair: KeyPair) -> None:
    """Raises `ValueError` when certificate and key do not belong together or are not PEM."""
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        key = serialization.load_pem_private_key(pair.key, None)
        public = x509.load_pem_x509_certificate(pair.certificate).public_key()
    except TypeError as error:
        raise ValueError("the key is encrypted") from error
    if key.public_key().public_bytes(*form) != public.public_bytes(*form):
        raise ValueError("the key is not that of the certificate")


def _issue(
    ca: KeyPair,
    name: str,
    usages: list[x509.ObjectIdentifier],
    life: timedelta,
    now: float,
    others: Sequence[str] = (),
) -> KeyPair:
    issuer = x509.load_pem_x509_certificate(ca.certificate)
    signer = serialization.load_pem_private_key(ca.key, None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("the control CA's key is not an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    # A common name holds 64 characters at most; verifiers look at the DNS name.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    builder = _builder(subject, issuer.subject, key, now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(ca=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    names = [x509.DNSName(each) for each in dict.fromkeys((name, *others))]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(authority, critical=False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, life: timedelta
) -> x509.CertificateBuilder:
    begin = datetime.fromtimestamp(now, UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _SKEW)
        .not_valid_after(begin + life)
        .add_extension(identifier, critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), private)
