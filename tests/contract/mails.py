"""Batches, claims and outcomes for the tests of the store, with as few words as possible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from mailbridge.model import (
    Batch,
    Checkpoint,
    Dead,
    Deferred,
    Delivered,
    Delivery,
    Done,
    Gap,
    MessageRef,
    Notice,
    RawMessage,
    Rejected,
    Resolution,
    Retry,
)
from mailbridge.store.store import Store

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MIB = 1024 * 1024


def ref(uid: int, *, folder: str = "INBOX", epoch: int = 7, mailbox: str = "alarm") -> MessageRef:
    return MessageRef(mailbox=mailbox, folder=folder, uidvalidity=epoch, uid=uid)


def mail(uid: int, *, size: int = 0, **where: Any) -> RawMessage:
    head = f"From: ils@example.org\r\nMessage-ID: <{uid}@example.org>\r\n\r\nmail {uid}\r\n"
    return RawMessage(ref=ref(uid, **where), raw=head.encode().ljust(size, b"x"), received_at=NOON)


def checkpoint(uid: int, *, epoch: int = 7, folder: str = "INBOX") -> Checkpoint:
    return Checkpoint(
        mailbox="alarm", folder=folder, uidvalidity=epoch, uid=uid, watching_since=NOON
    )


def gap(uid: int, *, tries: int = 1, minutes: int = 0, reason: str = "NO [SERVERBUG]") -> Gap:
    return Gap(
        ref=ref(uid),
        reason=reason,
        tries=tries,
        first_at=NOON + timedelta(minutes=minutes),
        due_at=NOON + timedelta(minutes=minutes + 5),
    )


def batch(
    *messages: RawMessage,
    sinks: tuple[str, ...] = ("erp",),
    uid: int | None = None,
    epoch: int = 7,
    folder: str = "INBOX",
    **more: Any,
) -> Batch:
    last = uid if uid is not None else max((one.ref.uid for one in messages), default=0)
    return Batch(
        mailbox="alarm",
        folder=folder,
        checkpoint=checkpoint(last, epoch=epoch, folder=folder),
        sinks=sinks,
        messages=messages,
        **more,
    )


async def accept(
    store: Store,
    uids: Iterable[int],
    *,
    sinks: tuple[str, ...] = ("erp",),
    size: int = 0,
    settles: bool = True,
) -> None:
    """Accept one batch of mails with these UIDs."""
    messages = [mail(uid, size=size) for uid in uids]
    await store.accept(
        batch(*messages, sinks=sinks), address="alarm@feuerwehr.example", settles=settles
    )


async def claim(store: Store, sink: str = "erp", **more: Any) -> Sequence[Delivery]:
    """Claim with generous bounds, unless told otherwise."""
    return await store.claim(sink, **({"limit": 100, "max_bytes": 64 * MIB, "lease": 30.0} | more))


def done(delivery: Delivery, *, at: datetime = NOON) -> Resolution:
    return Resolution(
        delivery=delivery,
        outcome=Delivered(status=204, detail="thanks"),
        decision=Done(),
        started_at=at,
        seconds=0.25,
    )


def later(delivery: Delivery, due_at: datetime, *, at: datetime = NOON) -> Resolution:
    return Resolution(
        delivery=delivery,
        outcome=Deferred(reason="HTTP 503", status=503),
        decision=Retry(due_at=due_at),
        started_at=at,
        seconds=0.5,
    )


def dead(delivery: Delivery, *, at: datetime = NOON) -> Resolution:
    return Resolution(
        delivery=delivery,
        outcome=Rejected(reason="HTTP 422", status=422, detail="no such unit"),
        decision=Dead(reason="rejected 3 times"),
        started_at=at,
        seconds=0.1,
    )


def notice(name: str, **data: Any) -> Notice:
    return Notice(id=name, type="mailbox.degraded", mailbox="alarm", at=NOON, data=data)


def uids(deliveries: Iterable[Delivery]) -> list[int]:
    return [one.mail.ref.uid for one in deliveries if one.mail]
