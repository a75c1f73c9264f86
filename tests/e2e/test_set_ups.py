"""The configurations of docs/set-ups, run as they stand with the sandbox in Microsoft's place.

What is exchanged is what only Microsoft's side decides (servers, tenant, CA), where webhooks lead,
and the addresses that this machine listens on. Everything else is the page's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import smtplib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import pytest
import yaml

from mailbridge import config
from mailbridge.http.control import ask, socket_path
from mailbridge.parse import parse
from mailbridge.sandbox.alarms import trace_headers
from mailbridge.sandbox.config_text import new_signing_secret
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.receiver import Answer, Received, Receiver
from mailbridge.sandbox.tenant import Tenant
from tests.e2e.test_login import delivered, free_port, line_with
from tests.pages import DOCS, read
from tests.servers.oauth_web import Browser
from tests.servers.site import SECONDS, Site

ALARM: Final = """\
From: ILS <einsatz@leitstelle.example>
To: alarm@feuerwehr.example
Subject: Einsatzalarmierung - B3
Message-ID: <4711@leitstelle.example>

Einsatznummer: 4711
Stichwort: B3
Adresse: Hauptstr. 5, Musterstadt
"""


class SetUp:
    """A page's configuration, and the tenant, receiver and secrets that it runs with."""

    def __init__(self, page: str, tenant: Tenant, receiver: Receiver, home: Path) -> None:
        [text] = [
            block.text for block in read(DOCS / "set-ups" / page).blocks if "apps:" in block.text
        ]
        self.document: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)
        self.tenant, self.receiver, self.home = tenant, receiver, home
        self.apps: dict[str, App] = {}
        self.site = Site(tenant, receiver, tenant.add_mailbox("unused@feuerwehr.example"), home)
        self.site.environ |= {"CREDENTIALS_DIRECTORY": str(home / "credentials")}

    def write(self, signing_secret: str) -> None:
        """Write the file, with the sandbox in Microsoft's place, and a secret for each name."""
        state = self.document.setdefault("state", {})
        state["database"] = f"sqlite:///{self.home}/mailbridge.db"
        ca = str(self.tenant.ca_file)
        for name, app in self.document["apps"].items():
            self.apps[name] = self._register(name, app)
            app |= {"tenant": self.tenant.entra.authority, "ca": ca}
        for box in self.document["mailboxes"].values():
            self._exchange(box, ca)
        for name, hook in self.document.get("webhooks", {}).items():
            hook |= {"url": f"{self.receiver.url}/{name}", "allow_private": "true"}
        folder = self.home / "credentials"
        folder.mkdir()
        text = json.dumps(self.document)
        for name in re.findall(r'"credential": "([^"]+)"', text):
            value = base64.b64encode(secrets.token_bytes(32)).decode()
            value = signing_secret if name.endswith("-webhook") else value
            (folder / name).write_text(self._client_secrets().get(name, value))
        text = yaml.dump(self.document, sort_keys=False, allow_unicode=True)
        self.site.config.write_text(re.sub(r"'(true|false|\d+)'", r"\1", text), encoding="utf-8")

    def _client_secrets(self) -> dict[str, str]:
        places = {
            name: app["credential"]["client_secret"]["credential"]
            for name, app in self.document["apps"].items()
            if "credential" in app
        }
        return {place: self.apps[name].secret for name, place in places.items()}

    def _register(self, name: str, app: dict[str, Any]) -> App:
        if "credential" in app:
            return self.tenant.add_app(name, client_id=app["client_id"])
        public = App(name=name, public_flows=True)
        public.client_id = app["client_id"]
        return self.tenant.directory.add(public)

    def _exchange(self, box: dict[str, Any], ca: str) -> None:
        tenant, app = self.tenant, self.apps[box["app"]]
        fetch = box.get("fetch", {})
        protocol = fetch.get("protocol", "imap")
        port = tenant.pop3.port if protocol == "pop3" else tenant.imap.port
        mailbox = tenant.add_mailbox(box["address"])
        if box.get("sign_in") == "delegated":
            person = tenant.add_user(box.get("signed_in_as", box["address"]))
            tenant.grant(person, mailbox)
            tenant.allow_send_as(person, box["address"])
        else:
            tenant.grant(app, mailbox)
        if protocol != "none":
            server = {"host": "localhost", "port": str(port), "tls": "implicit", "ca": ca}
            fetch |= {"server": server, "every": "5s"}
        if "send" in box:
            port = tenant.smtp.port
            server = {"host": "localhost", "port": str(port), "tls": "starttls", "ca": ca}
            box["send"] = {**(box["send"] or {}), "server": server}

    async def asked(self, hook: str) -> Received:
        """Wait for the first request to a webhook."""
        async with asyncio.timeout(SECONDS):
            while True:
                for request in self.receiver.requests:
                    if name_of(request) == hook:
                        return request
                await asyncio.sleep(0.05)

    async def status(self) -> dict[str, Any] | None:
        """Ask the daemon, as `mailbridge status` does; ``None`` when none answers."""
        answer = await ask(socket_path(self.document["state"]["database"], {}), "status", {})
        return dict(answer) if answer else None

    async def up(self) -> None:
        """Wait until the daemon answers."""
        async with asyncio.timeout(SECONDS):
            while await self.status() is None:
                await asyncio.sleep(0.1)

    async def mailboxes(self, state: str, fix: str = "") -> None:
        """Wait until all are in a state: `start: new` wants what comes after the first look."""
        await self.up()
        async with asyncio.timeout(SECONDS):
            while any(
                row["state"] != state or fix not in (row["fix"] or "")
                for row in (await self.status() or {"mailboxes": [{"state": ""}]})["mailboxes"]
            ):
                await asyncio.sleep(0.1)


def name_of(request: Received) -> str:
    """Return the name of the webhook that a request is for."""
    return request.path.partition("?")[0].rpartition("/")[2]


def is_for(hook: str) -> Callable[[Received], bool]:
    """Return what picks the requests to one webhook."""
    return lambda request: name_of(request) == hook


@asynccontextmanager
async def set_up(page: str, home: Path, **changes: dict[str, Any]) -> AsyncIterator[SetUp]:
    """Give a page's set-up, written and checked; ``changes`` are what the machine decides."""
    secret = new_signing_secret()
    async with Tenant.start(files=home) as tenant, Receiver.start(secrets=[secret]) as receiver:
        site = SetUp(page, tenant, receiver, home)
        for section, values in changes.items():
            site.document[section] |= values
        site.write(secret)
        checked = config.check(site.site.config, environ=site.site.environ)
        assert (checked.problems, checked.warnings) == ([], [])
        yield site


def genuine(text: str, recipient: str) -> bytes:
    """Return a mail as Exchange Online stores it when its author is proven."""
    now = datetime.now(UTC)
    above = trace_headers(sender="einsatz@leitstelle.example", recipient=recipient, at=now)
    return above + text.replace("\n", "\r\n").encode()


async def test_an_alarm_reaches_divera_and_fe2_and_a_forged_one_the_office(tmp_path: Path) -> None:
    """Each alarm server gets its own form, once; what nobody vouches for is held and told of."""
    async with set_up("application-alarm-server.md", tmp_path) as run:
        answers = {"divera": b'{"success": true}', "fe2": b'{"status": "OK"}'}
        for hook, body in answers.items():
            run.receiver.answer_with(Answer(body=body), when=is_for(hook))
        box = run.tenant.mailbox("alarm@feuerwehr.example")
        async with run.site.daemon():
            await run.mailboxes("ok")
            box.deliver(genuine(ALARM, box.address))
            divera, fe2 = await run.asked("divera"), await run.asked("fe2")
            box.deliver(ALARM.replace("4711", "4712").encode())
            office = await run.asked("office")

    assert divera.json["number"] == fe2.json["data"]["externalId"] == "4711"
    assert divera.json["title"] == fe2.json["data"]["keyword"] == "B3"
    assert divera.json["address"] == "Hauptstr. 5, Musterstadt"
    assert divera.json["priority"] is True
    assert office.type == "delivery.held"
    asked = [name_of(request) for request in run.receiver.requests]
    assert asked.count("divera") == asked.count("fe2") == 1
    assert "sms" not in asked


async def test_the_text_message_goes_when_the_alarm_server_is_away(tmp_path: Path) -> None:
    """The fallback of the page gets the alarm that DIVERA refuses for good, in its own form."""
    async with set_up("application-alarm-server.md", tmp_path) as run:
        run.receiver.answer_with(Answer(status=422), when=is_for("divera"))
        run.receiver.answer_with(Answer(), when=lambda one: not one.verified)
        box = run.tenant.mailbox("alarm@feuerwehr.example")
        async with run.site.daemon():
            await run.mailboxes("ok")
            box.deliver(genuine(ALARM, box.address))
            sms = await run.asked("sms")

    assert sms.json == {"text": "Einsatzalarmierung - B3"}


async def test_a_person_signs_in_by_the_link_on_the_page(tmp_path: Path) -> None:
    """From `login --web` over Microsoft's pages to the first mail, with a client of type Web."""
    port = free_port()
    http = {"listen": f"127.0.0.1:{port}", "public_url": f"http://localhost:{port}"}
    jar = aiohttp.CookieJar(unsafe=True)
    async with set_up("delegated-web.md", tmp_path, http=http) as run:
        run.apps["office-app"].add_redirect(f"http://localhost:{port}/oauth/callback")
        person = run.tenant.directory.find_user("office@feuerwehr.example")
        assert person is not None
        run.tenant.mailbox(person.upn).deliver(genuine(ALARM, person.upn))
        async with run.site.daemon(), aiohttp.ClientSession(cookie_jar=jar) as session:
            await run.mailboxes("parked", fix="mailbridge login office")
            code, link, _ = await run.site.call("login", "office", "--web")
            browser = Browser(session)
            shown = await browser.get(link.strip())
            away = await browser.post(link.partition("?")[0].strip(), {"ticket": shown.ticket})
            async with run.tenant.browser() as microsoft:
                landing = await microsoft.walk_authorize(away.link, person)
            back = f"http://localhost:{port}/oauth/callback?{urlencode(landing.fields)}"
            shown = await browser.get(back)
            await run.mailboxes("ok")
            run.tenant.mailbox(person.upn).deliver(genuine(ALARM, person.upn))
            await delivered(run.site, 1)

    assert code == 0
    assert person.upn in shown.text


async def test_an_erp_is_posted_to_and_sends(tmp_path: Path) -> None:
    """What comes by POP3 is posted with its id; what the page's curl sends arrives by SMTP."""
    port = free_port()
    http = {"listen": f"127.0.0.1:{port}"}
    async with set_up("pop3-smtp-erp.md", tmp_path, http=http) as run:
        box = run.tenant.mailbox("erp@firma.example")
        token = (tmp_path / "credentials" / "erp-token").read_text()
        async with run.site.daemon(), aiohttp.ClientSession() as session:
            await run.mailboxes("ok")
            box.deliver(genuine(ALARM, box.address))
            arrived = await run.asked("erp")
            codes = [await post(session, port, token) for _ in range(2)]
            sent = await told(run, "send.sent")

    assert arrived.json["data"]["source"]["protocol"] == "pop3"
    assert codes[0] == codes[1]
    assert codes[0][0] == 202
    [mail] = run.tenant.smtp.mails
    assert mail.recipients == ("buchhaltung@kunde.example",)
    assert parse(mail.raw).subject == "Rechnung 4711"
    assert sent.json["data"]["send"] == codes[0][1]


async def post(session: aiohttp.ClientSession, port: int, token: str) -> tuple[int, str]:
    """Send what the page sends: status and id."""
    page = read(DOCS / "set-ups" / "pop3-smtp-erp.md")
    [command] = [line for block in page.blocks for line in block.commands() if "/v1/send" in line]
    found = re.search(r"Idempotency-Key: ([^']+)'.*-d '(.+)'$", command)
    assert found is not None
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": found[1]}
    async with session.post(
        f"http://127.0.0.1:{port}/v1/send",
        headers={**headers, "content-type": "application/json"},
        data=found[2].encode(),
    ) as response:
        return response.status, str((await response.json())["id"])


async def told(run: SetUp, event: str) -> Received:
    """Wait for an event of some type."""
    [found, *_] = await run.receiver.wait(1, seconds=SECONDS, event=event)
    return found


async def test_shared_mailboxes_are_opened_by_the_app_and_by_a_person(tmp_path: Path) -> None:
    """One by application access, one by somebody else's sign-in; the mails name the mailboxes."""
    async with set_up("shared-mailbox.md", tmp_path) as run:
        run.tenant.entra.state.device_interval = 1
        person = run.tenant.directory.find_user("max@feuerwehr.example")
        assert person is not None
        addresses = {"leitstelle@feuerwehr.example", "info@feuerwehr.example"}
        login = await run.site.start("login", "info", "--device")
        line = await line_with(login, "type in the code")
        code = line.rstrip(".").rsplit(" ", 1)[1]
        async with run.tenant.browser() as browser:
            await browser.approve_device(code, person)
        await login.communicate()
        async with run.site.daemon():
            await run.mailboxes("ok")
            for address in addresses:
                run.tenant.mailbox(address).deliver(genuine(ALARM, address))
            await delivered(run.site, 2)

    assert login.returncode == 0
    mails = [one.json for one in run.receiver.requests if one.type == "mail.received"]
    assert {mail["data"]["address"] for mail in mails} == addresses


async def test_a_scanner_sends_and_a_panel_alarms(tmp_path: Path) -> None:
    """The device's mail leaves through the mailbox, under its own name; the panel's is posted."""
    port = free_port()
    relay = {"listen": f"127.0.0.1:{port}"}
    scan = b"From: scanner@feuerwehr.example\r\nSubject: Scan\r\n\r\nsee it\r\n"

    def device(sender: str, to: str, mail: bytes) -> dict[str, Any]:
        with smtplib.SMTP("127.0.0.1", port) as client:
            return client.sendmail(sender, [to], mail)

    async with set_up("relay-printer.md", tmp_path, relay=relay) as run:
        run.tenant.allow_send_as(run.apps["office-app"], "scanner@feuerwehr.example")
        async with run.site.daemon():
            await run.up()
            sender = "scanner@feuerwehr.example"
            assert await asyncio.to_thread(device, sender, "chief@example.org", scan) == {}
            panel = ("panel@10.0.0.9", "panel@alarm.feuerwehr.example")
            assert await asyncio.to_thread(device, *panel, ALARM.encode()) == {}
            with pytest.raises(smtplib.SMTPException):
                await asyncio.to_thread(device, "x@elsewhere.example", "chief@example.org", scan)
            alarm = await run.asked("alarm-server")
            async with asyncio.timeout(SECONDS):
                while not run.tenant.smtp.mails:
                    await asyncio.sleep(0.05)

    [mail] = run.tenant.smtp.mails
    assert mail.recipients == ("chief@example.org",)
    assert b"From: scanner@feuerwehr.example" in mail.raw
    assert alarm.json["data"]["fields"]["fields"]["Stichwort"] == "B3"
