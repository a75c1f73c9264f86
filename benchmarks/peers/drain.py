"""The limit: one TLS connection, one FETCH of everything, bytes thrown away as they come.

    python drain.py HOST PORT CA TOKEN_FILE ADDRESS...

No protocol is parsed beyond the tagged answer; what a program does on top of this is its own.
Prints the bytes that came.
"""

from __future__ import annotations

import base64
import socket
import ssl
import sys
from pathlib import Path


def main() -> None:
    """Read the mailboxes one after the other."""
    host, port, ca, token_file, *addresses = sys.argv[1:]
    token = Path(token_file).read_text().strip()
    context = ssl.create_default_context(cafile=ca)
    for address in addresses:
        with (
            socket.create_connection((host, int(port)), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=host) as line,
        ):
            print(drain(line, address, token))


def drain(line: ssl.SSLSocket, address: str, token: str) -> int:
    """Sign in, select, fetch all bodies, leave; returns the bytes that came."""
    text(line, b"* OK")
    answer = base64.b64encode(f"user={address}\x01auth=Bearer {token}\x01\x01".encode())
    line.sendall(b"a AUTHENTICATE XOAUTH2 " + answer + b"\r\n")
    text(line, b"a OK")
    line.sendall(b"b SELECT INBOX\r\n")
    text(line, b"b OK")
    line.sendall(b"c UID FETCH 1:* (UID INTERNALDATE BODY.PEEK[])\r\n")
    total = swallow(line, b"\r\nc ")
    line.sendall(b"d LOGOUT\r\n")
    return total


def text(line: ssl.SSLSocket, wanted: bytes) -> None:
    """Read until a line begins with ``wanted``; raises ``RuntimeError`` at a refusal."""
    seen = b""
    while not any(one.startswith(wanted) for one in seen.split(b"\r\n")[:-1]):
        data = line.recv(65536)
        tag = wanted.split()[0]
        if not data or b"\r\n" + tag + b" NO" in b"\r\n" + seen:
            raise RuntimeError(f"no {wanted.decode()}")
        seen += data


def swallow(line: ssl.SSLSocket, end: bytes) -> int:
    """Read until ``end`` stands at the tail of what came; returns the number of bytes."""
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    total, tail = 0, b""
    while size := line.recv_into(view):
        total += size
        tail = (tail + bytes(view[max(0, size - 256) : size]))[-256:]
        # The tagged line is the last thing that the server sends, and ends the stream for now.
        if tail.endswith(b"\r\n") and end in tail:
            return total
    raise RuntimeError("the server closed the connection")


if __name__ == "__main__":
    main()
