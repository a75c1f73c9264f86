"""A running daemon takes another configuration."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from tests.servers.site import SECONDS, Site, mail, site

__all__ = ["site"]  # the fixture


async def status_when(site: Site, wanted: Any) -> dict[str, Any]:
    """Ask for the status until ``wanted`` holds of it."""
    async with asyncio.timeout(SECONDS):
        while True:
            status = await site.json("status")
            if status and status["daemon"]["running"] and wanted(status):
                return dict(status)


def boxes(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {box["name"]: box for box in status["mailboxes"]}


async def test_a_reload_changes_what_changed_and_only_that(site: Site) -> None:
    """A new mailbox and a new webhook work at once; who was there before keeps its session."""
    second = site.tenant.add_mailbox("office@feuerwehr.example")
    site.tenant.grant(next(iter(site.tenant.directory.apps.values())), second)
    text = site.config.read_text()
    mailboxes, webhooks = text.index("mailboxes:"), text.index("webhooks:")
    section = text[mailboxes:webhooks].split("\n", 1)[1]
    hook = text[webhooks:].split("\n", 1)[1]
    more = (
        text[:webhooks].rstrip()
        + "\n"
        + section.replace("  alarm:", "  office:").replace("alarm@", "office@").rstrip()
        + "\n\nwebhooks:\n"
        + hook.rstrip()
        + "\n"
        + hook.replace("  receiver:", "  second:").replace("/hook", "/second")
    )
    async with site.daemon() as process:
        site.box.deliver(mail(1))
        await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
        before = await status_when(site, lambda s: boxes(s)["alarm"]["state"] == "ok")
        site.config.write_text(more)
        process.send_signal(signal.SIGHUP)
        second.deliver(mail(2))
        await site.receiver.wait(2, seconds=SECONDS, event="mail.received")
        site.box.deliver(mail(3))  # by the session of before, to both
        await site.receiver.wait_requests(5, seconds=SECONDS)
        after = await status_when(site, lambda s: boxes(s).get("office", {}).get("state") == "ok")
        site.config.write_text(text)
        process.send_signal(signal.SIGHUP)
        last = await status_when(site, lambda s: list(boxes(s)) == ["alarm"])

    assert boxes(after)["office"]["logins"] == 1
    assert [hook["name"] for hook in after["webhooks"]] == ["receiver", "second"]
    assert [hook["name"] for hook in last["webhooks"]] == ["receiver"]
    reloads = [line for line in site.log if line["event"] == "config.reloaded"]
    assert [line["changed"] for line in reloads] == ["mailboxes office; webhooks second"] * 2
    assert [line["keys"] for line in reloads] == [
        "+mailboxes.office +webhooks.second",
        "-mailboxes.office -webhooks.second",
    ]
    assert boxes(before)["alarm"]["logins"] == boxes(last)["alarm"]["logins"] == 1


async def test_a_broken_file_is_refused_and_the_old_one_stays(site: Site) -> None:
    """A reload with a mistake changes nothing, says where the mistake is, and mail arrives."""
    async with site.daemon() as process:
        before = await status_when(site, lambda s: boxes(s)["alarm"]["state"] == "ok")
        text = site.config.read_text()
        site.config.write_text(text.replace("mailboxes:", "mailboxen:"))
        process.send_signal(signal.SIGHUP)
        site.box.deliver(mail(1))
        await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
        site.config.write_text(text)
        process.send_signal(signal.SIGHUP)
        after = await status_when(site, lambda s: boxes(s)["alarm"]["last_message"] is not None)

    assert boxes(after)["alarm"]["logins"] == boxes(before)["alarm"]["logins"] == 1
    events = [line["event"] for line in site.log]
    assert events.count("config.refused") == events.count("config.reloaded") == 1
    refused = next(line for line in site.log if line["event"] == "config.refused")
    assert "mailboxen" in refused["error"]
    same = next(line for line in site.log if line["event"] == "config.reloaded")
    assert same["changed"] == "nothing"


async def test_a_rotated_secret_is_picked_up_on_reload(site: Site) -> None:
    """The file's new secret is used without a restart, after the old one was taken away."""
    app = next(iter(site.tenant.directory.apps.values()))
    app.lifetime = 20
    async with site.daemon() as process:
        before = await status_when(site, lambda s: boxes(s)["alarm"]["state"] == "ok")
        [file] = (site.home / "state").glob("*alarm-app.secret")
        file.write_text(app.add_secret())
        del app.secrets[0]
        process.send_signal(signal.SIGHUP)
        logins = boxes(before)["alarm"]["logins"]
        await status_when(site, lambda s: boxes(s)["alarm"]["logins"] >= logins + 2)
        site.box.deliver(mail(1))
        await site.receiver.wait(1, seconds=SECONDS, event="mail.received")

    assert not [line for line in site.log if line["event"] == "mailbox.parked"]
