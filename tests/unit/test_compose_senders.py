"""Who may send as whom is decided before a server is asked, and told with every fault at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mailbridge.compose.draft import Draft, Fault, Handed, Origin, Unfit, Written
from mailbridge.config import load
from mailbridge.errors import PermanentError
from mailbridge.model import Outgoing
from mailbridge.outbox import Outbox
from mailbridge.parse import parse
from mailbridge.senders import Senders
from mailbridge.store.base import AcceptedSend

BOXES = """
  alarm:
    address: alarm@fw.example
    app: main
    send: {send_as: [alarm@fw.example, info@fw.example]}
  only: {address: only@fw.example, app: main, send: {send_as: [Chief@FW.example]}}
  shared: {address: shared@fw.example, app: main, send: {send_as: [info@fw.example]}}
  reads: {address: reads@fw.example, app: main}
"""
ONE = "\n  alarm: {address: alarm@fw.example, app: main, send: {}}\n"


def config(home: Path, boxes: str = BOXES) -> Any:
    file = home / "mailbridge.yaml"
    file.write_text(
        f'state: {{database: "sqlite:///{home}/m.db"}}\napps:\n  main:\n'
        "    tenant: 11111111-2222-3333-4444-555555555555\n"
        "    client_id: 66666666-7777-8888-9999-000000000000\n"
        "    credential: {client_secret: {env: S}, expires: 2028-11-20}\n"
        f"mailboxes:{boxes}webhooks: {{erp: {{url: https://erp.example/hook}}}}\n"
    )
    return load(file, environ={"S": "abc8Q~made-up-client-secret"})


@pytest.mark.parametrize(
    ("written", "wanted", "chosen"),
    [
        ("alarm", "", ("alarm", "alarm@fw.example")),
        ("only", "", ("only", "Chief@FW.example")),
        ("alarm@fw.example", "", ("alarm", "alarm@fw.example")),
        ("alarm@FW.Example", "", ("alarm", "alarm@FW.Example")),
        ("info@fw.example", "shared", ("shared", "info@fw.example")),
        ("Chief@fw.example", "", ("only", "Chief@fw.example")),
        ("info@fw.example", "", "send.no_mailbox"),
        ("Alarm@fw.example", "", "send.not_allowed"),
        ("only@fw.example", "", "send.not_allowed"),
        ("alarm@fw.example", "only", "send.not_allowed"),
        ("reads@fw.example", "", "send.not_allowed"),
        ("reads", "", "send.no_mailbox"),
        ("alarm@fw.example", "nobody", "send.no_mailbox"),
        ("", "", "send.no_mailbox"),
        ("alarm@fw.example, info@fw.example", "", "send.invalid"),
    ],
)
def test_from_decides_and_send_as_permits(
    tmp_path: Path, written: str, wanted: str, chosen: tuple[str, str] | str
) -> None:
    """Exact addresses, domains without capitals; several that may are asked which."""
    faults: list[Fault] = []
    found = Senders(config(tmp_path)).choose(Written(written), wanted, "from", faults)
    if isinstance(chosen, str):
        assert found is None
        assert [fault.code for fault in faults] == [chosen]
    else:
        assert found is not None
        assert (found[0], found[1].address) == chosen
        assert faults == []


class Kept:
    """A ``SendStore`` that keeps in memory what it is given."""

    def __init__(self) -> None:
        self.mails: list[Outgoing] = []

    async def accept(self, mail: Outgoing) -> AcceptedSend:
        self.mails.append(mail)
        return AcceptedSend(id=mail.id)


async def in_place(function: Any, *given: Any) -> Any:
    return function(*given)


def outbox(home: Path, boxes: str = BOXES) -> tuple[Outbox, Kept, list[str]]:
    kept, woken = Kept(), list[str]()
    settled = config(home, boxes)
    made: Any = {"store": kept, "wake": woken.append, "run": in_place}
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    return Outbox(config=lambda: settled, now=lambda: now, **made), kept, woken


async def handed(home: Path, raw: bytes, boxes: str = BOXES, **said: Any) -> tuple[str, str, bytes]:
    """Hand a mail over; returns mailbox, envelope sender, and the bytes kept."""
    box, kept, _ = outbox(home, boxes)
    await box.hand_over(Handed(raw=raw, **said), Origin(via="sendmail"))
    [mail] = kept.mails
    return mail.mailbox, mail.sender, mail.raw


@pytest.mark.parametrize(
    ("author", "said", "form", "chosen"),
    [
        (b"alarm@fw.example", "", "strict", "alarm"),
        (b"info@fw.example", "alarm", "strict", "alarm"),
        (b"info@fw.example", "alarm@fw.example", "strict", "alarm"),
        (b"info@fw.example", "alarm@fw.example", "unix", "alarm"),
        (b"Chief@fw.example", "alarm@fw.example", "unix", "only"),
        (b"Chief@fw.example", "www-data@web", "unix", "only"),
        (b"", "alarm@fw.example", "strict", "alarm"),
        (b"", "only", "strict", "only"),
        (b"", "Chief@fw.example", "unix", "only"),
        (b"root (Cron Daemon)", "alarm@fw.example", "unix", "alarm"),
        (b"Chief@fw.example", "alarm@fw.example", "strict", "send.not_allowed"),
        (b"Chief@fw.example", "www-data@web.example", "strict", "send.not_allowed"),
        (b"evil@fw.example", "alarm@fw.example", "unix", "send.not_allowed"),
        (b"evil@fw.example", "alarm", "strict", "send.not_allowed"),
        (b"", "", "strict", "send.invalid"),
        (b"", "", "unix", "send.no_mailbox"),
        (b"", "reads", "strict", "send.no_mailbox"),
    ],
)
async def test_a_whole_mail_is_sent_by_whom_its_author_may(
    tmp_path: Path, author: bytes, said: str, form: str, chosen: str
) -> None:
    """From decides; what is said beside it helps where that is open, and overrides nothing."""
    raw = (b"From: " + author + b"\r\n" if author else b"") + b"To: a@b.example\r\n\r\nx\r\n"
    if chosen.startswith("send."):
        with pytest.raises(Unfit) as unfit:
            await handed(tmp_path, raw, sender=said, form=form)
        assert unfit.value.code == chosen
        return
    box, sender, kept = await handed(tmp_path, raw, sender=said, form=form)
    assert box == chosen
    assert sender == f"{box}@fw.example"
    assert parse(kept).from_fields == 1


async def test_who_is_alone_sends_what_nobody_wrote(tmp_path: Path) -> None:
    """With one sending mailbox, the mail of cron leaves as that one, with cron's name."""
    raw = b"From: root (Cron Daemon)\nTo: a@b.example\n\nx\n"
    _, sender, kept = await handed(tmp_path, raw, ONE, form="unix", sender="root@host")
    assert sender == "alarm@fw.example"
    assert [tuple(one) for one in parse(kept).from_] == [("root (Cron Daemon)", "alarm@fw.example")]


async def test_the_envelope_names_the_mailbox(tmp_path: Path) -> None:
    """Whatever stands in From, reports come back to the mailbox, and Exchange knows the sender."""
    box, kept, woken = outbox(tmp_path)
    draft = Draft(sender=Written("info@fw.example", "Info"), mailbox="alarm")
    taken = await box.send(
        Draft(sender=draft.sender, mailbox="alarm", to=(Written("a@b.example"),)),
        Origin(via="api", client="erp"),
    )
    [mail] = kept.mails
    assert (mail.sender, mail.mailbox, mail.id) == ("alarm@fw.example", "alarm", taken.id)
    assert [tuple(one) for one in parse(mail.raw).from_] == [("Info", "info@fw.example")]
    assert taken.message_id == mail.message_id == f"<{taken.id}@fw.example>"
    assert woken == ["alarm"]


async def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    """Who sends wrong things learns of all of them, and nothing is kept."""
    box, kept, woken = outbox(tmp_path)
    draft = Draft(
        sender=Written("evil@fw.example"),
        to=(Written("a@b.example"), Written("root")),
        subject="a\nb",
        headers=(("Bcc", "x"),),
    )
    with pytest.raises(Unfit) as unfit:
        await box.send(draft, Origin(via="api"))
    assert [one.where for one in unfit.value.faults] == ["to.1", "headers.Bcc", "subject", "from"]
    assert "evil" not in str(unfit.value)
    assert (kept.mails, woken) == ([], [])


async def test_what_no_server_would_take_is_refused(tmp_path: Path) -> None:
    """A mail of more than 35 MB, or to more than the mailbox may in a day, is not kept."""
    limited = ONE.replace("send: {}", "send: {limits: {recipients_per_day: 2}}")
    box, kept, _ = outbox(tmp_path, limited)
    draft = Draft(sender=Written("alarm"), to=tuple(Written(f"{n}@b.example") for n in range(3)))
    with pytest.raises(PermanentError, match="2 recipients a day"):
        await box.send(draft, Origin(via="api"))
    line = b"x" * 997 + b"\r\n"
    large = b"From: alarm@fw.example\r\nTo: a@b.example\r\n\r\n" + line * (35 * 1024 * 1024 // 999)
    with pytest.raises(Unfit) as unfit:
        await box.hand_over(Handed(raw=large + line), Origin(via="api"))
    assert unfit.value.code == "send.too_large"
    await box.hand_over(Handed(raw=large[: -3 * len(line)]), Origin(via="api"))
    assert len(kept.mails) == 1
