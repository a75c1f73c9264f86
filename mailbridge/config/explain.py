"""What pydantic finds, in words for the person who edits the file."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mailbridge.config.models import Config
from mailbridge.config.problems import Path, Problems, did_you_mean, shown
from mailbridge.config.sections import Section

#: how a key that is missing could be written
_EXAMPLES = {
    "tenant": "tenant: 11111111-2222-3333-4444-555555555555",
    "client_id": "client_id: 66666666-7777-8888-9999-000000000000",
    "client_secret": "client_secret: {env: ALARM_SECRET}",
    "address": "address: alarm@feuerwehr.example",
    "app": "app: NAME, where NAME stands under apps",
    "url": "url: https://erp.example/hooks/mail",
    "webhooks": "webhooks: [NAME], where NAME stands under webhooks",
}


def explain(
    error: ValidationError, model: type[Section], prefix: Path, problems: Problems, document: Any
) -> None:
    """Add a problem for each finding of one section; ``document`` is that section's data."""
    for details in error.errors(include_url=False, include_input=False):
        loc = _written(details["loc"], document)
        path = (*prefix, *loc)
        context = details.get("ctx", {})
        if details["type"] == "fault":
            problems.add((*path, *context["below"]), context["message"], context["fix"])
        elif details["type"] == "extra_forbidden":
            unknown(str(loc[-1]), _section_at(model, loc[:-1]), path, problems)
        elif details["type"] == "missing":
            name = str(loc[-1])
            fix = f"add `{_EXAMPLES.get(name, name + ': …')}`."
            problems.add(path, f"`{name}` is missing", fix)
        else:
            problems.add(path, *_in_words(details, _value_at(document, loc)))


def unknown(key: str, section: type[Section], path: Path, problems: Problems) -> None:
    """Add the problem of a key that its section does not have."""
    if key in section.coming:
        fix = "remove it until you update."
        problems.add(path, "this key is known, but not in this version yet", fix)
        return
    known = sorted(_keys(section))
    for name, inner in _sections(section):
        if key in _keys(inner) or key in inner.coming:
            problems.add(path, "this key is not known here", f"write it below `{name}:`, indented.")
            return
    guess = did_you_mean(key, [*known, *section.coming])
    listing = ", ".join(known)
    if guess is not None:
        fix = f"did you mean `{guess}`? Known here: {listing}."
    elif key in Config.model_fields:
        fix = f"move `{shown(key)}:` to the left margin."
    else:
        fix = f"remove it; known here: {listing}."
    problems.add(path, "this key is not known", fix)


def _keys(section: type[Section]) -> list[str]:
    """Return the keys of a section as the file has them."""
    return [field.alias or name for name, field in section.model_fields.items()]


_IN_WORDS = {
    "bool_type": ("this is neither true nor false", "write true or false, without quotes."),
    "string_type": ("this is not text", "write text, in quotes if it looks like something else."),
    "model_type": ("this is not a map of keys", "write its keys below it, indented: `key: value`."),
    "tuple_type": ("this is not a list", "write it in brackets: [first, second]."),
    "too_short": ("this list is empty", "name at least one, or remove the line."),
}


def _in_words(details: ErrorDetails, value: Any) -> tuple[str, str]:
    """Return message and fix of a finding that pydantic makes by itself."""
    kind = details["type"]
    context = details.get("ctx", {})
    if value is None:
        return "this has no value", "write one, or remove the line."
    if kind == "literal_error":
        words = str(context.get("expected", "")).replace("'", "").replace(" or ", ", ")
        return "this is none of the words that can stand here", f"write one of: {words}."
    if kind == "too_long":
        return f"this list has more than {context.get('max_length')} items", "shorten it."
    # A finding without words of its own gets general ones: pydantic's could quote the value.
    general = ("this value cannot stand here", "compare with config.example.yaml.")
    return _IN_WORDS.get(kind, general)


def _written(loc: Path, document: Any) -> Path:
    """Return a place as the file has it: a single value that became a list has no index there."""
    parts: list[str | int] = []
    for part in loc:
        if isinstance(part, int) and not isinstance(document, list):
            continue
        parts.append(part)
        document = _value_at(document, (part,))
    return tuple(parts)


def _section_at(model: type[Section], loc: tuple[str | int, ...]) -> type[Section]:
    """Return the section class at a place below ``model``."""
    for part in loc:
        inner = dict(_sections(model)).get(str(part))
        if inner is None:
            return model
        model = inner
    return model


def _sections(model: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    """Yield the keys of a section that hold sections themselves."""
    for name, field in model.model_fields.items():
        for candidate in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, Section):
                yield name, candidate


def _value_at(document: Any, loc: tuple[str | int, ...]) -> Any:
    """Return the value at a place, something else than ``None`` if there is no such place."""
    for part in loc:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return ""
    return document
