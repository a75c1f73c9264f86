"""The composition root: a ``Config`` becomes objects, and the objects become one running daemon.

::

    serve ── TaskGroup ─┬─ supervisor ── one intake per folder
                        ├─ dispatcher per webhook
                        └─ control socket, clock, watchdog

A stop (SIGTERM) ends the clock and the intakes at once, lets every dispatcher finish the
attempts under way, gives back what was claimed and not begun, and closes the store last.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import structlog

from mailbridge import __version__
from mailbridge.config import Config, Mailbox, Webhook
from mailbridge.dispatch import Dispatcher
from mailbridge.errors import MailbridgeError, StoreRefused, TemporaryError
from mailbridge.formats.native import NativeFormat
from mailbridge.health import FolderHealth, Health, SinkHealth
from mailbridge.http.control import control, socket_path
from mailbridge.intake import Intake
from mailbridge.operate import Operator
from mailbridge.retry import POLICIES
from mailbridge.room import Room
from mailbridge.schedule import Schedule
from mailbridge.service import Service
from mailbridge.sign_in.application import ApplicationSignIn
from mailbridge.sinks.webhook import WebhookSink
from mailbridge.sources.imap import FetchLimits, ImapSource
from mailbridge.sources.transport import MailServer
from mailbridge.store.store import Store
from mailbridge.supervise import Supervisor

log = structlog.get_logger()

T = TypeVar("T")

#: threads for what blocks (IMAP, msal, rendering): a black-holed mailbox holds one for as long
#: as its timeouts, so there are more of them than fetches that run at once
THREADS: Final = 48
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
#: seconds between two rounds of retention, and between two rescues of expired leases
PURGE_EVERY: Final = 600.0
RESCUE_EVERY: Final = 10.0
#: seconds within which every loop has to have moved for the watchdog to be fed
MOVED_WITHIN: Final = 45.0
#: seconds for the dispatchers to finish when stopping; an attempt has 30
STOP_WITHIN: Final = 40.0


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
    dispatchers: dict[str, Dispatcher] = field(default_factory=dict)

    def wake_dispatchers(self) -> None:
        """Say to every dispatcher that something new may be due."""
        for dispatcher in self.dispatchers.values():
            dispatcher.wake()


async def serve(
    config: Config,
    *,
    stop: asyncio.Event,
    environ: Mapping[str, str] | None = None,
    on_ready: Callable[[Daemon], None] | None = None,
) -> None:
    """Run the daemon until ``stop`` is set.

    Raises ``StoreRefused`` when the database may not be used or can no longer be trusted; then
    nothing acknowledged is lost, and a restart recovers from the write-ahead log.
    """
    env = dict(os.environ) if environ is None else dict(environ)
    service = Service(env)
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    async with AsyncExitStack() as stack:
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="mailbridge")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        store = await _open_store(config, env)
        stack.push_async_callback(store.close)
        daemon = Daemon(config=config, store=store, health=Health(started_at=utc_now()))
        builder = _Builder(daemon, _in_threads(pool), rng)
        for name, webhook in config.webhooks.items():
            sink = await stack.enter_async_context(build_sink(name, webhook))
            daemon.dispatchers[name] = builder.dispatcher(sink, webhook)
        daemon.intakes.extend(builder.intakes())
        for sign_in in builder.sign_ins.values():
            stack.push_async_callback(sign_in.close)
        supervisor = Supervisor(
            store=store,
            listeners=builder.listeners_for,
            on_notice=daemon.wake_dispatchers,
            now=utc_now,
            rng=rng,
        )
        schedule = _schedule(daemon, supervisor, service, rng)
        operator = Operator(
            config=config, store=store, health=daemon.health, wake=daemon.wake_dispatchers
        )
        path = socket_path(config.state.database.reveal(), env)
        try:
            async with control(path, operator.commands()), asyncio.TaskGroup() as group:
                delivering = [
                    group.create_task(_keep_dispatching(dispatcher, stop))
                    for dispatcher in daemon.dispatchers.values()
                ]
                watching = group.create_task(supervisor.run(daemon.intakes))
                schedule.start()
                stack.callback(schedule.stop)
                log.info(
                    "daemon.started",
                    version=__version__,
                    mailboxes=len(config.mailboxes),
                    webhooks=len(config.webhooks),
                    database=config.state.database_label,
                )
                service.ready(f"watching {len(daemon.intakes)} folder(s)")
                if on_ready is not None:
                    on_ready(daemon)
                await stop.wait()
                service.stopping()
                log.info("daemon.stopping")
                watching.cancel()
                _, late = (
                    await asyncio.wait(delivering, timeout=STOP_WITHIN) if delivering else ((), ())
                )
                for task in late:
                    task.cancel()
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from group_error
    log.info("daemon.stopped")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that a command can explain, else the first one."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, MailbridgeError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _in_threads(pool: ThreadPoolExecutor) -> Callable[..., Any]:
    async def run(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, functools.partial(function, *args, **kwargs))

    return run


async def _open_store(config: Config, env: Mapping[str, str]) -> Store:
    # The benchmark compares durability's cost; the setting is refused to everybody else by
    # being undocumented and by shouting.
    synchronous = env.get("MAILBRIDGE_BENCH_SYNCHRONOUS", "").upper() or "FULL"
    if synchronous != "FULL":
        log.critical("store.not_durable", synchronous=synchronous)
    return await Store.open(
        config.state.database.reveal(),
        now=utc_now,
        owner=f"{socket.gethostname()}:{os.getpid()}",
        synchronous=synchronous,
    )


class _Builder:
    """Turns sections of the configuration into objects; shares what they share."""

    def __init__(self, daemon: Daemon, run: Callable[..., Any], rng: random.Random) -> None:
        self._daemon = daemon
        self._config = daemon.config
        self._run = run
        self._rng = rng
        self._room = Room(FETCHES, patience=FETCH_PATIENCE)
        self._ahead = asyncio.Semaphore(AHEAD)
        self.sign_ins: dict[str, ApplicationSignIn] = {}

    def dispatcher(self, sink: WebhookSink, webhook: Webhook) -> Dispatcher:
        health = self._daemon.health.sinks[sink.name] = SinkHealth(name=sink.name)
        return Dispatcher(
            sink=sink,
            store=self._daemon.store,
            policy=POLICIES[webhook.profile],
            health=health,
            listeners=functools.partial(self.listeners_for, kind="delivery.dead"),
            run_blocking=self._run,
            now=utc_now,
            rng=self._rng,
        )

    def listeners_for(self, mailbox: str, kind: str) -> Sequence[str]:
        """Return the webhooks that get this kind of event of this mailbox."""
        del mailbox  # every webhook gets every mailbox's events until there are routes
        return [name for name, hook in self._config.webhooks.items() if kind in hook.events]

    def intakes(self) -> list[Intake]:
        return [
            self._intake(name, mailbox, folder)
            for name, mailbox in self._config.mailboxes.items()
            if mailbox.fetch.protocol == "imap"
            for folder in mailbox.fetch.folders
        ]

    def _sign_in(self, name: str) -> ApplicationSignIn:
        if name not in self.sign_ins:
            self.sign_ins[name] = build_sign_in(self._config, name, self._run)
        return self.sign_ins[name]

    def _intake(self, name: str, mailbox: Mailbox, folder: str) -> Intake:
        fetch = mailbox.fetch
        health = FolderHealth(mailbox=name, folder=folder)
        self._daemon.health.folders.append(health)
        source = build_source(
            name,
            mailbox,
            folder,
            sign_in=self._sign_in(mailbox.app),
            run=self._run,
            room=self._room,
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
        )


def build_sink(name: str, webhook: Webhook) -> WebhookSink:
    """Return the sink of a webhook; open it before use."""
    tls = webhook.tls
    body = NativeFormat(
        attachments_mode=webhook.attachments.mode, attachments_max=webhook.attachments.max
    )
    return WebhookSink(
        name=name,
        url=webhook.url.reveal(),
        secrets=[secret.reveal() for secret in webhook.signing_secrets],
        headers={key: value.reveal() for key, value in webhook.headers.items()},
        concurrency=webhook.concurrency,
        allow_private=webhook.allow_private,
        ca=str(tls.ca) if tls.ca else None,
        client_certificate=str(tls.client_certificate) if tls.client_certificate else None,
        client_key=str(tls.client_key) if tls.client_key else None,
        body=body.body,
        content_type=body.content_type,
        profile=webhook.profile,
        now=utc_now,
        version=__version__,
        proxy=webhook.proxy,
    )


def build_sign_in(config: Config, name: str, run: Callable[..., Any]) -> ApplicationSignIn:
    """Return the sign-in of an app registration; ``run`` runs what blocks in a thread."""
    app = config.apps[name]
    secrets = [s.reveal() for s in app.credential.client_secret] if app.credential else []
    return ApplicationSignIn(
        name=name,
        authority_url=app.authority_url,
        client_id=app.client_id,
        secrets=secrets,
        scope=app.scope,
        ca=app.ca,
        proxy=app.proxy,
        now=utc_now,
        run=run,
    )


def build_source(  # noqa: PLR0913 - each part is named once, here
    name: str,
    mailbox: Mailbox,
    folder: str,
    *,
    sign_in: ApplicationSignIn,
    run: Callable[..., Any],
    room: Room,
) -> ImapSource:
    """Return the IMAP source of one folder."""
    fetch = mailbox.fetch
    server = fetch.server
    return ImapSource(
        mailbox=name,
        address=mailbox.address,
        folder=folder,
        server=MailServer(
            host=server.host, port=server.port, tls=server.tls, ca=server.ca, proxy=server.proxy
        ),
        token=sign_in.token,
        refresh=sign_in.force_refresh,
        start=fetch.start,
        after=fetch.after.action,
        move_to=fetch.after.folder,
        run=run,
        fetch_room=room,
        limits=BATCH,
        now=utc_now,
    )


async def _keep_dispatching(dispatcher: Dispatcher, stop: asyncio.Event) -> None:
    """Run a dispatcher; after a bug of ours it starts again, and its claims come back by lease."""
    while not stop.is_set():
        try:
            await dispatcher.run(stop)
        except* StoreRefused as refused:
            raise _first(refused) from refused
        except* Exception as errors:
            log.exception("dispatch.bug", sink=dispatcher.name, exc_info=errors)
            await asyncio.sleep(1.0)


def _schedule(
    daemon: Daemon, supervisor: Supervisor, service: Service, rng: random.Random
) -> Schedule:
    schedule = Schedule(now=utc_now, rng=rng)
    for intake in daemon.intakes:
        fetch = daemon.config.mailboxes[intake.mailbox].fetch
        name = f"wake {intake.mailbox} {intake.folder}"
        if fetch.cron is not None:
            schedule.wake_cron(fetch.cron, intake.wake, name=name)
        else:
            schedule.wake_every(fetch.every.total_seconds(), intake.wake, name=name)
    schedule.chore(RESCUE_EVERY, functools.partial(_rescue, daemon), name="rescue")
    schedule.chore(PURGE_EVERY, functools.partial(_purge, daemon), name="purge")
    if service.watchdog_seconds:
        work = functools.partial(_feed_watchdog, daemon, supervisor, service)
        schedule.chore(service.watchdog_seconds / 3, work, name="watchdog")
    return schedule


async def _rescue(daemon: Daemon) -> None:
    """Queue again what a dispatcher that died, or another host, left claimed."""
    try:
        if rescued := await daemon.store.rescue():
            log.warning("delivery.rescued", count=rescued)
            daemon.wake_dispatchers()
    except MailbridgeError as error:
        log.warning("store.trouble", work="rescue", error=str(error), code=error.code)


async def _purge(daemon: Daemon) -> None:
    """Remove what is done and old enough, in small steps that let others write between them."""
    keep, now = daemon.config.state.keep, utc_now()
    try:
        more = True
        while more:
            purged = await daemon.store.purge(
                delivered_before=now - keep.delivered,
                dead_before=now - keep.dead,
                log_before=now - keep.log,
            )
            more = purged.more
            await asyncio.sleep(0.1)
    except MailbridgeError as error:
        log.warning("store.trouble", work="purge", error=str(error), code=error.code)


async def _feed_watchdog(daemon: Daemon, supervisor: Supervisor, service: Service) -> None:
    """Feed systemd's watchdog, but only while the store answers and every loop moves."""
    try:
        await daemon.store.checkpoint("", "")  # any round trip through the writing thread
    except TemporaryError as error:
        # A database that is away for a while is not a wedge, and a restart would not mend it.
        log.warning("store.trouble", work="watchdog", error=str(error), code=error.code)
    now = utc_now()
    still = [d.name for d in daemon.dispatchers.values() if not _moved(d.moved_at, now)]
    if not _moved(supervisor.moved_at, now):
        still.append("supervisor")
    if still:
        log.critical("loop.wedged", loops=still)
    else:
        service.alive()


def _moved(moment: datetime, now: datetime) -> bool:
    return (now - moment).total_seconds() < MOVED_WITHIN
