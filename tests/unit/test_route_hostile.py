"""Routing of mails that were made to hurt: it never raises, and its work is bounded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile import MAKERS, garbled
from mailbridge.model import Ruling
from mailbridge.parse import ParsedMessage, parse
from mailbridge.route.base import (
    AddressPattern,
    MatchSpec,
    RegexField,
    RequireSpec,
    RouteSpec,
)
from mailbridge.route.decide import Router, compile_route

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ANYBODY = (AddressPattern(glob="*a*@*e*"), AddressPattern(regex=r"(\w+\.)*x@.*"))
#: every condition, each in a route of its own, so that all of them are asked
CONDITIONS: list[MatchSpec] = [
    MatchSpec(from_=ANYBODY),
    MatchSpec(to=ANYBODY),
    MatchSpec(cc=ANYBODY),
    MatchSpec(recipient=ANYBODY),
    MatchSpec(subject=r"(?i)(einsatz|alarm)+\s*\d*$"),
    MatchSpec(text=r"(?i)(\w+\s*)+ende$"),
    MatchSpec(headers={"Received": r"(by\s+)+x", "X-A": ".*b"}),
    MatchSpec(attachment=("*.xml", "?*a*b*c*.pdf")),
    MatchSpec(has_attachment=True),
    MatchSpec(),
]
REQUIRE = RequireSpec(
    authenticated=True,
    max_age=timedelta(minutes=15),
    not_duplicate_within=timedelta(minutes=5),
)
EXTRACT = {"number": RegexField(regex=r"Nummer:\s*(?P<value>\d+)")}


def router() -> Router:
    return Router(
        [
            compile_route(
                RouteSpec(
                    name=f"r{index}",
                    match=match,
                    require=REQUIRE if index % 2 else RequireSpec(),
                    extract=EXTRACT,
                    webhooks=("w",),
                )
            )
            for index, match in enumerate(CONDITIONS)
        ]
    )


ROUTER = router()


def ruled(message: ParsedMessage, received_at: datetime | None = NOW) -> Ruling:
    """Return the ruling, held to what every ruling is held to."""
    ruling = ROUTER.rule(message, received_at=received_at, now=NOW)
    assert [step.route for step in ruling] == [f"r{index}" for index in range(len(CONDITIONS))]
    assert ruling[-1].verdict != "passed_by"
    for step in ruling:
        assert step.reason
        assert step.reason.isprintable()
        assert len(step.reason) <= 300
        assert len(step.duplicate_key) <= 64
        assert (step.webhooks == ()) is (step.verdict == "passed_by")
    return ruling


def steps_of(message: ParsedMessage) -> int:
    """Count the function calls that routing takes: work, whatever the machine does meanwhile."""
    steps = 0

    def profile(_frame: FrameType, happened: str, _argument: object) -> None:
        nonlocal steps
        steps += happened.endswith("call")

    sys.setprofile(profile)
    try:
        ROUTER.rule(message, received_at=NOW, now=NOW)
    finally:
        sys.setprofile(None)
    return steps


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.strip("_"))
def test_hostile_mail_is_routed(make: Callable[[float], bytes]) -> None:
    """Every mail that was made to hurt gets a word of every route, in a bounded number of steps."""
    message = parse(make(0.02))
    ruled(message)
    assert steps_of(message) <= 200_000


def test_seeded_fuzzer_never_fails() -> None:
    """1,000 messages of awkward pieces, some cut short: each has its ruling."""
    for raw in garbled(20261122, 1_000):
        ruled(parse(raw))


@given(st.binary(max_size=400), st.none() | st.datetimes(timezones=st.just(UTC)))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_routed(raw: bytes, received_at: datetime | None) -> None:
    """Whatever the bytes and whatever the server's clock, each route has its say."""
    ruled(parse(raw), received_at)


PIECES = st.sampled_from(
    [
        "a@b.example",
        "<",
        ">",
        ",",
        "@",
        '"',
        "=?utf-8?q?a=40b?=",
        "xn--",
        " ",
        "\u0430",
        ".",
        "(",
        ")",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_author_is_routed(author: str) -> None:
    """However an author is written, a sender fits at most when the mail has exactly one."""
    message = parse(f"From: {author}\r\n\r\nx".encode())
    ruling = ruled(message)
    if ruling[0].verdict != "passed_by":
        assert not message.from_ambiguous
        assert len(message.from_) == message.from_fields == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda size: b"To: " + b"a@b.example, " * (size // 40) + b"x@y\r\n\r\nx",
        lambda size: b"Received: " + b"by " * (size // 4) + b"\r\n\r\nx",
        lambda size: b"Received: by x\r\n" * (size // 16) + b"\r\nx",
        lambda size: b"Subject: " + b"alarm" * (size // 6) + b"!\r\n\r\nx",
        lambda size: b"\r\n\r\n" + b"word " * (size // 5) + b"end",
        lambda size: b"\r\n\r\n" + b"Key: value\r\n" * (size // 12),
    ],
)
def test_work_grows_with_the_mail_and_no_faster(make: Callable[[int], bytes]) -> None:
    """Twice the mail costs at most twice the steps, and a little that is always there."""
    small, large = (steps_of(parse(make(size))) for size in (20_000, 40_000))
    assert large <= 2 * small + 100


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_order_and_stop_are_respected(flags: list[tuple[bool, bool]]) -> None:
    """The routes that take a mail are those that match up to the first that stops, in order."""
    routes = [
        RouteSpec(
            name=f"r{index}",
            match=MatchSpec(subject="yes" if fits else "no"),
            webhooks=(f"w{index}",),
            stop=stop,
        )
        for index, (fits, stop) in enumerate(flags)
    ]
    ruling = Router([compile_route(route) for route in routes]).rule(
        parse(b"Subject: yes\r\n\r\n"), received_at=NOW, now=NOW
    )
    expected: list[str] = []
    for index, (fits, stop) in enumerate(flags):
        if fits:
            expected.append(f"w{index}")
            if stop:
                break
    assert [hook for step in ruling for hook in step.webhooks] == expected
    assert [step.route for step in ruling] == [route.name for route in routes]
