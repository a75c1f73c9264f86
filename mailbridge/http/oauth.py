"""Signing in on the web: from a link to Microsoft and back.

::

    GET  /oauth/start/NAME?ticket=…   says what this is about; nothing is spent by looking
    POST /oauth/start/NAME            the button: spends the link, binds the browser, goes on
    GET  /oauth/callback              Microsoft's answer: grant saved, then tried
    GET  /oauth/result/TAG            what came of it, for that browser alone

Links are made by ``mailbridge login NAME --web`` alone, so that nobody can send people from here
to Microsoft who could not read the database anyway. No code, state, ticket or cookie is ever
shown or logged. Import this module where it is served: FastAPI and jinja2 come with it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from mailbridge.errors import MailbridgeError
from mailbridge.http.oauth_desk import CALLBACK, CONSENT, Desk
from mailbridge.http.oauth_pages import headers, page
from mailbridge.http.oauth_pending import PATIENCE, REMEMBERED, Journey, Phase
from mailbridge.http.oauth_words import WORDS, Language, language, told, word

log = structlog.get_logger(__name__)

#: bytes of a form that are read at most
FORM: Final = 4096
#: seconds for the whole test after a sign-in, and between two looks of the page at it
TEST_WITHIN: Final = 180.0
LOOK_EVERY: Final = 2
#: parameters of the answer that may come once
_ONCE: Final = ("state", "code", "error", "error_description", "admin_consent")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def oauth_routes(desk: Desk) -> APIRouter:
    """Return the routes of signing in; they are no part of the API's description."""
    web = _Web(desk)
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/oauth/start/{name}", web.start, methods=["GET"])
    router.add_api_route("/oauth/start/{name}", web.go, methods=["POST"])
    router.add_api_route(CALLBACK, web.callback, methods=["GET"])
    router.add_api_route(CALLBACK, web.form_post, methods=["POST"])
    router.add_api_route("/oauth/result/{tag}", web.result, methods=["GET"])
    return router


class _Web:
    """The handlers; each returns a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        parts = urlsplit(desk.public_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._secure = parts.scheme == "https"

    # -- there --------------------------------------------------------------------------------

    async def start(self, request: Request, name: str) -> Response:
        """Say what the link is for, and offer the button. A preview of the link spends nothing."""
        lang = _language(request)
        value = request.query_params.get("ticket", "")
        if self._desk.pending.look(name, value) is None:
            return self._refused(lang, "start", "no.ticket", name=name, status=403)
        try:
            offer = self._desk.offer(name)
        except MailbridgeError as error:
            return self._failed(lang, "start", error, name=name)
        said = {
            "mailbox": offer.mailbox,
            "address": offer.address,
            "account": offer.account,
            "host": offer.host,
        }
        return self._page(
            lang,
            "start",
            word(lang, "start", **said),
            texts=[word(lang, "start.text", **said), word(lang, "start.warning")],
            form=self._form(lang, name, value, "start.button"),
        )

    async def go(self, request: Request, name: str) -> Response:
        """Spend the link, bind the browser by a cookie, and send it to Microsoft."""
        lang = _language(request)
        # A browser says where a form was sent from; one that does not say is let through.
        if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            return self._refused(lang, "start", "no.site", name=name, status=403)
        pending = self._desk.pending
        ticket = pending.spend(name, await _ticket(request))
        if ticket is None:
            return self._refused(lang, "start", "no.ticket", name=name, status=403)
        try:
            pending.require_room()
            offer = self._desk.offer(name)
            attempt = await self._desk.begin(name, self._desk.public_url + CALLBACK)
        except MailbridgeError as error:
            pending.give_back(ticket)
            return self._failed(lang, "start", error, name=name)
        journey = pending.send_away(offer, attempt, ticket)
        self._count("sent_away")
        log.info("oauth.sent_away", mailbox=name)
        # A page and not a redirect: form-action would have to name every host on Microsoft's way.
        response = self._page(
            lang,
            "away",
            word(lang, "away"),
            texts=[word(lang, "away.text")],
            link=attempt.url,
            link_text=offer.host,
            refresh=f"0; url={attempt.url}",
        )
        response.set_cookie(
            self._cookie(journey.tag),
            journey.binding,
            max_age=int((PATIENCE + REMEMBERED).total_seconds()),
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )
        return response

    # -- and back -----------------------------------------------------------------------------

    async def callback(self, request: Request) -> Response:
        """Take Microsoft's answer, from the browser that was sent there, once."""
        lang = _language(request)
        query = request.query_params
        if any(len(query.getlist(name)) > 1 for name in _ONCE) or not query.get("state"):
            return self._refused(lang, "callback", "no.state")
        state = query["state"]
        if state.startswith(CONSENT) and self._desk.knows(state.removeprefix(CONSENT)):
            return self._consent(lang, state.removeprefix(CONSENT), dict(query))
        journey = self._desk.pending.by_state(state)
        if journey is None:
            return self._refused(lang, "callback", "no.unknown")
        if why := self._no_good(request, journey):
            return self._refused(lang, "callback", why, name=journey.offer.mailbox, status=403)
        journey.phase = "answered"
        # A browser that goes away must not end what it began: a code is good for one time.
        await asyncio.shield(self._desk.pending.finish(self._take(journey, dict(query))))
        place = f"{self._desk.public_url}/oauth/result/{journey.tag}"
        return RedirectResponse(place, status_code=303, headers=headers(self._origin, lang))

    def _no_good(self, request: Request, journey: Journey) -> str:
        """Return why an answer is not taken from this browser, or no more; empty when it is."""
        if not self._belongs(request, journey):
            return "no.browser"
        if journey.phase != "away":
            return "no.used"
        return "no.expired" if self._desk.pending.too_late(journey) else ""

    async def _take(self, journey: Journey, answer: dict[str, str]) -> None:
        """Save what was granted; its test runs on beside the pages."""
        offer, pending = journey.offer, self._desk.pending
        try:
            await journey.attempt.finish(answer)
        except MailbridgeError as error:
            pending.refuse(journey, error)
            self._count("refused")
            log.warning("oauth.refused", mailbox=offer.mailbox, at="callback", code=error.code)
            return
        journey.phase = "saved"
        self._count("signed_in")
        log.info("oauth.signed_in", mailbox=offer.mailbox, app=offer.app)
        pending.test(self._test(journey))

    async def _test(self, journey: Journey) -> None:
        name = journey.offer.mailbox
        try:
            async with asyncio.timeout(TEST_WITHIN):
                async for step in self._desk.test(name):
                    journey.steps.append(step)
        except (MailbridgeError, TimeoutError) as error:
            journey.error = (
                error
                if isinstance(error, MailbridgeError)
                else MailbridgeError(
                    "the test took too long", fix=f"`mailbridge test-mailbox {name}`"
                )
            )
        journey.phase = "tested"
        failed = [step.id for step in journey.steps if step.status == "failed"]
        ok = not failed and journey.error is None
        self._count("tested_ok" if ok else "tested_failed")
        log.info("oauth.tested", mailbox=name, ok=ok, failed=failed)

    async def form_post(self, request: Request) -> Response:
        """Refuse an answer that comes as a form: the cookie does not come along with it."""
        return self._refused(_language(request), "callback", "no.form", status=405)

    def _consent(self, lang: Language, app: str, answer: dict[str, str]) -> Response:
        """Tell an administrator what became of it. Nothing is done on the word of this answer."""
        agreed = answer.get("admin_consent", "").casefold() == "true" and "error" not in answer
        if agreed:
            self._count("admin_granted")
            log.info("oauth.admin_consent", app=app, granted=True)
            text = word(lang, "granted.text", app=app)
            return self._page(lang, "granted", word(lang, "granted"), texts=[text])
        error = self._desk.explain(app, answer)
        self._count("admin_denied")
        log.warning("oauth.admin_consent", app=app, granted=False, code=error.code)
        return self._page(
            lang,
            "denied",
            word(lang, "denied"),
            status=403,
            texts=[word(lang, "denied.text", app=app)],
            facts=_facts(lang, error, app=app, account="", mailbox="NAME"),
        )

    # -- what came of it ----------------------------------------------------------------------

    async def result(self, request: Request, tag: str) -> Response:
        """Show what came of a sign-in to the browser that it belongs to."""
        lang = _language(request)
        journey = self._desk.pending.by_tag(tag)
        if journey is None or journey.phase == "away" or not self._belongs(request, journey):
            return self._refused(lang, "result", "no.result", status=404)
        offer, error = journey.offer, journey.error
        said = {"mailbox": offer.mailbox, "account": offer.account}
        facts = _facts(lang, error, **said, app=offer.app) if error is not None else []
        if journey.phase == "refused":
            again = journey.again
            return self._page(
                lang,
                "refused",
                word(lang, "refused"),
                status=403,
                facts=facts,
                form=self._form(lang, offer.mailbox, again, "again.button") if again else None,
            )
        shown = _shown(journey)
        return self._page(
            lang,
            shown,
            word(lang, shown, **said),
            texts=[word(lang, f"{shown}.text", **said)],
            facts=facts,
            steps=[_step(lang, step) for step in journey.steps],
            refresh=str(LOOK_EVERY) if journey.phase in {"answered", "saved"} else None,
        )

    # -- pages --------------------------------------------------------------------------------

    def _page(self, lang: Language, name: str, title: str, **given: Any) -> Response:
        return page(name, title, lang=lang, origin=self._origin, **given)

    def _form(self, lang: Language, name: str, ticket: str, button: str) -> dict[str, str]:
        action = f"{self._desk.public_url}/oauth/start/{name}"
        return {"action": action, "ticket": ticket, "button": word(lang, button)}

    def _refused(
        self, lang: Language, at: str, why: str, *, name: str = "", status: int = 400
    ) -> Response:
        """Return the page for an answer or a link that is no good; says nothing of what came."""
        self._count("turned_away")
        log.info("oauth.turned_away", at=at, reason=why.removeprefix("no."))
        shown = name if _NAME.fullmatch(name) else "NAME"
        fix = f"{why}.fix" if why in {"no.ticket", "no.browser"} else "no.fix"
        text = word(lang, fix, name=shown)
        return self._page(lang, "turned-away", word(lang, why), status=status, texts=[text])

    def _failed(self, lang: Language, at: str, error: MailbridgeError, *, name: str) -> Response:
        self._count("failed")
        log.warning("oauth.failed", at=at, mailbox=name, code=error.code)
        facts = _facts(lang, error, account="", app="APP", mailbox=name)
        return self._page(lang, "failed", word(lang, "refused"), status=503, facts=facts)

    def _cookie(self, tag: str) -> str:
        """Return the name of a journey's cookie; the prefix keeps other hosts from setting it."""
        return f"{'__Host-' if self._secure else ''}mailbridge-{tag}"

    def _belongs(self, request: Request, journey: Journey) -> bool:
        return journey.belongs_to(request.cookies.get(self._cookie(journey.tag), ""))

    def _count(self, outcome: str) -> None:
        self._desk.pending.outcomes[outcome] += 1


def _language(request: Request) -> Language:
    return language(request.headers.get("accept-language", ""))


async def _ticket(request: Request) -> str:
    """Return the ticket of a form; nothing for a body that is too large to be ours."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM:
            return ""
    return parse_qs(body.decode("ascii", "replace")).get("ticket", [""])[0]


def _shown(journey: Journey) -> Phase | str:
    """Return the name of the page for a grant that was saved, or is being checked."""
    if journey.phase != "tested":
        return journey.phase
    failed = journey.error is not None or any(step.status == "failed" for step in journey.steps)
    return "failing" if failed else "tested"


def _facts(lang: Language, error: MailbridgeError, **values: str) -> list[tuple[str, str]]:
    texts = zip(("cause", "fix", "said"), told(lang, error, **values), strict=True)
    return [(word(lang, f"label.{label}"), text) for label, text in texts if text]


def _step(lang: Language, step: Any) -> dict[str, Any]:
    known = {"cause": step.cause if step.cause != step.detail else "", "fix": step.fix}
    return {
        "id": step.id,
        "status": step.status,
        "title": WORDS[lang].get(f"step.{step.id}", step.id),
        "word": word(lang, f"status.{step.status}"),
        "detail": step.detail,
        "facts": [(word(lang, f"label.{key}"), text) for key, text in known.items() if text],
    }
