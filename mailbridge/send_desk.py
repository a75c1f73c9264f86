"""What the commands ask of the outbox by the control socket: ``send`` and ``send-status``."""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from mailbridge.compose.draft import Fault, Handed, Origin, Taken, Unfit
from mailbridge.http.control import Command
from mailbridge.http.send_models import SendRequest
from mailbridge.outbox import Outbox

#: in whose name commands use keys: no client of ``http.api_tokens`` can have it
_COMMANDS = "(commands)"


class SendDesk:
    """The commands over one outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def commands(self) -> dict[str, Command]:
        """Return the commands by the names that the control socket knows."""
        return {"send": self.send, "send-status": self.status}

    async def send(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take a mail: a ``request`` as ``/v1/send`` has it, or a whole one in ``raw_base64``.

        The same ``key`` gives the same mail again: who hears no answer asks once more.
        """
        said = {name: value for name, value in asked.items() if name != "key"}
        origin = Origin(
            via="sendmail" if asked["via"] == "sendmail" else "cli",
            client=_COMMANDS,
            key=str(asked["key"]),
            digest=hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest(),
        )
        taken = await self._taken(asked, origin)
        return {
            "id": taken.id,
            "message_id": taken.message_id,
            "mailbox": taken.mailbox,
            "state": taken.state,
        }

    async def _taken(self, asked: Mapping[str, Any], origin: Origin) -> Taken:
        if "raw_base64" not in asked:
            try:
                request = SendRequest.model_validate(asked["request"])
            except ValidationError as error:
                raise Unfit(_faults(error)) from None
            return await self._outbox.send(request.draft(), origin)
        handed = Handed(
            raw=binascii.a2b_base64(asked["raw_base64"]),
            sender=asked.get("sender", ""),
            recipients=tuple(asked.get("to", ())),
            with_header=bool(asked.get("with_header")),
            form="unix",
            name=asked.get("name", ""),
        )
        return await self._outbox.hand_over(handed, origin)

    async def status(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what became of the mail ``id``; nothing when there is none."""
        return {"send": await self._outbox.status(asked["id"])}


def _faults(error: ValidationError) -> list[Fault]:
    return [
        Fault(where=".".join(str(part) for part in one["loc"]), detail=one["msg"])
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
