"""The metrics, for Prometheus: made from the daemon's health and one look at the store.

A scrape costs one read of what is open, never of what is over; scrapes that come close together
share one. Nothing is kept in a registry of the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from mailbridge import __version__
from mailbridge.health import FolderHealth, Health, Histogram
from mailbridge.http.base import Figures, Operations
from mailbridge.http.probes import unseen
from mailbridge.http.tokens import Tokens
from mailbridge.http.wire import Connections

#: seconds for which one look at the store serves
FRESH: Final = 1.0
#: what was slow, a look or the writing of it, serves for so many times as long as it took:
#: whoever scrapes without end cannot take more than a tenth of the daemon with it
SHARE: Final = 10.0
#: forms of the text that are kept at the same time
FORMS: Final = 8


class Metrics(Collector):
    """Collects what is known at this moment."""

    def __init__(
        self, health: Health, operations: Operations, tokens: Tokens, connections: Connections
    ) -> None:
        self._health = health
        self._operations = operations
        self._tokens = tokens
        self._connections = connections
        self._figures = Figures(apps={}, waiting=None)
        self._fresh_until = 0.0
        self._one_at_a_time = asyncio.Lock()
        #: by media type: the text, and until when it serves
        self._texts: dict[str, tuple[bytes, float]] = {}
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(namespace="mailbridge", registry=self.registry)

    async def look(self) -> None:
        """Ask for what only the store and the sign-ins know, unless that was just done."""
        async with self._one_at_a_time:
            began = time.monotonic()
            if began < self._fresh_until:
                return
            self._figures = await self._operations.figures()
            took = time.monotonic() - began
            self._fresh_until = began + took + max(FRESH, SHARE * took)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the form that is asked for, and its media type."""
        encode, kind = choose_encoder(accept)
        began = time.monotonic()
        text, until = self._texts.get(kind, (b"", 0.0))
        if began >= until:
            if len(self._texts) >= FORMS:
                self._texts.clear()
            text = encode(self.registry)
            ended = time.monotonic()
            self._texts[kind] = (text, ended + SHARE * (ended - began))
        return text, kind

    def collect(self) -> Iterator[Metric]:
        """Yield every family; see ``docs/http-api.md`` for what they mean."""
        build = GaugeMetricFamily("mailbridge_build", "1, with the version", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield _gauge("started_timestamp_seconds", "When the daemon started", self._started())
        yield from self._mailboxes()
        yield from self._webhooks()
        yield from self._sending()
        yield from self._relay()
        yield from self._probes()
        yield from self._sign_ins()
        yield from self._http()
        yield _histogram("store_commit_seconds", "Commits", [self._health.commits])

    def _started(self) -> float:
        return self._health.started_at.timestamp()

    def _mailboxes(self) -> Iterator[Metric]:
        boxes: dict[str, list[FolderHealth]] = {}
        for folder in self._health.folders:
            boxes.setdefault(folder.mailbox, []).append(folder)
        blind = {one["mailbox"] for one in unseen(self._health)}
        up = _labelled_gauge("mailbox_up", "1 while every folder is seen", "mailbox")
        checked = _labelled_gauge(
            "mailbox_last_check_timestamp_seconds", "When all was last proven to be seen", "mailbox"
        )
        accepted = _counter("messages_accepted", "Messages made durable", "mailbox")
        throttled = _counter("throttled_seconds", "Pauses that servers asked for", "mailbox")
        swept = _counter("sweep_found", "Messages that only a look-back found", "mailbox")
        logins = _counter("logins", "Connections made to sign in", "mailbox")
        for name, folders in boxes.items():
            up.add_metric([name], name not in blind)
            checks = [one.last_check.timestamp() for one in folders if one.last_check]
            if len(checks) == len(folders):
                checked.add_metric([name], min(checks))
            accepted.add_metric([name], sum(one.accepted for one in folders))
            throttled.add_metric([name], sum(one.throttled_seconds for one in folders))
            swept.add_metric([name], sum(one.swept for one in folders))
            logins.add_metric([name], sum(one.logins for one in folders))
        yield from (up, checked, accepted, throttled, swept, logins)
        pushing = sum(one.pushing for one in self._health.folders)
        yield _gauge("push_sessions", "Sessions that are told of new mail", pushing)
        gaps = _labelled_gauge("gaps", "Messages that a server lists and does not give", "mailbox")
        for name, count in self._figures.gaps.items():
            gaps.add_metric([name], count)
        yield gaps

    def _webhooks(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "mailbridge_deliveries", "Attempts by what came of them", labels=["webhook", "outcome"]
        )
        up = _labelled_gauge("webhook_up", "0 while it fails", "webhook")
        for name, sink in self._health.sinks.items():
            outcomes.add_metric([name, "delivered"], sink.delivered)
            outcomes.add_metric([name, "deferred"], sink.deferred)
            outcomes.add_metric([name, "dead"], sink.dead)
            up.add_metric([name], sink.failing_since is None)
        yield from (outcomes, up)
        took = [sink.took for sink in self._health.sinks.values()]
        words = "From visible on the server to accepted by the webhook"
        yield _histogram("delivery_seconds", words, took)
        waiting = self._figures.waiting
        yield _gauge("store_up", "0 while the database does not answer", waiting is not None)
        for name, words, counts in (
            ("backlog", "Deliveries that wait", waiting or {}),
            ("dead_letters", "Deliveries given up, for a person to see to", self._figures.dead),
            ("held", "Deliveries kept back for a person to decide", self._figures.held),
        ):
            family = _labelled_gauge(name, words, "webhook")
            for webhook, count in counts.items():
                family.add_metric([webhook], count)
            yield family

    def _sending(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "mailbridge_submissions",
            "Attempts to send a mail by what came of them",
            labels=["mailbox", "outcome"],
        )
        up = _labelled_gauge("send_up", "0 while nothing of the mailbox goes out", "mailbox")
        left = GaugeMetricFamily(
            "mailbridge_send_budget_remaining",
            "What may still go out: messages this minute, recipients today",
            labels=["mailbox", "of"],
        )
        parked = GaugeMetricFamily(
            "mailbridge_send_parked",
            "1 while nothing of the mailbox goes out before a person has acted",
            labels=["mailbox", "code"],
        )
        for name, one in self._health.sending.items():
            outcomes.add_metric([name, "sent"], one.sink.delivered)
            outcomes.add_metric([name, "deferred"], one.sink.deferred)
            outcomes.add_metric([name, "failed"], one.sink.dead)
            outcomes.add_metric([name, "held"], one.sink.held)
            standing = one.standing()
            if standing.parked:
                parked.add_metric([name, standing.code], 1)
            up.add_metric([name], one.sink.failing_since is None and not standing.cause)
            for what, count in (
                ("messages", standing.messages),
                ("recipients", standing.recipients),
            ):
                if count is not None:
                    left.add_metric([name, what], count)
        sends = GaugeMetricFamily(
            "mailbridge_sends", "Outgoing mails by where they are", labels=["mailbox", "state"]
        )
        for name, states in self._figures.sends.items():
            for state, count in states.items():
                sends.add_metric([name, state], count)
        yield from (outcomes, up, parked, left, sends)

    def _probes(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "mailbridge_probes", "Test mails by what came of them", labels=["mailbox", "outcome"]
        )
        seconds = GaugeMetricFamily(
            "mailbridge_probe_seconds",
            "Of the last test mail that came through: from the queue to each station",
            labels=["mailbox", "stage"],
        )
        up = _labelled_gauge("probe_up", "0 while the last test mail was missed", "mailbox")
        passed = _labelled_gauge(
            "probe_success_timestamp_seconds", "When a test mail last came through", "mailbox"
        )
        for name, probe in self._health.probes.items():
            for outcome in ("passed", "missed", "late", "void"):
                outcomes.add_metric([name, outcome], probe.counts.get(outcome, 0))
            for stage, value in probe.seconds.items():
                seconds.add_metric([name, stage], value)
            up.add_metric([name], probe.missed_since is None)
            if probe.passed_at is not None:
                passed.add_metric([name], probe.passed_at.timestamp())
        yield from (outcomes, seconds, up, passed)

    def _relay(self) -> Iterator[Metric]:
        figures = self._health.relay
        if figures is None:
            return
        yield _gauge("relay_up", "1 while the relay listens", bool(figures.listening))
        taken = CounterMetricFamily("mailbridge_relay_taken", "Mails that the relay has taken")
        taken.add_metric([], figures.taken)
        yield taken
        for name, words, counts in (
            ("relay_refused", "Connections, recipients and mails refused", figures.refused),
            ("relay_put_off", "Mails that are to come again", figures.put_off),
        ):
            family = _counter(name, words, "reason")
            for reason, count in sorted(counts.items()):
                family.add_metric([reason], count)
            yield family

    def _sign_ins(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily(
            "mailbridge_token_refresh", "Requests for tokens", labels=["app", "outcome"]
        )
        ends = _labelled_gauge(
            "secret_expires_timestamp_seconds", "When the first credential of an app ends", "app"
        )
        for name, app in self._figures.apps.items():
            tokens.add_metric([name, "ok"], app.refreshed)
            tokens.add_metric([name, "failed"], app.failed)
            if app.ends_at is not None:
                ends.add_metric([name], app.ends_at.timestamp())
        yield from (tokens, ends)

    def _http(self) -> Iterator[Metric]:
        cut = _counter("http_connections_cut", "Connections that were cut off", "why")
        for why, count in self._connections.cut.items():
            cut.add_metric([why], count)
        yield cut
        open_now = len(self._connections.open)
        yield _gauge("http_connections", "Connections that are open", open_now)
        wrong = CounterMetricFamily("mailbridge_http_wrong_tokens", "Wrong tokens")
        wrong.add_metric([], self._tokens.refused)
        yield wrong


def metrics(collector: Metrics) -> APIRouter:
    """Return the route ``/metrics``."""
    router = APIRouter(tags=["health"])

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def scrape(request: Request) -> Response:
        await collector.look()
        text, kind = collector.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})

    return router


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"mailbridge_{name}", words, value=float(value))


def _labelled_gauge(name: str, words: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mailbridge_{name}", words, labels=[label])


def _counter(name: str, words: str, label: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"mailbridge_{name}", words, labels=[label])


def _histogram(name: str, words: str, parts: Iterable[Histogram]) -> Metric:
    """Sum histograms of the same bounds into one."""
    family = HistogramMetricFamily(f"mailbridge_{name}", words)
    found = list(parts)
    if not found:
        return family
    buckets: list[tuple[str, float]] = []
    total = 0.0
    for index, bound in enumerate((*found[0].bounds, float("inf"))):
        total += sum(part.counts[index] for part in found)
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    family.add_metric([], buckets, sum_value=sum(part.sum for part in found))
    return family
