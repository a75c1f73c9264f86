"""Set up ``.venv`` from the lock files: ``python3 scripts/setup.py runtime|dev``.

Runs on a bare Python of Debian or Ubuntu (no ensurepip, no pip), as an ordinary user, with the
standard library only. ``runtime`` installs what the daemon and the demo need, ``dev`` also what
the checks need. Every package comes with a hash that the lock files name, pip itself included.
What an interrupted set-up left is thrown away by the next one; when all is in place, a tenth of
a second shows it. Exit 1 with one clear line when something on the machine is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UNFINISHED = VENV / ".unfinished"
BOOTSTRAP = VENV / ".bootstrap"
OLDEST = (3, 11)
KINDS = ("runtime", "dev")
OWN_PIP = [str(PYTHON), "-m", "pip"]
NO_PIP = (
    "no pip on this machine, and the package manager gave none;"
    " install it with: sudo apt install python3-venv"
)
EDITABLE = ["install", "--no-index", "--no-deps", "--no-build-isolation", "--editable", "."]
#: for apt-get -c: an ordinary user's apt, which must not run the system's hooks
APT_CONFIG = """
Dir::Cache "{private}/cache";
Debug::NoLocking "true";
APT::Sandbox::User "";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


class SetupError(Exception):
    """What is printed, after which the set-up ends with exit 1."""


def main() -> int:
    """Bring ``.venv`` up to date for the kind that the command line names."""
    use_new_enough_python()
    kind = " ".join(sys.argv[1:])
    if kind not in KINDS:
        print("usage: setup.py runtime|dev", file=sys.stderr)
        return 2
    try:
        with alone():
            set_up(kind)
    except SetupError as error:
        print(f"mailbridge set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mailbridge set-up: interrupted; it starts anew next time", file=sys.stderr)
        return 130
    return 0


def use_new_enough_python() -> None:
    """Go on under a newer Python of this machine if ``python3`` is too old; or say so."""
    if sys.version_info >= OLDEST:
        return
    for minor in (14, 13, 12, 11):
        newer = shutil.which(f"python3.{minor}")
        if newer:
            os.execv(newer, [newer, *sys.argv])
    print(
        "mailbridge set-up: needs Python 3.11 or newer; python3 is"
        f" {sys.version.split()[0]} and no newer one is installed",
        file=sys.stderr,
    )
    raise SystemExit(1)


@contextmanager
def alone() -> Iterator[None]:
    """Hold a lock on the checkout, so that two set-ups at once take turns.

    Commands inherit it: one that outlives a killed set-up keeps the next one waiting.
    """
    handle = os.open(ROOT, os.O_RDONLY)
    os.set_inheritable(handle, True)  # noqa: FBT003 - it takes no names
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def set_up(kind: str) -> None:
    """Create or complete ``.venv``; nothing is done when the stamp says that all is in place."""
    if not sound():
        shutil.rmtree(VENV, ignore_errors=True)
    if up_to_date(kind):
        return
    began = time.monotonic()
    version = ".".join(map(str, sys.version_info[:2]))
    print(f"Setting up .venv with Python {version} (once, about 30 s) ...", flush=True)
    if not PYTHON.exists():
        with step("environment"):
            create()
    UNFINISHED.touch()
    with step("pip"):
        install_pip()
    with step("packages"):
        run([*OWN_PIP, *locked("build", kind)])
    with step("mailbridge"):
        run([*OWN_PIP, *EDITABLE])
    for done in ("runtime", kind):
        stamp(done).write_text(fingerprint(done), encoding="utf-8")
    shutil.rmtree(BOOTSTRAP, ignore_errors=True)
    UNFINISHED.unlink()
    print(f"Ready after {time.monotonic() - began:.0f} s.", flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show one step as it begins, and how long it took."""
    began = time.monotonic()
    print(f"  {what} ...", end="", flush=True)
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - began:.1f} s", flush=True)


def sound() -> bool:
    """Tell whether ``.venv`` can be built upon: finished, of this place, its Python runs."""
    if UNFINISHED.exists() or not PYTHON.exists():
        return False
    probe = f"import sys; raise SystemExit(not sys.version_info >= {OLDEST!r})"
    if subprocess.run([str(PYTHON), "-c", probe], check=False).returncode:
        return False
    # scripts in bin/ name the Python of the place where they were installed
    script = VENV / "bin" / "mailbridge"
    return not script.exists() or str(VENV) in script.read_text(encoding="utf-8")


def stamp(kind: str) -> Path:
    """Return the file that says what was installed."""
    return VENV / f".setup-{kind}"


def up_to_date(kind: str) -> bool:
    """Tell whether the stamp fits the lock files and the project's own metadata."""
    try:
        return stamp(kind).read_text(encoding="utf-8") == fingerprint(kind)
    except FileNotFoundError:
        return False


def fingerprint(kind: str) -> str:
    """Return a digest of everything that decides what is installed."""
    import tomllib  # not there in the Pythons that only learn here that they are too old

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    digest = hashlib.sha256()
    digest.update(json.dumps([project["project"], project["build-system"]]).encode())
    for name in ("pip", "build", kind):
        digest.update(lock(name).read_bytes())
    return digest.hexdigest()


def create() -> None:
    """Make an environment without pip: this works where ensurepip was left out."""
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    run([sys.executable, "-m", "venv", "--without-pip", str(VENV)])


def install_pip() -> None:
    """Install the locked pip (a new one resolves twice as fast) with whatever pip there is."""
    if (VENV / "bin" / "pip").exists():
        run([*OWN_PIP, *locked("pip")])
        return
    command = next(found_pips(), None)
    if command is None:
        raise SetupError(NO_PIP)
    run([*command, *locked("pip")])


def found_pips() -> Iterator[list[str]]:
    """Yield commands that run a pip for ``.venv``, the nearest first."""
    ensurepip = importlib.util.find_spec("ensurepip")
    folders = [Path("/usr/share/python-wheels")]
    if ensurepip and ensurepip.origin:
        folders.insert(0, Path(ensurepip.origin).parent / "_bundled")
    for folder in folders:
        yield from wheels(folder)
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        yield from wheels(fetch_from_distribution())


def wheels(folder: Path) -> Iterator[list[str]]:
    """Yield commands that run a wheel of pip without installing it."""
    for wheel in sorted(folder.glob("pip-*.whl"), reverse=True):
        # A wheel is a zip, and runs as one too, but then Python compiles it again each time.
        unpacked = BOOTSTRAP / wheel.stem
        shutil.unpack_archive(wheel, unpacked, "zip")
        yield [str(PYTHON), str(unpacked / "pip")]


def fetch_from_distribution() -> Path:
    """Let the distribution's apt-get bring its package of pip, checked by its signatures.

    No root is needed: lists and cache are private, and the package is only unpacked. The
    system's own lists are tried first, since fetching new ones costs seconds.
    """
    for folder in ("cache/archives/partial", "lists/partial"):
        (BOOTSTRAP / folder).mkdir(parents=True, exist_ok=True)
    config = BOOTSTRAP / "apt.conf"
    config.write_text(APT_CONFIG.format(private=BOOTSTRAP), encoding="utf-8")
    apt = ["apt-get", "-q", "-c", str(config)]
    private = [*apt, "-o", f"Dir::State::lists={BOOTSTRAP / 'lists'}"]
    download = ["download", "python3-pip-whl"]
    for attempt in ([*apt, *download], [*private, "update"], [*private, *download]):
        done = subprocess.run(attempt, cwd=BOOTSTRAP, capture_output=True, check=False)
        packages = list(BOOTSTRAP.glob("python3-pip-whl_*.deb"))
        if done.returncode == 0 and packages:
            run(["dpkg-deb", "-x", str(packages[0]), str(BOOTSTRAP)])
            break
    return BOOTSTRAP / "usr/share/python-wheels"


def locked(*names: str) -> list[str]:
    """Return pip's arguments for lock files: hashes are demanded, nothing is added to them.

    Bytecode is left to the first import; compiling all of it would cost more than it saves.
    """
    command = ["install", "--require-hashes", "--no-deps", "--no-compile"]
    for name in names:
        command += ["--requirement", str(lock(name))]
    return command


def lock(name: str) -> Path:
    """Return the path of a lock file."""
    return ROOT / "requirements" / f"{name}.lock"


def run(command: list[str]) -> None:
    """Run a command silently; when it fails, show everything it said."""
    environment = {
        **os.environ,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_PROGRESS_BAR": "off",
        "PIP_USER": "0",
    }
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        close_fds=False,
        check=False,
    )
    if done.returncode:
        print(f"\n{done.stdout}", end="", flush=True)
        told = " ".join(command[:4])
        msg = f"`{told} ...` ended with {done.returncode}; its output stands above"
        raise SetupError(msg)


if __name__ == "__main__":
    sys.exit(main())
