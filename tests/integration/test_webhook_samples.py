"""The samples of docs/webhooks.md, as a reader copies them, at requests that the daemon signed."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from mailbridge.sandbox.config_text import new_signing_secret
from tests.servers.site import SECONDS, Site, mail, site

__all__ = ["site"]  # the fixture

PAGE = (Path(__file__).parents[2] / "docs/webhooks.md").read_text(encoding="utf-8")
DRIVER = """
import { readFileSync } from "node:fs";
import { verify } from "./sample.mjs";

const cases = JSON.parse(readFileSync(0, "utf-8"));
const told = cases.map(({ secrets, headers, body }) => {
  try {
    return verify(secrets, headers, Buffer.from(body, "base64"));
  } catch (error) {
    return `refused: ${error.message}`;
  }
});
console.log(JSON.stringify(told));
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request and the secrets that a receiver checks it with."""

    headers: Mapping[str, str]
    body: bytes
    secrets: Sequence[str]
    genuine: bool = False


def samples(language: str) -> list[str]:
    """Return the blocks of code of a language, in the order of the page."""
    return [block.split("```")[0] for block in PAGE.split(f"```{language}\n")[1:]]


def python(number: int) -> Callable[..., tuple[str, Any]]:
    """Return ``verify`` of a sample in Python."""
    names: dict[str, Any] = {}
    exec(compile(samples("python")[number], "docs/webhooks.md", "exec"), names)
    found: Callable[..., tuple[str, Any]] = names["verify"]
    return found


async def request(site: Site) -> Case:
    """Return a request as the daemon has sent it."""
    site.box.deliver(mail(1))
    async with site.daemon():
        [got] = await site.receiver.wait(1, seconds=SECONDS, event="mail.received")
    headers = {name.lower(): value for name, value in got.headers.items()}
    return Case(headers=headers, body=got.body, secrets=site.receiver.secrets, genuine=True)


def forged(case: Case) -> Mapping[str, Case]:
    """Return what a receiver has to take or refuse, by what was done to it."""
    headers, other = case.headers, new_signing_secret()
    refused = replace(case, genuine=False)

    def with_(**changed: str) -> Mapping[str, str]:
        return {**headers, **{f"webhook-{name}": value for name, value in changed.items()}}

    stamp = str(int(time.time()) - 600)
    return {
        "genuine": case,
        "while rotating": replace(case, secrets=[other, *case.secrets]),
        "another signature first": replace(
            case, headers=with_(signature=f"v1,{'A' * 43}= {headers['webhook-signature']}")
        ),
        "tampered body": replace(refused, body=case.body.replace(b"Alarm 1", b"Alarm 2")),
        "one bit": replace(refused, body=bytes([case.body[0] ^ 1]) + case.body[1:]),
        "wrong secret": replace(refused, secrets=[other]),
        "old, and signed": replace(refused, headers=signed(case, with_(timestamp=stamp))),
        "old timestamp": replace(refused, headers=with_(timestamp=stamp)),
        "another id": replace(refused, headers=with_(id="msg_other")),
        "no signature": replace(refused, headers=with_(signature="")),
        "nonsense": replace(refused, headers=with_(signature="v1,%% v1 ,")),
    }


def signed(case: Case, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Sign headers anew with the right secret: a request that was recorded or held back."""
    key = base64.b64decode(case.secrets[0].removeprefix("whsec_"))
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + case.body
    signature = base64.b64encode(hmac.digest(key, text, "sha256")).decode()
    return {**headers, "webhook-signature": f"v1,{signature}"}


async def javascript(folder: Path, cases: Sequence[Case]) -> list[str]:
    """Return what the sample in JavaScript says of each request, asked in Node.js."""
    (folder / "sample.mjs").write_text(samples("javascript")[0])
    (folder / "driver.mjs").write_text(DRIVER)
    asked = [
        {
            "secrets": list(case.secrets),
            "headers": dict(case.headers),
            "body": base64.b64encode(case.body).decode(),
        }
        for case in cases
    ]
    node = await asyncio.create_subprocess_exec(
        "node", "driver.mjs", cwd=folder, stdin=asyncio.subprocess.PIPE, stdout=-1, stderr=-1
    )
    out, err = await node.communicate(json.dumps(asked).encode())
    assert node.returncode == 0, err.decode()
    told: list[str] = json.loads(out)
    return told


async def test_each_sample_takes_what_is_genuine_and_nothing_else(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a receiver copies from the page takes the daemon's requests and refuses every forgery.

    In Python with the standard library, with the library, and in Node.js.
    """
    case = await request(site)
    cases = forged(case)
    name = case.headers["webhook-id"]
    plain, library = python(0), python(1)
    from_node = await javascript(tmp_path_factory.mktemp("node"), list(cases.values()))

    assert sum(one.genuine for one in cases.values()) == 3
    for (what, one), told in zip(cases.items(), from_node, strict=True):
        for verify in (plain, library):
            if one.genuine:
                found, event = verify(one.secrets, one.headers, one.body)
                assert (found, event["data"]["subject"]) == (name, "Alarm 1"), what
            else:
                with pytest.raises((ValueError, WebhookVerificationError)):
                    verify(one.secrets, one.headers, one.body)
        assert told == name if one.genuine else told.startswith("refused: "), what


def test_the_page_has_the_samples_that_are_tested() -> None:
    """Three samples, in two languages; one that comes on top has to be tested, too."""
    assert len(samples("python")) == 2
    assert "import standardwebhooks" not in samples("python")[0]
    assert "standardwebhooks" in samples("python")[1]
    assert len(samples("javascript")) == 1
    assert 'from "node:crypto"' in samples("javascript")[0]
    assert samples("javascript")[0].count("import ") == 1
