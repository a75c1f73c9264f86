"""What campaigns and benchmarks drive: a tenant, a daemon process, mail, a receiver.

The daemon is the real program in a process of its own, so that it can be killed; the tenant's
login service runs in a thread here, the mail lies in a real Dovecot.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import yaml

from mailbridge.errors import MailbridgeError
from mailbridge.http.control import ask
from mailbridge.sandbox.ca import Authority
from mailbridge.sandbox.directory import TOKEN_LIFETIME, App, Directory
from mailbridge.sandbox.entra import Entra
from mailbridge.sandbox.faults import Faults
from mailbridge.sandbox.tokens import SigningKey, TokenService
from tests.servers.dovecot import Dovecot
from tests.servers.tokens import AUDIENCE, TokenRules

SIGNING_SECRET = "whsec_bWFpbGJyaWRnZS1jYW1wYWlnbnMtMzItYnl0ZXMtISE="
WEBHOOK = "sink"


class Tenant:
    """The sandbox's Entra on an event loop of its own, with one app that may read all mail.

    Its access tokens live ``token_life`` seconds.
    """

    def __init__(self, *, token_life: int = TOKEN_LIFETIME) -> None:
        self.directory = Directory()
        self.app = App(name="campaign", audience=AUDIENCE, lifetime=token_life)
        self.app.add_secret()
        self.directory.add(self.app)
        self._key = SigningKey.generate()
        self._tokens = TokenService(
            tenant_id=self.directory.tenant_id, key=self._key, now=lambda: datetime.now(UTC)
        )
        self._authority = Authority()
        self._entra = Entra(
            directory=self.directory,
            tokens=self._tokens,
            faults=Faults(),
            now=lambda: datetime.now(UTC),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def rules(self) -> TokenRules:
        """What a mail server checks this tenant's tokens against."""
        return TokenRules(
            public_key=self._key.public_pem,
            kid=self._key.kid,
            issuer=f"https://sts.windows.net/{self.directory.tenant_id}/",
        )

    @property
    def authority(self) -> str:
        """The login URL for ``apps.NAME.tenant``."""
        return self._entra.authority

    def mint(self) -> str:
        """Return an application token, for programs that cannot ask for one."""
        return self._tokens.app_token(self.app, audience=AUDIENCE)

    def write_ca(self, folder: Path) -> Path:
        """Write the authority of the login service and return the file."""
        return self._authority.write(folder)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        self._call(self._entra.start(self._authority.server_context(), host="127.0.0.1", port=0))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._call(self._entra.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The configuration of one daemon, as far as campaigns and benchmarks vary it.

    ``pop3`` names the mailboxes that are fetched by POP3, ``ports`` those whose server is
    reached by another port, that of a proxy say.
    """

    mailboxes: Mapping[str, str]
    webhook_url: str
    database: str = ""
    after: str = "keep"
    every: str = "60s"
    push: bool = False
    pop3: frozenset[str] = frozenset()
    ports: Mapping[str, int] = field(default_factory=dict)
    concurrency: int = 8
    attachments: Mapping[str, str] = field(
        default_factory=lambda: {"mode": "inline", "max": "25MB"}
    )


def document(setting: Setting, *, tenant: Tenant, ca: Path, dovecot: Dovecot) -> dict[str, Any]:
    """Return the configuration file as data; secrets come from the daemon's environment."""
    return {
        "state": {"database": setting.database},
        "http": {"listen": "off"},
        "apps": {
            "tenant-app": {
                "tenant": tenant.authority,
                "client_id": tenant.app.client_id,
                "credential": {"client_secret": {"env": "CAMPAIGN_APP_SECRET"}},
                "ca": str(ca),
            }
        },
        "mailboxes": {
            name: {
                "address": address,
                "app": "tenant-app",
                "sign_in": "application",
                "fetch": _fetch(setting, name, dovecot),
            }
            for name, address in setting.mailboxes.items()
        },
        "webhooks": {
            WEBHOOK: {
                "url": setting.webhook_url,
                "signing_secrets": [{"env": "CAMPAIGN_SIGNING_SECRET"}],
                "attachments": dict(setting.attachments),
                "concurrency": setting.concurrency,
                "allow_private": True,
            }
        },
    }


def _fetch(setting: Setting, name: str, dovecot: Dovecot) -> dict[str, Any]:
    pop3 = name in setting.pop3
    port = dovecot.pop3s_port if pop3 else dovecot.imaps_port
    return {
        "protocol": "pop3" if pop3 else "imap",
        **({} if pop3 else {"push": setting.push}),
        "every": setting.every,
        "start": "all",
        "after": setting.after,
        "server": {
            "host": dovecot.host,
            "port": setting.ports.get(name, port),
            "tls": "implicit",
            "ca": str(dovecot.ca_file),
        },
    }


def environment(
    folder: Path, tenant: Tenant, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of a daemon whose state and control socket lie in ``folder``."""
    return {
        **os.environ,
        "CAMPAIGN_APP_SECRET": tenant.app.secret,
        "CAMPAIGN_SIGNING_SECRET": SIGNING_SECRET,
        "STATE_DIRECTORY": str(folder),
        "RUNTIME_DIRECTORY": str(folder),
        **(extra or {}),
    }


def write_config(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a configuration file."""
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))
    return path


def command(config: Path) -> list[str]:
    """Return how the daemon is started: the console script beside this Python."""
    script = Path(sys.executable).with_name("mailbridge")
    return [str(script), "--log-format", "json", "--config", str(config), "run"]


def status(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the mailboxes of a daemon's ``status`` by name; empty while it does not answer."""
    try:
        answer = asyncio.run(ask(folder / "mailbridge.sock", "status", {}))
    except MailbridgeError:
        return {}
    return {row["name"]: row for row in answer["mailboxes"]} if answer else {}


class Daemon:
    """The real program, started again and again on the same state."""

    def __init__(
        self, config: Path, env: Mapping[str, str], log: Path, *, wrapper: tuple[str, ...] = ()
    ) -> None:
        self._command = [*wrapper, *command(config)]
        self._env = dict(env)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """All that it has said since the first start."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        if self._process is None:
            raise RuntimeError("the daemon was never started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and return at once."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env
            )

    def kill(self) -> int:
        """End it as a crash does; returns the exit code, -9 unless it had ended by itself."""
        return self._end(signal.SIGKILL)

    def stop(self, timeout: float = 60.0) -> int:
        """End it as systemd does, by SIGTERM, and wait; returns the exit code."""
        return self._end(signal.SIGTERM, timeout)

    def _end(self, number: signal.Signals, timeout: float = 60.0) -> int:
        if self._process is None:
            raise RuntimeError("the daemon was never started")
        self._process.send_signal(number)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A mail that was put into a mailbox: its token, whose it is, its digest."""

    token: str
    mailbox: str
    sha256: str


class Pacer:
    """Calls ``work`` at a steady rate in a thread, until it is stopped."""

    def __init__(self, per_second: float, work: Any) -> None:
        self._gap = 1.0 / per_second
        self._work = work
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and raise what went wrong in the thread."""
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._over.wait(max(0.0, due - time.monotonic())):
                self._work()
                due += self._gap
        except BaseException as failure:  # noqa: BLE001 - handed to whoever stops the thread
            self._failure = failure


def mail(token: str, rng: random.Random, *, size: int) -> bytes:
    """Return one message of about ``size`` bytes with its token in Message-ID and text."""
    filler = "\r\n".join(f"{rng.getrandbits(256):064x}" for _ in range(max(1, size // 66)))
    return (
        "From: Leitstelle <leitstelle@ils.example>\r\n"
        "To: alarm@feuerwehr.example\r\n"
        f"Subject: Einsatz {token}\r\n"
        "Date: Sat, 21 Nov 2026 10:04:00 +0100\r\n"
        f"Message-ID: <{token}@ils.example>\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n\r\n"
        f"{filler}\r\n"
    ).encode("ascii")
