"""Whom to believe: only Exchange Online's own results, and nobody when in doubt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailbridge.parse import parse
from mailbridge.trust import judge

DATA = Path(__file__).parent.parent / "data"
OURS = "Received: from A.prod.outlook.com (::1) by B.prod.outlook.com with HTTPS; x\r\n"
ENTRY = "Received: from mx.ils.example (1.2.3.4) by D.mail.protection.outlook.com (1.1.1.1); x\r\n"
PASS = (
    "Authentication-Results: spf=pass (sender IP is 1.2.3.4)\r\n smtp.mailfrom=ils.example;"
    " dkim=pass (signature was verified)\r\n header.d=ils.example;dmarc=pass action=none\r\n"
    " header.from=ils.example;compauth=pass reason=100\r\n"
)
FROM = "From: alarm@ils.example\r\n"
INTERNAL = "X-MS-Exchange-Organization-AuthAs: Internal\r\n"


def auth(fields: str) -> dict[str, Any]:
    return judge(parse(f"{fields}\r\nx".encode())).auth


def results(text: str, author: str = FROM) -> dict[str, Any]:
    return auth(f"{OURS}Authentication-Results: {text}\r\n{ENTRY}{author}")


NOBODY = {
    "source": None,
    "authserv_id": None,
    "spf": None,
    "dkim": None,
    "dmarc": None,
    "compauth": None,
    "aligned": False,
}


def test_results_of_exchange_count() -> None:
    """The topmost results, above the hop where the mail came in, are read and aligned."""
    expected = {
        "source": "authentication-results",
        "authserv_id": None,
        "spf": "pass",
        "dkim": "pass",
        "dmarc": "pass",
        "compauth": "pass",
        "aligned": True,
    }
    assert judge(parse((DATA / "exchange-alarm.eml").read_bytes())).auth == expected
    assert auth(OURS + PASS + ENTRY + FROM) == expected


@pytest.mark.parametrize(
    "fields",
    [
        FROM,
        PASS + FROM,
        OURS + ENTRY + PASS + FROM,
        ENTRY + PASS + OURS + FROM,
        "Received: from a by mx.evil.example; x\r\n" + PASS + ENTRY + FROM,
        OURS + "Received: from a by outlook.com.evil.example; x\r\n" + PASS + ENTRY + FROM,
        OURS + "Received: from a by evil-outlook.com; x\r\n" + PASS + ENTRY + FROM,
        OURS + "Received: no hop at all\r\n" + PASS + ENTRY + FROM,
        OURS + PASS.replace("Results:", "Results-Original:") + ENTRY + FROM,
        OURS + PASS.replace("Auth", "ARC-Auth") + ENTRY + FROM,
        # Who greets as one of Exchange Online's own servers has still come in from outside.
        OURS + ENTRY.replace("mx.ils.example", "X.prod.outlook.com") + PASS + OURS + FROM,
        OURS + ENTRY.replace("D.mail.protection", "E.prod") + PASS + OURS + FROM,
        OURS + INTERNAL + ENTRY + PASS + FROM,
    ],
)
def test_results_elsewhere_do_not_count(fields: str) -> None:
    """No results, or results where a sender can write: nobody is authenticated."""
    assert auth(fields) == NOBODY


def test_forged_results_below_the_entry_do_not_count() -> None:
    """A mail that brings its own results along is as unauthenticated as one without."""
    assert judge(parse((DATA / "forged-results.eml").read_bytes())).auth == NOBODY


def test_only_the_topmost_counts() -> None:
    """A forged pass below a genuine fail changes nothing."""
    fail = "Authentication-Results: spf=fail; dkim=none; dmarc=fail; compauth=fail reason=000\r\n"
    found = auth(OURS + fail + PASS + ENTRY + FROM)
    assert (found["spf"], found["dmarc"], found["compauth"]) == ("fail", "fail", "fail")
    assert not found["aligned"]


@pytest.mark.parametrize(
    ("text", "spf", "dkim", "dmarc", "compauth"),
    [
        (
            "spf=softfail; dkim=none (message not signed) header.d=none",
            "softfail",
            "none",
            None,
            None,
        ),
        (
            "dkim=fail (body hash) header.d=a; dkim=pass header.d=b.example",
            None,
            "pass",
            None,
            None,
        ),
        (
            "spf=pass smtp.mailfrom=163.com; t.onmicrosoft.com; dkim=fail;t.x",
            "pass",
            "fail",
            None,
            None,
        ),
        ("mx.example 1; spf=pass; dmarc=bestguesspass", "pass", None, "bestguesspass", None),
        ("spf=pass; spf=fail; compauth=pass; compauth=none", None, None, None, None),
        ("spf=pass (a; dmarc=pass", None, None, None, None),
        ('spf=pass smtp.mailfrom="x; dmarc=pass"', None, None, None, None),
        ("SPF=Pass; DMARC = PASS", "pass", None, "pass", None),
        ("spf=pass@evil; none", None, None, None, None),
        ("", None, None, None, None),
    ],
)
def test_results_are_read_tolerantly(
    text: str, spf: str | None, dkim: str | None, dmarc: str | None, compauth: str | None
) -> None:
    """Exchange's forms are read; two results where one belongs, or quoting, are none."""
    found = results(text)
    assert (found["spf"], found["dkim"], found["dmarc"], found["compauth"]) == (
        spf,
        dkim,
        dmarc,
        compauth,
    )


@pytest.mark.parametrize(
    ("text", "author", "aligned"),
    [
        ("dmarc=pass header.from=ils.example", FROM, True),
        ("dmarc=pass header.from=evil.example", FROM, False),
        ("dkim=pass header.d=ils.example", FROM, True),
        ("dkim=pass header.d=example", FROM, False),
        ("dkim=pass header.d=esp.example; dkim=pass header.d=ils.example", FROM, True),
        ("dkim=fail header.d=ils.example; dkim=pass header.d=esp.example", FROM, False),
        ("dkim=pass header.d=ils.example", "From: a@sub.ils.example\r\n", True),
        ("dkim=pass header.d=sub.ils.example", FROM, False),
        ("dkim=pass header.d=ils.example", "From: a@evilils.example\r\n", False),
        ("spf=pass smtp.mailfrom=ils.example", FROM, True),
        ("spf=pass smtp.mailfrom=bounce@ils.example", FROM, True),
        ("spf=pass smtp.mailfrom=esp.example", FROM, False),
        ("spf=pass smtp.mailfrom=ils.example; dmarc=fail", FROM, False),
        ("dmarc=pass header.from=ils.example; compauth=fail reason=001", FROM, False),
        ("dmarc=pass header.from=ils.example", FROM + "From: b@evil.example\r\n", False),
        ("dmarc=pass header.from=ils.example", "From: a@ils.example <b@ils.example>\r\n", False),
        ("dmarc=none; spf=none; dkim=none; compauth=softpass", FROM, False),
        # A fail is final, whatever else is said beside it.
        ("dkim=pass header.d=ils.example; compauth=fail reason=001; compauth=pass", FROM, False),
        ("dkim=pass header.d=ils.example; dmarc=fail; dmarc=pass", FROM, False),
        ("dkim=pass header.d=ils.example; compauth=pass; compauth=pass", FROM, False),
        ("spf=fail; spf=pass smtp.mailfrom=ils.example", FROM, False),
        ("dkim=pass header.d=ils.example; dmarc=fail; compauth=pass reason=130", FROM, False),
        # Passed by its looks alone, or not looked at.
        (
            "spf=none; dkim=none; dmarc=none header.from=ils.example; compauth=pass reason=702",
            FROM,
            False,
        ),
        (
            "spf=none; dkim=none; dmarc=none header.from=ils.example; compauth=none reason=905",
            FROM,
            False,
        ),
        (
            "dmarc=bestguesspass header.from=ils.example; spf=none; compauth=pass reason=109",
            FROM,
            False,
        ),
        (
            "dkim=none header.d=none;dmarc=none action=none header.from=ils.example;",
            INTERNAL + FROM,
            False,
        ),
        ("dmarc=pass", FROM, False),
    ],
)
def test_alignment(text: str, author: str, *, aligned: bool) -> None:
    """Aligned means: one author, and a pass that is about the author's own domain."""
    assert results(text, author)["aligned"] is aligned


def trust(fields: str) -> dict[str, Any]:
    return judge(parse(f"{fields}\r\n\r\nx".encode())).trust


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ("From: a@ok.org <b@evil.org>", "from_ambiguous"),
        ("From: a@ok.org <b@evil.org>", "display_name_has_address"),
        ('From: "a@ok.org" <b@evil.org>', "display_name_has_address"),
        ("From: =?utf-8?q?a=40ok.org?= <b@evil.org>", "display_name_has_address"),
        ("From: =?utf-8?b?YeKAi++8oG9rLm9yZw==?= <b@evil.org>", "display_name_has_address"),
        ("From: a@b.c\r\nSubject: =?utf-8?q?=E2=80=AEgpj?=", "bidi_controls"),
        ("From: =?utf-8?q?=E2=81=A6x?= <a@b.c>", "bidi_controls"),
        ("From: =?utf-8?q?=D0=B0larm?= <a@b.c>", "mixed_script"),
        ("From: a@\u0440aypal.example", "mixed_script"),
        ("From: a@xn--aypal-uye.example", "mixed_script"),
    ],
)
def test_tricks_are_flagged(fields: str, flag: str) -> None:
    """What is made to mislead the eye is named."""
    assert trust(fields)[flag] is True


@pytest.mark.parametrize(
    "fields",
    [
        "From: a@ok.org",
        "From: Jörg Müller <jm@müller.example>",
        'From: "a@ok.org" <a@ok.org>',
        "From: =?utf-8?q?=D0=98=D0=B2=D0=B0=D0=BD?= Ivan <a@b.c>",
        "From: =?utf-8?b?5bGx55Sw?= Taro <a@b.c>",
        "From: Joe @ Work <a@b.c>".replace("@ Work", "at Work"),
        "From: a@xn--mller-kva.example",
    ],
)
def test_honest_names_are_not_flagged(fields: str) -> None:
    """Foreign names and letters are no tricks."""
    assert trust(fields) == {
        "from_count": 1,
        "from_ambiguous": False,
        "bidi_controls": False,
        "mixed_script": False,
        "display_name_has_address": False,
    }


@pytest.mark.parametrize(
    ("fields", "count"),
    [("Subject: x", 0), ("From:", 1), ("From: a@b.c", 1), ("From: a@b.c\r\nFrom: d@e.f", 2)],
)
def test_from_count(fields: str, count: int) -> None:
    """The number of authors is the larger of From fields and addresses in them."""
    found = trust(fields)
    assert found["from_count"] == count
    assert found["from_ambiguous"] is (fields != "From: a@b.c")


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("bounce.eml", {"auto_submitted": "auto-replied", "bounce": True, "list": False}),
        ("list.eml", {"auto_submitted": "no", "bounce": False, "list": True}),
        ("exchange-alarm.eml", {"auto_submitted": "no", "bounce": False, "list": False}),
    ],
)
def test_automatic_mail_is_told_apart(name: str, auto: dict[str, Any]) -> None:
    """Bounces, automatic answers and lists are named by their header fields."""
    assert judge(parse((DATA / name).read_bytes())).auto == auto
