"""What commands show and change: log, trace, queue, replay, retention, on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from mailbridge.errors import PermanentError
from mailbridge.model import Delivery
from mailbridge.store.rows import Purged
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.mails import (
    accept,
    batch,
    claim,
    dead,
    done,
    gap,
    later,
    mail,
    notice,
    ref,
    uids,
)

DAY = timedelta(days=1)


async def bury(store: Store, *wanted: int, sink: str = "erp") -> list[Delivery]:
    """Let the deliveries of these UIDs become dead letters, and the others be delivered."""
    claimed = await claim(store, sink)
    bad = [one for one in claimed if one.mail and one.mail.ref.uid in wanted]
    await store.resolve([dead(one) if one in bad else done(one) for one in claimed])
    return bad


async def test_the_log_tells_where_each_mail_is(store: Store, clock: Clock) -> None:
    """Every message is in exactly one state, and the filter by state finds exactly those."""
    await accept(store, [1, 2, 3, 4])
    one, two, three, _four = await claim(store)
    await store.resolve([done(one), dead(two), later(three, clock() + DAY)])
    await accept(store, [5], sinks=())
    await store.accept(batch(gaps=(gap(6),), uid=6), address="a", settles=True)
    known = ((ref(1, epoch=8), one.event_id),)
    await store.accept(batch(known=known, epoch=8, uid=1), address="a", settles=False)
    rows = await store.messages()
    assert [(row.ref.uid, row.state) for row in rows] == [
        (6, "gap"),
        (1, "known"),
        (5, "unrouted"),
        (4, "accepted"),
        (3, "accepted"),
        (2, "dead"),
        (1, "delivered"),
    ]
    for state in ("gap", "known", "unrouted", "accepted", "dead", "delivered", "held"):
        found = await store.messages(state=state)
        assert found == [row for row in rows if row.state == state]


async def test_the_log_is_paged_and_filtered(store: Store, clock: Clock) -> None:
    """Pages neither repeat nor miss a line; mailbox, time and ``after`` narrow it."""
    await accept(store, range(1, 8))
    pages, before = [], None
    while page := await store.messages(limit=3, before=before):
        pages += [row.ref.uid for row in page]
        before = page[-1].number
    assert pages == [7, 6, 5, 4, 3, 2, 1]
    newest = (await store.messages(limit=1))[0]
    start = clock.advance(60)
    await accept(store, [8])
    assert [row.ref.uid for row in await store.messages(after=newest.number)] == [8]
    assert [row.ref.uid for row in await store.messages(since=start)] == [8]
    assert await store.messages(mailbox="office") == []


async def test_a_trace_is_found_by_any_name(store: Store, clock: Clock) -> None:
    """Webhook-id, Message-ID with and without brackets, and delivery number lead to one story."""
    await accept(store, [1, 2], sinks=("erp", "archive"))
    first, _ = await claim(store)
    await store.resolve([later(first, clock())])
    (again, *_) = await claim(store)
    await store.resolve([done(again)])
    whole = await store.trace(first.event_id)
    assert [row.sink for row in whole.deliveries] == ["archive", "erp"]
    assert [row.outcome for row in whole.attempts] == ["deferred", "delivered"]
    assert [row.number for row in whole.attempts] == [1, 2]
    assert await store.trace("<1@example.org>") == whole
    assert await store.trace("1@example.org") == whole
    assert await store.trace(str(first.id)) == whole
    assert (await store.trace("msg_unknown")).messages == ()
    await store.notify([notice("msg_n")], ["erp"])
    told = await store.trace("msg_n")
    assert [(row.type, row.state) for row in told.deliveries] == [("mailbox.degraded", "queued")]


async def test_raw_bytes_are_reachable_by_id(store: Store) -> None:
    """A mail that nobody could parse can still be looked at, byte by byte."""
    await accept(store, [1])
    assert await store.raw(ref(1).message_id) == mail(1).raw
    assert await store.raw("msg_unknown") is None


async def test_the_queue_lists_what_waits_and_what_is_dead(store: Store, clock: Clock) -> None:
    """Queued and deferred are told apart; what is over is not listed unless asked for."""
    await accept(store, [1, 2, 3, 4])
    one, two, three = await claim(store, limit=3)
    await store.resolve([done(one), dead(two), later(three, clock() + DAY)])
    states = {row.state: row for row in await store.deliveries()}
    assert sorted(states) == ["dead", "deferred", "queued"]
    assert states["deferred"].due_at == clock() + DAY
    assert [row.event_id for row in await store.deliveries(state="delivered")] == [one.event_id]
    assert [row.state for row in await store.deliveries(sink="erp", limit=1)] == ["queued"]
    assert await store.deliveries(sink="archive") == []


async def test_counts_add_up(store: Store, clock: Clock) -> None:
    """``status`` shows for each sink what waits, and for each folder where it stands."""
    await accept(store, range(1, 7), sinks=("erp", "archive"))
    began = clock()
    one, two, three, _held = await claim(store, limit=4)
    await store.resolve([done(one), dead(two), later(three, clock() + DAY)])
    await store.accept(batch(gaps=(gap(9),), uid=9), address="a", settles=True)
    await store.settled([ref(1), ref(2)])
    counts = await store.counts()
    archive, erp = counts.sinks
    assert (archive.sink, archive.queued, archive.oldest_due) == ("archive", 6, began)
    shown = (erp.queued, erp.deferred, erp.claimed, erp.dead, erp.held, erp.oldest_due)
    assert shown == (2, 1, 1, 1, 0, began)
    (folder,) = counts.folders
    assert (folder.gaps, folder.unsettled, folder.checkpoint.uid) == (1, 4, 9)
    assert folder.last_accepted_at == began


async def test_a_dead_letter_is_queued_anew_with_a_new_budget(store: Store, clock: Clock) -> None:
    """After the retry by hand, attempts and the seven days begin again; old attempts stay."""
    await accept(store, [1, 2])
    (bad,) = await bury(store, 1)
    later_on = clock.advance(8 * 86_400)
    assert await store.requeue([bad.id]) == 1
    (again,) = await claim(store)
    assert (again.attempts, again.first_due_at, again.sequence) == (0, later_on, bad.sequence)
    await store.resolve([done(again, at=later_on)])
    assert [row.outcome for row in (await store.trace(bad.event_id)).attempts] == [
        "rejected",
        "delivered",
    ]


async def test_requeue_by_event_all_and_sink(store: Store, clock: Clock) -> None:
    """By event id, or all dead letters, or those of one sink; a deferred one becomes due now."""
    await accept(store, [1, 2], sinks=("erp", "archive"))
    await bury(store, 1, 2)
    await bury(store, 1, sink="archive")
    assert await store.requeue(all_dead=True, sink="archive") == 1
    assert await store.requeue([ref(1).message_id]) == 2
    assert await store.requeue(all_dead=True) == 1
    assert await store.requeue(all_dead=True) == 0
    assert await store.requeue([999_999, "msg_unknown"]) == 0
    one, two = await claim(store)
    await store.resolve([later(one, clock() + DAY), later(two, clock() + DAY)])
    assert await store.requeue([one.id]) == 1
    (sooner,) = await claim(store)
    assert (sooner.id, sooner.attempts) == (one.id, 1)


async def test_what_a_person_drops_is_gone_and_shown_as_dropped(store: Store) -> None:
    """Waiting and dead deliveries can be dropped; one that is in hand is left alone."""
    await accept(store, [1, 2, 3])
    one, two = await claim(store, limit=2)
    await store.resolve([dead(one)])
    waiting = (await store.deliveries(state="queued"))[0]
    assert await store.drop([one.id, two.id, waiting.id]) == 2
    assert await claim(store) == []
    assert await store.resolve([done(two)]) == [done(two)]
    states = [(row.ref.uid, row.state) for row in await store.messages()]
    assert states == [(3, "dropped"), (2, "delivered"), (1, "dropped")]


async def test_a_replay_delivers_again_under_the_same_id(store: Store) -> None:
    """The receiver sees the same webhook-id, a counted replay and the next sequence number."""
    await accept(store, [1, 2])
    await bury(store)
    for count in (1, 2):
        assert await store.replay([ref(1).message_id]) == 1
        (again,) = await claim(store)
        assert (again.event_id, again.replay, again.attempts) == (ref(1).message_id, count, 0)
        assert (again.sequence, again.mail and again.mail.raw) == (2 + count, mail(1).raw)
        await store.resolve([done(again)])
    assert await store.replay(["msg_unknown"]) == 0


async def test_a_replay_doubles_nothing_that_still_waits(store: Store) -> None:
    """An open delivery is not queued a second time; a dead letter is superseded."""
    await accept(store, [1, 2])
    one, _two = await claim(store)
    await store.resolve([dead(one)])
    assert await store.replay([ref(1).message_id, ref(2).message_id]) == 1
    assert await store.deliveries(state="dead") == []
    (again,) = await claim(store)
    await store.resolve([done(again)])
    assert [row.state for row in await store.messages(state="delivered")] == ["delivered"]


async def test_a_replay_of_a_time_goes_to_the_sinks_that_are_named(
    store: Store, clock: Clock
) -> None:
    """Everything of a mailbox since a moment, to one webhook, also one that never had it."""
    await accept(store, [1])
    start = clock.advance(60)
    await accept(store, [2, 3])
    await bury(store)
    assert await store.replay(mailbox="alarm", since=start, sink="archive") == 2
    fresh = await claim(store, "archive")
    assert [(uids([one]), one.replay) for one in fresh] == [([2], 0), ([3], 0)]
    assert await store.replay(mailbox="alarm", since=start, sinks=["erp", "archive"]) == 2
    assert uids(await claim(store)) == [2, 3]
    assert await store.replay(mailbox="office", since=start) == 0


async def test_a_notice_can_be_replayed(store: Store) -> None:
    """An event that is not a mail is repeated with its data."""
    await store.notify([notice("msg_n", why="x")], ["erp"])
    assert await store.replay(["msg_n"]) == 0
    await store.resolve([dead(one) for one in await claim(store)])
    assert await store.replay(["msg_n"]) == 1
    (again,) = await claim(store)
    assert (again.body, again.replay) == ({"why": "x"}, 1)
    assert await store.deliveries(state="dead") == []


async def purge(store: Store, now: datetime, **limits: Any) -> Purged:
    """Apply retention at this moment until it has nothing left to do; returns the sum."""
    clock = store._now
    assert isinstance(clock, Clock)
    before = clock()
    clock.set(now)
    try:
        return await purge_all(store, now, **limits)
    finally:
        clock.set(before)


async def purge_all(store: Store, now: datetime, **limits: Any) -> Purged:
    wanted = {"delivered": 30, "dead": 90, "log": 180} | limits
    size = wanted.pop("limit", 500)
    total = Purged()
    for _ in range(100):
        step = await store.purge(
            **{f"{name}_before": now - timedelta(days=days) for name, days in wanted.items()},
            limit=size,
        )
        total = Purged(
            raw=total.raw + step.raw,
            dead_letters=total.dead_letters + step.dead_letters,
            messages=total.messages + step.messages,
            notices=total.notices + step.notices,
        )
        if not step.more:
            return total
    raise AssertionError("retention never ends")


async def test_retention_takes_raw_bytes_then_dead_letters_then_the_log(
    store: Store, clock: Clock
) -> None:
    """Each goes at its age and not a day before; the place of a mail stays for good."""
    await accept(store, [1, 2], settles=False)
    await bury(store, 2)
    assert await purge(store, clock() + 29 * DAY) == Purged()
    assert await purge(store, clock() + 31 * DAY) == Purged(raw=1)
    assert await store.raw(ref(1).message_id) is None
    assert await store.raw(ref(2).message_id) == mail(2).raw
    assert await purge(store, clock() + 91 * DAY) == Purged(raw=1, dead_letters=1)
    (buried,) = (await store.trace(ref(2).message_id)).deliveries
    assert (buried.state, buried.last_reason) == (
        "dropped",
        "a dead letter for longer than state.keep.dead",
    )
    assert await purge(store, clock() + 181 * DAY) == Purged(messages=2)
    assert await store.messages() == []
    assert (await store.trace(ref(1).message_id)).messages == ()
    again = await store.accept(batch(mail(1), mail(2)), address="a", settles=True)
    assert (again.new, again.known) == (0, 2)
    assert len(await store.fingerprints("alarm", "INBOX", 7)) == 2
    assert await store.check() == []


async def test_retention_never_takes_what_is_open(store: Store, clock: Clock) -> None:
    """Waiting, claimed, unsettled: nothing of it is removed by age alone."""
    await accept(store, [1, 2, 3], sinks=("erp", "archive"))
    one, two = await claim(store, limit=2)
    await store.resolve([done(one), later(two, clock() + DAY)])
    gone = await purge(store, clock() + 4000 * DAY)
    assert gone == Purged()
    assert uids(await claim(store, "archive")) == [1, 2, 3]
    assert uids(await claim(store)) == [3]


async def test_retention_keeps_what_the_server_was_not_told(store: Store, clock: Clock) -> None:
    """A message that still has to be settled stays in the log until the server knows."""
    await accept(store, [1])
    await bury(store)
    assert await purge(store, clock() + 181 * DAY) == Purged(raw=1)
    assert await store.unsettled("alarm", "INBOX", 9) == [ref(1)]
    await store.settled([ref(1)])
    assert await purge(store, clock() + 181 * DAY) == Purged(messages=1)


async def test_retention_forgets_the_places_of_a_former_epoch(store: Store, clock: Clock) -> None:
    """After UIDVALIDITY has changed, the old places recognise nothing and go with the log."""
    await accept(store, [1], settles=False)
    await bury(store)
    known = ((ref(5, epoch=8), ref(1).message_id),)
    await store.accept(batch(known=known, epoch=8, uid=5), address="a", settles=False)
    assert await purge(store, clock() + 181 * DAY) == Purged(raw=1, messages=2)
    assert await store.fingerprints("alarm", "INBOX", 7) == []
    (kept,) = await store.fingerprints("alarm", "INBOX", 8)
    assert kept.id == ref(1).message_id


async def test_retention_works_in_bounded_steps(store: Store, clock: Clock) -> None:
    """Each step looks at no more than it was told, and together they take everything."""
    await accept(store, range(1, 21), settles=False)
    await bury(store, 3, 4)
    now = clock() + 31 * DAY
    first = await store.purge(
        delivered_before=now - 30 * DAY,
        dead_before=now - 90 * DAY,
        log_before=now - 180 * DAY,
        limit=6,
    )
    assert first == Purged(raw=4, more=True)
    assert (await purge(store, now, limit=6)).raw == 14
    assert await store.raw(ref(3).message_id) == mail(3).raw


async def test_old_notices_go_with_the_log(store: Store, clock: Clock) -> None:
    """Events that are not mails do not pile up; a dead one stays as long as dead letters do."""
    await store.notify([notice("msg_1"), notice("msg_2")], ["erp"])
    one, two = await claim(store)
    await store.resolve([done(one), dead(two)])
    assert await purge(store, clock() + 89 * DAY) == Purged()
    assert await purge(store, clock() + 91 * DAY) == Purged(notices=1)
    assert await purge(store, clock() + 181 * DAY) == Purged(notices=1)
    assert (await store.trace("msg_1")).deliveries == ()


async def test_what_retention_took_cannot_be_delivered_again(store: Store, clock: Clock) -> None:
    """A replay of a mail without its bytes is refused in words, and queues nothing."""
    await accept(store, [1])
    moment = clock()
    await bury(store)
    clock.advance(31 * 86_400)
    await accept(store, [2])
    await bury(store)
    await purge(store, clock())
    with pytest.raises(PermanentError, match="removed by retention") as refused:
        await store.replay([ref(2).message_id, ref(1).message_id])
    assert refused.value.code == "store.raw_purged"
    with pytest.raises(PermanentError, match="1 of these 2 messages"):
        await store.replay(mailbox="alarm", since=moment)
    assert await claim(store) == []
    assert await store.replay(mailbox="alarm", since=clock()) == 1


async def test_check_finds_a_message_without_its_deliveries(store: Store) -> None:
    """A broken promise in the database is said in a sentence; a sound store has none."""
    await accept(store, [1, 2])
    assert await store.check() == []
    await store._access.database.run(
        lambda connection: connection.exec_driver_sql(
            "DELETE FROM deliveries WHERE message = (SELECT min(pk) FROM messages)"
        )
    )
    await store._access.database.run(
        lambda connection: connection.exec_driver_sql(
            "DELETE FROM raw WHERE message = (SELECT max(pk) FROM messages)"
        )
    )
    assert await store.check() == [
        "1 messages without the deliveries they were routed to",
        "1 messages whose raw bytes are missing",
        "1 open deliveries whose raw bytes are missing",
    ]
