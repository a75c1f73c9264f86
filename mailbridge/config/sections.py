"""What the parts of the file have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the file. Unknown keys are refused, and no error text repeats an input."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )
    #: keys that a later version brings, so that nobody is told they were unknown
    coming: ClassVar[frozenset[str]] = frozenset()


def file_default(text: str) -> dict[str, Any]:
    """Return what the JSON Schema says about a default, as the file would write it."""
    return {"default": text}
