"""Grants at rest: kept durably, readable with the key alone, and refused when they were touched."""

from __future__ import annotations

import asyncio
import random
import traceback
from dataclasses import replace
from datetime import UTC, timedelta, timezone

import pytest
import sqlalchemy as sa
import structlog

from mailbridge.errors import PermanentError, StoreRefused
from mailbridge.model import Grant
from mailbridge.store.sealing import FORMAT, NONCE_BYTES, Key
from mailbridge.store.store import Store
from mailbridge.store.tables import grants, meta
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.consents import (
    KEY,
    NEW,
    STRANGER,
    TOKENS,
    a_grant,
    execute,
    get,
    kept,
    leaks,
    of,
    stored,
    touch,
)
from tests.contract.mails import NOON, accept, claim, uids


@pytest.fixture
async def locked(url: str, open_store: OpenStore) -> Store:
    """Give an empty store that was opened with a key."""
    return await open_store(url, keys=[KEY])


# --- keeping


async def test_a_grant_comes_back_as_it_was_saved(locked: Store) -> None:
    """Every field survives, microseconds included; before that there is none."""
    grant = a_grant()
    assert await get(locked, grant) is None
    await locked.grants.save_grant(grant)
    assert await get(locked, grant) == grant


@pytest.mark.parametrize("odd", ["a\x00b", "\ud800", "ä\u2028€😀", "", '"\\', "x" * 300_000])
async def test_odd_characters_lose_no_grant(locked: Store, odd: str) -> None:
    """Whatever stands in a token, a cache or a name, the grant is kept and found again."""
    grant = a_grant(app=f"app{odd[:9]}", refresh_token=odd, cache=odd, former=None, scopes=(odd,))
    assert await get(locked, await kept(locked, grant)) == grant


async def test_times_are_kept_as_moments(locked: Store) -> None:
    """A time in another zone is the same moment when it comes back."""
    abroad = NOON.astimezone(timezone(timedelta(hours=-7)))
    found = await get(locked, await kept(locked, a_grant(granted_at=abroad)))
    assert found is not None
    assert found.granted_at == NOON
    assert found.granted_at.tzinfo is UTC


async def test_the_rotated_token_takes_the_place_of_the_former(
    url: str, open_store: OpenStore
) -> None:
    """There is one row for each account, with the newest token, after a restart too."""
    store = await open_store(url, keys=[KEY])
    first = await kept(store, of("alarm", "first"))
    second = await kept(store, replace(first, refresh_token="second", former="first"))
    assert len(await stored(store)) == 1
    await store.close()
    assert await get(await open_store(url, keys=[KEY]), first) == second


async def test_grants_of_others_are_left_alone(locked: Store) -> None:
    """Another account, another app: each has its own grant, and forgetting one keeps the rest."""
    one, other = await kept(locked, of("one")), await kept(locked, of("other"))
    elsewhere = await kept(locked, replace(one, app="second-app"))
    assert await locked.grants.forget_grant(one.app, one.account) is True
    assert await locked.grants.forget_grant(one.app, one.account) is False
    assert await get(locked, one) is None
    assert [await get(locked, grant) for grant in (other, elsewhere)] == [other, elsewhere]


async def test_an_address_is_found_in_any_case(locked: Store) -> None:
    """Exchange does not tell Alarm@ from alarm@; a changed spelling needs no new consent."""
    await kept(locked, of("alarm", "old"))
    shouted = await kept(locked, replace(of("alarm"), account="ALARM@Canary-Tenant.example"))
    assert await get(locked, of("alarm")) == shouted
    assert await locked.grants.forget_grant(shouted.app, "alarm@canary-tenant.EXAMPLE") is True


async def test_a_saved_grant_is_committed_before_the_call_returns(locked: Store) -> None:
    """The token that Entra just gave is on the disk before anybody uses what came with it."""
    before = locked.commits
    await kept(locked, of("alarm"))
    assert locked.commits == before + 1
    if locked._access.alone:
        assert await execute(locked, sa.text("PRAGMA synchronous")) == [(2,)]


async def test_a_cancelled_caller_loses_no_token(url: str, open_store: OpenStore) -> None:
    """A stop of the daemon in the middle of a refresh does not throw the new token away."""
    store = await open_store(url, keys=[KEY])
    # The first ones occupy the threads, so the last still waits for one when it is cancelled.
    saves = [asyncio.create_task(store.grants.save_grant(of(str(at)))) for at in range(12)]
    await asyncio.sleep(0)
    for saving in saves:
        saving.cancel()
    await asyncio.gather(*saves, return_exceptions=True)
    assert all(saving.cancelled() for saving in saves)
    await store.close()
    store = await open_store(url, keys=[KEY])
    assert [await get(store, of(str(at))) for at in range(12)] == [of(str(at)) for at in range(12)]


async def test_retention_never_touches_grants(locked: Store, clock: Clock) -> None:
    """A grant is used for years; no age makes it go."""
    grant = await kept(locked, a_grant())
    await accept(locked, [1])
    moment = clock.advance(400 * 86_400) + timedelta(days=4000)
    for _ in range(3):
        await locked.purge(delivered_before=moment, dead_before=moment, log_before=moment)
    assert await get(locked, grant) == grant


async def test_no_nonce_comes_twice_in_the_store(sqlite_url: str, open_store: OpenStore) -> None:
    """1,000 refreshes of one grant write 1,000 nonces: a second use would give both away."""
    store = await open_store(sqlite_url, keys=[KEY], synchronous="OFF")
    nonces = set()
    query = sa.select(sa.func.substr(grants.c.sealed, 2, NONCE_BYTES))
    for _ in range(1000):
        await store.grants.save_grant(of("alarm"))
        nonces.add((await execute(store, query))[0][0])
    assert len(nonces) == 1000


# --- the key


async def test_without_a_key_nothing_of_grants_works_and_all_else_does(
    url: str, open_store: OpenStore
) -> None:
    """Delegated sign-in is refused with what to do; mail goes on, and no grant is lost."""
    store = await open_store(url, keys=[KEY])
    grant = await kept(store, a_grant())
    await store.close()
    with structlog.testing.capture_logs() as logs:
        store = await open_store(url, keys=[])
    assert [(entry["event"], entry["grants"]) for entry in logs] == [("grants.locked", 1)]
    for call in (
        store.grants.grant(grant.app, grant.account),
        store.grants.save_grant(grant),
        store.grants.forget_grant(grant.app, grant.account),
    ):
        with pytest.raises(PermanentError, match=r"state\.key is not set") as refused:
            await call
        assert refused.value.code == "store.no_key"
        assert "mailbridge secret key" in refused.value.fix
        assert not isinstance(refused.value, StoreRefused)
    await accept(store, [1])
    assert uids(await claim(store)) == [1]
    await store.close()
    assert await get(await open_store(url, keys=[KEY]), grant) == grant


async def test_a_wrong_key_is_a_start_error_and_changes_nothing(
    url: str, open_store: OpenStore
) -> None:
    """A mistaken key never begins a new set of grants: it says which key is wanted, and how."""
    store = await open_store(url, keys=[KEY])
    grant = await kept(store, a_grant())
    before = await stored(store)
    await store.close()
    for mode in ("write", "read"):
        with pytest.raises(StoreRefused, match=f"{NEW.fingerprint}.*under the key") as refused:
            await open_store(url, keys=[NEW, STRANGER], mode=mode)
        assert refused.value.code == "store.wrong_key"
        assert f"under the key {KEY.fingerprint}" in str(refused.value)
        for way in ("former key back", "[NEW, FORMER]", "db rekey", "db forget-grants"):
            assert way in refused.value.fix
    store = await open_store(url, keys=[KEY])
    assert await stored(store) == before
    assert await get(store, grant) == grant


async def test_commands_that_need_no_grants_need_no_key(url: str, open_store: OpenStore) -> None:
    """The status and the queue are there even while the key is lost."""
    store = await open_store(url, keys=[KEY])
    await kept(store, a_grant())
    await store.close()
    store = await open_store(url)
    await accept(store, [1])
    reader = await open_store(url, mode="read")
    assert len(await reader.messages()) == 1


async def test_a_reader_with_the_key_sees_grants_and_changes_nothing(
    url: str, open_store: OpenStore
) -> None:
    """The status can show how old a grant is beside a daemon, with either key of a change."""
    store = await open_store(url, keys=[KEY])
    grant = await kept(store, a_grant())
    before = await stored(store)
    reader = await open_store(url, mode="read", keys=[NEW, KEY])
    assert await get(reader, grant) == grant
    assert await stored(store) == before


async def test_a_key_under_which_nothing_is_kept_may_be_replaced(
    url: str, open_store: OpenStore
) -> None:
    """Before the first grant, and after the last, another key harms nobody."""
    store = await open_store(url, keys=[KEY])
    await kept(store, of("alarm"))
    await store.grants.forget_grant(of("alarm").app, of("alarm").account)
    await store.close()
    store = await open_store(url, keys=[NEW])
    grant = await kept(store, of("office"))
    await store.close()
    with pytest.raises(StoreRefused, match=r"cannot be read with state\.key"):
        await open_store(url, keys=[KEY])
    assert await get(await open_store(url, keys=[NEW]), grant) == grant


@pytest.mark.parametrize("check", ["missing", "flipped", "another's"])
async def test_a_lost_or_changed_check_value_is_a_start_error(
    url: str, open_store: OpenStore, check: str
) -> None:
    """Grants whose key cannot be told are not taken for none, and not written over."""
    store = await open_store(url, keys=[KEY])
    await kept(store, a_grant())
    found = {"flipped": "f" + KEY.check[1:], "another's": NEW.check}
    ours = meta.c.key == "grants_key"
    change = meta.update().where(ours).values(value=found.get(check))
    await execute(store, meta.delete().where(ours) if check == "missing" else change)
    before = await stored(store)
    for call in (store.grants.save_grant(of("new")), get(store, a_grant())):
        with pytest.raises(PermanentError) as told:
            await call
        assert told.value.code == "store.wrong_key"
        assert not isinstance(told.value, StoreRefused)
    assert await stored(store) == before
    await store.close()
    with pytest.raises(StoreRefused) as refused:
        await open_store(url, keys=[KEY])
    assert refused.value.code == "store.wrong_key"


async def test_grants_are_given_up_on_purpose_only(url: str, open_store: OpenStore) -> None:
    """When the key is lost for good, one deliberate step lets people sign in again."""
    store = await open_store(url, keys=[KEY])
    await kept(store, of("one"))
    await kept(store, of("two"))
    await accept(store, [1])
    await store.close()
    store = await open_store(url)
    assert await store.grants.forget_all() == 2
    await store.close()
    store = await open_store(url, keys=[NEW])
    assert await get(store, of("one")) is None
    assert await get(store, await kept(store, of("one"))) == of("one")
    assert uids(await claim(store)) == [1]


async def test_two_hosts_with_different_keys_never_mix_them(
    postgres_url: str, open_store: OpenStore
) -> None:
    """Whoever saves the first grant decides; the other host is told, and has written nothing."""
    hosts = [(await open_store(postgres_url, keys=[key]), key) for key in (KEY, NEW) * 2]
    saved = await asyncio.gather(
        *(store.grants.save_grant(of(str(at))) for at, (store, _) in enumerate(hosts)),
        return_exceptions=True,
    )
    [(check,)] = await execute(
        hosts[0][0], sa.select(meta.c.value).where(meta.c.key == "grants_key")
    )
    for (store, key), outcome, at in zip(hosts, saved, range(4), strict=True):
        if key.fits(check):
            assert outcome is None
            assert await get(store, of(str(at))) == of(str(at))
        else:
            assert isinstance(outcome, PermanentError)
            assert outcome.code == "store.wrong_key"
    assert len(await stored(hosts[0][0])) == 2


# --- touched rows


async def refusal(store: Store, grant: Grant) -> PermanentError:
    """Return the error of reading a grant, which shows no token, not even in its frames."""
    with pytest.raises(PermanentError) as refused:
        await get(store, grant)
    assert not isinstance(refused.value, StoreRefused)
    error: BaseException | None = refused.value
    while error is not None:
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert leaks("".join(told.format()).encode(), TOKENS) == []
        error = error.__context__
    assert leaks(f"{refused.value} {refused.value.fix}".encode()) in ([], ["canary-app-reg"])
    return refused.value


async def test_every_part_of_a_row_is_guarded(locked: Store) -> None:
    """A flipped bit anywhere is an error of that row alone, which a new sign-in mends."""
    grant, other = await kept(locked, a_grant()), await kept(locked, of("other"))
    sealed = (await stored(locked))[KEY.name(grant.app, grant.account)]
    rng = random.Random(4)
    for place in [0, 1, NONCE_BYTES, 1 + NONCE_BYTES, len(sealed) - 1, *rng.sample(range(400), 9)]:
        changed = bytearray(sealed)
        changed[place] ^= 1 << rng.randrange(8)
        await touch(locked, grant, bytes(changed))
        error = await refusal(locked, grant)
        assert error.code == ("grant.damaged" if place else "grant.format")
        assert "mailbridge login" in error.fix
        assert await get(locked, other) == other
    for cut in (b"", sealed[:5], sealed[:-1], sealed + b"\0", sealed[:1] + bytes(40)):
        await touch(locked, grant, cut)
        assert (await refusal(locked, grant)).code == "grant.damaged"
    assert await get(locked, await kept(locked, grant)) == grant


async def test_rows_cannot_be_swapped(locked: Store) -> None:
    """Who can write the database cannot have one mailbox opened with the grant of another."""
    one, two = await kept(locked, of("one")), await kept(locked, of("two"))
    rows = await stored(locked)
    await touch(locked, one, rows[KEY.name(two.app, two.account)])
    await touch(locked, two, rows[KEY.name(one.app, one.account)])
    for grant in (one, two):
        assert (await refusal(locked, grant)).code == "grant.damaged"


async def test_a_row_under_another_name_is_nobodys(url: str, open_store: OpenStore) -> None:
    """A row whose name was changed is found by nobody, and told as damaged at the start."""
    store = await open_store(url, keys=[KEY])
    grant, other = await kept(store, of("one")), await kept(store, of("other"))
    name = KEY.name(grant.app, grant.account)
    moved = bytes([name[0] ^ 1]) + name[1:]
    await execute(store, grants.update().where(grants.c.name == name).values(name=moved))
    assert await get(store, grant) is None
    assert await get(store, other) == other
    [fault] = await store.grants.faults([KEY])
    assert fault.startswith(f"grant {moved.hex()[:16]} cannot be read")
    await store.close()
    with structlog.testing.capture_logs() as logs:
        store = await open_store(url, keys=[KEY])
    [told] = [entry for entry in logs if entry["event"] == "grants.damaged"]
    assert (told["log_level"], told["rows"]) == ("error", [moved.hex()[:16]])
    assert "db forget-grants --damaged" in told["fix"]
    assert await store.grants.forget_damaged([KEY]) == 1
    assert await store.grants.faults([KEY]) == []


@pytest.mark.parametrize("number", [0, FORMAT + 1])
async def test_another_format_is_refused(locked: Store, number: int) -> None:
    """A row of a format that this version does not know is named so, and nothing is guessed."""
    grant = await kept(locked, a_grant())
    [sealed] = (await stored(locked)).values()
    await touch(locked, grant, bytes([number]) + sealed[1:])
    error = await refusal(locked, grant)
    assert error.code == "grant.format"
    assert f"format {number}, this mailbridge knows only {FORMAT}" in str(error)


@pytest.mark.parametrize(
    "plain",
    [b"canary-cache-entry", b"[]", b"{}", b'{"scopes": [], "granted_at": "canary-cache-entry"}'],
)
async def test_content_of_another_program_is_refused_unseen(locked: Store, plain: bytes) -> None:
    """What was sealed with our key, but not as we do it, is refused without being shown."""
    grant = await kept(locked, a_grant())
    await touch(locked, grant, KEY.seal(KEY.name(grant.app, grant.account), plain))
    assert (await refusal(locked, grant)).code == "grant.format"


async def test_one_damaged_row_stops_no_other(url: str, open_store: OpenStore) -> None:
    """The daemon starts all the same, and the other mailboxes sign in."""
    store = await open_store(url, keys=[KEY])
    damaged, other = await kept(store, of("damaged")), await kept(store, of("other"))
    await touch(store, damaged, b"\x01 some other bytes, long enough for a row")
    await store.close()
    store = await open_store(url, keys=[KEY])
    assert await get(store, other) == other
    assert (await refusal(store, damaged)).code == "grant.damaged"
    assert await store.grants.forget_grant(damaged.app, damaged.account) is True
    assert await get(store, damaged) is None


def test_a_key_does_not_depend_on_its_object() -> None:
    """The keys of these tests are told apart by their fingerprints, as an operator does."""
    assert Key(bytes(range(32))).check == KEY.check
    assert len({KEY.fingerprint, NEW.fingerprint, STRANGER.fingerprint}) == 3
