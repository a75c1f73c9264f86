"""The sandbox's SMTP server on the wire: what it says, what it takes, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import smtplib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest

from mailbridge import config
from mailbridge.sandbox.config_text import config_for
from mailbridge.sandbox.mailstore import Mailbox
from mailbridge.sandbox.smtp_replies import REPLIES, TEXTS
from mailbridge.sandbox.tenant import Tenant
from tests.servers.sandbox_client import (
    ADDRESS,
    Raw,
    app_of,
    connect,
    credential,
    signing_key,
    token_of,
)

OTHER = "wache@feuerwehr.example"
MAIL = f"From: {ADDRESS}\r\nTo: {OTHER}\r\nSubject: Test\r\n\r\nHello\r\n".encode()
HOST = "BE1P281CA0440.outlook.office365.com"
OFFERED = [
    *("SIZE 157286400", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES"),
    *("8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8"),
]


@pytest.fixture
async def tenant() -> AsyncIterator[Tenant]:
    async with Tenant.start(key=signing_key()) as running:
        app = running.add_app()
        boxes = [running.add_mailbox(address) for address in (ADDRESS, OTHER)]
        running.grant(app, *boxes)
        yield running


@pytest.fixture
def box(tenant: Tenant) -> Mailbox:
    return tenant.mailbox(ADDRESS)


async def smtp(tenant: Tenant, work: Callable[[smtplib.SMTP], Any], *, sign_in: bool = True) -> Any:
    """Run ``work`` with a smtplib client that has changed to TLS, in a thread."""
    token, context = token_of(tenant), tenant.authority.client_context()

    def run() -> Any:
        with smtplib.SMTP("localhost", tenant.smtp.port, timeout=10) as client:
            client.starttls(context=context)
            client.ehlo()
            if sign_in:
                client.auth(
                    "XOAUTH2", lambda _=None: f"user={ADDRESS}\x01auth=Bearer {token}\x01\x01"
                )
            return work(client)

    return await asyncio.to_thread(run)


@asynccontextmanager
async def plain(tenant: Tenant) -> AsyncIterator[Raw]:
    """Connect without TLS; the greeting is still to be read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", tenant.smtp.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def signed_in(tenant: Tenant) -> AsyncIterator[Raw]:
    """Connect in TLS and sign in."""
    async with connect(tenant, port=tenant.smtp.implicit_port) as raw:
        await raw.line()
        raw.send("EHLO client.example")
        await raw.until("250 ")
        assert await raw.ask("AUTH XOAUTH2") == "334 "
        answer = await raw.ask(credential(token_of(tenant)))
        assert answer == "235 2.7.0 Authentication successful"
        yield raw


async def answer(raw: Raw, *commands: str) -> str:
    """Send commands; return the last line of the answer to the last one."""
    last = ""
    for command in commands:
        raw.send(command)
        last = (await raw.until(""))[-1]
    return last


async def test_what_is_said_in_the_clear_is_the_recorded_greeting(tenant: Tenant) -> None:
    """Greeting and EHLO are Exchange's, and in the clear nobody may sign in or send."""
    async with plain(tenant) as raw:
        assert (await raw.line()).startswith(f"220 {HOST} Microsoft ESMTP MAIL Service ready at ")
        raw.send("EHLO client.example")
        lines = await raw.until("250 ")
        assert lines[0] == f"250-{HOST} Hello [203.0.113.7]"
        assert sorted(line[4:] for line in lines[1:]) == sorted([*OFFERED, "STARTTLS"])
        refusal = "530 5.7.0 Must issue a STARTTLS command first"
        assert await raw.ask("AUTH XOAUTH2") == refusal
        assert await raw.ask(f"MAIL FROM:<{ADDRESS}>") == refusal
        assert await raw.ask("XYZ") == f"500 5.3.3 Unrecognized command 'XYZ' [{HOST}]"
        assert await raw.ask("NOOP") == "250 2.0.0 OK"
        assert await raw.ask("QUIT") == "221 2.0.0 Service closing transmission channel"
        assert await raw.rest() == b""


async def test_a_whole_submission_reads_as_at_exchange(tenant: Tenant, box: Mailbox) -> None:
    """Sign-in in two lines, MAIL, RCPT, DATA: each answer is the recorded one."""
    async with signed_in(tenant) as raw:
        assert await raw.ask(f"MAIL FROM:<{ADDRESS}> SIZE=100") == "250 2.1.0 Sender OK"
        assert await raw.ask(f"RCPT TO:<{OTHER}>") == "250 2.1.5 Recipient OK"
        assert await raw.ask("RCPT TO:<somebody@elsewhere.example>") == "250 2.1.5 Recipient OK"
        assert await raw.ask("DATA") == "354 Start mail input; end with <CRLF>.<CRLF>"
        raw.writer.write(MAIL + b"..dotted\r\n.\r\n")
        assert (await raw.line()).startswith("250 2.0.0 OK <")
        assert await raw.ask("RSET") == "250 2.0.0 Resetting"
    [mail] = tenant.smtp.mails
    assert mail.raw == MAIL + b".dotted\r\n"
    assert mail.recipients == (OTHER, "somebody@elsewhere.example")
    assert tenant.smtp.violations == []
    shown = [entry.line for entry in tenant.smtp.commands if entry.name == "AUTH"]
    assert shown == ["AUTH [blanked]"]


async def test_a_mail_is_delivered_and_kept_in_the_sent_items(tenant: Tenant, box: Mailbox) -> None:
    """The recipient finds it in the inbox, the sender a byte-identical copy, whatever language."""
    box.localise("de")
    await smtp(tenant, lambda client: client.sendmail(ADDRESS, [OTHER], MAIL))
    [arrived] = tenant.mailbox(OTHER).folder()
    assert arrived.raw.startswith(b"Received: ")
    assert arrived.raw.endswith(MAIL)
    [kept] = box.folder("Gesendete Elemente")
    assert (kept.raw, kept.flags) == (MAIL, {"\\Seen"})


async def test_libraries_sign_in_by_both_ways(tenant: Tenant) -> None:
    """Clients that write the credential on the AUTH line get in too."""
    assert await smtp(tenant, lambda client: client.noop()[0]) == 250
    client = aiosmtplib.SMTP(
        hostname="localhost",
        port=tenant.smtp.port,
        start_tls=True,
        tls_context=tenant.authority.client_context(),
        username=ADDRESS,
        oauth_token_generator=lambda: asyncio.sleep(0, token_of(tenant)),
    )
    async with client:
        await client.sendmail(ADDRESS, [OTHER], MAIL)
    assert tenant.smtp.logins == 2
    assert len(tenant.smtp.mails) == 1


@pytest.mark.parametrize(
    ("change", "blob"),
    [
        ("a wrong token", credential("nonsense")),
        ("no credential", base64.b64encode(b"user=me").decode()),
        ("no base64", "%%%"),
        ("given up", "*"),
    ],
)
async def test_a_refused_credential_is_answered_535(tenant: Tenant, change: str, blob: str) -> None:
    """Whatever is wrong with it, Exchange says the same, and without a challenge."""
    async with connect(tenant, port=tenant.smtp.implicit_port) as raw:
        await raw.line()
        await answer(raw, "HELO client.example")
        assert await raw.ask("AUTH XOAUTH2") == "334 "
        assert await raw.ask(blob) == f"535 5.7.3 Authentication unsuccessful [{HOST}]"
        denied = await raw.ask(f"MAIL FROM:<{ADDRESS}>")
    assert denied.startswith("530 5.7.57 ")
    assert tenant.smtp.refusals == 1


async def test_a_token_without_the_permission_is_refused(tenant: Tenant) -> None:
    """SMTP.SendAsApp is asked for, and the mailbox's permission as well."""
    app = app_of(tenant)
    app.roles = ("IMAP.AccessAsApp",)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        await smtp(tenant, lambda client: None)
    app.roles = ("SMTP.SendAsApp",)
    tenant.revoke(app, tenant.mailbox(ADDRESS))
    with pytest.raises(smtplib.SMTPAuthenticationError):
        await smtp(tenant, lambda client: None)


async def test_a_password_is_refused_with_the_reason(tenant: Tenant) -> None:
    """AUTH LOGIN is offered, as at Exchange, and refused."""

    def log_in(client: smtplib.SMTP) -> str:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login(ADDRESS, "password")
        return refused.value.smtp_error.decode()  # type: ignore[union-attr]

    assert "basic authentication is disabled" in await smtp(tenant, log_in, sign_in=False)


async def test_nobody_sends_as_somebody_else_without_permission(tenant: Tenant) -> None:
    """The envelope is judged at MAIL, the From field after the mail; SendAs opens both."""

    def submit(client: smtplib.SMTP, sender: str, mail: bytes) -> int:
        try:
            client.sendmail(sender, [OTHER], mail)
        except smtplib.SMTPResponseException as refused:
            return refused.smtp_code
        return 250

    forged = MAIL.replace(b"From: " + ADDRESS.encode(), b"From: Info <info@feuerwehr.example>")
    info = "info@feuerwehr.example"
    assert await smtp(tenant, lambda client: submit(client, info, MAIL)) == 550
    assert await smtp(tenant, lambda client: submit(client, ADDRESS, forged)) == 554
    assert tenant.smtp.mails == []
    tenant.allow_send_as(app_of(tenant), info)
    assert await smtp(tenant, lambda client: submit(client, info, forged)) == 250


async def test_a_delegate_signs_in_as_the_own_account(tenant: Tenant) -> None:
    """For a shared mailbox a person authenticates as themselves and names it in MAIL FROM."""
    user = tenant.add_user("leitstelle@feuerwehr.example")
    tenant.add_mailbox(user.upn)
    tenant.grant(user, tenant.mailbox(ADDRESS))
    token = tenant.tokens.user_token(app_of(tenant), user)
    tenant.allow_send_as(user, ADDRESS)
    async with connect(tenant, port=tenant.smtp.implicit_port) as raw:
        await raw.line()
        await answer(raw, "HELO client.example")
        await raw.ask("AUTH XOAUTH2")
        assert (await raw.ask(credential(token, ADDRESS))).startswith("535 ")
        await raw.ask("AUTH XOAUTH2")
        assert (await raw.ask(credential(token, user.upn))).startswith("235 ")
        assert (await raw.ask(f"MAIL FROM:<{ADDRESS}>")).startswith("250 ")


@pytest.mark.parametrize("end", [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n"])
async def test_only_crlf_dot_crlf_ends_a_mail(tenant: Tenant, end: bytes) -> None:
    """A bare CR or LF is text, noted, and refused; a lenient server would be smuggled into."""
    evil = f"MAIL FROM:<{ADDRESS}>\r\nRCPT TO:<{OTHER}>\r\nDATA\r\n".encode() + MAIL
    async with signed_in(tenant) as raw:
        for command in (f"MAIL FROM:<{ADDRESS}>", f"RCPT TO:<{OTHER}>", "DATA"):
            await raw.ask(command)
        raw.writer.write(MAIL + end + evil + b"\r\n.\r\n")
        assert (await raw.line()).startswith("550 5.6.11 ")
    assert tenant.smtp.mails == []
    assert tenant.smtp.violations == ["a mail with a bare CR or LF"]
    tenant.faults.add("smtp.lenient_ends")
    async with signed_in(tenant) as raw:
        for command in (f"MAIL FROM:<{ADDRESS}>", f"RCPT TO:<{OTHER}>", "DATA"):
            await raw.ask(command)
        raw.writer.write(MAIL.rstrip(b"\r\n") + end + evil + b"\r\n.\r\n")
        await raw.line()
        assert await raw.ask("NOOP") != ""
        async with asyncio.timeout(5):
            while len(tenant.smtp.mails) < 2:
                await asyncio.sleep(0.01)


async def test_limits_are_those_of_exchange(tenant: Tenant) -> None:
    """Sizes, recipients, mails a minute and recipients a day end in the documented refusals."""
    limits = tenant.smtp.limits
    limits.recipients, limits.per_minute, limits.size = 2, 3, 2000
    many = [f"a{number}@elsewhere.example" for number in range(3)]

    def work(client: smtplib.SMTP) -> list[Any]:
        seen: list[Any] = [client.sendmail(ADDRESS, many, MAIL)]
        for mail in (MAIL + b"x" * 2000, MAIL, MAIL, MAIL):
            try:
                seen.append(client.sendmail(ADDRESS, [OTHER], mail))
            except smtplib.SMTPResponseException as refused:
                seen.append(refused.smtp_code)
        return seen

    seen = await smtp(tenant, work)
    assert seen == [{many[2]: (452, b"4.5.3 Too many recipients")}, 552, {}, {}, 421]
    limits.per_minute, limits.recipients_per_day = 100, 4
    with pytest.raises(smtplib.SMTPDataError, match="SubmissionQuotaExceeded"):
        await smtp(tenant, lambda client: client.sendmail(ADDRESS, [OTHER], MAIL))


async def test_a_fourth_session_of_a_mailbox_is_refused_after_its_mail(tenant: Tenant) -> None:
    """Exchange lets it sign in, and refuses what it submits."""
    async with signed_in(tenant), signed_in(tenant), signed_in(tenant):
        with pytest.raises(smtplib.SMTPDataError, match="thread limit"):
            await smtp(tenant, lambda client: client.sendmail(ADDRESS, [OTHER], MAIL))
    assert tenant.smtp.most_sessions == 4


@pytest.mark.parametrize("name", sorted(REPLIES))
async def test_each_refusal_has_a_name(tenant: Tenant, name: str) -> None:
    """A named fault answers where Exchange does, in its words, for one mailbox, once."""
    tenant.faults.add(name, times=1, mailbox=ADDRESS)
    tenant.faults.add(name, times=1, mailbox=OTHER)
    async with connect(tenant, port=tenant.smtp.implicit_port) as raw:
        await raw.line()
        await answer(raw, "HELO client.example")
        await raw.ask("AUTH XOAUTH2")
        seen = {"AUTH": await raw.ask(credential(token_of(tenant)))}
        if REPLIES[name] != "AUTH":
            seen["MAIL"] = await raw.ask(f"MAIL FROM:<{ADDRESS}>")
        if REPLIES[name] in {"RCPT", "."}:
            seen["RCPT"] = await raw.ask(f"RCPT TO:<{OTHER}>")
        if REPLIES[name] == ".":
            await raw.ask("DATA")
            raw.writer.write(MAIL + b".\r\n")
            seen["."] = await raw.line()
    assert seen[REPLIES[name]] == TEXTS[name].replace("HOST", HOST)
    assert tenant.faults.fired[name] == 1
    assert tenant.smtp.mails == []


async def test_a_configuration_for_it_is_valid(tenant: Tenant, tmp_path: Path) -> None:
    """The sandbox writes where to submit for those mailboxes that send."""
    path = tmp_path / "mailbridge.yaml"
    path.write_text(
        config_for(
            tenant,
            webhook_url="http://127.0.0.1:1/",
            state_dir=tmp_path / "state",
            send=[ADDRESS],
        )
    )
    loaded = config.load(path)
    send = loaded.mailboxes["alarm"].send
    assert send is not None
    assert (send.server.host, send.server.port) == ("localhost", tenant.smtp.port)
    assert loaded.mailboxes["wache"].send is None
