"""What a reload has changed is said by its keys, and never by a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailbridge.config import Config, check
from mailbridge.config.difference import NAMED, differences

BASE = """
apps:
  a:
    tenant: 11111111-2222-3333-4444-555555555555
    client_id: 66666666-7777-8888-9999-000000000000
    credential: {client_secret: {env: SECRET_OF_A}}
mailboxes:
  alarm: {address: alarm@feuerwehr.example, app: a, fetch: {every: 60s}, routes: [wake]}
routes:
  wake: {match: {subject: einsatz}, webhooks: [erp]}
webhooks:
  erp: {url: "https://erp.example/hook", headers: {X-Key: {env: KEY_OF_ERP}}}
"""


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_A", "first-secret-of-a")
    monkeypatch.setenv("KEY_OF_ERP", "first-key-of-erp")


def read(folder: Path, text: str) -> Config:
    file = folder / "mailbridge.yaml"
    file.write_text(text)
    checked = check(file)
    assert checked.config is not None, checked.problems
    return checked.config


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("every: 60s", "every: 90s", "~mailboxes.alarm.fetch.every"),
        ("subject: einsatz", "subject: alarm", "~routes.wake.match.subject"),
        ("subject: einsatz", "from: [a@b.example]", "~routes.wake.match.from ~routes.wake.match.s"),
        ("\nwebhooks:", "\nstate: {keep: {delivered: 3d}}\nwebhooks:", "~state.keep.delivered"),
        ("  erp: {url", '  b: {url: "https://b.example/"}\n  erp: {url', "+webhooks.b"),
    ],
)
def test_each_difference_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    """An operator sees in the log which keys a reload has put in force."""
    before, after = read(tmp_path, BASE), read(tmp_path, BASE.replace(old, new))
    assert differences(before, after).startswith(said)
    assert differences(before, before) == ""


def test_what_is_gone_is_told_apart_from_what_is_new(tmp_path: Path) -> None:
    """A mailbox that was taken away is not reported as one that was changed."""
    office = "  office: {address: office@feuerwehr.example, app: a, routes: [wake]}\nroutes:"
    more = read(tmp_path, BASE.replace("routes:\n", f"{office}\n", 1))
    less = read(tmp_path, BASE)
    assert differences(less, more) == "+mailboxes.office"
    assert differences(more, less) == "-mailboxes.office"


def test_no_value_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was exchanged shows as its key, with neither the old nor the new one."""
    before = read(tmp_path, BASE)
    monkeypatch.setenv("SECRET_OF_A", "second-secret-of-a")
    monkeypatch.setenv("KEY_OF_ERP", "second-key-of-erp")
    said = differences(before, read(tmp_path, BASE))
    assert "webhooks.erp.headers" in said
    assert not any(word in said for word in ("first", "second"))


def test_a_new_file_altogether_is_one_short_line(tmp_path: Path) -> None:
    """Hundreds of new mailboxes are counted, not listed."""
    boxes = "".join(
        f"  m{n}: {{address: m{n}@feuerwehr.example, app: a, routes: [wake]}}\n" for n in range(200)
    )
    after = read(tmp_path, BASE.replace("routes:\n", f"{boxes}routes:\n", 1))
    said = differences(read(tmp_path, BASE), after)
    assert said.endswith(f" and {200 - NAMED} more")
    assert said.count("+mailboxes.") == NAMED
