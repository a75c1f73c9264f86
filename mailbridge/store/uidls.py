"""Which UIDLs of a POP3 mailbox were dealt with: that set is the checkpoint.

POP3 has no number to draw a line at, so each UIDL is remembered for as long as the server lists
it, and for 30 days more: a server that lists nothing for once, or a mailbox that is being
moved, must not make every old mail new.

Every function works inside the transaction of its ``connection`` and commits nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from mailbridge.model import Batch, MessageRef
from mailbridge.store.dialect import insert
from mailbridge.store.driver import among
from mailbridge.store.scan import storable
from mailbridge.store.tables import Kept, messages, uidls

#: microseconds for which a UIDL is remembered after the server has stopped listing it
REMEMBERED: Final = 30 * 86_400 * 1_000_000

_OURS: Final = sa.and_(
    uidls.c.mailbox == sa.bindparam("of_mailbox", type_=sa.Text),
    uidls.c.folder == sa.bindparam("of_folder", type_=sa.Text),
)
_THESE: Final = sa.and_(_OURS, among(uidls.c.uidl, "listed"))
_BACK: Final = uidls.update().where(_THESE, uidls.c.gone_at.is_not(None)).values(gone_at=None)
_GONE: Final = (
    uidls.update()
    .where(_THESE, uidls.c.gone_at.is_(None))
    .values(gone_at=sa.bindparam("at", type_=sa.BigInteger))
)
_FORGET: Final = uidls.delete().where(_THESE)
_KNOWN: Final = sa.select(uidls.c.uidl, uidls.c.gone_at).where(_OURS)


def known(connection: sa.Connection, mailbox: str, folder: str) -> dict[str, bool]:
    """See ``IntakeStore.uidls``."""
    ours = {"of_mailbox": mailbox, "of_folder": storable(folder)}
    return {uidl: at is not None for uidl, at in connection.execute(_KNOWN, ours)}


def write(connection: sa.Connection, batch: Batch, now: int) -> None:
    """Write what a batch says about UIDLs; one that is there again is no longer gone.

    A gap that vanished is forgotten: should the server list it after all, it is new, and is
    fetched. Everything else that vanishes was dealt with and stays known.
    """
    met = [message.ref for message in batch.messages] + [gap.ref for gap in batch.gaps]
    met += [ref for ref, _ in batch.known]
    seen = {storable(uidl) for uidl in batch.before} | _uidls(met)
    ours = {"of_mailbox": batch.mailbox, "of_folder": storable(batch.folder)}
    if gone := {storable(uidl) for uidl in batch.gone} - seen:
        connection.execute(_GONE, ours | {"listed": sorted(gone), "at": now})
    if lost := _uidls(batch.vanished) - seen:
        connection.execute(_FORGET, ours | {"listed": sorted(lost)})
    if seen:
        # In one order everywhere, or two hosts could wait for each other.
        listed = sorted(seen)
        connection.execute(_BACK, ours | {"listed": listed})
        rows = [
            {"mailbox": batch.mailbox, "folder": storable(batch.folder), "uidl": uidl}
            for uidl in listed
        ]
        connection.execute(insert(connection.dialect.name, uidls).on_conflict_do_nothing(), rows)


def _uidls(refs: Iterable[MessageRef]) -> set[str]:
    return {storable(ref.uidl) for ref in refs if ref.protocol == "pop3"}


def purge(connection: sa.Connection, now: int, limit: int) -> int:
    """Forget those that the server stopped listing long ago; returns how many, ``limit`` at most.

    The place of the message goes with its UIDL, once retention has left nothing else of it.
    """
    old = connection.execute(
        sa.select(uidls.c.mailbox, uidls.c.folder, uidls.c.uidl)
        .where(sa.text("gone_at IS NOT NULL"), uidls.c.gone_at < now - REMEMBERED)
        .order_by(uidls.c.gone_at)
        .limit(limit)
    ).all()
    for mailbox, folder, uidl in old:
        connection.execute(
            messages.delete().where(
                messages.c.mailbox == mailbox,
                messages.c.folder == folder,
                messages.c.uidvalidity == 0,
                messages.c.uid == 0,
                messages.c.uidl == uidl,
                messages.c.kept == Kept.PLACE,
            )
        )
        connection.execute(
            uidls.delete().where(
                uidls.c.mailbox == mailbox, uidls.c.folder == folder, uidls.c.uidl == uidl
            )
        )
    return len(old)


def lists(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that the UIDL of a row of ``table`` is still known."""
    return sa.exists().where(
        uidls.c.mailbox == table.c.mailbox,
        uidls.c.folder == table.c.folder,
        uidls.c.uidl == table.c.uidl,
    )
