"""The intake's side: what comes in, in the transaction that makes it ours.

Every function works inside the transaction of its ``connection`` and commits nothing itself.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from mailbridge.model import (
    Accepted,
    Batch,
    Checkpoint,
    DeliveryState,
    Gap,
    MessageRef,
    Notice,
    RawMessage,
)
from mailbridge.store import drift, probes, routing, uidls
from mailbridge.store.dialect import chunks, insert, upsert, write_raw
from mailbridge.store.driver import Many, among
from mailbridge.store.enqueue import MAIL, Event, next_sequence, untold, write_deliveries
from mailbridge.store.scan import message_id, storable
from mailbridge.store.tables import (
    Kept,
    Settle,
    checkpoints,
    deliveries,
    gaps,
    messages,
    micros,
    moment,
    raw,
)

_KNOWN: Final = sa.select(messages.c.id).where(among(messages.c.id))
_NUMBERS: Final = sa.select(messages.c.id, messages.c.pk).where(among(messages.c.id))
_MESSAGES: Final = Many(
    messages.insert(),
    *("id", "mailbox", "folder", "protocol", "uidvalidity", "uid", "uidl", "address"),
    *("message_id", "received_at", "accepted_at", "size", "sha256", "settle", "routed", "kept"),
    "test",
)
_CLOSE_GAPS: Final = gaps.delete().where(among(gaps.c.id))
_NOW: Final = sa.bindparam("now", type_=sa.BigInteger)
# The rows are made inside the database: through the driver they would cost more than the rest.
_ROUTE: Final = deliveries.insert().from_select(
    [
        *("message", "event_id", "type", "sink", "mailbox", "state", "attempts", "rescues"),
        *("due_at", "first_due_at", "fence", "sequence", "replay", "created_at", "fall_back_at"),
        "ordered",
    ],
    sa.select(
        messages.c.pk,
        messages.c.id,
        sa.literal(MAIL, sa.Text),
        sa.bindparam("sink", type_=sa.Text),
        messages.c.mailbox,
        sa.literal(DeliveryState.QUEUED.value, sa.Text),
        sa.literal(0),
        sa.literal(0),
        _NOW,
        _NOW,
        sa.literal(0),
        sa.bindparam("first", type_=sa.BigInteger)
        + sa.func.row_number().over(order_by=messages.c.pk)
        - 1,
        sa.literal(0),
        _NOW,
        sa.bindparam("fall_back_at", type_=sa.BigInteger),
        sa.bindparam("ordered", type_=sa.SmallInteger),
    )
    .where(among(messages.c.pk))
    .order_by(messages.c.pk),
)


def _place(ref: MessageRef, key: str) -> dict[str, Any]:
    return {
        "id": key,
        "mailbox": ref.mailbox,
        "folder": storable(ref.folder),
        "protocol": ref.protocol,
        "uidvalidity": ref.uidvalidity,
        "uid": ref.uid,
        "uidl": storable(ref.uidl),
    }


def accept(
    connection: sa.Connection, batch: Batch, *, address: str, settles: bool, now: int
) -> Accepted:
    """Write a batch; see ``IntakeStore.accept``."""
    offered = {message.ref.message_id: message for message in batch.messages}
    renamed = {ref.message_id: (ref, former) for ref, former in batch.known}
    stored = _already(connection, [*offered, *renamed, *(gap.ref.message_id for gap in batch.gaps)])
    new = {key: message for key, message in offered.items() if key not in stored}
    tests = probes.recognise(connection, batch.mailbox, batch.marks, new, now)
    mails = {key: message for key, message in new.items() if key not in tests}
    common = {
        "address": address,
        "accepted_at": now,
        "settle": Settle.WANTED if settles else Settle.NOT_WANTED,
    }
    if mails:
        _take_in(connection, batch, mails, common)
    if tests:
        _take_in_tests(connection, batch.mailbox, tests, new, common)
    known = {key: value for key, value in renamed.items() if key not in stored and key not in new}
    if known:
        _write_known(connection, known, common)
    _close_gaps(connection, [*offered, *renamed])
    _write_gaps(connection, [gap for gap in batch.gaps if gap.ref.message_id not in stored])
    if batch.vanished:
        for ids in chunks([ref.message_id for ref in batch.vanished]):
            connection.execute(
                gaps.update().where(gaps.c.id.in_(ids), gaps.c.vanished_at.is_(None)),
                {"vanished_at": now},
            )
    uidls.write(connection, batch, now)
    _write_checkpoint(connection, batch.checkpoint, now=now, accepted=bool(mails))
    return Accepted(new=len(new), known=len(batch.messages) - len(new), tests=len(tests))


def _take_in_tests(
    connection: sa.Connection,
    mailbox: str,
    tests: Mapping[str, Sequence[str]],
    new: Mapping[str, RawMessage],
    common: dict[str, Any],
) -> None:
    """Write test mails of ours; no route is asked, and nobody gets them as mails."""
    arrived = {key: new[key] for key in tests}
    routed = {key: len(sinks) for key, sinks in tests.items()}
    _write_messages(connection, arrived, common | {"test": 1}, routed)
    _write_raw(connection, arrived)
    probes.tell(connection, mailbox, tests, arrived, common)


def _take_in(
    connection: sa.Connection, batch: Batch, new: dict[str, RawMessage], common: dict[str, Any]
) -> None:
    """Write new messages, and what becomes of them."""
    now = common["accepted_at"]
    if not batch.rulings:
        sinks = sorted(set(batch.sinks))
        _write_messages(connection, new, common, dict.fromkeys(new, len(sinks)))
        numbers = _write_raw(connection, new)
        for sink in sinks:
            _route(connection, list(numbers.values()), batch, sink, now)
        return
    plan = routing.plan(connection, batch, new, now)
    _write_messages(connection, new, common, {key: plan.deliveries(key) for key in new})
    numbers = _write_raw(connection, new)
    routing.write(connection, plan, numbers)
    _follow(connection, batch, plan, numbers, now)


def _already(connection: sa.Connection, ids: list[str]) -> set[str]:
    return set(connection.execute(_KNOWN, {"ids": ids}).scalars().all())


def _write_messages(
    connection: sa.Connection,
    new: dict[str, RawMessage],
    common: dict[str, Any],
    routed: Mapping[str, int],
) -> None:
    address, now, settle = common["address"], common["accepted_at"], common["settle"]
    rows = []
    for key, message in new.items():
        ref, content = message.ref, message.raw
        received_at = None if message.received_at is None else micros(message.received_at)
        place = (ref.mailbox, storable(ref.folder), ref.protocol)
        uids = (ref.uidvalidity, ref.uid, storable(ref.uidl))
        about = (message_id(content), received_at, now, len(content))
        digest = hashlib.sha256(content).hexdigest()
        kept = (settle, routed[key], Kept.RAW, common.get("test"))
        rows.append((key, *place, *uids, address, *about, digest, *kept))
    _MESSAGES.run(connection, rows)


def _write_raw(connection: sa.Connection, new: dict[str, RawMessage]) -> dict[str, int]:
    """Write the bytes of messages; returns their numbers, in the order of the log."""
    found = connection.execute(_NUMBERS, {"ids": list(new)}).all()
    numbers: dict[str, int] = dict(sorted(found, key=lambda row: row[1]))
    write_raw(connection, raw, [(number, new[key].raw) for key, number in numbers.items()])
    return numbers


def _route(connection: sa.Connection, new: list[int], batch: Batch, sink: str, now: int) -> None:
    """Queue new messages for a sink, in the order in which they were read."""
    first, ordered = next_sequence(connection, batch.mailbox, sink, len(new))
    place = {"ids": new, "sink": sink, "first": first, "now": now, "ordered": ordered}
    connection.execute(_ROUTE, place | {"fall_back_at": _fall_back_at(batch, sink, now)})


def _fall_back_at(batch: Batch, sink: str, now: int) -> int | None:
    after = batch.fallbacks.get(sink)
    return None if after is None else now + round(after * 1_000_000)


def _follow(
    connection: sa.Connection,
    batch: Batch,
    plan: routing.Plan,
    numbers: Mapping[str, int],
    now: int,
) -> None:
    """Make the deliveries that routes want, in the order in which the mails were read."""
    events: dict[str, list[Event]] = defaultdict(list)
    notices: list[Notice] = []
    for key, number in numbers.items():
        for sink, word in plan.sinks[key].items():
            if routing.dropped(word):
                continue
            event = _mail(key, number, word, _fall_back_at(batch, sink, now), now)
            events[sink].append(event)
            if event.state == DeliveryState.HELD:
                notices.append(_held(batch.mailbox, sink, event))
    heard: dict[str, list[Event]] = defaultdict(list)
    for kind, told in ((routing.HELD, notices), (drift.DRIFT, plan.drifted)):
        for sink, more in untold(connection, told, batch.listeners.get(kind, ())).items():
            heard[sink] += more
    # Every host counts on these sequences in the same order, so none waits in a circle.
    for sink in sorted({*events, *heard}):
        write_deliveries(connection, batch.mailbox, sink, [*events[sink], *heard[sink]], now)


def _mail(
    key: str, number: int, word: routing.Word | None, fall_back_at: int | None, now: int
) -> Event:
    # Held mail has it too: its clock starts anew when a person lets it go.
    plainly = Event(id=key, type=MAIL, message=number, created_at=now, fall_back_at=fall_back_at)
    if word is None:
        return plainly
    if word.verdict == "hold":
        held = DeliveryState.HELD.value
        return replace(plainly, state=held, reason=word.reason, route=word.step.route)
    return replace(
        plainly,
        route=word.step.route,
        expires_at=word.expires_at,
        otherwise=None if word.expires_at is None else word.otherwise,
    )


def _held(mailbox: str, sink: str, event: Event) -> Notice:
    return routing.held_notice(
        message=event.id,
        webhook=sink,
        mailbox=mailbox,
        route=event.route,
        reason=event.reason or "",
        at=moment(event.created_at),
    )


def _write_known(
    connection: sa.Connection, known: dict[str, tuple[MessageRef, str]], common: dict[str, Any]
) -> None:
    """Remember new places of stored messages, with what the next change recognises them by."""
    former: dict[str, Any] = {}
    for ids in chunks([name for _, name in known.values()]):
        found = connection.execute(messages.select().where(messages.c.id.in_(ids)))
        former.update({row.id: row for row in found})
    rows = []
    for key, (ref, name) in known.items():
        row = former.get(name)
        rows.append(
            common
            | _place(ref, key)
            | {
                "message_id": row.message_id if row else None,
                "received_at": row.received_at if row else None,
                "size": row.size if row else 0,
                "sha256": row.sha256 if row else "",
                # One step to the message itself, however often the folder was renumbered.
                "known_as": (row.known_as if row else None) or name,
                "test": row.test if row else None,
                "routed": 0,
                "kept": Kept.LOG,
            }
        )
    connection.execute(messages.insert(), rows)


def _close_gaps(connection: sa.Connection, ids: list[str]) -> None:
    if ids:
        connection.execute(_CLOSE_GAPS, {"ids": ids})


@cache
def _upsert_gap(dialect: str) -> Any:
    return upsert(dialect, gaps, {"first_at": gaps.c.first_at})


@cache
def _upsert_checkpoint(dialect: str) -> Any:
    statement = insert(dialect, checkpoints)
    before = sa.func.coalesce(statement.excluded["accepted_at"], checkpoints.c.accepted_at)
    return upsert(dialect, checkpoints, {"accepted_at": before})


def _write_gaps(connection: sa.Connection, found: Sequence[Gap]) -> None:
    if not found:
        return
    statement = _upsert_gap(connection.dialect.name)
    rows = [
        _place(gap.ref, gap.ref.message_id)
        | {
            "reason": storable(gap.reason),
            "tries": gap.tries,
            "first_at": micros(gap.first_at),
            "due_at": micros(gap.due_at),
            "vanished_at": None,
        }
        for gap in found
    ]
    connection.execute(statement, rows)


def _write_checkpoint(
    connection: sa.Connection, new: Checkpoint, *, now: int, accepted: bool
) -> None:
    connection.execute(
        _upsert_checkpoint(connection.dialect.name),
        {
            "mailbox": new.mailbox,
            "folder": storable(new.folder),
            "uidvalidity": new.uidvalidity,
            "uid": new.uid,
            "baseline_uid": new.baseline_uid,
            "since": None if new.since is None else new.since.isoformat(),
            "watching_since": micros(new.watching_since),
            "updated_at": now,
            "accepted_at": now if accepted else None,
        },
    )
