"""The fault proxy breaks what it is told to break, and only that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.servers.faultproxy import FaultProxy, fault_proxy


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with fault_proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(proxy.host, proxy.port)


@pytest.mark.parametrize(
    "faults", [{}, {"slice_bytes": 7}, {"rate": 2_000_000.0}, {"latency": 0.01, "jitter": 0.01}]
)
async def test_bytes_pass_unchanged(proxy: FaultProxy, faults: dict[str, float]) -> None:
    """Delay, slices and a narrow line change no byte and no order."""
    proxy.set(**faults)
    reader, writer = await connect(proxy)
    sent = bytes(range(256)) * 40
    writer.write(sent)
    writer.write_eof()

    assert await reader.read(-1) == sent
    assert proxy.bytes_down == len(sent)
    writer.close()


async def test_cut_after_passes_exactly_so_many_bytes(proxy: FaultProxy) -> None:
    """The connection is reset after the byte that was named, not before."""
    proxy.set(cut_after=1000)
    reader, writer = await connect(proxy)
    writer.write(b"x" * 5000)

    assert await reader.readexactly(1000) == b"x" * 1000
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_hole_keeps_bytes_until_it_is_healed(proxy: FaultProxy) -> None:
    """In a black hole nothing arrives and nothing breaks; afterwards all of it comes."""
    reader, writer = await connect(proxy)
    proxy.set(hole="down")
    writer.write(b"hello")
    reading = asyncio.create_task(reader.readexactly(5))
    done, _ = await asyncio.wait({reading}, timeout=0.1)
    assert not done
    proxy.heal()

    assert await reading == b"hello"
    writer.close()


@pytest.mark.parametrize("refuse", ["reset", "close"])
async def test_refused_connections_end_at_once(proxy: FaultProxy, refuse: str) -> None:
    """A new connection meets a reset or an end of file, as asked."""
    proxy.set(refuse=refuse)
    reader, writer = await connect(proxy)
    if refuse == "reset":
        with pytest.raises(ConnectionResetError):
            await reader.read()
    else:
        assert await reader.read() == b""
    writer.close()


async def test_down_and_start_again(proxy: FaultProxy) -> None:
    """A host that is down resets what was open, refuses what is new, and comes back."""
    reader, writer = await connect(proxy)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    await proxy.down()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await proxy.start()
    reader, writer = await connect(proxy)
    writer.write(b"b")

    assert await reader.readexactly(1) == b"b"
    writer.close()


async def test_connection_limit(proxy: FaultProxy) -> None:
    """Connections beyond the limit are reset; those within it live on."""
    proxy.set(max_connections=1)
    reader, writer = await connect(proxy)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    second, other = await connect(proxy)
    with pytest.raises(ConnectionResetError):
        await second.read()
    writer.write(b"b")

    assert await reader.readexactly(1) == b"b"
    writer.close()
    other.close()
