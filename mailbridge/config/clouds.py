"""Microsoft's clouds, and how a tenant is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from mailbridge.config.problems import fault
from mailbridge.config.secrets import is_guid
from mailbridge.config.values import is_domain

CloudName = Literal["public", "usgov", "usgov-dod", "china"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The hosts of one cloud; ``resource`` is what an access token is asked for.

    ``delegated`` is the same where a person signs in, as Microsoft writes those scopes.
    """

    login: str
    imap: str
    smtp: str
    resource: str
    delegated: str


CLOUDS: dict[str, Cloud] = {
    "public": Cloud(
        login="login.microsoftonline.com",
        imap="outlook.office365.com",
        smtp="smtp.office365.com",
        resource="https://outlook.office365.com",
        delegated="https://outlook.office.com",
    ),
    "usgov": Cloud(
        login="login.microsoftonline.us",
        imap="outlook.office365.us",
        smtp="smtp.office365.us",
        resource="https://outlook.office365.us",
        delegated="https://outlook.office365.us",
    ),
    "usgov-dod": Cloud(
        login="login.microsoftonline.us",
        imap="outlook-dod.office365.us",
        smtp="outlook-dod.office365.us",
        resource="https://outlook-dod.office365.us",
        delegated="https://outlook-dod.office365.us",
    ),
    "china": Cloud(
        login="login.partner.microsoftonline.cn",
        imap="partner.outlook.cn",
        smtp="smtp.partner.outlook.cn",
        resource="https://partner.outlook.cn",
        delegated="https://partner.outlook.cn",
    ),
}
#: login hosts of the public cloud that documents of Microsoft and of others still name
_ALIASES = {"login.windows.net", "login.microsoft.com", "sts.windows.net"}
MICROSOFT_HOSTS = {cloud.login for cloud in CLOUDS.values()} | _ALIASES
_SHARED = {"common", "organizations", "consumers"}
_FIX = (
    "write the Directory (tenant) ID from the app's overview in Entra, or a domain of the tenant."
)


def parse_tenant(value: Any) -> str:
    """Return a tenant in short: a GUID or domain, or ``https://host[:port]/<tenant>``.

    Takes everything that guides call the tenant: the id, a domain, the login URL, and the URL
    of the token endpoint. Raises a fault for what cannot be one.
    """
    if not isinstance(value, str):
        raise fault("this is not a tenant", _FIX)
    text = value.strip()
    host = ""
    if "/" in text:
        host, text = _split(text)
    if text.lower() in _SHARED:
        raise fault("signing in needs one tenant, not any", _FIX)
    if not is_guid(text) and not is_domain(text):
        raise fault("this is neither a GUID nor a domain nor a login URL", _FIX)
    if not host or host in _ALIASES or host == CLOUDS["public"].login:
        return text.lower()
    return f"https://{host}/{text.lower()}"


def _split(text: str) -> tuple[str, str]:
    """Return host (with port) and tenant of a login URL or token endpoint."""
    fix = "write it as https://login.microsoftonline.com/<tenant>, or the tenant alone."
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise fault("this login URL cannot be read", fix) from None
    if url.scheme != "https" or not url.hostname or url.username or url.query or url.fragment:
        raise fault("a login URL is https://host/<tenant>", fix)
    segments = [segment for segment in url.path.split("/") if segment]
    if not segments:
        raise fault("this login URL names no tenant", fix)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return (host if port in (None, 443) else f"{host}:{port}"), segments[0]


def clash(short: str, cloud: str) -> str | None:
    """Return the cloud that a tenant's login host belongs to, when it is not ``cloud``."""
    if not short.startswith("https://"):
        return None
    host = urlsplit(short).netloc
    owners = [name for name, known in CLOUDS.items() if known.login == host]
    return None if not owners or cloud in owners else owners[0]
