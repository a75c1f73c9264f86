"""What one rendering may cost. Everything a template does is charged here while it runs.

A step is a turn of a loop, a look-up, a call or a filter; a character made costs too, so that
neither patience nor memory can be used up. The time is that of this thread's CPU: a busy machine
makes no template fail.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

#: seconds of CPU
SECONDS: Final = 0.5
#: what a step costs, in characters
STEP: Final = 64
#: characters, for steps and texts together: half a million turns of an empty loop
WORK: Final = 32 * 1024 * 1024


class Exceeded(Exception):  # noqa: N818 - a sentence of it reads "the template exceeded …"
    """The template goes beyond a bound. Its text names the bound and nothing of the mail."""


class Budget:
    """What is left of one rendering's share."""

    __slots__ = ("_deadline", "_work")

    def __init__(self, work: int) -> None:
        self._work = work
        self._deadline = time.thread_time() + SECONDS

    def spend(self, characters: int) -> None:
        """Charge a step and the characters that it made; raises ``Exceeded``."""
        self._work -= STEP + characters
        if self._work < 0:
            raise Exceeded("it does more than a template may")
        if time.thread_time() > self._deadline:
            raise Exceeded(f"it takes longer than {SECONDS:g} s")


_current: ContextVar[Budget | None] = ContextVar("template_budget", default=None)


@contextmanager
def budget(work: int) -> Iterator[Budget]:
    """Charge whatever templates do in this thread to one budget."""
    share = Budget(work)
    token = _current.set(share)
    try:
        yield share
    finally:
        _current.reset(token)


def spend(characters: int = 0) -> None:
    """Charge one step and the characters it made. Costs nothing while a template is read."""
    share = _current.get()
    if share is not None:
        share.spend(characters)
    elif characters > WORK:
        raise Exceeded("it makes a text that is too long")


def weigh(value: Any) -> None:
    """Charge a value with all that it holds; raises ``Exceeded`` before that takes long.

    Lists that hold one another many times over weigh as much as they would when printed. Every
    list that a template makes is weighed, so none is there whose size could surprise.
    """
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            spend(len(found))
        elif isinstance(found, list | tuple):
            spend()
            waiting.extend(found)
        elif isinstance(found, dict):
            spend()
            waiting.extend(found.keys())
            waiting.extend(found.values())
        else:
            spend()
