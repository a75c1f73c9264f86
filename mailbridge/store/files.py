"""The files beside a SQLite database: the lock of the one writer, and the reserve for a full disk.

They belong to whoever owns the database file, also when root made them by running a command.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from mailbridge.errors import StoreFull, StoreRefused

_PRIVATE: Final = 0o600
_MIB: Final = 1024 * 1024
#: the reserve takes no more than this, and no more than a twentieth of what is free
RESERVE_BYTES: Final = 32 * _MIB
RESERVE_SHARE: Final = 20
#: accepting stops while less than this is free, or a fortieth of the disk if that is less
MARGIN_BYTES: Final = 16 * _MIB
MARGIN_SHARE: Final = 40

log = structlog.get_logger(__name__)


def beside(file: Path, suffix: str) -> Path:
    """Return the path of a file that accompanies a database: ``mailbridge.db.lock``."""
    return file.with_name(file.name + suffix)


def create_private(file: Path, owner: Path) -> int:
    """Open ``file`` for writing, created 0600 and given to the owner of ``owner`` if we are root.

    Returns the descriptor.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)
    if os.geteuid() == 0:
        model = owner.stat() if owner.exists() else owner.parent.stat()
        os.fchown(descriptor, model.st_uid, model.st_gid)
    return descriptor


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable: a new file may otherwise vanish in a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def this_process() -> str:
    """Return what names this process among those of all hosts."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Lock:
    """An exclusive lock on ``<database>.lock``, held until ``release`` or the death of the process.

    The kernel drops it with the process, so a crash never leaves one behind.
    """

    def __init__(self, database: Path) -> None:
        path = beside(database, ".lock")
        self._descriptor = create_private(path, database)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 200, 0).decode("utf-8", "replace").strip()
            os.close(self._descriptor)
            raise StoreRefused(
                f"{database} is in use by another mailbridge ({holder or 'starting'})",
                code="store.locked",
                fix="stop that daemon, or use the commands that talk to it",
            ) from error
        except BaseException:
            os.close(self._descriptor)
            raise
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back. The file stays: removing it could lock out nobody or two."""
        os.close(self._descriptor)


class Reserve:
    """Room on the disk that is given free when it is full, so that outcomes can still be written.

    ``admit`` is asked before mail is accepted: a disk that is nearly full stops the intake
    first, while what was accepted is still being delivered. Sizes adapt to a small disk.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._file = beside(database, ".reserve")
        total, _, free = shutil.disk_usage(database.parent)
        self.margin = min(MARGIN_BYTES, total // MARGIN_SHARE)
        held = self._file.stat().st_size if self._file.exists() else 0
        self.size = held or min(RESERVE_BYTES, free // RESERVE_SHARE)
        self.held = held > 0
        if not self.held and free >= self.size + self.margin:
            self._take()

    def admit(self, inside: Callable[[], int]) -> None:
        """Raise ``StoreFull`` while room is short; take the reserve back when there is enough.

        ``inside`` tells the bytes of the database file that are free for new rows. A file never
        shrinks by itself, so this is where the room appears that retention makes.
        """
        free = shutil.disk_usage(self._database.parent).free
        wanted = self.margin if self.held else self.margin + self.size
        if free >= wanted:
            if not self.held:
                self._take()
        elif free + inside() < wanted:
            raise StoreFull(
                f"{self._database}: only {free // 1024} KiB are free on its disk, "
                f"{wanted // 1024} KiB are needed to accept mail",
                code="store.full",
                fix="free some space; accepting goes on by itself",
            )

    def release(self) -> bool:
        """Give the reserve free; returns whether there was one."""
        if not self.held:
            return False
        self._file.unlink(missing_ok=True)
        self.held = False
        log.warning("store.reserve_released", database=str(self._database), bytes=self.size)
        return True

    def _take(self) -> None:
        descriptor = create_private(self._file, self._database)
        try:
            os.posix_fallocate(descriptor, 0, max(1, self.size))
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                self._file.unlink()
            raise
        finally:
            os.close(descriptor)
        self.held = True
