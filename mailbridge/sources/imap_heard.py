"""What a server said about itself on one connection: kept for a moment, to explain its end.

The reason why a server hangs up often comes a line before the BYE, or without a tag, or in the
text of an OK, where a protocol engine throws it away.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

#: lines that are kept, and bytes of each
LINES: Final = 4
LENGTH: Final = 400

_STATUS = re.compile(
    rb"(?:(?P<star>\*)|(?P<tag>[A-Z]{4}\d+)) (?P<kind>OK|NO|BAD|BYE)(?: |\Z)", re.IGNORECASE
)
#: said without tag and star by a front end in trouble
_BARE = re.compile(
    rb"(?:Server Unavailable|Request is throttled|Connection is closed)", re.IGNORECASE
)
_THROTTLE = re.compile(rb"request is throttled|suggested backoff time", re.IGNORECASE)
_DIGITS: Final = frozenset(b"0123456789")


class Heard:
    """The last lines with OK, NO, BAD or BYE that tell something, oldest first."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES)
        #: a wish for a pause that nobody has acted upon yet, whatever kind of line it came in
        self.throttle = ""

    def line(self, line: bytes) -> None:
        """Take in a line, however it begins; most are data and cost two comparisons."""
        if line[:1] == b")" or (line[2:3] and line[2] in _DIGITS):
            return
        status = _STATUS.match(line)
        if status is None and not _BARE.match(line):
            return
        text = line[:LENGTH].decode("ascii", "replace").strip()
        throttle = _THROTTLE.search(line)
        if throttle:
            self.throttle = text
        kind = status["kind"].upper() if status else b""
        if kind == b"OK" and not throttle:
            if status and status["tag"]:
                self._lines.clear()  # what was said before it explains nothing any more
            return
        self._lines.append(
            text.removeprefix("* ") if status is None else text[status.start("kind") :]
        )

    @property
    def lines(self) -> list[str]:
        """What was said since the last command that went well; not sanitised."""
        return list(self._lines)

    def forget(self) -> None:
        """Begin anew."""
        self._lines.clear()
        self.throttle = ""
