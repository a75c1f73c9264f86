"""What a reload exchanges, and what only a start can."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mailbridge.build import Builder
from mailbridge.config import Config, load
from mailbridge.errors import PermanentError
from mailbridge.forms import build_format
from mailbridge.running import Running, _in_force, changes

TEXT = """
state: {database: "sqlite:///HOME/a.db", key: {env: KEY}}
http: {listen: 127.0.0.1:8025}
apps:
  one: {tenant: contoso.example, client_id: 66666666-7777-8888-9999-000000000000,
        credential: {client_secret: {env: SECRET}}}
mailboxes:
  a: {address: a@x.example, app: one, routes: [r]}
  b: {address: b@x.example, app: one, routes: [r]}
  c: {address: c@x.example, app: one, routes: [r, s]}
routes: {r: {match: {subject: a}, webhooks: [w]}, s: {webhooks: [w]}}
webhooks: {w: {url: "https://x.example/", attachments: {mode: link}}}
"""
KEYS = ("QUFB" * 10 + "QUE=", "QkJC" * 10 + "QkI=")


def loaded(home: Path, *changed: tuple[str, str], key: str = KEYS[0]) -> Config:
    text = TEXT.replace("HOME", str(home))
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    file = home / "mailbridge.yaml"
    file.write_text(text)
    return load(file, environ={"KEY": key, "SECRET": "abc8Q~made-up-client-secret"})


def test_what_only_a_start_can_change_stays_in_force(tmp_path: Path) -> None:
    """Links are signed with the key that the running server checks by, and lead to where it is."""
    old = loaded(tmp_path)
    new = loaded(
        tmp_path, ("a.db", "b.db"), (":8025", ":8026"), ("subject: a", "subject: b"), key=KEYS[1]
    )
    found, force = changes(old, new), _in_force(old, new)

    assert set(found.at_restart) == {"state.database", "state.key", "http"}
    assert found.routes == {"r"}
    assert not found.mailboxes | found.webhooks | found.apps | found.sending
    assert (force.state.database, force.state.key, force.http) == (
        old.state.database,
        old.state.key,
        old.http,
    )
    assert force.routes == new.routes


class Relaying:
    """A relay that takes a configuration, or cannot."""

    def __init__(self, daemon: Any, refuses: bool) -> None:  # noqa: FBT001 - a test
        self.daemon, self.refuses = daemon, refuses
        self.seen: Config | None = None

    def apply(self, config: Config) -> bool:
        """Remember what was in force when it was asked."""
        if self.refuses:
            raise PermanentError("the certificate cannot be used")
        self.seen = self.daemon.config
        return config is self.seen


def running(config: Config, *, refuses: bool = False) -> tuple[Running, Relaying]:
    async def taken(_: Config) -> set[str]:
        return set()

    daemon: Any = SimpleNamespace(config=config, intakes=[], dispatchers={}, sending={}, port=1)
    relaying: Any = Relaying(daemon, refuses)
    others: Any = {"supervisor": None, "schedule": None, "group": None, "relaying": relaying}
    builder: Any = SimpleNamespace(apply=taken)
    return Running(daemon=daemon, builder=builder, **others), relaying


async def test_a_reload_is_in_force_when_the_relay_takes_it(tmp_path: Path) -> None:
    """Whoever hears of the relay's mails is asked of the new file, but for what a start takes."""
    old = loaded(tmp_path)
    made, relaying = running(old)
    found = await made.apply(loaded(tmp_path, (":8025", ":8026"), key=KEYS[1]))

    assert "relay" not in found.at_restart
    assert relaying.seen is made.daemon.config is not old
    assert (made.daemon.config.http, made.daemon.config.state.key) == (old.http, old.state.key)


async def test_a_relay_that_cannot_take_it_leaves_all_as_it_was(tmp_path: Path) -> None:
    """The reload is refused as a whole, before anything has changed."""
    old = loaded(tmp_path)
    made, _ = running(old, refuses=True)
    with pytest.raises(PermanentError):
        await made.apply(loaded(tmp_path, (":8025", ":8026")))
    assert made.daemon.config is old


def test_links_that_need_a_restart_are_refused_with_words(tmp_path: Path) -> None:
    """A webhook that wants links where none can be made refuses the reload, and says why."""
    webhook = loaded(tmp_path).webhooks["w"]
    with pytest.raises(PermanentError, match=r"http\.listen") as refused:
        build_format("w", webhook, None)
    assert "restart" in refused.value.fix


def test_mailboxes_that_share_routes_share_what_is_compiled(tmp_path: Path) -> None:
    """A thousand mailboxes compile their routes once; a new configuration has its own."""
    daemon: Any = SimpleNamespace(config=loaded(tmp_path), store=SimpleNamespace(grants=None))
    builder = Builder(daemon, asyncio.to_thread, random.Random(1))
    first = {name: builder.routing_of(name).router for name in ("a", "b", "c")}
    daemon.config = loaded(tmp_path, ("subject: a", "subject: b"))
    second = builder.routing_of("a").router

    assert first["a"] is first["b"]
    assert len({id(one) for one in (*first.values(), second)}) == 3
