"""A batch on its way to the store: ruled in a worker thread, and never lost by a bug of ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from mailbridge.acceptance import Acceptance
from mailbridge.health import FolderHealth
from mailbridge.model import Accepted, Batch, Checkpoint, MessageRef, RawMessage
from mailbridge.parse import ParsedMessage
from mailbridge.route.base import MatchSpec, RouteSpec
from mailbridge.route.decide import Router, compile_route
from mailbridge.routing import Routing

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SPECS = [
    RouteSpec(name="alarm", match=MatchSpec(subject="Einsatz"), webhooks=("divera",), stop=True),
    RouteSpec(name="archive", match=MatchSpec(subject="Probe"), webhooks=("erp",)),
]


class Store:
    """What acceptance needs of a store: takes batches and keeps them."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    async def accept(self, batch: Batch, **_: Any) -> Accepted:
        self.batches.append(batch)
        return Accepted(new=len(batch.messages), known=0)


class Breaking(Router):
    """A router with a bug that one mail brings out."""

    def rule(self, message: ParsedMessage, **words: Any) -> Any:
        if message.subject == "Einsatz 2":
            raise RuntimeError("a bug")
        return super().rule(message, **words)


def batch(*subjects: str) -> Batch:
    messages = [
        RawMessage(
            ref=MessageRef(mailbox="alarm", folder="INBOX", uidvalidity=1, uid=uid),
            raw=f"From: a@ils.example\r\nSubject: {subject}\r\n\r\nx".encode(),
            received_at=NOW,
        )
        for uid, subject in enumerate(subjects, 1)
    ]
    checkpoint = Checkpoint(
        mailbox="alarm", folder="INBOX", uidvalidity=1, uid=len(subjects), watching_since=NOW
    )
    return Batch(mailbox="alarm", folder="INBOX", checkpoint=checkpoint, messages=tuple(messages))


def acceptance(store: Store, router: Router | None, threads: list[int] | None = None) -> Acceptance:
    async def run(function: Callable[..., Any], *args: Any) -> Any:
        def noted() -> Any:
            if threads is not None:
                threads.append(threading.get_ident())
            return function(*args)

        return await asyncio.to_thread(noted)

    return Acceptance(
        mailbox="alarm",
        folder="INBOX",
        store=store,  # type: ignore[arg-type]
        address="alarm@feuerwehr.example",
        sinks=["divera", "erp"],
        listeners=[],
        settles=False,
        health=FolderHealth(mailbox="alarm", folder="INBOX"),
        on_accepted=lambda: None,
        now=lambda: NOW,
        routing=Routing(
            router=router,
            fallbacks={"divera": 60.0},
            listeners={"delivery.held": ("erp",)},
            run=run,
            now=lambda: NOW,
        ),
    )


def router(kind: type[Router] = Router) -> Router:
    return kind([compile_route(spec) for spec in SPECS])


async def test_a_batch_goes_to_the_store_with_its_rulings() -> None:
    """The store gets what each route says of each mail, and who is told; parsing blocks nobody."""
    store = Store()
    threads: list[int] = []
    with structlog.testing.capture_logs() as lines:
        await acceptance(store, router(), threads).accept(batch("Einsatz 1", "Probe", "Angebot"))
    (taken,) = store.batches
    assert [
        [step.verdict for step in taken.rulings[message.ref.message_id]]
        for message in taken.messages
    ] == [["deliver", "passed_by"], ["passed_by", "deliver"], ["passed_by", "passed_by"]]
    assert taken.fallbacks == {"divera": 60.0}
    assert taken.listeners == {"delivery.held": ("erp",)}
    assert threading.get_ident() not in threads
    accepted = next(line for line in lines if line["event"] == "batch.accepted")
    assert accepted["routes"] == {"alarm": 1, "archive": 1, "(none)": 1}
    nowhere = [line for line in lines if line["event"] == "message.not_delivered"]
    assert len(nowhere) == 1
    assert nowhere[0]["routes"] == {"alarm": "passed_by", "archive": "passed_by"}
    routed = [line for line in lines if line["event"] == "message.routed"]
    assert [line["log_level"] for line in routed] == ["debug"] * 3
    assert "subject: the regex finds nothing in «Angebot»" in routed[2]["routes"][0]


async def test_a_mailbox_without_routes_is_as_ever() -> None:
    """Without routes every webhook gets every mail, and no mail is parsed for it."""
    store = Store()
    threads: list[int] = []
    with structlog.testing.capture_logs() as lines:
        await acceptance(store, None, threads).accept(batch("Einsatz 1"))
    (taken,) = store.batches
    assert (taken.sinks, dict(taken.rulings)) == (("divera", "erp"), {})
    assert threads == []
    assert "routes" not in next(line for line in lines if line["event"] == "batch.accepted")


async def test_a_bug_in_routing_loses_nothing_and_wakes_nobody() -> None:
    """The mail that brings a bug out is held for every webhook of the routes; the others go on."""
    store = Store()
    with structlog.testing.capture_logs() as lines:
        await acceptance(store, router(Breaking)).accept(batch("Einsatz 1", "Einsatz 2", "Probe"))
    (taken,) = store.batches
    assert len(taken.messages) == 3
    verdicts = [
        [(step.verdict, step.webhooks) for step in taken.rulings[message.ref.message_id]]
        for message in taken.messages
    ]
    assert verdicts[0][0] == ("deliver", ("divera",))
    assert verdicts[1] == [("hold", ("divera",)), ("hold", ("erp",))]
    assert verdicts[2][1] == ("deliver", ("erp",))
    reasons = {step.reason for step in taken.rulings[taken.messages[1].ref.message_id]}
    assert reasons == {"routing failed"}
    (failed,) = [line for line in lines if line["event"] == "message.routing_failed"]
    assert failed["log_level"] == "error"
    assert failed["id"] == taken.messages[1].ref.message_id


async def test_a_batch_that_cannot_be_judged_at_all_is_not_committed() -> None:
    """When even the worker thread is not to be had, the server is asked again later."""
    store = Store()

    async def gone(*_: Any) -> Any:
        raise RuntimeError("cannot schedule new futures after shutdown")

    taken = acceptance(store, router())
    taken._routing = Routing(router=router(), run=gone, now=lambda: NOW)
    with pytest.raises(RuntimeError):
        await taken.accept(batch("Einsatz 1"))
    assert store.batches == []
