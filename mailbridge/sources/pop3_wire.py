"""Lines and answers of POP3 on a socket: of any length, bounded, under TLS, with XOAUTH2.

The standard library's poplib is no help here: it gives up at lines of 2,048 bytes, which real
mail has, reads an answer without any bound, knows no AUTH and cannot pipeline.

An answer is read whole; its end is ``CRLF . CRLF`` and nothing else (RFC 1939 section 3). A
mail that holds a lone LF before a dot cannot end its own answer early and pass the rest of its
text off as the next one.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
from typing import Final

from mailbridge.network_faults import NoGreeting
from mailbridge.sources.pop3_errors import NoTls, NotOk, Oversized
from mailbridge.sources.transport import Line, Tls, connect, secure

#: bytes of one answer: Exchange Online's largest message (150 MB) and what base64 adds
LARGEST_ANSWER: Final = 220 * 1024 * 1024
#: bytes of a status line; RFC 2449 allows 512
LONGEST_STATUS: Final = 64 * 1024
#: bytes asked for with one read: as many as a TLS record brings
READ: Final = 16 * 1024

_END: Final = b"\r\n.\r\n"


class Reader:
    """Reads lines and whole answers from a socket; ``EOFError`` when it ends too early."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    @property
    def buffered(self) -> bool:
        """Whether bytes were read that nobody has asked for yet."""
        return bool(self._buffer)

    def line(self) -> bytes:
        """Return the next line without its end."""
        line = self._take(0, self._find(b"\n", 0, LONGEST_STATUS))
        return line[:-2] if line.endswith(b"\r\n") else line[:-1]

    def block(self) -> tuple[bytes, bytes]:
        """Return the status line and, if it is ``+OK``, what follows it up to the lone dot.

        Dots that the server put in front of others are taken away again.
        """
        text_at = self._find(b"\n", 0, LONGEST_STATUS)
        status = bytes(self._buffer[:text_at])
        if not status.startswith(b"+OK"):
            return self.line(), b""
        if not status.endswith(b"\r\n"):
            # Whoever ends lines otherwise has another idea of where an answer ends, too.
            raise NotOk(b"")
        # The line end before the dot may be that of the status: then there is no text.
        end = self._find(_END, text_at - len(b"\r\n"), LARGEST_ANSWER)
        text = self._take(text_at, end)[: -len(b".\r\n")]
        if b"\n.." in text:
            text = text.replace(b"\r\n..", b"\r\n.")
        return status, text[1:] if text.startswith(b"..") else text

    def _take(self, start: int, end: int) -> bytes:
        """Return these bytes; they and all before them leave the buffer."""
        with memoryview(self._buffer) as view:
            taken = bytes(view[start:end])
        del self._buffer[:end]
        return taken

    def _find(self, mark: bytes, start: int, limit: int) -> int:
        """Read until ``mark`` is in the buffer; returns where it ends."""
        buffer = self._buffer
        while (found := buffer.find(mark, start)) < 0:
            if len(buffer) > limit:
                msg = f"an answer of {len(buffer):,} bytes and no end"
                raise Oversized(msg)
            # The mark may have come in part.
            start = max(start, len(buffer) - len(mark) + 1)
            more = self._sock.recv(READ)
            if not more:
                raise EOFError
            buffer += more
        return found + len(mark)


class Wire:
    """A connection on which nobody has signed in yet; made by ``Wire.open``."""

    def __init__(self, sock: socket.socket, *, host: str, line: Line) -> None:
        self._sock = sock
        self._host = host
        self._line = line
        self._reader = Reader(sock)

    @classmethod
    def open(  # noqa: PLR0913 - what a connection is made of
        cls,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext,
        tls: Tls,
        line: Line,
        timeout: float,
    ) -> Wire:
        """Connect, change to TLS and read the greeting; ``timeout`` is in seconds.

        With ``starttls`` the greeting comes before TLS, and nothing but STLS is said before.
        """
        wire = cls(connect(host, port, line=line, timeout=timeout), host=host, line=line)
        try:
            if tls == "implicit":
                wire._secure(context)
                wire._greeted()
            else:
                wire._greeted()
                wire._start_tls(context)
        except BaseException:
            wire.close()
            raise
        return wire

    def patience(self, seconds: float) -> None:
        """Set how long the server may be silent."""
        self._sock.settimeout(seconds)

    def send(self, commands: bytes) -> None:
        """Send one or several whole command lines."""
        self._sock.sendall(commands)

    def status(self) -> bytes:
        """Read a status line; ``NotOk`` if it is not ``+OK``."""
        line = self._reader.line()
        if not line.startswith(b"+OK"):
            raise NotOk(line)
        return line

    def block(self) -> bytes:
        """Read an answer of many lines without its status; ``NotOk`` if that is not ``+OK``."""
        status, text = self._reader.block()
        if not status.startswith(b"+OK"):
            raise NotOk(status)
        return text

    def offer_xoauth2(self) -> None:
        """Announce the credential, which goes into a line of its own.

        Exchange Online hangs up on a command line of more than 512 bytes.
        """
        self.send(b"AUTH XOAUTH2\r\n")
        line = self._reader.line()
        if not line.startswith(b"+") or line.startswith(b"+OK"):
            raise NotOk(line)

    def give_credential(self, address: str, token: str) -> bytes:
        """Send the credential; returns the challenge, empty when the server took it.

        A challenge is a refusal that gives its reason; after an empty line the server says
        ``-ERR``, which ``status`` reads.
        """
        answer = f"user={address}\x01auth=Bearer {token}\x01\x01".encode()
        # In one write: a credential that came in pieces has been taken for two lines.
        self.send(base64.b64encode(answer) + b"\r\n")
        line = self._reader.line()
        if line.startswith(b"+OK"):
            return b""
        if not line.startswith(b"+"):
            raise NotOk(line)
        self.send(b"\r\n")
        return line[1:].strip() or b"="

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._sock.close()

    def _greeted(self) -> None:
        try:
            self.status()
        except TimeoutError:
            raise NoGreeting from None

    def _secure(self, context: ssl.SSLContext) -> None:
        self._sock = secure(self._sock, context, host=self._host, line=self._line)
        # What was said before the handshake is nobody's word (RFC 2595, 4).
        self._reader = Reader(self._sock)

    def _start_tls(self, context: ssl.SSLContext) -> None:
        """Change to TLS (RFC 2595); there is no way on without it.

        Bytes that already lie behind the answer were put there by somebody else on the
        network, to be taken for answers under TLS: the connection is given up.
        """
        self.send(b"CAPA\r\n")
        try:
            offered = b"STLS" in capabilities(self.block())
        except NotOk as refused:
            if not refused.refusal:
                raise
            offered = False
        if not offered:
            raise NoTls
        self.send(b"STLS\r\n")
        self.status()
        if self._reader.buffered or self._pending():
            raise ConnectionError("bytes before the TLS handshake")
        self._secure(context)

    def _pending(self) -> bool:
        timeout = self._sock.gettimeout()
        self._sock.setblocking(False)  # noqa: FBT003 - the socket's own signature
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self._sock.settimeout(timeout)


def capabilities(text: bytes) -> frozenset[bytes]:
    """Return the names in an answer to CAPA (RFC 2449), in capitals."""
    return frozenset(words[0].upper() for line in text.splitlines() if (words := line.split()))
