"""What a service talks to in these tests: a sandbox tenant and a receiver on loopback.

Both run on an event loop in a thread of their own, so that tests may wait for commands.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Self

import yaml

from mailbridge.sandbox.config_text import config_for, new_signing_secret
from mailbridge.sandbox.receiver import Answer, Receiver
from mailbridge.sandbox.tenant import Tenant

#: until a test gives up; generous, since machines are shared
SECONDS: Final = 60
#: the names that the documentation gives to credentials
APP_SECRET: Final = "alarm-secret"
WEBHOOK_SECRET: Final = "webhook-secret"


def until(what: str, condition: Callable[[], Any], *, seconds: float = SECONDS) -> Any:
    """Wait until a condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s until {what}")
        time.sleep(0.05)
    return found


class Stage:
    """The tenant with one mailbox, the receiver, and a configuration that fits both."""

    tenant: Tenant
    receiver: Receiver

    def __init__(self, home: Path) -> None:
        self.home = home
        self.signing_secret = new_signing_secret()
        self.delivered: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and leave nothing behind."""
        self._call(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    async def _open(self) -> None:
        self.tenant = await self._stack.enter_async_context(Tenant.start(files=self.home))
        self.receiver = await self._stack.enter_async_context(
            Receiver.start(secrets=[self.signing_secret])
        )
        self.app = self.tenant.add_app("alarm-app")
        self.box = self.tenant.add_mailbox("alarm@feuerwehr.example")
        self.tenant.grant(self.app, self.box)

    def deliver(self, number: int, *, body: str = "Stichwort: B3") -> str:
        """Let a mail arrive; returns its Message-ID."""
        key = f"<{number}.{len(self.delivered)}@leitstelle.example>"
        raw = (
            f"From: ILS <ils@leitstelle.example>\r\nSubject: Alarm {number}\r\n"
            f"Message-ID: {key}\r\n\r\n{body}\r\n"
        ).encode()

        async def put() -> None:
            self.box.deliver(raw)

        self._call(put())
        self.delivered.append(key)
        return key

    def answer_slowly(self, seconds: float) -> None:
        """Let the receiver take its time from now on; 0 is as before."""

        async def script() -> None:
            self.receiver.behave()
            if seconds:
                self.receiver.answer_with(Answer(delay=seconds))

        self._call(script())

    def accepted(self) -> dict[str, str]:
        """Return the webhook-id of every mail that the receiver has taken, by Message-ID."""
        got = list(self.receiver.accepted.values())
        return {r.json["data"]["message_id"]: r.id for r in got if r.type == "mail.received"}

    def doubled(self) -> list[str]:
        """Return the Message-IDs that came under more than one webhook-id."""
        ids: dict[str, set[str]] = {}
        for request in list(self.receiver.requests):
            if request.type == "mail.received":
                ids.setdefault(request.json["data"]["message_id"], set()).add(request.id)
        return [key for key, those in ids.items() if len(those) > 1]

    def wait_for(self, *keys: str) -> None:
        """Wait until the receiver has taken these mails."""
        until(f"the receiver has {keys}", lambda: self.accepted().keys() >= set(keys))

    def config(self, *, listen: str = "off") -> dict[str, Any]:
        """Return the configuration for ``/etc/mailbridge``, with credentials instead of files."""
        text = config_for(
            self.tenant,
            webhook_url=self.receiver.url,
            state_dir=self.home / "state",
            signing_secret=self.signing_secret,
            webhook="alarm-server",
            after="seen",
            push=True,
        )
        config: dict[str, Any] = yaml.safe_load(text)
        del config["state"]
        config["http"] = {"listen": listen}
        config["apps"]["alarm-app"] |= {
            "ca": "ca.pem",
            "credential": {"client_secret": {"credential": APP_SECRET}},
        }
        config["mailboxes"]["alarm"]["fetch"]["server"]["ca"] = "ca.pem"
        hook = config["webhooks"]["alarm-server"]
        hook["signing_secrets"] = [{"credential": WEBHOOK_SECRET}]
        return config

    @property
    def ca(self) -> str:
        """The certificate of the authority that the tenant's servers bear, as PEM."""
        return Path(self.tenant.ca_file).read_text()

    @property
    def secrets(self) -> dict[str, str]:
        """The secrets by the names of their credentials."""
        return {APP_SECRET: self.app.secret, WEBHOOK_SECRET: self.signing_secret}
