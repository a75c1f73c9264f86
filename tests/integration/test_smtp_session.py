"""Submitting mail: what is sent, what comes of it, and what a hostile network does not get."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mailbridge.errors import MailbridgeError, SignInRejected, Unavailable
from mailbridge.proxy.place import parse
from mailbridge.sandbox.ca import Authority
from mailbridge.sandbox.smtp_replies import REPLIES
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sinks.smtp_errors import Undecided
from mailbridge.sinks.smtp_message import Envelope, wire_form
from mailbridge.sinks.smtp_wire import SmtpServer, Tls
from tests.servers.proxies import Kind, recording_proxy
from tests.servers.sandbox_client import ADDRESS, eventually, signing_key
from tests.servers.smtp_desk import IMPATIENT, Desk, desk_for, lying_server, nothing

OTHER = "wache@feuerwehr.example"
MAIL = f"From: {ADDRESS}\r\nTo: {OTHER}\r\nSubject: Test\r\n\r\nHello\r\n".encode()
EHLO = b"250-liar\r\n250-STARTTLS\r\n250 8BITMIME\r\n"


@pytest.fixture
async def tenant() -> AsyncIterator[Tenant]:
    async with Tenant.start(key=signing_key()) as running:
        app = running.add_app()
        boxes = [running.add_mailbox(address) for address in (ADDRESS, OTHER)]
        running.grant(app, *boxes)
        yield running


@pytest.fixture
def desk(tenant: Tenant) -> Desk:
    return desk_for(tenant, ADDRESS)


def said(tenant: Tenant, name: str) -> list[str]:
    """Return what was received of one command."""
    return [entry.line for entry in tenant.smtp.commands if entry.name == name]


# -- what is sent -----------------------------------------------------------------------------


async def test_a_mail_arrives_as_it_was(tenant: Tenant, desk: Desk) -> None:
    """What the server stores is the mail, byte for byte, dots at line ends and all."""
    raw = MAIL + b".\r\n..\r\n.dot\r\n\r\n"
    done = await desk.submit(raw, OTHER, "b@elsewhere.example")
    assert done.taken == (OTHER, "b@elsewhere.example")
    assert done.refused == {}
    assert done.reply is not None
    assert done.reply.text.startswith("2.0.0 OK <")
    [mail] = tenant.smtp.mails
    assert (mail.raw, mail.sender, mail.recipients) == (raw, ADDRESS, done.taken)
    assert tenant.smtp.violations == []


async def test_the_server_is_told_what_it_wants_to_know(tenant: Tenant, desk: Desk) -> None:
    """SIZE, BODY, SMTPUTF8 and ENVID stand in MAIL when they are offered and apply, only then."""
    await desk.submit(MAIL, OTHER, id="send 1=a")
    await desk.submit(MAIL + "Grüße\n".encode(), "müller@bücher.example")
    tenant.faults.add("smtp.no_capability", capability="SIZE")
    tenant.faults.add("smtp.no_capability", capability="DSN")
    await desk.submit(MAIL, OTHER, id="x")
    size = len(MAIL)
    assert said(tenant, "MAIL") == [
        f"MAIL FROM:<{ADDRESS}> SIZE={size} RET=HDRS ENVID=send+201+3Da",
        f"MAIL FROM:<{ADDRESS}> SIZE={size + 9} BODY=8BITMIME SMTPUTF8",
        f"MAIL FROM:<{ADDRESS}>",
    ]
    assert said(tenant, "RCPT")[1] == "RCPT TO:<müller@xn--bcher-kva.example>"


@pytest.mark.parametrize(
    ("capability", "raw", "recipient", "code"),
    [
        ("8BITMIME", MAIL + b"\xc3\xa4\r\n", OTHER, "smtp.no_8bitmime"),
        ("SMTPUTF8", MAIL, "müller@feuerwehr.example", "smtp.no_smtputf8"),
        ("BINARYMIME", b"x" * 40_000, OTHER, "smtp.too_large"),
    ],
)
async def test_what_the_server_cannot_take_is_not_begun(  # noqa: PLR0913, PLR0917 - one row
    tenant: Tenant, desk: Desk, capability: str, raw: bytes, recipient: str, code: str
) -> None:
    """A mail beyond the announced capabilities is refused here, with the reason."""
    tenant.smtp.limits.announced = 30_000
    tenant.faults.add("smtp.no_capability", capability=capability)
    done = await desk.submit(raw, recipient)
    assert [(one.weight, one.code) for one in done.refused.values()] == [("rejected", code)]
    assert said(tenant, "MAIL") == []


@pytest.mark.parametrize(
    "bad",
    ["a@b.example>\r\nRCPT TO:<c@d.example", "a b@c.example", "a@b", "@b.example", "a", "a@b@"],
)
async def test_no_address_becomes_a_command(tenant: Tenant, desk: Desk, bad: str) -> None:
    """An address that could end its command is refused alone; the others get the mail."""
    done = await desk.submit(MAIL, bad if bad != "a@b" else "a@b\x00.example", OTHER)
    assert done.taken == (OTHER,)
    assert [one.code for one in done.refused.values()] == ["smtp.invalid_address"]
    assert [mail.recipients for mail in tenant.smtp.mails] == [(OTHER,)]


@pytest.mark.parametrize(
    "end",
    [
        b"\n.\n",
        b"\r.\r",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r.\r\n",
        b"\n.\r",
        b"\r.\n",
        b"\r\n.\r\n",
        b"\n\n.\n\n",
        b"\r\r\n.\r\r\n",
    ],
)
async def test_nothing_is_smuggled_behind_a_mail(tenant: Tenant, desk: Desk, end: bytes) -> None:
    """Even a server that takes a bare CR or LF for a line end sees one mail and no command."""
    tenant.faults.add("smtp.lenient_ends")
    evil = f"MAIL FROM:<{ADDRESS}>\r\nRCPT TO:<evil@elsewhere.example>\r\nDATA\r\nSubject: Evil\r\n"
    done = await desk.submit(MAIL + b"before" + end + evil.encode() + end + b"after", OTHER)
    assert done.taken == (OTHER,)
    [mail] = tenant.smtp.mails
    assert mail.recipients == (OTHER,)
    assert b"Subject: Evil" in mail.raw
    assert mail.raw.endswith(b"after\r\n")
    assert tenant.smtp.violations == []
    assert len(said(tenant, "MAIL")) == 1


async def test_one_connection_carries_many_mails(tenant: Tenant, desk: Desk) -> None:
    """It is used again after a look whether it lives; a dead one is noticed there, not later."""
    async with desk.session() as session:
        for number in range(3):
            assert await session.ready()
            envelope = Envelope(sender=ADDRESS, recipients=(f"{number}@elsewhere.example",))
            await session.submit(envelope, wire_form(MAIL), before_dot=nothing)
        assert (tenant.smtp.connections, tenant.smtp.logins, len(tenant.smtp.mails)) == (1, 1, 3)
        tenant.smtp.drop()
        assert not await session.ready()
    assert len(said(tenant, "QUIT")) == 0


# -- the moment of the dot --------------------------------------------------------------------


async def test_the_hook_runs_when_only_the_dot_is_missing(tenant: Tenant, desk: Desk) -> None:
    """What must be durable first is awaited after the body and before the dot, and once."""
    seen: list[int] = []

    async def commit(_: Sequence[str]) -> None:
        seen.append(len(tenant.smtp.mails))

    await desk.submit(MAIL, OTHER, before_dot=commit)
    assert seen == [0]
    assert len(tenant.smtp.mails) == 1


async def test_nothing_is_sent_when_the_hook_fails(tenant: Tenant, desk: Desk) -> None:
    """Without the commit there is no dot, and so no mail."""

    async def commit(_: Sequence[str]) -> None:
        raise Unavailable("the disk is full", code="store.full")

    with pytest.raises(Unavailable, match="disk is full"):
        await desk.submit(MAIL, OTHER, before_dot=commit)
    await eventually(lambda: not tenant.smtp.sessions)
    assert tenant.smtp.mails == []


@pytest.mark.parametrize(
    ("fault", "taken"),
    [("smtp.drop_after_dot", 0), ("smtp.answer_lost", 1)],
)
async def test_a_lost_answer_is_undecided(
    tenant: Tenant, desk: Desk, fault: str, taken: int
) -> None:
    """Once the dot is written, a cut means that nobody knows: neither sent nor to be repeated."""
    tenant.faults.add(fault, times=1)
    with pytest.raises(Undecided) as lost:
        await desk.submit(MAIL, OTHER)
    assert lost.value.code == "smtp.in_doubt"
    assert len(tenant.smtp.mails) == taken


async def test_an_answer_that_never_comes_is_undecided(tenant: Tenant, desk: Desk) -> None:
    """Silence after the dot ends in doubt too, once patience is over."""
    tenant.faults.add("smtp.slow_answer", seconds=30.0)
    with pytest.raises(Undecided):
        await replace(desk, patience=IMPATIENT).submit(MAIL, OTHER)


async def test_a_late_answer_is_waited_for(tenant: Tenant, desk: Desk) -> None:
    """A server that takes its time over the mail is not given up."""
    tenant.faults.add("smtp.slow_answer", seconds=0.3)
    done = await desk.submit(MAIL, OTHER)
    assert done.taken == (OTHER,)


@pytest.mark.parametrize("command", ["EHLO", "AUTH", "MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("fault", ["smtp.drop_on_command", "smtp.hang"])
async def test_before_the_dot_nothing_is_in_doubt(
    tenant: Tenant, desk: Desk, fault: str, command: str
) -> None:
    """A cut or a silence anywhere earlier is an outage: the mail was not sent, and may be."""
    desk.patience = IMPATIENT
    tenant.faults.add(fault, command=command)
    with pytest.raises(Unavailable) as failed:
        await desk.submit(MAIL, OTHER)
    assert not isinstance(failed.value, Undecided)
    expected = "smtp.timeout" if fault == "smtp.hang" else "smtp.eof"
    assert failed.value.code == expected
    assert tenant.smtp.mails == []


async def test_a_cut_in_the_body_is_not_in_doubt(tenant: Tenant, desk: Desk) -> None:
    """A connection lost amid a large mail leaves nothing behind; the hook may not even run."""
    tenant.faults.add("smtp.drop_in_data", times=1, after=1000)
    with pytest.raises(Unavailable) as failed:
        await desk.submit(MAIL + b"x" * 5_000_000, OTHER, before_dot=_forbidden)
    assert not isinstance(failed.value, Undecided)


async def _forbidden(_: Sequence[str]) -> None:
    raise AssertionError("the body was not complete")


async def test_a_refusal_amid_the_body_is_heard(tenant: Tenant, desk: Desk) -> None:
    """A server that refuses before the mail is complete is understood, not just lost."""
    tenant.faults.add("smtp.refuse_in_data", times=1, after=1000)
    done = await desk.submit(MAIL + b"x" * 20_000_000, OTHER, before_dot=_forbidden)
    assert [one.code for one in done.refused.values()] == ["smtp.too_large"]


# -- refusals ---------------------------------------------------------------------------------

#: by fault: whether the mail is kept, what is to blame, whether a person has to act
MEANING = {
    "smtp.send_as_denied": ("rejected", "message", False),
    "smtp.send_as_denied_after_data": ("rejected", "message", False),
    "smtp.not_authenticated": ("deferred", "mailbox", True),
    "smtp.rate_limited": ("deferred", "mailbox", False),
    "smtp.temporary": ("deferred", "server", False),
    "smtp.server_busy": ("deferred", "server", False),
    "smtp.sender_blocked": ("deferred", "mailbox", True),
    "smtp.too_many_recipients": ("deferred", "recipient", False),
    "smtp.recipient_unknown": ("rejected", "recipient", False),
    "smtp.thread_limit": ("deferred", "mailbox", False),
    "smtp.recipients_used_up": ("deferred", "mailbox", False),
    "smtp.mailbox_full": ("deferred", "mailbox", True),
    "smtp.too_large": ("rejected", "message", False),
    "smtp.maintenance": ("deferred", "server", False),
}
#: where the code of a judgement is another than the name of the fault
CODES = {
    "smtp.not_authenticated": "smtp.authenticate_failed",
    "smtp.send_as_denied_after_data": "smtp.send_as_denied",
    "smtp.server_busy": "smtp.address_throttled",
    "smtp.thread_limit": "smtp.too_many_connections",
    "smtp.maintenance": "smtp.unavailable",
}


def test_every_refusal_of_the_sandbox_has_a_meaning() -> None:
    """No reply that Exchange is known for is left to chance."""
    assert set(MEANING) == {name for name, command in REPLIES.items() if command != "AUTH"}


@pytest.mark.parametrize("name", sorted(MEANING))
async def test_a_refusal_is_understood(tenant: Tenant, desk: Desk, name: str) -> None:
    """What Exchange says becomes a stable code; what is not the mail's fault keeps the mail."""
    tenant.faults.add(name, times=1)
    done = await desk.submit(MAIL, OTHER)
    [judgement] = done.refused.values()
    meaning = (judgement.weight, judgement.scope, judgement.person)
    assert (done.taken, meaning) == ((), MEANING[name])
    assert judgement.code == CODES.get(name, name)
    assert tenant.smtp.mails == []
    again = await desk.submit(MAIL, OTHER)
    assert again.taken == (OTHER,)


@pytest.mark.parametrize("name", sorted(n for n, command in REPLIES.items() if command == "AUTH"))
async def test_a_refused_sign_in_is_understood(tenant: Tenant, desk: Desk, name: str) -> None:
    """Each variant of Exchange's 535 has its own code and names what to do, with the address."""
    tenant.faults.add(name)
    with pytest.raises(SignInRejected) as refused:
        await desk.submit(MAIL, OTHER)
    expected = "smtp.authenticate_failed" if name == "smtp.auth_failed" else name
    assert refused.value.code == expected
    assert refused.value.fix
    if name.startswith("smtp.auth_disabled"):
        wanted = f"Set-CASMailbox -Identity {ADDRESS} -SmtpClientAuthenticationDisabled $false"
        assert wanted in refused.value.fix


async def test_only_the_refused_recipients_are_refused(tenant: Tenant, desk: Desk) -> None:
    """The others have the mail; which is which is told one by one."""
    tenant.faults.add("smtp.recipient_unknown", times=1)
    done = await desk.submit(MAIL, "gone@elsewhere.example", OTHER)
    assert done.taken == (OTHER,)
    assert list(done.refused) == ["gone@elsewhere.example"]


async def test_a_goodbye_amid_the_recipients_leaves_none_with_the_mail(
    tenant: Tenant, desk: Desk
) -> None:
    """A 421 ends the connection: also who was accepted before has nothing."""
    async with desk.session() as session:
        envelope = Envelope(
            sender=ADDRESS, recipients=("a@b.example", "c@d.example", "e@f.example")
        )
        await session.ready()
        tenant.faults.add("smtp.recipient_unknown", times=1)
        tenant.faults.add(
            "smtp.reply", times=1, command="RCPT", text="421 4.3.2 Shutting down", hang_up=True
        )
        done = await session.submit(envelope, wire_form(MAIL), before_dot=_forbidden)
        assert not session.usable
    assert done.taken == ()
    codes = {name: one.code for name, one in done.refused.items()}
    assert codes["a@b.example"] == "smtp.recipient_unknown"
    assert codes["c@d.example"] == codes["e@f.example"] == "smtp.unavailable"


# -- signing in -------------------------------------------------------------------------------


async def test_a_token_that_has_ended_is_replaced_once(tenant: Tenant, desk: Desk) -> None:
    """A refused token is refreshed and tried again, which the mail does not notice."""
    desk.first = "an.old.token"
    assert (await desk.submit(MAIL, OTHER)).taken == (OTHER,)
    assert (desk.asked, desk.refreshed, tenant.smtp.refusals) == (1, 1, 1)


async def test_a_token_is_refreshed_no_more_than_once(tenant: Tenant, desk: Desk) -> None:
    """A mailbox that is refused for good does not make Entra mint tokens in a loop."""
    tenant.faults.add("smtp.auth_failed")
    with pytest.raises(SignInRejected):
        await desk.submit(MAIL, OTHER)
    assert (desk.refreshed, tenant.smtp.connections) == (1, 2)


async def test_a_switched_off_mailbox_needs_no_new_token(tenant: Tenant, desk: Desk) -> None:
    """Where the token is not to blame, none is asked for."""
    tenant.faults.add("smtp.auth_disabled_tenant")
    with pytest.raises(SignInRejected):
        await desk.submit(MAIL, OTHER)
    assert desk.refreshed == 0


async def test_a_long_token_is_sent_on_a_line_of_its_own(tenant: Tenant, desk: Desk) -> None:
    """The AUTH line holds no credential, so that no server cuts it."""
    next(iter(tenant.directory.apps.values())).padding = 4000
    assert (await desk.submit(MAIL, OTHER)).taken == (OTHER,)
    assert said(tenant, "AUTH") == ["AUTH [blanked]"]
    assert tenant.smtp.limits.line < 4000


# -- a hostile network ------------------------------------------------------------------------


async def test_without_starttls_nothing_is_said(tenant: Tenant, desk: Desk) -> None:
    """When somebody removes STARTTLS from the list, no credential and no mail leaves."""
    tenant.faults.add("smtp.no_capability", capability="STARTTLS")
    with pytest.raises(Unavailable) as failed:
        await desk.submit(MAIL, OTHER)
    assert failed.value.code == "smtp.no_starttls"
    assert {entry.name for entry in tenant.smtp.commands} == {"EHLO"}


async def test_a_refused_starttls_is_not_worked_around(tenant: Tenant, desk: Desk) -> None:
    """A server that cannot do TLS now is tried again later, not spoken to in the clear."""
    tenant.faults.add("smtp.starttls_refused")
    with pytest.raises(Unavailable):
        await desk.submit(MAIL, OTHER)
    assert said(tenant, "AUTH") == []


async def test_what_is_injected_before_tls_ends_the_connection(tenant: Tenant, desk: Desk) -> None:
    """Bytes that came with the 220 of STARTTLS never count as if they had come in TLS."""
    tenant.faults.add("smtp.starttls_injection")
    with pytest.raises(Unavailable) as failed:
        await desk.submit(MAIL, OTHER)
    assert failed.value.code == "smtp.injected"
    assert said(tenant, "AUTH") == []


@pytest.mark.parametrize(
    ("greeting", "ehlo"),
    [
        (b"220 liar\r\n250 AUTH XOAUTH2\r\n", EHLO),
        (b"220 liar\r\n", EHLO + b"235 2.7.0 you are in\r\n"),
    ],
)
async def test_early_words_in_the_clear_end_the_connection(
    tmp_path: Path, greeting: bytes, ehlo: bytes
) -> None:
    """A reply that nobody has asked for yet is a sign of somebody on the way."""
    authority = Authority()
    script = [(b"EHLO", ehlo), (b"STARTTLS", b"220 go\r\n"), (b"AUTH", b"235 2.7.0 ok\r\n")]
    async with lying_server(authority, script, greeting=greeting) as liar:
        with pytest.raises(Unavailable) as failed:
            await a_desk(liar.port, authority, tmp_path).submit(MAIL, OTHER)
    assert failed.value.code == "smtp.injected"
    assert liar.secret == []
    assert {line[:4] for line in liar.clear} <= {b"EHLO"}


async def test_what_was_offered_in_the_clear_is_forgotten(tmp_path: Path) -> None:
    """Mechanisms and sizes that stood in the first EHLO alone do not count within TLS."""
    authority = Authority()
    clear = b"250-liar\r\n250-STARTTLS\r\n250-AUTH XOAUTH2\r\n250 SIZE 1\r\n"
    script = [(b"EHLO", clear), (b"EHLO", b"250 liar\r\n"), (b"STARTTLS", b"220 go\r\n")]
    async with lying_server(authority, script) as liar:
        with pytest.raises(SignInRejected) as refused:
            await a_desk(liar.port, authority, tmp_path).submit(MAIL, OTHER)
    assert refused.value.code == "smtp.no_xoauth2"
    assert [line[:4] for line in liar.secret] == [b"EHLO", b"QUIT"]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_an_unknown_certificate_is_not_spoken_to(
    tmp_path: Path, tenant: Tenant, desk: Desk, tls: Tls
) -> None:
    """A server of another authority, or of another name, gets neither token nor mail."""
    other = Authority().write(tmp_path)
    port = tenant.smtp.port if tls == "starttls" else tenant.smtp.implicit_port
    desk.server = SmtpServer(host="localhost", port=port, tls=tls, ca=other)
    with pytest.raises(Unavailable) as failed:
        await desk.submit(MAIL, OTHER)
    assert failed.value.code == "tls.unknown_authority"
    assert said(tenant, "AUTH") == []


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([(b"EHLO", b"hello?\r\n")], "smtp.protocol"),
        ([(b"EHLO", b"250-" + b"x" * 100_000)], "smtp.protocol"),
        ([(b"EHLO", b"550 5.7.1 no\r\n")], "smtp.policy"),
        ([(b"EHLO", b"250 liar\r\n")], "smtp.no_starttls"),
    ],
)
async def test_nonsense_is_told_apart(
    tmp_path: Path, script: list[tuple[bytes, bytes]], code: str
) -> None:
    """What is no SMTP, endless, or not what was asked for ends in its own code, never quoted."""
    authority = Authority()
    async with lying_server(authority, script) as liar:
        with pytest.raises(MailbridgeError) as failed:
            await a_desk(liar.port, authority, tmp_path).submit(MAIL, OTHER)
    assert failed.value.code == code
    assert "hello?" not in str(failed.value)


@pytest.mark.parametrize(
    ("fault", "code"),
    [("smtp.refuse", "smtp.eof"), ("smtp.greeting", "smtp.unavailable")],
)
async def test_a_server_that_is_away_is_an_outage(
    tenant: Tenant, desk: Desk, fault: str, code: str
) -> None:
    """A closed door or a 421 in the greeting is tried again, and blamed on nobody."""
    tenant.faults.add(fault)
    with pytest.raises(MailbridgeError) as failed:
        await desk.submit(MAIL, OTHER)
    assert failed.value.code == code
    assert not isinstance(failed.value, SignInRejected)


async def test_no_error_holds_the_token(tmp_path: Path, desk: Desk) -> None:
    """Neither the text nor the repr of anything that fails gives the credential away."""
    canary = "canary" * 40
    desk.first = canary
    desk.mint = lambda: canary
    echo = b"535 5.7.8 " + canary.encode() + b"\r\n"
    authority = Authority()
    script = [
        *((b"EHLO", EHLO), (b"EHLO", b"250-liar\r\n250 AUTH XOAUTH2\r\n")),
        *((b"STARTTLS", b"220 go\r\n"), (b"AUTH", echo)),
    ]
    async with lying_server(authority, script) as liar:
        desk.server = a_desk(liar.port, authority, tmp_path).server
        with pytest.raises(SignInRejected) as refused:
            await desk.submit(MAIL, OTHER)
    shown = f"{refused.value!r} {refused.value} {refused.value.fix} {desk.account!r}"
    assert "canarycanary" not in shown
    assert "removed" in shown


def a_desk(port: int, authority: Authority, folder: Path) -> Desk:
    ca = authority.write(folder)
    server = SmtpServer(host="localhost", port=port, ca=ca)
    return Desk(server=server, address=ADDRESS, mint=lambda: "a.b.c", patience=IMPATIENT)


# -- the way there ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
async def test_a_proxy_leads_to_the_server(tenant: Tenant, desk: Desk, kind: Kind) -> None:
    """Through each kind of proxy a mail goes out, and all that the proxy sees is TLS."""
    async with recording_proxy(kind, {2587: tenant.smtp.port}, user="", password="") as proxy:
        proxy.joins = True
        desk.server = replace(desk.server, port=2587, proxy=parse(proxy.url))
        assert (await desk.submit(MAIL, OTHER)).taken == (OTHER,)
    assert re.fullmatch(r"(localhost|127\.0\.0\.1|::1|\[::1\]):2587", proxy.asked[0])
    assert b"Hello" not in proxy.up.replace(b"EHLO", b"")


async def test_a_proxy_that_refuses_is_named(tenant: Tenant, desk: Desk) -> None:
    """The proxy is blamed for what the proxy does."""
    async with recording_proxy("http", {}, user="", password="") as proxy:
        proxy.no(b"HTTP/1.1 403 no\r\n\r\n")
        desk.server = replace(desk.server, proxy=parse(proxy.url))
        with pytest.raises(Unavailable) as failed:
            await desk.submit(MAIL, OTHER)
    assert failed.value.code == "proxy.forbidden"
    assert tenant.smtp.connections == 0


async def test_tls_from_the_start_works_too(tenant: Tenant, desk: Desk) -> None:
    """Other servers than Exchange take mail on a port with implicit TLS."""
    desk.server = replace(desk.server, port=tenant.smtp.implicit_port, tls="implicit")
    assert (await desk.submit(MAIL, OTHER)).taken == (OTHER,)
    assert said(tenant, "STARTTLS") == []


async def test_giving_up_leaves_nothing_behind(tenant: Tenant, desk: Desk) -> None:
    """A submission that is cancelled ends its connection at once, wherever it was."""
    tenant.faults.add("smtp.slow_answer", seconds=30.0)
    submitting = asyncio.create_task(desk.submit(MAIL, OTHER))
    await eventually(lambda: tenant.faults.fired["smtp.slow_answer"])
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    await eventually(lambda: not tenant.smtp.sessions)
    assert tenant.smtp.mails == []
