"""How fast queued mail leaves, beside a bare loop of aiosmtplib on the same Postfix.

    python -m benchmarks.sending [--mails 600] [--runs 3] [--connections 3]

Both hand the same mails to a real Postfix by STARTTLS and XOAUTH2, over the same number of
connections. The loop keeps its mails in memory and forgets them; mailbridge has them in its
database with every commit on disk, notes each as in doubt before the final dot and as sent after
it. Required: within 25 % of the loop. Exit code 1 when that is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import ssl
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiosmtplib
from rich.console import Console
from rich.table import Table

from mailbridge.compose.draft import Draft, Origin, Written
from mailbridge.model import Outgoing
from tests.servers.postfix import Postfix
from tests.servers.send_desk import config_of, desk
from tests.servers.tokens import Minter

ADDRESS = "alarm@feuerwehr.example"
#: recipients that Postfix hands to a program which forgets them, as the server's own disk is not
#: what is measured
OTHER = "somebody@wache.example"
REQUIRED = 0.75


def mails(count: int) -> list[bytes]:
    """Return alarm mails of some 3 KB."""
    text = "Stichwort: B3 Brand\r\nStra\xdfe: Hauptstr. 1\r\n" * 60
    return [
        (
            f"From: <{ADDRESS}>\r\nTo: <{OTHER}>\r\nSubject: Einsatz {number}\r\n"
            f"Message-ID: <{number}.{time.time_ns()}@feuerwehr.example>\r\n"
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
            "Content-Transfer-Encoding: 8bit\r\n"
            f"Date: Sat, 21 Nov 2026 12:00:00 +0000\r\n\r\n{text}"
        ).encode()
        for number in range(count)
    ]


async def bare(postfix: Postfix, minter: Minter, raws: list[bytes], connections: int) -> float:
    """Send with nothing but the library; returns mails a second."""
    waiting = list(raws)
    context = ssl.create_default_context(cafile=str(postfix.ca_file))
    credential = f"user={ADDRESS}\x01auth=Bearer {minter.mint_app()}\x01\x01".encode()

    async def work() -> None:
        client = aiosmtplib.SMTP(
            hostname="localhost", port=postfix.port, start_tls=True, tls_context=context
        )
        async with client:
            await client.execute_command(b"AUTH", b"XOAUTH2")
            await client.execute_command(base64.b64encode(credential))
            while waiting:
                await client.sendmail(ADDRESS, [OTHER], waiting.pop())

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    return len(raws) / (time.perf_counter() - began)


async def bridged(postfix: Postfix, minter: Minter, raws: list[bytes], connections: int) -> float:
    """Send what lies accepted in the database; returns mails a second."""
    with tempfile.TemporaryDirectory(prefix="mb-bench-") as home:
        config = config_of(Path(home), postfix, ADDRESS, connections=connections)
        async with desk(config, minter.mint_app) as sender:
            # One that opens the store and the connections; the loop's are not counted, either.
            draft = Draft(sender=Written("alarm"), to=(Written(OTHER),), text="x")
            await sender.outbox.send(draft, Origin(via="api"))
            await sender.until_empty()
            await asyncio.gather(
                *(
                    sender.store.sends.accept(_outgoing(number, raw))
                    for number, raw in enumerate(raws)
                )
            )
            began = time.perf_counter()
            sender.sending.dispatcher.wake()
            health = sender.sending.dispatcher.health
            while health.delivered <= len(raws):  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.005)
            return len(raws) / (time.perf_counter() - began)


def _outgoing(number: int, raw: bytes) -> Outgoing:
    return Outgoing(
        id=f"out_{number:026}",
        mailbox="alarm",
        sender=ADDRESS,
        recipients=(OTHER,),
        message_id=f"<{number}@feuerwehr.example>",
        raw=raw,
        via="api",
    )


async def _measure(
    postfix: Postfix, minter: Minter, given: argparse.Namespace
) -> list[list[float]]:
    found: list[list[float]] = [[], []]
    await bare(postfix, minter, mails(50), given.connections)
    for _ in range(given.runs):
        for rates, way in zip(found, (bare, bridged), strict=True):
            rates.append(await way(postfix, minter, mails(given.mails), given.connections))
            while postfix.waiting:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
    return found


def main() -> int:
    """Run from the command line; returns 1 when the requirement is missed."""
    parser = argparse.ArgumentParser(description="sending, beside a bare loop")
    parser.add_argument("--mails", type=int, default=600)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=3)
    given = parser.parse_args()
    minter = Minter()
    with Postfix(minter.rules, probe_token=minter.mint_app) as postfix:
        loop, ours = asyncio.run(_measure(postfix, minter, given))
    shown = Table(title=f"{given.mails} mails over {given.connections} connections, per second")
    for name in ("", "median", "runs"):
        shown.add_column(name, justify="right" if name else "left")
    for name, rates in (("bare loop, nothing kept", loop), ("mailbridge, durable", ours)):
        runs = " ".join(f"{one:.0f}" for one in rates)
        shown.add_row(name, f"{statistics.median(rates):.0f}", runs)
    console = Console(soft_wrap=True)
    console.print(shown)
    share = statistics.median(ours) / statistics.median(loop)
    console.print(f"{share:.0%} of the loop; required: {REQUIRED:.0%}")
    return 0 if share >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
