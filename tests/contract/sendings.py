"""Outgoing mails, claims and outcomes for the tests of the store, with as few words as possible."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from mailbridge.model import (
    Dead,
    Decision,
    Deferred,
    Delivered,
    Delivery,
    Done,
    Outcome,
    Outgoing,
    Recipient,
    Rejected,
    Resolution,
    Retry,
)
from mailbridge.store.rows import SendRow
from mailbridge.store.store import Store
from tests.contract.mails import NOON, claim

SINK = "send:alarm"
KINDS = ("send.sent", "send.failed", "send.held")
LISTENERS = dict.fromkeys(KINDS, ("ops",))
TWO = ("a@example.org", "b@example.org")


def outgoing(number: int, *recipients: str, **more: Any) -> Outgoing:
    given: dict[str, Any] = {
        "id": f"out_{number}",
        "mailbox": "alarm",
        "sender": "alarm@feuerwehr.example",
        "recipients": recipients or TWO,
        "message_id": f"<{number}@feuerwehr.example>",
        "raw": b"From: alarm@feuerwehr.example\r\n\r\nmail %d\r\n" % number,
        "via": "api",
    }
    return Outgoing(**(given | more))


def keyed(number: int, key: str, digest: str = "d") -> Outgoing:
    return outgoing(number, client="erp", key=key, digest=digest)


async def claim_one(store: Store, **more: Any) -> Delivery:
    """Claim the one mail that is due."""
    (one,) = await claim(store, SINK, **more)
    return one


async def queued(store: Store, number: int = 1, *recipients: str, **more: Any) -> Delivery:
    """Accept a mail, and claim it."""
    await store.sends.accept(outgoing(number, *recipients, **more))
    return await claim_one(store)


def open_to(delivery: Delivery) -> tuple[str, ...]:
    assert delivery.send is not None
    return delivery.send.open


def told(
    state: Literal["open", "doubt", "taken", "refused"], *addresses: str, reply: str = "said"
) -> list[Recipient]:
    code = "smtp.no_such_user" if state == "refused" else ""
    return [Recipient(address=one, state=state, code=code, reply=reply) for one in addresses]


def came(delivery: Delivery, outcome: Outcome | None, decision: Decision) -> Resolution:
    return Resolution(
        delivery=delivery,
        outcome=outcome,
        decision=decision,
        started_at=NOON,
        seconds=0.5,
        listeners=LISTENERS,
    )


def well(delivery: Delivery) -> Resolution:
    return came(delivery, Delivered(status=250, detail="250 queued"), Done())


def again(delivery: Delivery, due_at: datetime, reason: str = "450 later") -> Resolution:
    return came(delivery, Deferred(reason=reason, status=450), Retry(due_at=due_at))


def unwanted(delivery: Delivery, due_at: datetime, reason: str = "550 no") -> Resolution:
    return came(delivery, Rejected(reason=reason, status=550), Retry(due_at=due_at))


def over(delivery: Delivery) -> Resolution:
    reason = "not delivered within 7 days; last answer: 450 later"
    return came(delivery, Deferred(reason="450 later"), Dead(reason=reason))


async def status(store: Store, number: int = 1) -> SendRow:
    found = await store.sends.status(f"out_{number}")
    assert found is not None
    return found


async def states(store: Store, number: int = 1) -> dict[str, str]:
    """Return the states of the recipients of a mail."""
    return {one.address: one.state for one in (await status(store, number)).recipients}


async def events(store: Store) -> Sequence[Delivery]:
    """Take the events that somebody who listens has been told of."""
    told = await claim(store, "ops")
    await store.resolve([well(one) for one in told])
    return told
