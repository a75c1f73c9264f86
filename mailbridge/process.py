"""How the daemon treats its process: memory of a long life with large buffers, and open files.

To be imported before anything else that logs: see ``_hidden``.
"""

from __future__ import annotations

import gc
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let a package seem not to be installed, for one import; no matter if it is loaded already.

    structlog imports rich, and with it pygments, for tracebacks in colour wherever rich is
    installed. Our own log writes none, and the two would hold 3 MB for the daemon's whole life.
    """
    if name in sys.modules:
        yield
        return
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]  # None is the documented way to refuse an import
    modules[name] = None
    try:
        yield
    finally:
        del modules[name]


with _hidden("rich"):
    import structlog

log = structlog.get_logger()

#: parameters of mallopt(3)
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
#: seconds for which a thread computes before another one may
_TURN: Final = 0.0005
#: bytes from which on a buffer is mapped by itself, and so given back as soon as it is free
_LARGE: Final = 128 * 1024


def spare_memory() -> None:
    """Keep the C library from hoarding what mails have left behind.

    glibc gives every few threads a heap of their own and shrinks none of them while anything
    lies at its end: with buffers of megabytes in dozens of threads, most of the memory is
    holes. One heap, and large buffers beside it. No other C library is touched.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    try:
        import ctypes

        libc = ctypes.CDLL(None)
    except (ImportError, MemoryError, OSError) as error:
        # A hardened unit may forbid what older libffi needs. It works without, only fatter.
        log.warning("memory.not_spared", reason=type(error).__name__)
        return
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def start_without_garbage() -> None:
    """Look for no garbage while starting: what is made then lives as long as the process."""
    gc.disable()


def collect_seldom() -> None:
    """Leave what is there to the end of the process, and collect what comes less often."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


def take_short_turns() -> None:
    """Let threads wait less for Python's lock while another one computes.

    A transaction gives the lock back at every statement, and waits for it after each: beside a
    thread that renders a backlog, for 5 ms each time. With shorter turns an alarm passes a
    backlog in half the time, and the backlog itself is no slower.
    """
    sys.setswitchinterval(_TURN)


def open_many_files() -> None:
    """Raise the soft limit of open files to the hard one.

    A thousand mailboxes hold more connections than the usual soft limit of 1,024 allows; it is
    that low only for programs that use select(2). A system that refuses leaves it as it was.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:
        # macOS reports no hard limit and accepts none either. Fewer mailboxes still work.
        log.warning("files.limit_kept", limit=soft, reason=type(error).__name__)
