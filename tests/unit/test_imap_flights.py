"""FETCH commands under way together: whatever order answers come in, rows find their order."""

from __future__ import annotations

from typing import Any

import pytest

from mailbridge.errors import Throttled, Unavailable
from mailbridge.sources.imap_errors import Refused
from mailbridge.sources.imap_flights import Flights, Order


class Server:
    """Answers commands by what stands in ``answers``, in the order of sending."""

    def __init__(self, *answers: dict[int, dict[bytes, Any]] | Exception) -> None:
        self._answers = list(answers)
        self.sent: list[tuple[int, ...]] = []
        self.read = 0

    def begin_fetch(self, uids: tuple[int, ...], _items: str) -> bytes:
        self.sent.append(uids)
        return b"T%d" % len(self.sent)

    def end_fetch(self, tag: bytes) -> dict[int, dict[bytes, Any]]:
        self.read += 1
        answer = self._answers[int(tag[1:]) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def forget(self, _kind: str) -> None:
        """Nothing lies there unasked."""


def bodies(*uids: int) -> Order:
    return Order("bodies", uids)


def row(text: bytes) -> dict[bytes, Any]:
    return {b"BODY[]": text}


def test_an_answer_is_read_only_when_it_is_asked_for() -> None:
    """What is ahead stays in the kernel's buffers."""
    server: Any = Server({1: row(b"a")}, {2: row(b"b")}, {3: row(b"c")})
    flights = Flights()
    flights.send(server, [bodies(1), bodies(2), bodies(3)])

    assert flights.take(server, bodies(1)) == {1: row(b"a")}
    assert (server.sent, server.read) == ([(1,), (2,), (3,)], 1)
    assert flights.uids == {2, 3}


def test_nothing_is_sent_twice() -> None:
    """An order that is under way, or here, is not sent again."""
    server: Any = Server({1: row(b"a")}, {2: row(b"b")})
    flights = Flights()
    flights.send(server, [bodies(1), bodies(2)])
    flights.land(server)
    flights.send(server, [bodies(1), bodies(2)])

    assert flights.take(server, bodies(2)) == {2: row(b"b")}
    assert flights.take(server, bodies(1)) == {1: row(b"a")}
    assert server.sent == [(1,), (2,)]


def test_rows_that_come_too_early_are_kept_for_their_order() -> None:
    """A server that works on two commands at once, and unasked flags of a message ahead."""
    server: Any = Server(
        {1: row(b"a"), 3: row(b"c"), 2: {b"FLAGS": (b"\\Seen",)}, 9: row(b"nobody asked")},
        {2: row(b"b")},
    )
    flights = Flights()
    flights.send(server, [bodies(1), bodies(2, 3)])

    assert flights.take(server, bodies(1)) == {1: row(b"a")}
    assert flights.take(server, bodies(2, 3)) == {
        2: {b"FLAGS": (b"\\Seen",), **row(b"b")},
        3: row(b"c"),
    }


def test_rows_of_old_commands_are_not_mixed_into_new_ones() -> None:
    """What came early and was never taken is dropped before the same UIDs are asked again."""
    server: Any = Server({1: row(b"a"), 2: row(b"old")}, {}, {})
    flights = Flights()
    flights.send(server, [bodies(1), bodies(2)])
    flights.take(server, bodies(1))
    flights.land(server)
    flights.forget()

    assert flights.take(server, bodies(2)) == {}
    assert len(server.sent) == 3


def test_a_refusal_is_raised_when_nothing_else_is_under_way() -> None:
    """The caller may search or halve at once; what came meanwhile is not asked for again."""
    server: Any = Server(Refused("no", transient=False), {2: row(b"b")}, {3: row(b"c")})
    flights = Flights()
    flights.send(server, [bodies(1), bodies(2), bodies(3)])

    with pytest.raises(Refused):
        flights.take(server, bodies(1))

    assert (flights.busy, server.read) == (False, 3)
    assert flights.take(server, bodies(3)) == {3: row(b"c")}
    assert flights.take(server, bodies(2)) == {2: row(b"b")}
    assert len(server.sent) == 3


def test_a_refusal_of_what_is_ahead_hurts_nobody_else() -> None:
    """It is raised when that order is asked for, not before."""
    server: Any = Server({1: row(b"a")}, Refused("no", transient=False), {3: row(b"c")})
    flights = Flights()
    flights.send(server, [bodies(1), bodies(2), bodies(3)])

    assert flights.take(server, bodies(1)) == {1: row(b"a")}
    with pytest.raises(Refused):
        flights.take(server, bodies(2))
    assert flights.take(server, bodies(3)) == {3: row(b"c")}


@pytest.mark.parametrize(
    "error", [Unavailable("gone", code="imap.eof"), Throttled("wait", retry_after=5)]
)
def test_a_lost_connection_leaves_what_was_under_way(error: Exception) -> None:
    """All of it may be the cause, and none of it is taken for answered."""
    server: Any = Server({1: row(b"a")}, error, {})
    flights = Flights()
    flights.send(server, [bodies(1), bodies(2), bodies(3), Order("sizes", (4,))])
    flights.take(server, bodies(1))

    with pytest.raises(type(error)):
        flights.take(server, bodies(2))

    assert flights.uids == {2, 3}
    assert flights.busy
