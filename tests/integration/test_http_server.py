"""The HTTP server on real sockets: who gets in, what errors look like, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from mailbridge.errors import ConfigError, StoreFull, Throttled
from mailbridge.http.listening import listen, url_of
from tests.servers.api import OTHER_TOKEN, TOKEN, Api, http, running_api

CANARY = "inner-secret-canary"


class Thing(BaseModel):
    """A body for tests."""

    count: int
    label: str = ""


class Extra:
    """Routes that do what those of the API must never do."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.router = APIRouter(prefix="/v1/test")
        self.router.add_api_route("/boom", self.boom)
        self.router.add_api_route("/half", self.half)
        self.router.add_api_route("/slow", self.slow)
        self.router.add_api_route("/full", self.full)
        self.router.add_api_route("/throttled", self.throttled)
        self.router.add_api_route("/thing", self.thing, methods=["POST"])
        self.router.add_api_route("/large", self.large, methods=["POST"])

    async def boom(self) -> None:
        raise RuntimeError(CANARY)

    async def half(self) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError(CANARY)

        return StreamingResponse(parts(), headers={"content-length": "8"})

    async def slow(self) -> dict[str, str]:
        self.begun.set()
        await self.go_on.wait()
        return {"slow": "done"}

    async def full(self) -> None:
        raise StoreFull("the disk is full", code="store.full")

    async def throttled(self) -> None:
        raise Throttled("later, please", retry_after=17.0)

    async def thing(self, thing: Thing, request: Request) -> dict[str, Any]:
        return {"count": thing.count, "client": request.state.client}

    async def large(self, request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}


@pytest.fixture
def extra() -> Extra:
    return Extra()


@pytest.fixture
async def api(tmp_path: Path, extra: Extra) -> AsyncIterator[Api]:
    limits = {("POST", "/v1/test/large"): 3 * 2**20}
    async with running_api(tmp_path, routers=[extra.router], body_limits=limits) as running:
        yield running


async def test_only_probes_are_open(api: Api) -> None:
    """Health, metrics and the description need no token; everything under /v1 does."""
    for path in ("/healthz", "/metrics", "/openapi.json"):
        answer, _ = await api.ask("GET", path, token=None)
        assert answer.status == 200, path
    for path in ("/v1", "/v1/", "/v1/mailboxes", "/v1/nothing", "/v1/test/boom"):
        answer, content = await api.ask("GET", path, token=None)
        problem = json.loads(content)
        assert (answer.status, problem["code"]) == (401, "http.no_token"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_nothing_else_is_a_token(api: Api) -> None:
    """A token that is cut, longer, doubled, of another scheme or not ASCII opens nothing."""
    values = ["Bearer", "Bearer ", f"Basic {TOKEN}", f"bearer{TOKEN}", f"Bearer {TOKEN}x"]
    values += [f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN} {TOKEN}", "Bearer \xe4\xf6\xfc"]
    for value in values:
        status, problem = await api.call(
            "GET", "/v1/mailboxes", token=None, headers={"authorization": value}
        )
        assert (status, problem["status"]) == (401, 401), value


async def test_two_tokens_in_one_request_open_nothing(api: Api) -> None:
    """Two Authorization headers are refused, so that no proxy and we can disagree on the first."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = "GET /v1/mailboxes HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    writer.write(f"{head}authorization: Bearer {TOKEN}\r\nauthorization: Bearer x\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_clients_are_told_apart(api: Api) -> None:
    """Each token is one client, at the same time as the other, in any case of the scheme."""
    body = {"count": 1}
    answers = await asyncio.gather(
        *(
            api.call(
                "POST",
                "/v1/test/thing",
                token=None,
                headers={"authorization": f"{scheme} {token}"},
                json=body,
            )
            for scheme, token in (("Bearer", TOKEN), ("bearer", OTHER_TOKEN)) * 5
        )
    )
    assert [answer["client"] for _, answer in answers] == ["erp", "dashboard"] * 5


async def test_without_tokens_the_api_is_closed(tmp_path: Path) -> None:
    """With no api_tokens nobody gets in, and the answer names the key to set."""
    async with running_api(tmp_path, api_tokens={}) as api:
        status, problem = await api.call("GET", "/v1/mailboxes", token=TOKEN)
        assert (await api.call("GET", "/healthz", token=None))[0] == 200
    assert (status, problem["code"]) == (401, "http.no_tokens")
    assert "http.api_tokens" in problem["fix"]


PROBLEMS = [
    ("GET", "/nothing", 404, "http.not_found"),
    ("GET", "/v1/messages/", 404, "http.not_found"),
    ("GET", "/docs", 404, "http.not_found"),
    ("POST", "/healthz", 405, "http.method_not_allowed"),
    ("OPTIONS", "/v1/messages", 405, "http.method_not_allowed"),
    ("GET", "/v1/messages?limit=x&state=odd", 422, "http.invalid"),
    ("GET", "/v1/test/full", 503, "store.full"),
    ("GET", "/v1/test/throttled", 503, "throttled"),
    ("GET", "/v1/test/boom", 500, "internal"),
]


async def test_every_error_is_a_problem_document(api: Api) -> None:
    """Whatever goes wrong, the answer is RFC 9457 with a stable code and a name for the log."""
    for method, path, status, code in PROBLEMS:
        found, problem = await api.call(method, path)
        assert (found, problem["status"], problem["code"]) == (status, status, code), path
        assert problem["type"] == "about:blank"
        assert problem["title"]
        assert problem["detail"]
        assert len(problem["request_id"]) == 16


async def test_a_pause_is_told_in_seconds(api: Api) -> None:
    """What may work later says when, so that clients need not guess."""
    answer, _ = await api.ask("GET", "/v1/test/throttled")
    assert answer.headers["retry-after"] == "17"


async def test_a_fault_of_ours_shows_nothing_of_the_inside(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug is answered without its text; the log has the trace, under the name of the request."""
    answer, content = await api.ask("GET", "/v1/test/boom")
    assert CANARY.encode() not in content
    problem = json.loads(content)
    assert answer.headers["x-request-id"] == problem["request_id"]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [bug] = [line for line in lines if line["event"] == "http.bug"]
    assert bug["request_id"] == problem["request_id"]
    assert CANARY in bug["exception"]
    assert TOKEN not in json.dumps(lines)


async def test_half_an_answer_is_not_taken_for_a_whole(api: Api) -> None:
    """A bug in the middle of an answer cuts the connection, and the server goes on."""
    with pytest.raises(aiohttp.ClientPayloadError):
        await api.ask("GET", "/v1/test/half")
    assert (await api.call("GET", "/healthz"))[0] == 200


async def test_what_was_sent_is_not_repeated(api: Api) -> None:
    """A fault names the place and the rule; the value, which may be a secret, stays out of it."""
    body = {"count": CANARY, "label": CANARY}
    answer, content = await api.ask("POST", "/v1/test/thing", json=body)
    problem = json.loads(content)
    assert answer.status == 422
    assert [fault["where"] for fault in problem["errors"]] == ["body.count"]
    assert CANARY.encode() not in content


async def test_every_answer_has_the_headers_that_browsers_obey(api: Api) -> None:
    """No answer is sniffed, framed, cached or run as a page; none says what serves it."""
    for path in ("/healthz", "/v1/nothing", "/v1/test/boom", "/openapi.json"):
        answer, _ = await api.ask("GET", path, headers={"origin": "https://evil.example"})
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


async def test_answers_do_not_wait_for_acknowledgements(api: Api) -> None:
    """Head and body of an answer are sent at once, whether or not the client has read the head."""
    await api.call("GET", "/healthz")
    [connection] = api.server.connections.open
    raw = connection.transport.get_extra_info("socket")
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_head_is_get_without_the_body(api: Api) -> None:
    """Probes that ask with HEAD get the status and the headers of GET."""
    answer, content = await api.ask("HEAD", "/healthz", token=None)
    assert (answer.status, content) == (200, b"")
    assert answer.headers["content-length"] == "15"


async def test_bodies_are_bounded(api: Api) -> None:
    """1 MiB of a client, 64 KiB of anybody, more where a route says so; announced or not."""
    ask = api.ask
    mib = 2**20

    async def chunked(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 65536):
            yield bytes(65536)

    too_large = [
        await ask("POST", "/v1/test/thing", data=io.BytesIO(bytes(mib + 1))),
        await ask("POST", "/v1/test/thing", data=chunked(2 * mib)),
        await ask("POST", "/v1/test/large", data=io.BytesIO(bytes(3 * mib + 1))),
        await ask("POST", "/healthz", token=None, data=bytes(65537)),
    ]
    assert [answer.status for answer, _ in too_large] == [413] * 4
    assert {json.loads(content)["code"] for _, content in too_large} == {"http.too_large"}
    assert (await api.call("POST", "/v1/test/large", data=chunked(3 * mib)))[1] == {
        "bytes": 3 * mib
    }


async def test_a_request_under_way_ends_when_the_daemon_stops(tmp_path: Path, extra: Extra) -> None:
    """A stop takes no new connection, and lets the request under way have its answer."""
    async with running_api(tmp_path, routers=[extra.router]) as api:
        slow = asyncio.create_task(api.call("GET", "/v1/test/slow"))
        await extra.begun.wait()
        api.stop.set()
        await refused(api.port)
        extra.go_on.set()
        assert await slow == (200, {"slow": "done"})


async def test_a_request_that_never_ends_does_not_hold_the_stop(
    tmp_path: Path, extra: Extra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still under way after the time for it is cut off, with nothing left behind."""
    monkeypatch.setattr("mailbridge.http.server.STOP_WITHIN", 0.2)
    async with running_api(tmp_path, routers=[extra.router]) as api:
        slow = asyncio.create_task(api.ask("GET", "/v1/test/slow"))
        await extra.begun.wait()
        api.stop.set()
        [outcome] = await asyncio.gather(slow, return_exceptions=True)
    assert isinstance(outcome, aiohttp.ClientError) or outcome[0].status == 500  # type: ignore[index]


async def refused(port: int) -> None:
    """Wait until nothing listens there."""
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.02)


def test_a_place_that_is_taken_is_a_fault_of_the_configuration() -> None:
    """The start ends with what is wrong and what to do, before anything else begins."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError) as caught:
            listen(http(listen=place))
    [problem] = caught.value.problems
    assert problem.path == "http.listen"
    assert place in problem.message
    assert "in use" in problem.message
    assert "another program" in problem.fix


@pytest.mark.parametrize(
    ("place", "says"),
    [("192.0.2.1:8025", "assign requested address"), ("no-such-host.invalid:80", "no address")],
)
def test_a_place_that_is_not_here_is_named(place: str, says: str) -> None:
    """An address of another machine, or a name without one, is told apart from a taken port."""
    with pytest.raises(ConfigError) as caught:
        listen(http(listen=place))
    assert says in str(caught.value)


def test_a_name_listens_at_each_of_its_addresses() -> None:
    """``localhost`` answers over IPv4 and IPv6 at the same port, as far as the machine has both."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in listen(http(listen="localhost:0"))]
        places = {one.getsockname()[:2] for one in sockets}
        assert len({port for _, port in places}) == 1
        assert ("127.0.0.1", sockets[0].getsockname()[1]) in places
        assert url_of(http(listen="localhost:0"), sockets).startswith("http://localhost:")
        named = http(listen="localhost:0", public_url="https://mail.example/bridge/")
        assert url_of(named, sockets) == "https://mail.example/bridge"


def test_off_opens_nothing() -> None:
    """Without ``listen`` there is no socket."""
    assert listen(http(listen="off")) == []
