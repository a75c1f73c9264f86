"""Certificates that an app signs its assertions with: both halves, in every shape people have."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID


def x5t(certificate: x509.Certificate) -> str:
    """Return the SHA-1 thumbprint as a JWT header has it (RFC 7515, 4.1.7)."""
    return _encoded(certificate.fingerprint(hashes.SHA1()))  # noqa: S303 - what x5t is made of


def x5t_s256(certificate: x509.Certificate) -> str:
    """Return the SHA-256 thumbprint as a JWT header has it (RFC 7515, 4.1.8)."""
    return _encoded(certificate.fingerprint(hashes.SHA256()))


def _encoded(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """A self-signed certificate with its private key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey = field(repr=False)

    @classmethod
    def generate(
        cls,
        name: str = "mailbridge",
        *,
        start: datetime,
        days: float = 365,
        key: rsa.RSAPrivateKey | None = None,
    ) -> ClientCertificate:
        """Make one, good for ``days`` from ``start``; a ``key`` made before saves its 0.2 s."""
        key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=days))
            .sign(key, hashes.SHA256())
        )
        return cls(certificate=certificate, key=key)

    @property
    def certificate_pem(self) -> bytes:
        """The public part, which is uploaded to the app."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, passphrase: str | None = None) -> bytes:
        """Return the private key as PKCS #8, encrypted when there is a passphrase."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, _encryption(passphrase))

    def pfx(self, passphrase: str | None = None) -> bytes:
        """Return certificate and key as PKCS #12."""
        return pkcs12.serialize_key_and_certificates(
            b"mailbridge", self.key, self.certificate, None, _encryption(passphrase)
        )

    @property
    def thumbprint(self) -> str:
        """The SHA-1 thumbprint as the portal shows it: hexadecimal, upper case."""
        return self.certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 - the portal's


def _encryption(passphrase: str | None) -> KeySerializationEncryption:
    return BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
