"""The commands that touch neither network nor database, as they are typed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from mailbridge import __version__
from mailbridge.cli import output
from mailbridge.errors import Unavailable

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
SECRETS = {
    "ALARM_SECRET": "abc8Q~made-up-client-secret",
    "ERP_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "ERP_AUTHORIZATION": "Bearer made-up-bearer-value",
    "ALARM_SERVER_URL": "http://10.0.0.5/alarm?accesskey=made-up-access-key",
}
MAIL = (
    b"From: Leitstelle <leitstelle@ils.example>\r\n"
    b"To: alarm@feuerwehr.example\r\n"
    b"Subject: =?utf-8?q?B3_Zimmerbrand?=\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=x\r\n\r\n"
    b"--x\r\nContent-Type: text/plain\r\n\r\nStichwort: B3\r\n"
    b"--x\r\nContent-Type: text/csv\r\nContent-Disposition: attachment; filename=a.csv\r\n\r\n1;2"
    b"\r\n--x--\r\n"
)


def run(
    *args: str, cwd: Path, env: dict[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run mailbridge as a shell would, with nothing in its environment but ``env``."""
    return subprocess.run(
        [sys.executable, "-m", "mailbridge", *args],
        cwd=cwd,
        env={"PATH": os.environ["PATH"]} | (env or {}),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_check_says_ok(tmp_path: Path) -> None:
    """A valid file gives ok, exit code 0, and nothing on standard error."""
    done = run("--config", str(EXAMPLE), "check", cwd=tmp_path, env=SECRETS)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ok\n", b"")


def test_check_prints_every_problem_with_its_place_and_fix(tmp_path: Path) -> None:
    """Each problem is a line ``file:line: path: message. Fix: …``; the exit code is 78."""
    text = EXAMPLE.read_text(encoding="utf-8")
    text = text.replace("address: alarm@", "adress: alarm@").replace("every: 60s", "every: 60")
    (tmp_path / "mailbridge.yaml").write_text(text, encoding="utf-8")
    done = run("check", cwd=tmp_path, env=SECRETS)
    assert done.returncode == 78
    rows = done.stdout.decode().splitlines()
    places = [re.match(r"mailbridge\.yaml:(\d+): ([a-z.]+): .+\. Fix: .+", row) for row in rows]
    lines = text.splitlines()
    section = lines.index("  alarm:") + 1
    every = next(number for number, line in enumerate(lines, 1) if "every: 60 " in line)
    assert [(place[1], place[2]) for place in places if place] == [
        (str(section), "mailboxes.alarm.address"),
        (str(section + 1), "mailboxes.alarm.adress"),
        (str(every), "mailboxes.alarm.fetch.every"),
    ]
    assert len(rows) == 3


def test_check_as_json(tmp_path: Path) -> None:
    """--json gives one document with the same facts, problems and warnings apart."""
    text = EXAMPLE.read_text(encoding="utf-8").replace("2028-11-20", "2020-01-01")
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    done = run("--config", "m.yaml", "check", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert done.returncode == 78
    assert (document["ok"], document["file"]) == (False, "m.yaml")
    assert {problem["path"] for problem in document["problems"]} == {
        "apps.alarm-app.credential.client_secret.env",
        "webhooks.erp.signing_secrets[0].env",
        "webhooks.erp.headers.Authorization.env",
        "webhooks.alarm-server.url.env",
    }
    done = run("--config", "m.yaml", "check", "--json", cwd=tmp_path, env=SECRETS)
    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"], document["problems"]) == (0, True, [])
    assert [set(warning) for warning in document["warnings"]] == [
        {"file", "line", "path", "message", "fix"}
    ]


def test_warnings_go_to_standard_error(tmp_path: Path) -> None:
    """A warning does not change ok on standard output."""
    text = EXAMPLE.read_text(encoding="utf-8").replace("2028-11-20", "2020-01-01")
    (tmp_path / "mailbridge.yaml").write_text(text, encoding="utf-8")
    done = run("check", cwd=tmp_path, env=SECRETS)
    assert (done.returncode, done.stdout) == (0, b"ok\n")
    line = next(n for n, text_ in enumerate(text.split("\n"), 1) if "expires:" in text_)
    place = f"warning: mailbridge.yaml:{line}: apps.alarm-app.credential.expires"
    assert done.stderr.decode().startswith(place)


def test_a_missing_file_is_exit_code_78(tmp_path: Path) -> None:
    """A file that is not there is a configuration fault and never a traceback."""
    for args in (("--config", "none.yaml", "check"), ("--config", "none.yaml", "run")):
        done = run(*args, cwd=tmp_path)
        assert done.returncode == 78
        assert b"none.yaml: the file does not exist." in done.stdout + done.stderr
        assert b"Traceback" not in done.stderr


def test_wrong_usage_is_exit_code_2(tmp_path: Path) -> None:
    """Unknown commands and options are wrong usage."""
    assert run("chekc", cwd=tmp_path).returncode == 2
    assert run("check", "--jsn", cwd=tmp_path).returncode == 2
    assert run("parse", "no-such.eml", cwd=tmp_path).returncode == 2


def test_the_version_and_the_help(tmp_path: Path) -> None:
    """--version prints the version; --help lists the commands, in a pipe without colours."""
    assert run("--version", cwd=tmp_path).stdout.decode() == f"mailbridge {__version__}\n"
    shown = run("--help", cwd=tmp_path).stdout
    for command in (b"check", b"secret", b"config", b"parse"):
        assert command in shown
    assert b"\x1b" not in shown


def test_new_secrets_fit_the_configuration(tmp_path: Path) -> None:
    """The two secret commands print what check accepts, new each time."""
    signing = run("secret", "webhook", cwd=tmp_path).stdout.decode().strip()
    key = run("secret", "key", cwd=tmp_path).stdout.decode().strip()
    assert signing.startswith("whsec_")
    assert len(base64.b64decode(signing.removeprefix("whsec_"), validate=True)) == 32
    assert len(base64.b64decode(key, validate=True)) == 32
    assert run("secret", "webhook", cwd=tmp_path).stdout.decode().strip() != signing
    text = EXAMPLE.read_text(encoding="utf-8").replace("state:\n", "state:\n  key: {env: KEY}\n")
    (tmp_path / "mailbridge.yaml").write_text(text, encoding="utf-8")
    env = SECRETS | {"ERP_WEBHOOK_SECRET": signing, "KEY": key}
    assert run("check", cwd=tmp_path, env=env).stdout == b"ok\n"


def test_config_schema_is_a_json_schema(tmp_path: Path) -> None:
    """The schema command prints a valid JSON Schema."""
    schema = json.loads(run("config", "schema", cwd=tmp_path).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    sections = {"state", "http", "apps", "mailboxes", "webhooks", "routes"}
    assert set(schema["properties"]) >= sections


def test_parse_prints_the_body_of_a_webhook(tmp_path: Path) -> None:
    """Without a configuration the mail gets the default body; standard input works too."""
    (tmp_path / "a.eml").write_bytes(MAIL)
    done = run("parse", "a.eml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    event = json.loads(done.stdout)
    data = event["data"]
    assert (event["type"], event["schema"]) == ("mail.received", "mailbridge/1")
    assert (data["mailbox"], data["folder"], data["subject"]) == (
        "mailbox",
        "INBOX",
        "B3 Zimmerbrand",
    )
    assert data["source"] == {"protocol": "imap", "uidvalidity": 0, "uid": 0}
    assert (data["size"], data["raw_sha256"]) == (len(MAIL), hashlib.sha256(MAIL).hexdigest())
    assert data["attachments"][0]["filename"] == "a.csv"
    assert "content_base64" not in data["attachments"][0]
    from_stdin = json.loads(run("parse", "-", cwd=tmp_path, stdin=MAIL).stdout)
    del data["accepted_at"], from_stdin["data"]["accepted_at"]
    assert from_stdin["data"] == data


def test_parse_uses_the_settings_of_mailbox_and_webhook(tmp_path: Path) -> None:
    """With names the body is that of this mailbox and this webhook."""
    (tmp_path / "a.eml").write_bytes(MAIL)
    named = ("--mailbox", "alarm", "--webhook", "erp")
    config = ("--config", str(EXAMPLE))
    done = run(*config, "parse", "a.eml", *named, cwd=tmp_path, env=SECRETS)
    data = json.loads(done.stdout)["data"]
    assert (data["mailbox"], data["address"]) == ("alarm", "alarm@feuerwehr.example")
    assert base64.b64decode(data["attachments"][0]["content_base64"]) == b"1;2"
    wrong = run(*config, "parse", "a.eml", "--webhook", "nobody", cwd=tmp_path, env=SECRETS)
    assert wrong.returncode == 2
    assert b"erp, alarm-server" in wrong.stderr
    without = run("parse", "a.eml", "--mailbox", "any", cwd=tmp_path)
    assert json.loads(without.stdout)["data"]["mailbox"] == "any"
    assert run("parse", "a.eml", "--webhook", "erp", cwd=tmp_path).returncode == 78


def test_parse_shows_what_the_routes_say(tmp_path: Path) -> None:
    """Each route's word stands on standard error, and what it extracted in the body."""
    text = EXAMPLE.read_text(encoding="utf-8")
    text = re.sub(r"^routes:\n(?:[ #].*\n|\n)*", "", text, flags=re.MULTILINE)
    text = re.sub(r"^    (?:# )?routes: .*\n", "", text, flags=re.MULTILINE)
    text = text.replace("\n    app: ", "\n    routes: [alarm, rest]\n    app: ", 1)
    text += """
routes:
  alarm:
    match: {from: ["*@ils.example"]}
    require: {authenticated: true}
    extract: {keyword: {regex: 'Stichwort: (.+)'}}
    webhooks: [erp]
    stop: true
  rest: {webhooks: [erp]}
"""
    (tmp_path / "mailbridge.yaml").write_text(text, encoding="utf-8")
    words = ("parse", "-", "--mailbox", "alarm", "--webhook", "erp")
    done = run(*words, cwd=tmp_path, env=SECRETS, stdin=MAIL)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert (data["route"], data["fields"]) == ("alarm", {"keyword": "B3"})
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("route alarm: hold (not authenticated: ")
    assert lines[0].endswith(" -> erp")
    assert lines[1] == "route rest: passes by (not asked: alarm is the last for it)"


def test_offline_commands_stay_light(tmp_path: Path) -> None:
    """The help and check import neither the store nor the HTTP client nor msal."""
    heavy = {"sqlalchemy", "aiohttp", "msal", "alembic", "imapclient", "cryptography", "uvloop"}
    for args in (["--help"], ["--config", str(EXAMPLE), "check"]):
        code = (
            f"import sys; sys.argv = ['mailbridge', *{args!r}]\n"
            "from mailbridge.cli.main import main\n"
            "try:\n    main()\nexcept SystemExit: pass\n"
            "print('\\nLOADED', *sorted(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]} | SECRETS,
            capture_output=True,
            check=True,
            timeout=60,
        )
        loaded = set(done.stdout.decode().rpartition("LOADED")[2].split())
        assert "mailbridge.cli.offline" in loaded
        assert heavy & loaded == set()


def test_a_table_in_a_pipe_is_plain_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """No colours and no frames; nothing that a mail put into a cell obeys the terminal."""
    output.table(
        ["name", "state", "note"],
        [["alarm", True, None], ["office-long-name", False, "\x1b[31mred\nline"]],
    )
    assert capsys.readouterr().out == (
        "NAME              STATE  NOTE\n"
        "alarm             yes    -\n"
        "office-long-name  no     \\x1b[31mred\\nline\n"
    )
    output.table(["name"], [], title="Mailboxes", empty="none")
    assert capsys.readouterr().out == "Mailboxes: none\n"


def test_a_table_on_a_terminal_takes_cells_literally(tmp_path: Path) -> None:
    """On a terminal the table is drawn by rich, and brackets in a cell are no markup."""
    code = (
        "from mailbridge.cli import output\n"
        "output.table(['subject', 'state'], [['[red]x[/red]', 'failed']],"
        " styles={'failed': 'red'})\n"
    )
    parent, child = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "COLUMNS": "80"},
        stdout=child,
        check=False,
        timeout=60,
    )
    os.close(child)
    shown = os.read(parent, 65536).decode()
    os.close(parent)
    assert done.returncode == 0
    assert "[red]x[/red]" in shown
    assert "\x1b[31mfailed" in shown


def test_an_expected_error_is_one_line_with_its_fix(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors of mailbridge are told on standard error in a line, without line breaks in it."""
    code = output.complain(Unavailable("no answer\nfrom x", fix="look at the cable."))
    assert code == 1
    assert capsys.readouterr().err == ("mailbridge: no answer\\nfrom x Fix: look at the cable.\n")
