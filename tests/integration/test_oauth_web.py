"""Signing in on the web: a link that is good once, one browser, one answer."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import structlog

from mailbridge.errors import MailbridgeError
from mailbridge.http import oauth_pending
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from tests.conftest import Clock
from tests.servers.oauth_web import ADDRESS, Shown, Web, web

LANGUAGES = {"en": "a new link", "de": "einen neuen Link"}


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
async def site(
    tenant: Tenant, tmp_path: Path, pool: ThreadPoolExecutor, clock: Clock
) -> AsyncIterator[Web]:
    async with web(tenant, tmp_path, pool, clock) as running:
        yield running


def codes(site: Web) -> int:
    """How many codes Entra was asked to redeem."""
    return site.tenant.entra.asked["authorization_code"]


async def test_a_link_leads_to_a_grant_that_is_kept_and_tried(site: Web) -> None:
    """From the link over Microsoft's pages to a mailbox that works, without a terminal."""
    async with site.browser() as browser:
        first = await browser.get(await site.link())
        start = await browser.post(f"{site.url}/oauth/start/alarm", {"ticket": first.ticket})
        landing = await site.walk(start.link)
        back = await site.back(browser, landing.fields)
        end = await site.settled(browser, back)

    assert (first.status, first.name, ADDRESS in first.text) == (200, "start", True)
    assert "/oauth/result/" in back.url
    assert not urlsplit(back.url).query
    assert (end.status, end.name) == (200, "tested")
    assert re.findall(r'class="(\w+)" data-step="sign_in"', end.html) == ["ok"]
    assert site.grants.saved[0].account == ADDRESS
    assert sorted(site.mended) == ["alarm", "shared"]


async def test_microsoft_is_asked_as_rfc_9700_wants_it(site: Web) -> None:
    """256 bits of state, PKCE, the redirect URI to the letter, and a person who chooses."""
    async with site.browser() as browser:
        url = await site.away(browser)

    query = parse_qs(urlsplit(url).query)
    assert len(base64.urlsafe_b64decode(query["state"][0] + "=")) == 32
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"] == [f"{site.url}/oauth/callback"]
    assert query["prompt"] == ["select_account"]
    assert query["response_mode"] == ["query"]  # a form would come without the cookie


async def test_looking_at_a_link_does_not_spend_it(site: Web) -> None:
    """A messenger that previews it, or a scanner that follows it, sends nobody anywhere."""
    link = await site.link()
    async with site.browser() as preview:
        looks = [await preview.get(link) for _ in range(3)]
    async with site.browser() as browser:
        shown = await browser.get(link)
        away = await browser.post(f"{site.url}/oauth/start/alarm", {"ticket": shown.ticket})

    assert all("set-cookie" not in one.headers for one in looks)
    assert away.name == "away"


async def test_a_link_is_good_for_one_time(site: Web) -> None:
    """Who presses second is told which command makes another link, and goes nowhere."""
    link = await site.link()
    start = f"{site.url}/oauth/start/alarm"
    async with site.browser() as first, site.browser() as second:
        ticket = (await first.get(link)).ticket
        assert (await first.post(start, {"ticket": ticket})).name == "away"
        pressed = await second.post(start, {"ticket": ticket})
        looked = await second.get(link)

    for shown in (pressed, looked):
        assert shown.status == 403
        assert "mailbridge login alarm --web" in shown.text
        assert "set-cookie" not in shown.headers
        assert ticket not in shown.html


async def test_a_link_is_good_for_ten_minutes(site: Web, clock: Clock) -> None:
    """A link that was found in a mail a day later opens nothing."""
    link = await site.link()
    clock.advance(600)
    async with site.browser() as browser:
        shown = await browser.get(link)

    assert (shown.status, shown.ticket) == (403, "")


@pytest.mark.parametrize("query", ["", "?ticket=", "?ticket=made-up", "?ticket={other}"])
async def test_nobody_starts_a_sign_in_without_a_link_for_that_mailbox(
    site: Web, query: str
) -> None:
    """A phisher cannot send people from here to Microsoft, nor learn which mailboxes there are."""
    other = urlsplit(await site.link("shared")).query.removeprefix("ticket=")
    async with site.browser() as browser:
        known = await browser.get(f"{site.url}/oauth/start/alarm{query.format(other=other)}")
        unknown = await browser.get(f"{site.url}/oauth/start/nothing{query.format(other=other)}")
        pressed = await browser.post(f"{site.url}/oauth/start/alarm", {"ticket": other})

    for shown in (known, unknown, pressed):
        assert (shown.status, shown.name, shown.ticket) == (403, "turned-away", "")
    assert known.text == unknown.text.replace("nothing", "alarm")


async def test_a_foreign_page_cannot_press_the_button(site: Web) -> None:
    """A form that another site sends is refused, and the link stays good."""
    start = f"{site.url}/oauth/start/alarm"
    async with site.browser() as browser:
        ticket = (await browser.get(await site.link())).ticket
        for place in ("cross-site", "same-site"):
            headers = {"Sec-Fetch-Site": place}
            shown = await browser.post(start, {"ticket": ticket}, headers=headers)
            assert (shown.status, "set-cookie" in shown.headers) == (403, False)
        own = await browser.post(
            start, {"ticket": ticket}, headers={"Sec-Fetch-Site": "same-origin"}
        )

    assert own.name == "away"


async def test_an_oversized_form_is_not_read(site: Web) -> None:
    """A body without end costs four kilobytes."""
    async with site.browser() as browser:
        ticket = (await browser.get(await site.link())).ticket
        form = {"padding": "x" * 5000, "ticket": ticket}
        assert (await browser.post(f"{site.url}/oauth/start/alarm", form)).status == 403


@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_answer_without_or_with_a_made_up_state_is_refused(
    site: Web, language: str
) -> None:
    """Forged answers end on a page in plain words, and Entra is not asked."""
    async with site.browser(language) as browser:
        fields = (await site.walk(await site.away(browser))).fields
        state, code = quote(fields["state"]), quote(fields["code"])
        forged = [
            "",
            f"code={code}",
            f"code={code}&state=",
            f"code={code}&state=made-up",
            f"code={code}&state={state[:-1]}",
            f"code={code}&state=made-up&state={state}",
            f"code={code}&code=other&state={state}",
            "error=access_denied&error_description=forged",
        ]
        pages = [await browser.get(f"{site.url}/oauth/callback?{query}") for query in forged]
        good = await site.back(browser, fields)

    for shown in pages:
        _refused(shown, fields, language)
        assert shown.status == 400
    assert "/oauth/result/" in good.url
    assert codes(site) == 1


async def test_another_browser_cannot_bring_the_answer(site: Web) -> None:
    """Whoever steals the callback's address gets nothing; whom it belongs to still signs in."""
    async with site.browser() as browser, site.browser() as thief:
        fields = (await site.walk(await site.away(browser))).fields
        await site.away(thief)  # he has a cookie of his own
        stolen = await site.back(thief, fields)
        asked = codes(site)
        own = await site.settled(browser, await site.back(browser, fields))
        peeped = await thief.get(own.url)

    _refused(stolen, fields, "en")
    assert (stolen.status, asked) == (403, 0)
    assert own.name == "tested"
    assert (peeped.status, ADDRESS in peeped.text) == (404, False)


async def test_an_answer_is_taken_once(site: Web) -> None:
    """Going back, or two tabs at once, redeems the code once and saves one grant."""
    async with site.browser() as browser:
        fields = (await site.walk(await site.away(browser))).fields
        pages = await asyncio.gather(*(site.back(browser, fields) for _ in range(3)))
        again = await site.back(browser, fields)

    assert sum("/oauth/result/" in one.url for one in pages) == 1
    _refused(again, fields, "en")
    assert codes(site) == 1


async def test_an_answer_after_ten_minutes_is_refused(site: Web, clock: Clock) -> None:
    """A tab that was left open over lunch signs nobody in."""
    async with site.browser("de") as browser:
        fields = (await site.walk(await site.away(browser))).fields
        clock.advance(600)
        shown = await site.back(browser, fields)

    _refused(shown, fields, "de")
    assert "zehn Minuten" in shown.text
    assert codes(site) == 0


async def test_a_state_and_a_code_of_two_sign_ins_are_refused(site: Web) -> None:
    """A code of somebody else's that is slipped under a good state fails at PKCE."""
    async with site.browser() as browser, site.browser() as attacker:
        fields = (await site.walk(await site.away(browser))).fields
        foreign = (await site.walk(await site.away(attacker))).fields
        shown = await site.back(browser, {**fields, "code": foreign["code"]})
        swapped = await site.back(browser, {**fields, "state": foreign["state"]})

    assert (shown.status, shown.name) == (403, "refused")
    _refused(swapped, fields, "en")
    assert site.grants.saved == []


async def test_two_sign_ins_in_one_browser_do_not_mix(site: Web) -> None:
    """Somebody with two links opens both, and finishes the second one first."""
    async with site.browser() as browser:
        one = (await site.walk(await site.away(browser))).fields
        two = (await site.walk(await site.away(browser, "shared"))).fields
        second = await site.settled(browser, await site.back(browser, two))
        first = await site.settled(browser, await site.back(browser, one))

    assert (first.name, second.name) == ("tested", "tested")
    assert "mailbox alarm" in first.text
    assert "mailbox shared" in second.text


async def test_an_answer_by_form_is_refused_in_words(site: Web) -> None:
    """Nobody asks for it, since the cookie would not come along."""
    async with site.browser() as browser:
        fields = (await site.walk(await site.away(browser))).fields
        shown = await browser.post(f"{site.url}/oauth/callback", fields)

    _refused(shown, fields, "en")
    assert shown.status == 405


async def test_the_cookie_is_out_of_reach(
    tenant: Tenant, tmp_path: Path, pool: ThreadPoolExecutor, clock: Clock
) -> None:
    """No script reads it, no other site sends it, and with https no other host can set it."""
    cookies = {}
    for number, public in enumerate(("", "https://mailbridge.example")):
        home = tmp_path / str(number)
        home.mkdir()
        async with web(tenant, home, pool, clock, public_url=public) as site, site.browser() as one:
            ticket = parse_qs(urlsplit(await site.link()).query)["ticket"][0]
            shown = await one.post(f"{site.url}/oauth/start/alarm", {"ticket": ticket})
            cookies[public] = shown.headers["set-cookie"]

    plain, https = cookies.values()
    for cookie in (plain, https):
        assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
    assert https.startswith("__Host-mailbridge-")
    assert "Secure" in https.split("; ")
    assert plain.startswith("mailbridge-")


async def test_no_page_can_be_kept_framed_or_made_to_run_anything(site: Web) -> None:
    """Every page carries the policy, loads nothing, and shows what came as text at most."""
    nasty = "<script>alert(1);\"'><img src=x onerror=alert(1)>"
    async with site.browser() as browser:
        start = await browser.get(await site.link())
        away = await browser.post(f"{site.url}/oauth/start/alarm", {"ticket": start.ticket})
        fields = (await site.walk(away.link)).fields
        result = await site.back(browser, {"state": fields["state"], "error": nasty})
        pages = [
            start,
            away,
            result,
            await browser.get(
                f"{site.url}/oauth/start/{quote(nasty, safe='')}?ticket={quote(nasty)}"
            ),
            await browser.get(
                f"{site.url}/oauth/callback?state={quote(nasty)}&error={quote(nasty)}"
            ),
            await browser.get(f"{site.url}/oauth/result/{quote(nasty, safe='')}"),
        ]
        async with browser.session.get(
            f"{site.url}/oauth/callback?state=consent-web&admin_consent=True", allow_redirects=False
        ) as response:
            assert response.headers["Cache-Control"] == "no-store"

    for shown in pages:
        policy = shown.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert shown.headers["cache-control"] == "no-store"
        assert shown.headers["referrer-policy"] == "no-referrer"
        assert "<script" not in shown.html
        assert "<img" not in shown.html
        assert 'name="viewport"' in shown.html


async def test_an_unreachable_microsoft_does_not_spend_the_link(site: Web) -> None:
    """Nobody is sent into nowhere, and the same link works a minute later."""
    site.tenant.faults.add("discovery.503", times=1)
    start = f"{site.url}/oauth/start/alarm"
    async with site.browser() as browser:
        ticket = (await browser.get(await site.link())).ticket
        failed = await browser.post(start, {"ticket": ticket})
        good = await browser.post(start, {"ticket": ticket})

    assert (failed.status, failed.name) == (503, "failed")
    assert good.name == "away"


async def test_what_is_under_way_is_bounded(
    site: Web, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many links are made, memory holds a few; those on their way are not pushed out."""
    monkeypatch.setattr(oauth_pending, "JOURNEYS", 2)
    monkeypatch.setattr(oauth_pending, "LINKS", 4)
    async with site.browser() as browser:
        first = (await site.walk(await site.away(browser))).fields
        await site.away(browser)
        ticket = (await browser.get(await site.link())).ticket
        full = await browser.post(f"{site.url}/oauth/start/alarm", {"ticket": ticket})
        for _ in range(10):
            await site.link()
        assert len(site.desk.pending._tickets) == 4
        assert (full.status, "too many" in full.text) == (503, True)
        assert "/oauth/result/" in (await site.back(browser, first)).url
        clock.advance(3600)
        await site.link()

    assert len(site.desk.pending._journeys) == 0
    assert len(site.desk.pending._tickets) == 1


@pytest.mark.parametrize("mailbox", ["machine", "nothing"])
async def test_a_link_is_refused_where_nobody_signs_in(site: Web, mailbox: str) -> None:
    """The command says so at once, instead of a page later."""
    with pytest.raises(MailbridgeError):
        await site.link(mailbox)


async def test_nothing_secret_is_shown_or_logged(site: Web) -> None:
    """Codes, states, tickets, cookies and tokens stand in no log line and on no page."""
    pages: list[Shown] = []
    seen: set[str] = set()
    walks: list[dict[str, Any]] = [{}, {"cancel_at": "password"}]
    with structlog.testing.capture_logs() as logs:
        async with site.browser() as browser, site.browser() as thief:
            for walk in walks:
                first = await browser.get(await site.link())
                away = await browser.post(f"{site.url}/oauth/start/alarm", {"ticket": first.ticket})
                fields = (await site.walk(away.link, **walk)).fields
                pages.append(await site.back(thief, fields))
                pages.append(await site.settled(browser, await site.back(browser, fields)))
                pages.append(await site.back(browser, fields))
                seen |= {first.ticket, *fields.values()} - {"access_denied", "cancel"}
                seen |= {morsel.value for morsel in browser.session.cookie_jar}
    seen |= {grant.refresh_token for grant in site.grants.saved}
    seen.discard("")

    told = repr(logs)
    assert len(seen) > 8
    for secret in seen:
        assert secret not in told
        for shown in pages:
            assert secret not in shown.html
    events = [line["event"] for line in logs if line["event"].startswith("oauth.")]
    assert events.count("oauth.signed_in") == events.count("oauth.tested") == 1
    assert events.count("oauth.refused") == 1
    assert events.count("oauth.turned_away") == 4


def _refused(shown: Shown, fields: dict[str, str], language: str) -> None:
    """Make sure that a page refuses, in words, and shows nothing of what came."""
    assert shown.status in {400, 403, 405}
    assert shown.name == "turned-away"
    assert f'<html lang="{language}">' in shown.html
    assert LANGUAGES[language] in shown.text.replace("Einen", "einen")
    assert fields["state"] not in shown.html
    assert fields.get("code", "-" * 9) not in shown.html
