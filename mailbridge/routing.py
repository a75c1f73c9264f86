"""A mailbox's routes at work: asked about a batch before it is committed, their words in the log.

Nothing here can lose a mail or wake anyone by mistake: a mail that we fail to judge is held at
every webhook that its mailbox's routes name, and the rest of the batch goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import structlog

from mailbridge.model import Batch, RawMessage, Ruling
from mailbridge.parse.lately import lately
from mailbridge.route.decide import Router

log = structlog.get_logger()

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What a batch is told about where its mails go; see ``Batch`` for the words.

    Without a ``router`` the mailbox has no routes, and every sink gets every mail. ``run`` runs
    what blocks in a worker thread. ``listeners`` are the sinks that hear of what the store finds
    out, by event type.
    """

    router: Router | None = None
    fallbacks: Mapping[str, float] = field(default_factory=lambda: _NONE)
    listeners: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NONE)
    run: Callable[..., Any]
    now: Callable[[], datetime]
    #: is shown the mails before they are accepted
    heed: Callable[[Sequence[RawMessage]], Awaitable[None]] | None = None

    async def ruled(self, batch: Batch) -> Batch:
        """Return the batch with what the routes say of each of its messages."""
        rulings: Mapping[str, Ruling] = _NONE
        if self.heed is not None:
            await self.heed(batch.messages)
        if self.router is not None and batch.messages:
            rulings = await self.run(_rule, self.router, batch.messages, self.now())
        return replace(batch, rulings=rulings, fallbacks=self.fallbacks, listeners=self.listeners)


def _rule(router: Router, messages: Sequence[RawMessage], now: datetime) -> Mapping[str, Ruling]:
    return {message.ref.message_id: _ruling(router, message, now) for message in messages}


def _ruling(router: Router, message: RawMessage, now: datetime) -> Ruling:
    ref = message.ref
    try:
        ruling = router.rule(lately.parse(message.raw), received_at=message.received_at, now=now)
    except Exception:
        # A bug of ours. Who knows whether it is the alarm: it is kept, and told to a person.
        log.exception(
            "message.routing_failed", mailbox=ref.mailbox, folder=ref.folder, id=ref.message_id
        )
        return router.failed()
    say(ref.mailbox, ref.message_id, ruling)
    return ruling


def say(mailbox: str, message: str, ruling: Ruling) -> None:
    """Write one line about a mail: loud enough to be seen if nobody gets it."""
    if not any(step.verdict == "deliver" for step in ruling):
        verdicts = {step.route: step.verdict for step in ruling}
        log.info("message.not_delivered", mailbox=mailbox, id=message, routes=verdicts)
    # Reasons quote senders and subjects; `mailbridge trace` has them, too.
    steps = [f"{step.route}: {step.verdict} ({step.reason})" for step in ruling]
    log.debug("message.routed", mailbox=mailbox, id=message, routes=steps)


def counted(rulings: Mapping[str, Ruling]) -> dict[str, int]:
    """Return how many mails each route took; those that none took stand under ``none``."""
    found: Counter[str] = Counter()
    for ruling in rulings.values():
        taken = [step.route for step in ruling if step.verdict != "passed_by"]
        found.update(taken or ["(none)"])
    return dict(found)
