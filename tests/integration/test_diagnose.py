"""test-mailbox against a tenant with one thing wrong at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailbridge.build import utc_now
from mailbridge.catalogue.base import Language
from mailbridge.config import load
from mailbridge.diagnose.steps import Diagnosis, Step
from mailbridge.sandbox.ca import Authority
from mailbridge.sandbox.config_text import config_for
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sign_ins import SignIns

ORDER = [
    *("config", "dns", "tcp", "tls", "tenant", "token", "claims", "sign_in", "folder", "header"),
    *("push", "expiry"),
]


class Bench:
    """A tenant with one app and one mailbox, and the configuration that fits it."""

    def __init__(self, tenant: Tenant, app: App, home: Path) -> None:
        self.tenant, self.app, self.home = tenant, app, home
        self.box = tenant.mailbox("alarm@feuerwehr.example")

    async def steps(
        self,
        change: Callable[[str], str] = lambda text: text,
        *,
        pop3: bool = False,
        webhook: str = "",
        language: Language = "en",
    ) -> dict[str, Step]:
        """Diagnose with the configuration after ``change``."""
        text = config_for(
            self.tenant,
            webhook_url=webhook or "http://127.0.0.1:1/",
            state_dir=self.home,
            pop3=[self.box.address] if pop3 else (),
        )
        file = self.home / "mailbridge.yaml"
        file.write_text(change(text))
        config = load(file)

        async def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(function, *args, **kwargs)

        [name] = config.mailboxes
        sign_in = SignIns(config, grants=None, now=utc_now, run=run).of(name)
        diagnosis = Diagnosis(
            config=config,
            name=name,
            sign_in=sign_in,
            run=run,
            language=language,
            webhooks=bool(webhook),
        )
        steps = [step async for step in diagnosis.steps()]
        hooks = [f"webhook:{hook}" for hook in config.webhooks] if webhook else []
        assert [step.id for step in steps] == [*ORDER, *hooks]
        self.silent(steps)
        return {step.id: step for step in steps}

    def silent(self, steps: list[Step]) -> None:
        """No step shows the secret or anything like a token."""
        text = str([asdict(step) for step in steps])
        assert self.app.secret not in text
        assert "eyJ" not in text


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Tenant.start(files=tmp_path) as tenant:
        app = tenant.add_app("alarm-app")
        box = tenant.add_mailbox("alarm@feuerwehr.example")
        tenant.grant(app, box)
        yield Bench(tenant, app, tmp_path / "state")


def failed(steps: dict[str, Step]) -> list[str]:
    return [name for name, step in steps.items() if step.status == "failed"]


async def test_all_is_well(bench: Bench) -> None:
    """Every step is ok, says what it saw, and the mailbox is unchanged."""
    bench.box.deliver(b"Subject: x\r\n\r\nhello\r\n")
    steps = await bench.steps()

    assert {step.status for step in steps.values()} == {"ok"}
    assert "IMAP.AccessAsApp" in steps["claims"].detail
    assert "1 messages" in steps["folder"].detail
    assert "UID 1" in steps["header"].detail
    assert "\\Seen" not in bench.box.folder("INBOX").flags(1)


async def test_a_wrong_secret(bench: Bench) -> None:
    """The token step names Entra's code and the place to mend it; what needs a token is skipped."""
    bench.app.secrets.clear()
    bench.app.add_secret("another-value-than-the-file-holds")
    file_secret = "the-old-value-of-the-secret"
    steps = await bench.steps(lambda text: _with_secret(bench, text, file_secret))

    assert failed(steps) == ["token"]
    assert steps["token"].code == "AADSTS7000215"
    assert bench.app.client_id in steps["token"].fix
    assert steps["tls"].status == "ok"
    assert [steps[n].status for n in ("claims", "sign_in", "folder", "header")] == ["skipped"] * 4


def _with_secret(bench: Bench, text: str, value: str) -> str:
    (bench.home / "alarm-app.secret").write_text(value)
    return text


async def test_an_unknown_tenant(bench: Bench) -> None:
    """The tenant step shows Entra's own code, which msal hides."""
    wrong = "99999999-9999-4999-8999-999999999999"
    steps = await bench.steps(lambda text: text.replace(bench.tenant.directory.tenant_id, wrong))

    assert failed(steps) == ["tenant"]
    assert steps["tenant"].code == "AADSTS90002"
    assert wrong in steps["tenant"].fix
    assert steps["token"].status == "skipped"


async def test_missing_consent(bench: Bench) -> None:
    """A token without roles is found before anybody dials: the claims step names the permission."""
    bench.app.consented = False
    steps = await bench.steps()

    assert "claims" in failed(steps)
    assert steps["claims"].code == "claims.role"
    assert "IMAP.AccessAsApp" in steps["claims"].fix
    assert steps["sign_in"].code == "imap.authenticate_failed"


async def test_missing_permission_on_the_mailbox(bench: Bench) -> None:
    """Signed in but not connected: the fix is the PowerShell line with the token's object id."""
    bench.tenant.revoke(bench.app, bench.box)
    text_before = config_for(bench.tenant, webhook_url="http://127.0.0.1:1/", state_dir=bench.home)
    assert "alarm@feuerwehr.example" not in text_before
    bench.tenant.grant(bench.app, bench.box)

    def revoke(text: str) -> str:
        bench.tenant.revoke(bench.app, bench.box)
        return text

    steps = await bench.steps(revoke)
    [refused] = [steps[name] for name in failed(steps)]

    assert refused.code == "imap.not_connected"
    assert f"-User {bench.app.object_id}" in refused.fix
    assert "Add-MailboxPermission -Identity alarm@feuerwehr.example" in refused.fix


async def test_a_folder_that_is_not_there(bench: Bench) -> None:
    """The folder step says which folders the mailbox has."""
    steps = await bench.steps(lambda text: text.replace("[INBOX]", "[Alarme]"))

    assert failed(steps) == ["folder"]
    assert "INBOX" in steps["folder"].fix + steps["folder"].detail
    assert steps["header"].status == "skipped"


async def test_a_certificate_of_somebody_else(bench: Bench) -> None:
    """An unknown authority fails the TLS step, and nothing is sent over that connection."""

    def other_ca(text: str) -> str:
        other = bench.home / "other"
        other.mkdir()
        Authority().write(other)
        line = next(line for line in text.splitlines() if "server:" in line)
        return text.replace(line, line.replace(str(bench.home / "ca.pem"), str(other / "ca.pem")))

    steps = await bench.steps(other_ca)

    assert "tls" in failed(steps)
    assert steps["tls"].code == "tls.unknown_authority"
    assert steps["token"].status == "ok"
    assert steps["sign_in"].status == "skipped"


async def test_nobody_listens(bench: Bench) -> None:
    """A closed port fails the TCP step; the token is tried all the same."""
    steps = await bench.steps(
        lambda text: text.replace(f"port: {bench.tenant.imap.port}", "port: 1")
    )

    assert failed(steps) == ["tcp"]
    assert steps["tls"].status == "skipped"
    assert steps["claims"].status == "ok"


async def test_no_idle_is_a_warning(bench: Bench) -> None:
    """A server without IDLE is told of with how often the mailbox is looked at instead."""
    bench.tenant.faults.add("imap.no_capability", capability="IDLE")
    steps = await bench.steps()

    assert failed(steps) == []
    assert steps["push"].status == "warning"
    assert "every 5 s" in steps["push"].detail


async def test_all_is_well_over_pop3(bench: Bench) -> None:
    """A mailbox that is fetched by POP3 is tried by POP3; nothing is deleted from it."""
    bench.box.deliver(b"Received: by x; Sat, 21 Nov 2026 10:04:00 +0000\r\n\r\nhello\r\n")
    steps = await bench.steps(pop3=True)

    assert {step.status for step in steps.values()} == {"ok"}
    assert "UIDL" in steps["folder"].detail
    assert "2026-11-21 10:04:00" in steps["header"].detail
    assert "has none" in steps["push"].detail
    assert bench.tenant.pop3.deleted == 0
    assert len(bench.box.folder("INBOX").messages) == 1


async def test_the_role_of_pop3_is_missing(bench: Bench) -> None:
    """An app that may read by IMAP only is told which permission POP3 needs."""
    bench.app.roles = ("IMAP.AccessAsApp",)
    steps = await bench.steps(pop3=True)

    assert steps["claims"].code == "claims.role.pop3"
    assert "POP.AccessAsApp" in steps["claims"].fix
    assert steps["sign_in"].code == "pop3.authenticate_failed"


async def test_pop_is_switched_off(bench: Bench) -> None:
    """POP3 refuses without a reason: the fix names the switch, and the permission."""
    bench.box.pop_enabled = False
    steps = await bench.steps(pop3=True)

    assert failed(steps) == ["sign_in"]
    assert "Set-CASMailbox -Identity alarm@feuerwehr.example -PopEnabled $true" in (
        steps["sign_in"].fix
    )
    assert "Add-MailboxPermission" in steps["sign_in"].fix


async def test_a_token_too_long_for_pop3(bench: Bench) -> None:
    """The trap of 4,096 characters is named where it springs, and where it may."""
    bench.app.padding = 4000
    warned = await bench.steps(pop3=True)
    bench.tenant.faults.add("pop3.new_front_end")
    refused = await bench.steps(pop3=True)

    assert (warned["sign_in"].status, warned["sign_in"].code) == ("warning", "pop3.token_long")
    assert refused["sign_in"].code == "pop3.token_too_long"
    assert "4,096" in warned["sign_in"].fix
    assert "4,096" in refused["sign_in"].detail


async def test_a_secret_that_ends_soon_is_a_warning(bench: Bench) -> None:
    """Whoever looks is told of the end and what to do, sixty days before; nothing fails."""
    soon = (datetime.now(UTC) + timedelta(days=20)).date()

    def with_end(text: str) -> str:
        return text.replace("    credential:\n", f"    credential:\n      expires: {soon}\n", 1)

    steps = await bench.steps(with_end)
    assert steps["expiry"].status == "warning"
    assert str(soon) in steps["expiry"].detail
    assert steps["expiry"].fix
    assert not [step for step in steps.values() if step.status == "failed"]
