"""Bounces among mails that come in: whatever they hold, the mails are accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import structlog

from mailbridge import bounce_notes
from mailbridge.bounce import Failure, failures
from mailbridge.bounce_notes import BounceNotes
from mailbridge.errors import StoreRefused, TemporaryError, Unavailable
from mailbridge.model import MessageRef, RawMessage
from mailbridge.store.base import SendStore

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
REPORT = b"""\
Return-Path: <>
Content-Type: multipart/report; boundary=b

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; x

Final-Recipient: rfc822; a@b.example
Action: failed

--b
Content-Type: text/rfc822-headers

Message-ID: <a\x00b@c.example>
--b--
"""


class Sends:
    """A store that has one trouble."""

    def __init__(self, trouble: Exception | None = None) -> None:
        self.trouble = trouble
        self.asked: list[str] = []

    async def find(self, message_id: str) -> Sequence[Any]:
        self.asked.append(message_id)
        if self.trouble is not None:
            raise self.trouble
        return ()


def notes(store: Sends) -> BounceNotes:
    return BounceNotes(
        store=cast("SendStore", store),
        listeners=lambda _mailbox, _kind: (),
        run=asyncio.to_thread,
        now=lambda: NOW,
    )


def message(uid: int = 1) -> RawMessage:
    return RawMessage(ref=MessageRef(mailbox="alarm", folder="INBOX", uid=uid), raw=REPORT)


def test_no_zero_gets_into_what_the_store_is_asked() -> None:
    """PostgreSQL takes no NUL in a text: a report that brings one must not stop a mailbox."""
    assert not [one for found in failures(REPORT) for one in found.message_ids if "\0" in one]


async def test_a_report_that_cannot_be_noted_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of ours, or a text that the database refuses, costs the note and not the mailbox."""
    failure = Failure(send="", message_ids=("x@y",), recipient="a@b", text="")
    monkeypatch.setattr(bounce_notes, "failures", lambda _: [failure])
    for trouble in (ValueError("a bug"), TemporaryError("no such text", code="store.trouble")):
        store = Sends(trouble)
        with structlog.testing.capture_logs() as said:
            await notes(store).heed([message(1), message(2)])
        assert len(store.asked) == 2
        assert [line["event"] for line in said] == ["bounce.not_noted"] * 2


async def test_a_store_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch fails as a whole then, and comes again with its bounces."""
    failure = Failure(send="", message_ids=("x@y",), recipient="a@b", text="")
    monkeypatch.setattr(bounce_notes, "failures", lambda _: [failure])
    for trouble in (Unavailable("away"), StoreRefused("damaged")):
        with pytest.raises(type(trouble)):
            await notes(Sends(trouble)).heed([message()])
