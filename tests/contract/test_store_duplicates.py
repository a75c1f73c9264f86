"""What the store alone knows of a mail: duplicates, drift; and that all of it is one commit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Literal

import pytest
import sqlalchemy as sa

from mailbridge.errors import TemporaryError
from mailbridge.model import Accepted, Step
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.rulings import (
    drifting,
    everything,
    key,
    once,
    outgoing,
    passed,
    rule,
    step,
    told,
)

# --- duplicates


@pytest.mark.parametrize(
    ("otherwise", "state"), [("hold", "held"), ("drop", None), ("deliver", "queued")]
)
async def test_a_duplicate_gets_the_other_verdict(
    store: Store, clock: Clock, otherwise: Literal["hold", "drop", "deliver"], state: str | None
) -> None:
    """The same number twice within the span: the second is held, dropped or let through, logged."""
    await rule(store, {1: [once("4711", otherwise=otherwise)]})
    clock.advance(61)
    await rule(store, {2: [once("4711", otherwise=otherwise)], 3: [once("4712")]})
    states = {row.event_id: row.state for row in await outgoing(store)}
    assert [states.get(key(uid)) for uid in (1, 2, 3)] == ["queued", state, "queued"]
    (ruling,) = (await store.trace(key(2))).rulings
    (said,) = ruling.steps
    assert said.verdict == otherwise
    assert said.reason == f"duplicate of {key(1)} 61 s before"
    assert said.duplicate_of == key(1)


async def test_a_burst_gets_through_once_in_each_span(store: Store, clock: Clock) -> None:
    """Repeating does not move the span: an alarm sent every minute is heard every five."""
    for uid in range(1, 14):
        await rule(store, {uid: [once("4711")]})
        clock.advance(60)
    queued = [row.event_id for row in await outgoing(store) if row.state == "queued"]
    assert queued == [key(1), key(7), key(13)]


async def test_order_counts_inside_a_batch(store: Store) -> None:
    """Of two equal mails fetched together the first goes out."""
    await rule(store, {3: [once("a")], 1: [once("b")], 2: [once("a")]})
    assert [(row.event_id, row.state) for row in await outgoing(store)] == [
        (key(3), "queued"),
        (key(1), "queued"),
        (key(2), "held"),
    ]


async def test_each_route_has_its_own_duplicates(store: Store) -> None:
    """What one route has seen silences no other, and neither does another's key."""
    long = "ä" * 500
    await rule(store, {1: [once("7")], 2: [replace(once("7"), route="b")], 3: [once(long)]})
    await rule(store, {4: [once(long)], 5: [step()], 6: [step()]})
    states = {row.event_id: row.state for row in await outgoing(store)}
    assert [uid for uid in range(1, 7) if states[key(uid)] == "held"] == [4]


async def test_what_was_held_silences_nothing(store: Store, clock: Clock) -> None:
    """A forged or stale mail with the number of an alarm does not hold the genuine one."""
    forged = replace(once("4711"), verdict="hold")
    stale = once("4712", expires_at=clock())
    behind = [step("first", "hold"), once("4713")]
    await rule(store, {1: [forged], 2: [stale], 3: behind})
    await rule(store, {4: [once("4711")], 5: [once("4712")], 6: [once("4713")]})
    states = {row.event_id: row.state for row in await outgoing(store)}
    assert [states[key(uid)] for uid in range(1, 7)] == ["held"] * 3 + ["queued"] * 3


async def test_a_mail_offered_again_is_no_duplicate_of_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash before or behind the commit, the first mail of a number still goes out."""

    def fail(*_arguments: Any, **_named: Any) -> None:
        raise sa.exc.DBAPIError("x", {}, RuntimeError("fault"))

    with monkeypatch.context() as patched:
        patched.setattr("mailbridge.store.incoming._write_checkpoint", fail)
        with pytest.raises(TemporaryError):
            await rule(store, {1: [once("4711")]})
    assert await rule(store, {1: [once("4711")]}) == Accepted(new=1, known=0)
    assert await rule(store, {1: [once("4711")]}) == Accepted(new=0, known=1)
    assert [row.state for row in await outgoing(store)] == ["queued"]


# --- drift


async def test_a_field_that_stays_empty_is_told_once(store: Store, clock: Clock) -> None:
    """After five mails in a row without a field that used to be filled: one event, not more."""
    await drifting(store, found=5, missing=0)
    filled = clock()
    clock.advance(60)
    await drifting(store, found=0, missing=4, start=200)
    assert await told(store, "format.drift") == []
    await drifting(store, found=0, missing=8, start=204)
    (body,) = await told(store, "format.drift")
    assert body == {
        "message": key(204),
        "messages": [key(uid) for uid in range(200, 205)],
        "route": "alarm",
        "field": "number",
        "empty": 5,
        "last_filled_at": filled.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    await drifting(store, found=1, missing=5, start=300)
    assert [body["message"] for body in await told(store, "format.drift")] == [key(305)]


async def test_a_field_that_was_never_there_is_no_drift(store: Store) -> None:
    """A route that looks for what only some mails have raises no alarm about it."""
    await drifting(store, found=4, missing=20)
    assert await told(store, "format.drift") == []


async def test_a_forged_mail_tells_nothing_of_the_form(store: Store) -> None:
    """Mails that their route holds or passes by neither fill a field nor leave it empty."""
    await drifting(store, found=5, missing=0)
    held = step(verdict="hold", wanted=("number",))
    await rule(store, {uid: [held] for uid in range(200, 220)})
    await rule(store, {uid: [passed("alarm")] for uid in range(300, 320)})
    assert await told(store, "format.drift") == []


# --- all or nothing


@pytest.mark.parametrize(
    "step_of_accept",
    [
        "incoming._write_raw",
        "routing.write",
        "incoming.write_deliveries",
        "incoming._write_checkpoint",
    ],
)
async def test_a_fault_leaves_nothing_of_a_ruling(
    store: Store, monkeypatch: pytest.MonkeyPatch, step_of_accept: str
) -> None:
    """Whatever fails while a batch with rulings is accepted: no row, no event, no memory."""
    wanted = ("number",)
    rulings: dict[int, list[Step]] = {
        1: [once("1", wanted=wanted, fields={"number": "1"})],
        2: [once("1", wanted=wanted)],
        3: [step(verdict="drop")],
    }

    def fail(*_arguments: Any, **_named: Any) -> None:
        raise sa.exc.DBAPIError("x", {}, RuntimeError("fault"))

    with monkeypatch.context() as patched:
        patched.setattr(f"mailbridge.store.{step_of_accept}", fail)
        with pytest.raises(TemporaryError):
            await rule(store, rulings)
    assert await everything(store) == {}
    assert await rule(store, rulings) == Accepted(new=3, known=0)
    assert [row.state for row in await outgoing(store)] == ["queued", "held"]
    assert (await everything(store))["drift"] == 1


async def test_two_hosts_that_accept_the_same_mails_rule_once(
    postgres_url: str, open_store: OpenStore
) -> None:
    """Two daemons with the same mails at the same moment: one delivery of each, no duplicate."""
    stores = [await open_store(postgres_url, owner=f"host:{n}") for n in (1, 2)]
    jobs = [
        rule(store, {uid: [once(f"{uid}", wanted=("a",))] for uid in range(start, start + 5)})
        for start in range(1, 51, 5)
        for store in stores
    ]
    results = await asyncio.gather(*jobs)
    assert sum(one.new for one in results) == 50
    rows = await outgoing(stores[0])
    assert sorted(row.event_id for row in rows) == sorted(key(uid) for uid in range(1, 51))
    assert {row.state for row in rows} == {"queued"}
    assert await stores[0].check() == []


async def test_a_duplicate_that_comes_to_two_hosts_at_once_goes_out_once(
    postgres_url: str, open_store: OpenStore
) -> None:
    """The same alarm in two mails, accepted by two daemons at one moment: the webhook gets one."""
    stores = [await open_store(postgres_url, owner=f"host:{n}") for n in (1, 2)]
    jobs = [
        rule(stores[uid % 2], {uid: [once(f"{uid // 2}")]}, folder=f"{uid}") for uid in range(40)
    ]
    await asyncio.gather(*jobs)
    rows = await outgoing(stores[0])
    assert sorted(row.state for row in rows) == ["held"] * 20 + ["queued"] * 20
    assert len({row.event_id for row in rows}) == 40
    assert len(await told(stores[0], "delivery.held")) == 20
