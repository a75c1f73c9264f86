"""Portions, gaps and recognition: what to fetch, decided without a server."""

from __future__ import annotations

import imaplib
import ssl
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.errors import (
    FolderMissing,
    MailbridgeError,
    SessionOver,
    SignInRejected,
    Throttled,
    Unavailable,
)
from mailbridge.model import Checkpoint, Fingerprint, MessageRef
from mailbridge.sources.imap_errors import (
    Refused,
    answer_error,
    folder_error,
    guarded,
    sign_in_error,
    translate,
    words,
)
from mailbridge.sources.imap_plan import (
    COMMAND_LINE,
    STRIKES,
    FetchLimits,
    Head,
    Recognition,
    Suspects,
    as_utc,
    bare_id,
    batches,
    halves,
    is_stand_in,
    next_gap,
    wanted_again,
    windows,
)

MOMENT = datetime(2026, 11, 21, 12, tzinfo=UTC)
REF = MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=14, uid=7)
UIDS = st.lists(st.integers(1, 2**32 - 1), max_size=300, unique=True).map(sorted)


# -- portions ---------------------------------------------------------------------------------


@given(UIDS, st.integers(1, 50))
def test_windows_hold_every_uid_in_order(uids: list[int], count: int) -> None:
    """Nothing is left out, nothing comes twice, no window is too large."""
    cut = list(windows(uids, count))

    assert [uid for window in cut for uid in window] == uids
    assert all(0 < len(window) <= count for window in cut)


def test_a_window_fits_into_a_command_line() -> None:
    """Ten-digit UIDs by the thousand stay below what Exchange takes."""
    uids = list(range(4_000_000_000, 4_000_010_000))

    lines = [",".join(map(str, window)) for window in windows(uids, 100_000)]

    assert max(map(len, lines)) <= COMMAND_LINE
    assert sum(line.count(",") + 1 for line in lines) == len(uids)


@given(UIDS, st.data(), st.integers(1, 20), st.integers(1, 5000))
def test_batches_are_bounded_whatever_the_sizes(
    uids: list[int], data: st.DataObject, messages: int, size: int
) -> None:
    """In order, complete; bounded by count; by bytes too, unless a message is alone."""
    sizes = {uid: data.draw(st.integers(0, 3000)) for uid in uids}
    caution = {uid: data.draw(st.integers(0, 12)) for uid in uids[::3]}

    cut = list(batches(uids, sizes, FetchLimits(messages=messages, bytes=size), caution=caution))

    assert [uid for batch in cut for uid in batch] == uids
    for batch in cut:
        assert 0 < len(batch) <= messages
        assert len(batch) == 1 or sum(sizes[uid] for uid in batch) <= size
        for uid in batch:
            assert len(batch) <= max(1, messages >> (3 * caution.get(uid, 0)))


def test_unknown_sizes_are_taken_for_large_ones() -> None:
    """Where the server would not tell, a batch stays small enough for the memory."""
    cut = list(batches(range(1, 41), {}, FetchLimits(messages=100, bytes=4 * 1024 * 1024)))

    assert [len(batch) for batch in cut] == [16, 16, 8]


def test_halving_ends_with_single_messages() -> None:
    """Cut again and again, every message stands alone once, in order."""
    parts, alone = [tuple(range(1, 101))], []
    while parts:
        part = parts.pop()
        if len(part) == 1:
            alone.append(part[0])
        else:
            parts.extend(reversed(halves(part)))

    assert alone == list(range(1, 101))


# -- suspects and gaps ------------------------------------------------------------------------


def test_a_message_that_kills_connections_is_alone_after_two_and_hopeless_after_five() -> None:
    """A hundred, a dozen, one: then three strikes."""
    suspects = Suspects()
    suspects.enter(14)
    guilty, lengths = 57, []
    while not suspects.hopeless(guilty):
        cut = batches(
            range(1, 101), dict.fromkeys(range(101), 10), FetchLimits(), caution=suspects.losses
        )
        batch = next(one for one in cut if guilty in one)
        lengths.append(len(batch))
        suspects.lost(batch)

    assert lengths == [100, 12, 1, 1, 1]


def test_suspects_are_cleared_by_success_and_by_a_new_epoch() -> None:
    """What was fetched is no suspect; UIDs of another UIDVALIDITY say nothing."""
    suspects = Suspects()
    suspects.enter(14)
    for _ in range(STRIKES):
        suspects.lost([7])
    suspects.lost([8], surely=True)
    assert (suspects.hopeless(7), suspects.hopeless(8)) == (True, True)

    suspects.cleared([7])
    assert (suspects.hopeless(7), suspects.hopeless(8)) == (False, True)
    suspects.enter(14)
    assert suspects.hopeless(8)
    suspects.enter(15)
    assert not suspects.hopeless(8)
    assert suspects.losses == {}


def test_a_gap_waits_longer_each_time_up_to_an_hour() -> None:
    """One minute, doubled, never more than an hour, for ever; the first time is kept."""
    gap = next_gap(REF, "first", MOMENT)
    waits = [gap.due_at - MOMENT]
    for number in range(2, 40):
        now = MOMENT + timedelta(hours=number)
        gap = next_gap(REF, f"try {number}", now, gap)
        waits.append(gap.due_at - now)

    assert [wait.total_seconds() / 60 for wait in waits[:8]] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(waits[7:]) == {timedelta(hours=1)}
    assert (gap.tries, gap.first_at, gap.reason) == (39, MOMENT, "try 39")


_NOTICE = (
    b'From: "Microsoft Exchange Server" <>\r\n'
    b"Subject: Retrieval using the IMAP4 protocol failed for the following message: 12\r\n\r\n"
    b"The server couldn't retrieve the following message:\r\n"
)


def _notice(subject: str, *, more: str = "", text: str = "") -> bytes:
    header = (
        f"MIME-Version: 1.0\r\n{more}From: Microsoft Exchange Server 2010\r\nSubject: {subject}"
    )
    return f"{header}\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{text}\r\n".encode()


_GERMAN = "=?utf-8?Q?Fehler_beim_Abrufen_=C3=BCber_IMAP4_f=C3=BCr_diese_Nachricht:_12?="


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (_NOTICE, True),
        (
            _notice("Retrieval using the IMAP4 protocol failed for the following\r\n message: 7"),
            True,
        ),
        (_notice("Retrieval using the POP3 protocol failed for the following message: 7"), True),
        (_notice("B3", text="The server couldn=E2=80=99t retrieve the following message:"), True),
        (_notice("B3", text="The server could not retrieve the following\r\nmessage:"), True),
        (_notice(_GERMAN), True),
        (_notice(_GERMAN, more="Message-ID: <a@b>\r\n"), False),
        (_notice(_GERMAN, more="Received: from mx\r\n"), False),
        (_notice("Undeliverable: IMAP4 for all"), False),
        (_notice("=?utf-9?Q?IMAP4?= =?utf-8?B?=ff?="), False),
        (_notice("Message 12"), False),
        (_NOTICE.replace(b"\r\n", b"\n"), True),
        (_NOTICE.replace(b"failed for the", b"failed\r\n for the"), True),
        (b"Received: from mx\r\n" + _NOTICE, False),
        (b"From: ILS <alarm@ils.example>\r\nSubject: B3\r\n\r\n" + _NOTICE, False),
        (b"From: Microsoft Exchange <x@y>\r\nSubject: Quota\r\n\r\nFull.\r\n", False),
        (b"", False),
    ],
)
def test_only_exchanges_own_notice_stands_in_for_a_message(raw: bytes, expected: bool) -> None:  # noqa: FBT001 - a table
    """A mail that came from outside and quotes it is a mail."""
    assert is_stand_in(raw) is expected


# -- recognition ------------------------------------------------------------------------------


def _stored(number: int, *, name: str = "", after: float = 0, size: int = 4000) -> Fingerprint:
    return Fingerprint(
        id=f"msg_{number}",
        uid=number,
        message_id=name,
        received_at=MOMENT + timedelta(seconds=after),
        size=size,
    )


def _head(*, name: str = "", after: float = 0, size: int = 4000) -> Head:
    moment = MOMENT + timedelta(seconds=after)
    return Head(uid=900, message_id=name, received_at=moment, size=size)


@pytest.mark.parametrize(
    ("stored", "head", "expected"),
    [
        (_stored(1, name="<a@b>"), _head(name=" <a@b> "), True),
        (_stored(1, name="a@b"), _head(name="<a@b>", size=40), True),
        (_stored(1, name="<a@b>"), _head(name="<a@b>", after=2), True),
        (_stored(1, name="<a@b>"), _head(name="<a@b>", after=3), False),
        (_stored(1, name="<a@b>"), _head(name="<c@b>"), False),
        (_stored(1, name="<a@b>"), _head(), False),
        (_stored(1), _head(size=6000), True),
        (_stored(1), _head(size=6100), False),
        (_stored(1, size=100_000), _head(size=109_000), True),
        (_stored(1), _head(after=5), False),
    ],
)
def test_a_message_is_recognised_by_id_and_time_or_by_time_and_size(
    stored: Fingerprint,
    head: Head,
    expected: bool,  # noqa: FBT001 - a table
) -> None:
    """Size counts only where there is no Message-ID, and with a tolerance."""
    assert (Recognition([stored]).find(head) is not None) is expected


def test_a_stored_message_is_recognised_once_and_the_nearest_in_time_first() -> None:
    """Twins are told apart by their time, and a third one is new."""
    recognition = Recognition([_stored(1, name="a", after=1), _stored(2, name="a")])

    found = [recognition.find(_head(name="a")) for _ in range(3)]

    assert [one and one.id for one in found] == ["msg_2", "msg_1", None]


def test_without_times_only_a_message_id_will_do() -> None:
    """Two messages of unknown age and no name are not the same because they are as long."""
    nameless = Fingerprint(id="msg_1", uid=1, message_id="", received_at=None, size=10)
    named = Fingerprint(id="msg_2", uid=2, message_id="<a@b>", received_at=None, size=10)
    recognition = Recognition([nameless, named])

    assert recognition.find(_head(size=10)) is None
    assert recognition.find(_head(name="<a@b>", size=99_999)) is named


@pytest.mark.parametrize(
    ("baseline", "since", "age", "expected"),
    [
        (0, None, timedelta(days=900), True),
        (5, None, timedelta(days=1), False),
        (5, None, timedelta(minutes=10), True),
        (5, None, timedelta(minutes=11), False),
        (5, None, timedelta(days=-1), True),
        (5, date(2026, 11, 1), timedelta(days=20), True),
        (5, date(2026, 11, 1), timedelta(days=22), False),
    ],
)
def test_what_nothing_matches_is_delivered_unless_it_is_the_baseline(
    baseline: int,
    since: date | None,
    age: timedelta,
    expected: bool,  # noqa: FBT001 - a table
) -> None:
    """`all` delivers everything, `new` what came since the watch began, a day from that day on."""
    checkpoint = Checkpoint(
        mailbox="alarm",
        folder="INBOX",
        uidvalidity=14,
        uid=9,
        baseline_uid=baseline,
        since=since,
        watching_since=MOMENT,
    )
    head = Head(uid=1, message_id="", received_at=MOMENT - age, size=1)

    assert wanted_again(head, checkpoint) is expected
    assert wanted_again(Head(uid=1, message_id="", received_at=None, size=1), checkpoint)


def test_times_without_sense_are_no_times() -> None:
    """A year that no calendar has, or something else than a time, is left out."""
    east = datetime(1, 1, 1, tzinfo=UTC).replace(tzinfo=_hours(14))

    assert as_utc(east) is None
    assert as_utc(b"21-Nov-2026") is None
    assert as_utc(datetime(2026, 11, 21, 13, tzinfo=_hours(1))) == MOMENT
    assert as_utc(datetime(2026, 11, 21, 12)) == MOMENT  # noqa: DTZ001 - the case at hand


def _hours(count: int) -> timezone:
    return timezone(timedelta(hours=count))


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exc", "kind", "code"),
    [
        (TimeoutError("timed out"), Unavailable, "imap.timeout"),
        (OSError("cannot read from timed out object"), Unavailable, "imap.timeout"),
        (ConnectionResetError(104, "reset"), Unavailable, "imap.connection"),
        (ssl.SSLEOFError(8, "EOF"), Unavailable, "imap.tls"),
        (imaplib.IMAP4.abort("command: FETCH => socket error: EOF"), Unavailable, "imap.eof"),
        (
            imaplib.IMAP4.abort("socket error: [Errno 32] Broken pipe"),
            Unavailable,
            "imap.connection",
        ),
        (imaplib.IMAP4.abort("Connection closed. 14"), Unavailable, "imap.bye"),
        (
            imaplib.IMAP4.abort("Session invalidated - AccessTokenExpired"),
            SessionOver,
            "imap.token_expired",
        ),
        (imaplib.IMAP4.abort("Connection is closed. 13"), SessionOver, "imap.idle_timeout"),
        (imaplib.IMAP4.abort("Disconnected for inactivity."), SessionOver, "imap.idle_timeout"),
        (
            imaplib.IMAP4.abort("Too many concurrent connections from your host."),
            Unavailable,
            "imap.too_many_sessions",
        ),
        (
            imaplib.IMAP4.abort("unexpected response: b'Server Unavailable. 15'"),
            Unavailable,
            "imap.bye",
        ),
        (imaplib.IMAP4.abort("unexpected response: b'mail text'"), Unavailable, "imap.protocol"),
        (
            imaplib.IMAP4.abort("literal of 9999999999 bytes is too large"),
            Unavailable,
            "imap.too_large",
        ),
        (
            imaplib.IMAP4.error(
                "SELECT command error: BAD [b'User is authenticated but not connected.']"
            ),
            Unavailable,
            "imap.not_connected",
        ),
        (
            imaplib.IMAP4.error("FETCH command error: BAD [b'Command Argument Error. 11']"),
            Refused,
            "imap.bad_argument",
        ),
        (
            imaplib.IMAP4.error("fetch failed: Server Unavailable. 15"),
            Refused,
            "imap.server_unavailable",
        ),
        (imaplib.IMAP4.readonly("INBOX is not writable"), SignInRejected, "imap.read_only"),
        (ValueError("unexpected message list format"), Unavailable, "imap.protocol"),
        (MemoryError(), Unavailable, "imap.protocol"),
    ],
)
def test_what_the_libraries_raise_becomes_ours(
    exc: Exception, kind: type[MailbridgeError], code: str
) -> None:
    """Everything unknown is temporary."""
    error = translate(exc, "fetch")

    assert type(error) is kind
    assert error.code == code


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Request is throttled. Suggested Backoff Time: 89117 milliseconds", 89.117),
        ("Request is throttled. Suggested Backoff Time: 299910 milliseconds", 299.91),
        ("Request is throttled. Suggested Backoff Time: 900000 milliseconds", 900),
        ("Request is throttled. Suggested Backoff Time: 7200000 milliseconds", 1800),
        ("Request was throttled; back-off 12 s", 12),
        ("Request is throttled. Suggested Backoff Time: 0 milliseconds", 1),
        ("Request is throttled.", 60),
    ],
)
def test_a_throttle_is_obeyed_in_full_up_to_half_an_hour(text: str, seconds: float) -> None:
    """The server's own figure counts; without one it is a minute."""
    error = answer_error(text, "search")

    assert isinstance(error, Throttled)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("AUTHENTICATE failed.", SignInRejected),
        ("[AUTHENTICATIONFAILED] Authentication failed.", SignInRejected),
        ("LOGIN failed. Account is blocked.", SignInRejected),
        ("[UNAVAILABLE] Temporary authentication failure.", Refused),
        ("[LIMIT] Maximum number of connections from user+IP exceeded", Unavailable),
        ("[LIMIT] Come back later.", Unavailable),
        ("Session invalidated - AccessTokenExpired", SignInRejected),
        ("Server Unavailable. 15", Refused),
        ("Request is throttled. Suggested Backoff Time: 5000 milliseconds", Throttled),
        ("User is authenticated but not connected.", Unavailable),
    ],
)
def test_only_a_plain_refusal_is_a_rejected_credential(
    text: str, kind: type[MailbridgeError]
) -> None:
    """Limits, outages and throttling while signing in are temporary."""
    assert type(sign_in_error(answer_error(text, "sign in"), [b""])) is kind


def test_the_challenge_of_a_refusal_is_in_the_error() -> None:
    """What the server says as JSON before its NO is all that it says about the reason."""
    refused = answer_error("[AUTHENTICATIONFAILED] Authentication failed.", "sign in")

    error = sign_in_error(refused, [b"", b'{"status":"401","scope":"mail"}'])

    assert '{"status":"401","scope":"mail"}' in str(error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[NONEXISTENT] Mailbox doesn't exist: Einsatz", FolderMissing),
        ("Einsatz doesn't exist.", FolderMissing),
        ("[NOPERM] Permission denied", SignInRejected),
        ("[INUSE] Mailbox is locked", Refused),
        ("Server Unavailable. 15", Refused),
        ("Something else", Refused),
    ],
)
def test_a_folder_is_missing_only_when_the_server_says_so(
    text: str, kind: type[MailbridgeError]
) -> None:
    """Everything else may pass."""
    assert type(folder_error(answer_error(text, "select"), "Einsatz", ["INBOX"])) is kind


def test_a_servers_words_are_made_harmless() -> None:
    """One line, bounded, no control characters, nothing that looks like a token."""
    text = words(f"BAD \x1b[31m\r\n eyJ{'a' * 200} " + "word " * 200)

    assert "\n" not in text
    assert "\x1b" not in text
    assert "eyJ" not in text
    assert len(text) == 300


def test_a_parsers_complaint_is_not_repeated() -> None:
    """Its text quotes the mail: it is in no error, and in no cause or context of one."""

    def parse() -> None:
        raise ValueError("bad response: Subject: secret")

    with pytest.raises(Unavailable) as caught:
        guarded("fetch", parse)

    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("written", "bare"),
    [
        pytest.param("<a@b.example>", "a@b.example", id="usual"),
        pytest.param(" <a@b\r\n .example> (by hand)", "a@b.example", id="folded-with-comment"),
        pytest.param("a@b.example", "a@b.example", id="no-brackets"),
        pytest.param("<a@b.example", "a@b.example", id="half-a-bracket"),
        pytest.param("", "", id="none"),
    ],
)
def test_a_message_id_is_compared_without_its_wrapping(written: str, bare: str) -> None:
    """Server and store write one Message-ID in different ways; a renumbering finds it again."""
    assert bare_id(written) == bare
