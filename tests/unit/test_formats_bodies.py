"""Every format, on every mail: a body that is valid for its type, bounded, and as documented."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile import MAKERS
from mailbridge import config
from mailbridge.event import EventSettings, mail_event
from mailbridge.event_size import EVENT_BYTES
from mailbridge.formats.alamos import AlamosFormat
from mailbridge.formats.base import Format
from mailbridge.formats.cloudevents import CloudEventsFormat
from mailbridge.formats.divera import DiveraFormat
from mailbridge.formats.native import NativeFormat
from mailbridge.formats.raw import RawFormat
from mailbridge.formats.templated import OUTPUT, TemplatedFormat
from mailbridge.formats.values import values_of
from mailbridge.forms import build_format
from mailbridge.parse import parse
from mailbridge.schemas import event_schema, event_types
from mailbridge.template import MAIL_KEYS, NAMES, TemplateFailed
from tests.unit.test_event import DATA, NOTICES, delivery, event_of, stored, validate
from tests.unit.test_formats_config import ENVIRON, HEAD

DOCS = DATA.parent.parent / "docs" / "formats"
JSON = "application/json; charset=utf-8"
TEMPLATE = '{"s": "{{ mail.subject }}", "t": {{ mail.text | tojson }}, "f": {{ fields }}}'
FORMS: dict[str, Format] = {
    "mailbridge": NativeFormat(),
    "cloudevents": CloudEventsFormat(),
    "raw": RawFormat(),
    "divera v1": DiveraFormat("/api/alarm", {}, {}),
    "divera v2": DiveraFormat("/api/v2/alarms", {}, {}),
    "alamos-fe2": AlamosFormat("key", {}, {"a": "{{ mail.from_name }}"}),
    "template": TemplatedFormat(TEMPLATE, JSON),
    "template of text": TemplatedFormat("{{ mail.subject }} {{ mail.to }}", "text/plain"),
}
MAIL = jsonschema.Draft202012Validator(event_schema("mail.received"))
#: section "Attributes" of the specification, and its JSON event format
CLOUDEVENT = jsonschema.Draft202012Validator(
    {
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "pattern": "^urn:[a-z]+:[A-Za-z0-9._%-]+$"},
            "type": {"type": "string", "minLength": 1},
            "time": {
                "type": "string",
                "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$",
            },
            "subject": {
                "type": "string",
                "minLength": 1,
                "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\ufffe\\uffff]*$",
            },
            "datacontenttype": {"const": "application/json"},
            "data": {"type": "object"},
        },
        "required": ["specversion", "id", "source", "type"],
        "propertyNames": {"pattern": "^[a-z0-9]{1,20}$"},
        "additionalProperties": False,
    }
)


def check(name: str, body: bytes, content_type: str, raw: bytes) -> None:
    """Hold a body to what its format promises."""
    if name == "raw":
        assert (body, content_type) == (raw, "message/rfc822")
        return
    text = body.decode("utf-8")
    if content_type == "text/plain":
        return
    found = json.loads(text)
    if name == "mailbridge":
        MAIL.validate(found)
    elif name == "cloudevents":
        CLOUDEVENT.validate(found)
    assert len(body) < EVENT_BYTES + 4096


def all_forms(raw: bytes, fields: dict[str, Any] | None = None) -> None:
    made = delivery(stored(raw), fields=fields or {})
    for name, form in FORMS.items():
        body, content_type = form.render(made)
        assert content_type == form.content_type
        check(name, body, content_type, raw)


@pytest.mark.parametrize("path", sorted(DATA.glob("*.eml")), ids=lambda path: path.name)
def test_awkward_mails_in_every_format(path: Path) -> None:
    """Mails that other programs stumble over have a valid body in each format."""
    all_forms(path.read_bytes())


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: getattr(make, "__name__", "mail"))
def test_hostile_mails_in_every_format(make: Any) -> None:
    """Mails that were made to hurt have a valid body in each format, and a bounded one."""
    all_forms(make(0.02))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMED = st.sampled_from(["keyword", "title", "text", "lat", "units", "number", "x", "priority"])


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=300), st.text(max_size=80), st.dictionaries(NAMED, JSON_VALUES))
def test_any_mail_and_any_field_in_every_format(
    raw: bytes, subject: str, fields: dict[str, Any]
) -> None:
    """No mail makes any format raise, and no extracted field does."""
    line = b"Subject: " + subject.encode("utf-8", "replace").replace(b"\n", b" ")
    all_forms(line + b"\r\n" + raw, fields)


@pytest.mark.parametrize("type_", sorted(NOTICES))
def test_other_events_as_cloudevents(type_: str) -> None:
    """What is no mail is a valid CloudEvent too, with the event's own data."""
    for mailbox in ("alarm", ""):
        made = delivery(None, type=type_, body=NOTICES[type_], mailbox=mailbox)
        found = json.loads(FORMS["cloudevents"].render(made)[0])
        CLOUDEVENT.validate(found)
        assert found["id"] == made.event_id
        assert found["type"] == type_
        assert found["data"] == json.loads(FORMS["mailbridge"].render(made)[0])["data"]


def test_cloudevent_of_a_mail_has_the_data_of_the_event() -> None:
    """A CloudEvent and an event say the same of a mail."""
    made = delivery(stored(), route="alarm", fields={"keyword": "B3"})
    found = json.loads(FORMS["cloudevents"].render(made)[0])
    event = json.loads(FORMS["mailbridge"].render(made)[0])
    assert found["data"] == event["data"]
    assert found["time"] == event["timestamp"]
    assert found["subject"] == "B3 Zimmerbrand, Hauptstraße 5"
    assert found["source"] == "urn:mailbridge:alarm"


def test_subject_of_a_cloudevent_holds_what_the_specification_permits() -> None:
    """Controls and noncharacters of a mail's subject reach no attribute; `data` has them all."""
    word = base64.b64encode("a\tb\ufffec\U0001fffed\ufdd0".encode())
    raw = b"Subject: =?utf-8?b?" + word + b"?=\r\n\r\nx"
    found = json.loads(FORMS["cloudevents"].render(delivery(stored(raw)))[0])
    CLOUDEVENT.validate(found)
    assert found["subject"] == "a b c d"
    assert "\ufffe" in found["data"]["subject"]


def test_same_bytes_on_every_attempt() -> None:
    """In every format a retry and a replay are the same to the byte."""
    first = delivery(stored(), fields={"keyword": "B3"})
    later = dataclasses.replace(first, attempts=9, replay=1, sequence=8, fence=7)
    for form in FORMS.values():
        assert form.render(later) == form.render(first)


def test_templates_see_what_is_documented() -> None:
    """A template has the four names, and below `mail` always the same ones."""
    native = NativeFormat()
    for path in DATA.glob("*.eml"):
        values = values_of(native, delivery(stored(path.read_bytes())))
        assert tuple(values) == NAMES
        assert set(values["mail"]) == set(MAIL_KEYS)
    values = values_of(native, delivery(None))
    assert (values["mail"], values["route"], values["event"]["type"]) == ({}, "", "test.ping")


def test_template_that_gives_no_json_waits() -> None:
    """A receiver never gets half of a JSON document; the reason names the template."""
    form = TemplatedFormat("{{ mail.subject }}", JSON, place="webhooks.x.template")
    with pytest.raises(TemplateFailed, match=r"^webhooks.x.template: what it gives is no JSON"):
        form.render(delivery(stored()))


def test_template_bounds_its_body() -> None:
    """A body beyond the bound is not sent, and inline attachments widen it by their own bound."""
    form = TemplatedFormat("{% for a in range(1000) %}{{ mail.text }}{% endfor %}", "text/plain")
    raw = b"Subject: x\r\n\r\n" + b"a" * 10_000
    with pytest.raises(TemplateFailed, match=f"more than {OUTPUT} bytes"):
        form.render(delivery(stored(raw)))
    big = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b\r\n"
        b"Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n\r\n"
        + b"p" * 3_000_000
        + b"\r\n--b--\r\n"
    )
    whole = "{{ event | tojson }}"
    inline = TemplatedFormat(whole, JSON, attachments_mode="inline", attachments_max=4_000_000)
    body, _ = inline.render(delivery(stored(big)))
    assert len(json.loads(body)["data"]["attachments"][0]["content_base64"]) == 4_000_000


def quoted(count: int) -> bytes:
    return b'"' * count


OVERSIZED = {
    "event-html": b"Content-Type: text/html\r\n\r\n" + quoted(524_000),
    "event-headers": b"".join(b"X-%d: %s\r\n" % (n, quoted(900)) for n in range(210))
    + b"".join(
        b"%s: %s\r\n" % (name, b",".join([b"a%d@b.example" % n for n in range(900)]))
        for name in (b"To", b"Cc", b"Bcc", b"Reply-To")
    )
    + b"Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\n"
    + quoted(262_000)
    + b"\r\n--b\r\nContent-Type: text/html\r\n\r\n"
    + quoted(524_000)
    + b"\r\n--b--\r\n",
}


@pytest.mark.parametrize("name", ["event-html", "event-headers"])
def test_what_is_cut_from_an_event_is_named(name: str) -> None:
    """An event weighs no more than 1 MiB; what that costs a mail stands in `limits_hit`."""
    raw = OVERSIZED[name]
    body = mail_event(stored(raw), parse(raw), EventSettings())
    found = json.loads(body)
    validate(found)
    assert len(body) <= EVENT_BYTES
    assert name in found["data"]["parse"]["limits_hit"]
    assert found["data"]["parse"]["status"] == "limited"
    assert found["data"]["html"]["truncated"]


def test_oversized_fields_are_cut_last() -> None:
    """Should a route have extracted too much, the mail arrives without that, and says so."""
    fields = {"all": "x" * EVENT_BYTES}
    found = json.loads(mail_event(stored(), parse(stored().raw), None, fields=fields))
    validate(found)
    assert found["data"]["fields"] == {}
    assert found["data"]["parse"]["limits_hit"][-1] == "event-fields"


def test_inline_attachments_are_no_reason_to_cut() -> None:
    """Attachments that a webhook asked for have a bound of their own."""
    big = b"Content-Type: application/pdf\r\nContent-Disposition: attachment\r\n\r\n"
    found = event_of(stored(big + b"p" * 2_000_000), EventSettings(attachments="inline"))
    assert found["data"]["parse"]["limits_hit"] == []
    assert found["data"]["attachments"][0]["content_base64"]


VARIABLES = {
    **ENVIRON,
    "CHAT_URL": "https://chat.example/hook",
    "DIVERA_ACCESS_KEY": "divera-access-key",
    "DIVERA_V2_URL": "https://app.divera247.com/api/v2/alarms?accesskey=divera-access-key",
    "FE2_KEY": "key-of-fe2",
    "ARCHIVE_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "BROKER_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
EXAMPLE = re.compile(r"```yaml\nwebhooks:\n(.*?)```.*?```http\n(.*?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(*found, id=f"{page.stem}-{number}")
    for page in sorted(DOCS.glob("*.md"))
    for number, found in enumerate(EXAMPLE.findall(page.read_text("utf-8")))
]


def test_every_format_has_an_example() -> None:
    """Each format has a page with at least one example, and each example is tried below."""
    assert {str(example.id).rpartition("-")[0] for example in EXAMPLES} == {
        *("alamos-fe2", "cloudevents", "divera", "raw", "template"),
    }


@pytest.mark.parametrize(("settings_", "request_"), EXAMPLES)
def test_documented_examples(tmp_path: Path, settings_: str, request_: str) -> None:
    """The configuration of each example is taken as it stands, and gives the request it shows."""
    file = tmp_path / "mailbridge.yaml"
    file.write_text(HEAD + settings_, encoding="utf-8")
    found, problems, _ = config.check(file, environ=VARIABLES)
    assert found is not None, problems
    [(name, webhook)] = found.webhooks.items()
    fields = {"keyword": "B3", "address": "Hauptstraße 5, Musterstadt"}
    if webhook.format == "alamos-fe2":
        del fields["address"]
    made = delivery(stored(), route="alarm", fields=fields)
    body, content_type = build_format(name, webhook).render(made)
    head, _, shown = request_.partition("\n\n")
    line, header = head.split("\n")
    target = webhook.request_url.partition(webhook.origin)[2]
    assert line == "POST " + target.replace("divera-access-key", "…")
    assert header == f"content-type: {content_type}"
    if webhook.format == "raw":
        assert body == stored().raw
    elif webhook.format == "template":
        assert body.decode() == shown
    else:
        real = json.loads(body.replace(b"key-of-fe2", "…".encode()))
        if webhook.format == "cloudevents":
            real["data"] = {}
        assert real == json.loads(shown.replace("{…}", "{}"))


def test_schemas_are_as_many_as_events() -> None:
    """Nothing that is sent in CloudEvents lacks a schema of its data."""
    assert set(event_types()) == {"mail.received", *NOTICES}
