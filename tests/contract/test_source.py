"""What every source of mail promises, held against Dovecot, Cyrus and the sandbox's Exchange."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from mailbridge.errors import FolderMissing, SignInRejected
from mailbridge.model import AccessToken, Gap, MessageRef
from mailbridge.sources.base import Known
from mailbridge.sources.imap import FetchLimits
from tests.contract.imap_rigs import (
    Ledger,
    Rig,
    mail,
    source_for,
)


async def test_mail_comes_in_order_byte_by_byte_with_its_time(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """Everything in the folder arrives once, unchanged, with an aware INTERNALDATE."""
    moment = datetime(2026, 11, 21, 3, 4, 5, tzinfo=UTC)
    raws = [mail(number, size=300 + number) for number in range(1, 8)]
    for raw in raws:
        await rig.deliver(raw, received_at=moment)
    ledger = Ledger()

    await ledger.look(source_for(rig, pool))

    assert [message.raw for message in ledger.accepted.values()] == raws
    assert {message.received_at for message in ledger.accepted.values()} == {moment}
    assert ledger.checkpoint is not None
    assert ledger.checkpoint.uid == max(ref.uid for ref in ledger.accepted)


async def test_a_new_watch_leaves_what_lies_there(rig: Rig, pool: ThreadPoolExecutor) -> None:
    """With `start: new` the first look brings an empty batch, and later mail is delivered."""
    await rig.deliver(mail(1))
    source = source_for(rig, pool, start="new")
    ledger = Ledger()

    await ledger.look(source)
    assert [batch.messages for batch in ledger.batches] == [()]
    await rig.deliver(mail(2))
    await ledger.look(source)

    assert ledger.numbers == [2]
    assert ledger.checkpoint is not None
    assert ledger.checkpoint.baseline_uid == 1


async def test_mail_that_came_before_the_first_look_could_be_had_is_new(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """`start: new` means new since the watch began, though the mailbox could not be seen then."""
    await rig.deliver(mail(1), received_at=datetime.now(UTC) - timedelta(hours=1))
    source = source_for(rig, pool, start="new")
    for number in (2, 3):
        await rig.deliver(mail(number), received_at=datetime.now(UTC) + timedelta(seconds=9))
    ledger = Ledger()

    await ledger.look(source)
    await ledger.look(source)

    assert ledger.numbers == [2, 3]
    assert ledger.checkpoint is not None
    assert ledger.checkpoint.baseline_uid == 1


async def test_mail_that_comes_while_the_watch_begins_is_new(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """What arrives between the SELECT and the first look is not taken for old mail."""
    await rig.deliver(mail(1))
    ledger = Ledger()

    async with source_for(rig, pool, start="new").session() as session:
        await rig.deliver(mail(2))
        await ledger.fetch(session)
        await ledger.fetch(session)

    assert ledger.numbers == [2]


async def test_a_watch_from_a_day_on_brings_that_day_and_all_that_is_new(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """Old mail counts by its INTERNALDATE; new mail counts whatever its date."""
    day = datetime(2026, 11, 1, 12, tzinfo=UTC)
    for number, moment in enumerate([day - timedelta(days=3), day, day + timedelta(days=2)], 1):
        await rig.deliver(mail(number), received_at=moment)
    source = source_for(rig, pool, start=day.date(), limits=FetchLimits(messages=1))
    ledger = Ledger()

    await ledger.look(source, stop_after=2)
    await rig.deliver(mail(4), received_at=day - timedelta(days=30))
    await ledger.look(source)

    assert ledger.numbers == [2, 3, 4]
    assert ledger.doubled == []


async def test_a_look_without_news_brings_nothing(rig: Rig, pool: ThreadPoolExecutor) -> None:
    """With a checkpoint, and nothing beyond it, there is no batch and so no commit."""
    await rig.deliver(mail(1))
    ledger = Ledger()
    async with source_for(rig, pool).session() as session:
        await ledger.fetch(session)
        before = len(ledger.batches)
        await ledger.fetch(session)
        await ledger.fetch(session)

    assert len(ledger.batches) == before


async def test_a_session_sees_mail_that_comes_while_it_is_open(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """One connection serves many looks."""
    ledger = Ledger()
    async with source_for(rig, pool).session() as session:
        for number in range(1, 5):
            await rig.deliver(mail(number))
            await ledger.fetch(session)

    assert ledger.numbers == [1, 2, 3, 4]


async def test_batches_are_bounded_in_messages_and_bytes(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """No more than so many, no more than so many bytes, and one too large for that comes alone."""
    sizes = [500] * 7 + [3000] * 3 + [50_000] + [500] * 2
    for number, size in enumerate(sizes, 1):
        await rig.deliver(mail(number, size=size))
    limits = FetchLimits(messages=5, bytes=7000)
    ledger = Ledger()

    await ledger.look(source_for(rig, pool, limits=limits))

    brought = [[len(one.raw) for one in batch.messages] for batch in ledger.batches]
    assert brought == [[], [500] * 5, [500] * 2 + [3000] * 2, [3000], [50_000], [500] * 2]
    assert ledger.numbers == list(range(1, 14))


async def test_stopping_after_any_batch_loses_and_doubles_nothing(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """Each batch carries the checkpoint that holds once it is stored."""
    for number in range(1, 8):
        await rig.deliver(mail(number))
    source = source_for(rig, pool, limits=FetchLimits(messages=2))
    ledger = Ledger()

    for _ in range(6):
        await ledger.look(source, stop_after=1)

    assert ledger.numbers == list(range(1, 8))
    assert ledger.doubled == []


async def test_fetching_changes_nothing_in_the_mailbox(rig: Rig, pool: ThreadPoolExecutor) -> None:
    r"""No \Seen, no other flag, whatever `after` says: that happens only when settling."""
    for number in range(1, 4):
        await rig.deliver(mail(number))
    before = await rig.look()

    await Ledger().look(source_for(rig, pool))
    await Ledger().look(source_for(rig, pool, after="seen"))

    assert await rig.look() == before
    assert {flags for _, flags, _ in before} == {frozenset()}


async def test_an_empty_message_is_a_message(rig: Rig, pool: ThreadPoolExecutor) -> None:
    """A mail of no bytes at all, or of as few as there can be, is delivered like any other."""
    size = await rig.deliver_smallest()
    await rig.deliver(mail(2))
    ledger = Ledger()

    await ledger.look(source_for(rig, pool))

    assert [len(message.raw) for message in ledger.accepted.values()] == [size, len(mail(2))]
    assert ledger.gaps == {}


@pytest.mark.parametrize("folder", ["Einsätze & Übung", """Quo"ted (it's) [1] {2}""", "日本語"])
async def test_folders_have_names_of_all_kinds(
    rig: Rig, pool: ThreadPoolExecutor, folder: str
) -> None:
    """Umlauts, ampersands, quotes, braces: the folder is opened under its real name."""
    folder = "".join(one for one in folder if one not in rig.refused_in_names)
    await rig.create(folder)
    ledger = Ledger()

    async with source_for(rig, pool, folder=folder).session() as session:
        await ledger.fetch(session)

    assert ledger.checkpoint is not None
    assert ledger.checkpoint.folder == folder


async def test_a_missing_folder_is_named_with_those_that_exist(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """A person learns what the folders of this mailbox are called."""
    await rig.create("Alarme")

    with pytest.raises(FolderMissing) as caught:
        await Ledger().look(source_for(rig, pool, folder="Einsatz"))

    assert "Einsatz" in str(caught.value)
    assert "Alarme" in caught.value.fix


async def test_a_refused_token_is_replaced_once(rig: Rig, pool: ThreadPoolExecutor) -> None:
    """A token that the server does not take costs one fresh token; then it is a rejection."""
    bad = AccessToken(value="not.a.token", expires_at=datetime.now(UTC) + timedelta(hours=1))
    asked: list[str] = []

    async def stale() -> AccessToken:
        return bad

    async def fresh(refused: AccessToken) -> AccessToken:
        asked.append(refused.value)
        return await rig.token()

    async def never(refused: AccessToken) -> AccessToken:
        asked.append(refused.value)
        return replace(bad, value="still.not.one")

    ledger = Ledger()
    await ledger.look(source_for(rig, pool, token=stale, refresh=fresh))
    with pytest.raises(SignInRejected) as caught:
        await ledger.look(source_for(rig, pool, token=stale, refresh=never))

    assert ledger.checkpoint is not None
    assert asked == ["not.a.token"] * 2
    assert caught.value.code == "imap.authenticate_failed"


async def test_a_session_ends_before_its_token(rig: Rig, pool: ThreadPoolExecutor) -> None:
    """It has to be replaced five to ten minutes early, or a tenth to a fifth of a short life."""
    now = datetime.now(UTC)
    for life, margin in ((3600, 300), (600, 60)):
        token = await rig.token()
        token = replace(token, expires_at=now + timedelta(seconds=life))

        async def give(token: AccessToken = token) -> AccessToken:
            return token

        async with source_for(rig, pool, token=give, now=lambda: now).session() as session:
            early = token.expires_at - session.expires_at
            assert timedelta(seconds=margin) <= early <= timedelta(seconds=2 * margin)


# -- gaps -------------------------------------------------------------------------------------


def _gap(ref: MessageRef) -> Gap:
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    return Gap(ref=ref, reason="test", tries=3, first_at=moment, due_at=moment)


async def test_a_gap_is_closed_when_the_server_gives_the_message(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """Gaps that are due are tried after what is new; one that is gone has vanished."""
    for number in (1, 2, 3):
        await rig.deliver(mail(number))
    ledger = Ledger()
    source = source_for(rig, pool)
    await ledger.look(source)
    assert ledger.checkpoint is not None
    refs = list(ledger.accepted)
    gone = replace(refs[0], uid=40_000)
    old = replace(refs[0], uidvalidity=refs[0].uidvalidity + 1)
    await rig.deliver(mail(4))
    late = Ledger(
        checkpoint=ledger.checkpoint, gaps={ref: _gap(ref) for ref in (refs[1], gone, old)}
    )

    await late.look(source)

    assert late.numbers == [4, 2]
    assert set(late.vanished) == {gone, old}
    assert late.gaps == {}


async def test_a_message_that_is_gone_before_it_is_fetched_is_told(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """Somebody deletes it after it was listed: it is told unless still given; the others come."""
    for number in (1, 2, 3):
        await rig.deliver(mail(number))
    ledger = Ledger()
    limits = FetchLimits(messages=1, in_flight=1)
    async with source_for(rig, pool, limits=limits).session() as session:
        batches = session.fetch(Known(checkpoint=None), ledger)
        ledger.accept(await anext(batches))
        ledger.accept(await anext(batches))
        await rig.expunge(2)
        async for batch in batches:
            ledger.accept(batch)

    assert ledger.numbers == ([1, 2, 3] if rig.keeps_expunged else [1, 3])
    assert [ref.uid for ref in ledger.vanished] == ([] if rig.keeps_expunged else [2])
    assert ledger.gaps == {}


# -- settling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["keep", "seen", "delete", "move"])
async def test_settling_can_be_repeated(
    rig: Rig, pool: ThreadPoolExecutor, action: Literal["keep", "seen", "delete", "move"]
) -> None:
    """All are settled, again and again; only the messages named are touched."""
    for number in range(1, 5):
        await rig.deliver(mail(number))
    target = "Erledigt/Übung"
    move_to = target if action == "move" else None
    source = source_for(rig, pool, after=action, move_to=move_to)
    ledger = Ledger()

    async with source.session() as session:
        await ledger.fetch(session)
        refs = list(ledger.accepted)[:3]
        gone = replace(refs[0], uid=40_000)
        older = replace(refs[0], uidvalidity=1, uid=4)
        for _ in range(2):
            done = await session.settle([*refs, gone, older])
            assert set(done) == {*refs, gone, older}
    async with source.session() as session:
        assert set(await session.settle(refs)) == set(refs)

    left = {name: flags for _, flags, name in await rig.look()}
    names = [f"<alarm-{number}@ils.example>" for number in range(1, 5)]
    seen = frozenset({"\\Seen"})
    expected: dict[str, dict[str, frozenset[str]]] = {
        "keep": dict.fromkeys(names, frozenset()),
        "seen": {**dict.fromkeys(names[:3], seen), names[3]: frozenset()},
        "delete": {names[3]: frozenset()},
        "move": {names[3]: frozenset()},
    }
    assert left == expected[action]
    if action == "move":
        assert [name for _, _, name in await rig.look(target)] == names[:3]


async def test_settling_nothing_asks_nothing(rig: Rig, pool: ThreadPoolExecutor) -> None:
    """An empty list is settled."""
    async with source_for(rig, pool, after="delete").session() as session:
        assert list(await session.settle([])) == []


async def test_a_message_of_another_folder_is_not_touched(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """A place that is not of this folder is not settled here."""
    await rig.deliver(mail(1))
    ledger = Ledger()
    async with source_for(rig, pool, after="delete").session() as session:
        await ledger.fetch(session)
        foreign = [replace(ref, folder="Archive") for ref in ledger.accepted]
        assert list(await session.settle(foreign)) == []

    assert len(await rig.look()) == 1


# -- UIDVALIDITY ------------------------------------------------------------------------------


async def test_a_renumbered_folder_is_recognised_and_new_mail_in_it_delivered(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """Stored messages are found again under their new places; what came meanwhile is delivered."""
    for number in range(1, 6):
        await rig.deliver(mail(number, message_id="" if number == 5 else None))
    source = source_for(rig, pool)
    ledger = Ledger()
    await ledger.look(source)
    before = dict(ledger.accepted)
    await rig.deliver(mail(6))
    await rig.deliver(mail(7))
    await rig.renumber()

    await ledger.look(source)
    await rig.deliver(mail(8))
    await ledger.look(source)

    assert ledger.numbers == list(range(1, 9))
    assert ledger.doubled == []
    assert len(ledger.known) == 5
    assert {ref.uidvalidity for ref in ledger.known}.isdisjoint(ref.uidvalidity for ref in before)
    assert ledger.checkpoint is not None
    assert ledger.checkpoint.uidvalidity not in {ref.uidvalidity for ref in before}


async def test_a_renumbering_that_is_interrupted_begins_again(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """Stopping after any batch of it loses nothing and doubles nothing."""
    for number in range(1, 7):
        await rig.deliver(mail(number))
    source = source_for(rig, pool, limits=FetchLimits(messages=1, list_window=2))
    ledger = Ledger()
    await ledger.look(source, stop_after=4)
    assert ledger.numbers == [1, 2, 3]
    await rig.renumber()

    for _ in range(12):
        await ledger.look(source, stop_after=1)

    assert ledger.numbers == [1, 2, 3, 4, 5, 6]
    assert ledger.doubled == []


async def test_the_baseline_stays_the_baseline_when_a_folder_is_renumbered(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """What lay there before the watch is not delivered; what came since it began is."""
    await rig.deliver(mail(1), received_at=datetime.now(UTC) - timedelta(days=40))
    source = source_for(rig, pool, start="new")
    ledger = Ledger()
    await ledger.look(source)
    await rig.deliver(mail(2))
    await rig.renumber()

    await ledger.look(source)

    assert ledger.numbers == [2]


async def test_two_messages_alike_are_each_recognised_once(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """Of two stored twins and three found, the third is new."""
    moment = datetime(2026, 11, 21, 10, tzinfo=UTC)
    for _ in range(2):
        await rig.deliver(mail(1), received_at=moment)
    source = source_for(rig, pool)
    ledger = Ledger()
    await ledger.look(source)
    await rig.deliver(mail(1), received_at=moment)
    await rig.renumber()

    await ledger.look(source)

    assert len(ledger.known) == 2
    assert len(ledger.accepted) == 3


async def test_a_twin_is_not_taken_for_one_that_was_recognised_before_a_crash(
    rig: Rig, pool: ThreadPoolExecutor
) -> None:
    """A stored message that has its new place already recognises no second one."""
    moment = datetime(2026, 11, 21, 10, tzinfo=UTC)
    await rig.deliver(mail(1), received_at=moment)
    source = source_for(rig, pool, limits=FetchLimits(list_window=1))
    ledger = Ledger()
    await ledger.look(source)
    await rig.deliver(mail(1), received_at=moment)
    await rig.renumber()

    await ledger.look(source, stop_after=1)
    assert len(ledger.known) == 1
    await ledger.look(source)

    assert len(ledger.known) == 1
    assert len(ledger.accepted) == 2
