"""Errors as problem documents (RFC 9457): what every answer that is not a success looks like.

``code`` is stable and for programs, ``detail`` and ``fix`` are for people, ``request_id`` finds
the request in the daemon's log. An error of ours says that it is one and nothing of the inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mailbridge.errors import MailbridgeError, StoreRefused, TemporaryError, Throttled

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
#: faults of a request that are told at once, and characters of each
FAULTS: Final = 20
WORDS: Final = 200
#: seconds after which to try again, when the error itself does not say
TRY_AGAIN: Final = 5


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    where: str = Field(description="like `query.limit` or `body.webhook`")
    detail: str


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field("about:blank", description="always about:blank: `code` tells the kind")
    title: str = Field(description="the words of the status")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="what is wrong, for a person")
    code: str = Field(description="what is wrong, for a program; stable")
    fix: str | None = Field(None, description="what to do about it")
    request_id: str | None = Field(None, description="names this request in the daemon's log")
    errors: list[Fault] | None = Field(None, description="with status 422: every fault")


#: what every route may answer; ``server.describe`` gives it its media type
PROBLEMS: Final[Mapping[int | str, dict[str, Any]]] = {
    401: {"model": Problem, "description": "No token, or none that is known"},
    404: {"model": Problem, "description": "There is no such thing"},
    422: {"model": Problem, "description": "The request is invalid"},
    "default": {"model": Problem, "description": "Another problem"},
}


class Refusal(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """Raised to answer with a problem document."""

    def __init__(  # noqa: PLR0913 - what a document says
        self,
        status: int,
        code: str,
        detail: str,
        *,
        fix: str = "",
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """``members`` are extension members of the document."""
        super().__init__(detail)
        self.status, self.code, self.detail, self.fix = status, code, detail, fix
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def answer(self, request_id: str | None = None) -> Response:
        """Return the response; it is an ASGI application."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.fix:
            document["fix"] = self.fix
        if request_id:
            document["request_id"] = request_id
        body = orjson.dumps(document | self.members)
        return Response(body, status_code=self.status, headers=self.headers, media_type=MEDIA_TYPE)


def bug() -> Refusal:
    """Return the answer for a fault of ours, which tells nothing of the inside."""
    return Refusal(
        500, "internal", "an internal error; the daemon's log has its trace under the request_id"
    )


def refusal_of(error: MailbridgeError) -> Refusal:
    """Return the answer for an error that mailbridge raised on purpose."""
    if isinstance(error, TemporaryError | StoreRefused):
        seconds = error.retry_after if isinstance(error, Throttled) else TRY_AGAIN
        headers = {"retry-after": str(max(1, round(seconds)))}
        return Refusal(503, error.code, str(error), fix=error.fix, headers=headers)
    return Refusal(409, error.code, str(error), fix=error.fix)


def answer_errors(app: FastAPI) -> None:
    """Let an application answer every error with a problem document."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return error.answer(request_id(request))

    @app.exception_handler(MailbridgeError)
    async def known(request: Request, error: MailbridgeError) -> Response:
        return refusal_of(error).answer(request_id(request))

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        del error  # whoever stands around logs it
        return bug().answer(request_id(request))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        code = f"http.{status.phrase.lower().replace(' ', '_').replace('-', '_')}"
        detail = status.description or status.phrase
        return Refusal(status, code, detail, headers=error.headers).answer(request_id(request))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        faults = _faults(error.errors())
        detail = "; ".join(f"{fault['where']}: {fault['detail']}" for fault in faults[:3])
        members = {"errors": faults}
        refusal = Refusal(422, "http.invalid", detail or "the request is invalid", members=members)
        return refusal.answer(request_id(request))


def request_id(request: Request) -> str | None:
    """Return the name of a request in the log."""
    return getattr(request.state, "request_id", None)


def _faults(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Say what is wrong without repeating what was sent, which may be secret or long."""
    return [
        {
            "where": ".".join(str(part) for part in error["loc"])[:WORDS],
            "detail": str(error["msg"])[:WORDS],
        }
        for error in errors[:FAULTS]
    ]
