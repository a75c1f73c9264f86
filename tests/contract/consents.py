"""Grants in which every field is a canary, and ways to look for what must not be found."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from mailbridge.model import Grant
from mailbridge.store.sealing import Key
from mailbridge.store.store import Store
from mailbridge.store.tables import grants

KEY = Key(bytes(range(32)))
NEW = Key(bytes(range(1, 33)))
STRANGER = Key(bytes(range(2, 34)))

#: at a time that nothing else in a test has
SPRING = datetime(2019, 3, 4, 5, 6, 7, tzinfo=UTC)
SCOPES = ("https://outlook.office.com/IMAP.AccessAsUser.All", "canary-scope-offline_access")
FIELDS: dict[str, Any] = {
    "app": "canary-app-registration",
    "account": "canary.account@canary-tenant.example",
    "refresh_token": "0.AVwA-canary-refresh-token-" + "r" * 900,
    "former": "0.AVwA-canary-former-token-" + "f" * 900,
    "cache": '{"AccessToken": {"secret": "canary-cache-entry"}}',
    "scopes": SCOPES,
    "object_id": "0c0ffee0-cafe-4000-8000-canary000001",
    "tenant_id": "0c0ffee0-cafe-4000-8000-canary000002",
    "granted_at": SPRING,
    "refreshed_at": SPRING + timedelta(hours=1, microseconds=7),
}
#: what nobody without the key may find, of the grants that are made here
TOKENS = ("0.AVwA-canary-refresh", "0.AVwA-canary-former", "canary-cache-entry", "0.AVwA-short")
CANARIES = (
    *TOKENS,
    "canary-app-reg",
    "canary.account",
    "canary-scope",
    "IMAP.AccessAsUser",
    "0c0ffee0-cafe-4000",
    "canary-tenant",
    "2019-03-04",
)


def a_grant(**other: Any) -> Grant:
    """Return a grant in which every field is a canary."""
    return Grant(**(FIELDS | other))


def of(account: str, token: str = "0.AVwA-short") -> Grant:
    """Return the grant of another account."""
    return a_grant(account=f"{account}@canary-tenant.example", refresh_token=token, former=None)


async def kept(store: Store, grant: Grant) -> Grant:
    await store.grants.save_grant(grant)
    return grant


async def get(store: Store, grant: Grant) -> Grant | None:
    return await store.grants.grant(grant.app, grant.account)


async def execute(store: Store, statement: Any) -> Any:
    """Look into the database, or change it behind the store's back."""

    def work(connection: sa.Connection) -> Any:
        result = connection.execute(statement)
        return result.all() if result.returns_rows else None

    return await store._access.database.run(work)


async def stored(store: Store) -> dict[bytes, bytes]:
    """Return the rows as they lie there: what is sealed, by name."""
    return dict(await execute(store, sa.select(grants.c.name, grants.c.sealed)))


async def touch(store: Store, grant: Grant, sealed: bytes, key: Key = KEY) -> None:
    """Put something else into the row of a grant."""
    name = key.name(grant.app, grant.account)
    await execute(store, grants.update().where(grants.c.name == name).values(sealed=sealed))


def leaks(text: bytes, needles: Iterable[str] = CANARIES) -> list[str]:
    """Return those of ``needles`` that stand in ``text``, plainly or in a usual encoding."""
    return [needle for needle in needles if any(form in text for form in _forms(needle))]


def _forms(needle: str) -> Iterator[bytes]:
    raw = needle.encode()
    yield raw
    yield needle.encode("utf-16-le")
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for before in range(3):
        # Base64 of a longer text, in which the needle begins anywhere.
        yield base64.b64encode(bytes(before) + raw)[4 if before else 0 : -4]
