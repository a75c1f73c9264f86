"""The errors of mailbridge, sorted by what to do about them, not by where they came from.

::

    MailbridgeError
     x ConfigError          fix the file; exit 78 (EX_CONFIG), nothing is started
     x TemporaryError       back off and try again; also what every unknown error is taken for
       + Unavailable        DNS, TCP, TLS, EOF, timeout, a server that says "later"
         + SessionOver      the server ended a session as it does now and then; not a failure
       + Throttled          as Unavailable, and says how long to wait
       + StoreFull          the disk under the store is full; nothing was stored
     x PermanentError       a person must act; that mailbox is parked, the others run on
       + SignInRejected     secret, consent, mailbox permission
       + FolderMissing      a configured folder is not there
       + StoreRefused       wrong or newer schema, second daemon, damaged database

Each adapter translates foreign exceptions in exactly one place and chains the cause.
No message ever contains a token, a secret or the body of a mail.
"""

from __future__ import annotations

from dataclasses import dataclass


class MailbridgeError(Exception):
    """Anything that mailbridge raises on purpose.

    ``code`` is a stable name for machines (``AADSTS7000215``, ``imap.not_connected``);
    ``fix`` tells a person what to do and may be empty.
    """

    def __init__(self, message: str, *, code: str = "", fix: str = "") -> None:
        """Keep the message positional, so that ``str(error)`` is the sentence alone."""
        super().__init__(message)
        self.code = code or type(self).__name__
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One fault of the configuration file: where, what, and how to mend it."""

    file: str
    line: int | None
    path: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        """``file:line: key.path: message. Fix: …`` on one line."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        head = f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"
        return f"{head} Fix: {self.fix}" if self.fix else head


class ConfigError(MailbridgeError):
    """The configuration is wrong; ``problems`` holds every fault that was found."""

    def __init__(self, problems: list[Problem]) -> None:
        """Join all problems, one a line, so that even a bare traceback is useful."""
        super().__init__("\n".join(str(problem) for problem in problems), code="config")
        self.problems = problems


class TemporaryError(MailbridgeError):
    """It may work later: back off, reconnect."""


class Unavailable(TemporaryError):  # noqa: N818 - named for the state, as in the glossary
    """The other side cannot be reached or does not answer."""


class SessionOver(Unavailable):
    """The server ended a session that had lived its time: its token ended, or it was idle.

    Not a failure, as long as sessions get their work done: the next one is opened at once.
    """


class Throttled(TemporaryError):  # noqa: N818 - named for the state, as in the glossary
    """The other side asks for a pause of ``retry_after`` seconds."""

    def __init__(
        self, message: str, *, retry_after: float, code: str = "throttled", fix: str = ""
    ) -> None:
        """``retry_after`` is in seconds and already bounded by the adapter."""
        super().__init__(message, code=code, fix=fix)
        self.retry_after = retry_after


class StoreFull(TemporaryError):  # noqa: N818 - named for the state, as in the glossary
    """The disk under the store is full. The transaction was rolled back; nothing was stored."""


class PermanentError(MailbridgeError):
    """A person must act. Retried only every 15 minutes."""


class SignInRejected(PermanentError):  # noqa: N818 - named for the state, as in the glossary
    """Entra or the mail server refuses this credential for this mailbox."""


class FolderMissing(PermanentError):  # noqa: N818 - named for the state, as in the glossary
    """A configured folder does not exist in the mailbox."""


class StoreRefused(PermanentError):  # noqa: N818 - named for the state, as in the glossary
    """The database may not be used: newer schema, held by another daemon, damaged."""


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a group that a command can explain, else the first one."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, MailbridgeError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
