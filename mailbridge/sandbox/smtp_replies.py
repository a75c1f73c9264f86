"""Exchange Online's refusals of submitted mail: which command each answers, and its words.

``HOST`` stands for the name of the answering server. ``.`` is the end of the mail.
"""

from __future__ import annotations

from typing import Final

_STAMP: Final = "[HOST 2026-09-12T20:59:57.214Z 08DBB276B7E699C4]"
_UNSUCCESSFUL: Final = "535 5.7.139 Authentication unsuccessful,"
_ADMINISTRATOR: Final = "Contact your administrator."
_DISABLED: Final = f"Visit https://aka.ms/smtp_auth_disabled for more information. {_STAMP}"
_SUBMISSION: Final = "STOREDRV.Submission.Exception:"
_PERMANENT: Final = "Failed to process message due to a permanent exception with message"
_UNTITLED: Final = f"{_UNSUCCESSFUL} SmtpClientAuthentication is disabled for the"

#: by the command that they answer: by fault, their words
_TABLE: Final[dict[str, dict[str, str]]] = {
    "AUTH": {
        "auth_failed": "535 5.7.3 Authentication unsuccessful [HOST]",
        "auth_disabled_tenant": f"{_UNTITLED} Tenant. {_DISABLED}",
        "auth_disabled_mailbox": f"{_UNTITLED} Mailbox. {_DISABLED}",
        "credentials_incorrect": f"{_UNSUCCESSFUL} the user credentials were incorrect. {_STAMP}",
        "security_defaults": f"{_UNSUCCESSFUL} user is locked by your organization's security "
        f"defaults policy. {_ADMINISTRATOR} {_STAMP}",
        "policy_blocked": f"{_UNSUCCESSFUL} the request did not meet the criteria to be "
        f"authenticated successfully. {_ADMINISTRATOR} {_STAMP}",
        "basic_auth": f"{_UNSUCCESSFUL} basic authentication is disabled. {_STAMP}",
        "account_locked": f"{_UNSUCCESSFUL} account is locked. {_ADMINISTRATOR}",
    },
    "MAIL": {
        "not_authenticated": "530 5.7.57 Client not authenticated to send mail. [Error: 535 5.7.3 "
        "Authentication unsuccessful]",
        "send_as_denied": "550 5.7.60 SMTP; Client does not have permissions to send as this "
        "sender",
        "rate_limited": "421 4.4.2 Message submission rate for this client has exceeded the "
        "configured limit",
        "temporary": "451 4.7.0 Temporary server error. Please try again later. PRX2",
        "server_busy": "451 4.7.500 Server busy. Please try again later from [203.0.113.7]. "
        "(AS844)",
        "sender_blocked": "550 5.1.8 Access denied, bad outbound sender",
    },
    "RCPT": {
        "too_many_recipients": "452 4.5.3 Too many recipients",
        "recipient_unknown": "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by "
        "SMTP address lookup",
    },
    ".": {
        "thread_limit": "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded "
        "[Hostname=HOST]",
        "send_as_denied_after_data": "554 5.2.252 SendAsDenied; alarm@x not allowed to send as "
        f"info@x; {_SUBMISSION}SendAsDeniedException.MapiExceptionSendAsDenied; {_PERMANENT} "
        "[BeginDiagnosticData]Cannot submit message. 0.35250:0A009281, 1.36674:0A000000"
        "[EndDiagnosticData] [Hostname=HOST]",
        "recipients_used_up": f"554 5.2.0 {_SUBMISSION}SubmissionQuotaExceededException; "
        f"{_PERMANENT} The message can't be submitted because the sender's submission quota was "
        "exceeded. [Hostname=HOST]",
        "mailbox_full": f"554 5.2.2 mailbox full; {_SUBMISSION}QuotaExceededException."
        f"MapiExceptionShutoffQuotaExceeded; {_PERMANENT} [Hostname=HOST]",
        "too_large": "552 5.3.4 Message size exceeds fixed maximum message size",
        "maintenance": "451 4.3.2 System not accepting network messages",
    },
}

#: by fault: the command that it answers
REPLIES: Final = {f"smtp.{name}": verb for verb, texts in _TABLE.items() for name in texts}
#: by fault: its words
TEXTS: Final = {f"smtp.{n}": text for texts in _TABLE.values() for n, text in texts.items()}
