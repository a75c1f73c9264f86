"""msal's client for one app registration: with a credential or without, devices included.

Imported where it is needed, since msal takes a while to load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msal

from mailbridge import __version__
from mailbridge.catalogue.base import Ids
from mailbridge.errors import MailbridgeError
from mailbridge.proxy.place import Proxy
from mailbridge.sign_in.entra_errors import refusal
from mailbridge.sign_in.token_http import Answer, TokenHttp


class MsalClient(msal.ConfidentialClientApplication):  # type: ignore[misc] # msal has no types
    """Both of msal's clients in one.

    A public client is one without a credential to it. Entra takes a device code from an app with
    a credential too, which msal offers for public clients only.
    """

    DEVICE_FLOW_CORRELATION_ID = msal.PublicClientApplication.DEVICE_FLOW_CORRELATION_ID
    initiate_device_flow = msal.PublicClientApplication.initiate_device_flow
    acquire_token_by_device_flow = msal.PublicClientApplication.acquire_token_by_device_flow


class _NoRealms:
    """An HTTP client that is never asked where a password belongs.

    Before a password is sent, msal asks for the account's realm: at port 443 whatever the
    authority's port, and if the answer says so, it posts the password to the AD FS that the
    answer names. 404 is what an authority without realms says; then msal asks Entra itself.
    """

    def __init__(self, http: TokenHttp) -> None:
        self._http = http
        self.post = http.post
        self.close = http.close

    def get(self, url: str, **given: Any) -> Answer:
        """Send a GET, unless it is about a realm."""
        if "/common/userrealm/" in url:
            return Answer(404, "{}", {})
        return self._http.get(url, **given)


def connect(
    *,
    authority_url: str,
    ids: Ids,
    credential: Any,
    ca: Path | None,
    proxy: Proxy | None,
) -> MsalClient:
    """Return a client; fetches the discovery document, so it blocks, and raises our errors.

    ``ids`` hold the client id, and what else is told of a refusal.
    """
    http = TokenHttp(ca, proxy)
    failure: MailbridgeError | None = None
    try:
        # Without instance discovery, msal asks no other host than the authority; without a
        # region, nothing that stands in the environment.
        return MsalClient(
            ids.client_id,
            client_credential=credential,
            authority=authority_url,
            instance_discovery=False,
            azure_region=msal.ClientApplication.DISABLE_MSAL_FORCE_REGION,
            http_client=_NoRealms(http),
            app_name="mailbridge",
            app_version=__version__,
        )
    except ValueError:
        # msal says "check your tenant" whatever it was; the answer says what it was.
        if http.refused is None:
            raise
        failure = refusal(http.refused, ids)
    raise failure
