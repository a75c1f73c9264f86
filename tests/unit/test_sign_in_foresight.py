"""Foresight of ends, files with certificates, and what errors of people mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from mailbridge import client_certificate
from mailbridge.catalogue.base import Ids
from mailbridge.catalogue.lookup import explain
from mailbridge.client_certificate import CertificateFault
from mailbridge.errors import SignInRejected, TemporaryError, Throttled, Unavailable
from mailbridge.event import notice_event
from mailbridge.model import Notice
from mailbridge.sandbox.entra_certificates import ClientCertificate
from mailbridge.schemas import event_schema
from mailbridge.sign_in.account import Account
from mailbridge.sign_in.base import CredentialKind, Expiry, state_of
from mailbridge.sign_in.entra_errors import refusal
from mailbridge.sign_in.entra_people import PEOPLE, explainer, person_state
from mailbridge.sign_in.expiry import THRESHOLDS, days_left, notice, reached

ENDS = datetime(2026, 12, 31, 12, tzinfo=UTC)
KINDS: list[CredentialKind] = ["client_secret", "certificate", "refresh_token", "password"]


@pytest.mark.parametrize(
    ("before", "threshold"),
    [
        (timedelta(days=400), None),
        (timedelta(days=60, seconds=1), None),
        (timedelta(days=60), 60),
        (timedelta(days=30, seconds=1), 60),
        (timedelta(days=30), 30),
        (timedelta(days=14), 14),
        (timedelta(days=7), 7),
        (timedelta(days=1, seconds=1), 7),
        (timedelta(days=1), 1),
        (timedelta(0), 1),
        (timedelta(days=-100), 1),
    ],
)
def test_thresholds_are_reached_at_their_moment(before: timedelta, threshold: int | None) -> None:
    """60, 30, 14, 7 and 1 days, each from its exact moment on."""
    assert reached(ENDS, ENDS - before) == threshold


@given(st.integers(-400 * 86400, 400 * 86400), st.integers(0, 100 * 86400))
def test_a_threshold_never_rises_as_time_passes(before: int, passed: int) -> None:
    """Nobody is told of 30 days after he was told of 14."""
    now = ENDS - timedelta(seconds=before)
    first, later = reached(ENDS, now), reached(ENDS, now + timedelta(seconds=passed))

    assert (later or 61) <= (first or 61)


@pytest.mark.parametrize("kind", KINDS)
def test_each_threshold_is_one_event_of_the_published_schema(kind: CredentialKind) -> None:
    """A year of daily looks at a credential makes five events, each valid."""
    expiry = Expiry(kind=kind, expires_at=ENDS, fix="Make a new one.")
    made: dict[str, Notice] = {}
    for day in range(365):
        now = ENDS - timedelta(days=360 - day)
        found = notice(expiry, app="alarm-app", account="", mailbox="alarm", now=now)
        if found is not None:
            made.setdefault(found.id, found)

    assert [one.data["days_left"] for one in made.values()] == list(THRESHOLDS)
    for one in made.values():
        body = notice_event(one.type, one.id, one.mailbox, one.at, one.data)
        jsonschema.validate(orjson.loads(body), event_schema("secret.expiring"))


def test_another_credential_is_another_event() -> None:
    """App, account, kind and end tell credentials apart; the mailbox that is named does not."""
    now = ENDS - timedelta(days=5)

    def id_of(
        kind: CredentialKind = "certificate",
        ends: datetime = ENDS,
        app: str = "a",
        account: str = "",
        mailbox: str = "m",
    ) -> str:
        expiry = Expiry(kind=kind, expires_at=ends, fix="")
        found = notice(expiry, app=app, account=account, mailbox=mailbox, now=now)
        assert found is not None
        return found.id

    assert id_of(mailbox="other") == id_of()
    others = {
        id_of(kind="client_secret"),
        id_of(ends=ENDS - timedelta(seconds=1)),
        id_of(app="b"),
        id_of(account="x@y.example"),
    }
    assert len(others - {id_of()}) == 4


def test_days_that_are_left_are_whole_days() -> None:
    """Half a day left is none, and half a day past is the first day past."""
    half = timedelta(hours=12)

    assert [days_left(ENDS, ENDS - half), days_left(ENDS, ENDS + half)] == [0, -1]


# --- files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> ClientCertificate:
    return ClientCertificate.generate(start=ENDS - timedelta(days=365), days=365)


def _fault(content: bytes, passphrase: str = "") -> CertificateFault:
    with pytest.raises(CertificateFault) as caught:
        client_certificate.parse(content, passphrase)
    assert caught.value.fix
    return caught.value


def test_a_wrong_passphrase_is_told_as_that(made: ClientCertificate) -> None:
    """For PEM and PFX alike; a missing one is another thing."""
    for content in (made.key_pem("right") + made.certificate_pem, made.pfx("right")):
        wrong, missing = _fault(content, "wrong"), _fault(content)
        assert (wrong.part, missing.part) == ("passphrase", "file")
        assert "with this passphrase" in str(wrong)
        assert "passphrase:" in missing.fix


def test_a_passphrase_that_is_not_needed_does_no_harm(made: ClientCertificate) -> None:
    """A key that was decrypted in the meantime still signs in."""
    content = made.key_pem() + made.certificate_pem

    assert client_certificate.parse(content, "left over").thumbprint == made.thumbprint


def test_a_file_that_lacks_a_half_is_told_which(made: ClientCertificate) -> None:
    """No key, no certificate, nothing of the kind."""
    assert "no private key" in str(_fault(made.certificate_pem))
    assert "no certificate" in str(_fault(made.key_pem()))
    assert "neither PEM" in str(_fault(b"-----BEGIN PUBLIC KEY-----"))
    assert "neither PEM" in str(_fault(b""))


def test_a_key_of_another_certificate_is_found_out(made: ClientCertificate) -> None:
    """They have to belong together, and a chain is searched for the one that does."""
    other = ClientCertificate.generate(start=ENDS)

    assert "belongs to none" in str(_fault(other.key_pem() + made.certificate_pem))
    chain = other.certificate_pem + made.certificate_pem + made.key_pem()
    assert client_certificate.parse(chain).thumbprint == made.thumbprint


def test_a_key_that_entra_does_not_take_is_refused(made: ClientCertificate) -> None:
    """RSA only, and that is said before Entra says less."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

    assert "RSA" in str(_fault(pem + made.certificate_pem))


@given(st.binary(max_size=400))
def test_damaged_files_are_faults_and_nothing_else(noise: bytes) -> None:
    """Whatever lies there, it is told in words."""
    marks = b"-----BEGIN PRIVATE KEY-----\n%b\n-----END PRIVATE KEY-----\n"

    for content in (noise, b"\x30" + noise, marks % noise + b"-----BEGIN CERTIFICATE-----"):
        with pytest.raises(CertificateFault):
            client_certificate.parse(content, "x")


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    """Missing, a folder, far too large."""
    large = tmp_path / "large"
    large.write_bytes(b"x" * (client_certificate.LARGEST + 1))
    for path in (tmp_path / "missing", tmp_path, large, Path("a\0b")):
        with pytest.raises(CertificateFault) as caught:
            client_certificate.content_of(path)
        assert caught.value.fix


def test_a_certificate_is_good_from_its_first_to_its_last_moment(made: ClientCertificate) -> None:
    """The bounds themselves, and one second beyond."""
    found = client_certificate.parse(made.pfx())
    begins = ENDS - timedelta(days=365)
    second = timedelta(seconds=1)

    found.check(begins)
    found.check(ENDS - second)
    for moment, code in ((begins - second, "not_yet_valid"), (ENDS, "expired")):
        with pytest.raises(CertificateFault) as caught:
            found.check(moment)
        assert caught.value.code == f"certificate.{code}"


def test_the_thumbprint_is_the_portals(made: ClientCertificate) -> None:
    """SHA-1 in capitals, as Certificates & secrets shows it; the key is in no repr."""
    found = client_certificate.parse(made.pfx())

    assert found.thumbprint == made.thumbprint
    assert isinstance(found.key, rsa.RSAPrivateKey)
    assert "key=" not in repr(found)


# --- people -----------------------------------------------------------------------------------

IDS = Ids(account="alarm@x.example", login="mailbridge login alarm", app="one", sign_in="delegated")
EXPLAIN = explainer(IDS)


@pytest.mark.parametrize("number", sorted(PEOPLE))
def test_every_error_of_a_person_has_a_reason_and_a_way_out(number: int) -> None:
    """Plain words, the number for those who search for it, and what to type or click."""
    error = EXPLAIN({"error": "invalid_grant", "error_description": f"AADSTS{number}: x\r\nTrace"})

    assert isinstance(error, SignInRejected)
    assert person_state(error) == PEOPLE[number]
    assert str(error).startswith("alarm@x.example: ")
    assert f"AADSTS{number}" in str(error)
    cause, fix = explain(error.code, IDS)
    assert cause in str(error)
    assert error.fix == fix
    assert "$" not in fix
    if PEOPLE[number] == "needs_consent":
        assert "`mailbridge login alarm`" in error.fix


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "invalid_grant"},
        {"error": "invalid_grant", "error_description": "grant request is invalid"},
        {"error": "interaction_required", "error_description": "AADSTS99999999: New."},
        {"error": "login_required"},
        {"error": "authorization_declined", "error_description": "AADSTS70000: No."},
        {"error": "expired_token", "error_description": "AADSTS70020: No."},
    ],
)
def test_what_asks_for_the_person_needs_no_number(answer: dict[str, str]) -> None:
    """Other servers than Entra, and errors that are newer than this."""
    assert person_state(EXPLAIN(answer)) == "needs_consent"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"error": "server_error"},
        {"error": "temporarily_unavailable", "error_description": "AADSTS90033: Later."},
        {"error": "invalid_grant", "error_description": "AADSTS90001: Later."},
        {"error": "interaction_required", "error_description": "AADSTS90033: Later."},
    ],
)
def test_what_may_pass_is_temporary(answer: dict[str, str]) -> None:
    """Unknown and passing errors say nothing about a person."""
    error = EXPLAIN(answer)

    assert isinstance(error, Unavailable)
    assert person_state(error) is None
    assert state_of(error) == "temporarily_unavailable"


def test_a_locked_account_is_left_alone_for_a_while() -> None:
    """AADSTS50053 is temporary, with a pause long enough for smart lockout to end."""
    error = EXPLAIN({"error": "invalid_grant", "error_codes": [50053]})

    assert isinstance(error, Throttled)
    assert isinstance(error, TemporaryError)
    assert error.retry_after == 1800
    assert str(error).startswith("alarm@x.example: too many wrong passwords")


@pytest.mark.parametrize(
    ("kind", "number", "code"),
    [
        ("authorization_declined", 70000, "entra.authorization_declined"),
        ("expired_token", 70020, "AADSTS70020"),
        ("bad_verification_code", 70018, "AADSTS70018"),
        ("bad_verification_code", 70019, "AADSTS70019"),
        ("expired_token", 0, "entra.expired_token"),
    ],
)
def test_what_a_device_is_told_has_its_own_words(kind: str, number: int, code: str) -> None:
    """The number counts where it means a device code; elsewhere it means another thing."""
    error = EXPLAIN({"error": kind, "error_codes": [number] if number else []})

    assert error.code == code
    assert person_state(error) == "needs_consent"
    assert explain(code, IDS)[0] in str(error)


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("AADSTS7000222", "secret_expired"),
        ("AADSTS7000215", "rejected"),
        ("AADSTS65001", "needs_admin_consent"),
        ("AADSTS7000229", "needs_admin_consent"),
    ],
)
def test_errors_of_an_app_have_their_states(code: str, state: str) -> None:
    """What only an administrator can mend is not the same as a secret that has ended."""
    answer = {"error": "invalid_client", "error_description": f"{code}: No."}

    assert state_of(refusal(answer)) == state


ACCOUNT = Account(
    app="one",
    address="alarm@x.example",
    tenant_id="x.example",
    resource="https://outlook.office365.us",
    protocols=("imap", "smtp"),
    login="mailbridge login alarm",
)


@pytest.mark.parametrize(
    ("scopes", "granted"),
    [
        (["https://outlook.office.com/IMAP.AccessAsUser.All"], {"IMAP.AccessAsUser.All"}),
        (["https://OUTLOOK.office365.com/imap.accessasuser.all"], {"IMAP.AccessAsUser.All"}),
        (["https://outlook.office365.us/SMTP.Send", "openid"], {"SMTP.Send"}),
        (["https://graph.microsoft.com/IMAP.AccessAsUser.All", "SMTP.Send"], set()),
        (["https://evil.example/IMAP.AccessAsUser.All"], set()),
        (["https://outlook.office.com/POP.AccessAsUser.All"], set()),
        ([], set()),
    ],
)
def test_only_permissions_at_exchange_count(scopes: list[str], granted: set[str]) -> None:
    """A permission of the same name at Graph opens no mailbox."""
    assert ACCOUNT.granted(scopes) == granted


def test_an_answer_that_names_nobody_is_refused() -> None:
    """Whose token it is has to be known."""
    with pytest.raises(SignInRejected, match="name the token does not tell"):
        ACCOUNT.refuse_others({"access_token": "opaque"})


def test_an_account_of_another_tenant_is_refused() -> None:
    """The same name in another directory is somebody else."""
    tenant = "11111111-2222-3333-4444-555555555555"
    account = Account(
        app="one",
        address="alarm@x.example",
        tenant_id=tenant.upper(),
        resource="https://outlook.office.com",
        protocols=("imap",),
        login="",
    )
    answer = {"id_token_claims": {"upn": "Alarm@X.example", "tid": tenant}}
    assert account.refuse_others(answer).tenant_id == tenant

    answer["id_token_claims"]["tid"] = tenant.replace("1", "2")
    with pytest.raises(SignInRejected, match="belongs to the tenant"):
        account.refuse_others(answer)
