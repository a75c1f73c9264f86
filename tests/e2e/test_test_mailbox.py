"""test-mailbox as an operator types it: --send-to with and without a daemon, languages, codes."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mailbridge.cli.main import app
from mailbridge.sandbox.config_text import config_for, new_signing_secret
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.receiver import Answer, Receiver
from mailbridge.sandbox.tenant import Tenant
from tests.servers.site import SECONDS, Site

ADDRESS = "alarm@feuerwehr.example"
ENGLISH = {"LC_ALL": "C.UTF-8"}
GERMAN = {"LC_ALL": "de_DE.UTF-8"}
ALARM_SERVER = """
  divera:
    format: divera
    url: {url}alarm-server
    divera: {{access_key: {{file: {key}}}}}
    allow_private: true
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Give a mailbox that fetches by IMAP and sends, a native webhook, and an alarm server."""
    secret = new_signing_secret()
    async with Tenant.start(files=tmp_path) as tenant, Receiver.start(secrets=[secret]) as receiver:
        box = tenant.add_mailbox(ADDRESS)
        tenant.grant(tenant.add_app("alarm-app"), box)
        site = Site(tenant, receiver, box, tmp_path)
        _write(site, secret)
        yield site


def _write(site: Site, secret: str, **given: Any) -> None:
    text = config_for(
        site.tenant,
        webhook_url=site.receiver.url,
        state_dir=site.home / "state",
        signing_secret=secret,
        after="delete",
        send=[ADDRESS],
        **given,
    )
    key = site.home / "divera.key"
    key.write_text("the-key-of-an-alarm-server\n")
    site.config.write_text(text + ALARM_SERVER.format(url=site.receiver.url, key=key))


async def call(site: Site, *words: str, environ: Mapping[str, str] = ENGLISH) -> tuple[int, str]:
    """Run a command in a thread of this process, which takes a tenth of a process of its own."""

    def run() -> tuple[int, str]:
        done = CliRunner().invoke(app, ["--config", str(site.config), *words], env=dict(environ))
        return done.exit_code, done.stdout

    return await asyncio.to_thread(run)


async def report_of(site: Site, *words: str, environ: Mapping[str, str] = ENGLISH) -> Any:
    """Run test-mailbox --json."""
    _, out = await call(site, "test-mailbox", "--json", *words, environ=environ)
    return json.loads(out)


def by_id(report: Any) -> dict[str, dict[str, Any]]:
    return {step["id"]: step for step in report["steps"]}


def statuses(report: Any) -> dict[str, str]:
    return {step["id"]: step["status"] for step in report["steps"]}


async def watching(site: Site) -> None:
    """Wait until the daemon watches the mailbox."""
    for _ in range(400):
        await asyncio.sleep(0.1)
        _, out = await call(site, "status", "--json")
        status = json.loads(out) if out else None
        if status and status["daemon"]["running"] and status["mailboxes"][0]["state"] == "ok":
            return
    raise AssertionError("the daemon never saw its mailbox")


def the_mail(site: Site) -> bytes:
    [message] = site.box.folder("INBOX")
    return message.raw


async def test_a_test_mail_goes_all_the_way_through_a_running_daemon(site: Site) -> None:
    """Sent, seen although the daemon deletes it, told to the native webhook, and to no other."""
    async with site.daemon():
        await watching(site)
        report = await report_of(site, "alarm", "--send-to", ADDRESS)

    steps = by_id(report)
    assert report["ok"], report
    assert list(steps)[-6:] == [
        *("send", "arrival", "expiry", "webhook:receiver", "webhook:divera", "delivery")
    ]
    assert set(statuses(report).values()) == {"ok"}
    assert "receiver took it" in steps["delivery"]["detail"]
    assert "divera was left out" in steps["delivery"]["detail"]
    assert 0 < report["round_trip_seconds"] < SECONDS
    [told] = site.receiver.requests
    assert told.type == "test.ping"
    assert told.json["data"]["test"]["address"] == ADDRESS


async def test_without_a_daemon_native_webhooks_get_a_ping(site: Site) -> None:
    """The mail is seen and stays as it came; the ping carries its Message-ID; nobody is woken."""
    code, out = await call(site, "test-mailbox", "alarm", "--send-to", ADDRESS)
    [ping] = site.receiver.requests
    assert code == 0, out
    assert "in INBOX as UID 1" in out
    assert "divera was left out" in out
    assert "from sending to the webhook: " in out
    raw = the_mail(site)
    assert ping.type == "test.ping"
    assert ping.json["data"]["message_id"].encode() in raw
    assert b"Auto-Submitted: auto-generated" in raw
    assert b"X-Mailbridge-Test:" in raw
    assert "\\Seen" not in site.box.folder("INBOX").flags(1)
    # A daemon that comes later knows the mail for a test, too.
    async with site.daemon():
        await watching(site)
        for _ in range(400):
            log = json.loads((await call(site, "log", "--json"))[1])
            if log and not len(site.box.folder("INBOX")):
                break
            await asyncio.sleep(0.1)
    assert len(log) == 1
    assert len(site.receiver.requests) == 1


async def test_a_webhook_that_refuses_fails_its_own_step(site: Site) -> None:
    """Exit code 1, what the webhook said, and everything before it stays as good as it is."""
    site.receiver.answer_with(Answer(status=400, body=b"no such field"))
    code, out = await call(site, "test-mailbox", "alarm", "--send-to", ADDRESS, "--json")
    report = json.loads(out)
    assert code == 1
    assert [name for name, status in statuses(report).items() if status == "failed"] == ["delivery"]
    delivery = by_id(report)["delivery"]
    assert delivery["code"] == "delivery.failed"
    assert "receiver: " in delivery["detail"]
    assert "test-webhook" in delivery["fix"]


async def test_without_send_to_nothing_is_sent_and_nothing_posted(site: Site) -> None:
    """Neither MAIL nor POST, nor a database; the webhooks are reached all the same."""
    report = await report_of(site, "alarm")
    steps = by_id(report)
    assert report["ok"]
    assert "round_trip_seconds" not in report
    assert not {"send", "arrival", "delivery"} & steps.keys()
    for name in ("receiver", "divera"):
        assert "nothing was posted" in steps[f"webhook:{name}"]["detail"]
    assert "MAIL" not in {command.name for command in site.tenant.smtp.commands}
    assert site.receiver.requests == []
    assert not (site.home / "state" / "mailbridge.db").exists()


async def test_a_mail_to_somebody_else_is_only_sent(site: Site) -> None:
    """Nobody waits for what cannot be seen here: one more step, and no round trip."""
    site.tenant.add_mailbox("chief@feuerwehr.example")
    report = await report_of(site, "alarm", "--send-to", "chief@feuerwehr.example")
    steps = by_id(report)
    assert report["ok"], report
    assert steps["send"]["status"] == "ok"
    assert not {"arrival", "delivery"} & steps.keys()
    assert report["round_trip_seconds"] is None
    assert len(site.box.folder("INBOX")) == 0


async def test_pop3_sees_the_mail_arrive_too(site: Site) -> None:
    """By its Message-ID, in a session of its own; nothing is deleted."""
    _write(site, new_signing_secret(), pop3=[ADDRESS])
    report = await report_of(site, "alarm", "--send-to", ADDRESS)
    steps = by_id(report)
    assert steps["arrival"]["status"] == "ok", report
    assert "UIDL" in steps["arrival"]["detail"]
    assert len(site.box.folder("INBOX")) == 1
    assert site.tenant.pop3.deleted == 0


async def test_a_mailbox_without_send_cannot_send_a_test_mail(site: Site) -> None:
    """The fix names the section that is missing; what builds on sending is skipped."""
    text = site.config.read_text()
    site.config.write_text(re.sub(r"    send:\n.*\n", "", text))
    report = await report_of(site, "alarm", "--send-to", ADDRESS)
    steps = by_id(report)
    assert (steps["send"]["status"], steps["send"]["code"]) == ("failed", "send.not_configured")
    assert "mailboxes.alarm" in steps["send"]["fix"]
    assert [steps[name]["status"] for name in ("arrival", "delivery")] == ["skipped"] * 2


async def test_the_language_is_that_of_the_reader(site: Site) -> None:
    """German by --lang or by the environment; ids, codes and statuses are the same in both."""
    site.tenant.faults.add("smtp.auth_disabled_mailbox")
    code, german = await call(site, "test-mailbox", "alarm", "--lang", "de")
    _, from_environment = await call(site, "test-mailbox", "alarm", environ=GERMAN)
    english = await report_of(site, "alarm", "--lang", "en", environ=GERMAN)
    translated = await report_of(site, "alarm", environ=GERMAN)

    assert code == 1
    for word in ("FEHLER", "Ursache: ", "Abhilfe: ", "SMTP-Anmeldung", "so nicht benutzbar"):
        assert word in german
        assert word in from_environment
    assert "SmtpClientAuthentication is disabled for the Mailbox" in german
    assert statuses(english) == statuses(translated)
    pairs = list(zip(english["steps"], translated["steps"], strict=True))
    assert [a["code"] for a, _ in pairs] == [b["code"] for _, b in pairs]
    [(one, other)] = [(a, b) for a, b in pairs if a["status"] == "failed"]
    assert one["cause"] != other["cause"]
    assert one["fix"] != other["fix"]


async def test_exit_codes_and_documents(site: Site) -> None:
    """2 for a wrong call, 78 for a broken file, 1 for a name that is not there; two, a list."""
    box = site.tenant.add_mailbox("zweite@feuerwehr.example")
    [app] = site.tenant.directory.apps.values()
    site.tenant.grant(app, box)
    _write(site, new_signing_secret())
    assert (await call(site, "test-mailbox"))[0] == 2
    assert (await call(site, "test-mailbox", "alarm", "--send-to", "no address"))[0] == 2
    assert (await call(site, "test-mailbox", "nobody"))[0] == 1
    both = await report_of(site, "--all")
    assert [report["mailbox"] for report in both] == ["alarm", "zweite"]
    assert all(report["ok"] for report in both)
    site.config.write_text("mailboxes: [")
    assert (await call(site, "test-mailbox", "alarm"))[0] == 78


async def signed_in(site: Site, tmp_path: Path) -> None:
    """Let a person consent for the mailbox, on another device."""
    person = site.tenant.add_user(ADDRESS)
    site.tenant.grant(person, site.box)
    desktop = site.tenant.directory.add(App(name="desktop", public_flows=True))
    site.tenant.entra.state.device_interval = 1
    [former] = [one for one in site.tenant.directory.apps.values() if one is not desktop]
    key = tmp_path / "state.key"
    key.write_bytes(base64.b64encode(secrets.token_bytes(32)))
    key.chmod(0o600)
    text = site.config.read_text().replace(former.client_id, desktop.client_id)
    text = re.sub(r"    credential:\n.*\n", "", text, count=1)
    text = text.replace("sign_in: application", "sign_in: delegated")
    text = text.replace("state:\n", f"state:\n  key: {{file: {json.dumps(str(key))}}}\n", 1)
    site.config.write_text(text)
    login = await site.start("login", "alarm", "--device")
    assert login.stdout is not None
    async with asyncio.timeout(SECONDS):
        while b"type in the code" not in (line := await login.stdout.readline()):
            assert line
        async with site.tenant.browser() as browser:
            await browser.approve_device(line.decode().rstrip(".\n").rsplit(" ", 1)[1], person)
        await login.communicate()


async def test_a_person_has_the_daemon_send_the_test_mail(site: Site, tmp_path: Path) -> None:
    """The grant is the daemon's while it runs, so it does all of it; alone, the command does."""
    nobody = await report_of(site, "alarm")
    await signed_in(site, tmp_path)
    async with site.daemon():
        await watching(site)
        beside = await report_of(site, "alarm", "--send-to", ADDRESS, "--lang", "de")
    alone = await report_of(site, "alarm", "--send-to", ADDRESS)

    assert "grant" not in by_id(nobody)
    for report in (beside, alone):
        assert report["ok"], report
        assert report["round_trip_seconds"] > 0
        assert by_id(report)["grant"]["status"] == "ok"
    assert "receiver nahm sie an" in by_id(beside)["delivery"]["detail"]
    assert "a test.ping" in by_id(alone)["delivery"]["detail"]
    assert [request.type for request in site.receiver.requests] == ["test.ping"] * 2
