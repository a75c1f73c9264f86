"""Measure push, polling, POP3, distance and neighbours, and hold mailbridge to its goals.

    python -m benchmarks.push [--quick] [--only scale,latency] [--out FILE]

Every part runs in a process of its own with servers of its own, so that one which fails or hangs
does not spoil the rest. Prints absolute figures, peers and limits of the same run, ratios and
verdicts, and writes all of it as JSON. Exit code 1 when a part could not be measured or a
required goal is missed; with ``--quick``, whose ratios are mostly start-up, only the former.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.bench import verdicts
from benchmarks.contestants import cores
from benchmarks.goals import Result
from benchmarks.measure import compile_all
from benchmarks.push.figures import Report
from benchmarks.push.stage import CACHE, ROOT

#: what is measured, in this order: the module's name, and after how many seconds it is given up
PARTS = {
    "scale": 900,
    "latency": 600,
    "polled": 700,
    "pop3": 500,
    "distance": 400,
    "neighbours": 500,
}


def measure(name: str, *, into: Path, quick: bool, console: Console) -> None:
    """Measure one part, in this process, and write what was found even if it breaks off."""
    report = Report(console=console, quick=quick)
    failure = ""
    begun = time.monotonic()
    load = os.getloadavg()[0]
    try:
        importlib.import_module(f"benchmarks.push.{name}").run(report)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts go on
        failure = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    content = {
        "part": name,
        "failure": failure,
        "seconds": time.monotonic() - begun,
        "load_before": load,
        **report.as_json(),
    }
    into.write_text(json.dumps(content, indent=1) + "\n")


def in_a_process(name: str, *, quick: bool) -> dict[str, Any]:
    """Measure one part in a process group of its own; what is left of it afterwards is ended."""
    into = CACHE / "push" / f"{name}.json"
    into.parent.mkdir(parents=True, exist_ok=True)
    into.unlink(missing_ok=True)
    words = [sys.executable, "-m", "benchmarks.push", "--part", name, "--out", str(into)]
    process = subprocess.Popen(
        [*words, *(["--quick"] if quick else [])], cwd=ROOT, start_new_session=True
    )
    failure = "it ended without a result"
    try:
        process.wait(PARTS[name])
    except subprocess.TimeoutExpired:
        failure = f"given up after {PARTS[name]} s"
    finally:
        end_group(process)
    if not into.exists():
        return {"part": name, "failure": failure, "figures": [], "goals": [], "remarks": []}
    found: dict[str, Any] = json.loads(into.read_text())
    return found


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever a part has left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        time.sleep(2)
    process.wait()


def goals(parts: Sequence[dict[str, Any]]) -> list[Result]:
    """Return all goals with their figures."""
    names = Result.__dataclass_fields__
    return [
        Result(**{key: value for key, value in row.items() if key in names})
        for part in parts
        for row in part["goals"]
    ]


def remarks(parts: Sequence[dict[str, Any]]) -> Table:
    """Return how each part went."""
    shown = Table(title="parts")
    for heading in ("part", "seconds", "load before", "state"):
        shown.add_column(heading, justify="left" if heading in {"part", "state"} else "right")
    for part in parts:
        seconds, load = part.get("seconds", 0.0), part.get("load_before", 0.0)
        state = f"NOT MEASURED: {part['failure']}" if part["failure"] else "measured"
        shown.add_row(part["part"], f"{seconds:.0f}", f"{load:.1f}", state.splitlines()[0][:200])
    return shown


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see it work")
    parser.add_argument("--only", default="", help=f"parts, with commas: {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=None, help="the JSON")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    if given.part:
        measure(given.part, into=given.out, quick=given.quick, console=console)
        return 0
    names = [name for name in given.only.split(",") if name] or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    partial = given.quick or given.only
    out = given.out or (CACHE / "push.json" if partial else ROOT / "docs/benchmark-push.json")
    return whole(names, out=out, quick=given.quick, console=console)


def whole(names: Sequence[str], *, out: Path, quick: bool, console: Console) -> int:
    """Measure these parts one after the other; returns the exit code."""
    parts = []
    compile_all()
    for name in names:
        load = os.getloadavg()[0]
        console.print(f"{name} (load {load:.1f})", markup=False, style="bold")
        parts.append(in_a_process(name, quick=quick))
    results = goals(parts)
    console.print(verdicts(results))
    console.print(remarks(parts))
    content = {
        "machine": f"{cores()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "quick": quick,
        "parts": parts,
    }
    out.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"figures: {out}")
    measured = all(not part["failure"] for part in parts)
    return 0 if measured and (quick or all(one.met for one in results)) else 1


if __name__ == "__main__":
    sys.exit(main())
