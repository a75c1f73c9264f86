"""Mail that is brought by SMTP: durable before the 250, sent as who may, routed as if fetched."""

from __future__ import annotations

import asyncio
import smtplib
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from structlog.testing import capture_logs

from mailbridge.errors import ConfigError, StoreFull, StoreRefused, TemporaryError
from mailbridge.event import mail_event
from mailbridge.parse import parse
from mailbridge.schemas import event_schema
from mailbridge.trust import judge
from tests.conftest import Clock
from tests.servers.relay import MAIL, SECONDS, Site, config_of, inbound_of, now, relay_at

BARE = b"From: scanner@fw.example\r\nSubject: Einsatz\r\n\r\nB3\r\n"
FORGED = (
    b"Received: from A.prod.outlook.com (::1) by B.prod.outlook.com with HTTPS; x\r\n"
    b"Authentication-Results: spf=pass smtp.mailfrom=ils.example; dkim=pass\r\n"
    b" header.d=ils.example;dmarc=pass action=none header.from=ils.example;\r\n"
    b" compauth=pass reason=100\r\n"
    b"Received: from mx.ils.example (1.2.3.4) by D.mail.protection.outlook.com (1.1.1.1); x\r\n"
    b"From: <alarm@ils.example>\r\nSubject: Einsatz\r\n\r\nB3\r\n"
)


class Faulty:
    """An outbox, or a store, that raises one error after the other, and then does its work."""

    def __init__(self, behind: Any, *errors: Exception) -> None:
        self.behind, self.errors = behind, list(errors)

    async def hand_over(self, *args: Any) -> Any:
        return await self._work(self.behind.hand_over, *args)

    async def accept(self, *args: Any, **kwargs: Any) -> Any:
        return await self._work(self.behind.accept, *args, **kwargs)

    async def _work(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return await work(*args, **kwargs)


async def codes(site: Site, recipient: str, count: int) -> list[int]:
    """Bring one mail so many times over one connection; the replies to its final dot."""

    def work(smtp: smtplib.SMTP) -> list[int]:
        smtp.ehlo()
        found = []
        for _ in range(count):
            smtp.mail("scanner@fw.example")
            smtp.rcpt(recipient)
            found.append(smtp.data(MAIL)[0])
        return found

    replies: list[int] = await site.smtp(work)
    return replies


# --- to be sent


async def test_mails_that_come_together_share_commits(tmp_path: Path) -> None:
    """Many clients at once wait for few commits, whatever their mails are for; each has its own."""
    async with relay_at(tmp_path) as site:
        before = site.store.commits

        async def bring(number: int, recipient: str) -> None:
            mail = MAIL.replace(b"<1@scanner>", b"<%d@scanner>" % number)
            async with site.talk() as talk:
                await talk.reply()
                await talk.say("EHLO me")
                await talk.say("MAIL FROM:<scanner@fw.example>")
                await talk.say(f"RCPT TO:<{recipient}>")
                assert (await talk.say("DATA"))[:3] == "354"
                ready.append(number)
                async with asyncio.timeout(SECONDS):
                    while len(ready) < 20:
                        await asyncio.sleep(0.01)
                await talk.raw(mail + b".\r\n")
                assert (await talk.reply())[:3] == "250"

        ready: list[int] = []
        those = ["alarm@in.fw.example"] * 10 + ["chief@fw.example"] * 10
        await asyncio.gather(*(bring(number, one) for number, one in enumerate(those)))
        assert site.store.commits - before <= 9
        routed, queued = await site.routed("other"), await site.queued()
    assert len({one.event_id for one in routed}) == 10
    assert len({one.event_id for one in queued}) == 10


async def test_a_mail_is_queued_for_the_mailbox_of_its_sender(tmp_path: Path) -> None:
    """What a scanner sends waits in its mailbox's queue, to the envelope's recipients alone."""
    async with relay_at(tmp_path) as site:
        refused = await site.send("Scanner@FW.example", ["a@x.example", "b@x.example"])
        [one] = await site.queued()
        assert refused == {}
        assert site.woken == ["alarm"]
    assert one.send is not None
    assert [each.address for each in one.send.recipients] == ["a@x.example", "b@x.example"]
    assert one.send.raw.endswith(MAIL)
    assert one.send.message_id == "1@scanner"


ERRORS = [
    (StoreFull("full"), 452),
    (TemporaryError("away"), 451),
    (StoreRefused("damaged"), 451),
    (RuntimeError("a bug"), 451),
]


@pytest.mark.parametrize("recipient", ["a@x.example", "alarm@in.fw.example"])
async def test_nothing_is_taken_that_is_not_durable(tmp_path: Path, recipient: str) -> None:
    """The final dot is answered by what became of the commit, and a failure is never final."""
    config = config_of(tmp_path)
    site: Site
    async with relay_at(tmp_path) as site:
        errors = [error for error, _ in ERRORS]
        faulty: Any = Faulty(site.store if "in." in recipient else site.outbox, *errors)
        if "in." in recipient:
            assert config.relay is not None
            assert site.relay.apply(site.config.relay, inbound_of(config, faulty, []))  # type: ignore[arg-type]
        else:
            site.relay._outbox = faulty
        found = await codes(site, recipient, len(ERRORS) + 1)
        count = len(await site.queued()) + len(await site.routed())
    assert found == [code for _, code in ERRORS] + [250]
    assert count == 1


async def test_only_who_is_named_sends(tmp_path: Path) -> None:
    """A sender without a mailbox is refused, with the line that the configuration lacks."""
    async with relay_at(tmp_path) as site:
        await site.send("x@office.example", "a@x.example", MAIL.replace(b"scanner@", b"alarm@", 1))
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            await site.send("chief@fw.example", "a@x.example")
        with pytest.raises(smtplib.SMTPRecipientsRefused) as bounce:
            await site.send("", "a@x.example")
        assert len(await site.queued()) == 1
    code, text = refused.value.recipients["a@x.example"]
    assert code == 550
    assert b'"chief@fw.example": MAILBOX under relay.accept.senders' in text
    assert bounce.value.recipients["a@x.example"][0] == 550


@pytest.mark.parametrize(
    ("author", "code"),
    [("alarm", 250), ("scanner", 250), ("chief", 550), ("alarm@evil.example, alarm", 554)],
)
async def test_a_mail_is_from_whom_the_mailbox_may_send_as(
    tmp_path: Path, author: str, code: int
) -> None:
    """From is neither rewritten nor left to Exchange to refuse: here the scanner still hears it."""
    content = MAIL.replace(b"From: scanner@", f"From: {author}@".encode())

    def work(smtp: smtplib.SMTP) -> tuple[int, bytes]:
        smtp.ehlo()
        smtp.mail("scanner@fw.example")
        smtp.rcpt("a@x.example")
        return smtp.data(content)

    async with relay_at(tmp_path) as site:
        reply = await site.smtp(work)
        assert len(await site.queued()) == (code == 250)
    assert reply[0] == code
    assert (b"5.7.60" in reply[1]) == (code == 550)


async def test_a_mail_gets_what_it_lacks(tmp_path: Path) -> None:
    """Old devices write neither Date nor Message-ID nor From; the mail has them when it leaves."""
    async with relay_at(tmp_path) as site:
        await site.send("scanner@fw.example", "a@x.example", b"Subject: scan\r\n\r\nHello\r\n")
        [one] = await site.queued()
    assert one.send is not None
    message = parse(one.send.raw)
    head = {name.lower(): value for name, value, _, _ in message.headers}
    assert message.message_id
    assert parsedate_to_datetime(head["date"]) is not None
    assert message.from_[0].address == "alarm@fw.example"


async def test_a_mail_that_is_brought_again_is_sent_once(tmp_path: Path) -> None:
    """When our 250 was lost the client repeats; what tells itself apart is not sent twice."""
    async with relay_at(tmp_path) as site:
        assert await codes(site, "a@x.example", 2) == [250, 250]
        assert len(await site.queued()) == 1
        for _ in range(2):
            await site.send("scanner@fw.example", "a@x.example", BARE)
        assert len(await site.queued()) == 2


# --- through routes


async def test_mail_to_an_inbound_address_goes_through_its_routes(tmp_path: Path) -> None:
    """The routes are asked in their order, as of a mail that was fetched; nobody signs for it."""
    async with relay_at(tmp_path) as site:
        await site.send("anyone@ils.example", "Alarm@IN.fw.example", BARE)
        await site.send("", "other@in.fw.example", BARE)
        erp, other = await site.routed(), await site.routed("other")
        assert site.woken == ["sinks", "sinks"]
    assert [(one.route, one.mail.ref.folder) for one in erp if one.mail] == [
        ("alarm", "alarm@in.fw.example"),
        ("archive", "other@in.fw.example"),
    ]
    assert [one.route for one in other] == ["archive"]
    assert {one.mailbox for one in erp} == {"relay"}


async def test_the_event_says_how_the_mail_came(tmp_path: Path) -> None:
    """Its place is a digest, and the event is as the published schema says."""
    async with relay_at(tmp_path) as site:
        await site.send("anyone@ils.example", "alarm@in.fw.example", BARE)
        [one] = await site.routed()
    assert one.mail is not None
    event = orjson.loads(mail_event(one.mail, parse(one.mail.raw), route=one.route))
    Draft202012Validator(event_schema("mail.received")).validate(event)
    source = event["data"]["source"]
    assert source == {"protocol": "smtp", "digest": one.mail.ref.uidl}
    assert event["data"]["address"] == "alarm@in.fw.example"
    assert event["data"]["received_at"] is not None
    assert one.mail.raw.startswith(b"Received: from ")
    assert one.mail.raw.endswith(BARE)


async def test_what_is_brought_by_smtp_is_never_authenticated(tmp_path: Path) -> None:
    """Results that the sender wrote, even all that Exchange would write, prove nothing here."""
    section = "\n  inbound: {alarm@in.fw.example: [strict]}\n"
    async with relay_at(tmp_path, section) as site:
        await site.send("alarm@ils.example", "alarm@in.fw.example", FORGED)
        assert await site.routed() == []
        [row] = await site.store.deliveries(state="held")
        raw = await site.store.raw(row.event_id)
    assert judge(parse(FORGED)).auth["aligned"], "as it stands it would be believed"
    assert raw is not None
    assert raw.endswith(FORGED)
    assert judge(parse(raw)).auth == judge(parse(BARE)).auth


async def test_a_repeat_has_the_same_id_and_a_second_alarm_another(tmp_path: Path) -> None:
    """A mail brought again is known; one without id and date is new, for it may be an alarm."""
    async with relay_at(tmp_path) as site:
        for _ in range(3):
            await site.send("a@x.example", "alarm@in.fw.example", MAIL)
        assert len(await site.routed()) == 1
        await site.send("a@x.example", "other@in.fw.example", MAIL)
        for _ in range(2):
            await site.send("a@x.example", "alarm@in.fw.example", BARE)
        found = [one.event_id for one in await site.routed()]
    assert len(set(found)) == 3


async def test_what_was_brought_leaves_no_trace_for_ever(tmp_path: Path, clock: Clock) -> None:
    """No server lists it, so its place goes with the mail log; else the table grew without end."""
    clock.set(now())
    async with relay_at(tmp_path, clock=clock) as site:
        await site.send("a@x.example", "alarm@in.fw.example", MAIL)
        waiting = await site.store.deliveries()
        assert await site.store.drop([waiting[0].event_id]) == len(waiting) == 2
        later = clock.advance(30 * 86_400)
        more = True
        while more:
            purged = await site.store.purge(
                delivered_before=later, dead_before=later, log_before=later
            )
            more = purged.more
        await site.send("a@x.example", "alarm@in.fw.example", MAIL)
        assert len(await site.routed()) == 1


# --- both


async def test_a_mail_for_both_is_stored_for_both(tmp_path: Path) -> None:
    """One mail to an inbound address and to the outside is routed and queued, and said so."""
    async with relay_at(tmp_path) as site:
        with capture_logs() as logs:
            await site.send("scanner@fw.example", ["a@x.example", "alarm@in.fw.example"])
        assert len(await site.queued()) == 1
        assert len(await site.routed()) == 1
    [line] = [entry for entry in logs if entry["event"] == "relay.taken"]
    assert [name[:4] for name in line["id"]] == ["msg_", "out_"]


async def test_no_address_stands_in_a_log_above_debug(tmp_path: Path) -> None:
    """Who writes to whom is nobody's business who reads the logs."""
    async with relay_at(tmp_path) as site:
        with capture_logs() as logs:
            await site.send("scanner@fw.example", ["a@x.example", "alarm@in.fw.example"])
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                await site.send("who@fw.example", "a@x.example")
            content = MAIL.replace(b"From: scanner@", b"From: chief@")
            with pytest.raises(smtplib.SMTPDataError):
                await site.send("scanner@fw.example", "a@x.example", content)
    said = [entry for entry in logs if entry["log_level"] != "debug"]
    assert {"relay.taken", "relay.refused"} <= {entry["event"] for entry in said}
    assert "@" not in str(said)


async def test_a_session_carries_many_mails(tmp_path: Path) -> None:
    """RSET forgets what was begun, and nothing of one mail is left for the next."""
    async with relay_at(tmp_path) as site, site.talk() as talk:
        await talk.reply()
        await talk.say("EHLO me", "MAIL FROM:<scanner@fw.example>", "RCPT TO:<wrong@x.example>")
        assert (await talk.say("RSET"))[:3] == "250"
        assert (await talk.say("DATA"))[:3] == "503"
        for number in range(3):
            await talk.say("MAIL FROM:<scanner@fw.example>", f"RCPT TO:<{number}@x.example>")
            await talk.say("DATA", b"From: scanner@fw.example\r\n\r\nx\r\n.")
        assert (await talk.say("QUIT"))[:3] == "221"
        mails = [one.send for one in await site.queued()]
    assert [[each.address for each in one.recipients] for one in mails if one] == [
        ["0@x.example"],
        ["1@x.example"],
        ["2@x.example"],
    ]


async def test_eight_bits_and_other_alphabets_pass(tmp_path: Path) -> None:
    """8BITMIME and SMTPUTF8 are announced, and what they permit arrives as it was sent."""
    content = "From: scanner@fw.example\r\nSubject: Übung\r\n\r\nBrände\r\n".encode()

    def work(smtp: smtplib.SMTP) -> Any:
        smtp.ehlo()
        options = [name for name in ("8bitmime", "smtputf8", "size") if smtp.has_extn(name)]
        options.append(smtp.esmtp_features["size"])
        smtp.command_encoding = "utf-8"
        options.append(str(smtp.docmd("MAIL", "FROM:<jürgen@büro.example> BODY=8BITMIME")[0]))
        smtp.mail("jürgen@büro.example", ["SMTPUTF8", "BODY=8BITMIME"])
        smtp.rcpt("alarm@in.fw.example")
        smtp.data(content)
        return options

    async with relay_at(tmp_path) as site:
        options = await site.smtp(work)
        [one] = await site.routed()
    assert options == ["8bitmime", "smtputf8", "size", "35000000", "553"]
    assert one.mail is not None
    assert one.mail.raw.endswith(content)


async def test_a_mail_as_large_as_announced_is_taken_and_no_larger(tmp_path: Path) -> None:
    """SIZE is held to before DATA and while the mail comes, and the session goes on."""
    section = "\n  max_size: 100KB\n  inbound: {alarm@in.fw.example: [archive]}\n"
    head = b"Subject: x\r\n\r\n"
    fits = head + b"..\r\n" * ((100_000 - len(head)) // 4)
    fits += b"x" * (100_000 - len(fits) - 2) + b"\r\n"

    def work(smtp: smtplib.SMTP) -> list[int]:
        smtp.ehlo()
        found = [smtp.mail("a@x.example", ["SIZE=100001"])[0]]
        for content in (fits, fits + b"\r\n", fits * 2, fits):
            smtp.mail("a@x.example")
            smtp.rcpt("alarm@in.fw.example")
            found.append(smtp.data(content)[0])
        return found

    async with relay_at(tmp_path, section) as site:
        assert await site.smtp(work) == [552, 250, 552, 552, 250]
        mails = await site.routed()
        assert site.relay.bounds.memory == 0
    assert len(fits) == 100_000
    assert all(one.mail is not None and one.mail.raw.endswith(fits) for one in mails)


# --- opening and ending


async def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    """Who starts a second daemon reads which line of the configuration to change."""
    async with relay_at(tmp_path) as site:
        taken = f"127.0.0.1:{site.port}"
        relay = site.config.relay
        assert relay is not None
        site.relay._section = relay.model_copy(update={"listen": taken})
        with pytest.raises(ConfigError, match=r"relay\.listen: cannot listen at 127") as refused:
            site.relay.open()
    assert "another program listens there" in str(refused.value)


async def test_a_stop_lets_a_mail_end_and_sends_others_away(tmp_path: Path) -> None:
    """Who is idle hears 421; a mail whose end is coming is taken, answered, and then the end."""
    async with relay_at(tmp_path) as site, site.talk() as idle, site.talk() as busy:
        await idle.reply()
        await busy.reply()
        await busy.say("EHLO me", "MAIL FROM:<scanner@fw.example>", "RCPT TO:<a@x.example>")
        assert (await busy.say("DATA"))[:3] == "354"
        site.stop.set()
        assert [reply[:3] for reply in await idle.end()] == ["421"]
        await busy.raw(MAIL + b".\r\n")
        assert [reply[:3] for reply in await busy.end()] == ["250", "421"]
        async with asyncio.timeout(SECONDS):
            await site.serving
        assert len(await site.queued()) == 1
        assert site.relay.bounds.connections == 0


async def test_a_reload_is_in_force_at_once(tmp_path: Path) -> None:
    """Who is taken out of the configuration sends no more, on an open connection neither."""
    async with relay_at(tmp_path) as site, site.talk() as talk:
        await talk.reply()
        await talk.say("EHLO me", "MAIL FROM:<scanner@fw.example>")
        other = config_of(tmp_path, "\n  inbound: {new@in.fw.example: [archive]}\n")
        assert other.relay is not None
        assert site.relay.apply(other.relay, inbound_of(other, site.store, []))
        assert (await talk.say("RCPT TO:<a@x.example>"))[:3] == "550"
        assert (await talk.say("RCPT TO:<new@in.fw.example>"))[:3] == "250"
        moved = other.relay.model_copy(update={"listen": "127.0.0.1:1"})
        assert not site.relay.apply(moved, inbound_of(other, site.store, []))
