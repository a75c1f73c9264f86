"""What an SMTP reply means for the mail that is under way. Pure: code and text in, judgement out.

Two questions are answered for every refusal: whether trying again can help, and whose fault it
is. What blames the mailbox, the tenant or this machine keeps the mail, however permanent the
reply calls itself: a person mends it, and then the mail goes out. Only what blames this mail or
this recipient may end it. What a code comes from and what mends it stands in the catalogue of
failures; here is how it is recognised, and what follows for the mail. Sources: sections 1.4 and
5 of the project's notes on Exchange Online (its texts differ in what stands in brackets, so only
words outside are matched), RFC 5321, RFC 3463.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from mailbridge.catalogue.base import Ids
from mailbridge.catalogue.lookup import CATALOGUE, explain
from mailbridge.sinks.smtp_replies import Judgement, Phase, Reply, Scope, Weight

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    judgement: Judgement


def _rule(  # noqa: PLR0913 - the columns of the table below
    pattern: str,
    code: str,
    *,
    weight: Weight = "deferred",
    scope: Scope = "message",
    wait: float | None = None,
    person: bool = False,
) -> _Rule:
    code = f"smtp.{code}"
    judgement = Judgement(
        weight=weight,
        scope=scope,
        code=code,
        # What has ids in it is filled in by ``judge``; an unknown code stops the import.
        cause=CATALOGUE[code].cause.en,
        retry_after=wait,
        person=person,
    )
    return _Rule(re.compile(pattern, re.IGNORECASE | re.DOTALL), judgement)


def _mailbox(pattern: str, code: str, *, wait: float | None = None) -> _Rule:
    """Return a rule for what a person has to mend for the mailbox; its mails are kept."""
    return _rule(pattern, code, scope="mailbox", wait=wait, person=True)


#: the first that fits counts
_RULES: Final = (
    # signing in; the same words stand in the brackets of a 530 5.7.57 (a client that went on)
    _mailbox(r"SmtpClientAuthentication is disabled for the Tenant", "auth_disabled_tenant"),
    _mailbox(r"SmtpClientAuthentication is disabled for the Mailbox", "auth_disabled_mailbox"),
    _mailbox(r"5\.7\.139.*security defaults", "security_defaults"),
    _mailbox(r"5\.7\.139.*did not meet the criteria", "policy_blocked"),
    _mailbox(r"basic authentication is (?:disabled|not supported)|\b5\.7\.30\b", "basic_auth"),
    _mailbox(r"5\.7\.139.*credentials were incorrect", "credentials_incorrect"),
    _mailbox(r"5\.7\.139.*locked", "account_locked"),
    _mailbox(r"5\.7\.139.*(?:\bSTS\b|federat)", "federation"),
    _mailbox(r"\b5\.7\.139\b", "auth_refused"),
    _mailbox(r"\b535 5\.7\.[38]\b|\A535 ", "authenticate_failed"),
    _mailbox(r"\b5\.5\.124\b", "invalid_xoauth2"),
    _mailbox(r"\b5\.7\.57\b", "not_authenticated"),
    _mailbox(r"\A530 5\.7\.0\b|must issue a STARTTLS", "starttls_required"),
    _rule(r"\b4\.7\.66\b", "tls_version", scope="server", wait=_HOUR, person=True),
    # what the mailbox has used up
    _rule(
        r"thread limit|concurrent connections? limit|too many connections|\A432\b",
        "too_many_connections",
        scope="mailbox",
        wait=_MINUTE,
    ),
    _rule(r"submission rate .*exceeded", "rate_limited", scope="mailbox", wait=_MINUTE),
    _rule(
        r"SubmissionQuotaExceeded|\b5\.1\.90\b", "recipients_used_up", scope="mailbox", wait=_HOUR
    ),
    _mailbox(
        r"ShutoffQuotaExceeded|\A\d{3} 5\.2\.2 mailbox full; STOREDRV", "mailbox_full", wait=_HOUR
    ),
    # who may send as whom
    _rule(
        r"SendAsDenied|\b5\.7\.60\b|\b5\.2\.252\b|not owned by user",
        "send_as_denied",
        weight="rejected",
    ),
    _mailbox(r"\b5\.1\.8\b|\b5\.7\.50[123]\b", "sender_blocked", wait=_HOUR),
    _mailbox(r"\b5\.7\.750\b", "unregistered_domain", wait=_HOUR),
    _mailbox(r"\b5\.7\.70[358]\b", "tenant_blocked", wait=_HOUR),
    _rule(r"\b5\.7\.23[23]\b", "tenant_limit", scope="mailbox", wait=_HOUR),
    # this machine's address
    _rule(
        r"\b5\.7\.(?:511|60[6-9]|6[1-4]\d)\b",
        "address_banned",
        scope="server",
        wait=_HOUR,
        person=True,
    ),
    _rule(
        r"\b4\.7\.[56]\d\d\b|\b5\.7\.508\b", "address_throttled", scope="server", wait=30 * _MINUTE
    ),
    _rule(r"\b5\.7\.506\b", "bad_helo", scope="server"),
    # this mail
    _rule(r"header size exceeds", "header_too_large", weight="rejected"),
    _rule(r"\b5\.3\.4\b|(?:Message|Max)SubmissionExceeded|\A552 ", "too_large", weight="rejected"),
    _rule(r"\b4\.5\.3\b|\b5\.5\.3\b", "too_many_recipients", scope="recipient", wait=0.0),
    _rule(r"\b5\.7\.5(?:09|12)\b", "from_refused", weight="rejected"),
    # this recipient
    _rule(
        r"\b5\.1\.(?:1|10)\b|RecipientNotFound",
        "recipient_unknown",
        weight="rejected",
        scope="recipient",
    ),
    _rule(r"\b5\.7\.5(?:05|13)\b", "recipient_refused", weight="rejected", scope="recipient"),
    _rule(r"\b5\.2\.12[12]\b", "recipient_busy", scope="recipient", wait=_HOUR),
    # what is wrong between the servers
    _rule(r"\A(?:421|451) 4\.7\.0\b", "temporary", scope="server"),
    _rule(r"\b4\.3\.2\b|\A421 ", "unavailable", scope="server", wait=_MINUTE),
    _rule(r"\A500 |\b5\.3\.3\b", "not_understood", scope="server"),
    _rule(r"\b5\.1\.[037]\b|\A501 5\.5\.4\b", "invalid_address", weight="rejected"),
    _rule(r"\b5\.7\.1\b", "policy", weight="rejected"),
)

#: by phase, whom a reply concerns that no rule knows
_SCOPES: Final[dict[Phase, Scope]] = {
    "connect": "server",
    "sign_in": "mailbox",
    "mail": "message",
    "recipient": "recipient",
    "data": "message",
}


def judge(  # noqa: PLR0913 - whose addresses go into the fix
    reply: Reply,
    phase: Phase,
    *,
    mailbox: str = "",
    sender: str = "",
    account: str = "",
    person: bool = False,
) -> Judgement:
    """Return what a reply other than a success means; the addresses go into the fix.

    ``account`` is who signed in: a ``person``, as anybody is who is not the ``mailbox`` itself.
    """
    said = f"{reply.code} {reply.text}"
    found = next((rule.judgement for rule in _RULES if rule.pattern.search(said)), None)
    if found is None:
        found = _unknown(reply, phase)
    elif found.scope == "message" and phase in {"recipient", "connect", "sign_in"}:
        # Said of a recipient, "this address" is about that one alone.
        found = replace(found, scope=_SCOPES[phase])
    if phase in {"connect", "sign_in"} and found.weight == "rejected":
        # No mail was mentioned yet, so none can be to blame.
        found = replace(found, weight="deferred", person=True)
    person = person or account.lower() not in {"", mailbox.lower()}
    ids = Ids(
        address=mailbox,
        account=account,
        sender=sender,
        sign_in="delegated" if person else "application",
    )
    cause, fix = explain(found.code, ids)
    return replace(found, reply=reply, cause=cause, fix=fix)


def _unknown(reply: Reply, phase: Phase) -> Judgement:
    permanent = reply.code >= 500  # noqa: PLR2004 - RFC 5321, 4.2.1
    refused = permanent and phase not in {"connect", "sign_in"}
    code = "smtp.refused" if permanent else "smtp.deferred"
    return Judgement(
        weight="rejected" if refused else "deferred",
        # "Try later" is more often said of the server than of what it was asked.
        scope=_SCOPES[phase] if permanent or phase != "sign_in" else "server",
        code=code,
        cause=CATALOGUE[code].cause.en,
        person=permanent and phase == "sign_in",
    )
