"""How the login service answers over HTTP: headers, error bodies, redirects to the app."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import orjson
from aiohttp import web

from mailbridge.sandbox.entra_errors import EntraError

GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_HTML_PAGE: Final = (
    b"<!DOCTYPE html>\r\n<html><head><title>Sign in to your account</title></head>"
    b"<body><h1>Service Unavailable</h1></body></html>\r\n"
)


def json_answer(
    body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON answer with the headers that Entra's have."""
    request_id = str(uuid.uuid4())
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        headers={
            "Content-Type": "application/json; charset=utf-8",
            "Cache-Control": "no-store, no-cache",
            "Pragma": "no-cache",
            "Expires": "-1",
            "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
            "X-Content-Type-Options": "nosniff",
            "P3P": 'CP="DSP CUR OTPi IND OTRi ONL FIN"',
            "x-ms-request-id": request_id,
            "x-ms-ests-server": "2.1.22000.6 - FRC ProdSlices",
            "x-ms-clitelem": "1,0,0,,",
            **(headers or {}),
        },
    )


def refusal(
    error: EntraError,
    request: web.Request,
    moment: datetime,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return an error as JSON."""
    body = error.body(moment=moment, correlation_id=correlation(request))
    telemetry = {"x-ms-clitelem": f"1,{error.code},0,,"}
    return json_answer(body, status=error.status, headers={**telemetry, **(headers or {})})


def correlation(request: web.Request) -> str:
    """Return the id that the client gave its request, or a fresh one."""
    given = request.headers.get("client-request-id", "")
    return given if GUID.fullmatch(given) else str(uuid.uuid4())


def after(seconds: float | None) -> dict[str, str]:
    """Return the header that asks for a pause."""
    return {} if seconds is None else {"Retry-After": str(seconds)}


def outage(status: int, *, retry_after: float | None = None) -> web.Response:
    """Return the HTML page that stands where JSON should."""
    return web.Response(
        body=_HTML_PAGE, status=status, content_type="text/html", headers=after(retry_after)
    )


def located(uri: str, fields: Mapping[str, str], *, fragment: bool = False) -> str:
    """Return the redirect URI with the answer in its query, or behind a ``#``.

    A URI without a path gets its slash here, as browsers and Entra have it.
    """
    parts = urlsplit(uri)
    encoded = urlencode(fields)
    path = parts.path or "/"
    if fragment:
        return parts._replace(path=path, fragment=encoded).geturl()
    query = "&".join(part for part in (parts.query, encoded) if part)
    return parts._replace(path=path, query=query).geturl()
