"""The house rules that no linter knows: arrows between modules, lengths, how tests are written."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FUNCTION = 40
LONGEST_MODULE = 350

#: what is longer than the habit allows, and why it stays in one piece
LONG_FUNCTIONS = {
    "mailbridge/app.py:serve": "the daemon's life from opening to closing, in order, read at once",
    "mailbridge/cli/data.py:_print_status": "two tables, one after the other; nothing is decided",
    "mailbridge/cli/probe.py:_send": "one request and all that is told about its answer",
    "mailbridge/config/load.py:config": "every section and every rule between them, in order",
    "mailbridge/dispatch.py:__init__": "what a dispatcher consists of; nothing is decided",
}
LONG_MODULES = {
    "mailbridge/model.py": "the nouns, which everybody looks up in one place",
    "mailbridge/store/tables.py": "the tables, with what their columns mean",
    "mailbridge/sinks/webhook.py": "one adapter; its phases read from top to bottom",
}

#: an import that must not be, and the contract that has to catch it
OFFENCES = [
    ("mailbridge/model.py", "import mailbridge.retry", "arrows"),
    ("mailbridge/sinks/webhook.py", "import mailbridge.formats.native", "arrows"),
    ("mailbridge/sources/imap.py", "import mailbridge.store.store", "arrows"),
    ("mailbridge/store/store.py", "import mailbridge.config", "arrows"),
    ("mailbridge/retry.py", "import mailbridge.store.store", "arrows"),
    ("mailbridge/sandbox/tenant.py", "import mailbridge.parse", "arrows"),
    ("mailbridge/dispatch.py", "import mailbridge.sinks.webhook", "loops"),
    ("mailbridge/intake.py", "import mailbridge.sources.imap", "loops"),
    ("mailbridge/supervise.py", "import mailbridge.store.store", "loops"),
    ("mailbridge/parse/message.py", "import asyncio", "pure"),
    ("mailbridge/errors.py", "import structlog", "nouns"),
    ("mailbridge/app.py", "import mailbridge.sandbox.tenant", "sandbox"),
    ("mailbridge/app.py", "import yaml", "yaml"),
    ("mailbridge/app.py", "import sqlalchemy", "libraries"),
]


def lint_imports(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package that lies in ``folder``."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_arrows_between_modules_hold() -> None:
    """No module imports what the architecture keeps from it."""
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("module", "line", "contract"), OFFENCES)
def test_a_forbidden_import_is_caught(
    tmp_path: Path, module: str, line: str, contract: str
) -> None:
    """Each contract bites: one import too many in a copy of the package breaks it."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mailbridge", tmp_path / "mailbridge", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path, "--contract", contract)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 broken" in done.stdout


def test_functions_are_short() -> None:
    """A function fits on a screen, signature and docstring aside; each exception has a reason."""
    long = {
        f"{path.relative_to(ROOT)}:{function.name}": length
        for path in sources("mailbridge", "scripts")
        for function in functions(path)
        if (length := body_length(function)) > LONGEST_FUNCTION
    }
    assert long.keys() == LONG_FUNCTIONS.keys(), long


def test_modules_are_short() -> None:
    """A module can be read in one sitting; each exception has a reason."""
    long = {
        str(path.relative_to(ROOT)): length
        for path in sources("mailbridge", "scripts")
        if (length := path.read_text(encoding="utf-8").count("\n")) > LONGEST_MODULE
    }
    assert long.keys() == LONG_MODULES.keys(), long


def test_every_test_states_its_promise() -> None:
    """Each test begins with a docstring that says what it holds mailbridge to."""
    silent = [
        f"{path.relative_to(ROOT)}:{test.lineno} {test.name}"
        for path, test in promises()
        if not (ast.get_docstring(test) or "").strip().endswith((".", "?"))
    ]
    assert silent == []


def test_no_test_is_skipped() -> None:
    """A missing server or library is a failure, so nothing in the tests may skip or give up."""
    ways_out = {"skip", "skipif", "xfail", "importorskip"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}"
        for path in sources("tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ways_out
    ]
    assert found == []


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def promises() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sources("tests"):
        if path.name.startswith("test_"):
            yield from (
                (path, function)
                for function in functions(path)
                if function.name.startswith("test_")
            )


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its signature and its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
