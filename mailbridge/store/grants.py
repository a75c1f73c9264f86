"""What people consented to, encrypted at rest: one row for each app and account.

::

    meta:    grants_key ── the check value of the key that ALL rows are under
    grants:  name ── keyed hash of (app, account)      sealed ── everything else, see ``sealing``

Which of the configured keys to use is read from ``meta`` in the same transaction as the row. So
a change of the key can be made beside a host that knows both, and a host that knows only the old
one is told so; it never reads or writes a row under a wrong key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
import structlog

from mailbridge.errors import PermanentError, StoreRefused
from mailbridge.model import Grant
from mailbridge.store.access import Access
from mailbridge.store.dialect import upsert
from mailbridge.store.engine import Mode
from mailbridge.store.sealing import Key, fingerprint
from mailbridge.store.tables import grants, meta

log = structlog.get_logger(__name__)

Ring = Sequence[Key]

_CHECK: Final = "grants_key"
#: hosts that share a PostgreSQL write grants one after the other; any number that is ours will do
_LOCK: Final = 0x6D62_6772
_GIVE_UP: Final = (
    "to give the grants up and have people sign in again: `mailbridge db forget-grants`"
)
_SIGN_IN_AGAIN: Final = "run `mailbridge login` for that mailbox again"
_FORGET_DAMAGED: Final = (
    "restore a backup, or remove what is damaged with `mailbridge db forget-grants --damaged` "
    "and let its owner sign in again (`mailbridge login`)"
)

_STANDING: Final = sa.select(
    sa.select(meta.c.value).where(meta.c.key == _CHECK).scalar_subquery(),
    sa.exists(sa.select(grants.c.name)),
)
_ROWS: Final = sa.select(grants.c.name, grants.c.sealed).order_by(grants.c.name)


class Grants:
    """Implements ``GrantStore``; ``Store.grants``. Each method is one transaction.

    Without a key, under a wrong one, or for a damaged row it raises ``PermanentError``: that
    mailbox waits for a person, the others go on. No error holds anything of a grant. A caller
    that is cancelled while it saves stops waiting; the grant is saved all the same.
    """

    def __init__(self, access: Access, keys: Ring | None) -> None:
        self._access = access
        self._keys = tuple(keys or ())
        self._left_alone = keys is None

    async def prepare(self, mode: Mode) -> None:
        """Compare the keys with the database when it is opened; change to the first if need be.

        Raises ``StoreRefused`` (``store.wrong_key``) when there are grants under another key.
        """
        if self._left_alone:
            return
        if not self._keys:
            if count := len(await self._access.run(_rows)):
                log.warning("grants.locked", grants=count, reason="state.key is not set")
            return
        try:
            damaged = await self._access.run(lambda connection: _damaged(connection, self._keys))
            if damaged:
                names = [name.hex()[:16] for name in damaged]
                log.error("grants.damaged", rows=names, fix=_FORGET_DAMAGED)
            elif mode == "write" and (count := await self.rekey(self._keys)):
                log.info("grants.rekeyed", grants=count, key=self._keys[0].fingerprint)
        except PermanentError as error:
            raise StoreRefused(str(error), code=error.code, fix=error.fix) from None

    async def grant(self, app: str, account: str) -> Grant | None:
        """Return the grant of an account (in any case), ``None`` when there is none."""
        keys = self._required()
        return await self._access.run(lambda connection: _read(connection, keys, app, account))

    async def save_grant(self, grant: Grant) -> None:
        """Keep a grant in place of the former one; when this returns, a crash loses nothing."""
        keys = self._required()
        await self._access.see_through(lambda connection: _write(connection, keys, grant))

    async def forget_grant(self, app: str, account: str) -> bool:
        """Remove a grant, a damaged one too; tells whether there was one."""
        keys = self._required()
        return await self._access.run(lambda connection: _forget(connection, keys, app, account))

    async def rekey(self, keys: Ring, *, alone: bool = False) -> int:
        """Encrypt every grant under the first of ``keys``; the others may be what it is under now.

        All or nothing. Returns how many were encrypted anew, 0 when they are under that key
        already. ``alone`` refuses while another process uses the same PostgreSQL database; a
        SQLite file is ours alone anyway. Raises ``PermanentError`` when none of the keys fits or
        a row is damaged.
        """
        return await self._access.run(lambda connection: _rekey(connection, keys, alone=alone))

    async def forget_all(self) -> int:
        """Remove every grant, whatever key it is under; returns how many there were."""
        return await self._access.run(_forget_all)

    async def forget_damaged(self, keys: Ring) -> int:
        """Remove what cannot be read though the key is right; returns how many there were."""
        return await self._access.run(lambda connection: _forget_damaged(connection, keys))

    async def faults(self, keys: Ring) -> Sequence[str]:
        """Search for grants that cannot be read; returns a sentence for each fault."""
        return await self._access.run(lambda connection: _faults(connection, keys))

    def _required(self) -> Ring:
        if not self._keys:
            raise PermanentError(
                "state.key is not set, and without it no grant is stored",
                code="store.no_key",
                fix="make a key with `mailbridge secret key` and name its place under state.key",
            )
        return self._keys


# --- inside of a transaction


def _lock(connection: sa.Connection, *, shared: bool = False) -> None:
    """Wait for other hosts; what this transaction reads from now on is what they have left."""
    if connection.dialect.name == "postgresql":
        wait = sa.func.pg_advisory_xact_lock_shared if shared else sa.func.pg_advisory_xact_lock
        connection.execute(sa.select(wait(_LOCK)))


def _key(connection: sa.Connection, keys: Ring) -> Key | None:
    """Return the key that all rows are under, ``None`` while there are no rows.

    Raises ``PermanentError`` when it is none of ``keys``.
    """
    check, any_rows = connection.execute(_STANDING).one()
    for key in keys:
        if check is not None and key.fits(check):
            return key
    if not any_rows:
        return None
    told = "the check value of their key is missing"
    if check is not None:
        told = f"they are under the key {fingerprint(check)}"
    ours = ", ".join(key.fingerprint for key in keys)
    raise PermanentError(
        f"the grants in the database cannot be read with state.key ({ours}): {told}",
        code="store.wrong_key",
        fix="put the former key back; to change it, write `key: [NEW, FORMER]` "
        f"or use `mailbridge db rekey`; {_GIVE_UP}",
    )


def _rows(connection: sa.Connection) -> list[tuple[bytes, bytes]]:
    return [(name, sealed) for name, sealed in connection.execute(_ROWS)]


def _read(connection: sa.Connection, keys: Ring, app: str, account: str) -> Grant | None:
    _lock(connection, shared=True)
    key = _key(connection, keys)
    if key is None:
        return None
    name = _name(key, app, account)
    sealed = connection.execute(
        sa.select(grants.c.sealed).where(grants.c.name == name)
    ).scalar_one_or_none()
    if sealed is None:
        return None
    try:
        return _opened(key, name, sealed)
    except PermanentError as error:
        reason, code = str(error), error.code
    raise PermanentError(
        f"the grant that is stored for the app {app} cannot be read: {reason}",
        code=code,
        fix=_SIGN_IN_AGAIN,
    )


def _write(connection: sa.Connection, keys: Ring, grant: Grant) -> None:
    _lock(connection)
    key = _key(connection, keys)
    if key is None:
        # The first one, or the first after all were forgotten: nothing is under another key.
        key = keys[0]
        _set_check(connection, key)
    name = _name(key, grant.app, grant.account)
    row = {"name": name, "sealed": key.seal(name, _text(grant))}
    connection.execute(upsert(connection.dialect.name, grants, {}), row)


def _forget(connection: sa.Connection, keys: Ring, app: str, account: str) -> bool:
    _lock(connection)
    key = _key(connection, keys)
    if key is None:
        return False
    name = _name(key, app, account)
    return connection.execute(grants.delete().where(grants.c.name == name)).rowcount > 0


def _rekey(connection: sa.Connection, keys: Ring, *, alone: bool) -> int:
    _lock(connection)
    if alone:
        _refuse_company(connection)
    former, new = _key(connection, keys), keys[0]
    if former is None or former is new:
        return 0
    rows = _rows(connection)
    opened = [_opened_or_none(former, name, sealed) for name, sealed in rows]
    if damaged := opened.count(None):
        raise PermanentError(
            f"{damaged} of {len(rows)} grants cannot be read, so the key was not changed",
            code="grant.damaged",
            fix=_FORGET_DAMAGED,
        )
    connection.execute(grants.delete())
    for grant in opened:
        if grant is not None:
            name = _name(new, grant.app, grant.account)
            row = {"name": name, "sealed": new.seal(name, _text(grant))}
            connection.execute(grants.insert(), row)
    _set_check(connection, new)
    return len(rows)


def _refuse_company(connection: sa.Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    others = connection.exec_driver_sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'mailbridge' AND pid <> pg_backend_pid()"
    ).scalar_one()
    if others:
        raise StoreRefused(
            f"the database is in use by another mailbridge ({others} connections)",
            code="store.locked",
            fix="stop every daemon that uses it",
        )


def _forget_all(connection: sa.Connection) -> int:
    _lock(connection)
    connection.execute(meta.delete().where(meta.c.key == _CHECK))
    return connection.execute(grants.delete()).rowcount


def _forget_damaged(connection: sa.Connection, keys: Ring) -> int:
    _lock(connection)
    damaged = _damaged(connection, keys)
    for name in damaged:
        connection.execute(grants.delete().where(grants.c.name == name))
    return len(damaged)


def _damaged(connection: sa.Connection, keys: Ring) -> list[bytes]:
    _lock(connection, shared=True)
    key = _key(connection, keys)
    if key is None:
        return []
    return [
        name for name, sealed in _rows(connection) if _opened_or_none(key, name, sealed) is None
    ]


def _faults(connection: sa.Connection, keys: Ring) -> list[str]:
    try:
        damaged = _damaged(connection, keys)
    except PermanentError as error:
        return [str(error)]
    return [f"grant {name.hex()[:16]} cannot be read: {_FORGET_DAMAGED}" for name in damaged]


def _set_check(connection: sa.Connection, key: Key) -> None:
    row = {"key": _CHECK, "value": key.check}
    connection.execute(upsert(connection.dialect.name, meta, {}), row)


# --- between a grant and its row


def _name(key: Key, app: str, account: str) -> bytes:
    """Return the name of the row; Exchange takes addresses in any case, and so does this."""
    return key.name(app, account.casefold())


def _opened(key: Key, name: bytes, sealed: bytes) -> Grant:
    grant = _grant(key.unseal(name, sealed))
    if grant is None:
        raise PermanentError("its content is not of this mailbridge", code="grant.format")
    return grant


def _opened_or_none(key: Key, name: bytes, sealed: bytes) -> Grant | None:
    try:
        return _opened(key, name, sealed)
    except PermanentError:
        return None


_TEXTS: Final = ("app", "account", "refresh_token", "former", "cache", "object_id", "tenant_id")
_TIMES: Final = ("granted_at", "refreshed_at")


def _text(grant: Grant) -> bytes:
    """Return what is encrypted; as ASCII, since an odd character must not lose a grant."""
    document: dict[str, Any] = {name: getattr(grant, name) for name in _TEXTS}
    document["scopes"] = grant.scopes
    document |= {name: getattr(grant, name).astimezone(UTC).isoformat() for name in _TIMES}
    return json.dumps(document).encode()


def _grant(text: bytes) -> Grant | None:
    """Return the grant of a decrypted row, ``None`` if it is none.

    The errors of these conversions would carry the decrypted text along.
    """
    try:
        document = json.loads(text)
        document["scopes"] = tuple(document["scopes"])
        document |= {name: datetime.fromisoformat(document[name]) for name in _TIMES}
        return Grant(**document)
    except (KeyError, TypeError, ValueError):
        return None
