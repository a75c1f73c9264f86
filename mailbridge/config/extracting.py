"""``routes.NAME.extract``: which fields are read out of a mail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from mailbridge.config.problems import did_you_mean, fault, fault_at
from mailbridge.route.base import (
    FieldSpec,
    HtmlTableField,
    KeyValuesField,
    RegexField,
    RouteFault,
    XPathField,
)

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
#: a field while it is judged by itself
_NAME = "field"
#: fields of one route
FIELDS = 100
REGEX_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 1000}
GLOB_SCHEMA: dict[str, Any] = {"type": "string", "pattern": "^[^/\\\\]+$"}


_KINDS = ("regex", "key_values", "html_table", "xpath")
_FIELD_FIX = (
    "write {regex: '…(?P<value>…)'}, {key_values: ':'}, {html_table: Label} or "
    "{xpath: '…', attachment: '*.xml'}."
)


def _field(given: Any) -> FieldSpec:
    """Return one field; its name is judged with those beside it."""
    from mailbridge.route.extract import compile_extract

    if isinstance(given, FieldSpec):
        return given
    kinds = [kind for kind in _KINDS if isinstance(given, dict) and kind in given]
    if len(kinds) != 1:
        said = "several kinds at once" if kinds else "this does not say how the field is found"
        raise fault(said, _FIELD_FIX)
    spec = _spec(kinds[0], given)
    try:
        compile_extract({_NAME: spec})
    except RouteFault as wrong:
        raise fault_at(wrong.message, wrong.fix, *wrong.at[1:]) from None
    return spec


def _names(fields: Any) -> Any:
    if not isinstance(fields, dict):
        raise fault("this is not a map from names to what is extracted", _FIELD_FIX)
    if len(fields) > FIELDS:
        raise fault(f"more than {FIELDS} fields", "extract fewer.")
    for name in fields:
        if not _FIELD.fullmatch(name):
            fix = "use up to 64 letters, digits, `_`, `.` and `-`, a letter first."
            raise fault("this is not the name of a field", fix, key=name)
    return fields


def _spec(kind: str, given: dict[str, Any]) -> FieldSpec:
    known = {kind, "attachment"} | ({"in"} if kind == "regex" else set())
    for key, value in given.items():
        if key not in known:
            guess = did_you_mean(key, known)
            fix = f"did you mean `{guess}`? " if guess else ""
            fix += f"Known here: {', '.join(sorted(known))}."
            raise fault_at("this key is not known", fix, key)
        if not isinstance(value, str) and not (key == "html_table" and value is True):
            raise fault_at("this is not text", "write it in single quotes.", key)
    attachment = given.get("attachment", "")
    if kind == "key_values":
        return KeyValuesField(separator=given[kind], attachment=attachment)
    if kind == "html_table":
        label = "" if given[kind] is True else given[kind]
        return HtmlTableField(label=label, attachment=attachment)
    if kind == "xpath":
        return XPathField(xpath=given[kind], attachment=attachment)
    place = given.get("in", "text")
    if place not in ("subject", "text", "html"):
        fix = "write subject, text or html; for an attachment, `attachment: '*.txt'`."
        raise fault_at("this is no part of a mail", fix, "in")
    return RegexField(regex=given[kind], place=place, attachment=attachment)


def _field_schema() -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    place = {"enum": ["subject", "text", "html"]}
    kinds: dict[str, dict[str, Any]] = {
        "regex": {"regex": REGEX_SCHEMA, "in": place},
        "key_values": {"key_values": text},
        "html_table": {"html_table": {"anyOf": [text, {"const": True}]}},
        "xpath": {"xpath": text},
    }
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {**keys, "attachment": GLOB_SCHEMA},
                "required": [kind],
                "additionalProperties": False,
            }
            for kind, keys in kinds.items()
        ]
    }


Fields = Annotated[
    Mapping[str, Annotated[FieldSpec, BeforeValidator(_field)]],
    BeforeValidator(_names),
    WithJsonSchema({"type": "object", "additionalProperties": _field_schema()}),
]
