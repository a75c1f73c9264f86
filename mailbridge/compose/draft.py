"""What somebody asks to be sent, as it was written; and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mailbridge.errors import PermanentError

#: what ``Auto-Submitted`` says (RFC 3834, section 5): nothing, a machine's mail, its answer
Auto = Literal["no", "generated", "replied"]


class Written(NamedTuple):
    """An address as it was written: alone, with its ``name``, or as in a header."""

    address: str
    #: with a name, ``address`` is nothing but an address
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """An attachment. With a ``content_id`` the html can show it (``cid:``)."""

    content_base64: str = field(repr=False)
    filename: str = ""
    content_type: str = ""
    content_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A mail to be composed. ``sender`` is an address, or the name of a mailbox.

    ``mailbox`` says which one sends when several may send as that address.
    """

    sender: Written
    mailbox: str = ""
    to: tuple[Written, ...] = ()
    cc: tuple[Written, ...] = ()
    bcc: tuple[Written, ...] = ()
    reply_to: tuple[Written, ...] = ()
    subject: str = ""
    text: str | None = field(default=None, repr=False)
    html: str | None = field(default=None, repr=False)
    files: tuple[File, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    auto: Auto = "generated"

    @property
    def size(self) -> int:
        """Characters of what can be large."""
        texts = len(self.text or "") + len(self.html or "")
        return texts + sum(len(one.content_base64) for one in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong; ``where`` is a path like ``to.3``. Never repeats what was sent."""

    where: str
    detail: str
    code: str = "send.invalid"


class Unfit(PermanentError):  # noqa: N818 - a finding about what somebody asks for
    """A mail cannot be sent as it is; ``faults`` names everything that is wrong."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        """``code`` is that of the faults when they are of one kind."""
        kinds = {fault.code for fault in faults}
        code = kinds.pop() if len(kinds) == 1 else "send.invalid"
        super().__init__("; ".join(f"{one.where}: {one.detail}" for one in faults), code=code)
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A mail as it will be sent. ``recipients`` are the envelope's, each once."""

    raw: bytes = field(repr=False)
    message_id: str
    recipients: tuple[str, ...]
