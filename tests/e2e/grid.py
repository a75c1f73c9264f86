"""Every way to sign in, proven for every protocol; the table of README.md is made here.

A cell is proven when a mail has gone through it: with a token that the sandbox's Entra issued
for that way of signing in, asked for by the program from a configuration file, at a real
Dovecot (IMAP, POP3) and a real Postfix (SMTP), which verify its signature themselves.

``python -m tests.e2e.grid`` proves all cells and writes the table.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import secrets
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, Self
from urllib.parse import urlencode

import aiohttp
import structlog

from mailbridge.build import Shared, build_source, utc_now
from mailbridge.config import Config, load
from mailbridge.http.oauth_desk import CALLBACK, Tested
from mailbridge.model import Grant
from mailbridge.room import Room
from mailbridge.sandbox.ca import write_private
from mailbridge.sandbox.directory import App, Directory
from mailbridge.sandbox.entra_certificates import ClientCertificate
from mailbridge.sandbox.entra_federation import Issuer
from mailbridge.sandbox.entra_walker import Landing
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in_desk import SignInDesk
from mailbridge.sign_ins import SignIns
from mailbridge.sinks.smtp_message import Envelope, wire_form
from mailbridge.sinks.smtp_session import Account, SmtpSession
from mailbridge.sinks.smtp_wire import SmtpServer
from mailbridge.sources.base import Known
from mailbridge.store.sealing import ring
from mailbridge.store.store import Store
from tests.servers.oauth_web import Browser, serving
from tests.servers.postfix import Postfix
from tests.servers.tokens import TokenRules

README: Final = Path(__file__).parents[2] / "README.md"
BEGIN: Final = "<!-- sign-in grid: made by `python -m tests.e2e.grid`, checked by the tests -->"
END: Final = "<!-- end of the sign-in grid -->"

Protocol = Literal["imap", "pop3", "smtp"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("imap", "pop3", "smtp")
TENANT: Final = "7d3f1c52-0000-4000-8000-5a1f00000001"
LOOPBACK: Final = "http://localhost:8400/callback"
SUBJECT: Final = "system:serviceaccount:alarm:mailbridge"


class Servers:
    """One Postfix and its Dovecot, which trust the tokens of one tenant, whenever it is started."""

    def __init__(self) -> None:
        self.key = SigningKey.generate()
        rules = TokenRules(
            public_key=self.key.public_pem,
            kid=self.key.kid,
            issuer=f"https://sts.windows.net/{TENANT}/",
            # Entra issues for two names of the same resource; the program asks for both.
            audience="",
            person="upn",
            unmarked=True,
        )
        self.postfix = Postfix(rules)

    def __enter__(self) -> Self:
        self.postfix.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.postfix.stop()


@dataclass(slots=True, kw_only=True)
class Case:
    """One sign-in about to be proven: a tenant, and the file that is being written."""

    tenant: Tenant
    home: Path
    address: str
    #: what the program has opened, once it has
    config: Config = field(init=False)
    sign_ins: SignIns = field(init=False)
    store: Store = field(init=False)
    run: Callable[..., Any] = field(init=False)
    app: App = field(init=False)
    #: the app's credential and the mailbox's keys, as lines of the file
    credential: list[str] = field(default_factory=list)
    mailbox: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Register an app that has no credential yet."""
        self.app = self.tenant.directory.add(App(name="grid"))

    def file(self, name: str, content: bytes) -> Path:
        """Write a file that only its owner can read."""
        path = self.home / name
        write_private(path, content)
        return path


# -- the ways to sign in: each prepares a case, and consents where a person has to -----------------

Prepare = Callable[[Case], None]
Consent = Callable[[Case, str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A row of the table."""

    name: str
    title: str
    prepare: Prepare
    consent: Consent | None = None


def _secret(case: Case) -> None:
    secret = case.file("secret", case.app.add_secret().encode())
    case.credential = [f"client_secret: {{file: {secret}}}"]


def _rotating(case: Case) -> None:
    """Entra does not know the new one yet."""
    new = case.file("new", b"not~known-to-entra-yet")
    old = case.file("old", case.app.add_secret().encode())
    case.credential = [f"client_secret: [{{file: {new}}}, {{file: {old}}}]"]


def _certificate(case: Case) -> ClientCertificate:
    made = ClientCertificate.generate(start=utc_now() - timedelta(hours=1), days=100)
    case.app.add_certificate(made.certificate_pem)
    return made


def _pem(case: Case) -> None:
    made = _certificate(case)
    path = case.file("app.pem", made.key_pem() + made.certificate_pem)
    case.credential = [f"certificate: {{file: {path}}}"]


def _pfx(case: Case) -> None:
    made, passphrase = _certificate(case), secrets.token_urlsafe(12)
    path = case.file("app.pfx", made.pfx(passphrase))
    word = case.file("app.pass", passphrase.encode())
    case.credential = [f"certificate: {{file: {path}, passphrase: {{file: {word}}}}}"]


def _federated(case: Case) -> None:
    cluster = case.tenant.entra.trust(Issuer(url="https://kubernetes.example", now=utc_now))
    case.app.add_federated(cluster.url, SUBJECT)
    path = case.file("federated", cluster.token(SUBJECT).encode())
    case.credential = [f"federated: {{file: {path}}}"]


def _managed(case: Case) -> None:
    """Give the identity to the machine; the app of the file only names the tenant."""
    case.tenant.grant(case.tenant.add_identity("vm"), case.tenant.mailbox(case.address))
    name, value = case.tenant.identities.machine
    case.environ[name] = value
    case.credential = ["managed_identity: system"]


def _person(case: Case) -> None:
    user = case.tenant.add_user(case.address)
    case.tenant.grant(user, case.tenant.mailbox(case.address))
    case.app.public_flows = True
    case.app.add_redirect(LOOPBACK, "public")
    case.tenant.entra.state.device_interval = 1
    case.mailbox = ["sign_in: delegated"]


def _web(case: Case) -> None:
    """Let the person sign in to an app that has a secret, as the daemon's pages need no other."""
    _person(case)
    case.app.public_flows = False
    _secret(case)


def _password(case: Case) -> None:
    _person(case)
    user = case.tenant.directory.users[case.address]
    password = case.file("password", user.password.encode())
    case.mailbox = ["sign_in: password", f"password: {{file: {password}}}"]


async def _by_browser(case: Case, mailbox: str) -> None:
    flow = case.sign_ins.browser_flow(mailbox)
    url = await flow.start(LOOPBACK)
    await _keep(case, await flow.finish((await _walked(case, url)).fields))


async def _by_web(case: Case, mailbox: str) -> None:
    """Follow a link to the daemon's pages, sign in at Microsoft's, and come back to them."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://localhost:{listener.getsockname()[1]}"
    case.app.add_redirect(url + CALLBACK)
    desk = SignInDesk(
        public_url=url,
        config=lambda: case.config,
        sign_ins=case.sign_ins,
        mended=lambda _: None,
        now=utc_now,
        run=case.run,
        test=_nothing_more,
    )
    jar = aiohttp.CookieJar(unsafe=True)
    async with serving(desk, listener), aiohttp.ClientSession(cookie_jar=jar) as session:
        browser = Browser(session)
        page = await browser.get(str((await desk.link({"mailbox": mailbox}))["url"]))
        away = await browser.post(f"{url}/oauth/start/{mailbox}", {"ticket": page.ticket})
        landing = await _walked(case, away.link)
        await browser.get(f"{url}{CALLBACK}?{urlencode(landing.fields)}")


async def _nothing_more(_mailbox: str) -> AsyncIterator[Tested]:
    """Try nothing behind the sign-in: that is what comes next here."""
    nothing: tuple[Tested, ...] = ()
    for step in nothing:
        yield step


async def _walked(case: Case, url: str) -> Landing:
    async with case.tenant.browser() as browser:
        return await browser.walk_authorize(url, case.tenant.directory.users[case.address])


async def _by_device(case: Case, mailbox: str) -> None:
    flow = case.sign_ins.device_flow(mailbox)
    prompt = await flow.start()
    async with case.tenant.browser() as browser:
        user = case.tenant.directory.users[case.address]
        await browser.approve_device(prompt.user_code, user)
    await _keep(case, await flow.wait())


async def _keep(case: Case, grant: Grant) -> None:
    await case.store.grants.save_grant(grant)


KINDS: Final = (
    Kind(name="secret", title="application, client secret", prepare=_secret),
    Kind(name="rotating", title="application, two secrets while rotating", prepare=_rotating),
    Kind(name="pem", title="application, certificate (PEM)", prepare=_pem),
    Kind(name="pfx", title="application, certificate (PFX with passphrase)", prepare=_pfx),
    Kind(name="federated", title="application, federated credential", prepare=_federated),
    Kind(name="managed", title="application, managed identity", prepare=_managed),
    Kind(
        name="browser",
        title="delegated, browser on this machine (code + PKCE)",
        prepare=_person,
        consent=_by_browser,
    ),
    Kind(name="device", title="delegated, device code", prepare=_person, consent=_by_device),
    Kind(
        name="web",
        title="delegated, link to the daemon's pages (web redirect)",
        prepare=_web,
        consent=_by_web,
    ),
    Kind(name="password", title="password (ROPC, deprecated by Microsoft)", prepare=_password),
)


# -- what proves a cell --------------------------------------------------------------------------


class Memory:
    """Knows nothing: every message of the mailbox is new."""

    async def fingerprints(self, uidvalidity: int) -> list[Any]:
        return []

    async def unknown(self, uidvalidity: int, uids: Any) -> list[int]:
        return list(uids)

    async def uidls(self) -> dict[str, bool]:
        return {}


async def prove(
    kind: Kind, servers: Servers, *, key: SigningKey | None = None
) -> dict[Protocol, bool]:
    """Sign in once and let a mail go through each protocol; returns where it arrived.

    Raises what went wrong where the program said more than no. ``key`` is what Entra signs
    with, if not what the servers trust.
    """
    address = f"{kind.name}-{uuid.uuid4().hex[:8]}@feuerwehr.example"
    directory = Directory(tenant_id=TENANT)
    with TemporaryDirectory(prefix="mailbridge-") as name:
        home = Path(name)
        async with Tenant.start(key=key or servers.key, directory=directory, files=home) as tenant:
            tenant.add_mailbox(address)
            case = Case(tenant=tenant, home=home, address=address)
            kind.prepare(case)
            with _environment(case.environ):
                async with _opened(case, servers):
                    if kind.consent is not None:
                        await kind.consent(case, "imap")
                    return {
                        "imap": await _fetches("imap", case, servers),
                        "pop3": await _fetches("pop3", case, servers),
                        "smtp": await _submits(case, servers),
                    }


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    former = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@asynccontextmanager
async def _opened(case: Case, servers: Servers) -> AsyncIterator[None]:
    """Load the configuration of a case, and open what the program opens of it."""
    path = case.home / "mailbridge.yaml"
    path.write_text(_text(case, servers), encoding="utf-8")
    case.config = config = load(path)
    with ThreadPoolExecutor(8) as pool:

        async def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, lambda: function(*args, **kwargs))

        case.run = run
        case.store = await Store.open(
            config.state.database.reveal(),
            now=utc_now,
            owner="grid",
            keys=ring(key.reveal() for key in config.state.key),
        )
        try:
            case.sign_ins = SignIns(config, grants=case.store.grants, now=utc_now, run=run)
            yield
            await case.sign_ins.close()
        finally:
            await case.store.close()


def _text(case: Case, servers: Servers) -> str:
    """Return the configuration: two mailboxes of one address, for there are two ways to fetch."""
    dovecot, postfix = servers.postfix.dovecot, servers.postfix
    key = case.file("state.key", base64.b64encode(secrets.token_bytes(32)))
    lines = [
        "state:",
        f"  database: sqlite:///{case.home}/mailbridge.db",
        f"  key: {{file: {key}}}",
        "apps:",
        "  grid:",
        f"    tenant: {case.tenant.entra.authority}",
        f"    ca: {case.tenant.ca_file}",
        f"    client_id: {case.app.client_id}",
    ]
    if case.credential:
        lines += ["    credential:", *(f"      {line}" for line in case.credential)]
    lines.append("mailboxes:")
    for protocol, port in (("imap", dovecot.imaps_port), ("pop3", dovecot.pop3s_port)):
        lines += [
            f"  {protocol}:",
            f"    address: {case.address}",
            "    app: grid",
            *(f"    {line}" for line in case.mailbox),
            "    fetch:",
            f"      protocol: {protocol}",
            "      start: all",
            f"      server: {{host: localhost, port: {port}, ca: {dovecot.ca_file}}}",
        ]
    lines += [
        "    send:",
        f"      server: {{host: localhost, port: {postfix.port}, ca: {postfix.ca_file}}}",
        "webhooks:",
        '  none: {url: "https://erp.example/hooks/mail"}',
    ]
    return "\n".join(lines) + "\n"


def _mail(case: Case) -> tuple[str, bytes]:
    mark = f"{uuid.uuid4()}@leitstelle.example"
    text = f"From: {case.address}\r\nTo: {case.address}\r\nMessage-ID: <{mark}>\r\n\r\nAlarm\r\n"
    return mark, text.encode()


async def _fetches(protocol: Protocol, case: Case, servers: Servers) -> bool:
    """Put a mail into the mailbox, and tell whether the real source brings it."""
    mark, raw = _mail(case)
    await asyncio.to_thread(servers.postfix.dovecot.deliver, case.address, raw)
    source = build_source(
        protocol,
        case.config.mailboxes[protocol],
        "INBOX",
        sign_in=case.sign_ins.of(protocol),
        shared=Shared(run=case.run, room=Room(2, patience=1.0)),
    )
    async with source.session() as session:
        batches = [b async for b in session.fetch(Known(checkpoint=None), Memory())]
    return any(mark.encode() in m.raw for batch in batches for m in batch.messages)


async def _submits(case: Case, servers: Servers) -> bool:
    """Submit a mail to the mailbox itself, and tell whether it has arrived there."""
    mark, raw = _mail(case)
    mailbox, sign_in = case.config.mailboxes["pop3"], case.sign_ins.of("pop3")
    assert mailbox.send is not None
    way = mailbox.send.server
    session = await SmtpSession.open(
        SmtpServer(host=way.host, port=way.port, tls=way.tls, ca=way.ca),
        Account(
            user=mailbox.account,
            mailbox=mailbox.address,
            token=sign_in.token,
            refresh=sign_in.force_refresh,
        ),
    )
    try:
        envelope = Envelope(sender=case.address, recipients=(case.address,))
        done = await session.submit(envelope, wire_form(raw), before_dot=lambda _: asyncio.sleep(0))
    finally:
        await session.close()

    def arrived() -> bool:
        # Two were put there by hand.
        mails = servers.postfix.wait_for(case.address, 3)
        return any(mark.encode() in mail for mail in mails)

    return done.taken == (case.address,) and await asyncio.to_thread(arrived)


# -- the table -----------------------------------------------------------------------------------


def table(proven: Mapping[str, Mapping[Protocol, bool]]) -> str:
    """Return the table in Markdown; ``proven`` is by the name of the kind."""
    lines = ["| sign-in | IMAP | POP3 | SMTP |", "|---|---|---|---|"]
    for kind in KINDS:
        cells = ["proven" if proven[kind.name][protocol] else "**fails**" for protocol in PROTOCOLS]
        lines.append(f"| {kind.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def written() -> str:
    """Return the table that stands in the README."""
    _, _, rest = README.read_text(encoding="utf-8").partition(BEGIN + "\n")
    return rest.partition(END)[0].strip()


def write(text: str) -> None:
    """Put a table into the README; ``ValueError`` when the two marks are not there."""
    whole = README.read_text(encoding="utf-8")
    head, begin, rest = whole.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README} lacks the line {BEGIN!r}, or the one that ends it")
    README.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def main() -> int:
    """Prove everything and write the table; exit code 1 when a cell fails."""
    started = datetime.now(UTC)
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=quiet)
    with Servers() as servers:
        proven = {kind.name: asyncio.run(prove(kind, servers)) for kind in KINDS}
    text = table(proven)
    write(text)
    seconds = (datetime.now(UTC) - started).total_seconds()
    sys.stdout.write(f"{text}\n{len(KINDS) * len(PROTOCOLS)} cells in {seconds:.0f} s\n")
    return 0 if all(all(cells.values()) for cells in proven.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
