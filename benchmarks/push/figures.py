"""What a part of the measurements reports: absolute figures, goals with verdicts, remarks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from benchmarks.goals import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One absolute figure or ratio: whose, of what, how much."""

    who: str
    what: str
    value: float
    unit: str

    @property
    def text(self) -> str:
        """The value with its unit, with as many digits as mean something."""
        digits = 0 if abs(self.value) >= 100 or self.value == int(self.value) else 2
        return f"{self.value:,.{digits}f} {self.unit}".rstrip()


@dataclass(slots=True, kw_only=True)
class Report:
    """Collects what a part has found, and prints it as it comes."""

    console: Console
    quick: bool = False
    figures: list[Figure] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def show(self, who: str, what: str, value: float, unit: str) -> None:
        """Note a figure."""
        figure = Figure(who=who, what=what, value=value, unit=unit)
        self.figures.append(figure)
        self.console.print(f"  {who:28} {what:46} {figure.text:>16}", markup=False)

    def remark(self, text: str) -> None:
        """Note what a reader of the figures has to know."""
        self.remarks.append(text)
        self.console.print(f"  note: {text}", markup=False)

    def at_most(  # noqa: PLR0913 - a row of the table of goals
        self, goal: str, says: str, value: float, *, required: float, aimed: float, unit: str
    ) -> None:
        """Hold a figure to a goal; ``unit`` follows the figures, with its blank."""
        self._judge(goal, says, value, required, aimed, unit, at_most=True)

    def at_least(  # noqa: PLR0913 - a row of the table of goals
        self, goal: str, says: str, value: float, *, required: float, aimed: float, unit: str
    ) -> None:
        """Hold a figure to a goal; ``unit`` follows the figures, with its blank."""
        self._judge(goal, says, value, required, aimed, unit, at_most=False)

    def _judge(  # noqa: PLR0913, PLR0917 - a row of the table of goals
        self,
        goal: str,
        says: str,
        value: float,
        required: float,
        aimed: float,
        unit: str,
        *,
        at_most: bool,
    ) -> None:
        one = Result(
            goal=goal,
            says=says,
            value=value,
            required=required,
            aimed=aimed,
            unit=unit,
            at_most=at_most,
        )
        self.results.append(one)
        sign, verdict = "≤" if at_most else "≥", "met" if one.met else "MISSED"
        text = f"{value:,.2f}{unit}, required {sign} {required:g}{unit}: {verdict}"
        self.console.print(f"  {goal:5} {says}: {text}", markup=False)

    def as_json(self) -> dict[str, Any]:
        """Return everything."""
        return {
            "figures": [asdict(one) for one in self.figures],
            "goals": [
                {**asdict(one), "met": one.met, "aim_reached": one.reached} for one in self.results
            ],
            "remarks": self.remarks,
        }


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of the values; of a single one, that one."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
