"""What a dispatcher holds between claim and commit: bounded in number and in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailbridge.model import Delivery

#: what a delivery without a mail counts as, in bytes
_NOTICE_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much a dispatcher may hold between claim and commit."""

    deliveries: int
    size: int = 4 * 1024 * 1024

    @classmethod
    def for_concurrency(cls, concurrency: int) -> Room:
        """Enough that workers never wait for a claim, little enough to stay small."""
        return cls(deliveries=min(1024, max(256, 16 * concurrency)))


class Hand:
    """The deliveries in hand. ``most`` is how many may be, at this moment, at most."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._held: dict[int, Delivery] = {}
        self._size = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._held)

    @property
    def deliveries(self) -> list[Delivery]:
        """All of them."""
        return list(self._held.values())

    @property
    def bytes_left(self) -> int:
        """How many bytes of mail there is room for."""
        return self.room.size - self._size

    def full(self, most: int) -> bool:
        """Whether it is too early for a claim: half of the room makes it worth one."""
        # A single large mail is not fullness: while it hangs, those behind it go one by one.
        large = len(self._held) > 1 and 2 * self._size >= self.room.size
        return large or 2 * len(self._held) >= min(most, self.room.deliveries)

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Add what was claimed."""
        for delivery in deliveries:
            self._held[delivery.id] = delivery
            self._size += _size(delivery)

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """Remove what is resolved or given back; what is not there is no matter."""
        for delivery in deliveries:
            if self._held.pop(delivery.id, None) is not None:
                self._size -= _size(delivery)

    def clear(self) -> None:
        """Remove all."""
        self._held.clear()
        self._size = 0


def _size(delivery: Delivery) -> int:
    carried = delivery.mail or delivery.send
    return len(carried.raw) if carried is not None else _NOTICE_BYTES
