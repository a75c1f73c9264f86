"""A daemon's HTTP server for tests: real sockets, a real SQLite store, no loops beside it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from fastapi import APIRouter

from mailbridge import log
from mailbridge.answers import Answers
from mailbridge.build import Daemon
from mailbridge.config import Config, Http, load
from mailbridge.health import FolderHealth, Health, SinkHealth
from mailbridge.http.listening import listen
from mailbridge.http.sending import BODY_LIMITS, send_routes
from mailbridge.http.server import HttpServer, http_server
from mailbridge.operate import Operator
from mailbridge.sign_ins import SignIns
from mailbridge.store.store import Store
from tests.contract.mails import NOON

TOKEN = "made-up-token-of-the-erp-system"
OTHER_TOKEN = "made-up-token-of-the-dashboard"
_CONFIG = """\
state: {database: "sqlite:///%s"}
apps:
  main:
    tenant: 11111111-2222-3333-4444-555555555555
    client_id: 66666666-7777-8888-9999-000000000000
    credential: {client_secret: {env: APP_SECRET}, expires: 2028-11-20}
mailboxes:
  alarm:
    address: alarm@feuerwehr.example
    app: main
    send: {send_as: [alarm@feuerwehr.example, info@feuerwehr.example]}
webhooks:
  erp: {url: "https://erp.example/hook"}
"""


def config(home: Path) -> Config:
    """Return a configuration with one mailbox and one webhook, that nothing is fetched with."""
    file = home / "mailbridge.yaml"
    file.write_text(_CONFIG % (home / "mailbridge.db"))
    return load(file, environ={"APP_SECRET": "abc8Q~made-up-client-secret"})


def http(**settings: Any) -> Http:
    """Return a section ``http`` that listens at any port, with two clients."""
    from mailbridge.config import Secret

    tokens = {"erp": Secret(TOKEN), "dashboard": Secret(OTHER_TOKEN)}
    return Http.model_validate({"listen": "127.0.0.1:0", "api_tokens": tokens} | settings)


class Api:
    """A server that answers, and what it tells about."""

    def __init__(self, port: int, daemon: Daemon, answers: Answers, server: HttpServer) -> None:
        self.port, self.answers, self.server = port, answers, server
        self.daemon, self.store, self.health = daemon, daemon.store, daemon.health
        self.url = f"http://127.0.0.1:{port}"
        self.stop = asyncio.Event()
        self.session = aiohttp.ClientSession(self.url, trust_env=False)

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = TOKEN,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> tuple[int, Any]:
        """Ask; returns the status and the JSON, checked to be of the type that it should be."""
        answer, content = await self.ask(method, path, token=token, headers=headers, **more)
        kind = "application/json" if answer.status < 400 else "application/problem+json"
        assert answer.headers["content-type"] == kind, (answer.status, content)
        return answer.status, await answer.json(content_type=kind)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = TOKEN,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Ask; returns the response, which has been read, and its bytes."""
        sent = {"authorization": f"Bearer {token}"} if token else {}
        async with self.session.request(
            method, path, headers={**sent, **(headers or {})}, **more
        ) as answer:
            return answer, await answer.read()


@contextlib.asynccontextmanager
async def running_api(
    home: Path,
    *,
    routers: Iterable[APIRouter] = (),
    body_limits: Mapping[tuple[str, str], int] | None = None,
    **settings: Any,
) -> AsyncIterator[Api]:
    """Run a server beside the block; ``settings`` are of the section ``http``."""
    log.configure("json", "info")  # the usual one draws tracebacks for seconds
    whole = config(home)
    section = http(**settings)
    health = Health(started_at=NOON)
    health.folders.append(FolderHealth(mailbox="alarm", folder="INBOX"))
    health.sinks["erp"] = SinkHealth(name="erp")
    store = await Store.open(whole.state.database.reveal())
    store.on_commit(health.commits.observe)
    daemon = Daemon(config=whole, store=store, health=health)
    sign_ins = SignIns(whole, grants=store.grants, now=lambda: NOON, run=asyncio.to_thread)
    operator = Operator(daemon=daemon, sign_ins=sign_ins)
    sockets = listen(section)
    port = sockets[0].getsockname()[1]
    answers = Answers(daemon, operator, sign_ins)
    server = http_server(
        http=section,
        sockets=sockets,
        operations=answers,
        health=health,
        routers=[send_routes(operator.outbox), *routers],
        body_limits={**BODY_LIMITS, **(body_limits or {})},
    )
    api = Api(port, daemon, answers, server)
    running = asyncio.create_task(server.run(api.stop))
    try:
        yield api
    finally:
        await api.session.close()
        api.stop.set()
        await running
        await sign_ins.close()
        await store.close()
