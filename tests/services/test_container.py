"""The image, built and run by the commands of docs/container.md, on a stand-in for its base."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.services.documented import commands
from tests.services.engine import Engine, base_image, engine
from tests.services.lab import CHECKOUT, copy_checkout, debian
from tests.services.stage import APP_SECRET, Stage, until

pytestmark = pytest.mark.services

DOCUMENT: Final = commands(CHECKOUT / "docs" / "container.md")
SYSTEMD: Final = commands(CHECKOUT / "docs" / "systemd.md")
USER: Final = 10001
#: where it writes, and what it is refused elsewhere
WRITE: Final = """
import json, pathlib
def outcome(folder):
    path = pathlib.Path(folder, "probe")
    try:
        path.write_text("x")
        path.unlink()
    except OSError as error:
        return error.errno
    return 0
folders = "/ /etc /etc/mailbridge /opt/mailbridge /usr /var /run /run/secrets /home /root".split()
folders += ["/tmp", "/var/lib/mailbridge"]
print(json.dumps({folder: outcome(folder) for folder in folders}))
"""


class Container:
    """One container named ``mailbridge``, with what it talks to."""

    def __init__(self, engine: Engine, stage: Stage) -> None:
        self.engine, self.stage = engine, stage

    def configure(self) -> None:
        """Do what the documentation says before the first start."""
        prepare, protect = DOCUMENT["Configure"]
        for name, secret in self.stage.secrets.items():
            self.engine.sh(prepare.replace(APP_SECRET, name), given=f"{secret}\n")
        self.write(self.stage.config())
        (self.engine.home / "config" / "ca.pem").write_text(self.stage.ca)
        assert "\nok\n" in self.engine.sh(protect)

    def write(self, config: dict[str, Any]) -> None:
        """Put another configuration in place."""
        (self.engine.home / "config" / "mailbridge.yaml").write_text(yaml.safe_dump(config))

    def start(self) -> None:
        """Start it by the documentation, and wait until it is healthy."""
        self.engine.sh(DOCUMENT["Start"][0])
        until("the container is healthy", self.healthy)

    def healthy(self) -> bool:
        """Ask the image's own HEALTHCHECK (the engine's timer is systemd's, which is not here)."""
        return self.engine.succeeds("docker healthcheck run mailbridge > /dev/null 2>&1")

    def inspect(self, what: str) -> str:
        """Return a fact about the container."""
        return self.engine.sh(f"docker inspect --format '{{{{{what}}}}}' mailbridge").strip()

    def events(self) -> list[dict[str, Any]]:
        """Return the log; each line has to be JSON."""
        return [
            json.loads(line) for line in self.engine.sh("docker logs mailbridge 2>&1").splitlines()
        ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """Build the image by the documentation and configure it."""
    folder: Path = tmp_path_factory.mktemp("container")
    root = debian(SYSTEMD["Install"][0], folder / "root")
    home = copy_checkout(folder / "checkout")
    with Stage(folder) as stage, engine(home, folder / "engine") as docker:
        print(f"built on a stand-in for {base_image()}: Debian's own Python")  # noqa: T201 - said
        docker.import_base(root)
        docker.sh(DOCUMENT["Build"][0])
        container = Container(docker, stage)
        try:
            container.configure()
            yield container
        finally:
            # Secrets belong there; once nobody runs, nowhere.
            shutil.rmtree(home / "secrets")


@pytest.fixture
def container(built: Container) -> Iterator[Container]:
    """Give a running container with an empty volume, and remove it afterwards."""
    built.stage.answer_slowly(0)
    built.write(built.stage.config())
    built.start()
    yield built
    built.engine.clear()


def test_it_does_the_main_job_from_inside(container: Container) -> None:
    """Mail that arrives is delivered, and the commands in the container find the daemon."""
    container.stage.wait_for(*[container.stage.deliver(number) for number in range(3)])
    container.engine.sh(DOCUMENT["Start"][1])
    assert {line["level"] for line in container.events()} == {"info"}


def test_it_runs_without_rights_on_a_read_only_system(container: Container) -> None:
    """Not root, no capability, none to gain, filtered; it writes to its volume and /tmp alone."""
    status = container.engine.sh("docker exec mailbridge cat /proc/1/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Name"] == "mailbridge"  # the first process itself
    assert set(facts["Uid"].split()) == {str(USER)} == set(facts["Gid"].split())
    assert {facts[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    said = container.engine.sh("docker exec --interactive mailbridge python -", given=WRITE)
    found = json.loads(said)
    writable = {folder for folder, number in found.items() if not number}
    # Podman gives every read-only container a /run in memory.
    assert writable - {"/run"} == {"/tmp", "/var/lib/mailbridge"}
    assert set(found.values()) <= {0, errno.EROFS, errno.EACCES}


def test_the_image_holds_no_tools_and_no_secrets(container: Container) -> None:
    """Neither pip nor build tools nor what else lies in a checkout are in it."""
    tried = "docker exec mailbridge python -c 'import {}' 2> /dev/null"
    assert not [
        name
        for name in ("pip", "hatchling", "setuptools")
        if container.engine.succeeds(tried.format(name))
    ]
    image = "localhost/mailbridge:latest"
    said = container.engine.sh(f"docker inspect {image}; docker history --no-trunc {image}")
    secrets = container.stage.secrets
    assert not [name for name, secret in secrets.items() if secret in said]
    assert not container.engine.succeeds("docker exec mailbridge ls /src")


def test_a_daemon_that_stands_still_is_unhealthy(container: Container) -> None:
    """The health check fails for a process that lives and does not answer."""
    pid = container.inspect(".State.Pid")
    container.engine.sh(f"kill -STOP {pid}")
    assert not container.healthy()
    container.engine.sh(f"kill -CONT {pid}")
    until("it is healthy again", container.healthy)


def test_a_reload_is_applied_and_a_broken_one_refused(container: Container) -> None:
    """SIGHUP takes the changed file into the running process, and leaves a broken one alone."""
    config = container.stage.config()
    hook = config["webhooks"]["alarm-server"]
    config["webhooks"]["second"] = hook | {"url": hook["url"].replace("/hook", "/other")}
    container.write(config)
    container.engine.sh(DOCUMENT["Reload"][0])
    until("it is applied", lambda: _named(container, "config.reloaded"))
    container.write({"mailboxen": {}})
    container.engine.sh(DOCUMENT["Reload"][0])
    until("it is refused", lambda: _named(container, "config.refused"))
    container.stage.deliver(1)
    until(
        "both webhooks get it",
        lambda: [r for r in container.stage.receiver.requests if r.path == "/other"],
    )
    assert [line["changed"] for line in _named(container, "config.reloaded")] == ["webhooks second"]


def test_a_stop_under_load_and_an_upgrade_lose_nothing(container: Container) -> None:
    """After SIGTERM amid deliveries, in a new container, each mail has come once, none is lost."""
    container.stage.answer_slowly(0.4)
    keys = [container.stage.deliver(number) for number in range(30)]
    until("deliveries are under way", lambda: container.stage.receiver.active)
    backup, _, down, up = DOCUMENT["Upgrade"][0].splitlines()
    container.engine.sh("docker stop mailbridge")
    assert container.inspect(".State.ExitCode") == "0"
    assert container.events()[-1]["event"] == "daemon.stopped"
    assert container.stage.receiver.active == 0
    first = set(container.stage.accepted()) & set(keys)

    container.engine.sh(down)
    container.stage.answer_slowly(0)
    container.engine.sh(up)
    container.stage.wait_for(*keys)
    assert len(first) < len(keys)  # or the stop came too late to prove anything
    requests = [r.json["data"]["message_id"] for r in container.stage.receiver.requests]
    assert sorted(key for key in requests if key in keys) == sorted(keys)
    until("the container is healthy", container.healthy)
    container.engine.sh(backup)


def test_it_runs_without_compose(built: Container) -> None:
    """The documented `docker run` delivers too, and the backup is a whole database."""
    built.engine.clear()
    (command,) = DOCUMENT["Without Compose"]
    built.engine.sh(command)
    until("the container is healthy", built.healthy)
    built.stage.wait_for(built.stage.deliver(1))
    built.engine.sh(DOCUMENT["Back up"][0])
    assert (built.engine.home / "backup.db").read_bytes().startswith(b"SQLite format 3\0")
    built.engine.clear()


def test_it_is_removed(built: Container) -> None:
    """After the documented commands neither container nor image is left; the volume is."""
    built.start()
    built.engine.sh(DOCUMENT["Remove"][0])
    assert not built.engine.succeeds("docker inspect mailbridge > /dev/null 2>&1")
    assert not built.engine.succeeds("docker image exists localhost/mailbridge:latest")
    assert "_state" in built.engine.sh("docker volume ls")


def _named(container: Container, event: str) -> list[dict[str, Any]]:
    return [line for line in container.events() if line["event"] == event]
