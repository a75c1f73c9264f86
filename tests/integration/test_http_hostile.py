"""Hostile clients: whatever they send, or do not send, others are answered."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailbridge.http import wire
from tests.contract.mails import accept, ref
from tests.servers.api import TOKEN, Api, running_api

HEAD = f"host: x\r\nauthorization: Bearer {TOKEN}\r\n"
MIB = 2**20


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        yield running


class Wire:
    """A client that writes bytes as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Read until the server ends the connection, in whichever way."""
        got = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while part := await self.reader.read(65536):
                    got += part
        return got


@contextlib.asynccontextmanager
async def connected(api: Api) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def fine(api: Api) -> bool:
    """Whether somebody else is answered."""
    return (await api.call("GET", "/healthz", token=None))[0] == 200


async def test_a_head_that_drips_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head has its time from the first byte on; bytes that drip in do not prolong it."""
    monkeypatch.setattr(wire, "HEAD_SECONDS", 0.5)
    async with connected(api) as slow, connected(api) as silent:
        await slow.send("GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while not slow.reader.at_eof():
                    await slow.send("x: y\r\n")
                    await asyncio.sleep(0.05)
        assert await silent.rest() == b""
        assert await fine(api)
    assert api.server.connections.cut["head"] == 2


async def test_what_comes_after_an_answer_is_timed_too(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes on sending a body that was refused does not hold a connection with it."""
    monkeypatch.setattr(wire, "HEAD_SECONDS", 0.5)
    async with connected(api) as client:
        await client.send(f"POST /v1/mailboxes HTTP/1.1\r\n{HEAD}content-length: 99999999\r\n\r\n")
        assert b" 413 " in await client.reader.readline()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while not client.reader.at_eof():
                    await client.send(b"x")
                    await asyncio.sleep(0.05)
    assert api.server.connections.cut["head"] == 1


async def test_a_body_that_does_not_come_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body has its time; then the answer is 408 and the connection ends."""
    monkeypatch.setattr("mailbridge.http.bodies.SECONDS", 0.3)
    monkeypatch.setattr("mailbridge.http.bodies.Bodies.__init__.__kwdefaults__", {"seconds": 0.3})
    async with running_api(tmp_path) as api, connected(api) as client:
        await client.send(
            f"POST /v1/deliveries/1/retry HTTP/1.1\r\n{HEAD}content-length: 10\r\n\r\n12345"
        )
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"http.slow"' in answer
        assert await fine(api)


async def test_connections_without_a_request_make_room(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When every connection is taken by clients that send nothing, others still get in."""
    api.server.connections.limit = 20
    async with contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connected(api)) for _ in range(20)]
        for _ in range(30):
            assert await fine(api)
        half = [await stack.enter_async_context(connected(api)) for _ in range(20)]
        for client in half:
            await client.send("POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
        async with asyncio.timeout(20):  # until each of them is being answered, so to speak
            while sum(one.cycle is not None for one in api.server.connections.open) < 20:
                await asyncio.sleep(0.02)
        assert await fine(api)
        more = [await stack.enter_async_context(connected(api)) for _ in range(40)]
        assert await fine(api)
        assert len(api.server.connections.open) <= 20
        assert await idle[0].rest() == b""
        del more
    assert api.server.connections.cut["room"] >= 40


async def test_a_client_that_does_not_read_is_cut_off(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that nobody reads is held as 64 KiB, not as the whole mail, and not for ever."""
    monkeypatch.setattr(wire, "READ_SECONDS", 0.5)
    await accept(api.store, [1], size=24 * MIB)
    name = ref(1).message_id
    async with connected(api) as client:
        await client.send(f"GET /v1/messages/{name}/raw HTTP/1.1\r\n{HEAD}\r\n")
        async with asyncio.timeout(20):
            while not api.server.connections.cut["read"]:
                for one in api.server.connections.open:
                    assert one.transport.get_write_buffer_size() < MIB
                await asyncio.sleep(0.02)
        assert await fine(api)


async def test_a_client_that_does_not_read_does_not_hold_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the daemon stops, no connection outlives the time that requests have then."""
    monkeypatch.setattr("mailbridge.http.server.STOP_WITHIN", 0.2)
    async with running_api(tmp_path) as api, connected(api) as client:
        await accept(api.store, [1], size=24 * MIB)
        await client.send(f"GET /v1/messages/{ref(1).message_id}/raw HTTP/1.1\r\n{HEAD}\r\n")
        assert b" 200 " in await client.reader.readline()
        api.stop.set()
        async with asyncio.timeout(20):
            while api.server.connections.open:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400),
        (b"HELO mail.example\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nhost : x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: x, chunked\r\n\r\n5\r\n",
            400,
        ),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 70_000, 431),
    ],
)
async def test_what_is_no_http_gets_a_problem(api: Api, sent: bytes, status: int) -> None:
    """Garbage, smuggling and endless heads are answered as problems, and the connection ends."""
    async with connected(api) as client:
        with contextlib.suppress(ConnectionError):
            await client.send(sent)
        answer = await client.rest()
        head, _, body = answer.partition(b"\r\n\r\n")
        if answer:  # a reset may overtake the answer to a head that is still being sent
            assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
            assert b"application/problem+json" in head
            assert json.loads(body)["status"] == status
        else:
            assert status == 431
    assert await fine(api)


async def test_an_upgrade_is_a_plain_request(api: Api) -> None:
    """Nothing here speaks WebSocket or HTTP/2; who asks for it gets the usual answer."""
    async with connected(api) as client:
        await client.send(
            "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\n"
            "upgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n"
        )
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")


async def test_requests_in_one_packet_are_answered_in_order(api: Api) -> None:
    """Pipelined requests get their answers one after the other, in the order they came."""
    paths = ["/healthz", "/nothing", "/healthz", "/readyz"]
    async with connected(api) as client:
        last = len(paths) - 1
        for number, path in enumerate(paths):
            end = "connection: close\r\n" if number == last else ""
            client.writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n{end}\r\n".encode())
        answer = await client.rest()
    statuses = re.findall(rb"HTTP/1\.1 ([0-9]+)", answer)
    assert statuses == [b"200", b"404", b"200", b"503"]


async def test_json_has_a_bottom(api: Api) -> None:
    """JSON that is nested without end is refused before it is parsed."""
    for body in (b"[" * 500_000, b'{"webhook":' * 50_000 + b"1" + b"}" * 50_000):
        status, problem = await api.call(
            "POST",
            "/v1/messages/msg_X/replay",
            data=io.BytesIO(body),
            headers={"content-type": "application/json"},
        )
        assert (status, problem["code"]) == (400, "http.json")


async def test_one_client_does_not_take_every_place(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client has so many requests at a time; the next is told to wait, others are not."""
    monkeypatch.setattr("mailbridge.http.tokens.AT_ONCE", 2)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            client = await stack.enter_async_context(connected(api))
            await client.send(
                f"POST /v1/deliveries/1/retry HTTP/1.1\r\n{HEAD}content-length: 5\r\n\r\n1"
            )
        async with asyncio.timeout(20):
            while (await api.ask("GET", "/v1/mailboxes"))[0].status != 429:
                await asyncio.sleep(0.02)
        assert (await api.call("GET", "/v1/mailboxes", token="made-up-token-of-the-dashboard"))[
            0
        ] == 200
    async with asyncio.timeout(20):
        while (await api.ask("GET", "/v1/mailboxes"))[0].status != 200:
            await asyncio.sleep(0.02)
