"""The one table of everything that the sandbox can be told to do wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mailbridge.sandbox.smtp_replies import REPLIES, TEXTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a fault does, and its options with their defaults."""

    effect: str
    options: Mapping[str, Any] = field(default_factory=dict)


def _kind(effect: str, **options: object) -> Kind:
    return Kind(effect=effect, options=options)


CATALOGUE: Final[Mapping[str, Kind]] = {
    # Entra; those of tokens can be narrowed with command="refresh_token", or another grant_type
    "discovery.503": _kind("openid-configuration answers 503", retry_after=None),
    "discovery.hang": _kind("openid-configuration never answers", seconds=None),
    "discovery.wrong_body": _kind("openid-configuration answers 200 with an HTML page"),
    "token.429": _kind("HTTP 429 temporarily_unavailable", retry_after=None),
    "token.500": _kind("HTTP 500 with an empty body"),
    "token.503": _kind("HTTP 503 with an HTML page", retry_after=None),
    "token.hang": _kind("the request is read and not answered", seconds=None),
    "token.drop": _kind("the connection is closed instead of an answer"),
    "token.wrong_body": _kind("HTTP 200 with an HTML page, as a captive portal sends it"),
    "token.error": _kind(
        "an AADSTS error of your choice",
        status=400,
        error="invalid_grant",
        code=53003,
        text="Access has been blocked by Conditional Access policies.",
        suberror=None,
    ),
    "token.answer_lost": _kind(
        "the grant is made, a refresh token replaced, and the connection closed before the answer"
    ),
    "device.slow_down": _kind("a device that polls is told to poll less often"),
    "sign_in.refused": _kind(
        "somebody is refused, in the browser and without; kept: no redirect tells the app. Its "
        "mailbox is the person's name",
        status=400,
        error="invalid_grant",
        code=53000,
        text="Device is not in required device state: compliant.",
        suberror="message_only",
        kept=False,
    ),
    "identity.429": _kind("managed identities: HTTP 429", retry_after=None),
    "identity.500": _kind("managed identities: HTTP 500"),
    "identity.hang": _kind("managed identities: never answers", seconds=None),
    # connecting and signing in
    "imap.refuse": _kind("the connection is closed before the greeting"),
    "imap.no_greeting": _kind("the server accepts and stays silent", seconds=None),
    "imap.auth_failed": _kind("NO AUTHENTICATE failed."),
    "imap.challenge_on_failure": _kind("a refusal is preceded by a JSON challenge, as at Gmail"),
    "imap.not_connected": _kind(
        "sign-in is OK, then: BAD User is authenticated but not connected."
    ),
    "imap.throttled_greeting": _kind(
        "* BYE Request is throttled. … instead of the greeting (or NO, BAD; then BYE)",
        milliseconds=89117,
        form="BYE",
    ),
    "imap.throttled_sign_in": _kind(
        "the credential is answered with the throttle, as NO, BAD or BYE",
        milliseconds=89117,
        form="NO",
        hang_up=False,
    ),
    "imap.throttled_after_ok": _kind(
        "right behind the OK of the sign-in: an untagged throttle (NO, BAD or BYE), then BYE",
        milliseconds=89117,
        form="BAD",
    ),
    "imap.fast_reconnects": _kind(
        "more sign-ins of a mailbox than this in so many seconds are not connected",
        logins=5,
        seconds=10,
    ),
    "imap.session_limit": _kind("more sessions of a mailbox than this are not connected", limit=16),
    "imap.no_capability": _kind("one capability is neither listed nor obeyed", capability="IDLE"),
    "imap.new_front_end": _kind("greeting and capabilities of the front end seen since 2026-09"),
    # any command
    "imap.throttled": _kind(
        "Request is throttled. Suggested Backoff Time: N milliseconds, as NO, BAD or BYE; without "
        "a form NO to APPEND and SEARCH, else BAD; with hang_up, BYE too",
        milliseconds=89117,
        form=None,
        hang_up=False,
    ),
    "imap.server_unavailable": _kind(
        "Server Unavailable. 15, as NO, BAD or untagged; then BYE unless hang_up is false",
        form="NO",
        uid=None,
        hang_up=True,
    ),
    "imap.reply": _kind(
        "this answers the command; then BYE if hang_up",
        text="BAD Command Argument Error. 11",
        hang_up=False,
    ),
    "imap.bye_on_command": _kind("BYE instead of an answer", text="Connection closed. 14"),
    "imap.reason_before_bye": _kind(
        "the reason, untagged, then * BYE Connection closed. 14",
        text="BAD User is authenticated but not connected.",
    ),
    "imap.uidvalidity_changed": _kind(
        "before the command is obeyed its folder gets another UIDVALIDITY and its messages other "
        "UIDs; cut=False leaves open sessions in their belief",
        first_uid=1,
        cut=True,
    ),
    "imap.drop_on_command": _kind(
        "the connection is closed without BYE; reset sends RST", reset=False
    ),
    "imap.token_expired": _kind("* BYE Session invalidated - AccessTokenExpired"),
    "imap.hang": _kind("the command is read and not answered", seconds=None),
    "imap.slow": _kind("answers trickle", bytes_per_second=20_000),
    # FETCH; with uid=None every message is meant
    "imap.drop_mid_literal": _kind("cut after so many bytes of a literal", after=100, uid=None),
    "imap.broken_literal_size": _kind(
        "a literal announces its size plus delta", delta=10, uid=None
    ),
    "imap.literal_garbage": _kind("garbage behind a literal", garbage=b" ~garbage~", uid=None),
    "imap.fetch_ok_no_data": _kind("FETCH ends OK without this message", uid=None),
    "imap.fetch_nil": _kind("FETCH gives BODY[] NIL", uid=None),
    "imap.fetch_bad": _kind(
        "any FETCH with this message: BAD Command Argument Error. 11", uid=None
    ),
    "imap.fetch_no": _kind("any FETCH with this message: NO Server Unavailable. 15", uid=None),
    "imap.placeholder": _kind("the stand-in for a message that cannot be converted", uid=None),
    "imap.inexact_size": _kind("RFC822.SIZE is off by delta", delta=13, uid=None),
    "imap.expunge_during_fetch": _kind(
        "another client expunges a message (default: the batch's last) amid the FETCH", uid=None
    ),
    "imap.duplicate_fetch": _kind(
        "unsolicited FETCH (FLAGS …) lines around every asked one", uid=None
    ),
    # LIST
    "imap.files_folder": _kind("a pseudo folder Files is listed that cannot be opened"),
    "imap.no_special_use": _kind("LIST gives no special-use attributes"),
    "imap.inbox_in_mixed_case": _kind("LIST says Inbox"),
    # IDLE
    "imap.exists_before_idle": _kind("an untagged EXISTS arrives before IDLE's continuation"),
    "imap.exists_with_idle": _kind("EXISTS arrives in one TLS record with the continuation"),
    "imap.exists_behind_idle": _kind("EXISTS arrives right behind the continuation"),
    "imap.silent_idle": _kind("IDLE is accepted and pushes nothing"),
    "imap.idle_split": _kind("pushes come in pieces of size bytes", size=3, pause=0.005),
    "imap.idle_still_here": _kind("* OK Still here, every so many seconds", seconds=120),
    "imap.idle_drop": _kind(
        "after so many seconds the connection ends without BYE; reset sends RST",
        seconds=0,
        reset=False,
    ),
    "imap.idle_bye": _kind(
        "after so many seconds: BYE",
        seconds=0,
        text="Session invalidated - AccessTokenExpired",
    ),
    "imap.idle_black_hole": _kind("IDLE is accepted; then nothing is read and nothing is sent"),
    # POP3: connecting and signing in
    "pop3.refuse": _kind("the connection is closed before the greeting"),
    "pop3.no_greeting": _kind("the server accepts and stays silent", seconds=None),
    "pop3.new_front_end": _kind("greeting and token limit of the front end seen since 2025-07"),
    "pop3.pipelining": _kind("CAPA offers PIPELINING, which Exchange does not"),
    "pop3.auth_failed": _kind("-ERR Authentication failure: unknown user name or bad password."),
    "pop3.credential_reply": _kind(
        "this answers the credential, then the end",
        text="Protocol error. Connection is closed. 10",
    ),
    "pop3.throttled": _kind(
        "once the mailbox has sent so many commands, sign-in is answered -ERR Logon failure: "
        "unknown user name or bad password.",
        commands=0,
    ),
    "pop3.connection_limit": _kind(
        "more sessions of a mailbox than this: -ERR BYE Connection refused", limit=16
    ),
    "pop3.uidl_changed": _kind("at sign-in the mailbox has moved: every UIDL is another"),
    # POP3: any command
    "pop3.hang": _kind("the command is read and not answered", seconds=None),
    "pop3.slow": _kind("answers trickle", bytes_per_second=20_000),
    "pop3.drop_on_command": _kind("the connection is closed; reset sends RST", reset=False),
    "pop3.err_on_command": _kind(
        "-ERR with this text, then the end unless hang_up is false",
        text="Connection is closed. 11",
        hang_up=True,
    ),
    # POP3: messages; with uid=None (the UID that IMAP shows) every message is meant
    "pop3.no_uidl": _kind("UIDL is neither listed nor known"),
    "pop3.inexact_size": _kind("STAT, LIST and RETR are off by delta", delta=13, uid=None),
    "pop3.retr_error": _kind(
        "RETR and TOP of this message: -ERR", text="Server Unavailable. 15", uid=None
    ),
    "pop3.placeholder": _kind("the stand-in for a message that cannot be converted", uid=None),
    "pop3.drop_mid_message": _kind("cut after so many bytes of a message", after=100, uid=None),
    # the end of a POP3 session
    "pop3.quit_dropped": _kind("cut before QUIT is obeyed: nothing is deleted"),
    "pop3.quit_answer_lost": _kind("QUIT is obeyed, and cut before its answer"),
    # connecting to SMTP
    "smtp.refuse": _kind("the connection is closed before the greeting"),
    "smtp.no_greeting": _kind("the server accepts and stays silent", seconds=None),
    "smtp.greeting": _kind(
        "this instead of the greeting, then the end", text="421 4.3.2 Service not available"
    ),
    "smtp.no_capability": _kind(
        "one capability is not listed: STARTTLS, as where somebody on the way removes it",
        capability="STARTTLS",
    ),
    "smtp.starttls_refused": _kind("454 4.7.0 to STARTTLS"),
    "smtp.starttls_injection": _kind(
        "bytes in the clear right behind the 220 of STARTTLS",
        text="250-injected\r\n250 AUTH XOAUTH2\r\n",
    ),
    # any command of SMTP; "." is the end of a mail
    "smtp.reply": _kind(
        "this answers the command (of RCPT, the next one only with times=1)",
        text="451 4.3.2 System not accepting network messages",
        hang_up=False,
    ),
    "smtp.hang": _kind("the command is read and not answered", seconds=None),
    "smtp.slow": _kind("answers trickle", bytes_per_second=20_000),
    "smtp.drop_on_command": _kind("the connection is closed; reset sends RST", reset=False),
    # the mail itself
    "smtp.drop_in_data": _kind("cut after so many bytes of a mail", after=10),
    "smtp.refuse_in_data": _kind(
        "refused and cut after so many bytes of a mail",
        after=10,
        text="552 5.3.4 Message size exceeds fixed maximum message size",
    ),
    "smtp.drop_after_dot": _kind("the mail has come, is not taken, and the connection is cut"),
    "smtp.answer_lost": _kind("the mail is taken, and the connection cut before the 250"),
    "smtp.slow_answer": _kind("the answer to the mail comes so many seconds later", seconds=1.0),
    "smtp.lenient_ends": _kind("bare CR and LF end lines too, and so the mail"),
    # refusals by name; the text is Exchange Online's
    **{
        name: _kind(f"refuses {'the mail' if REPLIES[name] == '.' else REPLIES[name]}", text=text)
        for name, text in TEXTS.items()
    },
}

#: what is so as long as it is armed, instead of striking so many times
STATES: Final = frozenset(
    {
        "imap.challenge_on_failure",
        "imap.fast_reconnects",
        "imap.files_folder",
        "imap.inbox_in_mixed_case",
        "imap.new_front_end",
        "imap.no_capability",
        "imap.no_special_use",
        "imap.session_limit",
        "pop3.connection_limit",
        "pop3.new_front_end",
        "pop3.no_uidl",
        "pop3.pipelining",
        "smtp.lenient_ends",
        "smtp.no_capability",
    }
)
