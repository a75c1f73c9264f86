"""What an attempt, or giving up, means for an outgoing mail; and who is told of it.

It ends by its recipients, not by the word of whoever tried: nobody open and somebody has it is
sent, nobody has it is failed. A mail of which nobody knows whether the server has it is never
given up and never simply tried again: it is held for a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import (
    Dead,
    Decision,
    DeliveryState,
    Done,
    Dropped,
    Held,
    Notice,
    Outcome,
    Recipient,
    Rejected,
    Resolution,
    Retry,
    derived_id,
)
from mailbridge.store import enqueue
from mailbridge.store.driver import Many, among
from mailbridge.store.enqueue import Listeners
from mailbridge.store.scan import storable
from mailbridge.store.sends_lookup import recipients_of
from mailbridge.store.tables import deliveries, moment, sends

SENT: Final = "send.sent"
FAILED: Final = "send.failed"
HELD: Final = "send.held"
#: the events that an outcome of a mail may bring about
KINDS: Final = (SENT, FAILED, HELD)

_STANDING: Final = (
    sa.select(
        deliveries.c.pk.label("number"),
        deliveries.c.attempts,
        deliveries.c.first_due_at,
        *(sends.c[name] for name in ("pk", "id", "mailbox", "sender", "message_id")),
    )
    .join_from(deliveries, sends, deliveries.c.send == sends.c.pk)
    .where(among(deliveries.c.pk))
)
_ENDED: Final = Many(
    sends.update()
    .where(sends.c.pk == sa.bindparam("one"))
    .values(
        in_doubt_at=sa.null(),
        ended_at=sa.bindparam("when"),
        reply=sa.func.coalesce(sa.bindparam("said", type_=sa.Text), sends.c.reply),
    ),
    *("when", "said", "one"),
)
_HOLD: Final = (
    deliveries.update()
    .where(among(deliveries.c.pk))
    .values(
        state=sa.bindparam("becomes"),
        resolved_at=sa.bindparam("when"),
        last_reason=sa.bindparam("why"),
        lease_until=sa.null(),
        owner=sa.null(),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a mail stands, as far as its end is concerned. ``number`` is its delivery's."""

    number: int
    send: int
    id: str
    mailbox: str
    sender: str
    message_id: str
    #: whether the server may have it for one of those who are open
    in_doubt: bool
    attempts: int
    first_due_at: int
    recipients: tuple[Recipient, ...]

    def some(self, *states: str) -> list[Recipient]:
        """Return the recipients in one of these states."""
        return [one for one in self.recipients if one.state in states]


def decided(
    connection: sa.Connection, resolutions: Sequence[Resolution], now: int
) -> list[Resolution]:
    """Return what the attempts at mails really came to, written as far as it concerns the mails.

    The deliveries themselves are written by whoever asks. Others than mails are returned as
    they are. Those whose ``listeners`` hear of it are told.
    """
    mails = {one.delivery.id: one for one in resolutions if one.delivery.send is not None}
    if not mails:
        return list(resolutions)
    found = _standing(connection, list(mails))
    ends: dict[int, Decision] = {}
    for number, standing in found.items():
        one = mails[number]
        ends[number] = verdict(standing, one.decision, one.outcome)
        tries = standing.attempts + (one.outcome is not None)
        _end(connection, replace(standing, attempts=tries), ends[number], _heard(one), now)
    return [replace(one, decision=ends.get(one.delivery.id, one.decision)) for one in resolutions]


def _heard(resolution: Resolution) -> Listeners:
    return lambda _mailbox, kind: resolution.listeners.get(kind, ())


def verdict(standing: Standing, wanted: Decision, outcome: Outcome | None = None) -> Decision:
    """Decide by the recipients what becomes of a mail for which somebody has ``wanted`` this."""
    if not standing.some("open", "doubt"):
        if standing.some("taken"):
            return Done()
        refused = standing.some("refused")
        return Dead(reason=refused[0].reply if refused else "it has no recipient")
    if isinstance(wanted, Done):
        # To send again could double it, to call it sent could lose it.
        return Held(reason="it was sent, but not said whether to all of its recipients")
    if standing.in_doubt:
        # Whoever does not want a mail that the server may have wants a person to look at it.
        if isinstance(outcome, Rejected):
            return Held(reason=outcome.reason)
        if isinstance(wanted, Dead):
            return Held(reason=f"nobody knows whether the server has it; {wanted.reason}")
    return wanted


def bury(
    connection: sa.Connection, ids: list[int], reason: str, now: int, listeners: Listeners | None
) -> list[Standing]:
    """Give up the mails of these deliveries without an attempt; returns those that failed.

    A mail that is in doubt is held instead.
    """
    failed = []
    for number, standing in _standing(connection, ids).items():
        end = verdict(standing, Dead(reason=reason))
        held = isinstance(end, Held)
        states = {Done: DeliveryState.DELIVERED, Held: DeliveryState.HELD}
        connection.execute(
            _HOLD,
            {
                "ids": [number],
                "becomes": states.get(type(end), DeliveryState.DEAD).value,
                "when": None if held else now,
                "why": None if isinstance(end, Done) else storable(_reason(end)),
            },
        )
        _end(connection, standing, end, listeners, now)
        if isinstance(end, Dead):
            failed.append(standing)
    return failed


def _standing(connection: sa.Connection, ids: list[int]) -> dict[int, Standing]:
    rows = connection.execute(_STANDING, {"ids": ids}).all()
    those = recipients_of(connection, [row.pk for row in rows])
    return {
        row.number: Standing(
            number=row.number,
            send=row.pk,
            id=row.id,
            mailbox=row.mailbox,
            sender=row.sender,
            message_id=row.message_id,
            in_doubt=any(one.state == "doubt" for one in those[row.pk]),
            attempts=row.attempts,
            first_due_at=row.first_due_at,
            recipients=tuple(those[row.pk]),
        )
        for row in sorted(rows, key=lambda row: row.number)
    }


def _end(
    connection: sa.Connection,
    standing: Standing,
    end: Decision,
    listeners: Listeners | None,
    now: int,
) -> None:
    if isinstance(end, Retry | Dropped):
        return
    if not isinstance(end, Held):
        said = next((one.reply for one in reversed(standing.recipients) if one.reply), None)
        _ENDED.run(connection, [(now, said, standing.send)])
    if listeners is not None:
        notice = _notice(standing, end, now)
        enqueue.notify(connection, [notice], listeners(standing.mailbox, notice.type), now)


def _notice(standing: Standing, end: Decision, now: int) -> Notice:
    at = moment(now)
    data: dict[str, Any] = {
        **said_of(standing.id, standing.sender, standing.message_id, standing.recipients),
        "attempts": standing.attempts,
    }
    if isinstance(end, Done):
        taken = standing.some("taken")[-1]
        kind, data = SENT, data | {"reply": taken.reply, "sent_at": stamp(now)}
    else:
        kind = HELD if isinstance(end, Held) else FAILED
        refused = next((one for one in standing.recipients if one.state != "taken"), None)
        code = "send.in_doubt" if kind == HELD else (refused.code if refused else "")
        data |= {"reason": _reason(end) or "no reason was given", "code": code or "send.given_up"}
        data["reply"] = refused.reply if refused else ""
    # A retry by hand begins anew: what fails a second time is told a second time.
    parts = [standing.id, standing.first_due_at]
    return Notice(id=derived_id(kind, parts), type=kind, mailbox=standing.mailbox, at=at, data=data)


def said_of(name: str, sender: str, message_id: str, those: Sequence[Recipient]) -> dict[str, Any]:
    """Return what every event says of a mail: nothing of its content."""
    return {
        "send": name,
        "message_id": f"<{message_id}>",
        "from": sender,
        "recipients": [
            {"address": one.address, "state": one.state, "code": one.code, "reply": one.reply}
            for one in those
        ],
    }


def stamp(at: int) -> str:
    """Return a moment as events say it."""
    return moment(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _reason(end: Decision) -> str:
    return end.reason if isinstance(end, Dead | Held | Dropped) else ""
