"""The daemon on PostgreSQL: the same main job, and what another host would see."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from mailbridge.store.store import Store
from tests.servers.postgres import Postgres
from tests.servers.site import SECONDS, Site, mail, site

__all__ = ["site"]  # the fixture


@pytest.fixture
def url(site: Site, postgres: Postgres) -> str:
    """Point the site's configuration at a database of its own."""
    database = postgres.create_database()
    text = site.config.read_text()
    [line] = [line for line in text.splitlines() if "database:" in line]
    site.config.write_text(text.replace(line, f"  database: {database.url}"))
    return database.url


async def test_a_killed_daemon_loses_nothing(site: Site, url: str) -> None:
    """After kill -9 in the middle and a restart, every mail arrives, under one id."""
    for number in range(30):
        site.box.deliver(mail(number))
    async with site.daemon() as process:
        await site.receiver.wait(5, seconds=SECONDS, event="mail.received")
        process.kill()
        await process.wait()
    for number in range(30, 40):
        site.box.deliver(mail(number))
    async with site.daemon():
        await site.receiver.wait(40, seconds=SECONDS + 30, event="mail.received")

    ids: dict[str, set[str]] = {}
    for request in site.receiver.requests:
        ids.setdefault(request.json["data"]["subject"], set()).add(request.id)
    assert sorted(ids) == sorted(f"Alarm {number}" for number in range(40))
    assert all(len(seen) == 1 for seen in ids.values())


async def test_the_password_is_shown_nowhere(site: Site, url: str) -> None:
    """The database's URL may hold a password; what is logged and shown has none of it."""
    password = "correct-horse-battery"
    file = site.home / "database.url"
    file.write_text(f"postgresql://mailbridge:{password}@/x?host=/nonexistent")
    file.chmod(0o600)
    site.config.write_text(site.config.read_text().replace(url, f"{{file: {file}}}"))
    process = await site.start("--log-level", "debug", "run")
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()

    assert process.returncode == 1
    assert b"/nonexistent" in err
    assert password not in (out + err).decode()
    assert b"Traceback" not in err


async def test_two_hosts_share_one_queue(site: Site, url: str) -> None:
    """What one store has claimed, another does not get; what it gives back, it does."""
    site.box.deliver(mail(1))
    async with site.daemon():
        [request] = await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
    one = await Store.open(url, now=lambda: datetime.now(UTC), owner="one")
    two = await Store.open(url, now=lambda: datetime.now(UTC), owner="two")
    try:
        await one.replay([request.id])
        mine = await one.claim("receiver", limit=10, max_bytes=1 << 20, lease=30)
        theirs = await two.claim("receiver", limit=10, max_bytes=1 << 20, lease=30)
        await one.release(mine)
        now_theirs = await two.claim("receiver", limit=10, max_bytes=1 << 20, lease=30)
    finally:
        await one.close()
        await two.close()

    assert [d.event_id for d in mine] == [request.id]
    assert theirs == []
    assert [d.event_id for d in now_theirs] == [request.id]
