"""The unit under a booted systemd: every promise of docs/systemd.md, by its own commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.services.lab import HOME, copy_checkout, debian
from tests.services.machine import booted
from tests.services.stage import APP_SECRET, Stage, until
from tests.services.unit import CONFIG, DOCUMENT, UNIT, Service

pytestmark = pytest.mark.services

#: exit status of a configuration that is wrong (sysexits.h)
EX_CONFIG = 78


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Boot a machine, install mailbridge by the documentation, start it."""
    folder: Path = tmp_path_factory.mktemp("systemd")
    root = debian(DOCUMENT["Install"][0], folder / "root")
    checkout = copy_checkout(folder / "checkout")
    log = folder / "boot.log"
    with Stage(folder) as stage, booted(root, checkout, log) as machine:
        service = Service(machine=machine, stage=stage)
        service.install()
        yield service


@pytest.fixture
def service(installed: Service) -> Service:
    """Give the service with its first configuration, running, its restarts not counted."""
    installed.stage.answer_slowly(0)
    installed.put(CONFIG, yaml.safe_dump(installed.stage.config()))
    installed.set(name="one-test")
    if installed.show("ActiveState") != "active":
        installed.restart()
    return installed


def test_the_unit_is_free_of_mistakes_and_exposes_little(service: Service) -> None:
    """No line of the unit is found fault with, and its exposure is 1.5 at most."""
    verify = ("systemd-analyze", "verify", "--recursive-errors=yes", "--man=no")
    assert service.machine.run(*verify, UNIT).stderr == ""
    security = ("systemd-analyze", "security", "--offline=true", "--threshold=15")
    service.machine.run(*security, f"{HOME}/systemd/{UNIT}")


def test_it_is_ready_when_the_daemon_is_and_does_the_main_job(service: Service) -> None:
    """A start returns when all loops run; then mail arrives, and the commands find the daemon."""
    service.restart()
    assert service.show("StatusText") == "watching 1 folder(s)"
    journal = service.journal()
    (daemon,) = (
        n
        for n, line in enumerate(journal)
        if line.get("_PID") == str(service.pid) and '"daemon.started"' in line["MESSAGE"]
    )
    started = max(n for n, line in enumerate(journal) if line["MESSAGE"].startswith("Started "))
    assert daemon < started
    service.stage.wait_for(*[service.stage.deliver(number) for number in range(3)])

    service.machine.sh(DOCUMENT["Start"][1])
    status = json.loads(service.machine.run("mailbridge", "status", "--json").stdout)
    assert status["daemon"]["pid"] == service.pid
    assert [box["state"] for box in status["mailboxes"]] == ["ok"]


def test_a_reload_is_applied_and_the_status_says_so(service: Service) -> None:
    """`systemctl reload` takes the new file into the running process before it returns."""
    before = service.pid
    config = service.stage.config()
    hook = config["webhooks"]["alarm-server"]
    config["webhooks"]["second"] = hook | {"url": hook["url"].replace("/hook", "/second")}
    service.put(CONFIG, yaml.safe_dump(config))
    told = service.machine.sh(DOCUMENT["Reload"][0])

    assert "reloaded, changed: webhooks second" in told
    assert service.pid == before
    service.stage.deliver(1)
    until(
        "the second webhook gets it too",
        lambda: [r for r in service.stage.receiver.requests if r.path == "/second"],
    )
    [reloaded] = [e for e in service.events() if e["event"] == "config.reloaded"]
    assert reloaded["changed"] == "webhooks second"


def test_a_broken_file_is_refused_and_the_old_one_stays_in_force(service: Service) -> None:
    """`systemctl reload` fails, the status tells why, the same process goes on as before."""
    before = service.pid
    service.put(CONFIG, yaml.safe_dump(service.stage.config()).replace("mailboxes:", "mailboxen:"))
    reload, show = DOCUMENT["Reload"][0].splitlines()

    assert service.machine.run("sh", "-c", reload, check=False).returncode == 1
    assert "reload refused" in service.machine.sh(show)
    assert "mailboxen" in service.machine.sh(show)
    assert (service.pid, service.show("ActiveState")) == (before, "active")
    service.stage.wait_for(service.stage.deliver(1))


def test_a_killed_daemon_comes_back_by_itself_and_loses_nothing(service: Service) -> None:
    """After kill -9 with deliveries under way all mails arrive, each under one id."""
    before = service.pid
    service.stage.answer_slowly(0.3)
    keys = [service.stage.deliver(number) for number in range(20)]
    until("deliveries are under way", lambda: service.stage.receiver.active)
    service.machine.sh(f"kill -KILL {before}")
    keys += [service.stage.deliver(number) for number in range(20, 25)]

    service.restarted(before)
    service.stage.answer_slowly(0)
    service.stage.wait_for(*keys)
    assert service.stage.doubled() == []


def test_a_daemon_that_stands_still_is_ended_and_comes_back(service: Service) -> None:
    """Without signs of life systemd's watchdog ends the process, and what had arrived arrives."""
    assert service.show("WatchdogUSec") == "1min"
    service.set("WatchdogSec=3", name="one-test")
    service.restart()
    before = service.pid
    service.machine.sh(f"kill -STOP {before}")
    key = service.stage.deliver(1)

    service.restarted(before)
    service.stage.wait_for(key)
    said = [line["MESSAGE"] for line in service.journal()]
    assert any("Watchdog timeout" in line for line in said)


def test_a_wrong_configuration_is_not_tried_again(service: Service) -> None:
    """The start fails with status 78, nothing is restarted, and the journal names the mistake."""
    good = yaml.safe_dump(service.stage.config())
    service.put(CONFIG, good.replace("mailboxes:", "mailboxen:"))
    assert service.machine.run("systemctl", "restart", UNIT, check=False).returncode == 1

    assert service.show("ActiveState") == "failed"
    assert service.show("ExecMainStatus") == str(EX_CONFIG)
    assert service.show("NRestarts") == "0"
    assert any("mailboxen" in line["MESSAGE"] for line in service.journal())
    service.put(CONFIG, good)
    service.restart()
    assert service.show("ActiveState") == "active"


def test_a_stop_lets_attempts_finish(service: Service) -> None:
    """A stop under load ends with status 0: no attempt is cut off, and the rest comes later."""
    service.stage.answer_slowly(0.5)
    keys = [service.stage.deliver(number) for number in range(12)]
    until("deliveries are under way", lambda: service.stage.receiver.active)
    service.machine.run("systemctl", "stop", UNIT)

    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    assert service.stage.receiver.active == 0
    assert service.events()[-1]["event"] == "daemon.stopped"
    # Root may look and change while it is stopped, and locks it out by none of it.
    service.machine.run("mailbridge", "log")
    service.machine.run("mailbridge", "queue", "retry", "--all", check=False)  # 1: none is dead
    service.stage.answer_slowly(0)
    service.restart()
    service.stage.wait_for(*keys)
    requests = [r.id for r in service.stage.receiver.requests if r.type == "mail.received"]
    ids = {service.stage.accepted()[key] for key in keys}
    assert sorted(id_ for id_ in requests if id_ in ids) == sorted(ids)


def test_credentials_are_for_the_service_alone(service: Service) -> None:
    """The daemon's user may read its secrets, another user neither these nor the files."""
    folder = f"/run/credentials/{UNIT}"
    owner = service.machine.run("stat", "-c", "%u", f"/proc/{service.pid}").stdout.strip()
    assert int(owner) >= 61184  # the range of dynamic users (systemd.exec(5))
    for path in (f"{folder}/{APP_SECRET}", f"/etc/mailbridge/{APP_SECRET}"):
        stranger = service.machine.run(
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", path),
            check=False,
        )
        assert "Permission denied" in stranger.stderr
    secrets = service.stage.secrets
    environ = service.machine.run("cat", f"/proc/{service.pid}/environ").stdout
    line = service.machine.run("cat", f"/proc/{service.pid}/cmdline", CONFIG).stdout
    assert not [name for name, secret in secrets.items() if secret in environ + line]


def test_an_encrypted_credential_serves_as_well(service: Service) -> None:
    """After `systemd-creds encrypt` and with the plain file gone, the mailbox signs in."""
    service.machine.sh(DOCUMENT["Encrypted secrets"][0])
    service.restart()
    service.stage.wait_for(service.stage.deliver(1))
    service.machine.run("mailbridge", "check")


def test_it_can_write_nowhere_else_and_do_nothing_else(service: Service) -> None:
    """A program under the unit's own settings is refused everything that the daemon needs not."""
    probe = (Path(__file__).parent / "probe.py").read_text()
    service.put("/opt/mailbridge/probe.py", probe)
    service.put(
        f"/run/systemd/system/{UNIT}.d/probe.conf",
        "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n"
        "ExecStart=/opt/mailbridge/bin/python /opt/mailbridge/probe.py\n",
    )
    try:
        service.machine.run("systemctl", "daemon-reload")
        service.restart()
        said = [line["MESSAGE"] for line in service.journal("--lines=20")]
        found = json.loads(next(line for line in said if line.startswith('{"probe"')))["probe"]
    finally:
        service.machine.run(
            "rm", f"/run/systemd/system/{UNIT}.d/probe.conf", "/opt/mailbridge/probe.py"
        )
        service.machine.run("systemctl", "daemon-reload")
    allowed = {name for name, outcome in found.items() if outcome == "allowed"}
    assert allowed == {"write /var/lib/mailbridge", "write /run/mailbridge", "write /tmp"}
    refused = {outcome for outcome in found.values() if outcome != "allowed"}
    assert refused <= {"EROFS", "EACCES", "EPERM", "ENOENT", "EAFNOSUPPORT", "ENOSYS"}


def test_the_running_daemon_has_no_rights(service: Service) -> None:
    """The very process has no capability, can gain none, and is filtered."""
    status = service.machine.run("cat", f"/proc/{service.pid}/status").stdout
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {facts[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")


def test_the_journal_is_json_and_holds_no_secret(service: Service) -> None:
    """Whatever the daemon logged so far is one JSON object per line, without secret or token."""
    assert len(service.events()) > 20
    everything = "\n".join(str(line["MESSAGE"]) for line in service.journal())
    assert [name for name, secret in service.stage.secrets.items() if secret in everything] == []
    assert "eyJ" not in everything  # begins every access token (RFC 7519)


def test_an_upgrade_and_a_restored_backup_lose_nothing(service: Service) -> None:
    """The documented upgrade runs through; what came after a backup arrives under the same id."""
    service.machine.run("mkdir", "-p", "/var/backups")
    service.machine.sh(DOCUMENT["Upgrade"][0])
    back_up, restore = DOCUMENT["Back up and restore"]
    service.machine.sh(back_up)
    key = service.stage.deliver(1)
    service.stage.wait_for(key)
    service.machine.sh(restore)
    later = service.stage.deliver(2)
    service.stage.wait_for(later)
    assert service.show("ActiveState") == "active"
    assert service.stage.doubled() == []


def test_it_is_removed_without_a_trace(service: Service) -> None:
    """After the documented commands no file, no process, no user of it is left."""
    for block in DOCUMENT["Remove"]:
        service.machine.sh(block)
    left = service.machine.sh(
        "find /etc /opt /usr /var/lib -name '*mailbridge*' -not -path '*/site-packages/*'"
    )
    assert left == ""
    assert service.machine.run("systemctl", "status", UNIT, check=False).returncode == 4
