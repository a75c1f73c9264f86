"""What `make dist` makes: complete, the same by every way, and enough for a fresh machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command to its end and return what it printed; nothing of this checkout helps it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**env, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(source: Path, target: Path) -> dict[str, Path]:
    """Build as `make dist` does; returns what was built by its ending."""
    run(sys.executable, "-m", "hatchling", "build", "-d", target, cwd=source)
    found = {path.suffix: path for path in target.iterdir()}
    assert sorted(found) == [".gz", ".whl"]
    return found


@pytest.fixture
def away() -> Iterator[Path]:
    """Yield a folder that is not searched for secrets: foreign packages hold samples of them."""
    with tempfile.TemporaryDirectory(prefix="packaging-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def sources(suffix: str = "") -> set[str]:
    """Return the files of the package in the checkout."""
    found = (ROOT / "mailbridge").rglob("*" + suffix)
    names = {path.relative_to(ROOT).as_posix() for path in found if path.is_file()}
    return {name for name in names if "__pycache__" not in name}


def test_the_wheel_is_complete(dist: dict[str, Path]) -> None:
    """Code, types, schemas, templates, licence, entry point, man page and completions are in it."""
    with zipfile.ZipFile(dist[".whl"]) as wheel:
        names = set(wheel.namelist())
        [info] = [name for name in names if name.endswith(".dist-info/METADATA")]
        base = info.removesuffix("METADATA")
        entry = wheel.read(base + "entry_points.txt").decode()
        metadata = Parser().parsestr(wheel.read(info).decode())
    package = {name for name in names if name.startswith("mailbridge/")}
    share = {name.partition(".data/data/")[2] for name in names} - {""}

    assert package == sources()
    assert {"mailbridge/py.typed", "mailbridge/schemas/mail.received.json"} <= package
    assert "mailbridge/store/migrations/script.py.mako" in package
    assert share == {
        "share/man/man1/mailbridge.1",
        "share/man/man5/mailbridge.yaml.5",
        "share/bash-completion/completions/mailbridge",
        "share/fish/vendor_completions.d/mailbridge.fish",
        "share/zsh/site-functions/_mailbridge",
    }
    assert "mailbridge = mailbridge.cli.main:main" in entry
    assert base + "licenses/LICENSE" in names
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert str(metadata.get_payload()).startswith("# mailbridge")


def test_the_sdist_makes_the_same_wheel(dist: dict[str, Path], away: Path) -> None:
    """Who builds from the source archive gets, byte for byte, what the checkout gives."""
    with tarfile.open(dist[".gz"]) as archive:
        archive.extractall(away, filter="data")
    [source] = away.iterdir()
    again = build(source, away / "dist")

    assert (source / "docs/man/mailbridge.1").exists()
    assert (source / "systemd/mailbridge.service").exists()
    assert (source / "config.example.yaml").exists()
    assert again[".whl"].name == dist[".whl"].name
    assert again[".whl"].read_bytes() == dist[".whl"].read_bytes()
    assert again[".gz"].read_bytes() == dist[".gz"].read_bytes()


def test_a_fresh_environment_passes_the_demo(
    dist: dict[str, Path], tmp_path: Path, away: Path
) -> None:
    """The wheel and the pinned packages alone, in a new virtual environment, do the main job."""
    venv = away / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=away)
    pip: list[str | Path] = [*PIP, "--python", venv / "bin/python"]
    runtime = ROOT / "requirements/runtime.lock"
    pins: list[str | Path] = [
        "--no-deps",
        "--no-compile",
        "--require-hashes",
        "--requirement",
        runtime,
    ]
    run(*pip, "install", *pins, cwd=away)
    run(*pip, "install", "--no-deps", "--no-compile", "--no-index", dist[".whl"], cwd=away)
    home = tmp_path / "home"
    home.mkdir()
    program = venv / "bin/mailbridge"

    assert "No broken requirements found" in run(*pip, "check", cwd=away)
    where = "import mailbridge; print(mailbridge.__file__)"
    assert str(venv) in run(venv / "bin/python", "-c", where, cwd=home)
    assert "Traceback" not in run(program, "demo", "--once", cwd=home, HOME=str(home))
    assert (venv / "share/man/man1/mailbridge.1").exists()
    assert list(home.iterdir()) == []
