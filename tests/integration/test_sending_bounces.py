"""A bounce that comes back is told beside the send that it is about, and changes nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers.post_office import OTHER, PATIENCE, PostOffice, post_office
from tests.servers.sandbox_client import ADDRESS

REPORT = """\
Return-Path: <>
From: Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@feuerwehr.example>
To: {address}
Message-ID: <{number}@ndr.example>
Subject: Undeliverable
Auto-Submitted: auto-replied
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: text/plain

Nobody there.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns;mail.example

Final-Recipient: rfc822;{recipient}
Action: failed
Status: 5.1.10
Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound

--b
Content-Type: text/rfc822-headers

Message-ID: <{name}@feuerwehr.example>
--b--
"""


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    async with post_office(tmp_path) as made:
        yield made


def bounce(office: PostOffice, name: str, recipient: str = OTHER, number: int = 1) -> None:
    """Let a report arrive in the mailbox that sent."""
    text = REPORT.format(address=ADDRESS, recipient=recipient, name=name, number=number)
    office.tenant.exchange.mailboxes[ADDRESS].deliver(text.replace("\n", "\r\n").encode())


async def arrived(office: PostOffice, number: int) -> dict[str, object]:
    """Return the report as a webhook got it, once it did."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for one in office.receiver.accepted.values():
                data = one.json["data"]
                if data.get("message_id", "").strip("<>") == f"{number}@ndr.example":
                    return dict(data)
            await asyncio.sleep(0.02)


async def test_a_bounce_is_told_and_the_mail_stays_sent(office: PostOffice) -> None:
    """`send.failed` with `bounced`, the report delivered as any mail; nothing is undone."""
    async with office.open() as daemon:
        name = await office.post()
        await office.until(name, "sent")
        bounce(office, name)
        data = await office.event("send.failed", name)
        mail = await arrived(office, 1)
        row = await daemon.store.sends.status(name)
    assert data["bounced"] is True
    assert data["recipient"] == OTHER
    assert data["reason"] == "550 5.1.10 RESOLVER.ADR.RecipientNotFound"
    assert mail["auto"] == {"auto_submitted": "auto-replied", "bounce": True, "list": False}
    assert row is not None
    assert row.state == "sent"
    assert [one.recipient for one in row.bounces] == [OTHER]


async def test_it_is_told_once_however_many_come(office: PostOffice) -> None:
    """Three reports about the same recipient are three mails and one event."""
    async with office.open():
        name = await office.post()
        await office.until(name, "sent")
        for number in (1, 2, 3):
            bounce(office, name, number=number)
        for number in (1, 2, 3):
            await arrived(office, number)
        await office.event("send.failed", name)
        told = [r for r in office.receiver.accepted.values() if r.type == "send.failed"]
    assert len(told) == 1


async def test_a_report_about_a_mail_that_is_none_of_ours_is_just_a_mail(
    office: PostOffice,
) -> None:
    """It arrives, and says nothing of any send."""
    async with office.open():
        name = await office.post()
        await office.until(name, "sent")
        bounce(office, "out_of_nowhere")
        await arrived(office, 1)
        told = [r for r in office.receiver.accepted.values() if r.type == "send.failed"]
    assert told == []


async def test_a_forged_bounce_keeps_no_mail_from_being_sent(office: PostOffice) -> None:
    """Somebody who knows the Message-ID of a mail that waits cannot make it fail."""
    office.tenant.faults.add("smtp.rate_limited", times=1)
    async with office.open() as daemon:
        name = await office.post()
        await office.row_when(lambda row: row["state"] == "paused")
        bounce(office, name)
        await office.event("send.failed", name)
        before = await daemon.store.sends.status(name)
        daemon.mended("alarm")
        await office.until(name, "sent")
    assert before is not None
    assert before.state == "queued"
    assert office.copies(name) == 1
