"""What Entra's answers mean, and what a token says about itself."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.catalogue.base import Entry, Ids
from mailbridge.catalogue.lookup import CATALOGUE, explain
from mailbridge.errors import SignInRejected, TemporaryError, Throttled, Unavailable
from mailbridge.sign_in.claims import claims
from mailbridge.sign_in.credentials import ClientSecret
from mailbridge.sign_in.entra_errors import PAUSES, first_line, refusal
from mailbridge.sign_in.token_http import TokenHttp


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


IDS = Ids(app="one", tenant="a-tenant", client_id="a-client", account="alarm@x.example")


@pytest.mark.parametrize(
    "entry", [e for e in CATALOGUE.values() if e.code.startswith("AADSTS")], ids=lambda e: e.code
)
def test_the_catalogue_decides_who_has_to_act(entry: Entry) -> None:
    """The number decides, whatever `error` says; the fix is the catalogue's, with our ids."""
    answer = {"error": "invalid_grant", "error_description": f"{entry.code}: No."}

    error = refusal(answer, IDS)

    temporary = entry.kind == "passing" or entry.code in PAUSES
    assert isinstance(error, TemporaryError if temporary else SignInRejected)
    assert (error.code, error.fix) == (entry.code, explain(entry.code, IDS)[1])
    assert "$" not in error.fix


@pytest.mark.parametrize("number", [90033, 90055, 50196])
def test_a_passing_error_is_temporary_even_as_invalid_client(number: int) -> None:
    """Overload at Entra is no rejected credential, however it is labelled."""
    answer = {"error": "invalid_client", "error_description": f"AADSTS{number}: Later."}

    assert isinstance(refusal(answer), TemporaryError)


def test_what_entra_takes_for_a_loop_is_not_asked_again_for_a_quarter_of_an_hour() -> None:
    """AADSTS50196: each request in between would prolong the block."""
    error = refusal({"error": "invalid_grant", "error_codes": [50196]})

    assert isinstance(error, Throttled)
    assert error.retry_after == 900


def test_a_pause_that_entra_asks_for_keeps_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After with temporarily_unavailable: the pause is obeyed and the number told."""
    body = {"error": "temporarily_unavailable", "error_codes": [90055]}
    answer = (400, {"Retry-After": "7"}, json.dumps(body).encode())
    http = TokenHttp(None)
    monkeypatch.setattr(http, "fetch", lambda *_: answer)

    with pytest.raises(Throttled) as caught:
        http.post("https://localhost/x")

    assert (caught.value.code, caught.value.retry_after) == ("AADSTS90055", 7)


CORRELATION = "0f9f0a64-2f4c-4b8e-9d5e-8f1f2d3c4b5a"


@pytest.mark.parametrize(
    "answer",
    [
        {"error_description": f"AADSTS999999: New.\r\nCorrelation ID: {CORRELATION}\r\nTime: 1"},
        {"error_description": "AADSTS999999: New.", "correlation_id": CORRELATION},
    ],
)
def test_an_unknown_number_shows_its_words_and_what_support_asks_for(
    answer: dict[str, object],
) -> None:
    """Entra's sentence, the number, and the correlation id; no fix is made up."""
    error = refusal({"error": "invalid_grant", **answer})

    assert (error.code, error.fix) == ("AADSTS999999", "")
    assert str(error) == f"AADSTS999999: New. (correlation id {CORRELATION})"


@pytest.mark.parametrize("given", ["x" * 200, "eyJhbGciOi.eyJ.x", 7, None, CORRELATION + "0"])
def test_nothing_but_an_id_is_shown_as_a_correlation_id(given: object) -> None:
    """Whoever answers in Entra's place cannot put other text into a log that way."""
    error = refusal({"error_description": "AADSTS999999: New.", "correlation_id": given})

    assert str(error) == "AADSTS999999: New."


def test_a_known_refusal_is_the_same_each_time() -> None:
    """No id of a single request makes two of the same look different in a log."""
    answer = {"error_description": "AADSTS7000215: No.", "correlation_id": CORRELATION}

    assert str(refusal(answer)) == "AADSTS7000215: No."


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
