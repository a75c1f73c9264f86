"""The ways in for outgoing mail meet here: API, commands and relay hand over, the store keeps.

::

    API, send ──────────── Draft ──► check, write ──┐
                                                    ├──► Outgoing ──► store.sends.accept ──► wake
    API, sendmail, relay ─ bytes ──► take_apart,  ──┘
                                     complete

Who may send as whom is decided here, before a server is asked. The envelope's sender is always the
mailbox's own address, whatever stands in From: that is whom Exchange lets submit without a further
permission, and where reports that a mail did not arrive come back to be read.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import structlog

from mailbridge.compose import accept, build
from mailbridge.compose.addresses import read
from mailbridge.compose.draft import (
    Built,
    Draft,
    Fault,
    Handed,
    Origin,
    State,
    Taken,
    Unfit,
    Written,
)
from mailbridge.config import Config, Mailbox
from mailbridge.model import Outgoing
from mailbridge.senders import Senders
from mailbridge.store.base import SendStore
from mailbridge.store.rows import SendRow

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: characters from which on a mail is put together in a thread
_LARGE: Final = 64 * 1024


def new_id() -> str:
    """Return ``out_`` and 26 base32 characters (130 bits) by chance."""
    return "out_" + base64.b32encode(secrets.token_bytes(17)).decode("ascii")[:26]


class Outbox:
    """Takes outgoing mail; when it has answered, a crash or a power cut loses nothing."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        store: SendStore,
        wake: Callable[[str], None],
        now: Callable[[], datetime],
        run: Callable[..., Awaitable[Any]],
    ) -> None:
        """``wake`` tells the dispatcher of a mailbox; ``run`` runs what takes long in a thread."""
        self._config = config
        self._store = store
        self._wake = wake
        self._now = now
        self._run = run

    async def send(self, draft: Draft, origin: Origin) -> Taken:
        """Compose a mail and keep it.

        Raises ``Unfit`` with every fault, ``PermanentError`` (``send.key_conflict``) when the key
        stands for another mail, ``StoreFull`` or ``TemporaryError`` when nothing was kept.
        """
        made = await self._made(self._composed, draft, size=draft.size)
        return await self._keep(*made, origin)

    async def hand_over(self, handed: Handed, origin: Origin) -> Taken:
        """Keep a mail that is whole, but for what it lacks. Raises as ``send``."""
        made = await self._made(self._completed, handed, size=len(handed.raw))
        return await self._keep(*made, origin)

    async def status(self, name: str) -> dict[str, Any] | None:
        """Return what became of a mail by its id, as a document; ``None`` when there is none."""
        row = await self._store.status(name)
        return None if row is None else status_of(row)

    async def _made(self, make: Callable[..., T], given: object, *, size: int) -> T:
        if size < _LARGE:
            return make(given)
        made: T = await self._run(make, given)
        return made

    def _composed(self, draft: Draft) -> tuple[str, str, Built]:
        faults: list[Fault] = []
        letter = build.check(draft, faults)
        chosen = Senders(self._config()).choose(draft.sender, draft.mailbox, "from", faults)
        if chosen is None or faults:
            raise Unfit(faults)
        name, author = chosen
        id_ = new_id()
        return name, id_, build.write(letter, sender=author, mark=id_, date=self._now())

    def _completed(self, handed: Handed) -> tuple[str, str, Built]:
        faults: list[Fault] = []
        whole = accept.take_apart(handed.raw, faults, form=handed.form)
        given = [
            one
            for number, text in enumerate(handed.recipients)
            for one in read(Written(text), f"to.{number}", faults)
        ]
        if handed.with_header or not handed.recipients:
            given += accept.recipients_of(whole, faults)
        recipients = accept.check_recipients(given, faults)
        chosen = Senders(self._config()).of_whole(
            whole.author,
            handed.sender,
            display=handed.name or whole.unqualified,
            local=handed.form == "unix",
            faults=faults,
        )
        if chosen is None or faults:
            raise Unfit(faults)
        name, author = chosen
        id_ = new_id()
        return (
            name,
            id_,
            accept.complete(
                whole, sender=author, recipients=recipients, mark=id_, date=self._now()
            ),
        )

    async def _keep(self, name: str, id_: str, built: Built, origin: Origin) -> Taken:
        mailbox = self._config().mailboxes[name]
        _check_bounds(built, mailbox)
        mail = Outgoing(
            id=id_,
            mailbox=name,
            sender=mailbox.address,
            recipients=built.recipients,
            message_id=built.message_id,
            raw=built.raw,
            via=origin.via,
            client=origin.client,
            key=origin.key,
            digest=origin.digest,
        )
        accepted = await self._store.accept(mail)
        if accepted.known:
            return await self._known(accepted.id)
        self._wake(name)
        log.info(
            "send.accepted",
            send=id_,
            mailbox=name,
            via=origin.via,
            client=origin.client,
            recipients=len(mail.recipients),
            size=len(mail.raw),
        )
        return Taken(id=id_, message_id=mail.message_id, mailbox=name)

    async def _known(self, name: str) -> Taken:
        row = await self._store.status(name)
        if row is None:
            raise LookupError(f"the store names {name} and does not know it")
        return Taken(
            id=row.id,
            message_id=f"<{row.message_id}>",
            mailbox=row.mailbox,
            state=state_of(row),
            known=True,
        )


def _check_bounds(built: Built, mailbox: Mailbox) -> None:
    faults = []
    if len(built.raw) > build.LARGEST:
        detail = f"it has {len(built.raw):,} bytes as it is sent, and {build.LARGEST:,} are taken"
        faults.append(Fault(where="message", detail=detail, code="send.too_large"))
    most = mailbox.send.limits.recipients_per_day if mailbox.send is not None else None
    if most is not None and len(built.recipients) > most:
        detail = f"the mailbox sends to {most} recipients a day"
        faults.append(Fault(where="to", detail=detail))
    if faults:
        raise Unfit(faults)


def state_of(row: SendRow) -> State:
    """Return what clients are told of a mail."""
    if row.state in {"queued", "deferred"}:
        return "queued" if row.in_doubt_at is None else "in_doubt"
    if row.state == "sent":
        refused = any(one.state == "refused" for one in row.recipients)
        return "partly" if refused else "sent"
    if row.state in {"sending", "held"}:
        return "sending" if row.state == "sending" else "held"
    return "failed"


def status_of(row: SendRow) -> dict[str, Any]:
    """Return what became of a mail as a document: JSON all through."""
    return {
        "id": row.id,
        "message_id": f"<{row.message_id}>",
        "mailbox": row.mailbox,
        "state": state_of(row),
        "reason": row.reason,
        "via": row.via,
        "accepted_at": _text(row.accepted_at),
        "ended_at": _text(row.ended_at),
        "next_attempt_at": _text(row.due_at),
        "attempts": row.attempts,
        "reply": row.reply,
        "size": row.size,
        "recipients": [
            {"address": one.address, "state": one.state, "code": one.code, "reply": one.reply}
            for one in row.recipients
        ],
        "bounces": [
            {"recipient": one.recipient, "at": _text(one.at), "report": one.report}
            for one in row.bounces
        ],
    }


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None
