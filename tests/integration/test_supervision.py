"""Supervision over real sessions: bad neighbours cost nobody, and no server is hammered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailbridge import intake as intake_module
from mailbridge import room, supervise, waits
from mailbridge.config import Config, load
from mailbridge.health import FolderHealth, Health, Sight
from mailbridge.intake import Intake
from mailbridge.model import AccessToken, Notice
from mailbridge.operate import status
from mailbridge.room import MailboxSlots, Room
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sources.imap import ImapSource
from mailbridge.sources.push import Openings, Parking
from mailbridge.sources.transport import MailServer
from mailbridge.store.store import Store
from mailbridge.supervise import Supervisor
from mailbridge.sweep import Sweeps
from tests.contract.imap_rigs import mail
from tests.servers.faultproxy import Faults, fault_proxy


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def tenant(key: SigningKey) -> AsyncIterator[Tenant]:
    async with Tenant.start(key=key) as tenant:
        yield tenant


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/mailbridge.db", now=utc_now)
    yield opened
    await opened.close()


def utc_now() -> datetime:
    return datetime.now(UTC)


async def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass(slots=True, kw_only=True)
class Fleet:
    """Mailboxes on one tenant, and a supervisor over their intakes, wired as the daemon does."""

    tenant: Tenant
    store: Store
    pool: ThreadPoolExecutor
    app: App
    push: bool = True
    health: Health = field(default_factory=lambda: Health(started_at=utc_now()))
    intakes: list[Intake] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    _room: Room = field(default_factory=lambda: Room(6, patience=1.0))
    _sweeps: Sweeps = field(default_factory=Sweeps)
    _parking: Parking = field(default_factory=Parking)
    _openings: Openings = field(default_factory=Openings)
    _ahead: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(3))

    def add(
        self, name: str, *, port: int | None = None, folders: Sequence[str] = ("INBOX",)
    ) -> list[FolderHealth]:
        """Add a mailbox and an intake for each of its folders."""
        box = self.tenant.add_mailbox(self.address(name))
        self.tenant.grant(self.app, box)
        slots = MailboxSlots(len(folders))
        made = []
        for folder in folders:
            if folder != "INBOX":
                box.create(folder)
            health = FolderHealth(mailbox=name, folder=folder)
            intake = Intake(
                source=self._source(name, folder, port),
                store=self.store,
                address=self.address(name),
                sinks=["hook"],
                listeners=["hook"],
                settles=False,
                keeps_session=True,
                health=health,
                on_accepted=lambda: None,
                ahead=self._ahead,
                now=utc_now,
                every=60.0,
                slots=slots,
                sweeps=self._sweeps,
            )
            self.intakes.append(intake)
            made.append(health)
        self.health.folders += made
        return made

    @staticmethod
    def address(name: str) -> str:
        return f"{name}@feuerwehr.example"

    def _source(self, name: str, folder: str, port: int | None) -> ImapSource:
        async def token(_: object = None) -> AccessToken:
            value = self.tenant.tokens.app_token(self.app, audience="https://outlook.office365.com")
            return AccessToken(value=value, expires_at=utc_now() + timedelta(hours=1))

        def run(function: Callable[..., Any], *args: Any) -> Any:
            return asyncio.get_running_loop().run_in_executor(self.pool, function, *args)

        return ImapSource(
            mailbox=name,
            address=self.address(name),
            folder=folder,
            server=MailServer(
                host="localhost", port=port or self.tenant.imap.port, ca=self.tenant.ca_file
            ),
            token=token,
            refresh=token,
            run=run,
            now=utc_now,
            start="all",
            push=self.push,
            fetch_room=self._room,
            parking=self._parking,
            openings=self._openings,
        )

    def deliver(self, name: str, number: int) -> None:
        """Let a mail arrive."""
        self.tenant.mailbox(self.address(name)).deliver(mail(number))

    async def notify(self, notices: Sequence[Notice], sinks: Sequence[str]) -> None:
        """Take the supervisor's events, as the store would."""
        self.notices += notices

    @asynccontextmanager
    async def supervised(self) -> AsyncIterator[Supervisor]:
        """Keep all intakes going until the block ends."""
        subject = Supervisor(
            store=self,  # type: ignore[arg-type]  # notify is all that is used
            listeners=lambda _mailbox, _kind: ["hook"],
            on_notice=lambda: None,
            now=utc_now,
            rng=random.Random(7),
        )
        task = asyncio.create_task(subject.run(self.intakes))
        try:
            yield subject
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def fleet(tenant: Tenant, store: Store, pool: ThreadPoolExecutor) -> Fleet:
    return Fleet(tenant=tenant, store=store, pool=pool, app=tenant.add_app())


async def test_bad_neighbours_cost_nobody(
    fleet: Fleet, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One black-holed, one throttled, one flapping of fifty: the others get all their mail.

    Meanwhile the black-holed one still holds its session, the throttled one has not signed in
    again, and eight threads were enough for everybody.
    """
    # On a slow machine, too, the dead line shall be held until the others are done.
    monkeypatch.setattr("mailbridge.sources.imap_quiet.ANSWER_WITHIN", 600.0)
    names = [f"box{number}" for number in range(47)]
    good = [fleet.add(name)[0] for name in names]
    async with fault_proxy("127.0.0.1", tenant.imap.port) as proxy:
        [holed] = fleet.add("holed", port=proxy.port)
        [throttled] = fleet.add("throttled")
        [flapping] = fleet.add("flapping")
        async with fleet.supervised():
            await until(lambda: all(h.pushing and h.asking for h in fleet.health.folders))
            proxy.faults = Faults(hole="both")
            tenant.faults.add(
                "imap.throttled", mailbox=fleet.address("throttled"), milliseconds=300_000
            )
            tenant.faults.add("imap.idle_drop", mailbox=fleet.address("flapping"))
            for intake in fleet.intakes:
                intake.wake()
            for number in range(3):
                for name in [*names, "holed", "throttled", "flapping"]:
                    fleet.deliver(name, number)
                await until(lambda number=number: all(h.accepted > number for h in good))  # type: ignore[misc]  # the default binds the loop's present value
            await until(lambda: throttled.throttled_until is not None)
            await until(lambda: flapping.accepted == 3)

            assert proxy.active == 1
            assert holed.accepted == 0
            assert (throttled.logins, throttled.accepted) == (1, 0)
            assert [h.accepted for h in good] == [3] * 47
            assert {h.logins for h in good} == {1}
            assert {h.failures for h in good} == {0}
            assert flapping.logins > 1
        proxy.heal()

    assert {h.swept for h in fleet.health.folders} == {0}


async def test_a_half_open_connection_is_noticed_without_a_wake(
    fleet: Fleet, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line goes dead during IDLE: the folder shows it by itself, and its event follows."""
    monkeypatch.setattr(intake_module, "PROVE_EVERY", 0.2)
    monkeypatch.setattr("mailbridge.sources.imap_quiet.ANSWER_WITHIN", 0.2)
    for name, seconds in (("TICK", 0.05), ("ANNOUNCE_AFTER", 0.1), ("RECOVERED_AFTER", 0.1)):
        monkeypatch.setattr(supervise, name, seconds)
    async with fault_proxy("127.0.0.1", tenant.imap.port) as proxy:
        [health] = fleet.add("alarm", port=proxy.port)
        async with fleet.supervised():
            await until(lambda: health.pushing and health.asking)
            proxy.faults = Faults(hole="both", refuse="hang")
            await until(lambda: health.sight is Sight.DEGRADED)
            code = health.code
            await until(lambda: bool(fleet.notices))
            fleet.deliver("alarm", 1)
            proxy.heal()
            proxy.kill_all()
            await until(lambda: len(fleet.notices) == 2)

    assert code == "imap.timeout"
    assert [notice.type for notice in fleet.notices] == ["mailbox.degraded", "mailbox.recovered"]
    assert health.accepted == 1


async def test_a_server_that_hangs_up_after_every_sign_in_is_not_hammered(
    fleet: Fleet, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session proves a check and ends at once: after a few, the sign-ins come seldom."""
    booked: list[float] = []
    book = MailboxSlots.book

    def noted(slots: MailboxSlots) -> float:
        booked.append(book(slots))
        return booked[-1]

    monkeypatch.setattr(MailboxSlots, "book", noted)
    monkeypatch.setattr(room, "LOGIN_GAP", 0.05)
    monkeypatch.setattr(room, "RETURNS", 3)
    [health] = fleet.add("alarm")
    tenant.faults.add("imap.idle_drop", mailbox=fleet.address("alarm"))
    monkeypatch.setattr(waits, "FIRST_WAIT", 0.0)
    async with fleet.supervised():
        await until(lambda: len(booked) == 5)

    assert health.logins == tenant.imap.logins == 4
    assert max(booked[1:4]) <= 0.0625
    assert booked[4] > 0.9 * room.PER_RETURN


async def test_a_throttle_of_one_folder_holds_the_sign_ins_of_all(
    fleet: Fleet, tenant: Tenant
) -> None:
    """Exchange throttles a mailbox, not a folder: none of its folders signs in meanwhile."""
    tenant.faults.add("imap.throttled_sign_in", times=1, milliseconds=300_000)
    folders = fleet.add("alarm", folders=["INBOX", "Alarm", "Archive 2026"])
    async with fleet.supervised():
        await until(lambda: all(h.throttled_until for h in folders))
        logins, connections = tenant.imap.logins, tenant.imap.connections

    assert (logins, connections) == (0, 1)
    assert {h.code for h in folders} <= {"imap.throttled", "throttled"}


async def test_a_mailbox_that_is_not_connected_has_a_state_of_its_own(
    fleet: Fleet, tenant: Tenant
) -> None:
    """Signed in, not opened: it says so at once, waits a minute, and the fix is at hand."""
    tenant.faults.add("imap.not_connected")
    [health] = fleet.add("alarm")
    async with fleet.supervised():
        await until(lambda: health.failures == 1)
        wait = health.next_try

    assert health.sight is Sight.NOT_CONNECTED
    assert wait is not None
    assert timedelta(seconds=40) < wait - utc_now() <= timedelta(seconds=72)
    assert "Set-CASMailbox" in health.fix


async def test_folders_beyond_the_limit_share_a_connection(fleet: Fleet, tenant: Tenant) -> None:
    """Of five folders two are pushed to and three polled in turn; no mail is missed in any."""
    names = ["INBOX", *(f"Alarm {number}" for number in range(4))]
    tenant.faults.add("imap.session_limit", limit=3)
    folders = fleet.add("alarm", folders=names)
    box = tenant.mailbox(fleet.address("alarm"))
    for number, name in enumerate(names):
        box.deliver(mail(number), folder=name)
    async with fleet.supervised():
        await until(lambda: all(h.last_check for h in folders))
        await until(lambda: [h.pushing for h in folders] == [True, True, False, False, False])

    assert [h.accepted for h in folders] == [1] * 5
    assert {h.failures for h in folders} == {0}


# --- what the status shows


def config_of(tmp_path: Path, *names: str) -> Config:
    boxes = "".join(
        f"  {name}: {{address: {name}@feuerwehr.example, app: a, fetch: {{folders: [INBOX]}}}}\n"
        for name in names
    )
    file = tmp_path / "mailbridge.yaml"
    file.write_text(
        f"state: {{database: 'sqlite:///{tmp_path}/mailbridge.db'}}\n"
        "apps: {a: {tenant: feuerwehr.example, client_id: 66666666-7777-8888-9999-000000000000,"
        " credential: {client_secret: {env: SECRET}}}}\n"
        f"mailboxes:\n{boxes}"
        "webhooks: {hook: {url: 'https://hook.example/', signing_secrets: [{env: SIGNING}]}}\n",
        encoding="utf-8",
    )
    secret = "whsec_" + "bWFpbGJyaWRnZS1tYWlsYnJpZGdlLW1haWxicmlkZ2U="
    return load(file, environ={"SECRET": "s", "SIGNING": secret})


async def test_the_status_shows_what_is_in_use_now(
    fleet: Fleet, tenant: Tenant, store: Store, tmp_path: Path
) -> None:
    """Push or poll, throttled until, swept and sign-ins are those of the present sessions."""
    config = config_of(tmp_path, "pushed", "polled", "slow")
    tenant.faults.add("imap.no_capability", mailbox=fleet.address("polled"))
    for name in ("pushed", "polled", "slow"):
        fleet.add(name)
    async with fleet.supervised():
        await until(lambda: all(h.asking for h in fleet.health.folders))
        tenant.faults.add("imap.throttled", mailbox=fleet.address("slow"))
        fleet.intakes[2].wake()
        await until(lambda: fleet.health.folders[2].throttled_until is not None)
        document = status(config, fleet.health, await store.counts())

    pushed, polled, slow = document["mailboxes"]
    assert [box["mode"] for box in (pushed, polled, slow)] == ["push", "poll", "poll"]
    assert [box["state"] for box in (pushed, polled, slow)] == ["ok", "ok", "degraded"]
    assert [box["logins"] for box in (pushed, polled, slow)] == [1, 1, 1]
    assert [box["swept"] for box in (pushed, polled, slow)] == [0, 0, 0]
    assert pushed["throttled_until"] is None
    assert slow["throttled_until"] == slow["folders"][0]["throttled_until"] == slow["next_try"]
    assert "throttles" in slow["cause"]
