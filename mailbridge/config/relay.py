"""The section ``relay``: a local SMTP listener for what can only send mail by SMTP."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, WithJsonSchema

from mailbridge.config.http import PLACE_SCHEMA, listening_place
from mailbridge.config.problems import fault, fault_at
from mailbridge.config.secrets import Secret, one_or_more, there
from mailbridge.config.sections import Section, file_default
from mailbridge.config.values import Certificates, PrivateKey, Size, is_domain

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: bytes; what Exchange Online takes as it is set up
LARGEST = 35_000_000
#: characters of a password; fewer are tried out in a day
SHORTEST_PASSWORD = 8
LOOPBACK: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)
_LOCAL = re.compile(r"[^\s@<>()\[\]\\,;:\"*\x00-\x1f\x7f]{1,64}")
_USER = re.compile(r"[^\s:\x00-\x1f\x7f]{1,64}")
_MAP_FIX = 'write it as `senders: {"scanner@feuerwehr.example": alarm}`.'
_INBOUND_FIX = "write it as `inbound: {alarm@in.feuerwehr.example: [alarm]}`."


def _network(value: Any) -> Network:
    fix = "write it like 192.168.20.0/24, or an address alone."
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    if not isinstance(value, str):
        raise fault("this is not a network", fix)
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        if "host bits" in str(error):
            raise fault("this names a host within a network", fix) from None
        raise fault("this is not a network", fix) from None


def _networks(value: Any) -> Any:
    if not isinstance(value, list | tuple) or not value:
        raise fault("this is not a list of networks", "write it in brackets: [192.168.20.0/24].")
    return value


def _split(text: str) -> tuple[str, str]:
    """Return local part and domain of an address, two empty texts if it is none."""
    local, _, domain = text.rpartition("@")
    fits = local == "*" or _LOCAL.fullmatch(local)
    return (local, domain) if fits and is_domain(domain) else ("", "")


def _senders(value: Any) -> Any:
    if not isinstance(value, dict):
        raise fault("this is not a map from senders to mailboxes", _MAP_FIX)
    seen: set[str] = set()
    for sender, mailbox in value.items():
        if not _split(str(sender))[0]:
            fix = "write an address, or *@ and a domain for all of its addresses."
            raise fault_at("this is neither an address nor *@domain", fix, str(sender))
        if sender.lower() in seen:
            raise fault_at("this sender is there twice", "keep one of them.", sender)
        seen.add(sender.lower())
        if not isinstance(mailbox, str):
            raise fault_at("this sender has no mailbox to send through", _MAP_FIX, sender)
    return value


def _inbound(value: Any) -> Any:
    if not isinstance(value, dict):
        raise fault("this is not a map from addresses to routes", _INBOUND_FIX)
    seen: set[str] = set()
    for address, routes in value.items():
        if _split(str(address))[0] in ("", "*"):
            raise fault_at("this is not a mail address", _INBOUND_FIX, str(address))
        if str(address).lower() in seen:
            raise fault_at("this address is there twice", "keep one of them.", address)
        seen.add(str(address).lower())
        names = one_or_more(routes)
        if not names or not all(isinstance(name, str) for name in names):
            raise fault_at("this address has no list of routes", _INBOUND_FIX, address)
    return value


def _users(value: Any) -> Any:
    fix = "write it as `auth: {printer: {file: /etc/mailbridge/printer.password}}`."
    if not isinstance(value, dict):
        raise fault("this is not a map from users to their passwords", fix)
    for name in value:
        if not isinstance(name, str) or not _USER.fullmatch(name):
            raise fault("a name of a user cannot be used", "use up to 64 characters, no blanks.")
    return value


def _password(secret: Secret) -> Secret:
    if there(secret) and len(secret.reveal()) < SHORTEST_PASSWORD:
        message = f"this password has fewer than {SHORTEST_PASSWORD} characters: it can be guessed"
        raise fault(message, "write a longer one.")
    return secret


def _max_size(value: int) -> int:
    if value < 1000:  # noqa: PLR2004 - the header of a mail alone has as much
        raise fault("no mail is as small as this", "write for example 35MB.")
    return value


_STRING_LIST = {"type": "array", "items": {"type": "string"}, "minItems": 1}


class Accept(Section):
    """Who may use the listener, and through which mailbox he sends."""

    networks: Annotated[
        tuple[Annotated[Network, BeforeValidator(_network)], ...],
        BeforeValidator(_networks),
        WithJsonSchema(_STRING_LIST),
    ] = Field(
        LOOPBACK,
        description="who may connect at all; others are refused with the greeting",
        json_schema_extra={"default": ["127.0.0.0/8", "::1/128"]},
    )
    senders: Annotated[Mapping[str, str], BeforeValidator(_senders)] = Field(
        default_factory=dict,
        description="envelope sender, or *@domain, to the mailbox that sends his mail",
    )


class RelayTls(Section):
    """STARTTLS."""

    certificate: Certificates = Field(description="PEM file with the certificate and its chain")
    key: PrivateKey = Field(description="PEM file with its key, without a passphrase")
    require: StrictBool = Field(
        False,  # noqa: FBT003 - pydantic takes the default by place
        description="nothing is taken before STARTTLS",
    )


class Relay(Section):
    """A local SMTP listener: to send through a mailbox, or to be delivered by the routes."""

    listen: Annotated[str, BeforeValidator(listening_place), WithJsonSchema(PLACE_SCHEMA)] = Field(
        "127.0.0.1:2525", description="HOST:PORT, or off"
    )
    accept: Accept = Field(default_factory=Accept, description="who may use it")
    inbound: Annotated[
        Mapping[str, Annotated[tuple[str, ...], BeforeValidator(one_or_more)]],
        BeforeValidator(_inbound),
    ] = Field(
        default_factory=dict,
        description="mail to this address goes through these routes, as if fetched",
    )
    tls: RelayTls | None = Field(None, description="default: no STARTTLS")
    auth: Annotated[
        Mapping[str, Annotated[Secret, AfterValidator(_password)]], BeforeValidator(_users)
    ] = Field(
        default_factory=dict,
        description="a password for each user; with any, only who signed in may send",
    )
    max_size: Annotated[Size, AfterValidator(_max_size)] = Field(
        LARGEST,
        description="of one mail; announced, and enforced while it comes",
        json_schema_extra=file_default("35MB"),
    )

    @property
    def host(self) -> str:
        """Where it listens, without brackets; empty when it does not."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port it listens at; 0 for any, and when it does not listen."""
        return int(self.listen.rpartition(":")[2]) if self.listen != "off" else 0

    @property
    def named(self) -> Mapping[str, tuple[str, ...]]:
        """By mailbox, the senders that are named in full: it sends as these, too."""
        found: dict[str, list[str]] = {}
        for sender, mailbox in self.accept.senders.items():
            if not sender.startswith("*@"):
                found.setdefault(mailbox, []).append(sender)
        return {mailbox: tuple(senders) for mailbox, senders in found.items()}
