"""What a step of ``test-mailbox`` says, and what it finds wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mailbridge.catalogue.base import Language, Text

Status = Literal["ok", "failed", "warning", "skipped"]


class Told(NamedTuple):
    """A sentence of ours and what stands in it, in no language yet.

    A value may be another ``Told``, or several, which are joined by commas. What servers said is
    a value: it stands in their own words.
    """

    text: Text
    values: Mapping[str, object]

    def of(self, language: Language) -> str:
        """Return the sentence in one language."""
        values = {name: _shown(value, language) for name, value in self.values.items()}
        return self.text.of(language).format(**values)


def _shown(value: object, language: Language) -> object:
    if isinstance(value, Told):
        return value.of(language)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(_shown(one, language)) for one in value)
    return value


class Fault(Exception):  # noqa: N818 - a finding, not an error of the program
    """A step's finding that something is wrong; ``warning`` lets the later steps go on.

    ``fix`` is for what depends on more than the code; else the catalogue has it.
    """

    def __init__(
        self, said: Told, *, code: str, fix: Told | None = None, warning: bool = False
    ) -> None:
        super().__init__(said.of("en"))
        self.said = said
        self.code = code
        self.fix = fix
        self.warning = warning


class LeftOut(Exception):  # noqa: N818 - a finding, not an error of the program
    """A step that has nothing to do here, and why; nothing is wrong."""

    def __init__(self, why: Told) -> None:
        super().__init__(why.of("en"))
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step came to. ``cause``, ``fix`` and ``code`` are empty unless it found a fault."""

    id: str
    status: Status
    detail: str
    seconds: float
    cause: str = field(default="")
    fix: str = field(default="")
    code: str = field(default="")
