"""What runs and can be exchanged while the daemon runs: dispatchers, intakes and their wakes.

A new configuration changes what it says differently, and nothing else: a mailbox whose section
and app are as before keeps its session, whatever becomes of its routes, and a webhook that is as
before keeps its connections. What is taken away is stopped as at the daemon's end: attempts under
way finish, claims are given back, and what still waits for a webhook that is gone stays in the
queue, for ``status`` to show and ``replay`` to send elsewhere.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from mailbridge.build import Builder, Daemon, build_sink
from mailbridge.config import Config
from mailbridge.config.difference import differences
from mailbridge.dispatch import Dispatcher
from mailbridge.errors import StoreRefused, first_of
from mailbridge.forms import links_of
from mailbridge.health import FolderHealth
from mailbridge.intake import Intake
from mailbridge.relaying import Relaying
from mailbridge.schedule import Schedule
from mailbridge.sinks.webhook import WebhookSink
from mailbridge.supervise import Supervisor

log = structlog.get_logger()

#: seconds for the dispatchers to finish when stopping; an attempt has 30
STOP_WITHIN: Final = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one configuration says differently from another, by name."""

    mailboxes: frozenset[str]
    #: mailboxes that send otherwise than before, or began or ceased to
    sending: frozenset[str]
    webhooks: frozenset[str]
    routes: frozenset[str]
    apps: frozenset[str]
    probes: frozenset[str] = frozenset()
    #: what only a start of the process can change
    at_restart: tuple[str, ...] = ()
    #: the keys that are in force now and say something else than before; see ``differences``
    keys: str = ""

    def __str__(self) -> str:
        """One line for the log and for systemd's status."""
        parts = [
            f"{what} {', '.join(sorted(names))}"
            for what, names in (
                ("mailboxes", self.mailboxes),
                ("sending", self.sending),
                ("webhooks", self.webhooks),
                ("routes", self.routes),
                ("apps", self.apps),
                ("probes", self.probes),
            )
            if names
        ]
        return "; ".join(parts) or self.keys or "nothing"


def changes(old: Config, new: Config) -> Changes:
    """Compare two configurations. Pure.

    Credentials are compared by ``SignIns.apply``, which alone knows whether a sign-in can be kept.
    """
    names = {*old.mailboxes, *new.mailboxes}
    boxes = frozenset(name for name in names if _seen_of(old, name) != _seen_of(new, name))
    sending = frozenset(name for name in names if _sent_by(old, name) != _sent_by(new, name))
    at_restart = []
    if old.state.database != new.state.database:
        at_restart.append("state.database")
    if old.state.key != new.state.key:
        at_restart.append("state.key")
    if old.http != new.http:
        at_restart.append("http")
    return Changes(
        mailboxes=boxes,
        sending=sending,
        webhooks=_differing(old.webhooks, new.webhooks),
        routes=_differing(old.routes, new.routes),
        apps=_differing(old.apps, new.apps),
        probes=_differing(
            {name: box.probe for name, box in old.mailboxes.items() if box.probe},
            {name: box.probe for name, box in new.mailboxes.items() if box.probe},
        ),
        at_restart=tuple(at_restart),
        keys=differences(old, _in_force(old, new)),
    )


def _in_force(old: Config, new: Config) -> Config:
    """Return the new configuration with what only a start can change as it is.

    Links would else lead to where nothing listens, or be signed with a key that nobody checks by.
    """
    state = new.state.model_copy(update={"database": old.state.database, "key": old.state.key})
    return new.model_copy(update={"state": state, "http": old.http})


def _differing(old: Mapping[str, object], new: Mapping[str, object]) -> frozenset[str]:
    return frozenset(name for name in {*old, *new} if old.get(name) != new.get(name))


def _seen_of(config: Config, name: str) -> object:
    """Return all that an intake's sessions are built from; where its mails go is exchanged."""
    mailbox = config.mailboxes.get(name)
    if mailbox is None:
        return None
    # The password is the sign-in's; what it is must not end a session.
    return mailbox.model_copy(update=dict.fromkeys(("password", "routes", "send", "probe")))


def _sent_by(config: Config, name: str) -> object:
    """Return all that a mailbox's sending is built from; ``None`` when it does not send."""
    box = config.mailboxes.get(name)
    if box is None or box.send is None:
        return None
    return (box.send, box.address, box.account, box.app, box.sign_in, box.fetch.server)


@dataclass(slots=True, kw_only=True)
class _Delivering:
    """One dispatcher at work, with what ends it."""

    stop: asyncio.Event
    task: asyncio.Task[None]
    stack: AsyncExitStack


@dataclass(slots=True, kw_only=True)
class Running:
    """The loops of a daemon. ``start`` and ``finish`` once each, ``apply`` any number of times."""

    daemon: Daemon
    builder: Builder
    supervisor: Supervisor
    schedule: Schedule
    group: asyncio.TaskGroup
    relaying: Relaying | None = None
    #: called when another configuration is in force
    replan: Callable[[], None] = lambda: None
    _delivering: dict[str, _Delivering] = field(default_factory=dict)

    async def start(self) -> None:
        """Start everything that the configuration names. Raises what a sink cannot open with."""
        for name in self.daemon.config.webhooks:
            await self._start_sink(name)
        for name in self.daemon.config.mailboxes:
            await self._start_sending(name)
            self._start_mailbox(name)
        self.replan()

    async def finish(self) -> None:
        """Let the attempts under way end, give back the rest; the intakes have ended before."""
        for one in self._delivering.values():
            one.stop.set()
        await asyncio.gather(*(self._finish(name) for name in list(self._delivering)))

    async def apply(self, config: Config) -> Changes:
        """Take another configuration. Raises, with nothing changed, when a part cannot be opened.

        Webhooks come first: a mailbox that is new may have one to deliver to at once.
        """
        old = self.daemon.config
        found = changes(old, config)
        config = _in_force(old, config)
        opened = await self._opened(config, found)
        if not await self._relayed(config, opened):
            found = dataclasses.replace(found, at_restart=(*found.at_restart, "relay"))
        remade = await self.builder.apply(config)
        # All at once: each of them waits for its attempts under way.
        await asyncio.gather(*(self._stop_sink(name) for name in found.webhooks))
        for name, (sink, stack) in opened.items():
            self._deliver(name, sink, stack)
        for name in sorted(found.sending | remade):
            await self._stop_sending(name)
            await self._start_sending(name)
        for name in sorted(found.mailboxes | remade):
            await self._stop_mailbox(name)
            if name in config.mailboxes:
                self._start_mailbox(name)
        for intake in self.daemon.intakes:
            self.builder.reroute(intake)
        self.replan()
        return found

    async def _relayed(self, config: Config, opened: dict[str, tuple[Any, AsyncExitStack]]) -> bool:
        """Let the configuration be in force, for the relay first; ``False``: at the next start."""
        old, self.daemon.config = self.daemon.config, config
        if self.relaying is None:
            return True
        try:
            return self.relaying.apply(config)
        except BaseException:
            self.daemon.config = old
            for _, stack in opened.values():
                await stack.aclose()
            raise

    # --- sinks

    async def _opened(
        self, config: Config, found: Changes
    ) -> dict[str, tuple[Any, AsyncExitStack]]:
        """Open the sinks of the new configuration, or none of them."""
        opened: dict[str, tuple[Any, AsyncExitStack]] = {}
        try:
            for name in sorted(found.webhooks & config.webhooks.keys()):
                stack = AsyncExitStack()
                sink = await stack.enter_async_context(_sink(name, config, self.daemon.port))
                opened[name] = (sink, stack)
        except BaseException:
            for _, stack in opened.values():
                await stack.aclose()
            raise
        return opened

    async def _start_sink(self, name: str) -> None:
        stack = AsyncExitStack()
        sink = await stack.enter_async_context(_sink(name, self.daemon.config, self.daemon.port))
        self._deliver(name, sink, stack)

    def _deliver(self, name: str, sink: Any, stack: AsyncExitStack) -> None:
        dispatcher = self.builder.dispatcher(sink, self.daemon.config.webhooks[name])
        self.daemon.dispatchers[name] = dispatcher
        self._dispatch(name, dispatcher, stack)

    def _dispatch(self, name: str, dispatcher: Dispatcher, stack: AsyncExitStack) -> None:
        stop = asyncio.Event()
        task = self.group.create_task(_keep_dispatching(dispatcher, stop))
        self._delivering[name] = _Delivering(stop=stop, task=task, stack=stack)

    async def _stop_sink(self, name: str) -> None:
        if name in self._delivering:
            self._delivering[name].stop.set()
            self.daemon.dispatchers.pop(name, None)
            await self._finish(name)
            self.daemon.health.sinks.pop(name, None)

    async def _finish(self, name: str) -> None:
        one = self._delivering.pop(name)
        _, late = await asyncio.wait({one.task}, timeout=STOP_WITHIN)
        for task in late:
            task.cancel()
            await asyncio.wait({task})
        await one.stack.aclose()

    # --- mailboxes that send

    async def _start_sending(self, name: str) -> None:
        box = self.daemon.config.mailboxes.get(name)
        if box is None or box.send is None:
            return
        sending = self.builder.sending(name)
        await sending.prepare()
        stack = AsyncExitStack()
        stack.push_async_callback(sending.close)
        self.daemon.sending[name] = sending
        self.daemon.dispatchers[sending.sink.name] = sending.dispatcher
        self._dispatch(sending.sink.name, sending.dispatcher, stack)

    async def _stop_sending(self, name: str) -> None:
        sending = self.daemon.sending.pop(name, None)
        if sending is not None:
            await self._stop_sink(sending.sink.name)
            self.daemon.health.sending.pop(name, None)

    # --- mailboxes that are watched

    def _start_mailbox(self, name: str) -> None:
        for intake in self.builder.intakes_of(name):
            self.daemon.intakes.append(intake)
            self._wake(intake)
            self.supervisor.watch(intake)

    async def _stop_mailbox(self, name: str) -> None:
        mine = [intake for intake in self.daemon.intakes if intake.mailbox == name]
        for intake in mine:
            self.schedule.forget(_wake_name(intake))
            self.daemon.intakes.remove(intake)
        await asyncio.gather(*(self.supervisor.forget(intake) for intake in mine))
        gone: list[FolderHealth] = [intake.health for intake in mine]
        folders = self.daemon.health.folders
        folders[:] = [health for health in folders if not any(health is one for one in gone)]
        self.builder.forget_mailbox(name)

    def _wake(self, intake: Intake) -> None:
        fetch = self.daemon.config.mailboxes[intake.mailbox].fetch
        name = _wake_name(intake)
        if fetch.cron is not None:
            self.schedule.wake_cron(fetch.cron, intake.scheduled, name=name)
        else:
            self.schedule.wake_every(fetch.every.total_seconds(), intake.scheduled, name=name)


def _sink(name: str, config: Config, port: int) -> WebhookSink:
    return build_sink(name, config.webhooks[name], links_of(config, port=port))


def _wake_name(intake: Intake) -> str:
    return f"wake {intake.mailbox} {intake.folder}"


async def _keep_dispatching(dispatcher: Dispatcher, stop: asyncio.Event) -> None:
    """Run a dispatcher; after a bug of ours it starts again, and its claims come back by lease."""
    while not stop.is_set():
        try:
            await dispatcher.run(stop)
        except* StoreRefused as refused:
            raise first_of(refused) from refused
        except* Exception as errors:
            log.exception("dispatch.bug", sink=dispatcher.name, exc_info=errors)
            await asyncio.sleep(1.0)
