"""The JSON Schemas (draft 2020-12) of all events, one file per event type."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def event_types() -> tuple[str, ...]:
    """Return the event types that have a schema, in alphabetical order."""
    names = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


def event_schema(type_: str) -> dict[str, Any]:
    """Return the schema of an event type; ``KeyError`` for one that does not exist."""
    if type_ not in event_types():
        raise KeyError(type_)
    schema: dict[str, Any] = json.loads((files(__name__) / f"{type_}.json").read_text("utf-8"))
    return schema
