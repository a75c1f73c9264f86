"""The format ``template``: whatever the configuration writes, from the values of a mail.

A template is configuration, a mail is data. What is printed is escaped for the content type, and
JSON is looked through before it goes: a receiver never gets half of it.
"""

from __future__ import annotations

from typing import Final

import orjson

from mailbridge.event import AttachmentsMode, Link
from mailbridge.formats.native import NativeFormat
from mailbridge.formats.values import values_of
from mailbridge.model import Delivery
from mailbridge.template import Kind, Template, TemplateFailed

#: bytes of a body, beside what attachments come inline
OUTPUT: Final = 2 * 1024 * 1024


def kind_of(content_type: str) -> Kind:
    """Return how texts are escaped for a content type."""
    media = content_type.partition(";")[0].strip().lower()
    if media.endswith(("/json", "+json")):
        return "json"
    return "markup" if media.endswith(("/xml", "+xml", "/html")) else "text"


class TemplatedFormat:
    """Renders a template. Raises ``TemplateFault`` when it cannot be read."""

    def __init__(  # noqa: PLR0913 - settings, all by keyword
        self,
        source: str,
        content_type: str,
        *,
        place: str = "template",
        attachments_mode: AttachmentsMode = "meta",
        attachments_max: int = 0,
        link: Link | None = None,
    ) -> None:
        self._place = place
        self.content_type = content_type
        self._is_json = kind_of(content_type) == "json"
        self._template = Template(source, place=place, kind=kind_of(content_type))
        self._native = NativeFormat(attachments_mode, attachments_max, link=link)
        inline = attachments_max if attachments_mode == "inline" else 0
        self._most = OUTPUT + inline * 3 // 2

    def render(self, delivery: Delivery) -> tuple[bytes, str]:
        """Return the body. Raises ``TemplateFailed``, which names the template and its line."""
        text = self._template.render(values_of(self._native, delivery), most=self._most)
        body = text.encode()
        if self._is_json:
            self._check(body)
        return body, self.content_type

    def _check(self, body: bytes) -> None:
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise TemplateFailed(
                f"{self._place}: what it gives is no JSON,"
                f" at line {exc.lineno}, column {exc.colno} of the result",
                code="template.no_json",
                fix="write `{{ value | tojson }}` where a value stands without quotes.",
            ) from exc

    def judge(self, status: int, body: bytes) -> None:
        """Leave it to the status."""
        del status, body
