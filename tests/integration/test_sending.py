"""Mail that was accepted goes out once, or people are told; whatever the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers.post_office import OTHER, PATIENCE, PostOffice, post_office


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostOffice]:
    """Give an installation whose looks follow each other within a second."""
    looks = (0.2, 0.5, 0.8)
    monkeypatch.setattr("mailbridge.sinks.smtp_doubt.LOOKS", looks)
    monkeypatch.setattr("mailbridge.sinks.smtp.LOOKS", looks)
    async with post_office(tmp_path) as made:
        yield made


async def test_an_accepted_mail_goes_out_and_is_told(office: PostOffice) -> None:
    """It reaches the server once, the status counts it, and webhooks hear that it was sent."""
    async with office.open():
        name = await office.post()
        await office.until(name, "sent")
        data = await office.event("send.sent", name)
        row = await office.row_when(lambda row: row["last_sent"])
    assert office.copies(name) == 1
    assert data["recipients"][0]["address"] == OTHER
    assert row["state"] == "ok"
    assert row["remaining"] == {"messages": 29, "recipients": 9999}
    assert (row["waiting"], row["in_doubt"], row["held"], row["failed"]) == (0, 0, 0, 0)


async def test_a_lost_answer_is_found_in_the_sent_items(office: PostOffice) -> None:
    """The server took it and nobody heard: the copy says so, and it is not sent again."""
    office.tenant.faults.add("smtp.answer_lost", times=1)
    async with office.open():
        name = await office.post()
        await office.until(name, "sent")
    assert office.copies(name) == 1


async def test_a_mail_that_was_not_taken_is_sent_again(office: PostOffice) -> None:
    """The server had all but did not take it: it is not found, and goes out after the looks."""
    office.tenant.faults.add("smtp.drop_after_dot", times=1)
    async with office.open():
        name = await office.post()
        await office.row_when(lambda row: row["in_doubt"])
        await office.until(name, "sent")
    assert office.copies(name) == 1


async def test_a_person_decides_where_that_is_configured(office: PostOffice) -> None:
    """With `in_doubt: hold` it is held after the looks, told, and goes out when released."""
    text = office.config.read_text()
    office.config.write_text(text.replace("    send:\n", "    send:\n      in_doubt: hold\n"))
    office.tenant.faults.add("smtp.drop_after_dot", times=1)
    async with office.open() as daemon:
        name = await office.post()
        await office.until(name, "held")
        await office.event("send.held", name)
        row = await office.row()
        await daemon.store.requeue(ids=[name])
        daemon.wake_sender("alarm")
        await office.until(name, "sent")
    assert row["held"] == 1
    assert office.copies(name) == 1


async def test_a_copy_settles_nobody_it_does_not_speak_of(office: PostOffice) -> None:
    """Who was put off at RCPT is sent to, though the copy of the others lies in the sent items."""
    office.tenant.faults.add("smtp.answer_lost", times=1)
    office.tenant.faults.add("smtp.reply", times=1, command="RCPT", text="450 4.2.1 Try later")
    async with office.open() as daemon:
        name = await office.post("first@elsewhere.example", "second@elsewhere.example")
        await office.row_when(lambda row: row["deferred"])
        async with asyncio.timeout(PATIENCE):
            while len(office.tenant.smtp.mails) < 2:
                daemon.hurry_dispatchers()
                await daemon.store.requeue(ids=[name])
                daemon.wake_sender("alarm")
                await asyncio.sleep(0.3)
        await office.until(name, "sent")
    sent = sorted(one for mail in office.tenant.smtp.mails for one in mail.recipients)
    assert sent == ["first@elsewhere.example", "second@elsewhere.example"]


async def test_a_mailbox_that_may_not_send_keeps_its_mails(office: PostOffice) -> None:
    """Parked with cause and fix, told to webhooks; mended, everything goes out at once."""
    office.tenant.faults.add("smtp.auth_disabled_mailbox")
    async with office.open() as daemon:
        names = [await office.post() for _ in range(5)]
        row = await office.row_when(lambda row: row["state"] == "parked")
        told = await office.event("send.parked")
        refusals = office.tenant.smtp.refusals
        office.tenant.faults.clear()
        daemon.mended("alarm")
        for name in names:
            await office.until(name, "sent")
        [mail] = [await daemon.store.sends.status(names[0])]
        await office.event("send.resumed")
        after = await office.row()
    assert row["code"] == "smtp.auth_disabled_mailbox"
    assert "Set-CASMailbox" in row["fix"]
    assert row["waiting"] == 5
    assert (told["mailbox"], told["code"], told["person"]) == ("alarm", row["code"], True)
    assert (told["cause"], told["fix"]) == (row["cause"], row["fix"])
    assert refusals <= 3
    assert mail is not None
    assert mail.attempts == 1
    assert (after["state"], after["cause"]) == ("ok", "")


async def test_a_refusal_for_good_is_told_at_once(office: PostOffice) -> None:
    """Nobody is asked a second time about a mail that the server does not want."""
    office.tenant.faults.add("smtp.send_as_denied")
    async with office.open():
        name = await office.post()
        await office.until(name, "failed")
        data = await office.event("send.failed", name)
        row = await office.row()
    assert data["code"] == "smtp.send_as_denied"
    assert row["failed"] == 1
    assert office.tenant.faults.fired["smtp.send_as_denied"] == 1


async def test_the_budget_outlives_the_daemon(office: PostOffice) -> None:
    """What was sent before a restart counts; what is over it waits without an attempt."""
    text = office.config.read_text()
    limits = "    send:\n      limits: {per_minute: 3}\n"
    office.config.write_text(text.replace("    send:\n", limits))
    async with office.open():
        for _ in range(2):
            await office.until(await office.post(), "sent")
    async with office.open() as daemon:
        assert (await office.row())["remaining"]["messages"] == 1
        names = [await office.post() for _ in range(4)]
        row = await office.row_when(lambda row: row["waiting"] == 3 and not row["claimed"])
        found = [await daemon.store.sends.status(name) for name in names]
    assert len(office.tenant.smtp.mails) == 3
    assert row["queued"] == 3
    assert sorted(one.attempts for one in found if one is not None) == [0, 0, 0, 1]


async def test_a_reload_begins_and_ends_sending(office: PostOffice) -> None:
    """A mailbox that is to send from now on does; one that is not keeps its mails, and says so."""
    text = office.config.read_text()
    start = text.index("    send:")
    quiet = text[:start] + text[start:].split("\n", 2)[2]
    office.config.write_text(quiet)
    async with office.open() as daemon:
        name = await office.post()
        office.config.write_text(text)
        office.reload.set()
        await office.until(name, "sent")
        logins = {box.mailbox: box.logins for box in daemon.health.folders}
        office.config.write_text(quiet)
        office.reload.set()
        async with asyncio.timeout(PATIENCE):
            while daemon.sending:
                await asyncio.sleep(0.02)
        late = await office.post()
        row = await office.row()
        again = {box.mailbox: box.logins for box in daemon.health.folders}
    assert office.copies(late) == 0
    assert (row["state"], row["waiting"]) == ("not running", 1)
    assert logins == again
