"""A sink that keeps the order: of each mailbox one at a time, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from mailbridge.model import Batch, Checkpoint, Delivery, RawMessage
from mailbridge.store import order
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import NOON, accept, claim, dead, done, later, mail, notice, ref, uids
from tests.contract.test_store_plans import plan


async def arrive(store: Store, mailbox: str, *numbers: int, sink: str = "erp") -> None:
    """Accept mails of one mailbox."""
    messages = tuple(
        RawMessage(ref=ref(uid, mailbox=mailbox), raw=mail(uid).raw, received_at=NOON)
        for uid in numbers
    )
    where = Checkpoint(
        mailbox=mailbox, folder="INBOX", uidvalidity=7, uid=max(numbers), watching_since=NOON
    )
    batch = Batch(
        mailbox=mailbox, folder="INBOX", checkpoint=where, sinks=(sink,), messages=messages
    )
    await store.accept(batch, address="a", settles=False)


async def heads(store: Store, **more: Any) -> Sequence[Delivery]:
    return await claim(store, ordered=True, **more)


def places(deliveries: Iterable[Delivery]) -> list[tuple[str, int]]:
    return [(one.mailbox, one.mail.ref.uid) for one in deliveries if one.mail]


async def test_one_of_a_mailbox_is_in_hand_at_a_time(store: Store) -> None:
    """The second mail is claimed only when the first is over; other mailboxes go on meanwhile."""
    await store.outages.keep_order("erp", strict=True)
    await arrive(store, "a", 1, 2, 3)
    await arrive(store, "b", 1, 2)
    first = await heads(store)
    assert places(first) == [("a", 1), ("b", 1)]
    assert await heads(store) == []
    await store.resolve([done(first[1])])
    (second,) = await heads(store)
    assert places([second]) == [("b", 2)]
    await store.resolve([dead(first[0])])
    assert places(await heads(store)) == [("a", 2)]


async def test_a_head_that_waits_for_its_retry_holds_its_mailbox(
    store: Store, clock: Clock
) -> None:
    """Nothing overtakes a deferred mail, and nobody is woken for what stands behind it."""
    await store.outages.keep_order("erp", strict=True)
    await arrive(store, "a", 1, 2)
    (head,) = await heads(store)
    due = clock() + timedelta(minutes=2)
    await store.resolve([later(head, due)])
    assert await heads(store) == []
    assert await store.next_due("erp", ordered=True) == due
    clock.set(due)
    assert places(await heads(store)) == [("a", 1)]
    assert await store.next_due("erp", ordered=True) is None


async def test_what_is_held_or_dropped_makes_way(store: Store) -> None:
    """A head that a person drops no longer stands in the way."""
    await store.outages.keep_order("erp", strict=True)
    await arrive(store, "a", 1, 2)
    assert await store.drop([ref(1, mailbox="a").message_id]) == 1
    assert places(await heads(store)) == [("a", 2)]


async def test_suspects_keep_their_place(store: Store) -> None:
    """What was in hand at three deaths is tried apart, and still before what came after it."""
    await store.outages.keep_order("erp", strict=True)
    await arrive(store, "a", 1, 2)
    for _ in range(3):
        await heads(store, lease=0.0)
        await store.rescue()
    assert await heads(store) == []
    assert places(await heads(store, alone=True)) == [("a", 1)]
    assert await heads(store, alone=True) == []


async def test_a_retry_by_hand_goes_where_its_number_puts_it(store: Store) -> None:
    """A dead letter that is retried goes before what waits, and never beside what is in hand."""
    await store.outages.keep_order("erp", strict=True)
    await arrive(store, "a", 1, 2, 3)
    (head,) = await heads(store)
    await store.resolve([dead(head)])
    (second,) = await heads(store)
    assert await store.requeue([head.event_id]) == 1
    assert await heads(store) == []
    await store.resolve([done(second)])
    (again,) = await heads(store)
    assert places([again]) == [("a", 1)]
    await store.resolve([done(again)])
    assert places(await heads(store)) == [("a", 3)]


async def test_what_died_before_the_order_was_asked_for_is_in_order_too(store: Store) -> None:
    """A dead letter of before is retried in its place, and not passed over for ever."""
    await arrive(store, "a", 1, 2)
    first, second = await claim(store)
    await store.resolve([dead(first), dead(second)])
    await store.outages.keep_order("erp", strict=True)
    assert await store.requeue(all_dead=True) == 2
    assert places(await heads(store)) == [("a", 1)]


async def test_replays_and_events_keep_the_order_too(store: Store) -> None:
    """Whatever is queued for the sink stands in line behind what is there."""
    await store.outages.keep_order("erp", strict=True)
    await accept(store, [1, 2])
    await store.notify([notice("msg_n")], ["erp"])
    gone = []
    for _ in range(3):
        (head,) = await heads(store)
        gone.append(head.type)
        await store.resolve([done(head)])
    assert gone == ["mail.received", "mail.received", "mailbox.degraded"]
    assert await store.replay(mailbox="alarm") == 2
    for uid in (1, 2):
        (head,) = await heads(store)
        assert uids([head]) == [uid]
        await store.resolve([done(head)])


async def test_the_order_can_be_asked_for_and_given_up_later(store: Store) -> None:
    """What waits already is put in order, what is in hand counts, and all goes free again."""
    await arrive(store, "a", *range(1, 6))
    (held,) = await claim(store, limit=1)
    await store.outages.keep_order("erp", strict=True)
    assert await heads(store) == []
    await store.resolve([done(held)])
    assert places(await heads(store)) == [("a", 2)]
    await store.outages.keep_order("erp", strict=False)
    assert places(await claim(store)) == [("a", 3), ("a", 4), ("a", 5)]


async def test_many_that_wait_are_marked_in_steps(store: Store) -> None:
    """Thousands that wait when the order is asked for are all in line, none is forgotten."""
    await arrive(store, "a", *range(1, 2 * order.STEP + 10))
    before = store.commits
    await store.outages.keep_order("erp", strict=True)
    assert store.commits - before == 4
    assert places(await heads(store, limit=5_000)) == [("a", 1)]


async def test_a_sink_without_order_has_nothing_to_do_with_it(store: Store) -> None:
    """Deliveries of other sinks are in no index of the order, and are claimed as ever."""
    await store.outages.keep_order("erp", strict=True)
    await arrive(store, "a", 1, 2, sink="archive")
    marked = await store._access.database.run(
        lambda connection: connection.execute(
            sa.text("SELECT count(*) FROM deliveries WHERE ordered IS NOT NULL")
        ).scalar_one()
    )
    assert marked == 0
    assert places(await claim(store, "archive")) == [("a", 1), ("a", 2)]


async def test_a_probe_is_the_oldest_whatever_its_time(store: Store, clock: Clock) -> None:
    """While a sink is away the oldest that waits is tried, due or not; then the next oldest."""
    await accept(store, [1, 2, 3])
    one, two, three = await claim(store)
    far = clock() + timedelta(hours=12)
    await store.resolve([later(one, far), later(two, far)])
    await store.release([three])
    (probe,) = await claim(store, probe=0)
    assert uids([probe]) == [1]
    assert uids(await claim(store, probe=probe.id)) == [2]
    assert uids(await claim(store, probe=0)) == [3]
    assert await claim(store, probe=0) == []


async def test_a_probe_in_order_is_a_head(store: Store, clock: Clock) -> None:
    """A sink that keeps the order is probed with the oldest mail that may leave."""
    await store.outages.keep_order("erp", strict=True)
    await arrive(store, "a", 1, 2)
    await arrive(store, "b", 1)
    first, second = await heads(store)
    far = clock() + timedelta(hours=12)
    await store.resolve([later(first, far), later(second, far)])
    (probe,) = await heads(store, probe=0)
    assert places([probe]) == [("a", 1)]
    assert places(await heads(store, probe=0)) == [("b", 1)]
    assert await heads(store, probe=0) == []


async def test_hosts_together_keep_the_order(postgres_url: str, open_store: OpenStore) -> None:
    """Several hosts at one sink never have two mails of one mailbox in hand."""
    hosts = [await open_store(postgres_url, owner=f"host:{number}") for number in range(3)]
    await hosts[0].outages.keep_order("erp", strict=True)
    for box in "abcd":
        await arrive(hosts[0], box, *range(1, 26))
    gone: list[tuple[str, int]] = []
    in_hand: set[str] = set()

    async def drain(host: Store) -> None:
        idle = 0
        while len(gone) < 100 and idle < 500:
            some = await heads(host, limit=2)
            idle = 0 if some else idle + 1
            for one in some:
                assert one.mailbox not in in_hand
                in_hand.add(one.mailbox)
            await asyncio.sleep(0)
            gone.extend(places(some))
            in_hand.difference_update(one.mailbox for one in some)
            if some:
                await host.resolve([done(one) for one in some])

    await asyncio.gather(*(drain(host) for host in hosts for _ in range(2)))
    assert len(gone) == 100
    for box in "abcd":
        assert [uid for where, uid in gone if where == box] == list(range(1, 26))


async def test_a_claim_in_order_costs_what_mailboxes_wait(store: Store) -> None:
    """Behind a head a hundred thousand may wait: the walk looks at the mailboxes alone."""
    await store.outages.keep_order("erp", strict=True)
    grow = """
        INSERT INTO deliveries (event_id, type, body, sink, mailbox, state, attempts, rescues,
            due_at, first_due_at, fence, sequence, replay, created_at, ordered)
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
        SELECT 'msg_' || i, 'test.ping', '{}', 'erp', 'box' || (i % 3), 'queued', 0, 0,
            1700000000000000 + i, 0, 0, i, 0, 0, 1
        FROM n
    """

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.text(grow))
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("ANALYZE"))

    await store._access.database.run(work)
    for statement, asked in (
        (order.DUE, {"sink": "erp", "now": 2**62, "limit": 50}),
        (order.NEXT_DUE, {"sink": "erp"}),
        (order.OLDEST, {"sink": "erp", "after": 0}),
    ):
        shown = await plan(store, statement, **asked)
        assert "deliveries_order" in shown
        assert "deliveries_due" not in shown
        assert "Seq Scan on deliveries" not in shown
        # What is in hand is looked through, the least that there is.
        rest = shown.replace("SCAN deliveries USING INDEX deliveries_claimed", "")
        assert "SCAN deliveries" not in rest
    assert len(await heads(store, limit=256)) == 3
