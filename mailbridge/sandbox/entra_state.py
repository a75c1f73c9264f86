"""What all parts of the login service share, and the log of what it was asked."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox import entra_scopes as scopes
from mailbridge.sandbox.directory import App, Directory
from mailbridge.sandbox.entra_documents import SHARED
from mailbridge.sandbox.entra_federation import Issuer
from mailbridge.sandbox.entra_http import GUID
from mailbridge.sandbox.entra_ledger import Ledger
from mailbridge.sandbox.entra_scopes import Asked
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.tokens import TokenService

_DNS_NAME: Final = re.compile(r"(?=.{4,253}$)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """One answered request for a token, for assertions. It holds no credential.

    ``grant`` is the ``grant_type``; ``devicecode`` for the start of a device's sign-in.
    """

    tenant: str
    grant: str
    client_id: str
    scope: str
    status: int
    code: int | None
    correlation_id: str


@dataclass(slots=True, kw_only=True, eq=False)
class State:
    """One login service. Use it in the event loop's thread only."""

    directory: Directory
    tokens: TokenService
    faults: Faults
    now: Callable[[], datetime]
    ledger: Ledger
    base_url: str = ""
    #: by URL: identity providers whose keys are known
    issuers: dict[str, Issuer] = field(default_factory=dict)
    #: seconds that devices are told to wait between two polls
    device_interval: int = 5
    requests: deque[TokenRequest] = field(default_factory=lambda: deque(maxlen=10_000))
    #: how many requests there were for each grant, refused ones too
    asked: Counter[str] = field(default_factory=Counter)

    def note(self, request: TokenRequest) -> None:
        """Take a request into the log."""
        self.requests.append(request)
        self.asked[request.grant] += 1

    @property
    def issuer(self) -> str:
        """The issuer of id tokens."""
        return f"{self.base_url}/{self.directory.tenant_id}/v2.0"

    def tenant(self, name: str, *, discovery: bool = False) -> str:
        """Return the GUID for what stands in a URL, or ``common``; raises ``EntraError``."""
        lower = name.lower()
        if lower in SHARED:
            return lower
        if lower in self.directory.names:
            return self.directory.tenant_id
        if not GUID.fullmatch(name) and not _DNS_NAME.fullmatch(name):
            raise errors.malformed_tenant(name, discovery=discovery)
        raise errors.unknown_tenant(name, discovery=discovery)

    def listed(self, client_id: str) -> App:
        """Return an app whether it may be used or not; raises ``EntraError`` when unknown."""
        app = self.directory.find(client_id)
        if app is None or app.managed:
            raise errors.unknown_app(client_id, self.directory.display_name)
        return app

    def app(self, client_id: str) -> App:
        """Return the app; raises ``EntraError`` when it is unknown, absent here, or disabled."""
        app = self.listed(client_id)
        if not app.installed:
            raise errors.no_service_principal(client_id, self.directory.tenant_id)
        if not app.enabled:
            raise errors.disabled_app(client_id, app.name)
        return app

    def check_shared(self, app: App, tenant: str) -> None:
        """Raise ``EntraError`` when people are sent to ``/common`` for an app of one tenant."""
        if tenant in SHARED and not app.multi_tenant:
            raise errors.single_tenant(app.client_id, app.name)

    def scopes(self, text: str, app: App) -> Asked:
        """Read the scopes that a person is asked for; raises ``EntraError``."""
        return scopes.parse(
            text,
            app=app,
            audiences=self.tokens.audiences,
            directory=self.directory.display_name,
        )
