"""The catalogue's part about Entra: complete, in two languages, and free of slips."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest

from mailbridge import client_certificate
from mailbridge.catalogue import (
    claims,
    entra_apps,
    entra_credentials,
    entra_grants,
    entra_outages,
    entra_own,
    entra_people,
    entra_requests,
    entra_scopes,
)
from mailbridge.catalogue.base import Entry, Ids, Text
from mailbridge.catalogue.lookup import CATALOGUE, explain, filled
from mailbridge.errors import SignInRejected, Unavailable
from mailbridge.sign_in.entra_errors import refusal
from mailbridge.sign_in.entra_people import explainer, refused_consent
from mailbridge.sign_in.failures import of_msal
from tests.integration.catalogue_rows_entra import NUMBERS, ROWS, Row

MODULES = (
    *(claims, entra_apps, entra_credentials, entra_grants, entra_outages),
    *(entra_own, entra_people, entra_requests, entra_scopes),
)
ENTRIES = [entry for module in MODULES for entry in module.ENTRIES]
IDS = Ids(**{one.name: f"({one.name})" for one in fields(Ids)})
#: what the fact sheet lists beside the numbers
OTHERS = (
    *("entra.authorization_declined", "entra.temporarily_unavailable", "entra.http_429"),
    *("entra.http_500", "entra.http_503", "entra.permission_denied", "entra.msal"),
    *("sign_in.no_grant", "claims.audience", "claims.role", "claims.scope", "claims.expired"),
    "claims.tenant",
)
KINDS = {"T": "passing", "C": "configuration", "U": "sign_in_again", "D": "bug"}


def _texts(entry: Entry) -> list[Text]:
    return [one for one in (entry.cause, entry.fix, entry.fix_delegated) if one is not None]


def test_every_number_of_the_fact_sheet_has_an_entry_of_its_own() -> None:
    """123 numbers, and what comes without one; none is known by another's code."""
    assert len(set(NUMBERS)) == len(NUMBERS) == 123
    assert [n for n in NUMBERS if f"AADSTS{n}" not in CATALOGUE] == []
    assert [code for code in OTHERS if code not in CATALOGUE] == []


def test_every_number_of_the_fact_sheet_is_tried_against_the_sandbox() -> None:
    """The rows of the integration test leave none out."""
    assert {f"AADSTS{number}" for number in NUMBERS} - {row.code for row in ROWS} == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.code}-{row.sign_in}-{row.how}")
def test_kinds_are_the_fact_sheets(row: Row) -> None:
    """Transient, to be changed by somebody, to be signed in again, or a bug."""
    assert CATALOGUE[row.code].kind == KINDS[row.fact]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.code)
def test_each_entry_says_what_it_is_and_what_helps_in_both_languages(entry: Entry) -> None:
    """Every place for an id is a known one, and both languages name the same ids."""
    for text in _texts(entry):
        for language in ("en", "de"):
            assert filled(text.of(language), IDS, language).strip()
        places = [set(re.findall(r"\$(\w+)", one)) for one in (text.en, text.de)]
        assert places[0] == places[1], entry.code
        assert text.en != text.de or text.en.startswith("`")
    for fix in _texts(entry)[1:]:
        assert fix.en[0].isupper() or fix.en[0] == "`" or fix.en.startswith("mailbridge")
        assert fix.en.endswith(".")
        assert fix.de.endswith(".")
    for one in (entry.cause.en, entry.cause.de):
        assert not one.endswith(".")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.code)
def test_german_names_the_portal_in_german(entry: Entry) -> None:
    """An administrator with a German portal finds no button under its English name."""
    english = (
        *("App registrations", "Certificates & secrets", "Enterprise applications"),
        *("API permissions", "Conditional Access", "Sign-in logs", "Overview", "> Properties"),
        *("Grant admin consent", "Tenant ID", "Redirect URI", "Users and groups"),
    )
    for text in _texts(entry):
        assert [name for name in english if name in text.de] == [], entry.code


def test_a_fix_fits_the_way_of_signing_in() -> None:
    """What a policy refuses to an app and what it refuses to a person is mended elsewhere."""
    app = Ids(client_id="an-app")
    person = Ids(client_id="an-app", account="a@b.example", login="here", sign_in="delegated")

    assert "Service principal sign-ins" in explain("AADSTS53003", app)[1]
    assert "exclude the account a@b.example" in explain("AADSTS53003", person)[1]
    assert "`here`" in explain("AADSTS53003", person)[1]
    assert "Dienstprinzipalanmeldungen" in explain("AADSTS53003", app, "de")[1]


def test_what_msal_cannot_make_sense_of_is_told() -> None:
    """Its ValueError says to check the tenant; it may be the network as well, so it is tried on."""
    error = of_msal(ValueError("Unable to get authority configuration for https://x"), str)
    cause, fix = explain(error.code, Ids(app="one", tenant="a-tenant"))

    assert isinstance(error, Unavailable)
    assert error.code == "entra.msal"
    assert "a-tenant" in fix
    assert "login service" in cause


def test_what_is_wrong_with_a_file_is_told_with_its_name_in_english() -> None:
    """The error knows the file; in German the catalogue says what to do about it."""
    said = "/etc/app.pem: the certificate ended on 2026-01-01"
    fix = "Make a new one in place of /etc/app.pem."

    assert explain("certificate.expired", IDS, said=said, fix=fix)[1] == fix
    german = explain("certificate.expired", IDS, "de", said=said, fix=fix)
    assert "Zertifikat der App ist abgelaufen" in german[0]
    assert "Zertifikate & Geheimnisse" in german[1]


def test_every_fault_of_a_certificates_file_has_an_entry() -> None:
    """Each code that is raised there, as it stands in the source."""
    source = inspect.getsource(client_certificate)
    codes = set(re.findall(r'code="(\w+)"', source))

    assert len(codes) >= 10
    assert {f"certificate.{code}" for code in codes} - CATALOGUE.keys() == set()


def test_an_administrator_who_cancels_is_told_so() -> None:
    """The answer of admin consent has no number; its own words are not repeated."""
    answer = {"error": "permission_denied", "error_description": "The admin canceled <b>it</b>"}
    error = refused_consent("one", answer)

    assert isinstance(error, SignInRejected)
    assert error.code == "entra.permission_denied"
    assert str(error) == CATALOGUE[error.code].cause.en
    assert "mailbridge consent-url one" in error.fix


def test_the_same_number_is_told_in_the_same_words_by_daemon_and_diagnosis() -> None:
    """Both draw from one table: cause and fix of the daemon's error are the catalogue's."""
    ids = Ids(account="a@b.example", login="mailbridge login x", app="one", sign_in="delegated")
    answer = {"error": "invalid_grant", "error_codes": [700082]}
    cause, fix = explain("AADSTS700082", ids)
    error = explainer(ids)(answer)

    assert str(error) == f"a@b.example: {cause} (AADSTS700082)"
    assert error.fix == fix == refusal(answer, ids).fix
