"""A person signs in by command, and the mailbox is fetched with what was granted."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import socket
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest

from mailbridge.sandbox.directory import App, User
from tests.servers.oauth_web import Browser
from tests.servers.site import Site, mail, site

__all__ = ["site"]

ADDRESS = "alarm@feuerwehr.example"


@pytest.fixture
def person(site: Site) -> User:
    """Give the account of the mailbox, and a configuration by which it signs in itself."""
    user = site.tenant.add_user(ADDRESS)
    site.tenant.grant(user, site.box)
    app = site.tenant.directory.add(App(name="desktop", public_flows=True))
    app.add_redirect("http://localhost", "public")
    site.tenant.entra.state.device_interval = 1
    key = site.home / "state.key"
    key.write_bytes(base64.b64encode(secrets.token_bytes(32)))
    text = site.config.read_text()
    former = next(one for one in site.tenant.directory.apps.values() if one is not app)
    text = text.replace(former.client_id, app.client_id)
    text = text.replace("sign_in: application", "sign_in: delegated")
    head, _, rest = text.partition("    credential:\n")
    _, _, rest = rest.partition("\n")
    text = head + rest.replace("state:\n", "", 1)
    text = text.replace("state:\n", f"state:\n  key: {{file: {json.dumps(str(key))}}}\n", 1)
    site.config.write_text(text)
    return user


async def line_with(process: asyncio.subprocess.Process, words: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(40):
        while line := (await process.stdout.readline()).decode():
            if words in line:
                return line.strip()
    raise AssertionError(f"the command never said {words!r}")


async def test_a_parked_mailbox_goes_on_as_soon_as_somebody_signs_in(
    site: Site, person: User
) -> None:
    """Without a grant it is parked and says what to do; after `login --device` mail comes."""
    site.box.deliver(mail(1))
    async with site.daemon():
        await parked(site)
        login = await site.start("login", "alarm", "--device")
        code = (await line_with(login, "type in the code")).rstrip(".").rsplit(" ", 1)[1]
        async with site.tenant.browser() as browser:
            await browser.approve_device(code, person)
        out, err = await login.communicate()
        await delivered(site, 1)

    assert login.returncode == 0, err.decode()
    assert ADDRESS in out.decode()


async def test_a_browser_on_this_machine_brings_the_grant(site: Site, person: User) -> None:
    """The loopback takes the redirect; the grant outlives the command, and no file shows it."""
    login = await site.start("login", "alarm")
    url = await line_with(login, "https://localhost")
    async with site.tenant.browser() as browser:
        landing = await browser.walk_authorize(url, person)
    status, page = await landing.deliver()
    await login.communicate()
    site.box.deliver(mail(2))
    async with site.daemon():
        await delivered(site, 1)
        beside = await site.json("test-mailbox", "alarm")
    alone = await site.json("test-mailbox", "alarm")
    gone, _, _ = await site.call("logout", "alarm")
    again, _, _ = await site.call("logout", "alarm")

    assert login.returncode == 0
    assert (status, "go back to the terminal" in page) == (200, True)
    assert (gone, again) == (0, 1)
    for report in (beside, alone):  # in the daemon, and by itself
        assert report["ok"], report
        [expiry] = [step for step in report["steps"] if step["id"] == "expiry"]
        assert "refresh token ends on" in expiry["detail"]
    stored = held(site.home / "state")
    assert ADDRESS.encode() in stored  # of the mail; the grant itself is encrypted
    assert b"IMAP.AccessAsUser.All" not in stored


async def test_another_account_is_refused_by_name(site: Site, person: User) -> None:
    """Whoever signs in with the wrong account is told both names, and nothing is kept."""
    other = site.tenant.add_user("somebody.else@feuerwehr.example")
    login = await site.start("login", "alarm", "--device")
    code = (await line_with(login, "type in the code")).rstrip(".").rsplit(" ", 1)[1]
    async with site.tenant.browser() as browser:
        await browser.approve_device(code, other)
    _, err = await login.communicate()
    none, _, _ = await site.call("logout", "alarm")

    assert login.returncode == 1
    assert "somebody.else@feuerwehr.example" in err.decode()
    assert ADDRESS in err.decode()
    assert none == 1


async def test_a_link_of_the_running_daemon_brings_the_grant(site: Site, person: User) -> None:
    """`login --web` prints a link; who walks it signs in, is shown the steps, and mail comes."""
    port = free_port()
    with site.config.open("a") as config:
        config.write(f"\nhttp: {{listen: 127.0.0.1:{port}}}\n")
    app = next(one for one in site.tenant.directory.apps.values() if one.name == "desktop")
    app.add_redirect(f"http://localhost:{port}/oauth/callback", "public")
    site.box.deliver(mail(3))
    jar = aiohttp.CookieJar(unsafe=True)
    async with site.daemon(), aiohttp.ClientSession(cookie_jar=jar) as session:
        await parked(site)
        code, link, _ = await site.call("login", "alarm", "--web")
        browser = Browser(session)
        shown = await browser.get(link.strip())
        away = await browser.post(link.partition("?")[0].strip(), {"ticket": shown.ticket})
        async with site.tenant.browser() as microsoft:
            landing = await microsoft.walk_authorize(away.link, person)
        back = f"http://localhost:{port}/oauth/callback?{urlencode(landing.fields)}"
        shown = await browser.get(back)
        await delivered(site, 1)
        async with asyncio.timeout(40):
            while 'http-equiv="refresh"' in shown.html:
                await asyncio.sleep(0.1)
                shown = await browser.get(shown.url)

    assert code == 0
    assert shown.status == 200
    assert ADDRESS in shown.text
    assert "failed" not in shown.text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def held(folder: Path) -> bytes:
    """Return everything that lies in the database's files."""
    return b"".join(path.read_bytes() for path in folder.glob("mailbridge.db*"))


async def parked(site: Site) -> None:
    async with asyncio.timeout(40):
        while True:
            status = await site.json("status")
            rows = status["mailboxes"] if status else []
            if any(row["state"] == "parked" for row in rows):
                assert "mailbridge login alarm" in rows[0]["fix"]
                return
            await asyncio.sleep(0.2)


async def delivered(site: Site, count: int) -> None:
    async with asyncio.timeout(40):
        while sum(r.type == "mail.received" for r in site.receiver.requests) < count:
            await asyncio.sleep(0.05)
