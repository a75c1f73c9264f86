"""The IMAP source when things go wrong: faults of Exchange, of the network, of hostile servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from mailbridge.errors import (
    MailbridgeError,
    SignInRejected,
    TemporaryError,
    Throttled,
    Unavailable,
)
from mailbridge.model import AccessToken, Batch
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in.application import ApplicationSignIn
from mailbridge.sign_in.credentials import ClientSecret
from mailbridge.sign_in.registration import Registration
from mailbridge.sources.imap import FetchLimits
from mailbridge.sources.transport import MailServer
from tests.contract.imap_rigs import Ledger, SandboxRig, mail, source_for
from tests.servers.dovecot import Dovecot
from tests.servers.faultproxy import Faults, fault_proxy
from tests.servers.tokens import Minter


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def rig(key: SigningKey) -> AsyncIterator[SandboxRig]:
    async with Tenant.start(key=key) as tenant:
        yield SandboxRig(tenant, tenant.add_app())


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


async def _until_quiet(ledger: Ledger, source: Any, *, tries: int = 12) -> list[str]:
    """Look again and again as a supervisor does; returns the codes of the failures."""
    codes = []
    for _ in range(tries):
        try:
            await ledger.look(source)
        except TemporaryError as error:
            codes.append(error.code)
        else:
            return codes
    raise AssertionError(f"never quiet: {codes}")


async def _take_in(batches: AsyncIterator[Batch], ledger: Ledger) -> None:
    async for batch in batches:
        ledger.accept(batch)


async def _until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not there():
            await asyncio.sleep(0.01)


async def _filled(rig: SandboxRig, count: int, **given: Any) -> list[bytes]:
    raws = [mail(number, **given) for number in range(1, count + 1)]
    for raw in raws:
        await rig.deliver(raw)
    return raws


# -- bodies that do not come ------------------------------------------------------------------


async def test_a_connection_cut_inside_a_message_loses_nothing(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Half a literal is thrown away; the next session brings the whole message."""
    raws = await _filled(rig, 10)
    rig.tenant.faults.add("imap.drop_mid_literal", times=1, uid=4, after=50)
    ledger = Ledger()

    codes = await _until_quiet(ledger, source_for(rig, pool))

    assert codes == ["imap.eof"]
    assert [message.raw for message in ledger.accepted.values()] == raws
    assert (ledger.gaps, ledger.doubled) == ({}, [])


@pytest.mark.parametrize(
    "fault", ["imap.drop_mid_literal", "imap.broken_literal_size", "imap.server_unavailable"]
)
async def test_a_message_that_kills_every_session_becomes_a_gap(
    rig: SandboxRig, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """After a few sessions it is found and set aside; all others are there, and it is retried."""
    # A literal that is shorter than announced looks like silence.
    monkeypatch.setattr("mailbridge.sources.imap_connection.READ_TIMEOUT", 0.5)
    await _filled(rig, 60)
    rig.tenant.faults.add(fault, uid=23)
    source = source_for(rig, pool)
    ledger = Ledger()
    codes = []
    while not ledger.gaps:
        with contextlib.suppress(TemporaryError):
            await ledger.look(source)
        codes.append(ledger.checkpoint.uid if ledger.checkpoint else None)
        assert len(codes) < 9

    assert [ref.uid for ref in ledger.gaps] == [23]
    assert len(ledger.accepted) == 59
    assert (ledger.doubled, ledger.vanished) == ([], [])

    rig.tenant.faults.clear()
    await ledger.look(source)
    assert sorted(ledger.numbers) == list(range(1, 61))
    assert ledger.gaps == {}


@pytest.mark.parametrize("fault", ["imap.fetch_ok_no_data", "imap.fetch_nil"])
async def test_a_fetch_that_brings_nothing_is_tried_again_at_once(
    rig: SandboxRig, pool: ThreadPoolExecutor, fault: str
) -> None:
    """OK without the message is not taken for "there is none"."""
    raws = await _filled(rig, 5)
    rig.tenant.faults.add(fault, times=1, uid=3)
    ledger = Ledger()

    await ledger.look(source_for(rig, pool))

    assert [message.raw for message in ledger.accepted.values()] == raws
    assert ledger.gaps == {}


@pytest.mark.parametrize("fault", ["imap.fetch_ok_no_data", "imap.fetch_nil", "imap.placeholder"])
async def test_the_life_of_a_gap(rig: SandboxRig, pool: ThreadPoolExecutor, fault: str) -> None:
    """Kept with its reason, tried again less and less often, closed when the message comes."""
    await _filled(rig, 5)
    rig.tenant.faults.add(fault, uid=3)
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    source = source_for(rig, pool, now=lambda: now)
    ledger = Ledger()

    await ledger.look(source)
    (first,) = ledger.gaps.values()
    await ledger.look(source)
    (second,) = ledger.gaps.values()

    assert ledger.numbers == [1, 2, 4, 5]
    assert ledger.checkpoint is not None
    assert ledger.checkpoint.uid == 5
    assert (first.ref.uid, first.tries, second.tries) == (3, 1, 2)
    assert (first.due_at - now, second.due_at - now) == (
        timedelta(minutes=1),
        timedelta(minutes=2),
    )
    assert second.first_at == first.first_at == now
    assert first.reason

    rig.tenant.faults.clear()
    await ledger.look(source)
    assert ledger.numbers == [1, 2, 4, 5, 3]
    assert ledger.gaps == {}


async def test_a_gap_that_kills_the_session_does_not_stop_new_mail(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """New mail comes first; the gap's next try is put off although the connection is lost."""
    await _filled(rig, 3)
    rig.tenant.faults.add("imap.fetch_ok_no_data", uid=2)
    source = source_for(rig, pool)
    ledger = Ledger()
    await ledger.look(source)
    rig.tenant.faults.clear()
    rig.tenant.faults.add("imap.drop_mid_literal", uid=2)
    await rig.deliver(mail(4))

    with pytest.raises(Unavailable):
        await ledger.look(source)

    assert ledger.numbers == [1, 3, 4]
    (gap,) = ledger.gaps.values()
    assert gap.tries == 2


async def test_a_gap_that_is_deleted_has_vanished(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """A person deletes the message that would not come: that is told, not swallowed."""
    await _filled(rig, 3)
    rig.tenant.faults.add("imap.fetch_ok_no_data", uid=2)
    source = source_for(rig, pool)
    ledger = Ledger()
    await ledger.look(source)

    await rig.expunge(2)
    await ledger.look(source)

    assert ledger.gaps == {}
    assert [ref.uid for ref in ledger.vanished] == [2]


async def test_a_refused_batch_is_halved_until_the_guilty_stand_alone(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """BAD for a batch with two bad messages: two gaps, all others delivered, in one session."""
    await _filled(rig, 100)
    rig.tenant.imap.limits.bad_after_sign_in = 50
    for uid in (17, 80):
        rig.tenant.faults.add("imap.fetch_bad", uid=uid)
    ledger = Ledger()

    await ledger.look(source_for(rig, pool))

    assert sorted(ref.uid for ref in ledger.gaps) == [17, 80]
    assert ledger.numbers == [number for number in range(1, 101) if number not in {17, 80}]
    assert rig.tenant.imap.connections == 1
    # Two searches in a tree of 100 leaves: 2 x 7 refusals and about as many good halves.
    assert len(rig.commands("FETCH")) <= 40


async def test_a_server_that_hangs_up_after_ten_bad_commands_is_outlived(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Exchange counts BAD answers; what was found until then is stored, the rest follows."""
    await _filled(rig, 60)
    for uid in (5, 25, 45):
        rig.tenant.faults.add("imap.fetch_bad", uid=uid)
    ledger = Ledger()

    await _until_quiet(ledger, source_for(rig, pool))

    assert sorted(ref.uid for ref in ledger.gaps) == [5, 25, 45]
    assert len(ledger.accepted) == 57
    assert ledger.doubled == []


@pytest.mark.parametrize("uid", [1, 9, 20])
async def test_one_message_that_the_backend_cannot_give_is_no_outage(
    rig: SandboxRig, pool: ThreadPoolExecutor, uid: int
) -> None:
    """`NO Server Unavailable. 15` for one message only: it is the gap, first, amid or last."""
    await _filled(rig, 20)
    rig.tenant.faults.add("imap.fetch_no", uid=uid)
    ledger = Ledger()

    await ledger.look(source_for(rig, pool))

    assert [ref.uid for ref in ledger.gaps] == [uid]
    assert len(ledger.accepted) == 19


async def test_an_outage_of_the_backend_makes_no_gaps(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """When nothing at all can be fetched, the server is at fault, and few commands tell that."""
    await _filled(rig, 50)
    rig.tenant.faults.add("imap.fetch_no")
    source = source_for(rig, pool)
    ledger = Ledger()

    with pytest.raises(Unavailable):
        await ledger.look(source)
    asked = len(rig.commands("FETCH"))
    rig.tenant.faults.clear()
    await ledger.look(source)

    assert asked <= 12
    assert ledger.gaps == {}
    assert ledger.numbers == list(range(1, 51))


async def test_a_message_expunged_amid_the_fetch_is_told(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """It was listed and is gone: vanished, not a gap for ever, and never silent."""
    await _filled(rig, 6)
    rig.tenant.faults.add("imap.expunge_during_fetch", times=1, uid=4)
    ledger = Ledger()

    await ledger.look(source_for(rig, pool))

    got = set(ledger.numbers) | {ref.uid for ref in ledger.vanished}
    assert got == {1, 2, 3, 4, 5, 6}
    assert ledger.gaps == {}
    assert [uid for uid, _, _ in await rig.look()] == [1, 2, 3, 5, 6]


@pytest.mark.parametrize("fault", ["imap.duplicate_fetch", "imap.inexact_size"])
async def test_odd_but_legal_answers_change_nothing(
    rig: SandboxRig, pool: ThreadPoolExecutor, fault: str
) -> None:
    """Unasked flags around every message, and sizes that are estimates."""
    raws = await _filled(rig, 8)
    rig.tenant.faults.add(fault)
    ledger = Ledger()

    await ledger.look(source_for(rig, pool))

    assert [message.raw for message in ledger.accepted.values()] == raws


# -- what is sent -----------------------------------------------------------------------------


async def test_commands_are_few_short_and_plain(rig: SandboxRig, pool: ThreadPoolExecutor) -> None:
    """One FETCH for each batch, one for 500 sizes; nothing enabled, no charset, no long line."""
    await _filled(rig, 1000, size=0)
    source = source_for(rig, pool, after="seen")
    ledger = Ledger()

    async with source.session() as session:
        await ledger.fetch(session)
        await session.settle(list(ledger.accepted))

    fetches = rig.commands("FETCH")
    assert len([line for line in fetches if "RFC822.SIZE" in line]) == 2
    assert len([line for line in fetches if "BODY.PEEK[]" in line]) == 10
    assert len(fetches) == 12
    lines = [one.line for one in rig.tenant.imap.commands]
    assert max(map(len, lines)) <= 8192
    assert not [line for line in lines if "ENABLE" in line or "CHARSET" in line]
    assert not [line for line in fetches if re.search(r"BODY\[|RFC822(?!\.SIZE)", line)]
    assert {flags for _, flags, _ in await rig.look()} == {frozenset({"\\Seen"})}


async def test_a_folder_is_opened_read_only_when_nothing_is_to_be_changed(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """EXAMINE with `after: keep`, SELECT otherwise."""
    await Ledger().look(source_for(rig, pool))
    await Ledger().look(source_for(rig, pool, after="seen"))

    assert len(rig.commands("EXAMINE")) == len(rig.commands("SELECT")) == 1


async def test_the_client_says_who_it_is_and_goodbye(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """ID after the sign-in, LOGOUT at the end."""
    await Ledger().look(source_for(rig, pool))

    assert ['"mailbridge"' in line for line in rig.commands("ID")] == [True]
    assert len(rig.commands("LOGOUT")) == 1


@pytest.mark.parametrize("capability", ["MOVE", "UIDPLUS", "ID"])
async def test_what_the_server_lacks_is_done_otherwise(
    rig: SandboxRig, pool: ThreadPoolExecutor, capability: str
) -> None:
    """COPY and delete instead of MOVE; without UIDPLUS other people's deletions stay theirs."""
    await _filled(rig, 3)
    rig.tenant.faults.add("imap.no_capability", capability="MOVE")
    rig.tenant.faults.add("imap.no_capability", capability=capability)
    rig.box.folder("INBOX").set_flags(3, ["\\Deleted"])
    source = source_for(rig, pool, after="move", move_to="Processed")
    ledger = Ledger()

    async with source.session() as session:
        await ledger.fetch(session)
        refs = list(ledger.accepted)[:2]
        for _ in range(2):
            assert set(await session.settle(refs)) == set(refs)

    assert [name[:8] for _, _, name in await rig.look("Processed")] == ["<alarm-1", "<alarm-2"]
    left = [uid for uid, _, _ in await rig.look()]
    assert left == ([1, 2, 3] if capability == "UIDPLUS" else [3])


async def test_the_target_folder_is_made_once(rig: SandboxRig, pool: ThreadPoolExecutor) -> None:
    """LIST and CREATE are asked once in a session, not for every batch."""
    await _filled(rig, 4)
    source = source_for(rig, pool, after="move", move_to="Processed")
    ledger = Ledger()

    async with source.session() as session:
        await ledger.fetch(session)
        for ref in ledger.accepted:
            await session.settle([ref])

    assert len(rig.commands("CREATE")) == len(rig.commands("LIST")) == 1


@pytest.mark.parametrize("text", ["IN\r\nBOX", "IN\nBOX", "IN\x00BOX", "IN\x01BOX"])
def test_control_characters_are_refused(pool: ThreadPoolExecutor, text: str) -> None:
    """No name can smuggle a second command, or a second field into the credential."""
    rig: Any = type("Nowhere", (), {"address": "a@b", "server": MailServer(), "token": None})
    for place in ({"folder": text}, {"address": text}, {"after": "move", "move_to": text}):
        with pytest.raises(ValueError, match="control character"):
            source_for(rig, pool, **place)


async def test_bodies_are_fetched_within_the_room_that_is_given(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """The shared gate is entered for each fetch of bodies, and free while a batch is stored."""
    await _filled(rig, 6)

    class Room:
        entered = left = 0

        async def __aenter__(self) -> None:
            self.entered += 1

        async def __aexit__(self, *_: object) -> None:
            self.left += 1

    room = Room()
    source = source_for(rig, pool, fetch_room=room, limits=FetchLimits(messages=2))
    async with source.session() as session:
        ledger = Ledger()
        async for batch in session.fetch(ledger.due(), ledger):
            ledger.accept(batch)
            assert room.entered == room.left

    assert room.entered == 3


# -- Exchange's ways --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "options", "code"),
    [
        ("imap.refuse", {}, "imap.eof"),
        ("imap.not_connected", {}, "imap.not_connected"),
        ("imap.bye_on_command", {"command": "SEARCH"}, "imap.bye"),
        ("imap.drop_on_command", {"command": "SEARCH"}, "imap.eof"),
        ("imap.token_expired", {"command": "SEARCH"}, "imap.token_expired"),
        (
            "imap.server_unavailable",
            {"command": "SEARCH", "form": "NO"},
            "imap.server_unavailable",
        ),
        (
            "imap.server_unavailable",
            {"command": "SEARCH", "form": "BAD"},
            "imap.server_unavailable",
        ),
        ("imap.server_unavailable", {"command": "SEARCH", "form": "untagged"}, "imap.bye"),
    ],
)
async def test_trouble_of_the_server_is_temporary(
    rig: SandboxRig, pool: ThreadPoolExecutor, fault: str, options: dict[str, Any], code: str
) -> None:
    """Each with the server's words and a stable code; the next session works."""
    await _filled(rig, 3)
    rig.tenant.faults.add(fault, times=1, **options)
    source = source_for(rig, pool)
    ledger = Ledger()

    with pytest.raises(Unavailable) as caught:
        await ledger.look(source)
    await ledger.look(source)

    assert caught.value.code == code
    assert ledger.numbers == [1, 2, 3]
    assert ledger.gaps == {}


@pytest.mark.parametrize("hang_up", [False, True])
async def test_a_throttle_says_how_long(
    rig: SandboxRig,
    pool: ThreadPoolExecutor,
    hang_up: bool,  # noqa: FBT001 - a table
) -> None:
    """The server's milliseconds, as seconds, whichever command it answers."""
    await _filled(rig, 3)
    for command in ("SEARCH", "FETCH"):
        rig.tenant.faults.add(
            "imap.throttled", times=1, command=command, hang_up=hang_up, milliseconds=5500
        )
    source = source_for(rig, pool)
    ledger = Ledger()

    for _ in range(2):
        with pytest.raises(Throttled) as caught:
            await ledger.look(source)
        assert caught.value.retry_after == 5.5
    await ledger.look(source)

    assert ledger.numbers == [1, 2, 3]


async def test_a_token_that_ends_amid_the_work_costs_a_session_only(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """`BYE Session invalidated - AccessTokenExpired` between two batches: nothing is lost."""
    await _filled(rig, 80)
    source = source_for(rig, pool, limits=FetchLimits(messages=10))
    ledger = Ledger()
    async with source.session() as session:
        batches = session.fetch(ledger.due(), ledger)
        ledger.accept(await anext(batches))
        ledger.accept(await anext(batches))
        rig.tenant.faults.add("imap.token_expired", times=1)
        with pytest.raises(Unavailable) as caught:
            await _take_in(batches, ledger)

    await ledger.look(source)

    assert caught.value.code == "imap.token_expired"
    assert ledger.numbers == list(range(1, 81))
    assert ledger.gaps == {}


async def test_a_spurious_refusal_is_answered_with_a_fresh_token(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """`NO AUTHENTICATE failed.` once: one fresh token, one more try, no person called."""
    rig.tenant.faults.add("imap.auth_failed", times=1)
    asked: list[AccessToken] = []

    async def refresh(refused: AccessToken) -> AccessToken:
        asked.append(refused)
        return await rig.token()

    ledger = Ledger()
    await ledger.look(source_for(rig, pool, refresh=refresh))

    assert len(asked) == 1
    assert (rig.tenant.imap.refusals, rig.tenant.imap.logins) == (1, 1)


async def test_the_challenge_of_a_refusal_is_answered_and_kept(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """The server's JSON stands in the error; the token does not."""
    rig.tenant.faults.add("imap.auth_failed")
    rig.tenant.faults.add("imap.challenge_on_failure")

    with pytest.raises(SignInRejected) as caught:
        await Ledger().look(source_for(rig, pool))

    assert '"status"' in str(caught.value)
    assert "AUTHENTICATE failed." in str(caught.value)
    assert rig.tenant.imap.refusals == 2


async def test_a_connection_lost_while_signing_in_is_no_rejection(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """The client library calls it a failed login; it is the network."""
    rig.tenant.faults.add("imap.drop_on_command", times=1, command="AUTHENTICATE")
    asked: list[AccessToken] = []

    async def refresh(refused: AccessToken) -> AccessToken:
        asked.append(refused)
        return refused

    with pytest.raises(Unavailable) as caught:
        await Ledger().look(source_for(rig, pool, refresh=refresh))

    assert caught.value.code == "imap.eof"
    assert asked == []


async def test_a_mailbox_without_permission_is_reported_as_such(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Signed in but not connected: temporary, since it may pass, and with its fix."""
    rig.tenant.revoke(rig.app, rig.box)

    with pytest.raises(Unavailable) as caught:
        await Ledger().look(source_for(rig, pool))

    assert caught.value.code == "imap.not_connected"
    assert "FullAccess" in caught.value.fix


async def test_both_front_ends_of_exchange_are_understood(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """The newer one offers IMAP4rev2; it is not taken up."""
    await _filled(rig, 3)
    rig.tenant.faults.add("imap.new_front_end")
    ledger = Ledger()

    await ledger.look(source_for(rig, pool))

    assert ledger.numbers == [1, 2, 3]


# -- cancelling, time and the network ---------------------------------------------------------


async def test_a_cancelled_fetch_frees_its_thread(
    rig: SandboxRig,
) -> None:
    """A server that never answers holds neither the task nor the thread."""
    await _filled(rig, 3)
    hang = rig.tenant.faults.add("imap.hang", command="FETCH")
    ledger = Ledger()
    with ThreadPoolExecutor(1) as alone:
        source = source_for(rig, alone)
        task = asyncio.create_task(ledger.look(source))
        await _until(lambda: rig.tenant.faults.fired["imap.hang"] > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        rig.tenant.faults.clear("imap.hang")
        # The only thread is free again, or this would wait for ever.
        await ledger.look(source)

    assert hang.name == "imap.hang"
    assert ledger.numbers == [1, 2, 3]


async def test_a_reset_network_loses_nothing(
    dovecot: Dovecot, minter: Minter, pool: ThreadPoolExecutor
) -> None:
    """Connections that are reset after so many bytes, again and again, on a real Dovecot."""
    address = "cut@feuerwehr.example"
    await asyncio.to_thread(
        dovecot.seed, address, [mail(number, size=8000) for number in range(1, 121)]
    )

    async def token() -> AccessToken:
        return AccessToken(
            value=minter.mint_app(), expires_at=datetime.now(UTC) + timedelta(hours=1)
        )

    async with fault_proxy("127.0.0.1", dovecot.imaps_port) as proxy:
        server = MailServer(host="localhost", port=proxy.port, ca=Path(dovecot.ca_file))
        here: Any = type("Here", (), {"address": address, "server": server, "token": token})
        source = source_for(here, pool, limits=FetchLimits(messages=20))
        ledger, failures = Ledger(), 0
        for cut in (30_000, 90_000, 200_000, 400_000, 600_000, 0):
            proxy.faults = Faults(cut_after=cut)
            try:
                await ledger.look(source)
            except TemporaryError:
                failures += 1

    assert failures >= 3
    assert ledger.numbers == list(range(1, 121))
    assert (ledger.doubled, ledger.gaps) == ([], {})


# -- hostile servers --------------------------------------------------------------------------


class Script:
    """A plain TCP server that says what it is told to, line by line."""

    def __init__(self, *steps: bytes | Callable[[str], bytes]) -> None:
        self._steps = steps
        self.heard: list[str] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            for step in self._steps:
                if isinstance(step, bytes):
                    writer.write(step)
                else:
                    line = (await reader.readline()).decode("ascii", "replace")
                    self.heard.append(line)
                    writer.write(step(line.split(" ", 1)[0]))
                await writer.drain()
            await reader.read()
        writer.close()


def _caps(names: str) -> Callable[[str], bytes]:
    return lambda tag: f"* CAPABILITY IMAP4rev1 {names}\r\n{tag} OK done\r\n".encode()


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ((b"* PREAUTH welcome\r\n", _caps("STARTTLS")), "imap.preauth"),
        ((b"* OK hello\r\n", _caps("AUTH=XOAUTH2")), "imap.no_starttls"),
        (
            (
                b"* OK hello\r\n",
                _caps("STARTTLS"),
                lambda tag: f"{tag} OK go\r\n* OK injected\r\n".encode(),
            ),
            "imap.bye",
        ),
        (
            (b"* OK hello\r\n", _caps("STARTTLS"), lambda tag: f"{tag} NO never\r\n".encode()),
            "imap.refused",
        ),
        (
            (b"* OK hello\r\n", _caps("STARTTLS"), lambda tag: f"{tag} OK go\r\nGARBAGE".encode()),
            "imap.bye",
        ),
        ((b"* BYE go away\r\n",), "imap.refused"),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "imap.protocol"),
        ((b"* OK hello\r\n", lambda _: b"* X {9999999999}\r\n"), "imap.too_large"),
        ((b"* OK hello\r\n", lambda _: b"* X {-1}\r\n"), "imap.timeout"),
        ((b"* OK " + b"x" * (17 * 1024 * 1024),), "imap.too_large"),
    ],
)
async def test_a_hostile_server_gets_no_credential(
    rig: SandboxRig,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    steps: tuple[Any, ...],
    code: str,
) -> None:
    """No way round TLS, no memory without bound; the token is never sent."""
    monkeypatch.setattr("mailbridge.sources.imap_connection.CONNECT_TIMEOUT", 1.0)
    script = Script(*steps)
    async with script.listening() as port:
        server = replace(rig.server, port=port, tls="starttls")
        with pytest.raises(Unavailable) as caught:
            await Ledger().look(source_for(rig, pool, server=server))

    assert caught.value.code == code
    assert not [line for line in script.heard if "AUTHENTICATE" in line]


async def test_starttls_is_spoken_with_a_real_server(
    dovecot: Dovecot, minter: Minter, pool: ThreadPoolExecutor
) -> None:
    """On a port without implicit TLS the connection is upgraded before anything is said."""
    address = "starttls@feuerwehr.example"
    dovecot.deliver(address, mail(1))

    async def token() -> AccessToken:
        return AccessToken(
            value=minter.mint_app(), expires_at=datetime.now(UTC) + timedelta(hours=1)
        )

    server = MailServer(
        host="127.0.0.2", port=dovecot.imap_port, tls="starttls", ca=Path(dovecot.ca_file)
    )
    here: Any = type("Here", (), {"address": address, "server": server, "token": token})
    ledger = Ledger()
    await ledger.look(source_for(here, pool))

    assert ledger.numbers == [1]


async def test_only_the_right_certificate_is_trusted(
    rig: SandboxRig, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another authority, or another name, ends the connection before the sign-in."""
    monkeypatch.setenv("SSL_CERT_FILE", str(rig.tenant.ca_file))
    for server in (replace(rig.server, ca=None), replace(rig.server, host="127.0.0.3")):
        with pytest.raises(Unavailable) as caught:
            await Ledger().look(source_for(rig, pool, server=server))
        assert caught.value.code in {"tls.unknown_authority", "tcp.refused"}

    assert rig.tenant.imap.logins == 0


async def test_a_server_that_cannot_be_found_or_reached_is_temporary(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """An unknown name, a closed port, a missing CA file."""
    cases = {
        "imap.dns": replace(rig.server, host="mail.invalid"),
        "tcp.refused": replace(rig.server, port=1),
    }
    for code, server in cases.items():
        with pytest.raises(Unavailable) as caught:
            await Ledger().look(source_for(rig, pool, server=server))
        assert caught.value.code == code

    with pytest.raises(Unavailable, match=r"ca\.pem"):
        await Ledger().look(
            source_for(rig, pool, server=replace(rig.server, ca=Path("/nowhere/ca.pem")))
        )


# -- nothing leaks ----------------------------------------------------------------------------


async def test_no_token_and_no_mail_is_shown_anywhere(
    rig: SandboxRig,
    pool: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in logs (all libraries at debug), errors with their causes, or reprs."""
    monkeypatch.setattr("mailbridge.sources.imap_connection.READ_TIMEOUT", 0.5)
    caplog.set_level(logging.DEBUG)
    canary = "canary-of-the-body"
    for number in range(1, 4):
        await rig.deliver(mail(number) + canary.encode() + b"\r\n")
    tokens: list[str] = []

    async def token() -> AccessToken:
        given = await rig.token()
        tokens.append(given.value)
        return given

    shown: list[object] = []
    source = source_for(rig, pool, token=token)
    faults = ("", "imap.auth_failed", "imap.not_connected", "imap.broken_literal_size")
    with structlog.testing.capture_logs() as logs:
        for fault in (*faults, "imap.drop_mid_literal", "imap.placeholder", "imap.fetch_bad"):
            rig.tenant.faults.clear()
            if fault:
                rig.tenant.faults.add(fault)
            ledger = Ledger()
            try:
                await ledger.look(source)
            except MailbridgeError as error:
                shown += _chain(error)
            shown += [ledger.batches, ledger.gaps, source, vars(source)]
    text = "\n".join([*map(repr, shown), *map(repr, logs), caplog.text])

    assert len(tokens) == 7
    assert canary not in text
    assert not [token for token in tokens if token in text or token.split(".")[2] in text]


def _chain(error: BaseException | None) -> list[object]:
    seen: list[object] = []
    while error is not None:
        seen += [error, str(error), vars(error)]
        error = error.__cause__ or error.__context__
    return seen


async def test_a_session_with_a_real_sign_in(rig: SandboxRig, pool: ThreadPoolExecutor) -> None:
    """Token from Entra by msal, mail from Exchange by IMAP: the two halves fit."""
    app: App = rig.app
    await _filled(rig, 2)

    def run(function: Callable[..., Any], *args: Any) -> Any:
        return asyncio.get_running_loop().run_in_executor(pool, function, *args)

    registration = Registration(
        name=app.name,
        authority_url=rig.tenant.entra.authority,
        client_id=app.client_id,
        credentials=[ClientSecret(app.secret)],
        ca=rig.tenant.ca_file,
    )
    sign_in = ApplicationSignIn(
        app=registration,
        scope="https://outlook.office365.com/.default",
        now=lambda: datetime.now(UTC),
        run=run,
    )
    rig.tenant.faults.add("imap.auth_failed", times=1)
    ledger = Ledger()

    await ledger.look(source_for(rig, pool, token=sign_in.token, refresh=sign_in.force_refresh))

    assert ledger.numbers == [1, 2]
    assert sign_in.refreshes == 2
