"""What test-mailbox has to say of each refusal of Entra's: rows written by hand, from the facts.

Nothing here is read from the catalogue, so that a slip there shows. ``fact`` is the class of the
failure: T passes by itself, C somebody has to change something, U the person signs in again, D a
bug. ``how`` names the situation in ``entra_situations``; ``said`` is Entra's own body for the
number. ``en`` and ``de`` are words that the fix has to hold.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Fact = Literal["T", "C", "U", "D"]


class Row(NamedTuple):
    """One refusal: how it comes about, and what is to be said of it."""

    code: str
    fact: Fact
    sign_in: Literal["application", "delegated", "password"]
    how: str
    en: str
    de: str


_SECRETS = ("Certificates & secrets", "Zertifikate & Geheimnisse")
_PERMISSIONS = ("API permissions", "API-Berechtigungen")
_ENTERPRISE = ("Enterprise applications", "Unternehmensanwendungen")
_TENANT_ID = ("Overview > Tenant ID", "Übersicht > Mandanten-ID")
_LOGIN = ("`mailbridge login box`", "`mailbridge login box`")
_POLICY = ("Sign-in logs", "Anmeldeprotokolle")
_NTP = ("NTP", "NTP")
_ADD = ("Office 365 Exchange Online > Application", "Exchange Online > Anwendungsberechtigungen")
_LICENCE = ("Exchange Online licence", "Exchange-Online-Lizenz")
_FEDERATED = ("Federated credentials", "Verbundanmeldeinformationen")
_REPORT = ("Report it", "melden")
_WAIT = ("tries again by itself", "von selbst wieder")
_OTHER_ACCOUNT = ("Sign in with an account of the tenant", "Mit einem Konto des Mandanten")
_FACTOR = ("A password alone", "Mit dem Passwort allein")
_ENROL = ("https://aka.ms/mfasetup", "https://aka.ms/mfasetup")
_CODE = ("with --device", "mit --device")
_PORTAL = ("in a browser of this machine", "in einem Browser dieses Rechners")
_EXPIRED_PASSWORD = ("-PasswordPolicies DisablePasswordExpiration",) * 2

APPS = (
    Row("AADSTS7000215", "C", "application", "wrong_secret", *_SECRETS),
    Row("AADSTS7000222", "C", "application", "expired_secret", *_SECRETS),
    Row("AADSTS700016", "C", "application", "unknown_app", "Application (client) ID", "(Client)"),
    Row("AADSTS7000229", "C", "application", "not_installed", "New-MgServicePrincipal", "Link"),
    Row("AADSTS7000112", "C", "application", "disabled_app", *_ENTERPRISE),
    Row("AADSTS70001", "C", "application", "said", *_ENTERPRISE),
    Row("AADSTS90002", "C", "application", "unknown_tenant", *_TENANT_ID),
    Row("AADSTS900023", "C", "application", "malformed_tenant", *_TENANT_ID),
    Row("AADSTS50059", "C", "application", "no_tenant", *_TENANT_ID),
    Row("AADSTS50128", "C", "application", "said", *_TENANT_ID),
    Row("AADSTS90038", "C", "application", "said", *("usgov-dod",) * 2),
    Row("AADSTS50194", "C", "password", "single_tenant", *_TENANT_ID),
    Row("AADSTS9001023", "C", "password", "tenant_endpoint_only", *_TENANT_ID),
    Row("AADSTS7000218", "C", "password", "no_credential", "Allow public client flows", "Clientfl"),
    Row("AADSTS700025", "C", "delegated", "credential_unwanted", "under Web", "unter „Web“"),
    Row("AADSTS700027", "C", "application", "other_certificate", *_SECRETS),
    Row("AADSTS700024", "C", "application", "wrong_clock", *_NTP),
    Row("AADSTS500133", "C", "application", "said", *_NTP),
    Row("AADSTS700213", "C", "application", "federated_subject", *_FEDERATED),
    Row("AADSTS70021", "C", "application", "federated_mixture", *_FEDERATED),
    Row("AADSTS700211", "C", "application", "federated_issuer", *_FEDERATED),
    Row("AADSTS700222", "C", "application", "federated_entra", "managed_identity", "innerhalb von"),
    Row("AADSTS50012", "C", "application", "said", *_SECRETS),
    Row("AADSTS50003", "C", "application", "said", *_SECRETS),
    Row("AADSTS700030", "C", "application", "said", *_SECRETS),
    Row("AADSTS53003", "C", "application", "blocked_app", "Service principal", "Dienstprinzipal"),
    Row("AADSTS1000031", "C", "application", "said", *_ENTERPRISE),
)

SCOPES = (
    Row("AADSTS1002012", "C", "application", "scope_without_default", ".default", ".default"),
    Row("AADSTS70011", "C", "application", "several_scopes", ".default", ".default"),
    Row("AADSTS28000", "C", "delegated", "said", *_LOGIN),
    Row("AADSTS28002", "C", "delegated", "said", *_LOGIN),
    Row("AADSTS28003", "C", "delegated", "said", *_LOGIN),
    Row("AADSTS700022", "C", "delegated", "said", *_LOGIN),
    Row("AADSTS700023", "C", "delegated", "said", *_TENANT_ID),
    Row("AADSTS650053", "C", "delegated", "unknown_scope", "offline_access", "offline_access"),
    Row("AADSTS500011", "C", "application", "no_exchange", *_LICENCE),
    Row("AADSTS50001", "C", "application", "said", *_ADD),
    Row("AADSTS650057", "C", "application", "said", *_ADD),
    Row("AADSTS65005", "C", "application", "said", *_ADD),
    Row("AADSTS650052", "C", "application", "said", *_LICENCE),
    Row("AADSTS650056", "C", "application", "said", *_ADD),
    Row("AADSTS65001", "C", "delegated", "no_consent", "Grant admin consent", "Administratorzust"),
    Row("AADSTS65001", "C", "password", "no_consent", "Grant admin consent", "Administratorzust"),
    Row("AADSTS65004", "U", "delegated", "declined", *_LOGIN),
    Row("AADSTS90094", "C", "delegated", "admin_needed", *("`mailbridge consent-url app`",) * 2),
    Row("AADSTS90095", "C", "delegated", "said", *("`mailbridge consent-url app`",) * 2),
    Row("AADSTS90008", "C", "delegated", "said", *("User.Read",) * 2),
    # The fact sheet counts it as a bug; here the client id is the configuration's.
    Row("AADSTS65002", "C", "delegated", "said", "Register an app of your own", "eigene App"),
    Row("AADSTS50011", "C", "delegated", "wrong_redirect", "Redirect URIs", "Umleitungs-URIs"),
    Row("AADSTS900971", "C", "delegated", "no_redirect", "Redirect URIs", "Umleitungs-URIs"),
    Row("AADSTS70008", "U", "delegated", "code_expired", *_LOGIN),
    Row("AADSTS54005", "U", "delegated", "code_used", *_LOGIN),
    Row("AADSTS501481", "D", "delegated", "wrong_verifier", *_LOGIN),
    Row("AADSTS50147", "D", "delegated", "challenge_size", *_LOGIN),
    Row("AADSTS700005", "C", "delegated", "other_tenant", *_LOGIN),
    Row("AADSTS9002313", "D", "delegated", "cut_short", *_LOGIN),
    Row("AADSTS900144", "D", "application", "missing_parameter", *_REPORT),
    Row("AADSTS90014", "D", "application", "missing_field", *_REPORT),
    Row("AADSTS900561", "D", "application", "only_post", *_REPORT),
    Row("AADSTS901002", "D", "application", "said", *_REPORT),
    Row("AADSTS70003", "D", "application", "unsupported_grant", *_REPORT),
)

PEOPLE = (
    Row("AADSTS50126", "C", "password", "wrong_password", *("mailboxes.box.password",) * 2),
    Row("AADSTS50034", "C", "password", "unknown_user", "user principal name", "prinzipalnamen"),
    Row("AADSTS50053", "T", "password", "locked", "half an hour", "halbe Stunde"),
    Row("AADSTS50055", "C", "password", "password_expired", *_EXPIRED_PASSWORD),
    Row("AADSTS50144", "C", "password", "refused", *_EXPIRED_PASSWORD),
    Row("AADSTS50056", "C", "password", "refused", "Reset password", "Kennwort zurücksetzen"),
    Row("AADSTS50064", "C", "password", "refused", "Reset password", "Kennwort zurücksetzen"),
    Row("AADSTS50057", "C", "delegated", "disabled_user", *("signed_in_as",) * 2),
    Row("AADSTS50020", "C", "delegated", "foreign_user", *_OTHER_ACCOUNT),
    Row("AADSTS16000", "C", "delegated", "refused", *_OTHER_ACCOUNT),
    Row("AADSTS50014", "C", "delegated", "refused", *_OTHER_ACCOUNT),
    Row("AADSTS51004", "C", "delegated", "refused", *_OTHER_ACCOUNT),
    Row("AADSTS90072", "C", "delegated", "refused", *_OTHER_ACCOUNT),
    Row("AADSTS50105", "C", "delegated", "not_assigned", "Assignment required", "Zuweisung"),
    Row("AADSTS50076", "U", "delegated", "mfa", *_FACTOR),
    Row("AADSTS50076", "U", "password", "mfa", *_FACTOR),
    Row("AADSTS50079", "U", "delegated", "mfa_enrol", *_ENROL),
    Row("AADSTS50072", "U", "delegated", "refused", *_ENROL),
    Row("AADSTS50074", "U", "delegated", "refused", *_FACTOR),
    Row("AADSTS50078", "U", "delegated", "refused", *_FACTOR),
    Row("AADSTS50158", "U", "delegated", "refused", *_FACTOR),
    Row("AADSTS53004", "U", "delegated", "refused", *_ENROL),
    Row("AADSTS53010", "U", "delegated", "refused", *_ENROL),
    Row("AADSTS53000", "C", "delegated", "refused", *_POLICY),
    Row("AADSTS53001", "C", "delegated", "refused", *_POLICY),
    Row("AADSTS53002", "C", "delegated", "refused", *_POLICY),
    Row("AADSTS50097", "C", "delegated", "refused", *_POLICY),
    Row("AADSTS50131", "C", "delegated", "refused", *_POLICY),
    Row("AADSTS50005", "C", "delegated", "refused", *_POLICY),
    Row("AADSTS53003", "C", "delegated", "blocked_user", *_POLICY),
    Row("AADSTS530035", "C", "password", "security_defaults", "by the browser", "Im Browser"),
    Row("AADSTS530032", "C", "delegated", "refused", *_POLICY),
    Row("AADSTS530034", "C", "delegated", "refused", *_POLICY),
    Row("AADSTS53011", "C", "delegated", "refused", "Risky users", "Risikobenutzer"),
    Row("AADSTS50135", "U", "delegated", "refused", "Risky users", "Risikobenutzer"),
    Row("AADSTS80012", "C", "password", "refused", "Logon Hours", "Anmeldezeiten"),
    Row("AADSTS80013", "C", "password", "refused", "w32tm", "w32tm"),
)

GRANTS = (
    Row("AADSTS700082", "U", "delegated", "unused", *_LOGIN),
    Row("AADSTS700084", "C", "delegated", "single_page", "under Web", "unter „Web“"),
    Row("AADSTS50173", "U", "delegated", "revoked", *_LOGIN),
    Row("AADSTS50133", "U", "delegated", "password_reset", *_LOGIN),
    Row("AADSTS70043", "C", "delegated", "frequency", "Sign-in frequency", "Anmeldehäufigkeit"),
    Row("AADSTS50132", "U", "delegated", "said", *_LOGIN),
    Row("AADSTS50089", "U", "delegated", "said", *_LOGIN),
    Row("AADSTS50085", "U", "delegated", "said", *_LOGIN),
    Row("AADSTS70000", "U", "delegated", "of_another_app", *_LOGIN),
    Row("AADSTS70016", "T", "delegated", "pending", *("https://microsoft.com/devicelogin",) * 2),
    Row("AADSTS70018", "U", "delegated", "device_unknown", *_CODE),
    Row("AADSTS70019", "U", "delegated", "said", *_CODE),
    Row("AADSTS70020", "U", "delegated", "device_expired", *_CODE),
    Row("entra.authorization_declined", "U", "delegated", "device_declined", *_LOGIN),
    Row("sign_in.no_grant", "U", "delegated", "never_signed_in", *_LOGIN),
    Row("AADSTS50196", "D", "delegated", "said", "quarter of an hour", "Viertelstunde"),
)

OUTAGES = (
    *(
        Row(f"AADSTS{number}", "T", "password", "said", "Pass-through", "Passthrough")
        for number in (80001, 80002, 80005, 80007, 80014)
    ),
    *(
        Row(f"AADSTS{number}", "T", "application", "said", *_WAIT)
        for number in (90055, 90006, 90012, 90024, 90033, 90090, 50033, 50087, 70012)
    ),
    Row("entra.temporarily_unavailable", "T", "application", "temporarily_unavailable", *_WAIT),
    Row("entra.http_429", "T", "application", "token.429", *_WAIT),
    Row("entra.http_500", "T", "application", "token.500", *_WAIT),
    Row("entra.http_503", "T", "application", "token.503", *_WAIT),
    Row("entra.not_json", "T", "application", "token.wrong_body", *_PORTAL),
    Row("entra.not_json", "T", "application", "discovery.wrong_body", *_PORTAL),
)

CLAIMS = (
    Row("claims.audience", "C", "application", "audience", *("apps.app.cloud",) * 2),
    Row("claims.role", "C", "application", "no_roles", "IMAP.AccessAsApp", "IMAP.AccessAsApp"),
    Row("claims.role", "C", "application", "other_roles", "IMAP.AccessAsApp", "IMAP.AccessAsApp"),
    Row("claims.role.pop3", "C", "application", "no_pop3_role", *("POP.AccessAsApp",) * 2),
    Row("claims.role.smtp", "C", "application", "no_smtp_role", *("SMTP.SendAsApp",) * 2),
    Row("claims.scope", "U", "delegated", "no_scope", *("IMAP.AccessAsUser.All",) * 2),
    Row("claims.scope.pop3", "U", "delegated", "no_pop3_scope", *("POP.AccessAsUser.All",) * 2),
    Row("claims.scope.smtp", "U", "delegated", "no_smtp_scope", *("SMTP.Send",) * 2),
    Row("claims.expired", "C", "application", "ended", *_NTP),
    Row("claims.tenant", "C", "application", "tid", *_TENANT_ID),
)

ROWS = (*APPS, *SCOPES, *PEOPLE, *GRANTS, *OUTAGES, *CLAIMS)

#: every number of the fact sheet's sections 7.1 to 7.3, as they stand there
NUMBERS = (
    # 7.1 application, secret, tenant
    *(7000215, 7000222, 700016, 7000229, 7000112, 70001, 90002, 900023, 50059, 50128, 90038),
    *(50194, 9001023, 7000218, 700025, 700027, 700024, 500133, 700213, 70021, 700211, 700222),
    *(50012, 50003, 700030, 53003, 1000031),
    # 7.2 scope, consent, redirect
    *(1002012, 70011, 28000, 28002, 28003, 700022, 700023, 650053, 500011, 50001, 650057, 65005),
    *(650052, 650056, 65001, 65004, 90094, 90095, 90008, 65002, 50011, 900971, 70008, 54005),
    *(501481, 50147, 700005, 9002313, 900144, 90014, 900561, 901002, 70003),
    # 7.3 user, second factor, expiry
    *(50126, 50034, 50053, 50055, 50144, 50056, 50064, 50057, 50020, 16000, 50014, 51004, 90072),
    *(50105, 50076, 50079, 50072, 50074, 50078, 50158, 53004, 53010, 53000, 53001, 53002, 50097),
    *(50131, 50005, 530035, 530032, 530034, 53011, 700082, 700084, 50173, 70043, 50132, 50133),
    *(50089, 50085, 70000, 50135, 70016, 70018, 70019, 70020, 50196, 80001, 80002, 80005, 80007),
    *(80014, 80012, 80013, 90055, 90006, 90012, 90024, 90033, 90090, 50033, 50087, 70012),
)
