"""Sections of the configuration become objects; what several of them share is made once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mailbridge import __version__
from mailbridge.bounce_notes import BounceNotes
from mailbridge.catalogue.base import Ids
from mailbridge.config import Config, Mailbox, Webhook
from mailbridge.dispatch import Dispatcher
from mailbridge.forms import build_format, hidden, links_of
from mailbridge.health import FolderHealth, Health, SendHealth, SinkHealth
from mailbridge.intake import Intake
from mailbridge.links import Links
from mailbridge.retry import POLICIES
from mailbridge.room import MailboxSlots, Room
from mailbridge.route.decide import Router
from mailbridge.routing import Routing
from mailbridge.sending import Sending, build_sending
from mailbridge.sign_in.base import SignIn
from mailbridge.sign_ins import SignIns
from mailbridge.sinks.webhook import WebhookSink
from mailbridge.sources.base import Source
from mailbridge.sources.imap import FetchLimits, ImapSource
from mailbridge.sources.pop3 import Pop3Source
from mailbridge.sources.push import Openings, Parking
from mailbridge.sources.transport import MailServer
from mailbridge.store.store import Store
from mailbridge.sweep import Sweeps
from mailbridge.ways import build_router, routing_by

#: bodies fetched at once over all mailboxes; more is slower and costs memory
FETCHES: Final = 6
#: seconds after which a fetch no longer waits for those of others
FETCH_PATIENCE: Final = 1.0
#: batches fetched while another of the same folder is committed, over all mailboxes
AHEAD: Final = 3
#: what one batch may hold, in messages and bytes
BATCH: Final = FetchLimits(messages=100, bytes=2 * 1024 * 1024)
#: intervals up to this keep the session open between two looks
KEEPS_SESSION: Final = timedelta(minutes=10)


def utc_now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


@dataclass(slots=True, kw_only=True)
class Daemon:
    """The parts of a running daemon that others look at."""

    config: Config
    store: Store
    health: Health
    intakes: list[Intake] = field(default_factory=list)
    #: by sink: a webhook's name, or ``send:`` and a mailbox's
    dispatchers: dict[str, Dispatcher] = field(default_factory=dict)
    #: by mailbox
    sending: dict[str, Sending] = field(default_factory=dict)
    #: where HTTP is answered, 0 if nowhere
    port: int = 0

    @property
    def links(self) -> Links | None:
        """What makes and checks links to attachments."""
        return links_of(self.config, port=self.port)

    def wake_dispatchers(self) -> None:
        """Say to every dispatcher that something new may be due."""
        for dispatcher in self.dispatchers.values():
            dispatcher.wake()

    def mended(self, mailbox: str) -> None:
        """Say that a person has mended something of a mailbox."""
        if (sending := self.sending.get(mailbox)) is not None:
            sending.mended()

    def hurry_dispatchers(self) -> None:
        """Say to every dispatcher that a person wants to see attempts, whatever was before."""
        for dispatcher in self.dispatchers.values():
            dispatcher.hurry()

    def wake_sender(self, mailbox: str) -> None:
        """Say to the dispatcher of a mailbox that a mail is to be sent."""
        if dispatcher := self.dispatchers.get(f"send:{mailbox}"):
            dispatcher.wake()


class Builder:
    """Turns sections of the configuration into objects; shares what they share."""

    def __init__(self, daemon: Daemon, run: Callable[..., Any], rng: random.Random) -> None:
        self._daemon = daemon
        self._run = run
        self._rng = rng
        self._shared = Shared(run=run, room=Room(FETCHES, patience=FETCH_PATIENCE))
        self._slots: dict[str, MailboxSlots] = {}
        #: of one configuration, by the names of their routes: mailboxes mostly share them
        self._routers: dict[tuple[str, ...], Router | None] = {}
        self._routed_by: Config | None = None
        self._sends = False
        self._sweeps = Sweeps(rng=rng)
        self._ahead = asyncio.Semaphore(AHEAD)
        self.sign_ins = SignIns(daemon.config, grants=daemon.store.grants, now=utc_now, run=run)

    @property
    def _config(self) -> Config:
        """The configuration in force; a reload exchanges it."""
        return self._daemon.config

    async def apply(self, config: Config) -> set[str]:
        """Take another configuration; returns the mailboxes whose sign-in is no more."""
        return await self.sign_ins.apply(config)

    def forget_mailbox(self, name: str) -> None:
        """Forget what the folders of a mailbox shared; they have ended."""
        self._slots.pop(name, None)

    def dispatcher(self, sink: WebhookSink, webhook: Webhook) -> Dispatcher:
        """Return the dispatcher of a webhook."""
        health = self._daemon.health.sinks[sink.name] = SinkHealth(name=sink.name)
        return Dispatcher(
            sink=sink,
            store=self._daemon.store,
            policy=POLICIES[webhook.profile],
            health=health,
            listeners=self.listeners_for,
            on_notice=self._daemon.wake_dispatchers,
            strict=webhook.order == "strict",
            run_blocking=self._run,
            now=utc_now,
            rng=self._rng,
        )

    def sending(self, name: str) -> Sending:
        """Return what sends for a mailbox that has ``send``."""
        mailbox = self._config.mailboxes[name]
        health = SinkHealth(name=f"send:{name}")
        sending = build_sending(
            name,
            mailbox,
            cloud=self._config.apps[mailbox.app].cloud,
            sign_in=self.sign_ins.of(name),
            store=self._daemon.store,
            health=health,
            listeners=self.listeners_for,
            on_notice=self._daemon.wake_dispatchers,
            run=self._run,
            now=utc_now,
            rng=self._rng,
        )
        standing = SendHealth(sink=health, standing=sending.standing)
        self._daemon.health.sending[name] = standing
        return sending

    def listeners_for(self, mailbox: str, kind: str) -> Sequence[str]:
        """Return the webhooks that get this kind of event of this mailbox."""
        del mailbox  # every webhook gets every mailbox's events until there are routes
        return [name for name, hook in self._config.webhooks.items() if kind in hook.events]

    def intakes_of(self, name: str) -> list[Intake]:
        """Return an intake for each folder of a mailbox that is watched."""
        mailbox = self._config.mailboxes[name]
        if mailbox.fetch.protocol == "none":
            return []
        return [self._intake(name, mailbox, folder) for folder in mailbox.fetch.folders]

    def _intake(self, name: str, mailbox: Mailbox, folder: str) -> Intake:
        fetch = mailbox.fetch
        health = FolderHealth(mailbox=name, folder=folder)
        self._daemon.health.folders.append(health)
        source = build_source(
            name,
            mailbox,
            folder,
            sign_in=self.sign_ins.of(name),
            shared=self._shared,
        )
        return Intake(
            source=source,
            store=self._daemon.store,
            address=mailbox.address,
            sinks=self.listeners_for(name, "mail.received"),
            listeners=self.listeners_for(name, "mail.vanished"),
            settles=fetch.after.action != "keep",
            keeps_session=fetch.cron is None and fetch.every <= KEEPS_SESSION,
            health=health,
            on_accepted=self._daemon.wake_dispatchers,
            ahead=self._ahead,
            now=utc_now,
            every=None if fetch.cron else fetch.every.total_seconds(),
            slots=self._slots_of(name, mailbox),
            sweeps=self._sweeps,
            routing=self.routing_of(name),
        )

    def reroute(self, intake: Intake) -> None:
        """Let an intake that stays deliver as the configuration says now."""
        name = intake.mailbox
        intake.reroute(
            sinks=self.listeners_for(name, "mail.received"),
            listeners=self.listeners_for(name, "mail.vanished"),
            routing=self.routing_of(name),
        )

    def routing_of(self, name: str) -> Routing:
        """Return where the mails of a mailbox go."""
        router = self.router(self._config.mailboxes[name].routes)
        routing = routing_by(
            self._config, router, name, run=self._run, listeners_for=self.listeners_for
        )
        if not self._sends:
            return routing
        notes = BounceNotes(
            store=self._daemon.store.sends,
            listeners=self.listeners_for,
            run=self._run,
            now=utc_now,
        )
        return replace(routing, heed=notes.heed)

    def router(self, names: Sequence[str] | None) -> Router | None:
        """Return the compiled routes of these names; a thousand mailboxes that share them share it.

        Each configuration has its own.
        """
        if self._routed_by is not self._config:
            self._routed_by, self._routers = self._config, {}
            self._sends = any(box.send is not None for box in self._config.mailboxes.values())
        if names is None:
            return None
        key = tuple(names)
        if key not in self._routers:
            self._routers[key] = build_router(self._config, key)
        return self._routers[key]

    def _slots_of(self, name: str, mailbox: Mailbox) -> MailboxSlots:
        """Return the connections that the folders of a mailbox share."""
        if name not in self._slots:
            self._slots[name] = MailboxSlots(len(mailbox.fetch.folders), rng=self._rng)
        return self._slots[name]


def build_sink(name: str, webhook: Webhook, links: Links | None = None) -> WebhookSink:
    """Return the sink of a webhook; open it before use."""
    tls = webhook.tls
    form = build_format(name, webhook, links)
    return WebhookSink(
        name=name,
        url=webhook.request_url,
        secrets=[secret.reveal() for secret in webhook.signing_secrets],
        headers={key: value.reveal() for key, value in webhook.headers.items()},
        concurrency=webhook.concurrency,
        allow_private=webhook.allow_private,
        ca=str(tls.ca) if tls.ca else None,
        client_certificate=str(tls.client_certificate) if tls.client_certificate else None,
        client_key=str(tls.client_key) if tls.client_key else None,
        body=lambda delivery: form.render(delivery)[0],
        content_type=form.content_type,
        hidden=hidden(webhook),
        verdict=form.judge,
        profile=webhook.profile,
        now=utc_now,
        version=__version__,
        proxy=webhook.proxy,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all sources of a process share; ``run`` runs what blocks in a worker thread."""

    run: Callable[..., Any]
    room: Room
    parking: Parking = field(default_factory=Parking)
    openings: Openings = field(default_factory=Openings)


def build_source(
    name: str, mailbox: Mailbox, folder: str, *, sign_in: SignIn, shared: Shared
) -> Source:
    """Return the source of one folder, by the mailbox's protocol."""
    fetch = mailbox.fetch
    common: dict[str, Any] = {
        "mailbox": name,
        "address": mailbox.address,
        "server": build_server(mailbox),
        "token": sign_in.token,
        "refresh": sign_in.force_refresh,
        "start": fetch.start,
        "after": fetch.after.action,
        "run": shared.run,
        "fetch_room": shared.room,
        "limits": BATCH,
        "now": utc_now,
        "ids": Ids(
            mailbox=name,
            address=mailbox.address,
            account=mailbox.account,
            app=mailbox.app,
            server=f"{fetch.server.host}:{fetch.server.port}",
            login=f"mailbridge login {name}",
            sign_in=mailbox.sign_in,
        ),
    }
    if fetch.protocol == "pop3":
        return Pop3Source(**common)
    return ImapSource(
        **common,
        folder=folder,
        move_to=fetch.after.folder,
        push=fetch.push,
        parking=shared.parking,
        openings=shared.openings,
    )


def build_server(mailbox: Mailbox) -> MailServer:
    """Return where a mailbox is fetched from."""
    server = mailbox.fetch.server
    return MailServer(
        host=server.host, port=server.port, tls=server.tls, ca=server.ca, proxy=server.proxy
    )
