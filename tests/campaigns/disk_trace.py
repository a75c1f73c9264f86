r"""Reading from an strace log what a program asked the kernel to do to its files.

Calls that strace splits in two because threads overlap (``<unfinished ...>``, ``resumed``) are
joined again: an operation has a moment when it began and one when it returned, and a sync covers
only writes that had returned before it began.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

#: the largest single write that is recorded whole
LONGEST_WRITE = 1_000_000
CALLS = (
    "openat,creat,open,pwrite64,write,pwritev,writev,fsync,fdatasync,ftruncate,truncate,fallocate,"
    "unlink,unlinkat,rename,renameat,renameat2,link,linkat"
)
Kind = Literal["create", "write", "truncate", "sync", "unlink", "rename", "ack"]

#: writes to pipes and terminals have nothing to survive, nor has the content of the reserve file
_HARMLESS = {"write", "fallocate"}
_LINE = re.compile(r"^(\d+)\s+(.*)$")
_RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)(?:<([^>]*)>)?", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_HEX = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One effect on a file. ``began`` and ``ended`` are lines of the trace."""

    kind: Kind
    path: str
    began: int
    ended: int
    offset: int = 0
    data: bytes = b""
    to: str = ""


def read_trace(trace: Path, folder: Path) -> list[Operation]:
    """Return the operations below ``folder`` and the acknowledgements, in the order they ended.

    An acknowledgement is a write to standard output. SQLite's ``-shm`` files are left out: they
    are rebuilt at every start and nothing in them has to survive.
    """
    root = f"{folder}/"
    found = []
    for call, began, ended in _calls(trace):
        operation = _operation(*call, began, ended)
        if operation is None:
            continue
        ours = f"{operation.path}/".startswith(root) and not operation.path.endswith("-shm")
        if ours or operation.kind == "ack":
            found.append(operation)
    return found


def _calls(trace: Path) -> Iterator[tuple[tuple[str, list[str], str], int, int]]:
    begun: dict[str, tuple[str, int]] = {}
    with trace.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines):
            matched = _LINE.match(line)
            if matched is None:
                continue
            thread, text = matched[1], matched[2]
            if text.endswith(_UNFINISHED):
                begun[thread] = (text[: -len(_UNFINISHED)], number)
                continue
            start = number
            resumed = _RESUMED.match(text)
            if resumed:
                head, start = begun.pop(thread)
                text = head + resumed[1]
            call = _CALL.match(text)
            # A failed call has no effect; anything else is no call (a signal, an exit).
            if call is not None and int(call[3]) >= 0:
                yield (call[1], _arguments(call[2]), call[4] or ""), start, number


def _arguments(text: str) -> list[str]:
    """Split at commas; -xx leaves none inside of strings."""
    return [part.strip() for part in text.split(",")]


def _operation(
    name: str, arguments: list[str], opened: str, began: int, ended: int
) -> Operation | None:
    """Return what a call did, ``None`` when it changed no file that matters."""
    facts: dict[str, Any] = {}
    if name == "write" and arguments[0].startswith("1<"):
        facts = {"kind": "ack", "path": "", "data": _bytes(arguments[1])}
    elif name == "pwrite64":
        facts = {"kind": "write", "path": _of(arguments[0]), "offset": int(arguments[3])}
        facts["data"] = _bytes(arguments[1])
    elif name in {"fsync", "fdatasync"}:
        facts = {"kind": "sync", "path": _of(arguments[0])}
    elif name == "ftruncate":
        facts = {"kind": "truncate", "path": _of(arguments[0]), "offset": int(arguments[1])}
    elif name == "unlink":
        facts = {"kind": "unlink", "path": _text(arguments[0])}
    elif name == "rename":
        facts = {"kind": "rename", "path": _text(arguments[0]), "to": _text(arguments[1])}
    elif name == "openat" and "O_CREAT" in arguments[2]:
        facts = {"kind": "create", "path": _decode(opened)}
    elif name not in _HARMLESS and not (name == "openat" and "O_TRUNC" not in arguments[2]):
        # Better to stop than to replay less than what happened.
        msg = f"the trace holds a call that the replay does not understand: {name}{arguments}"
        raise ValueError(msg)
    return Operation(began=began, ended=ended, **facts) if facts else None


def _of(argument: str) -> str:
    """Return the path in ``5</path>``, without the mark of a file that has no name any more."""
    return _decode(argument[argument.index("<") + 1 : argument.rindex(">")])


def _text(argument: str) -> str:
    return _decode(argument.strip('"'))


def _decode(text: str) -> str:
    return _bytes(text).decode("utf-8", "surrogateescape").removesuffix(" (deleted)")


def _bytes(argument: str) -> bytes:
    if argument.endswith("..."):
        msg = "a write was longer than strace recorded"
        raise ValueError(msg)
    return bytes.fromhex("".join(_HEX.findall(argument)))
