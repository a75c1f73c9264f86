"""What follows a sign-in by a link: the steps, and a mail where the mailbox sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mailbridge import sign_in_desk
from mailbridge.diagnose.steps import Step
from mailbridge.errors import StoreFull
from mailbridge.sign_in_desk import SignInDesk


def desk(monkeypatch: pytest.MonkeyPatch, *, sends: bool, status: str, full: bool) -> SignInDesk:
    """Return a desk whose diagnosis has one step, with what queues mails."""

    class Diagnosis:
        def __init__(self, **_: Any) -> None: ...

        async def steps(self) -> AsyncIterator[Step]:
            """Give the one step."""
            yield Step(id="token", status=cast("Any", status), detail="", seconds=0.0)

    async def send(mailbox: str) -> str:
        if full:
            raise StoreFull("the disk is full")
        return f"out_of_{mailbox}"

    mailbox = SimpleNamespace(send=object() if sends else None)
    config = SimpleNamespace(mailboxes={"alarm": mailbox})
    monkeypatch.setattr(sign_in_desk, "Diagnosis", Diagnosis)
    given: Any = {
        "public_url": "https://x.example",
        "config": lambda: config,
        "sign_ins": SimpleNamespace(of=lambda _: None),
        "mended": lambda _: None,
        "now": lambda: None,
        "run": None,
        "send": send,
    }
    return SignInDesk(**given)


@pytest.mark.parametrize(
    ("sends", "status", "full", "wanted"),
    [
        (True, "ok", False, [("token", "ok"), ("test_mail", "ok")]),
        (True, "warning", False, [("token", "warning"), ("test_mail", "ok")]),
        (True, "failed", False, [("token", "failed")]),
        (False, "ok", False, [("token", "ok")]),
        (True, "ok", True, [("token", "ok"), ("test_mail", "failed")]),
    ],
)
async def test_a_test_mail_is_queued_where_the_mailbox_sends(
    monkeypatch: pytest.MonkeyPatch,
    *,
    sends: bool,
    status: str,
    full: bool,
    wanted: list[tuple[str, str]],
) -> None:
    """After a sign-in that works a mailbox that sends gets one mail from itself, and no other."""
    made = desk(monkeypatch, sends=sends, status=status, full=full)
    steps = [(step.id, step.status) async for step in made.test("alarm")]
    assert steps == wanted
