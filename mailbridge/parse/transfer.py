"""Content transfer encodings (RFC 2045 section 6), undone whatever is wrong with them."""

from __future__ import annotations

import binascii
import re
from typing import Final

from mailbridge.parse.parsed import Findings

_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64: Final = bytes(set(range(256)) - set(_BASE64) - set(b"="))
_NOT_BASE64_NOR_SPACE: Final = bytes(set(_NOT_BASE64) - set(b" \t\r\n"))
#: encodings put one behind the other in one part that are told apart
_PADDED: Final = 1000
#: lines of uuencode in one part that are decoded; at 45 bytes each these make 22 MB
_UU_LINES: Final = 500_000
_GROUP: Final = 4
_PADDING = re.compile(rb"=+")
_UU_BEGIN = re.compile(rb"(?:\A|\n)begin[ \t][^\n]*\n")


def decode(content: bytes, encoding: str, findings: Findings) -> bytes:
    """Undo a transfer encoding. Never raises; what cannot be undone stays as it came."""
    name = encoding.strip().lower()
    if name in {"", "7bit", "8bit", "binary"}:
        return content
    if name == "base64":
        return base64(content, findings)
    if name == "quoted-printable":
        return binascii.a2b_qp(content)
    if name in {"x-uuencode", "uuencode", "x-uue"}:
        return uuencoded(content, findings)
    findings.defect("transfer-encoding-unknown")
    return content


def base64(content: bytes, findings: Findings | None = None) -> bytes:
    """Decode base64, passing over what does not belong; a torn last group gives what it can."""
    data = content.translate(None, _NOT_BASE64)
    if findings is not None and content.translate(None, _BASE64 + b"= \t\r\n"):
        findings.defect("base64-garbage")
    head = data.rstrip(b"=")
    if findings is not None and len(head) % _GROUP and len(data) % _GROUP:
        findings.defect("base64-torn")
    if b"=" not in head:
        return _group(head)
    # Padding in the middle: several encodings were put one behind the other. Python's decoder
    # would stop at the first. Past a bound the padding itself is passed over.
    if findings is not None:
        findings.defect("base64-padding-inside")
    pieces = _PADDING.split(head, _PADDED)
    pieces[-1] = pieces[-1].replace(b"=", b"")
    return b"".join(map(_group, pieces))


def _group(data: bytes) -> bytes:
    rest = len(data) % _GROUP
    if rest == 1:
        data = data[:-1]
    elif rest:
        data += b"=" * (_GROUP - rest)
    return binascii.a2b_base64(data)


def uuencoded(content: bytes, findings: Findings) -> bytes:
    """Decode uuencode from its ``begin`` line on; lines that are none are passed over."""
    begin = _UU_BEGIN.search(content)
    if begin is None:
        findings.defect("uuencode-without-begin")
        return content
    lines = content[begin.end() :].split(b"\n", _UU_LINES)
    if len(lines) > _UU_LINES:
        findings.limit("uuencode")
        lines.pop()
    decoded = bytearray()
    for line in lines:
        if line.strip() == b"end":
            return bytes(decoded)
        try:
            decoded += binascii.a2b_uu(line)
        except ValueError:
            findings.defect("uuencode-garbage")
    findings.defect("uuencode-without-end")
    return bytes(decoded)
