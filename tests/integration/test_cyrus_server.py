"""The test bed's Cyrus and the gate in front of it keep the promises that other tests build on."""

from __future__ import annotations

import imaplib
import os
import poplib
import pwd
import re
import socket
import ssl
import time
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.servers.cyrus import Cyrus
from tests.servers.tokens import Minter

MAIL = b"Subject: Alarm\r\nMessage-ID: <%d@mail.test>\r\n\r\nHallo\r\n"


def uidvalidity(client: imaplib.IMAP4) -> int:
    client.select("INBOX", readonly=True)
    values = client.response("UIDVALIDITY")[1]
    assert values[0] is not None
    return int(values[0])


def pop3(cyrus: Cyrus) -> poplib.POP3_SSL:
    context = cyrus.client_context()
    return poplib.POP3_SSL("localhost", cyrus.pop3s_port, context=context, timeout=10)


def pop3_sign_in(client: poplib.POP3, address: str, token: str) -> bytes:
    """Sign in as Exchange wants it, in two lines; returns the last answer."""
    client._putcmd("AUTH XOAUTH2")  # type: ignore[attr-defined] # poplib has no word for it
    assert client._getline()[0] == b"+ "  # type: ignore[attr-defined]
    answer = b64encode(f"user={address}\x01auth=Bearer {token}\x01\x01".encode())
    client._putcmd(answer.decode())  # type: ignore[attr-defined]
    line: bytes = client._getline()[0]  # type: ignore[attr-defined]
    return line


def test_application_token_opens_every_granted_mailbox(cyrus: Cyrus, minter: Minter) -> None:
    """A token without a user name signs in to any mailbox that the filter lets through."""
    for address in ("one@app.test", "two@app.test"):
        cyrus.login(address, minter.mint_app()).logout()

    with pytest.raises(imaplib.IMAP4.error, match="authentication failure"):
        cyrus.login("ungranted@app.test", minter.mint_app())


def test_delegated_token_opens_its_own_mailbox_only(cyrus: Cyrus, minter: Minter) -> None:
    """A token of one person is refused at the mailbox of another."""
    cyrus.login("anna@user.test", minter.mint("anna@user.test")).logout()

    with pytest.raises(imaplib.IMAP4.error, match="authentication failure"):
        cyrus.login("bert@user.test", minter.mint("anna@user.test"))


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"ttl": -10}, "expired"),
        ({"aud": "https://graph.test"}, "[Aa]udience"),
        ({"iss": "https://other.test"}, "[Ii]ssuer"),
    ],
)
def test_wrong_token_is_refused_for_its_reason(
    cyrus: Cyrus, minter: Minter, claims: dict[str, object], reason: str
) -> None:
    """Expiry, audience and issuer are really checked, and the log names each."""
    before = len(cyrus.log)
    with pytest.raises(imaplib.IMAP4.error, match="authentication failure"):
        cyrus.login("anna@user.test", minter.mint("anna@user.test", **claims))  # type: ignore[arg-type]

    assert re.search(reason, cyrus.log[before:])


def test_foreign_key_is_refused(cyrus: Cyrus) -> None:
    """A token that another key has signed under the same kid opens nothing."""
    with pytest.raises(imaplib.IMAP4.error, match="authentication failure"):
        cyrus.login("anna@user.test", Minter().mint("anna@user.test"))


def test_only_bearer_tokens_open_the_gate(cyrus: Cyrus, minter: Minter) -> None:
    """It offers XOAUTH2 alone, takes no password, and a client may try again after a refusal."""
    context = cyrus.client_context()
    with imaplib.IMAP4_SSL("localhost", cyrus.imaps_port, ssl_context=context) as client:
        assert [one for one in client.capabilities if one.startswith("AUTH=")] == ["AUTH=XOAUTH2"]
        with pytest.raises(imaplib.IMAP4.error, match="only XOAUTH2"):
            client.login("anna@user.test", "x")
        with pytest.raises(imaplib.IMAP4.error):
            client.authenticate("XOAUTH2", lambda _: b"no such thing")
        token = f"user=anna@user.test\x01auth=Bearer {minter.mint_app()}\x01\x01".encode()
        assert client.authenticate("XOAUTH2", lambda _: token)[0] == "OK"


def test_a_refused_client_is_told_which_token_is_wanted(cyrus: Cyrus) -> None:
    """The reason of a refusal comes as a challenge, as at Exchange Online."""
    told: list[bytes] = []

    def respond(challenge: bytes) -> bytes:
        told.append(challenge)
        return b"" if challenge else b"user=anna@user.test\x01auth=Bearer no.t.oken\x01\x01"

    context = cyrus.client_context()
    with (
        imaplib.IMAP4_SSL("localhost", cyrus.imaps_port, ssl_context=context) as client,
        pytest.raises(imaplib.IMAP4.error, match="authentication failure"),
    ):
        client.authenticate("XOAUTH2", respond)

    assert b'"status":"401"' in told[1]


def test_what_answers_behind_the_gate_is_cyrus(cyrus: Cyrus, minter: Minter) -> None:
    """The greeting and the capabilities after the sign-in are Cyrus's own."""
    client = cyrus.login("self@mail.test", minter.mint_app())
    assert b"Cyrus IMAP 3." in client.welcome
    told = client.capability()[1][0].split()
    client.logout()

    assert {b"X-REPLICATION", b"MOVE", b"UIDPLUS", b"IDLE"} <= set(told)


def test_mail_arrives_byte_for_byte_and_keeps_its_flags(cyrus: Cyrus, minter: Minter) -> None:
    """What is delivered is fetched unchanged through the gate, with its time and its flags."""
    address = "bytes@mail.test"
    # without line ends, which every client and server makes CRLF
    large = MAIL % 2 + bytes(set(range(1, 256)) - set(b"\r\n")) * 4096
    moment = datetime(2026, 11, 1, 3, 4, 5, tzinfo=UTC)
    cyrus.deliver(address, MAIL % 1, received_at=moment)
    cyrus.deliver(address, large, flags=[b"\\Seen"])

    seen = {one.message_id: "\\Seen" in one.flags for one in cyrus.read(address)}
    assert seen == {"<1@mail.test>": False, "<2@mail.test>": True}
    client = cyrus.login(address, minter.mint_app())
    client.select("INBOX", readonly=True)
    parts = client.fetch("1:*", "(INTERNALDATE BODY.PEEK[])")[1]
    client.logout()
    assert [part[1] for part in parts if isinstance(part, tuple)] == [MAIL % 1, large]
    assert b" 1-Nov-2026 03:04:05 +0000" in b"".join(p[0] for p in parts if isinstance(p, tuple))


def test_a_recreated_inbox_has_its_mail_and_another_uidvalidity(
    cyrus: Cyrus, minter: Minter
) -> None:
    """Time after time, even within one second, the value is another one; mail and flags stay."""
    address = "epoch@mail.test"
    cyrus.deliver(address, MAIL % 1, flags=[b"\\Seen"])
    seen = set()
    for _ in range(4):
        client = cyrus.login(address, minter.mint_app())
        seen.add(uidvalidity(client))
        client.logout()
        cyrus.recreate(address)

    (left,) = cyrus.read(address)
    assert len(seen) == 4
    assert left.message_id == "<1@mail.test>"
    assert "\\Seen" in left.flags


def test_killed_sessions_end_at_the_client(cyrus: Cyrus, minter: Minter) -> None:
    """When a serving process dies, its client sees the end, and a neighbour sees nothing."""
    dying = cyrus.login("dying@mail.test", minter.mint_app())
    living = cyrus.login("living@mail.test", minter.mint_app())
    dying.noop()

    assert cyrus.kill_sessions("dying@mail.test") == 1

    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        dying.noop()
    dying.shutdown()
    assert living.noop()[0] == "OK"
    living.logout()


@pytest.mark.parametrize("linger", [b"", b"\x01\0\0\0\0\0\0\0"], ids=["close", "reset"])
def test_a_client_that_vanishes_leaves_no_session(
    cyrus: Cyrus, minter: Minter, linger: bytes
) -> None:
    """Ended by close or by reset, the connection is ended behind the gate, too."""
    client = cyrus.login("gone@mail.test", minter.mint_app())
    client.noop()
    assert cyrus.sessions("gone@mail.test")
    if linger:
        client.socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.file.close()
    client.socket().close()

    deadline = time.monotonic() + 20
    while cyrus.sessions("gone@mail.test"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_pop3_shows_the_same_mailbox(cyrus: Cyrus, minter: Minter) -> None:
    """XOAUTH2 in two lines opens it; a refused token is asked for another, then declined."""
    address = "pop@mail.test"
    for number in (1, 2):
        cyrus.deliver(address, MAIL % number)
    client = pop3(cyrus)
    assert client.capa()["SASL"] == ["XOAUTH2"]
    assert pop3_sign_in(client, address, "no.t.oken").startswith(b"+ ")
    client._putcmd("")  # type: ignore[attr-defined]
    with pytest.raises(poplib.error_proto, match="authentication failure"):
        client._getresp()  # type: ignore[attr-defined]
    with pytest.raises(poplib.error_proto, match="only XOAUTH2"):
        client.user(address)

    assert pop3_sign_in(client, address, minter.mint_app()).startswith(b"+OK")
    assert len(client.uidl()[1]) == 2
    assert b"\r\n".join(client.retr(2)[1]) + b"\r\n" == MAIL % 2
    client.dele(1)
    client.quit()

    assert [one.message_id for one in cyrus.read(address)] == ["<2@mail.test>"]


def test_pause_and_resume_keep_mail_and_ports(minter: Minter) -> None:
    """A restart loses no mail and comes back where it was; clients are cut off meanwhile."""
    with Cyrus(minter.rules, probe_token=minter.mint_app) as server:
        server.deliver("restart@mail.test", MAIL % 1)
        client = server.login("restart@mail.test", minter.mint_app())
        port = server.imaps_port
        server.pause()
        with pytest.raises((imaplib.IMAP4.abort, OSError)):
            client.noop()
        client.shutdown()
        with pytest.raises(ConnectionRefusedError):
            server.login("restart@mail.test", minter.mint_app())
        server.resume()

        assert server.imaps_port == port
        assert len(server.read("restart@mail.test")) == 1
        base = server.base
    assert not base.exists()


def test_the_end_of_one_server_is_not_that_of_another(cyrus: Cyrus, minter: Minter) -> None:
    """Cyrus's master ends its whole process group, which holds nobody else."""
    client = cyrus.login("group@mail.test", minter.mint_app())
    with Cyrus(minter.rules, probe_token=minter.mint_app) as other:
        assert os.getpgid(other.pid) == other.pid

    assert client.noop()[0] == "OK"
    client.logout()


def test_it_runs_under_any_account(minter: Minter) -> None:
    """It needs neither root nor the account of the package."""
    with Cyrus(minter.rules, probe_token=minter.mint_app, run_as="nobody") as server:
        server.deliver("plain@mail.test", MAIL % 1)

        assert len(server.read("plain@mail.test")) == 1


def test_nothing_of_it_runs_as_root(cyrus: Cyrus, minter: Minter) -> None:
    """Whoever starts it, master and sessions belong to an ordinary account."""
    client = cyrus.login("owner@mail.test", minter.mint_app())
    client.noop()
    pids = [cyrus.pid, *cyrus.sessions("owner@mail.test")]
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in pids}
    client.logout()

    assert len(pids) == 2
    assert owners == {pwd.getpwnam("cyrus").pw_uid if os.geteuid() == 0 else os.geteuid()}


def test_the_certificate_is_checked(cyrus: Cyrus) -> None:
    """A client that does not know the private authority does not get through."""
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        imaplib.IMAP4_SSL("localhost", cyrus.imaps_port, ssl_context=context, timeout=10)
