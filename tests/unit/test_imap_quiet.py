"""What conversations in the event loop are made of: responses from bytes, and a watched socket."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.sources.imap_driver import session_end, share_of
from mailbridge.sources.imap_lines import Responses, TooLong, numbers, untagged
from mailbridge.sources.loop_socket import LoopSocket

_STREAM = (
    b"* OK Still here {12}\r\n"
    b"* 7 EXISTS\r\n"
    b"* 7 FETCH (X {18}\r\nQ OK\r\n* 8 EXISTS\r\n Y {0}\r\n Z {3+}\r\n{4})\r\n"
    b"* BYE {5}\r\n"
    b"+ idling {6}\r\n"
    b"QQQQ1 OK done {7}\n"
    b"* SEARCH 1 2"
)
_RESPONSES = [
    b"* OK Still here {12}",
    b"* 7 EXISTS",
    b"* 7 FETCH (X {18}\r\nQ OK\r\n* 8 EXISTS\r\n Y {0}\r\n Z {3+}\r\n{4})",
    b"* BYE {5}",
    b"+ idling {6}",
    b"QQQQ1 OK done {7}",
]


# -- responses ---------------------------------------------------------------------------------


@given(st.lists(st.integers(min_value=0, max_value=len(_STREAM))))
def test_responses_are_the_same_however_the_bytes_come(cuts: list[int]) -> None:
    """Wherever TLS records begin and end, literals and lines come out whole, in order, once."""
    responses = Responses()
    found = []
    places = [0, *sorted(cuts), len(_STREAM)]
    for begin, end in itertools.pairwise(places):
        found += responses.feed(_STREAM[begin:end])

    assert found == _RESPONSES
    assert responses.rest == b"* SEARCH 1 2"


def test_what_is_not_complete_is_given_back_whole() -> None:
    """A response whose literal has not come stays as it came, from its first byte."""
    responses = Responses()

    assert responses.feed(b"* 1 EXISTS\r\n* 1 FETCH (X {4}\r\nab") == [b"* 1 EXISTS"]
    assert responses.rest == b"* 1 FETCH (X {4}\r\nab"
    assert responses.feed(b"cd)\r\n") == [b"* 1 FETCH (X {4}\r\nabcd)"]
    assert responses.rest == b""


@pytest.mark.parametrize("data", [b"* 1 FETCH (X {999999999}\r\n", b"x" * 2000])
def test_a_response_has_bounds(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Neither an announced nor a growing length goes beyond the limit."""
    monkeypatch.setattr("mailbridge.sources.imap_lines.LONGEST_LINE", 1000)
    with pytest.raises(TooLong):
        Responses().feed(data)


@pytest.mark.parametrize(
    ("line", "name", "is_change", "number"),
    [
        (b"* 7 EXISTS", "EXISTS", True, None),
        (b"* 7 exists", "EXISTS", True, None),
        (b"* 2 FETCH (FLAGS ())", "FETCH", True, None),
        (b"* VANISHED (EARLIER) 41", "VANISHED", True, None),
        (b"* OK [UIDVALIDITY 14] as ever", "OK", False, 14),
        (b"* ok [uidvalidity 14]", "OK", False, 14),
        (b"* OK", "OK", False, None),
        (b"* BYE [UNAVAILABLE] later", "BYE", False, None),
        (b"* SEARCH", "SEARCH", False, None),
        (b"* X-GM.THING-1 2", "X-GM.THING-1", False, None),
    ],
)
def test_an_untagged_response_is_read(
    line: bytes, name: str, *, is_change: bool, number: int | None
) -> None:
    """Its name in capitals, whether it tells of a change, and the folder's number."""
    said = untagged(line)

    assert said is not None
    assert (said.name, said.is_change, said.uidvalidity) == (name, is_change, number)


@pytest.mark.parametrize("line", [b"*", b"* ", b"* 7", b"* -1 EXISTS", b"* \xff\xff", b"Q OK x"])
def test_what_is_no_untagged_response_is_none(line: bytes) -> None:
    """Nonsense is told from data."""
    assert untagged(line) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", []),
        (b"1 22 333", [1, 22, 333]),
        (b" 1  2 ", [1, 2]),
        (b"1 (MODSEQ 917162500)", [1]),
        (b"1 x", None),
        (b"1,2", None),
        (b"-1", None),
        (b"1\xd9\xa3", None),
    ],
)
def test_a_list_of_numbers(text: bytes, found: list[int] | None) -> None:
    """A SEARCH response is numbers and nothing else."""
    assert numbers(text) == found


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(data: bytes) -> None:
    """Whatever a server sends is a response, the beginning of one, or too long."""
    responses = Responses()
    for response in responses.feed(data + b"\r\n"):
        untagged(response)
        numbers(response)


# -- the socket --------------------------------------------------------------------------------


@contextmanager
def _tls_pair() -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Give two ends of a TLS connection, with small buffers between them."""
    authority = trustme.CA()
    theirs, ours = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    authority.issue_cert("localhost").configure_cert(theirs)
    authority.configure_trust(ours)
    left, right = socket.socketpair()
    for one in (left, right):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    made: list[ssl.SSLSocket] = []
    greeting = threading.Thread(
        target=lambda: made.append(theirs.wrap_socket(right, server_side=True))
    )
    greeting.start()
    client = ours.wrap_socket(left, server_hostname="localhost")
    greeting.join()
    server = made[0]
    client.settimeout(0)
    try:
        yield client, server
    finally:
        client.close()
        server.close()


async def test_a_slow_network_delays_what_is_sent_and_drops_nothing() -> None:
    """More than the network takes at once goes out when it takes more, in order."""
    with _tls_pair() as (client, server):
        line = LoopSocket(client, heard=lambda _: None, lost=lambda _: None)
        sent = b"".join(b"%07d\n" % number for number in range(50_000))

        line.send(sent[:300_000])
        line.send(sent[300_000:])
        assert line.unsent

        def read() -> bytes:
            got = b""
            while len(got) < len(sent):
                got += server.recv(65536)
            return got

        assert await asyncio.to_thread(read) == sent
        assert not line.unsent
        line.let_go()


async def test_what_lies_in_the_tls_layer_is_heard() -> None:
    """The rest of a record that somebody began to read does not make the socket readable."""
    with _tls_pair() as (client, server):
        server.send(b"* 7 EXISTS\r\n")
        client.settimeout(5)
        assert client.recv(1) == b"*"
        client.settimeout(0)
        heard: list[bytes] = []

        line = LoopSocket(client, heard=heard.append, lost=lambda _: None)
        line.drain()

        assert heard == [b" 7 EXISTS\r\n"]
        line.let_go()


async def test_the_end_is_told_once_and_nothing_is_watched_afterwards() -> None:
    """A dead socket stays readable for ever; the loop must not look at it again."""
    with _tls_pair() as (client, server):
        ends: list[OSError | None] = []
        line = LoopSocket(client, heard=lambda _: None, lost=ends.append)
        server.close()
        async with asyncio.timeout(5):
            while not ends:
                await asyncio.sleep(0.001)

        assert len(ends) == 1
        assert not asyncio.get_running_loop().remove_reader(client.fileno())
        line.send(b"into the void")
        line.let_go()
        assert not line.unsent


# -- the ends of sessions ----------------------------------------------------------------------


def test_sessions_of_one_token_end_one_after_the_other() -> None:
    """A thousand mailboxes with one token are spread over five minutes, the same every time."""
    now = datetime(2026, 11, 21, tzinfo=UTC)
    token_ends = now + timedelta(hours=1)
    shares = [share_of(f"mailbox-{number}", "INBOX") for number in range(1000)]
    ends = [session_end(token_ends, now, share) for share in shares]

    assert ends == [session_end(token_ends, now, share) for share in shares]
    assert all(timedelta(minutes=5) <= token_ends - end <= timedelta(minutes=10) for end in ends)
    seconds = [int((token_ends - end).total_seconds()) for end in ends]
    assert max(seconds.count(second) for second in set(seconds)) <= 15


def test_a_short_life_is_used() -> None:
    """Of a token that lives for a minute, a session keeps four fifths at least."""
    now = datetime(2026, 11, 21, tzinfo=UTC)
    for share in (0.0, 0.5, 0.999):
        left = session_end(now + timedelta(minutes=1), now, share) - now
        assert timedelta(seconds=48) <= left <= timedelta(seconds=54)
    assert session_end(now, now + timedelta(minutes=1), 0.5) == now
