"""What formats other than ``mailbridge`` are told: templates, and how to call alarm servers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from mailbridge.config.problems import did_you_mean, fault, fault_at
from mailbridge.config.secrets import Secret
from mailbridge.config.sections import Section
from mailbridge.config.values import Interval

FormatName = Literal["mailbridge", "divera", "alamos-fe2", "raw", "template", "cloudevents"]
#: formats that have words for mails alone
MAILS_ONLY: frozenset[FormatName] = frozenset({"divera", "alamos-fe2", "raw"})
#: the key of a format's own section
SECTIONS: Mapping[str, FormatName] = {
    "divera": "divera",
    "alamos": "alamos-fe2",
    "template": "template",
    "template_content_type": "template",
}
JSON = "application/json; charset=utf-8"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_PART = r"[A-Za-z0-9!#$&^_.+-]{1,64}"
_MEDIA = re.compile(rf'{_PART}/{_PART}(\s*;\s*charset="?(?P<charset>[A-Za-z0-9_-]+)"?)?')


def template_fault(source: str) -> tuple[str, str] | None:
    """Return what is wrong with a template, and how to mend it."""
    # Here, for Jinja2 takes its time, and most configurations have no template.
    from mailbridge.template import Template, TemplateFault

    try:
        Template(source, place="template")
    except TemplateFault as error:
        message = f"the template cannot be used (line {error.line}, column {error.column}): {error}"
        return message, "docs/formats/template.md lists what a template can say."
    return None


def _sources(value: Any) -> dict[str, str]:
    """Return templates by name; a word or a list is a template without braces."""
    if not isinstance(value, dict):
        raise fault("this is not a map from names to templates", "write `title: '{{ … }}'`.")
    result = {}
    for name, given in value.items():
        if not _NAME.fullmatch(name):
            raise fault("this is not the name of a value", "use letters, digits and _.", key=name)
        source = _source(given)
        if source is None:
            raise fault("this is not a template", "write text, in quotes.", key=name)
        wrong = template_fault(source)
        if wrong is not None:
            raise fault(*wrong, key=name)
        result[name] = source
    return result


def _source(given: Any) -> str | None:
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, list):
        return ", ".join(given) if all(isinstance(each, str) for each in given) else None
    return given if isinstance(given, str) else None


def check_known(written: Mapping[str, str], parameters: Mapping[str, Any], section: str) -> None:
    """Refuse a parameter that an alarm server does not have; ``section`` is the key above it."""
    for name in written:
        if name not in parameters:
            guess = did_you_mean(name, parameters)
            fix = f"did you mean `{guess}`? " if guess else ""
            listing = ", ".join(parameters)
            message = "there is no such parameter"
            raise fault_at(message, f"{fix}There are: {listing}.", section, "alarm", name)


Sources = Annotated[
    Mapping[str, str],
    BeforeValidator(_sources),
    WithJsonSchema(
        {"type": "object", "additionalProperties": {"type": ["string", "boolean", "array"]}}
    ),
]


def _media(value: Any) -> str:
    fix = "write for example text/plain; charset=utf-8."
    match = _MEDIA.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise fault("this is not a content type", fix)
    if (match["charset"] or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise fault("what a template gives is sent in UTF-8", fix)
    return match[0]


MediaType = Annotated[str, BeforeValidator(_media), WithJsonSchema({"type": "string"})]


def _mapping(value: Mapping[str, str]) -> Mapping[str, str]:
    for name, by in value.items():
        if name not in {"cluster", "group", "user_cluster_relation", "vehicle"}:
            fix = "there are cluster, group, user_cluster_relation and vehicle."
            raise fault("there is no such instruction", fix, key=name)
        if not _NAME.fullmatch(by):
            raise fault("this is not the name of a mapping", "write `name` or `title`.", key=name)
    return value


class Divera(Section):
    """How DIVERA 24/7 is called."""

    access_key: Secret | None = Field(
        None, description="goes into the URL's query; left out when `url` is a secret that has it"
    )
    alarm: Sources = Field(
        default_factory=dict, description="templates by parameter of DIVERA's alarm API"
    )
    instructions: Annotated[Mapping[str, str], AfterValidator(_mapping)] = Field(
        default_factory=dict,
        description="v2: how DIVERA finds what a list names, for example {group: name}",
    )


class Alamos(Section):
    """How Alamos FE2 is called."""

    authorization: Secret = Field(description="a valid sender of FE2's alarm input")
    sender: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        "mailbridge", description="who FE2 shows as the sender"
    )
    alarm: Sources = Field(
        default_factory=dict, description="templates by value of FE2's data format v2"
    )
    custom: Sources = Field(
        default_factory=dict, description="further values by name, as templates"
    )


class Fallback(Section):
    """Who gets what this webhook has not taken in time."""

    webhook: str = Field(description="the name of another webhook")
    after: Interval = Field(description="how long this webhook has")
