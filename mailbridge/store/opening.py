"""What happens to a SQLite file before it is opened: the lock, the look at it, its creation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mailbridge.errors import StoreRefused
from mailbridge.store.engine import Mode
from mailbridge.store.files import Lock, Reserve
from mailbridge.store.schema import create_sqlite, look_at_sqlite
from mailbridge.store.translate import translated


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What one writer of a SQLite file holds beside it."""

    lock: Lock
    reserve: Reserve


def prepare(file: Path, mode: Mode, now: Callable[[], datetime]) -> Hold | None:
    """Make sure that there is a database to open and, to write, that nobody else writes it.

    Raises ``StoreRefused`` for a database that another process writes, that is damaged, or
    that is missing where it is to be read.
    """
    with translated(str(file)):
        if mode == "read":
            if not look_at_sqlite(file):
                raise StoreRefused(
                    f"there is no database at {file}",
                    code="store.missing",
                    fix="start the daemon once, or check state.database",
                )
            return None
        # The lock comes first: two that start at once must not both create the file.
        lock = Lock(file)
        try:
            if look_at_sqlite(file):
                file.chmod(0o600)
            else:
                create_sqlite(file, now())
            return Hold(lock=lock, reserve=Reserve(file))
        except BaseException:
            lock.release()
            raise
