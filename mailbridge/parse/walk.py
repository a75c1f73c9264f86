"""The structure of a message by a walk of our own, for all that the fast parser may not see.

No recursion, one pass over the body, a bound on everything that is counted. A part that is
torn, or lies, costs only itself. Messages within the message are not opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mailbridge.parse import headers as header_fields
from mailbridge.parse import transfer
from mailbridge.parse.parsed import (
    BOUNDARY_LINES,
    DEPTH,
    PART_SECTION_BYTES,
    PART_SECTIONS_BYTES,
    PARTS,
    Findings,
)
from mailbridge.parse.parts import Leaf, Root, root_of

_DELIMITER_BYTES: Final = 1024


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
        raw = self.raw
        end, _ = header_fields.section_end(raw, start, start + PART_SECTION_BYTES)
        most = end if end >= 0 else start + PART_SECTION_BYTES
        stop = len(raw)
        at = self._next(start - 1)
        while 0 <= at < most and self.lines <= BOUNDARY_LINES:
            line, after = self._line(at)
            if line in self.level or line.removesuffix(b"--") in self.level:
                stop = at + 1
                break
            at = self._next(after - 1)
        section = header_fields.part_section(raw, start, stop, self.findings)
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


def leaves_of(root: Root, raw: bytes, body_at: int, findings: Findings) -> list[Leaf]:
    """Walk the body without recursion, in one pass; torn and odd parts cost only themselves."""
    return _Walk(root, raw, body_at, findings).run(body_at)
