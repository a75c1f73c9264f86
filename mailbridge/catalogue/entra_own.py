"""What mailbridge finds wrong with a sign-in by itself: files, certificates, the configuration.

The errors bring a fix that names the file; the catalogue's is for the other language and for the
page about troubleshooting.
"""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Kind, Text
from mailbridge.catalogue.entra_rows import APP

_EXPORT: Final = Text(
    en="Put the certificate and its private key into one file, PEM or PFX, and name it in "
    "apps.$app.credential.certificate.file.",
    de="Zertifikat und privaten Schlüssel in eine Datei legen, PEM oder PFX, und sie in "
    "apps.$app.credential.certificate.file nennen.",
)
_NEW: Final = Text(
    en="Make a new certificate with an RSA key of 2048 bits or more, upload its public part "
    f"({APP.en} > Certificates & secrets > Certificates), and put it in place of the file.",
    de="Ein neues Zertifikat mit einem RSA-Schlüssel von mindestens 2048 Bit erzeugen, den "
    f"öffentlichen Teil hochladen ({APP.de} > Zertifikate & Geheimnisse > Zertifikate) und die "
    "Datei ersetzen.",
)
_RENEWER: Final = Text(
    en="See why the token in apps.$app.credential.federated.file is not renewed: Kubernetes "
    "projects it by the webhook of workload identity (label azure.workload.identity/use), GitHub "
    "by id-token: write. mailbridge tries again by itself.",
    de="Prüfen, warum das Token in apps.$app.credential.federated.file nicht erneuert wird: "
    "Kubernetes legt es durch den Webhook von Workload Identity ab (Label "
    "azure.workload.identity/use), GitHub durch id-token: write. mailbridge versucht es von selbst "
    "wieder.",
)
_IDENTITY: Final = Text(
    en="Managed identities exist inside Azure alone: assign one to this machine (Azure portal > "
    "the machine > Identity), or give the app another credential in apps.$app.credential.",
    de="Verwaltete Identitäten gibt es nur innerhalb von Azure: diesem Rechner eine zuweisen "
    "(Azure-Portal > der Rechner > Identität) oder der App in apps.$app.credential einen anderen "
    "Nachweis geben.",
)


def _own(code: str, en: str, de: str, fix: Text, kind: Kind = "configuration") -> Entry:
    return Entry(code=code, kind=kind, cause=Text(en=en, de=de), fix=fix, own_fix=True)


_IDENTITIES: Final[tuple[tuple[str, str, str, Kind], ...]] = (
    (
        "platform",
        "this platform's managed identity cannot be used",
        "die verwaltete Identität dieser Plattform ist nicht nutzbar",
        "configuration",
    ),
    (
        "unknown",
        "this machine has no such managed identity",
        "dieser Rechner hat keine solche verwaltete Identität",
        "configuration",
    ),
    (
        "far",
        "the endpoint of managed identities is neither on this machine nor beside it",
        "der Endpunkt für verwaltete Identitäten liegt weder auf diesem Rechner noch bei ihm",
        "configuration",
    ),
    (
        "unreachable",
        "the endpoint of managed identities does not answer",
        "der Endpunkt für verwaltete Identitäten antwortet nicht",
        "passing",
    ),
    (
        "not_json",
        "the endpoint of managed identities answers with something else than a token",
        "der Endpunkt für verwaltete Identitäten antwortet mit etwas anderem als einem Token",
        "passing",
    ),
    (
        "error",
        "the managed identity gave no token",
        "die verwaltete Identität lieferte kein Token",
        "passing",
    ),
)

_CERTIFICATES: Final = (
    _own(
        "certificate.expired",
        "the certificate of the app has expired",
        "das Zertifikat der App ist abgelaufen",
        _NEW,
    ),
    _own(
        "certificate.not_yet_valid",
        "the certificate of the app is not valid yet, by the clock of this machine",
        "das Zertifikat der App gilt nach der Uhr dieses Rechners noch nicht",
        Text(
            en="Set the clock of this machine by NTP (`timedatectl set-ntp true`), or use the "
            "former certificate until then.",
            de="Die Uhr dieses Rechners mit NTP stellen (`timedatectl set-ntp true`) oder bis "
            "dahin das frühere Zertifikat verwenden.",
        ),
    ),
    _own(
        "certificate.not_rsa",
        "the key of the certificate is not an RSA key, and Entra takes no other",
        "der Schlüssel des Zertifikats ist kein RSA-Schlüssel, und Entra nimmt keinen anderen",
        _NEW,
    ),
    _own(
        "certificate.unreadable",
        "the file with the certificate cannot be read",
        "die Datei mit dem Zertifikat ist nicht lesbar",
        Text(
            en="Let the user that mailbridge runs as read the file in "
            "apps.$app.credential.certificate.file.",
            de="Den Benutzer, unter dem mailbridge läuft, die Datei in "
            "apps.$app.credential.certificate.file lesen lassen.",
        ),
    ),
    _own(
        "certificate.locked",
        "the file with the certificate does not open with this passphrase, or needs one",
        "die Datei mit dem Zertifikat öffnet sich mit dieser Passphrase nicht oder braucht eine",
        Text(
            en="Write the passphrase, without a line break, to where "
            "apps.$app.credential.certificate.passphrase points.",
            de="Die Passphrase ohne Zeilenumbruch dort ablegen, wohin "
            "apps.$app.credential.certificate.passphrase zeigt.",
        ),
    ),
    *(
        _own(f"certificate.{code}", en, de, _EXPORT)
        for code, en, de in (
            (
                "too_large",
                "the file with the certificate is far too large to be one",
                "die Datei mit dem Zertifikat ist viel zu groß, um eines zu sein",
            ),
            (
                "no_match",
                "the private key belongs to none of the certificates in the file",
                "der private Schlüssel gehört zu keinem der Zertifikate in der Datei",
            ),
            (
                "unsupported",
                "the PFX file is encrypted in a way that is no longer supported",
                "die PFX-Datei ist auf eine Weise verschlüsselt, die nicht mehr unterstützt wird",
            ),
            (
                "no_key",
                "the file holds no private key",
                "die Datei enthält keinen privaten Schlüssel",
            ),
            (
                "damaged",
                "the certificate or its key is damaged",
                "das Zertifikat oder sein Schlüssel ist beschädigt",
            ),
            (
                "none",
                "the file holds a key and no certificate",
                "die Datei enthält einen Schlüssel und kein Zertifikat",
            ),
        )
    ),
)

_TOKENS: Final = (
    _own(
        "federated.unreadable",
        "the file with the token that proves the app cannot be read, or is empty",
        "die Datei mit dem Token, das die App nachweist, ist nicht lesbar oder leer",
        _RENEWER,
        "passing",
    ),
    _own(
        "federated.ended",
        "the token that proves the app has ended, and nobody has renewed it",
        "das Token, das die App nachweist, ist abgelaufen, und niemand hat es erneuert",
        _RENEWER,
        "passing",
    ),
    *(
        _own(f"managed_identity.{code}", en, de, _IDENTITY, kind)
        for code, en, de, kind in _IDENTITIES
    ),
    _own(
        "app.no_credential",
        "the app has nothing to prove itself with",
        "die App hat nichts, womit sie sich nachweisen könnte",
        Text(
            en="Write a secret or a certificate to apps.$app.credential "
            f"({APP.en} > Certificates & secrets).",
            de="Ein Geheimnis oder ein Zertifikat in apps.$app.credential eintragen "
            f"({APP.de} > Zertifikate & Geheimnisse).",
        ),
    ),
    _own(
        "sign_in.roles_missing",
        "the app lacks permissions that its mailboxes need",
        "der App fehlen Berechtigungen, die ihre Postfächer brauchen",
        Text(
            en="Send the administrator what `mailbridge consent-url $app` prints.",
            de="Dem Administrator schicken, was `mailbridge consent-url $app` ausgibt.",
        ),
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = (*_CERTIFICATES, *_TOKENS)
