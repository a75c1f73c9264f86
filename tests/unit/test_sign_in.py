"""What Entra's answers mean, and what a token says about itself."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.errors import SignInRejected, Unavailable
from mailbridge.sign_in.claims import claims
from mailbridge.sign_in.credentials import ClientSecret
from mailbridge.sign_in.entra_errors import FIXES, first_line, refusal


def _jwt(payload: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


def test_claims_are_read_without_padding() -> None:
    """The payload of a JWT comes back as it was written."""
    payload = {"aud": "https://outlook.office.com", "roles": ["IMAP.AccessAsApp"], "exp": 1}

    assert claims(_jwt(payload)) == payload


@pytest.mark.parametrize(
    "token", ["", "opaque", "a.b", "a.b.c", "e30.é.x", _jwt([1]), _jwt("text"), "x" * 70000]
)
def test_what_is_no_jwt_has_no_claims(token: str) -> None:
    """An opaque token is as good as any other; it only says nothing."""
    assert claims(token) == {}


@given(st.text())
def test_claims_never_raise(text: str) -> None:
    """Whatever a token consists of, diagnosis goes on."""
    assert isinstance(claims(f"e30.{text}.x"), dict)


@pytest.mark.parametrize("number", sorted(FIXES))
def test_every_error_with_a_fix_needs_a_person(number: int) -> None:
    """The number decides, whatever `error` says."""
    answer = {"error": "invalid_grant", "error_description": f"AADSTS{number}: No."}

    error = refusal(answer)

    assert isinstance(error, SignInRejected)
    assert (error.code, error.fix) == (f"AADSTS{number}", FIXES[number])


@pytest.mark.parametrize("number", [90033, 90055, 50196])
def test_a_passing_error_is_temporary_even_as_invalid_client(number: int) -> None:
    """Overload at Entra is no rejected credential, however it is labelled."""
    answer = {"error": "invalid_client", "error_description": f"AADSTS{number}: Later."}

    assert isinstance(refusal(answer), Unavailable)


def test_the_number_is_found_without_a_description() -> None:
    """`error_codes` is enough."""
    error = refusal({"error": "invalid_client", "error_codes": [7000222]})

    assert isinstance(error, SignInRejected)
    assert error.code == "AADSTS7000222"


@pytest.mark.parametrize("answer", [{}, {"error": None}, {"error_codes": "x"}, {"error": "new"}])
def test_an_answer_that_says_nothing_is_temporary(answer: dict[str, object]) -> None:
    """An unknown error is worth another try."""
    assert isinstance(refusal(answer), Unavailable)


@pytest.mark.parametrize(
    "description",
    [
        "AADSTS1: No such thing.\r\nTrace ID: 1\r\nCorrelation ID: 2\r\nTimestamp: 3",
        "AADSTS1: No such thing. Trace ID: 1 Correlation ID: 2 Timestamp: 3",
    ],
)
def test_trace_ids_are_cut_off_in_both_forms(description: str) -> None:
    """Entra separates them by line breaks or by blanks."""
    assert first_line(description) == "AADSTS1: No such thing."


def test_a_description_is_one_bounded_line_without_anything_token_like() -> None:
    """Control characters, length and long runs of base64 are all dealt with."""
    line = first_line("a\x1b[31m\nb " + "x" * 150 + " " + "word " * 200)

    assert "\n" not in line
    assert "\x1b" not in line
    assert "x" * 100 not in line
    assert len(line) == 300


def test_a_secret_hides_itself() -> None:
    """It is in no repr, and it takes itself out of a text."""
    secret = ClientSecret("s3cret~value")

    assert "s3cret" not in repr(secret)
    assert secret.hide("the secret s3cret~value is wrong") == "the secret *** is wrong"
    assert secret.proof().value == "s3cret~value"
    assert "s3cret" not in repr(secret.proof())
