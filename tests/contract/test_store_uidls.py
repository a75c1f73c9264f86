"""What the store keeps for POP3: the UIDLs that were dealt with, longer than any message."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from mailbridge.errors import StoreRefused, TemporaryError
from mailbridge.model import Accepted, Batch, Checkpoint, Gap, MessageRef, RawMessage
from mailbridge.store import schema
from mailbridge.store.engine import Address, connect_sqlite
from mailbridge.store.rows import Purged
from mailbridge.store.store import Store
from mailbridge.store.tables import SCHEMA
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import NOON, accept, batch, claim, done, gap, ref

DAY = timedelta(days=1)


def place(uidl: str, *, mailbox: str = "alarm") -> MessageRef:
    return MessageRef(mailbox=mailbox, folder="INBOX", protocol="pop3", uidl=uidl)


def letter(uidl: str) -> RawMessage:
    return RawMessage(ref=place(uidl), raw=b"Subject: x\r\n\r\n" + uidl.encode(), received_at=NOON)


def missing(uidl: str) -> Gap:
    due = NOON + timedelta(minutes=1)
    return Gap(ref=place(uidl), reason="-ERR", tries=1, first_at=NOON, due_at=due)


def pop3(*uidls: str, **more: Any) -> Batch:
    """Return a batch of these mails."""
    parts: dict[str, Any] = {"mailbox": "alarm", "sinks": ("erp",)} | more
    mailbox = parts["mailbox"]
    return Batch(
        folder="INBOX",
        checkpoint=Checkpoint(
            mailbox=mailbox, folder="INBOX", uidvalidity=0, uid=0, watching_since=NOON
        ),
        messages=tuple(letter(uidl) for uidl in uidls),
        **parts,
    )


async def take(store: Store, one: Batch) -> Accepted:
    return await store.accept(one, address="a@b", settles=False)


async def test_all_that_was_dealt_with_is_known(store: Store) -> None:
    """Stored, a gap, or there before the watch began: none of it is new at the next look."""
    assert await store.uidls("alarm", "INBOX") == {}
    await take(store, pop3(before=("old-1", "old-2")))
    await take(store, pop3("a", gaps=(missing("b"),)))
    await take(store, pop3(known=((place("c"), "msg_x"),)))
    known = await store.uidls("alarm", "INBOX")
    assert known == dict.fromkeys(["old-1", "old-2", "a", "b", "c"], False)
    assert await store.uidls("alarm", "Archive") == await store.uidls("office", "INBOX") == {}


async def test_what_lay_there_before_is_not_delivered(store: Store) -> None:
    """Remembering a mailbox makes no mail and no delivery, however full it is."""
    listed = tuple(f"uidl-{number:06}" for number in range(20_000))
    assert await take(store, pop3(before=listed)) == Accepted(new=0, known=0)
    assert await store.uidls("alarm", "INBOX") == dict.fromkeys(listed, False)
    assert await claim(store) == []
    assert await store.messages() == []


async def test_a_fault_in_the_commit_remembers_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail that was not stored is not known either: it is fetched again."""

    def fail(*_arguments: Any, **_named: Any) -> None:
        raise sa.exc.DBAPIError("x", {}, RuntimeError("fault"))

    monkeypatch.setattr("mailbridge.store.incoming._write_checkpoint", fail)
    with pytest.raises(TemporaryError):
        await take(store, pop3("a", before=("b",)))
    assert await store.uidls("alarm", "INBOX") == {}


async def test_what_is_gone_stays_known_for_thirty_days(store: Store, clock: Clock) -> None:
    """A server that lists nothing for once does not make every old mail new."""
    await take(store, pop3("a", "b", before=("c",)))
    await take(store, pop3(gone=("a", "c", "never seen")))
    assert await store.uidls("alarm", "INBOX") == {"a": True, "b": False, "c": True}
    clock.advance(29 * 86_400)
    await take(store, pop3(gone=("a",)))
    assert (await purge(store, clock)).uidls == 0
    clock.advance(2 * 86_400)
    assert (await purge(store, clock)).uidls == 2
    assert await store.uidls("alarm", "INBOX") == {"b": False}


async def test_what_is_listed_again_is_not_forgotten(store: Store, clock: Clock) -> None:
    """Once a glitch is over nothing is forgotten, or old mail would come a month later."""
    await take(store, pop3("a", before=("b",)))
    await take(store, pop3(gone=("a", "b")))
    await take(store, pop3(before=("a", "b")))
    assert await store.uidls("alarm", "INBOX") == {"a": False, "b": False}
    clock.advance(400 * 86_400)
    assert (await purge(store, clock)).uidls == 0
    assert await store.uidls("alarm", "INBOX") == {"a": False, "b": False}


async def test_forgetting_works_in_bounded_steps(store: Store, clock: Clock) -> None:
    """One step of retention takes no more than it was told, and says that there is more."""
    listed = tuple(f"{number:02}" for number in range(20))
    await take(store, pop3(before=listed))
    await take(store, pop3(gone=listed))
    clock.advance(31 * 86_400)
    moment = clock() - 365 * DAY
    first = await store.purge(
        delivered_before=moment, dead_before=moment, log_before=moment, limit=6
    )
    assert first == Purged(uidls=6, more=True)
    assert (await purge(store, clock)).uidls == 14


async def test_a_uidl_outlives_the_log_of_its_mail(store: Store, clock: Clock) -> None:
    """A mail that the server keeps for years is still recognised when the log has forgotten it."""
    await take(store, pop3("a", "b"))
    await store.resolve([done(one) for one in await claim(store)])
    clock.advance(400 * 86_400)
    assert (await purge(store, clock)).messages == 2
    assert await store.messages() == []
    assert await store.uidls("alarm", "INBOX") == {"a": False, "b": False}
    assert len(await store.fingerprints("alarm", "INBOX", 0)) == 2


async def test_nothing_is_left_of_a_mail_that_is_long_gone(store: Store, clock: Clock) -> None:
    """Whichever goes first, UIDL or log: the other takes the place of the mail along."""
    await take(store, pop3("early", "late"))
    await store.resolve([done(one) for one in await claim(store)])
    await take(store, pop3(gone=("early",)))
    clock.advance(31 * 86_400)
    assert (await purge(store, clock)).uidls == 1
    assert len(await store.messages()) == 2
    clock.advance(400 * 86_400)
    assert (await purge(store, clock)).messages == 2
    assert await rows(store, "messages") == 1
    await take(store, pop3(gone=("late",)))
    clock.advance(31 * 86_400)
    assert (await purge(store, clock)).uidls == 1
    assert await rows(store, "messages") == await rows(store, "uidls") == 0


async def test_a_gap_that_vanished_is_new_when_it_is_listed_again(
    store: Store, clock: Clock
) -> None:
    """A mail that could not be had, and was gone in one listing, still comes in the end."""
    await take(store, pop3(gaps=(missing("a"),)))
    await take(store, pop3(vanished=(place("a"),), gone=("a",)))
    assert await store.uidls("alarm", "INBOX") == {}
    clock.advance(3600)
    assert await take(store, pop3("a")) == Accepted(new=1, known=0)
    assert await store.gaps_due("alarm", "INBOX", clock()) == []
    assert await store.uidls("alarm", "INBOX") == {"a": False}


async def test_a_gap_that_came_stays_known(store: Store, clock: Clock) -> None:
    """Closing a gap with its mail leaves its UIDL where it is."""
    await take(store, pop3(gaps=(missing("a"),)))
    await take(store, pop3("a"))
    clock.advance(3600)
    assert await store.gaps_due("alarm", "INBOX", clock()) == []
    assert await store.uidls("alarm", "INBOX") == {"a": False}


async def test_mailboxes_do_not_share_uidls(store: Store) -> None:
    """Two mailboxes of one server may list the same UIDL; each is its own."""
    await take(store, pop3(before=("1", "2")))
    await take(store, pop3(mailbox="office", before=("1",)))
    await take(store, pop3(gone=("1",)))
    assert await store.uidls("alarm", "INBOX") == {"1": True, "2": False}
    assert await store.uidls("office", "INBOX") == {"1": False}


async def test_a_hostile_uidl_ends_no_transaction(store: Store) -> None:
    """NULs and broken Unicode are remembered escaped, as they are stored."""
    await take(store, pop3(before=("a\x00b", "c\ud800")))
    await take(store, pop3(gone=("a\x00b",)))
    assert await store.uidls("alarm", "INBOX") == {"a\\x00b": True, "c\\ud800": False}


async def test_imap_leaves_no_uidls(store: Store) -> None:
    """The UIDs of an IMAP folder are not written a second time."""
    await accept(store, [1, 2])
    await store.accept(batch(gaps=(gap(3),), uid=3), address="a", settles=True)
    assert await rows(store, "uidls") == 0


async def test_two_hosts_on_one_mailbox_remember_each_uidl_once(
    postgres_url: str, open_store: OpenStore
) -> None:
    """Two daemons that see the same mailbox for the first time do not hinder each other."""
    first, second = await open_store(postgres_url), await open_store(postgres_url, owner="host:2")
    listed = tuple(f"uidl-{number}" for number in range(500))
    await take(first, pop3(before=listed))
    await take(second, pop3(before=tuple(reversed(listed))))
    assert await rows(first, "uidls") == 500


async def test_an_older_database_is_brought_up_to_date_with_what_it_knows(
    url: str, open_store: OpenStore, clock: Clock
) -> None:
    """Mail, checkpoints and UIDLs of the former version are all there after the upgrade."""
    await make_first_schema(url)
    for settings in ({"mode": "read"}, {"upgrade": False}):
        with pytest.raises(StoreRefused, match="schema 0001") as refused:
            await open_store(url, **settings)
        assert refused.value.code == "store.older"
    store = await open_store(url)
    assert await store.schema_version() == SCHEMA
    assert [row.ref for row in await store.messages(state="unrouted")] == [ref(5), place("a")]
    assert await store.uidls("alarm", "INBOX") == {"a": False, "g": False}
    assert await store.checkpoint("alarm", "INBOX") is None
    assert await store.check() == []
    assert await take(store, pop3("a", "b")) == Accepted(new=1, known=1)


FIRST_MESSAGES = """
    INSERT INTO messages (id, mailbox, folder, protocol, uidvalidity, uid, uidl, address,
        accepted_at, size, sha256, settle, routed, kept)
    VALUES ('{pop3}', 'alarm', 'INBOX', 'pop3', 0, 0, 'a', '', 1700000000000000, 1, '', 0, 0, 1),
        ('{imap}', 'alarm', 'INBOX', 'imap', 7, 5, '', '', 1700000000000000, 1, '', 0, 0, 1)
"""
FIRST_GAPS = """
    INSERT INTO gaps (id, mailbox, folder, protocol, uidvalidity, uid, uidl, reason, tries,
        first_at, due_at, vanished_at)
    VALUES ('g', 'alarm', 'INBOX', 'pop3', 0, 0, 'g', '', 1, 0, 0, NULL),
        ('v', 'alarm', 'INBOX', 'pop3', 0, 0, 'v', '', 1, 0, 0, 5)
"""


async def make_first_schema(url: str) -> None:
    """Make a database as the first version of mailbridge made it, with mail in it."""
    address = Address.parse(url)
    if address.file is not None:
        file = address.file
        file.touch()
        engine = sa.create_engine(
            "sqlite+pysqlite://", creator=lambda: connect_sqlite(file, mode="write")
        )
    else:
        engine = sa.create_engine(address.url)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(schema._MIGRATIONS))
        command.upgrade(config, "0001")
        pop3_id, imap_id = place("a").message_id, ref(5).message_id
        connection.exec_driver_sql(FIRST_MESSAGES.format(pop3=pop3_id, imap=imap_id))
        connection.exec_driver_sql(FIRST_GAPS)
    engine.dispose()


async def test_unknown_leaves_out_what_is_stored_remembered_or_a_gap(store: Store) -> None:
    """A look-back asks for what nobody has, in the order in which it asked."""
    await accept(store, [1, 2, 9])
    await store.accept(batch(gaps=(gap(4),), uid=9), address="a", settles=True)
    known = ((ref(6), ref(1).message_id),)
    await store.accept(batch(known=known, uid=9), address="a", settles=True)
    assert list(await store.unknown("alarm", "INBOX", 7, [8, 1, 2, 3, 4, 5, 6, 9])) == [8, 3, 5]
    assert list(await store.unknown("alarm", "INBOX", 7, [])) == []
    assert list(await store.unknown("alarm", "INBOX", 7, [5, 10**9])) == [5, 10**9]


async def test_unknown_belongs_to_one_folder_and_epoch(store: Store) -> None:
    """The same UID in another folder, epoch or mailbox says nothing."""
    await accept(store, [1])
    assert list(await store.unknown("alarm", "INBOX", 8, [1])) == [1]
    assert list(await store.unknown("alarm", "Archive", 7, [1])) == [1]
    assert list(await store.unknown("office", "INBOX", 7, [1])) == [1]


async def test_a_vanished_gap_is_unknown_when_it_is_listed_again(store: Store) -> None:
    """A mail that was missing from one listing only is found by the next look-back."""
    await store.accept(batch(gaps=(gap(2),), uid=2), address="a", settles=True)
    assert list(await store.unknown("alarm", "INBOX", 7, [2])) == []
    await store.accept(batch(vanished=(ref(2),), uid=2), address="a", settles=True)
    assert list(await store.unknown("alarm", "INBOX", 7, [2])) == [2]


async def test_a_look_back_recognises_what_retention_has_reduced(
    store: Store, clock: Clock
) -> None:
    """However short the settings, the places of the last three days are not forgotten."""
    await accept(store, [1], settles=False)
    await store.resolve([done(one) for one in await claim(store)])
    renumbered = replace(batch(known=((ref(5, epoch=8), ref(1).message_id),), epoch=8, uid=5))
    await store.accept(renumbered, address="a", settles=False)
    clock.advance(2 * 86_400 + 86_000)
    assert await purge(store, clock, keep=timedelta(hours=1)) == Purged(raw=1)
    assert list(await store.unknown("alarm", "INBOX", 7, [1])) == []
    assert list(await store.unknown("alarm", "INBOX", 8, [5])) == []
    clock.advance(86_400)
    assert await purge(store, clock, keep=timedelta(hours=1)) == Purged(messages=2)
    assert list(await store.unknown("alarm", "INBOX", 7, [1])) == [1]
    assert list(await store.unknown("alarm", "INBOX", 8, [5])) == []


async def purge(store: Store, clock: Clock, *, keep: timedelta = 180 * DAY) -> Purged:
    """Apply retention until it has nothing left to do; returns the sum."""
    moment, total = clock() - keep, Purged()
    while True:
        step = await store.purge(delivered_before=moment, dead_before=moment, log_before=moment)
        total = Purged(
            raw=total.raw + step.raw,
            messages=total.messages + step.messages,
            uidls=total.uidls + step.uidls,
        )
        if not step.more:
            return total


async def rows(store: Store, table: str) -> int:
    """Count the rows of a table."""

    def work(connection: sa.Connection) -> int:
        counted: int = connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
        return counted

    return await store._access.database.run(work)
