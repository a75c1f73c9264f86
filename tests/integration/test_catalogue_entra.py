"""test-mailbox and the daemon against each refusal of Entra's that the catalogue knows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mailbridge.build import utc_now
from mailbridge.catalogue.base import Language
from mailbridge.cli.main import app
from mailbridge.config import load
from mailbridge.diagnose.steps import Diagnosis, Step
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from mailbridge.sign_in.base import Standing
from mailbridge.sign_ins import SignIns
from tests.integration.catalogue_rows_entra import ROWS, Row
from tests.integration.entra_situations import Case, arrange

LANGUAGES: tuple[Language, ...] = ("en", "de")
#: the steps that are about Entra
_STEPS = ("tenant", "grant", "token", "claims")
#: what Entra takes for a loop is our bug, and passes by itself when nobody asks for a while
_BUG_THAT_PASSES = "AADSTS50196"


async def _run(function: Any, *args: Any, **kwargs: Any) -> Any:
    return await asyncio.to_thread(function, *args, **kwargs)


async def _diagnosed(case: Case) -> tuple[dict[Language, list[Step]], Standing]:
    """Return the steps of test-mailbox by language, and what the daemon says of the sign-in."""
    config = load(case.write())
    sign_ins = SignIns(config, grants=case.grants, now=utc_now, run=_run)
    sign_in = sign_ins.of("box")
    steps: dict[Language, list[Step]] = {}
    for language in LANGUAGES:
        diagnosis = Diagnosis(
            config=config,
            name="box",
            # The second one gets the same refusal, which is remembered for a while.
            sign_in=sign_in,
            run=_run,
            language=language,
            grants=case.grants if case.row.sign_in == "delegated" else None,
        )
        steps[language] = [step async for step in diagnosis.steps()]
    standing = sign_in.standing()
    await sign_ins.close()
    return steps, standing


def _told(case: Case, steps: list[Step], words: str) -> str:
    """Return what is wrong about a diagnosis; empty when it is right."""
    found = next((step for step in steps if step.id in _STEPS and step.code), None)
    if found is None or found.code != case.row.code:
        return f"code {found and found.code} ({found and found.detail})"
    if words not in found.fix:
        return f"fix {found.fix!r} lacks {words!r}"
    filled = f"{found.cause} {found.fix}".replace("$true", "")
    if not found.cause or "$" in filled or "<" in filled:
        return f"cause {found.cause!r}, fix {found.fix!r}"
    shown = str(steps)
    if any(secret in shown for secret in (case.app.secret, case.user.password, "eyJ")):
        return "a secret is shown"
    return ""


def _stands(case: Case, standing: Standing) -> str:
    """Return what is wrong about the daemon's own account of it."""
    if standing.state in {"unknown", "ok"} or not standing.code.startswith(("AADSTS", "entra.")):
        return ""  # it did not come to a token, or came to one
    passes = case.row.fact == "T" or case.row.code == _BUG_THAT_PASSES
    if standing.code != case.row.code or not standing.fix or "<" in standing.fix:
        return f"the daemon says {standing.code}, {standing.fix!r}"
    if (standing.state == "temporarily_unavailable") != passes:
        return f"the daemon takes it for {standing.state}"
    return ""


async def test_each_refusal_is_told_by_its_code_its_cause_and_its_fix(tmp_path: Path) -> None:
    """Every row, in English and in German, by test-mailbox and by the daemon: none is wrong."""
    key = SigningKey.generate()
    wrong: list[str] = []
    for number, row in enumerate(ROWS):
        home = tmp_path / str(number)
        async with Tenant.start(key=key) as tenant:
            case = Case(tenant, row, home)
            arrange(case, key)
            steps, standing = await _diagnosed(case)
        found = (
            _told(case, steps["en"], row.en)
            or _told(case, steps["de"], row.de)
            or _stands(case, standing)
        )
        if found:
            wrong.append(f"{row.code} {row.how}: {found}")

    assert len(ROWS) >= 130
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "how", "language"),
    [
        ("AADSTS7000215", "wrong_secret", "de"),
        ("AADSTS90002", "unknown_tenant", "en"),
        ("AADSTS53003", "blocked_app", "de"),
        ("AADSTS50126", "wrong_password", "en"),
        ("entra.http_429", "token.429", "de"),
        ("sign_in.no_grant", "never_signed_in", "en"),
    ],
)
async def test_the_command_prints_the_same_as_json(
    tmp_path: Path, code: str, how: str, language: Language
) -> None:
    """`mailbridge test-mailbox box --json --lang …`, as it is typed, exits 1 and says it all."""
    [row] = [one for one in ROWS if (one.code, one.how) == (code, how)]
    async with Tenant.start() as tenant:
        case = Case(tenant, row, tmp_path / "case")
        arrange(case, tenant.tokens.key)
        words = ["--config", str(case.write()), "test-mailbox", "box", "--json"]
        done = await _run(CliRunner().invoke, app, [*words, "--lang", language])

    report = json.loads(done.stdout)
    [step] = [one for one in report["steps"] if one["id"] in _STEPS and one["code"]]
    assert (done.exit_code, report["ok"]) == (1, False)
    assert (step["status"], step["code"]) == ("failed", code)
    assert (row.en if language == "en" else row.de) in step["fix"]
    assert step["cause"]
    assert case.app.secret not in done.stdout
    assert case.user.password not in done.stdout


async def test_an_unknown_number_shows_entras_words_and_the_correlation_id(tmp_path: Path) -> None:
    """Nothing is made up; what Microsoft's support asks for is there, and nothing token-like."""
    row = Row("AADSTS999999", "C", "application", "new", "", "")
    token = "eyJ" + "a" * 120
    async with Tenant.start() as tenant:
        case = Case(tenant, row, tmp_path / "case")
        case.answers(EntraError(400, "invalid_client", 999999, f"Something new. {token}"))
        steps, standing = await _diagnosed(case)
        asked = tenant.entra.requests[-1].correlation_id

    [step] = [one for one in steps["en"] if one.id == "token"]
    assert step.code == standing.code == "AADSTS999999"
    said = f"AADSTS999999: Something new. [removed] (correlation id {asked})"
    assert step.detail == step.cause == standing.cause == said
    assert step.fix == ""
