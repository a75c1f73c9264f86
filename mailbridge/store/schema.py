"""Creating a database, knowing its version, bringing it up to date, refusing what is foreign."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog

from mailbridge.errors import StoreRefused
from mailbridge.store.engine import connect_sqlite
from mailbridge.store.files import beside, create_private, sync_directory
from mailbridge.store.tables import SCHEMA, meta

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_MAGIC: Final = b"SQLite format 3\0"
#: two hosts that start at once upgrade one after the other; any number that is ours will do
_UPGRADE_LOCK: Final = 0x6D62_7367

log = structlog.get_logger(__name__)


def version(connection: sa.Connection) -> str | None:
    """Return the schema's revision, ``None`` for an empty database; cheap, without Alembic.

    Raises ``StoreRefused`` for a database that holds the tables of something else.
    """
    names = set(sa.inspect(connection).get_table_names())
    if not names:
        return None
    if not {"alembic_version", meta.name} <= names:
        raise StoreRefused(
            "the database holds tables that are not mailbridge's",
            code="store.foreign",
            fix="give mailbridge a database of its own",
        )
    found: str = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one()
    return found


def refuse_newer(found: str | None) -> None:
    """Raise ``StoreRefused`` for a schema that a newer mailbridge has written."""
    if found is not None and found > SCHEMA:
        raise StoreRefused(
            f"the database has schema {found}, this mailbridge knows only {SCHEMA}: "
            "a newer version has used it",
            code="store.newer",
            fix="install that version again, or restore the backup from before the upgrade",
        )


def upgrade(connection: sa.Connection, now: datetime) -> str | None:
    """Bring the schema up to date in the transaction of ``connection``; returns what it was.

    Killed half-way, nothing has happened. Creates everything in an empty database.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
    found = version(connection)
    refuse_newer(found)
    if found == SCHEMA:
        return found
    # Alembic takes longer to import than everything else here and is needed once a year.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, "head")
    if found is None:
        connection.execute(meta.insert(), {"key": "created_at", "value": now.isoformat()})
    log.info("store.upgraded", before=found, after=SCHEMA)
    return found


def create_sqlite(file: Path, now: datetime) -> None:
    """Create a database with its schema, so that it appears under its name complete or not at all.

    Hence an empty or headless file is always damage, never a birth that was interrupted.
    """
    unfinished = beside(file, ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        beside(unfinished, suffix).unlink(missing_ok=True)
    os.close(create_private(unfinished, file))
    engine = sa.create_engine(
        "sqlite+pysqlite://",
        creator=lambda: connect_sqlite(unfinished, mode="write"),
        poolclass=sa.pool.StaticPool,
    )
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            upgrade(connection, now)
        # Everything has to be in the one file that is renamed.
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        engine.dispose()
    with unfinished.open("rb") as written:
        os.fsync(written.fileno())
    unfinished.rename(file)
    sync_directory(file.parent)


def look_at_sqlite(file: Path) -> bool:
    """Return whether there is a database; raise ``StoreRefused`` for what must not be touched.

    Never takes a damaged or cut-off file for a new one.
    """
    if not file.exists():
        log_file = beside(file, "-wal")
        if log_file.exists() and log_file.stat().st_size:
            raise StoreRefused(
                f"{file} is missing, but {log_file.name} with mail in it is there",
                code="store.damaged",
                fix="put the database file back beside it, or move the -wal file away",
            )
        return False
    with file.open("rb") as opened:
        head = opened.read(len(_MAGIC))
    if head != _MAGIC:
        what = "is empty" if not head else "is not a SQLite database"
        raise StoreRefused(
            f"{file} {what}",
            code="store.damaged",
            fix="restore it from a backup; to begin anew, move the file away",
        )
    return True
