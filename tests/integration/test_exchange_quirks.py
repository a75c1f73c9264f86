"""Exchange Online's own ways, each by its name in the sandbox, and what the source makes of it."""

from __future__ import annotations

import asyncio
import random
import unicodedata
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailbridge.errors import (
    FolderMissing,
    MailbridgeError,
    SessionOver,
    SignInRejected,
    Throttled,
    Unavailable,
)
from mailbridge.health import FolderHealth, Sight
from mailbridge.intake import Intake
from mailbridge.model import AccessToken
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sources.imap import FetchLimits, ImapSource
from mailbridge.store.store import Store
from mailbridge.supervise import Supervisor
from tests.contract.imap_rigs import DovecotRig, Ledger, SandboxRig, mail, source_for
from tests.servers.dovecot import Dovecot
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


async def filled(rig: SandboxRig, count: int, **given: Any) -> None:
    for number in range(1, count + 1):
        await rig.deliver(mail(number, **given))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def never(_: AccessToken) -> AccessToken:
    raise AssertionError("no token was refused")


def now() -> datetime:
    return datetime.now(UTC)


# -- throttling -------------------------------------------------------------------------------

ANYWHERE = [
    *(("imap.throttled_greeting", {"form": form}) for form in ("NO", "BAD", "BYE")),
    *(("imap.throttled_sign_in", {"form": form}) for form in ("NO", "BAD", "BYE")),
    *(("imap.throttled_after_ok", {"form": form}) for form in ("NO", "BAD", "BYE")),
    *(
        ("imap.throttled", {"command": command, "form": form, "hang_up": hang_up})
        for command in ("AUTHENTICATE", "CAPABILITY", "ID", "EXAMINE", "SEARCH", "FETCH")
        for form in ("NO", "BAD", "BYE", "OK")
        for hang_up in (False, True)
    ),
]


@pytest.mark.parametrize(("fault", "options"), ANYWHERE)
async def test_a_throttle_is_one_wherever_and_however_it_is_said(
    rig: SandboxRig, pool: ThreadPoolExecutor, fault: str, options: dict[str, Any]
) -> None:
    """The server's own number; no token is blamed, no message becomes a gap, nothing is lost."""
    await filled(rig, 3)
    rig.tenant.faults.add(fault, times=1, milliseconds=5500, **options)
    source = source_for(rig, pool, refresh=never)
    ledger = Ledger()

    with pytest.raises(Throttled) as caught:
        await ledger.look(source)
    await ledger.look(source)

    assert caught.value.retry_after == 5.5
    assert rig.tenant.faults.fired[fault] == 1
    assert ledger.numbers == [1, 2, 3]
    assert (ledger.gaps, ledger.vanished, ledger.doubled) == ({}, [], [])


@pytest.mark.parametrize("form", ["NO", "BAD", "BYE", "OK"])
async def test_a_throttled_look_on_an_open_session_is_no_look(
    rig: SandboxRig, pool: ThreadPoolExecutor, form: str
) -> None:
    """NOOP is answered with the throttle: that proves nothing about new mail."""
    await filled(rig, 1)
    source = source_for(rig, pool)
    ledger = Ledger()
    async with source.session() as session:
        await ledger.fetch(session)
        await rig.deliver(mail(2))
        rig.tenant.faults.add("imap.throttled", times=1, command="NOOP", form=form)

        with pytest.raises(Throttled) as caught:
            await ledger.fetch(session)

    assert caught.value.retry_after == 89.117
    assert ledger.numbers == [1]


async def test_a_look_that_the_backend_refuses_is_no_look(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """`NO Server Unavailable. 15` to NOOP: an error, not "nothing new"."""
    ledger = Ledger()
    async with source_for(rig, pool).session() as session:
        await ledger.fetch(session)
        rig.tenant.faults.add(
            "imap.server_unavailable", times=1, command="NOOP", form="NO", hang_up=False
        )
        with pytest.raises(Unavailable, match="Server Unavailable"):
            await ledger.fetch(session)


@pytest.mark.parametrize("form", ["NO", "BAD", "BYE", "OK"])
@pytest.mark.parametrize("command", ["NOOP", "SEARCH"])
async def test_a_throttled_question_in_passing_is_no_answer(
    rig: SandboxRig, pool: ThreadPoolExecutor, command: str, form: str
) -> None:
    """What is asked without a thread is held to the same: nothing is proven by it."""
    await filled(rig, 1)
    source = source_for(rig, pool)
    ledger = Ledger()
    async with source.session() as session:
        await ledger.fetch(session)
        assert ledger.checkpoint is not None
        assert await session.unchanged(ledger.checkpoint)
        rig.tenant.faults.add("imap.throttled", times=1, command=command, form=form)

        with pytest.raises(Throttled) as caught:
            await session.unchanged(ledger.checkpoint)

    assert caught.value.retry_after == 89.117


@pytest.mark.parametrize("command", ["STORE", "MOVE"])
@pytest.mark.parametrize("form", ["NO", "BAD", "BYE", "OK"])
async def test_a_throttled_settle_is_not_taken_for_done(
    rig: SandboxRig, pool: ThreadPoolExecutor, command: str, form: str
) -> None:
    """Nothing counts as told to the server, and the next session tells it."""
    await filled(rig, 2)
    after: dict[str, Any] = {"after": "seen"}
    if command == "MOVE":
        after = {"after": "move", "move_to": "Archive"}
    source = source_for(rig, pool, **after)
    ledger = Ledger()
    rig.tenant.faults.add("imap.throttled", times=1, command=command, form=form)
    async with source.session() as session:
        await ledger.fetch(session)
        with pytest.raises(Throttled):
            await session.settle(list(ledger.accepted))
    async with source.session() as session:
        assert set(await session.settle(list(ledger.accepted))) == set(ledger.accepted)

    flags = {flags for _, flags, _ in await rig.look()}
    assert flags == ({frozenset({"\\Seen"})} if command == "STORE" else set())


class Noted(FolderHealth):
    """A health that remembers every failure that it is told of."""

    told: list[str]

    def failed(self, now: datetime, *, cause: str, code: str, fix: str, sight: Sight) -> None:
        """See ``FolderHealth``."""
        self.told = [*getattr(self, "told", []), code]
        super().failed(now, cause=cause, code=code, fix=fix, sight=sight)


@asynccontextmanager
async def watched(source: ImapSource, folder: Path) -> AsyncIterator[tuple[Noted, Intake]]:
    """Run an intake under a supervisor, as the daemon does."""
    health = Noted(mailbox=source.mailbox, folder=source.folder)
    health.told = []
    store = await Store.open(f"sqlite:///{folder}/mailbridge.db", now=now)
    intake = Intake(
        source=source,
        store=store,
        address="alarm@feuerwehr.example",
        sinks=["hook"],
        listeners=["hook"],
        settles=False,
        keeps_session=True,
        health=health,
        on_accepted=lambda: None,
        ahead=asyncio.Semaphore(1),
        now=now,
    )
    supervisor = Supervisor(
        store=store,
        listeners=lambda _mailbox, _kind: ["hook"],
        on_notice=lambda: None,
        now=now,
        rng=random.Random(7),
    )
    running = asyncio.create_task(supervisor.run([intake]))
    try:
        yield health, intake
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await store.close()


async def test_a_throttled_mailbox_is_left_alone_for_as_long_as_it_asks(
    rig: SandboxRig, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """No sign-in before the time is over, and the time is shown."""
    await filled(rig, 1)
    rig.tenant.faults.add("imap.throttled_sign_in", times=1, milliseconds=1500)
    seen: list[tuple[datetime, int]] = []
    async with watched(source_for(rig, pool), tmp_path) as (health, _):
        await until(lambda: health.throttled_until is not None)
        ends = health.throttled_until
        assert ends is not None
        assert (ends - now()).total_seconds() <= 1.5 * 1.1
        assert (health.code, health.sight) == ("imap.throttled", Sight.DEGRADED)
        while health.accepted == 0:
            seen.append((now(), rig.tenant.imap.connections))
            await asyncio.sleep(0.01)

    assert {count for moment, count in seen if moment < ends} == {1}
    assert rig.tenant.imap.connections == 2
    assert health.throttled_until is None


# -- the end of a session ---------------------------------------------------------------------


@pytest.mark.parametrize("command", ["CAPABILITY", "ID", "EXAMINE", "SEARCH", "FETCH"])
@pytest.mark.parametrize("code", ["imap.token_expired", "imap.idle_timeout"])
async def test_the_natural_end_of_a_session_is_known_as_such(
    rig: SandboxRig, pool: ThreadPoolExecutor, command: str, code: str
) -> None:
    """Whatever was being said when the token or the server's patience ended."""
    await filled(rig, 3)
    if code == "imap.token_expired":
        rig.tenant.faults.add("imap.token_expired", times=1, command=command)
    else:
        text = "Connection is closed. 13"
        rig.tenant.faults.add("imap.bye_on_command", times=1, command=command, text=text)
    source = source_for(rig, pool)
    ledger = Ledger()

    with pytest.raises(SessionOver) as caught:
        await ledger.look(source)
    await ledger.look(source)

    assert caught.value.code == code
    assert ledger.numbers == [1, 2, 3]
    assert ledger.gaps == {}


async def test_a_token_that_the_server_calls_expired_is_not_used_again(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Our clock may lag: the next session begins with a fresh one, not with the same."""
    await filled(rig, 1)
    same = await rig.token()
    asked: list[AccessToken] = []

    async def token() -> AccessToken:
        return same

    async def refresh(refused: AccessToken) -> AccessToken:
        asked.append(refused)
        return await rig.token()

    source = source_for(rig, pool, token=token, refresh=refresh)
    ledger = Ledger()
    rig.tenant.faults.add("imap.token_expired", times=1, command="SEARCH")

    with pytest.raises(SessionOver):
        await ledger.look(source)
    assert asked == []
    await ledger.look(source)

    assert asked == [same]
    assert ledger.numbers == [1]


async def test_a_token_that_is_expired_at_the_sign_in_is_replaced_once(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Of a session that never began it is said of the credential: one fresh one, then a person."""
    asked: list[AccessToken] = []

    async def refresh(refused: AccessToken) -> AccessToken:
        asked.append(refused)
        return AccessToken(value=(await rig.token()).value + "", expires_at=refused.expires_at)

    await filled(rig, 1)
    rig.tenant.faults.add("imap.token_expired", times=1, command="AUTHENTICATE")
    ledger = Ledger()
    await ledger.look(source_for(rig, pool, refresh=refresh))
    assert ledger.numbers == [1]

    rig.tenant.faults.add("imap.token_expired", command="AUTHENTICATE")
    with pytest.raises(SignInRejected, match="clock"):
        await ledger.look(source_for(rig, pool, refresh=refresh))
    assert len(asked) == 2


async def test_the_natural_end_of_a_session_is_no_failure(
    rig: SandboxRig, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """The next session comes at once; nothing is counted, told or backed off from."""
    await filled(rig, 1)
    async with watched(source_for(rig, pool), tmp_path) as (health, intake):
        for number, name in enumerate(("imap.token_expired", "imap.bye_on_command") * 2, 2):
            await until(lambda: health.sight is Sight.OK and health.wanted_at is not None)
            options = {"text": "Connection is closed. 13"} if "bye" in name else {}
            rig.tenant.faults.add(name, times=1, **options)
            await rig.deliver(mail(number))
            intake.wake()
            await until(lambda: health.accepted == number)  # noqa: B023 - awaited here

        assert health.told == []
        assert health.announced == ""
    assert rig.tenant.imap.connections == 5


async def test_a_server_that_ends_every_session_at_once_is_a_failure(
    rig: SandboxRig, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """Without any work between two ends there is back-off, and the folder is degraded."""
    await filled(rig, 1)
    rig.tenant.faults.add("imap.token_expired", command="SEARCH")
    async with watched(source_for(rig, pool), tmp_path) as (health, _):
        await until(lambda: health.failures >= 2)

        assert health.sight is Sight.DEGRADED
        assert set(health.told) == {"imap.token_expired"}
    assert rig.tenant.imap.connections <= 4


@pytest.mark.parametrize("command", ["CAPABILITY", "EXAMINE", "SEARCH", "FETCH"])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("BAD User is authenticated but not connected.", "imap.not_connected"),
        ("NO Request is throttled. Suggested Backoff Time: 5500 milliseconds", "imap.throttled"),
        ("BAD Server is being serviced.", "imap.bye"),
        ("NO [LIMIT] Maximum number of connections exceeded", "imap.too_many_sessions"),
    ],
)
async def test_the_reason_of_a_bye_comes_a_line_earlier(
    rig: SandboxRig, pool: ThreadPoolExecutor, command: str, text: str, code: str
) -> None:
    """`Connection closed. 14` says nothing; the error has what was said before it."""
    await filled(rig, 3)
    rig.tenant.faults.add("imap.reason_before_bye", times=1, command=command, text=text)
    source = source_for(rig, pool)
    ledger = Ledger()

    with pytest.raises(MailbridgeError) as caught:
        await ledger.look(source)
    await ledger.look(source)

    assert caught.value.code == code
    assert text.split(" ", 1)[1].split(". S", 1)[0] in str(caught.value)
    assert ledger.numbers == [1, 2, 3]


async def test_the_reason_of_a_bye_is_made_harmless(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """A server may echo a token there; and what was settled long ago is no reason."""
    await filled(rig, 3)
    secret = "eyJ" + "a" * 80
    rig.tenant.faults.add("imap.fetch_bad", times=1, command="FETCH")
    rig.tenant.faults.add(
        "imap.reason_before_bye", times=1, command="NOOP", text=f"NO token {secret}"
    )
    ledger = Ledger()
    source = source_for(rig, pool)
    with pytest.raises(Unavailable) as caught:
        await ledger.look(source)
    assert "token [removed]" in str(caught.value)
    assert secret not in str(caught.value)

    async with source.session() as session:
        rig.tenant.faults.add("imap.fetch_bad", times=1, command="FETCH", uid=2)
        await ledger.fetch(session)
        rig.tenant.faults.add("imap.drop_on_command", times=1, command="NOOP")
        with pytest.raises(Unavailable) as caught:
            await ledger.fetch(session)
    assert "Argument" not in str(caught.value)


# -- folders ----------------------------------------------------------------------------------


async def fetched_from(rig: SandboxRig, pool: ThreadPoolExecutor, folder: str) -> Ledger:
    ledger = Ledger()
    await ledger.look(source_for(rig, pool, folder=folder))
    return ledger


@pytest.mark.parametrize("marks", ["marked", "unmarked"])
@pytest.mark.parametrize("language", ["en", "de", "fr"])
@pytest.mark.parametrize("role", ["Sent", "Drafts", "Trash", "Junk"])
async def test_a_role_is_found_in_every_language(
    rig: SandboxRig, pool: ThreadPoolExecutor, role: str, language: str, marks: str
) -> None:
    r"""``\Sent`` and its like by what plain LIST marks, and by known names where it marks none."""
    box = rig.box
    box.localise(language)
    there = next(folder.name for folder in box.folders.values() if folder.special == f"\\{role}")
    box.deliver(mail(7), folder=there)
    if marks == "unmarked":
        rig.tenant.faults.add("imap.no_special_use")

    ledger = await fetched_from(rig, pool, f"\\{role}")

    assert ledger.numbers == [7]
    assert [ref.folder for ref in ledger.accepted] == [f"\\{role}"]
    assert ledger.checkpoint is not None
    assert ledger.checkpoint.folder == f"\\{role}"
    assert not [line for line in rig.commands("LIST") if "RETURN" in line or "SPECIAL" in line]


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("INBOX", "INBOX"),
        ("inbox", "INBOX"),
        ("Entwürfe", "Entwürfe"),
        ("entwürfe", "Entwürfe"),
        (unicodedata.normalize("NFD", "Gelöschte Elemente"), "Gelöschte Elemente"),
        ("Gesendete Elemente", "Gesendete Elemente"),
        ("Archiv/2026/Übung & Einsatz", "Archiv/2026/Übung & Einsatz"),
        ("\\Archive", "Archiv"),
    ],
)
async def test_a_folder_is_found_as_people_write_it(
    rig: SandboxRig, pool: ThreadPoolExecutor, written: str, there: str
) -> None:
    """Umlauts in modified UTF-7, any case, any composition; the name in ids is the written one."""
    rig.box.localise("de")
    rig.box.create(there)
    rig.box.deliver(mail(7), folder=there)
    rig.tenant.faults.add("imap.inbox_in_mixed_case")

    ledger = await fetched_from(rig, pool, written)

    assert ledger.numbers == [7]
    assert [ref.folder for ref in ledger.accepted] == [written]


async def test_a_plain_name_costs_no_question(rig: SandboxRig, pool: ThreadPoolExecutor) -> None:
    """What can be opened as it is written is opened, without LIST or NAMESPACE."""
    rig.box.create("Alarm/2026")
    for folder in ("INBOX", "Alarm/2026"):
        await fetched_from(rig, pool, folder)

    assert rig.commands("LIST") == rig.commands("NAMESPACE") == []


async def test_ids_outlive_a_change_of_the_mailboxs_language(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Outlook renames the default folders; what was fetched by its role is not fetched again."""
    rig.box.deliver(mail(1), folder="Sent Items")
    source = source_for(rig, pool, folder="\\Sent")
    ledger = Ledger()
    await ledger.look(source)
    rig.box.localise("de")
    rig.box.deliver(mail(2), folder="Gesendete Elemente")
    await ledger.look(source)

    assert ledger.numbers == [1, 2]
    assert ledger.doubled == []


@pytest.mark.parametrize("written", ["Alarme", "\\Flagged", "INBOX/Alarm"])
async def test_a_missing_folder_names_those_that_are_there(
    rig: SandboxRig, pool: ThreadPoolExecutor, written: str
) -> None:
    """A person can pick the right name from the message."""
    rig.tenant.faults.add("imap.files_folder")
    with pytest.raises(FolderMissing) as caught:
        await fetched_from(rig, pool, written)

    assert repr(written) in str(caught.value)
    assert "INBOX" in caught.value.fix
    assert "Sent Items" in caught.value.fix
    assert len(rig.commands("LIST")) == 1


@pytest.mark.parametrize(
    ("language", "name", "mail_in_it"),
    [
        ("en", "Calendar", False),
        ("en", "Kalender", True),
        ("de", "Kalender", False),
        ("de", "kontakte", False),
        ("fr", "Tâches", False),
        ("de", "INBOX/Kalender", True),
    ],
)
async def test_a_folder_without_mail_is_refused(
    rig: SandboxRig,
    pool: ThreadPoolExecutor,
    language: str,
    name: str,
    mail_in_it: bool,  # noqa: FBT001 - a table
) -> None:
    """A calendar would bring nothing but notices that nothing can be retrieved."""
    rig.box.localise(language)
    if mail_in_it:
        rig.box.create(name)
        assert (await fetched_from(rig, pool, name)).numbers == []
        return
    with pytest.raises(FolderMissing, match="holds no mail") as caught:
        await fetched_from(rig, pool, name)
    assert caught.value.code == "imap.folder_without_mail"
    assert "folders" in caught.value.fix


@pytest.mark.parametrize(
    ("target", "there"),
    [
        ("\\Trash", "Gelöschte Elemente"),
        ("\\Archive", "Archiv"),
        ("archiv", "Archiv"),
        ("Fertig/2026/Übung", "Fertig/2026/Übung"),
    ],
)
async def test_mail_is_moved_to_the_folder_that_is_meant(
    rig: SandboxRig, pool: ThreadPoolExecutor, target: str, there: str
) -> None:
    """The target may be a role, and is created when it is a name that is missing."""
    rig.box.localise("de")
    await filled(rig, 2)
    before = set(rig.box.folders)
    source = source_for(rig, pool, after="move", move_to=target)
    ledger = Ledger()
    async with source.session() as session:
        await ledger.fetch(session)
        for ref in ledger.accepted:
            await session.settle([ref])

    assert [name for _, _, name in await rig.look(there)] == [
        "<alarm-1@ils.example>",
        "<alarm-2@ils.example>",
    ]
    assert await rig.look() == []
    assert set(rig.box.folders) - before <= {"Fertig", "Fertig/2026", "Fertig/2026/Übung"}
    assert len(rig.commands("LIST")) == 1


@pytest.mark.parametrize(
    ("folder", "target", "code"),
    [
        ("Archive", "\\Archive", "imap.target_is_watched"),
        ("INBOX", "Inbox", "imap.target_is_watched"),
        ("INBOX", "\\Flagged", "imap.folder_missing"),
    ],
)
async def test_a_target_that_cannot_be_is_refused(
    rig: SandboxRig, pool: ThreadPoolExecutor, folder: str, target: str, code: str
) -> None:
    """Mail moved into its own folder would be new there, for ever; a role cannot be created."""
    rig.box.deliver(mail(1), folder=folder)
    source = source_for(rig, pool, folder=folder, after="move", move_to=target)
    ledger = Ledger()
    async with source.session() as session:
        await ledger.fetch(session)
        with pytest.raises(FolderMissing) as caught:
            await session.settle(list(ledger.accepted))

    assert caught.value.code == code
    assert len(rig.box.folder(folder)) == 1


DOTTED = """
namespace inbox {
  separator = .
  prefix = INBOX.
  mailbox Verschickt {
    auto = create
    special_use = \\Sent
  }
}
"""


@pytest.fixture(scope="module")
def dotted(minter: Minter) -> Iterator[Dovecot]:
    with Dovecot(minter.rules, probe_token=minter.mint_app, extra=DOTTED) as server:
        yield server


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("Archive/2026", "Archive/2026"),
        ("INBOX/Archive/2026", "Archive/2026"),
        ("Übung", "Übung"),
        ("\\Sent", "Verschickt"),
        ("\\Trash", "Papierkorb"),
    ],
)
async def test_another_separator_and_namespace_are_the_servers_business(
    dotted: Dovecot, minter: Minter, pool: ThreadPoolExecutor, written: str, there: str
) -> None:
    """On a server with `INBOX.Archive.2026` the configuration still says Archive/2026."""
    address = f"{uuid.uuid4().hex[:12]}@feuerwehr.example"
    rig = DovecotRig(dotted, minter, address)
    dotted.deliver(address, mail(7), there)
    dotted.deliver(address, mail(8))
    ledger, inbox = Ledger(), Ledger()
    await ledger.look(source_for(rig, pool, folder=written))
    source = source_for(rig, pool, after="move", move_to="Fertig/Übung")
    async with source.session() as session:
        await inbox.fetch(session)
        await session.settle(list(inbox.accepted))

    assert ledger.numbers == [7]
    assert {ref.folder for ref in ledger.accepted} == {written}
    assert [one.message_id for one in dotted.read(address, "INBOX.Fertig.Übung")] == [
        "<alarm-8@ils.example>"
    ]


# -- signed in, and yet no mailbox ------------------------------------------------------------


@pytest.mark.parametrize("form", ["NO", "BAD"])
@pytest.mark.parametrize("command", ["CAPABILITY", "ID", "NAMESPACE", "LIST", "EXAMINE"])
async def test_not_connected_is_known_at_any_command(
    rig: SandboxRig, pool: ThreadPoolExecutor, command: str, form: str
) -> None:
    """Whichever comes first behind the sign-in: its own state, with what to do about it."""
    text = "User is authenticated but not connected."
    rig.tenant.faults.add("imap.reason_before_bye", times=1, command=command, text=f"{form} {text}")

    with pytest.raises(Unavailable) as caught:
        await fetched_from(rig, pool, "\\Sent")

    assert caught.value.code == "imap.not_connected"
    assert "FullAccess" in caught.value.fix
    assert rig.tenant.faults.fired["imap.reason_before_bye"] == 1


async def test_not_connected_by_the_server_itself_is_known_at_the_first_command(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """As Exchange does it: OK to the sign-in, and BAD to all that follows."""
    rig.tenant.revoke(rig.app, rig.box)
    for folder in ("INBOX", "\\Sent"):
        with pytest.raises(Unavailable) as caught:
            await fetched_from(rig, pool, folder)
        assert caught.value.code == "imap.not_connected"
    assert rig.tenant.imap.logins == 2


async def test_too_many_sessions_are_told_apart_from_a_refused_sign_in(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Dovecot's and others' words for it, at the sign-in and in a BYE."""
    for text in (
        "NO [LIMIT] Maximum number of connections from user+IP exceeded",
        "BAD Too many simultaneous connections.",
    ):
        rig.tenant.faults.add("imap.reason_before_bye", times=1, command="AUTHENTICATE", text=text)
        with pytest.raises(Unavailable) as caught:
            await Ledger().look(source_for(rig, pool, refresh=never))
        assert caught.value.code == "imap.too_many_sessions"
        assert caught.value.fix


# -- shared mailboxes -------------------------------------------------------------------------


async def test_one_token_opens_each_mailbox_that_it_is_granted(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """The address in the configuration says which one; the token says only who asks."""
    shared = rig.tenant.add_mailbox("leitstelle@feuerwehr.example")
    rig.tenant.add_mailbox("fremd@feuerwehr.example")
    rig.tenant.grant(rig.app, shared)
    await filled(rig, 1)
    shared.deliver(mail(2))
    same = await rig.token()

    async def token() -> AccessToken:
        return same

    ledgers = [Ledger(), Ledger()]
    for ledger, address in zip(ledgers, [rig.address, shared.address], strict=True):
        await ledger.look(source_for(rig, pool, token=token, address=address))
    stranger = source_for(rig, pool, token=token, address="fremd@feuerwehr.example")
    with pytest.raises(Unavailable) as caught:
        await Ledger().look(stranger)

    assert [ledger.numbers for ledger in ledgers] == [[1], [2]]
    assert caught.value.code == "imap.not_connected"


@pytest.mark.parametrize("who", ["own", "shared", "not granted"])
async def test_a_person_opens_the_mailbox_of_the_configuration_not_their_own(
    rig: SandboxRig, pool: ThreadPoolExecutor, who: str
) -> None:
    """Delegated: `user=` is the configured address, whoever signed in; never their own instead."""
    anna = rig.tenant.add_user("anna@feuerwehr.example")
    own = rig.tenant.add_mailbox(anna.upn)
    own.deliver(mail(1))
    rig.box.deliver(mail(2))
    if who == "shared":
        rig.tenant.grant(anna, rig.box)

    async def token() -> AccessToken:
        value = rig.tenant.tokens.user_token(rig.app, anna)
        return AccessToken(value=value, expires_at=now() + timedelta(hours=1))

    address = anna.upn if who == "own" else rig.address
    source = source_for(rig, pool, token=token, refresh=never, address=address)
    ledger = Ledger()
    if who == "not granted":
        with pytest.raises(Unavailable) as caught:
            await ledger.look(source)
        assert caught.value.code == "imap.not_connected"
    else:
        await ledger.look(source)

    assert ledger.numbers == {"own": [1], "shared": [2], "not granted": []}[who]


# -- what is sent -----------------------------------------------------------------------------

SENT = {
    *("CAPABILITY", "AUTHENTICATE", "ID", "NAMESPACE", "LIST", "CREATE", "EXAMINE", "SELECT"),
    *("NOOP", "IDLE", "UID SEARCH", "UID FETCH", "UID STORE", "UID MOVE", "UID COPY"),
    *("UID EXPUNGE", "LOGOUT"),
}
ITEMS = {
    "(RFC822.SIZE)",
    "(UID INTERNALDATE BODY.PEEK[])",
    "(UID INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])",
}


@pytest.mark.parametrize("front_end", ["imap.new_front_end", ""])
async def test_a_whole_session_says_nothing_but_plain_rev1(
    rig: SandboxRig, pool: ThreadPoolExecutor, front_end: str
) -> None:
    """Never ENABLE, whatever is offered; no CONDSTORE, no CHARSET, no item of an extension."""
    if front_end:
        rig.tenant.faults.add(front_end)
    await filled(rig, 12)
    rig.box.deliver(mail(13), folder="Sent Items")
    rig.tenant.faults.add("imap.fetch_ok_no_data", uid=5)
    rig.tenant.faults.add("imap.fetch_bad", times=1, uid=7)
    for after in ("keep", "seen", "delete", "move"):
        settings: dict[str, Any] = {"after": after, "push": True}
        settings |= {"move_to": "Fertig"} if after == "move" else {}
        settings |= {"folder": "\\Sent"} if after == "keep" else {}
        source = source_for(rig, pool, **settings)
        ledger = Ledger()
        async with source.session() as session:
            await ledger.fetch(session)
            await ledger.fetch(session)
            assert ledger.checkpoint is not None
            assert await session.unchanged(ledger.checkpoint)
            woken = asyncio.Event()
            standing = asyncio.create_task(session.stand_by(woken, now() + timedelta(seconds=20)))
            await until(lambda: rig.commands("IDLE") != [])
            woken.set()
            await standing
            await session.settle(list(ledger.accepted)[:2])
        await rig.renumber()
        await ledger.look(source)

    commands = list(rig.tenant.imap.commands)
    assert {one.name for one in commands} <= SENT
    assert {"UID FETCH", "UID STORE", "UID MOVE", "IDLE", "LIST"} <= {one.name for one in commands}
    fetches = [one.line.split(" ", 3)[3] for one in commands if one.name == "UID FETCH"]
    assert set(fetches) == ITEMS
    words = " ".join(one.line for one in commands).upper()
    for never_said in ("ENABLE", "CONDSTORE", "QRESYNC", "CHANGEDSINCE", "MODSEQ", "CHARSET"):
        assert never_said not in words
    assert max(len(one.line) for one in commands) <= 8192


# -- messages that do not come ----------------------------------------------------------------


@pytest.mark.parametrize("delta", [-300, -2, -1, 1, 2, 3, 15, 21, 40, 300, 10_000])
async def test_a_broken_literal_costs_one_message_and_no_other(
    rig: SandboxRig, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, delta: int
) -> None:
    """However many bytes it is off: that one is a gap, the others come as they are."""
    monkeypatch.setattr("mailbridge.sources.imap_connection.READ_TIMEOUT", 0.3)
    raws = [mail(number, size=350 + number) for number in range(1, 13)]
    for raw in raws:
        await rig.deliver(raw)
    rig.tenant.faults.add("imap.broken_literal_size", uid=6, delta=delta)
    source = source_for(rig, pool)
    ledger = Ledger()
    for _ in range(9):
        with suppress(Unavailable):
            await ledger.look(source)
        if ledger.gaps:
            break

    assert [ref.uid for ref in ledger.gaps] == [6]
    got = {ref.uid: message.raw for ref, message in ledger.accepted.items()}
    assert got == {uid: raw for uid, raw in enumerate(raws, 1) if uid != 6}
    assert ledger.vanished == []

    rig.tenant.faults.clear()
    await ledger.look(source)
    assert [message.raw for message in ledger.accepted.values()][-1] == raws[5]


async def test_garbage_behind_a_literal_is_no_message(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """The whole answer is doubted; the message becomes a gap with its reason."""
    await filled(rig, 5)
    rig.tenant.faults.add("imap.literal_garbage", uid=2)
    source = source_for(rig, pool)
    ledger = Ledger()
    while not ledger.gaps:
        with suppress(Unavailable):
            await ledger.look(source)

    assert [(ref.uid, bool(gap.reason)) for ref, gap in ledger.gaps.items()] == [(2, True)]
    assert ledger.numbers == [1, 3, 4, 5]


async def test_a_stand_in_is_never_taken_for_the_mail(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """Not fetched, not seen, not moved: a gap that says why, until the mail itself comes."""
    await filled(rig, 3)
    rig.tenant.faults.add("imap.placeholder", uid=2)
    source = source_for(rig, pool, after="seen")
    ledger = Ledger()
    async with source.session() as session:
        await ledger.fetch(session)
        await session.settle(list(ledger.accepted))

    (gap,) = ledger.gaps.values()
    assert "notice" in gap.reason
    assert ledger.numbers == [1, 3]
    assert [flags for _, flags, _ in await rig.look()] == [{"\\Seen"}, set(), {"\\Seen"}]

    rig.tenant.faults.clear()
    await ledger.look(source)
    assert ledger.numbers == [1, 3, 2]


async def test_lines_that_are_too_long_for_the_server_are_cut_down(
    rig: SandboxRig, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`BAD Command Error. 10`: halved until they fit, for reading and for settling."""
    monkeypatch.setattr("mailbridge.sources.imap_plan.COMMAND_LINE", 20_000)
    rig.tenant.imap.limits.bad_after_sign_in = 10_000
    await filled(rig, 2500, size=0)
    limits = FetchLimits(messages=2500, list_window=2500, bytes=10**9)
    source = source_for(rig, pool, after="seen", limits=limits)
    ledger = Ledger()
    async with source.session() as session:
        await ledger.fetch(session)
        await session.settle(list(ledger.accepted))

    assert len(ledger.accepted) == 2500
    assert ledger.gaps == {}
    assert {flags for _, flags, _ in await rig.look()} == {frozenset({"\\Seen"})}


async def test_a_search_in_a_charset_that_is_refused_is_no_outage_of_the_source(
    rig: SandboxRig, pool: ThreadPoolExecutor
) -> None:
    """None is ever named, so `NO [BADCHARSET]` cannot come; if it does, it is temporary."""
    await filled(rig, 1)
    ledger = Ledger()
    rig.tenant.faults.add(
        "imap.reason_before_bye", times=1, command="SEARCH", text="NO [BADCHARSET (US-ASCII)] no"
    )
    source = source_for(rig, pool)
    with pytest.raises(Unavailable, match="BADCHARSET"):
        await ledger.look(source)
    await ledger.look(source)

    assert ledger.numbers == [1]
    assert not [one for one in rig.tenant.imap.commands if "CHARSET" in one.line.upper()]
