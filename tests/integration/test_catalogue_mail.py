"""Every failure of mail servers, networks and proxies, brought about and explained.

The sandbox, or a small server on loopback, says or does what the fact sheet knows; the steps of
``test-mailbox`` have to name the code, the cause and the fix, in both languages, with this
mailbox's own ids.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import pytest

from mailbridge.build import Shared, build_source, utc_now
from mailbridge.catalogue.base import Ids, Language
from mailbridge.catalogue.lookup import CATALOGUE, explain
from mailbridge.config import Config, load
from mailbridge.diagnose import smtp, way
from mailbridge.diagnose.finding import Told
from mailbridge.diagnose.own import cause_and_fix
from mailbridge.diagnose.round_trip import Trip
from mailbridge.diagnose.smtp import Letter
from mailbridge.diagnose.steps import Diagnosis, Step
from mailbridge.diagnose.words import told
from mailbridge.errors import MailbridgeError
from mailbridge.room import Room
from mailbridge.sandbox.config_text import config_for
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sign_in.base import SignIn
from mailbridge.sign_ins import SignIns
from mailbridge.sinks.smtp_errors import translated
from mailbridge.sources import imap_connection, pop3_connection
from mailbridge.sources.imap_errors import network_error
from tests.integration.catalogue_rows_mail import (
    IMAP,
    NETWORK,
    POP3,
    ROWS,
    SIGN_IN,
    SUBMISSION,
    Row,
)
from tests.servers.bad_tls import bad_context, black_hole, listening, refusing
from tests.servers.proxies import recording_proxy
from tests.servers.sandbox_client import ADDRESS, MAIL, signing_key
from tests.servers.scripted_imap import ScriptedImap, Talk

#: seconds that a server may be silent where silence is what the row is about, and elsewhere
SHORT, LONG = 0.5, 20.0
SILENT: Final = frozenset({"black_hole", "starttls_to_implicit", "silent_proxy", "imap.hang"})
#: what stands for an id that is not known, in a cause or a fix
HOLE: Final = re.compile(r"<[a-z A-Z()ä-ü-]{4,}>|\$\{|\$[a-z_]+(?<!\$true)(?<!\$false)\b")


async def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await asyncio.to_thread(function, *args, **kwargs)


class Bench:
    """A tenant with one mailbox that fetches and sends, and what can be wrong around it."""

    def __init__(self, tenant: Tenant, home: Path) -> None:
        self.tenant, self.home = tenant, home
        self.app = tenant.add_app("alarm-app")
        self.box = tenant.add_mailbox(ADDRESS)
        tenant.grant(self.app, self.box)
        self.box.deliver(MAIL)
        self._sign_ins: dict[str, SignIn] = {}
        self._text = {
            protocol: config_for(
                tenant,
                webhook_url="http://127.0.0.1:1/",
                state_dir=home,
                pop3=[ADDRESS] if protocol == "pop3" else (),
                send=[ADDRESS] if protocol == "smtp" else (),
            )
            for protocol in ("imap", "pop3", "smtp")
        }

    @property
    def ids(self) -> dict[str, str]:
        """What stands in a row's fix."""
        return {
            "address": ADDRESS,
            "client_id": self.app.client_id,
            "object_id": self.app.object_id,
        }

    def text(self, row: Row) -> str:
        """Return the configuration that a row needs, before its mischief."""
        text = self._text[row.protocol]
        # What only sends is not fetched, so that nothing but SMTP is asked.
        return text.replace("protocol: imap", "protocol: none") if row.protocol == "smtp" else text

    @property
    def ports(self) -> dict[str, int]:
        tenant = self.tenant
        return {"imap": tenant.imap.port, "pop3": tenant.pop3.port, "smtp": tenant.smtp.port}

    def led_to(self, row: Row, port: int, text: str, *, host: str = "localhost") -> str:
        """Return the text with the row's own server elsewhere."""
        own = f"host: localhost, port: {self.ports[row.protocol]}"
        assert own in text
        return text.replace(own, f"host: {host}, port: {port}")

    async def steps(self, row: Row, text: str) -> dict[Language, Step]:
        """Diagnose, and return the first step that says more than ok, in both languages.

        It is diagnosed once; that the language is passed on is held by the command's own test.
        """
        file = self.home / "mailbridge.yaml"
        file.write_text(text)
        config = load(file)
        diagnosis = self._diagnosis(config, row)
        steps = [step async for step in diagnosis.steps()]
        told = str([asdict(step) for step in steps])
        assert self.app.secret not in told
        assert "eyJ" not in told
        found = next((step for step in steps if step.code), steps[-1])
        ids = diagnosis._ids(found.id)
        cause, fix = cause_and_fix(found.code, ids, "de", said="", fix="")
        return {"en": found, "de": replace(found, cause=cause, fix=fix)}

    def _diagnosis(self, config: Config, row: Row) -> Diagnosis:
        [name] = config.mailboxes
        trip = None
        if row.step == "send":
            raw = b"From: a@feuerwehr.example\r\nMessage-ID: <t@x>\r\nSubject: t\r\n\r\nt\r\n"
            letter = Letter(to="x@other.example", message_id="<t@x>", raw=raw)
            trip = Trip(letter=letter, announce=_nobody)
        sign_in = self._sign_ins.get(row.mischief)
        if sign_in is None:
            sign_in = SignIns(config, grants=None, now=utc_now, run=run).of(name)
        if not row.mischief:
            # Its token is good for all rows in which nothing is wrong with tokens.
            self._sign_ins[""] = sign_in
        return Diagnosis(config=config, name=name, sign_in=sign_in, run=run, trip=trip)


async def _nobody() -> None:
    """No daemon is told of the test mail."""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Tenant.start(files=tmp_path, key=signing_key()) as tenant:
        yield Bench(tenant, tmp_path / "state")


def be_patient(row: Row, patch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for a server that is silent by intention; elsewhere nothing is timed."""
    seconds = SHORT if {row.mischief, row.fault} & SILENT else LONG
    patch.setattr(way, "PHASE", seconds)
    for module in (imap_connection, pop3_connection):
        patch.setattr(module, "CONNECT_TIMEOUT", seconds)
        patch.setattr(module, "READ_TIMEOUT", seconds)
    patch.setattr(smtp, "_PATIENCE", replace(smtp._PATIENCE, connect=seconds, hello=seconds))


# -- what the test arranges --------------------------------------------------------------------


@asynccontextmanager
async def _mailbox_mischief(bench: Bench, row: Row) -> AsyncIterator[str]:
    """Arrange what is no fault of the sandbox; yields the configuration."""
    text, box, what = bench.text(row), bench.box, row.mischief
    if what == "challenge":
        bench.tenant.faults.add("imap.challenge_on_failure")
    elif what == "imap_off":
        box.imap_enabled = False
    elif what == "pop_off":
        box.pop_enabled = False
    elif what == "no_access":
        bench.tenant.revoke(bench.app, box)
    elif what == "missing_folder":
        text = text.replace("[INBOX]", "[Alarme]")
    elif what == "calendar":
        text = text.replace("[INBOX]", "[Calendar]")
    elif what == "long_token":
        bench.app.padding = 4000
    elif what == "stls":
        text = bench.led_to(row, bench.tenant.pop3.stls_port, text)
        text = text.replace("tls: implicit", "tls: starttls")
    try:
        yield text
    finally:
        box.imap_enabled = box.pop_enabled = True
        bench.app.padding = 0
        bench.tenant.grant(bench.app, box)


@asynccontextmanager
async def _network_mischief(  # noqa: C901, PLR0912, PLR0915 - a table of what can be wrong
    bench: Bench, row: Row, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """Arrange what is wrong between; yields the configuration."""
    text, (what, _, detail) = bench.text(row), row.mischief.partition(":")
    implicit = "tls: implicit" if row.protocol != "smtp" else "tls: starttls"
    async with AsyncExitStack() as stack:
        if what == "no_such_host":
            port = bench.ports[row.protocol]
            text = bench.led_to(row, port, text, host="no-such-host.invalid")
        elif what == "dumb_resolver":
            _no_resolver(monkeypatch)
        elif what == "no_route":
            _no_route(monkeypatch)
        elif what == "port_465":
            text = bench.led_to(row, 465, text)
        elif what == "closed_port":
            text = bench.led_to(row, 1, text)
        elif what == "black_hole":
            text = bench.led_to(row, stack.enter_context(black_hole()), text, host="127.0.0.1")
        elif what == "plain":
            said = detail.encode()
            text = bench.led_to(
                row, await stack.enter_async_context(listening(None, says=said)), text
            )
        elif what in {"hang_up", "reset_at_once"}:
            ends: dict[str, Any] = {"hangs_up" if what == "hang_up" else "resets": True}
            port = await stack.enter_async_context(listening(None, **ends))
            text = bench.led_to(row, port, text)
        elif what == "implicit_to_starttls":
            text = text.replace("tls: starttls", "tls: implicit")
        elif what == "starttls_to_implicit":
            port = bench.ports["imap"] if row.protocol == "smtp" else bench.ports[row.protocol]
            text = bench.led_to(row, port, text).replace("tls: implicit", "tls: starttls")
        elif what == "pop3_port":
            text = bench.led_to(row, bench.ports["pop3"], text)
        elif what == "imap_port":
            text = bench.led_to(row, bench.ports["imap"], text)
        elif what == "tls":
            context = bad_context(detail, bench.tenant.authority, bench.home)
            if detail == "old_protocol":
                port = stack.enter_context(refusing(context))
            else:
                port = await stack.enter_async_context(listening(context))
            text = bench.led_to(row, port, text)
            if row.protocol == "smtp":
                text = text.replace("tls: starttls", "tls: implicit")
        elif what in {"proxy", "token_proxy", "send_proxy"}:
            proxy = await stack.enter_async_context(recording_proxy("http"))
            proxy.no(detail.encode())
            text = _through(text, proxy.url, what, implicit)
        elif what == "silent_proxy":
            port = await stack.enter_async_context(listening(None))
            text = _through(text, f"http://127.0.0.1:{port}", "proxy", implicit)
        elif what == "no_such_proxy":
            text = _through(text, "http://no-such-proxy.invalid:3128", "proxy", implicit)
        elif what == "no_proxy":
            text = _through(text, "http://127.0.0.1:1", "proxy", implicit)
        else:
            _by_fault(bench, what, row)
        yield text


def _by_fault(bench: Bench, what: str, row: Row) -> None:
    faults, command = bench.tenant.faults, {"imap": "EXAMINE", "pop3": "LIST"}.get(row.protocol)
    named: dict[str, tuple[str, dict[str, Any]]] = {
        "drop": (f"{row.protocol}.drop_on_command", {"command": command}),
        "smtp_refuse": ("smtp.refuse", {}),
        "portal": ("token.wrong_body", {}),
        "portal_at_discovery": ("discovery.wrong_body", {}),
    }
    name, options = named[what]
    faults.add(name, **options)


def _through(text: str, url: str, what: str, tls: str) -> str:
    if what == "token_proxy":
        return text.replace("    credential:\n", f"    proxy: {url}\n    credential:\n", 1)
    return text.replace(tls, f"{tls}, proxy: '{url}'", 1)


def _no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server on loopback can break this machine's resolver, so its answer is made."""

    def unanswered(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unanswered)


def _no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may change this machine's routes, so the kernel's answer is made."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)


# -- the tables --------------------------------------------------------------------------------


def _wrong(row: Row, steps: dict[Language, Step], ids: dict[str, str]) -> str:
    """Say what is wrong with what was told; empty if nothing is."""
    step, german = steps["en"], steps["de"]
    fix = row.fix.format(**ids)
    if step.code != row.code or step.id != row.step:
        return f"{row.words}: {step.id} {step.code} instead of {row.step} {row.code}: {step.detail}"
    if fix not in step.fix:
        return f"{row.words}: the fix lacks {fix!r}: {step.fix}"
    for shown in (step, german):
        if not shown.cause or not shown.fix:
            return f"{row.words}: nothing is said of it"
        if hole := HOLE.search(f"{shown.cause} {shown.fix}"):
            return f"{row.words}: {hole[0]} stands in {shown.cause} {shown.fix}"
    same = step.cause == german.cause or step.fix == german.fix
    return f"{row.words}: the same in both languages" if same else ""


@pytest.mark.parametrize(
    ("rows", "count"),
    [(IMAP, 32), (POP3, 17), (SIGN_IN, 20), (SUBMISSION, 51)],
    ids=["imap", "pop3", "sign_in", "submission"],
)
async def test_what_mail_servers_say_is_explained(
    bench: Bench, rows: tuple[Row, ...], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row of 7.4, 5.1 and 5.2: the right code at the right step, its cause and its fix."""
    wrong: list[str] = []
    tried = 0
    for row in rows:
        if row.step == "adapter":
            continue
        with monkeypatch.context() as patch:
            be_patient(row, patch)
            async with _mailbox_mischief(bench, row) as text:
                if row.fault:
                    bench.tenant.faults.add(row.fault, **row.options)
                wrong.append(_wrong(row, await bench.steps(row, text), bench.ids))
            bench.tenant.faults.clear()
        tried += 1

    wrong = [one for one in wrong if one]
    assert not wrong, "\n".join(wrong)
    assert tried == count


async def test_what_networks_do_is_explained(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of 7.7: DNS, TCP, TLS and proxies, on the ways to fetch, to send and to tokens."""
    wrong: list[str] = []
    tried = 0
    for row in NETWORK:
        if row.step == "adapter":
            continue
        tried += 1
        with monkeypatch.context() as patch:
            be_patient(row, patch)
            async with _network_mischief(bench, row, patch) as text:
                wrong.append(_wrong(row, await bench.steps(row, text), bench.ids))
            bench.tenant.faults.clear()

    wrong = [one for one in wrong if one]
    assert not wrong, "\n".join(wrong)
    assert tried == 47


async def test_what_comes_later_is_explained_by_the_adapter(bench: Bench) -> None:
    """What a diagnosis is too short to meet has its code, and a fix that needs no ids."""
    wrong = []
    rows = [row for row in ROWS if row.step == "adapter"]
    for row in rows:
        failure = await _later(bench, row)
        mended = explain(row.code, Ids(address=ADDRESS))[1]
        if failure.code != row.code or row.fix not in mended:
            wrong.append(f"{row.words}: {failure.code}, {mended}")

    assert not wrong, "\n".join(wrong)
    assert len(rows) == 4


async def _later(bench: Bench, row: Row) -> MailbridgeError:
    """Return what the adapter raises."""
    reset = ConnectionResetError(104, "Connection reset by peer")
    if row.protocol == "smtp":
        with pytest.raises(MailbridgeError) as caught, translated("ask"):
            raise reset
        return caught.value
    if row.mischief == "reset":
        return network_error(reset, "ask", protocol=row.protocol)
    return await _renumbered(bench.home)


async def _renumbered(home: Path) -> MailbridgeError:
    async def noop(talk: Talk, tag: str) -> None:
        await talk.send("* OK [UIDVALIDITY 99] moved", f"{tag} OK done")

    async with ScriptedImap.start(home) as scripted:
        scripted.scripts["NOOP"] = noop
        connection = imap_connection.Connection(scripted.server)
        try:
            await run(connection.open)
            await run(connection.sign_in, ADDRESS, "t0ken")
            await run(connection.select, "INBOX", readonly=True)
            with pytest.raises(MailbridgeError) as caught:
                await run(connection.refresh)
        finally:
            await run(connection.close, politely=False)
    return caught.value


def test_kinds_are_those_of_the_sheet() -> None:
    """What passes is not put to a person, and what a person has to mend is not waited for."""
    # Of Entra's address another table says what passes.
    rows = [row for row in ROWS if not row.code.startswith("entra.")]
    wrong = [f"{row.code}: {row.kind}" for row in rows if CATALOGUE[row.code].kind != row.kind]
    assert wrong == []


def test_no_row_of_the_sheet_is_missing() -> None:
    """As many rows as there are answers, exceptions and situations in 7.4, 7.5 and 7.7."""
    assert len(ROWS) == 171
    assert len({(row.protocol, row.words) for row in ROWS}) == len(ROWS)
    assert {row.section for row in ROWS} == {"7.4", "5.1", "5.2", "7.5", "7.7"}


REAL: Final = (
    "imap.not_connected",
    "smtp.auth_disabled_tenant",
    "tls.clock",
)


@pytest.mark.parametrize("code", REAL)
async def test_the_command_itself_says_the_same(bench: Bench, code: str) -> None:
    """`mailbridge test-mailbox NAME --json`, as it is typed, in German: exit code 1 and the fix."""
    row = next(row for row in ROWS if row.code == code)
    faults = bench.tenant.faults
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            arranged = _network_mischief(bench, row, patch) if row.section == "7.7" else None
            text = await stack.enter_async_context(arranged or _mailbox_mischief(bench, row))
            if row.fault:
                faults.add(row.fault, **row.options)
            file = bench.home / "mailbridge.yaml"
            file.write_text(text)
            words = ["--config", str(file), "test-mailbox", "alarm", "--json", "--lang", "de"]
            ended = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mailbridge", *words, stdout=asyncio.subprocess.PIPE
            )
            said, _ = await ended.communicate()

    document = json.loads(said)
    assert (ended.returncode, document["ok"], document["mailbox"]) == (1, False, "alarm")
    found = next(step for step in document["steps"] if step["code"])
    cause, _ = explain(code, Ids(**bench.ids), "de")
    assert (found["code"], found["id"], found["cause"]) == (code, row.step, cause)
    assert not HOLE.search(found["fix"])
    assert bench.app.secret not in said.decode()


async def test_a_person_is_told_of_the_persons_permission(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With delegated access the fix gives the mailbox to who signs in, not to the app."""
    bench.tenant.revoke(bench.app, bench.box)
    row = next(row for row in IMAP if row.mischief == "no_access")
    text = bench.text(row)
    file = bench.home / "mailbridge.yaml"
    file.write_text(text)
    app_only = load(file)
    key = bench.home / "state.key"
    key.write_text(base64.urlsafe_b64encode(bytes(32)).decode())
    person = "sign_in: delegated\n    signed_in_as: anna@feuerwehr.example"
    delegated = text.replace("sign_in: application", person)
    file.write_text(delegated.replace("state:\n", f"state:\n  key: {{file: {key}}}\n", 1))
    # The token is the app's: what is asked here is only whom the fix is for.
    sign_in = SignIns(app_only, grants=None, now=utc_now, run=run).of("alarm")
    diagnosis = Diagnosis(config=load(file), name="alarm", sign_in=sign_in, run=run)
    monkeypatch.setattr(diagnosis._tokens, "claims", _nobody_reads)
    steps = {step.id: step async for step in diagnosis.steps()}

    assert steps["folder"].code == "imap.not_connected"
    assert f"-Identity {ADDRESS} -User anna@feuerwehr.example" in steps["folder"].fix
    assert "ServicePrincipal" not in steps["folder"].fix


async def _nobody_reads() -> Told:
    return told("as_said", said="")


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("person", [True, False])
async def test_the_daemons_own_fix_has_the_ids_that_it_knows(
    bench: Bench, protocol: str, *, person: bool
) -> None:
    """What the log and `status` show can be copied, and is for whom it is that signs in."""
    bench.tenant.revoke(bench.app, bench.box)
    row = next(row for row in ROWS if row.mischief == "no_access" and row.protocol == protocol)
    file = bench.home / "mailbridge.yaml"
    file.write_text(bench.text(row))
    config = load(file)
    mailbox = config.mailboxes["alarm"]
    sign_in = SignIns(config, grants=None, now=utc_now, run=run).of("alarm")
    if person:
        changed = {"sign_in": "delegated", "signed_in_as": "anna@feuerwehr.example"}
        mailbox = mailbox.model_copy(update=changed)
    source = build_source(
        "alarm",
        mailbox,
        "INBOX",
        sign_in=sign_in,
        shared=Shared(run=run, room=Room(8, patience=1.0)),
    )
    with pytest.raises(MailbridgeError) as caught:
        async with source.session():
            pass

    who = "anna@feuerwehr.example" if person else "<object id of the enterprise application>"
    assert caught.value.code == row.code
    assert f"Add-MailboxPermission -Identity {ADDRESS} -User {who}" in caught.value.fix
    assert ("test-mailbox alarm` fills in the rest" in caught.value.fix) is not person
