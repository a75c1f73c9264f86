"""DIVERA and FE2 as their own clients and pages describe them, on a real socket."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mailbridge.build import build_sink
from mailbridge.config import Webhook
from mailbridge.config.secrets import Secret
from mailbridge.model import Deferred, Delivered, Outcome, Rejected
from tests.servers.receiver import Exchange, Receiver, answer, receiving
from tests.unit.test_event import delivery, stored

KEY = "a-long-and-secret-access-key"


def reply(status: int, body: dict[str, Any] | None = None, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(status, json.dumps(body).encode() if body is not None else b"", named)


async def divera(exchange: Exchange) -> None:
    """Answer as DIVERA does: by the key, the fields and their lengths."""
    target = urlsplit(exchange.request.target)
    if parse_qs(target.query).get("accesskey") != [KEY]:
        message = "Your request was made with invalid credentials."
        await reply(403, {"name": "Forbidden", "message": message, "status": 403})(exchange)
        return
    alarm = json.loads(exchange.request.body)
    if "/v2/" in target.path:
        alarm = alarm["Alarm"]
    if not 0 < len(alarm.get("title", "")) <= 50 or len(alarm.get("text", "")) > 1000:
        errors = {"title": ["Stichwort ist zu lang"]}
        await reply(200, {"success": False, "errors": errors})(exchange)
        return
    await reply(200, {"success": True, "data": {"id": 8101}})(exchange)


async def fe2(exchange: Exchange) -> None:
    """Answer as FE2 does: by sender, form, and what it knows."""
    body = json.loads(exchange.request.body)
    if body["authorization"] != KEY:
        error = f"Unbekannter Absender {body['authorization']}"
        await reply(200, {"status": "NOT_OK", "error": error})(exchange)
    elif exchange.number > 1:
        await reply(409, {"status": "NOT_OK", "error": "externalId bereits bekannt"})(exchange)
    elif body["type"] != "ALARM" or not isinstance(body["data"]["message"], list):
        await reply(400, {"status": "NOT_OK", "error": "type"})(exchange)
    else:
        await reply(200, {"status": "OK", "error": ""})(exchange)


def section(receiver: Receiver, path: str, key: str = KEY) -> Webhook:
    own: dict[str, Any] = {"format": "divera", "divera": {"access_key": Secret(key)}}
    if path.startswith("/rest"):
        own = {"format": "alamos-fe2", "alamos": {"authorization": Secret(key)}}
    given = {"url": receiver.url(path), "allow_private": True, "profile": "alarm"}
    return Webhook.model_validate(given | own)


async def attempts(script: Any, path: str, count: int = 1, key: str = KEY) -> list[Outcome]:
    """Send one alarm so often, and hold every outcome to showing no key."""
    outcomes: list[Outcome] = []
    async with receiving(script) as receiver:
        async with build_sink("alarm", section(receiver, path, key)) as sink:
            for number in range(count):
                [rendered] = sink.render([delivery(stored(), fields={"title": "T" * 90})])
                outcomes.append(await sink.deliver(rendered, attempt=number + 1))
            assert key not in repr(sink)
        bodies = {request.body for request in receiver.requests}
        assert len(bodies) == 1
        if path.startswith("/api"):
            assert key.encode() not in bodies.pop()
    for outcome in outcomes:
        assert key not in repr(outcome)
    return outcomes


DIVERA_PATHS = ["/api/alarm", "/api/v2/alarms"]
FE2_PATH = "/rest/external/http/alarm/v2"


@pytest.mark.parametrize("path", DIVERA_PATHS)
async def test_divera_takes_an_alarm(path: str) -> None:
    """An alarm of an ordinary mail is one that DIVERA raises."""
    [outcome] = await attempts(divera, path)
    assert isinstance(outcome, Delivered)
    assert '"id": 8101' in outcome.detail


@pytest.mark.parametrize("path", DIVERA_PATHS)
async def test_divera_with_a_wrong_key_is_tried_again(path: str) -> None:
    """A key that DIVERA does not take keeps the alarm and says what is wrong."""
    [outcome] = await attempts(divera, path, key="another-access-key")
    assert isinstance(outcome, Deferred)
    assert outcome.status == 403


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (reply(200, {"success": False, "message": "Fehler"}), Deferred, "success is false"),
        (reply(200, {"success": False, "errors": {"a": ["b"]}}), Rejected, "refuses this alarm"),
        (answer(200, b"<html>Anmeldung</html>"), Deferred, "it is no JSON"),
        (reply(204), Deferred, "it is no JSON"),
        (reply(400, {"success": False}), Rejected, "HTTP 400"),
        (reply(422, {"errors": {}}), Rejected, "HTTP 422"),
        (reply(500), Deferred, "HTTP 500"),
        (reply(302, {"success": True}, location="https://evil.example/"), Deferred, "redirect"),
    ],
)
async def test_what_divera_says_counts(script: Any, kind: type[Outcome], reason: str) -> None:
    """An alarm that DIVERA did not raise is never taken for delivered."""
    [outcome] = await attempts(script, "/api/alarm")
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, Delivered)
    assert reason in outcome.reason


async def test_divera_is_left_alone_as_long_as_it_asks() -> None:
    """429 brings its wait; the alarm profile caps it at a minute."""
    limited = {"name": "Too Many Requests", "message": "Rate limit exceeded.", "status": 429}
    [outcome] = await attempts(reply(429, limited, retry_after="17"), "/api/alarm")
    assert isinstance(outcome, Deferred)
    assert outcome.retry_after == 17
    [outcome] = await attempts(reply(429, limited, retry_after="300"), "/api/alarm")
    assert isinstance(outcome, Deferred)
    assert outcome.retry_after == 60
    assert "Rate limit" in outcome.detail


async def test_fe2_takes_an_alarm_once() -> None:
    """A repeat that FE2 knows already is delivered, not an endless conflict."""
    first, second = await attempts(fe2, FE2_PATH, count=2)
    assert isinstance(first, Delivered)
    assert isinstance(second, Delivered)
    assert second.status == 409


async def test_fe2_with_a_wrong_key_is_tried_again() -> None:
    """NOT_OK with status 200 is no delivery, and the key that FE2 repeats is struck out."""
    [outcome] = await attempts(fe2, FE2_PATH, key="another-sender-key")
    assert isinstance(outcome, Deferred)
    assert "NOT_OK" in outcome.reason
    assert "Unbekannter Absender ***" in outcome.detail


@pytest.mark.parametrize(
    ("script", "kind", "reason", "fault"),
    [
        (reply(406, {"status": "NOT_OK", "error": "deaktiviert"}), Deferred, "switched off", True),
        (reply(409), Deferred, "conflict", False),
        (reply(400, {"status": "NOT_OK", "error": "x"}), Rejected, "HTTP 400", None),
        (answer(200, b"OK"), Deferred, "no `status`", True),
        (reply(503), Deferred, "HTTP 503", True),
    ],
)
async def test_what_fe2_says_counts(
    script: Any, kind: type[Outcome], reason: str, *, fault: bool | None
) -> None:
    """Each answer of FE2 keeps the alarm, and only trouble of FE2 itself counts against it."""
    [outcome] = await attempts(script, FE2_PATH)
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, Delivered)
    assert reason in outcome.reason
    if isinstance(outcome, Deferred):
        assert outcome.sink_fault is fault


async def test_a_template_that_fails_sends_nothing_and_holds_up_nobody() -> None:
    """The mail waits with the place of the fault; no request is made; the next one goes on."""
    async with receiving() as receiver:
        settings = {"url": receiver.url(), "allow_private": True, "format": "template"}
        template = "{% if not fields.a is defined %}{{ fields.b }}{% endif %}{}"
        given = Webhook.model_validate({**settings, "template": template})
        async with build_sink("chat", given) as sink:
            bad, good = sink.render([delivery(stored()), delivery(stored(), fields={"a": 1})])
            outcome = await sink.deliver(bad, attempt=1)
            assert isinstance(await sink.deliver(good, attempt=1), Delivered)
    assert isinstance(outcome, Deferred)
    assert not outcome.sink_fault
    assert outcome.reason.startswith("webhooks.chat.template, line 1: it asks for something")
    assert [request.body for request in receiver.requests] == [b"{}"]


async def test_nothing_but_mails_is_sent_to_an_alarm_server() -> None:
    """An event that waits for an alarm server since the configuration changed is never sent."""
    async with (
        receiving() as receiver,
        build_sink("alarm", section(receiver, "/api/alarm")) as sink,
    ):
        [rendered] = sink.render([delivery(None, type="mailbox.degraded")])
        outcome = await sink.deliver(rendered, attempt=1)
    assert isinstance(outcome, Deferred)
    assert "is no mail" in outcome.reason
    assert receiver.requests == []
