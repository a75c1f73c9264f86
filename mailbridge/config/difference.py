"""What two configurations say differently: the keys, never a value, since one may be a secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

#: keys that are named one by one
NAMED: Final = 20


def differences(old: BaseModel, new: BaseModel) -> str:
    """Return one line: ``+mailboxes.office -webhooks.old ~mailboxes.alarm.fetch.every``.

    ``+`` is new, ``-`` is gone, ``~`` is another value. Empty when both say the same. References to
    secrets count as the same while they lead to the same value.
    """
    found = list(_differing(old, new, ""))
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return " ".join(found[:NAMED]) + more


def _differing(old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    parts = _parts(old), _parts(new)
    before, after = parts
    if before is None or after is None or type(old) is not type(new):
        sign = "+" if old is None else "-" if new is None else "~"
        yield f"{sign}{path}"
        return
    for name in dict.fromkeys((*before, *after)):
        at = f"{path}.{name}" if path else name
        if name not in before:
            yield f"+{at}"
        elif name not in after:
            yield f"-{at}"
        else:
            yield from _differing(before[name], after[name], at)


def _parts(value: Any) -> Mapping[str, Any] | None:
    """Return what has keys of its own, by key as the file has it; ``None`` for a plain value."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {field.alias or name: getattr(value, name) for name, field in fields.items()}
    if isinstance(value, Mapping):
        return {str(name): item for name, item in value.items()}
    return None
