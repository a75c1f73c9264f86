"""What an SMTP server has said, and what was made of it: the nouns of ``smtp_rules``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

#: ``deferred``: kept and tried again; ``rejected``: this mail or recipient is given up
Weight = Literal["deferred", "rejected"]
#: what a refusal is about. Of the same mail, other recipients may pass a refused ``recipient``;
#: nothing of the ``mailbox`` goes out for now, and nothing through this ``server``
Scope = Literal["recipient", "message", "mailbox", "server"]
#: what was being said when the reply came
Phase = Literal["connect", "sign_in", "mail", "recipient", "data"]

#: characters of a reply that are kept for people to read
WORDS: Final = 400
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
#: a server may repeat the credential
_SECRET_LIKE = re.compile(r"[A-Za-z0-9+/=_.\-]{80,}")
_ENHANCED = re.compile(r"\A([245]\.\d{1,3}\.\d{1,3})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply of the server; its lines are joined by line feeds."""

    code: int
    text: str

    @property
    def ok(self) -> bool:
        """Whether the server did what it was asked."""
        return 200 <= self.code < 300  # noqa: PLR2004 - RFC 5321, 4.2.1

    @property
    def enhanced(self) -> str:
        """The code of RFC 3463, as in ``5.7.60``; empty when there is none."""
        match = _ENHANCED.match(self.text)
        return match[1] if match else ""

    @property
    def shown(self) -> str:
        """The reply on one line, bounded, with nothing in it that looks like a token."""
        line = _CONTROL.sub(" ", f"{self.code} {self.text}").strip()
        return _SECRET_LIKE.sub("[removed]", line)[:WORDS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Why something was refused, and what follows. ``retry_after`` is in seconds.

    ``person``: somebody has to act, so that trying again every minute is no use. ``reply`` is
    empty for what was found out here, before the server was asked.
    """

    weight: Weight
    scope: Scope
    code: str
    cause: str
    fix: str = ""
    retry_after: float | None = None
    person: bool = False
    reply: Reply | None = None

    @property
    def reason(self) -> str:
        """Cause and reply in one sentence."""
        return f"{self.cause}: {self.reply.shown}" if self.reply is not None else self.cause
