"""What an operator asks for: the status, and the changes to the queue.

The same ``Operator`` works inside the daemon (behind the control socket, with what it knows of
its own sight) and in a command when no daemon runs (``health`` is ``None`` then).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol

from mailbridge import __version__, send_status
from mailbridge.config import Config
from mailbridge.diagnose.desk import DiagnosisDesk
from mailbridge.expecting import Expecting
from mailbridge.health import FolderHealth, Health, Sight, SinkHealth
from mailbridge.http.control import Command
from mailbridge.model import Grant
from mailbridge.outbox import Outbox
from mailbridge.probe_status import with_probe
from mailbridge.send_desk import SendDesk
from mailbridge.sign_in.base import Standing
from mailbridge.sign_ins import SignIns
from mailbridge.store.rows import Counts, FolderCount, SinkCount
from mailbridge.store.store import Store

#: the worst state of a mailbox's folders is the mailbox's
_WORST = (Sight.PARKED, Sight.NOT_CONNECTED, Sight.DEGRADED, Sight.STARTING, Sight.OK)


class Overview(Protocol):
    """A ``Protocol``: what is at hand, in the daemon or in a command (``Alone``)."""

    @property
    def config(self) -> Config:
        """The configuration in force."""

    @property
    def store(self) -> Store:
        """The open store."""

    @property
    def health(self) -> Health | None:
        """What the daemon sees."""

    def hurry_dispatchers(self) -> None:
        """Say to every dispatcher that a person wants to see attempts, whatever was before."""

    def wake_sender(self, mailbox: str) -> None:
        """Say to the dispatcher of a mailbox that a mail is to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """An ``Overview`` where no daemon runs."""

    config: Config
    store: Store
    health: None = None

    def hurry_dispatchers(self) -> None:
        """There are none."""

    def wake_sender(self, mailbox: str) -> None:
        """There are none."""


class Operator:
    """The operator's commands over one open store."""

    def __init__(
        self,
        *,
        daemon: Overview,
        sign_ins: SignIns,
        mended: Callable[[str], None] | None = None,
    ) -> None:
        self._daemon = daemon
        self._sign_ins = sign_ins
        self._mended = mended
        self._store = daemon.store
        self._health = daemon.health
        self._wake = daemon.hurry_dispatchers
        #: where every way in for outgoing mail leads
        self.outbox = Outbox(
            config=lambda: daemon.config,
            store=daemon.store.sends,
            wake=daemon.wake_sender,
            now=lambda: datetime.now(UTC),
            run=asyncio.to_thread,
        )

    @property
    def _config(self) -> Config:
        """The configuration in force; a reload exchanges it."""
        return self._daemon.config

    @property
    def expecting(self) -> Expecting:
        """Where test mails are announced."""
        return Expecting(config=lambda: self._config, store=self._store.probes)

    def commands(self) -> dict[str, Command]:
        """Return the commands by the names that the control socket knows."""
        return {
            "status": self.status,
            "queue-retry": self.retry,
            "queue-drop": self.drop,
            "replay": self.replay,
            "grant-save": self.save_grant,
            "grant-forget": self.forget_grant,
            **SendDesk(self.outbox).commands(),
            **self.expecting.commands(),
            **self._diagnosing.commands(),
        }

    @property
    def _diagnosing(self) -> DiagnosisDesk:
        return DiagnosisDesk(
            config=lambda: self._config,
            sign_in=self._sign_ins.of,
            grants=self._store.grants,
            expecting=self.expecting.commands(),
        )

    async def save_grant(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep what a person has consented to (``grant``) for a ``mailbox``, and use it."""
        packed = dict(asked["grant"])
        for key in ("granted_at", "refreshed_at"):
            packed[key] = datetime.fromisoformat(packed[key])
        packed["scopes"] = tuple(packed["scopes"])
        await self._sign_ins.delegated(asked["mailbox"]).adopt(Grant(**packed))
        if self._mended is not None:
            self._mended(asked["mailbox"])
        return {"saved": True}

    async def forget_grant(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Remove the grant of a ``mailbox``."""
        return {"removed": await self._sign_ins.delegated(asked["mailbox"]).forget()}

    async def status(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return one entry per mailbox and one per webhook; JSON all through."""
        del asked
        standings = {
            name: sign_in.standing()
            for sign_in, names in self._sign_ins.made()
            for name in names
            if self._health is not None
        }
        return status(self._config, self._health, await self._store.counts(), standings)

    async def retry(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Queue dead or held deliveries again, by ``ids``, or ``all`` (of ``webhook``)."""
        count = await self._store.requeue(
            ids=asked.get("ids") or None,
            all_dead=bool(asked.get("all")),
            sink=asked.get("webhook"),
        )
        self._wake()
        return {"requeued": count}

    async def drop(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Drop deliveries by ``ids``; they stay in the log as dropped."""
        return {"dropped": await self._store.drop(asked["ids"])}

    async def replay(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Deliver messages again under their ids: by ``ids``, or ``mailbox`` and ``since``."""
        since = asked.get("since")
        count = await self._store.replay(
            ids=asked.get("ids") or None,
            mailbox=asked.get("mailbox"),
            since=datetime.fromisoformat(since) if since else None,
            sink=asked.get("webhook"),
            sinks=[
                name
                for name, hook in self._config.webhooks.items()
                if "mail.received" in hook.events
            ],
        )
        self._wake()
        return {"replayed": count}


def status(
    config: Config,
    health: Health | None,
    counts: Counts,
    standings: Mapping[str, Standing] = MappingProxyType({}),
) -> dict[str, Any]:
    """Compose the status document from what the daemon sees and what the store holds.

    ``standings`` tells by mailbox how its sign-in stands, where one was asked for.
    """
    folders = {(f.mailbox, f.folder): f for f in counts.folders}
    seen = {(f.mailbox, f.folder): f for f in health.folders} if health else {}
    sinks = {s.sink: s for s in counts.sinks}
    return {
        "daemon": {
            "running": health is not None,
            "version": __version__,
            "pid": os.getpid() if health else None,
            "started_at": _text(health.started_at) if health else None,
        },
        "mailboxes": [
            with_probe(
                health,
                _mailbox(
                    config,
                    name,
                    [
                        _folder(folder, seen.get((name, folder)), folders.get((name, folder)))
                        for folder in mailbox.fetch.folders
                        if mailbox.fetch.protocol != "none"
                    ],
                    counts.backlogs.get(name, 0),
                )
                | {"standing": _standing(standings.get(name))},
            )
            for name, mailbox in config.mailboxes.items()
        ],
        "webhooks": [
            _webhook(name, health.sinks.get(name) if health else None, sinks.get(name))
            for name in [*config.webhooks, *(s for s in sinks if s not in config.webhooks)]
            if not name.startswith(send_status.PREFIX)
        ],
        **send_status.parts(config, health, counts),
    }


def _mailbox(
    config: Config, name: str, folders: list[dict[str, Any]], backlog: int
) -> dict[str, Any]:
    mailbox = config.mailboxes[name]
    states = [folder["state"] for folder in folders]
    worst = next((str(sight) for sight in _WORST if sight in states), "not running")
    worst_folder = next((f for f in folders if f["state"] == worst), {})
    checks = [folder["last_check"] for folder in folders]
    messages = [f["last_message"] for f in folders if f["last_message"]]
    throttled = [f["throttled_until"] for f in folders if f["throttled_until"]]
    return {
        "name": name,
        "address": mailbox.address,
        "app": mailbox.app,
        "sign_in": mailbox.sign_in,
        "state": "off" if mailbox.fetch.protocol == "none" else worst,
        "mode": _mode(folders),
        "cause": worst_folder.get("cause", ""),
        "code": worst_folder.get("code", ""),
        "fix": worst_folder.get("fix", ""),
        # The mailbox was last fully seen when the folder seen longest ago was.
        "last_check": min(checks) if checks and all(checks) else None,
        "last_message": max(messages) if messages else None,
        "throttled_until": max(throttled) if throttled else None,
        "next_try": worst_folder.get("next_try"),
        "backlog": backlog,
        "gaps": sum(folder["gaps"] for folder in folders),
        "unsettled": sum(folder["unsettled"] for folder in folders),
        "swept": sum(folder["swept"] for folder in folders),
        "logins": sum(folder["logins"] for folder in folders),
        "folders": folders,
    }


def _standing(standing: Standing | None) -> dict[str, Any] | None:
    if standing is None:
        return None
    return {
        "state": standing.state,
        "code": standing.code,
        "cause": standing.cause,
        "fix": standing.fix,
        "account": standing.account,
        "credential": standing.credential,
        "expiries": [
            {"kind": one.kind, "expires_at": _text(one.expires_at), "fix": one.fix}
            for one in standing.expiries
        ],
    }


def _mode(folders: list[dict[str, Any]]) -> str:
    """Return what is in use now: a mailbox is pushed to when all of its folders are."""
    if not folders:
        return "none"
    return "push" if all(folder["mode"] == "push" for folder in folders) else "poll"


def _folder(name: str, health: FolderHealth | None, count: FolderCount | None) -> dict[str, Any]:
    last = count.last_accepted_at if count else None
    if health is not None and health.last_message is not None:
        last = health.last_message
    return {
        "folder": name,
        "state": str(health.sight) if health else "not running",
        "mode": "push" if health and health.pushing else "poll",
        "cause": health.cause if health else "",
        "code": health.code if health else "",
        "fix": health.fix if health else "",
        "failures": health.failures if health else 0,
        "last_check": _text(health.last_check) if health else None,
        "last_message": _text(last),
        "throttled_until": _text(health.throttled_until) if health else None,
        "next_try": _text(health.next_try) if health else None,
        "uidvalidity": count.checkpoint.uidvalidity if count else None,
        "uid": count.checkpoint.uid if count else None,
        "gaps": count.gaps if count else 0,
        "unsettled": count.unsettled if count else 0,
        "swept": health.swept if health else 0,
        "logins": health.logins if health else 0,
    }


def _webhook(name: str, health: SinkHealth | None, count: SinkCount | None) -> dict[str, Any]:
    count = count or SinkCount(sink=name)
    failing = health.failing_since if health else None
    pause = health.pause() if health else 0.0
    return {
        "name": name,
        "state": _webhook_state(health),
        # While it is failing, or has asked for a pause, everything waits for this moment.
        "next_try": _text(datetime.now(UTC) + timedelta(seconds=pause)) if pause else None,
        "waiting": count.queued + count.deferred + count.claimed,
        "queued": count.queued,
        "deferred": count.deferred,
        "claimed": count.claimed,
        "dead": count.dead,
        "held": count.held,
        "oldest": _text(count.oldest_first_due),
        "next_due": _text(count.oldest_due),
        "failing_since": _text(failing),
        "last_status": health.last_status if health and failing else None,
        "last_reason": health.last_reason if health and failing else "",
        "last_delivered": _text(health.last_delivered) if health else None,
        "trouble": health.trouble if health else "",
    }


def _webhook_state(health: SinkHealth | None) -> str:
    if health is None:
        return "not running"
    return "failing" if health.failing_since else "ok"


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
