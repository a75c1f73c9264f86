"""What Entra says about what somebody has granted: refresh tokens, device codes (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.entra_rows import APP, APPLICATION_ACCESS, row

_AGAIN: Final = Text(
    en="Sign in again: `$login`.",
    de="Neu anmelden: `$login`.",
)

_REFRESH: Final = (
    *row(
        "sign_in_again",
        {
            700082: "The refresh token has expired due to inactivity.",
            70008: "The provided authorization code or refresh token has expired due to "
            "inactivity.",
        },
        cause=Text(
            en="the sign-in was not used for 90 days (or, before it was finished, for ten "
            "minutes) and has ended",
            de="die Anmeldung wurde 90 Tage lang (oder vor ihrem Abschluss zehn Minuten lang) "
            "nicht genutzt und ist erloschen",
        ),
        fix=Text(
            en="Sign in again: `$login`. While mailbridge runs, it uses each sign-in at least once "
            "a week, so that it stays alive.",
            de="Neu anmelden: `$login`. Solange mailbridge läuft, nutzt es jede Anmeldung "
            "mindestens einmal in der Woche, damit sie gültig bleibt.",
        ),
    ),
    *row(
        "sign_in_again",
        {
            50132: "The session is not valid due to password expiration or recent password change.",
            50133: "The session is not valid due to password expiration or recent password change.",
            50089: "Authentication failed due to flow token expired.",
            50085: "Refresh token needs social IDP login.",
            50058: "A silent sign-in request was sent but no user is signed in.",
            70000: "Provided grant is invalid or malformed.",
        },
        cause=Text(
            en="the sign-in is no longer valid",
            de="die Anmeldung ist nicht mehr gültig",
        ),
        fix=_AGAIN,
    ),
    *row(
        "sign_in_again",
        {
            50173: "The provided grant has expired due to it being revoked, a fresh auth token is "
            "needed.",
        },
        cause=Text(
            en="the password was changed or the account's sessions were revoked",
            de="das Passwort wurde geändert, oder die Sitzungen des Kontos wurden widerrufen",
        ),
        fix=_AGAIN,
    ),
    *row(
        "configuration",
        {
            70043: "The refresh token has expired or is invalid due to sign-in frequency checks by "
            "conditional access.",
        },
        cause=Text(
            en="a Conditional Access policy wants a new sign-in every so often",
            de="eine Richtlinie für bedingten Zugriff verlangt in Abständen eine neue Anmeldung",
        ),
        fix=Text(
            en="Entra admin center > Conditional Access > Policies: exclude $account from the one "
            "with Session > Sign-in frequency, then sign in again: `$login`. Or: "
            f"{APPLICATION_ACCESS.en}.",
            de="Entra Admin Center > Bedingter Zugriff > Richtlinien: $account von jener mit "
            "Sitzung > Anmeldehäufigkeit ausnehmen, danach neu anmelden: `$login`. Oder: "
            f"{APPLICATION_ACCESS.de}.",
        ),
    ),
    *row(
        "configuration",
        {
            700084: "The refresh token was issued to a single page app (SPA), and therefore has a "
            "fixed, limited lifetime of 1.00:00:00, which cannot be extended.",
        },
        cause=Text(
            en="the redirect URI stands under Single-page application, whose sign-ins last a day",
            de="der Umleitungs-URI steht unter „Single-Page-Anwendung“, deren Anmeldungen einen "
            "Tag halten",
        ),
        fix=Text(
            en=f"{APP.en} > Authentication: remove it there and register it under Web (or Mobile "
            "and desktop applications), then sign in again: `$login`.",
            de=f"{APP.de} > Authentifizierung: dort entfernen und unter „Web“ (oder „Mobilgerät- "
            "und Desktopanwendungen“) eintragen, danach neu anmelden: `$login`.",
        ),
    ),
)

_DEVICE_ENDED: Final = Text(
    en="the code has ended, or is none; it is good for 15 minutes and for one time",
    de="der Code ist abgelaufen oder keiner; er gilt 15 Minuten und nur einmal",
)
_NEW_CODE: Final = Text(
    en="Ask for a new code (`$login`, with --device) and type it in at "
    "https://microsoft.com/devicelogin within 15 minutes.",
    de="Einen neuen Code holen (`$login`, mit --device) und ihn binnen 15 Minuten unter "
    "https://microsoft.com/devicelogin eingeben.",
)
_DEVICES: Final = (
    *row(
        "passing",
        {70016: "OAuth 2.0 device flow error. Authorization is pending. Continue polling."},
        cause=Text(
            en="nobody has typed in the code yet",
            de="der Code wurde noch nicht eingegeben",
        ),
        fix=Text(
            en="Type the code in at https://microsoft.com/devicelogin; mailbridge goes on asking "
            "by itself.",
            de="Den Code unter https://microsoft.com/devicelogin eingeben; mailbridge fragt von "
            "selbst weiter.",
        ),
    ),
    *row(
        "sign_in_again",
        {
            70018: "Invalid verification code due to User typing in wrong user code for device "
            "code flow.",
            70019: "Verification code expired.",
            70020: "The provided value for the input parameter 'device_code' is not valid. This "
            "device code has expired.",
        },
        cause=_DEVICE_ENDED,
        fix=_NEW_CODE,
    ),
    Entry(
        code="entra.expired_token",
        kind="sign_in_again",
        cause=_DEVICE_ENDED,
        fix=_NEW_CODE,
        seen=("expired_token",),
    ),
    Entry(
        code="entra.bad_verification_code",
        kind="sign_in_again",
        cause=_DEVICE_ENDED,
        fix=_NEW_CODE,
        seen=("bad_verification_code",),
    ),
    Entry(
        code="entra.authorization_declined",
        kind="sign_in_again",
        cause=Text(en="the sign-in was declined", de="die Anmeldung wurde abgelehnt"),
        fix=Text(
            en="Begin again and consent: `$login`.",
            de="Neu beginnen und zustimmen: `$login`.",
        ),
        seen=("authorization_declined",),
    ),
)

_OWN: Final = (
    Entry(
        code="sign_in.no_grant",
        kind="sign_in_again",
        cause=Text(
            en="nobody has signed in as $account yet",
            de="es hat sich noch niemand als $account angemeldet",
        ),
        fix=Text(en="Sign in: `$login`.", de="Anmelden: `$login`."),
    ),
    Entry(
        code="sign_in.other_account",
        kind="sign_in_again",
        cause=Text(
            en="another account has signed in than $account, or one of another tenant",
            de="es hat sich ein anderes Konto als $account angemeldet, oder eines aus einem "
            "anderen Mandanten",
        ),
        fix=Text(
            en="Sign in again and choose $account: `$login`. If the other account is right, write "
            "it as mailboxes.$mailbox.signed_in_as, and give it FullAccess.",
            de="Neu anmelden und $account wählen: `$login`. Ist das andere Konto das richtige, es "
            "als mailboxes.$mailbox.signed_in_as eintragen und ihm Vollzugriff geben.",
        ),
        own_fix=True,
    ),
    Entry(
        code="sign_in.incomplete",
        kind="sign_in_again",
        cause=Text(
            en="$account has not granted all that the mailbox needs",
            de="$account hat nicht alles erlaubt, was das Postfach braucht",
        ),
        fix=Text(
            en=f"{APP.en} > API permissions > Microsoft Graph > Delegated permissions: add what is "
            "missing, then sign in again: `$login`.",
            de=f"{APP.de} > API-Berechtigungen > Microsoft Graph > Delegierte Berechtigungen: das "
            "Fehlende hinzufügen, danach neu anmelden: `$login`.",
        ),
        own_fix=True,
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = (*_REFRESH, *_DEVICES, *_OWN)
