"""The key of the grants as an operator meets it: at the start, and when it is changed."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from mailbridge.model import Grant
from mailbridge.store.sealing import Key
from mailbridge.store.store import Store
from tests.contract.consents import of, touch
from tests.servers.site import SECONDS, Site, mail, site

__all__ = ["site"]  # the fixture

FORMER, NEW = (base64.b64encode(bytes(range(at, at + 32))).decode() for at in (0, 1))
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
GRANT = Grant(
    app="alarm-app",
    account="alarm@feuerwehr.example",
    refresh_token="0.AVwA-canary-refresh-token",
    granted_at=NOON,
    refreshed_at=NOON,
)


@pytest.fixture
async def keyed(site: Site) -> Site:
    """Give a site whose state key is ``FORMER``, with one grant in its database."""
    (site.home / "state.key").write_text(FORMER + "\n")
    (site.home / "state.key").chmod(0o600)
    (site.home / "new.key").write_text(NEW + "\n")
    (site.home / "new.key").chmod(0o600)
    configure(site, "{file: state.key}")
    async with opened(site, [FORMER]) as store:
        await store.grants.save_grant(GRANT)
    return site


def configure(site: Site, key: str) -> None:
    """Write ``state.key`` into the configuration."""
    lines = site.config.read_text().splitlines()
    lines = [line for line in lines if not line.startswith("  key:")]
    lines.insert(lines.index("state:") + 1, f"  key: {key}")
    site.config.write_text("\n".join(lines) + "\n")


@asynccontextmanager
async def opened(site: Site, keys: Sequence[str]) -> AsyncIterator[Store]:
    store = await Store.open(
        f"sqlite:///{site.home}/state/mailbridge.db", keys=[Key.parse(key) for key in keys]
    )
    try:
        yield store
    finally:
        await store.close()


async def holds(site: Site, key: str) -> bool:
    """Tell whether the grant is there under this key."""
    async with opened(site, [key]) as store:
        return await store.grants.grant(GRANT.app, GRANT.account) == GRANT


async def test_a_wrong_key_ends_the_start(keyed: Site) -> None:
    """The daemon does not start, says which key it wants, and shows neither; nothing is lost."""
    configure(keyed, "{file: new.key}")
    code, out, err = await keyed.call("run")
    assert code == 1
    former, new = Key.parse(FORMER).fingerprint, Key.parse(NEW).fingerprint
    assert f"state.key ({new}): they are under the key {former}" in err
    assert "Fix: put the former key back" in err
    assert not any(secret in out + err for secret in (FORMER, NEW, "canary"))
    code, out, _ = await keyed.call("db", "check")
    assert (code, f"under the key {former}" in out) == (1, True)
    assert (await keyed.call("queue", "list"))[0] == 0
    assert await holds(keyed, FORMER)


async def test_a_daemon_without_the_key_delivers_mail(keyed: Site) -> None:
    """A missing key stops what needs grants and nothing else, and the log says so."""
    configure(keyed, "")
    keyed.config.write_text(keyed.config.read_text().replace("  key: \n", ""))
    keyed.box.deliver(mail(1))
    async with keyed.daemon():
        await keyed.receiver.wait(1, seconds=SECONDS, event="mail.received")
    [told] = [line for line in keyed.log if line["event"] == "grants.locked"]
    assert (told["level"], told["grants"]) == ("warning", 1)
    assert await holds(keyed, FORMER)


async def test_the_daemon_takes_both_keys(keyed: Site) -> None:
    """[new, former] and a restart are all that it takes to change the key."""
    configure(keyed, "[{file: new.key}, {file: state.key}]")
    async with keyed.daemon():
        keyed.box.deliver(mail(1))
        await keyed.receiver.wait(1, seconds=SECONDS, event="mail.received")
        code, _, err = await keyed.call("db", "rekey", "--new-key", "file:new.key")
        assert (code, "in use by another mailbridge" in err) == (1, True)
        assert "stop the daemon first" in err
    assert [line["grants"] for line in keyed.log if line["event"] == "grants.rekeyed"] == [1]
    assert await holds(keyed, NEW)


@pytest.mark.parametrize("place", ["file:new.key", "env:NEW_KEY", "credential:new.key", "-"])
async def test_the_key_is_changed_by_command(keyed: Site, place: str) -> None:
    """The new key comes from any place that a secret may have, and is never shown."""
    keyed.environ |= {"NEW_KEY": NEW, "CREDENTIALS_DIRECTORY": str(keyed.home)}
    process = await asyncio.create_subprocess_shell(
        'exec "$PYTHON" -m mailbridge --config "$FILE" db rekey --new-key "$PLACE" < new.key',
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=keyed.environ | {"PYTHON": sys.executable, "FILE": str(keyed.config), "PLACE": place},
        cwd=keyed.home,
    )
    out, err = await process.communicate()
    fingerprint = Key.parse(NEW).fingerprint
    assert process.returncode == 0, err
    assert out.decode() == f"grants encrypted anew under the key {fingerprint}: 1\n"
    assert b"put the new key into the place that state.key names" in err
    assert NEW.encode() not in out + err
    assert await holds(keyed, NEW)
    # Whoever is not sure whether it went through runs it again.
    code, said, _ = await keyed.call("db", "rekey", "--new-key", "file:new.key")
    assert (code, said) == (0, f"grants encrypted anew under the key {fingerprint}: 0\n")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (NEW, "this is not a place of a key"),
        ("file:missing.key", "cannot be read"),
        ("file:", "this is not a place of a key"),
        ("env:NOT_SET", "NOT_SET is not set"),
        ("credential:new.key", "gave this process no credentials"),
    ],
)
async def test_a_key_on_the_command_line_is_refused(keyed: Site, place: str, told: str) -> None:
    """The key itself is not taken, since others can read it there; a wrong place is named."""
    code, out, err = await keyed.call("db", "rekey", "--new-key", place)
    assert code == 2
    assert told in " ".join(err.replace("│", " ").split())
    assert NEW not in out + err
    assert await holds(keyed, FORMER)


async def test_what_is_no_key_is_refused(keyed: Site) -> None:
    """A file that holds something else is refused without being repeated."""
    (keyed.home / "new.key").write_text("made-up-passphrase\n")
    code, out, err = await keyed.call("db", "rekey", "--new-key", "file:new.key")
    assert code == 1
    assert "not a state key (32 bytes of base64)" in err
    assert "made-up-passphrase" not in out + err


async def test_lost_grants_are_given_up_on_purpose(keyed: Site) -> None:
    """When the key is lost, one step that has to be confirmed lets the daemon start again."""
    configure(keyed, "{file: new.key}")
    code, _, err = await keyed.call("db", "forget-grants")
    assert (code, "say --yes" in err) == (2, True)
    code, _, err = await keyed.call("db", "forget-grants", "--damaged", "--yes")
    assert (code, "they are under the key" in err) == (1, True)
    assert await keyed.call("db", "forget-grants", "--yes") == (0, "grants removed: 1\n", "")
    async with opened(keyed, [NEW]) as store:
        assert await store.grants.grant(GRANT.app, GRANT.account) is None


async def test_a_damaged_grant_is_found_and_removed(keyed: Site) -> None:
    """``db check`` names it and the command that removes it, which leaves the others."""
    key = Key.parse(FORMER)
    async with opened(keyed, [FORMER]) as store:
        await store.grants.save_grant(of("other"))
        await touch(store, of("other"), b"\x01 damaged", key)
    code, out, _ = await keyed.call("db", "check")
    assert (code, "forget-grants --damaged" in out) == (1, True)
    done = await keyed.call("db", "forget-grants", "--damaged", "--yes")
    assert done == (0, "grants removed: 1\n", "")
    assert (await keyed.call("db", "check"))[:2] == (0, "ok\n")
    assert await holds(keyed, FORMER)
