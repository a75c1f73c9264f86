"""Rows of the store as JSON documents: what ``--json`` prints and what the API answers with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def document(row: DataclassInstance) -> dict[str, Any]:
    """Return a row with its fields by name; times are ISO 8601 in UTC, to the microsecond."""
    return {field.name: plain(getattr(row, field.name)) for field in dataclasses.fields(row)}


def documents(rows: Iterable[DataclassInstance]) -> list[dict[str, Any]]:
    """Return each row's document."""
    return [document(row) for row in rows]


def plain(value: Any) -> Any:
    """Return a value of a row as JSON knows it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return document(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value))
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
