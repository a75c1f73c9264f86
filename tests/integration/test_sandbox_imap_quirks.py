"""Exchange Online's own ways over IMAP, each of them on demand and in its own words."""

from __future__ import annotations

import asyncio
import imaplib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mailbridge.sandbox.fault_catalogue import CATALOGUE, STATES
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tenant import Tenant
from tests.conftest import Clock
from tests.servers.sandbox_client import (
    ADDRESS,
    MAIL,
    connect,
    credential,
    imaplib_session,
    signed_in,
    signing_key,
    token_of,
)

NOTICE = "Request is throttled. Suggested Backoff Time: 300 milliseconds"
CLOSED = "* BYE Connection closed. 14"
NOT_CONNECTED = "BAD User is authenticated but not connected."


@pytest.fixture
async def tenant() -> AsyncIterator[Tenant]:
    async with Tenant.start(key=signing_key()) as running:
        yield running


@pytest.fixture
def box(tenant: Tenant) -> Mailbox:
    app = tenant.add_app()
    mailbox = tenant.add_mailbox(ADDRESS)
    tenant.grant(app, mailbox)
    return mailbox


def sign_in(tenant: Tenant, tag: str = "L") -> str:
    return f"{tag} AUTHENTICATE XOAUTH2 {credential(token_of(tenant))}"


# --- throttling ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "hang_up", "lines"),
    [
        ("NO", False, [f"A NO {NOTICE}"]),
        ("BAD", False, [f"A BAD {NOTICE}"]),
        ("BAD", True, [f"A BAD {NOTICE}", CLOSED]),
        ("BYE", False, [f"* BYE {NOTICE}"]),
    ],
)
async def test_any_command_can_be_throttled_in_every_form(
    tenant: Tenant,
    box: Mailbox,
    form: str,
    hang_up: bool,  # noqa: FBT001 - a table
    lines: list[str],
) -> None:
    """NO, BAD, BAD with a BYE behind it, or the notice as the BYE itself."""
    tenant.faults.add("imap.throttled", times=1, milliseconds=300, form=form, hang_up=hang_up)
    async with connect(tenant) as raw:
        await raw.line()
        raw.send("A CAPABILITY")
        assert [await raw.line() for _ in lines] == lines
        raw.send("B LOGOUT")
        lasts = not (hang_up or form == "BYE")
        assert (b"B OK LOGOUT completed." in await raw.rest()) is lasts


async def test_append_and_search_are_throttled_with_no(tenant: Tenant, box: Mailbox) -> None:
    """Left to itself the throttle is NO to APPEND and SEARCH, and BAD to anything else."""
    async with signed_in(tenant) as raw:
        tenant.faults.add("imap.throttled", milliseconds=300)
        raw.send("A APPEND INBOX {1+}\r\nx")
        assert await raw.line() == f"A NO {NOTICE}"
        assert await raw.do("B UID SEARCH ALL") == [f"B NO {NOTICE}"]
        assert await raw.do("C SEARCH ALL") == [f"C NO {NOTICE}"]
        assert await raw.do("D SELECT INBOX") == [f"D BAD {NOTICE}"]
    assert len(box.folder()) == 0


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        (None, [f"* BYE {NOTICE}"]),
        ("NO", [f"* NO {NOTICE}", CLOSED]),
        ("BAD", [f"* BAD {NOTICE}", CLOSED]),
    ],
)
async def test_the_greeting_can_be_a_throttle(
    tenant: Tenant, box: Mailbox, form: str | None, lines: list[str]
) -> None:
    """Before anything else is said."""
    options = {} if form is None else {"form": form}
    tenant.faults.add("imap.throttled_greeting", times=1, milliseconds=300, **options)
    async with connect(tenant) as raw:
        assert (await raw.rest()).decode().splitlines() == lines
    async with connect(tenant) as raw:
        assert (await raw.line()).startswith("* OK ")


@pytest.mark.parametrize(
    ("form", "answer"),
    [("NO", f"L NO {NOTICE}"), ("BAD", f"L BAD {NOTICE}"), ("BYE", f"* BYE {NOTICE}")],
)
async def test_a_sign_in_can_be_throttled(
    tenant: Tenant, box: Mailbox, form: str, answer: str
) -> None:
    """The credential is answered with the notice, and nobody is signed in."""
    tenant.faults.add(
        "imap.throttled_sign_in", times=1, milliseconds=300, form=form, mailbox=ADDRESS
    )
    async with connect(tenant) as raw:
        await raw.line()
        raw.send(sign_in(tenant))
        assert await raw.line() == answer
        if form != "BYE":
            assert (await raw.do(sign_in(tenant, "M")))[-1] == "M OK AUTHENTICATE completed."
    assert tenant.imap.logins == (0 if form == "BYE" else 1)


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        ("NO", [f"* NO {NOTICE}", CLOSED]),
        ("BAD", [f"* BAD {NOTICE}", CLOSED]),
        ("BYE", [f"* BYE {NOTICE}"]),
    ],
)
async def test_a_throttle_can_follow_the_ok(
    tenant: Tenant, box: Mailbox, form: str, lines: list[str]
) -> None:
    """Sign-in succeeds and is taken back in the same breath."""
    tenant.faults.add("imap.throttled_after_ok", times=1, milliseconds=300, form=form)
    async with connect(tenant) as raw:
        await raw.line()
        raw.send(sign_in(tenant))
        answer = (await raw.rest()).decode().splitlines()
    assert answer == ["L OK AUTHENTICATE completed.", *lines]


# --- goodbyes and states -------------------------------------------------------------------------


async def test_the_reason_can_stand_one_line_before_the_bye(tenant: Tenant, box: Mailbox) -> None:
    """The BYE says only 14; who drops the untagged line before it never learns why."""
    tenant.faults.add("imap.reason_before_bye", times=1, command="SELECT")
    async with signed_in(tenant, select=False) as raw:
        raw.send("A SELECT INBOX")
        assert (await raw.rest()).decode().splitlines() == [f"* {NOT_CONNECTED}", CLOSED]

    def run(client: imaplib.IMAP4) -> Any:
        return client.noop()

    tenant.faults.add("imap.reason_before_bye", times=1, command="NOOP", text="OK [ALERT] Moved.")
    with pytest.raises(imaplib.IMAP4.abort):
        await imaplib_session(tenant, run)


async def test_fast_reconnects_are_not_connected(clock: Clock) -> None:
    """More sign-ins than allowed in a while say OK and open nothing, until time has passed."""
    async with Tenant.start(key=signing_key(), now=clock) as tenant:
        boxes = [tenant.add_mailbox(ADDRESS), tenant.add_mailbox("other@feuerwehr.example")]
        tenant.grant(tenant.add_app(), *boxes)
        tenant.faults.add("imap.fast_reconnects", logins=2, seconds=60)

        async def select(address: str = ADDRESS) -> str:
            async with connect(tenant) as raw:
                await raw.line()
                blob = credential(token_of(tenant), address)
                answer = await raw.do(f"L AUTHENTICATE XOAUTH2 {blob}")
                assert answer == ["L OK AUTHENTICATE completed."]
                return (await raw.do("A EXAMINE INBOX"))[-1]

        opened = "A OK [READ-ONLY] EXAMINE completed."
        assert [await select() for _ in range(3)] == [opened, opened, f"A {NOT_CONNECTED}"]
        assert await select("other@feuerwehr.example") == opened
        clock.advance(61)
        assert await select() == opened


async def test_a_restarted_server_has_the_mail_on_the_same_port(
    tenant: Tenant, box: Mailbox
) -> None:
    """Sessions are cut, nobody answers for a while, then port, mail and UIDs are as before."""
    box.deliver(MAIL)
    port = tenant.imap.port
    async with signed_in(tenant) as raw:
        await tenant.imap.stop()
        assert await raw.rest() == b""
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)
    box.deliver(MAIL)
    await tenant.imap.restart()
    assert tenant.imap.port == port
    async with signed_in(tenant) as raw:
        assert (await raw.do("A UID SEARCH ALL"))[0] == "* SEARCH 1 2"
        await tenant.imap.restart()
        assert await raw.rest() == b""


# --- UIDVALIDITY ---------------------------------------------------------------------------------


async def test_uidvalidity_can_change_between_sessions_and_in_one(
    tenant: Tenant, box: Mailbox
) -> None:
    """At SELECT the numbers are new; amid a session the connection is cut."""
    for _ in range(3):
        box.deliver(MAIL)
    before = box.folder().uidvalidity
    tenant.faults.add("imap.uidvalidity_changed", times=1, command="SELECT", first_uid=11)
    async with signed_in(tenant, select=False) as raw:
        lines = await raw.do("A SELECT INBOX")
        assert f"* OK [UIDVALIDITY {before + 1}] UIDVALIDITY value" in lines
        assert (await raw.do("B UID SEARCH ALL"))[0] == "* SEARCH 11 12 13"
        tenant.faults.add("imap.uidvalidity_changed", times=1, folder="INBOX")
        raw.send("C UID FETCH 12 (BODY.PEEK[])")
        assert (await raw.rest()).endswith(f"{CLOSED}\r\n".encode())
    assert box.folder().uidvalidity == before + 2


async def test_uidvalidity_can_change_behind_the_back_of_a_session(
    tenant: Tenant, box: Mailbox
) -> None:
    """An uncut session gets nothing under its numbers, and learns why only at the next SELECT."""
    box.deliver(MAIL)
    before = box.folder().uidvalidity
    async with signed_in(tenant) as raw:
        tenant.faults.add("imap.uidvalidity_changed", times=1, cut=False, first_uid=7)
        assert await raw.do("A UID FETCH 1 (BODY.PEEK[])") == ["A OK FETCH completed."]
        assert f"* OK [UIDVALIDITY {before + 1}] UIDVALIDITY value" in await raw.do(
            "B SELECT INBOX"
        )
        assert (await raw.do("C UID SEARCH ALL"))[0] == "* SEARCH 7"


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "sent", "trash"),
    [
        ("en", "Sent Items", "Deleted Items"),
        ("de", "Gesendete Elemente", "Gel&APY-schte Elemente"),
        ("fr", "&AMk-l&AOk-ments envoy&AOk-s", "&AMk-l&AOk-ments supprim&AOk-s"),
    ],
)
async def test_default_folders_are_named_in_the_mailbox_language(
    tenant: Tenant, language: str, sent: str, trash: str
) -> None:
    """Special uses are told unasked and unadvertised; asking for them is an error."""
    tenant.grant(tenant.add_app(), tenant.add_mailbox(ADDRESS, language=language))
    async with signed_in(tenant, select=False) as raw:
        assert "SPECIAL-USE" not in (await raw.do("A CAPABILITY"))[0]
        lines = await raw.do('B LIST "" "*"')
        assert f'* LIST (\\HasNoChildren \\Sent) "/" "{sent}"' in lines
        assert f'* LIST (\\HasNoChildren \\Trash) "/" "{trash}"' in lines
        asked = await raw.do('C LIST "" "*" RETURN (SPECIAL-USE)')
        assert asked == ["C BAD Command Argument Error. 12"]
        tenant.faults.add("imap.no_special_use")
        lines = await raw.do('D LIST "" "*"')
        assert f'* LIST (\\HasNoChildren) "/" "{sent}"' in lines


async def test_folders_are_listed_that_hold_no_mail(tenant: Tenant, box: Mailbox) -> None:
    """Calendar and the like can be opened, the pseudo folder Files cannot, INBOX may be Inbox."""
    tenant.faults.add("imap.files_folder")
    tenant.faults.add("imap.inbox_in_mixed_case")
    async with signed_in(tenant, select=False) as raw:
        lines = await raw.do('A LIST "" "*"')
        assert '* LIST (\\HasNoChildren) "/" Files' in lines
        assert '* LIST (\\Marked \\HasNoChildren) "/" Inbox' in lines
        assert '* LIST (\\HasNoChildren) "/" Calendar' in lines
        assert await raw.do("B SELECT Files") == ["B NO Files doesn't exist."]
        assert (await raw.do("C SELECT Calendar"))[-1].startswith("C OK")
        assert (await raw.do("D SELECT Inbox"))[-1].startswith("D OK")


# --- what Exchange does not know -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("UID FETCH 1 (UID MODSEQ)", "BAD Command Argument Error. 11"),
        ("UID FETCH 1 (EMAILID)", "BAD Command Argument Error. 11"),
        ("UID FETCH 1 (BINARY.PEEK[])", "BAD Command Argument Error. 11"),
        ("UID FETCH 1 (PREVIEW)", "BAD Command Argument Error. 11"),
        ("FETCH 1 ()", "BAD Command Argument Error. 11"),
        ("UID FETCH 1 (FLAGS) (CHANGEDSINCE 1)", "BAD Command Argument Error. 11"),
        ("SELECT INBOX (CONDSTORE)", "BAD Command Argument Error. 12"),
        (f"UID FETCH {'1,' * 5200}1 (FLAGS)", "BAD Command Error. 10"),
        (
            "UID SEARCH CHARSET UTF-8 ALL",
            "NO [BADCHARSET (US-ASCII)] The specified charset is not supported.",
        ),
        ("ENABLE CONDSTORE", "BAD Command Error. 10"),
        ("SORT (ARRIVAL) US-ASCII ALL", "BAD Command Error. 10"),
        ("GETQUOTAROOT INBOX", "BAD Command Error. 10"),
    ],
)
async def test_what_is_not_rev1_is_refused(
    tenant: Tenant, box: Mailbox, command: str, answer: str
) -> None:
    """Each extension that Exchange lacks has its own error, and the session goes on."""
    box.deliver(MAIL)
    async with signed_in(tenant) as raw:
        assert await raw.do(f"A {command}") == [f"A {answer}"]
        assert (await raw.do("B NOOP"))[-1] == "B OK NOOP completed."


async def test_custom_keywords_are_ignored(tenant: Tenant, box: Mailbox) -> None:
    """STORE says OK and stores nothing but what Exchange has; $MDNSent is the only keyword."""
    box.deliver(MAIL)
    async with signed_in(tenant) as raw:
        answer = await raw.do("A UID STORE 1 +FLAGS (Processed $MDNSent)")
        assert answer == ["* 1 FETCH (FLAGS ($MDNSent) UID 1)", "A OK STORE completed."]
        assert (await raw.do("B UID SEARCH KEYWORD Processed"))[0] == "* SEARCH"
        assert (await raw.do("C UID SEARCH KEYWORD $MDNSent"))[0] == "* SEARCH 1"


@pytest.mark.parametrize("delta", [-9, 9])
async def test_literals_can_be_announced_too_short_or_too_long(
    tenant: Tenant, box: Mailbox, delta: int
) -> None:
    """The bytes are all there; only their number lies, and the rest of the line moves with it."""
    box.deliver(MAIL)
    tenant.faults.add("imap.broken_literal_size", delta=delta, times=1)
    async with signed_in(tenant) as raw:
        raw.send("A UID FETCH 1 (BODY.PEEK[])")
        assert await raw.line() == f"* 1 FETCH (BODY[] {{{len(MAIL) + delta}}}"
        whole = MAIL + b" UID 1)\r\nA OK FETCH completed.\r\n"
        assert await raw.reader.readexactly(len(whole)) == whole


async def test_garbage_can_follow_a_literal(tenant: Tenant, box: Mailbox) -> None:
    """Bytes that belong to nothing stand between a literal and the rest of its answer."""
    box.deliver(MAIL)
    tenant.faults.add("imap.literal_garbage", times=1, uid=1, garbage=b"\r\n?? ")
    async with signed_in(tenant) as raw:
        raw.send("A UID FETCH 1 (BODY.PEEK[])")
        await raw.line()
        whole = MAIL + b"\r\n??  UID 1)\r\nA OK FETCH completed.\r\n"
        assert await raw.reader.readexactly(len(whole)) == whole


def test_the_catalogue_names_its_states() -> None:
    """Everything that lasts rather than strikes is in the catalogue, too."""
    assert set(CATALOGUE) > STATES
