"""The chart of the benchmarks, as an SVG that needs no library and reads on dark and light."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from benchmarks.goals import Summary

WIDTH, LABEL, BAR, ROW = 760, 210, 400, 26
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 15px }
.note { fill: #656d76; font-size: 12px }
.own { fill: #1a7f64 } .peer { fill: #8c959f } .limit { fill: #d0d7de }
.range { stroke: #24292f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #8d96a0 } .range { stroke: #e6edf3 }
  .own { fill: #3fb996 } .peer { fill: #6e7681 } .limit { fill: #30363d }
}
"""


def draw(groups: Iterable[tuple[str, Sequence[Summary]]], *, footer: Sequence[str]) -> str:
    """Return the SVG: for each title one group of bars, longest is the best of its group."""
    parts: list[str] = []
    y = 24
    for title, rows in groups:
        parts.append(f'<text class="title" x="12" y="{y}">{escape(title)}</text>')
        y += 14
        # The limit is several times the rest; cut off, it would only squeeze the others.
        scale = max((one.highest for one in rows if not _is_limit(one)), default=1.0)
        for one in sorted(rows, key=lambda row: -row.rate):
            parts.append(_row(one, y, scale))
            y += ROW
        y += 26
    for text in footer:
        parts.append(f'<text class="note" x="12" y="{y}">{escape(text)}</text>')
        y += 16
    height = y
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Messages per second">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _is_limit(one: Summary) -> bool:
    return one.contestant == "raw TLS drain"


def _row(one: Summary, y: int, scale: float) -> str:
    kind = "own" if one.contestant.startswith("mailbridge") else "peer"
    kind = "limit" if _is_limit(one) else kind
    length = min(1.06, one.rate / scale) * BAR
    middle, low = y + ROW / 2, y + ROW - 4
    figures = f"{one.rate:,.0f}/s · {one.cpu_per_1000:.2f} s CPU per 1,000 · {one.peak_mb:,.0f} MB"
    if kind == "limit":
        figures = f"{one.rate:,.0f}/s (off the scale)" if length > BAR else figures
        figures = f"limit {figures}"
    text_x = LABEL + 8 if length > BAR * 0.55 else LABEL + length + 10
    parts = [
        f'<text x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(one.contestant)}</text>',
        (
            f'<rect class="{kind}" x="{LABEL}" y="{y + 4}" width="{length:.1f}" '
            f'height="{ROW - 8}" rx="2"/>'
        ),
    ]
    if kind != "limit" and one.highest > one.lowest:
        left, right = (LABEL + value / scale * BAR for value in (one.lowest, one.highest))
        parts.append(
            f'<line class="range" x1="{left:.1f}" x2="{right:.1f}" y1="{low}" y2="{low}"/>'
        )
    inside = text_x == LABEL + 8 and kind == "own"
    fill = ' style="fill:#fff"' if inside else ""
    parts.append(f'<text x="{text_x:.1f}" y="{middle + 4}"{fill}>{escape(figures)}</text>')
    return "\n".join(parts)
