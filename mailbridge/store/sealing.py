"""Encryption at rest: what a dump of the database must not show.

Everything hangs on ``state.key``, 32 random bytes that are never stored here. Three values are
derived from it (HKDF-SHA256, RFC 5869), each good for one thing only::

    state.key ─┬─ encrypts rows         AES-256-GCM (NIST SP 800-38D), a random nonce each time
               ├─ names rows            HMAC-SHA256 of what a row is looked up by
               └─ check value           tells, in the table ``meta``, which key the rows are under

A sealed row is ``format (1 byte) | nonce (12) | ciphertext | tag (16)``. The format and the name
of the row are authenticated with it, so a row that was moved, changed or made by another format
does not open. An attacker who can write the database can still remove a row or put an older one
back in its place; what he cannot do is read one or make one.

Random nonces are safe for 2**32 rows under one key; a thousand grants renewed each hour take
490 years for that.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
from collections.abc import Iterable
from typing import Final

from mailbridge.errors import PermanentError, StoreRefused

#: the first byte of every sealed row; a change of what follows it takes another number
FORMAT: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
#: the check value, in bytes; written in hexadecimal
_CHECK_BYTES: Final = 16
_CONTEXT: Final = b"mailbridge state key: "


class Key:
    """One state key, as what was derived from it. Its ``repr`` shows no more than its check value.

    Made once and used from any thread.
    """

    __slots__ = ("_aead", "_namer", "check")

    def __init__(self, secret: bytes) -> None:
        """``secret`` has 32 bytes of chance."""
        # A tenth of the daemon's start, and only those with a key need it.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aead = AESGCM(_derived(secret, b"encrypt rows", KEY_BYTES))
        self._namer = _derived(secret, b"name rows", KEY_BYTES)
        #: tells this key from others and is no secret: nothing can be computed back from it
        self.check = _derived(secret, b"check value", _CHECK_BYTES).hex()

    @classmethod
    def parse(cls, text: str) -> Key:
        """Read 32 bytes of base64; raise ``StoreRefused``, which does not show them."""
        try:
            secret = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != KEY_BYTES:
            raise StoreRefused(
                "this is not a state key (32 bytes of base64)",
                code="store.bad_key",
                fix="make one with `mailbridge secret key`",
            )
        return cls(secret)

    @property
    def fingerprint(self) -> str:
        """Return what names this key to people."""
        return fingerprint(self.check)

    def __repr__(self) -> str:
        """Name the key without showing it."""
        return f"Key({self.fingerprint})"

    def fits(self, check: str) -> bool:
        """Tell whether a check value is that of this key."""
        return hmac.compare_digest(self.check.encode(), check.encode("utf-8", "replace"))

    def name(self, *parts: str) -> bytes:
        """Return the name of a row: 32 bytes that tell nobody without the key what they are of."""
        # As JSON, so that ("ab", "c") and ("a", "bc") differ.
        return hmac.digest(self._namer, json.dumps(parts).encode(), "sha256")

    def seal(self, name: bytes, plain: bytes) -> bytes:
        """Encrypt the content of the row called ``name``."""
        nonce = os.urandom(NONCE_BYTES)
        return bytes([FORMAT]) + nonce + self._aead.encrypt(nonce, plain, _bound_to(name))

    def unseal(self, name: bytes, sealed: bytes) -> bytes:
        """Decrypt the content of the row called ``name``.

        Raises ``PermanentError`` (``grant.format``, ``grant.damaged``) when it is not exactly
        what was sealed under this key and this name.
        """
        if sealed and sealed[0] != FORMAT:
            raise PermanentError(
                f"it has format {sealed[0]}, this mailbridge knows only {FORMAT}",
                code="grant.format",
            )
        plain = self._decrypted(name, sealed)
        # Outside of the handler: the error of the library and its frames end there.
        if plain is None:
            raise PermanentError("it was changed after it was written", code="grant.damaged")
        return plain

    def _decrypted(self, name: bytes, sealed: bytes) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        start = 1 + NONCE_BYTES
        if len(sealed) < start + _TAG_BYTES:
            return None
        try:
            return self._aead.decrypt(sealed[1:start], sealed[start:], _bound_to(name))
        except InvalidTag:
            return None


def ring(texts: Iterable[str]) -> tuple[Key, ...]:
    """Return the keys of ``state.key``, the one to encrypt under first. See ``Store.open``."""
    return tuple(Key.parse(text) for text in texts)


def fingerprint(check: str) -> str:
    """Return what names a key to people: the first eight digits of its check value."""
    return check[:8]


def _bound_to(name: bytes) -> bytes:
    return b"mailbridge grant" + bytes([FORMAT]) + name


def _derived(secret: bytes, purpose: bytes, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    hkdf = HKDF(algorithm=SHA256(), length=length, salt=None, info=_CONTEXT + purpose)
    return hkdf.derive(secret)
