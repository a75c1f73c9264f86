"""One template: read when the configuration is, rendered for each mail.

It sees four names: ``mail`` (what it says, flat), ``fields`` (what the route extracted), ``route``
(its name) and ``event`` (the whole event of format ``mailbridge``). What a template prints cannot
break what it is printed into: a text is escaped for JSON, or for XML and HTML, by the content type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from jinja2 import TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError

from mailbridge.errors import TemporaryError
from mailbridge.template.budget import WORK, Exceeded, budget
from mailbridge.template.sandbox import Sandbox, as_json, as_markup, as_text

#: characters of a template
SOURCE: Final = 64 * 1024
#: bytes that a template may give, unless its format says otherwise
OUTPUT: Final = 2 * 1024 * 1024
#: what a template is given
NAMES: Final = ("mail", "fields", "route", "event")
#: what `mail` has; whatever the mail, each of them is there
MAIL_KEYS: Final = (
    *("id", "mailbox", "address", "folder", "received_at", "accepted_at", "stale", "size"),
    *("raw_sha256", "from", "from_name", "to", "cc", "reply_to", "subject", "date", "message_id"),
    *("text", "html", "headers", "attachments", "authenticated", "automatic"),
    *("parse_status", "limits_hit"),
)
Kind = Literal["json", "markup", "text"]

_FINALIZE: Final = MappingProxyType({"json": as_json, "markup": as_markup, "text": as_text})
_PIECE: Final = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_SHOWN: Final = 60


class TemplateFault(Exception):  # noqa: N818 - the configuration has faults, and this is one
    """A template cannot be used; ``line`` and ``column`` count from 1 within it."""

    def __init__(self, message: str, line: int, column: int = 1) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class TemplateFailed(TemporaryError):  # noqa: N818 - as the neighbours in errors.py
    """A template fails on this mail. Mending the configuration delivers it."""


class Template:
    """A template that can be rendered from several threads at once.

    ``place`` is its key in the configuration, for people. ``lenient``: what a mail does not have
    is empty; else it is a failure. Raises ``TemplateFault``.
    """

    def __init__(
        self,
        source: str,
        *,
        place: str,
        kind: Kind = "text",
        lenient: bool = False,
    ) -> None:
        self._place = place
        self._environment = _environment(kind, lenient=lenient)
        if len(source) > SOURCE:
            raise TemplateFault(f"it is longer than {SOURCE} characters", 1)
        try:
            tree = self._environment.parse(source)
            _check_names(tree)
            self._template = self._environment.from_string(source)
        except TemplateSyntaxError as exc:
            message = _first_line(exc.message or "it cannot be read")
            column = _column(self._environment, source, exc.lineno)
            raise TemplateFault(message, exc.lineno, column) from exc
        except (SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as exc:
            raise TemplateFault("it is nested too deeply, or holds too long a number", 1) from exc

    def render(self, values: Mapping[str, Any], *, most: int = OUTPUT) -> str:
        """Return the text, at most ``most`` bytes of UTF-8. Raises ``TemplateFailed``.

        The reason names the template and the line, and nothing that stands in the mail.
        """
        try:
            return self._rendered(values, most)
        except Exception as exc:
            line = self._line(exc)
            where = f"{self._place}, line {line}" if line else self._place
            raise TemplateFailed(
                f"{where}: {_words(exc)}", code="template.failed", fix="mend the template."
            ) from exc

    def _rendered(self, values: Mapping[str, Any], most: int) -> str:
        pieces: list[str] = []
        size = 0
        context = self._template.new_context(dict(values))
        with budget(max(WORK, 8 * most)) as share:
            for piece in self._template.root_render_func(context):
                size += len(piece)
                share.spend(len(piece))
                if size > most:
                    break
                pieces.append(piece)
        text = "".join(pieces)
        if size > most or len(text.encode("utf-8", "surrogatepass")) > most:
            raise Exceeded(f"it gives more than {most} bytes")
        # A template can write a lone surrogate, and nothing else here can.
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")

    def _line(self, exc: BaseException) -> int | None:
        """Return the line of the template at which an exception began."""
        found, trace = None, exc.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals.get("__jinja_template__") is self._template:
                found = self._template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        return found


_environments: dict[tuple[Kind, bool], Sandbox] = {}


def _environment(kind: Kind, *, lenient: bool) -> Sandbox:
    """Return the environment, which all templates of its kind share: it is dear to make."""
    if (kind, lenient) not in _environments:
        _environments[kind, lenient] = Sandbox(_FINALIZE[kind], lenient=lenient)
    return _environments[kind, lenient]


def _check_names(tree: nodes.Template) -> None:
    """Refuse names that a template is never given: a slip shall not wait for a mail."""
    for name in sorted(meta.find_undeclared_variables(tree) - set(NAMES)):
        line = next((n.lineno for n in tree.find_all(nodes.Name) if n.name == name), 1)
        known = ", ".join(NAMES)
        raise TemplateSyntaxError(f"there is no `{name[:_SHOWN]}`; there are {known}", line)
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    if "mail" in own:
        return
    for node in tree.find_all(nodes.Getattr):
        of_mail = isinstance(node.node, nodes.Name) and node.node.name == "mail"
        if of_mail and node.attr not in MAIL_KEYS:
            known = ", ".join(MAIL_KEYS)
            message = f"there is no `mail.{node.attr[:_SHOWN]}`; there are {known}"
            raise TemplateSyntaxError(message, node.lineno)


def _column(environment: Sandbox, source: str, line: int) -> int:
    """Return where on its line a fault begins. Jinja2 tells the line alone.

    The first ``{{ … }}`` of the line that cannot be read by itself, else its first tag.
    """
    lines = source.splitlines() or [""]
    text = lines[min(line, len(lines)) - 1]
    for piece in _PIECE.finditer(text):
        try:
            _check_names(environment.parse(piece[0]))
        except TemplateSyntaxError:
            return piece.start() + 1
    starts = [place for place in (text.find("{%"), text.find("{{")) if place >= 0]
    return min(starts, default=0) + 1


def _first_line(message: str) -> str:
    return message.splitlines()[0][: 4 * _SHOWN].rstrip(".")


def _words(exc: BaseException) -> str:
    """Say what went wrong without a word of the mail: a value could stand in foreign words."""
    if isinstance(exc, Exceeded | SecurityError):
        return str(exc)
    if isinstance(exc, UndefinedError):
        return "it asks for something that this mail does not have"
    return f"it fails ({type(exc).__name__})"
