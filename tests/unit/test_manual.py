"""The man page, docs/cli.md and the completion scripts say what ``--help`` says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mailbridge.cli.main import app
from scripts import manual
from scripts.manual_pages import Command, commands

ROOT = Path(__file__).parents[2]
MAN = ROOT / "docs/man/mailbridge.1"
FILES = manual.files()
COMMANDS = [command for command in commands() if not command.group]


def sections(text: str, head: str) -> dict[str, str]:
    """Return the parts of a page below each heading, plain: no marks, no line breaks."""
    parts = re.split(head, text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(plain, parts[2::2]), strict=True))


def plain(text: str) -> str:
    """Return text as a reader sees it."""
    text = text.replace("\\-", "-").replace("\\(dq", '"').replace("\\|", "|")
    text = re.sub(r"\\\[u([0-9A-F]{4})\]", lambda match: chr(int(match[1], 16)), text)
    return " ".join(re.sub(r"\\f[BR]|\\&|`", "", text).split())


@pytest.mark.parametrize("name", sorted(FILES))
def test_what_is_generated_is_up_to_date(name: str) -> None:
    """A help text that changes changes the manual too: `make docs` was run."""
    assert (ROOT / name).read_text(encoding="utf-8") == FILES[name]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_that_help_shows_stands_in_both(command: Command) -> None:
    """What `mailbridge COMMAND --help` lists stands below that command in page and reference."""
    shown = CliRunner().invoke(app, [*command.path, "--help"], terminal_width=200, color=False)
    options = set(re.findall(r"(?<![\w/<-])--?[a-z][a-z-]*", shown.stdout))
    summary = command.summary.replace("`", "")
    man = sections(MAN.read_text(), r'^\.SS "(.*?) \\?\[OPTIONS.*$')[
        command.name.replace("-", "\\-")
    ]
    reference = sections((ROOT / "docs/cli.md").read_text(), r"^### (.*)$")[command.name]

    assert shown.exit_code == 0, shown.output
    assert summary in man
    assert summary in reference
    for option in options - {"--help", "-h"}:
        assert option in man, option
        assert option in reference, option


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_everything_that_can_be_written_is_explained(command: Command) -> None:
    """No argument and no option is without a help text."""
    assert [term.written for term in command.terms if term.help in {"", "[required]"}] == []


def test_the_options_of_the_program_stand_in_both() -> None:
    """Global options, completion among them, are told once, before the commands."""
    man, reference = plain(MAN.read_text()), plain((ROOT / "docs/cli.md").read_text())
    wanted = ["--config FILE", "--log-format", "--log-level", "--version", "--install-completion"]
    for option in (*wanted, "--show-completion", "-h, --help"):
        assert option in man
        assert option in reference


def test_every_command_that_help_lists_is_in_the_manual() -> None:
    """No command is known to the program alone."""
    listed: set[str] = set()
    for group in ((), *(c.path for c in commands() if c.group and c.path)):
        shown = CliRunner().invoke(app, [*group, "--help"], terminal_width=200, color=False)
        below = shown.stdout.split("Commands", 1)[1]
        for name in re.findall(r"^[│|\s]+([a-z][a-z-]*)\s{2,}", below, flags=re.MULTILINE):
            listed.add(" ".join((*group, name)))
    groups = {command.name for command in commands() if command.group}

    assert listed - groups == {command.name for command in COMMANDS}


@pytest.mark.parametrize("name", ["mailbridge.1", "mailbridge.yaml.5"])
def test_a_man_page_is_correct_roff(name: str) -> None:
    """groff, with every warning on, has no complaint, and the page shows as man pages do."""
    groff = shutil.which("groff")
    assert groff, "groff-base is installed by scripts/servers.sh"
    run = [groff, "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=100n", str(MAN.with_name(name))]
    done = subprocess.run(run, capture_output=True, check=False, encoding="utf-8")
    headings = re.findall(r"^[A-Z][A-Z. ]+$", done.stdout, flags=re.MULTILINE)

    assert (done.returncode, done.stderr) == (0, "")
    if name == "mailbridge.1":
        assert headings[:5] == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS"]
        assert headings[5:] == ["EXIT STATUS", "SIGNALS", "ENVIRONMENT", "FILES", "SEE ALSO"]
    else:
        assert {"NAME", "DESCRIPTION", "STATE", "MAILBOXES.NAME", "SEE ALSO"} <= set(headings)


@pytest.mark.parametrize("name", ["mailbridge.1", "mailbridge.yaml.5"])
def test_a_page_uses_nothing_that_another_man_would_not_know(name: str) -> None:
    """Only plain ASCII and the macros of man(7), so that mandoc and old troffs show it too."""
    text = MAN.with_name(name).read_text()

    assert text.isascii()
    assert set(re.findall(r"^\.([A-Z\\\"]+)", text, flags=re.MULTILINE)) <= {
        *('\\"', "TH", "SH", "SS", "PP", "TP", "B", "BR"),
    }
    assert not re.search(r"^'", text, flags=re.MULTILINE)


def test_a_page_that_is_out_of_date_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` writes nothing and ends with 1 until the files are written."""
    monkeypatch.setattr(manual, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/config.md", tmp_path / "docs")
    monkeypatch.setattr("sys.argv", ["manual", "--check"])
    assert manual.main() == 1
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["config.md"]
    monkeypatch.setattr("sys.argv", ["manual"])
    assert manual.main() == 0
    monkeypatch.setattr("sys.argv", ["manual", "--check"])
    assert manual.main() == 0
    assert "make docs" in capsys.readouterr().out
