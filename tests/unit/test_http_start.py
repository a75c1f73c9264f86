"""What the HTTP server rests on: it costs nothing when it is off, and counts as it should."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

from mailbridge.documents import document
from mailbridge.health import DELIVERY_BOUNDS, Histogram
from mailbridge.model import MessageRef
from mailbridge.store.rows import AttemptRow, StepRow

HEAVY = ("fastapi", "uvicorn", "prometheus_client", "starlette")


def test_a_daemon_that_does_not_listen_loads_nothing_of_it() -> None:
    """The daemon's own modules leave FastAPI, uvicorn and the metrics' library alone."""
    program = f"import mailbridge.app, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_histogram_counts_up_to_and_with_its_bounds() -> None:
    """A value on a bound is within it, one beyond the last is in the rest, none is lost."""
    histogram = Histogram((1.0, 5.0))
    for seconds in (0.0, 1.0, 1.1, 5.0, 6.0, 1e9):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 2]
    assert histogram.sum == 1e9 + 13.1
    assert tuple(sorted(DELIVERY_BOUNDS)) == DELIVERY_BOUNDS


def test_documents_are_json_all_through() -> None:
    """Times are UTC with a Z, whatever their zone was; what is nested is plain as well."""
    at = datetime(2026, 11, 21, 13, 0, 0, 5, tzinfo=timezone(timedelta(hours=1)))
    row = AttemptRow(
        delivery=1, number=1, at=at, seconds=0.5, outcome="x", status=None, reason="", detail=""
    )
    assert document(row)["at"] == "2026-11-21T12:00:00.000005Z"
    step = StepRow(route="a", verdict="hold", reason="r", fields={"when": at, "all": (1, 2)})
    assert document(step)["fields"] == {"when": "2026-11-21T12:00:00.000005Z", "all": [1, 2]}
    assert document(MessageRef(mailbox="m", folder="f", uidvalidity=1, uid=2))["uid"] == 2
    assert at.astimezone(UTC).hour == 12
