"""The seam of signing in: whatever the kind, an object that gives tokens and says how it stands.

::

    application   one for each app registration, shared by its mailboxes
    delegated     one for each app and account: what a person has consented to
    password      one for each app and account: name and password (deprecated by Microsoft)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from mailbridge.errors import MailbridgeError, SignInRejected, TemporaryError
from mailbridge.model import AccessToken

Kind = Literal["application", "delegated", "password"]
CredentialKind = Literal["client_secret", "certificate", "refresh_token", "password"]

State = Literal[
    "unknown",  # nothing was asked for yet
    "ok",
    "needs_consent",  # a person has to sign in (again)
    "needs_admin_consent",
    "secret_expired",  # the client secret or certificate has ended
    "rejected",  # another refusal that a person has to deal with
    "temporarily_unavailable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When a credential ends, and what to do before that."""

    kind: CredentialKind
    expires_at: datetime
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a sign-in stands: for ``status``, diagnosis, metrics and events. Holds no secret.

    ``account`` is who signs in, empty for an app by itself. ``credential`` says which one is in
    use (``client secret 2 of 2``). ``cause``, ``fix`` and ``code`` are empty when all is well.
    A state other than ``ok`` does not mean that there are no tokens: a permission may be missing
    that only some of the mailboxes need.
    """

    kind: Kind
    app: str
    account: str = ""
    state: State = "unknown"
    code: str = ""
    cause: str = ""
    fix: str = ""
    credential: str = ""
    expiries: tuple[Expiry, ...] = ()


class SignIn(Protocol):
    """A ``Protocol``: one sign-in. Use it in one event loop.

    ``refreshes`` and ``failures`` count what was asked of Entra and what of that came to nothing.
    """

    name: str
    kind: Kind

    @property
    def refreshes(self) -> int:
        """How many tokens were fetched."""

    @property
    def failures(self) -> int:
        """How many attempts to fetch one failed."""

    async def token(self) -> AccessToken:
        """Return a token with enough life left for a new session.

        Raises ``SignInRejected``, ``Throttled`` and ``Unavailable``; a sign-in that uses the
        store also what the store raises.
        """

    async def force_refresh(self, refused: AccessToken | None = None) -> AccessToken:
        """Return a token newer than the one that a mail server has ``refused``; seldom asks."""

    def standing(self) -> Standing:
        """Return how it stands, as far as is known; asks nobody."""

    async def reload(self) -> None:
        """Read credentials again from where they lie, and try changed ones with the next token."""

    async def close(self) -> None:
        """End what is under way; what must not be lost is let finish."""


#: by the number of an AADSTS error, or by our own code, where ``rejected`` says too little
STATES: dict[str, State] = {
    "AADSTS7000222": "secret_expired",
    "certificate.expired": "secret_expired",
    **dict.fromkeys(
        ("AADSTS65001", "AADSTS90094", "AADSTS90095", "AADSTS7000229"), "needs_admin_consent"
    ),
    "sign_in.roles_missing": "needs_admin_consent",
}


def state_of(error: MailbridgeError) -> State:
    """Return the state that an error of an app's own sign-in amounts to."""
    if isinstance(error, TemporaryError):
        return "temporarily_unavailable"
    if not isinstance(error, SignInRejected):
        return "rejected"
    return STATES.get(error.code, "rejected")
