"""Test mails: put down before they are sent, recognised when they arrive, judged, remembered.

::

    expect ──▶ open ──the mail is accepted──▶ seen ──▶ passed
                 └──────── in time? no ────────┴─────▶ missed ──▶ late
                                                 void: nobody waits for it any more

A mail is recognised in the transaction that accepts it: by its nonce, its Message-ID and the
mailbox, and once. So a crash leaves it accepted as the test that it is, or not accepted at all,
and a copy finds its row taken and is a mail like any other, unless we have sent it again ourselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
import sqlalchemy as sa

from mailbridge.event import stamp
from mailbridge.model import DeliveryState, Notice, RawMessage
from mailbridge.store import enqueue, order, scan
from mailbridge.store.access import Access
from mailbridge.store.base import Expected
from mailbridge.store.dialect import chunks, insert
from mailbridge.store.enqueue import PING, Event
from mailbridge.store.outages import Run
from mailbridge.store.rows import Answer, ProbeOutcome, ProbeRow
from mailbridge.store.tables import deliveries, moment, moment_or_none, probes, sends

#: how long a test mail is waited for; later it is a mail like any other
KEPT: Final = timedelta(days=7)
#: how long a webhook that takes one event after the other may be held up by a test
IN_THE_WAY: Final = timedelta(minutes=5)
#: what a person reads who looks at the event
_SAID: Final = "a test mail that mailbridge sent to this mailbox has arrived; nothing is to be done"
#: expected ones that are removed in one transaction
_STEP: Final = 1000


class Probes:
    """Implements ``ProbeStore``; ``Store.probes``."""

    def __init__(self, access: Access, run: Run) -> None:
        self._access = access
        self._run = run

    async def expect(self, test: Expected) -> bool:
        """Put down a test mail before it is sent; see ``ProbeStore``."""
        return await self._run(lambda connection, now: _expect(connection, test, now), again=True)

    async def probe(self, mailbox: str, nonce: str) -> ProbeRow | None:
        """Return a test mail of a mailbox and how far it has come, ``None`` if there is none."""
        found = probes.select().where(probes.c.nonce == nonce, probes.c.mailbox == mailbox)
        return next(iter(await self._read(found)), None)

    async def waiting(self, missed: Sequence[str] = ()) -> Sequence[ProbeRow]:
        """Return the scheduled ones that are not judged, and those of these nonces."""
        # In the words of the partial index.
        still = sa.text("scheduled = 1 AND outcome IS NULL")
        found = list(await self._read(probes.select().where(still)))
        for some in chunks(list(missed)):
            found += await self._read(probes.select().where(probes.c.nonce.in_(some)))
        return found

    async def last(self, *outcomes: ProbeOutcome) -> Sequence[ProbeRow]:
        """Return the last scheduled one of each mailbox that ended as one of these."""
        newest = (
            sa.select(probes.c.mailbox, sa.func.max(probes.c.begun_at).label("begun_at"))
            .where(probes.c.scheduled == 1, probes.c.outcome.in_(outcomes))
            .group_by(probes.c.mailbox)
            .subquery()
        )
        same = (probes.c.mailbox == newest.c.mailbox, probes.c.begun_at == newest.c.begun_at)
        wanted = probes.select().join(newest, sa.and_(*same))
        return await self._read(
            wanted.where(probes.c.scheduled == 1, probes.c.outcome.in_(outcomes))
        )

    async def end(
        self,
        nonce: str,
        outcome: ProbeOutcome,
        *,
        notice: Notice | None = None,
        sinks: Sequence[str] = (),
        found: Mapping[str, str] | None = None,
    ) -> bool:
        """Judge a test mail, and tell of it, in one commit; see ``ProbeStore``."""
        kept = {} if found is None else {"found": scan.storable(orjson.dumps(dict(found)).decode())}

        def work(connection: sa.Connection, now: int) -> bool:
            before = (
                probes.c.outcome == "missed" if outcome == "late" else probes.c.outcome.is_(None)
            )
            changed = connection.execute(
                probes.update()
                .where(probes.c.nonce == nonce, before)
                .values({"outcome": outcome, "ended_at": now} | kept)
            )
            if changed.rowcount == 0:
                return False
            if notice is not None:
                enqueue.notify(connection, [notice], sinks, now)
            return True

        return await self._run(work)

    async def _read(self, statement: sa.Select[Any]) -> Sequence[ProbeRow]:
        return await self._access.reading().run(lambda connection: _rows(connection, statement))


def _expect(connection: sa.Connection, test: Expected, now: int) -> bool:
    old = (
        sa.select(probes.c.nonce)
        .where(probes.c.mailbox == test.mailbox, probes.c.begun_at < now - micros_of(KEPT))
        .limit(_STEP)
    )
    connection.execute(probes.delete().where(probes.c.nonce.in_(old)))
    row = {
        "nonce": test.nonce,
        "mailbox": test.mailbox,
        "message_id": test.message_id,
        "webhooks": orjson.dumps(list(test.webhooks)).decode(),
        "scheduled": int(test.scheduled),
        "begun_at": now,
        "due_at": now + micros_of(test.within),
        "copies": 0,
    }
    # Of the hosts that share a database, one begins the probe that all of them have scheduled.
    new = insert(connection.dialect.name, probes).values(row).on_conflict_do_nothing()
    return connection.execute(new.returning(probes.c.nonce)).first() is not None


def micros_of(span: timedelta) -> int:
    """Return a duration as the tables count."""
    return span // timedelta(microseconds=1)


def recognise(
    connection: sa.Connection,
    mailbox: str,
    marks: Mapping[str, str],
    new: Mapping[str, RawMessage],
    now: int,
) -> dict[str, tuple[str, ...]]:
    """Return which of the ``new`` messages are test mails, each with whom it is told to.

    ``marks`` are the nonces by webhook-id. From here on the row is taken.
    """
    found: dict[str, tuple[str, ...]] = {}
    for key, nonce in marks.items():
        message_id = scan.message_id(new[key].raw) if key in new else None
        if message_id is None:
            continue
        taken = connection.execute(
            probes.update()
            .where(
                probes.c.nonce == nonce,
                probes.c.mailbox == mailbox,
                probes.c.message_id == message_id,
                probes.c.seen_at.is_(None),
                probes.c.begun_at > now - micros_of(KEPT),
            )
            .values(seen_at=now, message=key, copies=1)
            .returning(probes.c.webhooks)
        ).scalar_one_or_none()
        if taken is not None:
            found[key] = tuple(orjson.loads(taken))
        elif _ours_again(connection, mailbox, nonce, message_id):
            found[key] = ()
    return found


def _ours_again(connection: sa.Connection, mailbox: str, nonce: str, message_id: str) -> bool:
    """Tell whether we may have sent a test mail that has arrived once more.

    When a server's answer to the final dot is lost, the mail is sent again, and may come twice:
    nobody is to be woken by that. It has to be a probe's, tried more often than it has arrived.
    """
    known = sa.exists().where(
        probes.c.nonce == nonce,
        probes.c.mailbox == mailbox,
        probes.c.message_id == message_id,
        probes.c.copies < _tried(mailbox, message_id).scalar_subquery(),
    )
    copied = probes.update().where(probes.c.nonce == nonce, known)
    return bool(connection.execute(copied.values(copies=probes.c.copies + 1)).rowcount)


def _tried(mailbox: str, message_id: str) -> sa.Select[int]:
    """Return how often a mail was given to a server, the present time included."""
    present = sa.case((deliveries.c.state == DeliveryState.CLAIMED.value, 1), else_=0)
    bare = message_id.removeprefix("<").removesuffix(">")
    return (
        sa.select(sa.func.coalesce(sa.func.max(deliveries.c.attempts + present), 0))
        .join_from(sends, deliveries, deliveries.c.send == sends.c.pk)
        .where(sends.c.message_id == bare, sends.c.mailbox == mailbox, sends.c.via == "probe")
    )


def tell(
    connection: sa.Connection,
    mailbox: str,
    tests: Mapping[str, Sequence[str]],
    arrived: Mapping[str, RawMessage],
    common: Mapping[str, Any],
) -> None:
    """Queue ``test.ping`` under the id of each test mail, for those whom it is told to.

    ``common`` has the ``address`` of the mailbox, and when they were ``accepted_at``.
    """
    now = common["accepted_at"]
    for key, sinks in tests.items():
        body = _ping(arrived[key], common["address"], moment(now))
        ping = Event(id=key, type=PING, body=orjson.dumps(body).decode(), created_at=now)
        for sink in sorted(sinks):
            event = ping
            if order.kept(connection, sink):
                event = replace(ping, expires_at=now + micros_of(IN_THE_WAY), otherwise="drop")
            enqueue.write_deliveries(connection, mailbox, sink, [event], now)


def _ping(message: RawMessage, address: str, at: datetime) -> dict[str, Any]:
    received = message.received_at
    return {
        "message": _SAID,
        "test": {
            "address": address,
            "folder": scan.storable(message.ref.folder),
            "source": message.ref.source(),
            "received_at": stamp(received) if received else None,
            "accepted_at": stamp(at),
        },
    }


def _rows(connection: sa.Connection, statement: sa.Select[Any]) -> list[ProbeRow]:
    rows = connection.execute(statement).all()
    answers: dict[str, list[Answer]] = {row.message: [] for row in rows if row.message}
    for ids in chunks(list(answers)):
        told = sa.select(deliveries).where(
            deliveries.c.message.is_(None), deliveries.c.event_id.in_(ids)
        )
        for one in connection.execute(told.order_by(deliveries.c.pk)):
            answers[one.event_id].append(_answer(one))
    return [_row(row, answers.get(row.message, [])) for row in rows]


def _answer(row: Any) -> Answer:
    delivered = row.state == DeliveryState.DELIVERED.value
    return Answer(
        webhook=row.sink,
        delivered_at=moment_or_none(row.resolved_at) if delivered else None,
        state=row.state,
        attempts=row.attempts,
        reason=row.last_reason or "",
    )


def _row(row: Any, answers: Sequence[Answer]) -> ProbeRow:
    return ProbeRow(
        nonce=row.nonce,
        mailbox=row.mailbox,
        message_id=row.message_id,
        webhooks=tuple(orjson.loads(row.webhooks)),
        scheduled=bool(row.scheduled),
        begun_at=moment(row.begun_at),
        due_at=moment(row.due_at),
        seen_at=moment_or_none(row.seen_at),
        message=row.message,
        outcome=row.outcome,
        ended_at=moment_or_none(row.ended_at),
        found=orjson.loads(row.found) if row.found else {},
        answers=tuple(answers),
    )
