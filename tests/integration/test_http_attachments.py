"""Links to attachments: who has one gets that file, as a download and nothing else."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import aiohttp
import pytest

from mailbridge.config import Http
from mailbridge.http.attachments import attachment_routes
from mailbridge.http.listening import listen
from mailbridge.http.server import HttpServer, guard, make_app
from mailbridge.http.tokens import Tokens
from mailbridge.links import VALID, Links

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
ID = "msg_" + "A" * 26
KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2)]
HOSTILE = 'x"\r\nSet-Cookie: a=b; filename=evil.html/../Öl.html'


def mail() -> bytes:
    message = EmailMessage()
    message["From"] = "ils@ils.example"
    message.set_content("siehe Anhang")
    message.add_attachment(b"%PDF-1.7", maintype="application", subtype="pdf", filename="a.pdf")
    message.add_attachment(
        b"<script>alert(1)</script>", maintype="text", subtype="html", filename="Öl 1.html"
    )
    return message.as_bytes()


class Site:
    """The routes on a real server, with a clock of their own."""

    def __init__(self, place: str, session: aiohttp.ClientSession) -> None:
        self.place, self._session = place, session
        self.links = Links(place, KEYS[:1])

    async def get(self, url: str) -> tuple[int, dict[str, str], bytes]:
        async with self._session.get(url) as response:
            headers = {key.lower(): value for key, value in response.headers.items()}
            return response.status, headers, await response.read()


@asynccontextmanager
async def running(now: datetime = NOW, keys: list[str] | None = None) -> AsyncIterator[Site]:
    kept = {ID: mail()}

    async def raw(name: str) -> bytes | None:
        return kept.get(name)

    sockets = listen(Http(listen="127.0.0.1:0"))
    port = sockets[0].getsockname()[1]
    links = Links("", keys or KEYS[:1])
    app = make_app([attachment_routes(links, raw, now=lambda: now)])
    stop = asyncio.Event()
    serving = asyncio.create_task(HttpServer(guard(app, Tokens({})), sockets).run(stop))
    try:
        async with aiohttp.ClientSession() as session:
            yield Site(f"http://127.0.0.1:{port}", session)
    finally:
        stop.set()
        await serving


async def test_a_link_gives_its_file_as_a_download() -> None:
    """The bytes come under their name, in a sandbox; html is a stream of bytes, not a page."""
    async with running() as site:
        status, headers, content = await site.get(site.links.make(ID, 0, since=NOW))
        page, page_headers, _ = await site.get(site.links.make(ID, 1, since=NOW))
    assert (status, content) == (200, b"%PDF-1.7")
    assert headers["content-type"] == "application/pdf"
    assert headers["x-content-type-options"] == "nosniff"
    assert page == 200
    assert page_headers["content-type"] == "application/octet-stream"
    assert page_headers["content-security-policy"].startswith("sandbox;")
    said = page_headers["content-disposition"]
    assert said == "attachment; filename=\"_l 1.html\"; filename*=UTF-8''%C3%96l%201.html"


@pytest.mark.parametrize("change", ["index", "exp", "sig", "id", "key", "sig-empty"])
async def test_a_changed_link_is_refused(change: str) -> None:
    """Another attachment, a later end, another message or key: nothing but the link itself."""
    other = ID[:-1] + "B"
    async with running() as site:
        url = site.links.make(ID, 0, since=NOW)
        head, _, sig = url.rpartition("=")
        changed = {
            "index": url.replace("/0?", "/1?"),
            "exp": url.replace("exp=1", "exp=2"),
            "sig": head + "=" + ("A" if sig[0] != "A" else "B") + sig[1:],
            "sig-empty": head + "=",
            "id": url.replace(ID, other),
            "key": Links(site.place, KEYS[1:]).make(ID, 0, since=NOW),
        }[change]
        assert changed != url
        status, headers, content = await site.get(changed)
    assert status == 403
    assert headers["content-type"].startswith("application/problem+json")
    assert b"PDF" not in content


async def test_a_link_ends() -> None:
    """Its last second is good, the next is not, and the answer says what to do."""
    for late, wanted in ((timedelta(seconds=-1), 200), (timedelta(0), 410)):
        async with running(NOW + VALID + late) as site:
            status, _, content = await site.get(site.links.make(ID, 0, since=NOW))
            assert status == wanted
            assert status == 200 or b"replay" in content


async def test_links_of_the_former_key_hold_while_it_is_configured() -> None:
    """A new state key in front of the old one breaks no link that is out there."""
    async with running(keys=[KEYS[1], KEYS[0]]) as site:
        status, _, _ = await site.get(site.links.make(ID, 0, since=NOW))
    assert status == 200


async def test_what_is_gone_is_said_to_be_gone() -> None:
    """A message that retention took, and a part that is not there, are no error of ours."""
    async with running() as site:
        for url in (
            site.links.make(ID[:-1] + "B", 0, since=NOW),
            site.links.make(ID, 7, since=NOW),
        ):
            assert (await site.get(url))[0] == 410


def test_a_link_is_the_same_at_every_attempt() -> None:
    """The bytes of a delivery do not change from one attempt to the next."""
    made = {Links("https://x.example", KEYS).make(ID, 3, since=NOW) for _ in range(3)}
    assert len(made) == 1
    assert KEYS[0] not in str(made)
    assert repr(Links("https://x.example", KEYS)) == "<Links to https://x.example>"
