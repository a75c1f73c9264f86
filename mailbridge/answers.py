"""What the daemon answers to the API: the store's rows as documents, and the operator's changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import structlog

from mailbridge.documents import document, documents, plain
from mailbridge.errors import MailbridgeError, StoreRefused
from mailbridge.http.base import AppFigures, Figures
from mailbridge.operate import Operator, Overview
from mailbridge.send_status import PREFIX, rows
from mailbridge.sign_ins import SignIns
from mailbridge.store.rows import MessageState, ShownState

#: the states of outgoing mails that are counted for the metrics
SEND_STATES: Final = ("waiting", "in_doubt", "held", "failed")

log = structlog.get_logger(__name__)


class Answers:
    """The ``Operations`` of a running daemon."""

    def __init__(self, daemon: Overview, operator: Operator, sign_ins: SignIns) -> None:
        self._daemon = daemon
        self._store = daemon.store
        self._operator = operator
        self._sign_ins = sign_ins

    async def mailboxes(self) -> Sequence[Mapping[str, Any]]:
        """See ``Operations``."""
        found: Sequence[Mapping[str, Any]] = (await self._operator.status({}))["mailboxes"]
        return found

    async def messages(
        self,
        *,
        mailbox: str | None,
        state: MessageState | None,
        since: datetime | None,
        before: int | None,
        limit: int,
    ) -> Sequence[Mapping[str, Any]]:
        """See ``Operations``."""
        return documents(
            await self._store.messages(
                mailbox=mailbox, state=state, since=since, before=before, limit=limit
            )
        )

    async def trace(self, name: str) -> Mapping[str, Any] | None:
        """See ``Operations``."""
        found = await self._store.trace(name)
        known = found.messages or found.deliveries or found.sends
        return document(found) if known else None

    async def raw(self, name: str) -> bytes | None:
        """See ``Operations``."""
        return await self._store.raw(name)

    async def replay(self, name: str, webhook: str | None) -> int:
        """See ``Operations``."""
        answer = await self._operator.replay({"ids": [name], "webhook": webhook})
        return int(answer["replayed"])

    async def webhooks(self) -> Sequence[str]:
        """See ``Operations``."""
        return list(self._daemon.config.webhooks)

    async def deliveries(
        self, *, state: ShownState | None, webhook: str | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """See ``Operations``."""
        return documents(await self._store.deliveries(state=state, sink=webhook, limit=limit))

    async def delivery(self, number: int) -> Mapping[str, Any] | None:
        """See ``Operations``."""
        found = (await self._store.trace(str(number))).deliveries
        return next((plain(row) for row in found if row.id == number), None)

    async def retry(self, number: int) -> int:
        """See ``Operations``."""
        return int((await self._operator.retry({"ids": [number]}))["requeued"])

    async def figures(self) -> Figures:
        """See ``Operations``; what the store cannot tell now is left out, the rest is told."""
        apps = self._apps()
        try:
            counts = await self._store.counts()
        except StoreRefused:
            raise
        except MailbridgeError as error:
            log.warning("store.trouble", work="metrics", error=str(error), code=error.code)
            return Figures(apps=apps, waiting=None)
        none = dict.fromkeys(self._daemon.config.webhooks, 0)
        hooks = [one for one in counts.sinks if not one.sink.startswith(PREFIX)]
        gaps = dict.fromkeys(self._daemon.config.mailboxes, 0)
        for folder in counts.folders:
            gaps[folder.mailbox] = gaps.get(folder.mailbox, 0) + folder.gaps
        return Figures(
            apps=apps,
            waiting=none | {s.sink: s.queued + s.deferred + s.claimed for s in hooks},
            dead=none | {s.sink: s.dead for s in hooks},
            held=none | {s.sink: s.held for s in hooks},
            gaps=gaps,
            sends={
                one["name"]: {state: one[state] for state in SEND_STATES}
                for one in rows(self._daemon.config, None, counts)
            },
        )

    def _apps(self) -> dict[str, AppFigures]:
        """Sum the sign-ins of each app."""
        apps = {name: AppFigures() for name in self._daemon.config.apps}
        for sign_in, _ in self._sign_ins.made():
            standing = sign_in.standing()
            known = apps.get(standing.app, AppFigures())
            ends = [expiry.expires_at for expiry in standing.expiries]
            if known.ends_at is not None:
                ends.append(known.ends_at)
            apps[standing.app] = replace(
                known,
                refreshed=known.refreshed + sign_in.refreshes,
                failed=known.failed + sign_in.failures,
                ends_at=min(ends, default=None),
            )
        return apps
