"""Who may do what at the listener. Pure.

One function decides, and whatever it does not know it refuses, with a reply that says what to
write into the configuration.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mailbridge.sinks.smtp_message import BadAddress, on_the_wire

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: the envelope sender of bounces (RFC 5321, section 4.5.5)
NOBODY: Final = "<>"


@dataclass(frozen=True, slots=True)
class ToQueue:
    """The mail to this recipient is sent through this mailbox."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class ToRoutes:
    """The mail to this recipient goes through the routes of this address of ours."""

    address: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """It is not taken; ``reply`` is told to the client, ``reason`` is for the log."""

    reply: str
    reason: str


Word = ToQueue | ToRoutes | Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the section ``relay`` says. Addresses are in small letters and as on the wire.

    ``senders`` are whole addresses, ``domains`` those of ``*@domain``; both lead to mailboxes.
    ``inbound`` leads to the address as it was written. With ``passwords`` (by user), only who
    has signed in may send.
    """

    networks: tuple[Network, ...]
    senders: Mapping[str, str] = field(default_factory=dict)
    domains: Mapping[str, str] = field(default_factory=dict)
    inbound: Mapping[str, str] = field(default_factory=dict)
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)

    def admits(self, client: str) -> bool:
        """Tell whether this address may connect at all."""
        address = ip_of(client)
        return address is not None and any(
            address.version == network.version and address in network for network in self.networks
        )

    def judge(self, *, client: str, sender: str, recipient: str, signed_in: bool) -> Word:
        """Say what becomes of a mail from ``sender`` to one ``recipient``.

        Both are as in the commands, ``sender`` of a bounce is ``NOBODY``.
        """
        if not self.admits(client):
            return stranger(client)
        ours = self.inbound.get(key(recipient))
        if ours is not None:
            return ToRoutes(ours)
        return self._queue(sender, signed_in=signed_in)

    def _queue(self, sender: str, *, signed_in: bool) -> Word:
        mailbox = self._mailbox(sender)
        if self.passwords and not signed_in:
            return Refusal("530 5.7.0 Sign in first: relay.auth asks for it", "not_signed_in")
        if mailbox is not None:
            return ToQueue(mailbox)
        if sender == NOBODY:
            return Refusal(
                "550 5.7.1 Nothing is sent for the empty sender, and this recipient is not under "
                "relay.inbound",
                "empty_sender",
            )
        named = f'"{sender}": MAILBOX' if sender.isascii() else "this sender and its mailbox"
        return Refusal(
            f"550 5.7.1 Not sent for this sender: write {named} under relay.accept.senders",
            "unknown_sender",
        )

    def _mailbox(self, sender: str) -> str | None:
        if sender == NOBODY:
            return None
        sought = key(sender)
        return self.senders.get(sought) or self.domains.get(sought.rpartition("@")[2])


def stranger(client: str) -> Refusal:
    """Return what a client is told whose address is in no network that may connect."""
    return Refusal(
        f"554 5.7.1 {client} may not connect: its network is not under relay.accept.networks",
        "network",
    )


def key(address: str) -> str:
    """Return an address as it is looked up: as on the wire, without regard to capitals.

    What is no address is looked up as it is, and not found.
    """
    try:
        return on_the_wire(address).lower()
    except (BadAddress, UnicodeError):
        return address


def ip_of(client: str) -> IpAddress | None:
    """Return the address of a client, that of IPv4 where it is written as IPv6."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def is_local(client: str) -> bool:
    """Tell whether a client is on this machine, so that nobody listens in between."""
    address = ip_of(client)
    return address is not None and address.is_loopback
