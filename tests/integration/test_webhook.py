"""What a webhook receives, and what its answers mean, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from mailbridge.model import Deferred, Delivered, Delivery, Outcome, Rejected
from mailbridge.sinks.base import Sink
from mailbridge.sinks.connector import Deadlines
from mailbridge.sinks.signature import new_secret
from mailbridge.sinks.webhook import LARGE_BODY_BYTES, WebhookSink, check_header
from tests.conftest import Clock
from tests.servers.receiver import Exchange, Receiver, answer, in_turn, raw, receiving

CREATED = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def delivery(number: int = 1, **changes: Any) -> Delivery:
    made = Delivery(
        id=number,
        sink="erp",
        event_id=f"msg_{number:026d}",
        type="test.ping",
        mailbox="alarm",
        created_at=CREATED,
        attempts=0,
        first_due_at=CREATED,
        sequence=number,
        fence=1,
        body={"note": "Grüße"},
    )
    return replace(made, **changes)


def render(each: Delivery) -> bytes:
    return orjson.dumps({"type": each.type, "data": each.body})


def sink_to(url: str, **settings: Any) -> WebhookSink:
    usual: dict[str, Any] = {"version": "1.2.3", "body": render, "allow_private": True}
    return WebhookSink(name="erp", url=url, **(usual | settings))


async def attempt(sink: WebhookSink, each: Delivery | None = None, number: int = 1) -> Outcome:
    (rendered,) = sink.render([each or delivery()])
    return await sink.deliver(rendered, attempt=number)


async def outcome_of(
    script: Callable[[Exchange], Any], **settings: Any
) -> tuple[Outcome, Receiver]:
    """Make one attempt against a receiver that follows ``script``."""
    async with receiving(script) as receiver, sink_to(receiver.url(), **settings) as sink:
        return await attempt(sink), receiver


def test_it_is_a_sink() -> None:
    """The dispatch loop can use a webhook by the contract of sinks."""
    sink: Sink = sink_to("https://erp.example/")
    assert (sink.name, sink.concurrency) == ("erp", 8)


async def test_headers_of_a_request(clock: Clock) -> None:
    """A receiver gets exactly the documented headers, and the body byte for byte."""
    clock.set(CREATED + timedelta(seconds=90, milliseconds=600))
    each = delivery(7, replay=2, sequence=41)
    settings = {"headers": {"Authorization": "Bearer abc", "X-Site": "LZ"}, "now": clock}
    async with receiving() as receiver:
        url = receiver.url("/hook?a=1&b=%2F")
        async with sink_to(url, secrets=[new_secret()], **settings) as sink:
            await attempt(sink, each, 3)
    (request,) = receiver.requests
    headers = request.headers
    assert len(headers) == len(request.header_list)
    assert headers.pop("webhook-signature").startswith("v1,")
    assert headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "authorization": "Bearer abc",
        "content-length": str(len(request.body)),
        "content-type": "application/json; charset=utf-8",
        "mailbridge-age": "90",
        "mailbridge-attempt": "3",
        "mailbridge-replay": "2",
        "mailbridge-sequence": "41",
        "user-agent": "mailbridge/1.2.3",
        "webhook-id": "msg_00000000000000000000000007",
        "webhook-timestamp": str(int(CREATED.timestamp()) + 90),
        "x-site": "LZ",
    }
    assert request.target == "/hook?a=1&b=%2F"
    assert request.body == render(each)


async def test_optional_headers_are_absent() -> None:
    """Without a secret nothing is signed, and a first delivery is no replay."""
    _, receiver = await outcome_of(answer(200))
    headers = receiver.requests[0].headers
    assert "webhook-signature" not in headers
    assert "mailbridge-replay" not in headers


async def test_a_created_at_in_the_future_has_no_age(clock: Clock) -> None:
    """A clock that was set back makes no negative age."""
    clock.set(CREATED - timedelta(hours=1))
    _, receiver = await outcome_of(answer(200), now=clock)
    assert receiver.requests[0].headers["mailbridge-age"] == "0"


async def test_a_foreign_verifier_accepts_every_request_and_no_mutation() -> None:
    """The reference library takes all that is sent, with either key, and nothing changed."""
    new, old = new_secret(), new_secret()
    bodies = {n: {"n": n, "text": "ä\u2028\x00" * n, "fill": "x" * (n * 20_000)} for n in range(70)}
    async with receiving() as receiver, sink_to(receiver.url(), secrets=[new, old]) as sink:
        await asyncio.gather(*[attempt(sink, delivery(n, body=bodies[n])) for n in bodies])
    assert max(len(request.body) for request in receiver.requests) > LARGE_BODY_BYTES
    accepted, mutants, passed = 0, 0, 0
    for request in receiver.requests:
        headers = request.headers
        for secret in (new, old):
            data = Webhook(secret).verify(request.body, headers)
            accepted += data["data"] == bodies[int(headers["webhook-id"].removeprefix("msg_"))]
        stamp = int(headers["webhook-timestamp"])
        swapped = headers["webhook-signature"].replace("v1,", "v1,A", 1).split(" ")[0][:-1]
        for changed, body, secret in (
            ({}, request.body + b" ", new),
            ({}, request.body.replace(b"test.ping", b"test.pong"), old),
            ({"webhook-id": headers["webhook-id"] + "0"}, request.body, new),
            ({"webhook-timestamp": str(stamp + 1)}, request.body, new),
            ({"webhook-timestamp": str(stamp - 1)}, request.body, old),
            ({"webhook-signature": swapped}, request.body, new),
            ({"webhook-signature": ""}, request.body, new),
            ({}, request.body, new_secret()),
        ):
            mutants += 1
            try:
                Webhook(secret).verify(body, headers | changed)
            except WebhookVerificationError:
                continue
            passed += 1
    assert (accepted, mutants, passed) == (140, 560, 0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 205, 299])
async def test_success(status: int) -> None:
    """Every 2xx is a delivery, and the start of its answer is kept for people."""
    line = f"HTTP/1.1 {status} Fine\r\nContent-Length: 0\r\n\r\n".encode()
    outcome, _ = await outcome_of(raw(line))
    assert outcome == Delivered(status=status)


async def test_the_answer_is_kept() -> None:
    """A ping shows status and words of the answer."""
    outcome, _ = await outcome_of(answer(200, b'{"queued": true}'))
    assert outcome == Delivered(status=200, detail='{"queued": true}')


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_rejection(status: int) -> None:
    """Four statuses blame the message, and only they do."""
    outcome, _ = await outcome_of(answer(status, b"no such field"))
    assert isinstance(outcome, Rejected)
    assert outcome.status == status
    assert outcome.detail == "no such field"
    assert str(status) in outcome.reason


SINK_FAULTS = [301, 304, 401, 403, 404, 408, 410, 425, 429, 500, 501, 502, 503, 504, 507]
OTHERS = [402, 405, 406, 407, 409, 411, 412, 414, 416, 417, 418, 421, 423, 424, 426, 428, 431, 451]


@pytest.mark.parametrize("status", [*SINK_FAULTS, *OTHERS])
async def test_deferral(status: int) -> None:
    """Everything else is tried again, and says by its status whose fault it looks like."""
    outcome, _ = await outcome_of(answer(status, b"later"))
    assert isinstance(outcome, Deferred)
    assert outcome.status == status
    assert str(status) in outcome.reason
    assert outcome.sink_fault == (status in SINK_FAULTS)


@pytest.mark.parametrize("status", [600, 999, 101])
async def test_a_status_that_does_not_exist_is_deferred(status: int) -> None:
    """A number that HTTP does not know gives no reason to lose a mail."""
    outcome, _ = await outcome_of(raw(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()))
    assert isinstance(outcome, Deferred)
    assert outcome.status == status


RETRY_AFTER: list[tuple[str, float | None, float | None]] = [
    ("120", 120.0, 60.0),
    ("0", None, None),
    ("-5", None, None),
    ("1.5", 1.5, 1.5),
    ("3601", 3600.0, 60.0),
    ("nan", None, None),
    ("inf", None, None),
    ("1e400", None, None),
    ("1e5000", None, None),
    ("99999999999999999999", None, None),
    ("9" * 5000, None, None),
    ("soon", None, None),
    ("", None, None),
    ("Sat, 21 Nov 2026 12:10:00 GMT", 600.0, 60.0),
    ("Saturday, 21-Nov-26 12:10:00 GMT", 600.0, 60.0),
    ("Sat Nov 21 12:10:00 2026", 600.0, 60.0),
    ("Sat, 21 Nov 2026 11:59:59 GMT", None, None),
    ("Sat, 21 Nov 9999 12:00:00 GMT", None, None),
    ("Sat, 32 Nov 2026 12:00:00 GMT", None, None),
    ("Mon, 00 Jan 0000 00:00:00 GMT", None, None),
]


@pytest.mark.parametrize(("value", "default", "alarm"), RETRY_AFTER)
async def test_retry_after(
    value: str, default: float | None, alarm: float | None, clock: Clock
) -> None:
    """Seconds or a date are honoured up to the profile's cap; nonsense is ignored."""
    for profile, expected in (("default", default), ("alarm", alarm)):
        script = answer(429, headers={"Retry-After": value})
        outcome, _ = await outcome_of(script, profile=profile, now=clock)
        assert isinstance(outcome, Deferred)
        assert outcome.retry_after == expected


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_an_inner_host_is_not_followed(status: int) -> None:
    """A receiver cannot send us on: the inner server sees no connection."""
    async with receiving() as inner:
        location = inner.url("/canary?canary", host="127.0.0.1")
        outcome, _ = await outcome_of(answer(status, headers={"Location": location}))
    assert inner.connections == 0
    assert isinstance(outcome, Deferred)
    assert outcome.reason.endswith("redirect not followed to 127.0.0.1")


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/login", "another path of the same host"),
        ("http://[", "an unreadable address"),
        ("https://" + "a" * 300 + "/", "a" * 253),
        ("//evil.example/x", "evil.example"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254"),
        ("", "another path of the same host"),
    ],
)
async def test_odd_redirects(location: str, says: str) -> None:
    """A reason names where a redirect led to, and no more of it than a host."""
    outcome, _ = await outcome_of(answer(302, headers={"Location": location}))
    assert isinstance(outcome, Deferred)
    assert outcome.reason == f"HTTP 302 Found: redirect not followed to {says}"


async def test_connections_are_reused() -> None:
    """Two hundred deliveries need no more connections than may be open at once."""
    async with receiving() as receiver, sink_to(receiver.url(), concurrency=4) as sink:
        outcomes = await asyncio.gather(*[attempt(sink, delivery(n)) for n in range(200)])
    assert {type(outcome) for outcome in outcomes} == {Delivered}
    assert len(receiver.requests) == 200
    assert receiver.connections <= 4


async def test_concurrency_is_bounded() -> None:
    """However many deliveries are handed over at once, the receiver sees its limit at most."""
    gate = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        if exchange.number >= 3:
            gate.set()
        await gate.wait()
        await answer(200)(exchange)

    async with receiving(slow) as receiver, sink_to(receiver.url(), concurrency=3) as sink:
        await asyncio.gather(*[attempt(sink, delivery(n)) for n in range(30)])
    assert len(receiver.requests) == 30
    assert receiver.most_at_work == 3


async def test_waiting_for_a_slot_is_not_part_of_the_attempt() -> None:
    """A delivery that waits for its turn longer than an attempt may take is not timed out."""
    hang = raw(then="hang")
    settings = {"concurrency": 1, "deadlines": Deadlines(first_byte=0.5, total=0.5)}
    async with (
        receiving(in_turn(hang, hang, answer(200))) as receiver,
        sink_to(receiver.url(), **settings) as sink,
    ):
        outcomes = await asyncio.gather(*[attempt(sink, delivery(n)) for n in range(3)])
    assert [type(outcome) for outcome in outcomes] == [Deferred, Deferred, Delivered]


async def test_a_connection_closed_while_idle_costs_no_attempt() -> None:
    """A receiver that hangs up after its answer, unannounced, gets the next mail at once."""

    async def hang_up_on_the_next(exchange: Exchange) -> None:
        # The request is read and thrown away, as by a server that closes just then.
        if exchange.number in {2, 5}:
            exchange.reset()
        else:
            await answer(200)(exchange)

    async with receiving(hang_up_on_the_next) as receiver, sink_to(receiver.url()) as sink:
        outcomes = [await attempt(sink, delivery(n)) for n in range(1, 5)]
    assert {type(outcome) for outcome in outcomes} == {Delivered}
    sent = [request.headers["webhook-id"][-1] for request in receiver.requests]
    assert sent == ["1", "2", "2", "3", "4", "4"]
    assert receiver.connections == 3


async def test_a_lost_answer_means_the_same_mail_again_under_the_same_id() -> None:
    """A receiver that stores and dies before it answers gets the same id and body once more."""
    async with (
        receiving(in_turn(raw(then="reset"), answer(200))) as receiver,
        sink_to(receiver.url()) as sink,
    ):
        first = await attempt(sink, number=1)
        second = await attempt(sink, number=2)
    assert isinstance(first, Deferred)
    assert isinstance(second, Delivered)
    one, two = receiver.requests
    assert one.headers["webhook-id"] == two.headers["webhook-id"]
    assert one.body == two.body
    assert (one.headers["mailbridge-attempt"], two.headers["mailbridge-attempt"]) == ("1", "2")


async def test_half_an_answer_on_a_reused_connection_is_not_sent_again_at_once() -> None:
    """Once a byte of an answer came, the receiver was at work: the mail waits for its retry."""
    scripts = in_turn(answer(200), raw(b"HTTP/1.1 2", pause=0.05, then="reset"))
    async with receiving(scripts) as receiver, sink_to(receiver.url()) as sink:
        outcomes = [await attempt(sink, delivery(n)) for n in range(2)]
    assert [type(outcome) for outcome in outcomes] == [Delivered, Deferred]
    assert len(receiver.requests) == 2


async def test_a_new_connection_that_fails_is_not_tried_twice_in_one_attempt() -> None:
    """One attempt sends a mail once, unless an idle connection was closed under it."""
    outcome, receiver = await outcome_of(raw(then="reset"))
    assert isinstance(outcome, Deferred)
    assert len(receiver.requests) == 1


async def test_userinfo_of_a_url_becomes_an_authorization_header() -> None:
    """A URL with user and password signs in with them; an explicit header wins."""
    async with receiving() as receiver:
        url = receiver.url().replace("//", "//sirene:p%C3%A4ss%40@", 1)
        for headers in ({}, {"authorization": "Bearer x"}):
            async with sink_to(url, headers=headers) as sink:
                await attempt(sink)
    first, second = [request.headers["authorization"] for request in receiver.requests]
    assert base64.b64decode(first.removeprefix("Basic ")).decode() == "sirene:päss@"
    assert second == "Bearer x"


async def test_cookies_are_neither_kept_nor_sent() -> None:
    """A receiver cannot make us carry state from one delivery to the next."""

    async def loopback(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with (
        receiving(answer(200, headers={"Set-Cookie": "a=b"})) as receiver,
        sink_to(receiver.url(host="hook.example"), resolve=loopback) as sink,
    ):
        for _ in range(2):
            await attempt(sink)
    assert [request.headers.get("cookie") for request in receiver.requests] == [None, None]


async def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment does not get to see mail, nor does it change the request."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(""))
        async with sink_to(receiver.url()) as sink:
            await attempt(sink)
    assert proxy.connections == 0
    assert [request.target for request in receiver.requests] == ["/hook"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Webhook-Id", "x"),
        ("webhook-signature", "x"),
        ("Mailbridge-Attempt", "x"),
        ("content-TYPE", "text/plain"),
        ("Content-Length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("User-Agent", "x"),
        ("Host", "evil.example"),
        ("Connection", "close"),
        ("Accept-Encoding", "gzip"),
        ("X Y", "x"),
        ("", "x"),
        ("X-A\r\nX-B", "x"),
        ("X-A", "canary\r\nX-B: y"),
        ("X-A", "canary\x00"),
        ("X-A", "canary\u20ac"),
    ],
)
def test_static_headers_cannot_replace_ours(name: str, value: str) -> None:
    """A header of ours, or one that would split the request, is refused and its value not shown."""
    problem = check_header(name, value)
    assert problem is not None
    assert "canary" not in problem
    with pytest.raises(ValueError, match="webhook erp: ") as caught:
        sink_to("https://erp.example/", headers={name: value})
    assert "canary" not in str(caught.value)


async def test_secrets_appear_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """No outcome, repr or log holds the URL's secret parts, a header's value or a key."""
    caplog.set_level(logging.DEBUG)
    secret = new_secret()
    canaries = ["canaryuser1", "canarypass1", "canarypath1", "canaryquery1", "canarybearer1"]
    settings = {
        "headers": {"X-Auth": f"Token {canaries[4]}", "X-Key": "canaryheader1"},
        "secrets": [secret],
        "deadlines": Deadlines(first_byte=0.2, total=0.3),
    }

    async def echo(exchange: Exchange) -> None:
        lines = "\n".join(f"{k}: {v}" for k, v in exchange.request.header_list)
        text = f"{exchange.request.target}\n{lines}".encode()
        fill = b"x" * (2048 - len(text) % 2048 - 7)
        await answer(500, fill + text + b" canarypath1 " + text)(exchange)

    shown: list[str] = []
    broken = raw(b"HTTP/1.1 200 canarypath1\r\nno header\r\n", then="reset")
    scripts = [echo, answer(302, headers={"Location": "/"}), raw(b"x", then="hang"), broken]
    async with receiving() as receiver:
        url = receiver.url(f"/{canaries[2]}/x?key={canaries[3]}")
        url = url.replace("//", f"//{canaries[0]}:{canaries[1]}@", 1)
        async with sink_to(url, **settings) as sink:
            for script in [*scripts, raw(then="reset"), raw(b"garbage\r\n\r\n")]:
                receiver.script = script
                shown.append(repr(await attempt(sink)))
            shown.append(repr(sink))
    async with sink_to(url, **settings) as sink:
        shown.append(repr(await attempt(sink)))
    refused = sink_to(url, **(settings | {"allow_private": False}))
    shown += [repr(await attempt(refused)), repr(refused), caplog.text]
    everything = "\n".join(shown)
    assert "***" in shown[0]
    assert "canary" not in everything
    assert secret.removeprefix("whsec_") not in everything


async def test_what_is_shown_of_an_answer_is_harmless() -> None:
    """Control characters, terminal escapes and bidirectional overrides cannot get through."""
    nasty = "a\x1b[31mb\x07c\x00d\r\ne\u202ef\u2028g\x9bh\ud7ffi<script>alert(1)</script>"
    outcome, _ = await outcome_of(answer(500, nasty.encode() + b"\xff\xfe"))
    assert isinstance(outcome, Deferred)
    assert outcome.detail.isprintable()
    assert outcome.detail.startswith("a [31mb c d  e f g h")


async def test_no_more_than_2_kib_of_an_answer_are_kept() -> None:
    """A long error page leaves 2 KiB, cut between characters."""
    outcome, _ = await outcome_of(answer(500, ("x" + "ä" * 5000).encode()))
    assert isinstance(outcome, Deferred)
    assert len(outcome.detail.encode()) == 2047


async def test_nothing_is_decompressed() -> None:
    """An answer that comes compressed, though nobody asked for it, is shown as it came."""
    packed = gzip.compress(b"canary")
    outcome, _ = await outcome_of(answer(500, packed, {"Content-Encoding": "gzip"}))
    assert isinstance(outcome, Deferred)
    assert outcome.detail
    assert "canary" not in outcome.detail


async def test_a_refused_url_defers_with_the_reason() -> None:
    """A URL that the guard refuses loses nothing: the mail waits until the file is mended."""
    async with receiving() as receiver, sink_to(receiver.url(), allow_private=False) as sink:
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert "allow_private" in outcome.reason
    assert receiver.connections == 0


async def test_a_sink_that_is_not_open_is_a_bug() -> None:
    """A delivery to a closed sink raises instead of claiming that the receiver failed."""
    sink = sink_to("https://erp.example/")
    with pytest.raises(RuntimeError, match="webhook erp is not open"):
        await attempt(sink)


async def test_it_can_be_opened_again() -> None:
    """After a close, a sink works again, as a reload of the configuration may want."""
    async with receiving() as receiver:
        sink = sink_to(receiver.url())
        for _ in range(2):
            async with sink:
                assert isinstance(await attempt(sink), Delivered)
    assert receiver.connections == 2
