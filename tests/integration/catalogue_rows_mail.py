"""Each row of the fact sheet's sections 7.4, 7.5 (tables 5.1 and 5.2) and 7.7, as data.

What is expected stands here by itself: nothing is read from the catalogue. The columns:

    section | protocol | class | code | step | how it is brought about | fix | words of the sheet

The class is the sheet's: T passes, C is for an administrator, D is a bug. How: a fault of the
sandbox, with its options (``@`` stands for the words), and what the test arranges, behind a plus
if there is both. The fix is a part of the English one, with ids. A row whose step is ``adapter``
is proven below ``test-mailbox``, which does not get so far: a session of it is too short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from mailbridge.catalogue.base import Kind

_CLASSES: Final[Mapping[str, Kind]] = {"T": "passing", "C": "configuration", "D": "bug"}
_HOW: Final = re.compile(
    r"(?P<fault>(?:imap|pop3|smtp)\.\w+)?(?: (?P<options>\{.*\}))?(?: ?\+ ?)?(?P<mischief>.*)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What goes wrong, and what ``test-mailbox`` has to say of it at its ``step``."""

    section: str
    protocol: str
    words: str
    code: str
    kind: Kind
    fix: str
    step: str
    fault: str
    options: Mapping[str, Any]
    mischief: str


def _rows(table: str) -> Iterator[Row]:
    for line in table.strip().splitlines():
        section, protocol, kind, code, step, how, fix, words = line.split(" | ", 7)
        match = cast("re.Match[str]", _HOW.fullmatch(how))
        options = json.loads(match["options"] or "{}")
        if options.get("text") == "@":
            options["text"] = words
        yield Row(
            section=section,
            protocol=protocol,
            words=words,
            code=code,
            kind=_CLASSES[kind],
            fix=fix,
            step=step,
            fault=match["fault"] or "",
            options=options,
            mischief=match["mischief"].encode().decode("unicode_escape"),
        )


IMAP: Final = tuple(
    _rows(r"""
7.4 | imap | C | imap.authenticate_failed | sign_in | imap.auth_failed | New-ServicePrincipal -AppId {client_id} -ObjectId {object_id} | NO AUTHENTICATE failed.
7.4 | imap | C | imap.authenticate_failed | sign_in | imap.auth_failed + challenge | New-ServicePrincipal -AppId {client_id} -ObjectId {object_id} | NO AUTHENTICATE failed., behind a JSON challenge
7.4 | imap | C | imap.not_connected | folder | imap.not_connected | Add-MailboxPermission -Identity {address} -User {object_id} | BAD User is authenticated but not connected.
7.4 | imap | C | imap.not_connected | folder | imap_off | Set-CASMailbox -Identity {address} -ImapEnabled $true | BAD … not connected: IMAP is off
7.4 | imap | C | imap.not_connected | folder | no_access | Add-MailboxPermission -Identity {address} -User {object_id} | BAD … not connected: no FullAccess
7.4 | imap | C | imap.not_connected | folder | imap.session_limit {"limit": 0} | Add-MailboxPermission -Identity {address} -User {object_id} | BAD … not connected: too many sessions
7.4 | imap | C | imap.basic_auth | sign_in | imap.reply {"command": "AUTHENTICATE", "text": "@"} | OAuth | NO LOGIN failed.
7.4 | imap | C | imap.account_blocked | sign_in | imap.reply {"command": "AUTHENTICATE", "text": "@"} | https://outlook.office.com | NO LOGIN failed. Account is blocked. Login to your account via a web browser to verify your identity.
7.4 | imap | T | imap.token_expired | folder | imap.token_expired {"command": "EXAMINE"} | signs in again | * BYE Session invalidated - AccessTokenExpired
7.4 | imap | T | imap.throttled | folder | imap.throttled {"command": "EXAMINE"} | waits | BAD Request is throttled. Suggested Backoff Time: 89117 milliseconds
7.4 | imap | T | imap.throttled | header | imap.throttled {"command": "SEARCH"} | waits | NO Request is throttled. Suggested Backoff Time: 89117 milliseconds
7.4 | imap | T | imap.throttled | folder | imap.throttled {"command": "EXAMINE", "hang_up": true} | waits | BAD Request is throttled. Suggested Backoff Time: 89117 milliseconds, then BYE
7.4 | imap | T | imap.throttled | sign_in | imap.throttled_greeting | waits | * BYE Request is throttled. Suggested Backoff Time: 89117 milliseconds as a greeting
7.4 | imap | T | imap.throttled | sign_in | imap.throttled_sign_in | waits | NO Request is throttled. Suggested Backoff Time: 89117 milliseconds to the credential
7.4 | imap | T | imap.throttled | sign_in | imap.throttled_after_ok | waits | Request is throttled. Suggested Backoff Time: 89117 milliseconds behind the OK
7.4 | imap | T | imap.server_unavailable | folder | imap.server_unavailable {"command": "EXAMINE", "form": "NO"} | tries again | NO Server Unavailable. 15
7.4 | imap | T | imap.server_unavailable | folder | imap.server_unavailable {"command": "EXAMINE", "form": "BAD"} | tries again | BAD Server Unavailable. 15
7.4 | imap | T | imap.bye | folder | imap.server_unavailable {"command": "EXAMINE", "form": "untagged"} | connects again | Server Unavailable. 15, untagged, then BYE
7.4 | imap | T | imap.idle_timeout | folder | imap.bye_on_command {"command": "EXAMINE", "text": "Connection is closed. 13"} | by itself | * BYE Connection is closed. 13
7.4 | imap | T | imap.bye | folder | imap.bye_on_command {"command": "EXAMINE", "text": "Connection closed. 14"} | connects again | * BYE Connection closed. 14
7.4 | imap | D | imap.bad_argument | folder | imap.reply {"command": "EXAMINE", "text": "@"} | Report it | BAD Command Argument Error. 11
7.4 | imap | D | imap.bad_argument | folder | imap.reply {"command": "EXAMINE", "text": "@"} | Report it | BAD Command Argument Error. 12
7.4 | imap | D | imap.command_too_long | header | imap.reply {"command": "FETCH", "text": "@"} | Report it | BAD Command Error. 10
7.4 | imap | D | imap.wrong_state | folder | imap.reply {"command": "EXAMINE", "text": "@"} | Report it | BAD Command received in Invalid state.
7.4 | imap | D | imap.charset | header | imap.reply {"command": "SEARCH", "text": "@"} | Report it | NO [BADCHARSET (US-ASCII)] The specified charset is not supported.
7.4 | imap | C | imap.no_data | header | imap.fetch_ok_no_data | Open it in Outlook | FETCH OK without data
7.4 | imap | C | imap.folder_missing | folder | missing_folder | INBOX | NO [NONEXISTENT] … doesn't exist.
7.4 | imap | C | imap.folder_without_mail | folder | calendar | fetch.folders | the folder is a calendar
7.4 | imap | T | imap.too_many_sessions | sign_in | imap.reply {"command": "AUTHENTICATE", "text": "NO [LIMIT] Maximum number of connections exceeded"} | Close other programs | [LIMIT] to the sign-in
7.4 | imap | T | imap.no_idle | push | imap.no_capability {"capability": "IDLE"} | Nothing is lost | no IDLE
7.4 | imap | T | imap.eof | sign_in | imap.refuse | by itself | end without a word
7.4 | imap | T | imap.timeout | folder | imap.hang {"command": "EXAMINE"} | by itself | an answer that never comes
7.4 | imap | T | imap.renumbered | adapter | moved | delivers nothing twice | UIDVALIDITY changed
""")  # noqa: E501 - a table
)

POP3: Final = tuple(
    _rows(r"""
7.4 | pop3 | C | pop3.authenticate_failed | sign_in | pop3.auth_failed | New-ServicePrincipal -AppId {client_id} -ObjectId {object_id} | -ERR Authentication failure: unknown user name or bad password.
7.4 | pop3 | C | pop3.authenticate_failed | sign_in | pop_off | Set-CASMailbox -Identity {address} -PopEnabled $true | -ERR Authentication failure: POP is off
7.4 | pop3 | C | pop3.authenticate_failed | sign_in | no_access | Add-MailboxPermission -Identity {address} -User {object_id} | -ERR Authentication failure: no FullAccess
7.4 | pop3 | C | pop3.basic_auth | sign_in | pop3.throttled | OAuth | -ERR Logon failure: unknown user name or bad password.
7.4 | pop3 | D | pop3.protocol_error | sign_in | pop3.credential_reply | report it | -ERR Protocol error. Connection is closed. 10
7.4 | pop3 | C | pop3.token_too_long | sign_in | pop3.new_front_end + long_token | fetch.protocol: imap | -ERR Protocol error. Connection is closed. 10: token > 4096
7.4 | pop3 | C | pop3.token_long | sign_in | long_token | 4,096 | token > 4096, taken for now
7.4 | pop3 | C | pop3.wrong_port | sign_in | pop3.err_on_command {"command": "AUTH", "text": "Protocol error. 19"} | 993 is IMAP, 995 is POP3 | -ERR Protocol error. 19
7.4 | pop3 | C | pop3.wrong_state | tls | pop3.err_on_command {"command": "STLS", "text": "Command is not valid in this state."} + stls | tls: implicit | -ERR Command is not valid in this state. to STLS
7.4 | pop3 | T | pop3.too_many_sessions | sign_in | pop3.connection_limit {"limit": 0} | Close other programs | -ERR BYE Connection refused
7.4 | pop3 | T | pop3.server_closed | folder | pop3.err_on_command {"command": "LIST", "text": "Connection is closed. 10"} | by itself | -ERR Connection is closed. 10
7.4 | pop3 | T | pop3.server_closed | folder | pop3.err_on_command {"command": "LIST", "text": "Connection is closed. 11"} | by itself | -ERR Connection is closed. 11
7.4 | pop3 | T | pop3.server_closed | folder | pop3.err_on_command {"command": "UIDL", "text": "Connection is closed. 13"} | by itself | -ERR Connection is closed. 13
7.4 | pop3 | T | pop3.server_unavailable | folder | pop3.err_on_command {"command": "LIST", "text": "Server Unavailable. 15"} | tries again | -ERR Server Unavailable. 15
7.4 | pop3 | C | pop3.no_data | header | pop3.retr_error | Open it in Outlook | no header of a message
7.4 | pop3 | C | pop3.no_uidl | folder | pop3.no_uidl | fetch.protocol: imap | no UIDL
7.4 | pop3 | T | pop3.eof | sign_in | pop3.refuse | by itself | end without a word
""")  # noqa: E501 - a table
)

SIGN_IN: Final = tuple(
    _rows(r"""
5.1 | smtp | C | smtp.authenticate_failed | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | New-ServicePrincipal -AppId {client_id} -ObjectId {object_id} | 535 5.7.3 Authentication unsuccessful [SN2PR00CA0018.namprd00.prod.outlook.com]
5.1 | smtp | C | smtp.auth_disabled_tenant | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | Set-CASMailbox -Identity {address} -SmtpClientAuthenticationDisabled $false | 535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information. [HOST 2023-09-12T20:59:57.214Z 08DBB276B7E699C4]
5.1 | smtp | C | smtp.auth_disabled_mailbox | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | Set-CASMailbox -Identity {address} -SmtpClientAuthenticationDisabled $false | 535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox. Visit https://aka.ms/smtp_auth_disabled for more information. [HOST 2023-09-12T20:59:57.214Z 08DBB276B7E699C4]
5.1 | smtp | C | smtp.credentials_incorrect | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | OAuth | 535 5.7.139 Authentication unsuccessful, the user credentials were incorrect. [HOST 2023-09-12T20:59:57.214Z 08DBB276B7E699C4]
5.1 | smtp | C | smtp.security_defaults | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | Leave the security defaults on | 535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy. Contact your administrator. [HOST 2023-09-12T20:59:57.214Z 08DBB276B7E699C4]
5.1 | smtp | C | smtp.policy_blocked | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | Exclude the app {client_id} | 535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be authenticated successfully. Contact your administrator. [HOST 2023-09-12T20:59:57.214Z 08DBB276B7E699C4]
5.1 | smtp | C | smtp.basic_auth | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | OAuth | 535 5.7.139 Authentication unsuccessful, basic authentication is disabled. [HOST 2023-09-12T20:59:57.214Z 08DBB276B7E699C4]
5.1 | smtp | C | smtp.account_locked | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | unblock sign-in | 535 5.7.139 Authentication unsuccessful, account is locked. Contact your administrator.
5.1 | smtp | C | smtp.federation | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | from the internet by https | 535 5.7.139 Authentication unsuccessful, the federated STS could not be reached.
5.1 | smtp | C | smtp.auth_refused | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | Sign-in logs | 535 5.7.139 Authentication unsuccessful, a reason that nobody knows yet
5.1 | smtp | C | smtp.basic_auth | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | OAuth | 550 5.7.30 Basic authentication is not supported for Client Submission.
5.1 | smtp | D | smtp.invalid_xoauth2 | smtp_sign_in | smtp.reply {"command": "AUTH", "text": "@"} | report it | 501 5.5.124 Invalid XOAUTH2 auth data
5.1 | smtp | C | smtp.auth_disabled_tenant | send | smtp.reply {"command": "MAIL", "text": "@"} | Set-CASMailbox -Identity {address} -SmtpClientAuthenticationDisabled $false | 530 5.7.57 Client not authenticated to send mail. [Error: 535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.]
5.1 | smtp | C | smtp.authenticate_failed | send | smtp.reply {"command": "MAIL", "text": "@"} | New-ServicePrincipal -AppId {client_id} -ObjectId {object_id} | 530 5.7.57 Client not authenticated to send mail. [Error: 535 5.7.3 Authentication unsuccessful]
5.1 | smtp | C | smtp.not_authenticated | send | smtp.reply {"command": "MAIL", "text": "@"} | test-mailbox | 530 5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL FROM [HOST]
5.1 | smtp | C | smtp.starttls_required | send | smtp.reply {"command": "MAIL", "text": "@"} | 587 with `starttls` | 530 5.7.0 Must issue a STARTTLS command first
5.1 | smtp | C | smtp.tls_version | smtp | smtp.greeting {"text": "@"} | inspects TLS | 421 4.7.66 TLS 1.0 and 1.1 are not supported. Please upgrade/update your client to support TLS 1.2. Visit https://aka.ms/smtp_auth_tls.
7.5 | smtp | C | smtp.no_xoauth2 | smtp_sign_in | smtp.no_capability {"capability": "AUTH"} | smtp.office365.com | no XOAUTH2 offered
7.5 | smtp | C | smtp.no_starttls | smtp | smtp.no_capability {"capability": "STARTTLS"} | who runs the network | no STARTTLS offered
7.5 | smtp | C | smtp.injected | smtp | smtp.starttls_injection | who runs the network | bytes before TLS
""")  # noqa: E501 - a table
)

SUBMISSION: Final = tuple(
    _rows(r"""
5.2 | smtp | C | smtp.send_as_denied | send | smtp.reply {"command": "MAIL", "text": "@"} | Add-RecipientPermission {address} -Trustee {object_id} -AccessRights SendAs | 550 5.7.60 SMTP; Client does not have permissions to send as this sender
5.2 | smtp | C | smtp.send_as_denied | send | smtp.reply {"command": ".", "text": "@"} | Add-RecipientPermission {address} -Trustee {object_id} -AccessRights SendAs | 554 5.2.252 SendAsDenied; alarm@x not allowed to send as info@x; STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process message [Hostname=HOST]
5.2 | smtp | C | smtp.send_as_denied | send | smtp.reply {"command": ".", "text": "@"} | Add-RecipientPermission {address} -Trustee {object_id} -AccessRights SendAs | 554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed
5.2 | smtp | T | smtp.too_many_connections | send | smtp.reply {"command": ".", "text": "@"} | send.limits.connections | 432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded [Hostname=HOST]
5.2 | smtp | T | smtp.rate_limited | send | smtp.reply {"command": "MAIL", "text": "@"} | send.limits.per_minute | 421 4.4.2 Message submission rate for this client has exceeded the configured limit
5.2 | smtp | T | smtp.recipients_used_up | send | smtp.reply {"command": ".", "text": "@"} | 24 hours | 554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed
5.2 | smtp | T | smtp.recipients_used_up | send | smtp.reply {"command": ".", "text": "@"} | 24 hours | 550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients
5.2 | smtp | C | smtp.mailbox_full | send | smtp.reply {"command": ".", "text": "@"} | Delete or archive mail of {address} | 554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded; Failed
5.2 | smtp | C | smtp.sender_blocked | send | smtp.reply {"command": ".", "text": "@"} | Restricted entities | 550 5.1.8 Access denied, bad outbound sender
5.2 | smtp | T | smtp.too_many_recipients | send | smtp.reply {"command": "RCPT", "text": "@"} | another round | 452 4.5.3 Too many recipients
5.2 | smtp | T | smtp.too_many_recipients | send | smtp.reply {"command": "RCPT", "text": "@"} | another round | 550 5.5.3 Too many recipients
5.2 | smtp | C | smtp.too_large | send | smtp.reply {"command": ".", "text": "@"} | Set-Mailbox {address} -MaxSendSize 150MB | 552 5.3.4 Message size exceeds fixed maximum message size
5.2 | smtp | C | smtp.header_too_large | send | smtp.reply {"command": ".", "text": "@"} | fewer recipients | 552 5.3.4 Header size exceeds fixed maximum size
5.2 | smtp | C | smtp.too_large | send | smtp.reply {"command": ".", "text": "@"} | Set-Mailbox {address} -MaxSendSize 150MB | 554 5.2.0 STOREDRV.Submission.Exception:MessageSubmissionExceededException.MapiExceptionMaxSubmissionExceeded
5.2 | smtp | T | smtp.temporary | send | smtp.reply {"command": "MAIL", "text": "@"} | sent later | 451 4.7.0 Temporary server error. Please try again later. PRX2
5.2 | smtp | T | smtp.temporary | send | smtp.reply {"command": "MAIL", "text": "@"} | sent later | 451 4.7.0 Temporary server error. Please try again later. PRX4
5.2 | smtp | T | smtp.temporary | send | smtp.reply {"command": ".", "text": "@"} | sent later | 451 4.7.0 Temporary server error. Please try again later. PRX5
5.2 | smtp | T | smtp.address_throttled | send | smtp.reply {"command": "MAIL", "text": "@"} | half an hour | 451 4.7.500 Server busy. Please try again later from [203.0.113.7]. (AS844)
5.2 | smtp | T | smtp.address_throttled | send | smtp.reply {"command": "MAIL", "text": "@"} | half an hour | 451 4.7.699 Server busy. Please try again later from [203.0.113.7]. (AS844)
5.2 | smtp | T | smtp.unavailable | send | smtp.reply {"command": ".", "text": "@"} | sent later | 451 4.3.2 System not accepting network messages
5.2 | smtp | T | smtp.unavailable | send | smtp.reply {"command": "MAIL", "text": "@"} | sent later | 421 4.3.2 Service not available
5.2 | smtp | C | smtp.invalid_address | send | smtp.reply {"command": "MAIL", "text": "@"} | Correct the address | 501 5.1.7 Invalid address
5.2 | smtp | C | smtp.invalid_address | send | smtp.reply {"command": "RCPT", "text": "@"} | Correct the address | 550 5.1.0 Address rejected
5.2 | smtp | C | smtp.invalid_address | send | smtp.reply {"command": "RCPT", "text": "@"} | Correct the address | 550 5.1.3 Invalid address
5.2 | smtp | C | smtp.invalid_address | send | smtp.reply {"command": "RCPT", "text": "@"} | Correct the address | 501 5.5.4 Invalid arguments
5.2 | smtp | C | smtp.recipient_unknown | send | smtp.reply {"command": "RCPT", "text": "@"} | Correct the recipient | 550 5.1.1 User unknown
5.2 | smtp | C | smtp.recipient_unknown | send | smtp.reply {"command": "RCPT", "text": "@"} | Correct the recipient | 550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup
5.2 | smtp | C | smtp.policy | send | smtp.reply {"command": ".", "text": "@"} | Mail flow > Rules | 550 5.7.1 Transport rule
5.2 | smtp | C | smtp.sender_blocked | send | smtp.reply {"command": ".", "text": "@"} | Restricted entities | 550 5.7.501 Access denied, spam abuse detected
5.2 | smtp | C | smtp.sender_blocked | send | smtp.reply {"command": ".", "text": "@"} | Restricted entities | 550 5.7.502 Access denied, banned sender
5.2 | smtp | C | smtp.sender_blocked | send | smtp.reply {"command": ".", "text": "@"} | Restricted entities | 550 5.7.503 Access denied, banned sender
5.2 | smtp | C | smtp.recipient_refused | send | smtp.reply {"command": "RCPT", "text": "@"} | Ask the recipient | 550 5.7.505 Access denied, banned recipient
5.2 | smtp | D | smtp.bad_helo | send | smtp.reply {"command": "MAIL", "text": "@"} | Report it | 550 5.7.506 Access denied, Bad HELO
5.2 | smtp | T | smtp.address_throttled | send | smtp.reply {"command": "MAIL", "text": "@"} | half an hour | 550 5.7.508 Access denied, [IP] has exceeded permitted limits within IPv6 range
5.2 | smtp | C | smtp.from_refused | send | smtp.reply {"command": ".", "text": "@"} | SPF and DKIM | 550 5.7.509 Access denied, sending domain does not pass DMARC verification
5.2 | smtp | C | smtp.address_banned | send | smtp.reply {"command": "MAIL", "text": "@"} | https://sender.office.com | 550 5.7.511 Access denied, banned sender
5.2 | smtp | C | smtp.from_refused | send | smtp.reply {"command": ".", "text": "@"} | SPF and DKIM | 550 5.7.512 Access denied, message must be RFC 5322 section 3.6.2 compliant
5.2 | smtp | C | smtp.recipient_refused | send | smtp.reply {"command": "RCPT", "text": "@"} | Ask the recipient | 550 5.7.513 Service unavailable, client host blocked by recipient
5.2 | smtp | C | smtp.address_banned | send | smtp.reply {"command": "MAIL", "text": "@"} | https://sender.office.com | 550 5.7.606 Access denied, banned sending IP
5.2 | smtp | C | smtp.address_banned | send | smtp.reply {"command": "MAIL", "text": "@"} | https://sender.office.com | 550 5.7.649 Access denied, banned sending IP
5.2 | smtp | C | smtp.tenant_blocked | send | smtp.reply {"command": ".", "text": "@"} | Microsoft's support | 550 5.7.703 Your message can't be delivered because messages from this organization are blocked
5.2 | smtp | C | smtp.tenant_blocked | send | smtp.reply {"command": ".", "text": "@"} | Microsoft's support | 550 5.7.705 Access denied, tenant has exceeded threshold
5.2 | smtp | C | smtp.tenant_blocked | send | smtp.reply {"command": ".", "text": "@"} | Microsoft's support | 550 5.7.708 Access denied, traffic not accepted from this IP
5.2 | smtp | C | smtp.unregistered_domain | send | smtp.reply {"command": ".", "text": "@"} | Settings > Domains | 550 5.7.750 Service unavailable. Client blocked from sending from unregistered domains
5.2 | smtp | T | smtp.tenant_limit | send | smtp.reply {"command": ".", "text": "@"} | licences | 550 5.7.232 Your message can't be sent because your trial tenant has exceeded its rate limit
5.2 | smtp | T | smtp.tenant_limit | send | smtp.reply {"command": ".", "text": "@"} | licences | 550 5.7.233 Your message can't be sent because your tenant has exceeded its rate limit
5.2 | smtp | T | smtp.recipient_busy | send | smtp.reply {"command": "RCPT", "text": "@"} | sent later | 550 5.2.121 Recipient's per hour message receive limit from specific sender exceeded
5.2 | smtp | T | smtp.recipient_busy | send | smtp.reply {"command": "RCPT", "text": "@"} | sent later | 550 5.2.122 The recipient has exceeded their limit for messages per hour
5.2 | smtp | D | smtp.not_understood | send | smtp.reply {"command": "MAIL", "text": "@"} | report it | 500 5.3.3 Unrecognized command 'XYZ' [HOST]
5.2 | smtp | T | smtp.deferred | send | smtp.reply {"command": "RCPT", "text": "@"} | sent later | 450 4.2.1 something else that passes
5.2 | smtp | C | smtp.refused | send | smtp.reply {"command": ".", "text": "@"} | words of the server | 554 5.9.9 something else that does not
""")  # noqa: E501 - a table
)

NETWORK: Final = tuple(
    _rows(r"""
7.7 | imap | C | dns | dns | no_such_host | resolvectl query | gaierror [Errno -2] Name or service not known
7.7 | imap | T | dns.no_answer | dns | dumb_resolver | port 53 | gaierror [Errno -3] Temporary failure in name resolution
7.7 | smtp | T | smtp.dns | smtp | no_such_host | resolvectl query | gaierror [Errno -2], where mail is sent
7.7 | smtp | C | smtp.port_465 | smtp | port_465 | port: 587, tls: starttls | ConnectionRefusedError 465
7.7 | imap | C | tcp.refused | tcp | closed_port | firewall | ConnectionRefusedError 993
7.7 | smtp | C | tcp.refused | smtp | closed_port | firewall | ConnectionRefusedError 587
7.7 | imap | C | tcp.timeout | tcp | black_hole | firewall | TimeoutError on 993
7.7 | pop3 | C | tcp.timeout | tcp | black_hole | firewall | TimeoutError on 995
7.7 | smtp | C | tcp.timeout | smtp | black_hole | firewall | TimeoutError on 587
7.7 | imap | C | tcp.unreachable | tcp | no_route | IPv6 | IPv6 without a way: Network is unreachable
7.7 | imap | C | tls.wrong_port | tls | plain:* OK ready\r\n | tls: starttls | [SSL: WRONG_VERSION_NUMBER], plain text on 993
7.7 | pop3 | C | tls.wrong_port | tls | plain:+OK ready\r\n | tls: starttls | [SSL: WRONG_VERSION_NUMBER], plain text on 995
7.7 | smtp | C | tls.wrong_port | smtp | implicit_to_starttls | tls: starttls | [SSL: WRONG_VERSION_NUMBER], TLS to 587
7.7 | imap | C | imap.no_greeting | tls | starttls_to_implicit | tls: implicit | STARTTLS spoken to 993
7.7 | pop3 | C | pop3.no_greeting | tls | starttls_to_implicit | tls: implicit | STARTTLS spoken to 995
7.7 | smtp | C | smtp.no_greeting | smtp | starttls_to_implicit | tls: implicit | STARTTLS spoken to 465
7.7 | imap | C | imap.wrong_port | sign_in | pop3_port | 993 is IMAP, 995 is POP3 | an IMAP client on the POP3 port
7.7 | pop3 | C | pop3.wrong_port | sign_in | imap_port | 993 is IMAP, 995 is POP3 | a POP3 client on the IMAP port
7.7 | smtp | C | smtp.wrong_port | smtp | plain:* OK ready\r\n | 587 is SMTP | an SMTP client on the IMAP port
7.7 | imap | C | tls.inspected | tls | tls:inspected | ca: FILE | self-signed certificate in certificate chain
7.7 | smtp | C | tls.inspected | smtp | tls:inspected | ca: FILE | self-signed certificate in certificate chain, where mail is sent
7.7 | imap | C | tls.self_signed | tls | tls:self_signed | ca: FILE | self-signed certificate
7.7 | imap | C | tls.unknown_authority | tls | tls:unknown_authority | ca-certificates | unable to get local issuer certificate
7.7 | pop3 | C | tls.unknown_authority | tls | tls:unknown_authority | ca-certificates | unable to get local issuer certificate, POP3
7.7 | imap | C | tls.hostname | tls | tls:hostname | outlook.office365.com | Hostname mismatch
7.7 | smtp | C | tls.hostname | smtp | tls:hostname | smtp.office365.com | Hostname mismatch, where mail is sent
7.7 | imap | C | tls.clock | tls | tls:not_yet_valid | timedatectl | certificate is not yet valid
7.7 | imap | C | tls.clock | tls | tls:expired | timedatectl | certificate has expired
7.7 | smtp | C | tls.clock | smtp | tls:expired | timedatectl | certificate has expired, where mail is sent
7.7 | imap | C | tls.old_protocol | tls | tls:old_protocol | TLS 1.2 and 1.3 | [SSL: UNSUPPORTED_PROTOCOL] / TLSV1_ALERT_PROTOCOL_VERSION
7.7 | imap | C | proxy.auth | tcp | proxy:HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n | USER:PASSWORD@ | 407 Proxy Authentication Required
7.7 | imap | C | proxy.auth | tenant | token_proxy:HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n | USER:PASSWORD@ | 407 Proxy Authentication Required, for tokens
7.7 | smtp | C | proxy.auth | smtp | send_proxy:HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n | USER:PASSWORD@ | 407 Proxy Authentication Required, where mail is sent
7.7 | imap | C | proxy.forbidden | tcp | proxy:HTTP/1.1 403 No\r\n\r\n | many permit port 443 only | 403 from the proxy
7.7 | imap | T | proxy.target | tcp | proxy:HTTP/1.1 502 No\r\n\r\n | own resolver | 502 from the proxy
7.7 | imap | T | proxy.refused | tcp | proxy:HTTP/1.1 500 No\r\n\r\n | log | 500 from the proxy
7.7 | imap | C | proxy.protocol | tcp | proxy:220 ready\r\n | socks5h:// | no HTTP from the proxy
7.7 | imap | T | proxy.closed | tcp | proxy:HTTP/1.1 200 OK\r\nVi | socks5h:// | an answer of the proxy that breaks off
7.7 | imap | C | proxy.dns | dns | no_such_proxy | resolver | no proxy of this name
7.7 | imap | T | proxy.connection | tcp | no_proxy | Check that it runs | no proxy at this port
7.7 | imap | T | proxy.timeout | tcp | silent_proxy | reach | a proxy that says nothing
7.7 | imap | T | imap.connection | adapter | reset | by itself | ConnectionResetError
7.7 | pop3 | T | pop3.connection | adapter | reset | by itself | ConnectionResetError, POP3
7.7 | imap | T | imap.eof | folder | drop | by itself | IMAP4.abort: socket error: EOF
7.7 | smtp | T | smtp.connection | adapter | reset | by itself | ConnectionResetError, where mail is sent
7.7 | imap | T | tls.closed | tls | reset_at_once | tries again | ConnectionResetError in the handshake
7.7 | imap | T | tls.closed | tls | hang_up | tries again | SSLEOFError in the handshake
7.7 | smtp | T | smtp.eof | smtp | smtp_refuse | by itself | SMTPServerDisconnected: Connection unexpectedly closed
7.7 | imap | C | entra.not_json | token | portal |  | HTTP 200 with HTML from the token endpoint
7.7 | imap | C | entra.not_json | tenant | portal_at_discovery |  | HTTP 200 with HTML instead of the tenant's document
""")  # noqa: E501 - a table
)

ROWS: Final = (*IMAP, *POP3, *SIGN_IN, *SUBMISSION, *NETWORK)
