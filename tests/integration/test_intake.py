"""The intake's loop on a real store: when it asks, when it looks, when it looks back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from mailbridge import intake as intake_module
from mailbridge.errors import StoreFull, Throttled, Unavailable
from mailbridge.health import FolderHealth
from mailbridge.intake import Intake
from mailbridge.model import Batch, Checkpoint, Gap, MessageRef, RawMessage
from mailbridge.room import MailboxSlots
from mailbridge.sources.base import Known, Memory
from mailbridge.store.store import Store
from mailbridge.sweep import BACK, Sweeps

START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


class Clock:
    """A time of day that a test can set while everything else goes on."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/mailbridge.db", now=clock)
    yield opened
    await opened.close()


class Counting:
    """The store; counts what is asked of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self._store, name)


def ref(uid: int, folder: str = "INBOX") -> MessageRef:
    return MessageRef(mailbox="alarm", folder=folder, uidvalidity=14, uid=uid)


def mail(uid: int, folder: str = "INBOX") -> RawMessage:
    return RawMessage(
        ref=ref(uid, folder), raw=b"Subject: %d\r\n\r\nx" % uid, received_at=datetime.now(UTC)
    )


def checkpoint(uid: int, folder: str = "INBOX") -> Checkpoint:
    return Checkpoint(mailbox="alarm", folder=folder, uidvalidity=14, uid=uid, watching_since=START)


class Line:
    """A source and session over a list of UIDs, with push and a question; records all it did."""

    mailbox = "alarm"
    expires_at = datetime.max.replace(tzinfo=UTC)
    lasts = True

    def __init__(self, *uids: int, folder: str = "INBOX", pushes: bool = True) -> None:
        self.folder, self.pushes = folder, pushes
        self.uids = list(uids)
        self.did: list[str] = []
        self.known: list[Known] = []
        self.sessions = self.open = 0
        self.pushed = asyncio.Event()
        self.waits: list[datetime] = []
        self.dies_in = ""
        self.settled: list[int] = []
        self.settles_all = True
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Line]:
        self.sessions += 1
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    def _do(self, what: str) -> None:
        self.did.append(what)
        if self.dies_in == what:
            self.dies_in = ""
            raise Unavailable("cut")

    async def fetch(self, known: Known, memory: Memory) -> AsyncGenerator[Batch, None]:
        self._do("sweep" if known.sweep_since else "fetch")
        self.known.append(known)
        last = known.checkpoint.uid if known.checkpoint else 0
        for uid in [uid for uid in self.uids if uid > last]:
            yield self._batch(uid, uid)
            last = uid
        for gap in known.gaps:
            yield self._batch(gap.ref.uid, last)
        if known.sweep_since:
            behind = [uid for uid in self.uids if uid <= last]
            for uid in await memory.unknown(14, behind):
                yield replace(self._batch(uid, last), swept=True)

    def _batch(self, uid: int, last: int) -> Batch:
        return Batch(
            mailbox="alarm",
            folder=self.folder,
            messages=(mail(uid, self.folder),),
            checkpoint=checkpoint(last, self.folder),
        )

    async def unchanged(self, checkpoint: Checkpoint) -> bool:
        self._do("ask")
        return max(self.uids, default=0) <= checkpoint.uid

    async def stand_by(self, woken: asyncio.Event, until: datetime) -> None:
        self._do("wait")
        self.waits.append(until)
        waits = [asyncio.ensure_future(one.wait()) for one in (woken, self.pushed)]
        seconds = min(3600.0, max(0.0, (until - self.now()).total_seconds()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        self.pushed.clear()

    async def settle(self, refs: Sequence[MessageRef]) -> Sequence[MessageRef]:
        self._do("settle")
        taken = refs if self.settles_all else refs[:0]
        self.settled += [ref.uid for ref in taken]
        return taken


def intake(line: Line, store: Any, **changed: Any) -> Intake:
    settings: dict[str, Any] = {
        "source": line,
        "store": store,
        "address": "alarm@feuerwehr.example",
        "sinks": ["hook"],
        "listeners": ["hook"],
        "settles": False,
        "keeps_session": True,
        "health": FolderHealth(mailbox="alarm", folder=line.folder),
        "on_accepted": lambda: None,
        "ahead": asyncio.Semaphore(1),
        "now": lambda: datetime.now(UTC),
    }
    return Intake(**{**settings, **changed})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def living(*intakes: Intake, again: bool = False) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Let intakes live beside the test; ``again`` as a supervisor does it, without its waits."""

    async def live(one: Intake) -> None:
        await one.live()
        while again:
            with suppress(Unavailable):
                await one.live()

    tasks = [asyncio.create_task(live(one)) for one in intakes]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def uids(store: Store, folder: str = "INBOX") -> list[int]:
    return sorted(one.uid for one in await store.fingerprints("alarm", folder, 14))


# --- asking instead of looking


async def test_a_check_of_what_has_not_changed_costs_the_store_nothing(store: Store) -> None:
    """After the first look, fifty wakes are fifty questions to the server and no more."""
    line, counting = Line(1, 2), Counting(store)
    subject = intake(line, counting)
    async with living(subject):
        await until(lambda: line.did.count("wait") == 1)
        before = counting.calls.copy()
        for number in range(50):
            asked = len(line.did)
            subject.wake()
            await until(lambda asked=asked: len(line.did) == asked + 2)  # type: ignore[misc]  # the default binds the loop's present value
            assert line.did[-2:] == ["ask", "wait"], number

    assert counting.calls == before
    assert line.sessions == 1


async def test_a_further_look_of_a_session_reads_nothing_that_it_knows(store: Store) -> None:
    """Checkpoint and gaps are read by a session's first look; after that, mail is one commit."""
    line, counting = Line(1), Counting(store)
    subject = intake(line, counting)
    async with living(subject):
        await until(lambda: line.did.count("wait") == 1)
        before = counting.calls.copy()
        for number in (2, 3):
            line.uids.append(number)
            line.pushed.set()
            await until(lambda number=number: line.did.count("wait") == number)  # type: ignore[misc]  # the default binds the loop's present value
        assert counting.calls - before == Counter(accept=2)
        looks = [one.checkpoint for one in line.known if one.sweep_since is None]
        assert [one and one.uid for one in looks] == [None, 1, 2]

    async with living(subject):
        await until(lambda: line.did.count("wait") == 4)

    assert (counting.calls - before)["gaps_due"] == 1
    assert line.known[-1].checkpoint == await store.checkpoint("alarm", "INBOX")
    assert await uids(store) == [1, 2, 3]


async def test_pushed_mail_is_fetched(store: Store) -> None:
    """The server's word ends the wait, the question says that there is news, and it is fetched."""
    line = Line(1)
    async with living(intake(line, store)):
        await until(lambda: line.did.count("wait") == 1)
        line.uids.append(2)
        line.pushed.set()
        await until(lambda: line.did.count("wait") == 2)

    assert await uids(store) == [1, 2]
    assert line.did[-3:] == ["ask", "fetch", "wait"]


async def test_a_session_that_is_pushed_to_proves_checks_by_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a wake and without a push it asks again and again, and so notices a dead line."""
    monkeypatch.setattr(intake_module, "PROVE_EVERY", 0.02)
    line = Line(1)
    subject = intake(line, store)
    async with living(subject) as [life]:
        await until(lambda: line.did.count("ask") >= 3)
        proven = subject.health.last_check
        line.dies_in = "ask"
        await until(life.done)

    assert isinstance(life.exception(), Unavailable)
    assert subject.health.last_check == proven


async def test_a_wait_ends_when_a_check_must_be_proven_or_the_session_ends(store: Store) -> None:
    """A pushed session waits 30 s, a polled one a quarter longer than its interval, no longer."""
    cases = [(True, None, 30.0), (False, 60.0, 75.0), (False, None, 750.0)]
    for number, (pushes, every, seconds) in enumerate(cases):
        line = Line(folder=f"F{number}", pushes=pushes)
        before = datetime.now(UTC)
        async with living(intake(line, store, every=every)):
            await until(lambda line=line: bool(line.waits))  # type: ignore[misc]  # the default binds the loop's present value

        assert before <= line.waits[0] - timedelta(seconds=seconds) <= datetime.now(UTC)


async def test_a_polled_folder_is_checked_though_its_schedule_has_died(store: Store) -> None:
    """Nobody wakes it, neither within a session nor between two: it checks by itself."""
    for keeps in (True, False):
        line = Line(1, pushes=False, folder=f"keeps {keeps}")
        subject = intake(line, store, every=0.02, keeps_session=keeps, slots=quick_slots())
        async with living(subject, again=True):
            await until(lambda line=line: len(line.did) >= 6)  # type: ignore[misc]  # the default binds the loop's present value


def quick_slots(folders: int = 1, **given: Any) -> MailboxSlots:
    """Return slots whose clock runs a thousand times as fast, so that nobody waits for them."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    return MailboxSlots(folders, clock=lambda: start + 1e3 * (loop.time() - start), **given)


async def test_the_schedule_asks_only_where_it_is_needed(store: Store) -> None:
    """A session that has just proven a check is left alone; a polled or a late one is not."""
    for pushes, late, wakes in ((True, False, False), (True, True, True), (False, False, True)):
        ahead = 0.0
        line = Line(1, folder=f"{pushes} {late}", pushes=pushes)
        health = FolderHealth(
            mailbox="alarm",
            folder=line.folder,
            clock=lambda: asyncio.get_running_loop().time() + ahead,  # noqa: B023 - the present one is meant
        )
        subject = intake(line, store, every=60.0, health=health)
        async with living(subject):
            await until(lambda line=line: line.did.count("wait") == 1)  # type: ignore[misc]  # the default binds the loop's present value
            ahead = 31.0 if late else 0.0
            subject.scheduled()

            assert subject._woken.is_set() == wakes


async def test_a_check_that_was_due_is_owed_until_it_is_made(store: Store) -> None:
    """What kept a session from being opened does not cost the check that asked for it."""
    line, slots = Line(1, pushes=False), quick_slots()
    subject = intake(line, store, every=0.02, keeps_session=False, slots=slots)
    await subject.live()
    slots.hold(100.0)  # a tenth of a second, by that clock
    with pytest.raises(Throttled):
        await subject.live()
    subject._net = None  # nobody asks again
    async with asyncio.timeout(20):
        while line.sessions < 2:
            with suppress(Throttled):
                await subject.live()
            await asyncio.sleep(0.01)

    assert line.sessions == 2


async def test_many_wakes_during_a_look_are_one_more_check(store: Store) -> None:
    """A schedule that fires while a look is under way leads to one further check, not to ten."""
    line, held = Line(1), asyncio.Event()
    fetch = line.fetch

    async def slow(known: Known, memory: Memory) -> AsyncGenerator[Batch, None]:
        async for batch in fetch(known, memory):
            await held.wait()
            yield batch

    line.fetch = slow  # type: ignore[method-assign]  # a look that takes its time
    subject = intake(line, store)
    async with living(subject):
        await until(lambda: line.did == ["fetch"])
        for _ in range(10):
            subject.wake()
        held.set()
        await until(lambda: line.did.count("wait") == 2)

    assert line.did == ["fetch", "sweep", "wait", "ask", "wait"]


async def test_a_gap_is_tried_when_it_is_due(store: Store, clock: Clock) -> None:
    """While no gap is due a question is enough; from its time on the folder is looked at."""
    gap = Gap(
        ref=ref(7), reason="no", tries=1, first_at=clock(), due_at=clock() + timedelta(hours=1)
    )
    batch = Batch(mailbox="alarm", folder="INBOX", gaps=(gap,), checkpoint=checkpoint(7))
    await store.accept(batch, address="a@b.example", settles=False)
    line = Line()
    subject = intake(line, store, now=clock)
    async with living(subject):
        await until(lambda: line.did.count("wait") == 1)
        subject.wake()
        await until(lambda: line.did.count("wait") == 2)
        before = list(line.did)
        clock.ahead = timedelta(hours=1, seconds=1)
        subject.wake()
        await until(lambda: line.did.count("wait") == 3)

    assert before == ["fetch", "sweep", "wait", "ask", "wait"]
    assert line.did[len(before) :] == ["ask", "fetch", "wait"]
    assert [gap.ref for known in line.known for gap in known.gaps] == [ref(7)]
    assert await uids(store) == [7]


async def test_what_is_not_settled_is_tried_again(store: Store) -> None:
    """While the server has not taken a settle, every check is a full look, also without news."""
    line = Line(1)
    line.settles_all = False
    subject = intake(line, store, settles=True)
    async with living(subject):
        await until(lambda: line.did.count("wait") == 1)
        line.settles_all = True
        subject.wake()
        await until(lambda: line.did.count("wait") == 2)
        subject.wake()
        await until(lambda: line.did.count("wait") == 3)

    assert line.settled == [1]
    assert line.did == [
        *("fetch", "settle", "sweep", "wait"),
        *("ask", "fetch", "settle", "wait"),
        *("ask", "wait"),
    ]


async def test_a_failed_accept_is_hidden_by_nothing(store: Store) -> None:
    """What the disk did not take is fetched by the next session, though the server has no news."""
    line, full = Line(1), False

    class Filling(Counting):
        """A store whose disk is full for a while."""

        async def accept(self, batch: Batch, *, address: str, settles: bool) -> Any:
            if full:
                raise StoreFull("no space left on device")
            return await store.accept(batch, address=address, settles=settles)

    subject = intake(line, Filling(store), slots=quick_slots())
    async with living(subject) as [life]:
        await until(lambda: line.did.count("wait") == 1)
        line.uids.append(2)
        full = True
        subject.wake()
        await until(life.done)
    failure = life.exception()
    full = False
    async with living(subject):
        await until(lambda: line.did.count("wait") == 2)

    assert isinstance(failure, StoreFull)
    assert await uids(store) == [1, 2]
    assert line.did[3:6] == ["ask", "fetch", "fetch"]


async def test_chatter_costs_little(store: Store) -> None:
    """A server that speaks all the time and has nothing to say is asked ever more seldom."""
    line = Line(1)

    async def chatter(woken: asyncio.Event, until: datetime) -> None:
        line.did.append("wait")
        await asyncio.sleep(0)

    line.stand_by = chatter  # type: ignore[method-assign]  # a server that never stops
    subject = intake(line, store)
    async with living(subject):
        await until(lambda: line.did.count("wait") >= 1)
        await asyncio.sleep(1.0)
        asked = line.did.count("ask")
        line.uids.append(2)
        await until(lambda: subject.health.accepted == 2)

    assert 1 < asked < 15
    assert await uids(store) == [1, 2]


async def test_the_end_of_a_pushed_session_brings_the_next_one(store: Store) -> None:
    """When its token nears its end a new session is opened at once; no schedule is waited for."""
    line = Line(1)
    line.expires_at = datetime.now(UTC) + timedelta(seconds=0.2)
    subject = intake(line, store, slots=quick_slots())
    async with living(subject, again=True):
        await until(lambda: line.sessions == 3)

    assert subject.health.last_check is not None


async def test_sessions_survive_a_clock_that_is_set(store: Store, clock: Clock) -> None:
    """When the time of day leaps by ten years the session goes on: not all of them end at once."""
    line = Line(1)
    line.expires_at, line.now = clock() + timedelta(hours=1), clock
    subject = intake(line, store, now=clock)
    async with living(subject):
        await until(lambda: line.did.count("wait") == 1)
        for leap in (timedelta(days=3650), -timedelta(days=1)):
            waits = line.did.count("wait")
            clock.ahead = leap
            subject.wake()
            await until(lambda waits=waits: line.did.count("wait") == waits + 1)  # type: ignore[misc]  # the default binds the loop's present value
            assert not subject.health.overdue(1.0)

    assert line.sessions == 1


# --- looking back


async def test_new_mail_comes_first_then_gaps_then_the_look_back(store: Store) -> None:
    """The first look asks for new mail and due gaps alone; once it is proven comes a sweep."""
    await store.accept(
        Batch(
            mailbox="alarm",
            folder="INBOX",
            messages=(mail(1), mail(3)),
            gaps=(Gap(ref=ref(2), reason="no", tries=1, first_at=START, due_at=START),),
            checkpoint=checkpoint(5),
        ),
        address="a@b.example",
        settles=False,
    )
    line = Line(1, 2, 3, 4, 5, 6)
    subject = intake(line, store)
    came: list[tuple[int, bool]] = []
    accept = subject._taken.accept

    async def noted(batch: Batch) -> Any:
        came.extend((message.ref.uid, batch.swept) for message in batch.messages)
        return await accept(batch)

    subject._taken.accept = noted  # type: ignore[method-assign]  # to see the order
    with structlog.testing.capture_logs() as logged:
        async with living(subject):
            await until(lambda: line.did.count("wait") == 1)

    assert came == [(6, False), (2, False), (4, True), (5, True)]
    assert line.known[0].sweep_since is None
    assert line.known[1].gaps == ()
    since = line.known[1].sweep_since
    assert since is not None
    assert timedelta() <= datetime.now(UTC) - BACK - since < timedelta(seconds=60)
    assert subject.health.swept == 2
    found = [entry for entry in logged if entry["event"] == "sweep.found"]
    assert [(entry["log_level"], entry["uids"], entry["count"]) for entry in found] == [
        ("warning", [4], 1),
        ("warning", [5], 1),
    ]


async def test_between_two_batches_of_holes_new_mail_goes_first(store: Store) -> None:
    """However many holes there are, mail that comes meanwhile waits for one batch of them only."""
    await store.accept(
        Batch(mailbox="alarm", folder="INBOX", checkpoint=checkpoint(9)),
        address="a@b.example",
        settles=False,
    )
    line = Line(*range(1, 10))
    subject = intake(line, store)
    order: list[int] = []
    accept = subject._taken.accept

    async def noted(batch: Batch) -> Any:
        order.extend(message.ref.uid for message in batch.messages)
        if len(order) == 3:
            line.uids.append(10)
        return await accept(batch)

    subject._taken.accept = noted  # type: ignore[method-assign]  # mail comes in the middle of it
    async with living(subject):
        await until(lambda: line.did.count("wait") == 1)

    assert order == [1, 2, 3, 10, 4, 5, 6, 7, 8, 9]
    assert subject.health.swept == 9


async def test_a_healthy_folder_is_looked_back_over_and_nothing_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sweeps come by their clock as long as a session lasts; the count stays at nought."""
    monkeypatch.setattr("mailbridge.sweep.EVERY", 0.02)
    monkeypatch.setattr(intake_module, "PROVE_EVERY", 0.01)
    line = Line(1, 2, 3)
    subject = intake(line, store)
    async with living(subject):
        await until(lambda: line.did.count("sweep") >= 4)

    assert subject.health.swept == 0
    assert line.sessions == 1


async def test_a_sweep_that_costs_the_session_is_not_tried_at_once(store: Store) -> None:
    """The folder is not lost to it: the next session proves its checks and leaves it for later."""
    line = Line(1)
    line.dies_in = "sweep"
    subject = intake(line, store, slots=quick_slots())
    async with living(subject, again=False) as [life]:
        await until(life.done)
    async with living(subject):
        await until(lambda: line.did.count("wait") == 1)
        line.dies_in = "ask"
        subject.wake()
        await until(lambda: line.did[-1] == "ask")
    async with living(subject):
        await until(lambda: line.did.count("wait") == 2)

    assert isinstance(life.exception(), Unavailable)
    # After a session that ended for another reason it is due again.
    assert line.did == [
        *("fetch", "sweep"),
        *("fetch", "wait", "ask"),
        *("fetch", "sweep", "wait"),
    ]


async def test_a_folder_does_not_wait_for_the_sweeps_of_others(store: Store) -> None:
    """When all places are taken it goes on with its checks, and sweeps once there is one."""
    line, sweeps = Line(1), Sweeps(1)
    subject = intake(line, store, sweeps=sweeps)
    async with living(subject):
        async with sweeps.place():
            await until(lambda: line.did.count("wait") == 1)
            subject.wake()
            await until(lambda: line.did.count("wait") == 2)
            before = list(line.did)
        subject.wake()
        await until(lambda: line.did.count("wait") == 3)

    assert before == ["fetch", "wait", "ask", "wait"]
    assert line.did[4:] == ["ask", "sweep", "wait"]


# --- several folders of one mailbox


async def test_folders_beyond_the_limit_take_turns_and_are_watched(store: Store) -> None:
    """Of six folders two keep their sessions, four share a third: never more than three open."""
    slots = quick_slots(6, limit=3)
    lines = [Line(1, folder=f"F{number}") for number in range(6)]
    intakes = [intake(line, store, slots=slots, every=0.05) for line in lines]
    most = 0

    def measure() -> bool:
        nonlocal most
        most = max(most, sum(line.open for line in lines))
        return all(line.sessions >= 3 for line in lines[2:])

    async with living(*intakes, again=True):
        await until(measure)

    assert most == 3
    assert [line.sessions for line in lines[:2]] == [1, 1]
    assert [one.health.last_check is not None for one in intakes] == [True] * 6
    assert all("wait" not in line.did for line in lines[2:])
