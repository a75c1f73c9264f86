"""Alarm servers: the request that each of them takes, and what its answers mean."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailbridge.alarm import ALAMOS, DIVERA_V1, DIVERA_V2
from mailbridge.errors import TemporaryError
from mailbridge.formats.alamos import AlamosFormat
from mailbridge.formats.base import Format
from mailbridge.formats.divera import DiveraFormat
from mailbridge.formats.raw import RawFormat
from mailbridge.model import Deferred, Delivered, Delivery, Outcome, Rejected
from tests.unit.test_event import RAW, delivery, stored

V1, V2 = "/api/alarm", "/api/v2/alarms"
FIELDS = {
    "keyword": "B3",
    "number": "26-4711",
    "address": "Am Markt 5",
    "lat": "53,12",
    "lng": "8.2",
}


def alarm_of(form: Any, fields: dict[str, Any] | None = None, raw: bytes = RAW) -> dict[str, Any]:
    body, content_type = form.render(delivery(stored(raw), fields=fields or {}))
    assert content_type == "application/json; charset=utf-8"
    found: dict[str, Any] = json.loads(body)
    return found


def divera(path: str = V1, /, **written: str) -> DiveraFormat:
    return DiveraFormat(path, written, {}, place="webhooks.divera.divera.alarm")


def alamos(custom: dict[str, str] | None = None, /, **written: str) -> AlamosFormat:
    return AlamosFormat("key-of-fe2", written, custom or {})


def test_divera_v1_of_a_plain_mail() -> None:
    """A mail of which no route extracted anything raises an alarm that says what it said."""
    assert alarm_of(divera()) == {
        "number": stored().id,
        "title": "B3 Zimmerbrand, Hauptstraße 5",
        "text": "Stichwort: B3\nStraße: Hauptstraße 5",
    }


def test_divera_v1_of_extracted_fields() -> None:
    """Fields that have a parameter's name become that parameter, in its kind."""
    fields = {**FIELDS, "priority": "ja", "ric": "10:1, 10:2", "unknown": "x"}
    assert alarm_of(divera(), fields) == {
        "number": "26-4711",
        "title": "B3",
        "text": "Stichwort: B3\nStraße: Hauptstraße 5",
        "address": "Am Markt 5",
        "lat": 53.12,
        "lng": 8.2,
        "priority": True,
        "ric": "10:1, 10:2",
    }


def test_divera_v2() -> None:
    """The second version has the alarm below `Alarm`, and groups only when there are some."""
    alarm = alarm_of(divera(V2), FIELDS)["Alarm"]
    assert alarm["foreign_id"] == "26-4711"
    assert (alarm["notification_type"], alarm["send_push"]) == (2, True)
    form = DiveraFormat(V2, {"group": "{{ fields.g }}"}, {"group": "name"})
    body = alarm_of(form, {"g": ["Wache 1", "17"]})
    assert body["Alarm"]["group"] == ["Wache 1", 17]
    assert body["Alarm"]["notification_type"] == 3
    assert body["instructions"] == {"group": {"mapping": "name"}}
    assert alarm_of(form)["Alarm"]["notification_type"] == 2


def test_lengths_of_divera_are_kept_and_shown() -> None:
    """DIVERA's bounds hold, and a text that was cut shows it."""
    alarm = alarm_of(divera(), {"title": "T" * 99, "text": "x" * 5000, "address": "A" * 300})
    assert (len(alarm["title"]), len(alarm["text"]), len(alarm["address"])) == (50, 1000, 200)
    assert all(alarm[name].endswith("…") for name in ("title", "text", "address"))


def test_alamos() -> None:
    """FE2 gets its own form: lines, units and coordinates, longitude first."""
    fields = {**FIELDS, "units": ["wache-1", "wache-2"], "street": "Am Markt", "house": "5"}
    body = alarm_of(alamos({"von": "{{ mail.from }}"}), fields)
    assert body == {
        "type": "ALARM",
        "timestamp": "2026-11-21T10:15:30+00:00",
        "sender": "mailbridge",
        "authorization": "key-of-fe2",
        "data": {
            "externalId": "26-4711",
            "keyword": "B3",
            "message": ["Stichwort: B3", "Straße: Hauptstraße 5"],
            "location": {"street": "Am Markt", "house": "5", "coordinate": [8.2, 53.12]},
            "units": [{"address": "wache-1"}, {"address": "wache-2"}],
            "custom": {"von": "alarm@ils.example"},
        },
    }


@pytest.mark.parametrize("form", [divera(), divera(V2), alamos()])
def test_no_value_keeps_an_alarm_from_going(form: Any) -> None:
    """What cannot be used is left out and named; what is there is sent all the same."""
    text = json.dumps(alarm_of(form, {**FIELDS, "lat": "north", "lng": "1e999"}))
    assert "north" not in text
    assert "[mailbridge left out: lat, lng]" in text
    assert "B3" in text


@pytest.mark.parametrize("path", [V1, V2])
def test_a_template_that_fails_gives_the_default(path: str) -> None:
    """A mapping that cannot cope with a mail wakes people with the default, and says so."""
    body = alarm_of(divera(path, title="{{ 1 / 0 }}", text="{{ mail.text + 1 }}"), FIELDS)
    alarm = body.get("Alarm", body)
    assert alarm["title"] == "B3"
    assert alarm["text"].startswith("Stichwort: B3")
    assert alarm["text"].endswith("[mailbridge left out: title, text]")
    long = alarm_of(divera(path, title="{{ 1 / 0 }}"), {"text": "x" * 5000})
    long = long.get("Alarm", long)
    assert len(long["text"]) <= 1000
    assert long["text"].endswith("…\n[mailbridge left out: title]")


NOTICES = [delivery(None, type=type_) for type_ in ("test.ping", "mailbox.degraded")]


@pytest.mark.parametrize("notice", NOTICES)
@pytest.mark.parametrize("form", [divera(), divera(V2), alamos(), RawFormat()])
def test_nothing_but_a_mail_reaches_an_alarm_server(form: Any, notice: Delivery) -> None:
    """A mailbox's trouble wakes no fire brigade: such an event waits, and nothing is sent."""
    with pytest.raises(TemporaryError, match="is no mail"):
        form.render(notice)


def test_the_same_alarm_on_every_attempt() -> None:
    """A repeat is the same to the byte, so that the server can merge it."""
    for form in (divera(), divera(V2), alamos()):
        first = delivery(stored(), fields=FIELDS)
        later = dataclasses.replace(first, attempts=9, replay=2, fence=7)
        assert form.render(later) == form.render(first)


ANSWERS_DIVERA: list[tuple[int, bytes, type[Outcome] | None]] = [
    (200, b'{"success":true}', None),
    (201, b'{"success":true,"data":{"id":1}}', None),
    (200, b'{"success":false,"message":"Accesskey"}', Deferred),
    (200, b'{"success":false,"errors":{"title":["too long"]}}', Rejected),
    (200, b'{"success":"true"}', Deferred),
    (200, b'{"success":1}', Deferred),
    (200, b'{"message":"ok"}', Deferred),
    (200, b"[]", Deferred),
    (200, b"null", Deferred),
    (200, b"", Deferred),
    (204, b"", Deferred),
    (200, b"<html>Anmeldung</html>", Deferred),
    (200, b"\xff\xfe", Deferred),
    (200, b"[" * 60_000, Deferred),
    (400, b'{"success":false}', None),
    (401, b'{"name":"Unauthorized","status":401}', None),
    (403, b'{"success":false}', None),
    (429, b'{"name":"Too Many Requests","message":"Rate limit exceeded.","status":429}', None),
    (500, b"", None),
    (302, b'{"success":true}', None),
]


@pytest.mark.parametrize(("status", "body", "outcome"), ANSWERS_DIVERA)
def test_answers_of_divera(status: int, body: bytes, outcome: type[Outcome] | None) -> None:
    """Success is what says so; a refusal of this alarm is told from trouble with the way to it."""
    said = divera().judge(status, body)
    assert said is None if outcome is None else isinstance(said, outcome)


ANSWERS_ALAMOS: list[tuple[int, bytes, type[Outcome] | None]] = [
    (200, b'{"status":"OK","error":""}', None),
    (200, b'{"status":"NOT_OK","error":"Unbekannter Absender"}', Deferred),
    (200, b'{"status":"ok"}', Deferred),
    (200, b"{}", Deferred),
    (200, b"", Deferred),
    (200, b"<html></html>", Deferred),
    (200, b'"OK"', Deferred),
    (400, b'{"status":"NOT_OK","error":"no JSON"}', None),
    (406, b'{"status":"NOT_OK","error":"deaktiviert"}', Deferred),
    (406, b"", Deferred),
    (409, b'{"status":"NOT_OK","error":"externalId already known"}', Delivered),
    (409, b'{"status":"NOT_OK","error":"Alarm bereits vorhanden"}', Delivered),
    (409, b'{"status":"NOT_OK","error":"conflicts with settings"}', Deferred),
    (409, b"", Deferred),
    (409, b'{"error": {"externalId": 1}}', Delivered),
    (503, b'{"status":"OK"}', None),
]


@pytest.mark.parametrize(("status", "body", "outcome"), ANSWERS_ALAMOS)
def test_answers_of_alamos(status: int, body: bytes, outcome: type[Outcome] | None) -> None:
    """Only `OK` is success, and a conflict is one only for an alarm that FE2 has."""
    said = alamos().judge(status, body)
    assert said is None if outcome is None else isinstance(said, outcome)


def test_a_conflict_holds_up_no_other_alarm() -> None:
    """A 409 may be about one alarm, so it does not count against FE2."""
    said = alamos().judge(409, b"")
    assert isinstance(said, Deferred)
    assert not said.sink_fault


FORMS: list[Format] = [divera(), divera(V2), alamos()]


@settings(deadline=None)
@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_answer_makes_a_judge_fall_over(status: int, body: bytes) -> None:
    """Whatever comes back is an outcome, and repeats nothing of it."""
    for form in FORMS:
        said = form.judge(status, body)
        assert said is None or said.detail == ""
        assert said is None or not isinstance(said, Delivered) or status == 409


def test_every_parameter_is_documented() -> None:
    """The pages for DIVERA and FE2 name every parameter that the configuration takes."""
    from tests.unit.test_event import DATA

    docs = DATA.parent.parent / "docs" / "formats"
    for page, parameters in (("divera", {*DIVERA_V1, *DIVERA_V2}), ("alamos-fe2", {*ALAMOS})):
        text = (docs / f"{page}.md").read_text("utf-8")
        missing = {name for name in parameters if f"`{name}`" not in text}
        assert missing <= {"additional_text_2", "additional_text_3"}, missing
