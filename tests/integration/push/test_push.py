"""Push: sessions that wait for mail in the event loop, against real and against odd servers."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailbridge.errors import MailbridgeError, SessionOver, Throttled
from mailbridge.model import AccessToken, Checkpoint
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sources.imap import ImapSession
from mailbridge.sources.push import Parking
from tests.contract.imap_rigs import DovecotRig, Ledger, SandboxRig, mail, source_for
from tests.servers.dovecot import Dovecot
from tests.servers.faultproxy import Faults, fault_proxy
from tests.servers.scripted_imap import UIDVALIDITY, Script, ScriptedImap, Talk
from tests.servers.tokens import Minter

LONG = 60.0


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def rig(key: SigningKey) -> AsyncIterator[SandboxRig]:
    async with Tenant.start(key=key) as tenant:
        yield SandboxRig(tenant, tenant.add_app())


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[ScriptedImap]:
    async with ScriptedImap.start(tmp_path) as server:
        yield server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


class Watching:
    """An open session that has looked once, and what a test asks of it."""

    def __init__(self, session: ImapSession, ledger: Ledger, parking: Parking) -> None:
        self.session = session
        self.ledger = ledger
        self.parking = parking
        self.woken = asyncio.Event()
        #: blocking calls that took a thread
        self.threads = 0

    @property
    def checkpoint(self) -> Checkpoint:
        assert self.ledger.checkpoint is not None
        return self.ledger.checkpoint

    async def stand_by(self, seconds: float = LONG) -> None:
        async with asyncio.timeout(30):
            await self.session.stand_by(self.woken, datetime.now(UTC) + timedelta(seconds=seconds))

    def standing_by(self, seconds: float = LONG) -> asyncio.Task[None]:
        return asyncio.create_task(self.stand_by(seconds))

    async def unchanged(self) -> bool:
        async with asyncio.timeout(30):
            return await self.session.unchanged(self.checkpoint)

    async def look(self) -> list[int]:
        await self.ledger.fetch(self.session)
        return self.ledger.numbers

    @property
    def sock(self) -> socket.socket:
        client = self.session._server._client
        assert client is not None
        sock: socket.socket = client.wire.sock
        return sock


@asynccontextmanager
async def watching(rig: Any, pool: ThreadPoolExecutor, **changed: Any) -> AsyncIterator[Watching]:
    """Open a session that is pushed to, and look once."""
    parking = Parking()
    calls: list[Any] = []

    def run(function: Callable[..., Any], *args: Any) -> Any:
        calls.append(function)
        if made:
            made[0].threads += 1
        return asyncio.get_running_loop().run_in_executor(pool, function, *args)

    made: list[Watching] = []
    settings = {"push": True, "parking": parking, "run": run, "start": "new", **changed}
    async with source_for(rig, pool, **settings).session() as session:
        one = Watching(session, Ledger(), parking)
        await one.look()
        made.append(one)
        yield one


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not there():
            await asyncio.sleep(0.005)


def idles(rig: SandboxRig) -> int:
    return len(rig.commands("IDLE"))


async def parked(rig: SandboxRig, times: int = 1) -> None:
    """Wait until the server has seen so many IDLE commands."""
    await until(lambda: idles(rig) == times)


async def failure_of(asking: Awaitable[object]) -> MailbridgeError:
    with pytest.raises(MailbridgeError) as caught:
        await asking
    return caught.value


# -- mail wakes --------------------------------------------------------------------------------


async def test_mail_ends_the_wait_and_the_wait_takes_no_thread(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """A parked session hears of mail at once; only the fetch itself runs in a worker thread."""
    async with watching(rig, pool) as one:
        for number in range(1, 4):
            threads = one.threads
            waiting = one.standing_by()
            await parked(rig, number)
            await rig.deliver(mail(number))
            await waiting
            assert not await one.unchanged()
            assert one.threads == threads
            assert await one.look() == list(range(1, number + 1))
            threads = one.threads
            assert await one.unchanged()
            assert one.threads == threads


async def test_a_mail_that_was_found_in_passing_is_not_searched_for_again(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """From the push to the mail there is one SEARCH, asked without a thread, and no NOOP."""
    async with watching(rig, pool) as one:
        waiting = one.standing_by()
        await parked(rig)
        before = len(rig.commands("SEARCH")), len(rig.commands("NOOP"))
        await rig.deliver(mail(1))
        await waiting
        assert not await one.unchanged()
        assert await one.look() == [1]
    assert (len(rig.commands("SEARCH")) - 1, len(rig.commands("NOOP"))) == before


async def test_what_was_found_in_passing_counts_only_as_long_as_nothing_new_is_told(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """Mail that comes between the question and the look is looked for."""
    async with watching(scripted, pool) as one:
        uid, wire = one.checkpoint.uid, one.session._lookout._wire
        scripted.uids.append(uid + 1)
        assert not await one.unchanged()
        before = wire.changes
        scripted.uids.append(uid + 2)
        await scripted.talks[0].send("* 2 EXISTS")
        await until(lambda: wire.changes > before)
        assert await one.session._lookout.beyond(uid) == [uid + 1, uid + 2]


@pytest.mark.parametrize(
    "fault", ["imap.exists_before_idle", "imap.exists_with_idle", "imap.exists_behind_idle"]
)
async def test_news_around_the_beginning_of_idle_is_heard(
    rig: SandboxRig, pool: ThreadPoolExecutor, fault: str
) -> None:
    """EXISTS ahead of the continuation, in one record with it, or right behind it counts."""
    rig.tenant.faults.add("imap.silent_idle")
    rig.tenant.faults.add(fault)
    async with watching(rig, pool) as one:
        await rig.deliver(mail(1))
        await one.stand_by()
        assert not await one.unchanged()
        assert await one.look() == [1]
    assert idles(rig) == 1


async def test_mail_between_the_look_and_idle_is_noticed(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """What came after the SEARCH and before IDLE is pushed as soon as IDLE begins."""
    async with watching(rig, pool) as one:
        await rig.deliver(mail(1))
        await one.stand_by()
        assert await one.look() == [1]


async def test_news_in_the_answer_to_a_search_calls_for_another_look(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """EXISTS that imaplib collects on the way may be mail that this SEARCH did not see."""

    async def search(talk: Talk, tag: str) -> None:
        await talk.send("* SEARCH", "* 7 EXISTS", f"{tag} OK done")

    scripted.scripts["UID SEARCH"] = search
    async with watching(scripted, pool) as one:
        await one.stand_by()
        del scripted.scripts["UID SEARCH"]
        assert await one.unchanged()
        waiting = one.standing_by()
        await until(lambda: scripted.names("IDLE") == ["IDLE"])
        one.woken.set()
        await waiting


async def test_news_right_behind_an_answer_is_not_left_in_the_reader(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """A line in the same TLS record as the last answer never makes the socket readable."""

    async def search(talk: Talk, tag: str) -> None:
        await talk.send("* SEARCH", f"{tag} OK done", "* 7 EXISTS")

    scripted.scripts["UID SEARCH"] = search
    async with watching(scripted, pool) as one:
        await one.stand_by()
    assert scripted.names("IDLE") == []


@pytest.mark.parametrize("line", ["* 3 EXPUNGE", "* VANISHED 41", "* 2 FETCH (FLAGS (\\Seen))"])
async def test_every_change_of_the_folder_ends_the_wait(
    scripted: ScriptedImap, pool: ThreadPoolExecutor, line: str
) -> None:
    """Not only EXISTS: whatever a server tells of its messages leads to a look."""

    async def idle(talk: Talk, tag: str) -> None:
        await talk.send("+ go ahead")
        await talk.send(line)
        await scripted.done(talk, tag)

    scripted.scripts["IDLE"] = idle
    async with watching(scripted, pool) as one:
        await one.stand_by()
        assert await one.unchanged()


async def test_lines_in_pieces_are_put_together(rig: SandboxRig, pool: ThreadPoolExecutor) -> None:
    """A push that comes a byte at a time is a push."""
    rig.tenant.faults.add("imap.idle_split", size=1, pause=0.001)
    async with watching(rig, pool) as one:
        waiting = one.standing_by()
        await parked(rig)
        await rig.deliver(mail(1))
        await waiting
        assert await one.look() == [1]


async def test_signs_of_life_wake_nobody(scripted: ScriptedImap, pool: ThreadPoolExecutor) -> None:
    """``* OK Still here`` and the like are taken note of, and the wait goes on."""
    said = asyncio.Event()

    async def idle(talk: Talk, tag: str) -> None:
        await talk.send("+ go ahead")
        for _ in range(50):
            await talk.send("* OK Still here", "* FLAGS (\\Seen)", "* OK [ALERT] {12}")
        said.set()
        await scripted.done(talk, tag)

    scripted.scripts["IDLE"] = idle
    async with watching(scripted, pool) as one:
        waiting = one.standing_by()
        await said.wait()
        await asyncio.sleep(0.05)
        assert not waiting.done()
        one.woken.set()
        await waiting
        assert await one.unchanged()
    assert scripted.names("IDLE", "DONE") == ["IDLE", "DONE"]


# -- other ends of a wait ----------------------------------------------------------------------


async def test_being_woken_ends_idle_in_good_order(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """The schedule's wake leads to DONE, and the session can be used at once."""
    async with watching(rig, pool) as one:
        waiting = one.standing_by()
        await parked(rig)
        one.woken.set()
        await waiting
        assert await one.unchanged()
        one.woken.set()
        await one.stand_by()
    assert idles(rig) == 1


async def test_the_wait_ends_in_time(rig: SandboxRig, pool: ThreadPoolExecutor) -> None:
    """``until`` ends it without any news, and so does the end of the session."""
    ends = datetime.now(UTC) + timedelta(seconds=2)

    async def short() -> AccessToken:
        return replace(await rig.token(), expires_at=ends)

    async with watching(rig, pool) as one:
        await one.stand_by(0.1)
        assert await one.unchanged()
    async with watching(rig, pool, token=short) as one:
        await one.stand_by()


async def test_idle_is_renewed(
    rig: SandboxRig, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single IDLE lasts for longer than nine minutes (here: 50 ms); each ends with DONE."""
    monkeypatch.setattr("mailbridge.sources.imap_lookout.IDLE_FOR", 0.05)
    async with watching(rig, pool) as one:
        waiting = one.standing_by()
        await until(lambda: idles(rig) >= 4)
        assert not waiting.done()
        await rig.deliver(mail(1))
        await waiting
        assert await one.look() == [1]


# -- servers without IDLE ----------------------------------------------------------------------


async def test_a_server_without_idle_is_polled(rig: SandboxRig, pool: ThreadPoolExecutor) -> None:
    """Not offered means not asked for: the wait ends when somebody wakes it."""
    rig.tenant.faults.add("imap.no_capability", capability="IDLE")
    async with watching(rig, pool) as one:
        assert not one.session.pushes
        waiting = one.standing_by()
        await rig.deliver(mail(1))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        one.woken.set()
        await waiting
        assert not await one.unchanged()
        assert await one.look() == [1]
        assert one.parking.push_sessions == 0
    assert idles(rig) == 0


async def test_push_that_is_not_wanted_is_not_used(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """``push: false`` polls a server that has IDLE."""
    async with watching(rig, pool, push=False) as one:
        assert not one.session.pushes
        await one.stand_by(0.1)
    assert idles(rig) == 0


async def _refuse(talk: Talk, tag: str) -> None:
    await talk.send(f"{tag} BAD Command Error. 10")


async def _decline(talk: Talk, tag: str) -> None:
    await talk.send(f"{tag} NO not now")


async def _end_at_once(talk: Talk, tag: str) -> None:
    await talk.send("+ go ahead", f"{tag} OK that was it")


async def _end_soon(talk: Talk, tag: str) -> None:
    await talk.send("+ go ahead")
    await asyncio.sleep(0.02)
    await talk.send(f"{tag} OK that was it")


@pytest.mark.parametrize("script", [_refuse, _decline, _end_at_once, _end_soon])
async def test_a_server_that_will_not_idle_is_polled_from_then_on(
    scripted: ScriptedImap, pool: ThreadPoolExecutor, script: Script
) -> None:
    """After a refusal, or an IDLE that the server ends, the session waits without it."""
    scripted.scripts["IDLE"] = script
    async with watching(scripted, pool) as one:
        assert one.session.pushes
        waiting = one.standing_by()
        await until(lambda: not one.session._lookout.pushes)
        assert one.parking.push_sessions == 0
        assert not waiting.done()
        one.woken.set()
        await waiting
        one.woken.clear()
        assert not one.session.pushes
        await one.stand_by(0.1)
        assert await one.unchanged()
    assert scripted.names("IDLE", "DONE") == ["IDLE"]


async def test_what_a_polled_server_says_unasked_is_heard(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """Any server may tell of new mail at any time, and hang up at any time (RFC 3501, 7)."""
    async with watching(scripted, pool, push=False) as one:
        waiting = one.standing_by()
        await asyncio.sleep(0.02)
        await scripted.talks[0].send("* 7 EXISTS")
        await waiting
        assert await one.unchanged()
        waiting = one.standing_by()
        await asyncio.sleep(0.02)
        scripted.talks[0].end()
        await waiting
        assert (await failure_of(one.unchanged())).code == "imap.eof"


# -- the account -------------------------------------------------------------------------------


async def test_the_account_of_pushed_sessions(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """A session counts from the moment its server listens until it is closed."""
    listen = asyncio.Event()

    async def idle(talk: Talk, tag: str) -> None:
        await listen.wait()
        await talk.send("+ go ahead")
        await scripted.done(talk, tag)

    scripted.scripts["IDLE"] = idle
    async with watching(scripted, pool) as one:
        parking, place = one.parking, ("alarm", "INBOX")
        waiting = one.standing_by()
        await until(lambda: scripted.names("IDLE") == ["IDLE"])
        assert (parking.push_sessions, parking.is_pushed_to(place)) == (0, False)
        listen.set()
        await until(lambda: parking.push_sessions == 1)
        assert parking.is_pushed_to(place)
        one.woken.set()
        await waiting
        assert parking.push_sessions == 1
    assert parking.push_sessions == 0


# -- connections that end ----------------------------------------------------------------------


def is_watched(one: Watching) -> bool:
    """Whether the loop still looks at the session's socket (and end that)."""
    fd = one.sock.fileno()
    return fd >= 0 and asyncio.get_running_loop().remove_reader(fd)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_a_connection_that_ends_under_idle(
    rig: SandboxRig, pool: ThreadPoolExecutor, *, reset: bool
) -> None:
    """It ends the wait, every further question says why, and nothing watches a dead socket."""
    rig.tenant.faults.add("imap.idle_drop", seconds=0.05, reset=reset)
    async with watching(rig, pool) as one:
        await one.stand_by()
        assert not is_watched(one)
        codes = {
            (await failure_of(one.unchanged())).code,
            (await failure_of(one.stand_by())).code,
            (await failure_of(one.look())).code,
        }
        assert len(codes) == 1
        assert codes <= {"imap.eof", "imap.connection"}


async def test_the_reason_of_a_bye_is_kept(rig: SandboxRig, pool: ThreadPoolExecutor) -> None:
    """The end of a token is told from a lost connection, also when it comes during IDLE."""
    rig.tenant.faults.add("imap.idle_bye", seconds=0.05)
    async with watching(rig, pool) as one:
        await one.stand_by()
        failure = await failure_of(one.unchanged())
        assert (type(failure), failure.code) == (SessionOver, "imap.token_expired")


_THROTTLED = "BAD Request is throttled. Suggested Backoff Time: 89117 milliseconds"


@pytest.mark.parametrize(
    "lines",
    [
        ["* BYE Request is throttled. Suggested Backoff Time: 89117 milliseconds"],
        [f"* {_THROTTLED}", "* BYE Connection closed. 14"],
        [f"* {_THROTTLED}"],
    ],
)
async def test_the_reason_one_line_earlier_counts(
    scripted: ScriptedImap, pool: ThreadPoolExecutor, lines: list[str]
) -> None:
    """A throttle that is told before the connection ends is obeyed, however it ends."""

    async def idle(talk: Talk, tag: str) -> None:
        await talk.send("+ go ahead")
        await talk.send(*lines)
        talk.end()
        await talk.gone()

    scripted.scripts["IDLE"] = idle
    async with watching(scripted, pool) as one:
        await one.stand_by()
        failure = await failure_of(one.unchanged())
        assert isinstance(failure, Throttled)
        assert failure.retry_after == pytest.approx(89.117)


@pytest.mark.parametrize("hang_up", [False, True])
@pytest.mark.parametrize("name", ["IDLE", "NOOP"])
async def test_a_throttle_in_the_answer_is_obeyed(
    scripted: ScriptedImap, pool: ThreadPoolExecutor, name: str, *, hang_up: bool
) -> None:
    """BAD with a wish for a pause is no refusal of IDLE, and no lost connection either."""

    async def throttle(talk: Talk, tag: str) -> None:
        await talk.send(
            f"{tag} {_THROTTLED}", *(["* BYE Connection closed. 14"] if hang_up else [])
        )

    scripted.scripts[name] = throttle
    async with watching(scripted, pool) as one:
        if name == "IDLE":
            await one.stand_by()
        failure = await failure_of(one.unchanged())
        assert isinstance(failure, Throttled)


async def _never(talk: Talk, tag: str) -> None:
    await talk.gone()


async def _never_done(talk: Talk, tag: str) -> None:
    await talk.send("+ go ahead")
    await talk.gone()


@pytest.mark.parametrize("script", [_never, _never_done], ids=["idle", "done"])
async def test_a_server_that_falls_silent_is_given_up(
    scripted: ScriptedImap,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
) -> None:
    """No continuation, or no answer to DONE: after 15 s (here 100 ms) the line is cut."""
    monkeypatch.setattr("mailbridge.sources.imap_quiet.ANSWER_WITHIN", 0.1)
    scripted.scripts["IDLE"] = script
    async with watching(scripted, pool) as one:
        await one.stand_by(0.2)
        assert not is_watched(one)
        assert (await failure_of(one.unchanged())).code == "imap.timeout"
        await until(lambda: scripted.open == 0)


async def test_a_black_hole_under_idle_is_noticed_by_the_next_question(
    rig: SandboxRig, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the caller's 30 s are over, the missing answer to DONE shows that the path is dead."""
    monkeypatch.setattr("mailbridge.sources.imap_quiet.ANSWER_WITHIN", 0.2)
    async with fault_proxy("127.0.0.1", rig.server.port) as proxy:
        there = replace(rig.server, port=proxy.port)
        async with watching(rig, pool, server=there) as one:
            waiting = one.standing_by(0.5)
            await parked(rig)
            proxy.faults = Faults(hole="both")
            await waiting
            assert (await failure_of(one.unchanged())).code == "imap.timeout"
        proxy.heal()


async def test_the_kernel_watches_the_path(rig: SandboxRig, pool: ThreadPoolExecutor) -> None:
    """A path that dies under a waiting session shows within 40 s, without any traffic of ours."""
    async with watching(rig, pool) as one:
        get = one.sock.getsockopt
        tcp = socket.IPPROTO_TCP
        idle = get(tcp, socket.TCP_KEEPIDLE)
        probes = get(tcp, socket.TCP_KEEPCNT) * get(tcp, socket.TCP_KEEPINTVL)
        assert get(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert idle + probes <= 40
        assert get(tcp, socket.TCP_USER_TIMEOUT) <= 30_000


# -- the question in passing -------------------------------------------------------------------


async def test_the_question_tells_new_mail_from_none(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Mail beyond the checkpoint, and nothing else, makes it answer no."""
    await rig.deliver(mail(1))
    await rig.deliver(mail(2))
    async with watching(rig, pool) as one:
        assert await one.unchanged()
        await rig.expunge(2)
        assert await one.unchanged()
        await rig.deliver(mail(3))
        assert not await one.unchanged()
        assert not await one.unchanged()
        assert await one.look() == [3]
        assert await one.unchanged()
        assert not await one.session.unchanged(replace(one.checkpoint, uidvalidity=99))


async def test_old_mail_that_is_not_wanted_is_not_news(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """With a start date, what lay there before it is looked through once, not at every check."""
    await rig.deliver(mail(1), received_at=datetime(2026, 1, 1, tzinfo=UTC))
    async with watching(rig, pool, start=datetime(2026, 6, 1, tzinfo=UTC).date()) as one:
        assert one.checkpoint.uid == 0
        assert await one.unchanged()
        await rig.deliver(mail(2))
        assert not await one.unchanged()
        assert await one.look() == [2]


async def test_news_while_the_question_is_asked_calls_for_another_search(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """A server may search first and look afterwards: what it tells then outdates the list."""

    async def noop(talk: Talk, tag: str) -> None:
        scripted.uids.append(8)
        await talk.send("* 1 EXISTS", f"{tag} OK done")

    async def search(talk: Talk, tag: str) -> None:
        del scripted.scripts["UID SEARCH"]
        await talk.send("* SEARCH", f"{tag} OK done")

    async with watching(scripted, pool) as one:
        assert await one.unchanged()
        scripted.scripts |= {"NOOP": noop, "UID SEARCH": search}
        assert not await one.unchanged()


async def test_a_server_that_never_stops_to_tell_is_looked_into(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """After three searches with news in each of them the answer is no, not a guess."""

    async def search(talk: Talk, tag: str) -> None:
        await talk.send("* SEARCH", "* 1 EXISTS", f"{tag} OK done")

    async with watching(scripted, pool) as one:
        scripted.scripts["UID SEARCH"] = search
        before = len(scripted.names("UID SEARCH"))
        assert not await one.unchanged()
        assert len(scripted.names("UID SEARCH")) == before + 3


async def test_a_number_that_changes_under_the_session_is_told(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """Another UIDVALIDITY, in the question or while waiting, ends the session with that name."""

    async def noop(talk: Talk, tag: str) -> None:
        await talk.send(f"* OK [UIDVALIDITY {UIDVALIDITY + 1}] moved", f"{tag} OK done")

    async def idle(talk: Talk, tag: str) -> None:
        await talk.send("+ go ahead", f"* OK [UIDVALIDITY {UIDVALIDITY + 1}] moved")
        await talk.gone()

    scripted.scripts |= {"NOOP": noop, "IDLE": idle}
    async with watching(scripted, pool) as one:
        assert (await failure_of(one.unchanged())).code == "imap.renumbered"
    async with watching(scripted, pool) as one:
        await one.stand_by()
        assert (await failure_of(one.unchanged())).code == "imap.renumbered"


async def test_a_number_that_imaplib_has_overheard_is_told(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """Another UIDVALIDITY in the middle of a fetch shows at the question behind it."""

    async def search(talk: Talk, tag: str) -> None:
        await talk.send("* SEARCH", f"* OK [UIDVALIDITY {UIDVALIDITY + 1}] moved", f"{tag} OK done")

    scripted.scripts["UID SEARCH"] = search
    async with watching(scripted, pool) as one:
        assert (await failure_of(one.unchanged())).code == "imap.renumbered"


async def test_no_list_proves_nothing(scripted: ScriptedImap, pool: ThreadPoolExecutor) -> None:
    """OK without a SEARCH response is never taken for an empty one."""

    async def search(talk: Talk, tag: str) -> None:
        await talk.send(f"{tag} OK done")

    async with watching(scripted, pool) as one:
        scripted.scripts["UID SEARCH"] = search
        assert not await one.unchanged()


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["* SEARCH 1 x"], "imap.protocol"),
        (["* SEARCH 1 2)", "QQQQ7 OK what?"], "imap.protocol"),
        (["HKHD12 OK done"], "imap.protocol"),
        (["???"], "imap.protocol"),
        (["* 1 FETCH (X {99999999999}", ")"], "imap.protocol"),
        (["* 1 FETCH (X {999999999}", ")"], "imap.protocol"),
        (["* BYE Connection is closed. 13"], "imap.idle_timeout"),
        (["Server Unavailable. 15"], "imap.bye"),
    ],
)
async def test_an_odd_answer_is_an_error_and_no_proof(
    scripted: ScriptedImap, pool: ThreadPoolExecutor, lines: list[str], code: str
) -> None:
    """What cannot be understood ends the session under its own name."""

    async def search(talk: Talk, tag: str) -> None:
        await talk.send(*lines, f"{tag} OK done")

    async with watching(scripted, pool) as one:
        scripted.scripts["UID SEARCH"] = search
        assert (await failure_of(one.unchanged())).code == code


@pytest.mark.parametrize(
    "lines",
    [
        ["* 1 FETCH (FLAGS () X {16}", "Q OK", "* SEARCH", ")", "* SEARCH"],
        ["* SEARCH", "* ID NIL", '* LIST () "/" {5}', "INBOX"],
        ["* SEARCH (MODSEQ 917162500)"],
        ["* search "],
    ],
)
async def test_an_unasked_answer_is_read_over(
    scripted: ScriptedImap, pool: ThreadPoolExecutor, lines: list[str]
) -> None:
    """Literals and answers nobody asked for do not confuse the question."""

    async def search(talk: Talk, tag: str) -> None:
        await talk.send(*lines, f"{tag} OK done")

    async with watching(scripted, pool) as one:
        scripted.scripts["UID SEARCH"] = search
        await one.unchanged()
        scripted.scripts.clear()
        assert await one.unchanged()


async def test_a_refused_question_is_refused(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """NO to the NOOP is no proof, even where the SEARCH behind it found nothing."""

    async def noop(talk: Talk, tag: str) -> None:
        await talk.send(f"{tag} NO Server Unavailable. 15")

    async with watching(scripted, pool) as one:
        scripted.scripts["NOOP"] = noop
        assert (await failure_of(one.unchanged())).code == "imap.server_unavailable"


@pytest.mark.parametrize("chunk", [b"x" * 4096, b"* OK Still here\r\n" * 200])
async def test_a_server_without_end_is_cut_off(
    scripted: ScriptedImap,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    chunk: bytes,
) -> None:
    """A line, or a torrent of lines, that never ends fills no memory."""
    for module in ("imap_quiet", "imap_lines"):
        monkeypatch.setattr(f"mailbridge.sources.{module}.LONGEST_LINE", 100_000)

    async def idle(talk: Talk, tag: str) -> None:
        await talk.send("+ go ahead")
        while True:
            await talk.send_bytes(chunk)

    scripted.scripts["IDLE"] = idle
    async with watching(scripted, pool) as one:
        await one.stand_by()
        assert not is_watched(one)
        assert (await failure_of(one.unchanged())).code == "imap.protocol"


async def test_half_a_line_goes_back_to_the_thread(
    scripted: ScriptedImap, pool: ThreadPoolExecutor
) -> None:
    """What the loop has read and not used is the beginning of what imaplib reads."""

    async def idle(talk: Talk, tag: str) -> None:
        await talk.send("+ go ahead")
        await talk.line()
        await talk.send_bytes(f"{tag} OK done\r\n* 7 EXI".encode())

    async def noop(talk: Talk, tag: str) -> None:
        await talk.send_bytes(f"STS\r\n{tag} OK done\r\n".encode())

    async with watching(scripted, pool) as one:
        scripted.scripts["IDLE"] = idle
        await one.stand_by(0.1)
        scripted.scripts = {"NOOP": noop}
        assert await one.look() == []
        assert one.sock.gettimeout()
        del scripted.scripts["NOOP"]
        assert await one.unchanged()


# -- being cancelled ---------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["continuation", "parked", "done", "question"])
async def test_cancelled_at_any_moment(
    scripted: ScriptedImap, pool: ThreadPoolExecutor, moment: str
) -> None:
    """Nothing watches the socket afterwards, the line is cut, the server sees its end."""
    there = asyncio.Event()

    async def idle(talk: Talk, tag: str) -> None:
        if moment == "continuation":
            there.set()
            await talk.gone()
        await talk.send("+ go ahead")
        if moment == "parked":
            there.set()
        await talk.line()
        there.set()
        await talk.gone()

    async def noop(talk: Talk, tag: str) -> None:
        there.set()
        await talk.gone()

    scripted.scripts |= {"IDLE": idle, "NOOP": noop}
    async with watching(scripted, pool) as one:
        asked = moment == "question"
        doing: asyncio.Task[Any] = (
            asyncio.create_task(one.unchanged()) if asked else one.standing_by()
        )
        if moment == "done":
            await until(lambda: one.parking.push_sessions == 1)
            one.woken.set()
        await there.wait()
        await asyncio.sleep(0.02)
        doing.cancel()
        with suppress(asyncio.CancelledError):
            await doing
        assert doing.cancelled()
        assert not is_watched(one)
        await until(lambda: scripted.open == 0)


async def test_a_session_that_is_left_while_parked_leaks_nothing(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Closing takes the socket out of the loop and says goodbye to the server."""
    async with watching(rig, pool) as one:
        await one.stand_by(0.1)
        sock, number = one.sock, one.sock.fileno()
        line = await one.session._lookout._driver.quiet()
    assert sock.fileno() == -1
    assert line.failure is None  # the farewell was not for the loop to read
    assert not asyncio.get_running_loop().remove_reader(number)
    assert len(rig.commands("LOGOUT")) == 1


# -- many --------------------------------------------------------------------------------------


async def test_every_mail_to_fifty_sessions_is_noticed_by_push(
    dovecot: Dovecot, minter: Minter, pool: ThreadPoolExecutor, rng: random.Random
) -> None:
    """500 deliveries at random moments of the sessions' cycles; no schedule helps out."""
    boxes = [f"push{number}-{rng.random()}@stress.test" for number in range(50)]
    expected: dict[str, set[int]] = {box: set() for box in boxes}
    seen: dict[str, set[int]] = {box: set() for box in boxes}
    ready: set[str] = set()

    async def watch(box: str) -> None:
        # Somebody has to have looked once, or Dovecot has no mailbox to watch.
        async with watching(DovecotRig(dovecot, minter, box), pool) as one:
            ready.add(box)
            while True:
                await one.stand_by(600)
                while not await one.unchanged():
                    seen[box] = set(await one.look())

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watch(box)) for box in boxes]
        await until(lambda: len(ready) == len(boxes))
        for number in range(500):
            box = rng.choice(boxes)
            expected[box].add(number)
            await asyncio.to_thread(dovecot.deliver, box, mail(number))
            await asyncio.sleep(rng.random() * 0.02)
        async with asyncio.timeout(60):
            while seen != expected:
                await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
