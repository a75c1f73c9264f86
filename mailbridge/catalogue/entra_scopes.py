"""What Entra says about scopes, consent and redirects (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.entra_rows import row

_SCOPES: Final = (
    *row(
        "configuration",
        {
            1002012: "The provided value for scope is not valid. Client credential flows must have "
            "a scope value with /.default suffixed to the resource identifier (application ID URI)."
        },
        cause=Text(
            en="the scope does not fit application access",
            de="der Bereich (scope) passt nicht zum Anwendungszugriff",
        ),
        fix=Text(
            en="Check apps.$app.cloud: the scope is derived from it, and an app by itself asks for "
            "https://outlook.office365.com/.default (or its cloud's) and nothing else.",
            de="apps.$app.cloud prüfen: daraus ergibt sich der Bereich; eine App für sich fragt "
            "nach https://outlook.office365.com/.default (oder dem ihrer Cloud) und nichts sonst.",
        ),
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = (*_SCOPES,)
