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
from typing import Any, Final, TypeVar

from imapclient import SocketTimeout

from mailbridge import __version__
from mailbridge.errors import MailbridgeError, Unavailable
from mailbridge.sources.imap_answers import Row, head_of, swallowed
from mailbridge.sources.imap_directory import Folders
from mailbridge.sources.imap_errors import (
    Refused,
    answer_error,
    explained,
    guarded,
    sign_in_error,
)
from mailbridge.sources.imap_flights import Flights, Order
from mailbridge.sources.imap_heard import Heard
from mailbridge.sources.imap_plan import COMMAND_LINE, Head, as_utc, halves, windows
from mailbridge.sources.imap_wire import Client, Wire
from mailbridge.sources.transport import Line, MailServer, Tls
from mailbridge.tls import tls_context

#: seconds
CONNECT_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 60.0
LOGOUT_TIMEOUT: Final = 5.0

R = TypeVar("R")


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
        self._line = Line(server.proxy)
        self._busy = threading.Lock()
        self._client: Client | None = None
        #: the server's name of the folder
        self.selected = ""
        self.uidvalidity = 0
        #: as SELECT told it; ``None`` if it did not
        self.uidnext: int | None = None
        self.exists = 0
        self.folders = Folders(self)
        self._flights = Flights()
        self._heard = Heard()

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
        self._client = self.ask(f"connect to {server.host}", self._connect)

    def _connect(self) -> Client:
        server = self._server
        context = tls_context(server.ca)
        client = Client(
            server.host,
            server.port,
            context=context,
            tls=server.tls,
            line=self._line,
            heard=self._heard,
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
            self.ask("sign in", self.client.sasl_login, "XOAUTH2", respond)
        except Unavailable as unavailable:
            failure = sign_in_error(unavailable, challenges)
        if failure is not None:
            raise failure
        self._introduce()

    def _introduce(self) -> None:
        """Ask for the capabilities that hold now and say who we are (RFC 2971)."""
        self.ask("capabilities", self.client.capabilities)
        if self.client.has_capability("ID"):
            name = {"name": "mailbridge", "version": __version__}
            with contextlib.suppress(Refused):
                self.ask("introduce", self.client.id_, name)

    def select(self, folder: str, *, readonly: bool) -> None:
        """Select the folder; read-only by EXAMINE, so that nothing there can change."""

        def select(name: str) -> dict[bytes, Any]:
            client, self.selected = self.client, name
            answer: dict[bytes, Any]
            answer = self.ask("open the folder", client.select_folder, name, readonly)
            return answer

        answer = self.folders.open(folder, select)
        self.uidvalidity = int(answer.get(b"UIDVALIDITY") or 0)
        self.uidnext = answer.get(b"UIDNEXT")
        self.exists = int(answer.get(b"EXISTS") or 0)
        if not self.uidvalidity:
            raise Unavailable("the server gives no UIDVALIDITY", code="imap.protocol")

    @property
    def busy(self) -> bool:
        """Whether FETCH commands that were sent ahead are still to be answered."""
        return self._flights.busy

    def lend(self) -> Wire:
        """Return the protocol engine for a while in the event loop; not while it is ``busy``."""
        wire = self._open_client().wire
        self._flights.forget()
        return wire

    def cut(self) -> None:
        """Break the connection; a verb under way in another thread ends at once."""
        self._line.cut()

    def close(self, *, politely: bool) -> None:
        """Log out if ``politely``, and close."""
        client, self._client = self._client, None
        if client is None:
            return
        # With mail still on its way, a farewell would come behind all of it.
        if politely and not self._line.is_cut and not self._flights.busy:
            # The work is done: whether the server hears the farewell changes nothing.
            with contextlib.suppress(OSError, imaplib.IMAP4.error, ValueError):
                client.socket().settimeout(LOGOUT_TIMEOUT)
                client.logout()
        client.wire.shutdown()

    @property
    def client(self) -> Client:
        """imapclient, with nothing under way: FETCH commands sent ahead are read to their end."""
        client = self._open_client()
        self._explained("fetch", self._flights.land, client)
        return client

    def _open_client(self) -> Client:
        if self._client is None or self._line.is_cut:
            raise Unavailable("the connection is closed", code="imap.closed")
        self._heed("go on")
        return self._client

    # -- reading ------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Let the server say what is new (NOOP), and notice a folder that was replaced."""
        client = self.client
        self._flights.forget()
        # Counts and flags that came unasked would otherwise pile up as long as it lives.
        client.wire.untagged_responses.clear()
        self.ask("look for new mail", client.look_around)
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
            there |= self._among(window)
        return there & set(uids)

    def _among(self, window: Sequence[int]) -> set[int]:
        try:
            return set(self._search(["UID", ",".join(map(str, window))]))
        except Refused as refused:
            if refused.transient or len(window) <= 1:
                raise
        # Too long a line for this server, perhaps.
        return set().union(*map(self._among, halves(window)))

    def last_uid(self) -> int:
        """Return the highest UID in the folder, 0 when it is empty."""
        return max(self._search(["UID", "*"]), default=0)

    def _search(self, criteria: list[object]) -> list[int]:
        client = self.client
        client.forget("SEARCH")
        found: list[int] = self.ask("search", client.search, criteria)
        return found

    def sizes(self, uids: Sequence[int], ahead: Sequence[Order] = ()) -> dict[int, int]:
        """Return RFC822.SIZE of each; an estimate at Exchange, good for planning only."""
        answer = self._fetch(Order("sizes", tuple(uids)), ahead)
        return {
            uid: row[b"RFC822.SIZE"]
            for uid, row in answer.items()
            if isinstance(row.get(b"RFC822.SIZE"), int)
        }

    def bodies(self, uids: Sequence[int], ahead: Sequence[Order] = ()) -> dict[int, Body]:
        r"""Fetch messages without setting ``\Seen``; one that came without bytes is left out.

        What is to be asked for next (``ahead``) is sent before the answer is read.
        """
        answer = self._fetch(Order("bodies", tuple(uids)), ahead)
        for uid in swallowed(answer, set(uids) - answer.keys()):
            del answer[uid]
        return {
            uid: Body(raw=row[b"BODY[]"], received_at=as_utc(row.get(b"INTERNALDATE")))
            for uid, row in answer.items()
            if isinstance(row.get(b"BODY[]"), bytes)
        }

    def heads(self, uids: Sequence[int]) -> dict[int, Head]:
        """Return what messages are recognised by."""
        answer = self._fetch(Order("heads", tuple(uids)))
        return {uid: head_of(uid, row) for uid, row in answer.items()}

    def here(self, order: Order) -> bool:
        """Whether what was asked for ahead has come."""
        return self._flights.landed(order)

    @property
    def under_way(self) -> set[int]:
        """The messages that are asked for and have not come."""
        return self._flights.uids

    def _fetch(self, order: Order, ahead: Sequence[Order] = ()) -> dict[int, Row]:
        client = self._open_client()
        found: dict[int, Row] = {}
        try:
            found = self._explained("fetch", self._flights.take, client, order, ahead)
        except Refused:
            # A server that is about to hang up must do so now, while it is known why: or the
            # messages of the next command would be suspected of it.
            self.ask("go on after a refusal", client.look_around)
            raise
        if not found.keys() >= set(order.uids):
            self._heed("fetch")
        return found

    # -- asking -------------------------------------------------------------------------------

    def ask(self, action: str, verb: Callable[..., R], *args: Any) -> R:
        """Call a verb of imapclient. What it raises becomes ours, with the server's reason.

        A wish for a pause is obeyed even if it came in the text of an OK: what such an answer
        brings, or leaves out, cannot be relied upon.
        """
        result = self._explained(action, verb, *args)
        self._heed(action)
        return result

    def _explained(self, action: str, verb: Callable[..., R], *args: Any) -> R:
        try:
            return guarded(action, verb, *args)
        except MailbridgeError as exc:
            failure = explained(exc, self._heard, action)
            if failure is exc:
                raise
        raise failure

    def _heed(self, action: str) -> None:
        if self._heard.throttle:
            raise answer_error(self._heard.throttle, action)


def _require_welcome(client: Client, tls: Tls) -> None:
    if client.wire.state != "NONAUTH":
        # Whoever is signed in already, it is not us: RFC 9051, 7.1.4.
        raise Unavailable("the server greets with PREAUTH", code="imap.preauth")
    if tls == "starttls" and not client.has_capability("STARTTLS"):
        raise Unavailable("the server offers no STARTTLS", code="imap.no_starttls")
