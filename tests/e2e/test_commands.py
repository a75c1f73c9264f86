"""The commands as an operator types them, against a real daemon process on the sandbox."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path

from mailbridge.sandbox.receiver import Answer
from tests.servers.site import SECONDS, Site, mail, site

__all__ = ["site"]  # the fixture


async def test_a_day_with_an_operator(site: Site) -> None:
    """Mail arrives, is delivered, shown, traced and replayed; the daemon stops cleanly."""
    site.box.deliver(mail(1))
    site.box.deliver(mail(2))
    async with site.daemon() as process:
        first, _ = await site.receiver.wait(2, seconds=SECONDS, event="mail.received")
        code, out, _ = await site.call("status")
        status = await site.json("status")
        log = await site.json("log", "--mailbox", "alarm")
        trace = await site.call("trace", first.id)
        by_header = await site.json("trace", "<1@leitstelle.example>")
        assert await site.call("replay", first.id) == (0, "1 to be delivered again\n", "")
        await site.receiver.wait_requests(3, seconds=SECONDS)
        assert (await site.call("queue", "list"))[1] == "nothing waits and nothing is dead\n"

    assert code == 0
    assert "alarm" in out
    assert [box["state"] for box in status["mailboxes"]] == ["ok"]
    assert status["daemon"]["pid"] == process.pid
    assert [row["state"] for row in log] == ["delivered", "delivered"]
    assert trace[0] == 0
    assert "attempt 1: delivered" in trace[1]
    assert "server told" in trace[1]
    assert by_header["messages"][0]["id"] == first.id
    again = site.receiver.requests[-1]
    assert (again.id, again.body) == (first.id, first.body)
    assert again.headers["mailbridge-replay"] == "1"
    assert process.returncode == 0
    assert site.log[-1]["event"] == "daemon.stopped"
    inbox = site.box.folder("INBOX")
    assert all("\\Seen" in inbox.flags(uid) for uid in inbox.uids)


async def test_a_dead_letter_is_seen_and_retried(site: Site) -> None:
    """A 400 kills this mail after three tries; the operator sees it, retries it, it arrives."""
    site.receiver.answer_with(Answer(status=400, body=b"no such field"))
    site.box.deliver(mail(1))
    async with site.daemon():
        await site.receiver.wait_requests(1, seconds=SECONDS)
        for _ in range(400):
            waiting = await site.json("queue", "list", "--state", "deferred")
            if waiting:
                break
        [row] = waiting

    assert row["last_status"] == 400
    assert row["attempts"] == 1
    site.receiver.behave()
    # No daemon runs now: the commands open the database themselves.
    code, out, err = await site.call("queue", "retry", "--all")
    assert (code, out) == (1, "0 queued again\n"), err
    code, out, err = await site.call("queue", "drop", str(row["id"]))
    assert code == 2
    code, out, err = await site.call("queue", "drop", str(row["id"]), "--yes")
    assert (code, out) == (0, "1 dropped\n"), err
    code, out, _ = await site.call("replay", "--mailbox", "alarm", "--since", "1h")
    assert (code, out) == (0, "1 to be delivered again\n")
    async with site.daemon():
        [arrived] = await site.receiver.wait(1, seconds=SECONDS, event="mail.received")

    assert arrived.json["data"]["subject"] == "Alarm 1"


async def test_a_second_daemon_is_refused(site: Site) -> None:
    """Two daemons on one database would double everything: the second says who holds it."""
    site.box.deliver(mail(1))
    async with site.daemon() as process:
        await site.receiver.wait(1, seconds=SECONDS)
        code, _, err = await site.call("run")

    assert code == 1
    assert str(process.pid) in err
    assert "Traceback" not in err


async def test_database_commands(site: Site, tmp_path: Path) -> None:
    """A backup is taken while the daemon runs; it and the original are sound."""
    site.box.deliver(mail(1))
    async with site.daemon():
        await site.receiver.wait(1, seconds=SECONDS)
        copy = tmp_path / "copy.db"
        assert (await site.call("db", "backup", str(copy)))[0] == 0
        assert (await site.call("db", "check"))[:2] == (0, "ok\n")

    assert (await site.call("db", "upgrade"))[0] == 0
    text = site.config.read_text().replace(f"{tmp_path}/state/mailbridge.db", str(copy))
    site.config.write_text(text)
    log = await site.json("log")
    assert [row["ref"]["uid"] for row in log] == [1]


async def test_trying_the_configuration(site: Site) -> None:
    """test-mailbox and test-webhook tell what is, with exit codes, and touch no database."""
    report = await site.json("test-mailbox", "alarm")
    code, out, _ = await site.call("test-webhook", "receiver")
    site.receiver.answer_with(Answer(status=503, body=b"maintenance"))
    bad, told, _ = await site.call("test-webhook", "receiver")

    assert report["ok"]
    assert [step["status"] for step in report["steps"]] == ["ok"] * 13
    assert (code, bad) == (0, 1)
    assert "delivered" in out
    assert "503" in told
    assert not (site.home / "state" / "mailbridge.db").exists()
    assert [r.type for r in site.receiver.requests] == ["test.ping", "test.ping"]


async def test_blindness_is_in_the_status(site: Site) -> None:
    """A mailbox whose permission is gone is reported with its cause, and status says 1."""
    site.tenant.revoke(site.tenant.directory.apps[next(iter(site.tenant.directory.apps))], site.box)
    async with site.daemon():
        for _ in range(200):
            status = await site.json("status")
            if (
                status
                and status["daemon"]["running"]
                and status["mailboxes"][0]["state"] == "not_connected"
            ):
                break
        code, out, _ = await site.call("status")

    assert code == 1
    assert status["mailboxes"][0]["state"] == "not_connected"
    assert status["mailboxes"][0]["code"] == "imap.not_connected"
    assert "User is authenticated but not connected" in out


async def test_no_daemon_and_no_database(site: Site) -> None:
    """Asked before the first start, status says so in one line and without a traceback."""
    code, _, err = await site.call("status")

    assert code == 1
    assert "there is no database" in err
    assert "Traceback" not in err


async def test_a_wrong_configuration_starts_nothing(site: Site) -> None:
    """Every mistake is told at once with its line; exit code 78, nothing was created."""
    text = site.config.read_text().replace("sign_in: application", "sign_in: applikation")
    site.config.write_text(text.replace("start: all", "start: yesterday"))
    code, _, err = await site.call("run")

    assert code == 78
    assert "mailboxes.alarm.sign_in" in err
    assert "mailboxes.alarm.fetch.start" in err
    assert "mailbridge.yaml:" in err
    assert not (site.home / "state" / "mailbridge.db").exists()


async def test_no_secret_in_any_log(site: Site) -> None:
    """Neither the client secret nor the signing secret nor a token is in a debug log."""
    site.box.deliver(mail(1))
    process = await site.start("--log-level", "debug", "--log-format", "json", "run")
    await site.receiver.wait(1, seconds=SECONDS)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    [app] = site.tenant.directory.apps.values()
    text = (out + err).decode()

    assert "delivery.delivered" in text
    assert app.secret not in text
    assert site.receiver.secrets[0] not in text
    assert "eyJ" not in text


async def test_the_demo_delivers_everything(tmp_path: Path) -> None:
    """`mailbridge demo --once` ends by itself with 0 when every mail arrived and one was sent."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mailbridge",
        "demo",
        "--once",
        "--messages",
        "3",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    told = out.decode()
    assert "3 mails sent, 3 delivered, 0 lost, 0 doubled; 1 of 1 sent by SMTP" in told
    assert re.search(r" 250 Einsatz \u00fcbernommen, sent by SMTP\n.*\n +out_\w{26}, ", told)
    assert err == b""


async def test_ctrl_c_ends_the_demo_in_peace(tmp_path: Path) -> None:
    """Whoever has seen enough is not told that mail was lost, and no make error follows."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mailbridge",
        "demo",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        while b"signature good" not in await process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()

    assert process.returncode == 0
    assert b"lost" not in out.replace(b"0 lost", b"")
