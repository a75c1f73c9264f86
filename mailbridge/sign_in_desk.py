"""Sign-ins on the web as the daemon takes them: what the pages of ``http.oauth`` work with.

A grant is saved first, as ``mailbridge login`` saves it, and tried afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import structlog

from mailbridge.config import Config
from mailbridge.diagnose.steps import Diagnosis, Step
from mailbridge.errors import MailbridgeError, PermanentError
from mailbridge.http.oauth_desk import CALLBACK, Offer, Tested
from mailbridge.http.oauth_pending import Pending
from mailbridge.sign_in.consent import AuthCodeFlow
from mailbridge.sign_in.entra_people import refused_consent
from mailbridge.sign_ins import SignIns

log = structlog.get_logger(__name__)

#: tries a mailbox that somebody has signed in for, step by step
Test = Callable[[str], AsyncIterator[Tested]]
#: what a browser on the same machine calls the places that only it reaches
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def public_url(config: Config, *, port: int = 0) -> str:
    """Return where browsers reach the daemon, empty when they do not.

    ``port`` is the one it listens at, where the configuration leaves that open. On loopback it
    is ``localhost``, the one name that Entra takes without https.
    """
    http = config.http
    if http.listen == "off":
        return ""
    if http.public_url is not None:
        return http.public_url
    port = http.port or port
    return f"http://localhost:{port}" if http.host in _LOOPBACK and port else ""


class SignInDesk:
    """A ``Desk`` for the pages, and the commands that belong to it.

    ``config`` gives the configuration in force; ``mended`` wakes a parked mailbox; ``test`` is
    what is done once a grant is saved, the steps of ``test-mailbox`` if nothing else is given.
    ``close`` ends what is under way.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        *,
        public_url: str,
        config: Callable[[], Config],
        sign_ins: SignIns,
        mended: Callable[[str], None],
        now: Callable[[], datetime],
        run: Callable[..., Awaitable[Any]],
        test: Test | None = None,
        send: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        """``send`` queues a test mail from a mailbox to itself, and gives its id."""
        self.public_url = public_url
        self.pending = Pending(now=now)
        self.test = test or self._diagnosed
        self._send = send
        self._config = config
        self._sign_ins = sign_ins
        self._mended = mended
        self._run = run

    def commands(self) -> dict[str, Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]]:
        """Return the commands for the control socket."""
        return {"login-link": self.link}

    async def link(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make a link by which somebody can sign in for a ``mailbox``, once."""
        name = asked["mailbox"]
        offer = self.offer(name)
        if not self.public_url:
            raise MailbridgeError(
                "browsers cannot reach this daemon",
                code="oauth.no_public_url",
                fix="write `http: {listen: 127.0.0.1:8025, public_url: https://HOST}` and restart "
                f"it; or run `mailbridge login {name} --device`",
            )
        if not self._config().state.key:
            raise MailbridgeError(
                "state.key is not set, so a grant could not be kept",
                code="oauth.no_key",
                fix="make one with `mailbridge secret key` and write `state: {key: {file: PATH}}`",
            )
        ticket = self.pending.issue(name)
        self.pending.outcomes["link"] += 1
        log.info("oauth.link", mailbox=name)
        query = urlencode({"ticket": ticket.value})
        return {
            "url": f"{self.public_url}/oauth/start/{name}?{query}",
            "redirect_uri": self.public_url + CALLBACK,
            "account": offer.account,
            "expires_at": ticket.expires_at.isoformat(),
        }

    def offer(self, mailbox: str) -> Offer:
        """Return what signing in for a mailbox means; ``PermanentError`` when nobody can."""
        account = self._flow(mailbox).account
        config = self._config()
        section = config.mailboxes[mailbox]
        return Offer(
            mailbox=mailbox,
            address=section.address,
            account=account.address,
            app=section.app,
            host=urlsplit(config.apps[section.app].authority_url).hostname or "",
        )

    async def begin(self, mailbox: str, redirect_uri: str) -> WebAttempt:
        """Prepare a sign-in; raises ``MailbridgeError`` when Entra cannot be reached.

        The answer comes in a query: the cookie that tells the browser does not come with a form.
        """
        flow = self._flow(mailbox)
        url = await flow.start(redirect_uri)
        return WebAttempt(self, mailbox, flow, url)

    def knows(self, app: str) -> bool:
        """Tell whether there is an app of this name."""
        return app in self._config().apps

    def explain(self, app: str, answer: Mapping[str, str]) -> MailbridgeError:
        """Return why an admin consent was refused, without a word of the answer's."""
        return refused_consent(app, answer)

    async def kept(self, mailbox: str, flow: AuthCodeFlow, answer: Mapping[str, str]) -> None:
        """Finish a sign-in and save its grant; wakes the mailboxes that have waited for it."""
        grant = await flow.finish(answer)
        sign_in = self._sign_ins.delegated(mailbox)
        await sign_in.adopt(grant)
        for other, names in self._sign_ins.made():
            if other is sign_in:
                for name in names:
                    self._mended(name)

    async def close(self) -> None:
        """End what is under way."""
        await self.pending.close()

    def _flow(self, mailbox: str) -> AuthCodeFlow:
        if mailbox not in self._config().mailboxes:
            raise PermanentError(f"there is no mailbox {mailbox}", code="oauth.no_mailbox")
        return self._sign_ins.browser_flow(mailbox)

    async def _diagnosed(self, mailbox: str) -> AsyncIterator[Tested]:
        sign_in = self._sign_ins.of(mailbox)
        diagnosis = Diagnosis(config=self._config(), name=mailbox, sign_in=sign_in, run=self._run)
        well = True
        async for step in diagnosis.steps():
            well = well and step.status not in {"failed", "skipped"}
            yield step
        if well and self._send is not None and self._config().mailboxes[mailbox].send is not None:
            yield await self._test_mail(mailbox, self._send)

    async def _test_mail(self, mailbox: str, send: Callable[[str], Awaitable[str]]) -> Step:
        """Queue a mail to the mailbox itself, now that it is known to be able to send."""
        try:
            name = await send(mailbox)
        except MailbridgeError as error:
            return Step(
                id="test_mail",
                status="failed",
                detail=str(error),
                seconds=0.0,
                cause=str(error),
                fix=error.fix,
                code=error.code,
            )
        said = f"a test mail to the mailbox itself is queued as {name}"
        return Step(id="test_mail", status="ok", detail=said, seconds=0.0)


class WebAttempt:
    """One sign-in with Microsoft that a browser was sent to: see ``http.oauth_desk.Attempt``."""

    def __init__(self, desk: SignInDesk, mailbox: str, flow: AuthCodeFlow, url: str) -> None:
        self.url = url
        self.state = flow.state
        self._desk = desk
        self._mailbox = mailbox
        self._flow = flow

    async def finish(self, answer: Mapping[str, str]) -> None:
        """Check what Entra answered and save the grant."""
        await self._desk.kept(self._mailbox, self._flow, answer)
