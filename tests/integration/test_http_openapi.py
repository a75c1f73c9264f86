"""The OpenAPI document describes what is really answered: schemathesis tries it against a store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok

from mailbridge.http.problems import MEDIA_TYPE
from tests.contract.mails import NOON, accept, batch, claim, dead, done, gap, mail, notice, ref
from tests.servers.api import TOKEN, Api, running_api

#: what schemathesis takes for a mistake and is none: the token is always sent here, so requests
#: without it are not refused; 404 and 409 are right for names that it makes up
LEFT_OUT = {"ignored_auth", "negative_data_rejection", "positive_data_acceptance"}
EXAMPLES = 10


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        await accept(running.store, range(1, 20))
        first, second, third, *rest = await claim(running.store)
        await running.store.resolve([done(first), dead(second), dead(third)])
        await running.store.release(rest)
        await running.store.accept(
            batch(mail(20), gaps=(gap(21),), uid=21), address="a@b.example", settles=True
        )
        await running.store.notify([notice("notice_1", text="<b>\u2028")], ["erp"])
        yield running


async def described(api: Api) -> dict[str, Any]:
    _, document = await api.call("GET", "/openapi.json", token=None)
    found: dict[str, Any] = document
    return found


async def test_what_is_described_is_what_is_answered(api: Api) -> None:
    """Whatever is sent by the description or against it: no 500, and answers as described."""
    api.health.folders[0].proven(NOON)  # a 503 would be taken for a fault
    document = await described(api)
    names = [ref(1).message_id, ref(21).message_id, "notice_1", "1@example.org", "2", "3", "20"]
    await asyncio.to_thread(try_all, document, api.url, names)


def try_all(document: dict[str, Any], url: str, names: Sequence[str]) -> None:
    """Let schemathesis try every operation; what stands in the store is asked for now and then."""
    load_all_checks()
    checks = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == 12
    with requests.Session() as session:
        session.trust_env = False
        for operation in operations:
            described = document["paths"][operation.path][operation.method.lower()]
            modes = [GenerationMode.POSITIVE]
            if described.keys() & {"parameters", "requestBody"}:  # else nothing can be wrong
                modes.append(GenerationMode.NEGATIVE)
            for mode in modes:
                _try(operation.as_strategy(generation_mode=mode), names, checks, url, session)


def _try(
    cases: st.SearchStrategy[Any],
    names: Sequence[str],
    checks: list[Any],
    url: str,
    session: requests.Session,
) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, name=st.none() | st.sampled_from(names))
    def attempt(case: Any, name: str | None) -> None:
        positive = case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE
        if name is not None and positive and "id" in case.path_parameters:
            numbered = case.operation.path.startswith("/v1/deliveries")
            if not numbered or name.isdecimal():
                case.path_parameters["id"] = int(name) if numbered else name
        case.call_and_validate(
            base_url=url,
            session=session,
            headers={"authorization": f"Bearer {TOKEN}"},
            checks=checks,
        )

    attempt()


async def test_tokens_and_problems_are_described(api: Api) -> None:
    """Under /v1 every operation wants the bearer token; every error is a problem everywhere."""
    document = await described(api)
    assert document["openapi"].startswith("3.1")
    scheme = document["components"]["securitySchemes"]["HTTPBearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation.get("security", []) == (
                [{"HTTPBearer": []}] if path.startswith("/v1") else []
            ), path
            for status, response in operation["responses"].items():
                if status == "default" or int(status) >= 400:
                    assert list(response["content"]) == [MEDIA_TYPE], (path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_problems_are_as_described(api: Api) -> None:
    """Problem documents fit their schema, also those that no route of the API gives."""
    document = await described(api)
    schema = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    for method, path in (
        ("GET", "/nothing"),
        ("DELETE", "/v1/messages"),
        ("GET", "/v1/messages?limit=0"),
        ("GET", "/v1/messages/msg_NOBODY"),
        ("GET", "/readyz"),
    ):
        status, problem = await api.call(method, path)
        assert status >= 400
        validator.validate(problem)
    _, problem = await api.call("GET", "/v1/mailboxes", token=None)
    validator.validate(problem)


async def test_what_senders_write_stays_text(api: Api) -> None:
    """What somebody else has written is escaped as JSON escapes, and read back as it was."""
    hostile = '<script>"\\\u2028\u202e\x00@b.example'
    await api.store.accept(batch(mail(30), uid=30), address=hostile, settles=True)
    answer, content = await api.ask("GET", f"/v1/messages/{ref(30).message_id}")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(content)["messages"][0]["address"] == hostile
    assert b"\x00" not in content
