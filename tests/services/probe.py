"""Tries what mailbridge must not be able to do, under its unit's settings; prints the outcomes.

Runs inside of a booted machine, with nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000


def write(folder: str) -> None:
    """Create a file and remove it."""
    path = Path(folder) / "probe"
    path.write_text("x")
    path.unlink()


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library; raises ``OSError`` as Python's own would."""
    if getattr(LIBC, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def raw_socket(family: int) -> None:
    """Open a socket that reads what is others'."""
    socket.socket(family, socket.SOCK_RAW, 255).close()


def low_port() -> None:
    """Listen below 1024."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 80))


def ready_made_code() -> None:
    """Map memory that can be written and executed."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def main() -> None:
    """Try everything once."""
    tries: dict[str, Callable[[], object]] = {
        **{
            f"write {folder}": partial(write, folder)
            for folder in (
                *("/usr", "/etc", "/etc/mailbridge", "/opt/mailbridge", "/var", "/var/log", "/"),
                *("/root", "/home", "/boot", "/proc/sys/kernel", "/sys", "/dev", "/dev/shm"),
                *("/var/lib/mailbridge", "/run/mailbridge", "/tmp", "/run"),
            )
        },
        "read another's secret": lambda: Path("/etc/mailbridge/webhook-secret").read_text(),
        "read the shadow file": lambda: Path("/etc/shadow").read_text(),
        "see the first process": lambda: Path("/proc/1/status").read_text(),
        "read memory": lambda: Path("/dev/mem").read_bytes(),
        "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "new user namespace": lambda: call("unshare", CLONE_NEWUSER),
        "become root": lambda: os.setuid(0),
        "change owner": lambda: os.chown("/var/lib/mailbridge", 0, 0),
        "set the clock": lambda: call("settimeofday", b"\0" * 16, None),
        "set the host's name": lambda: socket.sethostname("other"),
        "trace": lambda: call("ptrace", 0, 0, None, None),
        "raw packets": lambda: raw_socket(socket.AF_PACKET),
        "raw IP": lambda: raw_socket(socket.AF_INET),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
        "low port": low_port,
        "write and execute": ready_made_code,
        "kill the first process": lambda: os.kill(1, 0),
    }
    print(json.dumps({"probe": {name: outcome(attempt) for name, attempt in tries.items()}}))  # noqa: T201 - its one result


def outcome(attempt: Callable[[], object]) -> str:
    """Return the name of the error, or that there was none."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return "allowed"


main()
