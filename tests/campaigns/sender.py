"""Run the daemon so that it dies (SIGKILL) at a named step of a submission, or is wrong.

    python -m tests.campaigns.sender MUTANT PROGRAM ARGUMENTS…

This process loads what the daemon is made of, then becomes one daemon after another: for each line
on standard input, which names the step, it prints the number of a child, and later how that ended.
Only the steps that a server cannot see are here. Waits of minutes become tenths of seconds, so that
a campaign of many lives ends today: what is decided does not depend on how long is waited.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args
from unittest.mock import patch

import mailbridge.app
import mailbridge.cli.daemon
import mailbridge.sign_in.msal_client  # noqa: F401 - likewise
from mailbridge import sending
from mailbridge.model import Delivery, Recipient
from mailbridge.retry import SENDING
from mailbridge.sinks import smtp, smtp_doubt
from mailbridge.sources.imap_sent import SentItems
from mailbridge.store.sends import Sends
from mailbridge.store.store import Store

#: claimed, nothing said yet; in doubt, the dot not written; the 250 is here and not noted; noted
Step = Literal["claimed", "doubt", "answered", "noted"]
STEPS: tuple[Step, ...] = get_args(Step)
#: nothing is noted before the dot; nobody looks
Mutant = Literal["", "no-doubt", "no-look"]
MUTANTS: tuple[Mutant, ...] = get_args(Mutant)

_LOOKS = (0.1, 0.3, 0.6)


def die() -> None:
    """End as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str) -> None:
    """Make the store deadly at one step."""
    claim, in_doubt, answered = Store.claim, Sends.in_doubt, Sends.answered

    async def dying_claim(self: Store, sink: str, **asked: Any) -> Sequence[Delivery]:
        found = await claim(self, sink, **asked)
        if any(one.send is not None for one in found):
            die()
        return found

    async def dying_doubt(self: Sends, delivery: Delivery, to: Sequence[str]) -> None:
        await in_doubt(self, delivery, to)
        die()

    async def dying_answer(self: Sends, delivery: Delivery, told: Sequence[Recipient]) -> None:
        die()
        await answered(self, delivery, told)

    async def dying_noted(self: Sends, delivery: Delivery, told: Sequence[Recipient]) -> None:
        await answered(self, delivery, told)
        die()

    faults: dict[str, tuple[Any, str, Any]] = {
        "claimed": (Store, "claim", dying_claim),
        "doubt": (Sends, "in_doubt", dying_doubt),
        "answered": (Sends, "answered", dying_answer),
        "noted": (Sends, "answered", dying_noted),
    }
    if step in faults:
        patch.object(*faults[step]).start()


def hurry() -> None:
    """Shorten what is waited for."""
    patch.object(smtp_doubt, "LOOKS", _LOOKS).start()
    patch.object(smtp, "LOOKS", _LOOKS).start()
    patch.object(smtp_doubt, "BLIND", 1.0).start()
    patch.object(smtp_doubt, "AGAIN", 0.2).start()
    patch.object(sending, "SENDING", replace(SENDING, first=(0.2,) * 50)).start()


def spoil(mutant: str) -> None:
    """Break a promise on purpose."""

    async def nothing_noted(self: Sends, delivery: Delivery, to: Sequence[str]) -> None:
        del self, delivery, to

    async def nothing_found(self: SentItems, message_id: str, send_id: str) -> int:
        del self, message_id, send_id
        return 0

    if mutant == "no-doubt":
        patch.object(Sends, "in_doubt", nothing_noted).start()
    if mutant == "no-look":
        patch.object(SentItems, "copies", nothing_found).start()


def main() -> int:
    """Fork a daemon for each line on standard input."""
    mutant, *program = sys.argv[1:]
    hurry()
    spoil(mutant)
    # Not buffered: a child would have the lines that follow as well.
    while line := os.read(0, 100):
        child = os.fork()
        if not child:
            os.dup2(2, 1)
            arm(line.decode().strip())
            sys.argv = program
            runpy.run_path(program[0], run_name="__main__")
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
