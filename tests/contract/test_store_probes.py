"""Test mails in the store: recognised once, by all that they are put down with, and judged once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailbridge.model import (
    Accepted,
    Batch,
    Deferred,
    Delivered,
    Delivery,
    Done,
    Notice,
    Outgoing,
    RawMessage,
    Resolution,
    Retry,
    Step,
)
from mailbridge.retry import too_old
from mailbridge.store.base import Expected
from mailbridge.store.rows import ProbeOutcome
from mailbridge.store.store import Store
from mailbridge.test_mail import MarkedMail, compose, mark_of
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import NOON, batch, claim, mail, ref

ADDRESS = "alarm@feuerwehr.example"


def marked() -> MarkedMail:
    return compose(sender=ADDRESS, to=ADDRESS, at=NOON)


def expected(mail: MarkedMail, **changes: object) -> Expected:
    made = Expected(
        mailbox="alarm",
        nonce=mail.nonce,
        message_id=mail.message_id,
        webhooks=("erp",),
        scheduled=True,
        within=timedelta(minutes=5),
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # a test names what it changes


def arrived(one: MarkedMail, uid: int) -> RawMessage:
    raw = b"Received: from somewhere\r\n" + one.raw
    return RawMessage(ref=ref(uid), raw=raw, received_at=NOON)


def marks(*messages: RawMessage) -> Mapping[str, str]:
    return {one.ref.message_id: mark_of(one.raw) or "" for one in messages}


async def take(store: Store, *messages: RawMessage, **more: Any) -> Accepted:
    made: Batch = batch(*messages, sinks=("erp", "siren"), marks=marks(*messages), **more)
    return await store.accept(made, address=ADDRESS, settles=True)


async def kinds(store: Store, sink: str) -> list[str]:
    return [one.type for one in await claim(store, sink)]


async def test_a_test_mail_is_recognised_once(store: Store) -> None:
    """The first that has nonce and Message-ID is the test; a copy, even beside it, is a mail."""
    one = marked()
    assert await store.probes.expect(expected(one))
    assert await take(store, arrived(one, 1), arrived(one, 2)) == Accepted(new=2, known=0, tests=1)
    assert await take(store, arrived(one, 3)) == Accepted(new=1, known=0, tests=0)
    states = {row.ref.uid: row.state for row in await store.messages()}
    assert states == {1: "test", 2: "accepted", 3: "accepted"}
    assert sorted(await kinds(store, "erp")) == ["mail.received"] * 2 + ["test.ping"]
    assert await kinds(store, "siren") == ["mail.received"] * 2


async def test_a_mail_that_was_sent_twice_is_no_alarm(store: Store, clock: Clock) -> None:
    """After a lost answer our own second copy is a test, too; a third is a mail like any other."""
    one = marked()
    await store.probes.expect(expected(one))
    await store.sends.accept(
        Outgoing(
            id="out_" + "A" * 26,
            mailbox="alarm",
            sender=ADDRESS,
            recipients=(ADDRESS,),
            message_id=one.message_id,
            raw=one.raw,
            via="probe",
        )
    )
    [first] = await claim(store, "send:alarm")
    assert (await take(store, arrived(one, 1))).tests == 1
    lost = Resolution(
        delivery=first,
        outcome=Deferred(reason="lost"),
        decision=Retry(due_at=clock()),
        started_at=clock(),
        seconds=1.0,
    )
    await store.resolve([lost])
    assert [mail.send is not None for mail in await claim(store, "send:alarm")] == [True]
    assert (await take(store, arrived(one, 2), arrived(one, 3))).tests == 1
    assert await kinds(store, "siren") == ["mail.received"]
    assert sorted(await kinds(store, "erp")) == ["mail.received", "test.ping"]


@pytest.mark.parametrize(
    "changes",
    [{"mailbox": "other"}, {"message_id": "<other@feuerwehr.example>"}, {"nonce": "a" * 26}],
)
async def test_all_three_have_to_fit(store: Store, changes: dict[str, str]) -> None:
    """Another mailbox, Message-ID or nonce than what was put down: it is a mail."""
    one = marked()
    await store.probes.expect(expected(one, **changes))
    assert (await take(store, arrived(one, 1))).tests == 0
    assert await kinds(store, "siren") == ["mail.received"]


async def test_an_old_one_is_a_mail(store: Store, clock: Clock) -> None:
    """Whoever keeps a test mail for a week has nothing in his hands."""
    one, other = marked(), marked()
    await store.probes.expect(expected(one))
    clock.advance(7 * 86400 + 1)
    assert (await take(store, arrived(one, 1))).tests == 0
    await store.probes.end(one.nonce, "missed")
    await store.probes.expect(expected(other))
    assert await store.probes.probe("alarm", one.nonce) is None


async def test_a_test_touches_nothing_of_the_mails(store: Store) -> None:
    """No ruling, no drift, no duplicate, no last message; it is settled like every mail."""
    one = marked()
    await store.probes.expect(expected(one))
    message = arrived(one, 1)
    step = Step(
        route="alarm",
        verdict="deliver",
        reason="",
        webhooks=("siren",),
        duplicate_key="same",
        duplicate_within=timedelta(minutes=5),
        wanted=("keyword",),
    )
    await take(store, message, rulings={message.ref.message_id: (step,)})
    real = mail(2)
    await take(store, real, rulings={real.ref.message_id: (step,)})
    trace = await store.trace(message.ref.message_id)
    [siren] = await claim(store, "siren")
    assert (siren.event_id, siren.type) == (real.ref.message_id, "mail.received")
    assert trace.rulings == ()
    assert len(await store.unsettled("alarm", "INBOX", 10)) == 2


async def test_the_last_message_is_no_test(store: Store) -> None:
    """What `status` calls the last message is a mail."""
    one = marked()
    await store.probes.expect(expected(one))
    await take(store, arrived(one, 1))
    [folder] = (await store.counts()).folders
    assert (folder.last_accepted_at, folder.checkpoint.uid) == (None, 1)
    assert await store.messages(state="unrouted") == []
    assert [row.ref.uid for row in await store.messages(state="test")] == [1]


async def test_nothing_delivers_a_test_as_a_mail(store: Store) -> None:
    """Neither a replay of its mailbox, nor of itself, nor under the place it is known by later."""
    one = marked()
    await store.probes.expect(expected(one))
    message = arrived(one, 1)
    await take(store, message)
    [ping] = await claim(store, "erp")
    await done(store, ping)
    name = message.ref.message_id
    later = ref(1, epoch=8)
    known = replace(batch(uid=1, epoch=8), known=((later, name),))
    await store.accept(known, address=ADDRESS, settles=False)
    assert await store.replay(mailbox="alarm", sinks=["siren"]) == 0
    assert await store.replay([later.message_id], sinks=["siren"]) == 0
    assert await store.replay([name], sinks=["siren"]) == 1
    assert await kinds(store, "siren") == []
    assert await kinds(store, "erp") == ["test.ping"]


async def done(store: Store, *deliveries: Delivery) -> None:
    await store.resolve(
        [
            Resolution(
                delivery=one,
                outcome=Delivered(status=200),
                decision=Done(),
                started_at=NOON,
                seconds=0.1,
            )
            for one in deliveries
        ]
    )


async def test_it_is_through_when_every_webhook_has_it(store: Store, clock: Clock) -> None:
    """Seen, and told to all of its webhooks: only then is there a moment of delivery."""
    one = marked()
    await store.probes.expect(expected(one, webhooks=("erp", "log")))
    begun = clock()
    clock.advance(2)
    await take(store, arrived(one, 1))
    clock.advance(1)
    await done(store, *await claim(store, "erp"))
    [half] = await store.probes.waiting()
    clock.advance(1)
    await done(store, *await claim(store, "log"))
    [row] = await store.probes.waiting()
    assert half.delivered_at is None
    assert [one.delivered_at is None for one in half.told] == [False, True]
    assert (row.begun_at, row.due_at) == (begun, begun + timedelta(minutes=5))
    assert row.seen_at == begun + timedelta(seconds=2)
    assert row.delivered_at == begun + timedelta(seconds=4)


async def test_one_scheduled_probe_of_a_mailbox_is_open(store: Store) -> None:
    """Of hosts that begin at the same moment one does; commands are free to test meanwhile."""
    mails = [marked() for _ in range(4)]
    begun = await asyncio.gather(*(store.probes.expect(expected(one)) for one in mails))
    assert sorted(begun) == [False, False, False, True]
    assert await store.probes.expect(expected(marked(), scheduled=False))
    assert await store.probes.expect(expected(marked(), mailbox="other"))
    [alarm] = [row for row in await store.probes.waiting() if row.mailbox == "alarm"]
    assert await store.probes.end(alarm.nonce, "passed")
    assert await store.probes.expect(expected(marked()))


async def test_it_is_judged_once_and_told_once(store: Store) -> None:
    """Whoever judges second changes nothing and tells nothing; late comes only what was missed."""
    one = marked()
    await store.probes.expect(expected(one))
    notice = Notice(
        id="msg_A", type="probe.missed", mailbox="alarm", at=NOON, data={"stage": "seen"}
    )
    found = {"stage": "seen", "cause": "no\x00where"}
    end = store.probes.end
    assert not await end(one.nonce, "late")
    judged = await asyncio.gather(
        *(end(one.nonce, "missed", notice=notice, sinks=["erp"], found=found) for _ in range(3))
    )
    assert sorted(judged) == [False, False, True]
    assert await kinds(store, "erp") == ["probe.missed"]
    assert await store.probes.waiting() == []
    [row] = await store.probes.waiting([one.nonce])
    assert (row.outcome, row.found["stage"]) == ("missed", "seen")
    assert await end(one.nonce, "late")
    assert not await end(one.nonce, "passed")
    assert [row.outcome for row in await store.probes.last("late")] == ["late"]
    assert list(await store.probes.last("missed")) == []


async def test_the_last_of_each_mailbox_is_found(store: Store, clock: Clock) -> None:
    """After a start the daemon knows how the last one of every mailbox went."""
    ended: list[tuple[str, ProbeOutcome]]
    ended = [("a", "passed"), ("a", "missed"), ("b", "missed"), ("b", "void")]
    for name, outcome in ended:
        one = marked()
        await store.probes.expect(expected(one, mailbox=name))
        await store.probes.end(one.nonce, outcome)
        clock.advance(60)
    last = {row.mailbox: row.outcome for row in await store.probes.last("passed", "missed")}
    assert last == {"a": "missed", "b": "missed"}
    assert {row.mailbox for row in await store.probes.last("passed")} == {"a"}


async def test_a_restart_keeps_what_was_put_down(url: str, open_store: OpenStore) -> None:
    """A crash between the announcement and the mail's arrival forgets nothing."""
    one = marked()
    first = await open_store(url)
    await first.probes.expect(expected(one))
    await first.close()
    second = await open_store(url)
    assert (await take(second, arrived(one, 1))).tests == 1


async def test_a_test_does_not_hold_up_a_strict_webhook_for_long(
    store: Store, clock: Clock
) -> None:
    """Where one event waits for the other, a test that is not taken gives way to the mails."""
    await store.outages.keep_order("erp", strict=True)
    one = marked()
    await store.probes.expect(expected(one))
    await take(store, arrived(one, 1), mail(2))
    [head] = await claim(store, "erp", ordered=True)
    now = clock()
    assert head.type == "mail.received"
    await done(store, head)
    [ping] = await claim(store, "erp", ordered=True)
    assert ping.type == "test.ping"
    assert too_old(ping, now.astimezone(UTC)) is None
    assert too_old(ping, datetime.fromtimestamp(now.timestamp() + 301, UTC)) is not None
