"""The instrument of the power-cut campaign is itself held to what disks do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.campaigns.disk_model import Disk, Variant
from tests.campaigns.disk_trace import Kind, Operation, read_trace

RUN = "/run/store"


class Script:
    """Feeds a disk with operations, each after the one before has returned."""

    def __init__(self) -> None:
        self.disk = Disk(Path(RUN))
        self.line = 0

    def do(self, kind: Kind, name: str = "", *, data: bytes = b"", to: str = "") -> None:
        """Let one operation happen; without ``name``, to the directory."""
        self.line += 1
        path = f"{RUN}/{name}" if name else RUN
        self.disk.follow(
            Operation(
                kind=kind,
                path=path,
                began=self.line,
                ended=self.line,
                data=data,
                to=f"{RUN}/{to}" if to else "",
            )
        )

    def states(self, target: Path, variant: Variant, tries: int = 60) -> set[tuple[str, bytes]]:
        """Return every (name, content) that some state of this moment holds."""
        rng, found = random.Random(1), set()
        for _ in range(tries):
            self.disk.build(target, variant, rng)
            found |= {(one.name, one.read_bytes()) for one in target.iterdir()}
        return found


def test_what_was_not_synced_may_be_missing(tmp_path: Path) -> None:
    """A name needs a sync of its directory, bytes need a sync of their file."""
    script, state = Script(), tmp_path / "state"
    script.do("create", "a")
    script.do("write", "a", data=b"old")
    assert script.states(state, "none") == set()
    script.do("sync")
    assert script.states(state, "none") == {("a", b"")}
    script.do("sync", "a")
    assert script.states(state, "none") == {("a", b"old")}
    script.do("write", "a", data=b"new")
    assert script.states(state, "none") == {("a", b"old")}
    assert script.states(state, "subset") == {("a", b"old"), ("a", b"new")}


def test_renames_and_removals_wait_for_their_directory(tmp_path: Path) -> None:
    """Until the directory is synced, the old name may come back, and the new one be missing."""
    script, state = Script(), tmp_path / "state"
    script.do("create", "a")
    script.do("write", "a", data=b"x")
    script.do("sync", "a")
    script.do("sync")
    script.do("rename", "a", to="b")
    assert script.states(state, "none") == {("a", b"x")}
    assert script.states(state, "subset") == {("a", b"x"), ("b", b"x")}
    script.do("sync")
    script.do("unlink", "b")
    assert script.states(state, "none") == {("b", b"x")}
    script.do("sync")
    assert script.states(state, "subset") == set()


def test_long_writes_are_torn_between_sectors(tmp_path: Path) -> None:
    """A page that was being written holds a whole number of new sectors, and old ones after."""
    script, state = Script(), tmp_path / "state"
    script.do("create", "a")
    script.do("write", "a", data=b"o" * 4096)
    script.do("sync", "a")
    script.do("sync")
    script.do("write", "a", data=b"n" * 4096)
    contents = {content for _, content in script.states(state, "torn")}
    assert len(contents) > 4
    for content in contents:
        new = content.count(b"n")
        assert content == b"n" * new + b"o" * (4096 - new)
        assert new % 512 == 0


def test_a_sync_covers_only_what_had_returned_before_it_began(tmp_path: Path) -> None:
    """A write of another thread that overlaps a sync is not taken for durable."""
    disk, state = Disk(Path(RUN)), tmp_path / "state"
    path = f"{RUN}/a"
    disk.follow(Operation(kind="create", path=path, began=1, ended=1))
    disk.follow(Operation(kind="sync", path=RUN, began=2, ended=2))
    disk.follow(Operation(kind="write", path=path, began=3, ended=5, data=b"x"))
    disk.follow(Operation(kind="sync", path=path, began=4, ended=6))
    disk.build(state, "none", random.Random(1))
    assert (state / "a").read_bytes() == b""
    disk.follow(Operation(kind="sync", path=path, began=7, ended=8))
    disk.build(state, "none", random.Random(1))
    assert (state / "a").read_bytes() == b"x"


def _hex(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def test_a_trace_of_several_threads_is_joined(tmp_path: Path) -> None:
    """Calls that strace tears apart become one operation; failed calls have no effect."""
    name = _hex(f"{RUN}/a")
    lines = [
        f'10 openat(AT_FDCWD<{_hex("/")}>, "{name}", O_RDWR|O_CREAT, 0600) = 3<{name}>',
        f'10 pwrite64(3<{name}>, "\\x61\\x62", 2, 4096 <unfinished ...>',
        f"11 fdatasync(3<{name}>) = 0",
        "10 <... pwrite64 resumed>) = 2",
        f'10 pwrite64(3<{name}>, "\\x61", 1, 0) = -1 ENOSPC (No space left on device)',
        f'12 write(1<{_hex("/dev/null")}>, "\\x7b\\x7d\\x0a", 3) = 3',
        "12 +++ exited with 0 +++",
    ]
    trace = tmp_path / "trace"
    trace.write_text("\n".join(lines) + "\n")
    found = read_trace(trace, Path(RUN))
    assert [(one.kind, one.began, one.ended) for one in found] == [
        ("create", 0, 0),
        ("sync", 2, 2),
        ("write", 1, 3),
        ("ack", 5, 5),
    ]
    assert (found[2].data, found[2].offset, found[3].data) == (b"ab", 4096, b"{}\n")


def test_a_call_that_the_replay_does_not_know_is_refused(tmp_path: Path) -> None:
    """Better no verdict than one about less than what happened."""
    trace = tmp_path / "trace"
    trace.write_text(f'10 link("{_hex(RUN)}", "{_hex(RUN)}") = 0\n')
    with pytest.raises(ValueError, match="does not understand: link"):
        read_trace(trace, Path(RUN))
