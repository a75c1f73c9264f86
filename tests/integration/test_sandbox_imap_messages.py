"""The sandbox's IMAP server: search, fetch, store, move, append."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import imapclient
import pytest

from mailbridge.sandbox.alarms import alarm_mails
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tenant import Tenant
from tests.servers.sandbox_client import (
    ADDRESS,
    MAIL,
    imap,
    signed_in,
    signing_key,
)


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


async def test_fetch_gives_exactly_the_bytes_that_were_delivered(
    tenant: Tenant, box: Mailbox
) -> None:
    """Any bytes, NULs, bare line ends and nothing at all included, come back unchanged."""
    mails = [MAIL, b"", b"\x00\xff\r\n\r\n{5}\r\n", b"no header\n\nbare\nlf", b"x" * 300_000]
    received = datetime(2026, 11, 21, 10, 0, 12, tzinfo=UTC)
    for mail in mails:
        box.deliver(mail, received_at=received)

    def work(client: imapclient.IMAPClient) -> dict[int, dict[bytes, Any]]:
        client.normalise_times = False
        client.select_folder("INBOX")
        found: dict[int, dict[bytes, Any]] = client.fetch(
            client.search("ALL"), ["BODY.PEEK[]", "RFC822.SIZE", "INTERNALDATE", "FLAGS"]
        )
        return found

    found = await imap(tenant, work)
    assert [found[uid][b"BODY[]"] for uid in sorted(found)] == mails
    assert [found[uid][b"RFC822.SIZE"] for uid in sorted(found)] == [len(m) for m in mails]
    assert {item[b"INTERNALDATE"] for item in found.values()} == {received}
    assert all(item[b"FLAGS"] == () for item in found.values())
    assert box.folder().flags(1) == set()


async def test_fetch_knows_sections_partials_and_seen(tenant: Tenant, box: Mailbox) -> None:
    """Headers, single fields, text, ranges; and BODY[] marks as seen where a peek does not."""
    box.deliver(b"From: A <a@b.example>\r\nTo: c@d.example\r\nSubject: x\r\n y\r\n\r\nhello\r\n")
    async with signed_in(tenant) as raw:
        assert await raw.do("A UID FETCH 1 (BODY.PEEK[HEADER.FIELDS (SUBJECT TO)])") == [
            "* 1 FETCH (BODY[HEADER.FIELDS (SUBJECT TO)] {35}",
            "To: c@d.example",
            "Subject: x",
            " y",
            "",
            " UID 1)",
            "A OK FETCH completed.",
        ]
        assert (await raw.do("B FETCH 1 BODY.PEEK[TEXT]<1.3>"))[:2] == [
            "* 1 FETCH (BODY[TEXT]<1> {3}",
            "ell)",
        ]
        assert (await raw.do("C FETCH 1 (UID FLAGS)"))[0] == "* 1 FETCH (UID 1 FLAGS ())"
        assert "FLAGS (\\Seen)" in (await raw.do("D FETCH 1 BODY[HEADER]"))[-2]
        assert (await raw.do("E FETCH 1 ENVELOPE"))[0] == (
            '* 1 FETCH (ENVELOPE (NIL "x y" (("A" NIL "a" "b.example")) '
            '(("A" NIL "a" "b.example")) (("A" NIL "a" "b.example")) ((NIL NIL "c" "d.example")) '
            "NIL NIL NIL NIL))"
        )
        assert await raw.do("F UID FETCH 99 (FLAGS)") == ["F OK FETCH completed."]
        assert await raw.do("G FETCH 1 ()") == ["G BAD Command Argument Error. 11"]
        assert await raw.do("H FETCH 1 MODSEQ") == ["H BAD Command Argument Error. 11"]


#: search keys and the UIDs that they find among the three mails of the test
SEARCHES = {
    "ALL": [1, 3, 4],
    "UNSEEN": [3, 4],
    "SEEN": [1],
    "NOT DELETED": [1, 3],
    "SINCE 21-Nov-2026": [3, 4],
    "BEFORE 21-Nov-2026": [1],
    "ON 21-Nov-2026": [4],
    'SUBJECT "alarm"': [1, 3],
    'SUBJECT "THL folded"': [4],
    'FROM "x.example"': [4],
    'HEADER X-Prio ""': [4],
    "BODY brand": [1, 3],
    "LARGER 400": [3],
    "OR FLAGGED DELETED": [3, 4],
    "(OR SEEN FLAGGED) NOT UID 1": [3],
    "UID 3:*": [3, 4],
    "UID 90:*": [4],
    "2:3": [3, 4],
    "KEYWORD $MDNSent": [],
    "KEYWORD Processed": [],
    "UNKEYWORD Processed": [1, 3, 4],
    "NEW": [],
    "CHARSET US-ASCII UNDELETED": [1, 3],
}


async def test_search_finds_by_every_kind_of_key(tenant: Tenant, box: Mailbox) -> None:
    """Flags, dates, headers (encoded ones too), sets, sizes and their combinations work."""
    day = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
    box.deliver(MAIL, received_at=day, flags=["\\Seen"])
    box.folder().remove(box.deliver(MAIL))
    box.deliver(MAIL + b"y" * 500, received_at=day + timedelta(days=2), flags=["\\Flagged"])
    box.deliver(
        b"From: b@x.example\r\nSubject: =?us-ascii?q?THL?=\r\n folded\r\nX-Prio: 1\r\n\r\nTest\r\n",
        received_at=day + timedelta(days=1),
        flags=["\\Deleted"],
    )
    async with signed_in(tenant) as raw:
        found = {}
        for key in SEARCHES:
            line = (await raw.do(f"A UID SEARCH {key}"))[0]
            found[key] = [int(word) for word in line.split()[2:]]
        assert found == SEARCHES
        assert (await raw.do("B SEARCH UNSEEN"))[0] == "* SEARCH 2 3"
        assert (await raw.do("C UID SEARCH CHARSET UTF-8 SUBJECT x"))[0].startswith(
            "C NO [BADCHARSET (US-ASCII)]"
        )
        assert await raw.do("D UID SEARCH FROBNICATE") == ["D BAD Command Argument Error. 11"]
        assert await raw.do("E UID SEARCH") == ["E BAD Command Argument Error. 11"]


async def test_store_knows_exchanges_flags_and_no_others(tenant: Tenant, box: Mailbox) -> None:
    """Flags are added, removed, replaced; a custom keyword is ignored without an error."""
    box.deliver(MAIL)
    box.deliver(MAIL)
    async with signed_in(tenant) as raw:
        assert await raw.do("A UID STORE 2 +FLAGS (\\seen Processed)") == [
            "* 2 FETCH (FLAGS (\\Seen) UID 2)",
            "A OK STORE completed.",
        ]
        assert await raw.do("B STORE 1:2 +FLAGS.SILENT (\\Flagged)") == ["B OK STORE completed."]
        assert (await raw.do("C UID STORE 1:* -FLAGS (\\Flagged)"))[:2] == [
            "* 1 FETCH (FLAGS () UID 1)",
            "* 2 FETCH (FLAGS (\\Seen) UID 2)",
        ]
        await raw.do("D UID STORE 2 FLAGS (\\Deleted)")
        assert await raw.do("E UID STORE 77 +FLAGS (\\Seen)") == ["E OK STORE completed."]
        assert await raw.do("F UID EXPUNGE 1") == ["F OK EXPUNGE completed."]
        assert await raw.do("G UID EXPUNGE 2") == [
            "* 2 EXPUNGE",
            "* 1 EXISTS",
            "G OK EXPUNGE completed.",
        ]
    assert box.folder().uids == [1]
    assert box.folder().flags(1) == set()


async def test_move_and_copy_tell_the_new_uids(tenant: Tenant, box: Mailbox) -> None:
    """MOVE sends COPYUID untagged and first, then EXPUNGE and EXISTS, as recorded."""
    for _ in range(4):
        box.deliver(MAIL)
    archive = box.folder("Archive")
    async with signed_in(tenant) as raw:
        assert await raw.do('A UID MOVE 1:2,4 "Archive"') == [
            f"* OK [COPYUID {archive.uidvalidity} 1:2,4 1:3]",
            "* 4 EXPUNGE",
            "* 2 EXPUNGE",
            "* 1 EXPUNGE",
            "* 1 EXISTS",
            "A OK MOVE completed.",
        ]
        assert await raw.do("B UID COPY 3 Archive") == [
            f"B OK [COPYUID {archive.uidvalidity} 3 4] COPY completed."
        ]
        assert await raw.do("C UID MOVE 99 Archive") == ["C OK MOVE completed."]
        assert (await raw.do("D UID MOVE 3 Nowhere"))[0].startswith("D NO [TRYCREATE]")
    assert box.folder().uids == [3]
    assert [message.raw for message in archive] == [MAIL] * 4


async def test_append_takes_both_kinds_of_literals(tenant: Tenant, box: Mailbox) -> None:
    """A literal is asked for, or comes unasked with a plus; date and flags are kept."""
    async with signed_in(tenant) as raw:
        raw.send('A APPEND INBOX (\\Seen) "21-Nov-2026 11:00:12 +0100" {5}')
        assert (await raw.line()).startswith("+ ")
        raw.send("hello")
        validity = box.folder().uidvalidity
        assert await raw.until("A ") == [
            "* 1 EXISTS",
            f"A OK [APPENDUID {validity} 1] APPEND completed.",
        ]
        raw.send("B APPEND INBOX {3+}\r\nabc")
        assert (await raw.until("B "))[-1].startswith(f"B OK [APPENDUID {validity} 2]")
        raw.send("C APPEND Nowhere {1+}\r\nx")
        assert (await raw.until("C "))[-1].startswith("C NO [TRYCREATE]")
    message = box.folder().messages[1]
    assert (message.raw, message.flags) == (b"hello", {"\\Seen"})
    assert message.received_at == datetime(2026, 11, 21, 10, 0, 12, tzinfo=UTC)


async def test_an_overlong_command_line_is_refused_and_the_session_goes_on(
    tenant: Tenant, box: Mailbox
) -> None:
    """A UID set beyond 10,240 bytes gets the error that users of large folders report."""
    async with signed_in(tenant) as raw:
        numbers = ",".join(str(uid) for uid in range(10_000, 18_000))
        assert await raw.do(f"A UID FETCH {numbers} (FLAGS)") == ["A BAD Command Error. 10"]
        assert await raw.do(f"B UID FETCH {'9' * 200_000}") == ["B BAD Command Error. 10"]
        assert await raw.do("C NOOP") == ["C OK NOOP completed."]


async def test_imapclient_reads_a_thousand_alarm_mails(
    tenant: Tenant, box: Mailbox, rng: Any
) -> None:
    """The whole way of a client: search, fetch in batches, settle by move, idle, log out."""
    mails = alarm_mails(1000, rng, at=datetime(2026, 11, 21, tzinfo=UTC))
    for mail in mails:
        box.deliver(mail)

    def work(client: imapclient.IMAPClient) -> list[bytes]:
        client.select_folder("INBOX")
        uids = client.search(["UID", "1:*", "UNDELETED"])
        raws: list[bytes] = []
        for start in range(0, len(uids), 200):
            batch = uids[start : start + 200]
            found = client.fetch(batch, ["BODY.PEEK[]"])
            raws += [found[uid][b"BODY[]"] for uid in batch]
        client.move(uids[:500], "Archive")
        client.idle()
        client.idle_done()
        return raws

    assert await imap(tenant, work) == mails
    assert (len(box.folder()), len(box.folder("Archive"))) == (500, 500)
    names = [entry.name for entry in tenant.imap.commands]
    assert names.count("UID FETCH") == 5
    assert names[-1] == "LOGOUT"
