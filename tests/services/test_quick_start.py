"""The third and fourth part of the quick start, typed in a booted machine as they stand.

What only a tenant of one's own could give is the sandbox's: its ids, servers and secrets take the
place of those in the page's configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.pages import DOCS, read
from tests.services.documented import commands
from tests.services.lab import copy_checkout, debian
from tests.services.machine import Machine, booted
from tests.services.stage import APP_SECRET, Stage, until
from tests.services.unit import CONFIG
from tests.services.unit import DOCUMENT as SYSTEMD

pytestmark = pytest.mark.services

PAGE: Final = DOCS / "quick-start.md"
TYPED: Final = commands(PAGE)
#: what stands in the root already, since it is the same in docs/systemd.md
PREPARED: Final = SYSTEMD["Install"][0]
STATUS: Final = ("mailbridge", "status")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a tenant with an app and a mailbox, and a receiver."""
    with Stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def machine(tmp_path: Path, stage: Stage) -> Iterator[Machine]:
    """Boot a Debian that has Python, and nothing of mailbridge but its packages."""
    root = debian(PREPARED, tmp_path / "root")
    with booted(root, copy_checkout(tmp_path / "checkout"), tmp_path / "boot.log") as machine:
        yield machine


def configuration(stage: Stage) -> str:
    """Return the page's file, with the ids, servers and addresses of the sandbox."""
    [text] = [block.text for block in read(PAGE).blocks if block.language == "yaml"]
    document: dict[str, Any] = yaml.safe_load(text)
    theirs = stage.config()
    [app], [box], [hook] = (document[part].values() for part in ("apps", "mailboxes", "webhooks"))
    app |= {key: theirs["apps"]["alarm-app"][key] for key in ("tenant", "client_id", "ca")}
    box["fetch"]["server"] = theirs["mailboxes"]["alarm"]["fetch"]["server"]
    hook |= {"url": stage.receiver.url, "allow_private": True}
    return yaml.safe_dump(document)


def test_the_page_leads_to_a_service_that_delivers(machine: Machine, stage: Stage) -> None:
    """Every command of the two parts succeeds, in order, and then mail reaches the webhook."""
    install, edit, secrets, fits = TYPED["3. Install and configure"]
    begin, look, change = TYPED["4. Run it as a service"]
    assert install.startswith(PREPARED)
    machine.sh(install.removeprefix(PREPARED))
    folder, editor = edit.splitlines()
    machine.sh(folder)
    assert editor == f"sudo nano {CONFIG}"
    machine.run("install", "-m", "644", "/dev/stdin", CONFIG, given=configuration(stage))
    machine.run("install", "-m", "644", "/dev/stdin", "/etc/mailbridge/ca.pem", given=stage.ca)
    machine.sh(secrets, given=f"{stage.app.secret}\n")
    made = machine.sh("cat /etc/mailbridge/erp-webhook").strip()
    stage.receiver.secrets = [made]
    said = machine.sh(fits)
    begun = machine.sh(begin)
    # `start: new` is about what comes after the first look.
    until("the mailbox is seen", lambda: machine.run(*STATUS, check=False).returncode == 0)
    stage.wait_for(stage.deliver(1))
    seen = machine.sh(look.replace(" --follow", ""))
    machine.sh(change)

    assert made.startswith("whsec_")
    assert machine.sh(f"stat -c %a /etc/mailbridge/{APP_SECRET}").strip() == "600"
    assert "alarm is fine" in said
    assert "active (running)" in begun
    assert "delivered" in seen
