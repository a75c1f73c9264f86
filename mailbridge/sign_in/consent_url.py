"""The link that an administrator opens to grant what an app asks for, for the whole tenant."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from mailbridge.sign_in.account import DELEGATED, Protocol

#: Exchange's name in consent links for IMAP and POP; a token for it opens no mailbox
_CONSENT_ONLY: Final = "https://ps.outlook.com"
#: where the cloud is that knows that name
_PUBLIC: Final = "https://login.microsoftonline.com/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentLink:
    """A link and what it is for: ``application`` or ``delegated`` permissions."""

    purpose: str
    url: str


def consent_links(  # noqa: PLR0913 - what goes into a URL, by name
    *,
    authority_url: str,
    client_id: str,
    resource: str,
    delegated_resource: str,
    application: Collection[Protocol],
    delegated: Collection[Protocol],
    redirect_uri: str,
    state: str = "",
) -> list[ConsentLink]:
    """Return a link for each kind of permission that is used (v2.0 admin consent).

    ``application`` and ``delegated`` are the protocols that mailboxes of the app use in each way;
    ``redirect_uri`` has to be registered, and gets ``admin_consent`` or an error.
    Application permissions are granted as the registration lists them (``.default``).
    """
    wanted: list[tuple[str, str]] = []
    if application:
        mail = {"imap", "pop3"} & set(application)
        place = _CONSENT_ONLY if mail and authority_url.startswith(_PUBLIC) else resource
        wanted.append(("application", f"{place}/.default"))
    if delegated:
        names = sorted(DELEGATED[protocol] for protocol in set(delegated))
        scope = " ".join(f"{delegated_resource}/{name}" for name in names)
        wanted.append(("delegated", f"{scope} offline_access openid profile"))
    fields = {"client_id": client_id, "redirect_uri": redirect_uri}
    return [
        ConsentLink(
            purpose=purpose,
            url=f"{authority_url}/v2.0/adminconsent?"
            + urlencode({**fields, "scope": scope, **({"state": state} if state else {})}),
        )
        for purpose, scope in wanted
    ]
