"""``send`` and ``sendmail`` as people, scripts and programs use them, at a real daemon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mailbridge.cli import sending as sending_commands
from mailbridge.cli.main import app
from mailbridge.parse import parse
from mailbridge.sandbox.config_text import config_for
from mailbridge.sandbox.smtp_server import Submitted
from mailbridge.store.files import Lock
from mailbridge.store.store import Store
from tests.servers.site import SECONDS, Site, site

__all__ = ["site"]  # the fixture

CRON = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@web> backup\n\ndone\n.\nhidden\n"


@pytest.fixture
def sending(site: Site, tmp_path: Path) -> Site:
    """Let the mailbox of the site send."""
    site.config.write_text(
        config_for(
            site.tenant,
            webhook_url=site.receiver.url,
            state_dir=tmp_path / "state",
            send=["alarm@feuerwehr.example"],
        )
    )
    return site


async def run(
    site: Site, *words: str, given: bytes = b"", program: tuple[str, ...] = ()
) -> tuple[int, str, str]:
    """Run a command with something on standard input: exit code, output, errors."""
    usual = (sys.executable, "-m", "mailbridge", "--config", str(site.config))
    process = await asyncio.create_subprocess_exec(
        *(program or usual),
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=site.environ,
        cwd=site.home,
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate(given)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def quickly(site: Site, *words: str, given: bytes = b"") -> tuple[int, str, str]:
    """Do the same in this process, which need not load everything again."""
    environ = pytest.MonkeyPatch()
    environ.chdir(site.home)
    try:
        done = await asyncio.to_thread(call, site, *words, given=given)
    finally:
        environ.undo()
    return done.exit_code, done.stdout, done.stderr


async def arrived(site: Site, count: int) -> list[Submitted]:
    """Wait for mails at the tenant."""
    async with asyncio.timeout(SECONDS):
        while len(site.tenant.smtp.mails) < count:
            await asyncio.sleep(0.05)
    return site.tenant.smtp.mails


async def test_send_stays_until_the_server_has_it(sending: Site, tmp_path: Path) -> None:
    """With --wait: 0 once it is sent; text from standard input, html and a file are in it."""
    (tmp_path / "plan.pdf").write_bytes(b"%PDF")
    (tmp_path / "a.html").write_text("<p>Übung</p>", encoding="utf-8")
    words = ("send", "--from", "alarm", "--to", "a@b.example", "--to", "Max <c@d.example>")
    more = ("--subject", "Übung", "--body", "-", "--html", "a.html", "--attach", "plan.pdf")
    async with sending.daemon():
        await up(tmp_path)
        code, out, err = await run(
            sending, *words, *more, "--wait", "--json", given="um zwölf".encode()
        )
        assert code == 0, err
        answer = json.loads(out)
        shown = await sending.json("trace", answer["id"])
    assert (answer["state"], answer["mailbox"], answer["via"]) == ("sent", "alarm", "cli")
    assert [(one["address"], one["state"]) for one in answer["recipients"]] == [
        ("a@b.example", "taken"),
        ("c@d.example", "taken"),
    ]
    assert [one["id"] for one in shown["sends"]] == [answer["id"]]
    [mail] = await arrived(sending, 1)
    read = parse(mail.raw)
    assert mail.recipients == ("a@b.example", "c@d.example")
    assert read.message_id == answer["message_id"]
    assert read.text is not None
    assert read.text.content.strip() == "um zwölf"
    assert read.html is not None
    assert "Übung" in read.html.content
    assert [(one.filename, one.content_type) for one in read.attachments] == [
        ("plan.pdf", "application/pdf")
    ]
    assert "auto-submitted" in {one.key for one in read.headers}


async def test_send_tells_what_failed(sending: Site, tmp_path: Path) -> None:
    """With --wait: 1 and the server's reason when nobody gets it, and when somebody does not."""
    words = ("send", "--from", "alarm", "--subject", "x", "--wait", "--to")
    sending.tenant.faults.add("smtp.recipient_unknown", times=1)
    async with sending.daemon():
        await up(tmp_path)
        code, out, err = await quickly(sending, *words, "gone@b.example")
        assert (code, out.split()[1]) == (1, "failed")
        assert "gone@b.example: " in err
        assert "5.1." in err
        sending.tenant.faults.add("smtp.recipient_unknown", times=1)
        code, out, err = await quickly(sending, *words, "gone@b.example, max@b.example")
    assert (code, out.split()[1]) == (1, "partly")
    assert "max@b.example" not in err


async def test_without_a_daemon_the_mail_waits(sending: Site) -> None:
    """The database keeps it, the command says so, and the next daemon sends it."""
    code, out, err = await quickly(
        sending, "send", "--from", "alarm", "--to", "a@b.example", "--subject", "x"
    )
    assert (code, out.split()[1]) == (0, "queued")
    assert "no daemon runs" in err
    code, _, err = await quickly(sending, "sendmail", "b@b.example", given=b"Subject: y\n\n.\n")
    assert (code, "no daemon runs" in err) == (0, True)
    async with sending.daemon():
        mails = await arrived(sending, 2)
    assert sorted(mail.recipients for mail in mails) == [("a@b.example",), ("b@b.example",)]


async def test_sendmail_takes_what_cron_writes(sending: Site, tmp_path: Path) -> None:
    """Under its own name, with the usual flags: dots end the mail, or with -i they do not."""
    link = tmp_path / "sendmail"
    link.write_text(
        f"#!{sys.executable}\nfrom mailbridge.cli.main import main\nmain()\n", encoding="utf-8"
    )
    link.chmod(0o755)
    sending.environ["MAILBRIDGE_CONFIG"] = str(sending.config)
    program = (str(link),)
    flags: tuple[str, ...] = ("-FCronDaemon", "-odi", "-oem", "-froot@web", "-bm")
    async with sending.daemon():
        await up(tmp_path)
        code, out, err = await run(sending, *flags, "a@b.example", given=CRON, program=program)
        assert (code, out, err) == (0, "", "")
        flags = ("-oi", "-B8BITMIME")
        code, _, err = await quickly(sending, "sendmail", *flags, "b@b.example", given=CRON)
        assert code == 0, err
        listed = CRON.replace(b"To: root", b"To: c@b.example\nBcc: d@b.example")
        flags = ("-t", "-i", "--")
        code, _, err = await quickly(sending, "sendmail", *flags, "e@b.example", given=listed)
        assert code == 0, err
        mails = {mail.recipients: mail for mail in await arrived(sending, 3)}
    cut, full, by_header = (
        mails[those]
        for those in (
            ("a@b.example",),
            ("b@b.example",),
            ("e@b.example", "c@b.example", "d@b.example"),
        )
    )
    assert cut.raw.endswith(b"\r\n\r\ndone\r\n")
    assert full.raw.endswith(b"\r\n\r\ndone\r\n.\r\nhidden\r\n")
    assert b"Bcc" not in by_header.raw
    assert [tuple(one) for one in parse(cut.raw).from_] == [
        ("CronDaemon", "alarm@feuerwehr.example")
    ]
    assert [tuple(one) for one in parse(full.raw).from_] == [
        ("root (Cron Daemon)", "alarm@feuerwehr.example")
    ]


CODES: list[tuple[tuple[str, ...], bytes, int]] = [
    ((), b"x", 64),
    (("-bs",), b"x", 64),
    (("-bd",), b"x", 64),
    (("-q",), b"x", 64),
    (("-q5m",), b"x", 64),
    (("-Z", "a@b.example"), b"x", 64),
    (("-t",), b"To: a@b.example\n\n" + b"x" * 999, 65),
    (("-t",), b"To: a@b.example\nSubject: \0\n\n", 65),
    (("-t",), b"Subject: nobody\n\n", 65),
    (("root",), b"x", 67),
    (("-t",), b"To: root\n\n", 67),
    (("a@b.example",), b"From: chief@b.example\n\n", 69),
    (("a@b.example",), b"X-Mailbridge-Id: out_A\n" * 6 + b"\n", 69),
]


def call(site: Site, *words: str, given: bytes = b"") -> Result:
    """Run a command in this process, where no daemon runs."""
    return CliRunner().invoke(app, ["--config", str(site.config), *words], input=given)


def test_sendmail_says_by_its_exit_code_what_is_wrong(sending: Site) -> None:
    """As sysexits.h has it: programs decide by it whether to try again; nothing is queued."""
    for words, raw, expected in CODES:
        done = call(sending, "sendmail", *words, given=raw)
        assert (done.exit_code, done.stdout) == (expected, ""), (words, done.stderr)
        assert done.stderr.strip()
    assert json.loads(call(sending, "queue", "list", "--json").stdout) == []
    text = sending.config.read_text()
    sending.config.write_text(text.replace("    send:\n", "    send_: \n"))
    assert call(sending, "sendmail", "a@b.example", given=b"x").exit_code == 78


def test_what_a_database_cannot_take_is_tried_again(sending: Site, tmp_path: Path) -> None:
    """75 while another process holds the database and does not answer: programs keep the mail."""
    state = tmp_path / "state"
    assert call(sending, "sendmail", "a@b.example", given=b"x").exit_code == 0
    held = Lock(state / "mailbridge.db")
    patience = pytest.MonkeyPatch()
    patience.setattr(sending_commands, "_PATIENCE", 0.0)
    try:
        done = call(sending, "sendmail", "a@b.example", given=b"x")
    finally:
        patience.undo()
        held.release()
    assert done.exit_code == 75
    assert "in use" in done.stderr


def test_what_cannot_be_sent_is_refused_at_once(sending: Site) -> None:
    """1 with every fault for what the mail says wrong, 2 for wrong usage; nothing is queued."""
    wrong = ("--from", "chief@b.example", "--to", "root", "--subject", "a\nBcc: x@y.example")
    done = call(sending, "send", *wrong)
    assert (done.exit_code, done.stdout) == (1, "")
    for where in ("to.0: ", "subject: ", "from: "):
        assert where in done.stderr
    usual = ("send", "--from", "alarm", "--to", "a@b.example", "--subject", "x")
    assert call(sending, *usual, "--attach", "missing").exit_code == 2
    assert call(sending, *usual, "--body", "-", given=b"\xff").exit_code == 2
    assert call(sending, "send", "--from", "alarm", "--subject", "x").exit_code == 2
    assert json.loads(call(sending, "queue", "list", "--json").stdout) == []


async def test_a_daemon_that_dies_amid_costs_no_mail_and_makes_no_second(
    sending: Site, tmp_path: Path
) -> None:
    """Killed while mails are handed over: every command ends well, and each mail is there once."""
    await sending.tenant.smtp.stop()
    words = ("send", "--from", "alarm", "--to", "a@b.example", "--subject")
    async with sending.daemon() as process:
        await up(tmp_path)
        running = [asyncio.create_task(run(sending, *words, f"number {n}")) for n in range(3)]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        os.kill(process.pid, signal.SIGKILL)
        answers = await asyncio.gather(*running)
    assert [code for code, _, _ in answers] == [0] * 3, answers
    store = await Store.open(f"sqlite:///{tmp_path}/state/mailbridge.db", mode="read")
    try:
        rows = await store.deliveries(sink="send:alarm")
    finally:
        await store.close()
    assert sorted(row.event_id for row in rows) == sorted(out.split()[0] for _, out, _ in answers)


async def up(home: Path) -> None:
    """Wait until the daemon can be asked."""
    async with asyncio.timeout(SECONDS):
        while not (home / "state" / "mailbridge.sock").exists():
            await asyncio.sleep(0.05)
