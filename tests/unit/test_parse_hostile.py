"""Bytes that were made to hurt: each becomes a valid event, at a cost that is bounded."""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile import MAKERS, garbled, hostile
from mailbridge.event import EventSettings, mail_event
from mailbridge.model import MessageRef, StoredMail
from mailbridge.parse import ParsedMessage, parse
from mailbridge.schemas import event_schema

DATA = Path(__file__).parent.parent / "data"
VALIDATOR = jsonschema.Draft202012Validator(event_schema("mail.received"))
INLINE = EventSettings(attachments="inline")
#: large enough for every limit that counts, small enough for a test
SCALE = 0.02


@pytest.fixture(autouse=True)
def _hang_guard() -> Iterator[None]:
    """Show where it hangs and stop, should a mail ever take for ever."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def stored(raw: bytes) -> StoredMail:
    moment = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    ref = MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=1, uid=1)
    return StoredMail(
        id=ref.message_id,
        ref=ref,
        address="alarm@example.org",
        received_at=moment,
        accepted_at=moment,
        raw=raw,
        raw_sha256="0" * 64,
    )


def event_of(raw: bytes) -> tuple[ParsedMessage, dict[str, object]]:
    """Return the message and its event, held to strict JSON and to the schema."""
    message = parse(raw)
    body = mail_event(stored(raw), message, INLINE)
    text = body.decode("utf-8")
    event: dict[str, object] = json.loads(text, parse_constant=_refused)
    VALIDATOR.validate(event)
    assert not any(unfit in text for unfit in ("\\u0000", "\x00", "\\ud8"))
    return message, event


def _refused(constant: str) -> None:
    raise AssertionError(constant)


def counted(raw: bytes) -> tuple[ParsedMessage, int]:
    """Count the function calls that parsing takes: work, whatever the machine does meanwhile."""
    steps = 0

    def profile(_frame: FrameType, happened: str, _argument: object) -> None:
        nonlocal steps
        steps += happened.endswith("call")

    sys.setprofile(profile)
    try:
        message = parse(raw)
    finally:
        sys.setprofile(None)
    return message, steps


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.strip("_"))
def test_hostile_mail_is_delivered(make: Callable[[float], bytes]) -> None:
    """Every mail that was made to hurt gives an event, in a bounded number of steps."""
    raw = make(SCALE)
    message, _ = event_of(raw)
    assert message.status in {"ok", "defects", "limited"}
    assert counted(raw)[1] <= 2_000_000


def test_largest_mails_stay_within_their_limits() -> None:
    """30 MB of the worst kinds cost a bounded number of steps, and the event stays small."""
    worst = {"parts_without_end", "lines_of_hyphens", "fields_of_hyphens", "html_of_brackets"}
    for name, raw in hostile():
        if name in worst:
            worst.remove(name)
            assert len(raw) >= 29_000_000
            message, steps = counted(raw)
            assert steps <= 2_000_000
            assert message.limits_hit
            assert len(mail_event(stored(raw), message, INLINE)) < 2_000_000
    assert not worst


def test_seeded_fuzzer_never_fails() -> None:
    """2,000 messages of awkward pieces, some cut short: each a valid event."""
    statuses = set()
    for raw in garbled(20261121, 2_000):
        message, _ = event_of(raw)
        statuses.add(message.status)
    assert statuses <= {"ok", "defects", "limited"}
    assert "defects" in statuses


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_mail(raw: bytes) -> None:
    """Whatever the bytes, there is a valid event and no failure of ours."""
    message, _ = event_of(raw)
    assert message.status != "failed"


_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"Content-Type: multipart/mixed; boundary=x",
                b"Content-Type: multipart/digest; boundary=y",
                b"Content-Type: text/html",
                b"Content-Type: message/rfc822",
                b"Content-Transfer-Encoding: base64",
                b"From: a@b <c@d>",
                b"--x",
                b"--x--",
                b"--y",
                b"--y--",
                b"",
                b" folded",
            ]
        ),
        st.binary(max_size=12),
    ),
    max_size=30,
)


@given(_LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]))
@settings(max_examples=300, deadline=None)
def test_any_lines_are_a_mail(lines: list[bytes], ending: bytes) -> None:
    """Structures that nobody would write are read without a failure of ours."""
    message, _ = event_of(ending.join(lines))
    assert message.status != "failed"


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_mail_is_still_a_mail(data: st.DataObject) -> None:
    """A real mail with a piece cut out, doubled or overwritten still gives a valid event."""
    raw = (DATA / "exchange-alarm.eml").read_bytes()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, len(raw)))
    between = data.draw(st.sampled_from([b"", raw[start:end] * 2, b"\xff", b"\r\n\r\n", b"\x00"]))
    message, _ = event_of(raw[:start] + between + raw[end:])
    assert message.status != "failed"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.eml")), ids=lambda path: path.name)
def test_awkward_mails_are_valid_events(path: Path) -> None:
    """Each mail of the collection gives an event that its schema accepts."""
    message, _ = event_of(path.read_bytes())
    assert message.status in {"ok", "defects"}
