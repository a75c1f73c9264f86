"""What Entra says about an app and its tenant: which they are, and whether it may (AADSTS)."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.entra_rows import ENTERPRISE, EXCLUDE, LOGS, row

_TENANT_ID: Final = Text(
    en="Write the tenant's own ID to apps.$app.tenant (now $tenant), not `common`, `organizations` "
    "or `consumers`: Entra admin center > Overview > Tenant ID.",
    de="In apps.$app.tenant (jetzt $tenant) die ID des Mandanten eintragen, nicht `common`, "
    "`organizations` oder `consumers`: Entra Admin Center > Übersicht > Mandanten-ID.",
)
_ENTERPRISE_APP: Final = (
    *row(
        "configuration",
        {700016: "Application with identifier was not found in the directory."},
        cause=Text(
            en="the tenant does not know this application",
            de="der Mandant kennt diese Anwendung nicht",
        ),
        fix=Text(
            en="Compare apps.$app.client_id ($client_id) with Application (client) ID, and "
            "apps.$app.tenant ($tenant) with Directory (tenant) ID: Entra admin center > App "
            "registrations > the app > Overview. The Object ID there is neither of them.",
            de="apps.$app.client_id ($client_id) mit „Anwendungs-ID (Client)“ vergleichen und "
            "apps.$app.tenant ($tenant) mit „Verzeichnis-ID (Mandant)“: Entra Admin Center > "
            "App-Registrierungen > die App > Übersicht. Die Objekt-ID dort ist keine von beiden.",
        ),
    ),
    *row(
        "configuration",
        {7000229: "The client application is missing service principal in the tenant."},
        cause=Text(
            en="the app is registered elsewhere, and nobody has consented to it in this tenant (or "
            "its enterprise application was deleted)",
            de="die App ist anderswo registriert, und in diesem Mandanten hat ihr niemand "
            "zugestimmt (oder ihre Unternehmensanwendung wurde gelöscht)",
        ),
        fix=Text(
            en="Let an administrator open what `mailbridge consent-url $app` prints, or run "
            "`New-MgServicePrincipal -AppId $client_id` in Microsoft Graph PowerShell.",
            de="Einen Administrator den Link öffnen lassen, den `mailbridge consent-url $app` "
            "ausgibt, oder in Microsoft Graph PowerShell `New-MgServicePrincipal -AppId "
            "$client_id` ausführen.",
        ),
    ),
    *row(
        "configuration",
        {
            7000112: "Application is disabled.",
            70001: "The application is disabled.",
            1000031: "Application cannot be accessed at this time. Contact your administrator.",
        },
        cause=Text(
            en="the app is switched off in this tenant, or blocked",
            de="die App ist in diesem Mandanten abgeschaltet oder gesperrt",
        ),
        fix=Text(
            en=f"{ENTERPRISE.en} > Properties > Enabled for users to sign-in: Yes. If it is Yes "
            "already, Microsoft may have blocked the app: look for a notice there.",
            de=f"{ENTERPRISE.de} > Eigenschaften > Aktiviert für Benutzeranmeldung: Ja. Steht "
            "dort schon Ja, kann Microsoft die App gesperrt haben: dort nach einem Hinweis sehen.",
        ),
    ),
    *row(
        "configuration",
        {53003: "Access has been blocked by Conditional Access policies."},
        cause=Text(
            en="a Conditional Access policy refuses the sign-in",
            de="eine Richtlinie für bedingten Zugriff verweigert die Anmeldung",
        ),
        fix=Text(
            en=f"{LOGS.en} > Service principal sign-ins names the policy (Conditional Access for "
            "workload identities): exclude the app $client_id from it, or add this machine's "
            "address to its trusted locations.",
            de=f"{LOGS.de} > Dienstprinzipalanmeldungen nennt die Richtlinie (bedingter Zugriff "
            "für Workloadidentitäten): die App $client_id davon ausnehmen oder die Adresse dieses "
            "Rechners als vertrauenswürdigen Standort eintragen.",
        ),
        fix_delegated=EXCLUDE,
    ),
)

_TENANT: Final = (
    *row(
        "configuration",
        {90002: "Tenant not found. Check to make sure you have the correct tenant ID."},
        cause=Text(
            en="there is no such tenant",
            de="es gibt keinen solchen Mandanten",
        ),
        fix=Text(
            en="Copy Entra admin center > Overview > Tenant ID to apps.$app.tenant (now $tenant), "
            "and check apps.$app.cloud: a tenant of another cloud is not found here.",
            de="Entra Admin Center > Übersicht > Mandanten-ID nach apps.$app.tenant kopieren "
            "(jetzt $tenant) und apps.$app.cloud prüfen: ein Mandant einer anderen Cloud wird hier "
            "nicht gefunden.",
        ),
    ),
    *row(
        "configuration",
        {
            900023: "Specified tenant identifier is neither a valid DNS name, nor a valid external "
            "domain.",
        },
        cause=Text(
            en="what stands in the tenant's place is neither an ID nor a domain",
            de="an der Stelle des Mandanten steht weder eine ID noch eine Domain",
        ),
        fix=Text(
            en="Write the tenant's ID alone to apps.$app.tenant (now $tenant), without blanks or "
            "anything around it: Entra admin center > Overview > Tenant ID.",
            de="In apps.$app.tenant (jetzt $tenant) nur die ID des Mandanten eintragen, ohne "
            "Leerzeichen oder anderes darum: Entra Admin Center > Übersicht > Mandanten-ID.",
        ),
    ),
    *row(
        "configuration",
        {
            50059: "No tenant-identifying information found in either the request or implied by "
            "any provided credentials.",
            50128: "Invalid domain name - No tenant-identifying information found in either the "
            "request or implied by any provided credentials.",
        },
        cause=Text(
            en="the request names no tenant, and an app by itself belongs to none",
            de="die Anfrage nennt keinen Mandanten, und eine App für sich gehört zu keinem",
        ),
        fix=_TENANT_ID,
    ),
    *row(
        "configuration",
        {
            50194: "Application is not configured as a multi-tenant application. Usage of the "
            "/common endpoint is not supported",
            9001023: "The grant type is not supported over the /common or /consumers endpoints.",
        },
        cause=Text(
            en="the app belongs to one tenant, or signs in in a way that needs the tenant's own "
            "address",
            de="die App gehört zu einem Mandanten oder meldet sich auf eine Weise an, die dessen "
            "eigene Adresse braucht",
        ),
        fix=_TENANT_ID,
    ),
    *row(
        "configuration",
        {90038: "The specified tenant belongs to a National Cloud."},
        cause=Text(
            en="the tenant belongs to a national cloud",
            de="der Mandant gehört zu einer nationalen Cloud",
        ),
        fix=Text(
            en="Set apps.$app.cloud to the cloud of the tenant $tenant: usgov, usgov-dod or china.",
            de="apps.$app.cloud auf die Cloud des Mandanten $tenant setzen: usgov, usgov-dod oder "
            "china.",
        ),
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = (*_ENTERPRISE_APP, *_TENANT)
