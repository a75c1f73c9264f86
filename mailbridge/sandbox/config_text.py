"""Writes a mailbridge configuration that fits a running tenant, with the files it refers to."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable, Collection
from pathlib import Path

from mailbridge.sandbox.ca import write_private
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.tenant import Tenant

_HEAD = """\
# Written by the sandbox of mailbridge. It fits the sandbox that runs now and no later one:
# ports, ids, secrets and the CA change with every start.
"""


def new_signing_secret() -> str:
    """Return a fresh Standard Webhooks secret: ``whsec_`` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def _text(value: object) -> str:
    # Every JSON string is a YAML string, so nothing in it can be mistaken for syntax.
    return json.dumps(str(value), ensure_ascii=False)


def _key(name: str, taken: set[str]) -> str:
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "mailbox"
    key, number = base, 1
    while key in taken:
        number += 1
        key = f"{base}-{number}"
    taken.add(key)
    return key


def _secret_file(directory: Path, name: str, value: str) -> Path:
    path = directory / name
    write_private(path, value.encode() + b"\n")
    return path


def config_for(  # noqa: PLR0913 - what a user may want different, each with a default
    tenant: Tenant,
    *,
    webhook_url: str,
    state_dir: Path,
    signing_secret: str | None = None,
    webhook: str = "receiver",
    every: str = "5s",
    start: str = "all",
    after: str = "keep",
    pop3: Collection[str] = (),
    push: bool | None = None,
    send: Collection[str] = (),
) -> str:
    """Return the YAML of a configuration with every app and every mailbox they may open.

    Writes into ``state_dir``, which is created: the CA, and one file (mode 0600) for each
    secret. The database goes there too. A mailbox is named after its local part, the webhook
    ``webhook``; ``signing_secret`` is made when not given. ``every``, ``start`` and ``after``
    are the mailboxes' ``fetch`` keys, written as they stand. Mailboxes whose addresses are in
    ``pop3`` are fetched by POP3 (``ValueError`` when there is none of that name), which can only
    keep or delete: there another ``after`` is written as keep. The others say ``push`` when it is
    given. Those in ``send`` also send.
    """
    state_dir = state_dir.resolve()
    state_dir.mkdir(parents=True, exist_ok=True)
    ca = tenant.authority.write(state_dir)
    lines = [_HEAD + "state:", f"  database: {_text(f'sqlite:///{state_dir}/mailbridge.db')}"]
    taken: set[str] = set()
    keys = {app.client_id: _key(app.name, taken) for app in tenant.directory.apps.values()}
    lines += ["", "apps:"]
    for app in tenant.directory.apps.values():
        lines += _app(tenant, app, keys[app.client_id], ca, state_dir)
    by_pop3, senders = _known(tenant, pop3), _known(tenant, send)

    def fetch(box: Mailbox) -> list[str]:
        times = [f"      every: {every}", f"      start: {start}"]
        if box.address.lower() in by_pop3:
            watched = _pop3(tenant, ca, times, after=after)
        else:
            watched = _imap(tenant, ca, times, after=after, push=push)
        sends = [] if box.address.lower() not in senders else _send(tenant, ca)
        return [*watched, *sends]

    lines += ["", "mailboxes:", *_mailboxes(tenant, keys, fetch)]
    secret = _secret_file(state_dir, f"{webhook}.whsec", signing_secret or new_signing_secret())
    lines += [
        "",
        "webhooks:",
        f"  {webhook}:",
        f"    url: {_text(webhook_url)}",
        f"    signing_secrets: [{{file: {_text(secret)}}}]",
        "    allow_private: true",
    ]
    return "\n".join(lines) + "\n"


def _known(tenant: Tenant, addresses: Collection[str]) -> set[str]:
    known = {address.lower() for address in addresses}
    if strangers := known - set(tenant.exchange.mailboxes):
        raise ValueError(f"no mailbox is called {', '.join(sorted(strangers))}")
    return known


def _mailboxes(
    tenant: Tenant, keys: dict[str, str], fetch: Callable[[Mailbox], list[str]]
) -> list[str]:
    """Return an entry for each mailbox that an app may open."""
    lines: list[str] = []
    names: set[str] = set()
    for box in tenant.exchange.mailboxes.values():
        app = _app_of(tenant, box)
        if app is not None:
            name = _key(box.address.partition("@")[0], names)
            lines += [*_mailbox(box, name, keys[app.client_id]), *fetch(box)]
    return lines


def _app_of(tenant: Tenant, box: Mailbox) -> App | None:
    apps = tenant.directory.apps.values()
    return next((app for app in apps if tenant.exchange.granted(app, box.address)), None)


def _app(tenant: Tenant, app: App, key: str, ca: Path, directory: Path) -> list[str]:
    secret = _secret_file(directory, f"{key}.secret", app.secret)
    return [
        f"  {key}:",
        f"    tenant: {_text(tenant.entra.authority)}",
        f"    ca: {_text(ca)}",
        f"    client_id: {_text(app.client_id)}",
        "    credential:",
        f"      client_secret: {{file: {_text(secret)}}}",
    ]


def _mailbox(box: Mailbox, key: str, app: str) -> list[str]:
    return [
        f"  {key}:",
        f"    address: {_text(box.address)}",
        f"    app: {app}",
        "    sign_in: application",
    ]


def _server(port: int, ca: Path) -> str:
    server = f"{{host: localhost, port: {port}, tls: implicit, ca: {_text(ca)}}}"
    return f"      server: {server}"


def _imap(
    tenant: Tenant, ca: Path, times: list[str], *, after: str, push: bool | None
) -> list[str]:
    pushed = [] if push is None else [f"      push: {json.dumps(push)}"]
    return [
        "    fetch:",
        "      protocol: imap",
        *pushed,
        *times,
        "      folders: [INBOX]",
        f"      after: {after}",
        _server(tenant.imap.port, ca),
    ]


def _pop3(tenant: Tenant, ca: Path, times: list[str], *, after: str) -> list[str]:
    return [
        "    fetch:",
        "      protocol: pop3",
        *times,
        f"      after: {after if after in {'keep', 'delete'} else 'keep'}",
        _server(tenant.pop3.port, ca),
    ]


def _send(tenant: Tenant, ca: Path) -> list[str]:
    server = f"{{host: localhost, port: {tenant.smtp.port}, tls: starttls, ca: {_text(ca)}}}"
    return ["    send:", f"      server: {server}"]
