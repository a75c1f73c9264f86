"""The whole sign-in walked in a real browser: Chromium, from the link to the page at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mailbridge.sandbox.directory import User
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from tests.servers.chromium import Chromium, Window, pin
from tests.servers.oauth_web import ADDRESS, Web, web

ACCEPT, NEXT, CANCEL = "button[value=accept]", "button[value=next]", "button[value=cancel]"


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def tenant(key: SigningKey) -> AsyncIterator[Tenant]:
    async with Tenant.start(key=key) as running:
        yield running


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture
async def site(tenant: Tenant, tmp_path: Path, pool: ThreadPoolExecutor) -> AsyncIterator[Web]:
    async with web(tenant, tmp_path, pool, lambda: datetime.now(UTC)) as running:
        running.app.consented = False
        yield running


@pytest.fixture
async def chromium(tenant: Tenant) -> AsyncIterator[Chromium]:
    place = urlsplit(tenant.entra.base_url)
    context = tenant.authority.client_context()
    trusted = await asyncio.to_thread(pin, "localhost", place.port or 0, context)
    async with Chromium.start(pins=[trusted]) as running:
        yield running


async def to_consent(window: Window, site: Web, user: User) -> None:
    """Open a link, press the button, sign in at Microsoft's as this person."""
    await window.open(await site.link())
    await window.press("#go")
    await window.type("input[name=loginfmt]", user.upn)
    await window.press(NEXT)
    await window.type("input[name=passwd]", user.password)
    await window.press(NEXT)
    await window.until("main[data-page=consent]")


async def test_a_person_signs_in_with_a_real_browser(site: Web, chromium: Chromium) -> None:
    """Link, login page, Accept, and a page that says signed in and tested; nothing blocked it."""
    async with chromium.window() as window:
        await to_consent(window, site, site.user)
        await window.press(ACCEPT)
        await window.until("main[data-page=tested]")
        text, html, url = await window.text(), await window.html(), await window.url()
        history, cookies = await window.history(), await window.cookies()

    assert f"{ADDRESS} has signed in" in text
    assert 'data-step="sign_in"' in html
    assert site.grants.saved[0].account == ADDRESS
    # The code is in no address that the person could go back to.
    assert urlsplit(url).path.startswith("/oauth/result/")
    assert not any("/oauth/callback" in one for one in history)
    own = [one for one in cookies if one["name"].startswith("mailbridge-")]
    assert [(one["httpOnly"], one["sameSite"]) for one in own] == [(True, "Lax")]


async def test_a_second_browser_with_the_stolen_address_is_refused(
    site: Web, chromium: Chromium
) -> None:
    """The callback's address, caught on its way, is worth nothing there, and good here."""
    async with chromium.window() as window, chromium.window(language="de") as thief:
        await window.open(await site.link())
        await window.press("#go")
        await window.until("main[data-page=account]")
        [journey] = site.desk.pending._journeys.values()
        landing = await site.walk(journey.attempt.url)
        await thief.open(landing.url)
        await thief.until("main[data-page=turned-away]")
        stolen = await thief.text()
        assert site.grants.saved == []

        await window.open(landing.url)
        await window.until("main[data-page=tested]")

    assert "anderen Browser" in stolen
    assert landing.fields["state"] not in stolen
    assert site.grants.saved[0].account == ADDRESS


async def test_declined_consent_comes_back_in_words(site: Web, chromium: Chromium) -> None:
    """Cancel at Microsoft's ends on a page that says so, in German, with a way to try again."""
    async with chromium.window(language="de") as window:
        await to_consent(window, site, site.user)
        await window.press(CANCEL)
        await window.until("main[data-page=refused]")
        text = await window.text()
        await window.press("#go")
        await window.until("main[data-page=picker]")

    assert "Die Zustimmung wurde abgelehnt." in text
    assert site.grants.saved == []


async def test_the_wrong_account_is_refused_by_name(site: Web, chromium: Chromium) -> None:
    """Somebody who signs in as himself is told both names, and his mailbox is not fetched."""
    other = site.tenant.add_user("chief@feuerwehr.example")
    async with chromium.window() as window:
        await to_consent(window, site, other)
        await window.press(ACCEPT)
        await window.until("main[data-page=refused]")
        text = await window.text()

    assert other.upn in text
    assert ADDRESS in text
    assert site.grants.saved == []


async def test_a_foreign_page_cannot_send_a_browser_to_microsoft(
    site: Web, chromium: Chromium
) -> None:
    """A real browser says where a form came from, so another site's button is refused."""
    ticket = urlsplit(await site.link()).query.removeprefix("ticket=")
    form = (
        f"<form method=post action={site.url}/oauth/start/alarm>"
        f"<input name=ticket value={ticket}><button id=lure>You have won</button></form>"
    )
    async with chromium.window() as window:
        await window.open(f"data:text/html,{form}")
        await window.press("#lure")
        await window.until("main[data-page=turned-away]")

    assert not site.desk.pending._journeys
