"""Mails that are to be sent: taken in once, sent to whom it is open, ended by their recipients."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from jsonschema import Draft202012Validator

from mailbridge.errors import PermanentError, StoreFull, TemporaryError
from mailbridge.event import notice_event
from mailbridge.model import Dead, Deferred, Held, Retry
from mailbridge.schemas import event_schema
from mailbridge.store import sends as store_sends
from mailbridge.store.store import Store
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import claim
from tests.contract.sendings import (
    SINK,
    TWO,
    again,
    came,
    claim_one,
    events,
    keyed,
    open_to,
    outgoing,
    over,
    queued,
    states,
    status,
    told,
    unwanted,
    well,
)

A, B = TWO


# --- taking in


async def test_an_accepted_mail_is_there_after_a_restart(url: str, open_store: OpenStore) -> None:
    """What was answered with an id is found again with its bytes, recipients and Message-ID."""
    store = await open_store(url)
    mail = outgoing(1, A, B, A, via="relay", raw=b"x" * 100_000)
    assert not (await store.sends.accept(mail)).known
    await store.close()
    store = await open_store(url)
    delivery = await claim_one(store)
    assert (delivery.sink, delivery.type, delivery.event_id) == (SINK, "send", mail.id)
    send = delivery.send
    assert send is not None
    assert (send.id, send.raw, send.sender) == (mail.id, mail.raw, mail.sender)
    assert send.message_id == "1@feuerwehr.example"
    assert (send.open, send.in_doubt_at) == ((A, B), None)


async def test_a_key_stands_for_one_mail(store: Store, clock: Clock) -> None:
    """A repeated request gives the same id and writes nothing; another body under it is refused."""
    first = await store.sends.accept(keyed(1, "k"))
    clock.advance(7 * 86_400)
    again = await store.sends.accept(keyed(2, "k"))
    assert (first.id, first.known, again.id, again.known) == ("out_1", False, "out_1", True)
    with pytest.raises(PermanentError, match="out_1") as refused:
        await store.sends.accept(keyed(3, "k", digest="other"))
    assert refused.value.code == "send.key_conflict"
    other = outgoing(4, client="crm", key="k", digest="other")
    assert (await store.sends.accept(other)).id == "out_4"
    assert {one.event_id for one in await claim(store, SINK)} == {"out_1", "out_4"}


async def test_those_who_come_together_share_a_commit(store: Store) -> None:
    """Fifty requests cost a few commits, each gets its own answer, and one key gives one mail."""
    before = store.commits
    mails = [keyed(number, f"k{number % 40}", f"d{number % 40}") for number in range(50)]
    wrong = keyed(50, "k7", "another")
    answers = await asyncio.gather(
        *(store.sends.accept(one) for one in [*mails, wrong]), return_exceptions=True
    )
    assert store.commits - before <= 3
    conflict = answers.pop()
    assert isinstance(conflict, PermanentError)
    ids = [one.id for one in answers if not isinstance(one, BaseException)]
    assert ids == [f"out_{number % 40}" for number in range(50)]
    assert len(await claim(store, SINK)) == 40


async def test_answers_wait_for_the_next_mail_in_doubt(store: Store) -> None:
    """While others are at their dots, what nobody waits for shares the commit of the next one."""
    one, two, three = [await queued(store, number) for number in (1, 2, 3)]
    await store.sends.in_doubt(one, TWO)
    await store.sends.in_doubt(two, TWO)
    before = store.commits
    answering = asyncio.create_task(store.sends.answered(one, told("taken", *TWO)))
    await asyncio.sleep(0)
    await asyncio.gather(answering, store.sends.in_doubt(three, TWO))
    assert store.commits == before + 1
    assert await states(store, 1) == {A: "taken", B: "taken"}


async def test_an_answer_that_is_alone_is_noted_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else is on the way to a dot: waiting would only keep the mail in doubt for longer."""
    monkeypatch.setattr(store_sends, "LINGER", 3600.0)
    one, two = await queued(store, 1), await queued(store, 2)
    await store.sends.in_doubt(one, TWO)
    await store.sends.answered(one, told("taken", *TWO))
    await store.resolve([well(one)])
    await store.sends.in_doubt(two, TWO)
    async with asyncio.timeout(60):
        await store.sends.answered(two, told("taken", *TWO))
    assert await states(store, 2) == {A: "taken", B: "taken"}


async def test_what_waits_for_company_is_written_before_the_store_closes(
    url: str, open_store: OpenStore
) -> None:
    """A stop while an answer waits for company loses nothing of it."""
    store = await open_store(url)
    one, two = await queued(store, 1), await queued(store, 2)
    await store.sends.in_doubt(one, TWO)
    await store.sends.in_doubt(two, TWO)
    answering = asyncio.create_task(store.sends.answered(one, told("taken", *TWO)))
    await asyncio.sleep(0)
    await store.close()
    await answering
    store = await open_store(url)
    assert await states(store, 1) == {A: "taken", B: "taken"}


async def test_one_that_cannot_be_written_fails_alone(store: Store) -> None:
    """Whoever shares a commit with a mail that the database refuses is not refused for it."""
    await store.sends.accept(outgoing(1))
    answers = await asyncio.gather(
        *(store.sends.accept(outgoing(number)) for number in (2, 1, 3)), return_exceptions=True
    )
    assert [isinstance(one, TemporaryError) for one in answers] == [False, True, False]
    taken = await claim(store, SINK)
    assert [one.event_id for one in taken] == ["out_1", "out_2", "out_3"]


async def test_a_caller_that_goes_away_leaves_a_whole_mail_or_none(store: Store) -> None:
    """A request that is cut while it is written does not leave half of it, and keeps its key."""
    asking = [asyncio.ensure_future(store.sends.accept(keyed(n, f"k{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    for one in asking:
        one.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    known = [await store.sends.accept(keyed(n, f"k{n}")) for n in range(5)]
    assert {one.id for one in known} == {f"out_{n}" for n in range(5)}
    assert [open_to(one) for one in await claim(store, SINK)] == [TWO] * 5


async def test_a_full_disk_takes_no_half_of_a_mail(
    sqlite_url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no room left everybody is told so, nothing is stored, and the key is free again."""
    store = await open_store(sqlite_url)
    hold = store._access._hold
    assert hold is not None

    def full(_free: object) -> None:
        raise StoreFull("the disk is nearly full", code="store.full")

    with monkeypatch.context() as patch:
        patch.setattr(hold.reserve, "admit", full)
        answers = await asyncio.gather(
            *(store.sends.accept(keyed(n, f"k{n}")) for n in range(3)), return_exceptions=True
        )
    assert [type(one) for one in answers] == [StoreFull] * 3
    assert await claim(store, SINK) == []
    assert not (await store.sends.accept(keyed(9, "k1", "another"))).known


async def test_a_mail_to_nobody_is_refused(store: Store) -> None:
    """A mail that could never end is not taken in."""
    with pytest.raises(ValueError, match="no recipient"):
        await store.sends.accept(replace(outgoing(1), recipients=()))


async def test_claims_are_bounded_by_the_bytes_of_the_mails(store: Store) -> None:
    """Large mails are not all read into memory because they are many."""
    for number in range(4):
        await store.sends.accept(outgoing(number, raw=b"x" * 600))
    taken = [len(await claim(store, SINK, max_bytes=1_300)) for _ in range(3)]
    assert taken == [2, 2, 0]


# --- what becomes of it


async def test_who_has_it_is_never_offered_again(store: Store, clock: Clock) -> None:
    """Of three recipients one has it, one never gets it: the next try is for the third alone."""
    first = await queued(store, 1, A, B, "c@example.org")
    await store.sends.in_doubt(first, [A, B, "c@example.org"])
    await store.sends.answered(first, told("taken", A) + told("refused", B))
    await store.resolve([again(first, clock())])
    second = await claim_one(store)
    assert (open_to(second), second.attempts) == (("c@example.org",), 1)
    await store.sends.in_doubt(second, ["c@example.org"])
    await store.sends.answered(second, told("taken", "c@example.org") + told("open", A, B))
    await store.resolve([well(second)])
    assert await states(store) == {A: "taken", B: "refused", "c@example.org": "taken"}
    row = await status(store)
    assert (row.state, row.ended_at, row.in_doubt_at) == ("sent", clock(), None)


async def test_a_doubt_is_about_those_who_were_asked(store: Store, clock: Clock) -> None:
    """Only the recipients of the submission that was cut may have it; the others do not."""
    first = await queued(store)
    clock.advance(5)
    await store.sends.in_doubt(first, [A])
    await store.resolve([again(first, clock())])
    second = await claim_one(store)
    assert second.send is not None
    assert (second.send.doubtful, second.send.open) == ((A,), (A, B))
    assert second.send.in_doubt_at == clock()
    await store.sends.answered(second, told("taken", B))
    await store.resolve([again(second, clock())])
    third = await claim_one(store)
    assert third.send is not None
    assert (third.send.doubtful, third.send.open, third.send.in_doubt_at) == ((), (A,), None)


async def test_a_new_doubt_takes_the_place_of_the_former(store: Store, clock: Clock) -> None:
    """Once the next group is about to be handed over, what was in doubt before is decided."""
    first = await queued(store)
    await store.sends.in_doubt(first, [A])
    clock.advance(5)
    await store.sends.in_doubt(first, [B])
    await store.resolve([again(first, clock())])
    second = await claim_one(store)
    assert second.send is not None
    assert (second.send.doubtful, second.send.in_doubt_at) == ((B,), clock())


async def test_a_mail_that_everybody_has_is_in_doubt_no_more(store: Store) -> None:
    """The late word of a former owner ends it with the next claim, without a look or a dot."""
    late = await queued(store)
    await store.sends.in_doubt(late, TWO)
    await store.release([late])
    with pytest.raises(TemporaryError):
        await store.sends.answered(late, told("taken", *TWO))
    now = await claim_one(store)
    assert open_to(now) == ()
    await store.resolve([well(now)])
    row = await status(store)
    assert (row.state, row.in_doubt_at) == ("sent", None)


async def test_nobody_writes_a_dot_for_a_claim_that_is_lost(store: Store) -> None:
    """After the lease has passed to another, the former owner is told so and changes nothing."""
    late = await queued(store)
    await store.release([late])
    now = await claim_one(store)
    with pytest.raises(TemporaryError) as lost:
        await store.sends.in_doubt(late, TWO)
    assert lost.value.code == "send.claim_lost"
    assert (await status(store)).in_doubt_at is None
    await store.sends.in_doubt(now, TWO)


async def test_that_somebody_has_it_counts_whoever_says_so(store: Store) -> None:
    """A late answer under a lost claim ends no doubt; who has the mail gets it no second time."""
    late = await queued(store)
    await store.sends.in_doubt(late, TWO)
    await store.release([late])
    with pytest.raises(TemporaryError):
        await store.sends.answered(late, told("taken", A) + told("refused", B))
    assert await states(store) == {A: "taken", B: "doubt"}
    assert open_to(await claim_one(store)) == (B,)
    assert (await status(store)).in_doubt_at is not None


async def test_a_mail_ends_by_its_recipients(store: Store, clock: Clock) -> None:
    """Nobody open and one has it: sent. All refused: failed at once, whatever was decided."""
    one, two = await queued(store, 1), await queued(store, 2)
    await store.sends.answered(one, told("taken", A, reply="250 ok") + told("refused", B))
    await store.sends.answered(two, told("refused", *TWO, reply="550 no such user"))
    resolved = await store.resolve([unwanted(one, clock()), unwanted(two, clock())])
    assert isinstance(resolved[1].decision, Dead)
    first, second = await status(store, 1), await status(store, 2)
    assert (first.state, first.reply) == ("sent", "said")
    assert (second.state, second.reason) == ("failed", "550 no such user")
    assert await claim(store, SINK) == []


async def test_a_mail_in_doubt_is_held_and_never_given_up(store: Store, clock: Clock) -> None:
    """Whoever does not send it again, or has run out of time, leaves it to a person."""
    one, two, three = [await queued(store, number) for number in (1, 2, 3)]
    for delivery in (one, two):
        await store.sends.in_doubt(delivery, TWO)
    wish = "held: nobody knows whether the server took it"
    held, kept, dead = await store.resolve([unwanted(one, clock(), wish), over(two), over(three)])
    assert held.decision == Held(reason=wish)
    assert isinstance(kept.decision, Held)
    assert isinstance(dead.decision, Dead)
    shown = [await status(store, number) for number in (1, 2, 3)]
    assert [row.state for row in shown] == ["held", "held", "failed"]
    assert [row.in_doubt_at is not None for row in shown] == [True, True, False]


async def test_a_word_is_not_enough_to_call_it_sent(store: Store) -> None:
    """A mail that somebody calls delivered without saying who has it is held, not lost."""
    delivery = await queued(store)
    await store.sends.answered(delivery, told("taken", A))
    (resolved,) = await store.resolve([well(delivery)])
    assert isinstance(resolved.decision, Held)
    assert (await status(store)).state == "held"
    assert await store.requeue(["out_1"]) == 1
    assert open_to(await claim_one(store)) == (B,)


async def test_what_ends_a_mail_is_told_in_the_same_commit(store: Store, clock: Clock) -> None:
    """Sent, failed and held reach those who listen once, in the form of their schemas."""
    ids = [f"out_{letter * 26}" for letter in "ABC"]
    one, two, three = [await queued(store, id=name) for name in ids]
    await store.sends.answered(one, told("taken", *TWO, reply="250 2.0.0 queued as X"))
    await store.sends.answered(two, told("refused", *TWO, reply="550 no such user"))
    await store.sends.in_doubt(three, TWO)
    wish = "nobody knows"
    ended = [well(one), unwanted(two, clock()), unwanted(three, clock(), wish)]
    await store.resolve(ended)
    assert await store.resolve(ended) == []
    heard = await events(store)
    assert [one.type for one in heard] == ["send.sent", "send.failed", "send.held"]
    bodies = [one.body or {} for one in heard]
    assert [body["send"] for body in bodies] == ids
    assert bodies[0]["reply"] == "250 2.0.0 queued as X"
    assert bodies[0]["recipients"][0]["state"] == "taken"
    assert (bodies[1]["reason"], bodies[1]["code"]) == ("550 no such user", "smtp.no_such_user")
    assert (bodies[2]["reason"], bodies[2]["attempts"]) == (wish, 1)
    for one in heard:
        body = notice_event(one.type, one.event_id, one.mailbox, one.created_at, one.body or {})
        Draft202012Validator(event_schema(one.type)).validate(json.loads(body))
        assert "subject" not in (one.body or {})


async def test_an_attempt_that_was_none_counts_none(store: Store, clock: Clock) -> None:
    """A token that lapsed amid a connection costs no try: the claim comes back as it was."""
    first = await queued(store)
    await store.resolve([came(first, None, Retry(due_at=clock()))])
    second = await claim_one(store)
    await store.release([second])
    third = await claim_one(store)
    assert (third.attempts, open_to(third)) == (0, TWO)


async def test_what_kills_its_owner_is_set_aside_by_its_recipients(
    sqlite_url: str, open_store: OpenStore
) -> None:
    """Poison is failed and told of; one that may have gone out is held instead."""
    store = await open_store(sqlite_url)
    for number in (1, 2):
        await store.sends.accept(outgoing(number))
    for death in range(10):
        alone = death >= 3
        taken = await claim(store, SINK, alone=alone)
        while alone and (more := await claim(store, SINK, alone=True)):
            taken = [*taken, *more]
        for one in taken:
            if one.event_id == "out_2" and death == 0:
                await store.sends.in_doubt(one, TWO)
        await store.close()
        store = await open_store(sqlite_url)
    await store.rescue(listeners=lambda _mailbox, _kind: ["ops"])
    assert ((await status(store, 1)).state, (await status(store, 2)).state) == ("failed", "held")
    assert [one.type for one in await events(store)] == ["send.failed", "send.held"]


async def test_what_has_waited_too_long_is_given_up_by_its_recipients(
    store: Store, clock: Clock
) -> None:
    """After seven days of an outage: who was in doubt is held, who has it in part is failed."""
    one, two, three = [await queued(store, number) for number in (1, 2, 3)]
    await store.sends.in_doubt(two, TWO)
    await store.sends.answered(three, told("taken", A))
    await store.resolve([again(each, clock()) for each in (one, two, three)])
    clock.advance(8 * 86_400)
    place, letters = await store.outages.give_up(
        SINK,
        None,
        before=clock() - timedelta(days=7),
        reason="the server was away",
        listeners=lambda _mailbox, kind: ["ops"] if kind.startswith("send.") else [],
    )
    assert (place, [one.event_id for one in letters]) == (None, ["out_1", "out_3"])
    shown = [(await status(store, number)).state for number in (1, 2, 3)]
    assert shown == ["failed", "held", "failed"]
    assert await states(store, 3) == {A: "taken", B: "open"}
    kinds = [one.type for one in await events(store)]
    assert sorted(kinds) == ["send.failed", "send.failed", "send.held"]


async def test_a_mail_whose_bytes_are_lost_is_not_forgotten(store: Store) -> None:
    """A damaged database does not make a mail go out empty: it is failed, with the reason."""
    await store.sends.accept(outgoing(1))
    await store._access.run(lambda found: found.execute(sa.text("DELETE FROM send_raw")))
    assert await claim(store, SINK) == []
    row = await status(store)
    assert (row.state, row.reason) == ("failed", "its raw bytes are gone")


async def test_other_deliveries_are_resolved_beside_mails(store: Store, clock: Clock) -> None:
    """One commit may hold outcomes of both kinds; each is decided by its own rules."""
    delivery = await queued(store)
    await store.sends.answered(delivery, told("refused", *TWO))
    await store.resolve([unwanted(delivery, clock())])
    (event,) = await claim(store, "ops")
    (left,) = await store.resolve(
        [came(event, Deferred(reason="503"), Retry(due_at=clock() + timedelta(hours=1)))]
    )
    assert isinstance(left.decision, Retry)
    assert await store.next_due("ops") == clock() + timedelta(hours=1)
