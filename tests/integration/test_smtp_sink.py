"""A mailbox's outgoing mail: who has it, what is kept, what is never sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from mailbridge.errors import SignInRejected, Unavailable
from mailbridge.model import (
    Deferred,
    Delivered,
    Delivery,
    Outcome,
    Recipient,
    Rejected,
    StoredSend,
)
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sinks.smtp import PARKED, SmtpSink
from mailbridge.sinks.smtp_budget import Budget
from mailbridge.sinks.smtp_doubt import LOOKS
from mailbridge.sinks.smtp_pool import Pool
from mailbridge.sinks.smtp_session import SmtpSession
from tests.conftest import Clock
from tests.servers.sandbox_client import ADDRESS, eventually, signing_key
from tests.servers.smtp_desk import Desk, desk_for

OTHER = "wache@feuerwehr.example"
MAIL = (
    f"From: {ADDRESS}\r\nTo: {OTHER}\r\nSubject: Test\r\nMessage-ID: <1@x>\r\n\r\nHi\r\n".encode()
)


@dataclass
class Books:
    """A ``SendStore`` for one mail, by the rules of the real one."""

    send: StoredSend
    now: Callable[[], Any]
    steps: list[str] = field(default_factory=list)
    error: Exception | None = None

    @property
    def delivery(self) -> Delivery:
        return Delivery(
            id=1,
            sink="send:alarm",
            event_id=self.send.id,
            type="send",
            mailbox="alarm",
            created_at=self.now(),
            attempts=0,
            first_due_at=self.now(),
            sequence=1,
            fence=1,
            send=self.send,
        )

    async def in_doubt(self, _: Delivery, recipients: Sequence[str]) -> None:
        if self.error is not None:
            raise self.error
        self.steps.append("in doubt")
        self.send = replace(
            self.send,
            in_doubt_at=self.now(),
            recipients=tuple(
                one
                if one.state in {"taken", "refused"}
                else replace(one, state="doubt" if one.address in recipients else "open")
                for one in self.send.recipients
            ),
        )

    async def answered(self, _: Delivery, recipients: Sequence[Recipient]) -> None:
        told = {one.address: one for one in recipients}
        self.steps.append("answered")
        self.send = replace(
            self.send,
            in_doubt_at=None,
            recipients=tuple(
                told.get(one.address, replace(one, state="open") if one.state == "doubt" else one)
                for one in self.send.recipients
            ),
        )

    @property
    def states(self) -> dict[str, str]:
        return {one.address: one.state for one in self.send.recipients}


class Office:
    """A sink at the sandbox, and the books of the mail that it sends."""

    def __init__(self, tenant: Tenant, desk: Desk, clock: Clock) -> None:
        self.tenant, self.desk, self.clock = tenant, desk, clock
        self.found: int | Exception = 0
        self.looks = 0
        self.books = self.mail(OTHER)
        self.sink = self.made()

    def mail(self, *recipients: str, raw: bytes = MAIL) -> Books:
        self.books = Books(
            StoredSend(
                id="out_abc",
                mailbox="alarm",
                sender=ADDRESS,
                message_id="<1@x>",
                accepted_at=self.clock(),
                recipients=tuple(Recipient(address=one) for one in recipients),
                raw=raw,
            ),
            self.clock,
        )
        return self.books

    def made(self, **changed: Any) -> SmtpSink:
        settings: dict[str, Any] = {
            "mailbox": "alarm",
            "opener": lambda: SmtpSession.open(self.desk.server, self.desk.account),
            "store": self,
            "budget": Budget(per_minute=30, recipients_per_day=10_000, now=self.clock),
            "connections": 3,
            "in_doubt": "resend",
            "look": self.look,
            "now": self.clock,
        }
        self.sink = SmtpSink(**{**settings, **changed})
        return self.sink

    async def in_doubt(self, delivery: Delivery, recipients: Sequence[str]) -> None:
        await self.books.in_doubt(delivery, recipients)

    async def answered(self, delivery: Delivery, recipients: Sequence[Recipient]) -> None:
        await self.books.answered(delivery, recipients)

    async def look(self, _: StoredSend) -> int:
        self.looks += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def deliver(self) -> Outcome:
        [rendered] = self.sink.render([self.books.delivery])
        return await self.sink.deliver(rendered, attempt=1)


@pytest.fixture
async def office(clock: Clock) -> AsyncIterator[Office]:
    async with Tenant.start(key=signing_key()) as tenant:
        app = tenant.add_app()
        tenant.grant(app, tenant.add_mailbox(ADDRESS), tenant.add_mailbox(OTHER))
        made = Office(tenant, desk_for(tenant, ADDRESS), clock)
        # The token is of real time, the sink's clock is not.
        clock.set(made.tenant.smtp.now())
        made.mail(OTHER)
        yield made
        await made.sink.close()


async def test_a_mail_is_sent_and_every_step_is_committed_in_time(office: Office) -> None:
    """In doubt before the dot, decided after the answer, delivered with the server's word."""
    outcome = await office.deliver()
    assert isinstance(outcome, Delivered)
    assert outcome.detail.startswith("250 2.0.0 OK <")
    assert office.books.steps == ["in doubt", "answered"]
    assert office.books.states == {OTHER: "taken"}
    assert office.looks == 0


async def test_who_has_the_mail_never_gets_it_again(office: Office) -> None:
    """Of three recipients one is taken, one refused, one waits: only the last is tried again."""
    books = office.mail("gone@elsewhere.example", "slow@elsewhere.example", OTHER)
    office.tenant.faults.add("smtp.recipient_unknown", times=1)
    office.tenant.faults.add("smtp.reply", times=1, command="RCPT", text="450 4.2.1 Try later")
    first = await office.deliver()
    assert isinstance(first, Deferred)
    assert not first.sink_fault
    assert sorted(books.states.values()) == ["open", "refused", "taken"]
    second = await office.deliver()
    assert isinstance(second, Delivered)
    sent = [address for mail in office.tenant.smtp.mails for address in mail.recipients]
    assert sorted(sent) == ["slow@elsewhere.example", OTHER]


async def test_a_mail_that_nobody_may_have_is_rejected_for_good(office: Office) -> None:
    """The reason is the server's, and asking again costs no connection."""
    office.tenant.faults.add("smtp.send_as_denied", times=1)
    first = await office.deliver()
    assert isinstance(first, Rejected)
    assert "may not send as" in first.reason
    connections = office.tenant.smtp.connections
    assert isinstance(await office.deliver(), Rejected)
    assert office.tenant.smtp.connections == connections


async def test_what_is_not_the_mails_fault_parks_the_mailbox(office: Office) -> None:
    """SMTP AUTH switched off: the mail is kept, the others are not even tried, until it is on."""
    office.tenant.faults.add("smtp.auth_disabled_mailbox")
    first = await office.deliver()
    assert isinstance(first, Deferred)
    assert first.retry_after == PARKED
    assert office.sink.pause is not None
    assert office.sink.pause.code == "smtp.auth_disabled_mailbox"
    assert ADDRESS in office.sink.pause.fix
    connections = office.tenant.smtp.connections
    assert isinstance(await office.deliver(), Deferred)
    assert office.tenant.smtp.connections == connections
    office.tenant.faults.clear()
    office.sink.resume()
    assert isinstance(await office.deliver(), Delivered)


async def test_mails_that_wait_for_a_connection_hear_of_a_refusal(office: Office) -> None:
    """With one connection the server refuses once, however many mails were about to be sent."""
    office.tenant.faults.add("smtp.auth_disabled_mailbox")
    sink = office.made(connections=1)
    rendered = sink.render([office.mail(OTHER).delivery for _ in range(4)])
    outcomes = await asyncio.gather(*(sink.deliver(one, attempt=1) for one in rendered))
    assert all(isinstance(one, Deferred) for one in outcomes)
    assert office.tenant.faults.fired["smtp.auth_disabled_mailbox"] == 1


async def test_a_refusal_from_before_the_mending_parks_nothing(office: Office) -> None:
    """What the server said before somebody mended it must not hold the mails up for 15 minutes."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def refused() -> SmtpSession:
        asked.set()
        await may_answer.wait()
        raise SignInRejected("switched off", code="smtp.auth_disabled_mailbox")

    sink = office.made(opener=refused)
    [rendered] = sink.render([office.books.delivery])
    sending = asyncio.create_task(sink.deliver(rendered, attempt=1))
    await asked.wait()
    sink.resume()
    may_answer.set()
    assert isinstance(await sending, Deferred)
    assert sink.pausing is None


@pytest.mark.parametrize("fault", ["smtp.thread_limit", "smtp.rate_limited", "smtp.server_busy"])
async def test_a_server_that_wants_a_pause_gets_one(office: Office, fault: str) -> None:
    """432 and their like slow the whole mailbox down; then it goes on by itself."""
    office.tenant.faults.add(fault, times=1)
    first = await office.deliver()
    assert isinstance(first, Deferred)
    assert first.retry_after is not None
    assert first.retry_after >= 60
    assert isinstance(await office.deliver(), Deferred)
    assert office.tenant.faults.fired[fault] == 1
    office.clock.advance(first.retry_after)
    assert isinstance(await office.deliver(), Delivered)


async def test_the_budget_is_kept_before_the_server_has_to(office: Office) -> None:
    """The thirty-first mail of a minute waits here; nobody at Exchange ever says 421."""
    for _ in range(30):
        office.mail(OTHER)
        assert isinstance(await office.deliver(), Delivered)
    assert office.sink.remaining().messages == 0
    books = office.mail(OTHER)
    late = await office.deliver()
    assert isinstance(late, Deferred)
    assert late.retry_after is not None
    assert 0 < late.retry_after <= 60
    assert not late.sink_fault
    assert books.steps == []
    assert len(office.tenant.smtp.mails) == 30
    assert office.tenant.smtp.connections == 1


async def test_never_more_connections_than_permitted(office: Office) -> None:
    """However many mails are sent at once, three connections carry them, again and again."""
    office.made(budget=Budget(per_minute=None, recipients_per_day=None, now=office.clock))
    office.tenant.smtp.limits.per_minute = 1000
    office.tenant.faults.add("smtp.slow_answer", seconds=0.01)
    rendered = office.sink.render([office.mail(OTHER).delivery for _ in range(40)])
    done = await asyncio.gather(*(office.sink.deliver(one, attempt=1) for one in rendered))
    assert all(isinstance(one, Delivered) for one in done)
    assert office.tenant.smtp.most_sessions == 3
    assert office.tenant.smtp.connections == 3


async def test_many_recipients_are_sent_in_groups(office: Office) -> None:
    """A mail to 250 goes out three times, each recipient once; a lower limit is learnt."""
    books = office.mail(*(f"a{number}@elsewhere.example" for number in range(250)))
    assert isinstance(await office.deliver(), Delivered)
    assert [len(mail.recipients) for mail in office.tenant.smtp.mails] == [100, 100, 50]
    assert set(books.states.values()) == {"taken"}
    office.tenant.smtp.limits.recipients = 40
    office.mail(*(f"b{number}@elsewhere.example" for number in range(100)))
    assert isinstance(await office.deliver(), Deferred)
    assert isinstance(await office.deliver(), Delivered)
    assert [len(mail.recipients) for mail in office.tenant.smtp.mails][3:] == [40, 40, 20]


async def test_international_recipients_do_not_endanger_the_others(office: Office) -> None:
    """They go apart: a server without SMTPUTF8 bounces for all who are named with them."""
    office.mail("müller@elsewhere.example", OTHER)
    assert isinstance(await office.deliver(), Delivered)
    groups = [mail.recipients for mail in office.tenant.smtp.mails]
    assert groups == [(OTHER,), ("müller@elsewhere.example",)]


# -- in doubt ---------------------------------------------------------------------------------


async def test_a_lost_answer_is_looked_up_before_anything_is_sent_again(office: Office) -> None:
    """The copy in the sent items says that it went out: nothing is sent a second time."""
    office.tenant.faults.add("smtp.answer_lost", times=1)
    first = await office.deliver()
    assert isinstance(first, Deferred)
    assert office.books.send.in_doubt_at is not None
    office.found = 1
    assert isinstance(await office.deliver(), Delivered)
    assert (office.looks, len(office.tenant.smtp.mails)) == (1, 1)
    assert office.books.states == {OTHER: "taken"}


async def test_it_is_looked_for_several_times_before_it_is_sent_again(office: Office) -> None:
    """5, 30, 120 and 300 seconds after the dot; only then is it taken for not sent."""
    office.tenant.faults.add("smtp.drop_after_dot", times=1)
    first = await office.deliver()
    assert isinstance(first, Deferred)
    waits = [first.retry_after]
    for _ in LOOKS:
        office.clock.advance(waits[-1] or 0)
        outcome = await office.deliver()
        if isinstance(outcome, Delivered):
            break
        assert isinstance(outcome, Deferred)
        waits.append(outcome.retry_after)
    assert waits == [5.0, 25.0, 90.0, 180.0]
    assert (office.looks, len(office.tenant.smtp.mails)) == (4, 1)


async def test_a_person_decides_where_that_is_wanted(office: Office) -> None:
    """With `in_doubt: hold` a mail that is not found is set aside instead of sent twice."""
    office.made(in_doubt="hold")
    office.tenant.faults.add("smtp.answer_lost", times=1)
    await office.deliver()
    office.clock.advance(LOOKS[-1])
    outcome = await office.deliver()
    assert isinstance(outcome, Rejected)
    assert outcome.reason.startswith("held")
    assert len(office.tenant.smtp.mails) == 1


async def test_nothing_is_sent_again_while_nobody_can_look(office: Office) -> None:
    """With the mailbox out of reach the mail stays in doubt, for an hour at most."""
    office.tenant.faults.add("smtp.drop_after_dot", times=1)
    await office.deliver()
    office.found = Unavailable("no IMAP now", code="imap.connection")
    office.clock.advance(1800)
    assert isinstance(await office.deliver(), Deferred)
    assert office.tenant.smtp.mails == []
    office.clock.advance(1900)
    assert isinstance(await office.deliver(), Delivered)


async def test_a_commit_that_fails_sends_nothing(office: Office) -> None:
    """Without "in doubt" in the store there is no dot on the wire."""
    office.books.error = Unavailable("the claim is another's", code="store.fence")
    assert isinstance(await office.deliver(), Deferred)
    await eventually(lambda: not office.tenant.smtp.sessions)
    assert office.tenant.smtp.mails == []


# -- connections ------------------------------------------------------------------------------


async def test_a_connection_that_died_idle_costs_no_attempt(office: Office) -> None:
    """A server that has hung up meanwhile is noticed before the next mail, which goes out."""
    await office.deliver()
    office.tenant.smtp.drop()
    await eventually(lambda: not office.tenant.smtp.sessions)
    office.mail(OTHER)
    assert isinstance(await office.deliver(), Delivered)
    assert office.tenant.smtp.connections == 2


async def test_a_session_does_not_outlive_its_token(office: Office) -> None:
    """An hour later a new one is signed in with a new token."""
    await office.deliver()
    office.clock.advance(timedelta(hours=1).total_seconds())
    office.mail(OTHER)
    assert isinstance(await office.deliver(), Delivered)
    assert (office.tenant.smtp.connections, office.desk.asked) == (2, 2)


async def test_a_rested_connection_is_asked_before_it_carries_a_mail(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs up at the first word after a pause costs a connection, not a mail."""
    monkeypatch.setattr("mailbridge.sinks.smtp_pool.FRESH", 0.0)
    await office.deliver()
    office.tenant.faults.add("smtp.drop_on_command", times=1, command="RSET")
    office.mail(OTHER)
    assert isinstance(await office.deliver(), Delivered)
    assert (office.tenant.smtp.connections, len(office.tenant.smtp.mails)) == (2, 2)


async def test_a_connection_does_not_wait_for_the_books(office: Office) -> None:
    """While the answer to one mail is being noted, the next one goes out by the same connection."""
    may_be_noted, waiting = asyncio.Event(), asyncio.Event()
    answered = office.answered

    async def slowly(delivery: Delivery, recipients: Sequence[Recipient]) -> None:
        if not waiting.is_set():
            waiting.set()
            await may_be_noted.wait()
        await answered(delivery, recipients)

    office.answered = slowly  # type: ignore[method-assign]
    sink = office.made(connections=1)
    first, second = sink.render([office.mail(OTHER).delivery for _ in range(2)])
    sending = asyncio.create_task(sink.deliver(first, attempt=1))
    await waiting.wait()
    assert isinstance(await sink.deliver(second, attempt=1), Delivered)
    assert not sending.done()
    may_be_noted.set()
    assert isinstance(await sending, Delivered)
    assert len(office.tenant.smtp.mails) == 2
    assert office.tenant.smtp.connections == 1
    # So many are in hand that there is always one for the connection.
    assert sink.concurrency == 2


async def test_a_connection_that_is_being_closed_counts(office: Office) -> None:
    """No new one is opened before it is gone: the server refuses one session too many."""
    asked: list[bool] = []
    closed = asyncio.Event()

    async def open_one() -> SmtpSession:
        asked.append(closed.is_set())
        return await SmtpSession.open(office.desk.server, office.desk.account)

    pool = Pool(open_one, most=1, now=office.clock)

    async def use() -> None:
        async with pool.session():
            pass

    async def spoil() -> None:
        async with pool.session() as session:
            close = session.close

            async def slowly(*, politely: bool = True) -> None:
                await closed.wait()
                await close(politely=politely)

            session.close = slowly  # type: ignore[method-assign]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await spoil()
    using = asyncio.create_task(use())
    for _ in range(20):
        await asyncio.sleep(0)
    closed.set()
    await using
    assert asked == [False, True]
    await pool.close()
