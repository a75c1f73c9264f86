"""Whether a mail lies in the sent items is told alike by every server, and nothing is changed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from mailbridge.errors import MailbridgeError
from mailbridge.model import AccessToken
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sources.imap_sent import MOST, SentItems
from tests.contract.imap_rigs import Rig, SandboxRig

ID = "out_abcdefghijklmnopqrstuvwxyz"


@dataclass
class Sent:
    """The sent items of a rig's mailbox."""

    rig: Rig
    folder: str
    refreshed: int = 0

    @property
    def items(self) -> SentItems:
        return SentItems(
            addresses=(self.rig.address, self.rig.address),
            server=self.rig.server,
            token=self.rig.token,
            refresh=self._refresh,
            run=asyncio.to_thread,
        )

    async def _refresh(self, _: AccessToken) -> AccessToken:
        self.refreshed += 1
        return await self.rig.token()

    async def put(self, message_id: str, *, ours: str = "", body: str = "x") -> None:
        mark = f"X-Mailbridge-Id: {ours}\r\n" if ours else ""
        await self.rig.deliver(
            f"From: a@b.example\r\nMessage-ID: <{message_id}>\r\n{mark}\r\n{body}\r\n".encode(),
            folder=self.folder,
        )


@pytest.fixture
async def sent(rig: Rig) -> Sent:
    """Give the sent items, empty; on servers without such a folder it is created."""
    if isinstance(rig, SandboxRig):
        return Sent(rig, next(f.name for f in rig.box.folders.values() if f.special == "\\Sent"))
    await rig.create("Sent")
    return Sent(rig, "Sent")


async def test_a_copy_is_found_by_its_message_id(sent: Sent) -> None:
    """With brackets or without, among others; what only looks like it is none."""
    await sent.put("wanted@x.example")
    await sent.put("un-wanted@x.example")
    await sent.put("wanted@x.example.org")
    assert await sent.items.copies("<wanted@x.example>", ID) == 1
    assert await sent.items.copies("wanted@x.example", ID) == 1
    assert await sent.items.copies("<other@x.example>", ID) == 0


async def test_every_copy_counts(sent: Sent) -> None:
    """A mail that was submitted twice has two."""
    await sent.put("wanted@x.example", ours=ID)
    await sent.put("wanted@x.example", ours=ID)
    assert await sent.items.copies("<wanted@x.example>", ID) == 2


async def test_a_copy_with_another_message_id_is_found_by_ours(sent: Sent) -> None:
    """A server that changes the Message-ID of the copy leaves our own header."""
    await sent.put("rewritten@server.example", ours=ID)
    assert await sent.items.copies("<wanted@x.example>", ID) == 1


async def test_it_is_found_behind_many_others(sent: Sent) -> None:
    """However many were sent since, the search finds it."""
    await sent.put("wanted@x.example")
    for number in range(MOST + 5):
        await sent.put(f"{number}@x.example")
    assert await sent.items.copies("<wanted@x.example>", ID) == 1


async def test_nothing_is_changed_by_a_look(sent: Sent) -> None:
    """The folder is opened read-only: the copy is as unread as before."""
    await sent.put("wanted@x.example")
    before = await sent.rig.look(sent.folder)
    await sent.items.copies("<wanted@x.example>", ID)
    assert await sent.rig.look(sent.folder) == before


async def test_an_empty_folder_holds_nothing(sent: Sent) -> None:
    """No copy, no error."""
    assert await sent.items.copies("<wanted@x.example>", ID) == 0


async def test_a_mailbox_that_cannot_be_read_is_no_answer(rig: Rig) -> None:
    """Nobody can tell: it raises, instead of saying that there is nothing."""
    refused = AccessToken(value="nonsense", expires_at=(await rig.token()).expires_at)

    async def token() -> AccessToken:
        return refused

    async def refresh(_: AccessToken) -> AccessToken:
        return refused

    items = SentItems(
        addresses=(rig.address,),
        server=rig.server,
        token=token,
        refresh=refresh,
        run=asyncio.to_thread,
    )
    with pytest.raises(MailbridgeError):
        await items.copies("<wanted@x.example>", ID)


async def test_exchange_in_german(key: SigningKey) -> None:
    """The role is found whatever the folder is called."""
    async with Tenant.start(key=key) as tenant:
        rig = SandboxRig(tenant, tenant.add_app())
        box = tenant.add_mailbox("wache@feuerwehr.example", language="de")
        tenant.grant(rig.app, box)
        rig.box, rig.address = box, box.address
        folder = next(f.name for f in box.folders.values() if f.special == "\\Sent")
        assert folder == "Gesendete Elemente"
        found = Sent(rig, folder)
        await found.put("wanted@x.example")
        assert await found.items.copies("<wanted@x.example>", ID) == 1


async def test_an_index_that_lags_hides_nothing(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a search does not find yet is seen among the newest."""
    await sent.put("wanted@x.example")
    monkeypatch.setattr("mailbridge.sources.imap_sent._found", lambda *_: ())
    assert await sent.items.copies("<wanted@x.example>", ID) == 1
