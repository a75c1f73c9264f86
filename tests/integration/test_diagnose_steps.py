"""Each step of test-mailbox by itself: what a token says, webhooks, arrivals, real mail servers."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
import trustme

from mailbridge.catalogue.base import Text
from mailbridge.config import Config, load
from mailbridge.diagnose import arrival, words
from mailbridge.diagnose.arrival import pauses, until
from mailbridge.diagnose.desk import DiagnosisDesk
from mailbridge.diagnose.finding import Fault, Told
from mailbridge.diagnose.mail import ImapProbe, probe
from mailbridge.diagnose.own import OWN
from mailbridge.diagnose.tokens import Tokens
from mailbridge.diagnose.webhooks import webhooks_of
from mailbridge.errors import PermanentError, Unavailable
from mailbridge.model import AccessToken, Grant
from mailbridge.sign_in.base import Kind, Standing
from mailbridge.sinks import address
from mailbridge.sources.transport import MailServer
from tests.integration.test_diagnose import Bench, bench
from tests.servers.dovecot import Dovecot
from tests.servers.tokens import Minter

__all__ = ["bench"]  # the fixture

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
CONFIG = """
state: {{database: "sqlite:////nowhere/mailbridge.db"{key}}}
apps:
  alarm-app: {{tenant: {tenant}, client_id: {client}}}
mailboxes:
  alarm:
    address: alarm@feuerwehr.example
    app: alarm-app
    sign_in: delegated
    fetch: {{protocol: {protocol}}}
    {more}
webhooks:
  erp: {{url: "https://erp.example/"}}
"""


def config(tmp_path: Path, *, protocol: str = "imap", more: str = "", key: bool = True) -> Config:
    """Return the configuration of a mailbox that a person signs in for."""
    secret = tmp_path / "state.key"
    secret.write_text(base64.b64encode(bytes(range(32))).decode())
    secret.chmod(0o600)
    file = tmp_path / "mailbridge.yaml"
    line = f", key: {{file: {json.dumps(str(secret))}}}"
    text = CONFIG.format(tenant=TENANT, client=CLIENT, protocol=protocol, more=more, key=line)
    file.write_text(text)
    found = load(file)
    if key:
        return found
    # The file without it is refused already; what is looked at here may change while it runs.
    state = found.state.model_copy(update={"key": ()})
    return found.model_copy(update={"state": state})


def jwt(**claims: Any) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part(claims)}.x"


def good(**claims: Any) -> dict[str, Any]:
    return {
        "aud": "https://outlook.office.com",
        "tid": TENANT,
        "appid": CLIENT,
        "scp": "IMAP.AccessAsUser.All",
        "oid": "of-the-person",
        "exp": datetime.now(UTC).timestamp() + 3000,
        **claims,
    }


class Person:
    """A sign-in that has a token already."""

    name = "alarm-app"
    kind: Kind = "delegated"
    refreshes = failures = 0

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> AccessToken:
        return AccessToken(value=self._token, expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def force_refresh(self, refused: AccessToken | None = None) -> AccessToken:
        return refused or await self.token()

    def standing(self) -> Standing:
        return Standing(kind="delegated", app=self.name)

    async def reload(self) -> None: ...
    async def close(self) -> None: ...


class Grants:
    """A store of grants with one, or none."""

    def __init__(self, kept: Grant | None) -> None:
        self._kept = kept

    async def grant(self, app: str, account: str) -> Grant | None:
        del app, account
        return self._kept

    async def save_grant(self, grant: Grant) -> None:
        raise NotImplementedError(grant)

    async def forget_grant(self, app: str, account: str) -> bool:
        raise NotImplementedError(app, account)


async def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await asyncio.to_thread(function, *args, **kwargs)


async def claimed(of: Config, token: str) -> Told:
    tokens = Tokens(config=of, name="alarm", sign_in=Person(token), grants=None, run=run)
    await tokens.fetch()
    return await tokens.claims()


async def fault_of(work: Awaitable[object]) -> Fault:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value


# -- what a token says


async def test_a_good_token_is_told_of_in_full(tmp_path: Path) -> None:
    """Audience, permissions, tenant, app, expiry and length; a person's id is no app's."""
    of = config(tmp_path)
    said = (await claimed(of, jwt(**good()))).of("en")
    for wanted in ("https://outlook.office.com", "IMAP.AccessAsUser.All", TENANT, CLIENT):
        assert wanted in said
    assert "ends in 50 minutes" in said or "ends in 49 minutes" in said
    assert "characters" in said
    tokens = Tokens(config=of, name="alarm", sign_in=Person(jwt(**good())), grants=None, run=run)
    await tokens.fetch()
    await tokens.claims()
    assert tokens.object_id == ""


@pytest.mark.parametrize(
    ("claims", "code", "warning"),
    [
        ({"aud": "https://graph.microsoft.com"}, "claims.audience", False),
        ({"aud": None}, "claims.audience", False),
        ({"tid": "99999999-2222-3333-4444-555555555555"}, "claims.tenant", False),
        ({"appid": "99999999-7777-8888-9999-000000000000"}, "claims.app", False),
        ({"exp": 1_700_000_000}, "claims.expired", False),
        ({"scp": "Mail.Read"}, "claims.scope", False),
        ({"scp": None}, "claims.scope", False),
    ],
)
async def test_each_claim_that_is_wrong_is_found(
    tmp_path: Path,
    claims: dict[str, Any],
    code: str,
    warning: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    """One at a time, before any mail server refuses it without a reason."""
    fault = await fault_of(claimed(config(tmp_path), jwt(**good(**claims))))
    assert (fault.code, fault.warning) == (code, warning)
    assert fault.said.of("de") != ""


async def test_a_token_that_is_no_jwt_is_a_warning(tmp_path: Path) -> None:
    """What cannot be read says nothing against the token; the sign-in shows it."""
    fault = await fault_of(claimed(config(tmp_path), "opaque-token-of-another-server"))
    assert (fault.code, fault.warning) == ("claims.opaque", True)
    assert "opaque" not in str(fault)


async def test_pop3_and_smtp_want_their_own_permissions(tmp_path: Path) -> None:
    """What is missing is named by protocol."""
    token = jwt(**good())
    pop3 = await fault_of(claimed(config(tmp_path, protocol="pop3"), token))
    smtp = await fault_of(claimed(config(tmp_path, more="send: {}"), token))
    assert (pop3.code, smtp.code) == ("claims.scope.pop3", "claims.scope.smtp")


async def test_consent_is_looked_for_before_a_token(tmp_path: Path) -> None:
    """No key, nobody has signed in, or who did, when, and for what."""
    now = datetime(2026, 11, 1, tzinfo=UTC)
    kept = Grant(
        app="alarm-app",
        account="alarm@feuerwehr.example",
        refresh_token="never-shown",
        scopes=("https://outlook.office.com/IMAP.AccessAsUser.All",),
        granted_at=now,
        refreshed_at=now,
    )

    def step(of: Config, grants: Grants) -> Awaitable[Told]:
        person = Person("")
        return Tokens(config=of, name="alarm", sign_in=person, grants=grants, run=run).grant()

    no_key = await fault_of(step(config(tmp_path, key=False), Grants(None)))
    nobody = await fault_of(step(config(tmp_path), Grants(None)))
    said = (await step(config(tmp_path), Grants(kept))).of("en")
    assert (no_key.code, nobody.code) == ("grant.no_key", "sign_in.no_grant")
    assert "2026-11-01" in said
    assert "IMAP.AccessAsUser.All" in said
    assert "never-shown" not in said


# -- webhooks


@asynccontextmanager
async def listening(
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Accept connections and keep every byte that comes."""
    heard: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


async def heard_of(heard: list[bytes]) -> list[bytes]:
    for _ in range(100):
        if heard:
            break
        await asyncio.sleep(0.05)
    return heard


async def test_a_webhook_is_reached_and_nothing_is_posted(bench: Bench) -> None:
    """The connection that a delivery would make, and not one byte over it."""
    async with listening() as (port, heard):
        steps = await bench.steps(webhook=f"http://127.0.0.1:{port}/key-in-the-path")
        assert await heard_of(heard) == [b""]
    step = steps["webhook:receiver"]
    assert step.status == "ok"
    assert f"127.0.0.1 port {port}" in step.detail or "connected to 127.0.0.1" in step.detail
    assert "nothing was posted" in step.detail
    assert "key-in-the-path" not in str(steps)


async def test_a_webhook_with_tls_is_reached_by_its_own_authority(
    bench: Bench, tmp_path: Path
) -> None:
    """With `tls.ca` it is trusted, without it the step says which certificate is not."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    ca = tmp_path / "hook-ca.pem"
    authority.cert_pem.write_to_path(str(ca))

    def trusting(text: str) -> str:
        return text + f"    tls: {{ca: {json.dumps(str(ca))}}}\n"

    async with listening(context) as (port, heard):
        good_one = await bench.steps(trusting, webhook=f"https://localhost:{port}/")
        assert await heard_of(heard) == [b""]
        bad_one = await bench.steps(webhook=f"https://localhost:{port}/")
    assert good_one["webhook:receiver"].status == "ok"
    assert "TLSv1" in good_one["webhook:receiver"].detail
    assert bad_one["webhook:receiver"].code == "webhook.tls"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://no-such-receiver.invalid/", "webhook.dns"),
        ("http://127.0.0.1:{closed}/", "webhook.connect"),
        ("https://inside.example/", "webhook.address_refused"),
    ],
)
async def test_a_webhook_that_cannot_be_reached_fails_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, url: str, code: str
) -> None:
    """DNS, a closed port, a public name with a private address: its own step, and a fix."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    if code == "webhook.address_refused":
        monkeypatch.setattr(address, "_look_up", lambda _host, _port: ["10.0.0.1"])

    def change(text: str) -> str:
        return text.replace("    allow_private: true\n", "") if "inside" in url else text

    steps = await bench.steps(change, webhook=url.format(closed=closed))
    step = steps["webhook:receiver"]
    assert (step.status, step.code) == ("failed", code)
    assert step.fix
    assert {one.status for name, one in steps.items() if name != "webhook:receiver"} == {"ok"}


ROUTES = """
routes:
  first: {webhooks: [erp]}
  second: {webhooks: [divera, erp]}
  other: {webhooks: [elsewhere]}
webhooks:
  erp: {url: "https://erp.example/"}
  divera: {url: "https://divera.example/", fallback: {webhook: sms, after: 60s}}
  sms: {url: "https://sms.example/", events: [mail.received]}
  elsewhere: {url: "https://elsewhere.example/"}
  reports: {url: "https://reports.example/", events: [delivery.dead]}
"""


def test_only_webhooks_that_mails_can_lead_to_are_tried(tmp_path: Path) -> None:
    """By the mailbox's routes, and who steps in for them; without routes, whoever gets mails."""
    config(tmp_path)
    file = tmp_path / "mailbridge.yaml"
    text = file.read_text().split("webhooks:\n  erp")[0] + ROUTES
    listed = "    app: alarm-app\n    routes: [first, second]\n"
    file.write_text(text.replace("    app: alarm-app\n", listed))
    assert webhooks_of(load(file), "alarm") == ["erp", "divera", "sms"]
    file.write_text(text)
    assert webhooks_of(load(file), "alarm") == ["erp", "divera", "sms", "elsewhere"]


# -- isolation and words


async def test_a_fault_of_ours_ends_one_step_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other steps go on and are as they are."""

    async def broken(self: ImapProbe) -> Told:
        del self
        raise ZeroDivisionError

    monkeypatch.setattr(ImapProbe, "header", broken)
    steps = await bench.steps()
    assert (steps["header"].status, steps["header"].code) == ("failed", "bug")
    assert {step.status for name, step in steps.items() if name != "header"} == {"ok"}


async def test_an_unknown_refusal_is_told_in_the_servers_words(bench: Bench) -> None:
    """With the correlation id that Microsoft's support asks for, in either language."""
    bench.tenant.faults.add(
        "token.error", error="invalid_request", code=987654, text="Something nobody has seen."
    )
    steps = await bench.steps(language="de")
    step = steps["token"]
    assert step.code == "AADSTS987654"
    assert "Something nobody has seen." in step.cause
    assert "correlation id " in step.detail
    assert steps["claims"].detail == "braucht: Token"


def test_every_word_is_there_in_both_languages() -> None:
    """With the same places to fill in, and none of them empty in one language alone."""
    texts: dict[str, Text] = {**words.WORDS, **words.NAMES, **words.MARKS}
    for key, text in texts.items():
        assert bool(text.en) == bool(text.de), key
        assert _fields(text.en) == _fields(text.de), key
    for entry in OWN.values():
        for part in (entry.cause, entry.fix):
            assert part.en != part.de
            assert part.en.count("$") == part.de.count("$")


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


async def test_a_mailbox_that_the_daemon_does_not_know_yet_is_told_of(tmp_path: Path) -> None:
    """The file has it and the daemon was not reloaded: the fix is the reload, not a traceback."""
    of = config(tmp_path)
    desk = DiagnosisDesk(
        config=lambda: of, sign_in=lambda _name: Person(""), grants=Grants(None), expecting={}
    )
    with pytest.raises(PermanentError) as caught:
        await desk.commands()["diagnose"]({"mailbox": "newer"})
    assert caught.value.code == "control.no_mailbox"
    assert "reload" in caught.value.fix


# -- arrival


def test_looks_are_few_and_their_end_is_known() -> None:
    """In two minutes at most twenty looks, ever further apart, and none after the end."""
    waits = list(pauses(120.0))
    assert sum(waits) == pytest.approx(120.0)
    assert len(waits) <= 20
    assert waits[:-1] == sorted(waits[:-1])
    assert max(waits) <= 10.0


async def test_a_look_that_fails_for_now_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the last failure counts; what needs a person ends it at once."""
    monkeypatch.setattr(arrival, "FIRST", 0.001)
    answers: list[Any] = [Unavailable("busy"), None, Unavailable("busy"), "seen"]

    async def look() -> str | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    assert await until(look, patience=1.0) == "seen"
    answers[:] = [Unavailable("busy")] * 50
    with pytest.raises(Unavailable):
        await until(look, patience=0.01)
    answers[:] = [PermanentError("no"), "seen"]
    with pytest.raises(PermanentError):
        await until(look, patience=1.0)
    assert answers == ["seen"]


MAIL = b"Subject: %d\r\nMessage-ID: <%d@mail.test>\r\n\r\nHallo\r\n"


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
async def test_a_real_server_shows_the_mail_when_it_arrives(
    dovecot: Dovecot, minter: Minter, tmp_path: Path, protocol: str
) -> None:
    """Dovecot: what lay there before does not count, nothing is changed, no mail is marked."""
    mailbox = f"arrival-{protocol}@app.test"
    dovecot.deliver(mailbox, MAIL % (1, 1))
    of = config(tmp_path, protocol=protocol).mailboxes["alarm"]
    box = of.model_copy(update={"address": mailbox})
    port = dovecot.imaps_port if protocol == "imap" else dovecot.pop3s_port
    server = MailServer(host="localhost", port=port, ca=Path(dovecot.ca_file))
    token = AccessToken(value=minter.mint_app(), expires_at=datetime.now(UTC) + timedelta(hours=1))
    watch = probe(box, server, run)
    try:
        for step in (watch.sign_in(token), watch.folder(), watch.header(), watch.push()):
            assert (await step).of("de")
        assert await watch.arrived(token, "<2@mail.test>") is None
        dovecot.deliver(mailbox, MAIL % (2, 2))
        assert await watch.arrived(token, "<1@mail.test>") is None
        seen = await watch.arrived(token, "<2@mail.test>")
        # Also where the connection was lost meanwhile.
        await watch.close()
        again = await watch.arrived(token, "<2@mail.test>")
    finally:
        await watch.close()
    assert seen is not None
    assert again is not None
    assert ("UID 2" if protocol == "imap" else "UIDL") in seen.of("en")
    stored = dovecot.read(mailbox)
    assert len(stored) == 2
    assert not any("\\Seen" in one.flags for one in stored)
