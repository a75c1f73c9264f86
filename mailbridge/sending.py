"""A mailbox that sends, put together: its sink, its dispatcher, its budget, and the look.

What waits for it lies in the store under the sink ``send:NAME``. A crash at any moment loses
nothing: claims come back, and a mail that was in doubt is looked for before it is sent again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mailbridge.config import Mailbox
from mailbridge.config.clouds import CLOUDS, CloudName
from mailbridge.dispatch import Dispatcher
from mailbridge.errors import PermanentError
from mailbridge.health import SendStanding, SinkHealth
from mailbridge.model import StoredSend
from mailbridge.retry import SENDING
from mailbridge.sign_in.base import SignIn
from mailbridge.sinks.smtp import SmtpSink
from mailbridge.sinks.smtp_budget import Budget
from mailbridge.sinks.smtp_doubt import Look
from mailbridge.sinks.smtp_session import Account, SmtpSession
from mailbridge.sinks.smtp_wire import SmtpServer
from mailbridge.sources.imap_sent import SentItems
from mailbridge.sources.transport import MailServer
from mailbridge.store.store import Store

#: seconds that a claim lasts without a heartbeat: longer than a server may think about a mail, so
#: that nobody takes it for lost meanwhile
LEASE: Final = 900.0
_IMAP_PORTS: Final = {"implicit": 993, "starttls": 143}


@dataclass(slots=True, kw_only=True)
class Sending:
    """What sends for one mailbox; ``close`` it when its dispatcher has ended."""

    name: str
    sink: SmtpSink
    dispatcher: Dispatcher
    budget: Budget
    store: Store

    async def prepare(self) -> None:
        """Count what was sent in the last 24 hours; to be done before the dispatcher runs."""
        self.budget.restore(await self.store.sends.spent(self.name))

    def standing(self) -> SendStanding:
        """Return whether the mailbox may send now, and how much."""
        remaining, pause = self.sink.remaining(), self.sink.pausing
        if pause is None:
            return SendStanding(messages=remaining.messages, recipients=remaining.recipients)
        return SendStanding(
            messages=remaining.messages,
            recipients=remaining.recipients,
            parked=pause.person,
            cause=pause.reason,
            code=pause.code,
            fix=pause.fix,
            until=pause.until,
        )

    def mended(self) -> None:
        """Try again at once: a person has mended what kept the mailbox from sending."""
        self.sink.resume()
        self.dispatcher.hurry()

    async def close(self) -> None:
        """Close the connections."""
        await self.sink.close()


def build_sending(  # noqa: PLR0913 - what the composition root has at hand
    name: str,
    mailbox: Mailbox,
    *,
    cloud: CloudName,
    sign_in: SignIn,
    store: Store,
    health: SinkHealth,
    listeners: Callable[[str, str], Sequence[str]],
    on_notice: Callable[[], None],
    run: Callable[..., Awaitable[Any]],
    now: Callable[[], datetime],
    rng: random.Random,
    steady: Callable[[], float] = time.monotonic,
) -> Sending:
    """Return what sends for a mailbox that has ``send``."""
    send = mailbox.send
    if send is None:
        raise ValueError(f"mailbox {name} has no `send`")
    way, limits = send.server, send.limits
    server = SmtpServer(host=way.host, port=way.port, tls=way.tls, ca=way.ca, proxy=way.proxy)
    account = Account(
        user=mailbox.account,
        mailbox=mailbox.address,
        token=sign_in.token,
        refresh=sign_in.force_refresh,
        person=mailbox.sign_in != "application",
    )
    budget = Budget(
        per_minute=limits.per_minute, recipients_per_day=limits.recipients_per_day, now=now
    )
    sink = SmtpSink(
        mailbox=name,
        opener=lambda: SmtpSession.open(server, account),
        store=store.sends,
        budget=budget,
        connections=limits.connections,
        in_doubt=send.in_doubt,
        look=_look(mailbox, cloud, sign_in, run),
        now=now,
    )
    dispatcher = Dispatcher(
        sink=sink,
        store=store,
        policy=SENDING,
        health=health,
        listeners=listeners,
        run_blocking=run,
        now=now,
        rng=rng,
        on_notice=on_notice,
        steady=steady,
        lease=LEASE,
    )
    return Sending(name=name, sink=sink, dispatcher=dispatcher, budget=budget, store=store)


def _look(
    mailbox: Mailbox, cloud: CloudName, sign_in: SignIn, run: Callable[..., Awaitable[Any]]
) -> Look:
    """Return what looks into the sent items, also of a mailbox that is not fetched by IMAP.

    There IMAP may not be permitted, which nobody is going to mend for this: it counts as nothing
    found, and the mailbox's policy decides once it was looked for often enough.
    """
    items = SentItems(
        addresses=(mailbox.address, mailbox.account),
        server=imap_server(mailbox, cloud),
        token=sign_in.token,
        refresh=sign_in.force_refresh,
        run=run,
    )
    fetched = mailbox.fetch.protocol == "imap"

    async def look(send: StoredSend) -> int:
        try:
            return await items.copies(send.message_id, send.id)
        except PermanentError:
            if fetched:
                raise
            return 0

    return look


def imap_server(mailbox: Mailbox, cloud: CloudName) -> MailServer:
    """Return where the sent items of a mailbox are, whatever it is fetched by."""
    server = mailbox.fetch.server
    port = server.port if mailbox.fetch.protocol == "imap" else 0
    return MailServer(
        host=server.host or CLOUDS[cloud].imap,
        port=port or _IMAP_PORTS[server.tls],
        tls=server.tls,
        ca=server.ca,
        proxy=server.proxy,
    )
