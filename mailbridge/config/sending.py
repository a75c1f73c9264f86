"""``mailboxes.NAME.send``: how a mailbox sends, and how much of it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from mailbridge.config.problems import fault
from mailbridge.config.proxies import ProxySetting
from mailbridge.config.sections import Section, file_default
from mailbridge.config.values import Address, Certificates, Host, Port, whole

#: connections to one mailbox; Exchange Online takes three (432 4.3.2 beyond)
MOST_CONNECTIONS = 50


def _rate(value: Any) -> int | None:
    """Return a limit, ``None`` for ``off``."""
    fix = "write a whole number from 1 to 1000000, or off."
    if value in ("off", False):
        return None
    if value is None:
        raise fault("this has no value", fix)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", str(value)):
        raise fault("this is not a whole number", fix)
    if not 1 <= int(value) <= 10**6:
        raise fault("this number is outside of 1 to 1000000", fix)
    return int(value)


Rate = Annotated[
    int | None,
    BeforeValidator(_rate),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 10**6}, {"enum": ["off", False]}]}
    ),
]


class SendServer(Section):
    """Where mail is submitted. After loading, ``host`` and ``port`` are always filled in."""

    host: Host = Field(
        "",
        description="default: Exchange Online of the app's cloud",
        json_schema_extra=file_default("smtp.office365.com"),
    )
    port: Port = Field(
        0,
        description="default: 587, or 465 with implicit",
        json_schema_extra={"default": 587, "minimum": 1, "maximum": 65535},
    )
    tls: Literal["starttls", "implicit"] = Field("starttls", description="never without TLS")
    ca: Certificates | None = Field(None, description="PEM file with a private CA")
    proxy: ProxySetting = Field(
        None, description="the way to it; off: none, whatever the environment says"
    )


class SendLimits(Section):
    """What the mailbox may use up; the defaults are what Exchange Online permits."""

    per_minute: Rate = Field(30, description="messages in any 60 seconds, or off")
    connections: Annotated[int, whole(1, MOST_CONNECTIONS)] = Field(
        3,
        description="at once",
        json_schema_extra={"minimum": 1, "maximum": MOST_CONNECTIONS},
    )
    recipients_per_day: Rate = Field(10_000, description="in any 24 hours, or off")


def _senders(value: Any) -> Any:
    if not isinstance(value, list | tuple) or not value:
        raise fault(
            "this is not a list of addresses", "write it in brackets: [alarm@feuerwehr.example]."
        )
    return value


class Send(Section):
    """How a mailbox sends. After loading, ``send_as`` is always filled in."""

    server: SendServer = Field(
        default_factory=SendServer, description="default: Exchange Online, by STARTTLS"
    )
    limits: SendLimits = Field(
        default_factory=SendLimits, description="default: what Exchange Online permits"
    )
    send_as: Annotated[tuple[Address, ...], BeforeValidator(_senders)] = Field(
        (),
        description="addresses that may stand in From; default: the mailbox's own",
        json_schema_extra={"minItems": 1},
    )
    in_doubt: Literal["resend", "hold"] = Field(
        "resend",
        description="when nobody can say whether a mail was sent: resend (it may come twice), "
        "or hold (a person decides)",
    )
