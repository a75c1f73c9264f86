"""Faults and quirks of the sandbox, by name; ``CATALOGUE`` is their one table.

::

    tenant.faults.add("imap.throttled", times=2, mailbox="alarm@feuerwehr.example")
    tenant.faults.add("imap.fetch_bad", uid=7)
    tenant.faults.add("token.429", retry_after=2)
    tenant.faults.clear("imap.fetch_bad")
    assert tenant.faults.fired["imap.throttled"] == 2

``times=None`` lasts until it is cleared. Of several that fit, the first one added strikes.
``imap.session_limit``, ``imap.no_capability``, ``imap.new_front_end`` and
``imap.challenge_on_failure`` are states, not strikes: ``times`` and ``fired`` say nothing there.
Every fault takes ``mailbox`` (imap) or ``client_id`` (token); IMAP faults also take the options
``command`` (``"FETCH"`` fits ``UID FETCH`` too) and ``folder`` to narrow them down.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a fault does, and its options with their defaults."""

    effect: str
    options: Mapping[str, Any] = field(default_factory=dict)


def _kind(effect: str, **options: object) -> Kind:
    return Kind(effect=effect, options=options)


CATALOGUE: Final[Mapping[str, Kind]] = {
    # Entra
    "discovery.503": _kind("openid-configuration answers 503", retry_after=None),
    "discovery.hang": _kind("openid-configuration never answers", seconds=None),
    "discovery.wrong_body": _kind("openid-configuration answers 200 with an HTML page"),
    "token.429": _kind("HTTP 429 temporarily_unavailable", retry_after=None),
    "token.500": _kind("HTTP 500 with an empty body"),
    "token.503": _kind("HTTP 503 with an HTML page", retry_after=None),
    "token.hang": _kind("the request is read and not answered", seconds=None),
    "token.drop": _kind("the connection is closed instead of an answer"),
    "token.wrong_body": _kind("HTTP 200 with an HTML page, as a captive portal sends it"),
    "token.error": _kind(
        "an AADSTS error of your choice",
        status=400,
        error="invalid_grant",
        code=53003,
        text="Access has been blocked by Conditional Access policies.",
        suberror=None,
    ),
    # connecting and signing in
    "imap.refuse": _kind("the connection is closed before the greeting"),
    "imap.no_greeting": _kind("the server accepts and stays silent", seconds=None),
    "imap.auth_failed": _kind("NO AUTHENTICATE failed."),
    "imap.challenge_on_failure": _kind("a refusal is preceded by a JSON challenge, as at Gmail"),
    "imap.not_connected": _kind(
        "sign-in is OK, then: BAD User is authenticated but not connected."
    ),
    "imap.session_limit": _kind("more sessions of a mailbox than this are not connected", limit=16),
    "imap.no_capability": _kind("one capability is neither listed nor obeyed", capability="IDLE"),
    "imap.new_front_end": _kind("greeting and capabilities of the front end seen since 2026-09"),
    # any command
    "imap.throttled": _kind(
        "BAD Request is throttled. Suggested Backoff Time: N milliseconds; with hang_up, BYE too",
        milliseconds=89117,
        hang_up=False,
    ),
    "imap.server_unavailable": _kind(
        "Server Unavailable. 15, as NO, BAD or untagged; then BYE unless hang_up is false",
        form="NO",
        uid=None,
        hang_up=True,
    ),
    "imap.bye_on_command": _kind("BYE instead of an answer", text="Connection closed. 14"),
    "imap.drop_on_command": _kind(
        "the connection is closed without BYE; reset sends RST", reset=False
    ),
    "imap.token_expired": _kind("* BYE Session invalidated - AccessTokenExpired"),
    "imap.hang": _kind("the command is read and not answered", seconds=None),
    "imap.slow": _kind("answers trickle", bytes_per_second=20_000),
    # FETCH; with uid=None every message is meant
    "imap.drop_mid_literal": _kind("cut after so many bytes of a literal", after=100, uid=None),
    "imap.broken_literal_size": _kind(
        "a literal announces its size plus delta", delta=10, uid=None
    ),
    "imap.fetch_ok_no_data": _kind("FETCH ends OK without this message", uid=None),
    "imap.fetch_nil": _kind("FETCH gives BODY[] NIL", uid=None),
    "imap.fetch_bad": _kind(
        "any FETCH with this message: BAD Command Argument Error. 11", uid=None
    ),
    "imap.fetch_no": _kind("any FETCH with this message: NO Server Unavailable. 15", uid=None),
    "imap.placeholder": _kind("the stand-in for a message that cannot be converted", uid=None),
    "imap.inexact_size": _kind("RFC822.SIZE is off by delta", delta=13, uid=None),
    "imap.expunge_during_fetch": _kind(
        "another client expunges a message (default: the batch's last) amid the FETCH", uid=None
    ),
    "imap.duplicate_fetch": _kind(
        "unsolicited FETCH (FLAGS …) lines around every asked one", uid=None
    ),
    # IDLE
    "imap.exists_before_idle": _kind("an untagged EXISTS arrives before IDLE's continuation"),
    "imap.silent_idle": _kind("IDLE is accepted and pushes nothing"),
}

_NARROWING: Final = frozenset({"command", "folder"})


@dataclass(slots=True, kw_only=True, eq=False)
class Fault:
    """One armed fault: whom it may strike, how often still, and its options."""

    name: str
    mailbox: str | None
    client_id: str | None
    times: int | None
    options: dict[str, Any]

    def __getitem__(self, option: str) -> Any:
        """Return the value of an option, the default included."""
        return self.options[option]


class Faults:
    """The armed faults of a tenant. Use it in the event loop's thread only."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []
        #: how often each fault has struck
        self.fired: Counter[str] = Counter()

    def add(
        self,
        name: str,
        *,
        times: int | None = None,
        mailbox: str | None = None,
        client_id: str | None = None,
        **options: object,
    ) -> Fault:
        """Arm a fault. ``ValueError`` for a name or option that the catalogue lacks."""
        kind = CATALOGUE.get(name)
        if kind is None:
            raise ValueError(f"no fault is called {name!r}; there are: {', '.join(CATALOGUE)}")
        unknown = set(options) - set(kind.options) - _NARROWING
        if unknown:
            raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}")
        fault = Fault(
            name=name,
            mailbox=mailbox.lower() if mailbox else None,
            client_id=client_id.lower() if client_id else None,
            times=times,
            options={"command": None, "folder": None, **kind.options, **options},
        )
        self._armed.append(fault)
        return fault

    def clear(self, name: str | None = None, *, mailbox: str | None = None) -> None:
        """Disarm all faults, or those of this name, or those of this mailbox."""
        self._armed = [
            fault
            for fault in self._armed
            if (name is not None and fault.name != name)
            or (mailbox is not None and fault.mailbox != mailbox.lower())
        ]

    def take(  # noqa: PLR0913 - what a fault can be narrowed down to, all by name
        self,
        name: str,
        *,
        mailbox: str = "",
        client_id: str = "",
        command: str = "",
        folder: str = "",
        uids: Collection[int] = (),
    ) -> Fault | None:
        """Return the first armed fault that fits and use up one of its times."""
        for fault in self._armed:
            if fault.name != name or not _fits(fault, command, folder, uids):
                continue
            if fault.mailbox not in {None, mailbox.lower()}:
                continue
            if fault.client_id not in {None, client_id.lower()}:
                continue
            self.fired[name] += 1
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._armed.remove(fault)
            return fault
        return None

    def active(self, name: str, *, mailbox: str = "") -> list[Fault]:
        """Return the armed faults of this name for a mailbox, using none of them up."""
        address = mailbox.lower()
        return [f for f in self._armed if f.name == name and f.mailbox in {None, address}]

    @staticmethod
    async def hold(fault: Fault) -> None:
        """Wait for the fault's ``seconds``; without a number until cancelled."""
        if fault["seconds"] is None:
            await asyncio.Event().wait()
        await asyncio.sleep(fault["seconds"])


def _fits(fault: Fault, command: str, folder: str, uids: Collection[int]) -> bool:
    wanted = fault["command"]
    if wanted is not None and wanted.upper() not in {command, command.removeprefix("UID ")}:
        return False
    if fault["folder"] is not None and fault["folder"].lower() != folder.lower():
        return False
    uid = fault.options.get("uid")
    return uid is None or uid in uids
