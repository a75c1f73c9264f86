"""STARTTLS and signing in at the listener: nothing in the clear that should not be, no guessing."""

from __future__ import annotations

import smtplib
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mailbridge.errors import ConfigError
from mailbridge.relay import conversation
from mailbridge.sandbox.ca import Authority
from tests.servers.relay import MAIL, PASSWORD, Site, relay_at

SENDS = """
  accept: {senders: {"scanner@fw.example": alarm}}
  inbound: {alarm@in.fw.example: [archive]}
"""
AUTH = SENDS + "  auth: {printer: {env: PASSWORD}}\n"


def with_tls(home: Path, section: str, *, require: bool = False) -> tuple[str, ssl.SSLContext]:
    """Write a certificate for the listener; the section with it, and what a client trusts."""
    authority = Authority()
    key, certificate = _pair(authority)
    (home / "relay.key").write_bytes(key)
    (home / "relay.pem").write_bytes(certificate)
    need = str(require).lower()
    tls = f"  tls: {{certificate: relay.pem, key: relay.key, require: {need}}}\n"
    return section + tls, authority.client_context()


def _pair(authority: Authority) -> tuple[bytes, bytes]:
    one, other = authority.issue()
    return (one, other) if b"PRIVATE KEY" in one else (other, one)


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every client be one on another machine."""
    monkeypatch.setattr(conversation, "is_local", lambda _: False)


async def test_a_mail_comes_in_over_tls(tmp_path: Path) -> None:
    """STARTTLS is offered, the session begins anew, and the mail's trace says that it was used."""
    section, trusts = with_tls(tmp_path, SENDS)

    def work(smtp: smtplib.SMTP) -> Any:
        smtp.ehlo()
        offered = smtp.has_extn("starttls")
        smtp.mail("scanner@fw.example")
        smtp.starttls(context=trusts)
        before = smtp.docmd("RCPT", "TO:<alarm@in.fw.example>")[0]
        smtp.ehlo()
        again = smtp.has_extn("starttls"), smtp.docmd("STARTTLS")[0]
        smtp.sendmail("scanner@fw.example", ["alarm@in.fw.example", "a@x.example"], MAIL * 2000)
        return offered, before, again

    async with relay_at(tmp_path, section) as site:
        assert await site.smtp(work) == (True, 503, (False, 501))
        [one] = await site.routed()
        assert len(await site.queued()) == 1
    assert one.mail is not None
    assert b"with ESMTPS;" in one.mail.raw[:200]
    assert one.mail.raw.endswith(MAIL * 2000)


def test_the_daemons_own_loop_does_the_same(tmp_path: Path) -> None:
    """The daemon runs on uvloop, whose TLS is another: mails in the clear and over TLS arrive."""
    section, trusts = with_tls(tmp_path, SENDS)

    def work(smtp: smtplib.SMTP) -> Any:
        smtp.sendmail("scanner@fw.example", "alarm@in.fw.example", MAIL * 3000)
        smtp.starttls(context=trusts)
        return smtp.sendmail("scanner@fw.example", "a@x.example", MAIL * 3000)

    async def both() -> tuple[int, int]:
        async with relay_at(tmp_path, section) as site:
            await site.smtp(work)
            async with site.talk() as talk:
                await talk.reply()
                await talk.raw(b"EHLO me\r\nSTARTTLS\r\nNOOP\r\n")
                assert [reply[:3] for reply in await talk.end()] == ["250", "554"]
            return len(await site.routed()), len(await site.queued())

    assert uvloop.run(both()) == (1, 1)


@pytest.mark.parametrize("behind", ["NOOP\r\n", "MAIL FROM:<scanner@fw.example>\r\n", "x"])
async def test_what_comes_between_starttls_and_tls_ends_the_session(
    tmp_path: Path, behind: str
) -> None:
    """Somebody on the way cannot put words in front of those that TLS protects."""
    section, _ = with_tls(tmp_path, SENDS)
    async with relay_at(tmp_path, section) as site, site.talk() as talk:
        await talk.reply()
        await talk.say("EHLO me")
        await talk.raw(f"STARTTLS\r\n{behind}".encode())
        assert [reply[:3] for reply in await talk.end()] == ["554"]


async def test_a_broken_handshake_ends_the_session(tmp_path: Path) -> None:
    """After 220 there is TLS or nothing: plain commands are never obeyed again."""
    section, _ = with_tls(tmp_path, SENDS)
    async with relay_at(tmp_path, section) as site, site.talk() as talk:
        await talk.reply()
        assert (await talk.say("EHLO me", "STARTTLS"))[:3] == "220"
        await talk.raw(b"MAIL FROM:<scanner@fw.example>\r\nRCPT TO:<a@x.example>\r\n" * 20)
        assert not [reply for reply in await _rest(talk) if reply[:1] in "2345"]


async def _rest(talk: Any) -> list[str]:
    found = []
    while line := await talk._line():
        found.append(line.decode("latin-1"))
    return found


async def test_tls_can_be_required(tmp_path: Path) -> None:
    """With ``require`` nothing but the way to TLS is answered before it."""
    section, trusts = with_tls(tmp_path, SENDS, require=True)

    def work(smtp: smtplib.SMTP) -> Any:
        smtp.ehlo()
        plain = smtp.mail("scanner@fw.example")[0]
        smtp.starttls(context=trusts)
        return plain, smtp.sendmail("scanner@fw.example", "a@x.example", MAIL)

    async with relay_at(tmp_path, section) as site:
        assert await site.smtp(work) == (530, {})
        assert len(await site.queued()) == 1


async def test_a_key_that_does_not_fit_is_a_clear_error(tmp_path: Path) -> None:
    """A wrong key, or one with a passphrase, is said at the start and not to the first client."""
    section, _ = with_tls(tmp_path, SENDS)
    key, _ = _pair(Authority())
    (tmp_path / "relay.key").write_bytes(key)
    with pytest.raises(ConfigError, match=r"relay\.tls: .* cannot be used"):
        async with relay_at(tmp_path, section):
            pass


# --- signing in


@pytest.mark.parametrize("how", ["auth_plain", "auth_login"])
async def test_who_signs_in_may_send(tmp_path: Path, how: str) -> None:
    """With ``auth``, nobody sends without; an inbound address asks for no name."""

    def work(smtp: smtplib.SMTP) -> Any:
        smtp.ehlo()
        smtp.mail("scanner@fw.example")
        before = smtp.rcpt("a@x.example")[0], smtp.rcpt("alarm@in.fw.example")[0]
        smtp.rset()
        smtp.user, smtp.password = "printer", PASSWORD
        mechanism = "plain" if how == "auth_plain" else "login"  # in small letters, as some do
        signed = smtp.auth(mechanism, getattr(smtp, how))[0]
        return before, signed, smtp.sendmail("scanner@fw.example", "a@x.example", MAIL)

    async with relay_at(tmp_path, AUTH) as site:
        assert await site.smtp(work) == ((530, 250), 235, {})
        assert len(await site.queued()) == 1


async def test_no_password_crosses_a_network_in_the_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another machine AUTH is neither offered nor taken before TLS; after it, it is."""
    elsewhere(monkeypatch)
    section, trusts = with_tls(tmp_path, AUTH)

    def work(smtp: smtplib.SMTP) -> Any:
        smtp.ehlo()
        plain = smtp.has_extn("auth"), smtp.docmd("AUTH", "PLAIN AHByaW50ZXIAeA==")[0]
        smtp.starttls(context=trusts)
        smtp.ehlo()
        offered = smtp.esmtp_features["auth"].split()
        return plain, offered, smtp.login("printer", PASSWORD)[0]

    async with relay_at(tmp_path, section) as site:
        assert await site.smtp(work) == ((False, 538), ["LOGIN", "PLAIN"], 235)


async def test_guessing_is_slow(tmp_path: Path) -> None:
    """After each failure the next attempt waits longer, also over another connection."""

    async def guess(site: Site) -> list[str]:
        async with site.talk() as talk:
            await talk.reply()
            replies = [await talk.say("EHLO me")]
            for _ in range(5):
                await talk.raw(b"AUTH PLAIN AHByaW50ZXIAd3Jvbmc=\r\n")
            return [*replies, *await talk.end()]

    async with relay_at(tmp_path, AUTH) as site:
        for _ in range(3):
            replies = await guess(site)
            assert [reply[:3] for reply in replies[1:]] == ["535", "535", "535", "421"]
        assert site.waits == [0, 1, 2, 4, 8, 16, 30, 30, 30]
        await site.smtp(lambda smtp: smtp.login("printer", PASSWORD))
        assert site.waits[-1] == 30


@pytest.mark.parametrize(
    "said",
    [
        ["AUTH PLAIN =", "AUTH LOGIN ="],
        ["AUTH", "AUTH CRAM-MD5", "AUTH PLAIN a b c"],
        ["AUTH PLAIN", "*", "AUTH LOGIN", "*"],
        ["AUTH PLAIN AA=="],
        ["AUTH LOGIN cHJpbnRlcg==", "//8="],
    ],
)
async def test_nonsense_signs_nobody_in(tmp_path: Path, said: list[str]) -> None:
    """What is no user and no password is refused, and the session is as before."""
    async with relay_at(tmp_path, AUTH) as site, site.talk() as talk:
        await talk.reply()
        await talk.say("EHLO me", *said)
        await talk.say("MAIL FROM:<scanner@fw.example>")
        assert (await talk.say("RCPT TO:<a@x.example>"))[:3] in {"530", ""}
