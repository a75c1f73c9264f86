"""How much a mailbox may still send. Pure, with a clock: windows that slide, as Exchange's do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_MINUTE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)
#: while all that may go out in a minute is under way
_SOON: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What may go out at once: messages and recipients; ``None`` where there is no limit."""

    messages: int | None
    recipients: int | None


class Budget:
    """The messages of the last minute and the recipients of the last 24 hours.

    What was handed to a server counts, whatever came of it: the server counts it too. When exactly
    within a submission nobody knows, so its minute begins when it has ended.
    """

    def __init__(
        self,
        *,
        per_minute: int | None,
        recipients_per_day: int | None,
        now: Callable[[], datetime],
    ) -> None:
        self._per_minute = per_minute
        self._per_day = recipients_per_day
        self._now = now
        #: when, and to how many; no older than a day
        self._spent: deque[tuple[datetime, int]] = deque()
        self._recent: deque[datetime] = deque()
        self._recipients = 0
        self._under_way = 0

    def restore(self, spent: Iterable[tuple[datetime, int]]) -> None:
        """Count what was sent before the program was started, oldest first."""
        for moment, recipients in spent:
            self._count(moment, recipients)
            self._recent.append(moment)

    def begin(self, recipients: int) -> None:
        """Count a message to so many recipients, from now on; ``end`` has to follow."""
        self._count(self._now(), recipients)
        self._under_way += 1

    def end(self) -> None:
        """Note that a message has been handed over, or that this has failed."""
        self._under_way -= 1
        self._recent.append(self._now())

    def spend(self, recipients: int) -> None:
        """Count a message that takes no time."""
        self.begin(recipients)
        self.end()

    def wait(self, recipients: int) -> float:
        """Return the seconds until a message to so many recipients may go out; 0 is now.

        More recipients than a day has room for wait for a whole empty day.
        """
        now = self._expire()
        due = now
        if self._per_minute is not None:
            over = len(self._recent) + self._under_way - self._per_minute
            if over >= len(self._recent):
                due = now + _SOON if over >= 0 else now
            elif over >= 0:
                due = self._recent[over] + _MINUTE
        if self._per_day is not None:
            over = self._recipients + min(recipients, self._per_day) - self._per_day
            for moment, count in self._spent:
                if over <= 0:
                    break
                over -= count
                due = max(due, moment + _DAY)
        return max(0.0, (due - now).total_seconds())

    def remaining(self) -> Remaining:
        """Return what may go out now."""
        self._expire()
        minute, day = self._per_minute, self._per_day
        used = len(self._recent) + self._under_way
        return Remaining(
            messages=None if minute is None else max(0, minute - used),
            recipients=None if day is None else max(0, day - self._recipients),
        )

    def _count(self, moment: datetime, recipients: int) -> None:
        self._spent.append((moment, recipients))
        self._recipients += recipients

    def _expire(self) -> datetime:
        now = self._now()
        while self._spent and self._spent[0][0] + _DAY <= now:
            self._recipients -= self._spent.popleft()[1]
        while self._recent and self._recent[0] + _MINUTE <= now:
            self._recent.popleft()
        return now
