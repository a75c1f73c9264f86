"""What systemd and the commands hear from the daemon."""

from __future__ import annotations

import asyncio
import random
import socket
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailbridge.errors import MailbridgeError, StoreRefused
from mailbridge.http.control import ask, control, socket_path
from mailbridge.schedule import Schedule
from mailbridge.service import Service


def test_systemd_hears_ready_alive_and_stopping(tmp_path: Path) -> None:
    """Each call is one datagram in the words of sd_notify(3), and a status stays one line."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        service = Service({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "60000000"})
        service.ready("1 mailbox\nseen")
        service.alive()
        service.stopping()
        heard = [systemd.recv(4096) for _ in range(3)]

    assert heard == [
        b"READY=1\nSTATUS=1 mailbox seen",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=stopping",
    ]
    assert service.watchdog_seconds == 60.0


def test_systemd_hears_when_a_reload_begins(tmp_path: Path) -> None:
    """With the moment by the clock that systemd 253 and newer compare with their own."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        Service({"NOTIFY_SOCKET": str(path)}).reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        said = dict(line.split("=", 1) for line in systemd.recv(4096).decode().splitlines())

    assert said["RELOADING"] == "1"
    assert before <= int(said["MONOTONIC_USEC"]) <= after


def test_a_manager_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    """The daemon goes on delivering, and its log says that it could not tell."""
    with capture_logs() as logs:
        Service({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
    assert [line["event"] for line in logs] == ["service.not_told"]


def test_without_systemd_nothing_is_sent() -> None:
    """Started by hand, the daemon has nobody to tell and no watchdog to feed."""
    service = Service({})
    service.ready("x")

    assert service.watchdog_seconds == 0.0


async def double(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Serve as a command for the tests."""
    if asked["n"] < 0:
        raise StoreRefused("no negative numbers", code="test.negative", fix="drop the sign")
    return {"twice": 2 * asked["n"]}


async def test_a_command_reaches_the_daemon(tmp_path: Path) -> None:
    """The answer comes back, the socket is the owner's alone, and it goes with the daemon."""
    path = tmp_path / "mailbridge.sock"
    async with control(path, {"double": double}):
        assert await ask(path, "double", {"n": 21}) == {"twice": 42}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert not path.exists()
    assert await ask(path, "double", {"n": 1}) is None


async def test_a_refusal_comes_back_with_its_fix(tmp_path: Path) -> None:
    """What the daemon refuses is an error with the daemon's own words, code and fix."""
    path = tmp_path / "mailbridge.sock"
    async with control(path, {"double": double}):
        with pytest.raises(MailbridgeError, match="no negative numbers") as caught:
            await ask(path, "double", {"n": -1})
        with pytest.raises(MailbridgeError, match="no such command"):
            await ask(path, "treble", {})
        with pytest.raises(MailbridgeError, match="bad request"):
            await ask(path, "double", {})

    assert (caught.value.code, caught.value.fix) == ("test.negative", "drop the sign")


async def test_a_killed_daemons_socket_is_no_daemon(tmp_path: Path) -> None:
    """A socket file that nobody listens on means: none runs; the next daemon replaces it."""
    path = tmp_path / "mailbridge.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert await ask(path, "double", {"n": 1}) is None

    async with control(path, {"double": double}):
        assert await ask(path, "double", {"n": 1}) == {"twice": 2}


def test_the_socket_lies_where_commands_look(tmp_path: Path) -> None:
    """RUNTIME_DIRECTORY first, else beside the database; too long a path is shortened alike."""
    database = f"sqlite:///{tmp_path}/mailbridge.db"
    long = f"sqlite:////{'deep/' * 30}mailbridge.db"

    assert socket_path(database, {"RUNTIME_DIRECTORY": "/run/mb:/x"}) == Path(
        "/run/mb/mailbridge.sock"
    )
    assert socket_path(database, {}) == tmp_path / "mailbridge.sock"
    assert len(str(socket_path(long, {}))) < 107
    assert socket_path(long, {}) == socket_path(long, {})


async def test_the_clock_wakes_and_does_chores() -> None:
    """Interval triggers wake again and again; a chore runs beside them."""
    woken, worked = asyncio.Event(), asyncio.Event()
    count = 0

    def wake() -> None:
        nonlocal count
        count += 1
        if count == 3:
            woken.set()

    async def chore() -> None:
        worked.set()

    schedule = Schedule(now=lambda: datetime.now(UTC), rng=random.Random(1))
    schedule.wake_every(0.02, wake, name="mailbox")
    schedule.chore(0.02, chore, name="chore")
    schedule.start()
    try:
        async with asyncio.timeout(20):
            await woken.wait()
            await worked.wait()
    finally:
        schedule.stop()


def test_a_thousand_mailboxes_do_not_fire_together() -> None:
    """First wakes of one interval are spread over the whole of it."""
    now = datetime(2026, 11, 21, tzinfo=UTC)
    schedule = Schedule(now=lambda: now, rng=random.Random(1))
    for number in range(1000):
        schedule.wake_every(60, lambda: None, name=str(number))
    firsts = [
        (job.trigger.start_date - now).total_seconds() for job in schedule._scheduler.get_jobs()
    ]
    fullest = max(sum(1 for first in firsts if lo <= first < lo + 1) for lo in range(60))

    assert fullest <= 40


def test_a_crontab_line_is_understood() -> None:
    """Five fields with names, as in the interface's example."""
    schedule = Schedule(now=lambda: datetime.now(UTC), rng=random.Random(1))
    schedule.wake_cron("*/5 6-20 * * mon-fri", lambda: None, name="office hours")
    [job] = schedule._scheduler.get_jobs()

    assert "mon-fri" in str(job.trigger)
