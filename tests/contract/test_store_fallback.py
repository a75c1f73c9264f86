"""Over an outage: the fallback, hastening, giving up, and that a sink fails; on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from mailbridge.model import (
    Deferred,
    Delivery,
    Dropped,
    Failing,
    Held,
    Notice,
    Rejected,
    Resolution,
    Retry,
)
from mailbridge.store import outages
from mailbridge.store.base import Fallback, Place
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import NOON, accept, batch, claim, dead, done, later, mail, notice, uids

TO = {"erp": Fallback(to="sms", after=60.0)}


async def alarm(store: Store, *numbers: int) -> None:
    """Accept mails for ``erp``, which has a minute before they fall back."""
    mails = batch(*(mail(uid) for uid in numbers), fallbacks={"erp": 60.0})
    await store.accept(mails, address="a", settles=False)


async def fallen(store: Store) -> Sequence[Delivery]:
    return await claim(store, "sms")


async def test_what_is_not_taken_in_time_goes_to_the_other_too(store: Store, clock: Clock) -> None:
    """After its time a delivery gets a second one under the same id, and is itself tried on."""
    await alarm(store, 1)
    (first,) = await claim(store)
    due = clock() + timedelta(minutes=2)
    await store.resolve([later(first, due)])
    assert await store.outages.next_fall_back() == clock() + timedelta(seconds=60)
    clock.advance(59)
    assert await store.outages.fall_back(TO) == []
    clock.advance(1)
    (told,) = await store.outages.fall_back(TO)
    assert (told.event_id, told.sink, told.to, told.made) == (first.event_id, "erp", "sms", True)
    (second,) = await fallen(store)
    assert (second.event_id, second.fallback_of) == (first.event_id, "erp")
    assert second.created_at == first.created_at
    clock.set(due)
    assert uids(await claim(store)) == [1]


async def test_it_happens_once(store: Store, clock: Clock) -> None:
    """However often somebody looks, and whatever becomes of both, there is one second delivery."""
    await alarm(store, 1)
    clock.advance(60)
    assert len(await store.outages.fall_back(TO)) == 1
    (second,) = await fallen(store)
    await store.resolve([dead(second)])
    (first,) = await claim(store)
    await store.resolve([dead(first)])
    clock.advance(600)
    assert await store.outages.fall_back(TO) == []
    assert await store.outages.next_fall_back() is None
    assert await fallen(store) == []


async def test_what_was_taken_in_time_does_not_fall_back(store: Store, clock: Clock) -> None:
    """A 2xx within the time leaves the other webhook alone."""
    await alarm(store, 1, 2)
    first, _second = await claim(store)
    await store.resolve([done(first)])
    clock.advance(60)
    assert [one.event_id for one in await store.outages.fall_back(TO)] == [_second.event_id]


async def test_a_dead_letter_falls_back_at_once(store: Store, clock: Clock) -> None:
    """Where the first webhook has refused for good, nobody waits for the minute to end."""
    await alarm(store, 1)
    (first,) = await claim(store)
    clock.advance(5)
    await store.resolve([dead(first)])
    assert await store.outages.next_fall_back() == clock()
    assert len(await store.outages.fall_back(TO)) == 1
    assert uids(await fallen(store)) == [1]


async def test_poison_falls_back_at_once_and_is_told(store: Store) -> None:
    """What the daemon dies of is given to the other webhook, and an event says so."""
    await alarm(store, 1)
    for death in range(10):
        assert len(await claim(store, lease=0.0, alone=death >= 3)) == 1
        await store.rescue(listeners=lambda _mailbox, _kind: ["ops"])
    assert len(await store.outages.fall_back(TO)) == 1
    (event,) = await claim(store, "ops")
    assert event.type == "delivery.dead"
    assert event.body is not None
    assert event.body["reason"] == "poison: the daemon died 10 times while holding it"
    assert event.body["attempts"] == 0
    assert event.body["last_attempt_at"] is None


async def test_what_is_held_waits_for_a_person_and_then_as_long(store: Store, clock: Clock) -> None:
    """A held delivery does not fall back; released, it has its full time before it does."""
    await alarm(store, 1)
    (first,) = await claim(store)
    await store.resolve([unsent(first, Held(reason="older than max_age"))])
    clock.advance(3600)
    assert await store.outages.fall_back(TO) == []
    assert await store.requeue([first.event_id]) == 1
    assert await store.outages.next_fall_back() == clock() + timedelta(seconds=60)


async def test_a_fallback_has_a_fallback(store: Store, clock: Clock) -> None:
    """A chain goes on link by link, each after its own time, and comes to its end."""
    chain = TO | {"sms": Fallback(to="siren", after=30.0)}
    await alarm(store, 1)
    clock.advance(60)
    await store.outages.fall_back(chain)
    clock.advance(30)
    (told,) = await store.outages.fall_back(chain)
    assert (told.sink, told.to) == ("sms", "siren")
    clock.advance(600)
    assert await store.outages.fall_back(chain) == []
    assert uids(await claim(store, "siren")) == [1]


async def test_who_has_the_mail_already_does_not_get_it_again(store: Store, clock: Clock) -> None:
    """Where a route sends a mail to both webhooks, the fallback adds nothing."""
    mails = batch(mail(1), sinks=("erp", "sms"), fallbacks={"erp": 60.0})
    await store.accept(mails, address="a", settles=False)
    clock.advance(60)
    (told,) = await store.outages.fall_back(TO)
    assert not told.made
    assert len(await fallen(store)) == 1


async def test_without_a_fallback_any_more_nothing_falls_back(store: Store, clock: Clock) -> None:
    """When the setting is gone, so is what it had promised; the first webhook keeps its mail."""
    await alarm(store, 1)
    clock.advance(60)
    assert await store.outages.fall_back({}) == []
    assert await store.outages.next_fall_back() is None
    assert uids(await claim(store)) == [1]


async def test_the_trace_says_for_whom_it_stands_in(store: Store, clock: Clock) -> None:
    """An attempt of a second delivery is seen to be one, whatever came of it."""
    await alarm(store, 1)
    clock.advance(60)
    await store.outages.fall_back(TO)
    (second,) = await fallen(store)
    assert "fallback for erp" in [
        row.last_reason for row in (await store.trace(second.event_id)).deliveries
    ]
    await store.resolve([later(second, clock())])
    (again,) = await fallen(store)
    await store.resolve([done(again)])
    reasons = [row.reason for row in (await store.trace(second.event_id)).attempts]
    assert reasons == ["fallback for erp: HTTP 503", "fallback for erp"]


async def test_several_hosts_make_one_second_delivery(
    postgres_url: str, open_store: OpenStore, clock: Clock
) -> None:
    """Hosts that look at the same moment do not double what falls back."""
    hosts = [await open_store(postgres_url, owner=f"host:{number}") for number in range(3)]
    await alarm(hosts[0], *range(1, 41))
    clock.advance(60)
    fell = await asyncio.gather(*(host.outages.fall_back(TO) for host in hosts for _ in range(2)))
    assert sum(one.made for some in fell for one in some) == 40
    assert len(await fallen(hosts[0])) == 40


# --- what is set aside unsent


def unsent(delivery: Delivery, decision: Held | Dropped, *listeners: str) -> Resolution:
    return Resolution(
        delivery=delivery,
        outcome=None,
        decision=decision,
        started_at=NOON,
        seconds=0.0,
        listeners={"delivery.held": listeners},
    )


async def test_what_is_held_unsent_counts_no_attempt_and_is_told(store: Store) -> None:
    """A delivery that a rule keeps back was not attempted; an event goes to those who listen."""
    await accept(store, [1, 2])
    first, second = await claim(store)
    held = Held(reason="older than max_age, by 3 h")
    await store.resolve([unsent(first, held, "ops"), unsent(second, Dropped(reason="old"), "ops")])
    (row,) = await store.deliveries(state="held")
    assert (row.attempts, row.last_reason) == (0, held.reason)
    (event,) = await claim(store, "ops")
    assert event.type == "delivery.held"
    assert event.body is not None
    assert (event.body["message"], event.body["webhook"]) == (first.event_id, "erp")
    assert (await store.trace(first.event_id)).attempts == ()
    (dropped,) = (await store.trace(second.event_id)).deliveries
    assert (dropped.state, dropped.last_reason) == ("dropped", "old")
    assert await store.requeue([first.event_id]) == 1
    assert uids(await claim(store)) == [1]


# --- hastening


def waiting(delivery: Delivery, status: int, outcome: type[Deferred | Rejected]) -> Resolution:
    due = Retry(due_at=NOON + timedelta(hours=8))
    said = outcome(reason=f"HTTP {status}", status=status)
    return replace(later(delivery, NOON), outcome=said, decision=due)


async def test_after_an_outage_everything_is_due_but_what_was_refused(store: Store) -> None:
    """What waits hours for its retry is due when the sink is back; a refused mail waits on."""
    await accept(store, [1, 2, 3])
    one, two, three = await claim(store)
    refused = [waiting(two, code, Rejected) for code in (422,)]
    await store.resolve([waiting(one, 503, Deferred), *refused, waiting(three, 401, Deferred)])
    assert await claim(store) == []
    assert await store.outages.hasten("erp") is False
    assert uids(await claim(store)) == [1, 3]


async def test_hastening_goes_in_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait, one transaction takes a bounded number of them."""
    await accept(store, range(1, outages.HASTEN + 3))
    taken = await claim(store, limit=1_000)
    await store.resolve([waiting(one, 503, Deferred) for one in taken])
    assert await store.outages.hasten("erp") is True
    assert len(await claim(store, limit=1_000)) == outages.HASTEN
    assert await store.outages.hasten("erp") is False
    assert len(await claim(store, limit=1_000)) == 2


# --- giving up


async def gone(store: Store, clock: Clock) -> tuple[int, list[str]]:
    """Give up what is older than seven days; returns the steps and the event ids."""
    place: Place | None = None
    steps, names = 0, []
    while place is not None or not steps:
        place, letters = await store.outages.give_up(
            "erp",
            place,
            before=clock() - timedelta(days=7),
            reason="not delivered within 7 days",
            listeners=lambda _mailbox, _kind: ["ops"],
        )
        steps += 1
        names += [letter.event_id for letter in letters]
    return steps, names


async def test_what_waited_seven_days_is_given_up_and_told(store: Store, clock: Clock) -> None:
    """Without an attempt each, the old become dead letters with an event; the young wait on."""
    await accept(store, [1, 2])
    await store.notify([notice("msg_n")], ["erp"])
    (tried, *_) = await claim(store, limit=1)
    await store.resolve([later(tried, clock() + timedelta(days=6))])
    clock.advance(86_400)
    await accept(store, [3])
    clock.advance(6 * 86_400 - 1)
    assert await gone(store, clock) == (1, [])
    clock.advance(1)
    _, names = await gone(store, clock)
    assert len(names) == 3
    dead_rows = await store.deliveries(state="dead")
    assert {row.last_reason for row in dead_rows} == {"not delivered within 7 days"}
    assert uids(await claim(store)) == [3]
    events = await claim(store, "ops")
    assert [event.type for event in events] == ["delivery.dead"] * 2
    bodies = {str(event.body and event.body["message"]): event.body or {} for event in events}
    assert bodies[tried.event_id]["attempts"] == 1
    assert bodies[tried.event_id]["last_attempt_at"] == "2026-11-21T12:00:00.000Z"
    assert await store.replay(mailbox="alarm") == 2
    assert sorted(uids(await claim(store))) == [1, 2]


async def test_giving_up_goes_in_steps_and_forgets_none(store: Store, clock: Clock) -> None:
    """A long queue is looked through piece by piece; whatever is old is found."""
    await accept(store, range(1, 121))
    clock.advance(3600)
    await accept(store, range(121, 131))
    clock.advance(7 * 86_400 - 3600)
    steps, names = await gone(store, clock)
    assert len(names) == 120
    assert steps == 3
    assert len(await claim(store)) == 10


async def test_what_is_in_hand_is_not_given_up(store: Store, clock: Clock) -> None:
    """An attempt that is under way at the end of the seven days still counts."""
    await accept(store, [1])
    (held,) = await claim(store)
    clock.advance(8 * 86_400)
    assert await gone(store, clock) == (1, [])
    assert await store.resolve([done(held)]) == [done(held)]


async def test_giving_up_falls_back_at_once(store: Store, clock: Clock) -> None:
    """A delivery whose fallback is still ahead goes there when it is given up."""
    mails = batch(mail(1), fallbacks={"erp": 30 * 86_400.0})
    await store.accept(mails, address="a", settles=False)
    clock.advance(7 * 86_400)
    await gone(store, clock)
    assert len(await store.outages.fall_back(TO)) == 1


# --- that a sink fails

FAILING = Failing(since=NOON, attempts=5, reason="connection refused")


def news(kind: str) -> Notice:
    return Notice(id=f"msg_{kind}", type=f"webhook.{kind}", mailbox="", at=NOON, data={})


async def test_an_outage_is_told_once_and_its_end_too(
    url: str, open_store: OpenStore, clock: Clock
) -> None:
    """A restart in between neither tells of an outage twice nor forgets to tell of its end."""
    first = await open_store(url)
    await first.outages.begin("erp", FAILING, news("failing"), ["ops"])
    await first.close()
    second = await open_store(url)
    assert await second.outages.failing("erp") == FAILING
    assert await second.outages.failing("ops") is None
    await second.outages.begin("erp", FAILING, news("again"), ["ops"])
    await second.outages.end("erp", news("recovered"), ["ops"])
    await second.outages.end("erp", news("twice"), ["ops"])
    assert await second.outages.failing("erp") is None
    told = [one.type for one in await claim(second, "ops")]
    assert told == ["webhook.failing", "webhook.recovered"]


async def test_the_outage_survives_with_its_words(store: Store) -> None:
    """A reason with anything in it is read back as it was."""
    odd = replace(FAILING, reason='HTTP 503 "ü" \u202e')
    await store.outages.begin("erp", odd, news("failing"), [])
    assert await store.outages.failing("erp") == odd
    kept = await store._access.database.run(
        lambda connection: connection.execute(sa.text("SELECT count(*) FROM meta")).scalar_one()
    )
    assert kept >= 1
