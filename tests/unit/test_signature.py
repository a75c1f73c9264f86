"""Signatures are those of Standard Webhooks, and secrets stay secret."""

from __future__ import annotations

import base64
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from mailbridge.sinks.signature import JOINED_BYTES, new_secret, parse_secret, sign


def test_published_vector() -> None:
    """The vector that the Standard Webhooks specification publishes comes out to the letter."""
    key = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert expected == sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)


def test_every_key_signs_newest_first() -> None:
    """While a secret is replaced, both sign, in the order of the configuration."""
    old, new = parse_secret(new_secret()), parse_secret(new_secret())
    both = sign([new, old], "msg_a", 1, b"x")
    assert both.split(" ") == [sign([new], "msg_a", 1, b"x"), sign([old], "msg_a", 1, b"x")]


@pytest.mark.parametrize("size", [0, JOINED_BYTES - 1, JOINED_BYTES, 3_000_000])
def test_a_foreign_verifier_accepts_bodies_of_any_size(size: int) -> None:
    """Small and large bodies are signed in different ways and alike."""
    secret = new_secret()
    timestamp = int(datetime.now(UTC).timestamp())
    body = b" " * size + b"{}"
    headers = {
        "webhook-id": "msg_a",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign([parse_secret(secret)], "msg_a", timestamp, body),
    }
    assert Webhook(secret).verify(body, headers) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", headers)


def test_the_sample_in_the_documentation_works() -> None:
    """What docs/webhooks.md tells receivers to run takes what is sent, and nothing changed."""
    text = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    sample: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], sample)  # the sample is the thing to test
    new, old = new_secret(), new_secret()
    stamp = int(datetime.now(UTC).timestamp())
    keys = [parse_secret(new), parse_secret(old)]
    headers = {
        "webhook-id": "msg_a",
        "webhook-timestamp": str(stamp),
        "webhook-signature": sign(keys, "msg_a", stamp, b'{"a":1}'),
    }
    for secrets in ([new], [old], [new_secret(), old]):
        assert sample["verify"](secrets, headers, b'{"a":1}') == ("msg_a", {"a": 1})
    for secrets, changed, body in (
        ([new], {}, b'{"a":2}'),
        ([new], {"webhook-id": "msg_b"}, b'{"a":1}'),
        ([new], {"webhook-id": "msg.a"}, b'{"a":1}'),
        ([new], {"webhook-timestamp": str(stamp - 1)}, b'{"a":1}'),
        ([new], {"webhook-timestamp": f"{stamp}.5"}, b'{"a":1}'),
        ([new], {"webhook-signature": "v1, v1,x v2,y"}, b'{"a":1}'),
        ([new_secret()], {}, b'{"a":1}'),
    ):
        with pytest.raises(ValueError, match=r"no signature fits|bad id or timestamp"):
            sample["verify"](secrets, headers | changed, body)
    headers["webhook-timestamp"] = str(stamp - 301)
    headers["webhook-signature"] = sign(keys, "msg_a", stamp - 301, b"{}")
    with pytest.raises(ValueError, match="too old or too new"):
        sample["verify"]([new], headers, b"{}")


def test_new_secrets_are_32_random_bytes() -> None:
    """A new secret holds 32 bytes in base64, and no two are alike."""
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(parse_secret(secret)) for secret in made} == {32}


def test_a_secret_read_from_a_file_may_end_in_a_line_feed() -> None:
    """White space around a secret does not change the key."""
    secret = new_secret()
    assert parse_secret(f" {secret}\n") == parse_secret(secret)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("canary-canary-canary", "starts with 'whsec_'"),
        ("", "starts with 'whsec_'"),
        ("whsec_canary-canary!", "must be base64"),
        ("whsec_canarycanäry", "must be base64"),
        ("whsec_canaryA", "must be base64"),
        ("whsec_" + base64.b64encode(b"canary" * 3).decode(), "24 to 64 bytes, this one holds 18"),
        ("whsec_" + base64.b64encode(b"canary" * 11).decode(), "this one holds 66"),
    ],
)
def test_bad_secrets_are_refused_without_being_repeated(text: str, says: str) -> None:
    """Each wrong secret gets a sentence of its own, and no traceback shows the secret."""
    with pytest.raises(ValueError, match="signing secret") as caught:
        parse_secret(text)
    assert says in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value)).split("parse_secret(text)")[-1]
    assert not text or text.removeprefix("whsec_") not in shown


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=200), st.integers(0, 199))
def test_another_body_has_another_signature(key: bytes, body: bytes, at: int) -> None:
    """One changed byte anywhere changes the signature."""
    changed = bytearray(body or b"x")
    changed[at % len(changed)] ^= 1
    assert sign([key], "msg_a", 1, body) != sign([key], "msg_a", 1, bytes(changed))
