"""What an SMTP reply means for the mail that is under way. Pure: code and text in, judgement out.

Two questions are answered for every refusal: whether trying again can help, and whose fault it
is. What blames the mailbox, the tenant or this machine keeps the mail, however permanent the
reply calls itself: a person mends it, and then the mail goes out. Only what blames this mail or
this recipient may end it. Sources: sections 1.4 and 5 of the project's notes on Exchange Online
(its texts differ in what stands in brackets, so only words outside are matched), RFC 5321,
RFC 3463.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

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
    cause: str,
    fix: str = "",
    *,
    weight: Weight = "deferred",
    scope: Scope = "message",
    wait: float | None = None,
    person: bool = False,
) -> _Rule:
    judgement = Judgement(
        weight=weight,
        scope=scope,
        code=f"smtp.{code}",
        cause=cause,
        fix=fix,
        retry_after=wait,
        person=person,
    )
    return _Rule(re.compile(pattern, re.IGNORECASE | re.DOTALL), judgement)


def _mailbox(
    pattern: str, code: str, cause: str, fix: str = "", *, wait: float | None = None
) -> _Rule:
    """Return a rule for what a person has to mend for the mailbox; its mails are kept."""
    return _rule(pattern, code, cause, fix, scope="mailbox", wait=wait, person=True)


_SWITCH_ON: Final = (
    "In Exchange Online PowerShell: Set-CASMailbox -Identity {mailbox} "
    "-SmtpClientAuthenticationDisabled $false"
)
_USE_OAUTH: Final = (
    "The server took the sign-in for one with a password. Check that nothing between "
    "changes it, and that the account may use SMTP with OAuth."
)
_TEST: Final = "Run `mailbridge test-mailbox`: it reads the token and names what is missing."
_RESTRICTED: Final = (
    "Microsoft Defender portal, Email & collaboration, Review, Restricted entities: find out "
    "what sent spam, then unblock {mailbox}."
)

#: the first that fits counts
_RULES: Final = (
    # signing in; the same words stand in the brackets of a 530 5.7.57 (a client that went on)
    _mailbox(
        r"SmtpClientAuthentication is disabled for the Tenant",
        "auth_disabled_tenant",
        "SMTP AUTH is switched off for the whole tenant, and not switched on for this mailbox",
        _SWITCH_ON + " (only this mailbox), or Set-TransportConfig "
        "-SmtpClientAuthenticationDisabled $false (all). It can take an hour.",
    ),
    _mailbox(
        r"SmtpClientAuthentication is disabled for the Mailbox",
        "auth_disabled_mailbox",
        "SMTP AUTH is switched off for this mailbox",
        _SWITCH_ON + ". It can take an hour.",
    ),
    _mailbox(
        r"5\.7\.139.*security defaults",
        "security_defaults",
        "the tenant's security defaults block this sign-in",
        _USE_OAUTH,
    ),
    _mailbox(
        r"5\.7\.139.*did not meet the criteria",
        "policy_blocked",
        "a Conditional Access or authentication policy blocks this sign-in",
        "Entra admin center, Protection, Conditional Access: except this app or account, or use "
        "application access.",
    ),
    _mailbox(
        r"basic authentication is (?:disabled|not supported)|\b5\.7\.30\b",
        "basic_auth",
        "the server refuses passwords",
        _USE_OAUTH,
    ),
    _mailbox(
        r"5\.7\.139.*credentials were incorrect",
        "credentials_incorrect",
        "the server takes the credentials for wrong",
        _TEST,
    ),
    _mailbox(
        r"5\.7\.139.*locked",
        "account_locked",
        "the account is locked",
        "Entra admin center, Users, the account: unblock sign-in, or wait until the lock ends.",
    ),
    _mailbox(
        r"5\.7\.139.*(?:\bSTS\b|federat)",
        "federation",
        "the organisation's own sign-in server (AD FS) could not be asked",
        "Check that it can be reached from the internet by https.",
    ),
    _mailbox(r"\b5\.7\.139\b", "auth_refused", "Exchange refuses the sign-in", _TEST),
    _mailbox(
        r"\b535 5\.7\.[38]\b|\A535 ",
        "authenticate_failed",
        "the server refuses the token",
        _TEST + " SMTP gives the same answer when SMTP.SendAsApp or SMTP.Send is missing, when "
        "the service principal is not registered in Exchange, or lacks FullAccess to {mailbox}.",
    ),
    _mailbox(
        r"\b5\.5\.124\b", "invalid_xoauth2", "the server could not read the credential", _TEST
    ),
    _mailbox(r"\b5\.7\.57\b", "not_authenticated", "the server did not take the sign-in", _TEST),
    _mailbox(
        r"\A530 5\.7\.0\b|must issue a STARTTLS",
        "starttls_required",
        "the server wants TLS first",
        "Check send.server.port and send.server.tls (587 with starttls, 465 with implicit).",
    ),
    _rule(
        r"\b4\.7\.66\b",
        "tls_version",
        "the server does not take this version of TLS",
        "Something between uses TLS 1.0 or 1.1: look for a proxy that inspects TLS.",
        scope="server",
        wait=_HOUR,
        person=True,
    ),
    # what the mailbox has used up
    _rule(
        r"thread limit|concurrent connections? limit|too many connections|\A432\b",
        "too_many_connections",
        "more connections of this mailbox than the server permits",
        "Lower send.limits.connections, or close other programs that send as {mailbox}.",
        scope="mailbox",
        wait=_MINUTE,
    ),
    _rule(
        r"submission rate .*exceeded",
        "rate_limited",
        "more messages a minute than the server permits the mailbox",
        "Lower send.limits.per_minute.",
        scope="mailbox",
        wait=_MINUTE,
    ),
    _rule(
        r"SubmissionQuotaExceeded|\b5\.1\.90\b",
        "recipients_used_up",
        "the mailbox has used up its recipients of the day",
        "Wait: the limit is of the last 24 hours. Lower send.limits.recipients_per_day if other "
        "programs send as {mailbox} too.",
        scope="mailbox",
        wait=_HOUR,
    ),
    _mailbox(
        r"ShutoffQuotaExceeded|\A\d{3} 5\.2\.2 mailbox full; STOREDRV",
        "mailbox_full",
        "the sender's own mailbox is full, so that no copy can be kept in its sent items",
        "Delete or archive mail of {mailbox}, or give it more room.",
        wait=_HOUR,
    ),
    # who may send as whom
    _rule(
        r"SendAsDenied|\b5\.7\.60\b|\b5\.2\.252\b|not owned by user",
        "send_as_denied",
        "the account may not send as this address",
        "In Exchange Online PowerShell: Add-RecipientPermission {sender} -Trustee <account or "
        "service principal> -AccessRights SendAs -Confirm:$false; or send as {mailbox}.",
        weight="rejected",
    ),
    _mailbox(
        r"\b5\.1\.8\b|\b5\.7\.50[123]\b",
        "sender_blocked",
        "Microsoft has blocked the account for sending spam",
        _RESTRICTED,
        wait=_HOUR,
    ),
    _mailbox(
        r"\b5\.7\.(?:703|705|708|750)\b",
        "tenant_blocked",
        "Microsoft does not take mail of this tenant for now",
        "Microsoft Defender portal, Restricted entities; for a new or trial tenant ask "
        "Microsoft's support to lift it.",
        wait=_HOUR,
    ),
    _rule(
        r"\b5\.7\.23[23]\b",
        "tenant_limit",
        "the tenant has used up its outside recipients of the day",
        "Wait; the limit grows with the licences.",
        scope="mailbox",
        wait=_HOUR,
    ),
    # this machine's address
    _rule(
        r"\b5\.7\.(?:511|60[6-9]|6[1-4]\d)\b",
        "address_banned",
        "Microsoft does not take mail from this machine's address",
        "Ask for its removal at https://sender.office.com.",
        scope="server",
        wait=_HOUR,
        person=True,
    ),
    _rule(
        r"\b4\.7\.[56]\d\d\b|\b5\.7\.508\b",
        "address_throttled",
        "the server asks this machine's address for a pause",
        scope="server",
        wait=30 * _MINUTE,
    ),
    _rule(r"\b5\.7\.506\b", "bad_helo", "the server does not like our EHLO", scope="server"),
    # this mail
    _rule(
        r"\b5\.3\.4\b|(?:Message|Max)SubmissionExceeded|\A552 ",
        "too_large",
        "the mail is larger than the server permits the mailbox",
        "Make it smaller, or raise the limit: Set-Mailbox {mailbox} -MaxSendSize 150MB.",
        weight="rejected",
    ),
    _rule(
        r"\b4\.5\.3\b|\b5\.5\.3\b",
        "too_many_recipients",
        "more recipients at once than the server takes",
        scope="recipient",
        wait=0.0,
    ),
    _rule(
        r"\b5\.7\.5(?:09|12)\b",
        "from_refused",
        "the server does not take this From (DMARC, or not one address)",
        weight="rejected",
    ),
    # this recipient
    _rule(
        r"\b5\.1\.(?:1|10)\b|RecipientNotFound",
        "recipient_unknown",
        "there is no such recipient",
        weight="rejected",
        scope="recipient",
    ),
    _rule(
        r"\b5\.7\.5(?:05|13)\b",
        "recipient_refused",
        "mail to this recipient is not permitted",
        weight="rejected",
        scope="recipient",
    ),
    _rule(
        r"\b5\.2\.12[12]\b",
        "recipient_busy",
        "the recipient has got too much mail in the last hour",
        scope="recipient",
        wait=_HOUR,
    ),
    # what is wrong between the servers
    _rule(r"\A(?:421|451) 4\.7\.0\b", "temporary", "the server has a problem", scope="server"),
    _rule(
        r"\b4\.3\.2\b|\A421 ",
        "unavailable",
        "the server is not available now",
        scope="server",
        wait=_MINUTE,
    ),
    _rule(r"\A500 |\b5\.3\.3\b", "not_understood", "the server did not understand", scope="server"),
    _rule(
        r"\b5\.1\.[037]\b|\A501 5\.5\.4\b",
        "invalid_address",
        "the server does not take this for an address",
        weight="rejected",
    ),
    _rule(r"\b5\.7\.1\b", "policy", "a rule of the server forbids it", weight="rejected"),
)

#: by phase, whom a reply concerns that no rule knows
_SCOPES: Final[dict[Phase, Scope]] = {
    "connect": "server",
    "sign_in": "mailbox",
    "mail": "message",
    "recipient": "recipient",
    "data": "message",
}


def judge(reply: Reply, phase: Phase, *, mailbox: str = "", sender: str = "") -> Judgement:
    """Return what a reply other than a success means; ``mailbox`` and ``sender`` fill the fix."""
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
    fix = found.fix.replace("{mailbox}", mailbox or "<mailbox>")
    return replace(found, reply=reply, fix=fix.replace("{sender}", sender or mailbox))


def _unknown(reply: Reply, phase: Phase) -> Judgement:
    permanent = reply.code >= 500  # noqa: PLR2004 - RFC 5321, 4.2.1
    refused = permanent and phase not in {"connect", "sign_in"}
    return Judgement(
        weight="rejected" if refused else "deferred",
        # "Try later" is more often said of the server than of what it was asked.
        scope=_SCOPES[phase] if permanent or phase != "sign_in" else "server",
        code="smtp.refused" if permanent else "smtp.deferred",
        cause="the server refuses" if permanent else "the server says: later",
        person=permanent and phase == "sign_in",
    )
