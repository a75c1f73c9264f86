"""test-mailbox where a mailbox sends: connecting and signing in to SMTP, with one thing wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mailbridge.build import utc_now
from mailbridge.config import load
from mailbridge.diagnose.steps import Diagnosis, Step
from mailbridge.sandbox.config_text import config_for
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sign_ins import SignIns
from tests.servers.sandbox_client import ADDRESS, signing_key


class Bench:
    """A tenant with one app and one mailbox that fetches and sends."""

    def __init__(self, tenant: Tenant, app: App, home: Path) -> None:
        self.tenant, self.app, self.home = tenant, app, home

    async def steps(self, change: Callable[[str], str] = lambda text: text) -> dict[str, Step]:
        """Diagnose with the configuration after ``change``."""
        text = config_for(
            self.tenant, webhook_url="http://127.0.0.1:1/", state_dir=self.home, send=[ADDRESS]
        )
        file = self.home / "mailbridge.yaml"
        file.write_text(change(text))
        config = load(file)

        async def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(function, *args, **kwargs)

        [name] = config.mailboxes
        sign_in = SignIns(config, grants=None, now=utc_now, run=run).of(name)
        diagnosis = Diagnosis(config=config, name=name, sign_in=sign_in, run=run)
        steps = {step.id: step async for step in diagnosis.steps()}
        assert "eyJ" not in str(steps)
        return steps


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Tenant.start(files=tmp_path, key=signing_key()) as tenant:
        app = tenant.add_app("alarm-app")
        tenant.grant(app, tenant.add_mailbox(ADDRESS))
        yield Bench(tenant, app, tmp_path / "state")


def failed(steps: dict[str, Step]) -> dict[str, str]:
    return {name: step.code for name, step in steps.items() if step.status == "failed"}


async def test_sending_is_tried_after_fetching(bench: Bench) -> None:
    """The last two steps connect and sign in as the daemon does; no mail is sent."""
    steps = await bench.steps()
    assert [step.status for step in steps.values()] == ["ok"] * 14
    assert list(steps)[-4:] == ["push", "smtp", "smtp_sign_in", "expiry"]
    assert "SIZE 157286400" in steps["smtp"].detail
    assert "no mail was sent" in steps["smtp_sign_in"].detail
    said = [entry.name for entry in bench.tenant.smtp.commands]
    assert said == ["EHLO", "STARTTLS", "EHLO", "AUTH", "QUIT"]


async def test_a_mailbox_that_only_sends_is_tried_for_that(bench: Bench) -> None:
    """With `fetch.protocol: none` the steps of fetching are left out, not failed."""
    steps = await bench.steps(lambda text: text.replace("protocol: imap", "protocol: none"))
    wanted = ["config", "tenant", "token", "claims", "smtp", "smtp_sign_in", "expiry"]
    assert list(steps) == wanted
    assert failed(steps) == {}
    assert bench.tenant.imap.connections == 0


async def test_smtp_auth_that_is_switched_off_names_its_command(bench: Bench) -> None:
    """Tenant and mailbox switch are told apart, and the command has the mailbox's address."""
    for of in ("tenant", "mailbox"):
        bench.tenant.faults.clear()
        bench.tenant.faults.add(f"smtp.auth_disabled_{of}")
        steps = await bench.steps()
        assert failed(steps) == {"smtp_sign_in": f"smtp.auth_disabled_{of}"}
        step = steps["smtp_sign_in"]
        assert f"the {'whole tenant' if of == 'tenant' else 'mailbox'}".split()[-1] in step.cause
        wanted = f"Set-CASMailbox -Identity {ADDRESS} -SmtpClientAuthenticationDisabled $false"
        assert wanted in step.fix


async def test_a_missing_role_is_a_warning_before_the_sign_in(bench: Bench) -> None:
    """Without SMTP.SendAsApp the claims warn, and the sign-in shows whether it matters."""
    bench.app.roles = ("IMAP.AccessAsApp",)
    steps = await bench.steps()
    assert (steps["claims"].status, steps["claims"].code) == ("warning", "claims.role.smtp")
    assert failed(steps) == {"smtp_sign_in": "smtp.authenticate_failed"}
    assert bench.app.object_id in steps["smtp_sign_in"].fix


async def test_trouble_with_sending_does_not_hide_that_fetching_works(bench: Bench) -> None:
    """A server without STARTTLS fails its own step; the credential is not sent to it."""
    bench.tenant.faults.add("smtp.no_capability", capability="STARTTLS")
    steps = await bench.steps()
    assert failed(steps) == {"smtp": "smtp.no_starttls"}
    assert steps["smtp_sign_in"].status == "skipped"
    assert steps["sign_in"].status == "ok"
    assert "AUTH" not in {entry.name for entry in bench.tenant.smtp.commands}
