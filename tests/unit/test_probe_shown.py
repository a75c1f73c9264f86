"""How the scheduled test is shown: in status and metrics, to supervisors, with its cause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from mailbridge.health import (
    FolderHealth,
    Health,
    ProbeHealth,
    SendHealth,
    SendStanding,
    Sight,
    SinkHealth,
)
from mailbridge.http.metrics import Metrics
from mailbridge.http.probes import unseen
from mailbridge.probe_findings import seconds_of, stopped
from mailbridge.probe_status import with_probe
from mailbridge.store.rows import Answer, ProbeRow

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def health(**probe: Any) -> Health:
    folder = FolderHealth(mailbox="a", folder="INBOX", sight=Sight.OK)
    found = Health(started_at=NOW, folders=[folder])
    found.probes["a"] = ProbeHealth(**probe)
    return found


MISSED = {"last": NOW, "outcome": "missed", "missed_since": NOW, "cause": "gone", "stage": "seen"}
PASSED = {
    "last": NOW,
    "outcome": "passed",
    "seconds": {"sent": 0.5, "seen": 1.0, "delivered": 1.5},
    "passed_at": at(1.5),
    "counts": {"passed": 3, "missed": 1},
}


def test_a_missed_probe_degrades_its_mailbox_and_no_other() -> None:
    """It is shown with its cause, until the next one comes through; a worse state stays."""
    row = {"name": "a", "state": "ok", "cause": "", "code": "", "fix": ""}
    shown = with_probe(health(**MISSED), row)
    assert (shown["state"], shown["code"]) == ("degraded", "probe.missed")
    assert "gone" in shown["cause"]
    assert shown["probe"]["state"] == "missed"
    assert with_probe(health(**MISSED), row | {"state": "parked"})["state"] == "parked"
    assert with_probe(health(**PASSED), row)["state"] == "ok"
    assert with_probe(health(**PASSED), row)["probe"]["seconds"] == 1.5
    assert with_probe(health(), row)["probe"]["state"] == "none"
    for one in (with_probe(health(**MISSED), row | {"name": "b"}), with_probe(None, row)):
        assert (one["state"], one["probe"]) == ("ok", None)


def test_supervisors_hear_of_it_once() -> None:
    """A mailbox whose mails do not come through is not ready; one that is blind is named once."""
    found = health(**MISSED)
    assert [(one["mailbox"], one["code"]) for one in unseen(found)] == [("a", "probe.missed")]
    found.folders[0].sight = Sight.PARKED
    assert [(one["mailbox"], one["state"]) for one in unseen(found)] == [("a", "parked")]
    assert unseen(health(**PASSED)) == []


@pytest.mark.parametrize(("probe", "up"), [(PASSED, 1.0), (MISSED, 0.0)])
def test_metrics(probe: dict[str, Any], up: float) -> None:
    """How the last one went, how long it took to each station, and all by outcome."""
    connections = SimpleNamespace(cut={}, open=())
    metrics = Metrics(health(**probe), None, SimpleNamespace(refused=0), connections)  # type: ignore[arg-type]  # not asked
    found = {
        (one.name, *one.labels.values()): one.value
        for family in metrics.collect()
        for one in family.samples
        if one.name.startswith("mailbridge_probe")
    }
    assert found["mailbridge_probe_up", "a"] == up
    assert found["mailbridge_probes_total", "a", "late"] == 0
    if up:
        assert found["mailbridge_probes_total", "a", "passed"] == 3
        assert found["mailbridge_probe_seconds", "a", "delivered"] == 1.5
        assert found["mailbridge_probe_success_timestamp_seconds", "a"] == at(1.5).timestamp()
    else:
        assert ("mailbridge_probe_success_timestamp_seconds", "a") not in found


def row(**changes: Any) -> ProbeRow:
    made: dict[str, Any] = {
        "nonce": "n",
        "mailbox": "a",
        "message_id": "<m@x.example>",
        "webhooks": ("erp", "log"),
        "scheduled": True,
        "begun_at": NOW,
        "due_at": at(300),
        "seen_at": None,
        "message": None,
        "outcome": None,
        "ended_at": None,
    }
    return ProbeRow(**made | changes)


def sent(**changes: Any) -> Any:
    made = {"state": "sent", "ended_at": at(1), "reason": "", "reply": "", "bounces": ()}
    return SimpleNamespace(**made | changes)


def test_where_it_stopped() -> None:
    """The first station that was not passed, with what is known there."""
    waits = stopped(row(), sent(state="deferred", reason="421 4.3.2 busy"), health())
    assert (waits.stage, waits.code) == ("sent", "probe.not_sent")
    assert "421 4.3.2 busy" in waits.cause
    parked = health()
    standing = SendStanding(
        messages=1, recipients=1, cause="may not", code="smtp.auth_disabled_mailbox", fix="let it"
    )
    parked.sending["a"] = SendHealth(sink=SinkHealth(name="send:a"), standing=lambda: standing)
    found = stopped(row(), sent(state="queued"), parked)
    assert (found.code, found.cause, found.fix) == (
        "smtp.auth_disabled_mailbox",
        "may not",
        "let it",
    )
    assert stopped(row(), sent(), health()).code == "probe.lost"
    back = SimpleNamespace(report="550 5.1.10 not found")
    assert "5.1.10" in stopped(row(), sent(bounces=(back,)), health()).cause
    blind = health()
    blind.folders[0].blind(NOW, cause="no", code="imap.no", fix="do", sight=Sight.PARKED)
    found = stopped(row(), sent(), blind)
    assert (found.stage, found.code, found.fix) == ("seen", "imap.no", "do")
    deaf = row(seen_at=at(2), answers=(Answer(webhook="erp", delivered_at=at(3)),))
    found = stopped(deaf, sent(), health())
    assert (found.stage, found.cause) == ("delivered", "log: it was not asked, 0 attempt(s)")


def test_seconds_are_never_negative() -> None:
    """A time of day that was set back between two stations makes no nonsense of the metrics."""
    answers = tuple(Answer(webhook=one, delivered_at=at(4)) for one in ("erp", "log"))
    through = row(seen_at=at(-5), answers=answers)
    assert seconds_of(through, sent()) == {"sent": 1.0, "seen": 0.0, "delivered": 4.0}
