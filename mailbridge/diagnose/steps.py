"""The steps of ``mailbridge test-mailbox``: each isolated, timed and explained.

::

    config  dns  tcp  tls  tenant  [grant]  token  claims  sign_in  folder  header  push
    [smtp  smtp_sign_in]  [send  arrival]  expiry  [webhook:NAME …]  [delivery]

A step that needs a failed one is skipped. It asks for no right that the daemon's job does not
need: folders are opened read-only, headers are read, webhooks are connected to and hung up on,
and nothing is sent unless a ``Trip`` says so. Nothing that it returns contains a token or a secret.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import structlog

from mailbridge.catalogue.base import Ids, Language
from mailbridge.config import Config, Mailbox
from mailbridge.diagnose.finding import Fault, LeftOut, Status, Step, Told
from mailbridge.diagnose.mail import Probe, probe
from mailbridge.diagnose.own import cause_and_fix
from mailbridge.diagnose.round_trip import RoundTrip, Trip
from mailbridge.diagnose.smtp import SmtpProbe
from mailbridge.diagnose.tokens import Tokens
from mailbridge.diagnose.way import Way, through
from mailbridge.diagnose.webhooks import reach, webhooks_of
from mailbridge.diagnose.words import name_of, say, told
from mailbridge.errors import MailbridgeError
from mailbridge.sign_in.base import SignIn
from mailbridge.sources.transport import MailServer
from mailbridge.store.base import GrantStore

__all__ = ["Diagnosis", "Step"]

log = structlog.get_logger(__name__)

#: step -> (what it does, the steps that it needs)
_Plan = dict[str, tuple[Callable[[], Awaitable[Told]], tuple[str, ...]]]


@dataclass(slots=True, kw_only=True)
class Diagnosis:
    """One mailbox under diagnosis. ``steps`` yields each step as it ends.

    ``grants`` is the store of what people consented to, where one is open. With ``webhooks``
    those of this mailbox are connected to. With a ``trip`` a test mail is sent.
    """

    config: Config
    name: str
    sign_in: SignIn
    run: Callable[..., Awaitable[Any]]
    language: Language = "en"
    grants: GrantStore | None = None
    webhooks: bool = False
    trip: Trip | None = None
    _probe: Probe = field(init=False)
    _tokens: Tokens = field(init=False)
    _smtp: SmtpProbe | None = field(init=False)
    _round_trip: RoundTrip | None = field(init=False)

    def __post_init__(self) -> None:
        """Choose the steps of the mailbox's protocols."""
        mailbox = self._mailbox
        self._probe = probe(mailbox, self._server, self.run)
        self._tokens = Tokens(
            config=self.config,
            name=self.name,
            sign_in=self.sign_in,
            grants=self.grants,
            run=self.run,
        )
        self._smtp = None
        if mailbox.send is not None:
            self._smtp = SmtpProbe(mailbox, mailbox.send, sends=self.trip is not None)
        self._round_trip = None
        if self.trip is not None:
            self._round_trip = RoundTrip(
                self.trip, config=self.config, name=self.name, probe=self._probe
            )

    @property
    def round_trip(self) -> float | None:
        """Seconds from sending to the webhooks; ``None`` when there was no such trip."""
        return self._round_trip.seconds if self._round_trip is not None else None

    async def steps(self) -> AsyncIterator[Step]:
        """Run the steps in order; after a failure those that build on it are skipped."""
        #: or left out: there is nothing to build on
        failed: set[str] = set()
        try:
            for name, (work, needs) in self._plan().items():
                missing = [need for need in needs if need in failed]
                if missing:
                    failed.add(name)
                    need = name_of(missing[0], self.language)
                    detail = say("needs", self.language, step=need)
                    yield Step(id=name, status="skipped", detail=detail, seconds=0.0)
                    continue
                step = await self._one(name, work)
                if step.status in {"failed", "skipped"}:
                    failed.add(name)
                yield step
        finally:
            await self._probe.close()
            if self._smtp is not None:
                await self._smtp.close()

    # -- which steps there are ----------------------------------------------------------------

    def _plan(self) -> _Plan:
        """Return what is tried for this mailbox: step, what it does, the steps that it needs."""
        plan: _Plan = {"config": (self._config_step, ())}
        if self._smtp is not None and self._mailbox.fetch.protocol == "none":
            plan |= self._asking()
        else:
            plan |= self._fetching()
        if self._smtp is not None:
            plan["smtp"] = (self._smtp.connect, ("config",))
            plan["smtp_sign_in"] = (self._smtp_sign_in, ("smtp", "token"))
        if (trip := self._round_trip) is not None:
            plan |= self._sending(trip)
        plan["expiry"] = (self._tokens.expiry, ("token",))
        if self.webhooks:
            for name in webhooks_of(self.config, self.name):
                work = partial(reach, name, self.config.webhooks[name])
                plan[f"webhook:{name}"] = (work, ("config",))
        if trip is not None and trip.to_itself:
            plan["delivery"] = (trip.delivery, ("arrival",))
        return plan

    def _asking(self) -> _Plan:
        tokens = self._tokens
        plan: _Plan = {"tenant": (tokens.tenant, ("config",))}
        needs: tuple[str, ...] = ("tenant",)
        if self._mailbox.sign_in == "delegated" and self.grants is not None:
            plan["grant"] = (tokens.grant, ("config",))
            needs = ("tenant", "grant")
        plan["token"] = (tokens.fetch, needs)
        plan["claims"] = (tokens.claims, ("token",))
        return plan

    def _fetching(self) -> _Plan:
        way = Way(self._server, starttls=self._probe.starttls, run=self.run)
        return {
            "dns": (way.dns, ("config",)),
            "tcp": (way.tcp, ("dns",)),
            "tls": (way.tls, ("tcp",)),
            **self._asking(),
            "sign_in": (self._sign_in, ("tls", "token")),
            "folder": (self._probe.folder, ("sign_in",)),
            "header": (self._probe.header, ("folder",)),
            "push": (self._probe.push, ("folder",)),
        }

    def _sending(self, trip: RoundTrip) -> _Plan:
        if self._smtp is None:
            plan: _Plan = {"send": (trip.no_sending, ("config",))}
        else:
            plan = {"send": (partial(self._send, trip, self._smtp), ("smtp_sign_in",))}
        if trip.to_itself:
            fetched = self._mailbox.fetch.protocol != "none"
            needs = ("send", "folder") if fetched else ("send",)
            plan["arrival"] = (partial(trip.arrival, self.sign_in), needs)
        return plan

    # -- one step -----------------------------------------------------------------------------

    async def _one(self, name: str, work: Callable[[], Awaitable[Told]]) -> Step:
        clock = time.monotonic()
        detail, code, fix = "", "", ""
        try:
            detail = (await work()).of(self.language)
            status: Status = "ok"
        except LeftOut as nothing:
            status, detail = "skipped", nothing.why.of(self.language)
        except Fault as fault:
            status = "warning" if fault.warning else "failed"
            detail, code = fault.said.of(self.language), fault.code
            fix = fault.fix.of(self.language) if fault.fix is not None else ""
        except MailbridgeError as error:
            status, detail, code, fix = "failed", str(error), error.code, error.fix
        except Exception as error:
            # A bug of ours ends this step; the others may still tell what the person came for.
            log.exception("diagnosis.bug", mailbox=self.name, step=name)
            status, detail, code = "failed", type(error).__name__, "bug"
        seconds = round(time.monotonic() - clock, 3)
        step = Step(id=name, status=status, detail=detail, seconds=seconds)
        if not code:
            return step
        cause, fix = cause_and_fix(code, self._ids(name), self.language, said=detail, fix=fix)
        return Step(
            id=name,
            status=status,
            detail=detail,
            seconds=seconds,
            cause=cause,
            fix=fix,
            code=code,
        )

    def _ids(self, step: str) -> Ids:
        mailbox = self._mailbox
        app = self.config.apps[mailbox.app]
        return Ids(
            mailbox=self.name,
            address=mailbox.address,
            account=mailbox.account if mailbox.account != mailbox.address else "",
            app=mailbox.app,
            tenant=app.tenant_id,
            client_id=app.client_id,
            object_id=self._tokens.object_id,
            server=self._place(step),
            login=f"mailbridge login {self.name}",
            sign_in=mailbox.sign_in,
        )

    def _place(self, step: str) -> str:
        """Return host and port that a step speaks with."""
        mailbox = self._mailbox
        kind, _, webhook = step.partition(":")
        if kind == "webhook":
            url = urlsplit(self.config.webhooks[webhook].origin)
            return f"{url.hostname}:{url.port or (80 if url.scheme == 'http' else 443)}"
        if kind in {"tenant", "grant", "token", "claims", "expiry"}:
            url = urlsplit(self.config.apps[mailbox.app].authority_url)
            return f"{url.hostname}:{url.port or 443}"
        if kind in {"smtp", "smtp_sign_in", "send"} and mailbox.send is not None:
            return f"{mailbox.send.server.host}:{mailbox.send.server.port}"
        return f"{self._server.host}:{self._server.port}"

    @property
    def _mailbox(self) -> Mailbox:
        return self.config.mailboxes[self.name]

    @property
    def _server(self) -> MailServer:
        server = self._mailbox.fetch.server
        return MailServer(
            host=server.host, port=server.port, tls=server.tls, ca=server.ca, proxy=server.proxy
        )

    # -- the steps that belong to no adapter --------------------------------------------------

    async def _config_step(self) -> Told:
        mailbox = self._mailbox
        if mailbox.fetch.protocol == "none" and mailbox.send is None:
            raise Fault(told("config.not_fetched"), code="config.not_fetched")
        proxies = {"mail": self._server.proxy, "tokens": self.config.apps[mailbox.app].proxy}
        if mailbox.send is not None:
            proxies["sending"] = mailbox.send.server.proxy
        ways = [
            told("way", what=told(f"way.{what}"), through=through(proxy))
            for what, proxy in proxies.items()
            if proxy
        ]
        by = told("after_comma", said=ways) if ways else told("nothing")
        kind = told(f"access.{mailbox.sign_in}")
        return told("config.ok", address=mailbox.address, kind=kind, app=mailbox.app, ways=by)

    async def _sign_in(self) -> Told:
        return await self._probe.sign_in(self._tokens.token)

    async def _smtp_sign_in(self) -> Told:
        assert self._smtp is not None  # noqa: S101 - there is no such step otherwise
        return await self._smtp.sign_in(self._tokens.token)

    async def _send(self, trip: RoundTrip, smtp: SmtpProbe) -> Told:
        return await trip.send(smtp, self._tokens.token, self.sign_in)
