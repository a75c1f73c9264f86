"""What one IMAP session knows of its folder: sequence numbers, and what it was not told yet."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right

from mailbridge.sandbox.imap_protocol import NumberSet
from mailbridge.sandbox.mailstore import Folder


class View:
    """A watcher of a folder. Sequence numbers change only when ``news`` is sent (RFC 3501, 7.4.1).

    ``changed`` is set whenever there is something to tell. ``lost`` turns true when the folder
    was deleted, renamed or renumbered: the session cannot go on.
    """

    def __init__(self, folder: Folder, *, read_only: bool) -> None:
        self.folder = folder
        self.read_only = read_only
        self.uids = folder.uids
        self.changed = asyncio.Event()
        self.lost = False
        self._added: list[int] = []
        self._removed: set[int] = set()
        self._flagged: set[int] = set()
        folder.watchers.add(self)

    def close(self) -> None:
        """Stop watching."""
        self.folder.watchers.discard(self)

    def added(self, uid: int) -> None:
        """Remember to send EXISTS."""
        self._added.append(uid)
        self.changed.set()

    def removed(self, uid: int) -> None:
        """Remember to send EXPUNGE."""
        self._removed.add(uid)
        self.changed.set()

    def flagged(self, uid: int) -> None:
        """Remember to send FETCH (FLAGS …)."""
        self._flagged.add(uid)
        self.changed.set()

    def invalidated(self) -> None:
        """Remember to hang up."""
        self.lost = True
        self.changed.set()

    def sequence(self, uid: int) -> int:
        """Return the sequence number of a UID, 0 if the session does not know it."""
        index = bisect_left(self.uids, uid)
        known = index < len(self.uids) and self.uids[index] == uid
        return index + 1 if known else 0

    def select(self, numbers: NumberSet, *, by_uid: bool) -> list[int]:
        """Return the UIDs that a set names, ascending; unknown numbers name nothing."""
        chosen: set[int] = set()
        if not self.uids:
            return []
        if by_uid:
            for low, high in numbers.spans(self.uids[-1]):
                chosen.update(
                    self.uids[bisect_left(self.uids, low) : bisect_right(self.uids, high)]
                )
        else:
            for low, high in numbers.spans(len(self.uids)):
                chosen.update(self.uids[low - 1 : high])
        return sorted(chosen)

    def forget(self, uid: int) -> bytes:
        """Drop a UID from the numbering and return its EXPUNGE line."""
        self._removed.discard(uid)
        number = self.sequence(uid)
        if not number:
            return b""
        del self.uids[number - 1]
        return b"* %d EXPUNGE\r\n" % number

    def news(self, *, expunges: bool = True) -> bytes:
        """Return all untagged lines that are due; without ``expunges`` those stay due."""
        out = bytearray()
        if expunges and self._removed:
            # From the highest number down, so that each line is right when it is read.
            for uid in sorted(self._removed, reverse=True):
                out += self.forget(uid)
            self._removed.clear()
            self._added = [uid for uid in self._added if uid in self.folder.messages]
            self.uids += self._added
            self._added.clear()
            out += b"* %d EXISTS\r\n" % len(self.uids)
        elif self._added:
            self.uids += self._added
            self._added.clear()
            out += b"* %d EXISTS\r\n" % len(self.uids)
        for uid in sorted(self._flagged):
            message = self.folder.messages.get(uid)
            if message is not None and self.sequence(uid):
                out += flags_line(self.sequence(uid), message.flags)
        self._flagged.clear()
        if not self._removed:
            self.changed.clear()
        return bytes(out)


def flags_text(flags: set[str]) -> str:
    """Return the flags in parentheses, in a fixed order."""
    return "(" + " ".join(sorted(flags)) + ")"


def flags_line(number: int, flags: set[str], uid: int | None = None) -> bytes:
    """Return ``* 5 FETCH (FLAGS (…) UID 7)``."""
    tail = "" if uid is None else f" UID {uid}"
    return f"* {number} FETCH (FLAGS {flags_text(flags)}{tail})\r\n".encode()
