"""The steps of ``mailbridge test-mailbox``: each isolated, timed and explained.

``config, dns, tcp, tls, tenant, token, claims, sign_in, folder, header, push``, and where the
mailbox sends ``smtp, smtp_sign_in``. A step that needs a failed one is skipped. It asks for no
right that the daemon's job does not need: folders are opened read-only, one header is read, and
nothing is sent. Nothing that it returns contains a token or a secret.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from mailbridge.config import Config
from mailbridge.diagnose.finding import Fault
from mailbridge.diagnose.fixes import Ids, explain
from mailbridge.diagnose.mail import ROLES, SCOPES, Probe, probe
from mailbridge.diagnose.smtp import SmtpProbe
from mailbridge.errors import MailbridgeError
from mailbridge.model import AccessToken
from mailbridge.proxy.environment import goes_around
from mailbridge.proxy.errand import Errand
from mailbridge.proxy.place import Proxy
from mailbridge.sign_in.base import SignIn
from mailbridge.sign_in.claims import claims
from mailbridge.sign_in.entra_errors import refusal
from mailbridge.sign_in.expiry import days_left, reached
from mailbridge.sign_in.token_http import TokenHttp
from mailbridge.sources.transport import Line, MailServer, connect, secure
from mailbridge.tls import tls_context

#: seconds for each of DNS, TCP and TLS
PHASE: Final = 10.0
#: what a token for Exchange Online is issued for
AUDIENCES: Final = ("https://outlook.office365.com", "https://outlook.office.com")

Status = Literal["ok", "failed", "warning", "skipped"]
#: step -> (what it does, the steps that it needs)
_Plan = dict[str, tuple[Callable[[], Awaitable[str]], tuple[str, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step came to. ``cause``, ``fix`` and ``code`` are empty unless it failed."""

    id: str
    status: Status
    detail: str
    seconds: float
    cause: str = ""
    fix: str = ""
    code: str = ""


@dataclass(slots=True, kw_only=True)
class Diagnosis:
    """One mailbox under diagnosis. ``steps`` yields each step as it ends."""

    config: Config
    name: str
    sign_in: SignIn
    run: Callable[..., Awaitable[Any]]
    _token: AccessToken | None = field(default=None, repr=False)
    _object_id: str = ""
    _probe: Probe = field(init=False)
    _smtp: SmtpProbe | None = field(init=False)

    def __post_init__(self) -> None:
        """Choose the steps of the mailbox's protocols."""
        mailbox = self.config.mailboxes[self.name]
        self._probe = probe(mailbox, self._server, self.run)
        self._smtp = SmtpProbe(mailbox, mailbox.send) if mailbox.send is not None else None

    async def steps(self) -> AsyncIterator[Step]:
        """Run the steps in order; after a failure those that build on it are skipped."""
        failed: set[str] = set()
        try:
            for name, (work, needs) in self._plan().items():
                missing = [need for need in needs if need in failed]
                if missing:
                    failed.add(name)
                    detail = f"needs {missing[0]}"
                    yield Step(id=name, status="skipped", detail=detail, seconds=0.0)
                    continue
                step = await self._one(name, work)
                if step.status == "failed":
                    failed.add(name)
                yield step
        finally:
            await self._probe.close()
            if self._smtp is not None:
                await self._smtp.close()

    def _plan(self) -> _Plan:
        """Return what is tried for this mailbox: step, what it does, the steps that it needs."""
        asking: _Plan = {
            "tenant": (self._tenant, ("config",)),
            "token": (self._get_token, ("tenant",)),
            "claims": (self._claims, ("token",)),
        }
        plan: _Plan = {"config": (self._config_step, ())}
        if self._smtp is not None and self.config.mailboxes[self.name].fetch.protocol == "none":
            plan |= asking
        else:
            plan |= {
                "dns": (self._dns, ("config",)),
                "tcp": (self._tcp, ("dns",)),
                "tls": (self._tls, ("tcp",)),
                **asking,
                "sign_in": (self._sign_in, ("tls", "token")),
                "folder": (self._probe.folder, ("sign_in",)),
                "header": (self._probe.header, ("folder",)),
                "push": (self._probe.push, ("folder",)),
            }
        if self._smtp is not None:
            plan["smtp"] = (self._smtp.connect, ("config",))
            plan["smtp_sign_in"] = (self._smtp_sign_in, ("smtp", "token"))
        plan["expiry"] = (self._expiry, ("token",))
        return plan

    async def _one(self, name: str, work: Callable[[], Awaitable[str]]) -> Step:
        clock = time.monotonic()
        try:
            detail = await work()
        except Fault as fault:
            status: Status = "warning" if fault.warning else "failed"
            said, code, fix = str(fault), fault.code, fault.fix
        except MailbridgeError as error:
            status, said, code, fix = "failed", str(error), error.code, error.fix
        else:
            return Step(id=name, status="ok", detail=detail, seconds=_since(clock))
        cause, fix = explain(code, said, fix, self._ids())
        return Step(
            id=name,
            status=status,
            detail=said,
            seconds=_since(clock),
            cause=cause,
            fix=fix,
            code=code,
        )

    def _ids(self) -> Ids:
        mailbox = self.config.mailboxes[self.name]
        app = self.config.apps[mailbox.app]
        return Ids(
            address=mailbox.address,
            app=mailbox.app,
            tenant=app.tenant_id,
            client_id=app.client_id,
            object_id=self._object_id,
        )

    @property
    def _server(self) -> MailServer:
        server = self.config.mailboxes[self.name].fetch.server
        return MailServer(
            host=server.host, port=server.port, tls=server.tls, ca=server.ca, proxy=server.proxy
        )

    # --- the steps, in order

    async def _config_step(self) -> str:
        mailbox = self.config.mailboxes[self.name]
        if mailbox.fetch.protocol == "none" and mailbox.send is None:
            raise Fault(
                "this mailbox is not fetched (fetch.protocol: none) and does not send",
                code="config.not_fetched",
                fix=f"set mailboxes.{self.name}.fetch.protocol to imap or pop3, or add `send`",
            )
        ways = {"mail": self._server.proxy, "tokens": self.config.apps[mailbox.app].proxy}
        if mailbox.send is not None:
            ways["sending"] = mailbox.send.server.proxy
        through = "".join(f", {what} {_through(proxy)}" for what, proxy in ways.items() if proxy)
        return f"{mailbox.address}, {mailbox.sign_in} access by app {mailbox.app}{through}"

    async def _dns(self) -> str:
        server = self._server
        proxy = server.proxy
        if proxy is not None and await self.run(goes_around, proxy, server.host, server.port):
            return f"{await _looked_up(server.host, server.port)}; inside, so without the proxy"
        if proxy is None:
            return await _looked_up(server.host, server.port)
        try:
            known = await _looked_up(proxy.host, proxy.port)
        except Fault as fault:
            unknown = Errand(proxy=proxy, host=server.host, port=server.port).unknown()
            raise Fault(str(fault), code=unknown.code, fix=unknown.fix) from fault
        if proxy.resolves:
            return f"the proxy resolves {server.host}; proxy {known}"
        return f"{await _looked_up(server.host, server.port)}; proxy {known}"

    async def _tcp(self) -> str:
        return await self.run(_reach, self._server)  # type: ignore[no-any-return]

    async def _tls(self) -> str:
        if self._server.tls == "starttls":
            return await self._probe.starttls()
        return await self.run(_handshake, self._server)  # type: ignore[no-any-return]

    async def _tenant(self) -> str:
        app = self.config.apps[self.config.mailboxes[self.name].app]
        document = await self.run(_discover, app.authority_url, app.ca, app.proxy)
        through = f", {_through(app.proxy)}" if app.proxy else ""
        return f"issuer {document.get('issuer', '?')}{through}"

    async def _get_token(self) -> str:
        self._token = await self.sign_in.token()
        minutes = (self._token.expires_at - datetime.now(UTC)).total_seconds() / 60
        credential = self.sign_in.standing().credential
        by = f", by {credential}" if credential else ""
        return f"good for {minutes:.0f} minutes{by}"

    async def _expiry(self) -> str:
        """Tell what ends when; a warning from sixty days before."""
        now = datetime.now(UTC)
        found = sorted(self.sign_in.standing().expiries, key=lambda one: one.expires_at)
        said = ", ".join(
            f"{one.kind.replace('_', ' ')} ends on {one.expires_at:%Y-%m-%d} "
            f"({days_left(one.expires_at, now)} days)"
            for one in found
        )
        if found and reached(found[0].expires_at, now) is not None:
            raise Fault(said, code="secret.expiring", fix=found[0].fix, warning=True)
        return said or "no end is known; write `expires` beside a client secret"

    async def _claims(self) -> str:
        assert self._token is not None  # noqa: S101 - the token step has succeeded
        seen = claims(self._token.value)
        self._object_id = str(seen.get("oid", ""))
        app = self.config.apps[self.config.mailboxes[self.name].app]
        audience = str(seen.get("aud", ""))
        allowed = {*AUDIENCES, app.scope.removesuffix("/.default")}
        if audience.rstrip("/") not in allowed:
            raise Fault(f"audience {audience or 'missing'}", code="claims.audience")
        roles = list(seen.get("roles") or []) + str(seen.get("scp", "")).split()
        self._permitted(roles)
        return (
            f"audience {audience}, roles {', '.join(roles)}, tenant {seen.get('tid', '?')}, "
            f"app {seen.get('appid', '?')}, object id {self._object_id or '?'}, "
            f"{len(self._token.value)} characters"
        )

    def _permitted(self, permissions: list[str]) -> None:
        """Find out whether the token permits this mailbox's protocols."""
        mailbox = self.config.mailboxes[self.name]
        protocols = [mailbox.fetch.protocol] * (mailbox.fetch.protocol != "none")
        app = mailbox.sign_in == "application"
        for protocol in (*protocols, *(["smtp"] if mailbox.send is not None else [])):
            if (ROLES if app else SCOPES)[protocol] in permissions:
                continue
            listed = ", ".join(map(str, permissions)) or "none"
            what = "role" if app else "scope"
            code = f"claims.{what}" if protocol == "imap" else f"claims.{what}.{protocol}"
            # Without a role, RBAC for Applications may still permit to send; the sign-in shows it.
            raise Fault(f"{what}s: {listed}", code=code, warning=app and protocol == "smtp")

    async def _sign_in(self) -> str:
        assert self._token is not None  # noqa: S101 - the token step has succeeded
        return await self._probe.sign_in(self._token)

    async def _smtp_sign_in(self) -> str:
        assert self._token is not None  # noqa: S101 - the token step has succeeded
        assert self._smtp is not None  # noqa: S101 - there is no such step otherwise
        return await self._smtp.sign_in(self._token)


def _through(proxy: Proxy) -> str:
    named = f" (from {proxy.variable})" if proxy.variable else ""
    return f"through proxy {proxy.url}{named}"


async def _looked_up(host: str, port: int) -> str:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PHASE):
            found = await loop.getaddrinfo(host, port)
    except (OSError, TimeoutError) as error:
        raise Fault(f"{host}: {_words(error)}", code="dns") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return f"{host} is {', '.join(addresses[:4])}"


def _reach(server: MailServer) -> str:
    """Connect as the daemon does, through its proxy if there is one."""
    try:
        sock = connect(server.host, server.port, line=Line(server.proxy), timeout=PHASE)
    except OSError as error:
        raise Fault(f"{server.host}:{server.port}: {_words(error)}", code="tcp") from error
    with sock:
        peer = sock.getpeername()
    place = f"{peer[0]} port {peer[1]}"
    if server.proxy is None or goes_around(server.proxy, server.host, server.port):
        return f"connected to {place}"
    return f"connected to {server.host} port {server.port} by {place}, {_through(server.proxy)}"


def _handshake(server: MailServer) -> str:
    line = Line(server.proxy)
    try:
        with (
            connect(server.host, server.port, line=line, timeout=PHASE) as sock,
            secure(sock, tls_context(server.ca), host=server.host, line=line) as secured,
        ):
            certificate = secured.getpeercert() or {}
            version = secured.version()
    except ssl.SSLCertVerificationError as error:
        raise Fault(error.verify_message, code="tls.certificate") from error
    except OSError as error:
        raise Fault(_words(error), code="tls") from error
    return f"{version}, certificate trusted, valid until {certificate.get('notAfter', '?')}"


def _discover(authority_url: str, ca: Path | None, proxy: Proxy | None) -> dict[str, Any]:
    """Fetch the tenant's discovery document, as msal does before it asks for a token."""
    http = TokenHttp(ca, proxy)
    try:
        answer = http.get(f"{authority_url}/v2.0/.well-known/openid-configuration")
    finally:
        http.close()
    if http.refused is not None:
        raise refusal(http.refused)
    document: dict[str, Any] = json.loads(answer.text)
    return document


def _since(clock: float) -> float:
    return round(time.monotonic() - clock, 3)


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no answer within {PHASE:.0f} s"
    return str(error) or type(error).__name__
