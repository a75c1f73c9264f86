"""The sandbox's Exchange in a process of its own, driven by lines of JSON.

    python -m benchmarks.push.exchange FOLDER ADDRESS...

Prints where it listens and what an app signs in with, then obeys its standard input: ``deliver``
puts a mail into a mailbox and is answered by the moment, ``fault`` adds a fault of its catalogue,
``clear`` takes a fault away. The end of the input ends it. Unlike Dovecot it tells an IDLE
client at once, so that what remains is the client's own time.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import uvloop

from benchmarks.push.stage import MAIL_SIZE, ROOT
from mailbridge.sandbox import tenant as sandbox
from tests.campaigns.harness import mail

EXCHANGE = "https://outlook.office365.com"


class Exchange:
    """The handle of such a process."""

    def __init__(self, folder: Path, addresses: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", __name__, str(folder), *addresses]
        self.about: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Start it; ``about`` has then authority, client_id, secret, ca, port and token."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.about = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def put(self, address: str, number: int) -> float:
        """Let a mail arrive; returns when, by ``time.monotonic``."""
        return float(self._ask({"do": "deliver", "address": address, "number": number})["at"])

    def fault(self, name: str, **options: Any) -> None:
        """Add a fault."""
        self._ask({"do": "fault", "name": name, "options": options})

    def clear(self, name: str) -> int:
        """Take a fault away; returns how often it has struck."""
        return int(self._ask({"do": "clear", "name": name})["fired"])

    def server(self) -> dict[str, Any]:
        """Return the section ``server`` of a mailbox there."""
        return {
            "host": "localhost",
            "port": self.about["port"],
            "tls": "implicit",
            "ca": self.about["ca"],
        }

    def app(self, secret_from: str) -> dict[str, Any]:
        """Return the section of its app, whose secret is in an environment variable."""
        return {
            "tenant": self.about["authority"],
            "client_id": self.about["client_id"],
            "credential": {"client_secret": {"env": secret_from}},
            "ca": self.about["ca"],
        }

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the sandbox has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def obey(tenant: sandbox.Tenant, order: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Carry out one line."""
    if order["do"] == "deliver":
        raw = mail(f"TKN-{order['number']:012}", rng, size=MAIL_SIZE)
        box = tenant.mailbox(order["address"])
        at = time.monotonic()
        box.deliver(raw)
        return {"at": at}
    if order["do"] == "fault":
        tenant.faults.add(order["name"], **order["options"])
        return {}
    tenant.faults.clear(order["name"])
    return {"fired": tenant.faults.fired[order["name"]]}


async def serve(folder: Path, addresses: Sequence[str]) -> None:
    """Run until the standard input ends."""
    rng = random.Random(2)
    async with sandbox.Tenant.start(files=folder) as tenant:
        app = tenant.add_app("bench-app")
        tenant.grant(app, *(tenant.add_mailbox(address) for address in addresses))
        about = {
            "authority": tenant.entra.authority,
            "client_id": app.client_id,
            "secret": app.secret,
            "ca": str(tenant.ca_file),
            "port": tenant.imap.port,
            "token": tenant.tokens.app_token(app, audience=EXCHANGE),
        }
        print(json.dumps(about), flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            print(json.dumps(obey(tenant, json.loads(line), rng)), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), sys.argv[2:]))
