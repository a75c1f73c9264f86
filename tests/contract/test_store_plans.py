"""How much work the hot statements are: bounded by what they return, not by what waits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from mailbridge.store import enqueue, lookup, outages, outgoing, recent, rescue, routing, standing
from mailbridge.store.store import Store
from tests.contract.conftest import OpenStore
from tests.contract.mails import NOON, accept, claim, done

WAITING = 100_000
GROW = """
    INSERT INTO deliveries (message, event_id, type, body, sink, mailbox, state, attempts, rescues,
        due_at, first_due_at, fence, sequence, replay, created_at, resolved_at)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
    SELECT NULL, 'msg_' || i, 'test.ping', '{}',
        CASE WHEN i > 50000 THEN 'erp' ELSE 'other' END, 'alarm', 'queued', 0, 0,
        1700000000000000 + i, 0, 0, i, 0, 0, NULL
    FROM n
"""
SETTLED = """
    INSERT INTO messages (id, mailbox, folder, protocol, uidvalidity, uid, uidl, address,
        accepted_at, size, sha256, settle, routed, kept)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
    SELECT 'old_' || i, 'alarm', 'INBOX', 'imap', 1, i, '', '', 1700000000000000, 1, '', 2, 0, 1
    FROM n
"""

ROUTED = """
    INSERT INTO takings (route, message)
    SELECT CASE WHEN pk % 100 = 0 THEN 'seldom' ELSE 'alarm' END, pk FROM messages
"""
RULED = """
    INSERT INTO rulings (message, steps, taken) SELECT pk, '[]', pk % 2 FROM messages
"""
SEEN = """
    INSERT INTO recent (route, key, at, first)
    SELECT CASE WHEN pk % 2 = 0 THEN 'alarm' ELSE 'other' END, 'number:' || pk,
        1700000000000000 + pk, 'msg_' || pk
    FROM messages
"""


async def grow(store: Store) -> None:
    """Let 100,000 deliveries wait, half of them for ``erp``, behind 100,000 settled messages."""

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.text(GROW))
        connection.execute(sa.text(SETTLED))

    await store._access.database.run(work)


async def route(store: Store) -> None:
    """Let routes have spoken of 20,000 messages, of which one in 300 got no delivery."""
    stored = SETTLED.replace("100000", "20000").replace("2, 0, 1\n", "2, i % 300, 1\n")

    def work(connection: sa.Connection) -> None:
        for statement in (stored, ROUTED, RULED, SEEN):
            connection.execute(sa.text(statement))

    await store._access.database.run(work)


async def analyze(store: Store) -> None:
    """Give the planner of PostgreSQL the statistics that autovacuum would give it."""

    def work(connection: sa.Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("ANALYZE"))

    await store._access.database.run(work)


async def plan(store: Store, statement: sa.Select[Any], **parameters: Any) -> str:
    """Return how the database would run a statement, as one text."""

    def work(connection: sa.Connection) -> str:
        sql = str(
            statement.params(**parameters).compile(
                dialect=connection.dialect, compile_kwargs={"literal_binds": True}
            )
        )
        word = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        rows: Sequence[Any] = connection.execute(sa.text(f"{word} {sql}")).all()
        return "\n".join(str(row[-1]) for row in rows)

    return await store._access.database.run(work)


HOT: list[tuple[str, sa.Select[Any], dict[str, Any], str]] = [
    ("claim", outgoing.DUE, {"sink": "erp", "now": 2**62, "limit": 50}, "deliveries_due"),
    ("alone", outgoing.DUE_ALONE, {"sink": "erp", "now": 2**62, "limit": 1}, "deliveries_alone"),
    ("few", outgoing.DUE_GROUPED, {"sink": "erp", "now": 2**62, "limit": 9}, "deliveries_alone"),
    ("next due", outgoing.NEXT_DUE, {"sink": "erp"}, "deliveries_due"),
    ("rescue", rescue.LATE, {"at": 2**62}, "deliveries_claimed"),
    ("hasten", outages.WAITING, {"sink": "erp", "now": 0}, "deliveries_due"),
    (
        "give up",
        outages.AGED,
        {"sink": "erp", "now": 2**62, "due": 1700000000000000, "number": 9},
        "deliveries_due",
    ),
    ("fall back", outages.FALLING_BACK, {"now": 2**62}, "deliveries_fall_back"),
    ("next fall back", outages.NEXT_FALL_BACK, {}, "deliveries_fall_back"),
    ("notify", enqueue.SINKS_OF, {"id": "msg_9"}, "deliveries_notice"),
    (
        "unsettled",
        standing.UNSETTLED,
        {"mailbox": "alarm", "folder": "INBOX", "limit": 50},
        "messages_unsettled",
    ),
]


async def test_what_runs_all_the_time_uses_its_index(store: Store) -> None:
    """With 100,000 rows beside it, each hot statement reads its partial index and nothing else."""
    await grow(store)
    await analyze(store)
    for name, statement, parameters, index in HOT:
        shown = await plan(store, statement, **parameters)
        assert index in shown, (name, shown)
        for slow in ("Seq Scan on", "SCAN deliveries\n", "SCAN messages\n", "TEMP B-TREE", "Sort"):
            assert slow not in f"{shown}\n", (name, shown)


def by_route(name: str) -> sa.Select[Any]:
    return lookup.lines(lookup.Wanted(route=name, before=15_000)).limit(50)


ROUTES: list[tuple[str, sa.Select[Any], dict[str, Any], tuple[str, str]]] = [
    (
        "duplicates",
        recent.SEEN,
        {"route": "alarm", "keys": ["number:2", "number:4"]},
        ("recent USING PRIMARY KEY (route=? AND key=?)", "recent_pkey"),
    ),
    (
        "what a claim's routes extracted",
        routing.STEPS,
        {"ids": [3, 4]},
        ("rulings USING INTEGER PRIMARY KEY", "rulings_pkey"),
    ),
    (
        "old duplicates",
        recent.OLD.limit(500),
        {"before": 1700000000000100},
        ("INDEX recent_at", "recent_at"),
    ),
    ("by route", by_route("alarm"), {}, ("takings USING PRIMARY KEY", "takings_pkey")),
    ("by a rare route", by_route("seldom"), {}, ("takings USING PRIMARY KEY", "takings_pkey")),
    (
        "unrouted",
        lookup.lines(lookup.Wanted(state="unrouted", before=15_000)).limit(50),
        {},
        ("INDEX messages_unrouted", "messages_unrouted"),
    ),
]


async def test_what_routes_look_up_uses_its_index(store: Store) -> None:
    """Duplicates, fields, the log by route and the unrouted: none of it reads a whole table."""
    await route(store)
    await analyze(store)
    for name, statement, parameters, indexes in ROUTES:
        shown = await plan(store, statement, **parameters)
        assert any(index in shown for index in indexes), (name, shown)
        for table in ("messages", "rulings", "takings", "recent"):
            assert f"Seq Scan on {table}" not in shown, (name, shown)
            assert f"SCAN {table}\n" not in f"{shown}\n", (name, shown)


async def test_a_hundred_thousand_waiting_cost_no_more_work(
    sqlite_url: str, open_store: OpenStore
) -> None:
    """Accept, claim, resolve and settle take the same work in a full store as in an empty one."""
    store = await open_store(sqlite_url)
    await accept(store, range(1, 51))
    first = [await _work(store, step) for step in _round(store, 100)]
    await grow(store)
    second = [await _work(store, step) for step in _round(store, 200)]
    assert all(count > 50 for count in first)
    for empty, full in zip(first, second, strict=True):
        assert full <= 2 * empty, (first, second)


def _round(store: Store, uid: int) -> list[Callable[[], Any]]:
    held: list[Any] = []

    async def take() -> None:
        held.extend(await claim(store, limit=50))

    async def give() -> None:
        assert len(await store.resolve([done(one, at=NOON) for one in held])) == 50

    async def settle() -> None:
        await store.settled(await store.unsettled("alarm", "INBOX", 50))

    return [lambda: accept(store, range(uid, uid + 50)), take, give, settle]


async def _work(store: Store, step: Callable[[], Any]) -> int:
    """Return how many instructions SQLite's machine ran for a step, in tens."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    def watch(handler: Callable[[], None] | None) -> Callable[[sa.Connection], None]:
        def work(connection: sa.Connection) -> None:
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(handler, 10)

        return work

    await store._access.database.run(watch(tick))
    await step()
    await store._access.database.run(watch(None))
    return count


async def test_postgres_looks_only_at_what_it_claims(
    postgres_url: str, open_store: OpenStore
) -> None:
    """With 100,000 waiting, a claim of fifty reads fifty rows (counted by PostgreSQL)."""
    store = await open_store(postgres_url)
    await grow(store)
    await analyze(store)

    def work(connection: sa.Connection) -> int:
        sql = str(
            outgoing.DUE.params(sink="erp", now=2**62, limit=50).compile(
                dialect=connection.dialect, compile_kwargs={"literal_binds": True}
            )
        )
        shown = connection.execute(sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")).scalar_one()
        return _most_rows(shown[0]["Plan"] if not isinstance(shown, str) else json.loads(shown))

    assert await store._access.database.run(work) <= 50


def _most_rows(node: dict[str, Any]) -> int:
    below = [_most_rows(one) for one in node.get("Plans", [])]
    removed = int(node.get("Rows Removed by Filter", 0))
    return max([int(node["Actual Rows"]) + removed, *below])
