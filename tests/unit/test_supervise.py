"""Backing off, parking, and saying when a folder is not seen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from mailbridge import supervise
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
from mailbridge.supervise import Supervisor, backoff


class Life:
    """An intake whose sessions end as scripted; the last entry repeats."""

    def __init__(self, name: str, *script: BaseException | None) -> None:
        self.mailbox, self.folder = name, "INBOX"
        self.health = FolderHealth(mailbox=name, folder="INBOX")
        self.script = list(script)
        self.lives = 0
        self.cancelled = 0

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
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        raise step


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
        monkeypatch.setattr(supervise, name, getattr(supervise, name) / 1000)


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
        pytest.param(
            1, Unavailable("x", code="imap.not_connected"), 48, 72, id="no-fast-reconnects"
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
