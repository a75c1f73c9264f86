"""A start while another process has the database; commands without the daemon's secrets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mailbridge import app
from mailbridge.cli.main import app as commands
from mailbridge.config import Config, check, load
from mailbridge.errors import ConfigError, StoreRefused
from mailbridge.store.files import Lock
from mailbridge.store.store import Store

_CONFIG = """\
state:
  database: "sqlite:///{home}/mailbridge.db"
  key: {{credential: state-key}}
http: {{listen: off, api_tokens: {{erp: {{env: ERP_TOKEN}}}}}}
apps:
  main:
    tenant: 11111111-2222-3333-4444-555555555555
    client_id: 66666666-7777-8888-9999-000000000000
    credential: {{client_secret: {{env: APP_SECRET}}}}
    proxy: {{env: PROXY}}
mailboxes:
  alarm: {{address: alarm@feuerwehr.example, app: main, send: {{}}}}
webhooks:
  erp: {{url: {{env: ERP_URL}}, signing_secrets: [{{env: ERP_SECRET}}]}}
  divera: {{url: {{env: DIVERA_URL}}, format: divera}}
relay:
  listen: 127.0.0.1:2525
  auth: {{printer: {{file: nowhere}}}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mailbridge.yaml"
    path.write_text(_CONFIG.format(home=tmp_path))
    return path


def _simple(home: Path) -> Config:
    path = home / "mailbridge.yaml"
    path.write_text(
        f"state: {{database: 'sqlite:///{home}/mailbridge.db'}}\n"
        "apps: {app: {tenant: feuerwehr.example, client_id: "
        "66666666-7777-8888-9999-000000000000, credential: {client_secret: {env: SECRET}}}}\n"
        "mailboxes: {alarm: {address: alarm@feuerwehr.example, app: app}}\n"
        "webhooks: {erp: {url: https://erp.example/}}\n"
    )
    return load(path, environ={"SECRET": "abc8Q~made-up-client-secret"})


async def test_a_restart_waits_for_its_predecessor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started while the former daemon still has the database, it begins as soon as that lets go."""
    config = _simple(tmp_path)
    tried = asyncio.Event()
    opened: Callable[..., object] = Store.open

    async def seen(*words: object, **more: object) -> object:
        tried.set()
        return await opened(*words, **more)  # type: ignore[misc]  # as the real one

    monkeypatch.setattr(Store, "open", seen)
    held = Lock(tmp_path / "mailbridge.db")
    opening = asyncio.create_task(app._open_store(config, {}))
    await tried.wait()
    held.release()
    store = await opening
    await store.close()


async def test_a_second_daemon_hears_that_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not let go in a few seconds runs: the start ends with what is the matter."""
    monkeypatch.setattr(app, "LOCKED", 0.2)
    held = Lock(tmp_path / "mailbridge.db")
    with pytest.raises(StoreRefused, match="in use") as refused:
        await app._open_store(_simple(tmp_path), {})
    held.release()
    assert refused.value.code == "store.locked"


def test_commands_need_no_secret_that_only_the_daemon_has(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From cron, with nothing in the environment: what asks the daemon works, `check` does not."""
    for name in os.environ:
        monkeypatch.delenv(name)

    def call(*words: str, given: str = "") -> tuple[int, str]:
        done = CliRunner().invoke(commands, ["--config", str(file), *words], input=given)
        return done.exit_code, done.output

    usual = ("send", "--from", "alarm", "--to", "a@b.example", "--subject", "x")
    assert call(*usual)[0] == 0
    assert call("sendmail", "a@b.example", given="Subject: y\n\n")[0] == 0
    for words in (("queue", "list"), ("log",), ("trace", "1")):
        assert call(*words)[0] != 78, words
    # No daemon runs, which is what it says.
    assert call("status")[0] == 1
    code, told = call("check")
    assert code == 78
    for name in ("APP_SECRET", "ERP_TOKEN", "ERP_URL", "PROXY", "CREDENTIALS_DIRECTORY"):
        assert name in told


def test_whoever_needs_a_secret_hears_which(file: Path) -> None:
    """A secret that was left out is named when it is asked for, with what to do."""
    config = check(file, environ={}, absent=True).config
    assert config is not None
    with pytest.raises(ConfigError, match=r"ERP_URL is not set.*Fix: set ERP_URL"):
        config.webhooks["erp"].url.reveal()


def test_a_fault_of_the_file_is_none_of_the_surroundings(file: Path) -> None:
    """A secret that was written in the place of a variable's name is refused by everybody."""
    file.write_text(file.read_text().replace("{env: APP_SECRET}", "{env: abc8Q~secret-value}"))
    checked = check(file, environ={}, absent=True)
    assert [one.path for one in checked.problems] == ["apps.main.credential.client_secret.env"]
