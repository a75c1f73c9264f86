"""The external HTTP interface of Alamos FE2, data format v2 (``/rest/external/http/alarm/v2``).

The key goes into the body, as FE2 wants it; whoever sends has to keep it out of what is kept of
answers. FE2 answers 200 with ``NOT_OK``, 406 when the input is switched off and 409 for what
conflicts, among which is an alarm that it already has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson

from mailbridge.alarm import ALAMOS, Parameter
from mailbridge.formats.base import is_success
from mailbridge.formats.filling import Form
from mailbridge.formats.native import JSON, NativeFormat
from mailbridge.formats.values import only_mails, values_of
from mailbridge.model import Deferred, Delivered, Delivery, Outcome

_KNOWN: Final = re.compile(
    r"external_?id|bereits|already|schon vorhanden|duplicate|doppelt", re.IGNORECASE
)
_PLACE: Final = ("street", "house", "city")
_WORDS: Final = ("externalId", "keyword", "keyword_description", "message")


class AlamosFormat:
    """One alarm for each mail. ``authorization`` is a secret and in no repr.

    ``written`` and ``custom`` are templates by name. Raises ``TemplateFault``.
    """

    content_type = JSON

    def __init__(
        self,
        authorization: str,
        written: Mapping[str, str],
        custom: Mapping[str, str],
        *,
        sender: str = "mailbridge",
        place: str = "alamos",
    ) -> None:
        self._authorization = authorization
        self._sender = sender
        self._form = Form(ALAMOS, written, place=f"{place}.alarm")
        self._custom = Form(dict.fromkeys(custom, Parameter()), custom, place=f"{place}.custom")
        self._native = NativeFormat("none")

    def render(self, delivery: Delivery) -> tuple[bytes, str]:
        """Return the alarm as JSON."""
        only_mails(delivery, "alamos-fe2")
        values = values_of(self._native, delivery)
        filled, custom = self._form.fill(values), self._custom.fill(values)
        found = filled.values
        data: dict[str, Any] = {name: found[name] for name in _WORDS if name in found}
        data.setdefault("keyword", "Alarm")
        data["message"] = [*data.get("message", []), *filter(None, [filled.note, custom.note])]
        location: dict[str, Any] = {name: found[name] for name in _PLACE if name in found}
        if "lat" in found and "lng" in found:
            location["coordinate"] = [found["lng"], found["lat"]]
        if location:
            data["location"] = location
        data["units"] = [{"address": str(unit)} for unit in found.get("units", [])]
        data["custom"] = custom.values
        body = {
            "type": "ALARM",
            # Of the mail and not of the attempt: FE2 may tell a late alarm by it.
            "timestamp": values["mail"]["accepted_at"][:19] + "+00:00",
            "sender": self._sender,
            "authorization": self._authorization,
            "data": data,
        }
        return orjson.dumps(body), self.content_type

    def judge(self, status: int, body: bytes) -> Outcome | None:
        """Believe ``OK`` in the body alone; 409 is well only for an alarm that FE2 has."""
        if status == HTTPStatus.NOT_ACCEPTABLE:
            return Deferred(reason="FE2's alarm input is switched off (406)", status=status)
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        said = answer if isinstance(answer, dict) else {}
        if status == HTTPStatus.CONFLICT:
            if _KNOWN.search(str(said.get("error", ""))[:1000]):
                return Delivered(status=status)
            # It may be about this alarm alone, so it must not hold up others.
            reason = "FE2 has a conflict with this alarm (409): it may have it already"
            return Deferred(reason=reason, status=status, sink_fault=False)
        if not is_success(status) or said.get("status") == "OK":
            return None
        if said.get("status") == "NOT_OK":
            return Deferred(reason="FE2 raised no alarm: its answer says NOT_OK", status=status)
        return Deferred(reason="the answer is none of FE2's: it has no `status`", status=status)
