"""A plugin that fails the run when a secret stands where none belongs.

Every test process notes the secrets that it hands out, and at its end searches all that the
programs under test have left behind: what they said, their logs and databases, what is left in
folders of tests, the tests' own reports (of which JUnit files are made), what they tell as
metrics. Where a secret belongs it is left alone: in a file as the test itself has written it,
and in the folders of mail servers.
"""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import pytest

import mailbridge.sandbox.ca
import mailbridge.sandbox.config_text
from mailbridge.log import _Secrets
from mailbridge.sandbox.directory import App, Directory, User
from mailbridge.sandbox.entra_ledger import Ledger
from mailbridge.sign_in.token_http import TokenHttp
from mailbridge.store.sealing import Key
from tests.canary_search import Canaries
from tests.servers.oidc_provider import OidcProvider

#: what a test writes into a file with such a name is a secret as a whole
_SECRET_FILE: Final = re.compile(r"(?i)secret|token|passw|passphrase|\.key$")
_SECRET_VARIABLE: Final = re.compile(r"(?i)(secret|token|password|passphrase|_key)$")
#: members of a token answer (RFC 6749, 5.1)
_TOKENS: Final = ("access_token", "refresh_token", "id_token", "device_code")
#: folders that programs under test work in, though they are not pytest's
_WORK_FOLDERS: Final = ("mb-", "mailbridge-")
#: commands that are asked for a secret, and print it
_TELLING: Final = frozenset({"secret"})
#: tests of masking itself: pytest hears what they say before it is masked
_MASKING: Final = ("tests/unit/test_log.py::",)
#: attribute of pytest's configuration, and of what an xdist worker hands over
_NAME: Final = "canaries"
_FOUND: Final = pytest.StashKey[list[str]]()
_SECONDS: Final = pytest.StashKey[float]()
_WATCH: Final = pytest.StashKey[Canaries]()


# --- the run ----------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch in every process that runs tests."""
    config.stash[_FOUND] = []
    config.stash[_SECONDS] = 0.0
    if getattr(config.option, "dist", "no") == "no" or hasattr(config, "workerinput"):
        config.stash[_WATCH] = watched = Canaries()
        patches = pytest.MonkeyPatch()
        config.add_cleanup(patches.undo)
        _watch_secrets(watched, patches)
        _watch_files(watched, patches)
        _watch_programs(watched, patches)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what a test has shown: it goes to the terminal, into JUnit files, into CI's logs."""
    report = yield
    watched = item.config.stash.get(_WATCH, None)
    if watched is not None and not item.nodeid.startswith(_MASKING):
        if report.when == "teardown":  # it has the sections of all phases
            for name, text in report.sections:
                watched.heard(f"{name} of {item.nodeid}", text.encode(errors="replace"))
        if report.longrepr:
            watched.heard(f"the report of {item.nodeid}", report.longreprtext.encode())
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Search; a worker hands over what it found, and whoever has it all fails the run."""
    config = session.config
    watched = config.stash.get(_WATCH, None)
    if watched is not None:
        begun = time.perf_counter()
        factory = getattr(config, "_tmp_path_factory", None)
        basetemp = getattr(factory, "_basetemp", None)
        if basetemp is not None:
            watched.search_tree(basetemp)
        watched.search_heard()
        found = config.stash[_FOUND]
        found.extend(sorted(watched.findings))
        config.stash[_SECONDS] = time.perf_counter() - begun
        if hasattr(config, "workeroutput"):
            config.workeroutput[_NAME] = (config.stash[_FOUND], config.stash[_SECONDS])
            return
    if config.stash[_FOUND]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what an xdist worker has found."""
    found, seconds = getattr(node, "workeroutput", {}).get(_NAME, ([], 0.0))
    node.config.stash[_FOUND].extend(found)
    node.config.stash[_SECONDS] = max(seconds, node.config.stash[_SECONDS])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was found and where, and not the secret."""
    every: list[str] = config.stash[_FOUND]
    found = sorted(set(every))
    if config.option.verbose > 0:
        terminalreporter.line(f"searched for secrets in {config.stash[_SECONDS]:.1f} s")
    if found:
        terminalreporter.section("secrets where none belongs", red=True)
        for finding in found:
            terminalreporter.line(f"SECRET {finding}", red=True)


# --- where secrets come from ------------------------------------------------------------------


def _after(patches: pytest.MonkeyPatch, owner: Any, name: str, see: Callable[..., None]) -> None:
    """Have ``see`` called with the result and the arguments of a function, once it has returned."""
    original = getattr(owner, name)

    @wraps(original)
    def seen(*args: Any, **given: Any) -> Any:
        result = original(*args, **given)
        see(result, *args, **given)
        return result

    patches.setattr(owner, name, seen)


def _watch_secrets(watched: Canaries, patches: pytest.MonkeyPatch) -> None:
    """Register what the sandbox hands out and what a configuration holds."""

    def answered(result: Any, *_: Any, **__: Any) -> None:
        _, _, content = result
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            return
        for name in _TOKENS:
            if isinstance(answer, dict) and isinstance(answer.get(name), str):
                watched.register(name.replace("_", " "), answer[name])

    def added_user(user: User, *_: Any) -> None:
        watched.register("password", user.password)

    def parsed(_: Any, text: str) -> None:
        watched.register("state key", text)

    stop = OidcProvider.stop

    def stopping(server: OidcProvider) -> None:
        for kind, value in server.issued:
            watched.register(kind.replace("_", " "), value)
        stop(server)

    patches.setattr(OidcProvider, "stop", stopping)
    _after(patches, _Secrets, "add", lambda _, __, value: watched.register("secret", value))
    _after(
        patches, App, "add_secret", lambda value, *_, **__: watched.register("client secret", value)
    )
    _after(patches, Directory, "add_user", added_user)
    _after(patches, Ledger, "add_device", lambda made, *_: watched.register("device code", made[0]))
    _after(patches, TokenHttp, "fetch", answered)
    _after(patches, Key, "parse", parsed)


def _watch_files(watched: Canaries, patches: pytest.MonkeyPatch) -> None:
    """Know the files that tests write themselves, and look into folders before they are gone."""

    def wrote(_: Any, path: Path, content: str | bytes = b"", *__: Any, **___: Any) -> None:
        watched.wrote(path)
        if _SECRET_FILE.search(path.name) and isinstance(content, (str, bytes)):
            text = content if isinstance(content, str) else content.decode(errors="replace")
            if "\n" not in text.strip():
                watched.register("secret of a file", text)

    for owner, name in (
        (Path, "write_text"),
        (Path, "write_bytes"),
        (mailbridge.sandbox.ca, "write_private"),
        (mailbridge.sandbox.config_text, "write_private"),
    ):
        _after(patches, owner, name, wrote)
    remove = shutil.rmtree

    @wraps(remove)
    def removed(path: Any, *args: Any, **given: Any) -> None:
        folder = Path(path) if isinstance(path, (str, os.PathLike)) else None
        if folder is not None and folder.name.startswith(_WORK_FOLDERS):
            watched.search_heard()
            watched.search_tree(folder, f"{folder.name} of {_current_test()}")
        remove(path, *args, **given)

    patches.setattr(shutil, "rmtree", removed)


def _current_test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "the session").rpartition(" (")[0]


# --- what programs say ------------------------------------------------------------------------


def _watch_programs(watched: Canaries, patches: pytest.MonkeyPatch) -> None:
    """Keep what ``mailbridge`` says in a process of its own, and what it tells as metrics."""

    def started(
        _: Any, __: Any, *___: Any, env: Mapping[str, str] | None = None, **____: Any
    ) -> None:
        for name, value in (env or {}).items():
            if _SECRET_VARIABLE.search(name) and os.environ.get(name) != value:
                watched.register("secret of the environment", value)

    def communicated(result: Any, process: Any, *_: Any, **__: Any) -> None:
        if _is_mailbridge(process.args):
            for part in result:
                said = part.encode(errors="replace") if isinstance(part, str) else part
                watched.heard(_spoken(process.args), said or b"")

    _after(patches, subprocess.Popen, "__init__", started)
    _after(patches, subprocess.Popen, "communicate", communicated)
    _watch_asyncio(watched, patches)
    read = aiohttp.ClientResponse.read

    @wraps(read)
    async def metrics(response: aiohttp.ClientResponse) -> bytes:
        content = await read(response)
        if response.url.path == "/metrics":
            watched.heard(f"metrics, in {_current_test()}", content)
        return content

    patches.setattr(aiohttp.ClientResponse, "read", metrics)


def _watch_asyncio(watched: Canaries, patches: pytest.MonkeyPatch) -> None:
    protocol = asyncio.subprocess.SubprocessStreamProtocol
    receive, lost = protocol.pipe_data_received, protocol.pipe_connection_lost
    said: dict[tuple[int, int], list[bytes]] = {}

    def received(self: Any, fd: int, data: bytes) -> None:
        said.setdefault((id(self), fd), []).append(data)
        receive(self, fd, data)

    def ended(self: Any, fd: int, exc: Exception | None) -> None:
        parts = said.pop((id(self), fd), [])
        popen = self._transport.get_extra_info("subprocess") if self._transport else None
        if popen is not None and _is_mailbridge(popen.args):
            watched.heard(_spoken(popen.args), b"".join(parts))
        lost(self, fd, exc)

    patches.setattr(protocol, "pipe_data_received", received)
    patches.setattr(protocol, "pipe_connection_lost", ended)


def _is_mailbridge(command: str | Sequence[str]) -> bool:
    """Tell whether a command is the program under test, and not one that is asked for a secret."""
    words = command.split() if isinstance(command, str) else [os.fspath(word) for word in command]
    ours = any(
        Path(word).name == "mailbridge" or word.startswith("tests.campaigns.") for word in words[:6]
    )
    return ours and not _TELLING.intersection(words)


def _spoken(command: str | Sequence[str]) -> str:
    words = command if isinstance(command, str) else " ".join(map(os.fspath, command[-4:]))
    return f"what `{words}` said, in {_current_test()}"
