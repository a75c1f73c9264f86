"""What a manual says beyond the help texts: places, signals, exit codes."""

from __future__ import annotations

from typing import Final

TITLE: Final = "Office 365 mailboxes to webhooks; nothing is lost on the way"
_WHAT: Final = (
    "mailbridge fetches mailboxes of Microsoft 365 over IMAP or POP3 with XOAUTH2, makes every "
    "message durable, and posts it to webhooks until they have taken it. It also sends, by SMTP. "
    "`mailbridge run` is the daemon; the other commands set it up, ask it, and put things right."
)
_HOW: Final = (
    "Commands that print data take `--json`. Results go to standard output, everything else to "
    "standard error. A command that changes what a running daemon owns goes through its control "
    "socket; with no daemon running it opens the database itself."
)
INTRO: Final = (_WHAT, _HOW)
EXIT: Final = (
    ("0", "Done."),
    ("1", "It ran, and the answer is no: a test failed, a message is dead, nothing was found."),
    ("2", "Wrong usage."),
    ("78", "The configuration is wrong; systemd does not start the daemon again."),
)
SIGNALS: Final = (
    ("SIGHUP", "The daemon reads its configuration again; a broken one changes nothing."),
    ("SIGTERM, SIGINT", "The daemon finishes what is under way, and ends."),
)
ENVIRONMENT: Final = (
    ("MAILBRIDGE_CONFIG", "The configuration file, where `--config` does not name one."),
    ("STATE_DIRECTORY", "Where the database lies, if the file does not say; set by systemd."),
    ("RUNTIME_DIRECTORY", "Where the control socket lies; set by systemd. Else: beside the file."),
    ("CREDENTIALS_DIRECTORY", "Where `{credential: NAME}` is looked up; set by systemd."),
    ("LANG, LC_ALL, LC_MESSAGES", "English or German, where a command speaks both."),
    (
        "https_proxy, all_proxy, no_proxy",
        "The way to token endpoints, webhooks and mail servers, where the file does not say.",
    ),
)
FILES: Final = (
    ("mailbridge.yaml", "The configuration, in the working directory."),
    ("/etc/mailbridge/mailbridge.yaml", "The configuration, if there is none in that place."),
    ("mailbridge.db", "The database: mail, deliveries, log. In the state directory."),
)
SEE: Final = ("mailbridge.yaml(5)", "systemd.service(5)", "systemd.exec(5)", "sendmail(8)")
