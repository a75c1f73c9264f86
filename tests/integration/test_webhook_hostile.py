"""Receivers that mean harm: each costs one bounded attempt and never a mail."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from mailbridge.model import Deferred, Delivered
from mailbridge.sinks.connector import HEAD_BYTES, Deadlines, final_status
from mailbridge.sinks.webhook import DRAIN_BYTES
from tests.integration.test_webhook import attempt, delivery, outcome_of, sink_to
from tests.servers.receiver import Exchange, Script, answer, endless, in_turn, raw, receiving

SHORT = Deadlines(dns=0.3, connect=0.3, tls=0.3, first_byte=0.3, total=0.6)
#: for what should not take any time, on a machine that is busy
PATIENT = Deadlines(first_byte=1.0, total=1.5)
OK = b"HTTP/1.1 200 OK\r\n"
TEN_GIGABYTES = OK + b"Content-Length: 10000000000\r\n\r\n"

DELIVERED: dict[str, Script] = {
    "10 GB announced and sent": endless(TEN_GIGABYTES, b"x" * 65536),
    "endless chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 9000),
    "endless body without a length": endless(OK + b"\r\n", b"x" * 65536),
    "slow drip of the body": endless(OK + b"Content-Length: 99\r\n\r\n", b"x", pause=0.05),
    "body never comes": raw(OK + b"Content-Length: 99\r\n\r\n", then="hang"),
    "body cut short": raw(OK + b"Content-Length: 99\r\n\r\nxx"),
    "reset in the body": raw(OK + b"Content-Length: 99\r\n\r\nxx", pause=0.05, then="reset"),
    "broken chunk with the headers": raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "broken chunk later": raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n", pause=0.05),
    "more than announced": raw(OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\n\r\n"),
    "204 with a body": raw(b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello"),
    "two lengths": raw(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
    "length is no number": raw(OK + b"Content-Length: two\r\n\r\nok"),
    "length and chunks": raw(OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok"),
    "header without a colon": raw(OK + b"X Y\r\n\r\n"),
    "not gzip": raw(OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nbad"),
    "gzip bomb": answer(200, gzip.compress(b"\0" * 60_000_000), {"Content-Encoding": "gzip"}),
    "unknown encoding": answer(200, b"x", {"Content-Encoding": "br, x-evil"}),
    "line feeds only": raw(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
    "HTTP/1.0": raw(b"HTTP/1.0 200 OK\r\n\r\nok"),
    "no reason phrase": raw(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
    "early hints first": raw(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"\r\n"),
    "byte by byte": raw(*[bytes([c]) for c in OK + b"Content-Length: 2\r\n\r\nok"], pause=0.001),
}


@pytest.mark.parametrize("script", DELIVERED.values(), ids=DELIVERED.keys())
async def test_the_status_line_decides(script: Script) -> None:
    """A mail that was answered 2xx is delivered, whatever the rest of the answer is."""
    outcome, receiver = await outcome_of(script, deadlines=PATIENT)
    assert isinstance(outcome, Delivered)
    assert len(receiver.requests) == 1


DEFERRED: dict[str, tuple[Script, str]] = {
    "hang before the answer": (raw(then="hang"), "nothing came for 0.3 s"),
    "hang in the status line": (raw(b"HTTP/1.1 2", then="hang"), "nothing came for 0.3 s"),
    "hang in the headers": (raw(OK + b"X: y\r\n", then="hang"), "nothing came for 0.3 s"),
    "slow drip of headers": (endless(OK, b"X: y\r\n", pause=0.05), "longer than 0.6 s"),
    "slow drip of a header": (endless(OK + b"X: ", b"y", pause=0.05), "longer than 0.6 s"),
    "endless headers": (endless(OK, b"X: y\r\n" * 999), "not valid HTTP"),
    "endless header": (endless(OK + b"X: ", b"y" * 9999), "not valid HTTP"),
    "endless status line": (endless(b"HTTP/1.1 200 ", b"y" * 9999), "not valid HTTP"),
    "flood of 100": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 999), "have no end"),
    "drip of 100": (endless(b"", b"HTTP/1.1 100 C\r\n\r\n", pause=0.05), "longer than 0.6 s"),
    "close at once": (raw(), "closed before the answer"),
    "close in the headers": (raw(OK + b"X: y\r\n"), "closed before the answer"),
    "reset at once": (raw(then="reset"), "connection lost: Connection reset by peer"),
    "not HTTP": (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "not valid HTTP"),
    "garbage": (raw(bytes(range(256)) * 9), "not valid HTTP"),
    "HTTP/2": (raw(b"\0\0\x12\x04\0\0\0\0\0" * 9), "not valid HTTP"),
    "a request": (raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "not valid HTTP"),
}


@pytest.mark.parametrize(("script", "says"), DEFERRED.values(), ids=DEFERRED.keys())
async def test_without_an_answer_the_mail_waits(script: Script, says: str) -> None:
    """Where no complete headers came, the mail is tried again, with the reason seen."""
    outcome, receiver = await outcome_of(script, deadlines=SHORT)
    assert isinstance(outcome, Deferred)
    assert says in outcome.reason
    assert outcome.status is None
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("uvloop", [False, True])
def test_both_event_loops(uvloop: bool) -> None:  # noqa: FBT001 - parametrised
    """The daemon's uvloop and the standard loop come to the same outcomes."""

    async def everything() -> list[str]:
        seen = []
        scripts = [(script, PATIENT) for script in DELIVERED.values()]
        scripts += [(script, SHORT) for script, _ in DEFERRED.values()]
        for script, deadlines in scripts:
            outcome, _ = await outcome_of(script, deadlines=deadlines)
            seen.append(type(outcome).__name__)
        return seen

    import uvloop as fast

    factory = fast.new_event_loop if uvloop else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        seen = runner.run(everything())
    assert seen == ["Delivered"] * len(DELIVERED) + ["Deferred"] * len(DEFERRED)


async def test_a_connection_with_more_to_come_is_closed() -> None:
    """An endless body is read to 64 KiB and a buffer more, then the connection is given up."""
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(TEN_GIGABYTES)
        while True:
            await exchange.send(b"x" * 65536)
            sent += 65536

    async with (
        receiving(in_turn(flood, answer(200))) as receiver,
        sink_to(receiver.url()) as sink,
    ):
        first = await attempt(sink)
        second = await attempt(sink)
    assert isinstance(first, Delivered)
    assert isinstance(second, Delivered)
    assert receiver.connections == 2
    # What the kernel holds in both directions comes on top of what was read.
    assert sent < DRAIN_BYTES + 16_000_000


async def test_a_hanging_receiver_delays_no_other_delivery() -> None:
    """While seven requests hang, the eighth slot goes on delivering."""

    async def stuck(exchange: Exchange) -> None:
        if exchange.number <= 7:
            await exchange.over.wait()
        await answer(200)(exchange)

    async with receiving(stuck) as receiver, sink_to(receiver.url()) as sink:
        hanging = [asyncio.create_task(attempt(sink, delivery(n))) for n in range(7)]
        while len(receiver.requests) < 7:
            await asyncio.sleep(0.01)
        outcomes = [await attempt(sink, delivery(n)) for n in range(20)]
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Delivered}


async def test_a_large_body_that_nobody_reads_ends_with_the_deadline() -> None:
    """A receiver that stops reading in the middle of 20 MB holds a slot only for the deadline."""
    gone = asyncio.Event()

    async def ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.transport.abort()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0, limit=1)
    port = server.sockets[0].getsockname()[1]
    each = delivery(body={"fill": "x" * 20_000_000})
    async with sink_to(f"http://127.0.0.1:{port}/", deadlines=SHORT) as sink:
        outcome = await attempt(sink, each)
    gone.set()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0)
    assert isinstance(outcome, Deferred)
    assert "longer than 0.6 s" in outcome.reason


async def test_a_large_body_arrives_whole() -> None:
    """Twenty megabytes are sent piece by piece and arrive byte for byte."""
    each = delivery(body={"fill": "ä" * 10_000_000})
    async with receiving() as receiver, sink_to(receiver.url()) as sink:
        outcome = await attempt(sink, each)
        (rendered,) = sink.render([each])
    assert isinstance(outcome, Delivered)
    assert receiver.requests[0].body == rendered.body


async def test_cancelling_an_attempt_leaves_the_sink_usable() -> None:
    """A cancelled attempt frees its slot and its connection."""
    async with (
        receiving(in_turn(raw(then="hang"), answer(200))) as receiver,
        sink_to(receiver.url(), concurrency=1) as sink,
    ):
        task = asyncio.create_task(attempt(sink))
        while not receiver.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(await attempt(sink), Delivered)


async def test_nobody_listens() -> None:
    """A receiver that is down defers with what the system says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with sink_to(f"http://127.0.0.1:{free.getsockname()[1]}/") as sink:
            outcome = await attempt(sink)
    assert outcome == Deferred(reason="127.0.0.1: connect: Connection refused")


async def test_a_receiver_that_accepts_nothing_meets_the_connect_deadline() -> None:
    """A full accept queue, like a firewall that drops packets, costs the connect deadline."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.settimeout(0)
            filler.connect_ex(("127.0.0.1", port))
        async with sink_to(f"http://127.0.0.1:{port}/", deadlines=SHORT) as sink:
            outcome = await attempt(sink)
        for filler in fillers:
            filler.close()
    assert outcome == Deferred(reason="127.0.0.1: connect took longer than 0.3 s")


class Names:
    """A resolver that gives its answers in turn and counts the questions."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self.answers = answers
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Give or raise the next answer, from the beginning after the last."""
        answer = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_rebinding_name_never_leads_inside() -> None:
    """A name that answers outside, then inside, is asked once per connection and never believed.

    Loopback stands for inside here, and an address that nobody has for outside.
    """
    names = Names(["198.18.0.1"], ["127.0.0.1"])
    async with receiving() as inner:
        url = f"https://rebind.example:{inner.port}/"
        settings: dict[str, Any] = {"resolve": names, "allow_private": False, "deadlines": SHORT}
        async with sink_to(url, **settings) as sink:
            outcomes = [await attempt(sink) for _ in range(6)]
    assert inner.connections == 0
    assert names.asked == 6
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Deferred)]
    assert len(reasons) == 6
    assert sum("127.0.0.1 is loopback" in reason for reason in reasons) == 3
    assert all("rebind.example" in reason for reason in reasons)


async def test_only_the_judged_address_is_connected_to() -> None:
    """One look-up per connection: what a second one would answer does not matter."""
    async with receiving(answer(200, close=True)) as right, receiving() as wrong:
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        async with sink_to(right.url(host="hook.example"), resolve=names) as sink:
            outcome = await attempt(sink)
    assert isinstance(outcome, Delivered)
    assert names.asked == 1
    assert right.requests[0].headers["host"] == f"hook.example:{right.port}"
    assert wrong.connections == 0


async def test_metadata_services_are_out_of_reach_even_with_allow_private() -> None:
    """The setting for a LAN server does not open the way to the cloud's credentials."""
    for address in ("169.254.169.254", "fe80::1", "100.100.100.200", "224.0.0.1", "0.0.0.0"):
        async with sink_to("http://lan.example/", resolve=Names([address])) as sink:
            outcome = await attempt(sink)
        assert isinstance(outcome, Deferred)
        assert f"lan.example: address {address} is" in outcome.reason
        assert "never connected to" in outcome.reason


async def test_plain_http_does_not_leave_the_private_network() -> None:
    """With allow_private, http to a name that turns out to be public is still refused."""
    async with sink_to("http://lan.example/", resolve=Names(["8.8.8.8"])) as sink:
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert "8.8.8.8 is public, and http:// is only for private addresses" in outcome.reason


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "Temporary failure"),
        ([], "DNS has no address"),
    ],
)
async def test_dns_failures_heal(failure: Exception | list[str], says: str) -> None:
    """NXDOMAIN, SERVFAIL and an empty answer are tried again and heal by themselves."""
    async with receiving() as receiver:
        names = Names(failure, ["127.0.0.1"])
        async with sink_to(receiver.url(host="hook.example"), resolve=names) as sink:
            first, second = await attempt(sink), await attempt(sink)
    assert isinstance(first, Deferred)
    assert first.reason.startswith("hook.example: D")
    assert says in first.reason
    assert isinstance(second, Delivered)


async def test_dns_that_does_not_answer_meets_its_deadline() -> None:
    """A name server that is silent costs the DNS deadline and holds up nothing else."""

    async def silent(_host: str, _port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError

    async with sink_to("https://hook.example/", resolve=silent, deadlines=SHORT) as sink:
        outcome = await attempt(sink)
    assert outcome == Deferred(reason="hook.example: DNS took longer than 0.3 s")


async def test_the_second_address_is_used_when_the_first_is_dead() -> None:
    """A name with one address of two out of order is reached by the other."""
    async with receiving() as receiver:
        names = Names(["127.0.0.9", "127.0.0.1"])
        async with sink_to(receiver.url(host="hook.example"), resolve=names) as sink:
            outcome = await attempt(sink)
    assert isinstance(outcome, Delivered)


async def test_ipv6_only() -> None:
    """A name with nothing but an IPv6 address is reached."""
    got = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.set()
        writer.write(OK + b"Content-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    async with sink_to(f"http://six.example:{port}/", resolve=Names(["::1"])) as sink:
        outcome = await attempt(sink)
    server.close()
    await server.wait_closed()
    assert isinstance(outcome, Delivered)
    assert got.is_set()


@pytest.mark.parametrize(
    ("early", "status"),
    [
        (b"", None),
        (OK, None),
        (OK + b"\r\n", 200),
        (b"HTTP/1.1 100 C\r\n\r\n" * 3 + b"HTTP/1.0 503 X\n\n", 503),
        (b"HTTP/1.1 100 C\r\n\r\n", None),
        (b"HTTP/2 200 OK\r\n\r\n", None),
        (b"HTTP/1.1 2000 OK\r\n\r\n", None),
        (b"HTTP/1.1 20 OK\r\n\r\n", None),
        (b"ICY 200 OK\r\n\r\n", None),
        (b"\r\n\r\n" + OK + b"\r\n", None),
        (b"HTTP/1.1 100 C\r\n\r\n" * (HEAD_BYTES // 18), None),
    ],
)
def test_a_status_is_believed_with_its_whole_header_section(
    early: bytes, status: int | None
) -> None:
    """Raw bytes give a status only with a proper status line and the empty line at the end."""
    assert final_status(early) == status
