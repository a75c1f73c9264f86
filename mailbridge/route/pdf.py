"""The text of a PDF, read by pypdf in a child process that is bounded in time and memory.

A PDF is a program of sorts: a few kilobytes can keep its reader busy for hours or fill the
memory, and a thread cannot be ended. So it is read elsewhere. The child gets the bytes on its
standard input, no environment, and has seconds of processor time; whatever goes wrong in it,
the mail is routed and delivered without this text.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

#: seconds of processor time, seconds on the clock, and bytes of address space of the child
CPU_SECONDS: Final = 2
SECONDS: Final = 5.0
MEMORY: Final = 768 * 1024 * 1024
#: pages that are read, and bytes of UTF-8 that come back
PAGES: Final = 20
TEXT_BYTES: Final = 256 * 1024


def text_of_pdf(content: bytes) -> str | None:
    """Return the text of the first pages; ``None`` when it cannot be read within the bounds."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, no argument from outside
            [sys.executable, "-I", "-m", __name__],
            input=content,
            capture_output=True,
            timeout=SECONDS,
            env={},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return done.stdout[:TEXT_BYTES].decode("utf-8", "replace")


def _child() -> None:
    import io
    import logging
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from pypdf import PdfReader

    logging.disable(logging.CRITICAL)
    reader = PdfReader(io.BytesIO(sys.stdin.buffer.read()))
    if reader.is_encrypted:
        reader.decrypt("")  # what opens without a password is read; else the next line raises
    left = TEXT_BYTES
    for page in reader.pages[:PAGES]:
        text = (page.extract_text() + "\n").encode("utf-8", "replace")[:left]
        sys.stdout.buffer.write(text)
        left -= len(text)
        if left <= 0:
            break


if __name__ == "__main__":
    _child()
