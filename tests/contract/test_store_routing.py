"""Routes in the store: where a mail goes, what is held, what is a duplicate, what has drifted."""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mailbridge.event import notice_event
from mailbridge.model import Step
from mailbridge.schemas import event_schema
from mailbridge.store import routing
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.mails import NOON, accept, batch, claim, dead, mail, uids
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

DAY = 86_400


# --- where a mail goes


async def test_the_first_route_that_names_a_webhook_decides(store: Store) -> None:
    """A later route cannot send what an earlier one holds or drops, nor hold what one sends."""
    await rule(
        store,
        {
            1: [step("a", "hold"), step("b", "deliver", webhooks=("erp", "sms"))],
            2: [step("a", "drop"), step("b", "deliver", webhooks=("erp", "sms"))],
            3: [passed("a"), step("b"), step("c", "hold", webhooks=("erp",))],
        },
    )
    assert [(row.event_id, row.sink, row.state, row.route) for row in await outgoing(store)] == [
        (key(1), "erp", "held", "a"),
        (key(3), "erp", "queued", "b"),
        (key(1), "sms", "queued", "b"),
        (key(2), "sms", "queued", "b"),
    ]
    assert uids(await claim(store, "erp")) == [3]
    assert uids(await claim(store, "sms")) == [1, 2]


async def test_a_mail_says_why_it_is_where_it_is(store: Store) -> None:
    """Every step is kept with its reason; dropped, held and unrouted are told apart."""
    await rule(
        store,
        {
            1: [
                passed("spam"),
                step("alarm", "deliver", fields={"number": "7"}, wanted=("number",)),
            ],
            2: [step("spam", "drop", webhooks=())],
            3: [passed("spam"), passed("alarm")],
            4: [passed("spam"), step("alarm", "hold", reason="not authenticated")],
            5: [],
        },
    )
    rows = {row.ref.uid: row for row in await store.messages()}
    states = {uid: row.state for uid, row in rows.items()}
    assert states == {1: "accepted", 2: "dropped", 3: "unrouted", 4: "held", 5: "unrouted"}
    for state in ("accepted", "dropped", "unrouted", "held", "delivered", "dead"):
        found = await store.messages(state=state)
        assert [row.ref.uid for row in found] == [
            uid for uid in (5, 4, 3, 2, 1) if states[uid] == state
        ]
    (ruling,) = (await store.trace(key(1))).rulings
    assert ruling.message == key(1)
    assert [(one.route, one.verdict, one.reason) for one in ruling.steps] == [
        ("spam", "passed_by", "subject does not match"),
        ("alarm", "deliver", "alarm says deliver"),
    ]
    assert (ruling.steps[1].webhooks, ruling.steps[1].fields) == (("erp",), {"number": "7"})
    (held,) = (await store.trace(key(4))).deliveries
    assert (held.state, held.last_reason) == ("held", "not authenticated")
    assert await store.check() == []


async def test_a_mail_that_no_route_was_asked_about_goes_to_the_webhooks(store: Store) -> None:
    """In a batch with rulings, a mail without one is not lost: it goes to every webhook."""
    said = {key(2): (step("alarm", "drop"),)}
    whole = batch(mail(1), mail(2), mail(3), sinks=("sms", "erp", "sms"), rulings=said)
    await store.accept(whole, address="a", settles=False)
    assert uids(await claim(store, "erp")) == uids(await claim(store, "sms")) == [1, 3]


async def test_sequences_count_what_is_held_too(store: Store) -> None:
    """A receiver sees by the number that something is kept from it; order is that of the log."""
    await rule(store, {1: [step()], 2: [step(verdict="hold")], 3: [step()]})
    await accept(store, [4])
    assert [(one.sequence, one.event_id) for one in await claim(store)] == [
        (1, key(1)),
        (3, key(3)),
        (4, key(4)),
    ]


async def test_a_second_webhook_waits_only_behind_what_is_queued(
    store: Store, clock: Clock
) -> None:
    """The fallback's clock runs from acceptance; for held mail, from a person's word on."""
    more: dict[str, Any] = {"fallbacks": {"erp": 60.0}}
    await rule(
        store,
        {1: [step(webhooks=("erp", "sms"))], 2: [step(verdict="hold")]},
        **more,
    )
    await store.accept(batch(mail(3), sinks=("erp", "sms"), **more), address="a", settles=False)
    rows = await outgoing(store)
    assert {(row.event_id, row.sink): row.fall_back_at for row in rows} == {
        (key(1), "erp"): clock() + timedelta(seconds=60),
        (key(1), "sms"): None,
        (key(2), "erp"): clock() + timedelta(seconds=60),
        (key(3), "erp"): clock() + timedelta(seconds=60),
        (key(3), "sms"): None,
    }
    clock.advance(30)
    assert await store.requeue([key(2)]) == 1
    (released,) = (await store.trace(key(2))).deliveries
    assert released.fall_back_at == clock() + timedelta(seconds=60)


async def test_what_may_become_too_old_says_so(store: Store, clock: Clock) -> None:
    """A delivery carries its max_age; what is too old already gets the other verdict at once."""
    later, past = clock() + timedelta(minutes=15), clock()
    await rule(
        store,
        {
            1: [step(expires_at=later)],
            2: [step(expires_at=later, otherwise="deliver")],
            3: [step(expires_at=past)],
            4: [step(expires_at=past, otherwise="drop")],
            5: [step(expires_at=past, otherwise="deliver")],
        },
    )
    rows = {row.event_id: row for row in await outgoing(store)}
    shown = {uid: rows.get(key(uid)) for uid in range(1, 6)}
    assert {
        uid: row and (row.state, row.expires_at, row.otherwise) for uid, row in shown.items()
    } == {
        1: ("queued", later, "hold"),
        2: ("queued", None, None),
        3: ("held", None, None),
        4: None,
        5: ("queued", None, None),
    }
    assert (rows[key(3)].last_reason or "").startswith("too old: it expired at 2026-11-21T12:00")


# --- what is held


async def test_what_is_held_is_told_and_released_by_a_person(store: Store, clock: Clock) -> None:
    """A held alarm wakes an operator with its reason, waits, and goes out at his word only."""
    await rule(store, {1: [step(verdict="hold", reason="not authenticated")], 2: [step()]})
    (body,) = await told(store, "delivery.held")
    assert body == {
        "message": key(1),
        "webhook": "erp",
        "route": "alarm",
        "reason": "not authenticated",
    }
    assert uids(await claim(store)) == [2]
    (count,) = [one for one in (await store.counts()).sinks if one.sink == "erp"]
    assert (count.held, count.claimed) == (1, 1)
    (row,) = await store.deliveries(state="held")
    clock.advance(DAY)
    assert await store.requeue([row.id]) == 1
    (released,) = await claim(store)
    assert (released.event_id, released.first_due_at) == (key(1), clock())


async def test_what_a_person_released_does_not_become_too_old_again(
    store: Store, clock: Clock
) -> None:
    """``queue retry`` is a person's word: a dead or waiting alarm then goes out at any age."""
    expires_at = clock() + timedelta(minutes=15)
    await rule(store, {uid: [step(expires_at=expires_at)] for uid in (1, 2)})
    (one, _two) = await claim(store)
    await store.resolve([dead(one)])
    await store.release([_two])
    clock.advance(DAY)
    assert await store.requeue([key(1), key(2)]) == 2
    assert [row.expires_at for row in await outgoing(store)] == [None, None]


async def test_a_replay_keeps_its_route(store: Store) -> None:
    """What is delivered again has the body of the first time: its route is in it."""
    await rule(store, {1: [step()]})
    await store.requeue([key(1)])
    (first,) = await claim(store)
    await store.resolve([dead(first)])
    assert await store.replay([key(1)]) == 1
    assert [row.route for row in await outgoing(store)] == ["alarm", "alarm"]


async def test_each_event_of_the_store_fits_its_schema(store: Store) -> None:
    """``delivery.held`` and ``format.drift`` are what their schemas say, whatever the reason."""
    await rule(store, {9: [step(verdict="hold", reason="")]})
    await drifting(store, found=5, missing=5)
    found = await claim(store, "office")
    assert {one.type for one in found} == {"delivery.held", "format.drift"}
    for one in found:
        body = notice_event(one.type, one.event_id, one.mailbox, one.created_at, one.body or {})
        Draft202012Validator(event_schema(one.type)).validate(json.loads(body))


# --- random rulings

SINKS = st.lists(st.sampled_from(["erp", "sms", "office"]), max_size=3, unique=True).map(tuple)
STEPS = st.builds(
    Step,
    route=st.sampled_from(["a", "b", "c"]),
    verdict=st.sampled_from(["deliver", "hold", "drop", "passed_by"]),
    reason=st.text(max_size=5),
    webhooks=SINKS,
    otherwise=st.sampled_from(["deliver", "hold", "drop"]),
    duplicate_key=st.sampled_from(["", "1", "2"]),
    duplicate_within=st.sampled_from([None, timedelta(minutes=5)]),
    expires_at=st.sampled_from([None, NOON, NOON + timedelta(days=9)]),
    wanted=st.sampled_from([(), ("x",), ("x", "y")]),
    fields=st.dictionaries(st.sampled_from(["x", "y"]), st.text(max_size=3)),
)
RULINGS = st.lists(st.lists(STEPS, max_size=4, unique_by=lambda one: one.route), max_size=6)


def test_whatever_routes_say_a_webhook_gets_a_mail_once(sqlite_url: str, clock: Clock) -> None:
    """For any rulings: at most one delivery a webhook, and the first that names it decides."""
    with asyncio.Runner() as runner:
        store = runner.run(Store.open(sqlite_url, now=clock))
        uid = itertools.count(1)

        @settings(deadline=None, max_examples=60)
        @given(RULINGS)
        def hold_for(said: list[list[Step]]) -> None:
            clock.advance(200)
            runner.run(_once_each(store, {next(uid): steps for steps in said}))

        try:
            hold_for()
        finally:
            runner.run(store.close())


async def _once_each(store: Store, said: dict[int, list[Step]]) -> None:
    await rule(store, said, listeners={})
    for uid, steps in said.items():
        trace = await store.trace(key(uid))
        (kept,) = (ruling.steps for ruling in trace.rulings)
        assert [one.route for one in kept] == [one.route for one in steps]
        decided: dict[str, str] = {}
        for one in kept:
            for sink in one.webhooks:
                decided.setdefault(sink, one.verdict)
        made = {(row.sink, row.state) for row in trace.deliveries}
        states = {"deliver": "queued", "hold": "held"}
        assert made == {(sink, states[said]) for sink, said in decided.items() if said != "drop"}
        assert len(trace.deliveries) == len(made)
        for one, step_ in zip(kept, steps, strict=True):
            # Nothing the store knows lets out what a route holds, or takes what it passed by.
            assert step_.verdict in {one.verdict, "deliver"}


# --- what was extracted


async def test_a_claim_finds_what_its_route_extracted(store: Store) -> None:
    """Fields come back by message and route, in one statement, and none when none is wanted."""
    fields = {"keyword": "B3", "lines": {"Ort": "Köln \U0001f692"}, "list": [1, 2.5, None, True]}
    await rule(
        store,
        {1: [step("a", fields=fields), step("b", fields={"x": "y"})], 2: [step("a")]},
    )
    numbers = {row.ref.uid: row.number for row in await store.messages()}
    run = store._access.database.run
    wanted = [(numbers[1], "a"), (numbers[2], "a"), (numbers[1], "c")]
    found = await run(lambda connection: routing.fields_of(connection, wanted))
    assert found == {(numbers[1], "a"): fields}
    # Nothing wanted: the connection is not even looked at.
    assert routing.fields_of(None, []) == {}  # type: ignore[arg-type]


async def test_no_extract_keeps_a_mail_out(store: Store) -> None:
    """Whatever was found in a mail, it is accepted, and what is kept is bounded plain JSON."""
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(5000):
        inner["x"] = inner = {}
    hostile = {
        "nan": float("nan"),
        "big": 10**30,
        "lone": "a\ud800b\x00",
        "deep": deep,
        "many": {str(number): "x" * 100 for number in range(10_000)},
        "long": "y" * 1_000_000,
        "set": {1},
    }
    await rule(store, {1: [step(fields=hostile, reason="\ud800" * 10_000)]})
    ((row,), (ruling,)) = (await store.messages(), (await store.trace(key(1))).rulings)
    assert row.state == "accepted"
    kept = ruling.steps[0].fields
    assert (kept["nan"], kept["big"], kept["lone"]) == (None, None, "a\ufffdb\x00")
    assert len(json.dumps(dict(kept), ensure_ascii=False)) < 128 * 1024


# --- the log by route, retention


async def test_the_log_is_read_by_route(store: Store) -> None:
    """Every mail that a route took, also what it dropped; in pages, newest first."""
    await rule(
        store,
        {
            1: [step("a")],
            2: [passed("a"), step("b")],
            3: [step("a", "drop"), step("b", webhooks=("sms",))],
            4: [step("a", "hold")],
        },
    )
    first = await store.messages(route="a", limit=2)
    rest = await store.messages(route="a", limit=2, before=first[-1].number)
    assert [row.ref.uid for row in [*first, *rest]] == [4, 3, 1]
    assert [row.ref.uid for row in await store.messages(route="b")] == [3, 2]
    assert [row.ref.uid for row in await store.messages(route="a", state="held")] == [4]
    assert await store.messages(route="nobody") == []


async def test_a_ruling_goes_with_its_line_of_the_log(store: Store, clock: Clock) -> None:
    """Retention takes rulings and duplicates that are past, and leaves drift as it is."""
    await rule(store, {1: [once("4711", wanted=("x",))], 2: [passed("alarm")]})
    await store.drop([key(1)])
    clock.advance(31 * DAY)
    await rule(store, {3: [once("4712")]})
    done = await store.purge(
        delivered_before=clock() - timedelta(days=1),
        dead_before=clock() - timedelta(days=1),
        log_before=clock() - timedelta(days=1),
    )
    assert (done.recent, done.raw) == (1, 2)
    while (
        await store.purge(
            delivered_before=clock() - timedelta(days=1),
            dead_before=clock() - timedelta(days=1),
            log_before=clock() - timedelta(days=1),
        )
    ).more:
        pass
    left = await everything(store)
    assert {name: left[name] for name in ("rulings", "takings", "recent", "drift")} == {
        "rulings": 1,
        "takings": 1,
        "recent": 1,
        "drift": 1,
    }
    assert [row.ref.uid for row in await store.messages()] == [3]
    assert await store.check() == []
