"""The Debian that the service tests boot, and build images upon: made once, and kept.

It is made from this machine's own apt sources into ``.cache/services``, together with what the
documentation's first commands install. How pip gets its packages here (index, CA) is lent to the
steps that need it, and is in nothing that they leave.
"""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = CHECKOUT / ".cache" / "services"
#: what a commit holds of what is installed or built into an image
SOURCES: Final = (
    *("mailbridge", "requirements", "systemd", "docs"),
    *("pyproject.toml", "README.md", "LICENSE", "config.example.yaml"),
    *("Dockerfile", ".dockerignore", "compose.yaml"),
)
#: where the copy of the checkout lies in a booted Debian
HOME: Final = "/root/mailbridge"
_PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "python3", "python3-venv"),
    *("ca-certificates", "sudo"),
)
_LEFT_OUT: Final = ("doc", "info", "locale", "man")
_NEEDED: Final = ("mmdebstrap", "systemd-nspawn", "systemd-analyze", "podman", "crun", "unshare")
_CA: Final = Path("etc/ssl/certs/ca-certificates.crt")
_CA_VARIABLES: Final = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
#: what pip has to know to reach its index
_PIP: Final = re.compile(
    r"(?:global|install|:env:)\.(index-url|extra-index-url|trusted-host|proxy)"
)
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy")
#: bind mounts in a namespace of their own, gone with the process whatever happens to it
_IN_ROOT: Final = """
set -e
root=$1 lent=$2 checkout=$3
mount --bind /proc "$root/proc"
mount --bind /dev "$root/dev"
for file in /etc/resolv.conf /etc/hosts; do
    touch "$root$file"
    mount --bind "$file" "$root$file"
done
touch "$root/etc/pip.conf"
mount --bind "$lent/pip.conf" "$root/etc/pip.conf"
mount --bind "$lent/ca.crt" "$root/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$root/root/mailbridge"
mount --bind "$checkout" "$root/root/mailbridge"
exec chroot "$root" sh -e -c "cd /root/mailbridge; $4"
"""


def demand_lab() -> None:
    """Fail, with what to do, where nothing can be booted."""
    if os.geteuid() != 0:
        pytest.fail(
            "the service tests boot a Debian and run containers: they need root. Call "
            "`sudo make service-test`, or leave them out: `make test ARGS=\"-m 'not services'\"`",
            pytrace=False,
        )
    if missing := [name for name in _NEEDED if not shutil.which(name)]:
        pytest.fail(
            f"not installed: {', '.join(missing)}; `make service-test` installs them", pytrace=False
        )


def copy_checkout(target: Path) -> Path:
    """Copy what a commit holds, as far as it is installed or built into an image."""
    target.mkdir(parents=True)
    for name in SOURCES:
        source = CHECKOUT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / name, ignore=ignore)
        else:
            shutil.copy2(source, target / name)
    return target


def lend_pip(target: Path) -> Path:
    """Write ``pip.conf`` and ``ca.crt``: how pip reaches its index on this machine."""
    target.mkdir(mode=0o700, parents=True)
    listed = run([sys.executable, "-m", "pip", "config", "list"]).stdout
    settings = configparser.ConfigParser(interpolation=None)
    settings["global"] = {"cert": f"/{_CA}"}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        if found := _PIP.fullmatch(name):
            settings["global"][found[1]] = value.strip("'").replace("\\n", "\n  ")
    with (target / "pip.conf").open("w") as file:
        settings.write(file)
    bundles = [os.environ[name] for name in _CA_VARIABLES if name in os.environ]
    shutil.copy2(
        next(path for path in [*bundles, f"/{_CA}"] if Path(path).exists()), target / "ca.crt"
    )
    return target


def proxies() -> dict[str, str]:
    """Return the variables that say by which way this machine reaches the world."""
    return {name: os.environ[name] for name in _PROXIES if name in os.environ}


def debian(prepare: str, folder: Path) -> Path:
    """Return a Debian in which the commands ``prepare`` have run, with the checkout as place.

    Made when there is none yet, or when packages, commands or pinned packages have changed.
    """
    demand_lab()
    locks = [CHECKOUT / "requirements" / f"{name}.lock" for name in ("build", "runtime")]
    facts = [" ".join(_PACKAGES), _IN_ROOT, prepare, *(path.read_text() for path in locks)]
    key = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:12]
    made = CACHE / f"root-{key}"
    with alone("root"):
        if not made.exists():
            for old in CACHE.glob("root-*"):
                remove(old)
            fresh = CACHE / "root-unfinished"
            _bootstrap(fresh)
            _prepare(fresh, prepare, folder)
            fresh.rename(made)
    return made


def _bootstrap(target: Path) -> None:
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    lists = [*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")]
    distribution = [str(path) for path in lists if path.exists() and "main" in path.read_text()]
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", *left_out]
    # An archive that has stood still for long is as good as any other here.
    command += [f"--include={','.join(_PACKAGES)}", '--aptopt=Acquire::Check-Valid-Until "false"']
    run([*command, release["VERSION_CODENAME"].strip('"'), str(target), distribution[0]])
    (target / "etc/hostname").write_text("mailbridge-test\n")


def _prepare(target: Path, commands: str, folder: Path) -> None:
    lent, checkout = lend_pip(folder / "pip"), copy_checkout(folder / "sources")
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    unshared = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _IN_ROOT, "sh"]
    run([*unshared, str(target), str(lent), str(checkout), commands], env=environment | proxies())
    (target / "etc/pip.conf").unlink()
    (target / "etc/resolv.conf").unlink()
    (target / "etc/hosts").write_text("127.0.0.1 localhost mailbridge-test\n::1 localhost\n")


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Let one process of this machine at a time make a thing that is kept."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove(folder: Path) -> None:
    """Remove a root's tree, and nothing that is mounted into it."""
    run(["rm", "-rf", "--one-file-system", str(folder)])


def run(
    command: list[str],
    *,
    given: str | None = None,
    env: dict[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a failure shows what it said."""
    done = subprocess.run(
        command,
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        env=env,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=600,
    )
    if check and done.returncode:
        said = f"{done.stdout}\n{done.stderr}".strip()
        raise AssertionError(f"`{' '.join(command)[-300:]}` ended with {done.returncode}:\n{said}")
    return done
