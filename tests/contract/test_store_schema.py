"""The schema: created by migrations, the same as the code says, never used when it is newer."""

from __future__ import annotations

import asyncio
import sys

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from mailbridge.errors import StoreRefused, TemporaryError, Unavailable
from mailbridge.store import schema
from mailbridge.store.store import Store
from mailbridge.store.tables import SCHEMA, meta, metadata
from tests.contract.conftest import OpenStore
from tests.contract.mails import accept, claim, uids


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(schema._MIGRATIONS))
    return ScriptDirectory.from_config(config)


async def test_migrations_make_exactly_the_tables_of_the_code(store: Store) -> None:
    """Nobody can change a table and forget its migration, on either database."""
    found = await store._access.database.run(
        lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
    )
    assert found == []
    assert await store.schema_version() == SCHEMA == _scripts().get_current_head()


async def test_partial_indexes_have_the_conditions_of_the_code(
    sqlite_url: str, open_store: OpenStore
) -> None:
    """The comparison above does not look at conditions of indexes; the claims rest on them."""
    migrated = await open_store(sqlite_url)
    direct = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    query = sa.text("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql NOTNULL")
    with direct.begin() as connection:
        metadata.create_all(connection)
        wanted = {row.name: row.sql for row in connection.execute(query)}
    direct.dispose()
    found = await migrated._access.database.run(
        lambda connection: {row.name: row.sql for row in connection.execute(query)}
    )
    assert found == wanted


async def test_a_newer_schema_is_refused(url: str, open_store: OpenStore) -> None:
    """After a downgrade the old program touches nothing and says which version is needed."""
    store = await open_store(url)
    await accept(store, [1])
    await store._access.database.run(
        lambda connection: connection.exec_driver_sql(
            "UPDATE alembic_version SET version_num = '9999'"
        )
    )
    await store.close()
    for mode in ("write", "read"):
        with pytest.raises(StoreRefused, match=f"schema 9999.*knows only {SCHEMA}") as refused:
            await open_store(url, mode=mode)
        assert refused.value.code == "store.newer"


async def test_an_older_schema_is_upgraded_only_by_a_writer(
    postgres_url: str, open_store: OpenStore
) -> None:
    """A reader, and whoever says so, changes no schema; the daemon does at its start."""
    for settings in ({"mode": "read"}, {"upgrade": False}):
        with pytest.raises(StoreRefused, match="schema none") as refused:
            await open_store(postgres_url, **settings)
        assert refused.value.code == "store.older"
        assert "db upgrade" in refused.value.fix
    store = await open_store(postgres_url)
    assert await store.schema_version() == SCHEMA


async def test_two_hosts_that_start_at_once_create_one_schema(
    postgres_url: str, open_store: OpenStore
) -> None:
    """The first start of several hosts is no race."""
    stores = await asyncio.gather(*(open_store(postgres_url) for _ in range(4)))
    await accept(stores[0], [1])
    assert uids(await claim(stores[3])) == [1]


async def test_an_upgrade_that_fails_half_way_has_done_nothing(
    postgres_url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed or failing in the middle, the schema is as before, and the next start succeeds."""

    def fail() -> None:
        raise sa.exc.DBAPIError("x", {}, RuntimeError("cut"))

    with monkeypatch.context() as patched:
        patched.setattr(meta, "insert", fail)
        with pytest.raises(Unavailable):
            await open_store(postgres_url)
    with pytest.raises(StoreRefused, match="schema none"):
        await open_store(postgres_url, upgrade=False)
    await open_store(postgres_url)


async def test_a_current_schema_is_opened_without_alembic(
    sqlite_url: str, open_store: OpenStore
) -> None:
    """Every start after the first spares the import of what only an upgrade needs."""
    await (await open_store(sqlite_url)).close()
    program = (
        "import asyncio, sys\n"
        "from mailbridge.store.store import Store\n"
        f"asyncio.run(Store.open({sqlite_url!r}))\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    started = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await started.wait() == 0


async def test_an_unreachable_server_is_unavailable(open_store: OpenStore) -> None:
    """A database that does not answer yet is waited for; no password is in the message."""
    with pytest.raises(Unavailable) as refused:
        await open_store("postgres://mailbridge:hunter2@127.0.0.1:1/mail?connect_timeout=2")
    assert "hunter2" not in str(refused.value)
    assert "'mail'" in str(refused.value)


async def test_a_database_that_does_not_exist_is_refused(
    postgres_url: str, open_store: OpenStore
) -> None:
    """A wrong name does not become right by waiting."""
    with pytest.raises(StoreRefused, match="does not exist"):
        await open_store(postgres_url.replace("/mailbridge_", "/birds_"))


async def test_a_lost_connection_is_temporary_and_comes_back(
    postgres_url: str, open_store: OpenStore
) -> None:
    """When the server ends our sessions, one call at most fails, and the next ones work."""
    store = await open_store(postgres_url)
    await accept(store, [1])
    killer = await open_store(postgres_url)
    await killer._access.database.run(
        lambda connection: connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )
    assert uids(await claim(store)) == [1]


@pytest.mark.parametrize("table", ["raw", "gaps", "checkpoints"])
async def test_what_the_server_refuses_is_translated_wherever_it_happens(
    postgres_url: str, open_store: OpenStore, table: str
) -> None:
    """A driver's error never reaches a loop as itself, whichever statement it came from."""
    store = await open_store(postgres_url)
    await store._access.database.run(
        lambda connection: connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO birds")
    )
    with pytest.raises(TemporaryError, match="does not exist"):
        await accept(store, [1])
