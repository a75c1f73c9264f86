"""Backing off, parking, and saying when a folder is not seen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from mailbridge import intake, supervise, waits
from mailbridge.errors import (
    MailbridgeError,
    SignInRejected,
    StoreFull,
    StoreRefused,
    Throttled,
    Unavailable,
)
from mailbridge.health import FolderHealth, Sight
from mailbridge.model import Notice
from mailbridge.sources.imap_quiet import ANSWER_WITHIN
from mailbridge.supervise import Supervisor
from mailbridge.waits import backoff

NOT_CONNECTED = Unavailable(
    "signed in, but the mailbox is not opened", code="imap.not_connected", fix="enable IMAP"
)


class Life:
    """An intake whose sessions end as scripted; the last entry repeats."""

    def __init__(self, name: str, *script: BaseException | None) -> None:
        self.mailbox, self.folder = name, "INBOX"
        self.health = FolderHealth(mailbox=name, folder="INBOX")
        self.script = list(script)
        self.lives = 0
        self.cancelled = 0
        #: so many times it does not let go when it is cut
        self.clings = 0
        self.asks = False

    async def live(self) -> None:
        """Prove one check, hang, or fail, as the script says."""
        step = self.script[min(self.lives, len(self.script) - 1)]
        self.lives += 1
        self.health.wanted()
        if step is None:
            self.health.proven(datetime.now(UTC))
            await asyncio.sleep(0.01)
            return
        if isinstance(step, asyncio.CancelledError):
            self.health.asking = self.asks
            try:
                await self._hang()
            finally:
                self.health.asking = False
        raise step

    async def _hang(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if self.cancelled > self.clings:
                    raise


class Notices:
    """Records notices, or refuses them while ``full``."""

    def __init__(self) -> None:
        self.sent: list[Notice] = []
        self.full = False

    async def notify(self, notices: Sequence[Notice], sinks: Sequence[str]) -> None:
        """Keep the notices, as a store would."""
        if self.full:
            raise StoreFull("no space")
        self.sent.extend(notices)


def supervisor(store: Notices) -> Supervisor:
    return Supervisor(
        store=store,  # type: ignore[arg-type]  # notify is all that is used
        listeners=lambda _mailbox, _kind: ["hook"],
        on_notice=lambda: None,
        now=lambda: datetime.now(UTC),
        rng=random.Random(7),
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink every wait by a thousand, and keep their order."""
    for name in (
        "FIRST_WAIT",
        "LONGEST_WAIT",
        "PARKED_WAIT",
        "FULL_WAIT",
        "OVERDUE",
        "OVERDUE_ASKING",
        "TORN_DOWN",
        "TORN_DOWN_ASKING",
        "ANNOUNCE_AFTER",
        "RECOVERED_AFTER",
        "TICK",
    ):
        home = waits if name.endswith("_WAIT") else supervise
        monkeypatch.setattr(home, name, getattr(home, name) / 1000)
    short = tuple(wait / 1000 for wait in waits.NOT_CONNECTED_WAITS)
    monkeypatch.setattr(waits, "NOT_CONNECTED_WAITS", short)


async def run_until(task: asyncio.Task[None], done: object) -> None:
    """Run the supervisor until a condition holds, then stop it."""
    assert callable(done)
    async with asyncio.timeout(20):
        while not done() and not task.done():
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("failures", "error", "least", "most"),
    [
        pytest.param(1, Unavailable("x"), 0.8, 1.2, id="first"),
        pytest.param(4, Unavailable("x"), 6.4, 9.6, id="doubling"),
        pytest.param(500, Unavailable("x"), 240, 360, id="capped-and-no-overflow"),
        pytest.param(1, SignInRejected("x"), 720, 1080, id="permanent-is-parked"),
        pytest.param(9, StoreFull("x"), 8, 12, id="disk-full-looks-often"),
        pytest.param(1, Throttled("x", retry_after=89.1), 89.1, 98.1, id="never-before-told"),
        *(
            pytest.param(n, NOT_CONNECTED, 0.8 * wait, 1.2 * wait, id=f"not-connected-{n}")
            for n, wait in [(1, 60), (2, 300), (3, 900), (30, 900)]
        ),
        pytest.param(3, None, 3.2, 4.8, id="unknown-is-temporary"),
    ],
)
def test_backoff(failures: int, error: MailbridgeError | None, least: float, most: float) -> None:
    """Each kind of failure waits as long as it asks for, with jitter and a cap."""
    waits = [backoff(failures, error, random.Random(seed)) for seed in range(200)]

    assert least <= min(waits)
    assert max(waits) <= most
    assert len(set(waits)) > 100


@pytest.mark.usefixtures("quick")
async def test_a_broken_mailbox_delays_no_other() -> None:
    """One mailbox fails for ever; the other proves its checks all the while."""
    broken = Life("broken", Unavailable("no route"))
    parked = Life("parked", SignInRejected("AADSTS7000215", code="AADSTS7000215"))
    good = Life("good", None)
    store = Notices()
    task = asyncio.create_task(supervisor(store).run([broken, parked, good]))  # type: ignore[list-item]

    await run_until(task, lambda: good.lives >= 30 and broken.lives >= 3 and store.sent)

    assert good.health.sight is Sight.OK
    assert broken.health.sight is Sight.DEGRADED
    assert parked.health.sight is Sight.PARKED
    assert parked.health.code == "AADSTS7000215"


@pytest.mark.usefixtures("quick")
async def test_blindness_is_told_and_so_is_its_end() -> None:
    """A mailbox that fails gets one degraded event, and one recovered when it is seen again."""
    ill = Life("ill", *[Unavailable("no route")] * 12, None)
    store = Notices()
    task = asyncio.create_task(supervisor(store).run([ill]))  # type: ignore[list-item]

    await run_until(task, lambda: any(n.type == "mailbox.recovered" for n in store.sent))

    kinds = [notice.type for notice in store.sent]
    assert kinds == ["mailbox.degraded", "mailbox.recovered"]
    assert store.sent[0].data["cause"] == "no route"


@pytest.mark.usefixtures("quick")
async def test_a_notice_waits_for_a_full_disk() -> None:
    """While the store cannot take the event, the watch tries again and loses nothing."""
    ill = Life("ill", Unavailable("no route"))
    store = Notices()
    store.full = True
    task = asyncio.create_task(supervisor(store).run([ill]))  # type: ignore[list-item]
    await asyncio.sleep(0.2)
    assert store.sent == []
    store.full = False

    await run_until(task, lambda: store.sent)

    assert [notice.type for notice in store.sent] == ["mailbox.degraded"]


@pytest.mark.usefixtures("quick")
async def test_a_check_without_progress_is_blindness() -> None:
    """A session that hangs is reported as degraded, torn down, and built anew."""
    hung = Life("hung", asyncio.CancelledError(), None)
    store = Notices()
    task = asyncio.create_task(supervisor(store).run([hung]))  # type: ignore[list-item]

    await run_until(task, lambda: any(n.type == "mailbox.recovered" for n in store.sent))

    assert hung.cancelled == 1
    assert store.sent[0].type == "mailbox.degraded"
    assert store.sent[0].data["code"] == "overdue"


@pytest.mark.usefixtures("quick")
async def test_a_retry_that_hangs_is_torn_down_too() -> None:
    """After a first failure the next try hangs: it is cut like any other, and sight comes back."""
    hung = Life("hung", Unavailable("no route"), asyncio.CancelledError(), None)
    task = asyncio.create_task(supervisor(Notices()).run([hung]))  # type: ignore[list-item]

    await run_until(task, lambda: hung.health.sight is Sight.OK)

    assert hung.cancelled == 1


@pytest.mark.usefixtures("quick")
async def test_a_session_that_does_not_let_go_is_cut_again() -> None:
    """What a session does on its way out may hang, too: it is cut at every round of the watch."""
    hung = Life("hung", asyncio.CancelledError(), None)
    hung.clings = 3
    task = asyncio.create_task(supervisor(Notices()).run([hung]))  # type: ignore[list-item]

    await run_until(task, lambda: hung.health.sight is Sight.OK)

    assert hung.cancelled == 4


@pytest.mark.usefixtures("quick")
async def test_who_only_asks_is_torn_down_before_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop stuck in a question is rebuilt at once; one that reads a huge mail has its time."""
    monkeypatch.setattr(supervise, "TORN_DOWN", 3600.0)
    asking = Life("asking", asyncio.CancelledError(), None)
    reading = Life("reading", asyncio.CancelledError(), None)
    asking.asks = True
    task = asyncio.create_task(supervisor(Notices()).run([asking, reading]))  # type: ignore[list-item]

    await run_until(task, lambda: asking.lives >= 3 and reading.health.code == "overdue")

    # The last cut of the reader is ours, at the end of the test.
    assert (asking.cancelled, reading.lives) == (1, 1)


def test_blindness_shows_within_a_minute() -> None:
    """The arithmetic of the module's text holds for the figures that are in force."""
    asked, every = intake.PROVE_EVERY, supervise.TICK

    assert asked + ANSWER_WITHIN <= 45
    assert asked + supervise.OVERDUE_ASKING + every < 60
    assert supervise.OVERDUE_ASKING > ANSWER_WITHIN
    assert asked + supervise.ANNOUNCE_AFTER + every < 60
    assert asked + supervise.TORN_DOWN_ASKING + every < 90
    assert max(supervise.OVERDUE, supervise.ANNOUNCE_AFTER) + every < 60


@pytest.mark.usefixtures("quick")
async def test_not_connected_is_a_state_and_after_three_times_a_fault() -> None:
    """Blindness is told soon, and once more, with the fix, when it has not passed by itself."""
    shut = Life("shut", Unavailable("no route"), *[NOT_CONNECTED] * 4)
    store = Notices()
    task = asyncio.create_task(supervisor(store).run([shut]))  # type: ignore[list-item]
    with structlog.testing.capture_logs() as logged:
        await run_until(task, lambda: shut.lives >= 5)

    assert shut.health.sight is Sight.NOT_CONNECTED
    assert [notice.type for notice in store.sent] == ["mailbox.degraded"] * 2
    assert len({notice.id for notice in store.sent}) == 2
    assert len({notice.data["since"] for notice in store.sent}) == 1
    assert store.sent[-1].data["state"] == "not_connected"
    assert store.sent[-1].data["fix"] == "enable IMAP"
    faults = [entry["failures"] for entry in logged if entry["event"] == "mailbox.not_connected"]
    assert faults == [4, 5]


@pytest.mark.usefixtures("quick")
async def test_a_throttle_is_shown_while_it_lasts_and_not_a_moment_longer() -> None:
    """Until then nothing signs in; afterwards no stale time is shown, though no check is proven."""
    slow = Life("slow", Throttled("later", retry_after=0.2), asyncio.CancelledError())
    task = asyncio.create_task(supervisor(Notices()).run([slow]))  # type: ignore[list-item]
    async with asyncio.timeout(20):
        while slow.health.throttled_until is None:
            await asyncio.sleep(0.001)
    until = slow.health.throttled_until
    lives = slow.lives

    await run_until(task, lambda: slow.lives == 2)

    assert lives == 1
    assert datetime.now(UTC) >= until
    assert slow.health.throttled_until is None
    assert slow.health.throttled_seconds >= 0.2


@pytest.mark.usefixtures("quick")
async def test_the_next_try_has_its_own_time() -> None:
    """However long the pause was, the session that follows begins without a debt of time."""
    slow = Life("slow", Throttled("later", retry_after=0.5), None)
    live = slow.live
    debts: list[bool] = []

    async def noted() -> None:
        debts.append(slow.health.overdue(0.4))
        await live()

    slow.live = noted  # type: ignore[method-assign]  # to look at the clock
    task = asyncio.create_task(supervisor(Notices()).run([slow]))  # type: ignore[list-item]

    await run_until(task, lambda: slow.lives >= 2)

    assert debts[:2] == [False, False]


@pytest.mark.usefixtures("quick")
async def test_one_that_comes_and_goes_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between failures it is seen for a moment each time; that is no recovery, and no news."""
    monkeypatch.setattr(supervise, "RECOVERED_AFTER", 3600.0)
    flapping = Life("flapping", Unavailable("no route"))
    store = Notices()
    task = asyncio.create_task(supervisor(store).run([flapping]))  # type: ignore[list-item]
    live = flapping.live

    async def seen_for_a_moment() -> None:
        if store.sent:
            flapping.health.proven(datetime.now(UTC))
            await asyncio.sleep(4 * supervise.TICK)
        await live()

    flapping.live = seen_for_a_moment  # type: ignore[method-assign]  # well, and gone again

    await run_until(task, lambda: len(store.sent) > 0 and flapping.lives > 20)

    assert [notice.type for notice in store.sent] == ["mailbox.degraded"]


@pytest.mark.usefixtures("quick")
async def test_a_clock_that_is_set_blinds_nobody() -> None:
    """The time of day leaps by ten years: nothing is overdue, nothing is torn down or told."""
    ahead = timedelta()
    parked = Life("parked", asyncio.CancelledError())
    store = Notices()
    subject = Supervisor(
        store=store,  # type: ignore[arg-type]  # notify is all that is used
        listeners=lambda _mailbox, _kind: ["hook"],
        on_notice=lambda: None,
        now=lambda: datetime.now(UTC) + ahead,
        rng=random.Random(7),
    )
    task = asyncio.create_task(subject.run([parked]))  # type: ignore[list-item]
    async with asyncio.timeout(20):
        while parked.lives == 0:
            await asyncio.sleep(0.001)
    parked.health.proven(datetime.now(UTC))
    parked.health.wanted(parked.health.clock() + 3600)
    ahead = timedelta(days=3650)
    moved = subject.moved_at

    await run_until(task, lambda: subject.moved_at > moved + timedelta(days=3000))

    assert (parked.health.sight, store.sent, parked.lives) == (Sight.OK, [], 1)


@pytest.mark.usefixtures("quick")
async def test_an_unknown_error_is_temporary() -> None:
    """A bug in the way of one message never stops the watch over its mailbox."""
    odd = Life("odd", ZeroDivisionError("oops"), None)
    task = asyncio.create_task(supervisor(Notices()).run([odd]))  # type: ignore[list-item]

    await run_until(task, lambda: odd.health.sight is Sight.OK)

    assert odd.lives >= 2


@pytest.mark.usefixtures("quick")
async def test_a_store_that_cannot_be_trusted_ends_the_daemon() -> None:
    """After a failed fsync the process has to end and recover, not carry on."""
    doomed = Life("doomed", StoreRefused("disk I/O error", code="store.io"))
    task = asyncio.create_task(supervisor(Notices()).run([doomed]))  # type: ignore[list-item]

    with pytest.raises(ExceptionGroup) as caught:
        await task

    assert caught.group_contains(StoreRefused)


def test_overdue_counts_from_the_last_progress() -> None:
    """A long backlog that moves is not blindness; the same time without a batch is."""
    seconds = 1000.0
    health = FolderHealth(mailbox="a", folder="INBOX", clock=lambda: seconds)
    health.wanted()
    seconds += 40
    health.progress(datetime.now(UTC), 10)

    seconds += 40
    assert not health.overdue(45)
    seconds += 6
    assert health.overdue(45)
