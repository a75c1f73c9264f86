"""Intake and dispatcher on a real store: what is promised about order, loss and repeats."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailbridge.dispatch import Dispatcher
from mailbridge.errors import StoreFull, Unavailable
from mailbridge.health import FolderHealth, SinkHealth
from mailbridge.intake import Intake
from mailbridge.model import (
    Batch,
    Checkpoint,
    Deferred,
    Delivered,
    Delivery,
    MessageRef,
    Outcome,
    RawMessage,
    Rejected,
    Rendered,
)
from mailbridge.retry import POLICIES
from mailbridge.sources.base import Known, Memory
from mailbridge.store.store import Store

START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/mailbridge.db", now=utc_now)
    yield opened
    await opened.close()


def mail(uid: int) -> RawMessage:
    ref = MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=14, uid=uid)
    return RawMessage(ref=ref, raw=b"Subject: %d\r\n\r\nx" % uid, received_at=START)


def checkpoint(uid: int) -> Checkpoint:
    return Checkpoint(
        mailbox="alarm", folder="INBOX", uidvalidity=14, uid=uid, watching_since=START
    )


class Folder:
    """A source and session over a list of UIDs; records what it was told, and when."""

    mailbox, folder = "alarm", "INBOX"
    expires_at = datetime.max.replace(tzinfo=UTC)
    pushes, lasts = False, True

    def __init__(self, *uids: int) -> None:
        self.uids = list(uids)
        self.told: list[int] = []
        self.on_settle: Callable[[], None] = lambda: None
        self.fail_after: int | None = None
        self.sessions = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Folder]:
        self.sessions += 1
        yield self

    async def fetch(self, known: Known, memory: Memory) -> AsyncGenerator[Batch, None]:
        done = known.checkpoint.uid if known.checkpoint else 0
        for uid in [uid for uid in self.uids if uid > done]:
            if self.fail_after is not None and uid > self.fail_after:
                raise Unavailable("cut")
            yield Batch(
                mailbox="alarm", folder="INBOX", messages=(mail(uid),), checkpoint=checkpoint(uid)
            )

    async def unchanged(self, checkpoint: Checkpoint) -> bool:
        return False

    async def stand_by(self, woken: asyncio.Event, until: datetime) -> None:
        await woken.wait()

    async def settle(self, refs: Sequence[MessageRef]) -> Sequence[MessageRef]:
        self.on_settle()
        self.told += [ref.uid for ref in refs]
        return refs


class Hook:
    """A sink that answers from a script; the last answer repeats."""

    def __init__(self, *answers: Outcome, concurrency: int = 4) -> None:
        self.name, self.concurrency = "hook", concurrency
        self.answers = list(answers) or [Delivered(status=200)]
        self.got: list[str] = []
        self.hold: asyncio.Event | None = None
        self.begun = asyncio.Event()
        self.most_at_once = 0
        self._now = 0

    def render(self, deliveries: Sequence[Delivery]) -> Sequence[Rendered]:
        return [Rendered(delivery=d, body=b"{}", content_type="x") for d in deliveries]

    async def deliver(self, rendered: Rendered, *, attempt: int) -> Outcome:
        self.begun.set()
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(0)
        self._now -= 1
        self.got.append(rendered.delivery.event_id)
        return self.answers[min(len(self.got), len(self.answers)) - 1]


def intake(folder: Folder, store: Any, *, settles: bool = True) -> Intake:
    return Intake(
        source=folder,
        store=store,
        address="alarm@feuerwehr.example",
        sinks=["hook"],
        listeners=["hook"],
        settles=settles,
        keeps_session=False,
        health=FolderHealth(mailbox="alarm", folder="INBOX"),
        on_accepted=lambda: None,
        ahead=asyncio.Semaphore(1),
        now=utc_now,
    )


async def _render_here(
    function: Callable[[Sequence[Delivery]], Sequence[Rendered]], arg: Sequence[Delivery]
) -> Sequence[Rendered]:
    return await asyncio.to_thread(function, arg)


def dispatcher(hook: Hook, store: Any, now: Callable[[], datetime] = utc_now) -> Dispatcher:
    return Dispatcher(
        sink=hook,
        store=store,
        policy=POLICIES["default"],
        health=SinkHealth(name="hook"),
        listeners=lambda _mailbox, _kind: ["hook"],
        run_blocking=_render_here,
        now=now,
        rng=random.Random(7),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


class Running:
    """A dispatcher that runs beside the test."""

    def __init__(self, subject: Dispatcher) -> None:
        self.subject, self.stop = subject, asyncio.Event()

    async def __aenter__(self) -> Dispatcher:
        self.task = asyncio.create_task(self.subject.run(self.stop))
        return self.subject

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        async with asyncio.timeout(20):
            await self.task


async def test_the_server_is_told_only_what_is_durable(store: Store, tmp_path: Path) -> None:
    """At the moment of settling, another connection already sees every message in the file."""
    import sqlite3

    folder = Folder(1, 2, 3)
    seen: list[int] = []

    def look() -> None:
        with sqlite3.connect(tmp_path / "mailbridge.db") as other:
            seen.extend(row[0] for row in other.execute("select uid from messages order by uid"))
        other.close()

    folder.on_settle = look
    await intake(folder, store).live()

    assert folder.told == [1, 2, 3]
    assert seen == [1, 2, 3]


async def test_keep_tells_the_server_nothing(store: Store) -> None:
    """With `after: keep` no message is ever settled."""
    folder = Folder(1, 2)
    await intake(folder, store, settles=False).live()

    assert folder.told == []


async def test_a_cut_fetch_goes_on_where_it_was(store: Store) -> None:
    """What was accepted before the cut stays, the rest follows, and no sign of a check before."""
    folder = Folder(1, 2, 3, 4)
    folder.fail_after = 2
    subject = intake(folder, store)
    with pytest.raises(Unavailable):
        await subject.live()
    first = await store.checkpoint("alarm", "INBOX")
    assert subject.health.last_check is None
    folder.fail_after = None

    await subject.live()

    second = await store.checkpoint("alarm", "INBOX")
    assert first is not None
    assert second is not None
    assert (first.uid, second.uid) == (2, 4)
    assert folder.told == [1, 2, 3, 4]
    assert subject.health.last_check is not None


async def test_an_unsettled_message_is_settled_at_the_next_look(store: Store) -> None:
    """A crash between commit and settle leaves a note, which the next look works off."""
    await store.accept(
        Batch(
            mailbox="alarm",
            folder="INBOX",
            sinks=("hook",),
            messages=(mail(1),),
            checkpoint=checkpoint(1),
        ),
        address="alarm@feuerwehr.example",
        settles=True,
    )
    folder = Folder(1)
    await intake(folder, store).live()

    assert folder.told == [1]


async def test_a_full_disk_stops_the_intake_before_the_settle(store: Store) -> None:
    """What could not be stored is not told to the server; the look counts as failed."""
    folder = Folder(1)

    class Full:
        """The store, with no space left."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def accept(self, batch: Batch, *, address: str, settles: bool) -> None:
            raise StoreFull("no space left on device")

    with pytest.raises(StoreFull):
        await intake(folder, Full()).live()

    assert folder.told == []


async def fill(store: Store, count: int) -> list[str]:
    messages = tuple(mail(uid) for uid in range(1, count + 1))
    batch = Batch(
        mailbox="alarm",
        folder="INBOX",
        sinks=("hook",),
        messages=messages,
        checkpoint=checkpoint(count),
    )
    await store.accept(batch, address="alarm@feuerwehr.example", settles=False)
    return [message.ref.message_id for message in messages]


async def test_everything_is_delivered_once(store: Store) -> None:
    """Without faults each message reaches the sink exactly once, within the concurrency."""
    wanted = await fill(store, 700)
    hook = Hook(concurrency=5)
    async with Running(dispatcher(hook, store)):
        await until(lambda: len(hook.got) >= 700)

    assert sorted(hook.got) == sorted(wanted)
    assert hook.most_at_once == 5
    [count] = (await store.counts()).sinks or [None]
    assert count is None or count.queued + count.claimed + count.deferred == 0


async def test_outcomes_share_commits(store: Store) -> None:
    """A backlog costs commits by the batch, never one per message."""
    await fill(store, 1000)
    before = store.commits
    hook = Hook(concurrency=8)
    async with Running(dispatcher(hook, store)):
        await until(lambda: len(hook.got) >= 1000)

    assert store.commits - before < 300


async def test_a_deferred_message_comes_again_under_its_id(store: Store) -> None:
    """A 503 puts it back; at its time it is sent again with the same id and the next attempt."""
    [wanted] = await fill(store, 1)
    hook = Hook(Deferred(reason="HTTP 503", status=503), Delivered(status=200))
    ahead = timedelta()
    subject = dispatcher(hook, store, now=lambda: utc_now() + ahead)
    async with Running(subject):
        await until(lambda: len(hook.got) == 1)
        await until(lambda: subject.health.deferred == 1)
        due = None
        while due is None:
            due = await store.next_due("hook")
            await asyncio.sleep(0.01)

    assert hook.got == [wanted]
    assert timedelta(seconds=3) < due - utc_now() < timedelta(seconds=7)


async def test_what_is_refused_three_times_is_a_dead_letter_and_is_told(store: Store) -> None:
    """A 400 is tried three times in all, then a person sees it, and an event says so."""
    [wanted] = await fill(store, 1)
    hook = Hook(Rejected(reason="HTTP 400", status=400))
    for _ in range(3):
        await store.requeue(all_dead=True)
        async with Running(dispatcher(hook, store)) as subject:
            health = subject.health
            await until(lambda health=health: health.dead + health.deferred > 0)  # type: ignore[misc]  # the default binds the loop's present value
        with_time = [row.id for row in await store.deliveries(state="deferred")]
        for row in with_time:
            await _make_due(store, row)
    dead = await store.deliveries(state="dead")

    assert [row.event_id for row in dead if row.type == "mail.received"] == [wanted]
    kinds = [row.type for row in await store.deliveries()]
    assert kinds.count("delivery.dead") == 1


async def _make_due(store: Store, delivery: int) -> None:
    import sqlalchemy as sa

    await store._run(
        lambda connection, now: connection.execute(
            sa.text("update deliveries set due_at = :now where pk = :id"),
            {"now": now, "id": delivery},
        )
    )


async def test_a_clean_stop_finishes_what_is_under_way(store: Store) -> None:
    """The attempt in hand ends and is written; what was only claimed is given back at once."""
    await fill(store, 20)
    hook = Hook(concurrency=2)
    hook.hold = asyncio.Event()
    running = Running(dispatcher(hook, store))
    async with running:
        await hook.begun.wait()
        running.stop.set()
        await asyncio.sleep(0.05)
        assert not running.task.done()
        hook.hold.set()

    states = [row.state for row in await store.deliveries(state=None)]
    assert len(hook.got) == 2
    assert states.count("queued") == 18
    assert "claimed" not in states


async def test_outcomes_survive_a_store_that_is_full_for_a_while(store: Store) -> None:
    """A delivered message whose outcome cannot be written yet is written later, not sent again."""
    await fill(store, 3)
    failures = 0

    class Stubborn:
        """The store, refusing the first resolves."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def resolve(self, resolutions: Sequence[Any]) -> Sequence[Any]:
            nonlocal failures
            if failures < 3:
                failures += 1
                raise StoreFull("no space left on device")
            return await store.resolve(resolutions)

    hook = Hook()
    async with Running(dispatcher(hook, Stubborn())):
        await until(lambda: failures == 3 and len(hook.got) == 3)

    assert len(hook.got) == 3
    assert await store.deliveries() == []


async def test_a_bug_in_a_sink_keeps_the_mail(store: Store) -> None:
    """An exception where an outcome belongs is an internal error: deferred, never lost."""
    await fill(store, 1)
    hook = Hook()

    async def broken(rendered: Rendered, *, attempt: int) -> Outcome:
        raise ZeroDivisionError

    hook.deliver = broken  # type: ignore[method-assign]  # the bug
    subject = dispatcher(hook, store)
    async with Running(subject):
        await until(lambda: subject.health.deferred == 1)

    [row] = await store.deliveries(state="deferred")
    assert row.last_reason == "internal error (ZeroDivisionError)"


async def test_suspects_are_not_starved_by_a_busy_queue(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in hand at three deaths gets its turn although new mail never stops coming."""
    monkeypatch.setattr("mailbridge.feeder.SUSPECTS_EVERY", 0.05)
    [suspect] = await fill(store, 1)
    for _ in range(3):
        await store.claim("hook", limit=1, max_bytes=1 << 20, lease=0.0)
        await store.rescue()
    hook = Hook(concurrency=1)
    uid = 1
    async with Running(dispatcher(hook, store)) as subject:
        async with asyncio.timeout(20):
            while suspect not in hook.got:
                messages = tuple(mail(uid + n) for n in range(1, 20))
                uid += len(messages)
                batch = Batch(
                    mailbox="alarm",
                    folder="INBOX",
                    sinks=("hook",),
                    messages=messages,
                    checkpoint=checkpoint(uid),
                )
                await store.accept(batch, address="a@b.example", settles=False)
                subject.wake()

    assert suspect in hook.got


async def test_a_large_mail_that_hangs_holds_up_no_other(store: Store) -> None:
    """While one mail of megabytes waits for its answer, the small ones behind it arrive."""
    large = RawMessage(
        ref=MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=14, uid=1),
        raw=b"Subject: large\r\n\r\n" + b"x" * 3_000_000,
        received_at=START,
    )
    small = tuple(mail(uid) for uid in range(2, 12))
    hook = Hook(concurrency=2)
    under_way, answered, plain = asyncio.Event(), asyncio.Event(), hook.deliver

    async def deliver(rendered: Rendered, *, attempt: int) -> Outcome:
        if rendered.delivery.event_id == large.ref.message_id:
            under_way.set()
            await answered.wait()
        return await plain(rendered, attempt=attempt)

    hook.deliver = deliver  # type: ignore[method-assign]  # one of them hangs
    async with Running(dispatcher(hook, store)) as subject:
        for messages in ((large,), small):
            batch = Batch(
                mailbox="alarm",
                folder="INBOX",
                sinks=("hook",),
                messages=messages,
                checkpoint=checkpoint(messages[-1].ref.uid),
            )
            await store.accept(batch, address="a@b.example", settles=False)
            subject.wake()
            await until(under_way.is_set)
        await until(lambda: len(hook.got) == len(small))
        answered.set()
        await until(lambda: len(hook.got) == len(small) + 1)

    assert hook.got[-1] == large.ref.message_id


class Counting:
    """The store, counting what the dispatcher asks of it; ``on_claim`` runs within a claim."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.claims = self.looks = self.alone = 0
        self.resolved = 0
        self.on_claim: Callable[[], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def claim(self, sink: str, *, alone: bool = False, **wanted: Any) -> Sequence[Delivery]:
        self.claims += 1
        self.alone += alone
        claimed = await self._store.claim(sink, alone=alone, **wanted)
        if self.on_claim is not None:
            on_claim, self.on_claim = self.on_claim, None
            await on_claim()
        return claimed

    async def next_due(self, sink: str, **how: Any) -> datetime | None:
        self.looks += 1
        return await self._store.next_due(sink, **how)

    async def resolve(self, resolutions: Sequence[Any]) -> Sequence[Any]:
        held = await self._store.resolve(resolutions)
        self.resolved += len(held)
        return held


async def arrive(store: Store, uid: int) -> str:
    batch = Batch(
        mailbox="alarm",
        folder="INBOX",
        sinks=("hook",),
        messages=(mail(uid),),
        checkpoint=checkpoint(uid),
    )
    await store.accept(batch, address="a@b.example", settles=False)
    return mail(uid).ref.message_id


async def test_a_mail_that_comes_alone_costs_one_claim(store: Store) -> None:
    """Mails that trickle in are claimed once each; nobody asks again for what is not there."""
    hook, counting = Hook(), Counting(store)
    async with Running(dispatcher(hook, counting)) as subject:
        await until(lambda: counting.looks == 1)
        for uid in range(1, 21):
            await arrive(store, uid)
            subject.wake()
            await until(lambda uid=uid: counting.resolved == uid)  # type: ignore[misc]  # the default binds the loop's present value
            await asyncio.sleep(0.01)  # for what an outcome may still set off

    assert len(hook.got) == 20
    assert counting.claims <= 26 + 2
    assert counting.looks <= 26 + 2
    assert counting.alone <= 1


async def test_a_wake_during_a_claim_is_not_lost(store: Store) -> None:
    """What arrives while a claim runs that no longer sees it is claimed next."""
    hook, counting = Hook(), Counting(store)
    subject = dispatcher(hook, counting)
    counting.next_due = _never  # type: ignore[method-assign]  # only the wake can tell

    async def late() -> None:
        await arrive(store, 1)
        subject.wake()

    counting.on_claim = late
    async with Running(subject):
        await until(lambda: len(hook.got) == 1)

    # The third looks for what may have waited for the first answer.
    assert counting.claims <= 3


async def _never(sink: str, **how: Any) -> None:
    return None


async def test_suspects_are_tried_at_once_when_nothing_else_is_due(store: Store) -> None:
    """What was in hand at three deaths does not wait for its turn in an idle queue."""
    wanted = await fill(store, 3)
    for _ in range(3):
        await store.claim("hook", limit=3, max_bytes=1 << 20, lease=0.0)
        await store.rescue()
    hook = Hook()
    async with Running(dispatcher(hook, store)):
        await until(lambda: len(hook.got) == 3)

    assert sorted(hook.got) == sorted(wanted)


async def test_a_full_hand_claims_again_when_an_outcome_makes_room(store: Store) -> None:
    """A backlog larger than what may be in hand goes on although nobody wakes the dispatcher."""
    await fill(store, 600)
    hook, counting = Hook(concurrency=2), Counting(store)
    async with Running(dispatcher(hook, counting)):
        await until(lambda: len(hook.got) == 600)

    assert counting.claims <= 12


async def test_a_retry_comes_at_its_time_without_a_wake(store: Store) -> None:
    """A deferred delivery that nobody wakes for is sent again when its delay is over."""
    [wanted] = await fill(store, 1)
    hook = Hook(Deferred(reason="HTTP 503", status=503), Delivered(status=200))
    async with Running(dispatcher(hook, store)):
        await until(lambda: len(hook.got) == 2)

    assert hook.got == [wanted, wanted]
