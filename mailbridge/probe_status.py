"""The part of the status that is about scheduled tests. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mailbridge.health import Health, ProbeHealth


def with_probe(health: Health | None, row: dict[str, Any]) -> dict[str, Any]:
    """Return a mailbox's row with its ``probe``, ``None`` where it has none or no daemon runs.

    A mailbox that is seen is degraded all the same while its last probe has not come through.
    """
    probe = health.probes.get(row["name"]) if health is not None else None
    if probe is None:
        return row | {"probe": None}
    row = row | {"probe": _shown(probe)}
    if probe.missed_since is None or row["state"] not in {"ok", "starting"}:
        return row
    return row | {
        "state": "degraded",
        "cause": f"the last probe was missed: {probe.cause}",
        "code": "probe.missed",
        "fix": probe.fix,
    }


def _shown(probe: ProbeHealth) -> dict[str, Any]:
    return {
        "state": _state(probe),
        "last": _text(probe.last),
        "seconds": probe.seconds.get("delivered"),
        "stages": dict(probe.seconds),
        "passed_at": _text(probe.passed_at),
        "open_since": _text(probe.open_since),
        "missed_since": _text(probe.missed_since),
        "stage": probe.stage,
        "code": probe.code,
        "cause": probe.cause,
        "fix": probe.fix,
    }


def _state(probe: ProbeHealth) -> str:
    """Return one word: how the last one went; ``none`` when there was none yet."""
    if probe.missed_since is not None:
        return "missed"
    return "passed" if probe.last is not None else "none"


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
