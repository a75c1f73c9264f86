"""However much is queued at once, it leaves as Exchange permits it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from mailbridge.compose.draft import Draft, Origin, Written
from mailbridge.sandbox.tenant import Tenant
from tests.conftest import Clock
from tests.servers.sandbox_client import ADDRESS, app_of, signing_key
from tests.servers.send_desk import desk, utc_now, written

MAILS = 100


async def test_a_hundred_mails_leave_thirty_a_minute(tmp_path: Path, clock: Clock) -> None:
    """Never more in any 60 s, never on more than 3 connections, and each with one attempt."""
    clock.set(utc_now())
    async with Tenant.start(files=tmp_path, key=signing_key(), now=clock) as tenant:
        tenant.grant(tenant.add_app(), tenant.add_mailbox(ADDRESS))
        # The server's own limit is out of the way: what is kept here is ours.
        tenant.smtp.limits.per_minute = tenant.smtp.limits.sessions = 1000
        config = written(
            tmp_path, ADDRESS, (tenant.smtp.port, tenant.imap.port), tenant.ca_file, ""
        )
        async with desk(
            config,
            lambda: tenant.tokens.app_token(
                app_of(tenant), audience="https://outlook.office365.com"
            ),
            now=clock,
            steady=lambda: clock().timestamp(),
        ) as sender:
            taken = [
                await sender.outbox.send(
                    Draft(
                        sender=Written("alarm"),
                        to=(Written(f"a{number}@elsewhere.example"),),
                        text="x",
                    ),
                    Origin(via="api"),
                )
                for number in range(MAILS)
            ]
            async with asyncio.timeout(60):
                while len(tenant.smtp.mails) < MAILS:
                    clock.advance(1.0)
                    sender.sending.dispatcher.wake()
                    await asyncio.sleep(0.02)
            await sender.until_empty()
            rows = [await sender.store.sends.status(one.id) for one in taken]
        times = [mail.at for mail in tenant.smtp.mails]
        most = max(
            sum(first <= at < first + timedelta(minutes=1) for at in times) for first in times
        )

    assert most <= 30
    assert tenant.smtp.most_sessions <= 3
    assert len(times) == MAILS
    assert times[-1] - times[0] >= timedelta(minutes=3)
    assert {row.attempts for row in rows if row is not None} == {1}
