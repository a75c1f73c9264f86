"""The HTTP server of a real daemon process: health, readiness, metrics, the API, a taken port."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.servers.site import SECONDS, Site, mail, site

__all__ = ["site"]  # the fixture

TOKEN = "made-up-token-of-the-erp-system"


def with_http(site: Site, tmp_path: Path, place: str) -> None:
    """Let the configuration listen."""
    token = tmp_path / "erp.token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    text = site.config.read_text()
    tokens = "{erp: {file: erp.token}}"
    site.config.write_text(f"{text}\nhttp:\n  listen: {place}\n  api_tokens: {tokens}\n")


@asynccontextmanager
async def answering(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    """Run the daemon beside the block, and give a client that knows its place and its token."""
    async with site.daemon() as process:
        place = await listening(process)
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(f"http://{place}", headers=headers) as session:
            yield session


async def listening(process: asyncio.subprocess.Process) -> str:
    """Read the log until it names where the daemon listens."""
    assert process.stderr is not None
    lines = []
    async with asyncio.timeout(SECONDS):
        while True:
            line = (await process.stderr.readline()).decode()
            lines.append(line)
            assert line, lines
            if '"http.listening"' in line:
                return str(json.loads(line)["places"][0])


async def until(session: aiohttp.ClientSession, path: str, status: int, code: str = "") -> Any:
    """Ask until the answer has this status, and names this code; returns its JSON."""
    async with asyncio.timeout(SECONDS):
        while True:
            async with session.get(path) as answer:
                text = await answer.text()
                if answer.status == status and code in text:
                    return json.loads(text)
            await asyncio.sleep(0.05)


async def test_a_daemon_tells_how_it_is(site: Site, tmp_path: Path) -> None:
    """It lives at once, is ready when every mailbox is seen and not before, and counts."""
    with_http(site, tmp_path, "127.0.0.1:0")
    app = next(iter(site.tenant.directory.apps.values()))
    site.tenant.revoke(app, site.box)
    site.box.deliver(mail(1))
    async with answering(site) as session:
        assert await until(session, "/healthz", 200) == {"status": "ok"}
        problem = await until(session, "/readyz", 503, "imap.not_connected")
    assert [one["mailbox"] for one in problem["mailboxes"]] == ["alarm"]

    site.tenant.grant(app, site.box)
    async with answering(site) as session:
        assert (await until(session, "/readyz", 200))["mailboxes"] == 1
        await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
        page = await until(session, "/v1/messages", 200, "delivered")
        status = await site.json("status")
        async with session.get("/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
            values = {sample.name: sample.value for one in families for sample in one.samples}
        async with session.get("/v1/messages", headers={"authorization": ""}) as answer:
            assert answer.status == 401
    assert [row["message_id"] for row in page["messages"]] == ["<1@leitstelle.example>"]
    assert status["mailboxes"][0]["standing"]["state"] == "ok"
    assert values["mailbridge_mailbox_up"] == 1
    assert values["mailbridge_messages_accepted_total"] == 1
    assert values["mailbridge_delivery_seconds_count"] == 1
    assert values["mailbridge_store_commit_seconds_count"] > 0
    assert [line["event"] for line in site.log[-2:]] == ["http.stopped", "daemon.stopped"]
    assert TOKEN not in json.dumps(site.log)


async def test_a_place_that_is_taken_ends_the_start(site: Site, tmp_path: Path) -> None:
    """The daemon says what is in its way and ends with 78, before it has asked for any mail."""
    site.box.deliver(mail(1))
    with socket.create_server(("127.0.0.1", 0)) as other:
        with_http(site, tmp_path, f"127.0.0.1:{other.getsockname()[1]}")
        code, _, err = await site.call("run")
    assert code == 78
    assert "http.listen" in err
    assert "already in use" in err
    assert "Traceback" not in err
    assert "session.opened" not in err
    assert "token.refreshed" not in err


async def test_a_rejected_secret_is_in_the_status(site: Site) -> None:
    """Status names the sign-in that is refused, its code, and what to do about it."""
    [secret] = (site.home / "state").glob("*.secret")
    secret.write_text("abc8Q~made-up-and-not-known-here")
    async with site.daemon():
        async with asyncio.timeout(SECONDS):
            standing: dict[str, Any] = {}
            while standing.get("state") in {None, "unknown"}:
                status = await site.json("status")
                if status:
                    standing = status["mailboxes"][0]["standing"] or {}
        code, out, _ = await site.call("status")
    assert standing["state"] == "rejected"
    assert standing["code"] == "AADSTS7000215"
    assert standing["fix"]
    assert code == 1
    assert "SIGNED IN" in out
    assert "rejected" in out
