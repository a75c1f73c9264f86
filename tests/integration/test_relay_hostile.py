"""What a hostile or broken client may try at the listener, byte by byte."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mailbridge.relay.bounds import Limits
from mailbridge.sinks.smtp_message import wire_form
from tests.servers.relay import MAIL, SECONDS, Site, Talk, relay_at

GREETED = ("EHLO me", "MAIL FROM:<scanner@fw.example>", "RCPT TO:<a@x.example>")
SMUGGLED = (
    b"MAIL FROM:<scanner@fw.example>\r\nRCPT TO:<victim@x.example>\r\nDATA\r\n"
    b"From: scanner@fw.example\r\n\r\nsmuggled\r\n"
)
#: every way to write an end of data that is none (RFC 5321, section 2.3.8)
ENDS = [
    first + b"." + second
    for first in (b"\n", b"\r", b"\r\n", b"\n\r", b"\r\r", b"\n\n", b"\r\r\n", b"\r\n\0")
    for second in (b"\n", b"\r", b"\r\n", b"\n\r", b"\r\r\n", b"\0\r\n", b" \r\n", b"\x85")
    if first + b"." + second not in (b"\r\n.\r\n", b"\r\r\n.\r\n")
]


async def begun(talk: Talk) -> None:
    """Bring a session to the point where the mail comes."""
    await talk.reply()
    await talk.say(*GREETED)
    assert (await talk.say("DATA"))[:3] == "354"


async def empty(site: Site) -> None:
    """Wait until no connection is left; what was sent is then done with."""
    async with asyncio.timeout(SECONDS):
        while site.relay.bounds.connections:
            await asyncio.sleep(0.01)


# --- where a mail ends


async def test_no_other_end_of_data_ends_a_mail(tmp_path: Path) -> None:
    """Whatever stands for CRLF . CRLF elsewhere is content here: one mail arrives, not two."""
    section = "\n  inbound: {alarm@in.fw.example: [archive]}\n"
    async with relay_at(tmp_path, section) as site:
        for end in ENDS:
            content = b"Subject: x\r\n\r\nfirst" + end + SMUGGLED
            async with site.talk() as talk:
                await talk.reply()
                await talk.say("EHLO me", "MAIL FROM:<>", "RCPT TO:<alarm@in.fw.example>", "DATA")
                await talk.raw(content.replace(b"\r\n.", b"\r\n..") + b".\r\nQUIT\r\n")
                assert [reply[:3] for reply in await talk.end()] == ["250", "221"], end
            [one] = await site.routed()
            assert one.mail is not None
            assert one.mail.raw.endswith(content), end


async def test_what_is_sent_on_smuggles_nothing_either(tmp_path: Path) -> None:
    """The mail that we send is one mail for every server, however that one ends a mail."""
    async with relay_at(tmp_path) as site:
        for end in (b"\n.\n", b"\n.\r\n", b"\r.\r\n", b"\r.\r", b"\n.\r"):
            async with site.talk() as talk:
                await begun(talk)
                content = b"From: scanner@fw.example\r\n\r\nfirst" + end + SMUGGLED
                await talk.raw(content + b".\r\nQUIT\r\n")
                assert [reply[:3] for reply in await talk.end()] == ["250", "221"]
            [one] = await site.queued()
            assert one.send is not None
            wire = wire_form(one.send.raw).data
            assert b"." not in wire.replace(b"\r", b"\n").split(b"\n")
            bare = wire.replace(b"\r\n", b"")
            assert bare.count(b"\r") == bare.count(b"\n") == 0


async def test_every_content_arrives_as_it_was_however_it_is_cut(tmp_path: Path) -> None:
    """Dots, bare CR and LF, and pieces of any size: what was written is what is stored."""
    section = "\n  inbound: {alarm@in.fw.example: [archive]}\n"
    alphabet = st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\0", b"\xff" * 700])
    contents = st.lists(alphabet, max_size=30).map(b"".join)
    stored: list[bytes] = []

    async with relay_at(tmp_path, section) as site:
        loop = asyncio.get_running_loop()

        async def bring(content: bytes, seed: int) -> None:
            stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
            end = b".\r\n" if content.endswith(b"\r\n") or not content else b"\r\n.\r\n"
            chance = random.Random(seed)
            async with site.talk() as talk:
                await talk.reply()
                await talk.say("EHLO me", "MAIL FROM:<>", "RCPT TO:<alarm@in.fw.example>", "DATA")
                rest = stuffed + end + b"QUIT\r\n"
                while rest:
                    size = chance.choice((1, 1, 2, 3, 5, 2000))
                    await talk.raw(rest[:size])
                    rest = rest[size:]
                    await asyncio.sleep(0)
                assert [reply[:3] for reply in await talk.end()] == ["250", "221"]
            [one] = await site.routed()
            assert one.mail is not None
            stored.append(one.mail.raw.partition(b"\r\n\t")[2].partition(b"\r\n")[2])
            assert stored[-1] == content + (end[:-3])

        @settings(
            max_examples=60,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(contents, st.integers(0, 2**32))
        def everything(content: bytes, seed: int) -> None:
            asyncio.run_coroutine_threadsafe(bring(content, seed), loop).result(SECONDS)

        await asyncio.to_thread(everything)
    assert len(stored) >= 20


async def test_commands_behind_a_refused_data_are_not_obeyed(tmp_path: Path) -> None:
    """A client that does not wait sends a mail after a refusal; its lines are no commands."""
    async with relay_at(tmp_path) as site, site.talk() as talk:
        await talk.reply()
        await talk.say("EHLO me", "MAIL FROM:<scanner@fw.example>")
        await talk.raw(b"DATA\r\n" + SMUGGLED + b".\r\n")
        assert [reply[:3] for reply in await talk.end()] == ["503"]
        assert await site.queued() == []


async def test_what_a_client_says_in_advance_is_answered_in_order(tmp_path: Path) -> None:
    """Pipelining was not announced and does no harm: each command has its reply, each mail one."""
    both = ("\r\n".join(GREETED[1:]) + "\r\nDATA\r\n").encode() + MAIL + b".\r\n"
    async with relay_at(tmp_path) as site, site.talk() as talk:
        await talk.raw(b"EHLO me\r\n" + both + both.replace(b"Hello", b"again") + b"QUIT\r\n")
        replies = [reply[:3] for reply in await talk.end()]
        assert replies == ["220", "250", *("250", "250", "354", "250") * 2, "221"]
        assert len(await site.queued()) == 2


# --- who may connect, and how many


async def test_strangers_are_sent_away_with_the_greeting(tmp_path: Path) -> None:
    """Nothing that a client says from elsewhere is even read, and it learns what to configure."""
    section = '\n  accept: {networks: [10.0.0.0/8], senders: {"*@fw.example": alarm}}\n'
    async with relay_at(tmp_path, section) as site:
        with capture_logs() as logs:
            for _ in range(3):
                async with site.talk() as talk:
                    await talk.raw(b"EHLO me\r\n" + SMUGGLED + b".\r\n")
                    [reply] = await talk.end()
        assert await site.queued() == []
    assert reply[:3] == "554"
    assert "127.0.0.1 may not connect" in reply
    assert "relay.accept.networks" in reply
    said = [entry["event"] for entry in logs].count("relay.refused")
    assert said == 1, "once, not with each"


async def test_no_client_takes_all_connections(tmp_path: Path) -> None:
    """More than its share is refused at once, and a connection that ends makes room."""
    limits = Limits(per_address=2)
    async with relay_at(tmp_path, limits=limits) as site:
        async with site.talk() as one, site.talk() as two, site.talk() as three:
            assert [(await talk.reply())[:3] for talk in (one, two)] == ["220", "220"]
            assert [reply[:3] for reply in await three.end()] == ["421"]
            assert (await two.say("QUIT"))[:3] == "221"
            assert await two.end() == []
            async with site.talk() as four:
                assert (await four.reply())[:3] == "220"
                assert (await one.say("NOOP"))[:3] == "250"
        await empty(site)


async def test_who_says_nothing_is_sent_away(tmp_path: Path) -> None:
    """A connection is nobody's for ever: no command within its time, and it ends with 421."""
    async with relay_at(tmp_path, limits=Limits(command=0.3)) as site:
        for said in (b"", b"EHLO", b"EHLO me\r\n", b"\r\n" * 3):
            async with site.talk() as talk:
                await talk.raw(said)
                assert (await talk.end())[-1][:7] == "421 4.4"
        await empty(site)


async def test_a_mail_that_stops_coming_ends(tmp_path: Path) -> None:
    """A client that goes silent within a mail is sent away; nothing of it is kept."""
    async with relay_at(tmp_path, limits=Limits(block=0.3)) as site, site.talk() as talk:
        await begun(talk)
        await talk.raw(MAIL)
        assert [reply[:7] for reply in await talk.end()] == ["421 4.4"]
        await empty(site)
        assert site.relay.bounds.memory == 0
        assert await site.queued() == []


async def test_a_mail_that_drips_ends(tmp_path: Path) -> None:
    """A byte now and then keeps no connection beyond the time that a whole mail has."""
    async with relay_at(tmp_path, limits=Limits(mail=0.5)) as site, site.talk() as talk:
        await begun(talk)
        ended = asyncio.create_task(talk.end())
        async with asyncio.timeout(SECONDS):
            while not ended.done():
                talk.writer.write(b"x")
                await asyncio.sleep(0.02)
        assert [reply[:7] for reply in ended.result()] == ["421 4.4"]
        await empty(site)


async def test_a_client_that_is_gone_leaves_nothing(tmp_path: Path) -> None:
    """Cut at any byte before the end of the mail, nothing is stored and all memory is back."""
    whole = MAIL + b".\r\n"
    async with relay_at(tmp_path) as site:
        for cut in (0, 1, len(MAIL) - 1, len(MAIL), len(whole) - 1):
            async with site.talk() as talk:
                await begun(talk)
                await talk.raw(whole[:cut])
                if cut % 2:
                    talk.writer.transport.abort()
        await empty(site)
        assert site.relay.bounds.memory == 0
        assert await site.queued() == []


async def test_a_mail_without_end_is_cut_off(tmp_path: Path) -> None:
    """Beyond twice what it may have nobody listens any more, and nothing of it is in memory."""
    section = '\n  max_size: 10KB\n  accept: {senders: {"*@fw.example": alarm}}\n'
    async with relay_at(tmp_path, section) as site, site.talk() as talk:
        await begun(talk)
        ended = asyncio.create_task(talk.end())
        most = 0
        async with asyncio.timeout(SECONDS):
            while not ended.done():
                talk.writer.write(b"x" * 1000)
                await asyncio.sleep(0)
                most = max(most, site.relay.bounds.memory)
        assert 0 < most <= 15_005
        assert [reply[:3] for reply in ended.result()][:1] in (["552"], [])
        await empty(site)
        assert site.relay.bounds.memory == 0


async def test_mails_share_a_bounded_memory(tmp_path: Path) -> None:
    """Mails that come at once and do not fit are asked to come later, and then are taken."""
    limits = Limits(memory=40_000)
    large = MAIL + b"x" * 900 + b"\r\n" + (b"y" * 70 + b"\r\n") * 400
    async with relay_at(tmp_path, limits=limits) as site, site.talk() as one, site.talk() as two:
        for talk in (one, two):
            await begun(talk)
        await one.raw(large)
        async with asyncio.timeout(SECONDS):
            while not site.relay.bounds.memory:
                await asyncio.sleep(0.01)
        await two.raw(large + b".\r\n")
        assert (await two.reply())[:3] == "452"
        await one.raw(b".\r\n")
        assert (await one.reply())[:3] == "250"
        assert (await two.say(*GREETED, "DATA"))[:3] == "354"
        await two.raw(large.replace(b"<1@", b"<2@") + b".\r\n")
        assert (await two.reply())[:3] == "250"
        assert len(await site.queued()) == 2


async def test_recipients_are_bounded(tmp_path: Path) -> None:
    """One mail has no more recipients than a mailbox could send to; the others come again."""
    async with relay_at(tmp_path, limits=Limits(recipients=3)) as site, site.talk() as talk:
        await talk.reply()
        await talk.say(*GREETED[:2])
        found = [(await talk.say(f"RCPT TO:<{n}@x.example>"))[:3] for n in range(5)]
        assert found == ["250", "250", "250", "452", "452"]


# --- commands


async def test_a_web_page_cannot_send_mail(tmp_path: Path) -> None:
    """A browser on this machine reaches the port; its first line ends the session."""
    body = b"\r\nHost: x\r\n\r\nEHLO me\r\n" + SMUGGLED + b".\r\n"
    async with relay_at(tmp_path) as site:
        for verb in (b"POST / HTTP/1.1", b"GET / HTTP/1.1", b"CONNECT x:1 HTTP/1.1"):
            async with site.talk() as talk:
                await talk.raw(verb + body)
                assert [reply[:3] for reply in await talk.end()] == ["220", "421"]
        await empty(site)
        assert await site.queued() == []


#: what could be read as two addresses, or as a command
TWISTED = [
    "<a@x.example",
    "a@x.example>",
    "<<a@x.example>>",
    "<a@x.example><b@y.example>",
    "<a b@x.example>",
    "<a@x.example\rRCPT TO:<b@y.example>",
    "<@relay.example:a@x.example>",
    "<a@x.example,b@y.example>",
    "<=?utf-8?q?b=40y=2Eexample=3E?=@x.example\0>",
    "<a(comment)@x.example>",
    "<a@[1.2.3.4]b>",
    "<a%b@y.example@x.example>",
    "<postmaster>",
    "<>",
    "<" + "a" * 65 + "@x.example>",
    "<a@" + "b" * 250 + ".example>",
]


async def test_only_an_address_is_an_address(tmp_path: Path) -> None:
    """What another server could read as two addresses, or as a command, is refused."""
    async with relay_at(tmp_path) as site, site.talk() as talk:
        await talk.reply()
        await talk.say(*GREETED[:2])
        for path in TWISTED:
            assert (await talk.say(f"RCPT TO:{path}"))[:1] == "5", path
        assert (await talk.say("DATA"))[:3] == "503"


async def test_an_encoded_word_is_no_other_address(tmp_path: Path) -> None:
    """A local part that looks encoded is taken as it is written, and never decoded."""
    async with relay_at(tmp_path) as site, site.talk() as talk:
        await talk.reply()
        path = "=?utf-8?q?victim=40y?=@x.example"
        await talk.say(*GREETED[:2], f"RCPT TO:<{path}>", "DATA")
        await talk.raw(MAIL + b".\r\n")
        assert (await talk.reply())[:3] == "250"
        [one] = await site.queued()
    assert one.send is not None
    assert [each.address for each in one.send.recipients] == [path]


async def test_old_programs_are_understood(tmp_path: Path) -> None:
    """HELO, addresses without brackets, and blanks where none belong: that is what old ones say."""
    async with relay_at(tmp_path) as site, site.talk() as talk:
        await talk.reply()
        await talk.say("helo", "HELO old", "mail from: scanner@fw.example")
        assert (await talk.say("rcpt to: <a@x.example>"))[:3] == "250"
        await talk.say("data")
        await talk.raw(MAIL + b".\r\n")
        assert (await talk.reply())[:3] == "250"
        assert len(await site.queued()) == 1


async def test_nobody_learns_which_addresses_there_are(tmp_path: Path) -> None:
    """VRFY and EXPN are off, and nothing unknown goes on for long."""
    async with relay_at(tmp_path) as site, site.talk() as talk:
        await talk.reply()
        await talk.say("EHLO me")
        assert (await talk.say("VRFY scanner@fw.example"))[:3] == "502"
        assert (await talk.say("EXPN all"))[:3] == "502"
        assert (await talk.say("NOOP " + "x" * 5000))[:3] == "500"
        assert (await talk.say("AUTH PLAIN AGEAYg=="))[:3] == "502"
        await talk.raw(b"BOGUS\r\n" * 10)
        assert len(await talk.end()) == 5
