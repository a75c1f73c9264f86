"""The goals: what is required of mailbridge in relation to its peers in the same run."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.measure import Run

MEGABYTE = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Several runs of one contestant at one work: medians, and the range of the rate."""

    contestant: str
    work: str
    runs: int
    rate: float
    lowest: float
    highest: float
    cpu_per_1000: float
    peak_mb: float
    duplicates: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One goal: what was required and aimed at, and what came out. ``unit`` follows figures."""

    goal: str
    says: str
    value: float
    required: float
    aimed: float
    unit: str
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the requirement is met."""
        return self.value <= self.required if self.at_most else self.value >= self.required

    @property
    def reached(self) -> bool:
        """Whether the aim is reached as well."""
        return self.value <= self.aimed if self.at_most else self.value >= self.aimed


def summarise(runs: Iterable[Run]) -> dict[tuple[str, str], Summary]:
    """Return the summaries by (work, contestant)."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.work, run.contestant].append(run)
    return {
        key: Summary(
            contestant=key[1],
            work=key[0],
            runs=len(group),
            rate=statistics.median(one.rate for one in group),
            lowest=min(one.rate for one in group),
            highest=max(one.rate for one in group),
            cpu_per_1000=statistics.median(1000 * one.cpu / one.messages for one in group),
            peak_mb=max(one.peak for one in group) / MEGABYTE,
            duplicates=sum(one.duplicates for one in group),
            lost=sum(one.lost for one in group),
        )
        for key, group in groups.items()
    }


def judge(found: dict[tuple[str, str], Summary]) -> list[Result]:
    """Return every goal whose contestants were measured."""
    results: list[Result] = []

    def ratio(goal: str, work: str, one: str, other: str, required: float, aimed: float) -> None:  # noqa: PLR0913, PLR0917 - a row of the table below
        pair = found.get((work, one)), found.get((work, other))
        if pair[0] and pair[1]:
            says = f"{work}: {one} / {other}"
            value = pair[0].rate / pair[1].rate
            results.append(
                Result(
                    goal=goal, says=says, value=value, required=required, aimed=aimed, unit=" times"
                )
            )

    def bound(goal: str, says: str, value: float, required: float, aimed: float, unit: str) -> None:  # noqa: PLR0913, PLR0917 - a row of the table below
        results.append(
            Result(
                goal=goal,
                says=says,
                value=value,
                required=required,
                aimed=aimed,
                unit=unit,
                at_most=True,
            )
        )

    ratio("G1", "backlog", "mailbridge", "mbsync", 0.8, 1.2)
    ratio("G1", "backlog", "mailbridge", "imapflow script", 2.0, 2.0)
    ratio("G2", "20 mailboxes", "mailbridge", "mbsync", 0.6, 0.8)
    ratio("G2", "20 mailboxes", "mailbridge", "imapflow script", 2.5, 2.5)
    if one := found.get(("backlog", "mailbridge")):
        bound("G4", "backlog: CPU seconds per 1,000", one.cpu_per_1000, 0.8, 0.55, " s")
        bound("G5", "backlog: peak memory", one.peak_mb, 150, 110, " MB")
    if one := found.get(("20 mailboxes", "mailbridge")):
        bound("G5", "20 mailboxes: peak memory", one.peak_mb, 200, 150, " MB")
    ratio("G10", "backlog", "mailbridge (PostgreSQL)", "mailbridge", 0.6, 0.9)
    ratio("G11", "backlog", "mailbridge", "mailbridge (not durable)", 0.85, 0.9)
    return results
