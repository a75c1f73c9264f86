"""What ``test-mailbox`` asks by the control socket: ``expect-test`` and ``test-state``.

It announces a test mail before it sends it. From then on the daemon knows the mail for what it is
when it fetches it, and tells the webhooks of its arrival instead of giving it to them as a mail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from mailbridge.config import Config, Mailbox
from mailbridge.config.probe_rules import able, told
from mailbridge.errors import PermanentError
from mailbridge.http.control import Command
from mailbridge.store.base import Expected, ProbeStore
from mailbridge.store.rows import ProbeRow

#: what is said to be the time that it has; nobody is told when it is over
WITHIN: Final = timedelta(minutes=5)
_NONCE: Final = re.compile(r"[a-z2-7]{26}")
_MESSAGE_ID: Final = re.compile(r"<[^<>\s]{3,250}>")


class Expecting:
    """The commands over one store. ``config`` gives the configuration in force."""

    def __init__(self, *, config: Callable[[], Config], store: ProbeStore) -> None:
        self._config = config
        self._store = store

    def commands(self) -> dict[str, Command]:
        """Return the commands by the names that the control socket knows."""
        return {"expect-test": self.expect, "test-state": self.state}

    async def expect(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Put down a test mail: ``mailbox``, ``nonce`` and ``message_id`` of ``test_mail.compose``.

        ``webhooks`` says who is told of it, by default whoever a probe would be told to. Has to be
        answered before the mail is sent. Answers with the ``webhooks``.
        """
        name, nonce, message_id = asked["mailbox"], str(asked["nonce"]), str(asked["message_id"])
        webhooks = self._webhooks(name, asked.get("webhooks"))
        if not _NONCE.fullmatch(nonce) or not _MESSAGE_ID.fullmatch(message_id):
            raise ValueError("nonce or message_id is not one of a test mail")
        expected = await self._store.expect(
            Expected(
                mailbox=name,
                nonce=nonce,
                message_id=message_id,
                webhooks=webhooks,
                scheduled=False,
                within=WITHIN,
            )
        )
        return {"expected": expected, "webhooks": list(webhooks)}

    def _webhooks(self, name: str, asked: list[str] | None) -> tuple[str, ...]:
        config = self._config()
        if name not in config.mailboxes:
            raise PermanentError(f"no mailbox is called {name}", code="control.no_mailbox")
        if asked is None:
            return told(name, config)
        every = able(config.webhooks)
        wrong = [hook for hook in asked if hook not in every]
        if wrong:
            raise PermanentError(
                f"no webhook of this name can be told of a test: {', '.join(wrong)}",
                code="control.no_webhook",
                fix=f"name one whose format is mailbridge or cloudevents: {', '.join(every)}",
            )
        return tuple(asked)

    async def state(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return how far the test mail of a ``mailbox`` with this ``nonce`` has come.

        ``test`` is nothing when there is none of that name.
        """
        row = await self._store.probe(asked["mailbox"], asked["nonce"])
        return {"test": None if row is None else state_of(row)}


def state_of(row: ProbeRow) -> dict[str, Any]:
    """Return how far a test mail has come: JSON all through. ``message`` is its webhook-id."""
    return {
        "mailbox": row.mailbox,
        "message_id": row.message_id,
        "message": row.message,
        "begun_at": text(row.begun_at),
        "seen_at": text(row.seen_at),
        "delivered_at": text(row.delivered_at),
        "webhooks": [
            {
                "webhook": one.webhook,
                "state": one.state,
                "delivered_at": text(one.delivered_at),
                "attempts": one.attempts,
                "reason": one.reason,
            }
            for one in row.answers
        ],
    }


def text(moment: datetime | None) -> str | None:
    """Return a moment as answers have it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None


def author(mailbox: Mailbox) -> str:
    """Return whom a mailbox sends as when nobody says."""
    own = mailbox.address.casefold()
    allowed = mailbox.send.send_as if mailbox.send is not None else ()
    return next((one for one in allowed if one.casefold() == own), (*allowed, mailbox.address)[0])
