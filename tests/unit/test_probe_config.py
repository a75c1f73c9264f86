"""A probe that could not come through, or might wake somebody, is refused before it is sent."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mailbridge.config import Config, load
from mailbridge.config.load import Checked, check
from mailbridge.config.probe_rules import told
from mailbridge.running import changes

TEXT = """
state: {database: "sqlite:///HOME/a.db"}
apps:
  one: {tenant: contoso.example, client_id: 66666666-7777-8888-9999-000000000000,
        credential: {client_secret: {env: SECRET}}}
mailboxes:
  a:
    address: a@x.example
    app: one
    fetch: {push: true}
    send: {}
    probe: {cron: "0 6 * * *"}
webhooks:
  erp: {url: "https://x.example/"}
  cloud: {url: "https://x.example/", format: cloudevents}
  deaf: {url: "https://x.example/", events: [mailbox.degraded]}
  siren: {url: "https://x.example/", format: raw}
  chat: {url: "https://x.example/", format: template, template: "{}"}
routes: {r: {match: {subject: a}, webhooks: [siren, cloud]}, s: {webhooks: [siren]}}
"""
ENVIRON = {"SECRET": "abc8Q~made-up-client-secret"}


def written(home: Path, *changed: tuple[str, str]) -> Path:
    text = TEXT.replace("HOME", str(home))
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    file = home / "mailbridge.yaml"
    file.write_text(text)
    return file


def loaded(home: Path, *changed: tuple[str, str]) -> Config:
    return load(written(home, *changed), environ=ENVIRON)


def judged(home: Path, *changed: tuple[str, str]) -> Checked:
    return check(written(home, *changed), environ=ENVIRON)


PROBE = '{cron: "0 6 * * *"}'


def test_what_is_not_said_is_filled_in(tmp_path: Path) -> None:
    """Five minutes, and whoever gets the mails and can tell a test from one."""
    probe = loaded(tmp_path).mailboxes["a"].probe
    assert probe is not None
    assert (probe.within, probe.webhooks) == (timedelta(minutes=5), ("erp", "cloud"))
    routed = loaded(tmp_path, ("    send: {}", "    routes: [r, s]\n    send: {}"))
    assert told("a", routed) == ("cloud",)
    plain = loaded(tmp_path, (f"    probe: {PROBE}\n", ""))
    assert plain.mailboxes["a"].probe is None
    assert told("a", plain) == ("erp", "cloud")


@pytest.mark.parametrize("name", ["siren", "chat"])
def test_no_format_without_a_word_for_a_test(tmp_path: Path, name: str) -> None:
    """An alarm server, and a template, may wake people: to name one is an error, not a warning."""
    found = judged(tmp_path, (PROBE, f'{{cron: "0 6 * * *", webhooks: [erp, {name}]}}'))
    assert found.config is None
    [problem] = found.problems
    assert problem.path == "mailboxes.a.probe.webhooks[1]"
    assert "somebody might be woken" in problem.message
    assert "test-webhook" in problem.fix


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        ("    send: {}\n", "", "mailboxes.a.probe", "does not send"),
        (
            "fetch: {push: true}",
            "fetch: {protocol: none}",
            "mailboxes.a.probe",
            "nothing is fetched",
        ),
        (PROBE, '{cron: "0 6 * * *", within: 9s}', "mailboxes.a.probe.within", "longer"),
        (PROBE, '{cron: "0 6 * *"}', "mailboxes.a.probe.cron", "five fields"),
        (PROBE, "{within: 5m}", "mailboxes.a.probe.cron", "missing"),
        (
            PROBE,
            '{cron: "0 6 * * *", webhooks: [ero]}',
            "mailboxes.a.probe.webhooks[0]",
            "no webhook",
        ),
        (
            "    send: {}",
            "    routes: [s]\n    send: {}",
            "mailboxes.a.probe",
            "no webhook can be told",
        ),
        ("{push: true}", "{push: false, every: 5m}", "mailboxes.a.probe.within", "more seldom"),
        ("{push: true}", "{protocol: pop3, every: 1h}", "mailboxes.a.probe.within", "more seldom"),
    ],
)
def test_a_probe_that_cannot_come_through(
    tmp_path: Path, old: str, new: str, path: str, said: str
) -> None:
    """Each fault names its place, and what is wrong with it."""
    found = judged(tmp_path, (old, new))
    assert found.config is None
    assert any(one.path == path and said in one.message + one.fix for one in found.problems), (
        found.problems
    )


def test_nobody_else_may_take_a_probe_for_a_mail(tmp_path: Path) -> None:
    """A second mailbox on the same folder does not know the nonce of the first one's probe."""
    twin = "  b: {address: A@x.example, app: one, fetch: {folders: [INBOX, Other]}}\nwebhooks:"
    found = judged(tmp_path, ("webhooks:\n  erp", f"{twin}\n  erp"))
    assert found.config is None
    [problem] = found.problems
    assert (problem.path, "mailboxes.b" in problem.message) == ("mailboxes.a.probe", True)
    apart = twin.replace("INBOX, Other", "Other")
    assert judged(tmp_path, ("webhooks:\n  erp", f"{apart}\n  erp")).config is not None


def test_what_is_hardly_meant_is_warned_of(tmp_path: Path) -> None:
    """A probe arrives in the inbox, and a crontab may look too late."""
    for new in ("{folders: [Alarm]}", '{push: false, cron: "0 * * * *"}'):
        found = judged(tmp_path, ("{push: true}", new))
        assert found.config is not None
        assert any(one.path.startswith("mailboxes.a.probe") for one in found.warnings)


def test_a_reload_of_a_probe_ends_no_session(tmp_path: Path) -> None:
    """Another crontab changes when the mailbox tries itself, and nothing else."""
    old, new = loaded(tmp_path), loaded(tmp_path, ("0 6 * * *", "0 7 * * *"))
    found = changes(old, new)
    assert found.probes == {"a"}
    assert not found.mailboxes | found.sending | found.webhooks
    assert str(found) == "probes a"
