"""What somebody asks to be sent, as it was written; what can be wrong with it; what it became."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mailbridge.errors import PermanentError
from mailbridge.model import Via

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


#: what becomes of a mail, as clients are told
State = Literal["queued", "sending", "in_doubt", "sent", "partly", "failed", "held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who hands a mail over. With a ``key`` the same mail is taken once, however often it comes.

    ``digest`` is of what the client said, and goes with the key.
    """

    via: Via
    client: str = ""
    key: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A mail that is durable. ``known``: the client's key stood for it already."""

    id: str
    message_id: str
    mailbox: str
    state: State = "queued"
    known: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """A whole mail, and what was said beside it.

    ``sender`` is an address or the name of a mailbox. ``recipients`` are instead of To, Cc and
    Bcc, or beside them (``with_header``). ``form`` is as in ``compose.accept``: a ``unix`` one
    may lack an author and come from a local user. ``name`` is for a From that is missing.
    """

    raw: bytes = field(repr=False)
    sender: str = ""
    recipients: tuple[str, ...] = ()
    with_header: bool = False
    form: Literal["strict", "unix"] = "strict"
    name: str = ""
