"""The one place where errors of the database drivers become errors of mailbridge."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from mailbridge.errors import MailbridgeError, StoreFull, StoreRefused, TemporaryError, Unavailable

#: the code of the error after which a process must not carry on with this database
BROKEN: Final = "store.io"
#: an extended result code of SQLite carries its kind in the lowest byte
_KIND: Final = 0xFF
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
# PostgreSQL: the database is not there, or this user may not use it. Waiting does not help.
_REFUSED: Final = {"3D000", "28000", "28P01", "42501"}


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn what SQLAlchemy, sqlite3, psycopg and the file system raise into our errors.

    ``place`` names the database, without a password. An error nobody thought of is temporary,
    so that no mail is given up because of it.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _driver_error(place, error.orig, lost=error.connection_invalidated) from error
    except sqlite3.Error as error:
        raise _driver_error(place, error, lost=False) from error
    except sa.exc.SQLAlchemyError as error:
        raise TemporaryError(f"{place}: {type(error).__name__}", code="store.trouble") from error
    except OSError as error:
        raise _file_error(place, error) from error


def _driver_error(place: str, error: BaseException | None, *, lost: bool) -> MailbridgeError:
    if isinstance(error, sqlite3.Error):
        return _sqlite_error(place, error)
    state: str | None = getattr(error, "sqlstate", None)
    text = _first_line(error)
    if state == "53100":
        return StoreFull(f"{place}: the database server's disk is full", code="store.full")
    # Before a session exists psycopg has no SQLSTATE to give, only the server's sentence.
    if state in _REFUSED or (state is None and "FATAL:  " in text and _hopeless(text)):
        return StoreRefused(f"{place}: {text}", code="store.refused", fix="check state.database")
    if lost or state is None or state[:2] in {"08", "57"}:
        return Unavailable(f"{place}: {text}", code="store.unavailable")
    return TemporaryError(f"{place}: {text} ({state})", code="store.trouble")


def _hopeless(text: str) -> bool:
    return "does not exist" in text or "authentication failed" in text or "pg_hba.conf" in text


def _first_line(error: BaseException | None) -> str:
    """Return the driver's sentence; its further lines may quote the row that failed."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _sqlite_error(place: str, error: sqlite3.Error) -> MailbridgeError:
    kind = (getattr(error, "sqlite_errorcode", None) or 0) & _KIND
    if kind == sqlite3.SQLITE_FULL:
        return StoreFull(f"{place}: the disk is full", code="store.full")
    if kind in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return TemporaryError(f"{place}: locked by another process", code="store.locked")
    if kind in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return StoreRefused(
            f"{place}: damaged ({error})",
            code="store.damaged",
            fix="restore it from a backup; move the damaged file away and keep it",
        )
    if kind == sqlite3.SQLITE_IOERR:
        # What a failed fsync left on the disk nobody knows. Only a new process, which reads the
        # write-ahead log again, is on firm ground; carrying on could acknowledge what is lost.
        return StoreRefused(
            f"{place}: {error} ({getattr(error, 'sqlite_errorname', '')})",
            code=BROKEN,
            fix="check the disk; the daemon recovers from its write-ahead log at the next start",
        )
    if kind in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return StoreRefused(
            f"{place}: {error}",
            code="store.permission",
            fix="the file and its directory must be writable for the user of the daemon",
        )
    return TemporaryError(f"{place}: {error}", code="store.trouble")


def _file_error(place: str, error: OSError) -> MailbridgeError:
    if error.errno in _FULL:
        return StoreFull(f"{place}: the disk is full", code="store.full")
    if isinstance(error, (PermissionError, FileNotFoundError, NotADirectoryError)) or (
        error.errno == errno.EROFS
    ):
        return StoreRefused(
            f"{place}: {error.strerror} ({error.filename})",
            code="store.permission",
            fix="the file and its directory must be writable for the user of the daemon",
        )
    return TemporaryError(f"{place}: {error.strerror or error}", code="store.trouble")
