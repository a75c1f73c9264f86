"""``GET /attachments/ID/INDEX``: one attachment to whoever has its signed link.

What a stranger wrote is served so that no browser takes it for anything but a download: as an
attachment, with a type from a short list, never sniffed, in a sandbox without scripts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from mailbridge.http.problems import Refusal
from mailbridge.links import Links
from mailbridge.parse import Attachment, parse

#: types that are named as they are; whatever else is called a stream of bytes
_NAMED: Final = frozenset(
    {
        "application/pdf",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/tiff",
        "text/calendar",
        "text/csv",
        "text/plain",
    }
)
_UNNAMED: Final = "application/octet-stream"


def attachment_routes(
    links: Links, raw: Callable[[str], Awaitable[bytes | None]], *, now: Callable[[], datetime]
) -> APIRouter:
    """Return the routes. ``raw`` gives the bytes of a message, ``None`` when they are gone."""
    router = APIRouter()

    @router.get(
        "/attachments/{message_id}/{index}",
        summary="An attachment by its signed link",
        response_class=Response,
        responses={
            200: {"content": {_UNNAMED: {"schema": {"type": "string", "format": "binary"}}}},
            403: {"description": "The link is not one of ours, or was changed"},
            410: {"description": "The link has ended, or the message is no longer kept"},
        },
    )
    async def attachment(
        message_id: Annotated[str, Path(pattern="^msg_[A-Z2-7]{26}$")],
        index: Annotated[int, Path(ge=0, lt=1000)],
        exp: Annotated[int, Query(ge=0, lt=2**40)],
        sig: Annotated[str, Query(max_length=64)],
    ) -> Response:
        good = links.check(message_id, index, exp, sig, now=now())
        if good is False:
            raise Refusal(403, "link.forged", "this link is not one of ours, or was changed")
        if good is None:
            raise Refusal(
                410,
                "link.ended",
                "this link has ended",
                fix="replay the message: the new delivery carries new links",
            )
        content = await raw(message_id)
        found = None
        if content is not None:
            found = await asyncio.to_thread(_part, content, index)
        if found is None:
            raise Refusal(410, "message.gone", "the message, or this part of it, is no longer kept")
        return Response(found.content, headers=_headers(found))

    return router


def _part(raw: bytes, index: int) -> Attachment | None:
    attachments = parse(raw).attachments
    return attachments[index] if index < len(attachments) else None


def _headers(part: Attachment) -> dict[str, str]:
    """Return the headers of a download (RFC 6266, RFC 8187 for the name)."""
    name = part.filename or "unnamed"
    quoted = quote(name, safe="")
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in name)
    return {
        "content-type": part.content_type if part.content_type in _NAMED else _UNNAMED,
        "content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quoted}",
        "content-security-policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "cache-control": "private, no-store",
        "referrer-policy": "no-referrer",
    }
