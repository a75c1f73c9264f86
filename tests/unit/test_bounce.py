"""Which mails say that one of ours did not arrive, for whom, and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.bounce import MOST, failures, suspected

OURS = "out_ABCDEFGHIJKLMNOPQRSTUVWXYZ"

POSTFIX = f"""\
Return-Path: <>
Date: Sat, 21 Nov 2026 12:00:00 +0000 (UTC)
From: MAILER-DAEMON@mail.example (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: alarm@feuerwehr.example
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="B.1/mail.example"
Message-Id: <2026.B@mail.example>

This is a MIME-encapsulated message.

--B.1/mail.example
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

I'm sorry to have to inform you that your message could not be delivered.

--B.1/mail.example
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example
X-Postfix-Queue-ID: B
X-Postfix-Sender: rfc822; alarm@feuerwehr.example
Original-Envelope-Id: {OURS}
Arrival-Date: Sat, 21 Nov 2026 12:00:00 +0000 (UTC)

Final-Recipient: rfc822; gone@elsewhere.example
Original-Recipient: rfc822;Gone.Away@elsewhere.example
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.elsewhere.example
Diagnostic-Code: smtp; 550 5.1.1 <gone@elsewhere.example>: Recipient address
    rejected: User unknown

Final-Recipient: rfc822; slow@elsewhere.example
Action: delayed
Status: 4.4.1

Final-Recipient: rfc822; full@elsewhere.example
Action: failed
Status: 5.2.2

--B.1/mail.example
Content-Description: Undelivered Message Headers
Content-Type: text/rfc822-headers

From: alarm@feuerwehr.example
Message-ID: <wanted@feuerwehr.example>
X-Mailbridge-Id: {OURS}
Subject: Test

--B.1/mail.example--
"""

EXCHANGE = """\
From: Microsoft Outlook
 <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@feuerwehr.example>
To: <alarm@feuerwehr.example>
Date: Sat, 21 Nov 2026 12:00:00 +0000
Content-Type: multipart/report; report-type=delivery-status;
 boundary="6d3c9b0e-31a5-4a2f-9c0e-2d1b8a6f0e11"
X-MS-Exchange-Message-Is-Ndr:
Content-Language: de-DE
Message-ID: <ndr@BE1P281MB0000.DEUP281.PROD.OUTLOOK.COM>
In-Reply-To: <wanted@feuerwehr.example>
References: <wanted@feuerwehr.example>
Subject: Unzustellbar: Test
Auto-Submitted: auto-replied

--6d3c9b0e-31a5-4a2f-9c0e-2d1b8a6f0e11
Content-Type: text/html; charset="us-ascii"
Content-Transfer-Encoding: quoted-printable

<html>Ihre Nachricht konnte nicht zugestellt werden.</html>

--6d3c9b0e-31a5-4a2f-9c0e-2d1b8a6f0e11
Content-Type: message/delivery-status

Reporting-MTA: dns;BE1P281MB0000.DEUP281.PROD.OUTLOOK.COM
Received-From-MTA: dns;BE1P281MB0000.DEUP281.PROD.OUTLOOK.COM
Arrival-Date: Sat, 21 Nov 2026 12:00:00 +0000

Final-Recipient: rfc822;gone@elsewhere.example
Action: failed
Status: 5.1.10
Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP
 address lookup

--6d3c9b0e-31a5-4a2f-9c0e-2d1b8a6f0e11
Content-Type: message/rfc822

From: <alarm@feuerwehr.example>
Message-ID: <wanted@feuerwehr.example>
Subject: Test

Hi
--6d3c9b0e-31a5-4a2f-9c0e-2d1b8a6f0e11--
"""

EXIM = """\
Return-path: <>
X-Failed-Recipients: gone@elsewhere.example,
  full@elsewhere.example
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@mx.example>
To: alarm@feuerwehr.example
References: <wanted@feuerwehr.example>
Subject: Mail delivery failed: returning message to sender

A message that you sent could not be delivered.
"""

ABSENCE = """\
Return-Path: <>
From: Erika <erika@elsewhere.example>
To: alarm@feuerwehr.example
In-Reply-To: <wanted@feuerwehr.example>
Auto-Submitted: auto-generated
X-Auto-Response-Suppress: All
Subject: Automatic reply: Test

I am away until Monday.
"""


def _wire(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


@pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
def test_a_status_notification_names_mail_recipient_and_reason(ends: bytes) -> None:
    """The recipient as we named him, what the server said; delayed ones are none of it."""
    raw = POSTFIX.encode().replace(b"\n", ends)
    assert suspected(raw)
    first, second = failures(raw)
    assert first.send == OURS
    assert first.message_ids == ("wanted@feuerwehr.example",)
    assert first.recipient == "Gone.Away@elsewhere.example"
    assert first.text.startswith("550 5.1.1 <gone@elsewhere.example>: Recipient address rejected:")
    assert (second.recipient, second.text) == ("full@elsewhere.example", "5.2.2")


def test_the_envelope_id_names_the_mail_where_the_original_is_missing() -> None:
    """A report without the original tells which mail it is about by the id that we gave."""
    start, _, _ = POSTFIX.partition("--B.1/mail.example\nContent-Description: Undelivered")
    [one, _] = failures(_wire(f"{start}--B.1/mail.example--\n"))
    assert (one.send, one.message_ids) == (OURS, ())


def test_exchange_says_it_in_its_own_form() -> None:
    """In whatever language, the machine-readable part is read."""
    [one] = failures(_wire(EXCHANGE))
    assert one.recipient == "gone@elsewhere.example"
    assert one.text.startswith("550 5.1.10 RESOLVER.ADR.RecipientNotFound;")
    assert one.message_ids == ("wanted@feuerwehr.example",)


def test_older_servers_name_the_recipients_in_the_header() -> None:
    """X-Failed-Recipients, with References for the mail."""
    assert suspected(_wire(EXIM))
    found = failures(_wire(EXIM))
    assert [one.recipient for one in found] == ["gone@elsewhere.example", "full@elsewhere.example"]
    assert {one.message_ids for one in found} == {("wanted@feuerwehr.example",)}


def test_an_automatic_reply_is_no_bounce() -> None:
    """Nobody failed, although it comes by a null Return-Path and answers our mail."""
    assert suspected(_wire(ABSENCE))
    assert failures(_wire(ABSENCE)) == ()


def test_a_delivery_that_succeeded_or_is_late_is_no_bounce() -> None:
    """Only what failed for good is one."""
    for action in ("delayed", "delivered", "relayed", "expanded"):
        assert failures(_wire(EXCHANGE.replace("failed", action))) == ()


def test_only_the_header_is_looked_at() -> None:
    """What the text of an ordinary mail says does not make it one that is parsed."""
    raw = b"From: a@b.example\r\nSubject: Alarm\r\n\r\nContent-Type: multipart/report\r\n"
    assert not suspected(raw)
    assert not suspected(raw.replace(b"\r\n", b"\n"))
    assert not suspected(b"x" * 10**6 + b"\r\nReturn-Path: <>\r\n\r\n")


def test_a_report_on_everybody_is_bounded() -> None:
    """A thousand recipients in one report do not become a thousand writes."""
    block = "\nFinal-Recipient: rfc822;a{0}@x.example\nAction: failed\nStatus: 5.1.1\n"
    blocks = "".join(block.format(number) for number in range(1000))
    raw = _wire(
        EXCHANGE.replace(
            "\n--6d3c9b0e-31a5-4a2f-9c0e-2d1b8a6f0e11\nContent-Type: message/r",
            f"{blocks}\n--6d3c9b0e-31a5-4a2f-9c0e-2d1b8a6f0e11\nContent-Type: message/r",
        )
    )
    assert len(failures(raw)) == MOST


@given(st.binary(max_size=400), st.integers(0, 1500))
def test_whatever_a_mail_holds_nothing_is_raised(junk: bytes, at: int) -> None:
    """A report with bytes of chance in it is read or not, and never an error."""
    raw = _wire(POSTFIX)
    failures(raw[:at] + junk + raw[at:])
