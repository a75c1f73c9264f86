"""Bytes to text: an allow-list of charsets, and no character that JSON receivers choke on."""

from __future__ import annotations

import codecs
import re
from typing import Final

from mailbridge.parse.parsed import Body, Findings

#: what stands for a character that may not be passed on
REPLACEMENT: Final = "\ufffd"

# Everything else is refused: utf-7 hides markup from filters that look at the bytes,
# and Python also knows codecs that are no charsets at all (zlib, rot13, idna, punycode).
# iso-8859-1 and ascii are read as windows-1252 and the Asian sets as their supersets,
# as the WHATWG Encoding Standard has it, since that is what senders mean.
_CODECS: Final[dict[str, str]] = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "unicode-1-1-utf-8": "utf-8",
    "utf-8-sig": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "ansi_x3.4-1968": "ascii",
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
    "cp1252": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "cp936": "gb18030",
    "x-gbk": "gb18030",
    "big5": "big5hkscs",
    "big5-hkscs": "big5hkscs",
    "cp950": "cp950",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "cp932": "cp932",
    "windows-31j": "cp932",
    "euc-jp": "euc_jp",
    "iso-2022-jp": "iso2022_jp_ext",
    "iso-2022-jp-1": "iso2022_jp_ext",
    "iso-2022-jp-2": "iso2022_jp_2",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "cp949": "cp949",
    "iso-2022-kr": "iso2022_kr",
    "koi8-r": "koi8_r",
    "koi8-u": "koi8_u",
    "macintosh": "mac_roman",
    "x-mac-roman": "mac_roman",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "utf-32": "utf-32",
    "utf-32le": "utf-32-le",
    "utf-32be": "utf-32-be",
    "tis-620": "cp874",
    "windows-874": "cp874",
    "iso-8859-11": "cp874",
    "iso-8859-8-i": "iso8859-8",
    **{f"iso-8859-{n}": f"iso8859-{n}" for n in (*range(2, 11), 13, 14, 15, 16)},
    **{f"iso8859-{n}": f"iso8859-{n}" for n in (*range(2, 11), 13, 14, 15, 16)},
    **{f"windows-{n}": f"cp{n}" for n in range(1250, 1259)},
    **{f"cp{n}": f"cp{n}" for n in (437, 737, 775, 850, 852, 855, 857, 858, 860, 861, 862, 863)},
    **{f"cp{n}": f"cp{n}" for n in (864, 865, 866, 869, 1250, 1251, 1253, 1254, 1255, 1256)},
    **{f"ibm{n}": f"cp{n}" for n in (437, 850, 852, 855, 866)},
}

_UTF8_BYTES: Final = 4
_UNFIT = re.compile("[\x00\x80-\x9f\ud800-\udfff]")
_UNFIT_IN_LINE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_REAL_NON_ASCII = re.compile("[^\x00-\x7f\ufffd]")


def codec_of(charset: str) -> str | None:
    """Return Python's codec for a declared charset, ``None`` when it is not on the list."""
    return _CODECS.get(charset.strip().strip("'\"").lower())


def clean(text: str, findings: Findings) -> str:
    """Replace NUL, C1 and lone surrogates by U+FFFD. Tabs and line breaks stay."""
    if text.isascii() and "\x00" not in text:
        return text
    mended, count = _UNFIT.subn(REPLACEMENT, text)
    if count:
        findings.defect("unfit-characters")
    return mended


def clean_line(text: str, findings: Findings) -> str:
    """As ``clean``, for what must stay on one line: no control character but the tab."""
    if text.isprintable():
        return text
    mended, count = _UNFIT_IN_LINE.subn(REPLACEMENT, text)
    if count:
        findings.defect("unfit-characters")
    return mended


def decode(content: bytes, charset: str | None, findings: Findings, *, cut: bool = False) -> str:
    """Return the text of ``content``; never raises, and what was guessed is a defect.

    ``cut`` says that ``content`` is only the beginning, so its last character may be torn.
    """
    if content.isascii() and (charset is None or codec_of(charset) in {"utf-8", "ascii", "cp1252"}):
        return _fit_ascii(content, findings)
    codec = "ascii" if charset is None else codec_of(charset)
    if codec is None:
        findings.defect("charset-unknown")
        return _guess(content, findings, cut=cut)
    if codec == "ascii":
        findings.defect("charset-undeclared-8bit")
        return _guess(content, findings, cut=cut)
    text = _strict(content, codec, cut=cut)
    if text is not None:
        return _fit(text, content, codec, findings)
    findings.defect("charset-invalid-bytes")
    text = content.decode(codec, "replace")
    if codec == "utf-8" and _REAL_NON_ASCII.search(text) is None:
        # Not one valid sequence in it: the label is wrong, not a byte of the text.
        text = content.decode("cp1252", "replace")
    return clean(text, findings)


def _fit_ascii(content: bytes, findings: Findings) -> str:
    text = content.decode("ascii")
    return clean(text, findings) if "\x00" in text else text


def _fit(text: str, content: bytes, codec: str, findings: Findings) -> str:
    # Searching a long text character by character is the dearest thing one can do to it.
    # In UTF-8 a C1 character begins with byte C2, and windows-1252 has none to decode to.
    text = text.removeprefix("\ufeff")
    if codec == "utf-8" and b"\xc2" not in content and b"\x00" not in content:
        return text
    if codec == "cp1252" and "\x00" not in text:
        return text
    return clean(text, findings)


def _strict(content: bytes, codec: str, *, cut: bool) -> str | None:
    try:
        if not cut:
            return content.decode(codec)
        return codecs.getincrementaldecoder(codec)("strict").decode(content, final=False)
    except ValueError:
        return None


def _guess(content: bytes, findings: Findings, *, cut: bool) -> str:
    text = _strict(content, "utf-8", cut=cut)
    if text is not None:
        return _fit(text, content, "utf-8", findings)
    return _fit(content.decode("cp1252", "replace"), content, "cp1252", findings)


def body(content: bytes, charset: str | None, limit: int, findings: Findings, name: str) -> Body:
    """Return a text of at most ``limit`` bytes of UTF-8; ``name`` is the limit's name."""
    # No charset on the list needs more than four bytes for what is one byte in UTF-8,
    # so this much is enough to fill the limit, however long the part is.
    enough = 4 * limit + 4
    cut = len(content) > enough
    text = decode(content[:enough] if cut else content, charset, findings, cut=cut)
    if _UTF8_BYTES * len(text) > limit and len(encoded := text.encode()) > limit:
        text, cut = encoded[:limit].decode("utf-8", "ignore"), True
    if cut:
        findings.limit(name)
    label = None if charset is None else clean_line(charset[:60].lower(), findings)
    return Body(text, label, cut, len(content))


def derived(text: str, limit: int, findings: Findings, name: str) -> Body:
    """As ``body``, for a text that was made here and has no bytes of its own."""
    encoded = text.encode("utf-8", "replace")
    if b"\xc2" in encoded or b"\x00" in encoded:
        text = clean(text, findings)
        encoded = text.encode("utf-8", "replace")
    cut = len(encoded) > limit
    if cut:
        findings.limit(name)
        text = encoded[:limit].decode("utf-8", "ignore")
    return Body(text, None, cut, len(encoded))
