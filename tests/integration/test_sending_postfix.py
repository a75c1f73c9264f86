"""From the outbox to a real Postfix by XOAUTH2, and read back over IMAP from a real Dovecot."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailbridge.compose.draft import Draft, Handed, Origin, Written
from tests.servers.postfix import Postfix
from tests.servers.send_desk import Desk, config_of, desk
from tests.servers.tokens import Minter

API = Origin(via="api")


@pytest.fixture
async def sender(postfix: Postfix, minter: Minter, tmp_path: Path) -> AsyncIterator[Desk]:
    address = f"{uuid.uuid4().hex}@feuerwehr.example"
    async with desk(config_of(tmp_path, postfix, address), minter.mint_app) as made:
        yield made


def somebody() -> str:
    return f"{uuid.uuid4().hex}@wache.example"


async def read_back(postfix: Postfix, minter: Minter, address: str) -> bytes:
    """Return the one mail of a mailbox, over IMAP."""
    await asyncio.to_thread(postfix.wait_for, address)

    def fetch() -> bytes:
        with postfix.dovecot.login(address, minter.mint_app()) as client:
            client.select("INBOX", readonly=True)
            found = client.fetch("1", "(BODY.PEEK[])")[1][0]
        assert isinstance(found, tuple)
        return bytes(found[1])

    return await asyncio.to_thread(fetch)


async def test_a_composed_mail_arrives_byte_for_byte(
    postfix: Postfix, minter: Minter, sender: Desk
) -> None:
    """What was accepted is what is read, below the lines that servers put on top."""
    other = somebody()
    draft = Draft(
        sender=Written("alarm"),
        to=(Written(other, "Wächter"),),
        subject="Übung: Straße gesperrt",
        text=".\n..\n.anfang\nÄÖÜ\n",
        html="<p>Grüße</p>",
    )
    taken = await sender.outbox.send(draft, API)
    raw = await read_back(postfix, minter, other)
    row = await sender.store.sends.status(taken.id)
    assert row is not None
    assert hashlib.sha256(raw[-row.size :]).hexdigest() == row.sha256
    assert taken.message_id.encode() in raw
    assert row.state == "sent"


async def test_a_mail_handed_over_whole_arrives_as_it_was(
    postfix: Postfix, minter: Minter, sender: Desk
) -> None:
    """Dots, long lines of text and eight bits: nothing is changed on the way."""
    other = somebody()
    address = sender.address
    raw = (
        f"From: <{address}>\r\nTo: <{other}>\r\nSubject: whole\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        ".\r\n..\r\nGrüße\r\n" + "x" * 900 + "\r\n"
    ).encode()
    taken = await sender.outbox.hand_over(Handed(raw=raw), API)
    found = await read_back(postfix, minter, other)
    row = await sender.store.sends.status(taken.id)
    assert row is not None
    assert hashlib.sha256(found[-row.size :]).hexdigest() == row.sha256
    assert found.endswith(raw.partition(b"\r\n\r\n")[2])


async def test_a_server_that_was_away_gets_everything(
    postfix: Postfix, minter: Minter, sender: Desk
) -> None:
    """Mail accepted while the server is down goes out once it is back, each once."""
    others = [somebody() for _ in range(3)]
    await asyncio.to_thread(postfix.pause)
    for other in others:
        draft = Draft(sender=Written("alarm"), to=(Written(other),), subject="later", text="x")
        await sender.outbox.send(draft, API)
    async with asyncio.timeout(20):
        while not sender.sending.dispatcher.health.deferred:
            await asyncio.sleep(0.02)
    await asyncio.to_thread(postfix.resume)
    waiting = await sender.store.deliveries(sink="send:alarm")
    await sender.store.requeue(ids=[one.event_id for one in waiting])
    sender.sending.mended()
    await sender.until_empty()
    for other in others:
        assert len(await asyncio.to_thread(postfix.wait_for, other)) == 1
