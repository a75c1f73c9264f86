"""A day's work at level info: one line for each unit of it, and nobody's mail in any."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from mailbridge.sandbox.config_text import config_for
from mailbridge.sandbox.receiver import Answer
from scripts import manual_log_events as listing
from tests.servers.site import SECONDS, Site, site

__all__ = ["site"]  # the fixture

SENDER, RECIPIENT, SUBJECT, BODY = (
    *("wilhelmine.geheim", "balthasar.vertraulich", "Xylophonunfall", "Quittengelee"),
)
ROUTES = """
routes:
  alarm:
    match: {from: ["*@ils.example"], subject: 'Einsatz'}
    webhooks: [receiver]
"""


def mail(number: int, subject: str) -> bytes:
    return (
        f"From: {SENDER} <{SENDER}@ils.example>\r\nTo: {RECIPIENT}@ils.example\r\n"
        f"Subject: {subject}\r\nMessage-ID: <{number}.{SENDER}@ils.example>\r\n\r\n{BODY}\r\n"
    ).encode()


def prepared(site: Site) -> None:
    """Let the mailbox send, and have a route that most mails are not for."""
    text = config_for(
        site.tenant,
        webhook_url=site.receiver.url,
        state_dir=site.home / "state",
        signing_secret=site.receiver.secrets[0],
        send=["alarm@feuerwehr.example"],
        after="seen",
    )
    text = text.replace("    app: ", "    routes: [alarm]\n    app: ", 1)
    site.config.write_text(text.rstrip() + "\n" + ROUTES)


async def worked(site: Site) -> list[dict[str, Any]]:
    """Run the main job with good and bad luck; returns the lines of the daemon's log."""
    prepared(site)
    refused = f"550 5.1.1 <{RECIPIENT}@ils.example>: {RECIPIENT}@ils.example is unknown"
    site.tenant.faults.add("smtp.reply", times=1, command="RCPT", text=refused)
    site.receiver.answer_with(Answer(status=503, body=f"{SENDER} {BODY}".encode()))
    send = ["send", "--from", "alarm", "--to", f"{RECIPIENT}@ils.example"]
    send += ["--subject", SUBJECT, "--body", BODY, "--wait"]
    async with site.daemon():
        site.box.deliver(mail(1, SUBJECT))
        site.box.deliver(mail(2, f"Einsatz {SUBJECT}"))
        await site.receiver.wait_requests(1, seconds=SECONDS)
        site.receiver.behave()
        ended = await asyncio.gather(site.call(*send), site.call(*send))
        await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
    assert sorted(code for code, _, _ in ended) == [0, 1]
    return site.log


async def test_the_log_says_what_was_done_and_nothing_of_the_mails(site: Site) -> None:
    """Every unit of work has its line with mailbox, id and duration; no line has what was written.

    Every line is an event of the list, at a listed level, with listed fields.
    """
    lines = await worked(site)
    said = json.dumps(lines, ensure_ascii=False)
    known = listing.events()
    by_event = {line["event"]: line for line in lines}

    for word in (SENDER, RECIPIENT, SUBJECT, BODY, "alarm@feuerwehr"):
        assert word not in said, word
    accepted, delivered = by_event["batch.accepted"], by_event["delivery.delivered"]
    assert accepted["mailbox"] == delivered["mailbox"] == "alarm"
    assert delivered["event_id"].startswith("msg_")
    assert [one for line in lines for one in line.get("ids", ())]
    for event in ("batch.accepted", "batch.settled", "delivery.delivered", "token.refreshed"):
        assert by_event[event]["took_ms"] >= 0, event
    assert {"delivery.dead", "message.not_delivered", "send.accepted"} <= set(by_event)
    for line in lines:
        about = known[line["event"]]
        fields = set(line) - {"event", "level", "timestamp"}
        assert line["level"] in about.levels, line
        assert fields <= set(about.fields) or "…" in about.fields, line
