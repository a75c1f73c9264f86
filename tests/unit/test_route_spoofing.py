"""Forged alarms: none of them gets past ``from`` and ``require: {authenticated: true}``.

The attacker can write every header of his mail, owns evil.example with everything that
authenticates it, and knows what a genuine alarm looks like. What he cannot do is to stop Exchange
Online from writing its results on top, or to prove ils.example.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from mailbridge.parse import parse
from mailbridge.route.base import AddressPattern, MatchSpec, RequireSpec, RouteSpec
from mailbridge.route.decide import Router, compile_route

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOP = "Received: from A.prod.outlook.com (::1) by B.prod.outlook.com with HTTPS; x\r\n"
ENTRY = "Received: from {} (6.6.6.6) by D.mail.protection.outlook.com (1.1.1.1); x\r\n"
EVIL_ENTRY = ENTRY.format("mx.evil.example")
RESULTS = (
    "Authentication-Results: spf={spf} (sender IP is 6.6.6.6)\r\n smtp.mailfrom={mailfrom};"
    " dkim={dkim} (x)\r\n header.d={d};dmarc={dmarc} action=none\r\n"
    " header.from={author};compauth={compauth}\r\n"
)
GENUINE = RESULTS.format(
    spf="pass",
    mailfrom="ils.example",
    dkim="pass",
    d="ils.example",
    dmarc="pass",
    author="ils.example",
    compauth="pass reason=100",
)
FAIL = RESULTS.format(
    spf="fail",
    mailfrom="ils.example",
    dkim="none",
    d="none",
    dmarc="fail",
    author="ils.example",
    compauth="fail reason=000",
)
#: what an attacker's own domain gets: everything passes, for evil.example
EVIL = GENUINE.replace("ils.example", "evil.example")
FROM = "From: Leitstelle <alarm@ils.example>\r\n"

ROUTER = Router(
    [
        compile_route(
            RouteSpec(
                name="alarm",
                match=MatchSpec(from_=(AddressPattern(glob="*@ils.example"),)),
                require=RequireSpec(authenticated=True),
                webhooks=("divera",),
            )
        )
    ]
)


def verdict(head: str) -> str:
    raw = f"{head}Subject: Einsatz B3\r\n\r\nStichwort: B3\r\n".encode()
    (step,) = ROUTER.rule(parse(raw), received_at=NOW, now=NOW)
    return step.verdict


def arrived(forged: str, results: str = FAIL) -> str:
    """Return what Exchange Online makes of a mail that comes in from evil.example."""
    return HOP + results + EVIL_ENTRY + forged


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """A trick, and the header section that the mailbox then has."""

    name: str
    head: str


def f(name: str, head: str) -> Forgery:
    return Forgery(name=name, head=head)


FORGERIES = [
    f("plain spoof", arrived(FROM)),
    f("own results below the genuine fail", arrived(GENUINE + FROM)),
    f("own results with a hop of Microsoft's below", arrived(GENUINE + HOP + FROM)),
    f("no results by Exchange at all", HOP + EVIL_ENTRY + FROM),
    f("no results, own ones below the entry", HOP + EVIL_ENTRY + GENUINE + FROM),
    f("no results, own ones with hops around", HOP + EVIL_ENTRY + GENUINE + HOP + FROM),
    f("greets as Microsoft", HOP + ENTRY.format("X.prod.outlook.com") + GENUINE + HOP + FROM),
    f("results renamed on arrival", arrived(GENUINE.replace("Results", "Results-Original") + FROM)),
    f("ARC results of his own", arrived(GENUINE.replace("Auth", "ARC-Auth") + FROM)),
    f(
        "an authserv-id of Microsoft's",
        arrived(GENUINE.replace(": spf", ": mx.microsoft.com 1; spf") + FROM),
    ),
    f(
        "results above, no hop of Microsoft's",
        GENUINE + "Received: from x by mx.evil.example; x\r\n" + FROM,
    ),
    f("results and nothing else", GENUINE + FROM),
    f(
        "hop that only looks like Microsoft's",
        HOP.replace("outlook.com", "outlook.com.evil.example") + GENUINE + FROM,
    ),
    f(
        "hop of a domain that ends alike",
        HOP.replace(".outlook.com", ".evil-outlook.com") + GENUINE + FROM,
    ),
    f("says that he is inside", arrived("X-MS-Exchange-Organization-AuthAs: Internal\r\n" + FROM)),
    f(
        "mail within the organisation",
        HOP + "Authentication-Results: dkim=none (message not signed) header.d=none;dmarc=none"
        " action=none header.from=ils.example;\r\n"
        + HOP
        + "X-MS-Exchange-Organization-AuthAs: Internal\r\n"
        + FROM,
    ),
    # His own domain, fully authenticated, and some way to look like another.
    f("his domain, their name", arrived('From: "ILS" <alarm@evil.example>\r\n', EVIL)),
    f(
        "their address as display name",
        arrived('From: "alarm@ils.example" <alarm@evil.example>\r\n', EVIL),
    ),
    f(
        "their address as encoded display name",
        arrived("From: =?utf-8?q?alarm=40ils=2Eexample?= <a@evil.example>\r\n", EVIL),
    ),
    f(
        "an encoded word that closes the bracket",
        arrived("From: =?utf-8?q?<alarm=40ils.example>?= <a@evil.example>\r\n", EVIL),
    ),
    f("an encoded word alone", arrived("From: =?utf-8?q?alarm=40ils.example?=\r\n", EVIL)),
    f(
        "an encoded word as local part",
        arrived("From: =?utf-8?q?alarm=40ils.example=3E?=@evil.example\r\n", EVIL),
    ),
    f("two addresses, theirs first", arrived("From: alarm@ils.example <a@evil.example>\r\n", EVIL)),
    f("two addresses, theirs last", arrived("From: a@evil.example <alarm@ils.example>\r\n", EVIL)),
    f("two authors", arrived("From: alarm@ils.example, a@evil.example\r\n", EVIL)),
    f("two authors, theirs last", arrived("From: a@evil.example, alarm@ils.example\r\n", EVIL)),
    f("two From fields, theirs first", arrived(FROM + "From: a@evil.example\r\n", EVIL)),
    f("two From fields, theirs last", arrived("From: a@evil.example\r\n" + FROM, EVIL)),
    f("a comment", arrived("From: a@evil.example (<alarm@ils.example>)\r\n", EVIL)),
    f("a group", arrived("From: alarm@ils.example:a@evil.example;\r\n", EVIL)),
    f("a route", arrived("From: <@ils.example:a@evil.example>\r\n", EVIL)),
    f("nested brackets", arrived("From: <alarm@ils.example<a@evil.example>>\r\n", EVIL)),
    f("an unclosed quote", arrived('From: "alarm@ils.example <a@evil.example>\r\n', EVIL)),
    f("a quoted local part", arrived('From: "alarm@ils.example"@evil.example\r\n', EVIL)),
    f(
        "a quoted local part that breaks out",
        arrived('From: "a@evil.example> <alarm"@ils.example\r\n', EVIL),
    ),
    f("a zero byte", arrived("From: alarm@ils.example\x00@evil.example\r\n", EVIL)),
    f("a folded address", arrived("From: alarm@ils.example\r\n @evil.example\r\n", EVIL)),
    f("a sender beside", arrived(FROM + "Sender: a@evil.example\r\n", EVIL)),
    f("no From, but a Sender", arrived("Sender: alarm@ils.example\r\n", GENUINE)),
    f(
        "a From with a blank before the colon",
        arrived("From : alarm@ils.example\r\nFrom: a@evil.example\r\n", EVIL),
    ),
    # Letters that look alike, each with a domain of its own that authenticates.
    f(
        "a Cyrillic letter",
        arrived("From: alarm@\u0456ls.example\r\n", EVIL.replace("evil", "\u0456ls")),
    ),
    f(
        "a Cyrillic letter in punycode",
        arrived("From: alarm@xn--ls-7ed.example\r\n", EVIL.replace("evil", "xn--ls-7ed")),
    ),
    f("a dotless i", arrived("From: alarm@\u0131ls.example\r\n", EVIL.replace("evil", "\u0131ls"))),
    f("wide letters", arrived("From: alarm@\uff49\uff4c\uff53.example\r\n", EVIL)),
    f("a wide at sign", arrived("From: alarm\uff20ils.example\r\n", EVIL)),
    f("a one for an l", arrived("From: alarm@i1s.example\r\n", EVIL.replace("evil", "i1s"))),
    f("their domain in his", arrived("From: alarm@ils.example.evil.example\r\n", EVIL)),
    f(
        "his domain ends in theirs",
        arrived("From: alarm@evilils.example\r\n", EVIL.replace("evil", "evilils")),
    ),
    # What passes, and does not speak for the author's domain.
    f("his own envelope and signature", arrived(FROM, EVIL)),
    f("dmarc of his, author theirs", arrived(FROM, EVIL.replace("dmarc=pass", "dmarc=none"))),
    f(
        "a subdomain signs for its parent",
        arrived(
            FROM,
            RESULTS.format(
                spf="none",
                mailfrom="x.ils.example",
                dkim="pass",
                d="x.ils.example",
                dmarc="none",
                author="ils.example",
                compauth="none",
            ),
        ),
    ),
    f(
        "a top level signs",
        arrived(
            FROM,
            RESULTS.format(
                spf="pass",
                mailfrom="example",
                dkim="pass",
                d="example",
                dmarc="none",
                author="ils.example",
                compauth="none",
            ),
        ),
    ),
    f(
        "a guess",
        arrived(
            FROM,
            FAIL.replace("spf=fail", "spf=none")
            .replace("dmarc=fail", "dmarc=bestguesspass")
            .replace("compauth=fail", "compauth=softpass"),
        ),
    ),
    f(
        "let through unchecked",
        arrived(
            FROM,
            FAIL.replace("spf=fail", "spf=none")
            .replace("dmarc=fail", "dmarc=none")
            .replace("compauth=fail reason=000", "compauth=none reason=905"),
        ),
    ),
    f(
        "let through by a sealer",
        arrived(FROM, FAIL.replace("compauth=fail reason=000", "compauth=pass reason=130")),
    ),
    f(
        "compauth failed, dkim passed",
        arrived(FROM, GENUINE.replace("compauth=pass", "compauth=fail")),
    ),
    f(
        "results that were broken into",
        arrived(
            FROM,
            FAIL.rstrip()
            + ";dkim=pass header.d=ils.example;dmarc=pass header.from=ils.example\r\n",
        ),
    ),
    f(
        "results within a property",
        arrived(
            FROM,
            FAIL.replace(
                "smtp.mailfrom=ils.example",
                'smtp.mailfrom="a;dmarc=pass header.from=ils.example;"@x.example',
            ),
        ),
    ),
    f(
        "results within a comment",
        arrived(
            FROM, FAIL.replace("sender IP is 6.6.6.6", "(x); dkim=pass header.d=ils.example; (y)")
        ),
    ),
]


def test_the_genuine_alarm_gets_through() -> None:
    """The table below means something: without a trick the same route delivers."""
    assert verdict(HOP + GENUINE + ENTRY.format("mx.ils.example") + FROM) == "deliver"


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name.replace(" ", "-"))
def test_no_forged_alarm_gets_through(forgery: Forgery) -> None:
    """Nobody is woken: a forged mail is held, or the route does not even take it."""
    assert verdict(forgery.head) in {"hold", "passed_by"}
