"""One event is one line, and no secret is in it."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote_plus

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mailbridge import log

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
JWT = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL291dGxvb2sifQ.c2lnbmF0dXJl"

Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Give a set-up that writes into memory, and take it away again."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.setattr(log, "_SECRETS", log._Secrets())

    def set_up(form: Literal["console", "json"] = "json", level: str = "info") -> io.StringIO:
        stream = io.StringIO()
        log.configure(form, level, stream=stream, now=lambda: NOW)
        return stream

    yield set_up
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def fail(text: str) -> None:
    raise RuntimeError(text)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_level_and_utc_time(configure: Configure) -> None:
    """A line has the event, its fields, its level, and the time in UTC with milliseconds."""
    stream = configure()
    structlog.get_logger().bind(mailbox="alarm").info("message.accepted", uid=7, took_ms=1.5)
    assert stream.getvalue().endswith("\n")
    assert lines(stream) == [
        {
            "mailbox": "alarm",
            "uid": 7,
            "took_ms": 1.5,
            "event": "message.accepted",
            "level": "info",
            "timestamp": "2026-11-22T12:00:00.123Z",
        }
    ]


def test_the_level_decides_what_is_written(configure: Configure) -> None:
    """Events below the level cost nothing and write nothing."""
    stream = configure(level="warning")
    logger = structlog.get_logger()
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    logger.error("d")
    assert [line["event"] for line in lines(stream)] == ["c", "d"]


AWKWARD = [
    "a\r\nb",
    "\x1b[2J\x1b[31mred",
    "nul\x00",
    "c1\x9b31m",
    "ls\u2028ps\u2029nel\x85",
    "bidi\u202edcba",
    "del\x7f",
    "lone\ud800surrogate",
    'quote"brace}',
    "x" * 40_000,
]


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("text", AWKWARD, ids=[ascii(text)[:12] for text in AWKWARD])
def test_what_strangers_write_stays_on_its_line(
    configure: Configure, form: Literal["console", "json"], text: str
) -> None:
    """No value, key or event name breaks the line, obeys the terminal, or makes it huge."""
    stream = configure(form)
    structlog.get_logger().info(text, value=text, nested=[{"deep": text}], **{text: 1})
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert len(written) < 3 * log.MAX_LINE
    assert log._CONTROL.search(written[:-1]) is None
    written.encode("utf-8")
    if form == "json":
        json.loads(written)


class Odd:
    """A value whose text cannot be had."""

    def __str__(self) -> str:
        """Fail, as foreign code may."""
        raise RuntimeError("no text")


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize(
    "value", [2**70, Odd(), b"\xff\x00", {1, 2}, {3: "x"}, NOW, ValueError("bad\nvalue")]
)
def test_any_value_can_be_logged(
    configure: Configure, form: Literal["console", "json"], value: object
) -> None:
    """Numbers beyond 64 bits, bytes, sets and broken objects give a line, not an exception."""
    stream = configure(form)
    structlog.get_logger().info("odd", value=value)
    assert stream.getvalue().count("\n") == 1
    assert "odd" in stream.getvalue()


LEAKS = [
    (f"Authorization: Bearer {JWT}", "eyJ"),
    (f"got {JWT}", "eyJ"),
    ("Bearer opaque-token-value-123", "opaque"),
    ("Basic dXNlcjpwYXNzd29yZA==", "dXNlcjp"),
    ("client_id=1&client_secret=s3cr3t%2Bvalue&scope=x", "s3cr3t"),
    ('{"refresh_token": "0.AXoAx-y_z", "expires_in": 3599}', "0.AXoA"),
    ("{'password': 'hunter22'}", "hunter22"),
    ('nested {\\"client_secret\\":\\"s3cr3t\\"}', "s3cr3t"),
    ("https://user:hunter22@erp.example/x", "hunter22"),
    ("postgresql://mail:hunter22@db/x", "hunter22"),
    ("https://erp.example/hook?accesskey=hunter22", "hunter22"),
    ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8G"),
    (base64.b64encode(f"user=a@b.c\x01auth=Bearer {JWT}\x01\x01".encode()).decode(), "dXNlcj1h"),
]


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize(("text", "leak"), LEAKS, ids=[leak for _, leak in LEAKS])
def test_what_looks_like_a_credential_is_masked(
    configure: Configure, form: Literal["console", "json"], text: str, leak: str
) -> None:
    """Tokens, passwords, keys in URLs: masked in event names, values, lists and exceptions."""
    stream = configure(form)
    logger = structlog.get_logger()
    logger.info(text, value=text, nested={"list": [text]})
    try:
        fail(text)
    except RuntimeError:
        logger.exception("failed")
    logging.getLogger("foreign.package").warning("said %s", text)
    assert leak not in stream.getvalue()
    assert stream.getvalue().count("***") >= 5


def test_ordinary_lines_are_left_alone(configure: Configure) -> None:
    """Redaction touches nothing that is no secret."""
    stream = configure()
    values = {
        "origin": "https://erp.example/hooks/mail",
        "cause": "AADSTS7000215: Invalid client secret provided.",
        "path": "/var/lib/mailbridge",
        "ref": "INBOX/14/90211",
    }
    structlog.get_logger().info("token.refreshed", **values)
    assert {key: lines(stream)[0][key] for key in values} == values


SPELLINGS: list[Callable[[str], str]] = [
    str,
    repr,
    json.dumps,
    quote_plus,
    lambda value: base64.b64encode(value.encode()).decode(),
]


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_registered_secret_is_masked_however_it_is_spelled(
    configure: Configure, form: Literal["console", "json"]
) -> None:
    """Plain, quoted, percent-encoded, in JSON, in base64; also in foreign logs and tracebacks."""
    stream = configure(form)
    secret = "p'a\"s\\s/w+ö rd"
    log.register_secret(secret)
    for spell in SPELLINGS:
        text = f"before {spell(secret)} after"
        structlog.get_logger().info("event", value=text)
        logging.getLogger("msal").error(text)
        assert spell(secret).strip("'\"") not in stream.getvalue()
        assert secret not in stream.getvalue()
    assert stream.getvalue().count("after") == 2 * len(SPELLINGS)


@given(secret=st.text(min_size=4, max_size=12), value=st.text(max_size=20))
def test_lines_stay_json_whatever_is_secret(secret: str, value: str) -> None:
    """Masking never breaks a line, even if the secret is ``true`` or a quotation mark."""
    before = log._SECRETS
    log._SECRETS = log._Secrets()
    try:
        log.register_secret(secret)
        line = log._json_line({"event": f"{value}{secret}", "ok": True, "uid": 12345})
    finally:
        log._SECRETS = before
    values = json.loads(line).values()
    # As JSON has them: `true` in the line is no trace of the secret `True`.
    told = [value if isinstance(value, str) else json.dumps(value) for value in values]
    assert secret not in " ".join(told)


@pytest.mark.parametrize("secret", ["true", "1234", '","ok', "event"])
def test_a_secret_that_looks_like_json_is_masked_within_json(secret: str) -> None:
    """A line from which such a secret was cut is built again value by value."""
    before = log._SECRETS
    log._SECRETS = log._Secrets()
    try:
        log.register_secret(secret)
        line = log._json_line({"name": f"x{secret}x", "ok": True, "uid": 1234, "event": "e"})
    finally:
        log._SECRETS = before
    document = json.loads(line)
    assert document["name"] == "x***x"
    assert secret not in list(map(str, document.values()))


def test_tracebacks_show_no_local_variables(configure: Configure) -> None:
    """A traceback names lines of code and causes, not what variables held."""
    stream = configure()

    def deep() -> None:
        token = "local-value-of-a-variable".upper()
        raise KeyError(len(token))

    try:
        try:
            deep()
        except KeyError as exc:
            raise ValueError("outer") from exc
    except ValueError:
        structlog.get_logger().exception("intake.failed", mailbox="alarm")
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert "LOCAL-VALUE" not in line["exception"]
    assert "KeyError: 25" in line["exception"]
    assert "ValueError: outer" in line["exception"]


def test_foreign_loggers_are_heard_from_warning_on(configure: Configure) -> None:
    """What libraries say below WARNING is dropped, unless the level is debug."""
    stream = configure()
    foreign = logging.getLogger("imapclient.test")
    foreign.info("chatter")
    foreign.warning("trouble %d", 7)
    assert [(line["event"], line["logger"], line["level"]) for line in lines(stream)] == [
        ("trouble 7", "imapclient.test", "warning")
    ]
    stream = configure(level="debug")
    foreign.debug("detail")
    assert [line["event"] for line in lines(stream)] == ["detail"]


def test_setting_up_again_replaces_the_former_set_up(configure: Configure) -> None:
    """A reload does not make lines appear twice."""
    first = configure()
    second = configure()
    logging.getLogger("x").error("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_the_console_reads_well(configure: Configure) -> None:
    """Time, level, event and fields in a row; a traceback is indented under its event."""
    stream = configure("console")
    logger = structlog.get_logger()
    logger.info("message.accepted", mailbox="alarm", note="two words")
    try:
        fail("first\nsecond")
    except RuntimeError:
        logger.exception("failed")
    rows = stream.getvalue().splitlines()
    assert rows[0] == '12:00:00 info    message.accepted  mailbox=alarm note="two words"'
    assert rows[1] == "12:00:00 error   failed"
    assert all(row.startswith("    ") for row in rows[2:])
    assert rows[-1] == "    second"


class Gone(io.StringIO):
    """A stream whose other end was closed."""

    def write(self, text: str) -> int:
        """Fail as a closed pipe does."""
        raise BrokenPipeError


def test_a_log_that_nobody_reads_stops_nothing(configure: Configure) -> None:
    """A closed standard error must not stop mail from being delivered."""
    configure()
    log.configure("json", stream=Gone())
    structlog.get_logger().error("unheard")
    logging.getLogger("x").error("unheard")
