"""The demo: sandbox tenant, webhook receiver and the real daemon in one process, on loopback.

What runs here is what runs in production, from the token request to the signed POST; only the
tenant and the receiver are ours.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from mailbridge.cli.output import say, tell
from mailbridge.errors import MailbridgeError
from mailbridge.log import escape

if TYPE_CHECKING:
    from mailbridge.cli.main import Context
    from mailbridge.sandbox.mailstore import Mailbox
    from mailbridge.sandbox.receiver import Received, Receiver
    from mailbridge.sandbox.tenant import Tenant

#: seconds between two alarms while the demo goes on
PAUSE: Final = 8.0
#: how often mailboxes are looked at that nothing pushes
EVERY: Final = "5s"
#: seconds until an undelivered mail makes ``--once`` fail
PATIENCE: Final = 60.0
NAMES: Final = ("alarm", "leitstelle", "technik", "verwaltung")
#: who gets the mail that is sent
NEIGHBOUR: Final = "leitstelle@nachbarort.example"
#: seconds between two looks at what became of it
LOOK_EVERY: Final = 0.1


async def show(*, once: bool, mailboxes: int, messages: int, options: Context) -> bool:
    """Run the demo; returns whether everything that was asked for has been delivered."""
    from mailbridge.cli.daemon import stop_on_signals
    from mailbridge.cli.main import LogLevel

    stop = asyncio.Event()
    stop_on_signals(stop)
    async with AsyncExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="mailbridge-demo-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        stage = await _Stage.open(stack, home, mailboxes)
        options.configure_logging(LogLevel.WARNING)
        daemon = asyncio.create_task(stage.run_daemon(stop))
        try:
            return await stage.perform(stop, daemon, messages=messages, once=once)
        finally:
            stop.set()
            await daemon


class _Stage:
    """Everything the demo consists of, and what it prints."""

    def __init__(
        self, tenant: Tenant, receiver: Receiver, boxes: list[Mailbox], home: Path
    ) -> None:
        self.tenant, self.receiver, self.boxes, self.home = tenant, receiver, boxes, home
        self.sent: dict[str, datetime] = {}
        self.shown: set[str] = set()
        #: whether the one mail by SMTP was sent; ``None`` while nobody knows
        self.handed_over: bool | None = None
        self.news = asyncio.Event()
        self.rng = random.Random()  # noqa: S311 - which alarms are made up is no secret
        receiver.on_request = self._show

    @classmethod
    async def open(cls, stack: AsyncExitStack, home: Path, mailboxes: int) -> _Stage:
        from mailbridge.sandbox.config_text import config_for, new_signing_secret
        from mailbridge.sandbox.receiver import Receiver
        from mailbridge.sandbox.tenant import Tenant

        secret = new_signing_secret()
        tenant = await stack.enter_async_context(Tenant.start(files=home))
        receiver = await stack.enter_async_context(Receiver.start(secrets=[secret]))
        app = tenant.add_app("demo-app")
        boxes = [tenant.add_mailbox(f"{_name(n)}@feuerwehr.example") for n in range(mailboxes)]
        tenant.grant(app, *boxes)
        text = config_for(
            tenant,
            webhook_url=receiver.url,
            state_dir=home,
            signing_secret=secret,
            every=EVERY,
            pop3=[box.address for box in boxes[1::2]],
            push=True,
            send=[boxes[0].address],
        )
        (home / "mailbridge.yaml").write_text(text)
        _introduce(tenant, receiver, home, boxes)
        return cls(tenant, receiver, boxes, home)

    async def run_daemon(self, stop: asyncio.Event) -> None:
        from mailbridge.app import serve
        from mailbridge.config import load
        from mailbridge.process import collect_seldom

        try:
            config = load(self.home / "mailbridge.yaml")
            await serve(config, stop=stop, environ={}, on_ready=lambda _daemon: collect_seldom())
        except MailbridgeError as error:
            tell(f"mailbridge: {error}")
            raise

    async def perform(
        self, stop: asyncio.Event, daemon: asyncio.Task[None], *, messages: int, once: bool
    ) -> bool:
        """Let mails arrive: the first before anybody looks, the others while it runs."""
        stopped = asyncio.create_task(stop.wait())
        sending = asyncio.create_task(self._send())
        try:
            for number in range(messages):
                self._deliver(number)
                if number < 10 and await _either(stopped, daemon, seconds=0.7):  # noqa: PLR2004 - then all at once
                    break
            delivered = await self._all_delivered(stopped, daemon)
            if stopped.done():
                say("  stopped; nothing is kept")
                return True
            self._sum_up(delivered, goes_on=not once)
            number = messages
            while not once and not await _either(stopped, daemon, seconds=PAUSE):
                self._deliver(number)
                number += 1
            return delivered
        finally:
            stopped.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self) -> None:
        """Queue one mail, as `mailbridge send` does, and show when the server has it."""
        from mailbridge.http.control import ask, socket_path

        path = socket_path(f"sqlite:///{self.home}/mailbridge.db", {})
        request = {
            "from": self.boxes[0].address.partition("@")[0],
            "to": NEIGHBOUR,
            "subject": "Einsatz \u00fcbernommen",
            "text": "LZ 1 ist unterwegs.",
        }
        asked = {"via": "cli", "request": request, "key": "demo"}
        while (taken := await ask(path, "send", asked)) is None:  # noqa: ASYNC110 - it starts
            await asyncio.sleep(LOOK_EVERY)
        queued = datetime.now(UTC)
        while True:
            answer = await ask(path, "send-status", {"id": taken["id"]})
            found = (answer or {}).get("send") or {"state": "queued"}
            if found["state"] in {"sent", "partly", "failed", "held"}:
                break
            await asyncio.sleep(LOOK_EVERY)
        self.handed_over = found["state"] == "sent"
        self._show_sent(found, request["subject"], queued)
        self.news.set()

    def _show_sent(self, found: Mapping[str, Any], subject: str, queued: datetime) -> None:
        if not self.handed_over:
            say(f"  {found['id']} was not sent: {found['reason'] or found['reply']}")
            return
        ended = datetime.fromisoformat(found["ended_at"])
        typer.secho(f"  {ended:%H:%M:%S}  ", nl=False, dim=True)
        typer.secho("250 ", fg="green", nl=False)
        typer.secho(f"{subject}, sent by SMTP", bold=True)
        line = f"{self.boxes[0].address} > {NEIGHBOUR}, STARTTLS and XOAUTH2"
        typer.secho(f"            {line}", dim=True)
        seconds = max(0.0, (ended - queued).total_seconds())
        note = f"{found['id']}, {seconds:.1f} s after it was queued; {escape(found['reply'])[:60]}"
        typer.secho(f"            {note}", dim=True)

    def _deliver(self, number: int) -> None:
        from mailbridge.sandbox.alarms import alarm_mail

        box = self.boxes[number % len(self.boxes)]
        now = datetime.now(UTC)
        raw = alarm_mail(self.rng, at=now, to=box.address, form=number)
        box.deliver(raw)
        self.sent[str(message_from_bytes(raw)["Message-ID"])] = now

    async def _all_delivered(self, *tasks: asyncio.Task[Any]) -> bool:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while len(self.shown) < len(self.sent) or self.handed_over is None:
            left = deadline - asyncio.get_running_loop().time()
            self.news.clear()
            news = asyncio.create_task(self.news.wait())
            await asyncio.wait({news, *tasks}, timeout=left, return_when="FIRST_COMPLETED")
            news.cancel()
            if left <= 0 or any(task.done() for task in tasks):
                break
        return self.shown >= self.sent.keys() and self.handed_over is True

    def _show(self, request: Received) -> None:
        if request.type == "send.sent" and request.accepted:
            typer.secho(f"  {request.at:%H:%M:%S}  ", nl=False, dim=True)
            typer.secho("200 ", fg="green", nl=False)
            typer.secho("send.sent, told to the webhook too", dim=True)
            return
        if request.type != "mail.received" or not request.accepted:
            problem = request.problem or f"answered {request.status}"
            say(f"  {request.type or 'a request'}: {problem}")
            return
        data = request.json["data"]
        key = str(data["message_id"])
        sent = self.sent.get(key)
        seconds = f"{(request.at - sent).total_seconds():.1f} s" if sent else ""
        way = "POP3" if data["source"]["protocol"] == "pop3" else "IMAP push"
        self.shown.add(key)
        self.news.set()
        typer.secho(f"  {request.at:%H:%M:%S}  ", nl=False, dim=True)
        typer.secho("200 ", fg="green", nl=False)
        typer.secho(escape(data["subject"])[:88], bold=True)
        attachments = ", ".join(str(part["filename"]) for part in data["attachments"])
        more = f", with {attachments}" if attachments else ""
        line = f"{data['address']} by {way} > POST {request.path}, {len(request.body)} bytes{more}"
        typer.secho(f"            {escape(line)}", dim=True)
        note = f"{request.id}, signature good" + (
            f", {seconds} after it arrived" if seconds else ""
        )
        typer.secho(f"            {note}", dim=True)

    def _sum_up(self, delivered: bool, *, goes_on: bool) -> None:  # noqa: FBT001 - one fact
        requests = [r for r in self.receiver.requests if r.type == "mail.received"]
        doubled = len(requests) - len({r.id for r in requests})
        lost = len(self.sent.keys() - self.shown)
        say()
        colour = "green" if delivered else "red"
        total = len(self.sent)
        text = f"  {total} mails sent, {total - lost} delivered, {lost} lost, {doubled} doubled"
        text += f"; {int(self.handed_over is True)} of 1 sent by SMTP"
        typer.secho(text, fg=colour, bold=True)
        if not goes_on:
            return
        config = self.home / "mailbridge.yaml"
        say("  While it runs, try in another terminal:")
        sender = self.boxes[0].address.partition("@")[0]
        send = f"send --from {sender} --to {NEIGHBOUR} --subject Test --wait"
        for command in ("status", "log", "test-mailbox --all", send):
            say(f"    .venv/bin/mailbridge --config {config} {command}")
        say()


def _introduce(tenant: Tenant, receiver: Receiver, home: Path, boxes: list[Mailbox]) -> None:
    typer.secho("mailbridge demo", bold=True, nl=False)
    say(": everything on this machine, nothing is kept.  Ctrl-C ends it.")
    say(f"  sandbox tenant    {tenant.entra.authority}  (Entra)")
    pushed, polled = len(boxes[::2]), len(boxes[1::2])
    imap, pop3 = f"imaps://localhost:{tenant.imap.port}", f"pop3s://localhost:{tenant.pop3.port}"
    say(f"                    {imap}  (Exchange), {pushed} mailbox(es), by push")
    if polled:
        say(f"                    {pop3}  (Exchange), {polled} mailbox(es), every {EVERY}")
    say(f"                    smtp://localhost:{tenant.smtp.port}  (Exchange), STARTTLS")
    say(f"  webhook receiver  {receiver.url}  (checks every signature)")
    say(f"  database          {home}/mailbridge.db  (SQLite, every commit flushed)")
    say()
    say("Alarm mails arrive; each webhook request as it lands, and one mail as it is sent:")


async def _either(*tasks: asyncio.Task[Any], seconds: float) -> bool:
    """Sleep, but no longer than until one of the tasks has ended; tells whether one has."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when="FIRST_COMPLETED")
    return bool(done)


def _name(number: int) -> str:
    return NAMES[number] if number < len(NAMES) else f"fahrzeug-{number}"


async def keep_sandbox(config_out: Path | None) -> None:
    """Run the tenant, and a receiver for its configuration, until a signal."""
    from mailbridge.cli.daemon import stop_on_signals
    from mailbridge.sandbox.alarms import alarm_mail
    from mailbridge.sandbox.config_text import new_signing_secret
    from mailbridge.sandbox.receiver import Receiver
    from mailbridge.sandbox.tenant import Tenant

    stop = asyncio.Event()
    stop_on_signals(stop)
    secret = new_signing_secret()
    rng = random.Random()  # noqa: S311 - which alarms are made up is no secret
    async with Tenant.start() as tenant, Receiver.start(secrets=[secret]) as receiver:
        app = tenant.add_app("sandbox-app")
        box = tenant.add_mailbox("alarm@feuerwehr.example")
        tenant.grant(app, box)
        receiver.on_request = lambda request: say(
            f"  {request.at:%H:%M:%S}  {request.type}  {request.id}  "
            + (request.problem or f"answered {request.status}")
        )
        say(f"Entra     {tenant.entra.authority}")
        say(f"IMAP      localhost:{tenant.imap.port}, implicit TLS, XOAUTH2")
        say(f"POP3      localhost:{tenant.pop3.port}, implicit TLS, XOAUTH2")
        say(f"SMTP      localhost:{tenant.smtp.port}, STARTTLS, XOAUTH2")
        say(f"CA        {tenant.ca_file}")
        say(f"webhook   {receiver.url}")
        if config_out is not None:
            _write_config(tenant, receiver, config_out, secret)
            say(f"config    {config_out}: mailbridge --config {config_out} run")
        say("An alarm mail arrives every 10 seconds. Ctrl-C ends it.")
        number = 0
        while not stop.is_set():
            box.deliver(alarm_mail(rng, at=datetime.now(UTC), to=box.address, form=number))
            number += 1
            waiting = asyncio.create_task(stop.wait())
            await asyncio.wait({waiting}, timeout=10.0)
            waiting.cancel()


def _write_config(tenant: Tenant, receiver: Receiver, file: Path, secret: str) -> None:
    """Write the configuration, and what it refers to in a directory beside it."""
    from mailbridge.sandbox.config_text import config_for

    state = file.absolute().parent / f"{file.stem}.state"
    text = config_for(
        tenant,
        webhook_url=receiver.url,
        state_dir=state,
        signing_secret=secret,
        send=list(tenant.exchange.mailboxes),
    )
    file.write_text(text)
