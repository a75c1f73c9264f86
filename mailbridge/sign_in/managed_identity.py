"""The managed identity of a machine in Azure: the platform gives tokens, for no credential at all.

msal knows where each platform does so (virtual machines, App Service, Azure Arc) and takes the
place from environment variables. It is asked over plain HTTP, so nothing but this machine and its
own link may answer: an address anywhere else would be told what an identity's token is asked for,
and could answer with one of its own making.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from mailbridge.errors import MailbridgeError, SignInRejected, Throttled, Unavailable
from mailbridge.sign_in.credentials import Credential, Proof
from mailbridge.sign_in.failures import copied, of_msal
from mailbridge.sign_in.token_http import USUAL_PAUSE, Answer, TokenHttp, retry_after

#: what stands for the machine's own identity, instead of a client id
SYSTEM: Final = "system"

_SUCCESS: Final = 200
_GONE: Final = 410
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_NOT_HERE: Final = (
    "Run mailbridge on an Azure machine that has this identity (Identity > On), or give the app "
    "another credential."
)


class ManagedIdentity:
    """A source of app-only tokens, like ``Registration``. Ask it in one thread at a time.

    ``identity`` is ``system`` or the client id of a user-assigned identity.
    """

    def __init__(self, *, name: str, identity: str) -> None:
        self.name = name
        self.number: int | None = None
        self.proof: Proof | None = None
        self.in_use = ""
        self.credentials: Sequence[Credential] = ()
        self._identity = identity

    def app_token(self, scope: str) -> Mapping[str, Any] | MailbridgeError:
        """Ask the platform for a token; blocks. Returns the answer, or the error."""
        import msal

        identity = (
            msal.SystemAssignedManagedIdentity()
            if self._identity == SYSTEM
            else msal.UserAssignedManagedIdentity(client_id=self._identity)
        )
        try:
            # A new client each time: msal would serve its own copy of the last token.
            client = msal.ManagedIdentityClient(identity, http_client=_MetadataHttp())
            answer = client.acquire_token_for_client(resource=scope.removesuffix("/.default"))
        except msal.ManagedIdentityError as exc:
            return SignInRejected(
                f"this platform's managed identity cannot be used: {str(exc)[:200]}",
                code="managed_identity.platform",
                fix=_NOT_HERE,
            )
        except MailbridgeError as error:
            return _placed(error)
        except Exception as exc:  # noqa: BLE001 - an unknown error is a temporary one, by contract
            return of_msal(exc, str)
        if "error" in answer:
            return _refusal(answer)
        kind = "of the machine" if self._identity == SYSTEM else self._identity
        self.in_use = f"managed identity {kind}"
        return answer  # type: ignore[no-any-return] # msal has no types


def _placed(error: MailbridgeError) -> MailbridgeError:
    """Return a copy that says more than "did not answer" about a platform that is not there."""
    if not error.code.startswith("entra."):
        return copied(error)
    return Unavailable(
        f"the endpoint of managed identities does not answer: {error}",
        code="managed_identity.unreachable",
        fix=_NOT_HERE,
    )


class _MetadataHttp:
    """msal's HTTP client for the platform's endpoint: this machine and its link, no proxy."""

    def __init__(self) -> None:
        self._http = TokenHttp(None, None)

    def get(self, url: str, **given: Any) -> Answer:
        """Send a GET; raises ``Unavailable``, ``Throttled`` and ``SignInRejected``."""
        if not _is_near(url):
            raise SignInRejected(
                f"the endpoint of managed identities ({urlsplit(url).hostname or 'no host'}) is "
                "neither on this machine nor link-local",
                code="managed_identity.far",
                fix="Look for IDENTITY_ENDPOINT, MSI_ENDPOINT and "
                "AZURE_POD_IDENTITY_AUTHORITY_HOST in the environment of mailbridge.",
            )
        status, headers, content = self._http.fetch("GET", url, given)
        _check(status, headers)
        text = content.decode("utf-8", "replace")
        if status == _SUCCESS and not _is_object(text):
            # msal would write such a body into its log, and it might be a damaged token.
            raise Unavailable(
                "the endpoint of managed identities answers with something that is not JSON",
                code="managed_identity.not_json",
            )
        return Answer(status, text, headers)

    def post(self, url: str, **_given: Any) -> Answer:
        """No platform is asked by POST; msal wants to see the method."""
        raise Unavailable(f"{url} is not asked by POST", code="managed_identity.post")

    def close(self) -> None:
        """Nothing is kept open."""


def _check(status: int, headers: dict[str, str]) -> None:
    code = f"managed_identity.http_{status}"
    if status == _TOO_MANY:
        pause = retry_after(headers)
        raise Throttled(
            "the endpoint of managed identities asks for a pause",
            retry_after=USUAL_PAUSE if pause is None else pause,
            code=code,
        )
    if status >= _SERVER_ERROR or status == _GONE:
        raise Unavailable(f"the endpoint of managed identities answers HTTP {status}", code=code)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_near(url: str) -> bool:
    """Tell whether a URL leads to loopback or to a link-local address, by what is written."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http":
        return False
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local


def _refusal(answer: Mapping[str, Any]) -> MailbridgeError:
    said = str(answer.get("error_description") or answer.get("error"))[:200]
    if "not found" in said.lower() or "no user assigned" in said.lower():
        return SignInRejected(
            f"this machine has no such managed identity: {said}",
            code="managed_identity.unknown",
            fix=_NOT_HERE,
        )
    return Unavailable(f"the managed identity gave no token: {said}", code="managed_identity.error")
