"""A test mail on its way: announced, sent, seen in the mailbox, delivered to the webhooks.

::

    announce ──► the daemon (or the store) knows the mail for a test when it sees it
    send     ──► SMTP, from the mailbox
    arrival  ──► IMAP or POP3, or the daemon was faster
    delivery ──► with a daemon: what it says of its webhooks, until all have taken a test.ping
                 without one: a test.ping to each webhook that can be told of a test

An alarm server has no word for a test, and a template's receiver may take anything for an alarm:
those are left out, and that is said.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailbridge.config import Config, Mailbox
from mailbridge.config.probe_rules import able
from mailbridge.diagnose.arrival import PATIENCE, until
from mailbridge.diagnose.finding import Fault, LeftOut, Told
from mailbridge.diagnose.mail import Probe
from mailbridge.diagnose.smtp import Letter, SmtpProbe
from mailbridge.diagnose.webhooks import webhooks_of
from mailbridge.diagnose.words import told
from mailbridge.model import AccessToken, Delivered, Outcome
from mailbridge.sign_in.base import SignIn

#: how far the daemon has come with the mail, as ``expecting.state_of`` tells it
State = Callable[[], Awaitable[Mapping[str, Any] | None]]
#: sends a webhook a test.ping that carries a Message-ID
Ping = Callable[[str, str], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A test mail, and who can tell what became of it. ``state`` is there where a daemon runs."""

    letter: Letter
    announce: Callable[[], Awaitable[object]]
    state: State | None = None
    ping: Ping | None = None
    #: seconds for the arrival, and again for the delivery
    patience: float = PATIENCE


class RoundTrip:
    """The steps ``send, arrival, delivery`` of one mailbox."""

    def __init__(self, trip: Trip, *, config: Config, name: str, probe: Probe) -> None:
        self._trip = trip
        self._config = config
        self._name = name
        self._probe = probe
        self._began = 0.0
        #: from before the mail was sent until the last webhook had it; ``None`` before
        self.seconds: float | None = None

    @property
    def _mailbox(self) -> Mailbox:
        return self._config.mailboxes[self._name]

    @property
    def to_itself(self) -> bool:
        """Whether the mail goes to the mailbox that sends it."""
        return self._trip.letter.to.casefold() == self._mailbox.address.casefold()

    async def no_sending(self) -> Told:
        """Take the place of ``send`` where the mailbox cannot."""
        raise Fault(told("send.no_section"), code="send.not_configured")

    async def send(self, smtp: SmtpProbe, token: AccessToken, source: SignIn) -> Told:
        """Announce the mail, and submit it."""
        self._began = time.monotonic()
        await self._trip.announce()
        return await smtp.send(self._trip.letter, token, source)

    async def arrival(self, source: SignIn) -> Told:
        """Wait until the mail is seen."""
        if self._mailbox.fetch.protocol == "none":
            raise LeftOut(told("arrival.not_fetched"))

        async def look() -> Told | None:
            # The daemon may have fetched it, and moved or deleted it, before anybody looks.
            state = await self._trip.state() if self._trip.state is not None else None
            if state and state["seen_at"]:
                return told("arrival.daemon", id=state["message"])
            return await self._probe.arrived(await source.token(), self._trip.letter.message_id)

        seen = await until(look, patience=self._trip.patience)
        if seen is None:
            said = told("arrival.late", seconds=self._trip.patience)
            raise Fault(said, code="arrival.late")
        return seen

    async def delivery(self) -> Told:
        """Wait until the webhooks have been told, or tell them."""
        said = await (self._by_daemon() if self._trip.state is not None else self._by_pings())
        self.seconds = time.monotonic() - self._began
        return said

    async def _by_daemon(self) -> Told:
        assert self._trip.state is not None  # noqa: S101 - asked for only then
        ask = self._trip.state
        last: Mapping[str, Any] = {}

        async def look() -> Mapping[str, Any] | None:
            nonlocal last
            last = await ask() or last
            over = last.get("seen_at") and all(
                one["state"] not in _WAITING for one in last["webhooks"]
            )
            return last if over else None

        await until(look, patience=self._trip.patience)
        if not last.get("seen_at"):
            said = told("delivery.unseen", seconds=self._trip.patience)
            raise Fault(said, code="delivery.unseen")
        took = [one for one in last["webhooks"] if one["state"] == "delivered"]
        failed = [one for one in last["webhooks"] if one["state"] != "delivered"]
        lines = [told("delivery.daemon.took", webhook=one["webhook"]) for one in took]
        lines += self._left_out()
        if failed:
            lines = [self._waits(one) for one in failed] + lines
            raise Fault(told("as_said", said=lines), code="delivery.failed")
        if not took:
            raise LeftOut(_nothing_sent(lines))
        return told("delivery.daemon", webhooks=lines)

    def _waits(self, one: Mapping[str, Any]) -> Told:
        said = one["reason"] or one["state"]
        if one["state"] in _WAITING:
            seconds = self._trip.patience
            return told("delivery.waits", webhook=one["webhook"], seconds=seconds, said=said)
        return told("delivery.refused", webhook=one["webhook"], said=said)

    async def _by_pings(self) -> Told:
        assert self._trip.ping is not None  # noqa: S101 - who knows no daemon gives a way to ping
        took: list[Told] = []
        failed: list[Told] = []
        for name in self._told():
            outcome = await self._trip.ping(name, self._trip.letter.message_id)
            if isinstance(outcome, Delivered):
                took.append(told("delivery.ping", webhook=name, status=outcome.status))
            else:
                failed.append(told("delivery.refused", webhook=name, said=outcome.reason))
        if failed:
            lines = [*failed, *took, *self._left_out()]
            raise Fault(told("as_said", said=lines), code="delivery.failed")
        if not took:
            raise LeftOut(_nothing_sent(self._left_out()))
        return told("delivery.no_daemon", webhooks=[*took, *self._left_out()])

    def _told(self) -> Sequence[str]:
        """Return the webhooks of this mailbox that can be told of a test."""
        fit = able(self._config.webhooks)
        return [name for name in webhooks_of(self._config, self._name) if name in fit]

    def _left_out(self) -> list[Told]:
        hooks = self._config.webhooks
        fit = able(hooks)
        return [
            told("delivery.left_out", webhook=name, format=hooks[name].format)
            for name in webhooks_of(self._config, self._name)
            if name not in fit
        ]


#: states of a delivery that is not over
_WAITING = frozenset({"queued", "claimed", "deferred"})


def _nothing_sent(lines: Sequence[Told]) -> Told:
    if not lines:
        return told("delivery.no_webhook")
    return told("delivery.all_left_out", webhooks=list(lines))
