"""One IMAP connection with one folder selected: blocking verbs for a worker thread.

Every method raises the errors of ``mailbridge.errors``; ``Refused`` among them says that the
server declined one command and the connection is still good. One thread at a time; only
``cut`` may be called by any.
"""

from __future__ import annotations

import contextlib
import imaplib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from email.parser import BytesHeaderParser
from email.policy import compat32
from typing import Any, Final, TypeVar

from imapclient import SocketTimeout

from mailbridge import __version__
from mailbridge.errors import MailbridgeError, Unavailable
from mailbridge.sources.imap_errors import (
    Refused,
    folder_error,
    guarded,
    sign_in_error,
)
from mailbridge.sources.imap_plan import COMMAND_LINE, Head, as_utc, windows
from mailbridge.sources.imap_wire import Client
from mailbridge.sources.transport import Line, MailServer, Tls, tls_context

#: seconds
CONNECT_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 60.0
LOGOUT_TIMEOUT: Final = 5.0

R = TypeVar("R")

_HEAD = ["UID", "INTERNALDATE", "RFC822.SIZE", "BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A fetched message: its bytes and INTERNALDATE in UTC."""

    raw: bytes
    received_at: datetime | None


def plain(name: str, value: str) -> str:
    """Return ``value`` if it may stand in a command; ``ValueError`` for control characters.

    imapclient writes CR and LF into the command line as they are: that would be a second
    command of somebody else's making.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in value):  # noqa: PLR2004 - ASCII
        raise ValueError(f"the {name} contains a control character")
    return value


class Connection:
    """A connection; ``open``, ``sign_in`` and ``select`` come first, in this order."""

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._line = Line()
        self._busy = threading.Lock()
        self._client: Client | None = None
        self.uidvalidity = 0
        #: as SELECT told it; ``None`` if it did not
        self.uidnext: int | None = None
        self.exists = 0
        self._targets: set[str] = set()

    # -- life ---------------------------------------------------------------------------------

    def exclusively(self, verb: Callable[..., R], *args: Any) -> R:
        """Call a verb once no other thread is in one."""
        with self._busy:
            return verb(*args)

    def start(self, address: str, token: str, folder: str, readonly: bool) -> None:  # noqa: FBT001 - passed on by position
        """Connect, sign in and select in one go."""
        self.open()
        self.sign_in(address, token)
        self.select(folder, readonly=readonly)

    def open(self) -> None:
        """Connect, under TLS in any case."""
        server = self._server
        self._client = guarded(f"connect to {server.host}", self._connect)

    def _connect(self) -> Client:
        server = self._server
        context = tls_context(server.ca)
        client = Client(
            server.host,
            server.port,
            context=context,
            tls=server.tls,
            line=self._line,
            timeout=SocketTimeout(CONNECT_TIMEOUT, READ_TIMEOUT),
        )
        try:
            _require_welcome(client, server.tls)
            if server.tls == "starttls":
                client.starttls(context)
                client.socket().settimeout(READ_TIMEOUT)
        except BaseException:
            client.wire.shutdown()
            raise
        return client

    def sign_in(self, address: str, token: str) -> None:
        """Authenticate by XOAUTH2; a challenge (the reason of a refusal) goes into the error."""
        answer = f"user={address}\x01auth=Bearer {token}\x01\x01"
        challenges: list[bytes] = []

        def respond(challenge: bytes) -> str:
            challenges.append(challenge)
            return answer if len(challenges) == 1 else ""

        failure: MailbridgeError | None = None
        try:
            guarded("sign in", self._imap.sasl_login, "XOAUTH2", respond)
        except Refused as refused:
            failure = sign_in_error(refused, challenges)
        if failure is not None:
            raise failure
        self._introduce()

    def _introduce(self) -> None:
        """Ask for the capabilities that hold now and say who we are (RFC 2971)."""
        guarded("capabilities", self._imap.capabilities)
        if self._imap.has_capability("ID"):
            name = {"name": "mailbridge", "version": __version__}
            with contextlib.suppress(Refused):
                guarded("introduce", self._imap.id_, name)

    def select(self, folder: str, *, readonly: bool) -> None:
        """Select the folder; read-only by EXAMINE, so that nothing there can change."""
        failure: MailbridgeError
        try:
            answer = guarded("open the folder", self._imap.select_folder, folder, readonly)
        except Refused as refused:
            failure = folder_error(refused, folder, self._folders())
            raise failure from None
        self.uidvalidity = int(answer.get(b"UIDVALIDITY") or 0)
        self.uidnext = answer.get(b"UIDNEXT")
        self.exists = int(answer.get(b"EXISTS") or 0)
        if not self.uidvalidity:
            raise Unavailable("the server gives no UIDVALIDITY", code="imap.protocol")

    def _folders(self) -> list[str]:
        try:
            return [str(row[2]) for row in guarded("list folders", self._imap.list_folders)]
        except Unavailable:
            return []

    def cut(self) -> None:
        """Break the connection; a verb under way in another thread ends at once."""
        self._line.cut()

    def close(self, *, politely: bool) -> None:
        """Log out if ``politely``, and close."""
        client, self._client = self._client, None
        if client is None:
            return
        if politely and not self._line.is_cut:
            # The work is done: whether the server hears the farewell changes nothing.
            with contextlib.suppress(OSError, imaplib.IMAP4.error, ValueError):
                client.socket().settimeout(LOGOUT_TIMEOUT)
                client.logout()
        client.wire.shutdown()

    @property
    def _imap(self) -> Client:
        if self._client is None or self._line.is_cut:
            raise Unavailable("the connection is closed", code="imap.closed")
        return self._client

    # -- reading ------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Let the server say what is new (NOOP), and notice a folder that was replaced."""
        client = self._imap
        # Counts and flags that came unasked would otherwise pile up as long as it lives.
        client.wire.untagged_responses.clear()
        guarded("look for new mail", client.wire.noop)
        told = client.wire.untagged_responses.get("UIDVALIDITY", [])
        if told and told[-1] != str(self.uidvalidity).encode():
            raise Unavailable("UIDVALIDITY changed in this session", code="imap.renumbered")

    def uids(self, first: int, last: int | None = None, since: date | None = None) -> list[int]:
        """List the UIDs from ``first`` to ``last`` (the end), received on ``since`` or later."""
        span = f"{first}:{'*' if last is None else last}"
        criteria: list[object] = ["UID", span]
        if since is not None:
            criteria += ["SINCE", since]
        found = self._search(criteria)
        # "n:*" always means the last message as well (RFC 3501, 6.4.8).
        return sorted({uid for uid in found if first <= uid <= (last or uid)})

    def present(self, uids: Sequence[int]) -> set[int]:
        """Return which of these messages are still there."""
        there: set[int] = set()
        for window in windows(uids, COMMAND_LINE):
            there.update(self._search(["UID", ",".join(map(str, window))]))
        return there & set(uids)

    def last_uid(self) -> int:
        """Return the highest UID in the folder, 0 when it is empty."""
        return max(self._search(["UID", "*"]), default=0)

    def _search(self, criteria: list[object]) -> list[int]:
        client = self._imap
        client.forget("SEARCH")
        found: list[int] = guarded("search", client.search, criteria)
        return found

    def sizes(self, uids: Sequence[int]) -> dict[int, int]:
        """Return RFC822.SIZE of each; an estimate at Exchange, good for planning only."""
        answer = self._fetch("read the sizes", uids, ["RFC822.SIZE"])
        return {
            uid: row[b"RFC822.SIZE"]
            for uid, row in answer.items()
            if isinstance(row.get(b"RFC822.SIZE"), int)
        }

    def bodies(self, uids: Sequence[int]) -> dict[int, Body]:
        r"""Fetch messages without setting ``\Seen``; one that came without bytes is left out."""
        answer = self._fetch("fetch", uids, ["UID", "INTERNALDATE", "BODY.PEEK[]"])
        return {
            uid: Body(raw=row[b"BODY[]"], received_at=as_utc(row.get(b"INTERNALDATE")))
            for uid, row in answer.items()
            if isinstance(row.get(b"BODY[]"), bytes)
        }

    def heads(self, uids: Sequence[int]) -> dict[int, Head]:
        """Return what messages are recognised by."""
        answer = self._fetch("read the Message-IDs", uids, _HEAD)
        return {uid: _head(uid, row) for uid, row in answer.items()}

    def _fetch(
        self, action: str, uids: Sequence[int], items: list[str]
    ) -> dict[int, dict[bytes, Any]]:
        client = self._imap
        client.forget("FETCH")
        answer: dict[int, dict[bytes, Any]] = {}
        try:
            answer = guarded(action, client.fetch_rows, uids, items)
        except Refused:
            # A server that is about to hang up must do so now, while it is known why: or the
            # messages of the next command would be suspected of it.
            guarded(f"{action}, refused, and then go on", client.wire.noop)
            raise
        asked = set(uids)
        return {uid: row for uid, row in answer.items() if uid in asked}

    # -- settling -----------------------------------------------------------------------------

    def mark_seen(self, uids: Sequence[int]) -> None:
        r"""Set ``\Seen``."""
        self._each("mark as seen", uids, self._flag_seen)

    def delete(self, uids: Sequence[int]) -> None:
        r"""Set ``\Deleted`` and expunge these messages, and no others that somebody deleted.

        Without UIDPLUS they stay flagged: a plain EXPUNGE would take other people's along.
        """
        self._each("delete", uids, self._delete)

    def move(self, uids: Sequence[int], folder: str) -> None:
        """Move to ``folder``, which is created when it is missing."""
        self._ensure(folder)
        self._each("move", uids, lambda client, some: self._move(client, some, folder))

    def _each(
        self,
        action: str,
        uids: Sequence[int],
        verb: Callable[[Client, list[int]], None],
    ) -> None:
        for window in windows(uids, COMMAND_LINE):
            try:
                guarded(action, verb, self._imap, list(window))
            except Refused:
                # Some servers refuse a whole set when one message of it is gone.
                left = self.present(window)
                if left == set(window):
                    raise
                if left:
                    guarded(action, verb, self._imap, sorted(left))

    @staticmethod
    def _flag_seen(client: Client, uids: list[int]) -> None:
        client.add_flags(uids, [rb"\Seen"], silent=True)

    @staticmethod
    def _delete(client: Client, uids: list[int]) -> None:
        client.add_flags(uids, [rb"\Deleted"], silent=True)
        if client.has_capability("UIDPLUS"):
            client.uid_expunge(uids)

    def _move(self, client: Client, uids: list[int], folder: str) -> None:
        if client.has_capability("MOVE"):
            client.move(uids, folder)
            return
        # What is flagged was copied before the answer to the last try was lost.
        left = client.search(["UID", ",".join(map(str, uids)), "UNDELETED"])
        if left:
            client.copy(sorted(left), folder)
        self._delete(client, uids)

    def _ensure(self, folder: str) -> None:
        if folder in self._targets:
            return
        if not guarded("look for the folder", self._imap.folder_exists, folder):
            try:
                guarded("create the folder", self._imap.create_folder, folder)
            except Refused as refused:
                if not guarded("look for the folder", self._imap.folder_exists, folder):
                    raise folder_error(refused, folder, self._folders()) from None
        self._targets.add(folder)


def _require_welcome(client: Client, tls: Tls) -> None:
    if client.wire.state != "NONAUTH":
        # Whoever is signed in already, it is not us: RFC 9051, 7.1.4.
        raise Unavailable("the server greets with PREAUTH", code="imap.preauth")
    if tls == "starttls" and not client.has_capability("STARTTLS"):
        raise Unavailable("the server offers no STARTTLS", code="imap.no_starttls")


def _head(uid: int, row: dict[bytes, Any]) -> Head:
    text = next((value for key, value in row.items() if key.startswith(b"BODY[HEADER")), b"")
    header = BytesHeaderParser(policy=compat32).parsebytes(text or b"")
    size = row.get(b"RFC822.SIZE")
    return Head(
        uid=uid,
        message_id=str(header.get("Message-ID", "")),
        received_at=as_utc(row.get(b"INTERNALDATE")),
        size=size if isinstance(size, int) else 0,
    )
