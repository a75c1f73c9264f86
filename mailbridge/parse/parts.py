"""Parts of a message, as both ways of reading its structure give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from mailbridge.parse import headers as header_fields
from mailbridge.parse.parsed import Findings

_TYPE = re.compile(r"[!#$&^_.+a-z0-9-]{1,80}/[!#$&^_.+a-z0-9-]{1,80}\Z")


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
    content_type, parameters = type_of(headers, findings)
    return Root(headers, content_type, parameters)


def valid_type(declared: str) -> str | None:
    """Return a type in small letters if it is one."""
    lower = declared.strip().lower()
    return lower if _TYPE.match(lower) else None


def type_of(headers: Mapping[str, str], findings: Findings) -> tuple[str, Mapping[str, str]]:
    """Return a part's type and its parameters."""
    declared = headers.get("content-type")
    if not declared:
        return "text/plain", {}
    content_type, parameters = header_fields.parameters(declared, findings)
    if not _TYPE.match(content_type):
        findings.defect("content-type-invalid")
        return "text/plain", parameters
    return content_type, parameters
