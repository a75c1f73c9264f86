"""A whole tenant: its CA, Entra, the mail servers, apps, mailboxes and permissions.

::

    async with Tenant.start() as tenant:
        app = tenant.add_app("alarm-app")
        box = tenant.add_mailbox("alarm@feuerwehr.example")
        tenant.grant(app, box)
        uid = box.deliver(raw)
        tenant.faults.add("imap.throttled", times=1)
        ...  # tenant.entra.authority, tenant.imap.port, tenant.pop3.port, tenant.pop3.stls_port,
        ...  # tenant.smtp.port, tenant.ca_file, app.client_id, app.secret
        async with tenant.browser() as browser:  # people: see entra_walker
            ...
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mailbridge.sandbox.ca import Authority
from mailbridge.sandbox.directory import (
    MAIL_ROLES,
    TOKEN_LIFETIME,
    App,
    Directory,
    Principal,
    User,
)
from mailbridge.sandbox.entra import Entra
from mailbridge.sandbox.entra_identity import IdentityEndpoints
from mailbridge.sandbox.entra_walker import Browser
from mailbridge.sandbox.exchange import Exchange
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.imap_server import ImapServer
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.pop3_server import Pop3Server
from mailbridge.sandbox.smtp_server import SmtpServer
from mailbridge.sandbox.tokens import SigningKey, TokenService


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Tenant:
    """A running sandbox. Everything happens in the event loop that started it.

    Script it from that loop's thread only; clients may of course be anywhere.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        key: SigningKey,
        files: Path,
        now: Callable[[], datetime],
    ) -> None:
        """Use ``start`` instead, which also listens."""
        self.directory = directory
        self.authority = Authority()
        self.files = files
        self.ca_file = self.authority.write(files)
        self.faults = Faults()
        self.tokens = TokenService(tenant_id=directory.tenant_id, key=key, now=now)
        self.exchange = Exchange(directory=directory, tokens=self.tokens, now=now)
        self.entra = Entra(directory=directory, tokens=self.tokens, faults=self.faults, now=now)
        self.identities = IdentityEndpoints(
            directory=directory, tokens=self.tokens, faults=self.faults, now=now
        )
        self.imap = ImapServer(exchange=self.exchange, faults=self.faults, now=now)
        self.pop3 = Pop3Server(exchange=self.exchange, faults=self.faults)
        self.smtp = SmtpServer(exchange=self.exchange, faults=self.faults, now=now)

    @classmethod
    @asynccontextmanager
    async def start(  # noqa: PLR0913 - each one has a default and a name
        cls,
        *,
        files: Path | None = None,
        directory: Directory | None = None,
        key: SigningKey | None = None,
        now: Callable[[], datetime] = _utc_now,
        host: str = "127.0.0.1",
        entra_port: int = 0,
        imap_port: int = 0,
        pop3_port: int = 0,
        stls_port: int = 0,
        smtp_port: int = 0,
    ) -> AsyncIterator[Tenant]:
        """Start a tenant on loopback; it is gone, with its files, when the block ends.

        ``files`` is where ``ca.pem`` is written; without it a temporary directory is used.
        Port 0 takes a free one. A ``key`` made before saves its 0.2 s.
        """
        async with AsyncExitStack() as stack:
            if files is None:
                name = stack.enter_context(tempfile.TemporaryDirectory(prefix="mailbridge-"))
                files = Path(name)
            if key is None:
                key = await asyncio.to_thread(SigningKey.generate)
            tenant = cls(
                directory=directory or Directory(),
                key=key,
                files=files,
                now=now,
            )
            context = tenant.authority.server_context()
            stack.push_async_callback(tenant.entra.stop)
            await tenant.entra.start(context, host=host, port=entra_port)
            stack.push_async_callback(tenant.identities.stop)
            await tenant.identities.start()
            stack.push_async_callback(tenant.imap.stop)
            await tenant.imap.start(context, host=host, port=imap_port)
            stack.push_async_callback(tenant.pop3.stop)
            await tenant.pop3.start(context, host=host, port=pop3_port, stls_port=stls_port)
            stack.push_async_callback(tenant.smtp.stop)
            await tenant.smtp.start(context, host=host, port=smtp_port)
            yield tenant

    def add_app(  # noqa: PLR0913 - the fields of an app registration
        self,
        name: str = "alarm-app",
        *,
        client_id: str | None = None,
        secret: str | None = None,
        secret_expires_at: datetime | None = None,
        roles: tuple[str, ...] = MAIL_ROLES,
        consented: bool = True,
        lifetime: int = TOKEN_LIFETIME,
        audience: str | None = None,
    ) -> App:
        """Register an app with one secret. ``lifetime`` of its tokens is in seconds."""
        app = App(name=name, roles=roles, consented=consented, lifetime=lifetime, audience=audience)
        if client_id is not None:
            app.client_id = client_id
        app.add_secret(secret, expires_at=secret_expires_at)
        return self.directory.add(app)

    def add_mailbox(self, address: str, *, language: str = "en") -> Mailbox:
        """Create a mailbox; ``language`` (en, de, fr) names its default folders."""
        return self.exchange.add_mailbox(address, language=language)

    def mailbox(self, address: str) -> Mailbox:
        """Return a mailbox; ``KeyError`` if there is none."""
        return self.exchange.mailboxes[address.lower()]

    def add_identity(
        self, name: str = "machine", *, assigned: Literal["system", "user"] = "system"
    ) -> App:
        """Give the machine a managed identity, which needs no credential (``entra_identity``)."""
        return self.directory.add(App(name=name, managed=assigned))

    def add_user(self, upn: str, *, name: str = "", admin: bool = False) -> User:
        """Take in somebody who can sign in; their own mailbox is the one of that address.

        ``tenant.tokens.user_token(app, user)`` is what they get for signing in to an app.
        """
        return self.directory.add_user(User(upn=upn, name=name, admin=admin))

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[Browser]:
        """Open a browser without cookies, for somebody to sign in with."""
        context = self.authority.client_context()
        async with Browser.open(self.entra.base_url, context) as browser:
            yield browser

    def grant(self, principal: Principal, *mailboxes: Mailbox) -> None:
        """Let an app or a user open these mailboxes (FullAccess)."""
        for box in mailboxes:
            self.exchange.grant(principal, box.address)

    def revoke(self, principal: Principal, *mailboxes: Mailbox) -> None:
        """Take the permission away; open sessions stay."""
        for box in mailboxes:
            self.exchange.revoke(principal, box.address)

    def allow_send_as(self, principal: Principal, *addresses: str) -> None:
        """Let an app or a user send as these addresses too (SendAs)."""
        for address in addresses:
            self.exchange.allow_send_as(principal, address)

    def write_token_key(self, path: Path) -> str:
        """Write the public half of the token key as PEM and return its ``kid``.

        For a mail server of another make that validates tokens by itself.
        """
        path.write_bytes(self.tokens.key.public_pem)
        return self.tokens.key.kid
