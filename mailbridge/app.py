"""The composition root: a ``Config`` becomes objects, and the objects become one running daemon.

::

    serve ── TaskGroup ─┬─ supervisor ── one intake per folder
                        ├─ dispatcher per webhook
                        ├─ HTTP server and relay, where the file says so
                        └─ control socket, clock, watchdog

A reload (SIGHUP) exchanges what the new configuration says differently (``running``).

A stop (SIGTERM) ends the clock and the intakes at once, lets every dispatcher finish the
attempts under way, gives back what was claimed and not begun, and closes the store last.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final, TypeVar

import structlog

from mailbridge import __version__
from mailbridge.build import Builder, Daemon, utc_now
from mailbridge.config import Config
from mailbridge.errors import MailbridgeError, StoreRefused, TemporaryError, first_of
from mailbridge.fallback import Fallbacks
from mailbridge.health import Health
from mailbridge.http.control import control, socket_path
from mailbridge.http.listening import listen
from mailbridge.operate import Operator
from mailbridge.probe_judging import Surroundings
from mailbridge.probing import Probing
from mailbridge.relaying import Relaying
from mailbridge.reloading import Reload, take_again
from mailbridge.running import Running
from mailbridge.schedule import Schedule
from mailbridge.service import Service
from mailbridge.serving import serving
from mailbridge.store.sealing import ring
from mailbridge.store.store import Store
from mailbridge.supervise import Supervisor
from mailbridge.ways import build_fallbacks

log = structlog.get_logger()

T = TypeVar("T")

#: threads for what blocks (IMAP, msal, rendering): a black-holed mailbox holds one for as long
#: as its timeouts, so there are more of them than fetches that run at once
THREADS: Final = 48
#: seconds between two rounds of retention, and between two rescues of expired leases
PURGE_EVERY: Final = 600.0
RESCUE_EVERY: Final = 10.0
#: seconds between two looks at what credentials are about to end, and at grants nobody uses
LOOK_AFTER_EVERY: Final = 3600.0
#: and until the first, when every mailbox has had the time to sign in
LOOK_AFTER_FIRST: Final = 60.0
#: seconds within which every loop has to have moved for the watchdog to be fed
MOVED_WITHIN: Final = 45.0
#: seconds that a start waits for another process to let go of the database, and between two tries
LOCKED: Final = 5.0
_LOCKED_AGAIN: Final = 0.1


async def serve(  # noqa: PLR0915 - the life of the daemon from opening to closing, in order
    config: Config,
    *,
    stop: asyncio.Event,
    reload: Reload | None = None,
    environ: Mapping[str, str] | None = None,
    on_ready: Callable[[Daemon], None] | None = None,
) -> None:
    """Run the daemon until ``stop`` is set; ``reload`` says when to read the configuration again.

    Raises ``ConfigError`` when it cannot listen where it should, and ``StoreRefused`` when the
    database may not be used or can no longer be trusted; then nothing acknowledged is lost, and a
    restart recovers from the write-ahead log.
    """
    env = dict(os.environ) if environ is None else dict(environ)
    service = Service(env)
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    async with AsyncExitStack() as stack:
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="mailbridge")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        store = await _open_store(config, env)
        stack.push_async_callback(store.close)
        sockets = listen(config.http)
        stack.callback(_close, sockets)
        daemon = Daemon(config=config, store=store, health=Health(started_at=utc_now()))
        daemon.port = sockets[0].getsockname()[1] if sockets else 0
        store.on_commit(daemon.health.commits.observe)
        builder = Builder(daemon, _in_threads(pool), rng)
        stack.push_async_callback(builder.sign_ins.close)
        supervisor = Supervisor(
            store=store,
            listeners=builder.listeners_for,
            on_notice=daemon.wake_dispatchers,
            now=utc_now,
            rng=rng,
        )
        mended = functools.partial(_mended, supervisor, daemon)
        schedule = _schedule(daemon, builder, supervisor, service, rng)
        operator = Operator(
            daemon=daemon,
            sign_ins=builder.sign_ins,
            mended=mended,
        )
        web = serving(daemon, operator, builder, sockets, mended=mended, run=_in_threads(pool))
        relaying = Relaying(
            daemon=daemon, builder=builder, outbox=operator.outbox, run=_in_threads(pool)
        )
        relaying.open()
        stack.push_async_callback(relaying.close)
        probing = _probing(daemon, builder, operator, schedule)
        commands = operator.commands() | probing.commands()
        if web is not None:
            stack.push_async_callback(web.desk.close)
            commands |= web.commands()
        path = socket_path(config.state.database.reveal(), env)
        try:
            async with control(path, commands), asyncio.TaskGroup() as group:
                running = Running(
                    daemon=daemon,
                    builder=builder,
                    supervisor=supervisor,
                    schedule=schedule,
                    group=group,
                    relaying=relaying,
                    replan=probing.apply,
                )
                await running.start()
                watching = group.create_task(supervisor.run())
                falling_back = group.create_task(_fallbacks(daemon).run())
                probes = group.create_task(probing.run())
                schedule.start()
                stack.callback(schedule.stop)
                log.info(
                    "daemon.started",
                    version=__version__,
                    mailboxes=len(config.mailboxes),
                    webhooks=len(config.webhooks),
                    database=config.state.database_label,
                )
                if web is not None:
                    group.create_task(web.server.run(stop))
                if relaying.relay is not None:
                    group.create_task(relaying.relay.run(stop))
                service.ready(_watched(daemon))
                if on_ready is not None:
                    on_ready(daemon)
                await _until_stop(stop, reload, running, service)
                service.stopping()
                log.info("daemon.stopping")
                watching.cancel()
                falling_back.cancel()
                probes.cancel()
                await running.finish()
        except BaseExceptionGroup as group_error:
            raise first_of(group_error) from group_error
    log.info("daemon.stopped")


def _mended(supervisor: Supervisor, daemon: Daemon, mailbox: str) -> None:
    """Say that a person has mended something of a mailbox: it is tried again at once."""
    supervisor.mended(mailbox)
    daemon.mended(mailbox)


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


async def _until_stop(
    stop: asyncio.Event, reload: Reload | None, running: Running, service: Service
) -> None:
    """Wait for the stop; read the configuration again whenever that is asked for."""
    if reload is None:
        await stop.wait()
        return
    stopping = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            asked = asyncio.create_task(reload.asked.wait())
            try:
                await asyncio.wait({stopping, asked}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
            if reload.asked.is_set() and not stop.is_set():
                reload.asked.clear()
                service.reloading()
                outcome = await take_again(running, reload.load)
                service.ready(f"{_watched(running.daemon)}; {outcome}")
    finally:
        stopping.cancel()


def _watched(daemon: Daemon) -> str:
    return f"watching {len(daemon.intakes)} folder(s)"


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
    patience = asyncio.get_running_loop().time() + LOCKED
    while True:
        try:
            return await Store.open(
                config.state.database.reveal(),
                now=utc_now,
                owner=f"{socket.gethostname()}:{os.getpid()}",
                keys=ring(key.reveal() for key in config.state.key),
                synchronous=synchronous,
            )
        except StoreRefused as refused:
            # At a restart the former daemon may still be writing what came of its last attempts.
            if refused.code != "store.locked" or asyncio.get_running_loop().time() >= patience:
                raise
            await asyncio.sleep(_LOCKED_AGAIN)


def _schedule(
    daemon: Daemon, builder: Builder, supervisor: Supervisor, service: Service, rng: random.Random
) -> Schedule:
    schedule = Schedule(now=utc_now, rng=rng)
    look_after = functools.partial(_look_after, daemon, builder)
    schedule.chore(LOOK_AFTER_EVERY, look_after, name="credentials", soon=LOOK_AFTER_FIRST)
    schedule.chore(RESCUE_EVERY, functools.partial(_rescue, daemon, builder), name="rescue")
    schedule.chore(PURGE_EVERY, functools.partial(_purge, daemon), name="purge")
    if service.watchdog_seconds:
        work = functools.partial(_feed_watchdog, daemon, supervisor, service)
        schedule.chore(service.watchdog_seconds / 3, work, name="watchdog")
    return schedule


def _fallbacks(daemon: Daemon) -> Fallbacks:
    return Fallbacks(
        store=daemon.store.outages,
        to=lambda: build_fallbacks(daemon.config),
        on_fall_back=daemon.wake_dispatchers,
        now=utc_now,
    )


def _probing(daemon: Daemon, builder: Builder, operator: Operator, schedule: Schedule) -> Probing:
    around = Surroundings(
        config=lambda: daemon.config,
        store=daemon.store.probes,
        sends=daemon.store.sends,
        health=daemon.health,
        listeners=builder.listeners_for,
        wake=daemon.wake_dispatchers,
        now=utc_now,
    )
    return Probing(around, hand_over=operator.outbox.hand_over, clock=schedule)


async def _rescue(daemon: Daemon, builder: Builder) -> None:
    """Queue again what a dispatcher that died, or another host, left claimed."""
    try:
        if rescued := await daemon.store.rescue(listeners=builder.listeners_for):
            log.warning("delivery.rescued", count=rescued)
            daemon.wake_dispatchers()
    except MailbridgeError as error:
        log.warning("store.trouble", work="rescue", error=str(error), code=error.code)


async def _look_after(daemon: Daemon, builder: Builder) -> None:
    """Keep what people consented to alive, and say in time which credential is about to end."""
    await builder.sign_ins.keep_alive()
    for notice in builder.sign_ins.notices():
        sinks = builder.listeners_for(notice.mailbox, notice.type)
        try:
            await daemon.store.notify([notice], sinks)
        except MailbridgeError as error:
            log.warning("store.trouble", work="expiry", error=str(error), code=error.code)
    daemon.wake_dispatchers()


async def _purge(daemon: Daemon) -> None:
    """Remove what is done and old enough, in small steps that let others write between them."""
    keep, now, begun = daemon.config.state.keep, utc_now(), time.monotonic()
    removed: Counter[str] = Counter()
    try:
        more = True
        while more:
            purged = await daemon.store.purge(
                delivered_before=now - keep.delivered,
                dead_before=now - keep.dead,
                log_before=now - keep.log,
            )
            steps = asdict(purged)
            more = steps.pop("more")
            removed.update(steps)
            await asyncio.sleep(0.1)
    except MailbridgeError as error:
        log.warning("store.trouble", work="purge", error=str(error), code=error.code)
    if removed.total():
        took = round((time.monotonic() - begun) * 1000, 1)
        log.info("retention.removed", removed=dict(+removed), took_ms=took)


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
