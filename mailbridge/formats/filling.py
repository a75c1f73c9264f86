"""An alarm's values from templates: each of its kind and length, and no mail keeps one from going.

A template that fails gives its parameter's default, and what cannot be used is left out and
named: an alarm with a hole wakes people, an alarm that waits for a better template does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mailbridge.alarm import Parameter
from mailbridge.template import Template, TemplateFailed

#: bytes that a template of a parameter may give before it is cut to the parameter's length
RENDERED: Final = 4 * 1024 * 1024
#: what stands where a text was cut
CUT: Final = "…"
#: entries of one list
NAMES: Final = 100
_TRUE: Final = frozenset({"1", "true", "yes", "ja", "on", "x"})
_FALSE: Final = frozenset({"0", "false", "no", "nein", "off"})
_SEPARATORS: Final = re.compile(r"[,;\n]")
_WHOLE: Final = re.compile(r"[0-9]{1,15}")


@dataclass(slots=True)
class Filled:
    """Values by parameter, and the names of those that could not be used."""

    values: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def note(self) -> str:
        """One line for the people who get the alarm; empty when nothing is missing."""
        names = ", ".join(self.left_out)
        return f"[mailbridge left out: {names}]" if names else ""


class Form:
    """The parameters of an alarm server with the templates that fill them.

    ``written`` are templates of the configuration, by parameter, under ``place``. Raises
    ``TemplateFault``.
    """

    def __init__(
        self, parameters: Mapping[str, Parameter], written: Mapping[str, str], *, place: str
    ) -> None:
        self._parameters = parameters
        self._templates = {
            name: [
                Template(source, place=f"{place}.{name}", lenient=True)
                for source in dict.fromkeys([written.get(name, default.template), default.template])
            ]
            for name, default in parameters.items()
            if name in written or default.template
        }

    def fill(self, values: Mapping[str, Any]) -> Filled:
        """Return what there is to say; what a mail does not have is not in it."""
        filled = Filled()
        for name, templates in self._templates.items():
            text = self._text(name, templates, values, filled)
            if not text:
                continue
            parameter = self._parameters[name]
            value = _converted(text, parameter)
            if value is not None:
                filled.values[name] = value
            elif name not in filled.left_out:
                filled.left_out.append(name)
        return filled

    @staticmethod
    def _text(
        name: str, templates: list[Template], values: Mapping[str, Any], filled: Filled
    ) -> str:
        for template in templates:
            try:
                return template.render(values, most=RENDERED).strip()
            except TemplateFailed:
                filled.left_out.append(name)
        return ""


def cut(text: str, most: int) -> str:
    """Return at most so many characters, and show where some are missing."""
    return text if len(text) <= most else text[: most - len(CUT)].rstrip() + CUT


def _converted(text: str, parameter: Parameter) -> Any:
    """Return the value in the parameter's kind; ``None`` when it is none of that kind."""
    match parameter.kind:
        case "text":
            return cut(text, parameter.most)
        case "lines":
            kept = cut(text, parameter.most).splitlines()
            return [line.strip() for line in kept if line.strip()]
        case "names":
            parts = [part.strip() for part in _SEPARATORS.split(text[:10_000])]
            return [int(p) if _WHOLE.fullmatch(p) else p for p in parts if p][:NAMES] or None
        case "flag":
            word = text.lower()
            return word in _TRUE if word in _TRUE | _FALSE else None
        case "whole":
            return int(text) if _WHOLE.fullmatch(text) else None
        case "number":
            return _number(text, parameter.bound)


def _number(text: str, bound: float | None) -> float | None:
    try:
        number = float(text[:40].replace(",", "."))
    except ValueError:
        return None
    fits = math.isfinite(number) and (bound is None or abs(number) <= bound)
    return number if fits else None
