"""The test bed's Dovecot keeps the promises that other tests build on."""

from __future__ import annotations

import imaplib
import os
import re

import pytest

from tests.servers.dovecot import Dovecot
from tests.servers.tokens import Minter

MAIL = b"Subject: Alarm\r\nMessage-ID: <%d@mail.test>\r\n\r\nHallo\r\n"


def uidvalidity(client: imaplib.IMAP4_SSL) -> int:
    client.select("INBOX", readonly=True)
    values = client.response("UIDVALIDITY")[1]
    assert values[0] is not None
    return int(values[0])


def test_application_token_opens_every_granted_mailbox(dovecot: Dovecot, minter: Minter) -> None:
    """A token without a user name signs in to any mailbox that the filter lets through."""
    for address in ("one@app.test", "two@app.test"):
        dovecot.login(address, minter.mint_app()).logout()

    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        dovecot.login("ungranted@app.test", minter.mint_app())


def test_delegated_token_opens_its_own_mailbox_only(dovecot: Dovecot, minter: Minter) -> None:
    """A token of one person is refused at the mailbox of another."""
    dovecot.login("anna@user.test", minter.mint("anna@user.test")).logout()

    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        dovecot.login("bert@user.test", minter.mint("anna@user.test"))


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"ttl": -10}, "expired"),
        ({"aud": "https://graph.test"}, "audience|scope"),
        ({"iss": "https://other.test"}, "[Ii]ssuer"),
    ],
)
def test_wrong_token_is_refused_for_its_reason(
    dovecot: Dovecot, minter: Minter, claims: dict[str, object], reason: str
) -> None:
    """Expiry, audience and issuer are really checked: the server's log names each."""
    before = len(dovecot.log)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        dovecot.login("anna@user.test", minter.mint("anna@user.test", **claims))  # type: ignore[arg-type]

    assert re.search(reason, dovecot.log[before:])


def test_foreign_key_is_refused(dovecot: Dovecot, minter: Minter) -> None:
    """A token that another key has signed under the same kid opens nothing."""
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        dovecot.login("anna@user.test", Minter().mint("anna@user.test"))


def test_mail_arrives_byte_for_byte_and_keeps_its_flags(dovecot: Dovecot, minter: Minter) -> None:
    """What is delivered or seeded is fetched unchanged; the flags are those on the server."""
    address = "bytes@mail.test"
    dovecot.deliver(address, MAIL % 1)
    dovecot.deliver(address, MAIL % 2, seen=True)

    assert {m.message_id: "\\Seen" in m.flags for m in dovecot.read(address)} == {
        "<1@mail.test>": False,
        "<2@mail.test>": True,
    }
    client = dovecot.login(address, minter.mint_app())
    client.select("INBOX", readonly=True)
    bodies = {
        part[1] for part in client.fetch("1:*", "(BODY.PEEK[])")[1] if isinstance(part, tuple)
    }
    client.logout()
    assert {MAIL % 1, MAIL % 2} == bodies


def test_seeded_mail_has_ascending_uids(dovecot: Dovecot) -> None:
    """Seeding keeps the order of the messages, in a folder whose name is not ASCII too."""
    count = dovecot.seed("seed@mail.test", (MAIL % n for n in range(50)), "Archiv/Prüfung & Co")

    stored = dovecot.read("seed@mail.test", "Archiv/Prüfung & Co")
    assert count == 50
    assert [f"<{n}@mail.test>" for n in range(50)] == [m.message_id for m in stored]


def test_lmtp_delivers(dovecot: Dovecot) -> None:
    """A message given to LMTP lies in the mailbox when the call returns."""
    dovecot.deliver_lmtp("lmtp@mail.test", MAIL % 7)

    assert [m.message_id for m in dovecot.read("lmtp@mail.test")] == ["<7@mail.test>"]


def test_uidvalidity_can_be_changed(dovecot: Dovecot, minter: Minter) -> None:
    """After new_uidvalidity the server shows the new value and still has the mail."""
    address = "epoch@mail.test"
    dovecot.deliver(address, MAIL % 1)
    dovecot.new_uidvalidity(address, 4242)

    client = dovecot.login(address, minter.mint_app())
    assert uidvalidity(client) == 4242
    client.logout()
    assert len(dovecot.read(address)) == 1


def test_cleartext_sign_in_is_refused_on_the_second_address(
    dovecot: Dovecot, minter: Minter
) -> None:
    """On 127.0.0.2 no credential is taken before STARTTLS, and afterwards it is."""
    token = f"user=tls@mail.test\x01auth=Bearer {minter.mint_app()}\x01\x01".encode()
    with imaplib.IMAP4("127.0.0.2", dovecot.imap_port, timeout=10) as client:
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            client.authenticate("XOAUTH2", lambda _: token)
        client.starttls(dovecot.client_context())
        assert client.authenticate("XOAUTH2", lambda _: token)[0] == "OK"


def test_pause_and_resume_keep_mail_and_ports(minter: Minter) -> None:
    """A restart of the server loses no mail and comes back where it was; password sign-in works."""
    with Dovecot(minter.rules, password="made-up", probe_token=minter.mint_app) as server:
        server.deliver("restart@mail.test", MAIL % 1)
        port = server.imaps_port
        server.pause()
        with pytest.raises(ConnectionRefusedError):
            server.login("restart@mail.test", minter.mint_app())
        server.resume()

        assert server.imaps_port == port
        assert len(server.read("restart@mail.test")) == 1
        context = server.client_context()
        with imaplib.IMAP4_SSL("localhost", port, ssl_context=context, timeout=10) as client:
            assert client.login("restart@mail.test", "made-up")[0] == "OK"


def test_it_runs_without_root(minter: Minter) -> None:
    """Under an ordinary account the same server signs in, takes mail by LMTP and lists it."""
    account = "nobody" if os.geteuid() == 0 else ""
    with Dovecot(minter.rules, probe_token=minter.mint_app, run_as=account) as server:
        server.deliver("plain@mail.test", MAIL % 1)
        server.deliver_lmtp("plain@mail.test", MAIL % 2)

        assert len(server.read("plain@mail.test")) == 2
