"""Mail, tokens and webhooks through real proxies that alone know the way."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from mailbridge.errors import TemporaryError, Unavailable
from mailbridge.model import AccessToken, Deferred, Delivered
from mailbridge.proxy.dial import dial
from mailbridge.proxy.place import Proxy, parse
from mailbridge.sandbox.ca import Authority
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in.application import ApplicationSignIn
from mailbridge.sign_in.credentials import ClientSecret
from mailbridge.sign_in.registration import Registration
from mailbridge.sign_in.token_http import TokenHttp
from mailbridge.sinks.connector import Deadlines
from mailbridge.sinks.webhook import WebhookSink
from mailbridge.sources.transport import Line, MailServer, Tls, connect
from mailbridge.store.store import Store
from tests.contract import pop3_rigs
from tests.contract.imap_rigs import Ledger, mail, source_for
from tests.integration.test_diagnose import Bench
from tests.integration.test_webhook import attempt, delivery, sink_to
from tests.servers.dovecot import Dovecot
from tests.servers.proxies import Kind, RecordingProxy, recording_proxy
from tests.servers.receiver import Receiver, answer, receiving
from tests.servers.tokens import Minter

#: nobody listens there, so whoever connects past the proxy fails
NOWHERE = 1
PASSWORD = "canary/pä:ssword"
QUOTED = "canary%2Fp%C3%A4%3Assword"
KINDS: tuple[Kind, ...] = ("http", "socks5", "socks5h")

#: what a proxy says instead of yes: to CONNECT, and to a SOCKS5 request
NO = {
    "proxy.auth": (b"HTTP/1.1 407 canary\r\nProxy-Authenticate: Basic\r\n\r\n", None),
    "proxy.forbidden": (b"HTTP/1.1 403 canary\r\n\r\n", b"\x05\x02\x00"),
    "proxy.target": (b"HTTP/1.1 502 canary\r\n\r\n", b"\x05\x05\x00"),
    "proxy.refused": (b"HTTP/1.1 500 canary\r\n\r\n", b"\x05\x01\x00"),
    "proxy.protocol": (b"220 canary ESMTP\r\n", b"\x04\x5a canary"),
    "proxy.closed": (b"HTTP/1.1 200 OK\r\nVi", b"\x05\x00\x00\x01\x7f"),
}
TROUBLES = [
    (kind, code, said)
    for code, both in NO.items()
    for kind, said in zip(("http", "socks5h"), both, strict=True)
    if said is not None
]


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
async def tenant(key: SigningKey) -> AsyncIterator[Tenant]:
    async with Tenant.start(key=key) as running:
        yield running


@pytest.fixture
def app(tenant: Tenant) -> App:
    return tenant.add_app("alarm-app")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def place(proxy: RecordingProxy, *, known: bool = True) -> Proxy:
    """Return the proxy with its user and password, or with wrong ones."""
    made = parse(proxy.url)
    if not proxy.user:
        return made
    return replace(made, user=proxy.user, password=proxy.password if known else "wrong")


@asynccontextmanager
async def a_proxy(
    kind: Kind, leads_to: int, *, password: str = "", asked: int = NOWHERE
) -> AsyncIterator[RecordingProxy]:
    user = "us er" if password else ""
    async with recording_proxy(kind, {asked: leads_to}, user=user, password=password) as proxy:
        yield proxy


def silent_about(proxy: RecordingProxy, *texts: object) -> None:
    """No text holds the password, in any of the usual spellings, or what a proxy told."""
    whole = " ".join(map(str, texts))
    for spelling in ("canary", "p%C3%A4", "Y2FuYXJ5"):
        assert spelling not in whole
    assert proxy.place in whole


def whole(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# -- mail -------------------------------------------------------------------------------------


@asynccontextmanager
async def dovecot_behind(
    dovecot: Dovecot, minter: Minter, pool: ThreadPoolExecutor, address: str, server: MailServer
) -> AsyncIterator[tuple[Any, Ledger]]:
    raws = [mail(number) for number in range(1, 21)]
    await asyncio.to_thread(dovecot.seed, address, raws)

    async def token() -> AccessToken:
        return AccessToken(
            value=minter.mint_app(), expires_at=datetime.now(UTC) + timedelta(hours=1)
        )

    here: Any = type("Here", (), {"address": address, "server": server, "token": token})
    yield source_for(here, pool), Ledger()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("password", ["", PASSWORD], ids=["open", "secret"])
async def test_imap_through_a_proxy(
    dovecot: Dovecot, minter: Minter, pool: ThreadPoolExecutor, kind: Kind, password: str
) -> None:
    """All mail comes through the proxy, which alone knows the way and sees only TLS."""
    address = f"{kind}-{len(password)}@feuerwehr.example"
    async with a_proxy(kind, dovecot.imaps_port, password=password) as proxy:
        proxy.drips = True
        server = MailServer(
            host="localhost", port=NOWHERE, ca=Path(dovecot.ca_file), proxy=place(proxy)
        )
        async with dovecot_behind(dovecot, minter, pool, address, server) as (source, ledger):
            await ledger.look(source)

    assert ledger.numbers == list(range(1, 21))
    name = {"http": "localhost", "socks5h": "localhost", "socks5": proxy.asked[0][:-2]}[kind]
    assert name in {"localhost", "127.0.0.1", "[::1]"}
    assert (kind == "socks5") == (name != "localhost")
    assert set(proxy.asked) == {f"{name}:{NOWHERE}"}
    assert proxy.up[:2] == b"\x16\x03", "a TLS handshake is the first that the target hears"
    for clear in (b"AUTHENTICATE", b"XOAUTH2", b"FETCH"):
        assert clear not in proxy.up
    assert b"Subject" not in proxy.down


@pytest.mark.parametrize("kind", KINDS)
async def test_a_greeting_that_comes_with_the_proxys_answer_is_not_lost(
    dovecot: Dovecot, minter: Minter, pool: ThreadPoolExecutor, kind: Kind
) -> None:
    """With STARTTLS the server speaks first, and that may come in one packet with the yes."""
    address = f"joined-{kind}@feuerwehr.example"
    async with a_proxy(kind, dovecot.imap_port) as proxy:
        proxy.joins = True
        server = MailServer(
            host="localhost",
            port=NOWHERE,
            tls="starttls",
            ca=Path(dovecot.ca_file),
            proxy=place(proxy),
        )
        async with dovecot_behind(dovecot, minter, pool, address, server) as (source, ledger):
            await ledger.look(source)

    assert ledger.numbers == list(range(1, 21))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_pop3_through_a_proxy(
    tenant: Tenant, app: App, pool: ThreadPoolExecutor, kind: Kind, tls: Tls
) -> None:
    """POP3 goes the same way, with STLS too, where the greeting may come with the proxy's yes."""
    rig = pop3_rigs.SandboxRig(tenant, app, tls=tls)
    await rig.deliver(pop3_rigs.mail(1))
    store = await Store.open(
        f"sqlite:///{tenant.files}/mailbridge.db", now=lambda: datetime.now(UTC)
    )
    desk = pop3_rigs.Desk(store)
    try:
        async with a_proxy(kind, rig.server.port) as proxy:
            proxy.joins = tls == "starttls"
            rig.server = replace(rig.server, port=NOWHERE, proxy=place(proxy))
            await desk.look(pop3_rigs.source_for(rig, pool))
    finally:
        await store.close()

    assert desk.numbers == [1]
    assert len(proxy.asked) == 1
    assert b"AUTH XOAUTH2" not in proxy.up
    assert b"Subject" not in proxy.down


@pytest.mark.parametrize("kind", KINDS)
async def test_the_certificate_is_that_of_the_target(
    dovecot: Dovecot, pool: ThreadPoolExecutor, kind: Kind
) -> None:
    """A proxy that leads elsewhere meets a TLS that asks for the name of the target."""
    async with a_proxy(kind, dovecot.imaps_port, asked=993) as proxy:
        # Dovecot's certificate is trusted, and is for another name.
        server = MailServer(host="127.0.0.9", ca=Path(dovecot.ca_file), proxy=place(proxy))
        here: Any = type("Here", (), {"address": "a@b", "server": server, "token": _token})
        with pytest.raises(Unavailable) as caught:
            await Ledger().look(source_for(here, pool))

    assert caught.value.code == "tls.hostname"
    assert b"AUTHENTICATE" not in proxy.up


async def _token() -> AccessToken:
    return AccessToken(value="no", expires_at=datetime.now(UTC) + timedelta(hours=1))


@pytest.mark.parametrize(("kind", "code", "said"), TROUBLES)
async def test_a_mailbox_behind_a_proxy_that_says_no(
    pool: ThreadPoolExecutor, kind: Kind, code: str, said: bytes
) -> None:
    """Every no is a temporary fault with its code, names the proxy, and nothing goes past it."""
    async with a_proxy(kind, NOWHERE) as proxy:
        proxy.no(said)
        server = MailServer(host="localhost", port=NOWHERE, proxy=place(proxy))
        here: Any = type("Here", (), {"address": "a@b", "server": server, "token": _token})
        with pytest.raises(TemporaryError) as caught:
            await Ledger().look(source_for(here, pool))

    assert caught.value.code == code
    assert caught.value.fix
    silent_about(proxy, whole(caught.value), caught.value.fix)
    assert proxy.connections == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_that_does_not_run(kind: Kind) -> None:
    """A closed port and an unknown name are the proxy's fault and say so."""
    for text, code in (("127.0.0.1:1", "connection"), ("no-such-proxy.invalid:3128", "dns")):
        with pytest.raises(Unavailable) as caught:
            connect("127.0.0.1", 993, line=Line(parse(f"{kind}://{text}")), timeout=5)
        assert caught.value.code == f"proxy.{code}"
        assert text in str(caught.value)


@pytest.mark.parametrize(("kind", "password"), [("http", ""), ("http", "x"), ("socks5h", "x")])
async def test_the_wrong_password(kind: Kind, password: str) -> None:
    """A sign-in that is refused, or missing, is told as such with the way to mend it."""
    async with a_proxy(kind, NOWHERE, password=PASSWORD) as proxy:
        given = place(proxy, known=False) if password else parse(proxy.url)
        with pytest.raises(Unavailable) as caught:
            await asyncio.to_thread(connect, "mail.example", 993, line=Line(given), timeout=5)
    assert caught.value.code == "proxy.auth"
    assert ("refuses the user" if password else "wants a user and a password") in str(caught.value)
    silent_about(proxy, whole(caught.value), caught.value.fix)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hanging_proxy_is_cut_at_once(kind: Kind) -> None:
    """The line holds the socket while the proxy is silent, so a teardown need not wait for it."""
    async with a_proxy(kind, NOWHERE) as proxy:
        proxy.no(b"", then="hang")
        line = Line(parse(proxy.url))
        # An hour: only the cut can end it.
        waiting = asyncio.create_task(
            asyncio.to_thread(connect, "127.0.0.1", NOWHERE, line=line, timeout=3600)
        )
        await until(lambda: proxy.asked != [])
        line.cut()
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(waiting, 10)
    assert caught.value.code == "proxy.closed"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_silent_proxy_is_given_up(kind: Kind) -> None:
    """A proxy that takes the connection and says nothing is bounded by the connect timeout."""
    async with a_proxy(kind, NOWHERE) as proxy:
        proxy.no(b"", then="hang")
        with pytest.raises(Unavailable) as caught:
            await asyncio.to_thread(
                connect, "127.0.0.1", NOWHERE, line=Line(parse(proxy.url)), timeout=0.3
            )
    assert caught.value.code == "proxy.timeout"
    silent_about(proxy, caught.value)


async def test_a_proxy_that_drips_is_given_up() -> None:
    """The bound is for the whole answer: single bytes do not begin it anew."""
    async with a_proxy("http", NOWHERE) as proxy:
        # A millisecond a byte: this answer takes ten seconds and keeps to the bound on size.
        proxy.no(b"HTTP/1.1 200 OK\r\n" + b"X: drip\r\n" * 1100 + b"\r\n")
        proxy.drips = True
        with pytest.raises(Unavailable) as caught:
            await asyncio.to_thread(
                connect, "127.0.0.1", NOWHERE, line=Line(parse(proxy.url)), timeout=0.3
            )
    assert caught.value.code == "proxy.timeout"


@pytest.mark.parametrize(
    ("url", "answers"),
    [
        ("http", [b"HTTP/1.1 200 Connection established\r\nVia: 1.1 p\r\n\r\n"]),
        ("socks5h", [b"\x05\x02", b"\x01\x00", b"\x05\x00\x00\x03\x04test\x04\x38"]),
    ],
)
def test_an_end_at_every_byte_of_the_handshake(url: str, answers: list[bytes]) -> None:
    """Wherever the proxy hangs up, it is told apart from an answer and no socket is left."""
    spoken = b"".join(answers)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        given = parse(f"{url}://us:er@127.0.0.1:{listener.getsockname()[1]}")
        for length in range(len(spoken) + 1):
            server = threading.Thread(target=_say_and_close, args=(listener, answers, length))
            server.start()
            if length == len(spoken):
                dial(given, "mail.example", 993, timeout=5).close()
            else:
                with pytest.raises(Unavailable) as caught:
                    dial(given, "mail.example", 993, timeout=5)
                assert caught.value.code == "proxy.closed", length
            server.join()


def _say_and_close(listener: socket.socket, answers: list[bytes], length: int) -> None:
    taken, _ = listener.accept()
    with taken:
        for said in answers:
            taken.recv(65536)
            taken.sendall(said[: max(length, 0)])
            length -= len(said)
            if length <= 0:
                break
        # An orderly end: what the client still says is taken first.
        taken.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while taken.recv(65536):
                pass


async def test_keepalive_holds_through_a_proxy(dovecot: Dovecot) -> None:
    """A parked session behind a proxy is watched by the kernel like any other."""
    async with a_proxy("http", dovecot.imaps_port) as proxy:
        line = Line(parse(proxy.url))
        through = await asyncio.to_thread(connect, "localhost", NOWHERE, line=line, timeout=5)
        direct = connect("localhost", dovecot.imaps_port, line=Line(None), timeout=5)
        with through, direct:
            for level, option in (
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            ):
                assert through.getsockopt(level, option) == direct.getsockopt(level, option)
            assert through.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert through.gettimeout() == direct.gettimeout() == 5


async def test_a_proxy_of_the_environment_carries_mail_from_outside(dovecot: Dovecot) -> None:
    """A name that means nothing here goes to the proxy; one that means loopback does not."""
    async with a_proxy("http", dovecot.imaps_port) as proxy:
        line = Line(replace(parse(proxy.url), variable="all_proxy"))
        through = await asyncio.to_thread(
            connect, "mail.nowhere.invalid", NOWHERE, line=line, timeout=5
        )
        with through:
            assert through.getpeername()[1] == proxy.port
        with connect("localhost", dovecot.imaps_port, line=line, timeout=5) as direct:
            assert direct.getpeername()[1] == dovecot.imaps_port
    assert proxy.asked == [f"mail.nowhere.invalid:{NOWHERE}"]


# -- tokens -----------------------------------------------------------------------------------


class Desk:
    """Makes sign-ins for the sandbox's app, whose Entra is behind a proxy."""

    def __init__(self, tenant: Tenant, app: App, pool: ThreadPoolExecutor) -> None:
        self.entra, self.ca, self._app, self._pool = tenant.entra, tenant.ca_file, app, pool
        # It names this port in its discovery document, so the proxy has to know it.
        self.port = int(self.entra.authority.rpartition(":")[2].partition("/")[0])

    def run(self, function: Any, *args: Any) -> Any:
        """Run a blocking function in a thread."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, functools.partial(function, *args))

    def sign_in(self, proxy: Proxy) -> ApplicationSignIn:
        """Return a sign-in through this proxy."""
        app = Registration(
            name="alarm-app",
            authority_url=self.entra.authority,
            client_id=self._app.client_id,
            credentials=[ClientSecret(self._app.secret)],
            ca=self.ca,
            proxy=proxy,
        )
        return ApplicationSignIn(
            app=app,
            scope="https://outlook.office365.com/.default",
            now=lambda: datetime.now(UTC),
            run=self.run,
        )


@pytest.fixture
def desk(tenant: Tenant, app: App, pool: ThreadPoolExecutor) -> Desk:
    return Desk(tenant, app, pool)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("password", ["", PASSWORD], ids=["open", "secret"])
async def test_a_token_through_a_proxy(desk: Desk, kind: Kind, password: str) -> None:
    """The requests of msal go through the proxy, under TLS that it cannot read."""
    async with a_proxy(kind, desk.port, password=password, asked=desk.port) as proxy:
        assert (await desk.sign_in(place(proxy)).token()).value

    assert len(proxy.asked) == desk.entra.discoveries + len(desk.entra.requests) == 2
    assert b"client_secret" not in proxy.up
    assert b"access_token" not in proxy.down


@pytest.mark.parametrize(("kind", "code", "said"), TROUBLES)
async def test_entra_behind_a_proxy_that_says_no(
    desk: Desk, kind: Kind, code: str, said: bytes
) -> None:
    """What the proxy refuses is no rejected credential, and Entra is not asked past it."""
    async with a_proxy(kind, desk.port, password=PASSWORD) as proxy:
        proxy.no(said)
        with pytest.raises(TemporaryError) as caught:
            await desk.sign_in(place(proxy)).token()

    assert (caught.value.code, bool(caught.value.fix)) == (code, True)
    silent_about(proxy, whole(caught.value), caught.value.fix)
    assert (desk.entra.discoveries, len(desk.entra.requests)) == (0, 0)


async def test_tokens_never_go_in_clear_past_a_proxy() -> None:
    """Where a proxy is set there is no other way: an http:// address reaches nobody."""
    async with receiving() as receiver, a_proxy("http", receiver.port) as proxy:
        http = TokenHttp(None, place(proxy))
        with pytest.raises(Unavailable):
            await asyncio.to_thread(http.get, receiver.url())
    assert (proxy.connections, receiver.connections) == (0, 0)


async def test_no_password_is_shown_anywhere(
    desk: Desk, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """With every library at debug and no redaction, neither logs nor reprs nor errors hold it."""
    caplog.set_level(logging.DEBUG)
    shown: list[object] = []
    with structlog.testing.capture_logs() as events:
        for kind in KINDS:
            async with a_proxy(kind, desk.port, password=PASSWORD, asked=desk.port) as proxy:
                for given in (place(proxy), place(proxy, known=False)):
                    sign_in, line = desk.sign_in(given), Line(given)
                    shown += [given, line, MailServer(proxy=given), sign_in, vars(sign_in)]
                    shown += await _tried(sign_in.token())
                    shown += await _tried(
                        asyncio.to_thread(connect, "localhost", desk.port, line=line, timeout=5)
                    )
                    async with sink_to(f"https://localhost:{desk.port}", proxy=given) as sink:
                        shown += [sink, await attempt(sink)]
    text = "\n".join(map(repr, [*shown, *events])) + caplog.text
    silent_about(proxy, text)
    assert "us er" not in text


async def _tried(work: Awaitable[Any]) -> list[object]:
    try:
        made = await work
    except Unavailable as error:
        return [error, vars(error), whole(error)]
    if isinstance(made, socket.socket):
        made.close()
    return [type(made)]


# -- webhooks ---------------------------------------------------------------------------------

HOST = "hook.example"


async def unknown_here(_host: str, _port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def known_as(*addresses: str) -> Callable[[str, int], Any]:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return resolve


class Behind:
    """A receiver with a certificate for ``hook.example`` and a proxy that leads there."""

    def __init__(self, receiver: Receiver, proxy: RecordingProxy, ca: Path) -> None:
        self.receiver, self.proxy, self.ca = receiver, proxy, ca

    def sink(self, **settings: Any) -> WebhookSink:
        usual: dict[str, Any] = {
            "proxy": place(self.proxy),
            "ca": str(self.ca),
            "resolve": unknown_here,
            "allow_private": False,
        }
        return sink_to(f"{self.receiver.scheme}://{HOST}:{NOWHERE}/hook", **(usual | settings))


@asynccontextmanager
async def behind(
    kind: Kind, home: Path, *, password: str = "", name: str = HOST, clear: bool = False
) -> AsyncIterator[Behind]:
    authority = Authority()
    tls = None if clear else authority.server_context([name])
    async with (
        receiving(tls=tls) as receiver,
        a_proxy(kind, receiver.port, password=password) as proxy,
    ):
        yield Behind(receiver, proxy, authority.write(home))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("password", ["", PASSWORD], ids=["open", "secret"])
async def test_a_webhook_through_a_proxy(kind: Kind, password: str, tmp_path: Path) -> None:
    """Deliveries share one tunnel to a receiver that only the proxy knows, under its own TLS."""
    async with behind(kind, tmp_path, password=password) as there:
        there.proxy.drips = True
        # A socks5 proxy is given an address, which has to be known here: any public one.
        resolve = known_as("8.8.8.8") if kind == "socks5" else unknown_here
        async with there.sink(resolve=resolve) as sink:
            outcomes = [await attempt(sink, delivery(n)) for n in range(5)]

    assert {type(outcome) for outcome in outcomes} == {Delivered}
    assert len(there.receiver.requests) == 5
    assert (there.proxy.connections, there.receiver.connections) == (1, 1)
    asked = "8.8.8.8" if kind == "socks5" else HOST
    assert there.proxy.asked == [f"{asked}:{NOWHERE}"]
    assert b"webhook-id" not in there.proxy.up


async def test_as_many_tunnels_as_concurrency(tmp_path: Path) -> None:
    """The limit on connections holds through a proxy, and lost tunnels are opened anew."""
    async with behind("http", tmp_path) as there, there.sink(concurrency=3) as sink:
        await asyncio.gather(*(attempt(sink, delivery(n)) for n in range(30)))
        assert there.proxy.connections <= 3
        there.receiver.script = answer(200, close=True)
        outcomes = [await attempt(sink, delivery(n)) for n in range(3)]
    assert {type(outcome) for outcome in outcomes} == {Delivered}


@pytest.mark.parametrize(("kind", "code", "said"), TROUBLES)
async def test_a_webhook_behind_a_proxy_that_says_no(
    kind: Kind, code: str, said: bytes, tmp_path: Path
) -> None:
    """Every no defers with a reason that names receiver, proxy and fix; nothing goes past it."""
    async with behind(kind, tmp_path, password=PASSWORD) as there, there.sink() as sink:
        there.proxy.no(said)
        outcome = await attempt(sink)

    assert isinstance(outcome, Deferred), code
    assert outcome.reason.startswith(f"{HOST}: proxy {there.proxy.place} ")
    silent_about(there.proxy, outcome.reason, repr(sink))
    assert not there.receiver.requests


async def test_a_webhook_behind_a_hanging_proxy_is_given_up(tmp_path: Path) -> None:
    """A proxy that says nothing is bounded by the deadline for connecting."""
    async with behind("http", tmp_path) as there:
        there.proxy.no(b"HTTP/1.1 200", then="hang")
        limits = Deadlines(connect=0.2)
        async with there.sink(deadlines=limits) as sink:
            outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert f"proxy {there.proxy.place} did not answer in time" in outcome.reason


async def test_a_webhook_whose_proxy_does_not_run() -> None:
    """A closed port is the proxy's fault and is told as such."""
    closed = parse("http://127.0.0.1:1")
    async with sink_to(f"https://{HOST}/", proxy=closed, resolve=unknown_here) as sink:
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert "proxy 127.0.0.1:1 cannot be reached: Connection refused" in outcome.reason


async def test_a_proxy_that_leads_a_webhook_elsewhere(tmp_path: Path) -> None:
    """The name in the URL is what the certificate has to bear, or no byte of mail is sent."""
    async with behind("http", tmp_path, name="other.example") as there, there.sink() as sink:
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert "certificate refused: Hostname mismatch" in outcome.reason
    assert not there.receiver.requests


async def test_an_answer_that_came_before_the_request_is_not_taken(tmp_path: Path) -> None:
    """Bytes behind the proxy's yes are refused: they would be the receiver's word for nothing."""
    async with behind("http", tmp_path, clear=True) as there:
        there.proxy.answer = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        there.proxy.then = "hang"
        settings = {"allow_private": True, "resolve": known_as("10.0.0.5")}
        async with there.sink(**settings) as sink:
            outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert "bytes behind its answer" in outcome.reason
    assert not there.receiver.requests


# -- the guard --------------------------------------------------------------------------------

EXPLICIT = "http://127.0.0.1:{port}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("url", "known", "settings", "says"),
    [
        ("https://10.0.0.5/", None, {}, "10.0.0.5 is private"),
        ("https://169.254.169.254/", None, {"allow_private": True}, "never connected to"),
        ("https://localhost/", None, {}, "localhost is loopback"),
        ("https://hook.example/", ["10.0.0.5"], {}, "10.0.0.5 is private"),
        ("https://hook.example/", ["169.254.169.254"], {"allow_private": True}, "never connected"),
        ("http://hook.example/", ["8.8.8.8"], {"allow_private": True}, "8.8.8.8 is public"),
    ],
)
async def test_the_guard_judges_before_the_proxy_is_asked(
    kind: Kind, url: str, known: Sequence[str] | None, settings: dict[str, Any], says: str
) -> None:
    """Addresses in the URL, and those that are known here, are refused as without a proxy."""
    resolve = known_as(*known) if known else unknown_here
    usual: dict[str, Any] = {"allow_private": False}
    async with (
        recording_proxy(kind) as proxy,
        sink_to(url, proxy=parse(proxy.url), resolve=resolve, **(usual | settings)) as sink,
    ):
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert says in outcome.reason
    assert (proxy.connections, proxy.asked) == (0, [])


@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_one_refused_address_refuses_a_name(kind: Kind) -> None:
    """The proxy could choose the address that was refused, so the name is not asked for."""
    resolve = known_as("8.8.8.8", "10.0.0.5")
    async with (
        recording_proxy(kind) as proxy,
        sink_to(
            f"https://{HOST}/", proxy=parse(proxy.url), resolve=resolve, allow_private=False
        ) as sink,
    ):
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert "10.0.0.5 is private" in outcome.reason
    assert proxy.connections == 0


@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_a_name_that_only_the_proxy_knows_gets_no_mail_in_clear(kind: Kind) -> None:
    """http:// is for private addresses, and nobody here can say that this is one."""
    async with (
        recording_proxy(kind) as proxy,
        sink_to(f"http://{HOST}/", proxy=parse(proxy.url), resolve=unknown_here) as sink,
    ):
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert "only the proxy could look it up" in outcome.reason
    assert proxy.connections == 0


async def test_an_unknown_name_is_looked_up_once_a_minute(tmp_path: Path) -> None:
    """Where outside names are unknown, the glance at them does not hold up every delivery."""
    asked = 0

    async def resolve(host: str, port: int) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return await unknown_here(host, port)

    async with behind("http", tmp_path) as there, there.sink(resolve=resolve) as sink:
        there.receiver.script = answer(200, close=True)
        for number in range(4):
            assert isinstance(await attempt(sink, delivery(number)), Delivered)
    assert (there.proxy.connections, asked) == (4, 1)


async def test_a_resolver_that_hangs_does_not_keep_a_webhook_from_its_proxy(
    tmp_path: Path,
) -> None:
    """The glance at a name has a bound of its own, so the proxy is asked all the same."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with behind("socks5h", tmp_path) as there, there.sink(resolve=resolve) as sink:
        assert isinstance(await attempt(sink), Delivered)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_of_the_environment_is_left_out_inside(kind: Kind) -> None:
    """A receiver whose name means a private address is reached directly, proxy or not."""
    around = replace(parse(f"{kind}://127.0.0.1:1"), variable="all_proxy")
    async with receiving() as receiver:
        url = f"http://alarm.lan:{receiver.port}/"
        resolve = known_as("127.0.0.1")
        async with sink_to(url, proxy=around, resolve=resolve) as sink:
            assert isinstance(await attempt(sink), Delivered)


async def test_a_proxy_of_the_environment_looks_up_no_unknown_names(tmp_path: Path) -> None:
    """Only a proxy that the file names is trusted with names that cannot be judged here."""
    async with behind("http", tmp_path) as there:
        around = replace(place(there.proxy), variable="https_proxy")
        async with there.sink(proxy=around) as sink:
            outcome = await attempt(sink)
        async with there.sink(proxy=around, resolve=known_as("8.8.8.8")) as sink:
            assert isinstance(await attempt(sink), Delivered)
    assert isinstance(outcome, Deferred)
    assert "write `proxy:` for this webhook" in outcome.reason
    assert there.proxy.asked == [f"{HOST}:{NOWHERE}"]


# -- the diagnosis ----------------------------------------------------------------------------


@pytest.fixture
async def bench(key: SigningKey, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Tenant.start(key=key, files=tmp_path) as tenant:
        app = tenant.add_app("alarm-app")
        tenant.grant(app, tenant.add_mailbox("alarm@feuerwehr.example"))
        yield Bench(tenant, app, tmp_path / "state")


def mail_by(bench: Bench, url: str) -> Callable[[str], str]:
    """Return a change of the configuration: the mail server behind this proxy."""
    old = f"port: {bench.tenant.imap.port}"
    return lambda text: text.replace(old, f"port: {NOWHERE}, proxy: {url!r}")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_diagnosis_shows_the_proxy(bench: Bench, kind: Kind) -> None:
    """Each step that goes through a proxy says so, and which one."""
    entra = int(bench.tenant.entra.authority.rpartition(":")[2].partition("/")[0])
    async with recording_proxy(kind, {NOWHERE: bench.tenant.imap.port, entra: entra}) as proxy:
        mail_too = mail_by(bench, proxy.url)
        tokens = f"    proxy: {proxy.url}\n    credential:\n"
        steps = await bench.steps(lambda text: mail_too(text.replace("    credential:\n", tokens)))

    assert {step.status for step in steps.values()} == {"ok"}
    through = f"through proxy {proxy.url}"
    assert f"mail {through}, tokens {through}" in steps["config"].detail
    assert ("the proxy resolves localhost" in steps["dns"].detail) == (kind != "socks5")
    assert "127.0.0.1 is 127.0.0.1" in steps["dns"].detail
    assert steps["tcp"].detail.endswith(through)
    assert steps["tenant"].detail.endswith(through)
    assert any(asked.endswith(f":{NOWHERE}") for asked in proxy.asked)
    heard = bench.tenant.entra.discoveries + len(bench.tenant.entra.requests)
    assert sum(asked.endswith(f":{entra}") for asked in proxy.asked) == heard > 1


@pytest.mark.parametrize(("kind", "code", "said"), TROUBLES)
async def test_the_diagnosis_explains_what_a_proxy_refuses(
    bench: Bench, kind: Kind, code: str, said: bytes
) -> None:
    """The TCP step names the cause, the code and the fix; what needs no mail server goes on."""
    async with recording_proxy(kind) as proxy:
        proxy.no(said)
        steps = await bench.steps(mail_by(bench, proxy.url))

    assert (steps["dns"].status, steps["tcp"].code) == ("ok", code)
    assert steps["tcp"].fix
    silent_about(proxy, steps["tcp"])
    assert [steps[name].status for name in ("tls", "token", "sign_in")] == [
        "skipped",
        "ok",
        "skipped",
    ]


async def test_the_diagnosis_knows_an_unknown_proxy(bench: Bench) -> None:
    """A proxy's name that has no address fails the DNS step as the proxy's, not the server's."""
    steps = await bench.steps(mail_by(bench, "http://no-such-proxy.invalid:3128"))

    assert steps["dns"].code == "proxy.dns"
    assert "no-such-proxy.invalid" in steps["dns"].detail
    assert steps["tcp"].status == "skipped"


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not there():
            await asyncio.sleep(0.01)
