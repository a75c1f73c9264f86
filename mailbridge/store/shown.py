"""Rows of the tables to what commands and reports are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from mailbridge.model import DeliveryState
from mailbridge.store.drift import empty
from mailbridge.store.rows import (
    AttemptRow,
    DeliveryRow,
    MessageRow,
    MessageState,
    RulingRow,
    ShownState,
    StepRow,
)
from mailbridge.store.standing import read_ref
from mailbridge.store.tables import Kept, Settle, moment, moment_or_none

#: the first of these that one of its deliveries is in names the state of a message
_RANKS: Final[tuple[tuple[DeliveryState, MessageState], ...]] = (
    (DeliveryState.QUEUED, "accepted"),
    (DeliveryState.CLAIMED, "accepted"),
    (DeliveryState.DEAD, "dead"),
    (DeliveryState.HELD, "held"),
    (DeliveryState.DELIVERED, "delivered"),
)


def message_row(row: Any, sent: Sequence[Any], steps: str | None) -> MessageRow:
    """Return a line of the mail log; ``sent`` are its deliveries, ``steps`` the ruling, if any."""
    taken = [] if steps is None else [s for s in orjson.loads(steps) if s["verdict"] != "passed_by"]
    state, one = _standing(sent)
    if row.test:
        state = "test"
    if state is None:
        state = "known" if row.known_as else "dropped" if sent or taken else "unrouted"
    reason = (one.last_reason or "") if one else ""
    if state == "dropped" and not sent:
        reason = next((said["reason"] for said in taken if said["verdict"] == "drop"), "")
    return MessageRow(
        number=row.pk,
        id=row.id,
        state=state,
        ref=read_ref(row),
        address=row.address,
        message_id=row.message_id,
        received_at=moment_or_none(row.received_at),
        at=moment(row.accepted_at),
        size=row.size,
        sha256=row.sha256,
        settled=None if row.settle == Settle.NOT_WANTED else row.settle == Settle.DONE,
        settled_at=moment_or_none(row.settled_at),
        known_as=row.known_as,
        raw_kept=row.kept == Kept.RAW,
        routes=tuple(said["route"] for said in taken),
        reason=reason,
        webhook=one.sink if one else None,
        tries=one.attempts if one else 0,
    )


def _standing(sent: Sequence[Any]) -> tuple[MessageState | None, Any]:
    """Return the state that counts, and the delivery that it is from: one with a reason first."""
    for rank, name in _RANKS:
        those = [one for one in sent if one.state == rank.value]
        if those:
            return name, max(those, key=lambda one: (bool(one.last_reason), one.replay, -one.pk))
    return None, max(sent, key=lambda one: one.pk, default=None)


def gap_row(row: Any) -> MessageRow:
    """Return a line of the mail log for what the server listed and would not give."""
    return MessageRow(
        number=0,
        id=row.id,
        state="gap",
        ref=read_ref(row),
        address="",
        message_id=None,
        received_at=None,
        at=moment(row.first_at),
        size=0,
        sha256="",
        settled=None,
        settled_at=None,
        known_as=None,
        raw_kept=False,
        reason=row.reason if row.vanished_at is None else f"vanished; before: {row.reason}",
        tries=row.tries,
    )


def delivery_row(row: Any) -> DeliveryRow:
    """Return a delivery as commands show it."""
    state: ShownState = row.state
    return DeliveryRow(
        id=row.pk,
        event_id=row.event_id,
        type=row.type,
        sink=row.sink,
        mailbox=row.mailbox,
        state="deferred" if state == "queued" and row.attempts else state,
        attempts=row.attempts,
        rescues=row.rescues,
        due_at=moment(row.due_at),
        first_due_at=moment(row.first_due_at),
        created_at=moment(row.created_at),
        resolved_at=moment_or_none(row.resolved_at),
        owner=row.owner,
        lease_until=moment_or_none(row.lease_until),
        sequence=row.sequence,
        replay=row.replay,
        last_status=row.last_status,
        last_reason=row.last_reason,
        route=row.route,
        expires_at=moment_or_none(row.expires_at),
        otherwise=row.otherwise,
        fall_back_at=moment_or_none(row.fall_back_at),
    )


def attempt_row(row: Any) -> AttemptRow:
    """Return an attempt as commands show it."""
    return AttemptRow(
        delivery=row.delivery,
        number=row.number,
        at=moment(row.at),
        seconds=row.seconds,
        outcome=row.outcome,
        status=row.status,
        reason=row.reason,
        detail=row.detail,
    )


def ruling_row(message: str, steps: str) -> RulingRow:
    """Return what routes said of a message, as ``routing`` has kept it."""
    return RulingRow(message=message, steps=tuple(_step_row(step) for step in orjson.loads(steps)))


def _step_row(step: dict[str, Any]) -> StepRow:
    fields: dict[str, Any] = step.get("fields", {})
    missing = (name for name in step.get("wanted", ()) if empty(fields.get(name)))
    return StepRow(
        route=step["route"],
        verdict=step["verdict"],
        reason=step["reason"],
        webhooks=tuple(step.get("webhooks", ())),
        fields=fields,
        missing=tuple(missing),
        duplicate_of=step.get("duplicate_of"),
    )
