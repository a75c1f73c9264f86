"""The JSON that receivers get: complete, valid, and the same every time."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest

from mailbridge import event
from mailbridge.event import EVENT_TYPES, EventSettings, mail_event, notice_event
from mailbridge.formats import native
from mailbridge.formats.native import NativeFormat
from mailbridge.model import Delivery, MessageRef, StoredMail, derived_id
from mailbridge.parse import parse
from mailbridge.schemas import event_schema, event_types

DATA = Path(__file__).parent.parent / "data"
ACCEPTED = datetime(2026, 11, 21, 10, 15, 30, 123456, tzinfo=UTC)
RAW = (DATA / "exchange-alarm.eml").read_bytes()


def stored(raw: bytes = RAW, **changes: Any) -> StoredMail:
    ref = MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=14, uid=90211)
    mail = StoredMail(
        id=ref.message_id,
        ref=ref,
        address="alarm@feuerwehr.example",
        received_at=ACCEPTED - timedelta(seconds=2),
        accepted_at=ACCEPTED,
        raw=raw,
        raw_sha256=hashlib.sha256(raw).hexdigest(),
    )
    return dataclasses.replace(mail, **changes)


def event_of(mail: StoredMail, settings: EventSettings | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mail_event(mail, parse(mail.raw), settings))
    validate(found)
    return found


def validate(found: dict[str, Any]) -> None:
    schema = event_schema(found["type"])
    jsonschema.Draft202012Validator(schema).validate(found)


def delivery(mail: StoredMail | None, **changes: Any) -> Delivery:
    made = Delivery(
        id=1,
        sink="erp",
        event_id=mail.id if mail else derived_id("notice", [1]),
        type="mail.received" if mail else "test.ping",
        mailbox="alarm",
        created_at=ACCEPTED,
        attempts=0,
        first_due_at=ACCEPTED,
        sequence=1,
        fence=1,
        mail=mail,
        body=None if mail else {"message": "hello"},
    )
    return dataclasses.replace(made, **changes)


def test_every_promised_field_is_there() -> None:
    """The event of an ordinary alarm, field by field."""
    found = event_of(stored())
    data = found.pop("data")
    assert found == {
        "type": "mail.received",
        "timestamp": "2026-11-21T10:15:30.123Z",
        "schema": "mailbridge/1",
    }
    headers = data.pop("headers")
    assert [h["name"] for h in headers[:3]] == ["Received", "Received", "Authentication-Results"]
    assert data.pop("id") == stored().ref.message_id
    [attachment] = data.pop("attachments")
    assert attachment["filename"] == attachment["filename_raw"] == "Depesche Süd.pdf"
    assert "content_base64" not in attachment
    assert data.pop("text")["content"].startswith("Stichwort: B3\n")
    assert data.pop("html")["charset"] == "utf-8"
    assert data.pop("parse").items() >= {"status": "ok", "defects": [], "limits_hit": []}.items()
    assert data.pop("auth")["aligned"] is True
    assert data.pop("trust")["from_count"] == 1
    assert data.pop("auto") == {"auto_submitted": "no", "bounce": False, "list": False}
    assert data == {
        "mailbox": "alarm",
        "address": "alarm@feuerwehr.example",
        "folder": "INBOX",
        "source": {"protocol": "imap", "uidvalidity": 14, "uid": 90211},
        "received_at": "2026-11-21T10:15:28.123Z",
        "accepted_at": "2026-11-21T10:15:30.123Z",
        "stale": False,
        "size": len(RAW),
        "raw_sha256": hashlib.sha256(RAW).hexdigest(),
        "from": {
            "name": "Leitstelle Süd",
            "address": "alarm@ils.example",
            "raw": "=?utf-8?Q?Leitstelle_S=C3=BCd?= <alarm@ils.example>",
        },
        "sender": None,
        "to": [
            {"name": "Wache 1", "address": "alarm@feuerwehr.example"},
            {"name": "Meier, Jo", "address": "jo@feuerwehr.example"},
        ],
        "cc": [],
        "bcc": [],
        "reply_to": [],
        "delivered_to": [],
        "subject": "B3 Zimmerbrand, Hauptstraße 5",
        "date": "2026-11-21T11:15:20+01:00",
        "date_raw": "Sat, 21 Nov 2026 11:15:20 +0100",
        "message_id": "<4711@ils.example>",
        "in_reply_to": "<4710@ils.example>",
        "references": ["<4709@ils.example>", "<4710@ils.example>"],
        "text_from_html": False,
        "fields": {},
        "route": None,
    }


def test_pop3_names_its_uidl() -> None:
    """A mail fetched by POP3 has its UIDL as source."""
    ref = MessageRef(mailbox="alarm", folder="INBOX", protocol="pop3", uidl="abc")
    assert event_of(stored(ref=ref))["data"]["source"] == {"protocol": "pop3", "uidl": "abc"}


@pytest.mark.parametrize(
    ("late", "stale"), [(timedelta(minutes=15), False), (timedelta(minutes=16), True)]
)
def test_late_mail_is_stale(late: timedelta, *, stale: bool) -> None:
    """A mail accepted more than the threshold after it was received says so."""
    found = event_of(stored(received_at=ACCEPTED - late))
    assert found["data"]["stale"] is stale


def test_mail_without_received_time_is_not_stale() -> None:
    """Nobody knows when it was received, so nobody says it is late."""
    data = event_of(stored(received_at=None))["data"]
    assert (data["received_at"], data["stale"]) == (None, False)


def test_inline_attachments_come_whole_or_not_at_all() -> None:
    """Inline contents are given up to the limit of all together; what does not fit is null."""
    [whole] = event_of(stored(), EventSettings(attachments="inline"))["data"]["attachments"]
    content = base64.b64decode(whole["content_base64"], validate=True)
    assert hashlib.sha256(content).hexdigest() == whole["sha256"]
    assert len(content) == whole["size"]
    small = EventSettings(attachments="inline", attachments_max=whole["size"] - 1)
    [left_out] = event_of(stored(), small)["data"]["attachments"]
    assert left_out == {**whole, "content_base64": None}


def test_attachments_can_be_left_out() -> None:
    """With mode none the list is empty."""
    assert event_of(stored(), EventSettings(attachments="none"))["data"]["attachments"] == []


def test_empty_mail_has_a_valid_event() -> None:
    """Of a mail of 0 bytes everything is null, empty or false, and nothing is missing."""
    data = event_of(stored(b""))["data"]
    assert data["parse"]["status"] == "defects"
    assert (data["from"], data["subject"], data["html"]) == (None, None, None)
    assert data["text"] == {"content": "", "charset": None, "truncated": False, "size": 0}


def test_unfit_names_from_outside_do_not_break_the_json() -> None:
    """A folder name with a lone surrogate becomes U+FFFD, and the event is sent."""
    ref = MessageRef(mailbox="alarm", folder="IN\ud800BOX", uidvalidity=1, uid=1)
    settings = EventSettings(attachments="inline")
    data = event_of(stored(ref=ref), settings)["data"]
    assert data["folder"].startswith("IN\ufffd")
    assert base64.b64decode(data["attachments"][0]["content_base64"])


def test_body_is_the_same_on_every_attempt() -> None:
    """Retries and replays of a delivery send byte for byte the same body."""
    render = NativeFormat("inline")
    first = render.body(delivery(stored()))
    later = delivery(stored(), attempts=7, replay=2, sequence=99, fence=5)
    assert render.body(later) == first
    assert render.content_type == "application/json; charset=utf-8"


def test_bug_of_ours_still_delivers_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should an event be impossible to build, the receiver gets a failed one with its hash."""
    build = event.mail_event

    def broken(mail: StoredMail, message: Any, settings: EventSettings, **said: Any) -> bytes:
        if message.status != "failed":
            raise KeyError
        return build(mail, message, settings, **said)

    monkeypatch.setattr(native, "mail_event", broken)
    found = json.loads(NativeFormat().body(delivery(stored())))
    validate(found)
    assert found["data"]["parse"]["status"] == "failed"
    assert found["data"]["raw_sha256"] == stored().raw_sha256


def test_event_says_what_its_route_found() -> None:
    """A mail carries the name of the route that brought it and the fields that it extracted."""
    fields = MappingProxyType({"keyword": "B3", "units": ["LF 20", "DLK"], "map": {"Ort": "Süd"}})
    found = json.loads(NativeFormat().body(delivery(stored(), route="alarm", fields=fields)))
    validate(found)
    assert found["data"]["route"] == "alarm"
    assert found["data"]["fields"] == {
        "keyword": "B3",
        "units": ["LF 20", "DLK"],
        "map": {"Ort": "Süd"},
    }


def test_delivery_of_nothing_is_a_bug() -> None:
    """A delivery with neither mail nor body is refused, loudly."""
    with pytest.raises(ValueError, match="neither a mail nor a body"):
        NativeFormat().body(delivery(None, body=None))


STAMP = "2026-11-21T10:15:30.123Z"
SENT = {
    "send": "out_" + "A" * 26,
    "message_id": "<a@b>",
    "from": "a@b.example",
    "recipients": [{"address": "c@d.example", "state": "taken", "code": "", "reply": "250 OK"}],
    "attempts": 1,
}
ID = derived_id("mail", ["x"])
PLACE = {"folder": "INBOX", "source": {"protocol": "imap", "uidvalidity": 1, "uid": 2}}
NOTICES: dict[str, dict[str, Any]] = {
    "mail.vanished": {"message": ID, "address": "a@b.example", **PLACE, "reason": "gone"},
    "delivery.dead": {
        "message": ID,
        "webhook": "erp",
        "reason": "HTTP 422",
        "attempts": 3,
        "first_due_at": STAMP,
        "last_attempt_at": STAMP,
    },
    "delivery.held": {
        "message": ID,
        "webhook": "divera",
        "route": "alarm",
        "reason": "not authenticated: dmarc=fail",
    },
    "webhook.failing": {
        "webhook": "erp",
        "reason": "HTTP 503 Service Unavailable",
        "since": STAMP,
        "attempts": 5,
    },
    "webhook.recovered": {"webhook": "erp", "since": STAMP, "attempts": 17},
    "send.parked": {
        "code": "smtp.auth_disabled_mailbox",
        "cause": "SMTP AUTH is off.",
        "fix": "Set-CASMailbox …",
        "person": True,
        "since": STAMP,
        "attempts": 1,
    },
    "send.resumed": {"since": STAMP, "attempts": 1},
    "format.drift": {
        "message": ID,
        "route": "alarm",
        "field": "keyword",
        "empty": 5,
        "last_filled_at": STAMP,
    },
    "mailbox.degraded": {
        "folder": "INBOX",
        "state": "failing",
        "code": "AADSTS7000215",
        "cause": "The secret is wrong.",
        "fix": "",
        "since": STAMP,
        "last_check": None,
    },
    "mailbox.recovered": {"folder": "INBOX", "since": STAMP},
    "probe.missed": {
        "address": "a@b.example",
        "stage": "seen",
        "code": "imap.not_connected",
        "cause": "User is authenticated but not connected.",
        "fix": "",
        "within": 300,
        "begun_at": STAMP,
        "sent_at": STAMP,
        "seen_at": None,
        "send": "out_" + "A" * 26,
        "message": None,
        "webhooks": [{"webhook": "erp", "delivered_at": None, "attempts": 0, "reason": ""}],
    },
    "probe.recovered": {
        "address": "a@b.example",
        "since": STAMP,
        "begun_at": STAMP,
        "late": False,
        "seconds": {"sent": 0.5, "seen": 1.5, "delivered": 1.6},
        "send": "out_" + "A" * 26,
        "message": ID,
    },
    "secret.expiring": {
        "app": "alarm-app",
        "kind": "client_secret",
        "expires_at": STAMP,
        "days_left": 14,
        "fix": "Create a new one.",
    },
    "send.sent": SENT | {"reply": "250 2.0.0 OK", "sent_at": STAMP},
    "send.failed": SENT | {"reason": "550 no such user", "code": "smtp.no_such_user"},
    "send.held": SENT | {"reason": "lost after the final dot", "code": "send.in_doubt"},
    "test.ping": {"webhook": "erp", "message": "This is a test of mailbridge."},
}


def test_every_event_has_a_schema_and_an_example_here() -> None:
    """The package publishes one schema for each event type, and no other."""
    assert set(event_types()) == EVENT_TYPES == {"mail.received", *NOTICES}
    for type_ in event_types():
        jsonschema.Draft202012Validator.check_schema(event_schema(type_))


@pytest.mark.parametrize("type_", sorted(NOTICES))
def test_notice_is_valid(type_: str) -> None:
    """Each other event carries its id, mailbox and data, as its schema says."""
    made = delivery(None, type=type_, body=NOTICES[type_])
    found = json.loads(NativeFormat().body(made))
    validate(found)
    assert found["type"] == type_
    assert found["timestamp"] == STAMP
    assert found["data"] == {"id": made.event_id, "mailbox": "alarm", **NOTICES[type_]}


@pytest.mark.parametrize("type_", sorted(NOTICES))
def test_schema_misses_what_is_missing(type_: str) -> None:
    """An event without one of its required fields, or with a wrong type, is refused."""
    body = json.loads(notice_event(type_, ID, "alarm", ACCEPTED, NOTICES[type_]))
    for name in event_schema(type_)["properties"]["data"]["required"]:
        torn = {**body, "data": {k: v for k, v in body["data"].items() if k != name}}
        wrong = {**body, "data": {**body["data"], name: 1.5}}
        for bad in (torn, wrong):
            with pytest.raises(jsonschema.ValidationError):
                validate(bad)


def test_schema_of_mail_misses_nothing() -> None:
    """Every field of a mail event is required by its schema and typed."""
    found = event_of(stored(), EventSettings(attachments="inline"))
    for name in found["data"]:
        torn = {**found, "data": {k: v for k, v in found["data"].items() if k != name}}
        wrong = {**found, "data": {**found["data"], name: 1.5}}
        for bad in (torn, wrong):
            with pytest.raises(jsonschema.ValidationError):
                validate(bad)


def test_unknown_type_is_a_bug() -> None:
    """There is no event, and no schema, of a type that nobody documented."""
    with pytest.raises(ValueError, match="no such event type"):
        notice_event("mail.exploded", ID, "alarm", ACCEPTED, {})
    with pytest.raises(KeyError):
        event_schema("../event")


def sample() -> Any:
    """Return ``verified`` as the documentation prints it."""
    page = (DATA.parent.parent / "docs" / "events.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/events.md", "exec"), names)
    return names["verified"]


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNED = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
BODY = b'{"test": 2432232314}'


@pytest.mark.parametrize(
    ("changes", "secrets"),
    [
        ({}, [SECRET]),
        ({}, ["whsec_AAAA", SECRET]),
        ({"webhook-signature": "v1,AAAA v2,x  " + SIGNED["webhook-signature"]}, [SECRET]),
    ],
)
def test_documented_verification_accepts(changes: dict[str, str], secrets: list[str]) -> None:
    """The sample of the documentation accepts the published vector, also while rotating."""
    found = sample()({**SIGNED, **changes}, BODY, secrets, now=lambda: 1614265330)
    assert found == ("msg_p5jXN8AQM9LWM0D4loKWxJek", {"test": 2432232314})


@pytest.mark.parametrize(
    ("changes", "body", "now"),
    [
        ({}, BODY + b" ", 0),
        ({}, BODY, 301),
        ({}, BODY, -301),
        ({"webhook-id": "msg_other"}, BODY, 0),
        ({"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330"}, BODY, 0),
        ({"webhook-timestamp": "1614265330.0"}, BODY, 0),
        ({"webhook-timestamp": " 1614265330"}, BODY, 0),
        ({"webhook-timestamp": "nan"}, BODY, 0),
        ({"webhook-signature": ""}, BODY, 0),
        ({"webhook-signature": "v1,"}, BODY, 0),
        ({"webhook-signature": "v1,ümlaut"}, BODY, 0),
        ({"webhook-signature": SIGNED["webhook-signature"].replace("v1", "v2")}, BODY, 0),
    ],
)
def test_documented_verification_refuses(changes: dict[str, str], body: bytes, now: int) -> None:
    """The sample refuses what was changed, is too old, too new, or malformed."""
    with pytest.raises(ValueError, match=r"malformed"):
        sample()({}, body, [SECRET])
    with pytest.raises(ValueError, match=r"malformed|too old|no signature"):
        sample()({**SIGNED, **changes}, body, [SECRET], now=lambda: 1614265330 + now)


def test_documented_events_are_all_there() -> None:
    """The page for receivers names every event, and its example has every key."""
    page = (DATA.parent.parent / "docs" / "events.md").read_text("utf-8")
    assert all(f"`{type_}`" in page for type_ in EVENT_TYPES)
    example = json.loads(page.partition("```json\n")[2].partition("```")[0])
    assert example["data"].keys() == event_of(stored())["data"].keys()
