"""Which mails a route takes, what becomes of them, and what is said about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailbridge.model import Step
from mailbridge.parse import parse
from mailbridge.route.base import (
    AddressPattern,
    MatchSpec,
    RegexField,
    RequireSpec,
    RouteFault,
    RouteSpec,
)
from mailbridge.route.decide import Router, compile_route
from mailbridge.route.regex import TEXT_BYTES, compile_regex

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
OURS = "Received: from A.prod.outlook.com (::1) by B.prod.outlook.com with HTTPS; x\r\n"
ENTRY = "Received: from mx.ils.example (1.2.3.4) by D.mail.protection.outlook.com (1.1.1.1); x\r\n"
GENUINE = (
    OURS + "Authentication-Results: spf=pass smtp.mailfrom=ils.example; dkim=pass\r\n"
    " header.d=ils.example;dmarc=pass action=none header.from=ils.example;\r\n"
    " compauth=pass reason=100\r\n" + ENTRY
)


def mail(
    *,
    sender: str = "alarm@ils.example",
    subject: str = "Einsatz B3",
    text: str = "Stichwort: B3\r\nNummer: 4711",
    head: str = "",
) -> bytes:
    return (
        f"{head}From: {sender}\r\nTo: Wache <wache1@feuerwehr.example>\r\n"
        f"Subject: {subject}\r\n\r\n{text}\r\n"
    ).encode()


def globs(*patterns: str) -> tuple[AddressPattern, ...]:
    return tuple(AddressPattern(glob=pattern) for pattern in patterns)


def regexes(*patterns: str) -> tuple[AddressPattern, ...]:
    return tuple(AddressPattern(regex=pattern) for pattern in patterns)


def rule(
    raw: bytes, *specs: RouteSpec, received_at: datetime | None = NOW, now: datetime = NOW
) -> tuple[Step, ...]:
    router = Router([compile_route(spec) for spec in specs])
    return router.rule(parse(raw), received_at=received_at, now=now)


def matches(raw: bytes, **conditions: Any) -> bool:
    """Tell whether a mail fits; what is said when it does not is a sentence on one line."""
    (step,) = rule(raw, RouteSpec(name="r", match=MatchSpec(**conditions), webhooks=("w",)))
    assert step.reason
    assert step.reason.isprintable()
    assert len(step.reason) < 200
    return step.verdict != "passed_by"


# -- match ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "author", "fits"),
    [
        ("alarm@ils.example", "alarm@ils.example", True),
        ("alarm@ils.example", "ALARM@Ils.Example", True),
        ("ALARM@ILS.EXAMPLE", "alarm@ils.example", True),
        ("alarm@ils.example", "Leitstelle <alarm@ils.example>", True),
        ("alarm@ils.example", "xalarm@ils.example", False),
        ("alarm@ils.example", "alarm@ils.example.evil.example", False),
        ("*@ils.example", "alarm@ils.example", True),
        ("*@ils.example", "alarm@evilils.example", False),
        ("*@ils.example", "alarm@sub.ils.example", False),
        ("*@*.ils.example", "alarm@sub.ils.example", True),
        ("*@*.ils.example", "alarm@ils.example", False),
        ("alarm-?@ils.example", "alarm-1@ils.example", True),
        ("alarm-?@ils.example", "alarm-12@ils.example", False),
        ("a*b*c@ils.example", "aXbYc@ils.example", True),
        ("a*b*c@ils.example", "aXcYb@ils.example", False),
        ("a*ab@ils.example", "ab@ils.example", False),
        ("a*?c*d@ils.example", "a1c2d@ils.example", True),
        ("alarm@*", "alarm@anything.example", True),
        # A domain in letters and in punycode are one domain.
        ("*@müller.example", "a@xn--mller-kva.example", True),
        ("*@xn--mller-kva.example", "a@müller.example", True),
        ("*@MÜLLER.example", "a@mu\u0308ller.example", True),
        # Letters that look alike are not: Cyrillic, the Kelvin sign, a dotless i, a sharp s.
        ("*@ils.example", "a@\u0456ls.example", False),
        ("*@ils.example", "a@xn--ls-7ed.example", False),
        ("kern@ils.example", "\u212aern@ils.example", False),
        ("*@ils.example", "a@\u0131ls.example", False),
        ("*@strasse.example", "a@straße.example", False),
        ("*@ils.example", "a@xn--ils-.example", False),
        # A local part that holds an address of its own.
        ("*@ils.example", '"x@ils.example"@evil.example', False),
        ("*@ils.example", "alarm@ils.example.evil", False),
    ],
)
def test_globs_compare_the_whole_address(pattern: str, author: str, *, fits: bool) -> None:
    """A pattern fits the address as a whole, case aside, and nothing that only resembles it."""
    assert matches(mail(sender=author), from_=globs(pattern)) is fits


@pytest.mark.parametrize(
    ("pattern", "author", "fits"),
    [
        (r"alarm\d@ils\.example", "alarm7@ils.example", True),
        (r"alarm\d@ils\.example", "Alarm7@ILS.example", True),
        (r"ils\.example", "alarm@ils.example", False),
        (r".*@ils\.example", "alarm@ils.example.evil.example", False),
        (r"a@x\.example|b@y\.example", "b@y.example", True),
        (r"a@x\.example|b@y\.example", "b@y.example.evil.example", False),
    ],
)
def test_a_regex_of_an_address_has_to_fit_all_of_it(
    pattern: str, author: str, *, fits: bool
) -> None:
    """Who forgets the anchors lets no stranger in."""
    assert matches(mail(sender=author), from_=regexes(pattern)) is fits


@pytest.mark.parametrize(
    "head",
    [
        "From: alarm@ils.example\r\nFrom: alarm@ils.example\r\n",
        "From: alarm@ils.example, boss@ils.example\r\n",
        "From: alarm@ils.example <alarm2@ils.example>\r\n",
        "From: <alarm@ils.example\r\n",
        "From: alarm\r\n",
        "From:\r\n",
        "Subject: x\r\n",
    ],
)
def test_without_one_clear_author_no_sender_fits(head: str) -> None:
    """Two From fields, two authors or a From that can be read in two ways match no ``from``."""
    anybody = (*globs("*@*"), *regexes(".*"))
    (step,) = rule(f"{head}\r\nx".encode(), RouteSpec(name="r", match=MatchSpec(from_=anybody)))
    assert step.verdict == "passed_by"
    assert "single author" in step.reason


@pytest.mark.parametrize(
    ("conditions", "fits"),
    [
        ({}, True),
        ({"to": globs("wache1@feuerwehr.example")}, True),
        ({"to": globs("wache2@feuerwehr.example")}, False),
        ({"cc": globs("*@feuerwehr.example")}, True),
        ({"cc": globs("wache1@*")}, False),
        ({"recipient": globs("hidden@feuerwehr.example")}, True),
        ({"recipient": globs("box@feuerwehr.example")}, True),
        ({"recipient": globs("nobody@feuerwehr.example")}, False),
        ({"subject": "(?i)einsatz|alarm"}, True),
        ({"subject": "^B3"}, False),
        ({"subject": r"(?i)Straße \d$"}, True),
        ({"text": "(?i)stichwort: b3"}, True),
        ({"text": "(?m)^Ort: Süd$"}, True),
        ({"text": "^Ort"}, False),
        ({"headers": {"x-kind": "^alarm$"}}, True),
        ({"headers": {"X-KIND": "test"}}, True),
        ({"headers": {"X-Kind": "nothing"}}, False),
        ({"headers": {"X-None": ".*"}}, False),
        ({"headers": {"X-Kind": "alarm", "X-None": ".*"}}, False),
        ({"attachment": ("*.xml",)}, True),
        ({"attachment": ("einsatz-??.XML",)}, True),
        ({"attachment": ("*.pdf", "*.xml")}, True),
        ({"attachment": ("xml",)}, False),
        ({"has_attachment": True}, True),
        ({"has_attachment": False}, False),
        ({"subject": "Einsatz", "text": "nothing of the kind"}, False),
        ({"subject": "nothing", "text": "Stichwort"}, False),
        ({"subject": "Einsatz", "text": "Stichwort", "cc": globs("*@*")}, True),
    ],
)
def test_every_condition_has_to_hold(conditions: dict[str, Any], *, fits: bool) -> None:
    """Each condition is asked of its own part of the mail, and one that fails is enough."""
    raw = (
        "From: a@ils.example\r\nTo: Wache <wache1@feuerwehr.example>, b@c.example\r\n"
        "Cc: chef@feuerwehr.example\r\nBcc: hidden@feuerwehr.example\r\n"
        "Delivered-To: <box@feuerwehr.example>\r\nX-Kind: alarm\r\nX-Kind: test\r\n"
        "Subject: =?utf-8?q?Einsatz_Hauptstra=C3=9Fe_5?=\r\n"
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        "Content-Type: text/html; charset=utf-8\r\n\r\n"
        "<p>Stichwort: <b>B3</b></p><p>Ort: Süd</p>\r\n--b\r\nContent-Type: application/xml\r\n"
        'Content-Disposition: attachment; filename="Einsatz-01.xml"\r\n\r\n<a/>\r\n--b--\r\n'
    ).encode()
    assert matches(raw, **conditions) is fits


def test_what_is_said_of_a_mail_that_does_not_fit() -> None:
    """The first condition that failed is named; what a sender wrote is escaped and cut."""
    raw = mail(sender="evil@\u202eevil.example", subject="=?utf-8?q?a=0Ab=1B[31m?=" + "x" * 300)

    def said(**conditions: Any) -> str:
        return rule(raw, RouteSpec(name="r", match=MatchSpec(**conditions)))[0].reason

    both = said(from_=globs("*@ils.example"), subject="Einsatz")
    assert both.startswith("from: «")
    assert "\\u202e" in both
    subject = said(subject="Einsatz")
    assert subject.startswith("subject: the regex finds nothing in «a")
    assert subject.isprintable()
    assert len(subject) <= len("subject: the regex finds nothing in «»") + 80
    # The text of a mail is nobody's business but its receiver's.
    assert said(text="Ort:") == "text: the regex finds nothing in 27 bytes"
    assert said(headers={"X-Kind": "x"}) == "headers: there is no X-Kind"
    assert said(headers={"To": "^x"}) == "headers: the regex finds nothing in To"


# -- regexes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [r"(?=a)", r"(?<!a)b", r"(a)\1", r"(?P<x>a)(?P=x)", r"(?>a)b", "(a", "a)", "[a", "a**", r"\Z"],
)
def test_what_re2_lacks_or_cannot_read_is_refused_with_its_place(pattern: str) -> None:
    """A regex that needs backtracking never gets as far as a mail, and its fault is located."""
    with pytest.raises(RouteFault, match=r"at character \d"):
        compile_regex(pattern)


@pytest.mark.parametrize("pattern", ["x" * 1001, r"(\pL{1,500}\d){1,2}$", "((a{9}){99}){99}"])
def test_a_regex_that_would_cost_too_much_is_refused(pattern: str) -> None:
    """Size is bounded when the file is read, not when the mail is there."""
    with pytest.raises(RouteFault):
        compile_regex(pattern)


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"(a|a)*b", r"(.*a){20}$", r"(\w{1,30}\W{0,3}){1,30}!", r"(a|aa)+$"]
)
def test_regexes_that_explode_elsewhere_are_bounded_here(pattern: str) -> None:
    """What brings a backtracking engine down is read to its end, or to its stated limit."""
    regex = compile_regex(pattern)
    assert regex.limit <= TEXT_BYTES
    text = "a" * (4 * TEXT_BYTES) + "!"
    found = regex.search(text)
    assert found is None or len(found.whole) <= regex.limit


def test_the_work_of_a_regex_is_bounded_by_its_size() -> None:
    """A large regex reads less of a text, so that no pair of both takes for ever."""
    small, large = compile_regex("einsatz"), compile_regex(r"\w{1,1000}x")
    assert small.limit == TEXT_BYTES
    assert large.limit < TEXT_BYTES // 4
    for regex, needle in ((compile_regex("needle"), "needle"), (large, "ax")):
        ahead = " " * (regex.limit - len(needle))
        assert regex.search(ahead + needle) is not None
        assert regex.search(ahead + " " + needle) is None


# -- require --------------------------------------------------------------------------------------


def alarm(otherwise: Any = "hold", **wants: Any) -> RouteSpec:
    return RouteSpec(
        name="alarm",
        match=MatchSpec(from_=globs("*@ils.example")),
        require=RequireSpec(**wants),
        otherwise=otherwise,
        webhooks=("divera",),
    )


@pytest.mark.parametrize("otherwise", ["hold", "deliver", "drop"])
def test_a_mail_that_nobody_vouches_for_gets_otherwise(otherwise: str) -> None:
    """``authenticated`` lets through what our mail service vouches for, and says why not."""
    (genuine,) = rule(mail(head=GENUINE), alarm(otherwise, authenticated=True))
    assert (genuine.verdict, genuine.webhooks) == ("deliver", ("divera",))
    (bare,) = rule(mail(), alarm(otherwise, authenticated=True))
    assert bare.verdict == otherwise
    assert bare.reason == (
        "not authenticated: it has no Authentication-Results of our own mail service"
    )
    failed = GENUINE.replace("=pass", "=fail")
    (forged,) = rule(mail(head=failed), alarm(otherwise, authenticated=True))
    assert forged.verdict == otherwise
    assert "dkim=fail, dmarc=fail, compauth=fail" in forged.reason


@pytest.mark.parametrize(
    ("age", "verdict"),
    [
        (timedelta(0), "deliver"),
        (timedelta(minutes=15), "deliver"),
        (timedelta(minutes=15, microseconds=1), "hold"),
        (timedelta(days=7), "hold"),
        (timedelta(minutes=-90), "deliver"),
    ],
)
def test_a_mail_that_is_too_old_wakes_nobody(age: timedelta, verdict: str) -> None:
    """Age counts from the server's word, and a server's clock that is ahead buys no time."""
    (step,) = rule(mail(), alarm(max_age=timedelta(minutes=15)), received_at=NOW - age)
    assert step.verdict == verdict
    assert step.expires_at == min(NOW, NOW - age) + timedelta(minutes=15)
    if verdict == "hold":
        assert "max_age is 15m" in step.reason
    if age == timedelta(days=7):
        assert step.reason == "too old: received 7d ago, and max_age is 15m"


@pytest.mark.parametrize(
    "date", ["Sun, 01 Nov 2026 00:00:00 +0000", "Tue, 01 Jan 2036 00:00:00 +0000"]
)
def test_the_date_that_a_sender_writes_counts_for_nothing(date: str) -> None:
    """Without the server's word a mail came now, whatever its Date says."""
    raw = mail(head=f"Date: {date}\r\n")
    (step,) = rule(raw, alarm(max_age=timedelta(minutes=15)), received_at=None)
    assert step.verdict == "deliver"
    assert step.expires_at == NOW + timedelta(minutes=15)


def test_every_reason_is_told_at_once() -> None:
    """A mail that is forged and old is said to be both."""
    wants = {"authenticated": True, "max_age": timedelta(minutes=15)}
    (step,) = rule(mail(), alarm(**wants), received_at=NOW - timedelta(hours=3))
    assert "not authenticated" in step.reason
    assert "too old: received 3h ago" in step.reason


def key_of(raw: bytes, extract: Mapping[str, Any] | None = None) -> str:
    spec = RouteSpec(
        name="r",
        require=RequireSpec(not_duplicate_within=timedelta(minutes=5)),
        extract=extract or {},
        webhooks=("w",),
    )
    (step,) = rule(raw, spec)
    assert step.duplicate_within == timedelta(minutes=5)
    assert len(step.duplicate_key) <= 64
    return step.duplicate_key


NUMBER = {"number": RegexField(regex=r"Nummer: (?P<value>\d+)")}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({}, {"subject": "EINSATZ  b3"}, True),
        ({}, {"sender": "other@ils.example"}, True),
        ({}, {"subject": "Einsatz B4"}, False),
        ({}, {"text": "Stichwort: B3\r\nNummer: 4712"}, False),
    ],
)
def test_duplicates_are_told_by_their_content(
    one: dict[str, str], other: dict[str, str], *, same: bool
) -> None:
    """Subject and text tell two alarms apart; case and the width of blanks do not."""
    assert (key_of(mail(**one)) == key_of(mail(**other))) is same


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Nachtrag!\r\nNummer: 4711", True),
        ("Stichwort: B3\r\nNummer: 4712", False),
        ("Stichwort: B3", False),
    ],
)
def test_a_number_tells_duplicates_better_than_content(text: str, *, same: bool) -> None:
    """Two mails of one incident are duplicates whatever else they say."""
    assert (key_of(mail(), NUMBER) == key_of(mail(text=text), NUMBER)) is same


def test_two_alarms_that_differ_in_the_attachment_are_two() -> None:
    """Alarms that come as a PDF under the same few words are not each other's duplicates."""

    def attached(content: str) -> bytes:
        return (
            "From: a@ils.example\r\nSubject: Alarmfax\r\n"
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\r\n--b\r\n"
            f'Content-Disposition: attachment; filename="a.pdf"\r\n\r\n{content}\r\n--b--\r\n'
        ).encode()

    assert key_of(attached("one")) == key_of(attached("one"))
    assert key_of(attached("one")) != key_of(attached("two"))


def test_an_empty_mail_is_nobodys_duplicate() -> None:
    """Two mails that say nothing may be two alarms."""
    assert not key_of(b"From: a@ils.example\r\n\r\n \r\n")


@pytest.mark.parametrize("otherwise", ["hold", "deliver", "drop"])
@pytest.mark.parametrize("late", [False, True])
def test_a_forged_mail_does_not_make_the_genuine_one_a_duplicate(
    otherwise: str, *, late: bool
) -> None:
    """What fails otherwise is neither asked about nor remembered, and teaches nothing of form."""
    spec = RouteSpec(
        name="r",
        require=RequireSpec(
            authenticated=not late,
            max_age=timedelta(minutes=15),
            not_duplicate_within=timedelta(minutes=5),
        ),
        otherwise=otherwise,  # type: ignore[arg-type]
        extract=NUMBER,
        webhooks=("w",),
    )
    received_at = NOW - timedelta(hours=1) if late else NOW
    (step,) = rule(mail(), spec, received_at=received_at)
    assert (step.duplicate_key, step.duplicate_within) == ("", None)
    assert step.wanted == (("number",) if late else ())
    assert step.fields == {"number": "4711"}


# -- order ----------------------------------------------------------------------------------------


def test_routes_speak_in_their_order_and_stop_stops() -> None:
    """Each route leaves its word, and none behind one that stops gets a mail which that took."""
    specs = [
        RouteSpec(name="other", match=MatchSpec(subject="Probe"), webhooks=("a",), stop=True),
        RouteSpec(name="alarm", match=MatchSpec(subject="Einsatz"), webhooks=("b",)),
        RouteSpec(name="last", webhooks=("c",), stop=True),
        RouteSpec(name="never", webhooks=("d",)),
    ]
    steps = rule(mail(), *specs)
    assert [(step.route, step.verdict) for step in steps] == [
        ("other", "passed_by"),
        ("alarm", "deliver"),
        ("last", "deliver"),
        ("never", "passed_by"),
    ]
    assert steps[3].reason == "not asked: last is the last for it"
    assert [step.webhooks for step in steps] == [(), ("b",), ("c",), ()]


def test_a_route_stops_also_when_it_holds() -> None:
    """A forged alarm does not slip through to the routes behind."""
    specs = [
        RouteSpec(
            name="alarm",
            require=RequireSpec(authenticated=True),
            webhooks=("a",),
            stop=True,
        ),
        RouteSpec(name="archive", webhooks=("b",)),
    ]
    assert [step.verdict for step in rule(mail(), *specs)] == ["hold", "passed_by"]


def test_a_route_without_webhooks_keeps_mails_from_those_behind() -> None:
    """``webhooks: []`` with ``stop`` drops, and says so."""
    specs = [
        RouteSpec(name="spam", match=MatchSpec(subject="Einsatz"), stop=True),
        RouteSpec(name="rest", webhooks=("b",)),
    ]
    spam, rest = rule(mail(), *specs)
    assert (spam.verdict, rest.verdict) == ("drop", "passed_by")
    assert "no webhook" in spam.reason


def test_a_mail_that_cannot_be_judged_is_held_everywhere() -> None:
    """Should routing fail, each webhook of the routes gets a held delivery, and no other word."""
    router = Router(
        [compile_route(RouteSpec(name=name, webhooks=(name,), stop=True)) for name in ("a", "b")]
    )
    assert [(s.verdict, s.webhooks, s.reason) for s in router.failed()] == [
        ("hold", ("a",), "routing failed"),
        ("hold", ("b",), "routing failed"),
    ]
