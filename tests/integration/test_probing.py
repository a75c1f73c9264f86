"""The scheduled test goes the whole way, and says where it stopped if it did not come through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mailbridge.build import Daemon
from mailbridge.config import Config, load
from mailbridge.http.control import ask
from mailbridge.operate import Operator, status
from mailbridge.sandbox.receiver import Answer, Receiver
from mailbridge.schemas import event_schema
from mailbridge.serving import _test_mail as sign_in_mail
from mailbridge.test_mail import compose, mark_of
from tests.servers.post_office import PATIENCE, PostOffice, post_office
from tests.servers.sandbox_client import ADDRESS

#: a moment that no test lives to see
PROBE = '    probe: {cron: "0 6 29 2 *", within: 10s}\n'


class Site:
    """An installation whose mailbox ``alarm`` has a probe, and an alarm server that must be deaf.

    ``siren`` gets every mail of every mailbox, in a format that has no word for a test.
    """

    def __init__(self, office: PostOffice, siren: Receiver) -> None:
        self.office, self.siren = office, siren
        self.tenant, self.receiver = office.tenant, office.receiver
        text = office.config.read_text()
        text = text.replace("  wache:\n", PROBE + "  wache:\n")
        hook = f'  siren:\n    url: "{siren.url}"\n    format: raw\n    allow_private: true\n'
        office.config.write_text(text.replace("\nwebhooks:\n", "\nwebhooks:\n" + hook))

    async def begin(self) -> None:
        """Begin a probe, as the clock does."""
        answer = await self.asked("probe", mailbox="alarm")
        assert answer == {"begun": True}

    async def asked(self, command: str, **said: Any) -> dict[str, Any]:
        answer = await ask(self.office.home / "mailbridge.sock", command, said)
        assert answer is not None
        return dict(answer)

    async def row(self) -> dict[str, Any]:
        """Return the mailbox's row of the status."""
        daemon = self.office.daemon
        document = status(daemon.config, daemon.health, await daemon.store.counts())
        return dict(next(one for one in document["mailboxes"] if one["name"] == "alarm"))

    async def row_when(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            while not wanted(row := await self.row()):
                await asyncio.sleep(0.02)
        return row

    async def missed(self) -> dict[str, Any]:
        """Wait until a probe was missed; returns the event, valid by its schema."""
        row = await self.row_when(lambda row: row["probe"]["state"] == "missed")
        assert row["state"] in {"degraded", "not_connected", "parked"}
        [one] = await self.told("probe.missed")
        jsonschema.validate(one, event_schema("probe.missed"))
        return dict(one["data"])

    async def told(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the receiver has been told so often of a kind of event."""
        async with asyncio.timeout(PATIENCE):
            while len(found := self.heard(kind)) < count:
                await asyncio.sleep(0.02)
        return found

    def heard(self, kind: str) -> list[dict[str, Any]]:
        return [one.json for one in self.receiver.accepted.values() if one.json["type"] == kind]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailbridge.probing.LOOK", 0.05)
    monkeypatch.setattr("mailbridge.probing.LOOK_LATE", 0.05)
    monkeypatch.setattr("mailbridge.probing.CATCH_UP", 1.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Give probes less time than the configuration may: one second, or as many as are named."""
    span = timedelta(seconds=getattr(request, "param", 1))

    def hurried(path: Path) -> Config:
        config = load(path)
        box = config.mailboxes["alarm"]
        assert box.probe is not None
        probe = box.probe.model_copy(update={"within": span})
        box = box.model_copy(update={"probe": probe})
        return config.model_copy(update={"mailboxes": {**config.mailboxes, "alarm": box}})

    monkeypatch.setattr("tests.servers.post_office.load", hurried)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with post_office(tmp_path) as office, Receiver.start(secrets=[]) as siren:
        yield Site(office, siren)


async def log_of(daemon: Daemon) -> list[tuple[str, str]]:
    return [(row.ref.mailbox, row.state) for row in await daemon.store.messages(mailbox="alarm")]


async def test_a_probe_goes_the_whole_way(site: Site) -> None:
    """Sent by SMTP, fetched, told to its webhook as a test, and to nobody as a mail."""
    async with site.office.open() as daemon:
        await site.begin()
        row = await site.row_when(lambda row: row["probe"]["state"] == "passed")
        [ping] = await site.told("test.ping")
        [mail] = [one for one in site.tenant.smtp.mails if mark_of(one.raw)]
        trace = await daemon.store.trace(ping["data"]["id"])
        log = await log_of(daemon)
        sending = await site.office.row()
        again = await daemon.store.replay(mailbox="alarm", sinks=["siren"])
        pinged = await daemon.store.replay([ping["data"]["id"]], sinks=["siren", "receiver"])
        siren = [one for one in await daemon.store.deliveries() if one.sink == "siren"]
    jsonschema.validate(ping, event_schema("test.ping"))
    stages = row["probe"]["stages"]
    assert list(mail.recipients) == [ADDRESS]
    assert sending["remaining"] == {"messages": 29, "recipients": 9999}
    assert 0 <= stages["sent"] <= stages["delivered"] >= stages["seen"] >= 0
    assert (row["state"], row["last_message"]) == ("ok", None)
    assert log == [("alarm", "test")]
    assert [one.type for one in trace.deliveries] == ["test.ping"]
    assert (again, pinged, siren) == (0, 1, [])
    assert site.heard("mail.received") == site.heard("probe.missed") == []
    assert site.siren.requests == []


async def test_a_probe_comes_through_by_pop3(site: Site) -> None:
    """A mailbox that is polled by POP3 is tried in the same way."""
    text, tenant = site.office.config.read_text(), site.tenant
    text = text.replace("protocol: imap", "protocol: pop3")
    site.office.config.write_text(
        text.replace(f"port: {tenant.imap.port}", f"port: {tenant.pop3.port}")
    )
    async with site.office.open():
        await site.begin()
        await site.row_when(lambda row: row["probe"]["state"] == "passed")
        await site.told("test.ping")
    assert site.heard("mail.received") == []


@pytest.mark.usefixtures("impatient")
async def test_a_mail_that_cannot_be_sent_is_told_and_comes_late(site: Site) -> None:
    """With SMTP away the probe stops before the server; once it is back it recovers by itself."""
    site.tenant.faults.add("smtp.refuse")
    async with site.office.open() as daemon:
        await site.begin()
        told = await site.missed()
        row = await site.row()
        site.tenant.faults.clear()
        daemon.hurry_dispatchers()
        await daemon.store.requeue(ids=[told["send"]])
        daemon.wake_sender("alarm")
        after = await site.row_when(lambda row: row["probe"]["state"] == "passed")
        [recovered] = await site.told("probe.recovered")
    assert (told["stage"], told["sent_at"], told["message"]) == ("sent", None, None)
    assert told["cause"]
    assert told["code"]
    assert (row["state"], row["code"], row["probe"]["stage"]) == (
        "degraded",
        "probe.missed",
        "sent",
    )
    jsonschema.validate(recovered, event_schema("probe.recovered"))
    assert recovered["data"]["late"] is True
    assert after["state"] == "ok"
    assert daemon.health.probes["alarm"].counts == {"missed": 1, "late": 1}


@pytest.mark.usefixtures("impatient")
async def test_a_mail_that_is_lost_on_its_way_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes it and it never arrives: only a probe can see that, and it does."""
    box = site.tenant.exchange.mailboxes[ADDRESS]
    deliver = box.deliver

    def lose(raw: bytes, **place: Any) -> Any:
        return deliver(raw, **place) if place else None

    monkeypatch.setattr(box, "deliver", lose)
    async with site.office.open() as daemon:
        await site.begin()
        told = await site.missed()
        folder = (await site.row())["folders"][0]["state"]
        monkeypatch.setattr(box, "deliver", deliver)
        await site.begin()
        await site.row_when(lambda row: row["state"] == "ok")
        [recovered] = await site.told("probe.recovered")
    assert (told["stage"], told["code"], folder) == ("seen", "probe.lost", "ok")
    assert told["sent_at"] is not None
    assert recovered["data"]["late"] is False
    assert daemon.health.probes["alarm"].counts == {"missed": 1, "passed": 1}


@pytest.mark.usefixtures("impatient")
async def test_a_mailbox_that_is_not_seen_is_the_cause(site: Site) -> None:
    """With IMAP refusing the mailbox, the probe stops there and gives that cause."""
    site.tenant.faults.add("imap.not_connected")
    async with site.office.open():
        await site.row_when(lambda row: row["state"] != "starting")
        await site.begin()
        told = await site.missed()
    assert told["stage"] == "seen"
    assert "INBOX" in told["cause"]
    assert told["code"] == "imap.not_connected"
    assert told["sent_at"] is not None
    assert told["seen_at"] is None


@pytest.mark.usefixtures("impatient")
async def test_a_webhook_that_does_not_answer_is_the_cause(site: Site) -> None:
    """A probe has come through only when its webhook has said so; what that one said is told."""
    site.receiver.answer_with(Answer(status=503))
    async with site.office.open() as daemon:
        await site.begin()
        row = await site.row_when(lambda row: row["probe"]["state"] == "missed")
        site.receiver.behave()
        async with asyncio.timeout(PATIENCE):
            while not site.heard("probe.recovered"):
                daemon.hurry_dispatchers()
                await daemon.store.requeue(
                    ids=[one.id for one in await daemon.store.deliveries(state="deferred")]
                )
                await asyncio.sleep(0.1)
        [told] = await site.told("probe.missed")
    assert (row["state"], row["probe"]["stage"]) == ("degraded", "delivered")
    assert told["data"]["seen_at"] is not None
    [one] = told["data"]["webhooks"]
    assert one["webhook"] == "receiver"
    assert "503" in one["reason"]


async def test_a_forged_mark_is_a_mail_like_any_other(site: Site) -> None:
    """Nobody can silence an alarm by marking it, nor have anything told as a test."""
    box = site.tenant.exchange.mailboxes[ADDRESS]
    now = datetime.now(UTC)
    invented = compose(sender="evil@attacker.example", to=ADDRESS, at=now)
    async with site.office.open():
        box.deliver(invented.raw)
        await site.told("mail.received")
        await site.begin()
        [ping] = await site.told("test.ping")
        [probe] = [one.raw for one in site.tenant.smtp.mails]
        box.deliver(probe)  # a copy of a probe that is over
        alarm = probe.replace(b"Subject: ", b"Subject: B3 Zimmerbrand ")
        box.deliver(alarm)
        mails = await site.told("mail.received", 3)
        async with asyncio.timeout(PATIENCE):
            while len(site.siren.requests) < 3:
                await asyncio.sleep(0.02)
    assert any(one["data"]["subject"].startswith("B3") for one in mails)
    assert len(site.heard("test.ping")) == 1
    assert ping["data"]["id"] not in {one["data"]["id"] for one in mails}


@pytest.mark.usefixtures("impatient")
async def test_a_forger_who_saw_the_nonce_changes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another Message-ID, or another mailbox, under an open nonce: delivered as the mail it is."""
    box, held = site.tenant.exchange.mailboxes[ADDRESS], []
    other = site.tenant.exchange.mailboxes["wache@feuerwehr.example"]
    deliver = box.deliver
    monkeypatch.setattr(
        box, "deliver", lambda raw, **at: deliver(raw, **at) if at else held.append(raw)
    )
    async with site.office.open():
        await site.begin()
        await site.missed()
        [probe] = held
        deliver(probe.replace(b"Message-ID: <", b"Message-ID: <x"))
        other.deliver(probe)
        await site.told("mail.received", 2)
        assert site.heard("test.ping") == []
        deliver(probe)
        await site.row_when(lambda row: row["probe"]["state"] == "passed")
    assert len(site.heard("mail.received")) == 2
    assert len(site.heard("test.ping")) == 1


@pytest.mark.parametrize("impatient", [3], indirect=True)
@pytest.mark.usefixtures("impatient")
async def test_a_restart_loses_no_probe(site: Site) -> None:
    """One that was open is judged by the next life; one that was missed stays known, with cause."""
    site.tenant.faults.add("smtp.refuse")
    async with site.office.open():
        await site.begin()
        await site.row_when(lambda row: row["probe"]["open_since"])
    async with site.office.open():
        told = await site.missed()
    async with site.office.open() as daemon:
        row = await site.row_when(lambda row: row["probe"]["state"] == "missed")
        site.tenant.faults.clear()
        daemon.hurry_dispatchers()
        await daemon.store.requeue(ids=[told["send"]])
        daemon.wake_sender("alarm")
        await site.row_when(lambda row: row["probe"]["state"] == "passed")
        [recovered] = await site.told("probe.recovered")
    assert told["stage"] == row["probe"]["stage"] == "sent"
    assert row["probe"]["cause"] == told["cause"]
    assert recovered["data"]["since"] == told["begun_at"]


async def test_while_one_is_open_none_is_sent(site: Site) -> None:
    """Whatever the clock says, and however often: one at a time."""
    site.tenant.faults.add("smtp.refuse")
    async with site.office.open() as daemon:
        for _ in range(5):
            await site.begin()
            await asyncio.sleep(0.05)
        rows = await daemon.store.probes.waiting()
        counts = await daemon.store.counts()
    assert len(rows) == 1
    [queue] = [one for one in counts.sinks if one.sink == "send:alarm"]
    assert queue.queued + queue.deferred + queue.claimed == 1


async def test_an_announced_test_mail_is_told_as_one(site: Site) -> None:
    """What `test-mailbox` announces to the daemon before it sends it goes to no alarm server."""
    mail = compose(sender=ADDRESS, to=ADDRESS, at=datetime.now(UTC))
    async with site.office.open() as daemon:
        announced = await site.asked(
            "expect-test", mailbox="alarm", nonce=mail.nonce, message_id=mail.message_id
        )
        site.tenant.exchange.mailboxes[ADDRESS].deliver(mail.raw)
        await site.told("test.ping")
        async with asyncio.timeout(PATIENCE):
            while True:
                state = await site.asked("test-state", mailbox="alarm", nonce=mail.nonce)
                if state["test"]["delivered_at"]:
                    break
                await asyncio.sleep(0.02)
        unknown = await site.asked("test-state", mailbox="alarm", nonce="a" * 26)
        log = await log_of(daemon)
    assert announced == {"expected": True, "webhooks": ["receiver"]}
    assert [one["webhook"] for one in state["test"]["webhooks"]] == ["receiver"]
    assert unknown == {"test": None}
    assert log == [("alarm", "test")]
    assert site.siren.requests == []
    assert site.heard("mail.received") == []
    assert daemon.health.probes["alarm"].counts == {}


async def test_a_reload_takes_a_probe_away(site: Site) -> None:
    """Nobody is told of a probe that the configuration wants no more, and its session goes on."""
    site.tenant.faults.add("smtp.refuse")
    text = site.office.config.read_text()
    async with site.office.open() as daemon:
        await site.row_when(lambda row: row["state"] == "ok")
        logins = (await site.row())["logins"]
        await site.begin()
        await site.row_when(lambda row: row["probe"]["open_since"])
        site.office.config.write_text(text.replace(PROBE, ""))
        site.office.reload.set()
        await site.row_when(lambda row: row["probe"] is None)
        async with asyncio.timeout(PATIENCE):
            while await daemon.store.probes.waiting():
                await asyncio.sleep(0.02)
        row = await site.row()
    assert (row["state"], row["logins"]) == ("ok", logins)
    assert site.heard("probe.missed") == []


async def test_the_mail_after_a_sign_in_wakes_nobody(site: Site) -> None:
    """Whoever signs in for an alarm mailbox by a link hears that it sends; no siren does."""
    async with site.office.open() as daemon:
        operator = Operator(daemon=daemon, sign_ins=None)  # type: ignore[arg-type]  # nobody signs in
        name = await sign_in_mail(daemon, operator, "alarm")
        await site.told("test.ping")
        log = await log_of(daemon)
        send = await daemon.store.sends.status(name)
    assert log == [("alarm", "test")]
    assert send is not None
    assert (send.state, site.siren.requests) == ("sent", [])
