"""The search for secrets bites: each kind is found in each place, and not where it belongs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

#: what is run: one test for each kind of secret and each place, which leaves it there
PLANTING = """
import asyncio, base64, logging, os, secrets, shutil, sqlite3, subprocess, sys, tempfile
from pathlib import Path
from datetime import UTC, datetime
import aiohttp, orjson, pytest
from aiohttp import web
from mailbridge.log import register_secret
from mailbridge.sandbox.config_text import new_signing_secret
from mailbridge.sandbox.directory import App, Directory, User
from mailbridge.sandbox.entra_ledger import Ledger
from mailbridge.sign_in.token_http import TokenHttp
from mailbridge.store.sealing import Key
from tests.servers.tokens import Minter

MINTER = Minter()
LEDGER = Ledger(now=lambda: datetime.now(UTC))

def state_key(tmp_path):
    text = base64.b64encode(secrets.token_bytes(32)).decode()
    Key.parse(text)
    return text

def api_token(tmp_path):
    text = secrets.token_urlsafe(32)
    (tmp_path / "api.token").write_text(text)
    return text

def configured(tmp_path):
    text = secrets.token_urlsafe(18)
    register_secret(text)
    return text

def foreign_token(tmp_path):
    text = secrets.token_urlsafe(32)
    http = TokenHttp(None)
    http._exchange = lambda *_: (200, {}, orjson.dumps({"refresh_token": text}))
    http.fetch("POST", "https://login.test/token", {})
    return text

def in_the_environment(tmp_path):
    text = secrets.token_urlsafe(18)
    subprocess.run(["true"], env={"APP_SECRET": text}, check=True)
    return text

KINDS = [
    lambda tmp_path: MINTER.mint("alice@contoso.test"),
    lambda tmp_path: LEDGER.add_refresh(None),
    lambda tmp_path: App(name="x").add_secret(),
    lambda tmp_path: Directory().add_user(User(upn="a@b.test")).password,
    lambda tmp_path: new_signing_secret(),
    state_key,
    api_token,
    configured,
    lambda tmp_path: LEDGER.add_device(None, None, "")[0],
    foreign_token,
    in_the_environment,
]

def printed(secret, tmp_path):
    print("here it is:", secret)

def logged(secret, tmp_path):
    logging.getLogger("foreign").warning("here it is: %s", secret)

def reported(secret, tmp_path):
    pytest.fail("wrong: " + secret)

def said(secret, tmp_path):
    program = tmp_path / "mailbridge"
    program.write_text("#!/bin/sh\\necho $GIVEN >&2\\n")
    program.chmod(0o755)
    subprocess.run([program, "run"], env={"GIVEN": secret}, capture_output=True)

async def said_to_asyncio(secret, tmp_path):
    program = tmp_path / "mailbridge"
    program.write_text("#!/bin/sh\\necho $GIVEN\\n")
    program.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        program, "run", env={"GIVEN": secret}, stdout=asyncio.subprocess.PIPE
    )
    await process.stdout.read()
    await process.wait()

def stored(secret, tmp_path):
    with sqlite3.connect(tmp_path / "mailbridge.db") as database:
        database.execute("CREATE TABLE x (y)")
        database.execute("INSERT INTO x VALUES (?)", (secret,))
    database.close()

KEPT = []

def in_the_write_ahead_log(secret, tmp_path):
    database = sqlite3.connect(tmp_path / "mailbridge.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = wal")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute("CREATE TABLE x (y)")
    database.execute("INSERT INTO x VALUES (?)", (secret,))
    for name in ("mailbridge.db", "mailbridge.db-wal"):
        shutil.copyfile(tmp_path / name, tmp_path / ("copied" + name))
    (tmp_path / "copiedmailbridge.db").unlink()
    database.close()
    (tmp_path / "mailbridge.db").unlink()

def left_over(name):
    def leave(secret, tmp_path):
        subprocess.run(["sh", "-c", 'echo "$2" > "$1"', "sh", tmp_path / name, secret], check=True)
    return leave

def in_a_work_folder(secret, tmp_path):
    with tempfile.TemporaryDirectory(prefix="mb-planted-") as folder:
        left_over("log")(secret, Path(folder))

async def measured(secret, tmp_path):
    async def answer(request):
        return web.Response(text=f'mailbridge_up{{token="{secret}"}} 1')
    application = web.Application()
    application.router.add_get("/metrics", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            await response.text()
    await runner.cleanup()

PLACES = [
    printed, logged, reported, said, said_to_asyncio, stored, in_the_write_ahead_log,
    left_over("daemon.log"), left_over("core.1234"), left_over("tmpx1y2z3"),
    left_over("junit.xml"), in_a_work_folder, measured,
]

@pytest.mark.parametrize("place", range(len(PLACES)), ids=lambda n: f"p{n}")
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=lambda n: f"k{n}")
def test_x(kind, place, tmp_path):
    result = PLACES[place](KINDS[kind](tmp_path), tmp_path)
    if result is not None:
        asyncio.run(result)
"""
KINDS = (
    "access or id token",
    "refresh token or code",
    "client secret",
    "password",
    "signing secret",
    "state key",
    "secret of a file",
    "secret",
    "device code",
    "refresh token",
    "secret of the environment",
)
PLACES = 13

#: secrets where they belong: as the test has written them, and in what asks for one
BELONGING = """
import base64, secrets, subprocess
from mailbridge.sandbox.ca import write_private
from mailbridge.sandbox.config_text import new_signing_secret
from mailbridge.store.sealing import Key

def test_files_of_the_test(tmp_path):
    (tmp_path / "signing.key").write_text(new_signing_secret())
    key = base64.b64encode(secrets.token_bytes(32))
    Key.parse(key.decode())
    write_private(tmp_path / "state.key", key)
    (tmp_path / "mailbridge.yaml").write_bytes(b"password: " + key)

def test_what_asks_for_a_secret(tmp_path):
    program = tmp_path / "mailbridge"
    program.write_text("#!/bin/sh\\necho whsec_bWFpbGJyaWRnZS1jYW1wYWlnbnMtMzItYnl0ZXMtISE=\\n")
    program.chmod(0o755)
    subprocess.run([program, "secret", "webhook"], capture_output=True, check=True)

def test_short_words(tmp_path):
    (tmp_path / "short.key").write_text("hello")
    print("hello")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that this run does not search."""
    made = Path(tempfile.mkdtemp(prefix="planted-"))
    yield made
    shutil.rmtree(made)


def run(folder: Path, *options: str, **tests: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on ``tests`` with the search and nothing else of this suite."""
    for name, content in tests.items():
        (folder / f"test_{name}.py").write_text(content)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", *options]
    command += ["-p", "xdist", "-p", "tests.canaries"]
    command += ["-p", "no:cacheprovider", "--basetemp", str(folder / "temp"), str(folder)]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # others take seconds to load
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=120
    )


def test_each_kind_of_secret_is_found_in_each_place(folder: Path) -> None:
    """Printed, logged, reported, stored, left over or measured: the run fails and says where.

    Files that a test wrote itself, commands that make a secret and short words are left alone.
    """
    done = run(folder, "-n", "2", planting=PLANTING, belonging=BELONGING)

    told = [line for line in done.stdout.splitlines() if line.startswith("SECRET ")]
    missed = [
        f"{name} at place {place}"
        for kind, name in enumerate(KINDS)
        for place in range(PLACES)
        if not any(
            line.startswith(f"SECRET {name} in ")
            and (f"[k{kind}-p{place}]" in line or f"test_x_k{kind}_p{place}_" in line)
            for line in told
        )
    ]
    assert done.returncode == 1, done.stderr
    assert missed == []
    assert not any("belonging" in line or "test_files" in line for line in told)
    assert not any("1.A" in line or "whsec_" in line or "eyJ" in line for line in told)


def test_a_finding_fails_a_run_whose_tests_have_passed(folder: Path) -> None:
    """No test has failed, and the run has: also without parallel processes."""
    done = run(folder, "-n", "0", planting="def test_x():\n    print('whsec_' + 'A' * 44)\n")

    assert "1 passed" in done.stdout
    assert "SECRET signing secret in Captured stdout call" in done.stdout
    assert done.returncode == 1
