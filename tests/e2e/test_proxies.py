"""A real daemon that has no way out but a proxy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.servers.proxies import Kind, RecordingProxy, recording_proxy
from tests.servers.site import SECONDS, Site, mail, site

__all__ = ["site"]  # the fixture

PASSWORD = "canary-pa55word"
#: nobody listens there, so whoever connects past the proxy fails
MAIL, HOOK = 1, 2
FORBIDDEN = b"HTTP/1.1 403 canary\r\n\r\n"


def entra_port(site: Site) -> int:
    return int(site.tenant.entra.authority.rpartition(":")[2].partition("/")[0])


def behind(site: Site, proxy: RecordingProxy) -> None:
    """Let the proxy be the only way to the mail server and the receiver, and one to Entra."""
    entra = entra_port(site)
    hook = int(site.receiver.url.rpartition(":")[2].partition("/")[0])
    proxy.routes = {MAIL: site.tenant.imap.port, HOOK: hook, entra: entra}
    site.environ["WAY_OUT"] = proxy.full_url
    way = "proxy: {env: WAY_OUT}"
    text = site.config.read_text()
    for old, new in (
        (f"port: {site.tenant.imap.port}", f"port: {MAIL}, {way}"),
        (f":{hook}/", f":{HOOK}/"),
        ("    allow_private: true", f"    allow_private: true\n    {way}"),
        ("    credential:\n", f"    {way}\n    credential:\n"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    site.config.write_text(text)


async def status_with(site: Site, code: str) -> dict[str, Any]:
    """Ask for the status until a mailbox shows this code."""
    async with asyncio.timeout(SECONDS):
        while True:
            status = await site.json("status")
            if status and any(box.get("code") == code for box in status["mailboxes"]):
                found: dict[str, Any] = status
                return found


@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_a_daemon_behind_a_proxy(site: Site, kind: Kind) -> None:
    """A proxy's no is shown as what it is; once it says yes mail arrives, and only through it."""
    site.box.deliver(mail(1))
    async with recording_proxy(kind, user="operator", password=PASSWORD) as proxy:
        behind(site, proxy)
        if kind == "http":
            proxy.no(FORBIDDEN)
        process = await site.start("--log-level", "debug", "--log-format", "json", "run")
        status = await status_with(site, "proxy.forbidden") if kind == "http" else {}
        assert kind != "http" or not site.tenant.entra.discoveries
        proxy.answer, proxy.then = None, "tunnel"
        [arrived] = await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
        process.terminate()
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
        report = await site.json("test-mailbox", "alarm")
        ping = await site.call("test-webhook", "receiver")

    assert arrived.json["data"]["subject"] == "Alarm 1"
    assert set(proxy.asked) == {
        f"localhost:{MAIL}",
        f"127.0.0.1:{HOOK}",
        f"localhost:{entra_port(site)}",
    }
    assert (report["ok"], ping[0]) == (True, 0)
    assert f"through proxy {proxy.url}" in str(report)
    assert kind != "http" or proxy.place in err.decode()
    stored = b"".join(path.read_bytes() for path in (site.home / "state").glob("mailbridge.db*"))
    for shown in (out, err, str(status).encode(), str(report).encode(), stored, str(ping).encode()):
        assert b"canary" not in shown


async def test_a_machine_with_proxy_variables_runs_on_loopback_without_them(site: Site) -> None:
    """Variables that lead nowhere keep no daemon from servers inside, and are not overlooked."""
    site.box.deliver(mail(1))
    nowhere = "http://operator:canary@127.0.0.1:1"
    site.environ |= dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), nowhere
    )
    async with site.daemon():
        [arrived] = await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
    text = site.config.read_text()
    site.config.write_text(text.replace("host: localhost", "host: mail.example"))
    report = await site.json("test-mailbox", "alarm")

    assert arrived.json["data"]["subject"] == "Alarm 1"
    steps = {step["id"]: step for step in report["steps"]}
    assert "mail through proxy http://127.0.0.1:1 (from all_proxy)" in steps["config"]["detail"]
    assert steps["tcp"]["code"] == "proxy.connection"
    assert "the variable all_proxy" in steps["tcp"]["fix"]
    assert "canary" not in str(report)
