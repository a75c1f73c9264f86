"""Looking into the SQLite file of a daemon that was killed, without healing it.

Opening the file itself would recover and truncate the write-ahead log, which is the next
daemon's job and part of what is tested; so a copy is read.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """What the database held at one moment.

    ``places`` are (mailbox, UID) of messages. ``claims`` are (event id, fence) of deliveries in
    the hands of a dispatcher: what a kill may double, once for each claim.
    """

    places: frozenset[tuple[str, int]]
    claims: frozenset[tuple[str, int]]


@contextmanager
def copied(database: Path, scratch: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of the file and its write-ahead log, as the next daemon will find them."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for suffix in ("", "-wal"):
        part = database.with_name(database.name + suffix)
        if part.exists():
            shutil.copyfile(part, scratch / part.name)
    with closing(sqlite3.connect(scratch / database.name)) as connection:
        yield connection


def read(database: Path, scratch: Path) -> Spool:
    """Return what is in the database; empty when the daemon never came to create its tables."""
    with copied(database, scratch) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not {"messages", "deliveries"} <= tables:
            return Spool(places=frozenset(), claims=frozenset())
        places = connection.execute("SELECT mailbox, uid FROM messages WHERE folder = 'INBOX'")
        claims = connection.execute(
            "SELECT event_id, fence FROM deliveries WHERE state = 'claimed'"
        )
        return Spool(places=frozenset(places), claims=frozenset(claims))


def check(database: Path, scratch: Path) -> str:
    """Return what SQLite's integrity check says: ``ok``, or what is damaged."""
    with copied(database, scratch) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
