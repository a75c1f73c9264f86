"""The shells' completion: names from the configuration file, and silence when there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mailbridge.cli.main import app

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("mailbridge")
CONFIG = """
apps: {alarm-app: {tenant: t.example, client_id: x, credential: {client_secret: {env: UNSET}}}}
mailboxes:
  alarm: {address: a@x.example, app: alarm-app}
  allgemein: {address: b@x.example, app: alarm-app}
  erp: {address: c@x.example, app: nowhere}
  "$(touch pwned)": {address: d@x.example, app: alarm-app}
  "*": {address: e@x.example, app: alarm-app}
webhooks: {divera: {url: {file: /nowhere}}, erp: {}}
routes: {brand: {webhooks: [divera]}}
"""
SCRIPT = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_mailbridge_completion mailbridge
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words: str, cwd: Path) -> list[str]:
    """Return what bash offers after these words, the last of which is being written."""
    done = subprocess.run(
        ["bash", "--norc", "-c", SCRIPT, "-", ROOT / "docs/completion/mailbridge.bash", *words],
        cwd=cwd,
        env={"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "HOME": str(cwd)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def inside(line: str) -> list[str]:
    """Return what is offered at the end of a line, asked in this process."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    env = {"_MAILBRIDGE_COMPLETE": "complete_bash", **words}
    done = CliRunner().invoke(app, [], prog_name="mailbridge", env=env)
    assert (done.exit_code, done.stderr) == (0, "")
    return sorted(done.stdout.split())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a working directory with a configuration, whose secrets are nowhere."""
    (tmp_path / "mailbridge.yaml").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("test-mailbox ", "alarm allgemein erp"),
        ("test-mailbox al", "alarm allgemein"),
        ("test-mailbox alarm e", "erp"),
        ("login a", "alarm allgemein"),
        ("logout e", "erp"),
        ("send --from allg", "allgemein"),
        ("log --mailbox e", "erp"),
        ("log --route ", "brand"),
        ("queue list --webhook ", "divera erp"),
        ("queue retry --all --webhook d", "divera"),
        ("replay --webhook d", "divera"),
        ("replay --mailbox e", "erp"),
        ("parse --webhook d", "divera"),
        ("parse --mailbox e", "erp"),
        ("test-webhook ", "divera erp"),
        ("consent-url ", "alarm-app"),
        ("queue ", "drop list retry"),
    ],
)
def test_names_of_the_file_are_completed(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: str, names: str
) -> None:
    """Mailboxes, webhooks, routes and apps are offered wherever a command takes one."""
    monkeypatch.chdir(place)
    assert inside(f"mailbridge {words}") == names.split()


def test_bash_takes_what_is_offered(place: Path) -> None:
    """The script that the wheel brings works in a real bash; no name makes it run anything."""
    assert complete("mailbridge", "test-mailbox", "", cwd=place) == ["alarm", "allgemein", "erp"]
    assert complete("mailbridge", "que", cwd=place) == ["queue"]
    assert [path.name for path in place.iterdir()] == ["mailbridge.yaml"]


def test_the_file_of_the_command_line_is_taken(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After --config FILE, the names are those of that file."""
    monkeypatch.chdir(place)
    (place / "other").mkdir()
    (place / "other/test.yaml").write_text("mailboxes: {other: {}}")

    assert inside("mailbridge --config other/test.yaml login ") == ["other"]


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"mailboxes: [", b"mailboxes: [a]", b"- a", b"a: &a [*a]"]
)
def test_a_broken_file_has_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Whatever stands in the file, completion is silent about it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mailbridge.yaml").write_bytes(content)

    assert inside("mailbridge login ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_without_a_file_there_is_silence(tmp_path: Path, shell: str) -> None:
    """No file: no names, no error, nothing on the terminal, in every shell."""
    asked = {"COMP_WORDS": "mailbridge login ", "COMP_CWORD": "2"}
    asked |= {
        "_TYPER_COMPLETE_ARGS": "mailbridge login ",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [PROGRAM],
        cwd=tmp_path,
        env={"_MAILBRIDGE_COMPLETE": f"complete_{shell}", "HOME": str(tmp_path), **asked},
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0
    assert done.stdout.strip() == (b"_files" if shell == "zsh" else b"")
    assert done.stderr == b""


@pytest.mark.parametrize(("shell", "offered"), [("zsh", '"alarm"'), ("fish", "alarm")])
def test_zsh_and_fish_get_the_same_names(place: Path, shell: str, offered: str) -> None:
    """What their scripts ask for is answered with the names of the file."""
    asked = {"_TYPER_COMPLETE_ARGS": "mailbridge login ala", "HOME": str(place)}
    asked |= {
        "_MAILBRIDGE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run([PROGRAM], cwd=place, env=asked, capture_output=True, check=True)

    assert offered in done.stdout.decode()
    assert "allgemein" not in done.stdout.decode()
    assert done.stderr == b""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_program_prints_and_installs_what_the_wheel_brings(tmp_path: Path, shell: str) -> None:
    """`--show-completion` and `--install-completion` know the shell that they are called from."""
    name = {"bash": "mailbridge.bash", "zsh": "_mailbridge", "fish": "mailbridge.fish"}[shell]
    script = (ROOT / "docs/completion" / name).read_text().splitlines()
    body = [line for line in script if "compdef" not in line and "funcstack" not in line]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    for option in ("--show-completion", "--install-completion"):
        done = subprocess.run(
            [PROGRAM, option, shell], env=environment, capture_output=True, check=True
        )
        files = (path.read_text() for path in tmp_path.rglob("*") if path.is_file())
        told = done.stdout.decode() + "".join(files)
        assert [line for line in body if line not in told] == []
