"""The structure of a message by fast-mail-parser, which sees only what was bounded before."""

from __future__ import annotations

import re
from typing import Final

from fast_mail_parser import PyLazyMimePart, parse_email_tree

from mailbridge.parse import transfer
from mailbridge.parse.parsed import DEPTH, HEADER_BYTES, PARTS, Findings
from mailbridge.parse.parts import Leaf, Refused, Root, type_of

# The fast parser decodes encoded words before it reads a type, so one can be hidden there.
_HIDDEN_TYPE = re.compile(rb"content-type[ \t]*:[^;]*=\?")
_BOUNDARY = re.compile(rb'boundary[ \t]*=[ \t]*(?:"([^"\r\n]+)"|([^\s;"]+))', re.IGNORECASE)
_WINDOW: Final = 4096
#: where a hyphen stands others are near, in field names and boundaries; in a text they are rare
_FIRST_WINDOW: Final = 256
_BOUNDARY_CHARACTERS: Final = 1000
# Of these the children are messages, told or untold.
_DESCENDS: Final = frozenset({"multipart/digest", "message/rfc822", "message/global"})
_FATAL: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
_KNOWN_ENCODINGS: Final = frozenset({"", "7bit", "8bit", "binary", "base64", "quoted-printable"})


def leaves_of(root: Root, raw: bytes, body_at: int, findings: Findings) -> list[Leaf]:
    """Read the body; raise ``Refused`` when the fast parser may not or cannot.

    It never sees the root's own header section: it gets a new one, made of what was
    understood of the type. A message of a single part has no structure to be read.
    """
    if not root.content_type.startswith(("multipart/", "message/")):
        return [_single(root, raw, body_at, findings)]
    boundary = root.parameters.get("boundary", "")
    if root.content_type in _DESCENDS or not _plain_boundary(boundary):
        raise Refused
    delimiter = boundary.encode("ascii")
    _gauge(delimiter, raw, body_at - 1)
    head = f'Content-Type: {root.content_type}; boundary="{boundary}"\r\n\r\n'
    try:
        rest = memoryview(raw)[body_at:]
        tree = parse_email_tree(b"".join((head.encode("ascii"), rest)), mode="lazy")
        leaves = _leaves(tree, findings)
    except _FATAL:
        raise
    except BaseException as exc:
        # A panic in Rust arrives as a BaseException, and costs no more than any refusal.
        raise Refused from exc
    if raw.rfind(b"--" + delimiter + b"--", body_at) < 0:
        findings.defect("multipart-unterminated")
    return leaves


def _plain_boundary(boundary: str) -> bool:
    return (
        0 < len(boundary) <= _BOUNDARY_CHARACTERS
        and boundary.isascii()
        and boundary.isprintable()
        and '"' not in boundary
        and "\\" not in boundary
        and boundary == boundary.strip()
    )


def _single(root: Root, raw: bytes, body_at: int, findings: Findings) -> Leaf:
    encoding = root.headers.get("content-transfer-encoding", "")
    content = transfer.decode(raw[body_at:], encoding, findings)
    return Leaf(root.headers, root.content_type, root.parameters, content)


def _gauge(boundary: bytes, raw: bytes, body_at: int) -> None:
    """Raise ``Refused`` unless parts, depth and header lengths of the body are surely small.

    The header section of every part begins behind a line that starts with two hyphens, so
    looking behind each such line, boundary or not, sees all of them. Messages within the
    message are left to our own walk: the fast parser descends into them whatever their
    encoding hides, at a cost of the whole size per level (10 s at 30 MB and 50 levels).
    """
    containers = 0
    lines: set[bytes] = set()
    boundaries = [boundary]
    crlf = b"\r\n" in raw[max(body_at - HEADER_BYTES, 0) : body_at + HEADER_BYTES]
    at = _hyphens(raw, max(body_at, 0))
    for _ in range(PARTS):
        if at < 0:
            break
        # In a mail of CRLF lines the first search ends at once, in one of LF lines the second.
        end = raw.find(b"\n\r\n", at, at + (HEADER_BYTES if crlf else 0))
        if (bare := raw.find(b"\n\n", at, at + HEADER_BYTES if end < 0 else end)) >= 0:
            end = bare
        if end < 0:
            if at + HEADER_BYTES < len(raw):
                raise Refused
            end = len(raw)
        line, _, area = raw[at + 1 : end].partition(b"\n")
        lines.add(line)
        area = area.lower()
        if b"message/" in area or b"digest" in area:
            raise Refused
        if b"multipart" in area:
            containers += area.count(b"multipart")
            boundaries.append(_declared(raw[at:end]))
        if containers >= DEPTH or (b"=?" in area and _HIDDEN_TYPE.search(area)):
            raise Refused
        at = _hyphens(raw, at + 3)
    if at >= 0 or any([_misleads(line, boundaries) for line in lines]):  # noqa: C419 - of three lines, nearly always
        raise Refused


def _hyphens(raw: bytes, at: int) -> int:
    """Return where the next line begins with two hyphens (at the break before it), or -1."""
    # Base64 has no hyphen at all, so looking for a single one leaps over attachments at the
    # speed of memory; only the text around a hyphen is searched for the whole of it.
    window = _FIRST_WINDOW
    while (hyphen := raw.find(b"-", at)) >= 0:
        start = max(hyphen - 1, at)
        found = raw.find(b"\n--", start, hyphen + window)
        if found >= 0:
            return found
        at = hyphen + window - 2
        window = min(2 * window, _WINDOW)
    return -1


def _declared(area: bytes) -> bytes:
    found = _BOUNDARY.findall(area)
    if len(found) != 1:
        raise Refused
    quoted, token = found[0]
    declared: bytes = quoted or token
    return declared


def _misleads(line: bytes, boundaries: list[bytes]) -> bool:
    # The fast parser takes a line for a delimiter when it merely begins like one.
    text = line[2:].rstrip()
    for boundary in boundaries:
        if text.startswith(boundary) and text[len(boundary) :] not in {b"", b"--"}:
            return True
    return False


def _leaves(tree: PyLazyMimePart, findings: Findings) -> list[Leaf]:
    leaves: list[Leaf] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        children = node.children
        if children:
            waiting.extend(reversed(children))
            continue
        if node.content_type.startswith(("multipart/", "message/")):
            # A container in which nothing was found is better read by the walk below.
            raise Refused
        leaves.append(_leaf_of(node, findings))
    return leaves


def _leaf_of(node: PyLazyMimePart, findings: Findings) -> Leaf:
    headers: dict[str, str] = {}
    for name, values in node.headers.items():
        if " " in name or not values:
            # A part without a blank line: its text was taken for header fields.
            raise Refused
        headers.setdefault(name.lower(), values[0])
    content_type, parameters = type_of(headers, findings)
    content = node.content or b""
    encoding = headers.get("content-transfer-encoding", "").strip().lower()
    if encoding not in _KNOWN_ENCODINGS:
        content = transfer.decode(content, encoding, findings)
    return Leaf(headers, content_type, parameters, content)
