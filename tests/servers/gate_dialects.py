"""How IMAP and POP3 look before the sign-in, to a gate that stands in front of a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Command:
    """A line of a client: its tag (POP3 has none), the verb in upper case, what follows."""

    tag: bytes
    verb: bytes
    rest: bytes


class Dialect(Protocol):
    """A ``Protocol``: how a mail protocol looks before the sign-in."""

    #: the verb of SASL, those that sign in by other means, and how the server offers PLAIN
    sasl: bytes
    others: frozenset[bytes]
    offer: bytes

    def parse(self, line: bytes) -> Command:
        """Take a client's line apart."""

    def authenticate(self, command: Command) -> bytes:
        """Return the line that begins PLAIN for the client's command."""

    def refuse(self, command: Command) -> bytes:
        """Return the line that declines a command."""

    def ends(self, command: Command, line: bytes, *, first: bool) -> bool:
        """Whether this line of an answer is its last."""


class Imap:
    """RFC 3501 with SASL-IR."""

    sasl = b"AUTHENTICATE"
    others = frozenset({b"LOGIN"})
    offer = b"AUTH=PLAIN"

    def parse(self, line: bytes) -> Command:
        """See ``Dialect``."""
        tag, _, more = line.strip().partition(b" ")
        verb, _, rest = more.partition(b" ")
        return Command(tag, verb.upper(), rest)

    def authenticate(self, command: Command) -> bytes:
        """See ``Dialect``."""
        return command.tag + b" AUTHENTICATE PLAIN\r\n"

    def refuse(self, command: Command) -> bytes:
        """See ``Dialect``."""
        return command.tag + b" NO only XOAUTH2 is offered here\r\n"

    def ends(self, command: Command, line: bytes, *, first: bool) -> bool:
        """See ``Dialect``."""
        del first
        return line.startswith(command.tag + b" ")


class Pop3:
    """RFC 1939 and 5034, with Exchange's ``AUTH XOAUTH2`` in two lines."""

    sasl = b"AUTH"
    others = frozenset({b"USER", b"PASS", b"APOP"})
    offer = b"SASL PLAIN"

    def parse(self, line: bytes) -> Command:
        """See ``Dialect``."""
        verb, _, rest = line.strip().partition(b" ")
        return Command(b"", verb.upper(), rest)

    def authenticate(self, command: Command) -> bytes:
        """See ``Dialect``."""
        del command
        return b"AUTH PLAIN\r\n"

    def refuse(self, command: Command) -> bytes:
        """See ``Dialect``."""
        del command
        return b"-ERR only XOAUTH2 is offered here\r\n"

    def ends(self, command: Command, line: bytes, *, first: bool) -> bool:
        """See ``Dialect``."""
        if command.verb == b"CAPA":
            return line == b".\r\n" or (first and line.startswith(b"-ERR"))
        return line.startswith((b"+OK", b"-ERR"))
