"""Submission on uvloop, which is what the daemon runs on: the same promises hold there.

uvloop has TLS, buffers and transports of its own. What depends on them is run again: bytes around
STARTTLS, cuts around the dot, and how many connections there are. (The relay: test_relay_tls.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from mailbridge.sandbox.tenant import Tenant
from tests.conftest import Clock
from tests.integration import test_smtp_session as session
from tests.integration import test_smtp_sink as sink
from tests.servers.sandbox_client import ADDRESS, signing_key
from tests.servers.smtp_desk import Desk, desk_for

AtDesk = Callable[[Tenant, Desk], Awaitable[None]]
AtSink = Callable[[sink.Office], Awaitable[None]]


async def _at_desk(work: AtDesk) -> None:
    async with Tenant.start(key=signing_key()) as tenant:
        boxes = [tenant.add_mailbox(address) for address in (ADDRESS, session.OTHER)]
        tenant.grant(tenant.add_app(), *boxes)
        await work(tenant, desk_for(tenant, ADDRESS))


async def _at_sink(work: AtSink, clock: Clock) -> None:
    async def begun(tenant: Tenant, desk: Desk) -> None:
        office = sink.Office(tenant, desk, clock)
        clock.set(tenant.smtp.now())
        office.mail(sink.OTHER)
        try:
            await work(office)
        finally:
            await office.sink.close()

    await _at_desk(begun)


@pytest.mark.parametrize(
    "work",
    [
        session.test_a_mail_arrives_as_it_was,
        session.test_one_connection_carries_many_mails,
        session.test_what_is_injected_before_tls_ends_the_connection,
        session.test_without_starttls_nothing_is_said,
        session.test_a_cut_in_the_body_is_not_in_doubt,
        session.test_a_refusal_amid_the_body_is_heard,
    ],
)
def test_a_session_does_the_same(work: AtDesk) -> None:
    """What a session promises about TLS, the dot and refusals holds on the daemon's loop."""
    uvloop.run(_at_desk(work))


@pytest.mark.parametrize(
    ("greeting", "ehlo"),
    [
        (b"220 liar\r\n250 AUTH XOAUTH2\r\n", session.EHLO),
        (b"220 liar\r\n", session.EHLO + b"235 2.7.0 you are in\r\n"),
    ],
)
def test_early_words_in_the_clear_end_the_connection(
    tmp_path: Path, greeting: bytes, ehlo: bytes
) -> None:
    """A reply that nobody has asked for is seen before TLS also where uvloop reads it."""
    uvloop.run(session.test_early_words_in_the_clear_end_the_connection(tmp_path, greeting, ehlo))


@pytest.mark.parametrize(
    "work",
    [
        sink.test_never_more_connections_than_permitted,
        sink.test_a_connection_that_died_idle_costs_no_attempt,
        sink.test_a_connection_that_is_being_closed_counts,
        sink.test_a_connection_does_not_wait_for_the_books,
    ],
)
def test_the_pool_does_the_same(work: AtSink, clock: Clock) -> None:
    """Connections are counted, reused and replaced on the daemon's loop as on the usual one."""
    uvloop.run(_at_sink(work, clock))
