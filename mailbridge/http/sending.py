"""``/v1/send``: mail that is to be sent, and what became of it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Annotated, Any, Final, Protocol

import orjson
from fastapi import APIRouter, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from mailbridge.compose.draft import Draft, Handed, Origin, Taken, Unfit
from mailbridge.errors import StoreFull
from mailbridge.http.api import api_router, client
from mailbridge.http.base import Document
from mailbridge.http.problems import TRY_AGAIN, Problem, Refusal
from mailbridge.http.send_models import (
    SendQuery,
    SendRequest,
    SendStatus,
    Sent,
    described,
    query_parameters,
)

#: bytes of a request: a mail of 35 MB as JSON, and room for how JSON writes it
BODY: Final = 50 * 1024 * 1024
#: for ``http_server``
BODY_LIMITS: Final = {("POST", "/v1/send"): BODY}
#: bytes from which on a request is read in a thread
_LARGE: Final = 64 * 1024
#: faults that are told at once
_FAULTS: Final = 100
_JSON: Final = "application/json"
_MAIL: Final = "message/rfc822"

_NOTHING: Final = SendQuery()
_KEY: Final = re.compile("^[ -~]{1,255}$")
_BODY: Final[dict[str, Any]] = {
    "parameters": [
        *query_parameters(SendQuery),
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": _KEY.pattern},
            "description": "the same key and request give the same mail again, and no second one",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {"schema": described(SendRequest)},
            _MAIL: {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    409: {"model": Problem, "description": "The Idempotency-Key stands for another mail"},
    413: {"model": Problem, "description": "The mail is larger than any may be"},
    415: {"model": Problem, "description": "It is neither JSON nor a mail"},
    507: {"model": Problem, "description": "The disk is full; nothing was kept"},
}


class Sending(Protocol):
    """A ``Protocol``: what the API asks of whoever takes outgoing mail.

    ``send`` and ``hand_over`` answer when the mail is durable, and raise ``Unfit``, ``StoreFull``
    or another ``MailbridgeError`` when it was not taken.
    """

    async def send(self, draft: Draft, origin: Origin) -> Taken:
        """Compose a mail and keep it."""

    async def hand_over(self, handed: Handed, origin: Origin) -> Taken:
        """Keep a mail that is whole."""

    async def status(self, name: str) -> Document | None:
        """Return what became of a mail by its id."""


def send_routes(sending: Sending) -> APIRouter:
    """Return the routes; they want ``BODY_LIMITS``."""
    router = api_router("send")

    @router.post(
        "/send",
        summary="Send a mail; answers when it is durable here",
        status_code=202,
        response_model=Sent,
        responses=_PROBLEMS,
        openapi_extra=_BODY,
    )
    async def send(request: Request) -> Response:
        query, key = _query(request), _key(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await request.body()
        if len(body) < _LARGE:
            given, digest = _read(kind, body, query)
        else:
            given, digest = await asyncio.to_thread(_read, kind, body, query)
        origin = Origin(via="api", client=client(request), key=key, digest=digest)
        taken = await _taken(sending, given, origin)
        answer = {
            "id": taken.id,
            "message_id": taken.message_id,
            "mailbox": taken.mailbox,
            "state": taken.state,
        }
        headers = {"location": f"/v1/send/{taken.id}"}
        return Response(orjson.dumps(answer), 202, headers, _JSON)

    @router.get("/send/{id}", summary="What became of a mail", response_model=SendStatus)
    async def status(
        id: Annotated[str, Path(pattern="^[!-~]{1,100}$")],  # noqa: A002 - in the URL
    ) -> Document:
        found = await sending.status(id)
        if found is None:
            raise Refusal(404, "send.unknown", "there is no outgoing mail of this id")
        return found

    return router


def _query(request: Request) -> SendQuery:
    """Return what stands in the query. FastAPI would do it as well, in a third of a millisecond."""
    if not request.url.query:
        return _NOTHING
    given = request.query_params
    said = {name: given.getlist(name) if name == "to" else given[name] for name in given}
    try:
        return SendQuery.model_validate(said)
    except ValidationError as error:
        raise _invalid(error, "query") from None


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        fault = {
            "type": "string_pattern_mismatch",
            "loc": ("header", "Idempotency-Key"),
            "msg": f"String should match pattern '{_KEY.pattern}'",
        }
        raise RequestValidationError([fault])
    return key or ""


def _invalid(error: ValidationError, where: str) -> RequestValidationError:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return RequestValidationError([{**one, "loc": (where, *one["loc"])} for one in faults])


def _read(kind: str, body: bytes, query: SendQuery) -> tuple[Draft | Handed, str]:
    """Return what was sent, and a digest of it."""
    digest = hashlib.sha256(f"{kind} {query.model_dump_json()} ".encode())
    digest.update(body)
    if kind == _MAIL:
        handed = Handed(raw=body, sender=query.sender, recipients=tuple(query.to))
        return handed, digest.hexdigest()
    if kind != _JSON:
        detail = f"this takes {_JSON} or {_MAIL}"
        raise Refusal(415, "http.unsupported_media_type", detail)
    if query.model_fields_set:
        detail = f"`from` and `to` stand in the query only with {_MAIL}"
        raise Refusal(422, "http.invalid", detail)
    try:
        return SendRequest.model_validate_json(body).draft(), digest.hexdigest()
    except ValidationError as error:
        raise _invalid(error, "body") from None


async def _taken(sending: Sending, given: Draft | Handed, origin: Origin) -> Taken:
    try:
        if isinstance(given, Draft):
            return await sending.send(given, origin)
        return await sending.hand_over(given, origin)
    except Unfit as unfit:
        whole = isinstance(given, Handed)
        raise refusal_of(unfit, whole=whole) from unfit
    except StoreFull as full:
        again = {"retry-after": str(TRY_AGAIN)}
        raise Refusal(507, full.code, str(full), fix=full.fix, headers=again) from full


def refusal_of(unfit: Unfit, *, whole: bool) -> Refusal:
    """Return the answer for a mail that cannot be sent as it is."""
    faults = [
        {"where": _place(one.where, whole=whole), "detail": one.detail}
        for one in unfit.faults[:_FAULTS]
    ]
    detail = "; ".join(f"{one['where']}: {one['detail']}" for one in faults[:3])
    status = 413 if unfit.code == "send.too_large" else 422
    return Refusal(status, unfit.code, detail, members={"errors": faults})


def _place(where: str, *, whole: bool) -> str:
    """Say where in the request it is wrong."""
    if where == "message" or where.startswith("message."):
        return "body" + where.removeprefix("message")
    return f"query.{where}" if whole else f"body.{where}"
