"""What a route says, as plain values, and the seam between deciding and extracting.

::

    router = Router([compile_route(RouteSpec(name="alarm", webhooks=("divera",))), …])  # once
    ruling = router.rule(parse(raw), received_at=…, now=…)                    # for each mail

Everything here is judged when the configuration is read: what cannot be compiled raises
``RouteFault``, which names the place below the route. Nothing raises when a mail is routed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

from mailbridge.parse.parsed import ParsedMessage

#: what becomes of a mail that a route matches and that fails its ``require``
Otherwise = Literal["hold", "deliver", "drop"]

#: the extracted field that tells two alarms of one incident from two incidents
NUMBER: Final = "number"


class RouteFault(ValueError):  # noqa: N818 - a fault of the file, as its siblings there are called
    """A route that cannot be compiled: what is wrong, how to mend it, and where below the route.

    ``at`` is the path below the route (``("match", "subject")``), or below what was compiled.
    Neither text quotes the configuration: whatever stands in a wrong place may be a secret.
    """

    def __init__(self, message: str, fix: str, *, at: tuple[str | int, ...] = ()) -> None:
        """Keep the message positional, so that ``str(error)`` is the sentence alone."""
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.at = at

    def below(self, *path: str | int) -> RouteFault:
        """Return the same fault, seen from further up."""
        return RouteFault(self.message, self.fix, at=(*path, *self.at))


# -- extract ------------------------------------------------------------------------------------
#
# Where ``attachment`` is a glob, the first attachment whose file name fits it is read instead of
# the body: the text of a text, XML or PDF attachment.


@dataclass(frozen=True, slots=True, kw_only=True)
class RegexField:
    """What a regex finds: its group ``value``, else its first group, else the whole match."""

    regex: str
    place: Literal["subject", "text", "html"] = "text"
    attachment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValuesField:
    """Every ``Key: value`` line, as one object; ``separator`` stands between the two."""

    separator: str = ":"
    attachment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HtmlTableField:
    """The cell beside ``label`` in the html's tables; without a label, all of them as an object."""

    label: str = ""
    attachment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class XPathField:
    """What an XPath finds in an XML attachment, or in a body that is XML."""

    xpath: str
    attachment: str = ""


FieldSpec = RegexField | KeyValuesField | HtmlTableField | XPathField


class Extractor(Protocol):
    """The compiled ``extract`` of one route."""

    def extract(self, message: ParsedMessage) -> Mapping[str, Any]:
        """Return what was found by the fields' names: plain JSON, bounded in size.

        A field that is not found is ``None``, or left out. Never raises, whatever the mail.
        """
        ...


# -- routes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPattern:
    """A glob (``*@ils.example``) or a regex; either has to fit the whole address, case aside."""

    glob: str = ""
    regex: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchSpec:
    """The conditions that must all hold. An empty tuple, ``""`` and ``None`` ask nothing.

    Of a list of patterns one has to fit. ``recipient`` is anybody in to, cc, bcc and delivered-to.
    ``headers`` are regexes by the names of header fields; of several fields one has to fit.
    """

    from_: tuple[AddressPattern, ...] = ()
    to: tuple[AddressPattern, ...] = ()
    cc: tuple[AddressPattern, ...] = ()
    recipient: tuple[AddressPattern, ...] = ()
    subject: str = ""
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    attachment: tuple[str, ...] = ()
    has_attachment: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequireSpec:
    """What a mail that matches has to be, to be delivered without a person's word."""

    authenticated: bool = False
    max_age: timedelta | None = None
    not_duplicate_within: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """One entry of ``routes``."""

    name: str
    match: MatchSpec = field(default_factory=MatchSpec)
    require: RequireSpec = field(default_factory=RequireSpec)
    otherwise: Otherwise = "hold"
    extract: Mapping[str, FieldSpec] = field(default_factory=lambda: MappingProxyType({}))
    webhooks: tuple[str, ...] = ()
    stop: bool = False
