"""The steps around a token: tenant, consent, token, what the token permits, what ends when.

A token is read, never shown: of its claims only those that say why a mail server refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mailbridge.config import App, Config
from mailbridge.diagnose.finding import Fault, Told
from mailbridge.diagnose.way import through
from mailbridge.diagnose.words import told
from mailbridge.model import AccessToken
from mailbridge.proxy.place import Proxy
from mailbridge.sign_in.base import SignIn
from mailbridge.sign_in.claims import claims
from mailbridge.sign_in.entra_errors import refusal
from mailbridge.sign_in.expiry import days_left, reached
from mailbridge.sign_in.token_http import TokenHttp
from mailbridge.store.base import GrantStore

#: what a token for Exchange Online is issued for
AUDIENCES: Final = ("https://outlook.office365.com", "https://outlook.office.com")

#: the application permission of each protocol
ROLES: Final = {
    "imap": "IMAP.AccessAsApp",
    "pop3": "POP.AccessAsApp",
    "smtp": "SMTP.SendAsApp",
}

#: and what a person consents to
SCOPES: Final = {
    "imap": "IMAP.AccessAsUser.All",
    "pop3": "POP.AccessAsUser.All",
    "smtp": "SMTP.Send",
}


class Tokens:
    """The steps ``tenant, grant, token, claims, expiry`` of one mailbox.

    ``grants`` is the store of what people consented to, where one is open.
    """

    def __init__(
        self,
        *,
        config: Config,
        name: str,
        sign_in: SignIn,
        grants: GrantStore | None,
        run: Callable[..., Awaitable[Any]],
    ) -> None:
        self._config = config
        self._mailbox = config.mailboxes[name]
        self._sign_in = sign_in
        self._grants = grants
        self._run = run
        self._token: AccessToken | None = None
        self._issuer = ""
        #: of the enterprise application; empty for a person's token
        self.object_id = ""

    @property
    def _app(self) -> App:
        return self._config.apps[self._mailbox.app]

    @property
    def token(self) -> AccessToken:
        """The token, once its step has succeeded."""
        assert self._token is not None  # noqa: S101 - the token step has succeeded
        return self._token

    async def tenant(self) -> Told:
        """Fetch the tenant's discovery document."""
        app = self._app
        document = await self._run(_discover, app.authority_url, app.ca, app.proxy)
        self._issuer = str(document.get("issuer", ""))
        by = told("after_comma", said=through(app.proxy)) if app.proxy else told("nothing")
        return told("tenant.ok", issuer=self._issuer or "?", through=by)

    async def grant(self) -> Told:
        """Look whether the person has consented, and whether that can be read here."""
        if not self._config.state.key:
            raise Fault(told("grant.no_key"), code="grant.no_key")
        assert self._grants is not None  # noqa: S101 - there is no such step otherwise
        account = self._mailbox.account
        grant = await self._grants.grant(self._mailbox.app, account)
        if grant is None:
            raise Fault(told("grant.none", account=account), code="sign_in.no_grant")
        return told(
            "grant.ok",
            account=grant.account,
            granted=f"{grant.granted_at:%Y-%m-%d}",
            refreshed=f"{grant.refreshed_at:%Y-%m-%d}",
            scopes=[scope.rpartition("/")[2] for scope in grant.scopes],
        )

    async def fetch(self) -> Told:
        """Get a token, as the daemon does."""
        self._token = await self._sign_in.token()
        minutes = (self._token.expires_at - datetime.now(UTC)).total_seconds() / 60
        credential = self._sign_in.standing().credential
        by = told("token.by", credential=credential) if credential else told("nothing")
        return told("token.ok", minutes=minutes, by=by)

    async def claims(self) -> Told:
        """Read what the token says of itself, and hold it against the configuration."""
        length = len(self.token.value)
        seen = claims(self.token.value)
        if not seen:
            said = told("claims.opaque", length=length)
            raise Fault(said, code="claims.opaque", warning=True)
        application = self._mailbox.sign_in == "application"
        if application:
            # A person's token has the person's own.
            self.object_id = str(seen.get("oid", ""))
        ends = _time(seen.get("exp")) or self.token.expires_at
        self._is_ours(seen)
        _lives(ends)
        permissions = list(seen.get("roles") or []) + str(seen.get("scp", "")).split()
        self._permits(permissions)
        return told(
            "claims.ok",
            audience=seen.get("aud"),
            what=told("claims.roles" if seen.get("roles") else "claims.scopes"),
            permissions=permissions,
            tenant=seen.get("tid", "?"),
            app=seen.get("appid") or seen.get("azp") or "?",
            object_id=seen.get("oid") or "?",
            minutes=(ends - datetime.now(UTC)).total_seconds() / 60,
            length=length,
        )

    def _is_ours(self, seen: Mapping[str, Any]) -> None:
        """Find out whether the token is for Exchange, of this tenant and of this app."""
        app = self._app
        audience = str(seen.get("aud") or "")
        allowed = {*AUDIENCES, app.resource, app.delegated_resource}
        if audience.rstrip("/") not in allowed:
            shown: object = audience or told("claims.missing")
            raise Fault(told("claims.audience", audience=shown), code="claims.audience")
        tenant = str(seen.get("tid") or "").lower()
        # A tenant may be written as a domain; the discovery document knows its id.
        if tenant and tenant not in f"{app.tenant_id} {self._issuer}".lower():
            said = told("claims.tenant", found=tenant, wanted=app.tenant_id)
            raise Fault(said, code="claims.tenant")
        client = str(seen.get("appid") or seen.get("azp") or "").lower()
        managed = app.credential is not None and app.credential.managed_identity
        if client and client != app.client_id.lower() and not managed:
            said = told("claims.app", found=client, wanted=app.client_id)
            raise Fault(said, code="claims.app")

    def _permits(self, permissions: Sequence[str]) -> None:
        """Find out whether the token permits this mailbox's protocols."""
        mailbox = self._mailbox
        protocols = [mailbox.fetch.protocol] * (mailbox.fetch.protocol != "none")
        app = mailbox.sign_in == "application"
        for protocol in (*protocols, *(["smtp"] if mailbox.send is not None else [])):
            if (ROLES if app else SCOPES)[protocol] in permissions:
                continue
            kind = "role" if app else "scope"
            listed: object = list(map(str, permissions)) or told("claims.none")
            said = told("claims.permissions", what=told(f"claims.{kind}s"), permissions=listed)
            code = f"claims.{kind}" if protocol == "imap" else f"claims.{kind}.{protocol}"
            # Without a role, RBAC for Applications may still permit to send; the sign-in shows it.
            raise Fault(said, code=code, warning=app and protocol == "smtp")

    async def expiry(self) -> Told:
        """Tell what ends when; a warning from sixty days before."""
        now = datetime.now(UTC)
        found = sorted(self._sign_in.standing().expiries, key=lambda one: one.expires_at)
        if not found:
            credential = self._app.credential
            kind = credential.kind if credential is not None else ""
            if kind in {"federated", "managed_identity"}:
                return told("expiry.mine", kind=told(f"kind.{kind}"))
            return told("expiry.none")
        ends: list[object] = [
            told(
                "expiry.one",
                kind=told(f"kind.{one.kind}"),
                at=f"{one.expires_at:%Y-%m-%d}",
                days=days_left(one.expires_at, now),
            )
            for one in found
        ]
        said = told("as_said", said=ends)
        if reached(found[0].expires_at, now) is not None:
            fix = told("as_said", said=found[0].fix)
            raise Fault(said, code="secret.expiring", fix=fix, warning=True)
        return said


def _lives(ends: datetime) -> None:
    now = datetime.now(UTC)
    if ends <= now:
        said = told("claims.expired", at=f"{ends:%Y-%m-%d %H:%M}", now=f"{now:%Y-%m-%d %H:%M}")
        raise Fault(said, code="claims.expired")


def _time(seconds: object) -> datetime | None:
    """Return a NumericDate of a JWT (RFC 7519, section 2); ``None`` for what is none."""
    if not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


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
