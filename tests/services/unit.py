"""The installed service in a booted machine, as its operator handles it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import yaml

from tests.services.documented import commands
from tests.services.lab import CHECKOUT
from tests.services.machine import Machine
from tests.services.stage import APP_SECRET, Stage, until

DOCUMENT: Final = commands(CHECKOUT / "docs" / "systemd.md")
UNIT: Final = "mailbridge.service"
CONFIG: Final = "/etc/mailbridge/mailbridge.yaml"
#: settings that only tests want, gone with the machine
_DROP_IN: Final = f"/run/systemd/system/{UNIT}.d"


@dataclass(slots=True, kw_only=True)
class Service:
    """One installation of mailbridge; ``machine`` is where it runs, ``stage`` what it talks to."""

    machine: Machine
    stage: Stage

    def install(self) -> None:
        """Do what the documentation says from the second command on (the first is in the root)."""
        self.machine.sh(DOCUMENT["Install"][1])
        self.put(CONFIG, yaml.safe_dump(self.stage.config()))
        self.put("/etc/mailbridge/ca.pem", self.stage.ca)
        store, name_them = DOCUMENT["Configure"]
        for name, secret in self.stage.secrets.items():
            self.machine.sh(store.replace(APP_SECRET, name), given=f"{secret}\n")
        self.machine.sh(name_them)
        # Two seconds until a restart are for a world that has to recover first; ours has not.
        self.set("RestartSec=100ms")
        self.machine.sh(DOCUMENT["Start"][0])

    def put(self, path: str, text: str) -> None:
        """Write a file that everybody may read."""
        self.machine.run("install", "-D", "-m", "644", "/dev/stdin", path, given=text)

    def set(self, *lines: str, name: str = "test") -> None:
        """Give the unit other settings, until the next ``set`` under the same name."""
        text = "\n".join(["[Service]", *lines, ""])
        self.put(f"{_DROP_IN}/{name}.conf", text)
        self.machine.run("systemctl", "daemon-reload")

    def show(self, *names: str) -> str:
        """Return a property of the unit as systemd shows it."""
        wanted = [f"--property={name}" for name in names]
        return self.machine.run("systemctl", "show", "--value", *wanted, UNIT).stdout.strip()

    @property
    def pid(self) -> int:
        """The daemon's process, in the machine's own numbers."""
        return int(self.show("MainPID"))

    def restart(self) -> None:
        """Start it anew, whatever it was before, with nothing counted."""
        self.machine.run("systemctl", "reset-failed", UNIT)
        self.machine.run("systemctl", "restart", UNIT)

    def restarted(self, before: int) -> None:
        """Wait until systemd has brought it back, another process than before."""
        until(
            "systemd has brought the service back",
            lambda: self.show("ActiveState") == "active" and self.pid not in {0, before},
        )

    def journal(self, *options: str) -> list[dict[str, Any]]:
        """Return the journal of the unit: systemd's entries and the daemon's."""
        said = self.machine.run(
            "journalctl", "--unit", UNIT, "--output", "json", "--no-pager", *options
        ).stdout
        return [json.loads(line) for line in said.splitlines()]

    def events(self) -> list[dict[str, Any]]:
        """Return what the daemons of this installation logged; each line has to be JSON.

        A start that is refused, and the check of a reload, say in plain words why.
        """
        said: dict[str, list[str]] = {}
        for line in self.journal("_COMM=mailbridge"):
            said.setdefault(line["_PID"], []).append(line["MESSAGE"])
        daemons = [
            lines for lines in said.values() if any("daemon.started" in one for one in lines)
        ]
        every = [line for lines in daemons for line in lines]
        if other := [line for line in every if not line.startswith("{")]:
            raise AssertionError(f"not JSON: {other}")
        return [json.loads(line) for line in every]
