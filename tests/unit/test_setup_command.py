"""`mailbridge setup` as it is typed: the object id from a token, the script alone, JSON, German."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mailbridge.cli.main import app
from mailbridge.sandbox.config_text import config_for
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from tests.servers.sandbox_client import signing_key
from tests.unit.test_setup_help import cmdlets

ADDRESS = "alarm@feuerwehr.example"


class Desk:
    """A tenant, its app, and the configuration of a mailbox that fetches and sends."""

    def __init__(self, tenant: Tenant, entra: App, file: Path) -> None:
        self.tenant, self.app, self.file = tenant, entra, file

    async def call(self, *words: str) -> tuple[int, str, str]:
        """Run a command: exit code, standard output and standard error."""

        def run() -> tuple[int, str, str]:
            arguments = ["--config", str(self.file), "setup", *words]
            done = CliRunner().invoke(app, arguments, env={"LC_ALL": "C.UTF-8"})
            return done.exit_code, done.stdout, done.stderr

        return await asyncio.to_thread(run)

    async def document(self, *words: str) -> Any:
        """Run it with --json."""
        code, out, err = await self.call("alarm", "--json", *words)
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with Tenant.start(files=tmp_path, key=signing_key()) as tenant:
        entra = tenant.add_app("alarm-app")
        tenant.grant(entra, tenant.add_mailbox(ADDRESS))
        file = tmp_path / "mailbridge.yaml"
        file.write_text(
            config_for(
                tenant, webhook_url="http://127.0.0.1:1/", state_dir=tmp_path / "s", send=[ADDRESS]
            )
        )
        yield Desk(tenant, entra, file)


async def test_the_object_id_is_read_from_a_token(desk: Desk) -> None:
    """It is the one that Exchange wants, even before anybody has consented; no token is shown."""
    desk.app.consented = False
    code, out, err = await desk.call("alarm")
    assert (code, err) == (0, "")
    assert f"$ObjectId = '{desk.app.object_id}'" in out
    assert "Get-MgServicePrincipal" not in out
    assert "IMAP.AccessAsApp, SMTP.SendAsApp" in out
    assert f"client_id={desk.app.client_id}" in out
    assert "eyJ" not in out
    assert desk.app.secret not in out


async def test_offline_nobody_is_asked(desk: Desk) -> None:
    """The script looks the object id up instead."""
    before = len(desk.tenant.entra.requests)
    document = await desk.document("--offline")
    assert len(desk.tenant.entra.requests) == before
    assert document["object_id"] == ""
    assert "Get-MgServicePrincipal" in cmdlets(document["script"])


async def test_without_a_token_it_says_why_and_goes_on(desk: Desk) -> None:
    """A credential that is refused must not keep anybody from setting the mailbox up."""
    desk.app.secrets.clear()
    code, out, err = await desk.call("alarm", "--script")
    assert code == 0
    assert "AADSTS7000215" in err
    assert "Get-MgServicePrincipal" in cmdlets(out)


async def test_the_script_alone_can_go_into_a_file(desk: Desk) -> None:
    """Nothing but the script; with other than ASCII a mark that Windows PowerShell needs."""
    _, english, _ = await desk.call("alarm", "--script")
    _, german, _ = await desk.call("alarm", "--script", "--lang", "de")
    document = await desk.document("--lang", "de")
    assert english.startswith("# mailbridge: alarm")
    assert german == "\ufeff" + document["script"]
    assert cmdlets(english) == cmdlets(document["script"])
    assert document["steps"][0]["title"] == "Die App registrieren"


async def test_an_unknown_mailbox_is_named_with_those_that_are_there(desk: Desk) -> None:
    """Exit code 1 and the names."""
    code, _, err = await desk.call("nobody")
    assert code == 1
    assert "one of: alarm" in err
