"""Tells the server what became of messages: seen, deleted, moved. Blocking, idempotent.

Every method raises the errors of ``mailbridge.errors``; whatever it has done already before
is found done when it is called again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mailbridge.errors import FolderMissing
from mailbridge.sources.imap_connection import Connection
from mailbridge.sources.imap_errors import Refused, words
from mailbridge.sources.imap_plan import COMMAND_LINE, halves, windows
from mailbridge.sources.imap_wire import Client


class Settler:
    """Settles messages of the folder that a connection has selected."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        #: the server's names of folders that are moved to
        self._targets: dict[str, str] = {}

    def mark_seen(self, uids: Sequence[int]) -> None:
        r"""Set ``\Seen``."""
        self._each("mark as seen", uids, _flag_seen)

    def delete(self, uids: Sequence[int]) -> None:
        r"""Set ``\Deleted`` and expunge these messages, and no others that somebody deleted.

        Without UIDPLUS they stay flagged: a plain EXPUNGE would take other people's along.
        """
        self._each("delete", uids, _delete)

    def move(self, uids: Sequence[int], folder: str) -> None:
        """Move to ``folder``, which is created when it is missing."""
        if folder not in self._targets:
            self._targets[folder] = self._target(folder)
        target = self._targets[folder]
        self._each("move", uids, lambda client, some: _move(client, some, target))

    def _target(self, folder: str) -> str:
        target = self._connection.folders.target(folder)
        if target == self._connection.selected:
            # Each would get another UID there, be new, be moved again, for ever.
            raise FolderMissing(
                f"{words(folder)!r} is the folder that is watched; nothing can be moved there",
                code="imap.target_is_watched",
                fix="Name another folder in `after: {move: …}`.",
            )
        return target

    def _each(
        self,
        action: str,
        uids: Sequence[int],
        verb: Callable[[Client, list[int]], None],
    ) -> None:
        for window in windows(uids, COMMAND_LINE):
            self._one(action, list(window), verb)

    def _one(self, action: str, uids: list[int], verb: Callable[[Client, list[int]], None]) -> None:
        connection = self._connection
        try:
            connection.ask(action, verb, connection.client, uids)
        except Refused as refused:
            # Some servers refuse a whole set when one message of it is gone, or too long a line.
            left = sorted(connection.present(uids))
            if left == uids and (refused.transient or len(uids) == 1):
                raise
            for some in halves(left) if left == uids else [left]:
                if some:
                    self._one(action, list(some), verb)


def _flag_seen(client: Client, uids: list[int]) -> None:
    client.add_flags(uids, [rb"\Seen"], silent=True)


def _delete(client: Client, uids: list[int]) -> None:
    client.add_flags(uids, [rb"\Deleted"], silent=True)
    if client.has_capability("UIDPLUS"):
        client.uid_expunge(uids)


def _move(client: Client, uids: list[int], folder: str) -> None:
    if client.has_capability("MOVE"):
        client.move(uids, folder)
        return
    # What is flagged was copied before the answer to the last try was lost.
    left = client.search(["UID", ",".join(map(str, uids)), "UNDELETED"])
    if left:
        client.copy(sorted(left), folder)
    _delete(client, uids)
