"""How fast queued mail leaves and the API takes it, beside bare loops in the same run.

    python -m benchmarks.sending [--mails 600] [--runs 3] [--connections 3] [--requests 1000]

The first: a loop of aiosmtplib on the same Postfix, and what is queued here. Both hand the same
mails to a real Postfix by STARTTLS and XOAUTH2, over the same number of connections. The loop keeps
its mails in memory and forgets them; mailbridge has them in its database with every commit on disk,
notes each as in doubt before the final dot and as sent after it. Required: within 25 % of the loop.
The second is in ``sending_api``; required: 300 accepted a second. What others do on the machine
slows both sides of a comparison, so runs alternate and the share is the median of theirs; CPU is
for each mail, whoever else runs. Exit code 1 when a goal is missed.
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
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import sending_api
from benchmarks.sending_api import quiet
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
ACCEPTED = 300
#: mails a second, and milliseconds of CPU for each
Pace = tuple[float, float]


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


async def bare(postfix: Postfix, minter: Minter, raws: list[bytes], connections: int) -> Pace:
    """Send with nothing but the library."""
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

    count, began, cpu = len(raws), time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(connections)))
    return _pace(count, began, cpu)


def _pace(count: int, began: float, cpu: float) -> Pace:
    """Return mails a second, and this process's milliseconds of CPU for each."""
    seconds = time.perf_counter() - began
    return count / seconds, 1000 * (time.process_time() - cpu) / count


async def bridged(postfix: Postfix, minter: Minter, raws: list[bytes], connections: int) -> Pace:
    """Send what lies accepted in the database."""
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
            began, cpu = time.perf_counter(), time.process_time()
            sender.sending.dispatcher.wake()
            health = sender.sending.dispatcher.health
            while health.delivered <= len(raws):  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.005)
            return _pace(len(raws), began, cpu)


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


async def _measure(postfix: Postfix, minter: Minter, given: argparse.Namespace) -> list[list[Pace]]:
    found: list[list[Pace]] = [[], []]
    await bare(postfix, minter, mails(50), given.connections)
    for _ in range(given.runs):
        for rates, way in zip(found, (bare, bridged), strict=True):
            rates.append(await way(postfix, minter, mails(given.mails), given.connections))
            while postfix.waiting:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
    return found


def main() -> int:
    """Run from the command line; returns 1 when the requirement is missed."""
    parser = argparse.ArgumentParser(description="sending, beside bare loops")
    parser.add_argument("--mails", type=int, default=600)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000, help="to the API; 0: none")
    given = parser.parse_args()
    quiet()
    console = Console(soft_wrap=True)
    held = [_leave(given, console)] if given.mails else []
    held += [_taken(given, console)] if given.requests else []
    return 0 if all(held) else 1


def _leave(given: argparse.Namespace, console: Console) -> bool:
    minter = Minter()
    with Postfix(minter.rules, probe_token=minter.mint_app) as postfix:
        loop, ours = uvloop.run(_measure(postfix, minter, given))
    shown = Table(title=f"{given.mails} mails over {given.connections} connections")
    for name in ("", "a second", "CPU ms a mail", "runs"):
        shown.add_column(name, justify="right" if name else "left")
    for name, paces in (("bare loop, nothing kept", loop), ("mailbridge, durable", ours)):
        runs = " ".join(f"{rate:.0f}" for rate, _ in paces)
        rate, cpu = (statistics.median(figures) for figures in zip(*paces, strict=True))
        shown.add_row(name, f"{rate:.0f}", f"{cpu:.1f}", runs)
    console.print(shown)
    shares = [one[0] / other[0] for one, other in zip(ours, loop, strict=True)]
    share = statistics.median(shares)
    each = " ".join(f"{one:.0%}" for one in shares)
    console.print(f"{share:.0%} of the loop ({each}); required: {REQUIRED:.0%}")
    return share >= REQUIRED


def _taken(given: argparse.Namespace, console: Console) -> bool:
    found = sending_api.measure(given.requests, given.runs)
    shown = Table(title=f"{given.requests} requests over {sending_api.CLIENTS} connections")
    for name in ("", "a second", "CPU ms each", "commits each", "runs"):
        shown.add_column(name, justify="right" if name else "left")
    for path, paces in found.items():
        rate, cpu, commits = (sending_api.middle(paces, one) for one in ("rate", "cpu", "commits"))
        runs = " ".join(f"{one.rate:.0f}" for one in paces)
        shown.add_row(f"POST {path}", f"{rate:.0f}", f"{cpu:.2f}", f"{commits:.2f}", runs)
    console.print(shown)
    rate = sending_api.middle(found[sending_api.SEND], "rate")
    part = rate / sending_api.middle(found[sending_api.EMPTY], "rate")
    console.print(
        f"{rate:.0f} accepted a second; required: {ACCEPTED}; {part:.0%} of the empty one"
    )
    return rate >= ACCEPTED


if __name__ == "__main__":
    sys.exit(main())
