"""imaplib and imapclient with what they lack: TLS made safe, sizes bounded, cuttable.

imaplib reserves memory for a literal before the first byte of it came and reads lines of at
most 1 MB, which the answer to a SEARCH in a large folder exceeds. ``Wire`` reads with its own
buffer instead; it counts what one command brings and stops a server that never ends.
"""

from __future__ import annotations

import contextlib
import imaplib
import io
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final, cast

from imapclient import IMAPClient, SocketTimeout

from mailbridge.network_faults import NoGreeting
from mailbridge.sources.imap_answers import Row, rows
from mailbridge.sources.imap_heard import Heard
from mailbridge.sources.loop_socket import TLS_RECORD
from mailbridge.sources.transport import Line, Tls, connect, secure

#: bytes of one literal: Exchange Online's largest message (150 MB) and what base64 adds
LARGEST_LITERAL: Final = 220 * 1024 * 1024
#: bytes of one line: a SEARCH that lists 1.5 million UIDs
LONGEST_LINE: Final = 16 * 1024 * 1024
#: bytes that one command may bring, all its lines and literals together
LARGEST_ANSWER: Final = LARGEST_LITERAL + 64 * 1024 * 1024


class Wire(imaplib.IMAP4):
    """imaplib's protocol engine on a socket of our own making."""

    def __init__(  # noqa: PLR0913 - what a connection is made of
        self,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext,
        tls: Tls,
        line: Line,
        heard: Heard,
        timeout: float,
    ) -> None:
        self._context = context
        #: what the server says about itself, whoever reads it
        self.heard = heard
        self._implicit = tls == "implicit"
        self._line = line
        self._reader: io.BufferedReader | None = None
        self._read_from: socket.socket | None = None
        self._received = 0
        #: how often the server said that the folder changed; compare it, never reset it
        self.changes = 0
        #: read from the socket by somebody else and not used
        self._held = b""
        self._greeted = False
        #: seconds; the socket's time limit while it is lent
        self._patience: float | None = None
        super().__init__(host, port, timeout)

    def open(self, host: str = "", port: int = 143, timeout: Any = None) -> None:
        """Connect. imaplib would make a reader besides, from which nothing is ever read."""
        self.host, self.port = host, port
        self.sock = self._create_socket(timeout)

    def _create_socket(self, timeout: float | None = None) -> socket.socket:
        assert timeout is not None  # noqa: S101 - __init__ gives it
        sock = connect(self.host, self.port, line=self._line, timeout=timeout)
        if not self._implicit:
            return sock
        try:
            return secure(sock, self._context, host=self.host, line=self._line)
        except BaseException:
            sock.close()
            raise

    def starttls(self, ssl_context: ssl.SSLContext | None = None) -> tuple[Any, list[Any]]:
        """Change to TLS; whatever the server said before it is forgotten (RFC 3501, 6.2.1).

        Bytes that already lie behind the answer were put there by somebody else on the
        network, to be taken for answers under TLS: the connection is given up.
        """
        typ, data = self._simple_command("STARTTLS")
        if typ != "OK":
            raise self.error(f"STARTTLS failed: {data[-1]!r}")
        if self._pending():
            raise self.abort("bytes before the TLS handshake")
        self.untagged_responses.clear()
        self.sock = secure(self.sock, ssl_context or self._context, host=self.host, line=self._line)
        self._tls_established = True
        self._get_capabilities()
        return typ, data

    def _get_capabilities(self) -> None:
        """Ask for the capabilities, unless the greeting told them (RFC 3501, 7.2.1)."""
        told = self.untagged_responses.pop("CAPABILITY", [])
        if told and isinstance(told[-1], bytes):
            self.capabilities = tuple(told[-1].decode("ascii", "replace").upper().split())
        else:
            super()._get_capabilities()  # type: ignore[misc]  # typeshed hides it

    def _pending(self) -> bool:
        timeout = self.sock.gettimeout()
        self.sock.setblocking(False)  # noqa: FBT003 - the socket's own signature
        try:
            return bool(self._stream().peek(1))
        finally:
            self.sock.settimeout(timeout)

    def _stream(self) -> io.BufferedReader:
        if self._reader is None or self._read_from is not self.sock:
            self._read_from = self.sock
            made = self.sock.makefile("rb", buffering=TLS_RECORD)
            self._reader = cast("io.BufferedReader", made)
        return self._reader

    def read(self, size: int) -> bytes:
        """Read a literal of ``size`` bytes; fewer only at the end of the connection."""
        if size > LARGEST_LITERAL:
            raise self.abort(f"literal of {size} bytes is too large")
        data, self._held = self._held[:size], self._held[size:]
        if len(data) < size:
            data += self._stream().read(size - len(data))
        self._count(len(data))
        return data

    def _get_response(self) -> Any:
        if self._greeted:
            return super()._get_response()  # type: ignore[misc]  # typeshed hides it
        self._greeted = True
        try:
            # imaplib takes the plus of a POP3 greeting for a wish to go on.
            self._held = self.readline()
        except TimeoutError:
            raise NoGreeting from None
        if self._held and not self._held.startswith(b"* "):
            raise self.abort(f"unexpected response: {self._held!r}")
        return super()._get_response()  # type: ignore[misc]  # typeshed hides it

    def readline(self) -> bytes:
        """Read one line."""
        held, end, self._held = self._held.partition(b"\n")
        line = held + end
        if not end:
            line += self._stream().readline(LONGEST_LINE + 1)
        if len(line) > LONGEST_LINE:
            raise self.abort("literal of a line is too large")
        self._count(len(line))
        self.heard.line(line)
        return line

    def send(self, data: bytes) -> None:  # type: ignore[override]  # typeshed: "buffer"
        """Send a command or a part of it; what it may bring is counted from here."""
        self._received = 0
        super().send(data)

    def begin(self, name: str, *words: str) -> bytes:
        """Send a command and return its tag; the answer is read by ``finish``."""
        return cast("bytes", self._command(name, *words))

    def finish(self, name: str, tag: bytes) -> tuple[str, list[Any]]:
        """Read up to the answer of a command that was begun; raises what imaplib raises."""
        typ, data = self._command_complete(name, tag)
        return typ, data

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > LARGEST_ANSWER:
            raise self.abort(f"literal of {self._received} bytes and no end is too large")

    def _append_untagged(self, typ: str, dat: Any) -> None:
        if typ == "EXISTS":
            self.changes += 1
        super()._append_untagged(typ, dat)  # type: ignore[misc]  # typeshed hides it

    def lend(self) -> bytes:
        """Make the socket fit for the event loop; returns what was read and not used so far.

        A line that came right behind an answer lies in the reader and will never make the
        socket readable. The reader goes away: a thousand parked ones would hold 16 MB.
        """
        held, self._held = self._held, b""
        self._patience = self.sock.gettimeout()
        self.sock.setblocking(False)  # noqa: FBT003 - the socket's own signature
        reader, self._reader = self._reader, None
        if reader is not None:
            # One call empties the reader; an error shows again at the next read.
            with contextlib.suppress(OSError):
                held += reader.read1(TLS_RECORD) or b""
            reader.close()
        return held

    def take_back(self, held: bytes) -> None:
        """Block again, as before; ``held`` was read meanwhile and comes first."""
        self._held = held
        self.sock.settimeout(self._patience)

    def shutdown(self) -> None:
        """Close the socket, however far the connection came."""
        if self._reader is not None:
            with contextlib.suppress(OSError, ValueError):
                self._reader.close()
        sock: socket.socket | None = getattr(self, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class Client(IMAPClient):  # type: ignore[misc]  # imapclient ships no types
    """IMAPClient on a ``Wire``, with its costly debug log off and aware times."""

    def __init__(  # noqa: PLR0913 - what a connection is made of
        self,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext,
        tls: Tls,
        line: Line,
        heard: Heard,
        timeout: SocketTimeout,
    ) -> None:
        self._tls, self._line, self._heard = tls, line, heard
        super().__init__(host, port, ssl=tls == "implicit", ssl_context=context, timeout=timeout)
        self.normalise_times = False
        # imapclient switches it on; at that level imaplib makes a repr of every literal, twice.
        self._imap.debug = 0

    def _create_IMAP4(self) -> Wire:  # noqa: N802 - imapclient's name
        return Wire(
            self.host,
            self.port,
            context=self.ssl_context,
            tls=self._tls,
            line=self._line,
            heard=self._heard,
            timeout=self._timeout.connect,
        )

    @property
    def wire(self) -> Wire:
        """The protocol engine under it."""
        wire: Wire = self._imap
        return wire

    @property
    def offers_idle(self) -> bool:
        """Whether the server has IDLE (RFC 2177), by what it told after the sign-in."""
        return b"IDLE" in (self._cached_capabilities or ())

    def look_around(self) -> None:
        """Let the server say what is new (NOOP); imaplib's own would take NO for an answer."""
        self._checkok("noop", *self.wire.noop())

    def begin_fetch(self, uids: Sequence[int], items: str) -> bytes:
        """Send a UID FETCH and return its tag."""
        return self.wire.begin("UID", "FETCH", ",".join(map(str, uids)), items)

    def end_fetch(self, tag: bytes) -> dict[int, Row]:
        """Read the answer of a UID FETCH; returns the rows by UID, unasked ones among them."""
        try:
            typ, data = self.wire.finish("UID", tag)
        finally:
            parts = self.wire.untagged_responses.pop("FETCH", [])
        self._checkok("fetch", typ, data)
        return rows(parts)

    def forget(self, kind: str) -> None:
        """Drop untagged answers of a kind that came unasked or with a command that failed."""
        self._imap.untagged_responses.pop(kind, None)
