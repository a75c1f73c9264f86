"""``routes``: which mails go where, and what they have to be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, WithJsonSchema

from mailbridge.config.extracting import GLOB_SCHEMA, REGEX_SCHEMA, Fields
from mailbridge.config.problems import fault, fault_at
from mailbridge.config.sections import Section
from mailbridge.config.values import Span
from mailbridge.route.base import AddressPattern, MatchSpec, RequireSpec, RouteFault, RouteSpec

if TYPE_CHECKING:
    from mailbridge.route.decide import Route as Compiled

#: items of one list, or of one map, of a route
_ITEMS = 100
_HEADER = re.compile(r"[!-9;-~]{1,128}")


# -- match ----------------------------------------------------------------------------------------


def _items(value: Any) -> list[Any]:
    """Return a list, also for a single value."""
    if value is None:
        raise fault("this has no value", "write one, or remove the line.")
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not items:
        raise fault("this list is empty", "name at least one, or remove the line.")
    if len(items) > _ITEMS:
        raise fault(f"this list has more than {_ITEMS} items", "shorten it, or write a regex.")
    return items


def _regex_at(value: Any, *below: str) -> str:
    """Return a regex that RE2 takes; ``below`` is where it stands under what is judged."""
    from mailbridge.route.regex import compile_regex

    fix = "write a regex in single quotes: '(?i)einsatz|alarm'."
    if value is None:
        raise fault_at("this has no value", fix, *below)
    if not isinstance(value, str):
        raise fault_at("this is not a regex", fix, *below)
    if not value:
        fix = "remove the line, or write one."
        raise fault_at("this regex is empty, so it fits everything", fix, *below)
    try:
        compile_regex(value)
    except RouteFault as wrong:
        raise fault_at(wrong.message, wrong.fix, *below) from None
    return value


def _regex(value: Any) -> str:
    return _regex_at(value)


Regex = Annotated[str, BeforeValidator(_regex), WithJsonSchema(REGEX_SCHEMA)]


def _address(item: Any) -> AddressPattern:
    """Return the pattern of an address: a glob, or ``{regex: …}``."""
    from mailbridge.route.address import Addresses as Patterns

    if isinstance(item, AddressPattern):
        return item
    if isinstance(item, str):
        pattern = AddressPattern(glob=item)
    elif isinstance(item, dict) and list(item) == ["regex"]:
        pattern = AddressPattern(regex=_regex_at(item["regex"], "regex"))
    else:
        fix = "write an address with * and ?, like \"*@ils.example\", or {regex: '…'}."
        raise fault("this is not the pattern of an address", fix)
    try:
        Patterns([pattern])
    except RouteFault as wrong:
        raise fault_at(wrong.message, wrong.fix, *wrong.at[1:]) from None
    return pattern


_ADDRESS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "pattern": "^[^@]+@[^@]+$"},
        {
            "type": "object",
            "properties": {"regex": REGEX_SCHEMA},
            "required": ["regex"],
            "additionalProperties": False,
        },
    ]
}


def _glob(item: Any) -> str:
    """Return the glob of a file name."""
    if not isinstance(item, str) or not item.strip():
        raise fault(
            "this is not the pattern of a file name", "write it with * and ?, like '*.pdf'."
        )
    if "/" in item or "\\" in item:
        raise fault("names of attachments have no folders", "write the name alone.")
    return item


def _headers(value: Any) -> Any:
    """Judge the names of header fields."""
    if not isinstance(value, dict) or not value:
        fix = "write `headers: {X-Alarm: '^yes'}`."
        raise fault("this is not a map from header fields to regexes", fix)
    if len(value) > _ITEMS:
        raise fault(f"more than {_ITEMS} header fields", "name fewer.")
    for name in value:
        if not _HEADER.fullmatch(name):
            fix = "write it without `:` and blanks."
            raise fault("this is not the name of a header field", fix, key=name)
    return value


def _list_schema(item: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema(
        {"anyOf": [item, {"type": "array", "items": item, "minItems": 1, "maxItems": _ITEMS}]}
    )


Addresses = Annotated[
    tuple[Annotated[AddressPattern, BeforeValidator(_address)], ...],
    BeforeValidator(_items),
    _list_schema(_ADDRESS_SCHEMA),
]


class RouteMatch(Section):
    """Which mails a route takes: every condition that is written has to hold."""

    from_: Addresses = Field(
        (),
        alias="from",
        description="who wrote it: the whole address, case aside; one item has to fit. A mail with "
        "two authors, or one that can be read in two ways, fits nothing",
    )
    to: Addresses = Field((), description="the same for To")
    cc: Addresses = Field((), description="the same for Cc")
    recipient: Addresses = Field((), description="the same for To, Cc, Bcc and Delivered-To")
    subject: Regex = Field("", description="a regex (RE2) that is searched in the subject")
    text: Regex = Field("", description="a regex that is searched in the text")
    headers: Annotated[
        Mapping[str, Regex],
        BeforeValidator(_headers),
        WithJsonSchema(
            {"type": "object", "additionalProperties": REGEX_SCHEMA, "minProperties": 1}
        ),
    ] = Field(default_factory=dict, description="regexes by the names of header fields")
    attachment: Annotated[
        tuple[Annotated[str, BeforeValidator(_glob)], ...],
        BeforeValidator(_items),
        _list_schema(GLOB_SCHEMA),
    ] = Field((), description="the name of an attachment; one item has to fit one of them")
    has_attachment: StrictBool | None = Field(
        None, description="true: only with attachments, false: only without, empty: either"
    )

    @property
    def is_empty(self) -> bool:
        """Whether it takes every mail."""
        return self.spec == MatchSpec()

    @property
    def spec(self) -> MatchSpec:
        """The same as ``mailbridge.route`` takes it."""
        return MatchSpec(
            from_=self.from_,
            to=self.to,
            cc=self.cc,
            recipient=self.recipient,
            subject=self.subject,
            text=self.text,
            headers=self.headers,
            attachment=self.attachment,
            has_attachment=self.has_attachment,
        )


# -- the whole ------------------------------------------------------------------------------------


class RouteRequire(Section):
    """What a mail that matches has to be; what fails it gets ``otherwise``."""

    authenticated: StrictBool = Field(
        False,  # noqa: FBT003 - pydantic takes the default by place
        description="the author's domain is proven: SPF, DKIM or DMARC, by our own mail service",
    )
    max_age: Span | None = Field(
        None, description="received no longer ago than this, by the server's clock"
    )
    not_duplicate_within: Span | None = Field(
        None, description="no other mail with the same `number`, else the same content, before it"
    )

    @property
    def spec(self) -> RequireSpec:
        """The same as ``mailbridge.route`` takes it."""
        return RequireSpec(
            authenticated=self.authenticated,
            max_age=self.max_age,
            not_duplicate_within=self.not_duplicate_within,
        )


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise fault_at("this name stands here twice", "name it once.", index)
    return names


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


#: names of another section, in an order that counts; a single one may stand without brackets
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_listed),
    AfterValidator(_distinct),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            ]
        }
    ),
]


class Route(Section):
    """Which mails it takes, what they have to be, what is read out of them, where they go."""

    match: RouteMatch = Field(
        default_factory=lambda: RouteMatch.model_validate({}),
        description="which mails; without it, all",
    )
    require: RouteRequire = Field(
        default_factory=RouteRequire, description="what a mail that matches has to be"
    )
    otherwise: Literal["hold", "deliver", "drop"] = Field(
        "hold", description="what becomes of a mail that matches and fails `require`"
    )
    extract: Fields = Field(
        default_factory=dict, description="fields that are read out of the mail, by name"
    )
    webhooks: Names = Field(description="where its mails go; [] for nowhere")
    stop: StrictBool = Field(
        False,  # noqa: FBT003 - pydantic takes the default by place
        description="true: no later route is asked about a mail that this one takes",
    )

    def spec(self, name: str) -> RouteSpec:
        """Return the same as ``mailbridge.route`` takes it."""
        return RouteSpec(
            name=name,
            match=self.match.spec,
            require=self.require.spec,
            otherwise=self.otherwise,
            extract=self.extract,
            webhooks=self.webhooks,
            stop=self.stop,
        )

    def compile(self, name: str) -> Compiled:
        """Return the compiled route; everything in it has been judged when the file was read."""
        from mailbridge.route.decide import compile_route

        return compile_route(self.spec(name))
