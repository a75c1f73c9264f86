"""Address fields (RFC 5322 section 3.4), read without recursion and without charity.

Published confusions live where two readers disagree on who wrote a mail. So there is one
grammar, everything outside it is flagged as ambiguous, and encoded words are decoded only
after the structure is known: what they hide can be a name, never an address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from mailbridge.parse.charset import clean_line
from mailbridge.parse.headers import decode_words
from mailbridge.parse.parsed import ADDRESSES, Address, Findings

#: characters of a field up to which its reading is remembered
_REMEMBERED: Final = 200
# Everything beyond ASCII counts. Written as what is left out: the other way round, compiling
# the expressions takes a tenth of a second at every start.
_ATEXT: Final = r'[^\x00-\x20"(),.:;<>@\[\\\]\x7f]'
_LABEL: Final = r"[^\x00-/:-@\[-^`{-\x7f](?:[^\x00-,./:-@\[-^`{-\x7f]*+)"
_ADDR_SPEC: Final = rf"{_ATEXT}++(?:\.{_ATEXT}++)*+@{_LABEL}(?:\.{_LABEL})*+"
_STRICT = re.compile(rf'(?:{_ADDR_SPEC}|"[^"\\@<>]*"@{_LABEL}(?:\.{_LABEL})*+|\S+@\[[^\[\]@]*\])\Z')
# The forms of nearly all mail; whatever else is there goes to the tokenizer.
_COMMON = re.compile(
    r"\s*(?:"
    rf"({_ADDR_SPEC})"
    rf'|(?:"([^"\\@<>]*)"\s*|([^"()<>,:;@\\\[\]]*))<({_ADDR_SPEC})>'
    r")\s*(?:,|\Z)"
)
_TOKEN = re.compile(
    r'\s+|"(?:[^"\\]++|\\.)*+"|\[[^\[\]\\"<>]*\]|[^\s"()<>,:;@\\\[\]]+|.', re.DOTALL
)
_COMMENT_STEP = re.compile(r"[^()\\]+|\\.|.", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class AddressField(NamedTuple):
    """What an address field says, and whether another reader might see another address."""

    addresses: tuple[Address, ...]
    ambiguous: bool


def parse(raw: str, findings: Findings) -> AddressField:
    """Read one unfolded, undecoded address field. Never raises; linear in its length."""
    if len(raw) >= _REMEMBERED:
        return _read(raw, findings)
    found, defects = _remembered(raw)
    for defect in defects:
        findings.defect(defect)
    return found


@lru_cache(maxsize=2048)
def _remembered(raw: str) -> tuple[AddressField, tuple[str, ...]]:
    # A mailbox gets mail from the same senders, and to itself. No limit is hit in so little.
    findings = Findings()
    return _read(raw, findings), tuple(findings.defects)


def _read(raw: str, findings: Findings) -> AddressField:
    return _common(raw, findings) or _Reader(findings).read(raw)


def _common(raw: str, findings: Findings) -> AddressField | None:
    found: list[Address] = []
    at = 0
    while at < len(raw):
        match = _COMMON.match(raw, at)
        if match is None or len(found) >= ADDRESSES:
            return None
        bare, quoted, phrase, angle = match.groups()
        found.append(Address(_name(quoted or phrase, findings), bare or angle))
        at = match.end()
    if not found or raw.rstrip().endswith(","):
        return None
    return AddressField(tuple(found), ambiguous=False)


def _name(phrase: str | None, findings: Findings) -> str | None:
    if not phrase:
        return None
    return decode_words(phrase, findings).strip() if "=?" in phrase else phrase.strip() or None


@dataclass(slots=True)
class _Reader:
    """Takes a field apart token by lexeme: outside, in angle brackets, in a group."""

    findings: Findings
    found: list[Address] = field(default_factory=list)
    ambiguous: bool = False
    words: list[str] = field(default_factory=list)
    angle: list[str] | None = None
    in_angle: bool = False
    in_group: bool = False
    comment: str = ""

    def read(self, raw: str) -> AddressField:
        at = 0
        while at < len(raw):
            if len(self.found) >= ADDRESSES:
                self.findings.limit("addresses")
                return AddressField(tuple(self.found), ambiguous=True)
            if raw[at] == "(":
                at = self._comment(raw, at)
                continue
            match = _TOKEN.match(raw, at)
            lexeme = match[0] if match else raw[at]
            if lexeme == '"':
                # No closing quote in all the rest: it is one word, and a trap.
                self.ambiguous = True
                lexeme = raw[at:]
            at += len(lexeme)
            self._take(lexeme)
        if self.in_angle or self.in_group:
            self.ambiguous = True
        self._flush()
        return AddressField(tuple(self.found), self.ambiguous)

    def _comment(self, raw: str, start: int) -> int:
        depth, at = 0, start
        while at < len(raw):
            step = _COMMENT_STEP.match(raw, at)
            piece = step[0] if step else raw[at]
            at += len(piece)
            depth += (piece == "(") - (piece == ")")
            if depth == 0:
                break
        inside = raw[start + 1 : at - 1] if depth == 0 else raw[start + 1 :]
        if depth or "@" in inside or "<" in inside or self.in_angle:
            self.ambiguous = True
        self.comment = _ESCAPED.sub(r"\1", inside)
        return at

    def _take(self, lexeme: str) -> None:
        if self.in_angle:
            self._take_in_angle(lexeme)
        elif lexeme == "<":
            self.ambiguous |= self.angle is not None
            self.in_angle = True
            self.angle = []
        elif lexeme == "," or (lexeme == ";" and self.in_group):
            self._flush()
            self.in_group = self.in_group and lexeme == ","
        elif lexeme == ";":
            # Outlook's habit between addresses, and no grammar's.
            self.ambiguous = True
            self._flush()
        elif lexeme == ":":
            # What stands before is the name of a group, and names may not hold addresses.
            self.ambiguous |= self.in_group or self.angle is not None or "@" in self.words
            self.words.clear()
            self.in_group = True
        else:
            if self.angle is not None and not lexeme.isspace():
                self.ambiguous = True
            if lexeme in {">", "\\", "]", "[", ")"}:
                self.ambiguous = True
            self.words.append(lexeme)

    def _take_in_angle(self, lexeme: str) -> None:
        if lexeme == ">":
            self.in_angle = False
            return
        if lexeme in {"<", ",", ";", ":", "\\"} or lexeme.isspace():
            self.ambiguous = True
        if lexeme == "<":
            # The innermost bracket is what most readers take.
            self.angle = []
        elif self.angle is not None and not lexeme.isspace():
            self.angle.append(lexeme)

    def _flush(self) -> None:
        words, angle, comment = self.words, self.angle, self.comment
        self.words, self.angle, self.comment, self.in_angle = [], None, "", False
        phrase = "".join(words).strip()
        if angle is not None:
            address = _behind_route("".join(angle))
            # Who writes the same address twice leaves no doubt.
            self.ambiguous |= "@" in words and phrase.lower() != address.lower()
            self._add(self._phrase(words) or comment, address)
        elif phrase:
            self._flush_bare(words, phrase, comment)
        elif comment:
            self.ambiguous = True

    def _flush_bare(self, words: list[str], phrase: str, comment: str) -> None:
        if "@" not in phrase:
            self.ambiguous = True
            self.found.append(
                Address(_name(clean_line(phrase, self.findings), self.findings), None)
            )
            return
        runs = _runs(words)
        holder = next(run for run in reversed(runs) if "@" in run)
        self.ambiguous |= len(runs) > 1
        address = "".join(runs) if holder == "@" else holder
        if '"' in address and _STRICT.match(address) is None:
            self.ambiguous = True
            self.found.append(
                Address(_name(clean_line(phrase, self.findings), self.findings), None)
            )
            return
        self._add(comment, address)

    def _add(self, phrase: str, address: str) -> None:
        self.ambiguous |= _STRICT.match(address) is None
        name = _name(phrase, self.findings)
        self.found.append(Address(name or None, address or None))

    def _phrase(self, words: list[str]) -> str:
        plain = [
            _ESCAPED.sub(r"\1", word[1:].removesuffix('"')) if word.startswith('"') else word
            for word in words
        ]
        return " ".join("".join(plain).split())


def _runs(words: list[str]) -> list[str]:
    """Join what stands together without white space between."""
    runs = [""]
    for word in words:
        if word.isspace():
            runs.append("")
        else:
            runs[-1] += word
    return [run for run in runs if run]


def _behind_route(address: str) -> str:
    # RFC 822's route through other hosts, which RFC 5322 section 4.4 says to ignore.
    return address.rpartition(":")[2] if address.startswith("@") else address
