"""The alarm API of DIVERA 24/7, v1 (``/api/alarm``) and v2 (``/api/v2/alarms``).

The access key stands in the URL's query and in no body. An answer counts as success only when it
says so: DIVERA answers 200 to alarms that it did not raise, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from mailbridge.alarm import DIVERA_V2, divera
from mailbridge.formats.base import is_success
from mailbridge.formats.filling import Form, cut
from mailbridge.formats.native import JSON, NativeFormat
from mailbridge.formats.values import only_mails, values_of
from mailbridge.model import Deferred, Delivery, Outcome, Rejected

_TEXT: Final = 1000
_GROUPS: Final = 3


class DiveraFormat:
    """One alarm for each mail. ``path`` is that of the URL, which tells the version.

    ``written`` are the templates of the configuration by parameter, ``instructions`` how DIVERA
    is to read lists of v2 (``{"group": "name"}``). Raises ``TemplateFault``.
    """

    content_type = JSON

    def __init__(
        self,
        path: str,
        written: Mapping[str, str],
        instructions: Mapping[str, str],
        *,
        place: str = "divera.alarm",
    ) -> None:
        parameters = divera(path)
        self._is_v2 = parameters is DIVERA_V2
        self._form = Form(parameters, written, place=place)
        self._tells_groups = "notification_type" not in written
        self._instructions = {name: {"mapping": by} for name, by in instructions.items()}
        self._native = NativeFormat("none")

    def render(self, delivery: Delivery) -> tuple[bytes, str]:
        """Return the alarm as JSON."""
        only_mails(delivery, "divera")
        filled = self._form.fill(values_of(self._native, delivery))
        alarm = filled.values
        alarm.setdefault("title", "Alarm")
        if filled.note:
            room = _TEXT - len(filled.note) - 1
            alarm["text"] = f"{cut(alarm.get('text', ''), max(room, 1))}\n{filled.note}"[-_TEXT:]
        if not self._is_v2:
            return orjson.dumps(alarm), self.content_type
        if self._tells_groups and alarm.get("group"):
            alarm["notification_type"] = _GROUPS
        body: dict[str, Any] = {"Alarm": alarm}
        if self._instructions:
            body["instructions"] = self._instructions
        return orjson.dumps(body), self.content_type

    def judge(self, status: int, body: bytes) -> Outcome | None:
        """Believe ``success`` in the body; every other status speaks for itself."""
        if not is_success(status):
            return None
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            return Deferred(reason="the answer is none of DIVERA's: it is no JSON", status=status)
        said = answer.get("success") if isinstance(answer, dict) else None
        if said is True:
            return None
        if said is None:
            return Deferred(
                reason="the answer is none of DIVERA's: it has no `success`", status=status
            )
        if answer.get("errors"):
            return Rejected(
                reason="DIVERA refuses this alarm: success is false, with errors", status=status
            )
        return Deferred(reason="DIVERA raised no alarm: success is false", status=status)
