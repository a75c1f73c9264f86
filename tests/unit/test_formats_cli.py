"""What the commands say of formats: `parse` and `test-webhook`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.test_cli_offline import run
from tests.unit.test_event import DATA
from tests.unit.test_formats_config import ENVIRON, HEAD

HOOKS = """\
  fe2:
    url: https://fe2.example/rest/external/http/alarm/v2
    format: alamos-fe2
    alamos: {authorization: {env: KEY}}
  chat: {url: https://a.example, format: template, template: '"{{ mail.subject }}"'}
  strict: {url: https://a.example, format: template, template: '{{ fields.keyword }}'}
"""
MAIL = str(DATA / "exchange-alarm.eml")


def configured(folder: Path) -> None:
    (folder / "mailbridge.yaml").write_text(HEAD + HOOKS, encoding="utf-8")


def test_parse_prints_what_each_format_makes_of_a_mail(tmp_path: Path) -> None:
    """The body is that of the webhook's format, except for a key in it, which is struck out."""
    configured(tmp_path)
    done = run("parse", MAIL, "--webhook", "chat", cwd=tmp_path, env=ENVIRON)
    assert json.loads(done.stdout) == "B3 Zimmerbrand, Hauptstraße 5"
    done = run("parse", MAIL, "--webhook", "fe2", cwd=tmp_path, env=ENVIRON)
    assert json.loads(done.stdout)["authorization"] == "***"
    assert ENVIRON["KEY"].encode() not in done.stdout + done.stderr
    assert b"shown as ***" in done.stderr


def test_parse_says_why_a_template_fails(tmp_path: Path) -> None:
    """A mail that a template would keep waiting is found before it comes."""
    configured(tmp_path)
    done = run("parse", MAIL, "--webhook", "strict", cwd=tmp_path, env=ENVIRON)
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"webhooks.strict.template, line 1" in done.stderr


def test_a_test_wakes_nobody(tmp_path: Path) -> None:
    """`test-webhook` sends an alarm server no ping, for that would raise an alarm."""
    configured(tmp_path)
    done = run("test-webhook", "fe2", cwd=tmp_path, env=ENVIRON)
    assert done.returncode == 1
    assert b"takes mails and no test.ping" in done.stderr
    assert b"--eml FILE" in done.stderr
