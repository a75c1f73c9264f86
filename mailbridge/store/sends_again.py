"""What a person may do to an outgoing mail that was given up or is held: send it after all, or not.

Whoever has the mail for sure never gets it again. What is in doubt stays so, so that it is looked
for before anything is sent; only what becomes of it when it is not found, the person has decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from mailbridge.errors import PermanentError
from mailbridge.store.driver import among
from mailbridge.store.tables import deliveries, recipients, send_raw, sends

_WITH_BYTES: Final = sa.select(send_raw.c.send).where(among(send_raw.c.send))
_OPENED: Final = (
    sends.update()
    .where(among(sends.c.pk))
    .values(
        ended_at=None,
        released=sa.case((sends.c.in_doubt_at.is_not(None), 1), else_=sends.c.released),
    )
)
_REFUSED: Final = (
    recipients.update()
    .where(among(recipients.c.send), recipients.c.state == "refused")
    .values(state="open", at=None)
)
_UNSURE: Final = (
    deliveries.update()
    .where(
        among(deliveries.c.pk),
        deliveries.c.send.in_(sa.select(sends.c.pk).where(sends.c.in_doubt_at.is_not(None))),
    )
    .values(last_reason="dropped by a person; the server may have taken it before")
)
_OVER: Final = (
    sends.update()
    .where(
        sends.c.pk.in_(
            sa.select(deliveries.c.send).where(
                among(deliveries.c.pk), sa.text("deliveries.send IS NOT NULL")
            )
        )
    )
    .values(in_doubt_at=None, ended_at=sa.bindparam("at", type_=sa.BigInteger))
)


def reopen(connection: sa.Connection, numbers: Sequence[int], name: str) -> None:
    """Let these mails go out again to whoever does not have them, the refused ones too.

    Raises ``PermanentError`` when the bytes of one are gone; ``name`` is what it was asked for by.
    """
    if not numbers:
        return
    there = set(connection.execute(_WITH_BYTES, {"ids": list(numbers)}).scalars())
    if set(numbers) - there:
        raise PermanentError(
            f"the bytes of {name} were removed by retention; it cannot be sent again",
            code="store.raw_purged",
            fix="lengthen state.keep to be able to go back further",
        )
    connection.execute(_OPENED, {"ids": list(numbers)})
    connection.execute(_REFUSED, {"ids": list(numbers)})


def dropped(connection: sa.Connection, ids: Sequence[int], now: int) -> None:
    """End the mails among these deliveries; of one that was in doubt it is said."""
    if ids:
        connection.execute(_UNSURE, {"ids": list(ids)})
        connection.execute(_OVER, {"ids": list(ids), "at": now})
