"""What goes out: claims with leases and fences, rescues, poison, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from mailbridge.model import Delivery
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import (
    NOON,
    accept,
    batch,
    claim,
    dead,
    done,
    gap,
    later,
    mail,
    notice,
    uids,
)


async def test_claims_come_oldest_first_and_bounded_in_number(store: Store, clock: Clock) -> None:
    """What became due first leaves first; nobody gets more than was asked for."""
    await accept(store, [5, 4])
    clock.advance(1)
    await accept(store, [1, 2, 3])
    assert uids(await claim(store, limit=3)) == [5, 4, 1]
    assert uids(await claim(store, limit=3)) == [2, 3]
    assert await claim(store, limit=3) == []
    assert await claim(store, "archive") == []


async def test_claims_are_bounded_in_bytes_and_never_stuck(store: Store) -> None:
    """More bytes than allowed come one mail at a time, and a small mail overtakes no large one."""
    await store.accept(
        batch(mail(1, size=400), mail(2, size=500), mail(3, size=5_000), mail(4, size=10)),
        address="a",
        settles=False,
    )
    taken = [uids(await claim(store, max_bytes=1_000)) for _ in range(4)]
    assert taken == [[1, 2], [3], [4], []]


async def test_a_retry_is_claimed_at_its_time_and_counts_attempts(
    store: Store, clock: Clock
) -> None:
    """A deferred delivery waits until it is due; its attempts and budget are remembered."""
    await accept(store, [1])
    began = clock()
    (first,) = await claim(store)
    due = clock() + timedelta(minutes=2)
    assert await store.resolve([later(first, due)]) == [later(first, due)]
    assert await store.next_due("erp") == due
    assert await claim(store) == []
    clock.set(due)
    (second,) = await claim(store)
    assert (second.attempts, second.first_due_at, second.fence) == (1, began, first.fence + 1)
    assert second.sequence == first.sequence


async def test_next_due_is_the_earliest_that_waits(store: Store, clock: Clock) -> None:
    """A dispatcher may sleep until exactly then; what is claimed or over does not wake it."""
    assert await store.next_due("erp") is None
    await accept(store, [1, 2, 3])
    assert await store.next_due("erp") == clock()
    one, two, three = await claim(store)
    assert await store.next_due("erp") is None
    first, second = clock() + timedelta(seconds=5), clock() + timedelta(hours=1)
    await store.resolve([later(one, second), later(two, first), done(three)])
    assert await store.next_due("erp") == first
    assert await store.next_due("archive") is None


async def test_outcomes_end_a_delivery_and_are_written_down(store: Store) -> None:
    """Delivered and dead are over; every attempt is in the trace with its answer."""
    await accept(store, [1, 2])
    good, bad = await claim(store)
    held = await store.resolve([done(good), dead(bad)])
    assert held == [done(good), dead(bad)]
    assert await claim(store) == []
    assert await store.next_due("erp") is None
    traced = await store.trace(good.event_id)
    (row,), (attempt,) = traced.deliveries, traced.attempts
    assert (row.state, row.attempts, row.last_status) == ("delivered", 1, 204)
    assert (attempt.number, attempt.outcome, attempt.status) == (1, "delivered", 204)
    assert (attempt.detail, attempt.seconds, attempt.at) == ("thanks", 0.25, NOON)
    traced = await store.trace(bad.event_id)
    (row,), (attempt,) = traced.deliveries, traced.attempts
    assert (row.state, row.last_status, row.last_reason) == ("dead", 422, "rejected 3 times")
    assert (attempt.outcome, attempt.reason) == ("rejected", "HTTP 422")


async def test_a_batch_of_outcomes_is_one_commit(store: Store) -> None:
    """A hundred answers cost one commit, not a hundred."""
    await accept(store, range(1, 101))
    claimed = await claim(store)
    before = store.commits
    assert len(await store.resolve([done(one) for one in claimed])) == 100
    assert store.commits == before + 1


async def test_an_outcome_counts_only_once(store: Store, clock: Clock) -> None:
    """The same outcome reported again, after an answer was lost, changes nothing."""
    await accept(store, [1])
    (delivery,) = await claim(store)
    due = clock() + timedelta(seconds=30)
    await store.resolve([later(delivery, due)])
    assert await store.resolve([later(delivery, due)]) == []
    assert len((await store.trace(delivery.event_id)).attempts) == 1


async def test_a_former_owner_changes_nothing(store: Store) -> None:
    """Who lost the lease cannot overwrite the successor, renew its lease or give its claim back."""
    await accept(store, [1])
    (lost,) = await claim(store, lease=0.0)
    assert await store.rescue() == 1
    (held,) = await claim(store)
    assert held.fence > lost.fence
    assert await store.resolve([dead(lost)]) == []
    await store.release([lost])
    await store.renew([lost], lease=-60.0)
    assert await claim(store) == []
    assert await store.rescue() == 0
    assert await store.resolve([done(held)]) == [done(held)]


async def test_a_rescued_claim_is_shut_out_before_anybody_claims_again(store: Store) -> None:
    """Between rescue and the next claim, the late owner's outcome is refused, too."""
    await accept(store, [1])
    (lost,) = await claim(store, lease=0.0)
    await store.rescue()
    assert await store.resolve([done(lost)]) == []
    assert uids(await claim(store)) == [1]


async def test_only_expired_leases_are_rescued(store: Store) -> None:
    """A heartbeat keeps a claim; without one it is queued again, due at once."""
    await accept(store, [1, 2])
    first, _second = await claim(store, lease=0.0)
    await store.renew([first], lease=60.0)
    assert await store.rescue() == 1
    assert uids(await claim(store)) == [2]


async def test_released_claims_are_due_at_once_and_no_rescue(store: Store) -> None:
    """A clean stop gives claims back; however often, that makes nobody a suspect."""
    await accept(store, [1])
    for _ in range(12):
        (delivery,) = await claim(store)
        await store.release([delivery])
    (row,) = await store.deliveries(state="queued")
    assert (row.rescues, row.attempts, row.owner, row.lease_until) == (0, 0, None, None)


async def test_suspects_are_claimed_apart(store: Store) -> None:
    """After three deaths in a row deliveries come few at a time; the others are not held up."""
    await accept(store, list(range(1, 21)))
    for _ in range(3):
        await claim(store, lease=0.0, limit=20)
        await store.rescue()
    await accept(store, [21])
    assert uids(await claim(store)) == [21]
    assert uids(await claim(store, alone=True, limit=256)) == list(range(1, 17))
    assert uids(await claim(store, alone=True, limit=256)) == [17, 18, 19, 20]
    assert await claim(store, alone=True) == []


async def test_after_more_deaths_a_suspect_is_claimed_by_itself(store: Store) -> None:
    """What dies with the daemon again and again is singled out, so that it takes nobody along."""
    await accept(store, [1, 2])
    for death in range(6):
        await claim(store, lease=0.0, alone=death >= 3)
        await store.rescue()
    assert uids(await claim(store, alone=True)) == [1]
    assert uids(await claim(store, alone=True)) == [2]


async def test_an_outcome_ends_the_suspicion(store: Store, clock: Clock) -> None:
    """Only deaths in a row count: any outcome shows that the delivery kills nobody."""
    await accept(store, [1])
    for _ in range(3):
        await claim(store, lease=0.0)
        await store.rescue()
    (suspect,) = await claim(store, alone=True)
    await store.resolve([later(suspect, clock())])
    assert uids(await claim(store)) == [1]


async def test_poison_becomes_a_dead_letter(store: Store) -> None:
    """What was in hand at ten deaths is set aside with the reason, and a person can retry it."""
    await accept(store, [1])
    for death in range(10):
        assert len(await claim(store, lease=0.0, alone=death >= 3)) == 1
        assert await store.rescue() == 1
    assert await claim(store, alone=True) == []
    (row,) = await store.deliveries(state="dead")
    assert row.last_reason == "poison: the daemon died 10 times while holding it"
    assert await store.requeue([row.id]) == 1
    (again,) = await claim(store)
    assert (again.attempts, uids([again])) == (0, [1])


async def test_claims_of_a_dead_process_are_queued_at_the_next_start(
    sqlite_url: str, open_store: OpenStore
) -> None:
    """On SQLite nobody waits for a lease after kill -9: the lock proves that the owner is gone."""
    first = await open_store(sqlite_url)
    await accept(first, [1, 2])
    (lost, _) = await claim(first, lease=3600.0)
    await first.close()
    again = await open_store(sqlite_url, owner="host:2")
    assert uids(await claim(again)) == [1, 2]
    assert [row.rescues for row in await again.deliveries(state="claimed")] == [1, 1]
    assert await again.resolve([done(lost)]) == []


async def test_a_start_beside_another_host_takes_nothing_from_it(
    postgres_url: str, open_store: OpenStore
) -> None:
    """On PostgreSQL the other host may be alive: only the end of its lease frees its claims."""
    first = await open_store(postgres_url)
    await accept(first, [1])
    (held,) = await claim(first)
    second = await open_store(postgres_url, owner="host:2")
    assert await claim(second) == []
    assert await second.rescue() == 0
    assert await first.resolve([done(held)]) == [done(held)]


async def test_leases_end_by_the_clock_of_the_database(
    postgres_url: str, open_store: OpenStore, clock: Clock
) -> None:
    """A host whose clock is a day ahead does not take away what others hold."""
    first = await open_store(postgres_url)
    await accept(first, [1])
    await claim(first)
    clock.advance(86_400)
    ahead = await open_store(postgres_url, owner="host:2")
    assert await ahead.rescue() == 0


async def test_two_hosts_never_claim_the_same_delivery(
    postgres_url: str, open_store: OpenStore
) -> None:
    """Claims of several hosts at once are disjoint and together complete."""
    hosts = [await open_store(postgres_url, owner=f"host:{number}") for number in range(3)]
    await accept(hosts[0], range(1, 301))

    async def drain(host: Store) -> list[Delivery]:
        taken: list[Delivery] = []
        while some := await claim(host, limit=7):
            taken += some
        return taken

    taken = await asyncio.gather(*(drain(host) for host in hosts for _ in range(2)))
    numbers = [one.id for some in taken for one in some]
    # SKIP LOCKED may end a drain while another holds the last rows for a moment.
    numbers += [one.id for one in await drain(hosts[0])]
    assert len(numbers) == len(set(numbers)) == 300


async def test_a_cancelled_claim_is_given_back(store: Store) -> None:
    """A stop in the middle of a claim leaves nothing in the hands of nobody."""
    await accept(store, [1, 2])
    task = asyncio.ensure_future(claim(store))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.gather(*store._background)
    assert await store.deliveries(state="claimed") == []
    assert uids(await claim(store)) == [1, 2]


async def test_a_mail_whose_bytes_are_gone_is_a_dead_letter(store: Store) -> None:
    """Damage to one mail does not stop the sink: it is set aside and the next one leaves."""
    await accept(store, [1, 2])
    await store._access.database.run(
        lambda connection: connection.exec_driver_sql(
            "DELETE FROM raw WHERE message = (SELECT min(message) FROM raw)"
        )
    )
    assert uids(await claim(store)) == [2]
    assert [row.last_reason for row in await store.deliveries(state="dead")] == [
        "its raw bytes are gone"
    ]


async def test_notices_and_mails_leave_through_one_queue(store: Store, clock: Clock) -> None:
    """An event that is not a mail is claimed in its turn among the mails."""
    await accept(store, [1])
    clock.advance(1)
    await store.notify([notice("msg_n", why="gap")], ["erp"])
    clock.advance(1)
    await store.accept(batch(mail(2), gaps=(gap(3),), uid=3), address="a", settles=True)
    kinds = [one.type for one in await claim(store, max_bytes=1)]
    kinds += [one.type for one in await claim(store)]
    assert kinds == ["mail.received", "mailbox.degraded", "mail.received"]
