"""Formats in the configuration file: what fits, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailbridge import config
from mailbridge.config import EVENTS, Webhook
from mailbridge.errors import Problem

HEAD = """\
apps:
  main:
    tenant: 11111111-2222-3333-4444-555555555555
    client_id: 66666666-7777-8888-9999-000000000000
    credential: {client_secret: {env: APP_SECRET}}
mailboxes:
  alarm: {address: alarm@feuerwehr.example, app: main}
webhooks:
"""
ENVIRON = {
    "APP_SECRET": "abc8Q~made-up-client-secret",
    "KEY": "divera-access-key",
    "FULL": "https://app.divera247.com/api/v2/alarms?accesskey=divera-access-key",
    "NEXT": "https://app.divera247.com/api/v2/alarms",
}
LATIN = (
    "{url: https://a.example, format: template, template: x, "
    "template_content_type: text/plain; charset=latin-1}"
)
PLAIN = "  plain: {url: https://erp.example/hook}\n"


def checked(folder: Path, webhooks: str) -> tuple[dict[str, Webhook], list[Problem], list[Problem]]:
    """Return webhooks, problems and warnings of a file with these webhooks."""
    file = folder / "mailbridge.yaml"
    file.write_text(HEAD + webhooks, encoding="utf-8")
    found, problems, warnings = config.check(file, environ=ENVIRON)
    return dict(found.webhooks) if found else {}, problems, warnings


def hook(folder: Path, settings: str) -> Webhook:
    found, problems, _ = checked(folder, f"  x: {settings}\n")
    assert problems == []
    return found["x"]


DIVERA = (
    "url: https://app.divera247.com/api/alarm, format: divera, divera: {access_key: {env: KEY}}"
)
FE2 = "url: https://fe2.example/a, format: alamos-fe2, alamos: {authorization: {env: KEY}}"


@pytest.mark.parametrize(
    ("settings", "events"),
    [
        ("{url: https://a.example}", EVENTS),
        ("{url: https://a.example, format: cloudevents}", EVENTS),
        ("{url: https://a.example, format: raw}", ("mail.received",)),
        ("{url: https://a.example, format: template, template: x}", ("mail.received",)),
        (
            "{url: https://a.example, format: template, template: x, events: [delivery.dead]}",
            ("delivery.dead",),
        ),
        (f"{{{DIVERA}}}", ("mail.received",)),
        (f"{{{FE2}}}", ("mail.received",)),
        (f"{{{FE2}, events: [mail.received]}}", ("mail.received",)),
    ],
)
def test_events_that_a_format_gets(tmp_path: Path, settings: str, events: tuple[str, ...]) -> None:
    """A webhook whose format has words for mails alone gets mails alone, unless told otherwise."""
    assert hook(tmp_path, settings).events == events


def test_the_access_key_goes_into_the_query_and_nowhere_else(tmp_path: Path) -> None:
    """The key of DIVERA is part of what is called and of nothing that is shown."""
    found = hook(tmp_path, f"{{{DIVERA}}}")
    assert found.request_url == "https://app.divera247.com/api/alarm?accesskey=divera-access-key"
    assert hook(tmp_path, "{url: {env: FULL}, format: divera}").request_url == ENVIRON["FULL"]
    for shown in (repr(found), str(found), found.model_dump_json(), found.origin):
        assert "divera-access-key" not in shown
    assert "divera-access-key" not in repr(hook(tmp_path, f"{{{FE2}}}"))


def test_values_of_an_alarm_are_templates(tmp_path: Path) -> None:
    """A word and a list of the file are templates too, so that nobody has to quote `true`."""
    alarm = "{title: '{{ fields.a }}', priority: true, delay: 30, ric: [a, b]}"
    found = hook(tmp_path, f"{{{DIVERA[:-1]}, alarm: {alarm}}}}}")
    assert found.divera.alarm == {
        "title": "{{ fields.a }}",
        "priority": "true",
        "delay": "30",
        "ric": "a, b",
    }


@pytest.mark.parametrize(
    ("settings", "path", "message", "fix"),
    [
        ("{url: https://a.example, format: divera}", "format", "access key", "access_key"),
        (
            "{url: 'https://a.example/?accesskey=x', format: divera}",
            "url",
            "stands in the file",
            "env",
        ),
        (
            "{url: {env: FULL}, format: divera, divera: {access_key: {env: KEY}}}",
            "divera.access_key",
            "already",
            "remove",
        ),
        (f"{{{DIVERA[:-1]}, access_ky: x}}}}", "divera.access_ky", "not known", "access_key"),
        (
            f"{{{DIVERA[:-1]}, alarm: {{titel: x}}}}}}",
            "divera.alarm.titel",
            "no such parameter",
            "did you mean `title`",
        ),
        (
            f"{{{DIVERA[:-1]}, alarm: {{foreign_id: x}}}}}}",
            "divera.alarm.foreign_id",
            "no such parameter",
            "number",
        ),
        (
            f"{{{DIVERA[:-1]}, alarm: {{title: '{{{{ mail.subjct }}}}'}}}}}}",
            "divera.alarm.title",
            "line 1, column 1): there is no `mail.subjct`",
            "docs/formats/template.md",
        ),
        (
            "{url: {env: FULL}, format: divera, divera: {instructions: {grup: name}}}",
            "divera.instructions.grup",
            "no such instruction",
            "group",
        ),
        (f"{{{DIVERA}, events: [mailbox.degraded]}}", "events", "nothing else", "mail.received"),
        (f"{{{FE2}, events: [mail.received, send.sent]}}", "events", "nothing else", "another"),
        ("{url: https://a.example, format: raw, events: [test.ping]}", "events", "nothing", "give"),
        ("{url: https://a.example, format: alamos-fe2}", "format", "valid sender", "authorization"),
        (f"{{{FE2[:-1]}, alarm: {{title: x}}}}}}", "alamos.alarm.title", "no such", "keyword"),
        (
            "{url: https://a.example, format: alamos-fe2, alamos: {authorization: abc}}",
            "alamos.authorization",
            "never written into this file",
            "env",
        ),
        ("{url: https://a.example, format: template}", "format", "is missing", "template"),
        ("{url: https://a.example, template: x}", "template", "for `format: template`", "remove"),
        (
            "{url: https://a.example, template_content_type: text/plain}",
            "template_content_type",
            "for `format: template`",
            "remove",
        ),
        (
            "{url: https://a.example, format: raw, divera: {}}",
            "divera",
            "for `format: divera`",
            "remove",
        ),
        (
            '{url: https://a.example, format: template, template: "a\\n {{ x y }}"}',
            "template",
            "(line 2, column 2)",
            "docs/formats",
        ),
        (
            "{url: https://a.example, format: template, template: x, template_content_type: json}",
            "template_content_type",
            "not a content type",
            "text/plain",
        ),
        (
            LATIN,
            "template_content_type",
            "UTF-8",
            "text/plain",
        ),
        ("{url: https://a.example, format: xml}", "format", "none of the words", "cloudevents"),
        (
            "{url: https://a.example, fallback: {webhook: y, after: 60s}}",
            "fallback.webhook",
            "no webhook has this name",
            "x",
        ),
        (
            "{url: https://a.example, fallback: {webhook: x, after: 60s}}",
            "fallback.webhook",
            "the webhook itself",
            "another",
        ),
        (
            "{url: https://a.example, fallback: {webhook: x, after: 1s}}",
            "fallback.after",
            "outside of 5s to 7d",
            "within",
        ),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, settings: str, path: str, message: str, fix: str
) -> None:
    """What does not fit a format is an error with its line, its key and the way to mend it."""
    _, problems, _ = checked(tmp_path, f"  x: {settings}\n")
    assert len(problems) == 1, problems
    [problem] = problems
    assert problem.path == f"webhooks.x.{path}"
    assert problem.line == HEAD.count("\n") + 1
    assert message in problem.message
    assert fix in problem.fix
    assert "divera-access-key" not in str(problem)


def test_fallbacks_end_somewhere(tmp_path: Path) -> None:
    """A circle of fallbacks is an error at each webhook in it, and a chain is none."""
    chain = "".join(
        f"  {name}: {{url: 'https://{name}.example', fallback: {{webhook: {to}, after: 60s}}}}\n"
        for name, to in (("a", "b"), ("b", "plain"))
    )
    found, problems, _ = checked(tmp_path, chain + PLAIN)
    assert problems == []
    assert found["a"].fallback is not None
    assert found["a"].fallback.after.total_seconds() == 60
    _, problems, _ = checked(tmp_path, chain.replace("webhook: plain", "webhook: a") + PLAIN)
    assert [(p.path, p.message) for p in problems] == [
        ("webhooks.a.fallback.webhook", "these fallbacks go in a circle: a -> b -> a."),
        ("webhooks.b.fallback.webhook", "these fallbacks go in a circle: b -> a -> b."),
    ]


def test_what_changes_nothing_is_warned_of(tmp_path: Path) -> None:
    """Settings that a format or an order makes idle are told."""
    text = "  x: {url: https://a.example, order: strict, concurrency: 4}\n"
    _, problems, warnings = checked(tmp_path, text)
    assert problems == []
    assert [w.path for w in warnings] == ["webhooks.x.concurrency"]
    _, _, warnings = checked(tmp_path, "  x: {url: https://a.example, order: strict}\n")
    assert warnings == []
    text = "  x: {url: https://a.example, format: raw, attachments: {mode: none}}\n"
    _, _, warnings = checked(tmp_path, text)
    assert [w.path for w in warnings] == ["webhooks.x.attachments"]
