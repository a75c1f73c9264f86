"""The seam between the loops and the store. Every method is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from mailbridge.model import (
    Accepted,
    Batch,
    Checkpoint,
    Delivery,
    Failing,
    Fingerprint,
    Gap,
    Grant,
    MessageRef,
    Notice,
    Outgoing,
    Recipient,
    Resolution,
)
from mailbridge.store.rows import ProbeOutcome, ProbeRow, SendRow


class IntakeStore(Protocol):
    """A ``Protocol``: what the intake of one folder needs."""

    async def checkpoint(self, mailbox: str, folder: str) -> Checkpoint | None:
        """Return how far the folder was read, ``None`` before the first look."""

    async def gaps_due(self, mailbox: str, folder: str, now: datetime) -> Sequence[Gap]:
        """Return the gaps whose next try is due."""

    async def fingerprints(
        self, mailbox: str, folder: str, uidvalidity: int
    ) -> Sequence[Fingerprint]:
        """Return what the stored messages of one epoch are recognised by."""

    async def unknown(
        self, mailbox: str, folder: str, uidvalidity: int, uids: Sequence[int]
    ) -> Sequence[int]:
        """Return those of ``uids`` that are neither stored, nor remembered, nor in the gap list."""

    async def uidls(self, mailbox: str, folder: str) -> Mapping[str, bool]:
        """Return every POP3 UIDL that was dealt with: stored, in the gap list, or there before.

        The value says whether it was gone when a batch last told. Those are remembered for a
        while, and are there again once a batch names them in ``before``.
        """

    async def accept(self, batch: Batch, *, address: str, settles: bool) -> Accepted:
        """Make a batch durable: messages, raw bytes, deliveries, gaps and checkpoint in one commit.

        When this returns, a crash or a power cut no longer loses anything of the batch. Messages
        whose place is already known are skipped. ``settles`` says whether the server is to be
        told afterwards. A gap whose message is in ``messages`` is closed.
        Raises ``StoreFull`` (nothing stored), or ``TemporaryError``.
        """

    async def unsettled(self, mailbox: str, folder: str, limit: int) -> Sequence[MessageRef]:
        """Return accepted messages that the server has not been told about, oldest first."""

    async def settled(self, refs: Sequence[MessageRef]) -> None:
        """Remember that the server has been told."""

    async def notify(self, notices: Sequence[Notice], sinks: Sequence[str]) -> None:
        """Queue events that are not mails for these sinks; a known ``Notice.id`` is ignored."""


class DispatchStore(Protocol):
    """A ``Protocol``: what the dispatcher of one sink needs.

    ``ordered`` is for a sink that keeps the order (``OutageStore.keep_order``): then only the
    oldest open delivery of each mailbox counts, and none while another of its mailbox is in hand.
    """

    @property
    def outages(self) -> OutageStore:
        """What outlasts an outage of a sink."""

    async def claim(  # noqa: PLR0913 - all but one by keyword
        self,
        sink: str,
        *,
        limit: int,
        max_bytes: int,
        lease: float,
        alone: bool = False,
        ordered: bool = False,
        probe: int | None = None,
    ) -> Sequence[Delivery]:
        """Take deliveries that are due, oldest first, for ``lease`` seconds, with their bytes.

        At least one is returned if any is due, however large; more only while the sum of raw
        bytes stays within ``max_bytes``. The claim is committed before this returns.
        Deliveries that were in hand at three deaths of the daemon in a row are passed over,
        unless ``alone``: then only such suspects are returned, few at a time, and by
        themselves once a few more deaths have not cleared them. A caller that asks for them
        has nothing else in hand.
        With a ``probe`` one is returned, due or not, a suspect too: the oldest with a higher
        number than that.
        """

    async def renew(self, deliveries: Sequence[Delivery], *, lease: float) -> None:
        """Prolong the leases of claims still in hand (heartbeat)."""

    async def resolve(self, resolutions: Sequence[Resolution]) -> Sequence[Resolution]:
        """Write what attempts came to, in one commit; returns those whose claim still held.

        Conditional on the fence: a dispatcher that outlived its lease changes nothing. Dead
        letters and held deliveries are told of in the same commit.
        """

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give back claims that were not attempted; they are due as before."""

    async def next_due(self, sink: str, *, ordered: bool = False) -> datetime | None:
        """Return when the next queued delivery of the sink is due, ``None`` when none waits."""


class OutageStore(Protocol):
    """A ``Protocol``: what outlasts an outage of a sink."""

    async def keep_order(self, sink: str, *, strict: bool) -> None:
        """Let a sink keep the order of each mailbox from now on, or no longer.

        Returns when everything that is open is marked; to be called before the first claim.
        """

    async def failing(self, sink: str) -> Failing | None:
        """Return the outage of a sink that was told of and is not over."""

    async def begin(
        self, sink: str, failing: Failing, notice: Notice, sinks: Sequence[str]
    ) -> None:
        """Remember that a sink fails, and tell ``sinks``; nothing, when that is known."""

    async def end(self, sink: str, notice: Notice, sinks: Sequence[str]) -> None:
        """Remember that a sink answers again, and tell ``sinks`` if it was known to fail."""

    async def hasten(self, sink: str) -> bool:
        """Make what waits for its retry due at once; a bounded step. Tells whether more waits.

        A mail that was blamed for the answer itself (400, 422) keeps its time.
        """

    async def give_up(
        self,
        sink: str,
        place: Place | None,
        *,
        before: datetime,
        reason: str,
        listeners: Callable[[str, str], Sequence[str]],
    ) -> tuple[Place | None, Sequence[Letter]]:
        """Make dead letters, and tell ``listeners``, of what began until ``before`` and waits.

        They are asked for by mailbox and event type. A mail to be sent that is in doubt is held.
        A bounded step, that begins with ``place`` ``None``. Returns where to go on, ``None``
        when all was looked at, and the dead letters.
        """


class FallbackStore(Protocol):
    """A ``Protocol``: what another sink gets too."""

    async def fall_back(self, to: Mapping[str, Fallback]) -> Sequence[FellBack]:
        """Give deliveries whose time has come to another sink too; some of them, if many.

        Each only once, whatever crashes, and however many hosts look. ``to`` is by sink; one
        that has no fallback any more keeps its deliveries to itself.
        """

    async def next_fall_back(self) -> datetime | None:
        """Return when the next delivery falls back, ``None`` when none is going to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a round over what waits has come: the last delivery that was looked at."""

    due: int = -(2**62)
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter, for the log."""

    event_id: str
    mailbox: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """What another sink gets too: ``to``, ``after`` seconds without a 2xx."""

    to: str
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack:
    """A delivery that another sink gets too; not ``made`` when that one had it already."""

    event_id: str
    mailbox: str
    sink: str
    to: str
    made: bool


class GrantStore(Protocol):
    """A ``Protocol``: where what people consented to is kept, encrypted at rest."""

    async def grant(self, app: str, account: str) -> Grant | None:
        """Return the grant of an account, ``None`` when there is none."""

    async def save_grant(self, grant: Grant) -> None:
        """Keep a grant in place of the former one; when this returns, a crash loses nothing."""

    async def forget_grant(self, app: str, account: str) -> bool:
        """Remove a grant; tells whether there was one."""


class SendStore(Protocol):
    """A ``Protocol``: the mails that are to be sent; ``Store.sends``.

    Such a mail is a delivery of the sink ``send:NAME``: claimed, resolved, retried and dropped
    like any other. What is special about it is here.
    """

    async def accept(self, mail: Outgoing) -> AcceptedSend:
        """Make a mail durable; when this returns, a crash or a power cut no longer loses it.

        Those who call at the same time share a commit. A client's key that is known, with the
        same digest, gives the same mail again and writes nothing. Raises ``PermanentError`` with
        the code ``send.key_conflict`` when the digest is another, ``StoreFull`` (nothing stored),
        or ``TemporaryError``.
        """

    async def in_doubt(self, delivery: Delivery, recipients: Sequence[str]) -> None:
        """Note that the final dot is about to be written; it may be, once this has returned.

        Of the open recipients these become ``doubt``, and no others are: a mail goes out in
        several submissions, and what is found out later about this one holds for these alone.

        Raises ``TemporaryError`` with the code ``send.claim_lost`` when the claim is no longer
        ours: then nobody may write the dot.
        """

    async def answered(self, delivery: Delivery, recipients: Sequence[Recipient]) -> None:
        """Note what the server said of these recipients; the mail is in doubt no more.

        Whoever is still ``doubt``, and is not named here, is ``open`` again.
        Who has the mail stays ``taken``, whatever is said later. Raises as ``in_doubt``; that
        somebody has the mail is noted all the same, for it is true whoever says so.
        """

    async def spent(self, mailbox: str) -> Sequence[tuple[datetime, int]]:
        """Return what a mailbox has submitted in the last 24 hours, oldest first.

        Each is when, and to how many recipients; those in doubt count as well.
        """

    async def status(self, name: str) -> SendRow | None:
        """Return what became of a mail by its ``out_`` id, ``None`` when there is none."""

    async def find(self, message_id: str) -> Sequence[SendRow]:
        """Return the mails with this Message-ID, bare or in brackets, the newest first."""

    async def bounced(self, bounce: Bounce, listeners: Sequence[str]) -> str | None:
        """Note a bounce, and tell ``listeners`` of it as ``send.failed``: once for a recipient.

        Returns the id of the mail, ``None`` when it is none of ours.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedSend:
    """A mail that will be sent; ``known`` when the client's key stood for it already."""

    id: str
    known: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounce:
    """A report that a mail did not arrive: of which, for whom, what it says, and when it came."""

    message_id: str
    recipient: str
    report: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A test mail that is about to be sent; ``webhooks`` are told of its arrival.

    ``message_id`` has its brackets. ``within`` is how long it may take.
    """

    mailbox: str
    nonce: str
    message_id: str
    webhooks: tuple[str, ...]
    scheduled: bool
    within: timedelta


class ProbeStore(Protocol):
    """A ``Protocol``: the test mails; ``Store.probes``. They are recognised by ``accept``."""

    async def expect(self, test: Expected) -> bool:
        """Put down a test mail; has to be over before it is sent.

        ``False``, with nothing put down, when it is scheduled and another of its mailbox is open.
        """

    async def probe(self, mailbox: str, nonce: str) -> ProbeRow | None:
        """Return a test mail and how far it has come, ``None`` when there is none."""

    async def waiting(self, missed: Sequence[str] = ()) -> Sequence[ProbeRow]:
        """Return the scheduled ones that are not judged, and those of these nonces."""

    async def last(self, *outcomes: ProbeOutcome) -> Sequence[ProbeRow]:
        """Return, of each mailbox, the last scheduled one that ended as one of these."""

    async def end(
        self,
        nonce: str,
        outcome: ProbeOutcome,
        *,
        notice: Notice | None = None,
        sinks: Sequence[str] = (),
        found: Mapping[str, str] | None = None,
    ) -> bool:
        """Judge a test mail and tell ``sinks``, in one commit; ``False`` if somebody has.

        An open one becomes anything but ``late``, which only a missed one becomes. ``found`` is
        kept with it.
        """
