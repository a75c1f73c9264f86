"""What a person and a program see of mails that are to be sent, and may do to them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from mailbridge.errors import PermanentError
from mailbridge.store import outgoing as claims
from mailbridge.store import sends_lookup, sends_purge
from mailbridge.store.base import Bounce
from mailbridge.store.sends_purge import KEYS
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import NOON, accept, claim
from tests.contract.sendings import (
    SINK,
    TWO,
    again,
    claim_one,
    events,
    keyed,
    open_to,
    outgoing,
    over,
    queued,
    status,
    told,
    unwanted,
    well,
)

A, B = TWO
DAY = timedelta(days=1)


async def sent(store: Store, number: int, *recipients: str, **more: Any) -> None:
    """Let a mail be accepted and sent to everybody."""
    delivery = await queued(store, number, *recipients, **more)
    await store.sends.answered(delivery, told("taken", *open_to(delivery)))
    await store.resolve([well(delivery)])


# --- status and trace


async def test_status_says_where_a_mail_is(store: Store, clock: Clock) -> None:
    """Each step of a mail has a name of its own, until its end."""
    assert await store.sends.status("out_1") is None
    await store.sends.accept(outgoing(1))
    shown = [(await status(store)).state]
    first = await claim_one(store)
    shown.append((await status(store)).state)
    await store.resolve([again(first, clock() + DAY, "450 greylisted")])
    row = await status(store)
    assert (row.state, row.due_at, row.reason) == ("deferred", clock() + DAY, "450 greylisted")
    assert (row.attempts, row.ended_at, row.via, row.raw_kept) == (1, None, "api", True)
    clock.advance(86_400)
    second = await claim_one(store)
    await store.sends.answered(second, told("taken", *TWO, reply="250 queued as X"))
    await store.resolve([well(second)])
    row = await status(store)
    assert shown == ["queued", "sending"]
    assert (row.state, row.ended_at, row.due_at) == ("sent", clock(), None)
    assert (row.reply, row.recipients[1].reply) == ("250 queued as X", "250 queued as X")


async def test_a_trace_finds_a_mail_by_any_name(store: Store, clock: Clock) -> None:
    """Outgoing id, Message-ID with and without brackets, and number lead to one story."""
    await accept(store, [1])
    first = await queued(store)
    await store.resolve([again(first, clock())])
    whole = await store.trace("out_1")
    assert [one.id for one in whole.sends] == ["out_1"]
    assert [(one.sink, one.state) for one in whole.deliveries] == [(SINK, "deferred")]
    assert [one.reason for one in whole.attempts] == ["450 later"]
    assert whole.messages == ()
    for name in ("<1@feuerwehr.example>", "1@feuerwehr.example", str(first.id)):
        assert await store.trace(name) == whole
    assert (await store.trace("out_2")).sends == ()
    assert [row.ref.uid for row in await store.messages()] == [1]


async def test_mails_with_one_message_id_are_all_found(store: Store, clock: Clock) -> None:
    """A program that reuses a Message-ID does not hide one mail behind another."""
    for number in (1, 2):
        await store.sends.accept(outgoing(number, message_id="<same@x>"))
        clock.advance(1)
    assert [row.id for row in await store.sends.find("<same@x>")] == ["out_2", "out_1"]
    assert [row.id for row in await store.sends.find("same@x")] == ["out_2", "out_1"]
    assert await store.sends.find("other@x") == []


async def test_counts_tell_what_waits_to_be_sent(store: Store, clock: Clock) -> None:
    """``status`` shows for each mailbox that sends what waits, is dead, is held."""
    for number in range(5):
        await store.sends.accept(outgoing(number))
    await store.sends.accept(outgoing(9, mailbox="office"))
    one, two, three = await claim(store, SINK, limit=3)
    await store.sends.in_doubt(two, TWO)
    await store.resolve([over(one), unwanted(two, clock()), again(three, clock() + DAY)])
    alarm, office = [one for one in (await store.counts()).sinks if one.sink.startswith("send:")]
    shown = (alarm.sink, alarm.queued, alarm.deferred, alarm.dead, alarm.held)
    assert shown == (SINK, 2, 1, 1, 1)
    assert (office.sink, office.queued) == ("send:office", 1)


# --- the budget


async def test_the_budget_outlasts_a_restart(url: str, open_store: OpenStore, clock: Clock) -> None:
    """What was submitted in the last day is known, with its time; what is in doubt counts too."""
    store = await open_store(url)
    await sent(store, 1, *(f"r{n}@example.org" for n in range(5)))
    clock.advance(86_400 - 30)
    near = clock()
    await sent(store, 2)
    clock.advance(10)
    later = clock()
    doubt = await queued(store, 4)
    await store.sends.in_doubt(doubt, [A])
    refused = await queued(store, 5)
    await store.sends.answered(refused, told("refused", *TWO))
    await store.close()
    store = await open_store(url)
    began = near - timedelta(seconds=86_400 - 30)
    assert await store.sends.spent("alarm") == [(began, 5), (near, 2), (later, 1), (later, 2)]
    clock.advance(20)
    assert await store.sends.spent("alarm") == [(near, 2), (later, 1), (later, 2)]
    assert await store.sends.spent("office") == []


async def test_the_budget_and_status_go_by_indexes(sqlite_url: str, open_store: OpenStore) -> None:
    """However many mails there are, none of these looks at all of them."""
    store = await open_store(sqlite_url)
    await store.sends.accept(outgoing(1))

    def plans(connection: sa.Connection) -> list[str]:
        found = []
        for statement in (
            sends_lookup.SPENT,
            sends_lookup.UNSURE,
            sends_lookup.CLAIMED,
            claims.SENDS_DUE,
            sends_purge.STEP,
            sends_purge.OLD_KEYS,
        ):
            compiled = statement.compile(connection.engine)
            values = {**dict.fromkeys(compiled.params, 1), "ids": json.dumps([1])}
            given = [values[name] for name in compiled.positiontup or ()]
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", tuple(given))
            found += [row.detail for row in rows]
        return found

    lines = await store._access.database.run(plans)
    assert [one for one in lines if one.startswith("SCAN") and "json_each" not in one] == []
    used = " ".join(lines)
    for index in ("recipients_at", "sends_in_doubt", "deliveries_due", "sends_kept"):
        assert index in used


# --- retry, drop, replay


async def test_a_retry_reaches_those_who_do_not_have_it(store: Store, clock: Clock) -> None:
    """A person's retry asks again for the refused ones, and for nobody who has the mail."""
    first = await queued(store, 1, A, B, "c@example.org")
    await store.sends.answered(first, told("taken", A) + told("refused", B))
    await store.resolve([over(first)])
    assert (await status(store)).state == "failed"
    clock.advance(60)
    assert await store.requeue(["out_1"]) == 1
    second = await claim_one(store)
    assert (open_to(second), second.attempts) == ((B, "c@example.org"), 0)
    assert second.first_due_at == clock()
    await store.resolve([over(second)])
    assert await store.requeue(all_dead=True, sink="erp") == 0
    assert await store.requeue(all_dead=True, sink=SINK) == 1
    assert open_to(await claim_one(store)) == (B, "c@example.org")
    assert len({one.event_id for one in await events(store)}) == 2


async def test_a_held_mail_is_looked_for_before_it_goes_again(store: Store, clock: Clock) -> None:
    """A retry by hand leaves the doubt in place, and says that nobody need be asked again."""
    first = await queued(store)
    await store.sends.in_doubt(first, [A])
    await store.resolve([unwanted(first, clock(), "nobody knows")])
    assert await store.requeue(all_dead=True) == 0
    assert await store.requeue([str(first.id)]) == 1
    second = await claim_one(store)
    assert second.send is not None
    assert (second.send.doubtful, second.send.released) == ((A,), True)
    assert second.send.in_doubt_at is not None
    await store.sends.in_doubt(second, [A])
    await store.resolve([again(second, clock())])
    third = await claim_one(store)
    assert third.send is not None
    assert not third.send.released


async def test_a_waiting_mail_in_doubt_stays_so_when_it_is_hurried(
    store: Store, clock: Clock
) -> None:
    """To make a waiting mail due now is no leave to send it without a look."""
    first = await queued(store)
    await store.sends.in_doubt(first, TWO)
    await store.resolve([again(first, clock() + DAY)])
    assert await store.requeue(["out_1"]) == 1
    second = await claim_one(store)
    assert second.send is not None
    assert second.send.in_doubt_at is not None
    assert not second.send.released


async def test_a_dropped_mail_goes_nowhere(store: Store, clock: Clock) -> None:
    """Dropped is over; if the server may have it, that is said. What is in hand is left alone."""
    held, in_hand = await queued(store, 1), await queued(store, 2)
    await store.sends.in_doubt(held, TWO)
    await store.resolve([unwanted(held, clock())])
    await store.sends.accept(outgoing(3))
    assert await store.drop(["out_1", "out_2", "out_3"]) == 2
    rows = [await status(store, number) for number in (1, 2, 3)]
    assert [row.state for row in rows] == ["dropped", "sending", "dropped"]
    assert "may have taken it" in rows[0].reason
    assert rows[2].reason == "dropped by a person"
    assert await claim(store, SINK) == []
    assert await store.requeue(["out_1", "out_3"]) == 0
    await store.sends.in_doubt(in_hand, TWO)


async def test_a_replay_does_not_send_mail(store: Store) -> None:
    """What was sent is not sent again by asking for its events."""
    await accept(store, [1])
    await store.resolve([well(one) for one in await claim(store)])
    await sent(store, 1)
    assert await store.replay(["out_1"]) == 0
    assert await store.replay(["out_1"], sink="erp") == 0
    assert await store.replay(mailbox="alarm") == 1
    assert await claim(store, SINK) == []


# --- bounces


async def test_a_bounce_is_noted_and_told_once(store: Store, clock: Clock) -> None:
    """A report that comes twice is one; that for another recipient is another."""
    await sent(store, 1)
    await events(store)

    at, report = clock(), "5.1.1 no such user"

    async def back(recipient: str, message_id: str = "<1@feuerwehr.example>") -> str | None:
        bounce = Bounce(message_id=message_id, recipient=recipient, report=report, at=clock())
        return await store.sends.bounced(bounce, ["ops"])

    assert await back("A@EXAMPLE.org") == "out_1"
    clock.advance(60)
    assert await back(A) == "out_1"
    clock.set(at)
    assert await back(B, "1@feuerwehr.example") == "out_1"
    assert await back("forwarded@elsewhere.example") == "out_1"
    assert await back("again@elsewhere.example") == "out_1"
    assert await back(A, "<none@of.ours>") is None
    heard = await events(store)
    assert [one.type for one in heard] == ["send.failed"] * 3
    bodies = [one.body or {} for one in heard]
    assert [body["recipient"] for body in bodies] == [A, B, "forwarded@elsewhere.example"]
    assert all(body["bounced"] and body["reason"] == "5.1.1 no such user" for body in bodies)
    row = await status(store)
    assert row.state == "sent"
    assert [(one.recipient, one.at) for one in row.bounces] == [
        (A, clock()),
        (B, clock()),
        ("", clock()),
    ]


async def test_a_bounce_finds_the_mail_to_its_recipient(store: Store) -> None:
    """Of mails that share a Message-ID, the one that went to whom the report speaks of."""
    await sent(store, 1, A, message_id="<same@x>")
    await sent(store, 2, B, message_id="<same@x>")
    bounce = Bounce(message_id="same@x", recipient=A, report="full", at=NOON)
    assert await store.sends.bounced(bounce, []) == "out_1"
    assert [one.report for one in (await status(store, 1)).bounces] == ["full"]
    assert (await status(store, 2)).bounces == ()


# --- retention


async def test_retention_takes_what_is_over_and_nothing_else(store: Store, clock: Clock) -> None:
    """Bytes go first, rows later; what waits, is held or in doubt stays, however old."""
    await sent(store, 1)
    dead, held = await queued(store, 2), await queued(store, 3)
    await store.sends.in_doubt(held, TWO)
    await store.resolve([over(dead), unwanted(held, clock())])
    await store.sends.accept(outgoing(4))
    clock.advance(10 * 86_400)
    month = clock() - 30 * DAY
    done = await store.purge(delivered_before=clock(), dead_before=month, log_before=month)
    assert (done.sent, done.more) == (1, False)
    kept = [(await status(store, number)).raw_kept for number in (1, 2, 3, 4)]
    assert kept == [False, True, True, True]
    await store.purge(delivered_before=clock(), dead_before=clock(), log_before=clock())
    await store.purge(delivered_before=clock(), dead_before=clock(), log_before=clock())
    assert await store.sends.status("out_1") is None
    assert await store.sends.status("out_2") is None
    assert [(await status(store, number)).state for number in (3, 4)] == ["held", "queued"]
    assert await store.requeue(["out_3"]) == 1
    assert len(await claim(store, SINK)) == 2


async def test_a_dead_mail_ends_with_its_bytes(store: Store, clock: Clock) -> None:
    """Nobody is offered a retry of a mail that is not here any more."""
    dead = await queued(store)
    await store.resolve([over(dead)])
    clock.advance(86_400)
    await store.purge(delivered_before=clock(), dead_before=clock(), log_before=clock() - 30 * DAY)
    assert (await status(store)).state == "dropped"
    assert await store.requeue(["out_1"]) == 0
    assert await store.requeue(all_dead=True) == 0


async def test_a_retry_without_bytes_is_refused(store: Store) -> None:
    """Should the bytes of a dead letter be gone, a person is told, and nothing changes."""
    dead = await queued(store)
    await store.resolve([over(dead)])
    await store._access.run(lambda found: found.execute(sa.text("DELETE FROM send_raw")))
    for asked in ({"ids": ["out_1"]}, {"all_dead": True}):
        with pytest.raises(PermanentError, match="cannot be sent again"):
            await store.requeue(**asked)
    assert (await status(store)).state == "failed"


async def test_keys_are_kept_for_a_week_and_no_longer(store: Store, clock: Clock) -> None:
    """A request may be repeated for seven days, whatever else retention takes."""
    await store.sends.accept(keyed(1, "k"))
    now = clock()
    clock.advance(7 * 86_400)
    await store.purge(delivered_before=now, dead_before=now, log_before=now)
    assert (await store.sends.accept(keyed(2, "k"))).known
    clock.advance(KEYS / 1_000_000)
    await store.purge(delivered_before=now, dead_before=now, log_before=now)
    assert not (await store.sends.accept(keyed(3, "k"))).known


async def test_a_number_that_no_delivery_can_have_means_nothing(store: Store) -> None:
    """A person who types too many digits hears that there is no such thing, on both databases."""
    await queued(store)
    for name in (str(2**63), "9" * 5000):
        trace = await store.trace(name)
        assert (trace.sends, trace.deliveries, trace.messages) == ((), (), ())
        assert await store.requeue([name]) == 0
        assert await store.drop([name]) == 0
