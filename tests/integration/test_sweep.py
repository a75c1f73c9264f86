"""The look-back sweep against real servers and a store that was tampered with behind its back."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from mailbridge.health import FolderHealth
from mailbridge.intake import Intake
from mailbridge.model import MessageRef
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sources.imap_connection import Connection
from mailbridge.sources.imap_errors import Refused
from mailbridge.store.store import Store
from tests.contract.imap_rigs import DovecotRig, Rig, SandboxRig, mail, source_for
from tests.servers.dovecot import Dovecot
from tests.servers.tokens import Minter


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def sandbox(key: SigningKey) -> AsyncIterator[SandboxRig]:
    async with Tenant.start(key=key) as tenant:
        yield SandboxRig(tenant, tenant.add_app())


@pytest.fixture(params=["exchange", "dovecot"])
async def rig(request: pytest.FixtureRequest, key: SigningKey) -> AsyncIterator[Rig]:
    if request.param == "exchange":
        async with Tenant.start(key=key) as tenant:
            yield SandboxRig(tenant, tenant.add_app())
    else:
        dovecot: Dovecot = request.getfixturevalue("dovecot")
        minter: Minter = request.getfixturevalue("minter")
        yield DovecotRig(dovecot, minter, f"{uuid.uuid4().hex[:12]}@feuerwehr.example")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


class House:
    """A store in a file, and the watch over the rig's INBOX; each watch has one session."""

    def __init__(self, rig: Rig, pool: ThreadPoolExecutor, path: Path) -> None:
        self.rig, self.pool, self.path = rig, pool, path
        self.store: Store | None = None

    async def open(self) -> Store:
        self.store = await Store.open(f"sqlite:///{self.path}", now=lambda: datetime.now(UTC))
        return self.store

    async def close(self) -> None:
        if self.store is not None:
            await self.store.close()
            self.store = None

    @asynccontextmanager
    async def watched(self, **changed: Any) -> AsyncIterator[Intake]:
        """Watch until the block ends, which begins once the first look and its sweep are over."""
        assert self.store is not None
        subject = Intake(
            source=source_for(self.rig, self.pool, **changed),
            store=self.store,
            address=self.rig.address,
            sinks=["hook"],
            listeners=["hook"],
            settles=False,
            keeps_session=True,
            health=FolderHealth(mailbox="alarm", folder="INBOX"),
            on_accepted=lambda: None,
            ahead=asyncio.Semaphore(1),
            now=lambda: datetime.now(UTC),
        )
        life = asyncio.create_task(subject.live())
        try:
            await until(lambda: life.done() or subject.health.asking)
            yield subject
        finally:
            life.cancel()
            [ended] = await asyncio.gather(life, return_exceptions=True)
            assert isinstance(ended, asyncio.CancelledError), ended

    async def sql(self, text: str, **values: object) -> None:
        """Change the database behind everybody's back."""
        assert self.store is not None
        await self.store._run(lambda connection, _: connection.execute(sa.text(text), values))

    async def lose(self, uid: int) -> None:
        """Remove all that the store has of a message."""
        for table, column in (("deliveries", "message"), ("raw", "message"), ("messages", "pk")):
            await self.sql(
                f"delete from {table} where {column} in (select pk from messages where uid = :uid)",
                uid=uid,
            )

    async def deliveries(self) -> list[str]:
        assert self.store is not None
        rows = await self.store.deliveries(limit=1000)
        return sorted(row.event_id for row in rows if row.type == "mail.received")

    async def ids(self) -> list[str]:
        """Return the webhook-ids that the places of all mails in the folder give."""
        epoch = await self.epoch()
        return sorted(_id(epoch, uid) for uid, _, _ in await self.rig.look())

    async def epoch(self) -> int:
        assert self.store is not None
        checkpoint = await self.store.checkpoint("alarm", "INBOX")
        assert checkpoint is not None
        return checkpoint.uidvalidity


@pytest.fixture
async def house(rig: Rig, pool: ThreadPoolExecutor, tmp_path: Path) -> AsyncIterator[House]:
    made = House(rig, pool, tmp_path / "mailbridge.db")
    await made.open()
    yield made
    await made.close()


def _id(epoch: int, uid: int) -> str:
    return MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=epoch, uid=uid).message_id


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def fill(rig: Rig, *numbers: int, **given: Any) -> None:
    for number in numbers:
        await rig.deliver(mail(number), **given)


async def test_in_a_healthy_run_nothing_is_found(house: House) -> None:
    """Sweeps of several sessions find nothing, and every mail has one delivery."""
    await fill(house.rig, 1, 2, 3)
    for _ in range(3):
        async with house.watched() as subject:
            assert subject.health.swept == 0
        await fill(house.rig, 4)

    assert len(await house.deliveries()) == 5
    assert set(await house.deliveries()) < set(await house.ids())


async def test_a_lost_row_comes_back_under_its_id(house: House) -> None:
    """Whatever lost a message of the store, the next session heals it; the others stay as is."""
    await fill(house.rig, 1, 2, 3, 4, 5)
    async with house.watched():
        pass
    before = await house.deliveries()
    await house.lose(2)
    await house.lose(4)
    lost = set(before) - set(await house.deliveries())
    epoch = await house.epoch()

    with structlog.testing.capture_logs() as logged:
        async with house.watched() as subject:
            assert subject.health.swept == 2

    assert lost == {_id(epoch, 2), _id(epoch, 4)}
    assert await house.deliveries() == before == await house.ids()
    [found] = [entry for entry in logged if entry["event"] == "sweep.found"]
    assert (found["uids"], found["count"], found["log_level"]) == ([2, 4], 2, "warning")


async def test_a_checkpoint_too_far_ahead_hides_nothing(house: House) -> None:
    """Mail that comes behind a wrong checkpoint is found by the next sweep of the same session."""
    await fill(house.rig, 1)
    async with house.watched():
        pass
    await house.sql("update checkpoints set uid = 1000")

    async with house.watched() as subject:
        await fill(house.rig, 2, 3)
        subject._look_back.end(more=True)  # a quarter of an hour passes
        subject.wake()
        await until(lambda: subject.health.swept == 2)

    assert await house.deliveries() == await house.ids()
    assert len(await house.deliveries()) == 3


async def test_a_restored_older_database_loses_nothing(house: House) -> None:
    """After going back to yesterday's copy the same mails come again, under the same ids."""
    await fill(house.rig, 1, 2)
    async with house.watched():
        pass
    await house.close()
    shutil.copy(house.path, house.path.with_suffix(".copy"))
    await house.open()
    await fill(house.rig, 3, 4)
    async with house.watched():
        pass
    before = await house.deliveries()
    await house.close()
    for leftover in house.path.parent.glob("mailbridge.db-*"):
        leftover.unlink()
    shutil.copy(house.path.with_suffix(".copy"), house.path)
    await house.open()

    async with house.watched() as subject:
        assert subject.health.swept == 0  # the checkpoint went back, too: they are simply new

    assert await house.deliveries() == before == await house.ids()


async def test_what_lay_there_before_stays_untouched(house: House) -> None:
    """With `start: new` a sweep brings a lost new mail, and none of the fresh ones from before."""
    await fill(house.rig, 1, 2)
    async with house.watched(start="new") as subject:
        await fill(house.rig, 3, 4)
        subject.wake()
        await until(lambda: subject.health.accepted == 2)
    await house.lose(4)

    async with house.watched(start="new") as subject:
        assert subject.health.swept == 1

    epoch = await house.epoch()
    assert await house.deliveries() == sorted([_id(epoch, 3), _id(epoch, 4)])


async def test_a_start_date_holds_for_sweeps_too(house: House) -> None:
    """Mail from before the date stays untouched however fresh, what came since is healed."""
    today = datetime.now(UTC).replace(hour=12)
    await fill(house.rig, 1, received_at=today - timedelta(days=2))
    await fill(house.rig, 2, received_at=today)
    start: date = (today - timedelta(days=1)).date()
    async with house.watched(start=start):
        pass
    before = await house.deliveries()
    await house.lose(2)

    async with house.watched(start=start) as subject:
        assert subject.health.swept == 1

    assert await house.deliveries() == before == [_id(await house.epoch(), 2)]


@pytest.mark.parametrize("start", ["all", "new"])
async def test_after_a_renumbering_nothing_is_doubled(house: House, start: str) -> None:
    """When UIDVALIDITY has changed, the sweep knows what was recognised and what lay there."""
    await fill(house.rig, 1, 2, received_at=datetime.now(UTC) - timedelta(hours=1))
    async with house.watched(start=start) as subject:
        await fill(house.rig, 3)
        subject.wake()
        await until(lambda: subject.health.accepted == (3 if start == "all" else 1))
    before = await house.deliveries()
    await house.rig.renumber()

    for _ in range(2):
        async with house.watched(start=start) as subject:
            assert subject.health.swept == 0

    assert await house.deliveries() == before
    assert len(before) == (3 if start == "all" else 1)


# --- what only the sandbox can show


@pytest.fixture
async def exchange(
    sandbox: SandboxRig, pool: ThreadPoolExecutor, tmp_path: Path
) -> AsyncIterator[House]:
    made = House(sandbox, pool, tmp_path / "mailbridge.db")
    await made.open()
    yield made
    await made.close()


async def test_a_hole_that_cannot_be_fetched_becomes_a_gap(
    exchange: House, sandbox: SandboxRig
) -> None:
    """It is counted, shown, and tried again like every gap; the other hole is healed."""
    await fill(sandbox, 1, 2, 3)
    async with exchange.watched():
        pass
    await exchange.lose(1)
    await exchange.lose(2)
    sandbox.tenant.faults.add("imap.fetch_bad", uid=2)

    async with exchange.watched() as subject:
        assert subject.health.swept == 2

    assert exchange.store is not None
    far = datetime.now(UTC) + timedelta(days=1)
    gaps = await exchange.store.gaps_due("alarm", "INBOX", far)
    assert [gap.ref.uid for gap in gaps] == [2]
    epoch = await exchange.epoch()
    assert await exchange.deliveries() == sorted([_id(epoch, 1), _id(epoch, 3)])


async def test_a_sweep_asks_for_no_more_than_it_needs(exchange: House, sandbox: SandboxRig) -> None:
    """It lists 48 hours, a day more for the server's zone, up to the checkpoint; older is left."""
    await fill(sandbox, 1, received_at=datetime.now(UTC) - timedelta(days=4))
    await fill(sandbox, 2)
    async with exchange.watched():
        pass
    await exchange.lose(1)
    await exchange.lose(2)

    async with exchange.watched() as subject:
        assert subject.health.swept == 1

    day = (datetime.now(UTC) - timedelta(hours=48)).date() - timedelta(days=1)
    assert (
        sandbox.commands("SEARCH")[-1]
        .upper()
        .endswith(f"UID SEARCH UID 1:2 SINCE {day:%d-%b-%Y}".upper())
    )


async def test_a_refused_sweep_blinds_nobody(
    exchange: House, sandbox: SandboxRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not search by date keeps its session; the log says what is missing."""
    uids = Connection.uids

    def refusing(
        self: Connection, first: int, last: int | None = None, since: date | None = None
    ) -> list[int]:
        if since is not None:
            raise Refused("search: the server refused", transient=False)
        return uids(self, first, last, since)

    monkeypatch.setattr(Connection, "uids", refusing)
    await fill(sandbox, 1)
    with structlog.testing.capture_logs() as logged:
        async with exchange.watched() as subject:
            await fill(sandbox, 2)
            subject.wake()
            await until(lambda: subject.health.accepted == 2)

    assert [entry["event"] for entry in logged].count("session.opened") == 1
    assert "sweep.refused" in [entry["event"] for entry in logged]
