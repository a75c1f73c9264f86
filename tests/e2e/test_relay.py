"""Mail that is sent straight to the daemon, and mail that it takes for others."""

from __future__ import annotations

import asyncio
import smtplib

from tests.e2e.test_login import free_port
from tests.servers.site import SECONDS, Site, mail, site

__all__ = ["site"]


async def test_mail_to_the_relay_reaches_the_webhook(site: Site) -> None:
    """Mail that is forwarded to the daemon goes through routes as if fetched, and is counted."""
    port = free_port()
    with site.config.open("a") as config:
        config.write(
            "\nroutes: {straight: {match: {subject: Alarm}, webhooks: [receiver]}}\n"
            f"relay:\n  listen: 127.0.0.1:{port}\n"
            "  inbound: {alarm@in.feuerwehr.example: [straight]}\n"
        )

    def send() -> tuple[dict[str, tuple[int, bytes]], int]:
        with smtplib.SMTP("127.0.0.1", port) as client:
            refused = client.sendmail(
                "ils@leitstelle.example", ["alarm@in.feuerwehr.example"], mail(7)
            )
            code, _ = client.mail("ils@leitstelle.example")
            code, _ = client.rcpt("somebody@elsewhere.example")
            return refused, code

    async with site.daemon():
        async with asyncio.timeout(SECONDS):
            while not (await site.json("status") or {}).get("daemon", {}).get("running"):
                await asyncio.sleep(0.1)
        refused, elsewhere = await asyncio.to_thread(send)
        [arrived] = await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
        figures = (await site.json("status"))["relay"]
        _, shown, _ = await site.call("status")

    assert figures == {
        "state": "ok",
        "listening": f"127.0.0.1:{port}",
        "taken": 1,
        "refused": {"unknown_sender": 1},
        "put_off": {},
    }
    assert f"relay at 127.0.0.1:{port}: 1 taken, 1 refused (unknown_sender 1)" in shown
    assert refused == {}
    assert elsewhere >= 500, "an open relay"
    data = arrived.json["data"]
    assert data["subject"] == "Alarm 7"
    assert data["route"] == "straight"
    assert data["source"]["protocol"] == "smtp"
