"""test-mailbox where a mailbox sends: connecting and signing in to SMTP, with one thing wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mailbridge import test_mail
from mailbridge.build import utc_now
from mailbridge.config import load
from mailbridge.diagnose.round_trip import Trip
from mailbridge.diagnose.smtp import Letter
from mailbridge.diagnose.steps import Diagnosis, Step
from mailbridge.model import Delivered, Outcome
from mailbridge.sandbox.config_text import config_for
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sign_ins import SignIns
from tests.servers.sandbox_client import ADDRESS, signing_key


class Bench:
    """A tenant with one app and one mailbox that fetches and sends."""

    def __init__(self, tenant: Tenant, app: App, home: Path) -> None:
        self.tenant, self.app, self.home = tenant, app, home

    async def steps(
        self, change: Callable[[str], str] = lambda text: text, trip: Trip | None = None
    ) -> dict[str, Step]:
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
        diagnosis = Diagnosis(config=config, name=name, sign_in=sign_in, run=run, trip=trip)
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


# -- a test mail


class Journey:
    """A trip that is announced here, and what a daemon would say of it."""

    def __init__(self, *, message_id: str = "", daemon: Mapping[str, Any] | None = None) -> None:
        mail = test_mail.compose(sender=ADDRESS, to=ADDRESS, at=datetime.now(UTC))
        self.letter = Letter(to=ADDRESS, message_id=message_id or mail.message_id, raw=mail.raw)
        self.announced = 0
        self.pings: list[str] = []
        self._daemon = daemon

    def trip(self, patience: float) -> Trip:
        """Return it as a diagnosis takes it."""
        state = self._state if self._daemon is not None else None
        ping = None if state else self._ping
        return Trip(
            letter=self.letter, announce=self._announce, state=state, ping=ping, patience=patience
        )

    async def _announce(self) -> None:
        self.announced += 1

    async def _state(self) -> Mapping[str, Any] | None:
        return self._daemon

    async def _ping(self, webhook: str, message_id: str) -> Outcome:
        self.pings.append(f"{webhook} {message_id}")
        return Delivered(status=204)


async def test_a_mail_that_does_not_arrive_is_given_up_on_in_time(bench: Bench) -> None:
    """The step says so and where to look; webhooks are not told of what was not seen."""
    journey = Journey(message_id="<another@feuerwehr.example>")
    steps = await bench.steps(trip=journey.trip(2.0))
    assert steps["send"].status == "ok"
    assert (steps["arrival"].status, steps["arrival"].code) == ("failed", "arrival.late")
    assert f"Get-InboxRule -Mailbox {ADDRESS}" in steps["arrival"].fix
    assert steps["delivery"].status == "skipped"
    assert (journey.announced, journey.pings) == (1, [])
    said = [entry.name for entry in bench.tenant.imap.commands]
    assert 2 <= said.count("EXAMINE") <= 4
    assert not {"SELECT", "STORE", "UID STORE", "EXPUNGE"} & set(said)


async def test_a_sender_that_is_refused_fails_the_step_with_its_cause(bench: Bench) -> None:
    """What the server says after the mail is told with its code; nobody waits for an arrival."""
    bench.tenant.faults.add("smtp.send_as_denied")
    steps = await bench.steps(trip=Journey().trip(1.0))
    assert steps["send"].status == "failed"
    assert steps["send"].code == "smtp.send_as_denied"
    assert steps["send"].fix
    assert [steps[name].status for name in ("arrival", "delivery")] == ["skipped"] * 2
    assert steps["folder"].status == "ok"


async def test_webhooks_are_told_once_and_by_message_id(bench: Bench) -> None:
    """Without a daemon, each that can be told of a test gets one ping."""
    journey = Journey()
    steps = await bench.steps(trip=journey.trip(20.0))
    assert steps["delivery"].status == "ok"
    assert journey.pings == [f"receiver {journey.letter.message_id}"]


async def test_where_nobody_fetches_nobody_waits(bench: Bench) -> None:
    """A mailbox that only sends: the mail is sent, what cannot be seen is left out, nothing failed.

    Nobody is asked, and no webhook is told of what nobody saw.
    """
    journey = Journey()
    steps = await bench.steps(
        lambda text: text.replace("protocol: imap", "protocol: none"), journey.trip(60.0)
    )
    assert steps["send"].status == "ok"
    assert [steps[name].status for name in ("arrival", "delivery")] == ["skipped"] * 2
    assert failed(steps) == {}
    assert journey.pings == []


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"seen_at": None, "webhooks": []}, "delivery.unseen"),
        ({"seen_at": "x", "webhooks": [("deferred", "HTTP 503")]}, "delivery.failed"),
        ({"seen_at": "x", "webhooks": [("dead", "HTTP 400")]}, "delivery.failed"),
    ],
)
async def test_what_the_daemon_says_of_its_webhooks_is_told(
    bench: Bench, said: dict[str, Any], code: str
) -> None:
    """Not fetched, still waiting, given up: each is a failure with the webhook's own words."""
    hooks = [{"webhook": "receiver", "state": s, "reason": r} for s, r in said["webhooks"]]
    daemon = {**said, "message": "msg_X", "webhooks": hooks}
    steps = await bench.steps(trip=Journey(daemon=daemon).trip(2.0))
    assert (steps["delivery"].status, steps["delivery"].code) == ("failed", code)
    for _, reason in said["webhooks"]:
        assert reason in steps["delivery"].detail
