"""The real program with an OAuth server that nobody here wrote, and a mail server that asks it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailbridge.errors import MailbridgeError
from mailbridge.http.control import ask
from mailbridge.sandbox.ca import write_private
from mailbridge.sandbox.config_text import new_signing_secret
from mailbridge.sandbox.receiver import Receiver
from mailbridge.store.sealing import Key
from tests.campaigns import spool
from tests.servers.dovecot import Dovecot
from tests.servers.oidc_provider import Client, OidcProvider, Person
from tests.servers.site import SECONDS, mail

ADDRESS = "alarm@contoso.test"
CLIENT = Client(
    client_id="5d0b1c5e-1f43-4f0a-9b0a-6f3c2f1d7e11", redirects=("http://localhost:8400/callback",)
)


@pytest.fixture(scope="module")
def server() -> Iterator[OidcProvider]:
    with OidcProvider([CLIENT]) as running:
        yield running


@pytest.fixture(scope="module")
def mail_server(server: OidcProvider) -> Iterator[Dovecot]:
    with Dovecot(server.introspection) as running:
        yield running


@dataclass
class House:
    """A folder with a configuration, and ``mailbridge`` processes on it."""

    home: Path
    server: OidcProvider

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mailbridge", "--config", "mailbridge.yaml", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.home,
            env={**os.environ, "RUNTIME_DIRECTORY": str(self.home)},
        )

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[None]:
        process = await self.start("--log-format", "json", "run")
        try:
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(SECONDS):
                _, err = await process.communicate()
            (self.home / "daemon.log").write_bytes(err)

    async def mailbox(self) -> dict[str, Any]:
        """Return how the mailbox stands; empty while the daemon does not answer."""
        try:
            answer = await ask(self.home / "mailbridge.sock", "status", {})
        except MailbridgeError:
            return {}
        return next(iter(answer["mailboxes"]), {}) if answer else {}

    async def login(self) -> None:
        """Let the person sign in by device code, as the command says it."""
        process = await self.start("login", "alarm", "--device")
        assert process.stdout is not None
        told = ""
        async with asyncio.timeout(SECONDS):
            while "code" not in told:
                line = await process.stdout.readline()
                assert line, (await process.communicate())[1]
                told += line.decode()
        uri, code = re.findall(r"https://\S+", told)[0], told.rstrip(".\n ").rsplit(" ", 1)[1]
        await asyncio.to_thread(Person(self.server, ADDRESS).enter, uri, code)
        async with asyncio.timeout(SECONDS):
            _, err = await process.communicate()
        assert process.returncode == 0, err

    def refresh_token(self) -> str:
        """Return the one that the database holds, by the key of the configuration."""
        key = Key.parse((self.home / "state.key").read_text())
        with spool.copied(self.home / "mailbridge.db", self.home / "copy") as database:
            [(name, sealed)] = database.execute("SELECT name, sealed FROM grants").fetchall()
        return str(json.loads(key.unseal(name, sealed))["refresh_token"])


async def test_revocation_parks_the_mailbox_until_somebody_signs_in_again(
    server: OidcProvider, mail_server: Dovecot, tmp_path: Path
) -> None:
    """Login, mail, revocation, `needs consent` with the command to type, login, mail."""
    secret = new_signing_secret()
    house = House(tmp_path, server)
    write_private(tmp_path / "signing.key", secret.encode())
    write_private(tmp_path / "state.key", base64.b64encode(secrets.token_bytes(32)))
    async with Receiver.start(secrets=[secret]) as receiver:
        content = configuration(server, mail_server, receiver.url)
        (tmp_path / "mailbridge.yaml").write_text(yaml.safe_dump(content))
        async with house.daemon():
            assert "mailbridge login alarm" in (await parked(house))["fix"]
            await house.login()
            mail_server.deliver(ADDRESS, mail(1))
            await receiver.wait(1, seconds=SECONDS, event="mail.received")

            server.revoke(CLIENT, house.refresh_token())
            # What is signed in stays so; only a new session is asked about.
            mail_server.doveadm("kick", "-f", ADDRESS)
            row = await parked(house)
            assert "mailbridge login alarm" in row["fix"]
            assert "entra.invalid_grant" in json.dumps(row)

            mail_server.deliver(ADDRESS, mail(2))
            await house.login()
            await receiver.wait(2, seconds=SECONDS, event="mail.received")


def configuration(server: OidcProvider, mail_server: Dovecot, url: str) -> dict[str, Any]:
    """Return what a user of another OAuth server writes: its login URL stands as the tenant."""
    return {
        "state": {"key": {"file": "state.key"}, "database": "sqlite:///mailbridge.db"},
        "http": {"listen": "off"},
        "apps": {
            "foreign": {
                "tenant": server.authority,
                "client_id": CLIENT.client_id,
                "ca": str(server.ca_file),
            }
        },
        "mailboxes": {
            "alarm": {
                "address": ADDRESS,
                "app": "foreign",
                "sign_in": "delegated",
                "fetch": {
                    "protocol": "imap",
                    "every": "5s",
                    "start": "all",
                    "server": {
                        "host": mail_server.host,
                        "port": mail_server.imaps_port,
                        "tls": "implicit",
                        "ca": str(mail_server.ca_file),
                    },
                },
            }
        },
        "webhooks": {
            "receiver": {
                "url": url,
                "signing_secrets": [{"file": "signing.key"}],
                "allow_private": True,
            }
        },
    }


async def parked(house: House) -> dict[str, Any]:
    """Wait until the mailbox is parked; returns its row."""
    async with asyncio.timeout(SECONDS):
        while True:
            row = await house.mailbox()
            if row.get("state") == "parked":
                return row
            await asyncio.sleep(0.2)
