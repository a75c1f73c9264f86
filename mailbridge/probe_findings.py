"""How far a scheduled test came, where it stopped and why, in the words of events. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from mailbridge.event import stamp
from mailbridge.health import FolderHealth, Health, Sight
from mailbridge.store.rows import Answer, ProbeRow, SendRow

Stage = Literal["queued", "sent", "seen", "delivered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The first station that a test mail has not passed, and why, as far as is known."""

    stage: Stage
    code: str
    cause: str
    fix: str = ""


def stopped(row: ProbeRow, send: SendRow | None, health: Health) -> Stopped:
    """Find out where a test mail stopped; ``health`` is what the daemon knows at this moment."""
    if row.seen_at is not None:
        return _not_delivered(row)
    if send is None or send.state != "sent":
        return _not_sent(row, send, health)
    return _not_seen(row, send, health)


def _not_delivered(row: ProbeRow) -> Stopped:
    said = [_why(one) for one in row.told if one.delivered_at is None]
    return Stopped(
        stage="delivered",
        code="probe.not_delivered",
        cause="; ".join(said) or "the webhooks had it too late",
        fix="see `mailbridge status` and `mailbridge queue list`; `mailbridge test-webhook NAME` "
        "tries a webhook at once",
    )


def _why(one: Answer) -> str:
    reason = one.reason or ("it waits" if one.state else "it was not asked")
    return f"{one.webhook}: {reason}, {one.attempts} attempt(s)"


def _not_sent(row: ProbeRow, send: SendRow | None, health: Health) -> Stopped:
    sending = health.sending.get(row.mailbox)
    standing = sending.standing() if sending is not None else None
    if standing is not None and standing.cause:
        code, fix = standing.code or "probe.not_sent", standing.fix
        return Stopped(stage="sent", code=code, cause=standing.cause, fix=fix)
    cause = "the mail waits in the queue"
    if send is not None and (said := send.reason or send.reply):
        cause = f"the mail was not sent: {said}"
    elif sending is not None and sending.sink.failing_since is not None:
        cause = f"the mail was not sent: {sending.sink.last_reason}"
    return Stopped(
        stage="sent",
        code="probe.not_sent",
        cause=cause,
        fix="`mailbridge test-mailbox NAME` tries every step of sending",
    )


def _not_seen(row: ProbeRow, send: SendRow, health: Health) -> Stopped:
    folders = [one for one in health.folders if one.mailbox == row.mailbox]
    blind = next((one for one in folders if one.sight is not Sight.OK), None)
    if blind is not None:
        return _blind(blind)
    if send.bounces:
        cause = f"the mail came back: {send.bounces[0].report}"
        return Stopped(stage="seen", code="probe.bounced", cause=cause)
    return Stopped(
        stage="seen",
        code="probe.lost",
        cause="the server took the mail, and it has not arrived in a folder that is watched, "
        "though these are seen",
        fix="look for it in Junk Email, in the mailbox's rules, and by a message trace in the "
        "Exchange admin center; if mail only takes longer, write more for `probe.within`",
    )


def _blind(folder: FolderHealth) -> Stopped:
    cause = f"the folder {folder.folder} is not seen: {folder.cause or folder.sight}"
    code = folder.code or "probe.not_seen"
    return Stopped(stage="seen", code=code, cause=cause, fix=folder.fix)


def sent_at(send: SendRow | None) -> datetime | None:
    """Return when the server had taken it, as far as it has said so."""
    return send.ended_at if send is not None and send.state == "sent" else None


def seconds_of(row: ProbeRow, send: SendRow | None) -> dict[str, float]:
    """Return the seconds from the queue to each station that was passed.

    They are told by the time of day; should that have been set back meanwhile, they are 0.
    """
    stations = {"sent": sent_at(send), "seen": row.seen_at, "delivered": row.delivered_at}
    return {
        name: round(max(0.0, (at - row.begun_at).total_seconds()), 3)
        for name, at in stations.items()
        if at is not None
    }


def missed_data(row: ProbeRow, send: SendRow | None, found: Stopped) -> dict[str, Any]:
    """Return the data of ``probe.missed``."""
    return {
        **_about(row, send),
        "stage": found.stage,
        "code": found.code,
        "cause": found.cause,
        "fix": found.fix,
        "within": round((row.due_at - row.begun_at).total_seconds()),
        "sent_at": _text(sent_at(send)),
        "seen_at": _text(row.seen_at),
        "webhooks": [
            {
                "webhook": one.webhook,
                "delivered_at": _text(one.delivered_at),
                "attempts": one.attempts,
                "reason": one.reason,
            }
            for one in row.told
        ],
    }


def recovered_data(row: ProbeRow, send: SendRow | None, since: datetime) -> dict[str, Any]:
    """Return the data of ``probe.recovered``; ``since`` is when the first missed one was begun."""
    seconds: Mapping[str, float | None] = {"sent": None, **seconds_of(row, send)}
    return {
        **_about(row, send),
        "since": stamp(since),
        "late": row.outcome == "missed",
        "seconds": seconds,
    }


def _about(row: ProbeRow, send: SendRow | None) -> dict[str, Any]:
    return {
        "begun_at": stamp(row.begun_at),
        "send": send.id if send is not None else None,
        "message": row.message,
    }


def _text(moment: datetime | None) -> str | None:
    return stamp(moment) if moment is not None else None
