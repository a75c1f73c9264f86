"""What a sign-in on the web comes to: kept and tried, refused with the reason, or by command."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from mailbridge.catalogue.lookup import CATALOGUE
from mailbridge.diagnose.steps import Step
from mailbridge.errors import SignInRejected, StoreFull
from mailbridge.http import server
from mailbridge.http.control import control, socket_path
from mailbridge.http.oauth_words import WORDS, language, told
from mailbridge.sandbox.directory import User
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in.entra_people import PEOPLE
from tests.conftest import Clock
from tests.servers.oauth_web import ADDRESS, SECONDS, Shown, Web, web


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


async def ended(site: Web, language: str = "en", **walk: Any) -> Shown:
    """Walk from a link to the page that says what came of it."""
    async with site.browser(language) as browser:
        landing = await site.walk(await site.away(browser), **walk)
        return await site.settled(browser, await site.back(browser, landing.fields))


# --- saved first, then tried ------------------------------------------------------------------


async def test_what_was_granted_is_saved_before_it_is_tried(site: Web) -> None:
    """A crash during the test costs nothing, and the page says at once that it is kept."""
    tried = asyncio.Event()
    usual = site.desk.test

    async def slow(mailbox: str):  # type: ignore[no-untyped-def] # noqa: ANN202 - as the desk's own
        assert [grant.account for grant in site.grants.saved] == [ADDRESS]
        await tried.wait()
        async for step in usual(mailbox):
            yield step

    site.desk.test = slow
    async with site.browser() as browser:
        landing = await site.walk(await site.away(browser))
        shown = await site.back(browser, landing.fields)
        assert shown.name == "saved"
        assert "is kept, encrypted" in shown.text
        tried.set()
        assert (await site.settled(browser, shown)).name == "tested"


async def test_a_daemon_that_stops_does_not_lose_the_grant(
    tenant: Tenant,
    tmp_path: Path,
    pool: ThreadPoolExecutor,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A code is good for one time, so an answer that is being taken is saved before the end."""
    monkeypatch.setattr(server, "STOP_WITHIN", 0)
    saving, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        saving.set()
        await go_on.wait()

    async with AsyncExitStack() as daemon:
        site = await daemon.enter_async_context(web(tenant, tmp_path, pool, clock))
        site.grants.hold = hold
        async with site.browser() as browser:
            landing = await site.walk(await site.away(browser))
            callback = asyncio.create_task(site.back(browser, landing.fields))
            await saving.wait()
            closing = asyncio.create_task(daemon.aclose())
            await asyncio.wait({callback}, timeout=SECONDS)  # the browser is cut off
            assert not site.grants.saved
            go_on.set()
            await closing
            await asyncio.gather(callback, return_exceptions=True)

    assert site.grants.saved[0].account == ADDRESS


async def test_what_servers_say_is_shown_as_text(site: Web) -> None:
    """The words of a mail server, of Entra and of a configuration are never markup."""
    nasty = "<script>alert(1)</script><img src=x onerror=alert(1)> `<b>`"

    async def hostile(mailbox: str) -> AsyncIterator[Step]:
        assert mailbox == "alarm"
        yield Step(id=nasty, status="failed", detail=nasty, seconds=0, cause=nasty + "!", fix=nasty)

    site.desk.test = hostile
    shown = await ended(site)

    assert shown.name == "failing"
    for markup in ("<script", "<img", "<b>"):
        assert markup not in shown.html
    assert shown.text.count("alert(1)") >= 6
    assert "<code>&lt;b&gt;</code>" in shown.html


async def test_a_mailbox_that_does_not_open_says_why_and_keeps_the_grant(site: Web) -> None:
    """Nobody signs in again for what an administrator has to mend."""
    site.tenant.exchange.mailboxes["shared@feuerwehr.example"].imap_enabled = False
    async with site.browser() as browser:
        landing = await site.walk(await site.away(browser, "shared"))
        shown = await site.settled(browser, await site.back(browser, landing.fields))

    assert shown.name == "failing"
    assert "Set-CASMailbox -Identity shared@feuerwehr.example" in shown.text
    assert site.grants.rows


async def test_a_grant_that_cannot_be_kept_is_told(site: Web) -> None:
    """A full disk is no success, and the page does not say so."""
    site.grants.error = StoreFull("the disk is full", code="store.full", fix="Make room.")
    shown = await ended(site)

    assert (shown.status, shown.name) == (403, "refused")
    assert "the disk is full" in shown.text
    assert site.mended == []


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lang", ["en", "de"])
async def test_another_account_is_refused_with_both_names(site: Web, lang: str) -> None:
    """Who signs in as himself by habit is told, and does it right with the same link's rest."""
    chief = site.tenant.add_user("chief@feuerwehr.example")
    async with site.browser(lang) as browser:
        wrong = await site.walk(await site.away(browser), chief)
        shown = await site.settled(browser, await site.back(browser, wrong.fields))
        start = f"{site.url}/oauth/start/alarm"
        again = await browser.post(start, {"ticket": shown.ticket})
        right = await site.walk(again.link)
        end = await site.settled(browser, await site.back(browser, right.fields))

    assert (shown.status, shown.name) == (403, "refused")
    assert {chief.upn, ADDRESS} <= set(shown.text.replace(",", " ").split())
    assert "signed_in_as" in shown.text
    assert end.name == "tested"
    assert {grant.object_id for grant in site.grants.saved} == {site.user.object_id}


async def test_trying_again_ends_with_the_link(site: Web, clock: Clock) -> None:
    """Ten minutes after the link was made, a new one is needed."""
    async with site.browser() as browser:
        url = await site.away(browser)
        clock.advance(599)
        fields = (await site.walk(url, cancel_at="password")).fields
        clock.advance(0.5)
        shown = await site.back(browser, fields)
        assert shown.ticket
        clock.advance(1)
        late = await browser.post(f"{site.url}/oauth/start/alarm", {"ticket": shown.ticket})

    assert late.status == 403


@pytest.mark.parametrize("withheld", ["offline_access", "IMAP.AccessAsUser.All"])
async def test_an_incomplete_grant_is_refused_with_what_is_missing(
    site: Web, withheld: str
) -> None:
    """It would have worked for an hour, or not at all."""
    site.app.withheld = (withheld,)
    shown = await ended(site)

    assert (shown.status, shown.name) == (403, "refused")
    assert f"{withheld} was not granted" in shown.text
    assert "API permissions" in shown.text
    assert site.grants.saved == []


def _decline(site: Web) -> dict[str, Any]:
    site.app.consented = False
    return {"accept": False}


def _admin_alone(site: Web) -> dict[str, Any]:
    site.app.consented = False
    site.tenant.directory.user_consent = False
    return {}


def _policy(site: Web) -> dict[str, Any]:
    site.user.blocked = True
    return {}


def _wrong_secret(site: Web) -> dict[str, Any]:
    site.app.secrets.clear()
    site.app.add_secret()
    return {}


def _cancel(_: Web) -> dict[str, Any]:
    return {"cancel_at": "password"}


@pytest.mark.parametrize(
    ("trouble", "english", "german"),
    [
        (_decline, "consent was declined", "abgelehnt"),
        (_admin_alone, "consent-url web", "consent-url web"),
        (_policy, "Conditional Access policy", "bedingten Zugriff"),
        (_wrong_secret, "its Value (not its Secret ID)", "dessen Wert (nicht die ID)"),
        (_cancel, ADDRESS, "abgebrochen"),
    ],
)
async def test_microsofts_refusals_are_told_in_plain_words(
    site: Web, trouble: object, english: str, german: str
) -> None:
    """Cause and fix, not a number alone, in the language of whoever reads it."""
    walk = trouble(site)  # type: ignore[operator] # one of those above
    for lang, words in (("en", english), ("de", german)):
        shown = await ended(site, lang, **walk)
        assert (shown.status, shown.name) == (403, "refused")
        assert words in shown.text
        assert WORDS[lang]["label.cause"] in shown.text  # type: ignore[index] # a language
    assert site.grants.saved == []


# --- administrators ---------------------------------------------------------------------------


@pytest.fixture
def admin(site: Web) -> User:
    return site.tenant.add_user("admin@feuerwehr.example", admin=True)


async def called(site: Web, *words: str) -> tuple[int, str, str]:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "mailbridge", "--config", str(site.file), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")},
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_an_administrator_is_told_what_became_of_the_consent(site: Web, admin: User) -> None:
    """The link of `consent-url` comes back to a page that says granted, or not, and for whom."""
    site.app.consented = False
    code, out, err = await called(site, "consent-url", "web", "--json")
    assert code == 0, err
    url = json.loads(out)[0]["url"]
    async with site.browser() as browser, site.tenant.browser() as microsoft:
        declined = await microsoft.walk_admin_consent(url, admin, accept=False)
        no = await site.back(browser, declined.fields)
        granted = await microsoft.walk_admin_consent(url, admin)
        yes = await site.back(browser, granted.fields)

    assert parse_qs(urlsplit(url).query)["redirect_uri"] == [f"{site.url}/oauth/callback"]
    assert (no.status, no.name) == (403, "denied")
    assert "consent was declined (AADSTS65004)" in no.text
    assert "consent-url web" in no.text
    assert (yes.status, yes.name) == (200, "granted")
    assert "app web" in yes.text
    assert site.app.consented


async def test_a_made_up_consent_puts_no_words_into_our_mouth(site: Web) -> None:
    """Anybody can write such an address: it changes nothing and shows none of its text."""
    base = f"{site.url}/oauth/callback"
    lure = quote("AADSTS700016: call +49 190 12345 at once")
    async with site.browser() as browser:
        made_up = await browser.get(
            f"{base}?admin_consent=True&state=consent-web&error={lure}&error_description={lure}"
        )
        unknown = await browser.get(f"{base}?admin_consent=True&state=consent-other")
        stateless = await browser.get(f"{base}?admin_consent=True&tenant=x")

    assert (made_up.status, made_up.name) == (403, "denied")
    assert "12345" not in made_up.html
    assert "AADSTS700016" in made_up.text
    for shown in (unknown, stateless):
        assert (shown.status, shown.name) == (400, "turned-away")


# --- by command -------------------------------------------------------------------------------


async def test_the_command_prints_a_link_that_works(site: Web) -> None:
    """`login --web` prints the link alone, for a pipe, and the redirect URI beside it."""
    path = socket_path(site.config.state.database.reveal(), os.environ)
    alone = await called(site, "login", "alarm", "--web")
    async with control(path, {}):
        pageless = await called(site, "login", "alarm", "--web")
    async with control(path, site.desk.commands()):
        code, out, err = await called(site, "login", "alarm", "--web")
        refused = await called(site, "login", "machine", "--web")
    async with site.browser() as browser:
        shown = await browser.get(out.strip())

    assert code == 0, err
    assert shown.name == "start"
    assert f"{site.url}/oauth/callback" in err
    assert (alone[0], "no daemon runs" in alone[2]) == (1, True)
    assert (pageless[0], "public_url" in pageless[2]) == (1, True)
    assert (refused[0], "sign_in: delegated" in refused[2]) == (1, True)


# --- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.5", "de"),
        ("en-GB, de;q=0.9", "en"),
        ("fr, de;q=0.4, en;q=0.3", "de"),
        ("fr, *;q=0.5", "en"),
        ("de;q=0, en;q=0", "en"),
        ("de;q=..", "en"),
        ("\0" * 10_000, "en"),
    ],
)
def test_a_page_speaks_the_language_that_a_browser_prefers(header: str, expected: str) -> None:
    """German where it is asked for first, else English."""
    assert language(header) == expected


def test_both_languages_say_everything() -> None:
    """No text is missing in one of them, and their places for values are the same."""
    assert WORDS["en"].keys() == WORDS["de"].keys()
    for name, text in WORDS["en"].items():
        for place in ("{mailbox}", "{account}", "{app}", "{name}", "{host}", "{address}"):
            assert (place in text) == (place in WORDS["de"][name]), name


def test_what_people_are_refused_for_has_german_words() -> None:
    """The refusals that a person meets in a browser are all told in German."""
    values = {"account": ADDRESS, "mailbox": "alarm", "app": "web"}
    browsers = {65004, 90094, 90095, 65001, 53003, 50105, 50020, 54005, 50079, 50057}
    policies = {n for n in PEOPLE if "Conditional" in CATALOGUE[f"AADSTS{n}"].cause.en}
    for number in browsers | policies:
        error = SignInRejected("in English", code=f"AADSTS{number}", fix="Mend it.")
        if number != 70043:  # told when a token is refreshed, not in a browser
            assert told("de", error, **values)[0] != "in English", number
        assert told("en", error, **values) == ("in English", "Mend it.", "")


@pytest.mark.parametrize("number", sorted(PEOPLE))
def test_every_refusal_of_a_person_is_told_in_german(number: int) -> None:
    """What has no words of its own on the page has those of the catalogue, ids filled in."""
    error = SignInRejected("in English", code=f"AADSTS{number}", fix="Mend it.")
    cause, fix, said = told("de", error, account=ADDRESS, mailbox="alarm", app="web")

    assert said == "in English"
    assert cause not in {"", said}
    assert fix
    assert "$" not in cause + fix
    assert "{" not in cause + fix
