"""Files with a certificate and its private key, as people have them: PEM, and PFX (PKCS #12).

Read when the configuration is checked, and again by every sign-in that needs one. Everything that
goes wrong is a ``CertificateFault`` that says what to do; none holds anything of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

# cryptography costs megabytes, and who signs in with a secret or an identity has no certificate.
if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

#: bytes; a key with a long chain has about 20,000
LARGEST: Final = 1024 * 1024

_KEY_BLOCK: Final = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.+?-----END \1-----", re.DOTALL
)
_CERTIFICATE_MARK: Final = b"-----BEGIN CERTIFICATE-----"
#: a PKCS #12 file is one ASN.1 sequence
_SEQUENCE: Final = 0x30
_EXPORT: Final = (
    "write key and certificate into one PEM file, or export both from where the key was made, "
    "as PFX."
)


class CertificateFault(Exception):  # noqa: N818 - it says what is wrong with a file
    """A file that cannot be signed in with. ``part`` is the setting at fault."""

    def __init__(self, message: str, fix: str, *, part: str = "file", code: str) -> None:
        """Keep the message positional, so that ``str`` is the sentence alone."""
        super().__init__(message)
        self.fix = fix
        self.part = part
        self.code = f"certificate.{code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """A certificate with its key. The key is in no repr."""

    key: rsa.RSAPrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        """The public part, which is uploaded to the app."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    @property
    def thumbprint(self) -> str:
        """SHA-1 in hexadecimal, as the portal shows it."""
        from cryptography.hazmat.primitives import hashes

        return self.certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 - the portal's name for it, nothing is secured by it

    @property
    def expires_at(self) -> datetime:
        """When it ends."""
        return self.certificate.not_valid_after_utc

    def check(self, now: datetime) -> None:
        """Raise ``CertificateFault`` when it is not good at this moment."""
        begins = self.certificate.not_valid_before_utc
        if now < begins:
            raise CertificateFault(
                f"the certificate is good from {begins:%Y-%m-%d %H:%M} UTC on, and not yet",
                "check the clock of this machine, or use the former certificate until then.",
                code="not_yet_valid",
            )
        if now >= self.expires_at:
            raise CertificateFault(
                f"the certificate ended on {self.expires_at:%Y-%m-%d %H:%M} UTC",
                "make a new one, upload its public part to the app (Certificates & secrets) and "
                "put it in place of this file.",
                code="expired",
            )


def content_of(path: Path) -> bytes:
    """Return the bytes of a file; raises ``CertificateFault``."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "not a path"
        raise CertificateFault(
            f"the file cannot be read ({reason})",
            "name a PEM or PFX file that the user who runs mailbridge can read.",
            code="unreadable",
        ) from None
    if len(content) > LARGEST:
        fix = "name the file with the certificate and its key."
        raise CertificateFault("the file is larger than 1 MiB", fix, code="too_large")
    return content


def parse(content: bytes, passphrase: str = "") -> ClientCertificate:
    """Return certificate and key from the bytes of a PEM or PFX file; ``CertificateFault``."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    secret = passphrase.encode() or None
    if content[:1] == bytes([_SEQUENCE]):
        key, certificates = _pfx(content, secret)
    else:
        key, certificates = _pem_key(content, secret), _pem_certificates(content)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CertificateFault(
            "the key is not an RSA key, and Entra takes no other",
            "make a certificate with an RSA key of 2048 bits or more.",
            code="not_rsa",
        )
    mine = key.public_key().public_numbers()
    for certificate in certificates:
        public = certificate.public_key()
        if isinstance(public, rsa.RSAPublicKey) and public.public_numbers() == mine:
            return ClientCertificate(key=key, certificate=certificate)
    raise CertificateFault(
        "the private key belongs to none of the certificates in the file", _EXPORT, code="no_match"
    )


def _pfx(content: bytes, secret: bytes | None) -> tuple[object, list[x509.Certificate]]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import pkcs12

    # Without a passphrase, some programs write an empty one and some write none.
    for tried in (secret,) if secret else (None, b""):
        try:
            key, first, others = pkcs12.load_key_and_certificates(content, tried)
        except UnsupportedAlgorithm:
            raise CertificateFault(
                "the PFX file is encrypted in a way that is no longer supported",
                "export it again with AES-256 and SHA-256.",
                code="unsupported",
            ) from None
        except ValueError:
            continue
        if key is None:
            raise CertificateFault("the PFX file holds no private key", _EXPORT, code="no_key")
        return key, [one for one in (first, *others) if one is not None]
    raise _locked("the PFX file cannot be opened", secret)


def _pem_key(content: bytes, secret: bytes | None) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    block = _KEY_BLOCK.search(content)
    if block is None:
        if _CERTIFICATE_MARK in content:
            message = "the file holds a certificate and no private key"
        else:
            message = "the file is neither PEM with a private key nor PFX"
        raise CertificateFault(message, _EXPORT, code="no_key")
    text = block[0]
    encrypted = b"ENCRYPTED" in text[:200]
    try:
        return load_pem_private_key(text, secret if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            raise _locked("the private key cannot be opened", secret) from None
    raise CertificateFault("the private key is damaged", _EXPORT, code="damaged")


def _pem_certificates(content: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    if _CERTIFICATE_MARK not in content:
        raise CertificateFault("the file holds a key and no certificate", _EXPORT, code="none")
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise CertificateFault("the certificate is damaged", _EXPORT, code="damaged") from None


def _locked(message: str, secret: bytes | None) -> CertificateFault:
    if secret is None:
        fix = "add `passphrase: {file: PATH}` (or env, or credential) beside `file`."
        return CertificateFault(f"{message} without a passphrase", fix, part="file", code="locked")
    fix = "store the passphrase that the file was written with; it stands without a line break."
    return CertificateFault(
        f"{message} with this passphrase, or it is damaged", fix, part="passphrase", code="locked"
    )
