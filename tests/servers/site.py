"""A whole installation for tests: tenant, receiver, configuration, ``mailbridge`` processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mailbridge.sandbox.config_text import config_for, new_signing_secret
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.receiver import Receiver
from mailbridge.sandbox.tenant import Tenant

#: until a test gives up; generous, since machines are shared
SECONDS = 40


class Site:
    """A tenant, a receiver, a configuration, and ``mailbridge`` processes on it."""

    def __init__(self, tenant: Tenant, receiver: Receiver, box: Mailbox, home: Path) -> None:
        self.tenant, self.receiver, self.box, self.home = tenant, receiver, box, home
        self.config = home / "mailbridge.yaml"
        self.environ = {
            key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")
        }

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        """Start a command."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mailbridge",
            "--config",
            str(self.config),
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environ,
            cwd=self.home,
        )

    async def call(self, *words: str) -> tuple[int, str, str]:
        """Run a command to its end: exit code, standard output, standard error."""
        process = await self.start(*words)
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def json(self, *words: str) -> Any:
        """Run a command with --json and read its one document; ``None`` when it gave none."""
        _, out, _ = await self.call(*words, "--json")
        return json.loads(out) if out else None

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run the daemon beside the block, and stop it cleanly afterwards."""
        process = await self.start("--log-format", "json", "run")
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SECONDS):
                _, err = await process.communicate()
            self.log = [json.loads(line) for line in err.decode().splitlines() if line[:1] == "{"]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    secret = new_signing_secret()
    async with Tenant.start(files=tmp_path) as tenant, Receiver.start(secrets=[secret]) as receiver:
        app = tenant.add_app("alarm-app")
        box = tenant.add_mailbox("alarm@feuerwehr.example")
        tenant.grant(app, box)
        site = Site(tenant, receiver, box, tmp_path)
        site.config.write_text(
            config_for(
                tenant,
                webhook_url=receiver.url,
                state_dir=tmp_path / "state",
                signing_secret=secret,
                after="seen",
            )
        )
        yield site


def mail(number: int) -> bytes:
    return (
        f"From: ILS <ils@leitstelle.example>\r\nSubject: Alarm {number}\r\n"
        f"Message-ID: <{number}@leitstelle.example>\r\n\r\nStichwort: B{number}\r\n"
    ).encode()
