"""A private PostgreSQL from the distribution's binaries, for one run of the tests.

It listens on a Unix socket in its own directory and on no port, so any number can run side by
side and nobody else can connect. PostgreSQL refuses to run as root; then it runs as the user
``postgres``, which the distribution's package creates.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg

INSTALLED = Path("/usr/lib/postgresql")
START_SECONDS = 60.0
#: free bytes from which on a server's files may lie in memory
MEMORY_BYTES = 4_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One empty database: ``url`` as a configuration file has it, and as SQLAlchemy wants it."""

    name: str
    url: str
    sqlalchemy_url: str


@dataclass(slots=True, kw_only=True)
class Postgres:
    """A running server. ``directory`` holds its data, its log and its socket."""

    directory: Path
    _process: subprocess.Popen[bytes] | None = None
    _options: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def create_database(self, like: Database | None = None) -> Database:
        """Create a UTF-8 database with a name of its own: empty, or a copy of another one.

        It goes with the server. Nobody may be connected to the one that is copied.
        """
        name = f"mailbridge_{next(self._numbers)}"
        template = like.name if like else "template0"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        url = self._url(name)
        return Database(
            name=name,
            url=url,
            sqlalchemy_url=url.replace("postgresql://", "postgresql+psycopg://", 1),
        )

    def start(self) -> None:
        """Start the server on its data directory and return once it answers queries."""
        command = [str(_binaries() / "postgres"), "-D", str(self.directory / "data")]
        for option in self._options:
            command += ["-c", option]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                _unprivileged(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait_until_ready(self._process)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server by its pid and wait for it.

        SIGINT is PostgreSQL's fast shutdown, SIGQUIT the one without a checkpoint, from which
        the next ``start`` recovers as after a crash.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _url(self, name: str) -> str:
        return f"postgresql://mailbridge@/{name}?host={quote(str(self.directory), safe='')}"

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self._url("postgres")).close()
            except psycopg.OperationalError as error:
                if process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                self.stop(signal.SIGQUIT)
                log = (self.directory / "log").read_text(errors="replace")
                msg = f"PostgreSQL did not start:\n{log}"
                raise RuntimeError(msg) from error
            return


@contextmanager
def running_postgres(*, fsync: bool = True) -> Iterator[Postgres]:
    """Create a new server in a temporary directory, run it, and remove every trace at the end.

    ``fsync=False`` trades durability for speed and is for tests that crash no machine: what
    PostgreSQL has said to be committed survives its own death all the same.
    """
    directory = Path(tempfile.mkdtemp(prefix="mailbridge-pg-", dir=None if fsync else _memory()))
    try:
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        _initialise(directory)
        server = Postgres(directory=directory, _options=_options(directory, fsync=fsync))
        server.start()
        try:
            yield server
        finally:
            # What lies in memory stands in the log too, and nobody wants a checkpoint of all this.
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(directory)


def _memory() -> Path | None:
    """Return a file system in memory with room enough: thousands of files come and go quickly."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES
    return memory if roomy else None


def _initialise(directory: Path) -> None:
    command = [str(_binaries() / "initdb"), "-D", str(directory / "data"), "--username=mailbridge"]
    command += ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]
    done = subprocess.run(
        _unprivileged(command), capture_output=True, text=True, check=False, cwd=directory
    )
    if done.returncode:
        msg = f"initdb failed:\n{done.stdout}{done.stderr}"
        raise RuntimeError(msg)


def _options(directory: Path, *, fsync: bool) -> list[str]:
    options = ["listen_addresses=", f"unix_socket_directories={directory}", "shared_buffers=32MB"]
    # Hundreds of small databases are made and left; their log is of no use afterwards.
    options += ["max_wal_size=96MB", "min_wal_size=32MB"]
    if not fsync:
        options += ["fsync=off", "full_page_writes=off"]
    return options


def _unprivileged(command: list[str]) -> list[str]:
    """Return the command so that it ends with us, and does not run as root."""
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        prefix += [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    return [*prefix, "--", *command]


def _binaries() -> Path:
    """Return the folder of the newest installed PostgreSQL."""
    found = [path for path in INSTALLED.glob("*/bin") if (path / "initdb").exists()]
    if not found:
        msg = f"no PostgreSQL below {INSTALLED}; `make test` installs the package postgresql"
        raise RuntimeError(msg)
    return max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))])
