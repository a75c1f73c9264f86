"""What a disk may hold after a power cut, given what a program asked of the kernel.

Bytes are surely there once a sync of their file returned that began after they were written; a
name is surely there (or surely gone) once its directory was synced. Of everything later any part
may have reached the disk, and a long write may be torn between two sectors.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.campaigns.disk_trace import Operation

SECTOR = 512
Variant = Literal["none", "subset", "torn"]
VARIANTS: tuple[Variant, ...] = ("none", "subset", "torn")


@dataclass(slots=True)
class _File:
    """A file apart from its names: what is surely on the disk, and what was asked since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)


class Disk:
    """Follows a trace; ``build`` writes one of the states that a power cut now could leave."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._pending_names: list[tuple[Operation, _File | None]] = []
        self.syncs = 0

    def follow(self, operation: Operation) -> None:
        """Take note of the next operation."""
        match operation.kind:
            case "create":
                if operation.path not in self._names:
                    self._names[operation.path] = _File()
                    self._pending_names.append((operation, self._names[operation.path]))
            case "unlink":
                self._names.pop(operation.path, None)
                self._pending_names.append((operation, None))
            case "rename":
                moved = self._names.pop(operation.path)
                self._names[operation.to] = moved
                self._pending_names.append((operation, moved))
            case "write" | "truncate":
                # A file that has lost its name cannot come back with it.
                if operation.path in self._names:
                    self._names[operation.path].pending.append(operation)
            case "sync":
                self._sync(operation)
            case "ack":
                pass

    def _sync(self, operation: Operation) -> None:
        self.syncs += 1
        if operation.path == str(self._folder):
            later = []
            for change, file in self._pending_names:
                if change.ended < operation.began:
                    _rename(self._durable_names, change, file)
                else:
                    later.append((change, file))
            self._pending_names = later
            return
        synced = self._names.get(operation.path)
        if synced is not None:
            for write in synced.pending:
                if write.ended < operation.began:
                    _apply(synced.durable, write)
            synced.pending = [one for one in synced.pending if one.ended >= operation.began]

    def build(self, target: Path, variant: Variant, rng: random.Random) -> None:
        """Write one possible state into the empty directory ``target``."""
        chosen: Callable[[], bool] = (
            (lambda: False) if variant == "none" else (lambda: rng.random() < 0.5)
        )
        names = dict(self._durable_names)
        for one in self._pending_names:
            if chosen():
                _rename(names, *one)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name, file in names.items():
            content = bytearray(file.durable)
            for operation in _some(file.pending, variant, rng, chosen):
                _apply(content, operation)
            (target / Path(name).name).write_bytes(content)


def _some(
    pending: list[Operation], variant: Variant, rng: random.Random, chosen: Callable[[], bool]
) -> list[Operation]:
    some = [one for one in pending if chosen()]
    long = [one for one in pending if len(one.data) > SECTOR]
    if variant == "torn" and long:
        torn = rng.choice(long)
        sectors = rng.randrange(len(torn.data) // SECTOR)
        part = Operation(
            kind="write",
            path=torn.path,
            began=torn.began,
            ended=torn.ended,
            offset=torn.offset,
            data=torn.data[: sectors * SECTOR],
        )
        some = sorted([one for one in some if one is not torn] + [part], key=lambda one: one.ended)
    return some


def _rename(names: dict[str, _File], operation: Operation, file: _File | None) -> None:
    if operation.kind in {"unlink", "rename"}:
        names.pop(operation.path, None)
    if file is not None:
        names[operation.to or operation.path] = file


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.kind == "truncate":
        del content[operation.offset :]
        content.extend(bytes(operation.offset - len(content)))
        return
    # A write beyond the end leaves a hole, and a hole reads as zeros.
    content.extend(bytes(max(0, operation.offset - len(content))))
    content[operation.offset : operation.offset + len(operation.data)] = operation.data
