"""POST /v1/send on a real server and store: durable before the answer, once per key, or refused."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mailbridge.errors import StoreFull
from mailbridge.model import StoredSend
from mailbridge.parse import parse
from mailbridge.store.store import Store
from tests.servers.api import OTHER_TOKEN, TOKEN, Api, running_api

MAIL = {"from": "alarm", "to": "max@fw.example", "subject": "Übung", "text": "um 12"}
WHOLE = b"From: alarm@feuerwehr.example\nTo: max@fw.example\nBcc: x@y.example\n\ntext\n.\n"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        yield running


async def post(api: Api, mail: Any = None, key: str = "", **more: Any) -> tuple[int, Any]:
    headers = {"content-type": "application/json"}
    if key:
        headers["idempotency-key"] = key
    body = io.BytesIO(json.dumps(mail or MAIL).encode())
    return await api.call("POST", "/v1/send", data=body, headers=headers, **more)


async def whole(api: Api, raw: bytes, **query: Any) -> tuple[int, Any]:
    headers = {"content-type": "message/rfc822"}
    return await api.call("POST", "/v1/send", data=io.BytesIO(raw), params=query, headers=headers)


async def kept(store: Store) -> list[StoredSend]:
    """Return the mails that a dispatcher would get."""
    asked: Any = {"limit": 1000, "max_bytes": 2**30, "lease": 60.0}
    claimed = await store.claim("send:alarm", **asked)
    await store.release(claimed)
    return [one.send for one in claimed if one.send is not None]


async def test_a_mail_is_durable_when_it_is_answered(tmp_path: Path) -> None:
    """202 names the mail; after the end of the process it is there, as it was answered."""
    async with running_api(tmp_path) as api:
        answer, content = await api.ask("POST", "/v1/send", json=MAIL)
        taken = json.loads(content)
        assert answer.status == 202
        assert answer.headers["location"] == f"/v1/send/{taken['id']}"
    async with running_api(tmp_path) as api:
        [mail] = await kept(api.store)
        status, found = await api.call("GET", f"/v1/send/{taken['id']}")
    assert (mail.id, f"<{mail.message_id}>") == (taken["id"], taken["message_id"])
    assert (taken["mailbox"], taken["state"]) == ("alarm", "queued")
    assert mail.sender == "alarm@feuerwehr.example"
    assert parse(mail.raw).subject == "Übung"
    assert (status, found["state"], found["via"]) == (200, "queued", "api")
    assert found["message_id"] == taken["message_id"]
    assert [(one["address"], one["state"]) for one in found["recipients"]] == [
        ("max@fw.example", "open")
    ]


async def test_the_same_key_is_the_same_mail(api: Api) -> None:
    """However often it is sent, also at the same time: one mail. Each client has its own keys."""
    answers = await asyncio.gather(*(post(api, key="order 4711") for _ in range(8)))
    assert {status for status, _ in answers} == {202}
    assert len({json.dumps(taken) for _, taken in answers}) == 1
    assert len(await kept(api.store)) == 1
    assert (await post(api, key="order 4712"))[1] != answers[0][1]
    assert (await post(api, key="order 4711", token=OTHER_TOKEN))[0] == 202
    assert (await post(api))[0] == 202
    assert len(await kept(api.store)) == 4


async def test_a_key_that_means_another_mail_is_refused(api: Api) -> None:
    """The same key with another body, or another query, is a conflict, and nothing is kept."""
    await post(api, key="k")
    status, problem = await post(api, {**MAIL, "subject": "other"}, key="k")
    assert (status, problem["code"]) == (409, "send.key_conflict")
    headers = {"content-type": "message/rfc822", "idempotency-key": "w"}
    for query, expected in (({"to": "a@b.example"}, 202), ({"to": "c@d.example"}, 409)):
        answer, _ = await api.ask("POST", "/v1/send", data=WHOLE, params=query, headers=headers)
        assert answer.status == expected
    assert len(await kept(api.store)) == 2


async def test_a_key_is_printable_and_short(api: Api) -> None:
    """1 to 255 printable characters; another is a fault, not cut off."""
    for key in ("x" * 256, "ä", "a\tb"):
        status, problem = await post(api, key=key)
        assert status == 422
        assert problem["errors"][0]["where"].lower() == "header.idempotency-key"


async def test_a_whole_mail_is_taken_as_it_is(api: Api) -> None:
    """message/rfc822: its own recipients, or those of the query; Bcc gets it and is not seen."""
    assert (await whole(api, WHOLE))[0] == 202
    query = {"from": "alarm", "to": ["a@b.example", "c@d.example"]}
    assert (await whole(api, WHOLE, **query))[0] == 202
    first, second = await kept(api.store)
    assert first.open == ("max@fw.example", "x@y.example")
    assert second.open == ("a@b.example", "c@d.example")
    for mail in (first, second):
        assert mail.raw.endswith(b"To: max@fw.example\r\n\r\ntext\r\n.\r\n")
        assert b"Bcc" not in mail.raw


FAULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"from": "info@elsewhere.example"}, ["body.from"]),
    ({"from": "nobody"}, ["body.from"]),
    ({"mailbox": "nobody"}, ["body.mailbox"]),
    ({"to": []}, ["body.to"]),
    ({"to": ["a@b.example", {"address": "root", "name": "x"}]}, ["body.to.1"]),
    ({"to": [{"adress": "x"}]}, ["body.to.0.address", "body.to.0.adress"]),
    ({"to": ["a@b.example"] * 501}, ["body.to"]),
    ({"subject": "a\r\nBcc: x@y.example", "cc": "\n"}, ["body.cc.0", "body.subject"]),
    ({"headers": {"Bcc": "x@y.example"}}, ["body.headers.Bcc"]),
    ({"headers": {"X-A": "a\nb"}}, ["body.headers.X-A"]),
    ({"attachments": [{"content_base64": "a"}]}, ["body.attachments.0.content_base64"]),
    ({"sender": "alarm"}, ["body.sender"]),
    ({"auto": "yes"}, ["body.auto.bool", "body.auto.literal['replied']"]),
    ({"subject": 1}, ["body.subject"]),
]


async def test_every_fault_is_named(api: Api) -> None:
    """422 says where each fault is and repeats nothing; nothing is kept."""
    for changed, where in FAULTS:
        status, problem = await post(api, {**MAIL, **changed})
        assert status == 422
        assert [fault["where"] for fault in problem["errors"]] == where
        assert "elsewhere" not in json.dumps(problem)
    assert await kept(api.store) == []


NO_MAILS = [
    ("application/json", b"{", 422),
    ("application/json", b'{"from": "alarm", "subject": "\\ud800", "to": "a@b.example"}', 422),
    ("application/json", b"[]", 422),
    ("text/plain", b"hello", 415),
    ("multipart/form-data", b"hello", 415),
    ("message/rfc822", b"no header", 422),
    ("message/rfc822", WHOLE.replace(b"alarm@", b"evil@"), 422),
    ("message/rfc822", b"From: evil@feuerwehr.example\n" + WHOLE, 422),
    ("message/rfc822", b"X-Mailbridge-Id: out_A\n" * 6 + WHOLE, 422),
]


async def test_what_is_no_mail_is_refused(api: Api) -> None:
    """Broken JSON, other types, mails of others, and mails that go in circles."""
    for kind, body, status in NO_MAILS:
        headers = {"content-type": kind}
        answer, _ = await api.call("POST", "/v1/send", data=body, headers=headers)
        assert answer == status, body
    assert await kept(api.store) == []


async def test_an_unknown_mail_is_not_found(api: Api) -> None:
    """404 for ids that never were; every client may look at every mail, as in the mail log."""
    _, taken = await post(api)
    assert (await api.call("GET", "/v1/send/out_NOBODY"))[0] == 404
    assert (await api.call("GET", "/v1/send/1"))[0] == 404
    place = f"/v1/send/{taken['id']}"
    assert (await api.call("GET", place, token=OTHER_TOKEN))[0] == 200
    assert (await api.call("GET", place, token=None))[0] == 401


async def test_a_full_disk_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """507 and nothing kept; the client has the mail, and may try again."""

    async def full(*_: object) -> None:
        raise StoreFull("the disk is full", code="store.full")

    monkeypatch.setattr(api.store.sends, "accept", full)
    answer, content = await api.ask("POST", "/v1/send", json=MAIL)
    assert (answer.status, json.loads(content)["code"]) == (507, "store.full")
    assert int(answer.headers["retry-after"]) > 0


async def test_large_mails_pass_and_larger_ones_do_not(api: Api) -> None:
    """25 MB of attachments go; what would be more than 35 MB as it is sent is 413."""
    content = base64.b64encode(bytes(25_000_000)).decode()
    mail = {**MAIL, "attachments": [{"filename": "a.bin", "content_base64": content}]}
    assert (await post(api, mail))[0] == 202
    [one] = await kept(api.store)
    assert len(one.raw) > 33_000_000
    status, problem = await whole(api, WHOLE + (b"x" * 990 + b"\n") * 37_000)
    assert (status, problem["code"]) == (413, "send.too_large")
    assert len(await kept(api.store)) == 1


async def test_a_client_that_hangs_up_loses_nothing_that_was_answered(api: Api) -> None:
    """Whoever goes away before the answer asks again with the same key: one mail in the end."""
    body = json.dumps(MAIL).encode()
    head = (
        "POST /v1/send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {TOKEN}\r\nIdempotency-Key: gone\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(head + body)
        await writer.drain()
        writer.transport.abort()
    assert (await post(api, key="gone"))[0] == 202
    assert len(await kept(api.store)) == 1
