"""Messages that their routes have just read, for the webhooks that get them a moment later.

What is kept is found by the digest of the bytes, so it can never stand for another mail; what is
not found is parsed again. Bounded in size.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from mailbridge.parse.message import parse
from mailbridge.parse.parsed import ParsedMessage

#: bytes of mails whose parsed form is kept
ROOM: Final = 8 * 1024 * 1024
#: seconds after which a mail is no longer expected: held, dropped, or behind a long queue
PATIENCE: Final = 30.0
#: what a parsed message takes beside its texts and attachments, about
_FRAME: Final = 4096


class _Kept(NamedTuple):
    message: ParsedMessage
    size: int
    since: float


class Lately:
    """The parsed form of the last messages, by the SHA-256 of their bytes. Safe in any thread.

    When there is no room, those go first that somebody has asked for; while all others still wait
    for that, a new one is not kept: a queue that is longer than the room would else throw out
    each mail just before it is asked for.
    """

    def __init__(self, room: int = ROOM, now: Callable[[], float] = time.monotonic) -> None:
        self._free = room
        self._now = now
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, _Kept] = OrderedDict()
        self._asked: OrderedDict[str, _Kept] = OrderedDict()

    def parse(self, raw: bytes) -> ParsedMessage:
        """Return ``parse(raw)``, and keep it for ``again`` if there is room."""
        message = parse(raw)
        size = len(raw) + _FRAME
        digest = hashlib.sha256(raw).hexdigest()
        with self._lock:
            kept = digest in self._waiting or digest in self._asked
            if not kept and self._make_room(size):
                self._free -= size
                self._waiting[digest] = _Kept(message, size, self._now())
        return message

    def again(self, raw: bytes, sha256: str) -> ParsedMessage:
        """Return ``parse(raw)``; ``sha256`` is the digest of ``raw`` in hex."""
        with self._lock:
            kept = self._waiting.pop(sha256, None) or self._asked.get(sha256)
            if kept is not None:
                self._asked[sha256] = kept
                return kept.message
        return parse(raw)

    def _make_room(self, size: int) -> bool:
        while self._free < size and self._asked:
            self._free += self._asked.popitem(last=False)[1].size
        old = self._now() - PATIENCE
        while self._free < size and self._waiting:
            first = next(iter(self._waiting))
            if self._waiting[first].since > old:
                break
            self._free += self._waiting.pop(first).size
        return self._free >= size


#: the one of this process
lately: Final = Lately()
