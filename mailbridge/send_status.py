"""The part of the status that is about sending: a row for each mailbox that does, and the relay."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from mailbridge.config import Config
from mailbridge.health import Health, RelayHealth, SendHealth, SendStanding
from mailbridge.store.rows import Counts, SinkCount

#: what the sink of a mailbox that sends is called, before the mailbox's name
PREFIX: Final = "send:"


def parts(config: Config, health: Health | None, counts: Counts) -> dict[str, Any]:
    """Return these parts of the status, by their names."""
    return {"sending": rows(config, health, counts), "relay": relay(config, health)}


def rows(config: Config, health: Health | None, counts: Counts) -> list[dict[str, Any]]:
    """Return the rows: of the mailboxes that send, and of those for which mail still waits."""
    waiting = {
        one.sink.removeprefix(PREFIX): one for one in counts.sinks if one.sink.startswith(PREFIX)
    }
    names = [name for name, box in config.mailboxes.items() if box.send is not None]
    seen: Mapping[str, SendHealth] = health.sending if health is not None else {}
    return [
        _row(name, seen.get(name), waiting.get(name) or SinkCount(sink=f"{PREFIX}{name}"))
        for name in [*names, *(name for name in waiting if name not in names)]
    ]


def relay(config: Config, health: Health | None) -> dict[str, Any] | None:
    """Return what the relay has answered since the start; ``None`` where there is none."""
    if config.relay is None:
        return None
    seen = health.relay if health is not None else None
    figures = seen or RelayHealth()
    return {
        "state": "not running" if seen is None else "ok" if figures.listening else "off",
        "listening": figures.listening,
        "taken": figures.taken,
        "refused": dict(sorted(figures.refused.items())),
        "put_off": dict(sorted(figures.put_off.items())),
    }


def _row(name: str, health: SendHealth | None, count: SinkCount) -> dict[str, Any]:
    sink = health.sink if health is not None else None
    standing = health.standing() if health is not None else None
    failing = sink.failing_since if sink is not None else None
    cause = standing.cause if standing is not None else ""
    if sink is not None and failing is not None and not cause:
        cause = sink.last_reason
    return {
        "name": name,
        "state": _state(standing, failing),
        "cause": cause,
        "code": standing.code if standing is not None else "",
        "fix": standing.fix if standing is not None else "",
        "until": _text(standing.until) if standing is not None else None,
        "waiting": count.queued + count.deferred + count.claimed,
        "queued": count.queued,
        "deferred": count.deferred,
        "claimed": count.claimed,
        "in_doubt": count.in_doubt,
        "held": count.held,
        "failed": count.dead,
        "oldest": _text(count.oldest_first_due),
        "next_due": _text(count.oldest_due),
        "failing_since": _text(failing),
        "last_sent": _text(sink.last_delivered) if sink is not None else None,
        "remaining": {
            "messages": standing.messages if standing is not None else None,
            "recipients": standing.recipients if standing is not None else None,
        },
        "trouble": sink.trouble if sink is not None else "",
    }


def _state(standing: SendStanding | None, failing: datetime | None) -> str:
    """Return one word: parked waits for a person, paused for the server, failing for anybody."""
    if standing is None:
        return "not running"
    if standing.cause:
        return "parked" if standing.parked else "paused"
    return "failing" if failing is not None else "ok"


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
