"""The MIME structure of a message: the fast parser first, a bounded walk of our own behind it.

Both give the same thing, the leaves of the tree in order with their transfer encoding undone,
and both see only what was bounded before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from fast_mail_parser import ParseError, PyLazyMimePart, parse_email_tree

from mailbridge.parse import headers as header_fields
from mailbridge.parse import transfer
from mailbridge.parse.parsed import (
    BOUNDARY_LINES,
    DEPTH,
    HEADER_BYTES,
    PART_SECTIONS_BYTES,
    PARTS,
    Findings,
)

_TYPE = re.compile(r"[!#$&^_.+a-z0-9-]{1,80}/[!#$&^_.+a-z0-9-]{1,80}\Z")
# The fast parser decodes encoded words before it reads a type, so one can be hidden there.
_HIDDEN_TYPE = re.compile(rb"content-type[ \t]*:[^;]*=\?")
_DELIMITER_BYTES: Final = 1024
_FATAL: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Leaf(NamedTuple):
    """A part without parts: its fields under their names in lower case, its decoded bytes."""

    headers: Mapping[str, str]
    content_type: str
    parameters: Mapping[str, str]
    content: bytes


class Root(NamedTuple):
    """What the root's fields say about the body."""

    headers: Mapping[str, str]
    content_type: str
    parameters: Mapping[str, str]


class Refused(Exception):  # noqa: N818 - a turn of the way, not an error
    """The fast parser may not, or cannot, read this one."""


def root_of(headers: Mapping[str, str], findings: Findings) -> Root:
    """Read the root's type; a missing one is text/plain (RFC 2045 section 5.2)."""
    content_type, parameters = _type_of(headers, findings)
    return Root(headers, content_type, parameters)


def _type_of(headers: Mapping[str, str], findings: Findings) -> tuple[str, Mapping[str, str]]:
    declared = headers.get("content-type")
    if not declared:
        return "text/plain", {}
    content_type, parameters = header_fields.parameters(declared, findings)
    if not _TYPE.match(content_type):
        findings.defect("content-type-invalid")
        return "text/plain", parameters
    return content_type, parameters


# -- the fast way ------------------------------------------------------------------------------


def fast(root: Root, raw: bytes, body_at: int, findings: Findings) -> list[Leaf]:
    """Let fast-mail-parser read the body; raise ``Refused`` when it may not or cannot.

    It never sees the root's own header section: it gets a new one, made of what was
    understood of the type and the encoding.
    """
    boundary = root.parameters.get("boundary", "")
    multipart = root.content_type.startswith("multipart/")
    if root.content_type.startswith("message/") or root.content_type == "multipart/digest":
        raise Refused
    if multipart:
        if not _plain_boundary(boundary):
            raise Refused
        _gauge(raw, body_at - 1)
        head = f'Content-Type: {root.content_type}; boundary="{boundary}"\r\n\r\n'
    else:
        return [_single(root, raw, body_at, findings)]
    try:
        tree = parse_email_tree(head.encode("ascii") + raw[body_at:], mode="lazy")
        leaves = _leaves(tree, findings)
    except _FATAL:
        raise
    except (ParseError, Refused) as exc:
        raise Refused from exc
    except BaseException as exc:
        # A panic in Rust arrives as a BaseException, and costs no more than any refusal.
        raise Refused from exc
    if raw.rfind(b"--" + boundary.encode("ascii") + b"--", body_at) < 0:
        findings.defect("multipart-unterminated")
    return leaves


def _plain_boundary(boundary: str) -> bool:
    return (
        0 < len(boundary) <= _DELIMITER_BYTES
        and boundary.isascii()
        and boundary.isprintable()
        and not {'"', "\\"} & set(boundary)
        and boundary == boundary.strip()
    )


def _single(root: Root, raw: bytes, body_at: int, findings: Findings) -> Leaf:
    encoding = root.headers.get("content-transfer-encoding", "")
    content = transfer.decode(raw[body_at:], encoding, findings)
    return Leaf(root.headers, root.content_type, root.parameters, content)


def _gauge(raw: bytes, body_at: int) -> None:
    """Raise ``Refused`` unless parts, depth and header lengths of the body are surely small.

    The header section of every part begins behind a line that starts with two hyphens, so
    looking behind each such line, boundary or not, sees all of them. Messages within the
    message are left to the walk below: the fast parser descends into them whatever their
    encoding hides, at a cost of the whole size per level (10 s at 30 MB and 50 levels).
    """
    containers = 0
    hits = 0
    crlf = b"\r\n" in raw[max(body_at - HEADER_BYTES, 0) : body_at + HEADER_BYTES]
    at = raw.find(b"\n--", max(body_at, 0))
    while at >= 0:
        hits += 1
        # In a mail of CRLF lines the first search ends at once, in one of LF lines the second.
        end = raw.find(b"\n\r\n", at, at + (HEADER_BYTES if crlf else 0))
        if (bare := raw.find(b"\n\n", at, at + HEADER_BYTES if end < 0 else end)) >= 0:
            end = bare
        if end < 0:
            if at + HEADER_BYTES < len(raw):
                raise Refused
            end = len(raw)
        area = raw[at:end].lower()
        containers += area.count(b"multipart")
        if hits > PARTS or containers >= DEPTH or b"message/" in area or b"digest" in area:
            raise Refused
        if b"=?" in area and _HIDDEN_TYPE.search(area):
            raise Refused
        at = raw.find(b"\n--", at + 3)


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
    headers = {}
    for name, values in node.headers.items():
        if " " in name or not values:
            # A part without a blank line: its text was taken for header fields.
            raise Refused
        headers.setdefault(name.lower(), values[0])
    content_type, parameters = _type_of(headers, findings)
    content = node.content or b""
    encoding = headers.get("content-transfer-encoding", "").strip().lower()
    if encoding not in {"", "7bit", "8bit", "binary", "base64", "quoted-printable"}:
        content = transfer.decode(content, encoding, findings)
    return Leaf(headers, content_type, parameters, content)


# -- the tolerant way --------------------------------------------------------------------------


@dataclass(slots=True)
class _Container:
    """An open multipart: the line that separates its parts, and where its content begins."""

    delimiter: bytes
    content_at: int
    root: Root
    parts: int = 0


class _Walk:
    """One pass over the lines that start with two hyphens, with a stack of open containers."""

    def __init__(self, root: Root, raw: bytes, body_at: int, findings: Findings) -> None:
        self.raw = raw
        self.findings = findings
        self.leaves: list[Leaf] = []
        self.open: list[_Container] = []
        self.level: dict[bytes, int] = {}
        self.lines = 0
        self.section_bytes = 0
        self.part: Root | None = None
        self.part_at = body_at
        self._begin(root, body_at)

    def run(self, body_at: int) -> list[Leaf]:
        """Read to the end of the message or of the limits."""
        raw = self.raw
        # The line break that ends the header section is also the one before a delimiter.
        at = self._next(body_at - 1)
        while at >= 0 and self.open:
            line, after = self._line(at)
            if (level := self.level.get(line)) is not None:
                after = self._separate(level, at, after)
            elif line.endswith(b"--") and (level := self.level.get(line[:-2])) is not None:
                self._close(level, at)
            if self.lines > BOUNDARY_LINES:
                self.findings.limit("boundary_lines")
                after = -1
            at = self._next(max(after - 1, at + 1)) if after >= 0 else -1
        if self.open:
            self.findings.defect("multipart-unterminated")
        self._finish(len(raw))
        while self.open:
            self._pop(len(raw))
        return self.leaves

    def _next(self, at: int) -> int:
        return self.raw.find(b"\n--", max(at, 0))

    def _line(self, at: int) -> tuple[bytes, int]:
        """Return the line behind the break at ``at``, trimmed, and where the next begins."""
        self.lines += 1
        most = at + _DELIMITER_BYTES + 8
        end = self.raw.find(b"\n", at + 1, most)
        line = self.raw[at + 1 : end if end >= 0 else most].rstrip()
        return line, end + 1 if end >= 0 else min(most, len(self.raw))

    def _separate(self, level: int, at: int, after: int) -> int:
        """Begin a new part of the container ``level``; return where to look on, -1 for nowhere."""
        if len(self.leaves) + len(self.open) >= PARTS or self.section_bytes > PART_SECTIONS_BYTES:
            self.findings.limit("parts")
            return -1
        self._finish(at)
        while len(self.open) > level + 1:
            self.findings.defect("multipart-unterminated")
            self._pop(at)
        self.open[level].parts += 1
        section = self._section(after)
        headers: dict[str, str] = {}
        for header in header_fields.headers(section, self.findings):
            headers.setdefault(header.key, header.raw)
        if self.open[level].root.content_type == "multipart/digest":
            headers.setdefault("content-type", "message/rfc822")
        self._begin(root_of(headers, self.findings), section.body_at)
        return section.body_at

    def _section(self, start: int) -> header_fields.Section:
        """Read a part's fields, which end at a delimiter even where the blank line is missing."""
        section = header_fields.part_section(self.raw, start, len(self.raw), self.findings)
        at = self._next(start - 1)
        while 0 <= at < section.body_at - 1 and self.lines <= BOUNDARY_LINES:
            line, after = self._line(at)
            if line in self.level or line.removesuffix(b"--") in self.level:
                cut = self.raw[start : at + 1]
                section = header_fields.part_section(cut, 0, len(cut), self.findings)
                section = section._replace(body_at=start + section.body_at)
                break
            at = self._next(after - 1)
        self.section_bytes += section.body_at - start
        return section

    def _begin(self, root: Root, body_at: int) -> None:
        self.part, self.part_at = root, body_at
        if not root.content_type.startswith("multipart/"):
            return
        boundary = root.parameters.get("boundary", "").rstrip()
        delimiter = b"--" + boundary.encode("utf-8", "replace")[:_DELIMITER_BYTES]
        if not boundary:
            self.findings.defect("multipart-without-boundary")
        elif delimiter in self.level:
            self.findings.defect("multipart-boundary-reused")
        elif len(self.open) >= DEPTH:
            self.findings.limit("depth")
        else:
            self.level[delimiter] = len(self.open)
            self.open.append(_Container(delimiter, body_at, root))
            self.part = None

    def _close(self, level: int, at: int) -> None:
        self._finish(at)
        while len(self.open) > level:
            self._pop(at)

    def _pop(self, at: int) -> None:
        container = self.open.pop()
        del self.level[container.delimiter]
        if not container.parts:
            # Nothing in it was separated: all of it is one text.
            self.findings.defect("multipart-without-parts")
            self.part = Root(container.root.headers, "text/plain", {})
            self.part_at = container.content_at
            self._finish(at)

    def _finish(self, at: int) -> None:
        part, self.part = self.part, None
        if part is None:
            return
        if self.raw[max(at - 1, 0) : at] == b"\r" and at < len(self.raw):
            at -= 1
        content = self.raw[self.part_at : max(at, self.part_at)]
        encoding = part.headers.get("content-transfer-encoding", "")
        if not part.content_type.startswith("multipart/"):
            content = transfer.decode(content, encoding, self.findings)
        self.leaves.append(Leaf(part.headers, part.content_type, part.parameters, content))


def tolerant(root: Root, raw: bytes, body_at: int, findings: Findings) -> list[Leaf]:
    """Walk the body without recursion, in one pass; torn and odd parts cost only themselves."""
    return _Walk(root, raw, body_at, findings).run(body_at)
