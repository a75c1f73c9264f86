"""The sign-ins of a configuration: which mailboxes share one, and what they are made of.

Application access is shared by all mailboxes of an app; what a person signs in for is shared by
the mailboxes of that app and account. No two sign-ins share anything that one could wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, time
from typing import Any

import structlog

from mailbridge.config import App, Config, Mailbox, Secret
from mailbridge.errors import MailbridgeError, PermanentError
from mailbridge.model import Notice
from mailbridge.sign_in.account import ROLES, Account, Protocol
from mailbridge.sign_in.application import ApplicationSignIn
from mailbridge.sign_in.base import SignIn
from mailbridge.sign_in.consent import AuthCodeFlow, DeviceFlow, ResponseMode
from mailbridge.sign_in.consent_url import ConsentLink, consent_links
from mailbridge.sign_in.credentials import Certificate, ClientSecret, Credential, FederatedToken
from mailbridge.sign_in.delegated import DelegatedSignIn
from mailbridge.sign_in.expiry import notice
from mailbridge.sign_in.managed_identity import ManagedIdentity
from mailbridge.sign_in.password import PasswordSignIn
from mailbridge.sign_in.registration import Registration
from mailbridge.store.base import GrantStore

log = structlog.get_logger(__name__)

#: kind, app, account (in small letters)
_Key = tuple[str, str, str]


class SignIns:
    """Makes sign-ins when they are first asked for, and shares them.

    ``run`` runs a blocking function in a worker thread. Without ``grants`` (no store is open)
    delegated access is refused.
    """

    def __init__(
        self,
        config: Config,
        *,
        grants: GrantStore | None,
        now: Callable[[], datetime],
        run: Callable[..., Awaitable[Any]],
    ) -> None:
        self._config = config
        self._grants = grants
        self._now = now
        self._run = run
        self._made: dict[_Key, tuple[object, SignIn]] = {}

    def of(self, name: str) -> SignIn:
        """Return the sign-in of a mailbox; ``PermanentError`` for delegated without a store."""
        key = self._key(name)
        if key not in self._made:
            self._made[key] = (self._shape(key), self._make(name, key))
        return self._made[key][1]

    def made(self) -> Iterator[tuple[SignIn, list[str]]]:
        """Yield each sign-in that was asked for, with the names of its mailboxes."""
        for key, (_, sign_in) in list(self._made.items()):
            yield sign_in, self._mailboxes(key)

    def delegated(self, name: str) -> DelegatedSignIn:
        """Return the sign-in of a mailbox that a person signs in for (login, logout)."""
        self._person(name)
        sign_in = self.of(name)
        assert isinstance(sign_in, DelegatedSignIn)  # noqa: S101 - what _person has made sure of
        return sign_in

    def browser_flow(self, name: str, *, response_mode: ResponseMode = "query") -> AuthCodeFlow:
        """Return a new sign-in in a browser for the person of a mailbox."""
        account = self._person(name)
        return AuthCodeFlow(
            app=self._registration(account.app),
            account=account,
            now=self._now,
            run=self._run,
            response_mode=response_mode,
        )

    def device_flow(self, name: str) -> DeviceFlow:
        """Return a new sign-in on another device for the person of a mailbox."""
        account = self._person(name)
        return DeviceFlow(
            app=self._registration(account.app), account=account, now=self._now, run=self._run
        )

    def consent_links(self, app: str, *, redirect_uri: str, state: str = "") -> list[ConsentLink]:
        """Return the admin consent links for what the mailboxes of an app use."""
        section = self._config.apps[app]
        used: dict[str, set[Protocol]] = {"application": set(), "delegated": set()}
        for mailbox in self._config.mailboxes.values():
            if mailbox.app == app:
                purpose = "application" if mailbox.sign_in == "application" else "delegated"
                used[purpose].update(_protocols(mailbox))
        return consent_links(
            authority_url=section.authority_url,
            client_id=section.client_id,
            resource=section.resource,
            delegated_resource=section.delegated_resource,
            application=used["application"],
            delegated=used["delegated"],
            redirect_uri=redirect_uri,
            state=state,
        )

    async def apply(self, config: Config) -> set[str]:
        """Take another configuration: what changed is made anew when it is next asked for.

        Returns the mailboxes that hold a sign-in which is no more.

        What did not change keeps its token, and reads its credentials again: a secret that was
        replaced where it stands is tried first, and the former one is not forgotten before.
        """
        before = {name: self._key(name) for name in self._config.mailboxes}
        self._config = config
        gone = []
        orphans: set[str] = set()
        for key, (shape, sign_in) in list(self._made.items()):
            if self._mailboxes(key) and self._shape(key) == shape:
                await sign_in.reload()
            else:
                del self._made[key]
                gone.append(sign_in)
                orphans.update(name for name, of in before.items() if of == key)
        await asyncio.gather(*(sign_in.close() for sign_in in gone))
        return orphans

    async def keep_alive(self) -> None:
        """Use what people have consented to and nobody has used for a week; see its standing."""
        people = [one for one, _ in self.made() if isinstance(one, DelegatedSignIn)]
        await asyncio.gather(*(_kept_alive(one) for one in people))

    def notices(self) -> list[Notice]:
        """Return the events ``secret.expiring`` that are due; the store takes each id once.

        A credential of an app is told of once, with one of the mailboxes that it is for.
        """
        now = self._now()
        due: dict[str, Notice] = {}
        for sign_in, names in self.made():
            standing = sign_in.standing()
            for expiry in standing.expiries:
                account = standing.account if expiry.kind == "refresh_token" else ""
                found = notice(expiry, app=standing.app, account=account, mailbox=names[0], now=now)
                if found is not None:
                    due.setdefault(found.id, found)
        return list(due.values())

    async def close(self) -> None:
        """End what is under way, all at once; see ``SignIn.close``."""
        await asyncio.gather(*(sign_in.close() for _, sign_in in self._made.values()))

    # -- what belongs together ----------------------------------------------------------------

    def _key(self, name: str) -> _Key:
        mailbox = self._config.mailboxes[name]
        person = "" if mailbox.sign_in == "application" else mailbox.account.casefold()
        return mailbox.sign_in, mailbox.app, person

    def _mailboxes(self, key: _Key) -> list[str]:
        return [name for name in self._config.mailboxes if self._key(name) == key]

    def _protocols(self, key: _Key) -> tuple[Protocol, ...]:
        """Return what the mailboxes of a sign-in need, all together."""
        names = self._mailboxes(key)
        found = {one for name in names for one in _protocols(self._config.mailboxes[name])}
        return tuple(sorted(found)) or ("imap",)

    def _shape(self, key: _Key) -> object:
        """Return what has to be the same for a sign-in to be the same; no value of a file."""
        names = self._mailboxes(key)
        if not names:
            return None
        app = self._config.apps[key[1]]
        password = self._config.mailboxes[names[0]].password
        return (
            (app.authority_url, app.client_id, app.resource, app.ca, app.proxy),
            _credential_shape(app),
            self._protocols(key),
            password and _place(password),
        )

    def _person(self, name: str) -> Account:
        """Return who signs in for a mailbox; a flow needs no store, only its grant does."""
        kind = self._config.mailboxes[name].sign_in
        if kind != "delegated":
            raise PermanentError(
                f"nobody signs in for the mailbox {name}: it has {kind} access",
                code="sign_in.not_delegated",
                fix=f"Write `sign_in: delegated` to mailboxes.{name}, if a person shall sign in.",
            )
        return self._account(name, self._key(name))

    # -- what they are made of ----------------------------------------------------------------

    def _make(self, name: str, key: _Key) -> SignIn:
        kind, app_name, _ = key
        app = self._config.apps[app_name]
        if kind == "application":
            # SMTP can be permitted without a role (RBAC for Applications), the others cannot.
            roles = [ROLES[one] for one in self._protocols(key) if one != "smtp"]
            credential = app.credential
            identity = credential.managed_identity if credential is not None else None
            return ApplicationSignIn(
                app=ManagedIdentity(name=app_name, identity=identity)
                if identity
                else self._registration(app_name),
                scope=app.scope,
                now=self._now,
                run=self._run,
                roles=roles,
            )
        account = self._account(name, key)
        registration = self._registration(app_name)
        if kind == "password":
            password = self._config.mailboxes[name].password
            assert password is not None  # noqa: S101 - the configuration was checked
            secret = ClientSecret(password.reveal(), again=password.read_again)
            return PasswordSignIn(
                app=registration, account=account, password=secret, now=self._now, run=self._run
            )
        if self._grants is None:
            raise PermanentError(
                "delegated access needs the database, where grants are kept",
                code="sign_in.no_store",
            )
        return DelegatedSignIn(
            app=registration, account=account, grants=self._grants, now=self._now, run=self._run
        )

    def _account(self, name: str, key: _Key) -> Account:
        mailbox = self._config.mailboxes[name]
        app = self._config.apps[mailbox.app]
        return Account(
            app=mailbox.app,
            address=mailbox.account,
            tenant_id=app.tenant_id,
            resource=app.delegated_resource,
            protocols=self._protocols(key),
            login=f"mailbridge login {name}",
            client_id=app.client_id,
            mailbox=name,
            mailbox_address=mailbox.address,
        )

    def _registration(self, name: str) -> Registration:
        app = self._config.apps[name]
        return Registration(
            name=name,
            authority_url=app.authority_url,
            client_id=app.client_id,
            credentials=_credentials(app, self._now),
            ca=app.ca,
            proxy=app.proxy,
        )


async def _kept_alive(sign_in: DelegatedSignIn) -> None:
    try:
        await sign_in.keep_alive()
    except MailbridgeError as error:
        # ``standing`` tells a person; the next round tries again.
        log.warning("grant.not_kept_alive", app=sign_in.name, code=error.code, reason=str(error))


def _protocols(mailbox: Mailbox) -> set[Protocol]:
    found: set[Protocol] = set()
    if mailbox.fetch.protocol != "none":
        found.add(mailbox.fetch.protocol)
    if getattr(mailbox, "send", None) is not None:
        found.add("smtp")
    return found


def _credentials(app: App, now: Callable[[], datetime]) -> Sequence[Credential]:
    section = app.credential
    if section is None:
        return ()
    if section.certificate is not None:
        passphrase = section.certificate.passphrase
        return [
            Certificate(
                path=section.certificate.file,
                passphrase=_reader(passphrase) if passphrase is not None else str,
                now=now,
            )
        ]
    if section.federated is not None:
        return [FederatedToken(path=section.federated.file, now=now)]
    ends = section.expires
    expires_at = datetime.combine(ends, time.min, UTC) if ends is not None else None
    return [
        ClientSecret(secret.reveal(), again=secret.read_again, expires_at=expires_at)
        for secret in section.client_secret
    ]


def _reader(secret: Secret) -> Callable[[], str]:
    """Return what reads a secret as it stands now, or as it stood when it cannot be read."""
    return lambda: secret.read_again() or secret.reveal()


def _credential_shape(app: App) -> object:
    section = app.credential
    if section is None:
        return None
    certificate = section.certificate
    passphrase = certificate.passphrase if certificate is not None else None
    return (
        tuple(_place(secret) for secret in section.client_secret),
        section.expires,
        certificate.file if certificate is not None else None,
        passphrase and _place(passphrase),
        section.federated.file if section.federated is not None else None,
        section.managed_identity,
    )


def _place(secret: Secret) -> object:
    """Return what tells a secret: where it stands if it can change there, else its value."""
    return secret.place if secret.place.startswith(("file ", "credential ")) else secret
