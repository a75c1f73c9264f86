"""The API: mailboxes, the mail log, and what an operator does about dead letters."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer

from mailbridge.http.base import Document, Operations
from mailbridge.http.models import (
    Deliveries,
    DeliveryQuery,
    Mailboxes,
    MessageName,
    MessageQuery,
    Messages,
    Number,
    Replay,
    Replayed,
    Requeued,
    Trace,
)
from mailbridge.http.problems import PROBLEMS, Refusal

log = structlog.get_logger(__name__)

#: bytes of a mail that are handed to the connection at once
CHUNK: Final = 64 * 1024
#: a place in the log before which all lie
_END: Final = 2**63 - 1

#: only describes: ``tokens.Door`` has seen to it before anything got here
bearer = HTTPBearer(auto_error=False, description="one of http.api_tokens")


def api_router(tag: str) -> APIRouter:
    """Return a router below ``/v1`` whose routes are described with their token and problems."""
    return APIRouter(
        prefix="/v1", tags=[tag], dependencies=[Depends(bearer)], responses=dict(PROBLEMS)
    )


def api(operations: Operations) -> list[APIRouter]:
    """Return the routes of the API."""
    return [
        _mailboxes(operations),
        _messages(operations),
        _replay(operations),
        _deliveries(operations),
    ]


def _mailboxes(operations: Operations) -> APIRouter:
    router = api_router("mailboxes")

    @router.get("/mailboxes", summary="How each mailbox is seen", response_model=Mailboxes)
    async def mailboxes() -> Document:
        return {"mailboxes": await operations.mailboxes()}

    return router


def _messages(operations: Operations) -> APIRouter:
    router = api_router("messages")

    @router.get("/messages", summary="The mail log, newest first", response_model=Messages)
    async def messages(asked: Annotated[MessageQuery, Query()]) -> Document:
        # One more than is wanted tells whether there is a next page.
        rows = await operations.messages(
            mailbox=asked.mailbox,
            state=asked.state,
            since=asked.since,
            before=None if asked.cursor is None else min(int(asked.cursor, 16), _END),
            limit=asked.limit + 1,
        )
        return {"messages": rows[: asked.limit], "next_cursor": next_cursor(rows, asked.limit)}

    @router.get("/messages/{id}", summary="All about one message", response_model=Trace)
    async def trace(id: Annotated[MessageName, Path()]) -> Document:  # noqa: A002 - in the URL
        return await _known(operations, id)

    @router.get(
        "/messages/{id}/raw",
        summary="The message as it came",
        response_class=Response,
        responses={200: {"content": {"message/rfc822": {"schema": {"type": "string"}}}}},
    )
    async def raw(id: Annotated[MessageName, Path()]) -> Response:  # noqa: A002 - in the URL
        row = _message(await _known(operations, id), id)
        if row["state"] == "gap":
            detail = "its server lists this message and does not give it"
            raise Refusal(404, "message.gap", detail)
        content = await operations.raw(row["id"])
        if content is None:
            raise Refusal(410, "message.purged", "retention has removed the bytes of this message")
        name = re.sub(r"[^A-Za-z0-9_-]", "_", row["id"])
        headers = {
            "content-disposition": f'attachment; filename="{name}.eml"',
            "content-length": str(len(content)),
        }
        return StreamingResponse(_chunks(content), headers=headers, media_type="message/rfc822")

    return router


def _replay(operations: Operations) -> APIRouter:
    router = api_router("messages")

    @router.post(
        "/messages/{id}/replay",
        summary="Deliver a message again, under its id",
        response_model=Replayed,
    )
    async def replay(
        request: Request,
        id: Annotated[MessageName, Path()],  # noqa: A002 - in the URL
        wanted: Replay | None = None,
    ) -> Document:
        webhook = wanted.webhook if wanted else None
        name = _message(await _known(operations, id), id)["id"]
        if webhook is not None and webhook not in await operations.webhooks():
            raise Refusal(422, "webhook.unknown", "there is no webhook of this name")
        count = await operations.replay(name, webhook)
        log.info("api.replay", client=client(request), message=name, count=count)
        return {"replayed": count}

    return router


def _deliveries(operations: Operations) -> APIRouter:
    router = api_router("deliveries")

    @router.get("/deliveries", summary="What waits, and dead letters", response_model=Deliveries)
    async def deliveries(asked: Annotated[DeliveryQuery, Query()]) -> Document:
        rows = await operations.deliveries(
            state=asked.state, webhook=asked.webhook, limit=asked.limit + 1
        )
        return {"deliveries": rows[: asked.limit], "more": len(rows) > asked.limit}

    @router.post(
        "/deliveries/{id}/retry", summary="Try a delivery again, now", response_model=Requeued
    )
    async def retry(
        request: Request,
        id: Annotated[Number, Path()],  # noqa: A002 - in the URL
    ) -> Document:
        count = await operations.retry(id)
        if not count:
            found = await operations.delivery(id)
            if found is None:
                raise Refusal(404, "delivery.unknown", "there is no delivery of this number")
            raise Refusal(409, "delivery.over", f"this delivery is {found['state']}")
        log.info("api.retry", client=client(request), delivery=id)
        return {"requeued": count}

    return router


def client(request: Request) -> str:
    """Return which client of ``http.api_tokens`` asks."""
    return str(request.state.client)


def next_cursor(rows: Any, limit: int) -> str | None:
    """Return where the next page begins; new mail does not move it, since that comes in front."""
    if len(rows) <= limit:
        return None
    # Gaps have no place in the log: they lead it.
    return f"{rows[limit - 1]['number'] or _END:x}"


async def _known(operations: Operations, name: str) -> Document:
    """Return the trace of a message; a number is that of a delivery, and no name of a message."""
    found = None if name.isdecimal() else await operations.trace(name)
    if found is None:
        raise Refusal(404, "message.unknown", "nothing is known of this message")
    return found


def _message(trace: Document, name: str) -> Document:
    """Return the message that a webhook-id, or else a Message-ID, is the name of."""
    rows = trace["messages"]
    if not rows:
        raise Refusal(404, "message.unknown", "this is no id of a mail that was fetched")
    row: Document = next((row for row in rows if row["id"] == name), rows[0])
    return row


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    """Yield parts, each when the one before is on its way."""
    for start in range(0, len(content), CHUNK):
        yield content[start : start + CHUNK]
