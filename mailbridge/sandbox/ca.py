"""A private certificate authority and its server certificates, made in memory.

The extensions are those that OpenSSL 3 asks for in strict mode (RFC 5280 section 4.2), which
Python 3.13 switches on by default: key usage, basic constraints, key identifiers.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: certificates are valid from a day ago, so that a slow clock does not matter
_BACKDATE: Final = timedelta(days=1)
_LIFETIME: Final = timedelta(days=90)
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")

_SIGN_CERTIFICATES: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_SIGN_HANDSHAKES: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mailbridge sandbox"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def write_private(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, readable by the owner only from the first moment on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


class Authority:
    """A CA that lives as long as the process; nothing but its certificate need be written."""

    def __init__(self) -> None:
        """Make key and certificate; elliptic curves, so that it takes about a millisecond."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        # A subject of its own for each CA: OpenSSL looks issuers up by name, and two sandboxes
        # in one trust store would otherwise be mixed up.
        subject = _name(f"sandbox CA {x509.random_serial_number():x}"[:40])
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = (
            self._builder(subject, subject, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_SIGN_CERTIFICATES, critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @staticmethod
    def _builder(
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePublicKey,
        shifted: timedelta = timedelta(0),
    ) -> x509.CertificateBuilder:
        start = datetime.now(UTC) - _BACKDATE + shifted
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + _LIFETIME)
        )

    @property
    def pem(self) -> bytes:
        """The CA certificate as PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(
        self, names: Sequence[str] = LOOPBACK_NAMES, *, shifted: timedelta = timedelta(0)
    ) -> tuple[bytes, bytes]:
        """Return certificate and private key (PEM) of a server known by these names.

        With ``shifted`` its time of 90 days lies so much later (or, negative, earlier).
        """
        key = ec.generate_private_key(ec.SECP256R1())
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(_name(names[0]), self._certificate.subject, key.public_key(), shifted)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_SIGN_HANDSHAKES, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([_alternative(name) for name in names]),
                critical=False,
            )
            .add_extension(own, critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM), private

    def write(self, directory: Path) -> Path:
        """Write ``ca.pem`` into ``directory`` and return its path."""
        path = directory / "ca.pem"
        path.write_bytes(self.pem)
        return path

    def server_context(self, names: Sequence[str] = LOOPBACK_NAMES) -> ssl.SSLContext:
        """Return a server-side TLS context (1.2 and newer) with a fresh certificate."""
        certificate, key = self.issue(names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The ssl module reads keys from files only; this one is gone before anybody connects.
        with tempfile.TemporaryDirectory() as directory:
            chain = Path(directory) / "server.pem"
            write_private(chain, certificate + key)
            context.load_cert_chain(chain)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts this CA and nothing else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.pem.decode("ascii"))
        return context
