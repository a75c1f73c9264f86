"""Every format, signed: what a foreign verifier and our own samples take, and what they refuse."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Reference
from standardwebhooks import WebhookVerificationError

from mailbridge.build import build_sink
from mailbridge.config import Webhook
from mailbridge.config.secrets import Secret
from mailbridge.model import Delivered
from mailbridge.sinks.signature import new_secret, parse_secret, sign
from tests.servers.receiver import answer, receiving
from tests.unit.test_event import DATA, delivery, stored

DOCS = DATA.parent.parent / "docs"
LATIN = b"Subject: Gr\xfc\xdfe\r\n\r\n\xe4\xf6\xfc \xff\xfe\r\n"
#: an answer with which every receiver says yes
YES = b'{"success": true, "status": "OK"}'
FORMATS: dict[str, dict[str, Any]] = {
    "mailbridge": {},
    "cloudevents": {"format": "cloudevents"},
    "raw": {"format": "raw"},
    "raw, not UTF-8": {"format": "raw"},
    "divera v1": {"format": "divera", "divera": {"access_key": Secret("divera-access-key")}},
    "divera v2": {
        "format": "divera",
        "path": "/api/v2/alarms",
        "divera": {"access_key": Secret("divera-access-key")},
    },
    "alamos-fe2": {"format": "alamos-fe2", "alamos": {"authorization": Secret("key-of-fe2")}},
    "template": {"format": "template", "template": '{"a": {{ mail.subject | tojson }}}'},
}
Headers = dict[str, str]


async def request_of(name: str, secrets: list[str]) -> tuple[Headers, bytes]:
    """Send one mail in this format and return what came on the wire."""
    given = {"path": "/api/alarm"} | FORMATS[name]
    async with receiving(answer(200, YES)) as receiver:
        section = Webhook.model_validate(
            {
                "url": receiver.url(given.pop("path")),
                "allow_private": True,
                "signing_secrets": tuple(map(Secret, secrets)),
                **given,
            }
        )
        made = delivery(stored(LATIN) if "UTF-8" in name else stored(), fields={"keyword": "B3"})
        async with build_sink("x", section) as sink:
            [rendered] = sink.render([made])
            assert isinstance(await sink.deliver(rendered, attempt=1), Delivered)
    [request] = receiver.requests
    assert request.headers["content-type"] == rendered.content_type
    return request.headers, request.body


def python_sample() -> Callable[..., Any]:
    """Return `verify` of the documentation; a mail is no JSON, so that is left out as it says."""
    code = (DOCS / "webhooks.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("json.loads(body)", "body"), names)  # the sample is what is tested
    found: Callable[..., Any] = names["verify"]
    return found


def by_reference(secrets: list[str], headers: Mapping[str, str], body: bytes) -> bool:
    """Ask the reference library; it answers some malformed requests with a ValueError."""
    try:
        Reference(secrets[0]).verify(body, dict(headers))
    except (WebhookVerificationError, ValueError):
        return False
    return True


def by_sample(secrets: list[str], headers: Mapping[str, str], body: bytes) -> bool:
    try:
        python_sample()(secrets, headers, body)
    except ValueError:
        return False
    return True


def by_node(folder: Path, cases: list[tuple[list[str], Headers, bytes]]) -> list[bool]:
    """Ask the JavaScript sample of the documentation, in one process for all cases."""
    node = shutil.which("node")
    assert node is not None, "the sample for Node.js is tried with Node.js; install it"
    code = (DOCS / "webhooks.md").read_text("utf-8").split("```javascript\n")[1].split("```")[0]
    (folder / "verify.mjs").write_text(code, encoding="utf-8")
    (folder / "main.mjs").write_text(
        'import { verify } from "./verify.mjs";\nimport { readFileSync } from "node:fs";\n'
        "const said = JSON.parse(readFileSync(0)).map(([secrets, headers, body]) => {\n"
        '  try { verify(secrets, headers, Buffer.from(body, "base64")); return true; }\n'
        "  catch { return false; }\n});\nconsole.log(JSON.stringify(said));\n",
        encoding="utf-8",
    )
    asked = [
        (secrets, headers, base64.b64encode(body).decode()) for secrets, headers, body in cases
    ]
    done = subprocess.run(
        [node, folder / "main.mjs"],
        input=json.dumps(asked).encode(),
        capture_output=True,
        check=True,
    )
    answers: list[bool] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("name", FORMATS)
async def test_every_format_is_verified_with_each_live_secret(name: str, tmp_path: Path) -> None:
    """The reference library and both samples take every request, with one secret and with three.

    All but one: the reference library makes text of the body first, and a mail may be none.
    """
    for live in ([new_secret()], [new_secret() for _ in range(3)]):
        headers, body = await request_of(name, live)
        assert len(headers["webhook-signature"].split(" ")) == len(live)
        cases = [([secret], headers, body) for secret in live]
        for case in cases:
            assert by_sample(*case)
            if name.startswith("raw"):
                # No JSON, and the library wants to return some; the signature comes first.
                with pytest.raises(UnicodeDecodeError if "UTF-8" in name else json.JSONDecodeError):
                    Reference(case[0][0]).verify(body, headers)
            else:
                assert by_reference(*case)
        assert by_node(tmp_path, cases) == [True] * len(live)


def tampered(secret: str, headers: Headers, body: bytes) -> dict[str, tuple[str, Headers, bytes]]:
    """Return a genuine request changed in twelve ways."""
    id_, stamp = headers["webhook-id"], int(headers["webhook-timestamp"])
    signature = headers["webhook-signature"]
    key, now = parse_secret(secret), int(datetime.now(UTC).timestamp())

    def at(moment: int) -> Headers:
        signed = sign([key], id_, moment, body)
        return {**headers, "webhook-timestamp": str(moment), "webhook-signature": signed}

    flipped = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
    return {
        "a byte is added": (secret, headers, body + b" "),
        "a byte is missing": (secret, headers, body[:-1]),
        "a byte is changed": (secret, headers, body[:9] + bytes([body[9] ^ 1]) + body[10:]),
        "the body of another event": (secret, headers, b'{"type":"mail.received"}'),
        "another id": (secret, {**headers, "webhook-id": id_[:-1] + "7"}, body),
        "the border of id and time is moved": (
            secret,
            {**headers, "webhook-id": f"{id_}.{stamp}", "webhook-timestamp": str(stamp)},
            body,
        ),
        "another time": (secret, {**headers, "webhook-timestamp": str(stamp + 1)}, body),
        "too old": (secret, at(now - 310), body),
        "too new": (secret, at(now + 310), body),
        "another signature": (secret, {**headers, "webhook-signature": flipped}, body),
        "another version": (
            secret,
            {**headers, "webhook-signature": signature.replace("v1,", "v2,")},
            body,
        ),
        "another key": (new_secret(), headers, body),
    }


@pytest.mark.parametrize("name", FORMATS)
async def test_twelve_kinds_of_tampering_are_refused(name: str, tmp_path: Path) -> None:
    """Whatever is changed of a genuine request, no verifier takes it any more."""
    secret = new_secret()
    headers, body = await request_of(name, [secret])
    cases = tampered(secret, headers, body)
    assert len(cases) == 12
    asked = [([key], changed, content) for key, changed, content in cases.values()]
    assert [kind for kind, case in zip(cases, asked, strict=True) if by_sample(*case)] == []
    assert [kind for kind, case in zip(cases, asked, strict=True) if by_reference(*case)] == []
    assert by_node(tmp_path, [*asked, ([secret], headers, body)]) == [False] * 12 + [True]


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,!!!! v1,ümlaut garbage"},
        {"webhook-timestamp": "nan"},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "99999999999999999999"},
        {"webhook-id": ""},
        {"webhook-id": "a b"},
    ],
)
async def test_malformed_headers_are_refused(change: Headers, tmp_path: Path) -> None:
    """What is no signature, no time or no id is refused and makes no sample fall over."""
    secret = new_secret()
    headers, body = await request_of("mailbridge", [secret])
    assert not by_sample([secret], headers | change, body)
    assert by_node(tmp_path, [([secret], headers | change, body)]) == [False]
