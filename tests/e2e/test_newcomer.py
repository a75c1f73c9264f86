"""The quick start's first part, typed as it stands by somebody who has nothing but a shell."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.pages import DOCS, ROOT, read

#: for setting up an environment on a machine that does other things as well
SECONDS: Final = 300
ADDRESS: Final = "ADDRESS-OF-THIS-REPOSITORY"
#: commands that stay, and what they have said when they are up
STAY: Final = {"sandbox": "Ctrl-C ends it.", "run": "daemon.started"}
DELIVERED: Final = re.compile(r"mail\.received  (msg_\w+)  answered 200")


class Terminal:
    """A shell with nothing in its environment but PATH and HOME, and what stands on its screen."""

    def __init__(self, shell: asyncio.subprocess.Process) -> None:
        self._shell = shell
        self._typed = 0
        self.screen = ""
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def opened(cls, folder: Path) -> AsyncIterator[Terminal]:
        """Open one in a folder; whatever runs in it ends with it."""
        shell = await asyncio.create_subprocess_exec(
            "/bin/bash",
            "--norc",
            cwd=folder,
            env={"PATH": ordinary_path(), "HOME": os.environ["HOME"]},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        terminal = cls(shell)
        try:
            yield terminal
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
            terminal.write("exit")
            async with asyncio.timeout(SECONDS):
                await terminal._reading
                await shell.wait()

    async def _read(self) -> None:
        assert self._shell.stdout is not None
        while said := await self._shell.stdout.read(65536):
            self.screen += said.decode(errors="replace")
            self._news.set()

    def write(self, line: str) -> None:
        """Type a line."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{line}\n".encode())

    async def says(self, wanted: str | re.Pattern[str], *, since: int = 0) -> re.Match[str]:
        """Wait until something stands on the screen."""
        pattern = re.compile(re.escape(wanted)) if isinstance(wanted, str) else wanted
        try:
            async with asyncio.timeout(SECONDS):
                while not (found := pattern.search(self.screen, since)):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"never said {pattern.pattern!r}:\n{self.screen}") from None
        return found

    async def type(self, command: str) -> str:
        """Type a command, wait for its end, or until it is up if it stays; return what it said."""
        began = len(self.screen)
        self._typed += 1
        self.write(f"{command}\necho end-{self._typed}-$?-end")
        stays = next((said for word, said in STAY.items() if f" {word}" in f" {command}"), None)
        ended = re.compile(rf"end-{self._typed}-(\d+)-end")
        up = re.compile(f"{re.escape(stays)}|{ended.pattern}") if stays else ended
        found = await self.says(up, since=began)
        assert found[1] == (None if stays else "0"), f"{command}\n{self.screen[began:]}"
        return self.screen[began : found.start()]

    async def interrupt(self) -> None:
        """Press Ctrl-C, and wait until the shell is back."""
        os.killpg(self._shell.pid, signal.SIGINT)
        await self.says(re.compile(rf"end-{self._typed}-0-end"))


def ordinary_path() -> str:
    """Return the PATH of somebody who has not activated this project's environment."""
    places = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(place for place in places if not place.startswith(str(ROOT)))


def steps() -> Iterator[tuple[str, str]]:
    """Give the terminal and the command of each line that is to be tried."""
    for block in read(DOCS / "quick-start.md").blocks:
        if "try" in block.info:
            terminal = block.info[-1]
            assert terminal.startswith("terminal-")
            for command in block.commands():
                yield terminal, command


def repository(folder: Path) -> Path:
    """Return what can be cloned: this repository, or one made of files that came without it."""
    if (ROOT / ".git").exists():
        return ROOT
    copy = folder / "origin"
    caches = shutil.ignore_patterns(".venv", ".*cache", ".hypothesis", "__pycache__", "dist")
    shutil.copytree(ROOT, copy, ignore=caches)
    git = ("git", "-C", str(copy), "-c", "user.name=x", "-c", "user.email=x@x.example")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "x")):
        subprocess.run((*git, *words), check=True)
    return copy


@pytest.fixture
def home() -> Iterator[Path]:
    """Give a folder that is gone afterwards: a whole environment is more than pytest should keep.

    It is removed by a program: what this process removes is searched for secrets before, and the
    packages that were installed have keys and tokens in their own documentation.
    """
    folder = tempfile.mkdtemp(prefix="mailbridge-newcomer-")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["/bin/rm", "-rf", folder], check=True)


async def test_the_quick_start_leads_to_a_delivered_alarm(home: Path) -> None:
    """From a clone to an alarm at the webhook, and over a restart, by the page's own commands."""
    origin = repository(home)
    said: dict[str, str] = {}
    async with (
        Terminal.opened(home) as first,
        Terminal.opened(home) as second,
        Terminal.opened(home) as third,
    ):
        terminals = {"terminal-1": first, "terminal-2": second, "terminal-3": third}
        for name, command in steps():
            if command.startswith("rm "):
                one = await first.says(DELIVERED)
                await again(second, first)
                assert one[1] in await third.type(f"mailbridge trace {one[1]}")
                await second.interrupt()
                await first.interrupt()
            if command == "mailbridge log":
                await first.says(DELIVERED)
            said[command] = await terminals[name].type(command.replace(ADDRESS, str(origin)))
        left = await third.type("ls; git status --porcelain")

    assert "6 mails sent, 6 delivered, 0 lost, 0 doubled" in said["make demo ARGS=--once"]
    assert "ok" in said["mailbridge check"].split()
    assert "alarm is fine" in said["mailbridge test-mailbox alarm"]
    assert "delivered" in said["mailbridge test-webhook receiver"]
    assert re.search(r"alarm +application .* ok ", said["mailbridge status"])
    assert re.search(r"delivered +alarm +INBOX", said["mailbridge log"])
    arrived = DELIVERED.findall(first.screen)
    assert len(arrived) == len(set(arrived)) >= 2, "the page says that nothing comes twice"
    assert "try." not in left
    assert "??" not in left, "what was tried leaves files that git would see"


async def again(daemon: Terminal, receiver: Terminal) -> None:
    """Stop the daemon and start it, as the page proposes; what comes then is delivered."""
    await daemon.interrupt()
    seen = len(receiver.screen)
    await daemon.type("mailbridge run")
    await receiver.says(DELIVERED, since=seen)
