"""Rulings for the tests of the store, with as few words as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from mailbridge.model import Accepted, RawMessage, Ruling, Step
from mailbridge.store.rows import DeliveryRow
from mailbridge.store.store import Store
from tests.contract.mails import batch, mail, ref

#: who is told of what the store finds out
LISTENERS = {"delivery.held": ("office",), "format.drift": ("office",)}


def step(route: str = "alarm", verdict: Any = "deliver", **more: Any) -> Step:
    """Return what a route says; by default that the mail goes to ``erp``."""
    said = {"reason": f"{route} says {verdict}", "webhooks": ("erp",)} | more
    return Step(route=route, verdict=verdict, **said)


def passed(route: str) -> Step:
    return Step(route=route, verdict="passed_by", reason="subject does not match")


def once(key: str, *, minutes: float = 5, **more: Any) -> Step:
    """Return a step that wants no duplicate of ``key``."""
    return step(duplicate_key=key, duplicate_within=timedelta(minutes=minutes), **more)


async def rule(store: Store, rulings: Mapping[int, Sequence[Step]], **more: Any) -> Accepted:
    """Accept one batch of mails with these UIDs, of which the routes say this."""
    messages: list[RawMessage] = [mail(uid) for uid in rulings]
    said: dict[str, Ruling] = {
        message.ref.message_id: tuple(steps)
        for message, steps in zip(messages, rulings.values(), strict=True)
    }
    wanted = {"sinks": (), "listeners": LISTENERS} | more
    return await store.accept(
        batch(*messages, rulings=said, **wanted), address="a@b", settles=False
    )


async def outgoing(store: Store) -> list[DeliveryRow]:
    """Return every delivery of a mail, in the order in which they were made."""
    rows: list[DeliveryRow] = []
    for message in await store.messages(limit=10_000):
        rows += (await store.trace(message.id)).deliveries
    return sorted(rows, key=lambda row: row.id)


async def told(store: Store, kind: str) -> list[dict[str, Any]]:
    """Return the bodies of the events of a type that ``office`` gets, and take them."""
    found = await store.claim("office", limit=1000, max_bytes=1 << 30, lease=30.0)
    return [one.body for one in found if one.type == kind and one.body is not None]


def key(uid: int) -> str:
    return ref(uid).message_id


async def drifting(store: Store, *, found: int, missing: int, start: int = 100) -> None:
    """Accept mails with a number, then mails without, five in a batch."""
    steps = [step(wanted=("number",), fields={"number": "7"})] * found
    steps += [step(wanted=("number",), fields={"number": " "})] * missing
    uid = start
    for begin in range(0, len(steps), 5):
        some = steps[begin : begin + 5]
        await rule(store, {uid + at: [one] for at, one in enumerate(some)})
        uid += len(some)


async def everything(store: Store) -> dict[str, int]:
    """Return how many rows there are in the tables that a ruling writes to."""
    names = ("messages", "deliveries", "rulings", "takings", "recent", "drift", "sequences")

    def count(connection: sa.Connection) -> dict[str, int]:
        return {
            name: number
            for name in names
            if (number := connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one())
        }

    return await store._access.database.run(count)
