"""The configuration that the sandbox writes is valid, and leads to the sandbox."""

from __future__ import annotations

import asyncio
import functools
import ssl
import stat
from datetime import timedelta
from pathlib import Path

import imapclient
import msal
import pytest
import requests

from mailbridge.config import Config, load
from mailbridge.sandbox.config_text import config_for, new_signing_secret
from mailbridge.sandbox.receiver import Receiver
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey


@functools.cache
def signing_key() -> SigningKey:
    return SigningKey.generate()


def fetch_all(config: Config, name: str) -> list[bytes]:
    """Do with plain libraries what the configuration says, and return the mails."""
    mailbox = config.mailboxes[name]
    app, server = config.apps[mailbox.app], mailbox.fetch.server
    assert app.ca is not None
    assert server.ca is not None
    assert app.credential is not None
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(app.ca)
        client = msal.ConfidentialClientApplication(
            str(app.client_id),
            client_credential=app.credential.client_secret[0].reveal(),
            authority=app.authority_url,
            instance_discovery=False,
            http_client=session,
        )
        token = client.acquire_token_for_client([app.scope])["access_token"]
    context = ssl.create_default_context(cafile=str(server.ca))
    imap = imapclient.IMAPClient(server.host, server.port, ssl_context=context, timeout=10)
    imap.sasl_login("XOAUTH2", lambda _: f"user={mailbox.address}\x01auth=Bearer {token}\x01\x01")
    imap.select_folder(mailbox.fetch.folders[0])
    found = imap.fetch(imap.search("ALL"), ["BODY.PEEK[]"])
    imap.logout()
    return [found[uid][b"BODY[]"] for uid in sorted(found)]


async def test_the_written_configuration_is_valid_and_works(tmp_path: Path) -> None:
    """Product and sandbox agree: what ``config_for`` writes loads, and leads to the mails."""
    secret = new_signing_secret()
    async with (
        Tenant.start(key=signing_key()) as tenant,
        Receiver.start(secrets=[secret]) as receiver,
    ):
        first, second = tenant.add_app("Alarm App"), tenant.add_app("other")
        boxes = [
            tenant.add_mailbox("alarm@feuerwehr.example"),
            tenant.add_mailbox("Alarm@wache2.example"),
            tenant.add_mailbox("nobody-may@feuerwehr.example"),
        ]
        tenant.grant(first, boxes[0])
        tenant.grant(second, boxes[1])
        boxes[1].deliver(b"Subject: two\r\n\r\nx\r\n")
        state = tmp_path / "a b" / "state"
        text = config_for(
            tenant, webhook_url=receiver.url, state_dir=state, signing_secret=secret, every="7s"
        )
        file = tmp_path / "mailbridge.yaml"
        file.write_text(text, encoding="utf-8")
        config = load(file)
        assert {name: box.app for name, box in config.mailboxes.items()} == {
            "alarm": "alarm-app",
            "alarm-2": "other",
        }
        assert config.mailboxes["alarm"].fetch.every == timedelta(seconds=7)
        assert config.state.database.reveal() == f"sqlite:///{state}/mailbridge.db"
        webhook = config.webhooks["receiver"]
        assert webhook.url.reveal() == receiver.url
        assert webhook.allow_private
        assert [value.reveal() for value in webhook.signing_secrets] == [secret]
        assert await asyncio.to_thread(fetch_all, config, "alarm") == []
        assert await asyncio.to_thread(fetch_all, config, "alarm-2") == [
            b"Subject: two\r\n\r\nx\r\n"
        ]


@pytest.mark.parametrize("push", [None, True, False])
@pytest.mark.parametrize(("after", "for_pop3"), [("seen", "keep"), ("delete", "delete")])
async def test_the_configuration_names_protocol_and_push(
    tmp_path: Path,
    push: bool | None,  # noqa: FBT001 - a table
    after: str,
    for_pop3: str,
) -> None:
    """Mailboxes can be fetched by POP3, the others with or without push, and it all loads."""
    async with Tenant.start(key=signing_key()) as tenant:
        app = tenant.add_app()
        for name in ("alarm", "fax"):
            tenant.grant(app, tenant.add_mailbox(f"{name}@feuerwehr.example"))
        text = config_for(
            tenant,
            webhook_url="http://127.0.0.1:9/",
            state_dir=tmp_path,
            after=after,
            pop3=["FAX@feuerwehr.example"],
            push=push,
        )
        file = tmp_path / "mailbridge.yaml"
        file.write_text(text, encoding="utf-8")
        boxes = load(file).mailboxes
        alarm, fax = boxes["alarm"].fetch, boxes["fax"].fetch
        assert (alarm.protocol, alarm.server.port) == ("imap", tenant.imap.port)
        assert (fax.protocol, fax.server.port) == ("pop3", tenant.pop3.port)
        assert alarm.push is (push is not False)
        assert ("push: " in text) is (push is not None)
        assert (alarm.after.action, fax.after.action) == (after, for_pop3)
        with pytest.raises(ValueError, match="no mailbox is called x@y"):
            config_for(tenant, webhook_url="http://127.0.0.1:9/", state_dir=tmp_path, pop3=["x@y"])


def modes_in(directory: Path) -> dict[str, int]:
    """Return the permissions of all files but the CA, which is public."""
    files = [path for path in directory.iterdir() if path.name != "ca.pem"]
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}


async def test_no_secret_stands_in_the_configuration_or_is_readable_by_others(
    tmp_path: Path,
) -> None:
    """Secrets are in files of their own with mode 0600, also when they are written again."""
    async with Tenant.start(key=signing_key()) as tenant:
        app = tenant.add_app()
        tenant.grant(app, tenant.add_mailbox("alarm@feuerwehr.example"))
        for _ in range(2):
            text = config_for(tenant, webhook_url="http://127.0.0.1:9/", state_dir=tmp_path)
        assert app.secret not in text
        assert "whsec_" not in text
        assert modes_in(tmp_path) == {"alarm-app.secret": 0o600, "receiver.whsec": 0o600}
        assert (tmp_path / "alarm-app.secret").read_text().strip() == app.secret


async def test_two_tenants_live_side_by_side_and_leave_nothing_behind(tmp_path: Path) -> None:
    """Each tenant has its own ports, CA and UIDVALIDITYs, and takes its files along."""
    async with Tenant.start(key=signing_key()) as one, Tenant.start(key=signing_key()) as two:
        servers = (one.imap, one.pop3, one.entra, two.imap, two.pop3, two.entra)
        assert len({server.port for server in servers}) == 6
        assert one.authority.pem != two.authority.pem
        boxes = [one.add_mailbox("a@x.example"), one.add_mailbox("b@x.example")]
        validities = [folder.uidvalidity for box in boxes for folder in box.folders.values()]
        assert len(set(validities)) == len(validities)
        assert one.ca_file.exists()
        kid = one.write_token_key(tmp_path / "key.pem")
        assert kid == signing_key().kid
        assert b"BEGIN PUBLIC KEY" in (tmp_path / "key.pem").read_bytes()
    assert not one.ca_file.exists()
