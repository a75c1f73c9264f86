"""Every reply that Exchange Online is known for, and what is made of it."""

from __future__ import annotations

import pytest

from mailbridge.sinks.smtp_replies import Phase, Reply
from mailbridge.sinks.smtp_rules import judge

#: reply, when it comes, code of the judgement, kept or given up, who is to blame
TABLE = [
    ("535 5.7.3 Authentication unsuccessful [X]", "sign_in", "authenticate_failed", "mailbox"),
    ("535 5.7.8 Error: authentication failed: ", "sign_in", "authenticate_failed", "mailbox"),
    (
        "535 5.7.139 Authentication unsuccessful, something new",
        "sign_in",
        "auth_refused",
        "mailbox",
    ),
    ("535 5.7.139 … federated STS could not be reached", "sign_in", "federation", "mailbox"),
    ("550 5.7.30 Basic authentication is not supported", "sign_in", "basic_auth", "mailbox"),
    ("501 5.5.124 Invalid XOAUTH2 auth data", "sign_in", "invalid_xoauth2", "mailbox"),
    ("454 4.7.0 Temporary authentication failure", "sign_in", "deferred", "server"),
    ("504 5.7.4 Unrecognized authentication type", "sign_in", "refused", "mailbox"),
    ("530 5.7.57 SMTP; Client was not authenticated", "mail", "not_authenticated", "mailbox"),
    (
        "530 5.7.57 … [Error: 535 5.7.139 …, SmtpClientAuthentication is disabled for the Tenant.]",
        "mail",
        "auth_disabled_tenant",
        "mailbox",
    ),
    ("530 5.7.0 Must issue a STARTTLS command first", "mail", "starttls_required", "mailbox"),
    ("421 4.7.66 TLS 1.0 and 1.1 are not supported.", "connect", "tls_version", "server"),
    ("554 5.7.1 no", "connect", "policy", "server"),
    ("550 5.1.90 Your message can't be sent", "data", "recipients_used_up", "mailbox"),
    (
        "432 4.3.2 Concurrent connections limit exceeded",
        "recipient",
        "too_many_connections",
        "mailbox",
    ),
    ("550 5.5.3 Too many recipients", "recipient", "too_many_recipients", "recipient"),
    ("451 4.7.699 Server busy", "mail", "address_throttled", "server"),
    ("550 5.7.508 Access denied, IPv6", "mail", "address_throttled", "server"),
    ("550 5.7.606 Access denied, banned sending IP", "mail", "address_banned", "server"),
    ("550 5.7.511 Access denied, banned sender", "mail", "address_banned", "server"),
    ("550 5.7.501 Access denied, spam abuse detected", "data", "sender_blocked", "mailbox"),
    ("550 5.7.705 Access denied, tenant has exceeded", "data", "tenant_blocked", "mailbox"),
    ("550 5.7.708 Access denied, traffic not accepted", "data", "tenant_blocked", "mailbox"),
    ("550 5.7.232 Your message can't be sent", "data", "tenant_limit", "mailbox"),
    ("550 5.7.506 Access Denied, Bad HELO", "connect", "bad_helo", "server"),
    ("550 5.2.121 recipient's hourly limit", "recipient", "recipient_busy", "recipient"),
    ("421 4.3.2 Service not available", "mail", "unavailable", "server"),
    ("421 closing", "data", "unavailable", "server"),
    ("450 4.2.1 later", "recipient", "deferred", "recipient"),
    ("451 odd", "data", "deferred", "message"),
]
GIVEN_UP = [
    ("550 5.7.60 SMTP; Client does not have permissions", "mail", "send_as_denied", "message"),
    (
        "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException",
        "data",
        "send_as_denied",
        "message",
    ),
    (
        "553 5.7.1 <a@b>: Sender address rejected: not owned by user c@d",
        "recipient",
        "send_as_denied",
        "recipient",
    ),
    ("552 5.3.4 Header size exceeds fixed maximum size", "data", "header_too_large", "message"),
    ("554 5.2.0 …MessageSubmissionExceededException", "data", "too_large", "message"),
    ("550 5.7.509 Access denied, DMARC", "data", "from_refused", "message"),
    ("550 5.1.1 User unknown", "recipient", "recipient_unknown", "recipient"),
    ("550 5.7.505 banned recipient", "recipient", "recipient_refused", "recipient"),
    ("550 5.7.1 a transport rule", "recipient", "policy", "recipient"),
    ("550 5.7.1 a transport rule", "data", "policy", "message"),
    ("501 5.1.7 Invalid address", "mail", "invalid_address", "message"),
    ("501 5.1.3 Invalid address", "recipient", "invalid_address", "recipient"),
    ("550 whatever", "recipient", "refused", "recipient"),
    ("554 whatever", "data", "refused", "message"),
]


def reply(text: str) -> Reply:
    code, _, words = text.partition(" ")
    return Reply(code=int(code), text=words)


@pytest.mark.parametrize(("text", "phase", "code", "scope"), TABLE)
def test_what_is_not_the_mails_fault_keeps_the_mail(
    text: str, phase: Phase, code: str, scope: str
) -> None:
    """Mailbox, tenant, server, time of day: the mail waits, and the code is stable."""
    found = judge(reply(text), phase)
    assert (found.code, found.scope, found.weight) == (f"smtp.{code}", scope, "deferred")


@pytest.mark.parametrize(("text", "phase", "code", "scope"), GIVEN_UP)
def test_what_blames_a_mail_or_a_recipient_ends_just_that(
    text: str, phase: Phase, code: str, scope: str
) -> None:
    """Only a refusal of this mail or this recipient is final."""
    found = judge(reply(text), phase)
    assert (found.code, found.scope, found.weight) == (f"smtp.{code}", scope, "rejected")


def test_a_reply_is_shown_on_one_line_without_secrets() -> None:
    """Whatever a server writes, it neither forges a log line nor repeats a token."""
    wild = Reply(
        code=550, text="5.1.1 a\nb\x1b[31m\u202e " + "eyJ" + "A" * 200 + " end" + "x " * 900
    )
    assert "\n" not in wild.shown
    assert "\x1b" not in wild.shown
    assert "\u202e" not in wild.shown
    assert "AAAA" not in wild.shown
    assert len(wild.shown) <= 400
    assert wild.enhanced == "5.1.1"


def test_a_fix_names_the_mailbox_it_is_for() -> None:
    """Commands can be copied: the addresses are in them."""
    found = judge(reply("550 5.7.60 SMTP"), "mail", mailbox="a@b.example", sender="c@b.example")
    assert "Add-RecipientPermission c@b.example" in found.fix
    assert "send as a@b.example" in found.fix
