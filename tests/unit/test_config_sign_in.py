"""How apps prove themselves and how mailboxes sign in: what may be written, and what may not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa

from mailbridge import config
from mailbridge.config import Config
from mailbridge.errors import Problem
from mailbridge.log import redact
from mailbridge.sandbox.entra_certificates import ClientCertificate

TENANT = "11111111-2222-3333-4444-555555555555"
GUID = "99999999-aaaa-bbbb-cccc-dddddddddddd"
TEXT = """\
apps:
  one:
    tenant: {tenant}
    client_id: 66666666-7777-8888-9999-000000000000
    {credential}
mailboxes:
  alarm:
    address: alarm@feuerwehr.example
    app: one
    {mailbox}
webhooks:
  erp: {{url: "https://erp.example/hooks/mail"}}
{rest}
"""
PASSWORD = "made-up-password-canary"
ENVIRON = {
    "SECRET": "abc8Q~made-up-client-secret",
    "PASSPHRASE": "made-up-passphrase-canary",
    "PASSWORD": PASSWORD,
    "KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
}
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WITH_SECRET = "credential: {client_secret: {env: SECRET}}"
WITH_KEY = "state: {key: {env: KEY}}"


class Read:
    """Checks a file with one app and one mailbox."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = dict(ENVIRON)

    def __call__(
        self,
        *,
        tenant: str = TENANT,
        credential: str = WITH_SECRET,
        mailbox: str = "sign_in: application",
        rest: str = "",
    ) -> config.Checked:
        text = TEXT.format(tenant=tenant, credential=credential, mailbox=mailbox, rest=rest)
        path = self.folder / "mailbridge.yaml"
        path.write_text(text, encoding="utf-8")
        checked = config.check(path, environ=self.environ, now=lambda: NOW)
        if checked.config is not None:
            jsonschema.validate(yaml.safe_load(text), config.schema())
        return checked

    def valid(self, **parts: str) -> Config:
        checked = self(**parts)
        assert checked.problems == []
        assert checked.config is not None
        return checked.config

    def problem(self, **parts: str) -> Problem:
        checked = self(**parts)
        assert checked.config is None
        (problem,) = checked.problems
        assert problem.fix
        assert problem.line
        return problem


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return Read(tmp_path)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, key: rsa.RSAPrivateKey) -> Write:
    """Write a certificate good from ``start`` days after now on, and return its name."""

    def write(*, start: float = -1, days: float = 365, passphrase: str | None = None) -> str:
        begins = NOW + timedelta(days=start)
        made = ClientCertificate.generate(start=begins, days=days, key=key)
        (tmp_path / "app.pem").write_bytes(made.key_pem(passphrase) + made.certificate_pem)
        return "app.pem"

    return write


# --- tenants ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        TENANT,
        TENANT.upper(),
        f"https://login.microsoftonline.com/{TENANT}",
        f"https://login.microsoftonline.com/{TENANT}/",
        f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token",
        f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/authorize",
        f"https://login.microsoftonline.com/{TENANT}/oauth2/token",
        f"https://login.microsoftonline.com/{TENANT}/v2.0/.well-known/openid-configuration",
        f"https://login.windows.net/{TENANT}",
        f"https://sts.windows.net/{TENANT}/",
    ],
)
def test_a_tenant_is_found_in_everything_that_guides_call_it(read: Read, written: str) -> None:
    """GUID, login URL, and the token endpoint of other products' set-up pages."""
    app = read.valid(tenant=f'"{written}"').apps["one"]

    assert app.tenant == TENANT
    assert app.authority_url == f"https://login.microsoftonline.com/{TENANT}"


@pytest.mark.parametrize(
    ("cloud", "resource", "delegated"),
    [
        ("public", "https://outlook.office365.com", "https://outlook.office.com"),
        ("usgov", "https://outlook.office365.us", "https://outlook.office365.us"),
        ("usgov-dod", "https://outlook-dod.office365.us", "https://outlook-dod.office365.us"),
        ("china", "https://partner.outlook.cn", "https://partner.outlook.cn"),
    ],
)
def test_each_cloud_has_its_own_exchange(
    read: Read, cloud: str, resource: str, delegated: str
) -> None:
    """Tokens are asked for where the mailbox is."""
    app = read.valid(credential=f"{WITH_SECRET}\n    cloud: {cloud}").apps["one"]

    assert app.scope == f"{resource}/.default"
    assert (app.resource, app.delegated_resource) == (resource, delegated)


# --- credentials ------------------------------------------------------------------------------


def test_a_certificate_is_opened_when_the_file_is_checked(read: Read, write: Write) -> None:
    """With its passphrase, which no text shows from then on."""
    name = write(passphrase=ENVIRON["PASSPHRASE"])

    loaded = read.valid(
        credential=f"credential: {{certificate: {{file: {name}, passphrase: {{env: PASSPHRASE}}}}}}"
    )

    credential = loaded.apps["one"].credential
    assert credential is not None
    assert credential.kind == "certificate"
    assert credential.certificate is not None
    assert credential.certificate.file == read.folder / name
    assert ENVIRON["PASSPHRASE"] not in redact(f"it is {ENVIRON['PASSPHRASE']}")
    assert ENVIRON["PASSPHRASE"] not in repr(loaded)


@pytest.mark.parametrize(
    ("settings", "place", "says"),
    [
        ("file: missing.pem", "file", "cannot be read"),
        ("file: app.pem", "file", "without a passphrase"),
        ("file: app.pem, passphrase: {env: SECRET}", "passphrase", "with this passphrase"),
        ("file: public.pem", "file", "no private key"),
        ("file: mailbridge.yaml", "file", "neither PEM"),
        ("passphrase: {env: SECRET}", "file", "is missing"),
        ("file: app.pem, passphrase: made-up", "passphrase", "never written"),
        ("file: app.pem, thumbprint: x", "thumbprint", "not known"),
    ],
)
def test_a_certificate_that_cannot_sign_in_is_a_fault(
    read: Read, write: Write, settings: str, place: str, says: str
) -> None:
    """Which setting it is, and why."""
    path = read.folder / write(passphrase=ENVIRON["PASSPHRASE"])
    public = path.read_text().partition("-----BEGIN CERTIFICATE-----")
    (read.folder / "public.pem").write_text("".join(public[1:]))

    problem = read.problem(credential=f"credential: {{certificate: {{{settings}}}}}")

    assert problem.path == f"apps.one.credential.certificate.{place}"
    assert says in problem.message


@pytest.mark.parametrize(
    ("start", "days", "says"),
    [
        (-400, 365, "ended 35 days ago"),
        (-336, 366, "ends in 30 days"),
        (2, 365, "not yet"),
        (-336, 367.5, ""),
    ],
)
def test_the_end_of_a_certificate_is_warned_of(
    read: Read, write: Write, start: float, days: float, says: str
) -> None:
    """30 days before, and after; the other mailboxes start all the same."""
    name = write(start=start, days=days)

    checked = read(credential=f"credential: {{certificate: {{file: {name}}}}}")

    assert checked.config is not None
    assert len(checked.warnings) == bool(says)
    for warning in checked.warnings:
        assert says in warning.message
        assert warning.path == "apps.one.credential.certificate.file"


def test_a_federated_token_lies_in_a_file_that_may_come_later(read: Read) -> None:
    """Missing is a warning, since something else writes it; relative paths lie beside the file."""
    credential = "credential: {federated: {file: token}}"
    early = read(credential=credential)
    (read.folder / "token").write_text("e30.e30.x")

    loaded = read.valid(credential=credential)

    assert early.config is not None
    assert ["no such file" in warning.message for warning in early.warnings] == [True]
    assert loaded.apps["one"].credential is not None
    assert loaded.apps["one"].credential.federated is not None
    assert loaded.apps["one"].credential.federated.file == read.folder / "token"


def test_workload_identity_names_the_file_itself(read: Read) -> None:
    """`federated: {}` takes what Azure's webhook puts into the environment, or says so."""
    problem = read.problem(credential="credential: {federated: {}}")
    read.environ["AZURE_FEDERATED_TOKEN_FILE"] = "/var/run/secrets/token"

    loaded = read(credential="credential: {federated: {}}").config

    assert "AZURE_FEDERATED_TOKEN_FILE is not set" in problem.message
    assert loaded is not None
    assert loaded.apps["one"].credential is not None
    assert loaded.apps["one"].credential.federated is not None
    assert loaded.apps["one"].credential.federated.file == Path("/var/run/secrets/token")


@pytest.mark.parametrize("identity", ["system", GUID, GUID.upper()])
def test_a_managed_identity_is_the_systems_or_named(read: Read, identity: str) -> None:
    """By its client id."""
    loaded = read.valid(credential=f"credential: {{managed_identity: {identity}}}")

    assert loaded.apps["one"].credential is not None
    assert loaded.apps["one"].credential.managed_identity == identity.lower()


@pytest.mark.parametrize(
    ("credential", "place", "says"),
    [
        ("{}", "", "no credential is named"),
        ("{managed_identity: mine}", ".managed_identity", "no managed identity"),
        ("{managed_identity: true}", ".managed_identity", "no managed identity"),
        (
            "{client_secret: {env: SECRET}, managed_identity: system}",
            ".managed_identity",
            "exclude each other",
        ),
        (
            "{managed_identity: system, federated: {file: x}}",
            ".managed_identity",
            "exclude each other",
        ),
        ("{managed_identity: system, expires: 2027-01-01}", ".expires", "only the end of a client"),
    ],
)
def test_a_credential_is_exactly_one(read: Read, credential: str, place: str, says: str) -> None:
    """None, two, and what does not belong to the one."""
    problem = read.problem(credential=f"credential: {credential}")

    assert problem.path == f"apps.one.credential{place}"
    assert says in problem.message


def test_a_secret_in_a_file_is_read_again(read: Read) -> None:
    """Whoever signs in sees what stands there now; a file that is gone is no fault then."""
    place = read.folder / "secret"
    place.write_text("first~secret\n")
    place.chmod(0o600)
    loaded = read.valid(credential="credential: {client_secret: {file: secret}}")
    assert loaded.apps["one"].credential is not None
    (secret,) = loaded.apps["one"].credential.client_secret

    place.write_text("second~secret\n")
    second = secret.read_again()
    place.write_text("two\nlines")
    broken = secret.read_again()
    place.unlink()

    assert (secret.reveal(), second, broken) == ("first~secret", "second~secret", None)
    assert secret.read_again() is None
    assert "second~secret" not in redact("it is second~secret")
    assert secret.place == f"file {place}"


# --- mailboxes --------------------------------------------------------------------------------


def test_delegated_sign_in_needs_no_credential_and_a_key(read: Read) -> None:
    """A public client, and somebody else for a shared mailbox."""
    mailbox = "sign_in: delegated\n    signed_in_as: chief@feuerwehr.example"

    loaded = read.valid(credential="cloud: public", mailbox=mailbox, rest=WITH_KEY)

    assert loaded.mailboxes["alarm"].account == "chief@feuerwehr.example"
    assert read.valid(mailbox="sign_in: delegated", rest=WITH_KEY).mailboxes["alarm"].account == (
        "alarm@feuerwehr.example"
    )


@pytest.mark.parametrize(
    ("mailbox", "credential", "rest", "place", "says"),
    [
        ("sign_in: delegated", WITH_SECRET, "", "sign_in", "state.key is not set"),
        (
            "sign_in: delegated",
            "credential: {managed_identity: system}",
            WITH_KEY,
            "sign_in",
            "for itself only",
        ),
        ("sign_in: application", "cloud: public", "", "app", "needs a credential"),
        ("signed_in_as: a@b.example", WITH_SECRET, "", "signed_in_as", "nobody signs in"),
        ("password: {env: PASSWORD}", WITH_SECRET, "", "password", "is not used"),
        ("sign_in: password", WITH_SECRET, "", "sign_in", "needs one"),
        ("sign_in: magic", WITH_SECRET, "", "sign_in", "none of the words"),
    ],
)
def test_what_does_not_go_together_is_a_fault(  # noqa: PLR0913, PLR0917 - a table's columns
    read: Read, mailbox: str, credential: str, rest: str, place: str, says: str
) -> None:
    """Each key with the kind of sign-in that it belongs to."""
    problem = read.problem(mailbox=mailbox, credential=credential, rest=rest)

    assert problem.path == f"mailboxes.alarm.{place}"
    assert says in problem.message


def test_a_wrong_key_is_no_missing_key(read: Read) -> None:
    """One fault, one message."""
    problem = read.problem(mailbox="sign_in: delegated", rest="state: {key: {env: SECRET}}")

    assert problem.path == "state.key.env" or problem.path.startswith("state.key")


def test_a_password_is_warned_of(read: Read) -> None:
    """What Microsoft is doing to it, and what to use; the password itself is shown nowhere."""
    checked = read(
        credential="cloud: public",
        mailbox="sign_in: password\n    password: {env: PASSWORD}",
    )

    (warning,) = checked.warnings
    assert warning.path == "mailboxes.alarm.sign_in"
    assert "Microsoft has deprecated" in warning.message
    assert "application access" in warning.fix
    assert checked.config is not None
    assert PASSWORD not in repr(checked)
    assert PASSWORD not in redact(f"it is {PASSWORD}")
