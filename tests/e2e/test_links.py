"""An attachment by its link, from the mailbox to the receiver that follows it."""

from __future__ import annotations

import base64
import json
import secrets
from email.message import EmailMessage

import aiohttp

from tests.e2e.test_login import free_port
from tests.servers.site import SECONDS, Site, site

__all__ = ["site"]

CONTENT = b"%PDF-1.7 " + bytes(range(256)) * 500


async def test_a_receiver_follows_a_link_to_an_attachment(site: Site) -> None:
    """The event names the file and a link, which gives exactly its bytes, and no other's."""
    message = EmailMessage()
    message["From"] = "ILS <ils@leitstelle.example>"
    message["Subject"] = "Alarm"
    message.set_content("siehe Anhang")
    message.add_attachment(CONTENT, maintype="application", subtype="pdf", filename="Depesche.pdf")
    key = site.home / "state.key"
    key.write_bytes(base64.b64encode(secrets.token_bytes(32)))
    port = free_port()
    text = site.config.read_text()
    text = text.replace("state:\n", f"state:\n  key: {{file: {json.dumps(str(key))}}}\n", 1)
    text = text.replace(
        "    allow_private: true", "    allow_private: true\n    attachments: {mode: link}", 1
    )
    site.config.write_text(f"{text}\nhttp: {{listen: 127.0.0.1:{port}}}\n")
    site.box.deliver(message.as_bytes())
    async with site.daemon():
        [arrived] = await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
        [entry] = arrived.json["data"]["attachments"]
        async with aiohttp.ClientSession() as session:
            async with session.get(entry["url"]) as response:
                status, content = response.status, await response.read()
            async with session.get(entry["url"].replace("/0?", "/1?")) as response:
                other = response.status

    assert entry["url"].startswith(f"http://127.0.0.1:{port}/attachments/")
    assert entry["filename"] == "Depesche.pdf"
    assert "content_base64" not in entry
    assert (status, content) == (200, CONTENT)
    assert other == 403
    assert entry["url"].rpartition("=")[2] not in json.dumps(site.log)
