"""What the running daemon does for ``test-mailbox``, and how a test mail is set on its way.

What a person consented to is in the hands of the daemon alone while it runs: a command that
refreshed it beside the daemon would end the daemon's own. So those mailboxes are diagnosed there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from mailbridge import test_mail
from mailbridge.config import Config
from mailbridge.diagnose.round_trip import Ping, Trip
from mailbridge.diagnose.smtp import Letter
from mailbridge.diagnose.steps import Diagnosis
from mailbridge.errors import PermanentError
from mailbridge.http.control import Command
from mailbridge.sign_in.base import SignIn
from mailbridge.store.base import GrantStore

#: asks who keeps the store: ``expect-test`` and ``test-state`` of ``mailbridge.expecting``
Ask = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class DiagnosisDesk:
    """The command ``diagnose``. ``config`` gives the configuration in force."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        sign_in: Callable[[str], SignIn],
        grants: GrantStore,
        expecting: Mapping[str, Command],
    ) -> None:
        self._config = config
        self._sign_in = sign_in
        self._grants = grants
        self._expecting = expecting

    def commands(self) -> dict[str, Command]:
        """Return the commands by the names that the control socket knows."""
        return {"diagnose": self.diagnose}

    async def diagnose(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Diagnose a ``mailbox`` with the sign-in that is in use; every step as ``test-mailbox``.

        ``language`` is en or de. With ``send_to`` a test mail goes to that address.
        """
        name, to = asked["mailbox"], asked.get("send_to")
        config = self._config()
        if name not in config.mailboxes:
            raise PermanentError(
                f"the running daemon knows no mailbox {name}",
                code="control.no_mailbox",
                fix="reload it: systemctl reload mailbridge",
            )

        async def ask(command: str, what: Mapping[str, Any]) -> Mapping[str, Any]:
            return await self._expecting[command](what)

        diagnosis = Diagnosis(
            config=config,
            name=name,
            sign_in=self._sign_in(name),
            run=asyncio.to_thread,
            language="de" if asked.get("language") == "de" else "en",
            grants=self._grants,
            webhooks=True,
            trip=trip_to(to, config=config, name=name, ask=ask) if to else None,
        )
        steps = [asdict(step) async for step in diagnosis.steps()]
        return {"steps": steps, "round_trip": diagnosis.round_trip}


def trip_to(to: str, *, config: Config, name: str, ask: Ask, ping: Ping | None = None) -> Trip:
    """Compose a test mail of a mailbox. Without a daemon there is a ``ping``.

    It is announced for the mailbox that it goes to, so that whoever fetches it, now or later,
    takes it for the test that it is; without a daemon the webhooks are not told a second time.
    """
    mail = test_mail.compose(sender=config.mailboxes[name].address, to=to, at=datetime.now(UTC))
    watched = _watched(config, name, to)
    about = {"mailbox": watched, "nonce": mail.nonce}

    async def announce() -> None:
        if watched is not None:
            more: dict[str, Any] = {} if ping is None else {"webhooks": []}
            await ask("expect-test", {**about, "message_id": mail.message_id, **more})

    async def state() -> Mapping[str, Any] | None:
        answer = await ask("test-state", about)
        found: Mapping[str, Any] | None = answer["test"]
        return found

    return Trip(
        letter=Letter(to=to, message_id=mail.message_id, raw=mail.raw),
        announce=announce,
        state=state if ping is None else None,
        ping=ping,
    )


def _watched(config: Config, name: str, to: str) -> str | None:
    """Return the mailbox of this configuration that a mail to an address arrives in."""
    found = [
        other
        for other, box in config.mailboxes.items()
        if box.address.casefold() == to.casefold() and box.fetch.protocol != "none"
    ]
    return name if name in found else next(iter(found), None)
