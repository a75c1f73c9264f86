"""FETCH commands under way on one connection: the next is sent before the last is answered.

Over a long line this is what decides the speed: one at a time, the line is idle for a round
trip after every batch. Answers come in the order of the commands (RFC 3501, 5.5), and each is
read when it is asked for, so that what is ahead waits in the kernel's buffers and not here.
Only when one is refused, or another command has to be sent, the rest is read and kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from mailbridge.sources.imap_answers import Row
from mailbridge.sources.imap_errors import Refused, guarded
from mailbridge.sources.imap_wire import Client

Kind = Literal["bodies", "sizes", "heads"]

#: what is asked for, and what an error calls it. Plain items of IMAP4rev1, nothing else:
#: an unknown one would be answered BAD for all messages of the command.
_COMMANDS: Final[dict[Kind, tuple[str, str]]] = {
    "bodies": ("(UID INTERNALDATE BODY.PEEK[])", "fetch"),
    "sizes": ("(RFC822.SIZE)", "read the sizes"),
    "heads": (
        "(UID INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])",
        "read the Message-IDs",
    ),
}


@dataclass(frozen=True, slots=True)
class Order:
    """One FETCH: what of which messages. The line that it makes must be short enough."""

    kind: Kind
    uids: tuple[int, ...]


class Flights:
    """The orders of one connection. Not shared between threads."""

    def __init__(self) -> None:
        #: sent and not answered yet, with their tags, in the order of sending
        self._under_way: dict[Order, bytes] = {}
        #: answered and not asked for yet
        self._landed: dict[Order, dict[int, Row] | Refused] = {}
        #: rows that came before the answer which they belong to
        self._early: dict[int, Row] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._under_way)

    @property
    def uids(self) -> set[int]:
        """The messages whose bodies are asked for and have not come."""
        bodies = (order for order in self._under_way if order.kind == "bodies")
        return {uid for order in bodies for uid in order.uids}

    def landed(self, order: Order) -> bool:
        """Whether the answer is here already."""
        return order in self._landed

    def send(self, client: Client, orders: Iterable[Order]) -> None:
        """Send those that are not under way or here yet; raises as ``guarded`` does."""
        for order in orders:
            if order in self._under_way or order in self._landed:
                continue
            if not self._under_way:
                client.forget("FETCH")
                self._early.clear()
            items, action = _COMMANDS[order.kind]
            self._under_way[order] = guarded(action, client.begin_fetch, order.uids, items)

    def take(self, client: Client, order: Order, ahead: Iterable[Order] = ()) -> dict[int, Row]:
        """Return the rows of an order, by UID; raises ``Refused`` if the server declined it.

        What is ``ahead`` is sent before the answer is read. After a refusal everything else is
        read first: nothing is under way any more, and the caller may send what it likes.
        Whatever else is raised ends the connection.
        """
        self.send(client, (order, *ahead))
        while order not in self._landed:
            self._land(client)
        outcome = self._landed.pop(order)
        if isinstance(outcome, Refused):
            self.land(client)
            raise outcome
        return outcome

    def land(self, client: Client) -> None:
        """Read all that is under way to its end, and keep it."""
        while self._under_way:
            self._land(client)

    def forget(self) -> None:
        """Drop what was asked for and never taken."""
        self._landed.clear()
        self._early.clear()

    def _land(self, client: Client) -> None:
        order, tag = next(iter(self._under_way.items()))
        action = _COMMANDS[order.kind][1]
        outcome: dict[int, Row] | Refused
        try:
            outcome = self._sorted(order, guarded(action, client.end_fetch, tag))
        except Refused as refused:
            outcome = refused.with_traceback(None)
        # Not before: what was under way when a connection is lost is what may have cost it.
        del self._under_way[order]
        self._landed[order] = outcome

    def _sorted(self, order: Order, found: dict[int, Row]) -> dict[int, Row]:
        """Return the rows of this order; what belongs to others is kept for them."""
        if len(self._under_way) > 1:
            ahead = self.uids - set(order.uids)
            for uid in found.keys() & ahead:
                self._early.setdefault(uid, {}).update(found[uid])
        asked = set(order.uids)
        rows = {uid: row for uid, row in found.items() if uid in asked}
        for uid in self._early.keys() & asked:
            rows[uid] = {**self._early.pop(uid), **rows.get(uid, {})}
        return rows
