"""The built-in webhook receiver verifies, records and misbehaves; foreign code signs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from multidict import CIMultiDict
from standardwebhooks.webhooks import Webhook

from mailbridge.sandbox.ca import Authority
from mailbridge.sandbox.config_text import new_signing_secret
from mailbridge.sandbox.receiver import Answer, Receiver, verify

#: the vector that the Standard Webhooks project publishes
VECTOR_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTOR_BODY = b'{"test": 2432232314}'
VECTOR_TIME = 1614265330
VECTOR_HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(VECTOR_TIME),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
SECRET = new_signing_secret()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver.start(secrets=[SECRET]) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


def signed(
    event_id: str, body: bytes, *, secret: str = SECRET, at: datetime | None = None
) -> dict[str, str]:
    """Return headers whose signature the reference library made."""
    moment = at or datetime.now(UTC)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, moment, body.decode()),
    }


async def post(
    client: aiohttp.ClientSession, receiver: Receiver, event_id: str, *, secret: str = SECRET
) -> Reply:
    body = b'{"type":"mail.received"}'
    async with client.post(
        receiver.url,
        data=body,
        headers=signed(event_id, body, secret=secret),
        allow_redirects=False,
    ) as response:
        body = await response.read()
        return Reply(status=response.status, headers=dict(response.headers), body=body)


def check(changes: dict[str, str], *, body: bytes = VECTOR_BODY, late: int = 0) -> str:
    headers = CIMultiDict({**VECTOR_HEADERS, **changes})
    moment = datetime.fromtimestamp(VECTOR_TIME, tz=UTC) + timedelta(seconds=late)
    return verify([VECTOR_SECRET], headers, body, moment=moment)


def test_the_published_vector_is_accepted() -> None:
    """The specification's own example holds, also second in a list after garbage."""
    assert check({}) == ""
    among = f"v2,xx v1,!!! v1,AAAA {VECTOR_HEADERS['webhook-signature']}"
    assert check({"webhook-signature": among}) == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"webhook-id": "msg.dotted"}, "malformed id or timestamp"),
        ({"webhook-timestamp": "1614265330.5"}, "malformed id or timestamp"),
        ({"webhook-timestamp": " 1614265330"}, "malformed id or timestamp"),
        ({"webhook-timestamp": str(VECTOR_TIME + 1)}, "no signature fits"),
        ({"webhook-signature": "v1,"}, "no signature fits"),
        ({"webhook-signature": ""}, "no signature fits"),
        (
            {"webhook-signature": "v1a" + VECTOR_HEADERS["webhook-signature"][2:]},
            "no signature fits",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, str], problem: str) -> None:
    """A changed id, time, version or signature is never taken for a good one."""
    assert check(changes) == problem


def test_a_changed_body_a_stale_and_a_doubled_header_are_refused() -> None:
    """One byte more, five minutes late, or an id that stands there twice: no."""
    assert check({}, body=VECTOR_BODY + b" ") == "no signature fits"
    assert check({}, late=301) == "timestamp outside the tolerance"
    assert check({}, late=-301) == "timestamp outside the tolerance"
    headers = CIMultiDict(VECTOR_HEADERS)
    headers.add("Webhook-Id", "msg_other")
    moment = datetime.fromtimestamp(VECTOR_TIME, tz=UTC)
    assert verify([VECTOR_SECRET], headers, VECTOR_BODY, moment=moment) == (
        "webhook-id is there 2 times"
    )


async def test_requests_are_verified_recorded_and_counted_once(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    """A repeated webhook-id counts once, a forged one never, and all are in the record."""
    for event_id in ("msg_a", "msg_b", "msg_a"):
        assert (await post(client, receiver, event_id)).status == 200
    assert (await post(client, receiver, "msg_c", secret=new_signing_secret())).status == 401
    accepted = await receiver.wait(2)
    assert [request.id for request in accepted] == ["msg_a", "msg_b"]
    assert [request.verified for request in receiver.requests] == [True, True, True, False]
    assert receiver.requests[3].problem == "no signature fits"
    assert accepted[0].json == {"type": "mail.received"}
    assert await receiver.wait(2, event="mail.received") == accepted


async def test_waiting_ends_as_soon_as_it_came_or_says_what_did(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    """A waiter wakes with the request it waits for; one that waits in vain gets the facts."""
    waiter = asyncio.create_task(receiver.wait(1))
    await post(client, receiver, "msg_a")
    assert [request.id for request in await waiter] == ["msg_a"]
    with pytest.raises(TimeoutError, match=r"for 2, got 1; requests in all: 1"):
        await receiver.wait(2, seconds=0.1)


async def test_scripted_answers_come_in_order_and_end(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    """Status, Retry-After, redirects and large bodies, for so many requests and no more."""
    receiver.answer_with(Answer(status=503, retry_after=7), times=1)
    receiver.answer_with(Answer(status=302, location="http://127.0.0.1:1/"), times=1)
    receiver.answer_with(Answer(status=410), times=1, when=lambda request: request.id == "msg_z")
    receiver.answer_with(Answer(body=b"hi", body_size=200_000), times=1)
    first = await post(client, receiver, "msg_a")
    second = await post(client, receiver, "msg_a")
    third = await post(client, receiver, "msg_a")
    last = await post(client, receiver, "msg_a")
    gone = await post(client, receiver, "msg_z")
    assert (first.status, first.headers["Retry-After"]) == (503, "7")
    assert (second.status, second.headers["Location"]) == (302, "http://127.0.0.1:1/")
    assert len(third.body) == 200_002
    assert (last.status, gone.status) == (200, 410)
    assert [request.status for request in receiver.requests] == [503, 302, 200, 200, 410]
    assert list(receiver.accepted) == ["msg_a"]


async def test_it_hangs_and_drops_when_told(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    """A hanging answer keeps the client waiting, a dropped one breaks the connection."""
    receiver.answer_with(Answer(hang=True), times=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await post(client, receiver, "msg_a")
    receiver.answer_with(Answer(drop=True))
    with pytest.raises(aiohttp.ClientError):
        await post(client, receiver, "msg_b")
    receiver.behave()
    assert (await post(client, receiver, "msg_b")).status == 200
    assert {request.status for request in await receiver.wait_requests(3)} == {0, 200}
    assert list(receiver.accepted) == ["msg_b"]


async def test_it_knows_how_many_came_at_once(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    """Concurrency is seen from the receiver's side."""
    receiver.answer_with(Answer(delay=0.2))
    await asyncio.gather(*(post(client, receiver, f"msg_{n}") for n in range(5)))
    assert receiver.most_active == 5
    assert receiver.active == 0


async def test_it_serves_https_with_the_private_ca() -> None:
    """With a context it is HTTPS, trusted by its own CA only."""
    authority = Authority()
    async with (
        Receiver.start(context=authority.server_context()) as receiver,
        aiohttp.ClientSession() as client,
    ):
        context = authority.client_context()
        async with client.post(receiver.url, data=b"{}", ssl=context) as response:
            assert response.status == 200
        foreign = Authority().client_context()
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.post(receiver.url, data=b"{}", ssl=foreign)
        assert isinstance(context, ssl.SSLContext)
    assert receiver.requests[0].verified
