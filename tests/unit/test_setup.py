"""The set-up of a fresh checkout, run for real without a network, and the lock files."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
BUILD = ("hatchling", "editables", "packaging", "pathspec", "pluggy", "trove-classifiers")
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mailbridge"
version = "1"
scripts = {mailbridge = "mailbridge:main"}

[tool.hatch.build.targets.wheel]
packages = ["mailbridge"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A tiny project beside a copy of the set-up, and a folder of wheels in place of an index."""

    root: Path
    wheels: Path

    def start(self, kind: str = "runtime") -> subprocess.Popen[str]:
        """Start the set-up with the bare Python that the test environment was made from."""
        python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        environment = {
            "PATH": os.environ["PATH"],
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
        }
        return subprocess.Popen(
            [python, self.root / "scripts/setup.py", kind],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def set_up(self, kind: str = "runtime", *, code: int = 0) -> str:
        """Run the set-up to its end and return what it said."""
        process = self.start(kind)
        said, _ = process.communicate()
        assert process.returncode == code, said
        return said

    def mailbridge(self) -> str:
        """Return what the installed command prints."""
        return subprocess.check_output([self.root / ".venv/bin/mailbridge"], text=True)


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give wheels of what a set-up needs, packed from the packages of the test environment."""
    folder = tmp_path_factory.mktemp("wheels")
    return {name: pack(name, folder) for name in ("pip", *BUILD, "iniconfig", "execnet")}


@pytest.fixture
def checkout(tmp_path: Path, wheelhouse: dict[str, Path]) -> Checkout:
    """Give a checkout in which nothing was set up yet."""
    return lay_out(tmp_path / "checkout", wheelhouse)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, wheelhouse: dict[str, Path]) -> Checkout:
    """Give a checkout that was set up once."""
    checkout = lay_out(tmp_path_factory.mktemp("ready") / "checkout", wheelhouse)
    assert "Ready after" in checkout.set_up()
    return checkout


def lay_out(root: Path, wheelhouse: dict[str, Path]) -> Checkout:
    (root / "scripts").mkdir(parents=True)
    (root / "mailbridge").mkdir()
    (root / "requirements").mkdir()
    shutil.copy(ROOT / "scripts/setup.py", root / "scripts")
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "mailbridge/__init__.py").write_text("def main():\n    print('at your service')\n")
    locks = {"pip": ("pip",), "build": BUILD, "runtime": ("iniconfig",), "dev": ("execnet",)}
    for lock, names in locks.items():
        lines = "".join(pin(wheelhouse[name]) for name in names)
        (root / "requirements" / f"{lock}.lock").write_text(lines)
    return Checkout(root=root, wheels=wheelhouse["pip"].parent)


def test_a_second_set_up_finds_all_in_place(ready: Checkout) -> None:
    """After the first set-up the command works; the second sees that and says nothing."""
    assert ready.mailbridge() == "at your service\n"
    assert ready.set_up() == ""


def test_a_changed_lock_is_installed(ready: Checkout) -> None:
    """After a pull that changed a lock file, the next set-up acts on it, without a new start."""
    lock = ready.root / "requirements/runtime.lock"
    lock.write_text(lock.read_text() + (ready.root / "requirements/dev.lock").read_text())
    said = ready.set_up()
    assert "packages ..." in said
    assert "environment ..." not in said
    assert list(ready.root.glob(".venv/lib/*/site-packages/execnet"))
    assert ready.set_up() == ""


def test_a_wrong_hash_stops_the_set_up(checkout: Checkout) -> None:
    """A package whose bytes are not those of the lock file is refused, pip's words are shown."""
    lock = checkout.root / "requirements/runtime.lock"
    lock.write_text(re.sub("sha256:.*", f"sha256:{'0' * 64}", lock.read_text()))
    said = checkout.set_up(code=1)
    assert "DO NOT MATCH THE HASHES" in said
    assert "mailbridge set-up: `" in said


def test_a_killed_set_up_is_repaired_by_the_next(checkout: Checkout) -> None:
    """What a set-up left that was killed half-way is thrown away and made anew."""
    process = checkout.start()
    installed = checkout.root / ".venv/lib"
    while process.poll() is None and not list(installed.glob("*/site-packages/pip")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (checkout.root / ".venv/.unfinished").exists()
    assert "environment ..." in checkout.set_up()
    assert checkout.mailbridge() == "at your service\n"


def test_a_moved_checkout_is_set_up_anew(ready: Checkout) -> None:
    """Scripts name their Python by its path; at a new place they are made for it."""
    moved = replace(ready, root=ready.root.with_name("elsewhere"))
    shutil.copytree(ready.root, moved.root, symlinks=True)
    assert "environment ..." in moved.set_up()
    assert moved.mailbridge() == "at your service\n"


def test_two_set_ups_at_once_take_turns(checkout: Checkout) -> None:
    """Two terminals in one checkout: one sets up, the other waits and finds it done."""
    both = [checkout.start(), checkout.start()]
    said = sorted(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0] == ""
    assert "Ready after" in said[1]


def test_a_machine_without_pip_is_told_the_package(checkout: Checkout) -> None:
    """Where no pip can be had, one line names the package to install."""
    script = checkout.root / "scripts/setup.py"
    script.write_text(script.read_text().replace("next(found_pips(), None)", "None"))
    assert "sudo apt install python3-venv" in checkout.set_up(code=1)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_pin_everything_and_name_no_host(lock: Path) -> None:
    """Every package of a lock has an exact version and hashes; no index is written into it."""
    blocks = re.split(r"\n(?=[a-z])", re.sub(r"(?m)^\s*#.*\n?", "", lock.read_text()).strip())
    assert blocks
    for block in blocks:
        assert re.match(r"[a-z0-9-]+==\S+( ; .+)? \\\n    --hash=sha256:[0-9a-f]{64}", block), block
    assert not re.search(r"https?://|--index|--find-links|@", lock.read_text())


def test_the_locks_cover_the_project() -> None:
    """Whatever pyproject.toml asks for is pinned, and what both locks pin is the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime, everything = (pins(ROOT / f"requirements/{name}.lock") for name in ("runtime", "dev"))
    assert names([*project["dependencies"], *extras["postgres"]]) <= runtime.keys()
    assert names(extras["dev"]) <= everything.keys()
    assert runtime.items() <= everything.items()


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", lock.read_text()))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ;]", line)[0].lower().replace("_", "-") for line in requirements}


def pin(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{name.replace('_', '-')}=={version} \\\n    --hash=sha256:{digest}\n"


def pack(name: str, folder: Path) -> Path:
    """Pack an installed pure-Python package into a wheel again."""
    package = importlib.metadata.distribution(name)
    wheel = folder / f"{name.replace('-', '_')}-{package.version}-py3-none-any.whl"
    record = []
    info = ""
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in package.files or ():
            if ".." in file.parts or file.suffix == ".pyc" or file.name == "RECORD":
                continue
            content = file.read_binary()
            archive.writestr(str(file), content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            record.append(f"{file},sha256={digest.decode()},{len(content)}\n")
            if file.name == "METADATA":
                info = str(file.parent)
        archive.writestr(f"{info}/RECORD", "".join([*record, f"{info}/RECORD,,\n"]))
    return wheel
