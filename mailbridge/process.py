"""How the daemon treats its memory: a long-lived process with large buffers."""

from __future__ import annotations

import gc
import platform
from typing import Final

import structlog

log = structlog.get_logger()

#: parameters of mallopt(3)
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
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
