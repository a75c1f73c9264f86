"""What comes in: one transaction for mail, deliveries, gaps and checkpoint, on both databases."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from mailbridge.errors import TemporaryError
from mailbridge.model import Accepted, MessageRef, RawMessage
from mailbridge.store import incoming
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import (
    NOON,
    accept,
    batch,
    checkpoint,
    claim,
    done,
    gap,
    mail,
    notice,
    ref,
    uids,
)


async def test_an_accepted_mail_comes_back_to_the_byte(store: Store, clock: Clock) -> None:
    """What is claimed is what was accepted: bytes, digest, place, times, address."""
    one = mail(11, size=300_000)
    accepted = await store.accept(batch(one), address="alarm@feuerwehr.example", settles=True)
    (delivery,) = await claim(store)
    assert accepted == Accepted(new=1, known=0)
    assert delivery.event_id == one.ref.message_id
    assert (delivery.type, delivery.attempts, delivery.replay) == ("mail.received", 0, 0)
    assert (delivery.created_at, delivery.first_due_at) == (clock(), clock())
    stored = delivery.mail
    assert stored is not None
    assert (stored.raw, stored.ref, stored.received_at) == (one.raw, one.ref, NOON)
    assert stored.raw_sha256 == hashlib.sha256(one.raw).hexdigest()
    assert (stored.address, stored.accepted_at) == ("alarm@feuerwehr.example", clock())


async def test_the_checkpoint_comes_back_as_it_was_written(store: Store) -> None:
    """A restart continues exactly where the last commit stood, dates and baseline included."""
    assert await store.checkpoint("alarm", "INBOX") is None
    written = replace(
        checkpoint(99), baseline_uid=40, since=date(2026, 11, 1), uidvalidity=2**32 - 1
    )
    await store.accept(replace(batch(), checkpoint=written), address="a@b", settles=False)
    assert await store.checkpoint("alarm", "INBOX") == written
    later = replace(written, uid=100, since=None)
    await store.accept(replace(batch(), checkpoint=later), address="a@b", settles=False)
    assert await store.checkpoint("alarm", "INBOX") == later
    assert await store.checkpoint("alarm", "Archive") is None


async def test_what_was_accepted_survives_reopening(
    url: str, open_store: OpenStore, clock: Clock
) -> None:
    """Close and open: mail, checkpoint, gaps and settle work are all still there."""
    first = await open_store(url)
    await first.accept(batch(mail(1), mail(2), gaps=(gap(3),), uid=3), address="a", settles=True)
    await first.close()
    again = await open_store(url)
    assert uids(await claim(again)) == [1, 2]
    assert await again.checkpoint("alarm", "INBOX") == checkpoint(3)
    assert [one.uid for one in await again.unsettled("alarm", "INBOX", 9)] == [1, 2]
    clock.advance(600)
    assert await again.gaps_due("alarm", "INBOX", clock()) == [gap(3)]


@pytest.mark.parametrize(
    "step", ["_write_raw", "_route", "_close_gaps", "_write_gaps", "_write_checkpoint"]
)
async def test_a_fault_in_the_middle_of_accept_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """All or nothing: a fault at any step leaves no row, and the same batch is accepted later."""
    whole = batch(mail(1), mail(2), gaps=(gap(3),), sinks=("erp", "archive"), uid=3)

    def fail(*_arguments: Any, **_named: Any) -> None:
        raise sa.exc.DBAPIError("x", {}, RuntimeError("fault"))

    with monkeypatch.context() as patched:
        patched.setattr(incoming, step, fail)
        with pytest.raises(TemporaryError):
            await store.accept(whole, address="a", settles=True)
    assert await store.checkpoint("alarm", "INBOX") is None
    assert await store.messages() == []
    assert await store.unsettled("alarm", "INBOX", 9) == []
    assert await claim(store) == []
    assert await store.accept(whole, address="a", settles=True) == Accepted(new=2, known=0)
    assert [one.sequence for one in await claim(store)] == [1, 2]


async def test_a_known_place_is_not_accepted_twice(store: Store) -> None:
    """A mail that is listed again after a crash makes no second delivery."""
    await accept(store, [1, 2])
    again = await store.accept(batch(mail(2), mail(3)), address="a", settles=True)
    assert again == Accepted(new=1, known=1)
    assert uids(await claim(store)) == [1, 2, 3]


async def test_one_place_twice_in_a_batch_is_one_mail(store: Store) -> None:
    """A server that lists a UID twice does not make two deliveries of it."""
    accepted = await store.accept(batch(mail(1), mail(1)), address="a", settles=True)
    assert accepted == Accepted(new=1, known=1)
    assert uids(await claim(store)) == [1]


async def test_the_same_uid_elsewhere_is_another_mail(store: Store) -> None:
    """Folder, epoch, mailbox and protocol all belong to the place."""
    places = [
        mail(1),
        mail(1, folder="Archive"),
        mail(1, epoch=8),
        mail(1, mailbox="office"),
        RawMessage(
            ref=MessageRef(mailbox="alarm", folder="INBOX", protocol="pop3", uidl="1"), raw=b"x"
        ),
    ]
    assert await store.accept(batch(*places), address="a", settles=True) == Accepted(new=5, known=0)
    claimed = await claim(store)
    assert len({one.event_id for one in claimed}) == 5
    assert {one.mail.ref for one in claimed if one.mail} == {one.ref for one in places}


async def test_each_sink_gets_each_mail_once_under_its_own_sequence(store: Store) -> None:
    """Sequence numbers count per mailbox and sink without holes, over batches and notices."""
    await accept(store, [1, 2], sinks=("erp", "archive", "erp"))
    await accept(store, [3], sinks=("erp",))
    await store.notify([notice("msg_n")], ["archive"])
    assert [one.sequence for one in await claim(store, "erp")] == [1, 2, 3]
    assert [one.sequence for one in await claim(store, "archive")] == [1, 2, 3]


async def test_a_mail_for_no_sink_is_logged_as_unrouted(store: Store) -> None:
    """A mail that no webhook is to get is accepted, settled and shown, and owes no delivery."""
    await accept(store, [1], sinks=())
    (row,) = await store.messages()
    assert (row.state, row.settled) == ("unrouted", False)
    assert await store.check() == []


async def test_settling_is_repeated_until_the_store_knows(store: Store) -> None:
    """What the server was not told is listed, oldest first and bounded, until it is marked."""
    await accept(store, [3, 1, 2])
    await accept(store, [4], settles=False)
    first = await store.unsettled("alarm", "INBOX", 2)
    assert [one.uid for one in first] == [3, 1]
    await store.settled(first)
    await store.settled(first)
    assert [one.uid for one in await store.unsettled("alarm", "INBOX", 2)] == [2]
    assert await store.unsettled("alarm", "Archive", 2) == []


async def test_a_gap_lives_until_its_mail_comes(store: Store, clock: Clock) -> None:
    """A gap is due at its time, keeps its first moment over tries, and closes with its mail."""
    await store.accept(batch(mail(1), gaps=(gap(2),), uid=2), address="a", settles=True)
    assert await store.gaps_due("alarm", "INBOX", clock()) == []
    clock.advance(301)
    assert await store.gaps_due("alarm", "INBOX", clock()) == [gap(2)]
    second = gap(2, tries=2, minutes=10, reason="timeout")
    await store.accept(batch(gaps=(second,), uid=2), address="a", settles=True)
    assert await store.gaps_due("alarm", "INBOX", clock()) == []
    clock.advance(3600)
    (open_gap,) = await store.gaps_due("alarm", "INBOX", clock())
    assert open_gap == replace(second, first_at=NOON)
    assert [row.state for row in await store.messages(state="gap")] == ["gap"]
    await store.accept(batch(mail(2)), address="a", settles=True)
    assert await store.gaps_due("alarm", "INBOX", clock()) == []
    assert await store.messages(state="gap") == []
    assert uids(await claim(store)) == [1, 2]


async def test_a_vanished_gap_is_no_longer_due_and_still_traced(store: Store, clock: Clock) -> None:
    """A gap that the server no longer lists stops being tried; what happened stays visible."""
    await store.accept(batch(gaps=(gap(2),), uid=2), address="a", settles=True)
    await store.accept(batch(vanished=(ref(2),), uid=2), address="a", settles=True)
    clock.advance(3600)
    assert await store.gaps_due("alarm", "INBOX", clock()) == []
    (row,) = (await store.trace(ref(2).message_id)).messages
    assert (row.state, row.reason) == ("gap", "vanished; before: NO [SERVERBUG]")


async def test_a_gap_of_a_stored_mail_is_not_opened(store: Store, clock: Clock) -> None:
    """A late report of failure about a mail that is here does not alarm anybody."""
    await accept(store, [2])
    await store.accept(batch(gaps=(gap(2),), uid=2), address="a", settles=True)
    clock.advance(3600)
    assert await store.gaps_due("alarm", "INBOX", clock()) == []


async def test_known_mail_in_a_new_epoch_is_remembered_and_not_delivered(store: Store) -> None:
    """After a change of UIDVALIDITY a matched mail is settled again, but makes no delivery."""
    await accept(store, [1, 2])
    old = await store.fingerprints("alarm", "INBOX", 7)
    assert [(one.id, one.uid, one.message_id, one.received_at, one.size) for one in old] == [
        (ref(1).message_id, 1, "<1@example.org>", NOON, len(mail(1).raw)),
        (ref(2).message_id, 2, "<2@example.org>", NOON, len(mail(2).raw)),
    ]
    await claim(store)
    known = ((ref(51, epoch=8), old[0].id), (ref(52, epoch=8), old[1].id))
    await store.accept(
        batch(mail(53, epoch=8), known=known, epoch=8, uid=53), address="a", settles=True
    )
    assert uids(await claim(store)) == [53]
    waiting = await store.unsettled("alarm", "INBOX", 9)
    assert [(one.uidvalidity, one.uid) for one in waiting][2:] == [(8, 53), (8, 51), (8, 52)]


async def test_two_changes_of_uidvalidity_still_lead_to_the_first_id(store: Store) -> None:
    """A mail matched twice is recognised under the id that its webhook got."""
    await accept(store, [1])
    first = ref(1).message_id
    for epoch in (8, 9):
        (print_of,) = await store.fingerprints("alarm", "INBOX", epoch - 1)
        assert (print_of.id, print_of.message_id) == (first, "<1@example.org>")
        known = ((ref(1, epoch=epoch), print_of.id),)
        await store.accept(batch(known=known, epoch=epoch, uid=1), address="a", settles=False)
    assert (await store.fingerprints("alarm", "INBOX", 9))[0].id == first
    assert await store.raw(ref(1, epoch=9).message_id) == mail(1).raw
    rows = (await store.trace(ref(1, epoch=9).message_id)).messages
    assert [row.state for row in rows] == ["accepted", "known", "known"]


async def test_a_notice_is_queued_once_for_each_sink(store: Store) -> None:
    """Saying the same thing twice is heard once; a sink that came later hears it too."""
    data = {"reason": "no answer", "text": "Umlaut ü, \x00 and \ud800"}
    await store.notify([notice("msg_1", **data)], ["erp"])
    await store.notify([notice("msg_1", **data), notice("msg_2")], ["erp", "archive"])
    claimed = await claim(store, "erp")
    assert [(one.event_id, one.type, one.mailbox) for one in claimed] == [
        ("msg_1", "mailbox.degraded", "alarm"),
        ("msg_2", "mailbox.degraded", "alarm"),
    ]
    assert (claimed[0].body, claimed[0].mail, claimed[0].created_at) == (data, None, NOON)
    assert len(await claim(store, "archive")) == 2
    await store.resolve([done(one) for one in claimed])
    await store.notify([notice("msg_1", **data)], ["erp"])
    assert await claim(store, "erp") == []


async def test_texts_that_a_database_refuses_are_stored_escaped(store: Store) -> None:
    """NULs and broken Unicode from a hostile server end no transaction."""
    hostile = MessageRef(mailbox="alarm", folder="Inbox\x00\ud800", protocol="pop3", uidl="a\x00b")
    message = RawMessage(ref=hostile, raw=b"Message-ID: <\x00\xff@x>\r\n\r\n\x00")
    bad = replace(gap(5), reason="NO \x00\udcff")
    await store.accept(
        replace(batch(message, gaps=(bad,)), folder=hostile.folder), address="a", settles=True
    )
    (row,) = await store.messages(state="accepted")
    assert row.ref.uidl == "a\\x00b"
    assert row.id == hostile.message_id
    assert await store.raw(row.id) == message.raw
    assert row.message_id is not None
    json.dumps(row.message_id)


async def test_a_very_large_batch_is_one_commit(store: Store) -> None:
    """More messages than a statement takes parameters are still one transaction."""
    await store.checkpoint("alarm", "INBOX")
    before = store.commits
    await accept(store, range(1, 1202))
    assert store.commits == before + 1
    assert [one.sequence for one in await claim(store, limit=2000)] == list(range(1, 1202))


async def test_two_hosts_that_accept_the_same_mails_make_one_of_each(
    postgres_url: str, open_store: OpenStore
) -> None:
    """Two daemons on one mailbox, at the same moment: every mail exactly once."""
    first, second = await open_store(postgres_url), await open_store(postgres_url, owner="host:2")
    messages = [mail(uid) for uid in range(1, 101)]
    jobs = []
    for start in range(0, 100, 10):
        part = batch(*messages[start : start + 10])
        jobs += [one.accept(part, address="a", settles=True) for one in (first, second)]
    results = await asyncio.gather(*jobs)
    assert sum(one.new for one in results) == 100
    assert sorted(uids(await claim(first))) == list(range(1, 101))
    assert await first.check() == []


async def test_a_checkpoint_without_mail_keeps_the_time_of_the_last_mail(
    store: Store, clock: Clock
) -> None:
    """``status`` says when the last mail came, not when the folder was last looked at."""
    await accept(store, [1])
    first = clock()
    clock.advance(timedelta(hours=1).total_seconds())
    await store.accept(batch(uid=2), address="a", settles=True)
    (folder,) = (await store.counts()).folders
    assert (folder.last_accepted_at, folder.checkpoint.uid) == (first, 2)
