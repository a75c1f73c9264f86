"""A container engine without a service of its own (Podman), in namespaces of ours.

``docker`` of the documentation is Podman here. No registry is asked: the base image of the
Dockerfile is a stand-in made from the Debian that the machines boot, under the same name. Images
are kept in ``.cache/services``; containers, and what a killed run left of them, are removed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.services.lab import CACHE, CHECKOUT, alone, lend_pip, proxies, run
from tests.services.machine import JOIN, PREFIX, own_groups, remove_group, sweep

#: where the engine keeps what is forgotten when this machine restarts
_RUN: Final = Path("/run/mailbridge-test-containers")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LABEL: Final = "mailbridge.test.root"
#: of the Debian, what an image of Python has not
_LEFT_OUT: Final = (
    "./opt/mailbridge",
    "./root/mailbridge",
    "./var/cache/apt",
    "./var/lib/apt",
    "./dev",
)
#: an engine whose containers stay in our own control group, and raise no limit
_CONTAINERS: Final = f"""
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
cgroups = "disabled"
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
tmp_dir = "{_RUN}/tmp"
"""
_STORAGE: Final = f"""
[storage]
driver = "overlay"
graphroot = "{CACHE}/containers"
runroot = "{_RUN}/run"
"""
#: crun wants one plain hierarchy of control groups
_BOX: Final = """
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
echo ready
exec sleep infinity
"""
_DOCKER: Final = """#!/bin/sh
command=$1
shift
case $command in
    build)
        exec podman build --isolation=chroot --pull=never --format=docker --network=host --layers \\
            --volume "{lent}/ca.crt:/etc/ssl/certs/ca-certificates.crt:ro" \\
            --volume "{lent}/pip.conf:/etc/pip.conf:ro" "$@" ;;
    compose) exec podman-compose --podman-path "$(command -v podman-on-loopback)" "$@" ;;
    *) exec podman "$command" "$@" ;;
esac
"""
#: Compose would make a network of its own; these containers share this machine's, with the tenant
_ON_LOOPBACK: Final = """#!/bin/bash
# The image is built already; old versions would build it again before each command.
case $1 in network | build) exit 0 ;; esac
words=()
while [ $# -gt 0 ]; do
    case $1 in
        --net | --network-alias) shift ;;
        *) words+=("$1") ;;
    esac
    shift
done
exec podman "${words[@]}"
"""


class Engine:
    """Runs commands of the documentation in ``home``; see ``engine``."""

    def __init__(self, holder: int, home: Path, folder: Path) -> None:
        self.home = home
        self._enter = ["nsenter", "--target", str(holder), "--mount", "--cgroup", "--"]
        self._environment = {
            "PATH": f"{folder / 'bin'}:{_PATH}",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            **proxies(),
        }

    def sh(self, script: str, *, given: str | None = None, check: bool = True) -> str:
        """Run lines as a shell does, and end at the first that fails; returns what they said."""
        words = ["sh", "-e", "-c", f"cd '{self.home}'; {script}"]
        return run([*self._enter, *words], given=given, env=self._environment, check=check).stdout

    def succeeds(self, script: str) -> bool:
        """Tell whether the last of these commands ends with 0."""
        return self.sh(f"if {script}; then echo yes; fi", check=False).endswith("yes\n")

    def clear(self) -> None:
        """Remove all containers and volumes; images stay."""
        self.sh("podman rm --all --force --time 5; podman volume prune --force")

    def import_base(self, root: Path) -> None:
        """Make the stand-in for the Dockerfile's base image, unless it is there already."""
        name = base_image()
        known = self.sh(f"podman inspect --format '{{{{json .Labels}}}}' {name}", check=False)
        if f'"{root.name}"' in known:
            return
        without = " ".join(f"--exclude={path}" for path in _LEFT_OUT)
        path = f"ENV PATH={_PATH}"
        self.sh(
            f"tar --directory '{root}' --one-file-system {without} --create . | "
            f"podman import --change '{path}' --change 'LABEL {_LABEL}={root.name}' - {name}"
        )
        self.sh("podman image prune --force --filter until=168h")


def base_image() -> str:
    """Return the name that the Dockerfile gives to its base, as an engine completes it."""
    found = re.search(r"^ARG BASE=(\S+)$", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    return f"docker.io/library/{found[1]}"


@contextmanager
def engine(home: Path, folder: Path) -> Iterator[Engine]:
    """Give an engine that nothing but this run's tests use."""
    sweep()
    _configure(folder)
    groups = own_groups(f"{PREFIX}box-{os.getpid()}", {""})
    alone_in = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--cgroup"]
    alone_in += ["--propagation", "private"]
    with (
        alone("containers"),
        subprocess.Popen(
            ["sh", "-c", JOIN, "sh", *map(str, groups), "--", *alone_in, "sh", "-c", _BOX],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as holder,
    ):
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"ready\n"
            made = Engine(holder.pid, home, folder)
            made.clear()
            yield made
            made.clear()
        finally:
            holder.kill()
            for group in groups:
                remove_group(group)


def _configure(folder: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    (folder / "storage.conf").write_text(_STORAGE)
    (folder / "containers.conf").write_text(_CONTAINERS)
    programs = {
        "docker": _DOCKER.format(lent=lend_pip(folder / "pip")),
        "podman-on-loopback": _ON_LOOPBACK,
        "sudo": '#!/bin/sh\nexec "$@"\n',
    }
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
