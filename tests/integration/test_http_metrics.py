"""Health and metrics: what supervisors and Prometheus read, from a daemon's own records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from mailbridge.errors import Unavailable
from mailbridge.health import (
    FolderHealth,
    RelayHealth,
    SendHealth,
    SendStanding,
    Sight,
    SinkHealth,
)
from tests.contract.mails import NOON, accept, claim, dead
from tests.servers.api import Api, running_api

#: section 6 of the interface, as far as there is something to count; names and labels are fixed
NAMES = {
    "messages_accepted_total": {"mailbox"},
    "deliveries_total": {"webhook", "outcome"},
    "delivery_seconds_bucket": {"le"},
    "backlog": {"webhook"},
    "dead_letters": {"webhook"},
    "mailbox_last_check_timestamp_seconds": {"mailbox"},
    "mailbox_up": {"mailbox"},
    "push_sessions": set(),
    "token_refresh_total": {"app", "outcome"},
    "throttled_seconds_total": {"mailbox"},
    "sweep_found_total": {"mailbox"},
    "secret_expires_timestamp_seconds": {"app"},
    "store_commit_seconds_bucket": {"le"},
}


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr("mailbridge.http.metrics.SHARE", 0.0)
    monkeypatch.setattr("mailbridge.http.metrics.FRESH", 0.0)
    async with running_api(tmp_path) as running:
        yield running


async def samples(api: Api) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Scrape, and return the values by name (without our prefix) and labels."""
    answer, content = await api.ask("GET", "/metrics", token=None)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(content.decode()):
        assert family.documentation
        for sample in family.samples:
            assert sample.name.startswith("mailbridge_")
            key = (sample.name.removeprefix("mailbridge_"), frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


async def use_sign_in(api: Api) -> None:
    """Let the sign-in of the app be known, as it is once a mailbox has used it."""
    collector = api.answers._sign_ins
    collector.of("alarm")


async def test_every_metric_of_the_interface_is_there(api: Api) -> None:
    """Names and labels are those that dashboards are written against."""
    [folder] = api.health.folders
    folder.proven(NOON)
    await use_sign_in(api)
    found = await samples(api)
    for name, labels in NAMES.items():
        with_name = [set(dict(given)) for known, given in found if known == name]
        assert with_name, name
        assert all(given == labels for given in with_name), name


async def test_values_are_those_of_the_daemon(api: Api) -> None:
    """What was counted is what is shown, per mailbox and per webhook."""
    [folder] = api.health.folders
    folder.pushing = True
    folder.progress(NOON, 7)
    folder.proven(NOON)
    folder.throttled_seconds = 12.5
    folder.swept = 2
    other = FolderHealth(mailbox="alarm", folder="Archive")
    other.progress(NOON, 1)
    other.proven(NOON - timedelta(hours=1))
    api.health.folders.append(other)
    sink = api.health.sinks["erp"]
    sink.delivered, sink.deferred, sink.dead = 5, 3, 1
    for seconds in (0.1, 0.25, 40.0, 10_000_000.0):
        sink.took.observe(seconds)
    await use_sign_in(api)
    await accept(api.store, range(1, 5))
    await api.store.resolve([dead((await claim(api.store, limit=1))[0])])
    found = await samples(api)
    assert found[labelled("messages_accepted_total", mailbox="alarm")] == 8
    assert found[labelled("mailbox_up", mailbox="alarm")] == 1
    checked = found[labelled("mailbox_last_check_timestamp_seconds", mailbox="alarm")]
    assert checked == (NOON - timedelta(hours=1)).timestamp()
    assert found[labelled("push_sessions")] == 1
    assert found[labelled("throttled_seconds_total", mailbox="alarm")] == 12.5
    assert found[labelled("sweep_found_total", mailbox="alarm")] == 2
    assert found[labelled("deliveries_total", webhook="erp", outcome="delivered")] == 5
    assert found[labelled("deliveries_total", webhook="erp", outcome="deferred")] == 3
    assert found[labelled("deliveries_total", webhook="erp", outcome="dead")] == 1
    assert found[labelled("backlog", webhook="erp")] == 3
    assert found[labelled("dead_letters", webhook="erp")] == 1
    assert found[labelled("delivery_seconds_bucket", le="0.25")] == 2
    assert found[labelled("delivery_seconds_bucket", le="60.0")] == 3
    assert found[labelled("delivery_seconds_bucket", le="604800.0")] == 3
    assert found[labelled("delivery_seconds_count")] == 4
    assert found[labelled("token_refresh_total", app="main", outcome="ok")] == 0
    ends = datetime(2028, 11, 20, tzinfo=UTC).timestamp()
    assert found[labelled("secret_expires_timestamp_seconds", app="main")] == ends
    assert found[labelled("store_commit_seconds_count")] > 0
    assert found[labelled("store_up")] == 1


async def test_a_mailbox_that_is_not_seen_is_down(api: Api) -> None:
    """A folder that has never been proven, or fails, takes its mailbox down."""
    [folder] = api.health.folders
    assert (await samples(api))[labelled("mailbox_up", mailbox="alarm")] == 0
    folder.proven(NOON)
    assert (await samples(api))[labelled("mailbox_up", mailbox="alarm")] == 1
    folder.failed(NOON, cause="x", code="x", fix="", sight=Sight.DEGRADED)
    assert (await samples(api))[labelled("mailbox_up", mailbox="alarm")] == 0


async def test_scrapes_share_one_look_at_the_store(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is scraped, the store is asked once a while, and never about history."""
    asked = 0
    counts = api.store.counts

    async def counting() -> object:
        nonlocal asked
        asked += 1
        return await counts()

    monkeypatch.setattr(api.store, "counts", counting)
    monkeypatch.setattr("mailbridge.http.metrics.FRESH", 3600.0)
    for other in ("messages", "trace", "deliveries", "raw"):
        monkeypatch.setattr(api.store, other, None)
    await asyncio.gather(*(samples(api) for _ in range(20)))
    await samples(api)
    assert asked == 1


async def test_scrapes_without_end_share_what_was_written(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text serves for a while that is long against writing it; each form is kept apart."""
    monkeypatch.setattr("mailbridge.http.metrics.SHARE", 1e6)
    [folder] = api.health.folders
    before = await samples(api)
    folder.proven(NOON)
    assert await samples(api) == before
    answer, _ = await api.ask("GET", "/metrics", headers={"accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")


async def test_metrics_outlive_the_store(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database does not answer, the daemon's own records are told, and that it is so."""

    async def away() -> None:
        raise Unavailable("the database is away")

    monkeypatch.setattr(api.store, "counts", away)
    found = await samples(api)
    assert found[labelled("store_up")] == 0
    assert labelled("mailbox_up", mailbox="alarm") in found
    assert labelled("backlog", webhook="erp") not in found


async def test_openmetrics_is_spoken_when_asked_for(api: Api) -> None:
    """A scraper that asks for OpenMetrics gets it, by that format's own rules."""
    accept_header = {"accept": "application/openmetrics-text; version=1.0.0"}
    answer, content = await api.ask("GET", "/metrics", token=None, headers=accept_header)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert list(open_metrics(content.decode()))  # type: ignore[no-untyped-call] # the library's


async def test_ready_means_every_mailbox_is_seen(api: Api) -> None:
    """503 names each mailbox that has not proven a check, with the reason and no address."""
    [folder] = api.health.folders
    other = FolderHealth(mailbox="billing", folder="INBOX")
    api.health.folders.append(other)
    other.proven(NOON)
    status, problem = await api.call("GET", "/readyz", token=None)
    assert (status, problem["code"]) == (503, "not_ready")
    assert "alarm" in problem["detail"]
    assert "billing" not in problem["detail"]
    assert [(one["mailbox"], one["state"]) for one in problem["mailboxes"]] == [
        ("alarm", "starting")
    ]

    folder.proven(NOON)
    assert await api.call("GET", "/readyz", token=None) == (
        200,
        {"status": "ready", "mailboxes": 2},
    )

    cause = "alarm@feuerwehr.example is authenticated but not connected"
    folder.failed(NOON, cause=cause, code="imap.not_connected", fix="", sight=Sight.NOT_CONNECTED)
    answer, content = await api.ask("GET", "/readyz", token=None)
    assert answer.status == 503
    assert b"imap.not_connected" in content
    assert b"alarm@" not in content
    assert b"INBOX" not in content


async def test_ready_does_not_trust_a_watch_that_is_stuck(api: Api) -> None:
    """A check that is overdue is blindness, even when nobody has written that down yet."""
    now = 1000.0
    folder = FolderHealth(mailbox="alarm", folder="INBOX", clock=lambda: now)
    api.health.folders[:] = [folder]
    folder.proven(NOON)
    folder.wanted()
    assert (await api.call("GET", "/readyz", token=None))[0] == 200
    now += 61.0
    status, problem = await api.call("GET", "/readyz", token=None)
    assert status == 503
    assert problem["mailboxes"][0]["why"] == "a check is due and has not been proven for a minute"


async def test_the_worst_folder_speaks_for_its_mailbox(api: Api) -> None:
    """A mailbox is named once, with the state that needs a person most."""
    [folder] = api.health.folders
    parked = FolderHealth(mailbox="alarm", folder="Archive")
    api.health.folders.append(parked)
    parked.failed(NOON, cause="x", code="folder.missing", fix="", sight=Sight.PARKED)
    folder.failed(NOON, cause="x", code="net", fix="", sight=Sight.DEGRADED)
    _, problem = await api.call("GET", "/readyz", token=None)
    assert [(one["state"], one["code"]) for one in problem["mailboxes"]] == [
        ("parked", "folder.missing")
    ]


async def test_the_relay_and_parked_senders_are_counted(api: Api) -> None:
    """What the relay took, refused and put off, by why; and who needs a person to send again."""
    relay = RelayHealth(listening="127.0.0.1:2525", taken=3)
    relay.refused.update({"network": 2, "send.not_allowed": 1})
    relay.put_off["store.full"] = 1
    api.health.relay = relay
    parked = SendStanding(messages=30, recipients=None, parked=True, cause="Off.", code="smtp.off")
    sink = SinkHealth(name="send:alarm")
    api.health.sending["alarm"] = SendHealth(sink=sink, standing=lambda: parked)

    found = await samples(api)

    assert found[labelled("relay_up")] == 1
    assert found[labelled("relay_taken_total")] == 3
    assert found[labelled("relay_refused_total", reason="network")] == 2
    assert found[labelled("relay_refused_total", reason="send.not_allowed")] == 1
    assert found[labelled("relay_put_off_total", reason="store.full")] == 1
    assert found[labelled("send_parked", mailbox="alarm", code="smtp.off")] == 1
    assert found[labelled("send_up", mailbox="alarm")] == 0
    left = {key: count for key, count in found.items() if key[0] == "send_budget_remaining"}
    assert left == {labelled("send_budget_remaining", mailbox="alarm", of="messages"): 30}
