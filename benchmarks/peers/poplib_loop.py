"""The plain way to read a POP3 mailbox: the standard library, one RETR after the other.

    python poplib_loop.py HOST PORT CA TOKEN_FILE ADDRESS

Reads every message and throws it away. Prints how many there were.
"""

from __future__ import annotations

import base64
import poplib
import ssl
import sys
from pathlib import Path

# poplib refuses lines of more than 2,048 bytes, which real mail has.
poplib._MAXLINE = 1 << 20  # type: ignore[attr-defined] # noqa: SLF001 - there is no other way


def main() -> None:
    """Read the mailbox."""
    host, port, ca, token_file, address = sys.argv[1:]
    token = Path(token_file).read_text().strip()
    context = ssl.create_default_context(cafile=ca)
    client = poplib.POP3_SSL(host, int(port), context=context, timeout=60)
    answer = base64.b64encode(f"user={address}\x01auth=Bearer {token}\x01\x01".encode())
    client._shortcmd("AUTH XOAUTH2")  # type: ignore[attr-defined] # noqa: SLF001 - poplib knows no SASL
    client._shortcmd(answer.decode())  # type: ignore[attr-defined] # noqa: SLF001 - the same
    count = client.stat()[0]
    for number in range(1, count + 1):
        client.retr(number)
    client.quit()
    print(count)


if __name__ == "__main__":
    main()
