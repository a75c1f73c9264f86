"""How the tables of Entra's numbers are written down: one row, several numbers that share it.

Match on the number, never on the sentence, which Microsoft changes. Where things stand in the
portal is said in the portal's own words, in both languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailbridge.catalogue.base import Entry, Kind, Text

#: an app registration
APP: Final = Text(
    en="Entra admin center > App registrations > $client_id",
    de="Entra Admin Center > App-Registrierungen > $client_id",
)
#: what stands for the app in this tenant
ENTERPRISE: Final = Text(
    en="Entra admin center > Enterprise applications > $client_id",
    de="Entra Admin Center > Unternehmensanwendungen > $client_id",
)
LOGS: Final = Text(
    en="Entra admin center > Sign-in logs",
    de="Entra Admin Center > Anmeldeprotokolle",
)


#: a sign-in that depends on nobody's password, phone or attendance
APPLICATION_ACCESS: Final = Text(
    en="use application access (`sign_in: application`), which depends on nobody's password or "
    "phone",
    de="Anwendungszugriff nutzen (`sign_in: application`), der von niemandes Passwort oder Telefon "
    "abhängt",
)
#: what a policy refuses to a person
EXCLUDE: Final = Text(
    en=f"{LOGS.en} names the policy: exclude the account $account or the app $client_id from it, "
    f"then sign in again: `$login`. Or: {APPLICATION_ACCESS.en}.",
    de=f"{LOGS.de} nennt die Richtlinie: das Konto $account oder die App $client_id davon "
    f"ausnehmen, danach neu anmelden: `$login`. Oder: {APPLICATION_ACCESS.de}.",
)


def row(
    kind: Kind,
    numbers: Mapping[int, str],
    *,
    cause: Text,
    fix: Text,
    fix_delegated: Text | None = None,
) -> tuple[Entry, ...]:
    """Return the entries of some numbers, each with Entra's words behind it."""
    return tuple(
        Entry(
            code=f"AADSTS{number}",
            kind=kind,
            cause=cause,
            fix=fix,
            fix_delegated=fix_delegated,
            seen=(words,),
        )
        for number, words in numbers.items()
    )
