"""Run the daemon so that it dies (SIGKILL) at a named step of the store.

    STEP=claim EVENT=msg_… python -m tests.campaigns.stepped PROGRAM ARGUMENTS…

Only the steps that nobody can see from outside are here; a receiver sees the others. ``EVENT`` is
the delivery at which it happens.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from mailbridge.model import Delivery, Resolution
from mailbridge.store import outcomes, outgoing
from mailbridge.store.store import Store

STEPS = ("claim", "claimed", "resolve", "resolved")


def die_with(deliveries: Sequence[Delivery]) -> None:
    """Die, if the one that is waited for is among these."""
    if any(one.event_id == os.environ["EVENT"] for one in deliveries):
        os.kill(os.getpid(), signal.SIGKILL)


def of(resolutions: Sequence[Resolution]) -> list[Delivery]:
    """Return what was resolved."""
    return [one.delivery for one in resolutions]


def arm(step: str) -> None:
    """Make the store deadly at one step."""
    claim, resolve = outgoing.claim, outcomes.resolve
    claimed, resolved = Store.claim, Store.resolve

    def dying_claim(*arguments: Any) -> list[Delivery]:
        found = claim(*arguments)
        die_with(found)
        return found

    async def dying_claimed(self: Store, sink: str, **asked: Any) -> Sequence[Delivery]:
        found = await claimed(self, sink, **asked)
        die_with(found)
        return found

    def dying_resolve(*arguments: Any) -> list[Resolution]:
        found = resolve(*arguments)
        die_with(of(found))
        return found

    async def dying_resolved(
        self: Store, resolutions: Sequence[Resolution]
    ) -> Sequence[Resolution]:
        found = await resolved(self, resolutions)
        die_with(of(found))
        return found

    faults: dict[str, tuple[Any, str, Any]] = {
        "claim": (outgoing, "claim", dying_claim),
        "claimed": (Store, "claim", dying_claimed),
        "resolve": (outcomes, "resolve", dying_resolve),
        "resolved": (Store, "resolve", dying_resolved),
    }
    if step:
        patch.object(faults[step][0], faults[step][1], faults[step][2]).start()


if __name__ == "__main__":
    arm(os.environ.get("STEP", ""))
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
