"""What clients may use up together: connections, memory, and attempts to sign in."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

#: addresses whose failures, and whose refusals, are remembered
REMEMBERED: Final = 1024
#: seconds after which a failure to sign in is forgotten, and a refusal is said again
FORGIVEN_AFTER: Final = 900.0
#: seconds that an attempt to sign in waits at most
LONGEST_DELAY: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times in seconds, ``memory`` in bytes over all mails that are coming in.

    ``command`` is RFC 5321's five minutes for a command, ``block`` its three for a piece of a
    mail; ``mail`` is for a whole one. ``stop`` is for mails under way when the daemon ends.
    """

    connections: int = 200
    per_address: int = 50
    command: float = 300.0
    block: float = 180.0
    mail: float = 1800.0
    handshake: float = 60.0
    stop: float = 5.0
    memory: int = 256 * 1024 * 1024
    recipients: int = 500
    #: attempts to sign in per connection
    attempts: int = 3


class Bounds:
    """Counts what is in use. ``clock`` gives seconds that never go back."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        self._by_address: Counter[str] = Counter()
        self._memory = 0
        #: by address: failures in a row, and when the last was
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._said: OrderedDict[tuple[str, str], float] = OrderedDict()

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._by_address.total()

    @property
    def memory(self) -> int:
        """Bytes of mails that are coming in, or are being stored."""
        return self._memory

    def enter(self, address: str) -> bool:
        """Count a connection; ``False`` if there is no room for it."""
        if (
            self.connections >= self.limits.connections
            or self._by_address[address] >= self.limits.per_address
        ):
            return False
        self._by_address[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count a connection that has ended."""
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]

    @contextmanager
    def holding(self) -> Iterator[Holding]:
        """Return room for a mail, which is free again after the block."""
        account = Holding(self)
        try:
            yield account
        finally:
            account.release()

    def grow(self, size: int) -> bool:
        """Use so many bytes more; ``False`` if they are not there."""
        if self._memory + size > self.limits.memory:
            return False
        self._memory += size
        return True

    def shrink(self, size: int) -> None:
        """Use so many bytes less."""
        self._memory -= size

    def failed(self, address: str) -> None:
        """Count a failure to sign in."""
        count, _ = self._failures.pop(address, (0, 0.0))
        self._failures[address] = (count + 1, self._clock())
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def delay(self, address: str) -> float:
        """Return how many seconds the next attempt of this address waits: 0, 1, 2, 4 … 30."""
        count, last = self._failures.get(address, (0, 0.0))
        if not count or self._clock() - last > FORGIVEN_AFTER:
            self._failures.pop(address, None)
            return 0.0
        return min(LONGEST_DELAY, 2.0 ** min(count - 1, 10))

    def worth_saying(self, address: str, reason: str) -> bool:
        """Tell whether this was not said of this address lately: logs are no place to flood."""
        now = self._clock()
        last = self._said.get((address, reason))
        if last is not None and now - last < FORGIVEN_AFTER:
            return False
        self._said[address, reason] = now
        self._said.move_to_end((address, reason))
        while len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        return True


class Holding:
    """What one mail uses: ``content`` has come so far, and is counted until it is released."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._size = 0
        self.content = bytearray()

    def grow(self, piece: bytes) -> bool:
        """Take a piece more; ``False`` if there is no room for it."""
        if not self._bounds.grow(len(piece)):
            return False
        self._size += len(piece)
        self.content += piece
        return True

    def release(self) -> None:
        """Hold nothing any more."""
        self._bounds.shrink(self._size)
        self._size = 0
        self.content = bytearray()
