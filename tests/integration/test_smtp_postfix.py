"""Submission at a real Postfix, which asks a real Dovecot about the token."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from mailbridge.errors import SignInRejected
from mailbridge.sinks.smtp_message import Envelope, wire_form
from mailbridge.sinks.smtp_wire import SmtpServer
from tests.servers.postfix import Postfix
from tests.servers.smtp_desk import Desk, nothing
from tests.servers.tokens import Minter


@pytest.fixture
def desk(postfix: Postfix, minter: Minter) -> Desk:
    return Desk(
        server=SmtpServer(host=postfix.host, port=postfix.port, ca=postfix.ca_file),
        address=f"{uuid.uuid4().hex}@feuerwehr.example",
        mint=minter.mint_app,
    )


def somebody() -> str:
    return f"{uuid.uuid4().hex}@wache.example"


def mail(desk: Desk, body: bytes = b"Hello\r\n") -> bytes:
    return (
        f"From: <{desk.address}>\r\nTo: <a@wache.example>\r\nSubject: Test\r\n"
        f"Message-ID: <{uuid.uuid4()}@feuerwehr.example>\r\n"
        "Date: Sat, 21 Nov 2026 12:00:00 +0000\r\n\r\n"
    ).encode() + body


async def arrived(postfix: Postfix, address: str, count: int = 1) -> list[bytes]:
    return await asyncio.to_thread(postfix.wait_for, address, count)


async def test_what_was_sent_is_read_byte_for_byte(postfix: Postfix, desk: Desk) -> None:
    """Dots, long texts and eight bits arrive as they were, below what Postfix adds on top."""
    other = somebody()
    raw = mail(desk, b".\r\n..\r\n.a\r\n\r\n" + "Grüße\r\n".encode() + b"x" * 900 + b"\r\n" * 3)
    done = await desk.submit(raw, other)
    assert done.taken == (other,)
    [found] = await arrived(postfix, other)
    assert found.replace(b"\n", b"\r\n").endswith(raw)


async def test_a_long_token_signs_in(postfix: Postfix, desk: Desk, minter: Minter) -> None:
    """On the AUTH line Postfix would cut it at 2,048 bytes and call it bad base64."""
    desk.mint = lambda: minter.mint_app(xms_pad="x" * 3500)
    other = somebody()
    assert (await desk.submit(mail(desk), other)).taken == (other,)


async def test_a_token_that_has_ended_is_replaced(
    postfix: Postfix, desk: Desk, minter: Minter
) -> None:
    """Dovecot's no, with its challenge, leads to one refresh and to the mail."""
    desk.first = minter.mint_app(ttl=-60)
    other = somebody()
    assert (await desk.submit(mail(desk), other)).taken == (other,)
    assert desk.refreshed == 1
    desk.mint = lambda: minter.mint_app(ttl=-60)
    with pytest.raises(SignInRejected) as refused:
        await desk.submit(mail(desk), other)
    assert refused.value.code == "smtp.authenticate_failed"


async def test_each_recipient_has_an_answer_of_its_own(postfix: Postfix, desk: Desk) -> None:
    """Refused ones are told apart by what to do; the others have the mail."""
    other = somebody()
    given = ("reject@wache.example", "defer@wache.example", "busy@wache.example", other)
    done = await desk.submit(mail(desk), *given)
    assert done.taken == (other,)
    found = {name.partition("@")[0]: (one.weight, one.code) for name, one in done.refused.items()}
    assert found == {
        "reject": ("rejected", "smtp.recipient_unknown"),
        "defer": ("deferred", "smtp.temporary"),
        "busy": ("deferred", "smtp.too_many_connections"),
    }
    await arrived(postfix, other)


async def test_somebody_elses_address_is_refused(postfix: Postfix, desk: Desk) -> None:
    """Postfix says at RCPT what Exchange says at MAIL: not owned by this account."""
    other = somebody()
    done = await desk.submit(mail(desk), other, sender="somebody.else@feuerwehr.example")
    assert [one.code for one in done.refused.values()] == ["smtp.send_as_denied"]


async def test_what_is_too_large_is_not_even_begun(postfix: Postfix, desk: Desk) -> None:
    """The announced size is obeyed, and up to it everything is taken."""
    other = somebody()
    large = mail(desk, b"0123456789abcdef\r\n" * 2_100_000)
    done = await desk.submit(large, other)
    assert [one.code for one in done.refused.values()] == ["smtp.too_large"]
    fits = mail(desk, b"0123456789abcdef\r\n" * 100_000)
    assert (await desk.submit(fits, other)).taken == (other,)


@pytest.mark.parametrize("end", [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n"])
async def test_nothing_is_smuggled_through_postfix(
    postfix: Postfix, desk: Desk, end: bytes
) -> None:
    """A bare CR or LF around a dot arrives as one mail, with the rest as its text."""
    other, evil = somebody(), somebody()
    inner = f"MAIL FROM:<{desk.address}>\r\nRCPT TO:<{evil}>\r\nDATA\r\nSubject: evil\r\n\r\n"
    await desk.submit(mail(desk, b"before" + end + inner.encode() + end), other)
    [found] = await arrived(postfix, other)
    assert b"Subject: evil" in found
    assert postfix.read(evil) == []


async def test_many_mails_go_over_one_connection(postfix: Postfix, desk: Desk) -> None:
    """A connection is used again and again; each mail arrives once."""
    other = somebody()
    async with desk.session() as session:
        for _ in range(50):
            envelope = Envelope(sender=desk.address, recipients=(other,))
            done = await session.submit(envelope, wire_form(mail(desk)), before_dot=nothing)
            assert done.taken == (other,)
        assert session.submitted == 50
    assert len(await arrived(postfix, other, 50)) == 50
