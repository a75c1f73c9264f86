"""From the server to the webhook by routes: who is woken, what is held, what is told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from mailbridge.sandbox.receiver import Received
from tests.servers.site import SECONDS, Site, site

__all__ = ["site"]  # the fixture

ROUTES = r"""
routes:
  alarm:
    match: {from: ["*@ils.example"], subject: '(?i)einsatz'}
    require: {authenticated: true, max_age: 15m, not_duplicate_within: 30m}
    extract:
      number: {regex: 'Nummer: (?P<value>\d+)'}
      all: {key_values: ':'}
    webhooks: [receiver]
    stop: true
  archive:
    match: {from: ["*@ils.example"]}
    webhooks: second
"""
GENUINE = (
    "Received: from A.prod.outlook.com (::1) by B.prod.outlook.com with HTTPS; x\r\n"
    "Authentication-Results: spf=pass smtp.mailfrom=ils.example; dkim=pass\r\n"
    " header.d=ils.example;dmarc=pass action=none header.from=ils.example;\r\n"
    " compauth=pass reason=100\r\n"
    "Received: from mx.ils.example (1.2.3.4) by D.mail.protection.outlook.com (1.1.1.1); x\r\n"
)


def mail(
    number: int, *, head: str = GENUINE, subject: str = "Einsatz B3", sender: str = "ils.example"
) -> bytes:
    return (
        f"{head}From: Leitstelle <alarm@{sender}>\r\nSubject: {subject}\r\n"
        f"Message-ID: <{number}@{sender}>\r\n\r\nStichwort: B3\r\nNummer: {number}\r\n"
    ).encode()


def routed(site: Site) -> None:
    """Let the site's mailbox have two routes to two webhooks."""
    text = site.config.read_text()
    hook = text[text.index("webhooks:") :].split("\n", 1)[1].rstrip()
    second = hook.replace("  receiver:", "  second:").replace("/hook", "/second")
    text = text.rstrip() + "\n" + second + "\n" + ROUTES
    lines = text.splitlines()
    at = next(index for index, line in enumerate(lines) if line.strip().startswith("app: "))
    lines.insert(at, "    routes: [alarm, archive]")
    site.config.write_text("\n".join(lines) + "\n")


def mails(site: Site) -> dict[str, list[tuple[str, Any]]]:
    """Return the mails that each webhook got: subject, route and fields, in their order."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for request in site.receiver.accepted.values():
        if request.json["type"] == "mail.received":
            found.setdefault(request.path, []).append(
                (request.json["data"]["subject"], request.json["data"])
            )
    return found


async def events(site: Site, kind: str, count: int) -> list[Received]:
    """Wait for so many events of a kind at the first webhook."""
    async with asyncio.timeout(SECONDS):
        while True:
            found = [
                request
                for request in site.receiver.accepted.values()
                if request.json["type"] == kind
            ]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


async def test_mails_go_where_their_routes_say(site: Site) -> None:
    """A genuine alarm wakes; a forged, an old and a repeated one are held, told and listed.

    What the alarm's route does not want goes on to the next, and what none wants goes nowhere.
    """
    routed(site)
    async with site.daemon():
        site.box.deliver(mail(4711))
        await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
        site.box.deliver(mail(4712, head="", subject="Einsatz forged"))
        site.box.deliver(
            mail(4713, subject="Einsatz old"), received_at=datetime.now(UTC) - timedelta(hours=2)
        )
        site.box.deliver(mail(4711, subject="Einsatz again"))
        site.box.deliver(mail(1, sender="shop.example", subject="Angebot"))
        site.box.deliver(mail(4714, subject="Probe"))
        await site.receiver.wait(2, seconds=SECONDS, event="mail.received")
        held = await events(site, "delivery.held", 3)
        listed = await site.json("queue", "list", "--state", "held")
        got = mails(site)

        assert {path: [subject for subject, _ in list_] for path, list_ in got.items()} == {
            "/hook": ["Einsatz B3"],
            "/second": ["Probe"],
        }
        alarm = got["/hook"][0][1]
        assert alarm["route"] == "alarm"
        assert alarm["fields"] == {
            "number": "4711",
            "all": {"Stichwort": "B3", "Nummer": "4711"},
        }
        assert got["/second"][0][1]["route"] == "archive"

        reasons = sorted({event.json["data"]["reason"].partition(":")[0] for event in held})
        assert [reason[:12] for reason in reasons] == ["duplicate of", "not authenti", "too old"]
        ids = [delivery["id"] for delivery in listed]
        assert len(ids) == 3

        await site.call("queue", "retry", str(ids[0]))
        await site.receiver.wait(3, seconds=SECONDS, event="mail.received")
        assert len(mails(site)["/hook"]) == 2

    nowhere = [line for line in site.log if line["event"] == "message.not_delivered"]
    assert {"alarm": "passed_by", "archive": "passed_by"} in [line["routes"] for line in nowhere]
    assert "shop.example" not in str(nowhere)
    counted: dict[str, int] = {}
    for line in site.log:
        if line["event"] == "batch.accepted":
            for route, count in line["routes"].items():
                counted[route] = counted.get(route, 0) + count
    assert counted == {"alarm": 4, "archive": 1, "(none)": 1}
