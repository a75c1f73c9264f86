"""The programs that push is compared with: a script on imapflow, and fetchmail."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contestants import install_imapflow
from benchmarks.measure import Processes
from benchmarks.push.stage import CACHE, PASSWORD, Contestant, Place, Stage, cpu

#: seconds until a peer has to stand by
PATIENCE = 90.0
#: sign-ins of a peer at the same time
AT_ONCE = 24


class PeerError(Exception):
    """A peer is not there or does not do its work; the text says which and why."""


def need(program: str) -> None:
    """Raise ``PeerError`` when a program is not installed."""
    if shutil.which(program) is None:
        raise PeerError(f"{program} is not installed")


@contextmanager
def imapflow(stage: Stage, place: Place, boxes: Sequence[str]) -> Iterator[Contestant]:
    """Run the script in peers/imapflow: one Node process, a connection for each mailbox."""
    need("npm")
    try:
        installed = install_imapflow(CACHE)
    except subprocess.CalledProcessError as error:
        raise PeerError(f"npm could not install it: {error}") from error
    folder = stage.fresh("imapflow")
    job = folder / "job.json"
    content = {
        "host": "localhost",
        "port": place.port,
        "ca": str(place.ca),
        "token": place.token,
        "url": stage.sink.url,
        "at_once": AT_ONCE,
        "mailboxes": list(boxes),
    }
    job.write_text(json.dumps(content))
    log = folder / "log"
    with Processes() as running:
        process = running.start(["node", str(installed / "watch.js"), str(job)], log=log)
        _wait(lambda: "ready" in log.read_text(), lambda: running.ended(process), log)
        yield Contestant(
            who="imapflow script", pids=lambda: [process.pid], cpu=lambda: cpu(process.pid)
        )


@contextmanager
def fetchmail(stage: Stage, place: Place, boxes: Sequence[str]) -> Iterator[Contestant]:
    """Run ``fetchmail --idle``: a process for each mailbox, each mail handed to curl."""
    need("fetchmail")
    need("curl")
    folder = stage.fresh("fetchmail")
    post = f"curl -s -o /dev/null --data-binary @- {stage.sink.url}"
    with Processes() as running:
        logs: list[Path] = []
        started: list[subprocess.Popen[bytes]] = []
        for address in boxes:
            home = folder / address
            home.mkdir()
            logs.append(home / "log")
            command = fetchmail_command(home, place.port, address, "imap", "idle keep", post)
            started.append(running.start(command, log=home / "log", env=fetchmail_home(home)))
        _wait(
            lambda: all("IDLE\n" in log.read_text(errors="replace") for log in logs),
            lambda: any(running.ended(process) for process in started),
            logs[0],
        )
        pids = [process.pid for process in started]
        yield Contestant(
            who="fetchmail --idle (plain mail)", pids=lambda: pids, cpu=lambda: cpu(*pids)
        )


def fetchmail_command(  # noqa: PLR0913, PLR0917 - what a line of its control file consists of
    home: Path, port: int, address: str, protocol: str, options: str, mda: str
) -> list[str]:
    """Write a control file and return the command that obeys it, with its words in the log.

    It does not check the certificate: it wants a common name, which modern ones lack.
    """
    rc = home / "fetchmailrc"
    rc.write_text(
        f'poll localhost protocol {protocol} port {port} user "{address}" password "{PASSWORD}" '
        f'ssl {options} no sslcertck mda "{mda}"\n'
    )
    rc.chmod(0o600)
    return ["fetchmail", "-v", "-f", str(rc), "--nosyslog", "--pidfile", str(home / "pid")]


def fetchmail_home(home: Path) -> dict[str, str]:
    """Return an environment in which fetchmail shares nothing with another one."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "FETCHMAILHOME": str(home)}


def _wait(ready: Callable[[], bool], ended: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if ended() or time.monotonic() > deadline:
            raise PeerError(f"it does not stand by: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.2)
