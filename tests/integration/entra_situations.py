"""How each refusal of Entra's comes about in the sandbox: one mailbox, one thing wrong.

A situation changes the tenant or the configuration of its ``Case``. Where the sandbox has no such
situation, a fault answers with Entra's own body for the number.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import yaml

from mailbridge.model import Grant
from mailbridge.sandbox import entra_client_errors as client_errors
from mailbridge.sandbox import entra_errors as errors
from mailbridge.sandbox import entra_grant_errors as grant_errors
from mailbridge.sandbox import entra_user_errors as user_errors
from mailbridge.sandbox.directory import MAIL_ROLES
from mailbridge.sandbox.entra_certificates import ClientCertificate
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_federation import Issuer
from mailbridge.sandbox.entra_ledger import Refresh, SignedIn
from mailbridge.sandbox.entra_other_errors import said
from mailbridge.sandbox.fault_catalogue import CATALOGUE as FAULTS
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sandbox.tokens import SigningKey
from tests.integration.catalogue_rows_entra import Row
from tests.servers.sign_in_desk import Grants

ADDRESS: Final = "alarm@feuerwehr.example"
_WHEN: Final = datetime(2026, 11, 1, tzinfo=UTC)
_CLUSTER: Final = "https://kubernetes.example"
_SUBJECT: Final = "system:serviceaccount:alarm:mailbridge"
_SCOPES: Final = " ".join(
    f"https://outlook.office.com/{name}"
    for name in ("IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send")
)


class Case:
    """One row: an app, a person, their mailbox, and the configuration that fits them."""

    def __init__(self, tenant: Tenant, row: Row, home: Path) -> None:
        home.mkdir()
        self.tenant, self.row, self.home = tenant, row, home
        self.number = int(row.code.removeprefix("AADSTS") if "AADSTS" in row.code else 0)
        self.app = tenant.add_app("app")
        self.user = tenant.add_user(ADDRESS)
        box = tenant.add_mailbox(ADDRESS)
        tenant.grant(self.app, box)
        self.grants = Grants()
        self.secret = home / "secret"
        self.secret.write_text(self.app.secret)
        self.password = home / "password"
        self.password.write_text(self.user.password)
        self.key = home / "key"
        self.key.write_text("x" * 43 + "=")
        #: sections of the configuration
        self.settings: dict[str, Any] = {
            "tenant": tenant.entra.authority,
            "ca": str(tenant.ca_file),
            "client_id": self.app.client_id,
            "credential": {"client_secret": {"file": str(self.secret)}},
        }
        self.mailbox: dict[str, Any] = {
            "address": ADDRESS,
            "app": "app",
            "sign_in": row.sign_in,
            "fetch": {"protocol": "imap", "server": self._server()},
        }
        if row.sign_in == "password":
            self.app.public_flows = True
            self.mailbox["password"] = {"file": str(self.password)}

    def _server(self) -> dict[str, Any]:
        # A mail server where nobody answers: this is about tokens, and the rest is left out.
        return {"host": "localhost", "port": 1, "ca": str(self.tenant.ca_file)}

    def by_pop3(self) -> None:
        """Let the mailbox be fetched by POP3."""
        self.mailbox["fetch"] = {"protocol": "pop3", "server": self._server()}

    def sends(self) -> None:
        """Let the mailbox send, too."""
        self.mailbox["send"] = {"server": self._server()}

    def sign_in(self, **changed: Any) -> Refresh:
        """Let the person have signed in, an hour ago; returns what the grant is in the sandbox."""
        state = self.tenant.entra.state
        asked = state.scopes(f"offline_access {_SCOPES}", changed.get("app", self.app))
        signed_in = SignedIn(
            **{
                "app": self.app,
                "user": self.user,
                "asked": asked,
                "amr": ("pwd",),
                "at": state.now() - timedelta(hours=1),
                "tenant": self.tenant.directory.tenant_id,
                "platform": "web",
                "confidential": True,
                **changed,
            }
        )
        value = state.ledger.add_refresh(signed_in)
        self.keep(value)
        return state.ledger.refresh_tokens[value]

    def keep(self, refresh_token: str) -> None:
        """Put a refresh token into the store."""
        self.grants.rows["app", ADDRESS] = Grant(
            app="app",
            account=ADDRESS,
            refresh_token=refresh_token,
            scopes=tuple(_SCOPES.split()),
            object_id=self.user.object_id,
            tenant_id=self.tenant.directory.tenant_id,
            granted_at=_WHEN,
            refreshed_at=_WHEN,
        )

    def answers(self, error: EntraError) -> None:
        """Let the token endpoint answer with this error."""
        self.tenant.faults.add(
            "token.error",
            status=error.status,
            error=error.error,
            code=error.code,
            text=error.text,
            suberror=error.suberror,
        )

    def write(self) -> Path:
        """Write the configuration and return its file."""
        document = {
            "state": {
                "database": f"sqlite:///{self.home}/mailbridge.db",
                "key": {"file": str(self.key)},
            },
            "http": {"listen": "off"},
            "apps": {"app": self.settings},
            "mailboxes": {"box": self.mailbox},
            "webhooks": {"hook": {"url": "http://127.0.0.1:1/", "allow_private": True}},
        }
        file = self.home / "mailbridge.yaml"
        file.write_text(yaml.safe_dump(document))
        return file

    def federated(self, token: str) -> None:
        """Let the app present a token of another provider."""
        file = self.home / "federated"
        file.write_text(token)
        self.settings["credential"] = {"federated": {"file": str(file)}}


def arrange(case: Case, key: SigningKey) -> None:
    """Bring a row's situation about."""
    how = case.row.how
    if case.row.sign_in == "delegated" and how != "never_signed_in":
        case.sign_in()
    if how == "said":
        case.tenant.faults.add("token.error", **said(case.number))
    elif how == "refused":
        case.tenant.faults.add("sign_in.refused", **said(case.number))
    elif how in FAULTS:
        case.tenant.faults.add(how)
    elif how in _ERRORS:
        case.answers(_ERRORS[how])
    elif how.startswith("federated"):
        _federated(case, how, key)
    elif how == "other_certificate":
        _certified(case, key, uploaded=False)
    elif how == "wrong_clock":
        _certified(case, key, uploaded=True)
        state = case.tenant.entra.state
        right, state.now = state.now, lambda: right() + timedelta(hours=1)
    else:
        _SITUATIONS[how](case)


def _federated(case: Case, how: str, key: SigningKey) -> None:
    issuer = Issuer(url=_CLUSTER, now=case.tenant.entra.state.now, keys=[key])
    case.tenant.entra.trust(issuer)
    case.app.add_federated(_CLUSTER, _SUBJECT)
    case.app.add_federated("https://elsewhere.example", "another", "another-audience")
    stranger = Issuer(url="https://stranger.example", now=issuer.now, keys=[key])
    tokens = {
        "federated_subject": lambda: issuer.token("system:serviceaccount:alarm:default"),
        "federated_issuer": lambda: stranger.token(_SUBJECT),
        "federated_mixture": lambda: issuer.token("another"),
        "federated_entra": lambda: case.tenant.tokens.app_token(case.app, audience="api://x"),
    }
    case.federated(tokens[how]())


def _certified(case: Case, key: SigningKey, *, uploaded: bool) -> None:
    """Sign with a certificate, and upload it or another one, which nobody signs with."""
    now = datetime.now(UTC)
    mine, theirs = (
        ClientCertificate.generate(start=now - timedelta(days=days), key=key.private)
        for days in (1, 2)
    )
    case.app.add_certificate((mine if uploaded else theirs).certificate_pem)
    file = case.home / "certificate.pem"
    file.write_bytes(mine.key_pem() + mine.certificate_pem)
    case.settings["credential"] = {"certificate": {"file": str(file)}}


#: what Entra says where the sandbox, or mailbridge, does not let it come to that
_ERRORS: Final = {
    # The configuration refuses a tenant like that, and one for all, before anybody asks.
    "malformed_tenant": errors.malformed_tenant("feuerwehr_example", discovery=False),
    "no_tenant": errors.no_tenant(),
    "single_tenant": errors.single_tenant("an-app", "alarm-app"),
    "tenant_endpoint_only": errors.tenant_endpoint_only(),
    "credential_unwanted": client_errors.credential_unwanted(),
    "scope_without_default": errors.scope_without_default("https://x/IMAP.AccessAsUser.All"),
    "several_scopes": errors.several_scopes("https://x/.default https://y/.default"),
    "unknown_scope": errors.unknown_scope("app", "IMAP", "00000003-0000-0000-c000-000000000000"),
    "declined": user_errors.declined(),
    "admin_needed": user_errors.admin_needed(),
    "wrong_redirect": errors.wrong_redirect("http://localhost:1/", "an-app"),
    "no_redirect": errors.no_redirect(),
    "code_expired": grant_errors.code_expired(),
    "code_used": grant_errors.code_used(),
    "wrong_verifier": grant_errors.wrong_verifier(),
    "challenge_size": grant_errors.challenge_size(),
    "other_tenant": grant_errors.other_tenant(),
    "missing_parameter": errors.missing_parameter("grant_type"),
    "missing_field": client_errors.missing_field("client_assertion_type"),
    "only_post": errors.only_post("GET"),
    "unsupported_grant": errors.unsupported_grant("new"),
    "pending": grant_errors.pending(),
    "device_unknown": grant_errors.device_unknown(),
    "device_expired": grant_errors.device_expired(),
    "device_declined": grant_errors.device_declined(),
    "temporarily_unavailable": EntraError(400, "temporarily_unavailable", 0, "Later."),
}


def _changes(function: Callable[[Case], object]) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        function(case)

    return change


def _set(owner: str, **values: Any) -> Callable[[Case], None]:
    """Return what sets attributes of the case's app, user, directory or token service."""

    def change(case: Case) -> None:
        places = {
            "app": case.app,
            "user": case.user,
            "directory": case.tenant.directory,
            "tokens": case.tenant.tokens,
        }
        for name, value in values.items():
            setattr(places[owner], name, value)

    return change


def _expired_secret(case: Case) -> None:
    value = case.app.secret
    case.app.secrets.clear()
    case.app.add_secret(value, expires_at=_WHEN)


def _unused(case: Case) -> None:
    case.sign_in().issued_at -= timedelta(days=91)


def _tenant(name: str) -> Callable[[Case], None]:
    return lambda case: case.settings.update(tenant=f"{case.tenant.entra.base_url}/{name}")


def _no_credential(case: Case) -> None:
    del case.settings["credential"]
    case.app.public_flows = False


def _roles(*left_out: str, pop3: bool = False, smtp: bool = False) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        case.app.roles = tuple(role for role in MAIL_ROLES if role not in left_out)
        case.app.withheld = left_out
        if pop3:
            case.by_pop3()
        if smtp:
            case.sends()

    return change


_SITUATIONS: Final[dict[str, Callable[[Case], None]]] = {
    # apps
    "wrong_secret": _changes(lambda case: case.secret.write_text("another-value")),
    "expired_secret": _expired_secret,
    "unknown_app": _changes(
        lambda case: case.settings.update(client_id="99999999-9999-4999-8999-999999999999")
    ),
    "not_installed": _set("app", installed=False),
    "disabled_app": _set("app", enabled=False),
    "unknown_tenant": _tenant("99999999-9999-4999-8999-999999999999"),
    "no_credential": _no_credential,
    "blocked_app": _set("app", blocked=True),
    "no_exchange": _set("tokens", audiences=("https://outlook.office365.us",)),
    # people
    "no_consent": _set("app", consented=False),
    "wrong_password": _changes(lambda case: case.password.write_text("another")),
    "unknown_user": _changes(lambda case: case.tenant.directory.users.clear()),
    "locked": _set("user", locked_until=datetime(2999, 1, 1, tzinfo=UTC)),
    "password_expired": _set("user", password_expired=True),
    "disabled_user": _set("user", enabled=False),
    "foreign_user": _set("user", foreign="live.com"),
    "not_assigned": _set("app", assignment_required=True),
    "mfa": _set("user", mfa="required"),
    "mfa_enrol": _set("user", mfa="enroll"),
    "blocked_user": _set("user", blocked=True),
    "security_defaults": _set("directory", security_defaults=True),
    # grants
    "never_signed_in": _changes(lambda case: None),
    "cut_short": _changes(lambda case: case.keep("1.Acut-short")),
    "unused": _unused,
    "single_page": _changes(
        lambda case: case.sign_in(
            platform="spa", at=case.tenant.entra.state.now() - timedelta(days=2)
        )
    ),
    "revoked": _changes(lambda case: case.user.revoke_sessions(at=case.tenant.entra.state.now())),
    "password_reset": _changes(
        lambda case: case.user.reset_password("new", at=case.tenant.entra.state.now())
    ),
    "frequency": _set("directory", sign_in_frequency=timedelta(minutes=10)),
    "of_another_app": _changes(lambda case: case.sign_in(app=case.tenant.add_app("other"))),
    # what a token says
    "audience": _set("app", audience="https://graph.microsoft.com"),
    "no_roles": _set("app", consented=False),
    "other_roles": _roles("IMAP.AccessAsApp"),
    "no_pop3_role": _roles("POP.AccessAsApp", pop3=True),
    "no_smtp_role": _roles("SMTP.SendAsApp", smtp=True),
    "no_scope": _roles("IMAP.AccessAsUser.All"),
    "no_pop3_scope": _roles("POP.AccessAsUser.All", pop3=True),
    "no_smtp_scope": _roles("SMTP.Send", smtp=True),
    "ended": _set("app", lifetime=-60),
    "tid": _set("tokens", tenant_id="99999999-9999-4999-8999-999999999999"),
}
