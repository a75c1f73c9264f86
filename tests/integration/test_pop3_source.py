"""The POP3 source and what real servers seldom do: cuts, refusals, other UIDLs, hostile words."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mailbridge.errors import (
    MailbridgeError,
    PermanentError,
    SignInRejected,
    TemporaryError,
    Throttled,
    Unavailable,
)
from mailbridge.model import AccessToken
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sources import pop3_connection, pop3_driver, pop3_wire
from mailbridge.sources.imap import ImapSource
from mailbridge.sources.pop3 import FetchLimits, Pop3Source
from mailbridge.sources.transport import MailServer
from mailbridge.store.store import Store
from tests.contract.pop3_rigs import (
    Cut,
    Desk,
    DovecotRig,
    SandboxRig,
    Scripted,
    mail,
    source_for,
    stuffed,
)
from tests.servers.dovecot import Dovecot
from tests.servers.tokens import Minter

STAND_IN = (
    b"From: Microsoft Exchange Server <postmaster@feuerwehr.example>\r\n"
    b"Subject: Retrieval using the %s protocol failed for the following message: 1\r\n\r\n"
    b"The server couldn't retrieve the following message:\r\n\r\n"
    b"Retrieval using the %s protocol failed for the following message: 1\r\n"
)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Give the worker threads of a source."""
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Give an intake's place at an empty store."""
    store = await Store.open(f"sqlite:///{tmp_path}/mailbridge.db")
    yield Desk(store)
    await store.close()


@pytest_asyncio.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Scripted]:
    """Give a server that says what it is told to."""
    async with Scripted.start(tmp_path) as server:
        yield server


@pytest.fixture
def dovecot_rig(dovecot: Dovecot, minter: Minter) -> DovecotRig:
    """Give a mailbox of its own on Dovecot."""
    return DovecotRig(dovecot, minter, f"{uuid.uuid4().hex[:12]}@feuerwehr.example")


def fill(scripted: Scripted, *numbers: int, **about: Any) -> None:
    scripted.mails += [(f"uidl-{number}", mail(number, **about)) for number in numbers]


async def failure_of(source: Pop3Source, desk: Desk | None = None) -> MailbridgeError:
    """Return the error that ends a look."""
    try:
        async with source.session() as session:
            if desk is not None:
                await desk.fetch(session)
                await desk.settle(session)
    except MailbridgeError as failed:
        return failed
    raise AssertionError("nothing failed")


# -- the sign-in ----------------------------------------------------------------------------------


async def test_the_credential_goes_in_a_line_of_its_own(
    scripted: Scripted, pool: ThreadPoolExecutor
) -> None:
    """Exchange hangs up on `AUTH XOAUTH2 <credential>`; announced first, it takes it."""
    async with source_for(scripted, pool).session():
        pass
    assert scripted.lines[0] == "AUTH XOAUTH2"
    assert scripted.credentials == [b"user=alarm@feuerwehr.example\x01auth=Bearer a.b.c\x01\x01"]
    assert scripted.lines[-1] == "QUIT"


EXPIRED = json.dumps({"status": "401", "schemes": "bearer", "scope": "https://outlook.office.com"})

#: what the server says to the credential, and what that is
REFUSALS: list[tuple[bytes, type[MailbridgeError], str]] = [
    (
        b"-ERR Authentication failure: unknown user name or bad password.\r\n",
        SignInRejected,
        "pop3.authenticate_failed",
    ),
    (
        b"-ERR Logon failure: unknown user name or bad password.\r\n",
        SignInRejected,
        "pop3.basic_auth",
    ),
    (b"-ERR [AUTH] no\r\n", SignInRejected, "pop3.authenticate_failed"),
    (Cut(b"-ERR Protocol error. Connection is closed. 10\r\n"), Unavailable, "pop3.protocol_error"),
    (b"-ERR [SYS/TEMP] later\r\n", Unavailable, "pop3.refused"),
    (b"-ERR [IN-USE] maildrop is in use\r\n", Unavailable, "pop3.refused"),
    (b"-ERR BYE Connection refused\r\n", Unavailable, "pop3.too_many_sessions"),
    (b"-ERR Connection is closed. 11\r\n", Unavailable, "pop3.server_closed"),
    (b"-ERR [LOGIN-DELAY] wait 120 seconds\r\n", Throttled, "pop3.throttled"),
    (
        b"-ERR Request is throttled. Suggested Backoff Time: 90000 milliseconds\r\n",
        Throttled,
        "pop3.throttled",
    ),
    (b"what is this\r\n", Unavailable, "pop3.protocol"),
    (Cut(b""), Unavailable, "pop3.eof"),
]


@pytest.mark.parametrize(("answer", "kind", "code"), REFUSALS)
async def test_each_refusal_of_a_credential_is_understood(
    scripted: Scripted,
    pool: ThreadPoolExecutor,
    answer: bytes,
    kind: type[MailbridgeError],
    code: str,
) -> None:
    """What is to be done about a refusal follows from its words; none shows the token."""
    scripted.accept = answer
    failed = await failure_of(source_for(scripted, pool))
    assert (type(failed) in {kind, *kind.__subclasses__()}, failed.code) == (True, code)
    assert "a.b.c" not in str(failed)
    if isinstance(failed, Throttled):
        assert failed.retry_after in {90.0, 120.0}


async def test_the_reason_in_a_challenge_is_told(
    scripted: Scripted, pool: ThreadPoolExecutor
) -> None:
    """A server that explains a refusal is heard, and gets the empty line that it waits for."""
    challenge = b"+ " + b64encode(EXPIRED.encode()) + b"\r\n-ERR [AUTH] Authentication failed.\r\n"
    scripted.accept = challenge
    failed = await failure_of(source_for(scripted, pool))
    assert isinstance(failed, SignInRejected)
    assert '"status": "401"' in str(failed)
    assert scripted.lines[1] == ""


@pytest.mark.parametrize("length", [4096, 4097])
async def test_a_token_that_is_too_long_for_pop3_is_named(
    scripted: Scripted, pool: ThreadPoolExecutor, length: int
) -> None:
    """Exchange hangs up on tokens of over 4,096 characters; the error names that and a fix."""
    scripted.accept = Cut(b"-ERR Protocol error. Connection is closed. 10\r\n")

    async def token() -> AccessToken:
        return AccessToken(value="x" * length, expires_at=datetime.now(UTC) + timedelta(hours=1))

    failed = await failure_of(source_for(scripted, pool, token=token))
    too_long = length > 4096
    assert (failed.code == "pop3.token_too_long") == isinstance(failed, SignInRejected) == too_long
    assert ("4,096" in str(failed) and "imap" in failed.fix) == too_long
    assert scripted.connections == 1


async def test_unknown_user_after_a_success_is_a_throttle(
    scripted: Scripted, pool: ThreadPoolExecutor
) -> None:
    """What worked within the hour is not wrong now: wait, and do not ask for tokens."""
    now = [datetime(2026, 11, 21, 12, 0, tzinfo=UTC)]
    asked: list[AccessToken] = []

    async def refresh(before: AccessToken) -> AccessToken:
        asked.append(before)
        return before

    source = source_for(scripted, pool, now=lambda: now[0], refresh=refresh)
    async with source.session():
        pass
    scripted.accept = b"-ERR Logon failure: unknown user name or bad password.\r\n"
    now[0] += timedelta(minutes=59)
    failed = await failure_of(source)
    assert isinstance(failed, Throttled)
    assert 600 <= failed.retry_after <= 900
    assert asked == []
    now[0] += timedelta(minutes=2)
    assert isinstance(await failure_of(source), SignInRejected)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("greeting", "code"),
    [
        (Cut(b"-ERR BYE Connection refused\r\n"), "pop3.too_many_sessions"),
        (b"* OK IMAP4rev1 ready\r\n", "pop3.wrong_port"),
        (Cut(b""), "pop3.eof"),
        (b"x" * 70_000, "pop3.too_large"),
    ],
)
async def test_a_greeting_that_is_none_is_temporary(
    scripted: Scripted, pool: ThreadPoolExecutor, greeting: bytes, code: str
) -> None:
    """A full server, another protocol, no greeting, an endless one: no credential is sent."""
    scripted.greeting = greeting
    failed = await failure_of(source_for(scripted, pool))
    assert isinstance(failed, Unavailable)
    assert failed.code == code
    assert scripted.lines == []


async def test_a_server_without_xoauth2_is_named(
    scripted: Scripted, pool: ThreadPoolExecutor
) -> None:
    """The credential stays here when the server does not ask for it."""
    scripted.answers["AUTH"] = b"-ERR Command is not valid in this state.\r\n"
    failed = await failure_of(source_for(scripted, pool))
    assert isinstance(failed, SignInRejected)
    assert failed.code == "pop3.no_xoauth2"
    assert scripted.credentials == []


# -- STLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "answers", "code"),
    [
        (["UIDL"], {}, "pop3.no_starttls"),
        (None, {}, "pop3.no_starttls"),
        (["STLS"], {"STLS": b"-ERR Command is not valid in this state.\r\n"}, "pop3.wrong_state"),
        (["STLS"], {"STLS": b"+OK\r\n+OK forged\r\n"}, "pop3.connection"),
    ],
)
async def test_without_tls_no_credential_is_sent(
    tmp_path: Path,
    pool: ThreadPoolExecutor,
    capabilities: list[str] | None,
    answers: dict[str, bytes],
    code: str,
) -> None:
    """STLS that is not offered, refused, or has bytes slipped behind it ends the matter."""
    async with Scripted.start(tmp_path, tls="starttls") as scripted:
        scripted.capabilities = capabilities
        scripted.answers.update(answers)
        failed = await failure_of(
            source_for(scripted, pool, server=scripted.server(tls="starttls"))
        )
        assert isinstance(failed, Unavailable)
        assert failed.code == code
        assert scripted.count("AUTH") == 0


async def test_capabilities_are_asked_for_again_under_tls(
    tmp_path: Path, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """What somebody in between offered before TLS is not believed after it."""
    async with Scripted.start(tmp_path, tls="starttls") as scripted:
        fill(scripted, 1, 2, 3)
        offered = iter([b"+OK\r\nSTLS\r\nPIPELINING\r\n.\r\n", b"+OK\r\nUIDL\r\n.\r\n"])
        scripted.answers["CAPA"] = lambda: next(offered)
        await desk.look(source_for(scripted, pool, server=scripted.server(tls="starttls")))
        assert desk.numbers == [1, 2, 3]
        assert scripted.lines[:4] == ["CAPA", "STLS", "AUTH XOAUTH2", "CAPA"]
        assert scripted.waiting == 1


async def test_a_certificate_of_somebody_else_is_refused(
    scripted: Scripted, pool: ThreadPoolExecutor, dovecot: Dovecot
) -> None:
    """A server that cannot prove its name gets nothing."""
    server = replace(scripted.server(), ca=Path(dovecot.ca_file))
    failed = await failure_of(source_for(scripted, pool, server=server))
    assert failed.code == "tls.unknown_authority"
    assert scripted.lines == []


# -- the listing ----------------------------------------------------------------------------------


async def test_a_server_without_uidl_is_refused(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Without unique ids nobody can tell new mail from old: a clear error, and no mail twice."""
    fill(scripted, 1)
    scripted.answers["UIDL"] = b"-ERR Protocol error. 19\r\n"
    failed = await failure_of(source_for(scripted, pool), desk)
    assert isinstance(failed, PermanentError)
    assert failed.code == "pop3.no_uidl"
    assert "imap" in failed.fix
    assert desk.batches == []


@pytest.mark.parametrize("capabilities", [None, [], ["EXPIRE 30"], ["\u00fc\u00df"]])
async def test_capa_is_not_needed(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk, capabilities: list[str] | None
) -> None:
    """A server that lists no UIDL, or knows no CAPA at all, is used if it answers UIDL."""
    fill(scripted, 1, 2)
    scripted.capabilities = capabilities
    await desk.look(source_for(scripted, pool))
    assert desk.numbers == [1, 2]


async def test_only_the_token_behind_the_number_counts(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Numbers change with every session, and so may what stands behind the UIDL."""
    fill(scripted, 1, 2, 3)
    scripted.answers["UIDL"] = b"+OK\r\n1 uidl-1 x\r\n2  uidl-2\r\n3 uidl-3 \r\n.\r\n"
    await desk.look(source_for(scripted, pool))
    del scripted.answers["UIDL"]
    del scripted.mails[0]
    await desk.look(source_for(scripted, pool))
    assert desk.numbers == [1, 2, 3]
    assert scripted.count("RETR") == 3


async def test_identical_copies_are_delivered_once(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """One UIDL twice is one mail; both copies go, but not one of another size."""
    desk.settles = True
    fill(scripted, 1)
    scripted.mails += [("twin", mail(2)), ("twin", mail(2)), ("twin", mail(3, size=900))]
    await desk.look(source_for(scripted, pool, after="delete"))
    assert desk.numbers == [1, 2]
    assert [line for line in scripted.lines if line.startswith("DELE")] == [
        "DELE 1",
        "DELE 2",
        "DELE 3",
    ]


async def test_any_uidl_is_remembered(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """A UIDL far from RFC 1939 (too long, not ASCII, with control characters) works as well."""
    strange = [b"x" * 5000, b"\xff\xfe", b"a\x00b", b"!~\x01"]
    rows = b"".join(b"%d %s\r\n" % (at, uidl) for at, uidl in enumerate(strange, 1))
    scripted.mails = [("", mail(number)) for number in range(1, 5)]
    scripted.answers["UIDL"] = b"+OK\r\n" + rows + b".\r\n"
    await desk.look(source_for(scripted, pool))
    await desk.look(source_for(scripted, pool))
    assert desk.numbers == [1, 2, 3, 4]
    assert desk.doubled == 0
    assert scripted.count("RETR") == 4


@pytest.mark.parametrize("rows", [b"1\r\n", b"x uidl-1\r\n", b"\r\n", b"1 a\r\nnonsense\r\n"])
async def test_a_listing_that_is_none_takes_nothing(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk, rows: bytes
) -> None:
    """A broken listing is no listing: nothing is fetched, and nothing taken for gone."""
    fill(scripted, 1)
    scripted.answers["UIDL"] = b"+OK\r\n" + rows + b".\r\n"
    failed = await failure_of(source_for(scripted, pool), desk)
    assert failed.code == "pop3.protocol"
    assert desk.batches == []


async def test_a_listing_that_is_empty_for_once_makes_nothing_new(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """A glitch of the server floods nobody: neither stored mail nor what lay there comes again."""
    fill(scripted, 1, 2)
    source = source_for(scripted, pool, start="new")
    await desk.look(source)
    fill(scripted, 3)
    await desk.look(source)
    whole, scripted.mails = scripted.mails, []
    await desk.look(source)
    assert set((await desk.store.uidls("alarm", "INBOX")).values()) == {True}
    scripted.mails = whole
    for _ in range(2):
        await desk.look(source)
    assert desk.numbers == [3]
    assert scripted.count("RETR") == 1
    assert set((await desk.store.uidls("alarm", "INBOX")).values()) == {False}


async def test_a_listing_in_two_minds_makes_nothing_gone(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """When UIDL and LIST do not tell of the same messages, none is taken for deleted."""
    fill(scripted, 1, 2, 3)
    source = source_for(scripted, pool)
    await desk.look(source)
    scripted.answers["UIDL"] = b"+OK\r\n1 uidl-1\r\n.\r\n"
    await desk.look(source)
    assert set((await desk.store.uidls("alarm", "INBOX")).values()) == {False}


# -- other UIDLs for the same mail ----------------------------------------------------------------


async def test_a_moved_mailbox_delivers_only_what_is_new(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """After a migration all UIDLs are others; neither stored nor older mail comes again."""
    fill(scripted, 1, 2)
    source = source_for(scripted, pool, start="new")
    await desk.look(source)
    soon = datetime.now(UTC) + timedelta(seconds=5)
    fill(scripted, 3, 4, received=soon)
    await desk.look(source)
    moved = [(f"moved-{uidl}", raw) for uidl, raw in scripted.mails]
    scripted.mails = [*moved, ("moved-5", mail(5, received=soon))]

    await desk.look(source)
    await desk.look(source)

    assert desk.numbers == [3, 4, 5]
    assert desk.doubled == 0
    ids = {batch_id for batch in desk.batches for _, batch_id in batch.known}
    assert len(ids) == 2


async def test_a_crash_while_a_moved_mailbox_is_sorted_changes_nothing(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """What is recognised is remembered in one commit, before anything is fetched."""
    fill(scripted, 1, 2, 3)
    source = source_for(scripted, pool)
    await desk.look(source)
    scripted.mails = [(f"moved-{uidl}", raw) for uidl, raw in scripted.mails]
    fill(scripted, 4)
    await desk.look(source, stop_after=1)
    await desk.look(source)
    assert desk.numbers == [1, 2, 3, 4]


async def test_the_second_copy_of_an_alarm_is_no_old_mail(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Where each mail is deleted once it is stored, the next listing is not a moved mailbox."""
    desk.settles = True
    source = source_for(scripted, pool, after="delete", start="new")
    await desk.look(source)
    for uidl in ("first", "second"):
        scripted.mails = [(uidl, mail(7))]
        await desk.look(source)
    assert desk.numbers == [7, 7]
    assert scripted.count("TOP") == 0


async def test_a_mailbox_that_was_watched_over_imap_goes_on(
    dovecot_rig: DovecotRig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Changing the protocol of a mailbox delivers nothing a second time and leaves nothing out."""
    now = datetime.now(UTC)
    await dovecot_rig.deliver(mail(1, received=now - timedelta(days=1)))
    settings: dict[str, Any] = {
        "mailbox": "alarm",
        "address": dovecot_rig.address,
        "folder": "INBOX",
        "server": MailServer(
            host="localhost",
            port=dovecot_rig.dovecot.imaps_port,
            ca=Path(dovecot_rig.dovecot.ca_file),
        ),
        "token": dovecot_rig.token,
        "refresh": None,
        "run": lambda f, *a: asyncio.get_running_loop().run_in_executor(pool, f, *a),
        "now": lambda: datetime.now(UTC),
    }
    imap = ImapSource(**settings)
    await desk.look(imap)
    await dovecot_rig.deliver(mail(2, received=now))
    await desk.look(imap)
    assert desk.numbers == [2]
    await dovecot_rig.deliver(mail(3, received=now))

    for _ in range(2):
        await desk.look(source_for(dovecot_rig, pool, start="new"))

    assert desk.numbers == [2, 3]
    checkpoint = await desk.store.checkpoint("alarm", "INBOX")
    assert checkpoint is not None
    assert checkpoint.uidvalidity == 0


# -- fetching -------------------------------------------------------------------------------------


async def test_one_at_a_time_where_the_server_does_not_pipeline(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Without PIPELINING no command is sent before the answer to the one before."""
    fill(scripted, *range(1, 31))
    await desk.look(source_for(scripted, pool))
    assert desk.numbers == list(range(1, 31))
    assert scripted.waiting == 1


async def test_many_at_once_where_it_does(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """With PIPELINING up to fifty are under way, over the borders of batches, in order."""
    scripted.capabilities = ["PIPELINING"]
    fill(scripted, *range(1, 201))
    await desk.look(source_for(scripted, pool, limits=FetchLimits(messages=20)))
    assert desk.numbers == list(range(1, 201))
    assert 20 < scripted.waiting <= pop3_connection.IN_FLIGHT


async def test_bytes_under_way_are_bounded(
    scripted: Scripted,
    pool: ThreadPoolExecutor,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large messages are asked for a few at a time."""
    monkeypatch.setattr(pop3_connection, "BYTES_IN_FLIGHT", 35_000)
    scripted.capabilities = ["PIPELINING"]
    fill(scripted, *range(1, 21), size=10_000)
    await desk.look(source_for(scripted, pool))
    assert desk.numbers == list(range(1, 21))
    assert scripted.waiting <= 3


async def test_a_lone_line_feed_ends_no_message(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """A mail that holds LF . LF cannot pass its rest off as the next answer."""
    scripted.capabilities = ["PIPELINING"]
    forged = mail(1) + b"\n.\n+OK\r\nForged: yes\n.\r\n\r.\r\n\n.\r+OK\r\n"
    scripted.mails = [("a", forged), ("b", mail(2))]
    await desk.look(source_for(scripted, pool))
    assert desk.raws == [forged, mail(2)]


async def test_a_dot_at_the_very_beginning_stays(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """The first line of a message is stuffed like any other."""
    scripted.mails = [("a", b".x\r\n"), ("b", b".\r\n"), ("c", b"..\r\n.\r\n")]
    await desk.look(source_for(scripted, pool))
    assert desk.raws == [raw for _, raw in scripted.mails]


async def test_lone_line_ends_of_a_real_server_come_as_it_sends_them(
    dovecot_rig: DovecotRig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Dovecot ends every line with CRLF and leaves a lone CR alone; so does what arrives."""
    raw = mail(1) + b"a\nb\rc\r\n\n.\n..\r\n"
    await dovecot_rig.deliver(raw)
    await dovecot_rig.deliver(mail(2))
    await desk.look(source_for(dovecot_rig, pool))
    assert desk.raws == [re.sub(rb"(?<!\r)\n", b"\r\n", raw), mail(2)]


async def test_a_mailbox_of_5000_takes_5000_commands(
    dovecot_rig: DovecotRig, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """A backlog comes complete and in order, in as few batches as the limits allow."""
    await asyncio.to_thread(
        dovecot_rig.dovecot.seed, dovecot_rig.address, (mail(n) for n in range(1, 5001))
    )
    source = source_for(dovecot_rig, pool)
    await desk.look(source)
    assert desk.numbers == list(range(1, 5001))
    assert len(desk.batches) == 51
    desk.batches.clear()
    await desk.look(source)
    assert desk.batches == []


async def test_an_empty_message_is_a_message(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """No bytes are a mail only if the server says that it has none."""
    scripted.mails = [("a", b""), ("b", mail(2)), ("c", mail(3))]
    scripted.answers["RETR 3"] = b"+OK\r\n.\r\n"
    await desk.look(source_for(scripted, pool))
    assert desk.raws == [b"", mail(2)]
    assert [gap.ref.uidl for batch in desk.batches for gap in batch.gaps] == ["c"]


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", [[], ["PIPELINING"]])
@pytest.mark.parametrize("kept", [0, 1, 300, 700, -3, -1])
async def test_a_message_that_is_cut_off_is_not_taken(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk, kept: int, offered: list[str]
) -> None:
    """Without its end a message is none; those before it count, and all come in the end."""
    scripted.capabilities = offered
    fill(scripted, 1, 2, 3, 4, size=1000)
    whole = b"+OK\r\n" + stuffed(scripted.mails[2][1])
    answers = iter([Cut(whole[:kept])])
    scripted.answers["RETR 3"] = lambda: next(answers, whole)
    source = source_for(scripted, pool)

    failed = await failure_of(source, desk)
    assert failed.code == "pop3.eof"
    assert desk.numbers == [1, 2]
    await desk.look(source)

    assert desk.raws == [raw for _, raw in scripted.mails]
    assert desk.doubled == 0


@pytest.mark.parametrize("offered", [[], ["PIPELINING"]])
async def test_a_message_that_kills_each_connection_stops_nobody_behind_it(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk, offered: list[str]
) -> None:
    """After a few lost connections the guilty one is a gap, and only that one."""
    scripted.capabilities = offered
    fill(scripted, *range(1, 9))
    scripted.answers["RETR 4"] = Cut(b"+OK\r\nhalf")
    source = source_for(scripted, pool)
    for _ in range(3):
        assert (await failure_of(source, desk)).code == "pop3.eof"
    await desk.look(source)
    assert desk.numbers == [1, 2, 3, 5, 6, 7, 8]
    assert {gap.ref.uidl for batch in desk.batches for gap in batch.gaps} == {"uidl-4"}
    del scripted.answers["RETR 4"]
    await desk.look(source)
    assert desk.numbers == [1, 2, 3, 5, 6, 7, 8, 4]
    assert desk.doubled == 0


async def test_a_refused_message_is_a_gap_until_it_comes(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """-ERR to one message lets the others through; it is tried again, with growing pauses."""
    scripted.capabilities = ["PIPELINING"]
    fill(scripted, 1, 2, 3)
    scripted.answers["RETR 2"] = b"-ERR internal error 0x80004005\r\n"
    source = source_for(scripted, pool)
    await desk.look(source)
    await desk.look(source)
    assert desk.numbers == [1, 3]
    gaps = [gap for batch in desk.batches for gap in batch.gaps]
    assert [(gap.ref.uidl, gap.tries) for gap in gaps] == [("uidl-2", 1), ("uidl-2", 2)]
    assert "0x80004005" in gaps[0].reason
    del scripted.answers["RETR 2"]
    await desk.look(source)
    assert desk.numbers == [1, 3, 2]


async def test_a_gap_that_is_no_longer_listed_has_vanished(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Somebody deleted it before it could be had: told once, and not asked for again."""
    fill(scripted, 1, 2)
    scripted.answers["RETR 2"] = b"-ERR no\r\n"
    source = source_for(scripted, pool)
    await desk.look(source)
    del scripted.mails[1]
    await desk.look(source)
    await desk.look(source)
    assert [ref.uidl for batch in desk.batches for ref in batch.vanished] == ["uidl-2"]
    assert scripted.count("RETR") == 2


@pytest.mark.parametrize("answer", [b"-ERR [SYS/TEMP] Server Unavailable. 15\r\n"])
async def test_trouble_that_passes_makes_no_gap(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk, answer: bytes
) -> None:
    """A server that asks to come later is left in peace, and nothing is marked as missing."""
    fill(scripted, 1, 2)
    scripted.answers["RETR"] = answer
    source = source_for(scripted, pool)
    failed = await failure_of(source, desk)
    assert isinstance(failed, TemporaryError)
    assert [gap for batch in desk.batches for gap in batch.gaps] == []
    del scripted.answers["RETR"]
    await desk.look(source)
    assert desk.numbers == [1, 2]


async def test_a_throttle_in_the_middle_is_waited_for(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """What came before counts, the rest comes after the pause that the server asked for."""
    fill(scripted, 1, 2, 3)
    scripted.answers["RETR 3"] = b"-ERR throttled. Suggested Backoff Time: 45000 milliseconds\r\n"
    source = source_for(scripted, pool)
    failed = await failure_of(source, desk)
    assert isinstance(failed, Throttled)
    assert failed.retry_after == 45
    del scripted.answers["RETR 3"]
    await desk.look(source)
    assert desk.numbers == [1, 2, 3]


@pytest.mark.parametrize("words", [b"IMAP4", b"POP3", b"POP3/IMAP4", b"POP3 or IMAP4"])
async def test_a_notice_in_place_of_the_mail_is_a_gap(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk, words: bytes
) -> None:
    """What Exchange sends instead of a mail it cannot convert is never forwarded as that mail."""
    fill(scripted, 1, 2)
    scripted.answers["RETR 1"] = b"+OK\r\n" + stuffed(STAND_IN % (words, words))
    await desk.look(source_for(scripted, pool))
    assert desk.numbers == [2]
    (gap,) = [gap for batch in desk.batches for gap in batch.gaps]
    assert (gap.ref.uidl, "notice" in gap.reason) == ("uidl-1", True)


async def test_an_answer_without_end_is_given_up(
    scripted: Scripted,
    pool: ThreadPoolExecutor,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message beyond all bounds becomes a gap at once, and memory stays bounded."""
    monkeypatch.setattr(pop3_wire, "LARGEST_ANSWER", 100_000)
    fill(scripted, 1, 2, 3)
    scripted.answers["RETR 2"] = b"+OK\r\n" + b"x" * 400_000
    source = source_for(scripted, pool)
    assert (await failure_of(source, desk)).code == "pop3.too_large"
    scripted.answers["RETR 2"] = b"-ERR too large\r\n"
    await desk.look(source)
    assert desk.numbers == [1, 3]
    (reason,) = {gap.reason for batch in desk.batches for gap in batch.gaps if gap.tries == 1}
    assert "lost each time" in reason


async def test_a_server_that_falls_silent_is_left(
    scripted: Scripted,
    pool: ThreadPoolExecutor,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Silence in the middle of a message ends the session; nothing of that message is taken."""
    monkeypatch.setattr(pop3_connection, "READ_TIMEOUT", 0.3)
    fill(scripted, 1, 2)
    scripted.answers["RETR 2"] = b"+OK\r\nFrom: half"
    assert (await failure_of(source_for(scripted, pool), desk)).code == "pop3.timeout"
    assert desk.numbers == [1]


async def test_a_trickle_without_end_is_left(
    scripted: Scripted,
    pool: ThreadPoolExecutor,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A verb that takes too long as a whole is given up, even if the socket is never silent."""
    made = pop3_driver.Driver.__init__

    def short(self: Any, connection: Any, run: Callable[..., Any]) -> None:
        made(self, connection, run, budget=0.3)

    monkeypatch.setattr(pop3_driver.Driver, "__init__", short)
    fill(scripted, 1)
    scripted.answers["RETR 1"] = b"+OK\r\nFrom: half"
    assert (await failure_of(source_for(scripted, pool), desk)).code == "pop3.timeout"
    assert desk.numbers == []


async def test_nonsense_in_place_of_an_answer_shows_no_mail(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """What cannot be understood may be somebody's mail, and is in no error."""
    fill(scripted, 1)
    scripted.answers["RETR 1"] = b"Subject: secret plans\r\n"
    failed = await failure_of(source_for(scripted, pool), desk)
    assert failed.code == "pop3.protocol"
    assert "secret" not in f"{failed} {failed!r} {failed.__cause__!r} {failed.__context__!r}"


# -- settling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", [[], ["PIPELINING"]])
async def test_a_cut_between_dele_and_quit_deletes_and_doubles_nothing(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk, offered: list[str]
) -> None:
    """Without the answer to QUIT nothing counts as deleted; the next session finds it by UIDL."""
    scripted.capabilities = offered
    desk.settles = True
    fill(scripted, 1, 2, 3)
    answers = iter([Cut(b"")])
    scripted.answers["QUIT"] = lambda: next(answers, b"+OK\r\n")
    source = source_for(scripted, pool, after="delete")

    assert (await failure_of(source, desk)).code == "pop3.eof"
    assert len(await desk.store.unsettled("alarm", "INBOX", 9)) == 3
    del scripted.answers["QUIT"]
    await desk.look(source)

    assert desk.numbers == [1, 2, 3]
    assert desk.doubled == 0
    assert scripted.mails == []
    assert await desk.store.unsettled("alarm", "INBOX", 9) == []


async def test_a_lost_answer_to_quit_is_no_harm(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """The server deleted and could not say so: what is no longer listed is settled."""
    desk.settles = True
    fill(scripted, 1, 2)

    def obey() -> bytes:
        scripted.mails.clear()
        return Cut(b"")

    scripted.answers["QUIT"] = obey
    source = source_for(scripted, pool, after="delete")
    await failure_of(source, desk)
    del scripted.answers["QUIT"]
    await desk.look(source)
    assert desk.numbers == [1, 2]
    assert await desk.store.unsettled("alarm", "INBOX", 9) == []


async def test_a_refused_quit_deletes_nothing(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """-ERR to QUIT says that messages were not removed: none of them counts as settled."""
    desk.settles = True
    fill(scripted, 1, 2)
    scripted.answers["QUIT"] = b"-ERR some deleted messages not removed\r\n"
    await desk.look(source_for(scripted, pool, after="delete"))
    assert len(await desk.store.unsettled("alarm", "INBOX", 9)) == 2


async def test_a_refused_dele_leaves_that_one(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """What the server would not mark is tried again; the others are settled."""
    desk.settles = True
    fill(scripted, 1, 2, 3)
    scripted.answers["DELE 2"] = b"-ERR locked\r\n"
    source = source_for(scripted, pool, after="delete")
    await desk.look(source)
    assert [ref.uidl for ref in await desk.store.unsettled("alarm", "INBOX", 9)] == ["uidl-2"]
    del scripted.answers["DELE 2"]
    await desk.look(source)
    assert scripted.mails == []
    assert await desk.store.unsettled("alarm", "INBOX", 9) == []


async def test_only_what_is_stored_is_deleted(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """A message that would not come stays on the server, and so does what came in between."""
    desk.settles = True
    fill(scripted, 1, 2, 3)
    scripted.answers["RETR 2"] = b"-ERR no\r\n"
    await desk.look(source_for(scripted, pool, after="delete"))
    assert [uidl for uidl, _ in scripted.mails] == ["uidl-2"]
    assert [line for line in scripted.lines if line.startswith("DELE")] == ["DELE 1", "DELE 3"]


async def test_a_backlog_is_settled_in_chunks(
    scripted: Scripted, pool: ThreadPoolExecutor, desk: Desk
) -> None:
    """Each chunk ends with a QUIT and the next one signs in again, until nothing is left."""
    desk.settles = True
    scripted.capabilities = ["PIPELINING"]
    fill(scripted, *range(1, 1102))
    await desk.look(source_for(scripted, pool, after="delete"))
    assert scripted.mails == []
    assert (scripted.connections, scripted.count("QUIT"), scripted.count("DELE")) == (3, 3, 1101)


# -- the sandbox's quirks -------------------------------------------------------------------------


@pytest.fixture
async def exchange() -> AsyncIterator[SandboxRig]:
    """Give the sandbox tenant."""
    async with Tenant.start() as tenant:
        yield SandboxRig(tenant, tenant.add_app())


QUIRKS: list[tuple[str, dict[str, Any]]] = [
    ("pop3.refuse", {}),
    ("pop3.connection_limit", {}),
    ("pop3.drop_mid_message", {"after": 120}),
    ("pop3.retr_error", {}),
    ("pop3.placeholder", {}),
    ("pop3.inexact_size", {}),
    ("pop3.quit_dropped", {}),
    ("pop3.quit_answer_lost", {}),
    ("pop3.throttled", {}),
    ("pop3.auth_failed", {}),
    ("pop3.pipelining", {}),
    ("pop3.new_front_end", {}),
    ("pop3.uidl_changed", {}),
]


@pytest.mark.parametrize(("kind", "about"), QUIRKS)
async def test_every_quirk_of_exchange_is_survived(
    exchange: SandboxRig,
    pool: ThreadPoolExecutor,
    desk: Desk,
    kind: str,
    about: dict[str, Any],
) -> None:
    """Whatever goes wrong once: in the end all mail is here, once, unchanged, and deleted."""
    desk.settles = True
    source = source_for(exchange, pool, after="delete")
    await desk.look(source)
    raws = [mail(number, received=datetime.now(UTC)) for number in range(1, 7)]
    for raw in raws:
        await exchange.deliver(raw)
    exchange.tenant.faults.add(kind, times=1, **about)
    for _ in range(4):
        try:
            await desk.look(source)
        except MailbridgeError:
            continue
    assert sorted(desk.raws) == sorted(raws)
    assert desk.doubled == 0
    assert await exchange.left() == []
    assert await desk.store.unsettled("alarm", "INBOX", 9) == []
