"""docs/alerts.yml asks only for metrics that the daemon has, and says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mailbridge.health import (
    FolderHealth,
    Health,
    ProbeHealth,
    SendHealth,
    SendStanding,
    SinkHealth,
)
from mailbridge.http.base import AppFigures, Figures
from mailbridge.http.metrics import Metrics

DOCS = Path(__file__).parents[2] / "docs"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
FUNCTIONS = {"absent", "histogram_quantile", "increase", "rate", "time"}
#: a metric with its selector and its range, a function, a number, an operator
TOKEN = re.compile(
    r"""\s*(?:
    (?P<metric>(?:mailbridge_[a-z_]+|up)\b)(?:\{(?P<selector>[^{}]*)\})?(?P<range>\[\d+[smhd]\])?
    | (?P<function>[a-z_]+)(?=\()
    | (?P<word>and|or|unless)\b(?:\s*on\s*\((?P<on>[a-z, ]+)\))?
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<sign>==|<=|>=|[-+*/<>(),])
    )""",
    re.VERBOSE,
)
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DOCS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]


class Exported:
    """Every metric of a daemon that does everything, with its labels and their values."""

    def __init__(self) -> None:
        sink = SinkHealth(name="erp")
        standing = SendStanding(messages=30, recipients=10_000)
        health = Health(
            started_at=NOW,
            folders=[FolderHealth(mailbox="alarm", folder="INBOX", last_check=NOW)],
            sinks={"erp": sink},
            sending={"alarm": SendHealth(sink=sink, standing=lambda: standing)},
            probes={"alarm": ProbeHealth(passed_at=NOW, seconds={"sent": 1.0})},
        )
        server: Any = SimpleNamespace(refused=0, cut={"head": 0}, open=())
        metrics = Metrics(health, server, server, server)
        metrics._figures = Figures(
            apps={"app": AppFigures(ends_at=NOW)},
            waiting={"erp": 0},
            dead={"erp": 0},
            held={"erp": 0},
            gaps={"alarm": 0},
            sends={"alarm": {"held": 0}},
        )
        self.labels: dict[str, dict[str, set[str]]] = {"up": {"job": {"mailbridge"}}}
        for family in metrics.registry.collect():
            for sample in family.samples:
                known = self.labels.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    known.setdefault(name, set()).add(value)


EXPORTED = Exported().labels


def tokens(expression: str) -> Iterator[Mapping[str, str | None]]:
    """Yield the parts of an expression; what is none of them is a fault."""
    at = 0
    while expression[at:].strip():
        found = TOKEN.match(expression, at)
        assert found, f"what is this: {expression[at:]!r}"
        yield found.groupdict()
        at = found.end()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_there_is(rule: Mapping[str, Any]) -> None:
    """Each metric, label and outcome of an expression is one that the daemon exports."""
    found = list(tokens(rule["expr"]))
    for token in found:
        metric = token["metric"]
        if metric is not None:
            assert metric in EXPORTED, metric
            for name, value in re.findall(r'(\w+)="([^"]*)"', token["selector"] or ""):
                assert value in EXPORTED[metric].get(name, ()), f"{metric}{{{name}={value}}}"
            assert bool(token["range"]) == bool(re.search(r"_(total|bucket)$", metric)), metric
        assert token["function"] in {None, *FUNCTIONS}
    assert shape(found) == "v"
    assert any(token["metric"] for token in found)


def shape(found: Iterable[Mapping[str, str | None]]) -> str:
    """Reduce an expression to one letter: v, a value; whatever else is left is no expression."""
    text = ""
    for token in found:
        sign = token["sign"]
        if token["metric"] or token["number"]:
            text += "v"
        elif token["function"]:
            text += "f"
        else:
            text += sign if sign in {"(", ")", ","} else "o"
    before = ""
    while text != before:
        before = text
        text = re.sub(r"f\((?:v(?:,v)*)?\)|(?<!f)\(v\)|vov", "v", text)
    return text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: Mapping[str, Any]) -> None:
    """A name, a severity, how long, and in words what is wrong, with labels that the alert has."""
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Mailbridge[A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}
    metrics = [token["metric"] or "" for token in tokens(rule["expr"])]
    labels = {name for metric in metrics if metric for name in EXPORTED[metric]}
    for text in rule["annotations"].values():
        for used in re.findall(r"\{\{(.*?)\}\}", text):
            name = used.strip().removeprefix("$labels.")
            assert name in labels or name in {"$value", "$value | humanizeDuration"}, used


def test_the_alerts_that_nobody_should_be_without_are_there() -> None:
    """Blind, backlog, dead letters, credential, probe, gone, throttled: each has its rule."""
    asked = {
        token["metric"] or "" for rule in RULES for token in tokens(rule["expr"]) if token["metric"]
    }

    assert {"up", "mailbridge_mailbox_up", "mailbridge_backlog", "mailbridge_dead_letters"} <= asked
    assert "mailbridge_secret_expires_timestamp_seconds" in asked
    assert "mailbridge_throttled_seconds_total" in asked
    assert any('mailbridge_probes_total{outcome="missed"}' in rule["expr"] for rule in RULES)
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_the_page_has_every_alert() -> None:
    """docs/monitoring.md lists what alerts.yml has, with its severity; its YAML can be read."""
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(Mailbridge\w+)` \| (\w+) \|", page, flags=re.MULTILINE)
    blocks = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)

    assert listed == [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]
    assert [list(yaml.safe_load(block)) for block in blocks] == [
        ["http"],
        ["scrape_configs", "rule_files"],
    ]


@pytest.mark.parametrize(
    "wrong",
    ["mailbridge_mailbox_down == 0", "mailbridge_backlog >> 1", "sum(up)", "up =~ 1", "(up == 1"],
)
def test_a_wrong_expression_is_found(wrong: str) -> None:
    """The check itself tells a metric that is not exported, and what is no expression."""
    rule = {"alert": "X", "expr": wrong}
    with pytest.raises(AssertionError):
        test_an_alert_asks_for_what_there_is(rule)
