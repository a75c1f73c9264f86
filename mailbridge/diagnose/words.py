"""What the steps of ``test-mailbox`` say, in English and German.

The braces are filled in by ``str.format``; what a server said is filled in as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailbridge.catalogue.base import Language, Text
from mailbridge.diagnose.finding import Told


def _t(en: str, de: str) -> Text:
    return Text(en=en, de=de)


#: by step: what it is called
NAMES: Final[Mapping[str, Text]] = {
    "config": _t("configuration", "Konfiguration"),
    "dns": _t("DNS", "DNS"),
    "tcp": _t("TCP", "TCP"),
    "tls": _t("TLS", "TLS"),
    "tenant": _t("tenant", "Mandant"),
    "grant": _t("consent", "Zustimmung"),
    "token": _t("token", "Token"),
    "claims": _t("token claims", "Token-Inhalt"),
    "sign_in": _t("sign-in", "Anmeldung"),
    "folder": _t("folder", "Ordner"),
    "header": _t("one header", "ein Kopf"),
    "push": _t("push", "Push"),
    "smtp": _t("SMTP", "SMTP"),
    "smtp_sign_in": _t("SMTP sign-in", "SMTP-Anmeldung"),
    "send": _t("sending", "Versand"),
    "arrival": _t("arrival", "Ankunft"),
    "delivery": _t("delivery", "Zustellung"),
    "expiry": _t("expiry", "Ablauf"),
    "webhook": _t("webhook {name}", "Webhook {name}"),
}

MARKS: Final[Mapping[str, Text]] = {
    "ok": _t("ok", "ok"),
    "failed": _t("FAILED", "FEHLER"),
    "warning": _t("warning", "Warnung"),
    "skipped": _t("skipped", "entfällt"),
}

WORDS: Final[Mapping[str, Text]] = {
    # around the steps
    "needs": _t("needs {step}", "braucht: {step}"),
    "cause": _t("cause: {text}", "Ursache: {text}"),
    "code": _t("code: {text}", "Code: {text}"),
    "fix": _t("fix: {text}", "Abhilfe: {text}"),
    "fine": _t("{name} is fine", "{name} ist in Ordnung"),
    "warned": _t(
        "{name} works; see the warnings above", "{name} funktioniert; siehe die Warnungen oben"
    ),
    "unusable": _t("{name} is not usable like this", "{name} ist so nicht benutzbar"),
    "round_trip": _t(
        "from sending to the webhook: {seconds:.1f} s",
        "vom Versand bis zum Webhook: {seconds:.1f} s",
    ),
    "as_said": _t("{said}", "{said}"),
    # config
    "config.ok": _t(
        "{address}, {kind} access by app {app}{ways}", "{address}, {kind} mit der App {app}{ways}"
    ),
    "access.application": _t("application", "Anwendungszugriff"),
    "access.delegated": _t("delegated", "delegierter Zugriff"),
    "access.password": _t("password", "Zugriff mit Kennwort"),
    "way": _t("{what} {through}", "{what} {through}"),
    "way.mail": _t("mail", "Mail"),
    "way.tokens": _t("tokens", "Token"),
    "way.sending": _t("sending", "Versand"),
    "through": _t("through proxy {url}", "über den Proxy {url}"),
    "through.variable": _t(
        "through proxy {url} (from {variable})", "über den Proxy {url} (aus {variable})"
    ),
    "config.not_fetched": _t(
        "this mailbox is not fetched (fetch.protocol: none) and does not send",
        "dieses Postfach wird nicht abgeholt (fetch.protocol: none) und sendet nicht",
    ),
    # the way to the mail server
    "dns.ok": _t("{host} is {addresses}", "{host} ist {addresses}"),
    "dns.inside": _t(
        "{known}; inside, so without the proxy", "{known}; innen, also ohne den Proxy"
    ),
    "dns.by_proxy": _t(
        "the proxy resolves {host}; proxy {known}", "der Proxy löst {host} auf; Proxy {known}"
    ),
    "dns.both": _t("{known}; proxy {proxy}", "{known}; Proxy {proxy}"),
    "network": _t("{place}: {said}", "{place}: {said}"),
    "patience": _t("no answer within {seconds:.0f} s", "keine Antwort in {seconds:.0f} s"),
    "tcp.ok": _t("connected to {host} port {port}", "verbunden mit {host} Port {port}"),
    "tcp.proxy": _t(
        "connected to {host} port {port} by {peer} port {peer_port}, {through}",
        "verbunden mit {host} Port {port} durch {peer} Port {peer_port}, {through}",
    ),
    "tls.ok": _t(
        "{version}, certificate trusted, valid until {until}",
        "{version}, Zertifikat vertrauenswürdig, gültig bis {until}",
    ),
    "tls.starttls": _t("{verb}, certificate trusted", "{verb}, Zertifikat vertrauenswürdig"),
    # tokens
    "tenant.ok": _t("issuer {issuer}{through}", "Aussteller {issuer}{through}"),
    "after_comma": _t(", {said}", ", {said}"),
    "nothing": _t("", ""),
    "grant.ok": _t(
        "{account} has consented on {granted}, last refreshed on {refreshed}: {scopes}",
        "{account} hat am {granted} zugestimmt, zuletzt erneuert am {refreshed}: {scopes}",
    ),
    "grant.none": _t("{account} has not signed in yet", "{account} hat sich noch nicht angemeldet"),
    "grant.no_key": _t(
        "state.key is not set, so no consent can be kept",
        "state.key fehlt, darum kann keine Zustimmung aufbewahrt werden",
    ),
    "token.ok": _t("good for {minutes:.0f} minutes{by}", "gültig für {minutes:.0f} Minuten{by}"),
    "token.by": _t(", by {credential}", ", mit {credential}"),
    "claims.ok": _t(
        "audience {audience}, {what} {permissions}, tenant {tenant}, app {app}, object id "
        "{object_id}, ends in {minutes:.0f} minutes, {length} characters",
        "Zielgruppe {audience}, {what} {permissions}, Mandant {tenant}, App {app}, Objekt-ID "
        "{object_id}, endet in {minutes:.0f} Minuten, {length} Zeichen",
    ),
    "claims.roles": _t("roles", "Rollen"),
    "claims.scopes": _t("scopes", "Bereiche"),
    "claims.opaque": _t(
        "the token is no JWT, so what it permits cannot be read ({length} characters)",
        "der Token ist kein JWT, darum ist nicht lesbar, was er erlaubt ({length} Zeichen)",
    ),
    "claims.audience": _t("audience {audience}", "Zielgruppe {audience}"),
    "claims.missing": _t("missing", "fehlt"),
    "claims.tenant": _t(
        "the token is of tenant {found}, and {wanted} is configured",
        "der Token ist vom Mandanten {found}, eingestellt ist {wanted}",
    ),
    "claims.app": _t(
        "the token is of app {found}, and {wanted} is configured",
        "der Token ist von der App {found}, eingestellt ist {wanted}",
    ),
    "claims.expired": _t(
        "the token ended at {at} UTC, and here it is {now} UTC",
        "der Token endete um {at} UTC, hier ist es {now} UTC",
    ),
    "claims.permissions": _t("{what}: {permissions}", "{what}: {permissions}"),
    "claims.none": _t("none", "keine"),
    "expiry.one": _t("{kind} ends on {at} ({days} days)", "{kind} endet am {at} ({days} Tage)"),
    "expiry.none": _t(
        "no end is known; write `expires` beside a client secret",
        "kein Ende ist bekannt; `expires` gehört neben einen geheimen Clientschlüssel",
    ),
    "expiry.mine": _t(
        "no end that could be known: {kind}", "kein Ende, das man kennen könnte: {kind}"
    ),
    "kind.client_secret": _t("client secret", "geheimer Clientschlüssel"),
    "kind.certificate": _t("certificate", "Zertifikat"),
    "kind.refresh_token": _t("refresh token", "Aktualisierungstoken"),
    "kind.password": _t("password", "Kennwort"),
    "kind.federated": _t("federated credential", "Verbundanmeldeinformation"),
    "kind.managed_identity": _t("managed identity", "verwaltete Identität"),
    # mail
    "sign_in.ok": _t("signed in to {address} by XOAUTH2", "an {address} angemeldet mit XOAUTH2"),
    "sign_in.length": _t(
        "signed in to {address} by XOAUTH2, token of {length:,} characters",
        "an {address} angemeldet mit XOAUTH2, Token mit {length:,} Zeichen",
    ),
    "pop3.token_long": _t(
        "signed in, but the token has {length:,} characters",
        "angemeldet, aber der Token hat {length:,} Zeichen",
    ),
    "folder.one": _t(
        "{folder}: {exists} messages, UIDVALIDITY {uidvalidity}, UIDNEXT {uidnext}",
        "{folder}: {exists} Nachrichten, UIDVALIDITY {uidvalidity}, UIDNEXT {uidnext}",
    ),
    "folder.pop3": _t(
        "the inbox: {count} messages, with unique ids (UIDL)",
        "der Posteingang: {count} Nachrichten, mit eindeutigen Kennungen (UIDL)",
    ),
    "header.empty": _t(
        "the folder is empty, so there is nothing to read",
        "der Ordner ist leer, es gibt nichts zu lesen",
    ),
    "header.empty.pop3": _t(
        "the inbox is empty, so there is nothing to read",
        "der Posteingang ist leer, es gibt nichts zu lesen",
    ),
    "header.imap": _t(
        "UID {uid}, received {at}, {size} bytes", "UID {uid}, empfangen {at}, {size} Bytes"
    ),
    "header.pop3": _t("message {number}, received {at}", "Nachricht {number}, empfangen {at}"),
    "at": _t("{at} UTC", "{at} UTC"),
    "at.unknown": _t("an unknown time", "zu unbekannter Zeit"),
    "imap.no_data": _t(
        "the server gives nothing for UID {uid}", "der Server gibt zu UID {uid} nichts heraus"
    ),
    "pop3.no_data": _t(
        "the server gives no header of message {number}",
        "der Server gibt keinen Kopf der Nachricht {number} heraus",
    ),
    "every": _t("every {seconds:.0f} s", "alle {seconds:.0f} s"),
    "cron": _t("by cron {cron}", "nach cron {cron}"),
    "push.off": _t("switched off; looked at {often}", "ausgeschaltet; nachgesehen wird {often}"),
    "push.ok": _t(
        "the server offers IDLE; looked at {often} as well",
        "der Server bietet IDLE; nachgesehen wird auch {often}",
    ),
    "push.pop3": _t(
        "POP3 has none; looked at {often}", "POP3 hat keinen; nachgesehen wird {often}"
    ),
    "imap.no_idle": _t(
        "the server offers no IDLE, so the mailbox is looked at {often}",
        "der Server bietet kein IDLE, darum wird {often} nachgesehen",
    ),
    # sending
    "smtp.ok": _t(
        "{host} port {port}, {how}, certificate trusted; {offered}",
        "{host} Port {port}, {how}, Zertifikat vertrauenswürdig; {offered}",
    ),
    "smtp_sign_in.ok": _t(
        "signed in as {user} by XOAUTH2; no mail was sent",
        "als {user} angemeldet mit XOAUTH2; es wurde nichts gesendet",
    ),
    "smtp_sign_in.before": _t(
        "signed in as {user} by XOAUTH2", "als {user} angemeldet mit XOAUTH2"
    ),
    "send.ok": _t(
        "a test mail to {to} was taken by the server ({reply}); Message-ID {message_id}",
        "der Server hat eine Testmail an {to} angenommen ({reply}); Message-ID {message_id}",
    ),
    "send.no_section": _t(
        "this mailbox has no `send`, so it cannot send",
        "dieses Postfach hat kein `send`, es kann nicht senden",
    ),
    "arrival.imap": _t("in {folder} as UID {uid}", "in {folder} als UID {uid}"),
    "arrival.pop3": _t("in the inbox, UIDL {uidl}", "im Posteingang, UIDL {uidl}"),
    "arrival.daemon": _t(
        "the daemon has accepted it as {id}", "der Dienst hat sie als {id} angenommen"
    ),
    "arrival.late": _t(
        "the test mail was not seen within {seconds:.0f} s",
        "die Testmail kam in {seconds:.0f} s nicht an",
    ),
    "arrival.not_fetched": _t(
        "this mailbox is not fetched (fetch.protocol: none), so nobody can see it arrive",
        "dieses Postfach wird nicht abgeholt (fetch.protocol: none), niemand sieht sie ankommen",
    ),
    # webhooks
    "webhook.ok": _t(
        "{origin}, connected to {peer} port {port}{tls}; nothing was posted",
        "{origin}, verbunden mit {peer} Port {port}{tls}; es wurde nichts gesendet",
    ),
    "webhook.tls": _t(
        ", {version}, certificate trusted", ", {version}, Zertifikat vertrauenswürdig"
    ),
    "delivery.daemon.took": _t("{webhook} took it", "{webhook} nahm sie an"),
    "delivery.ping": _t(
        "{webhook} took a test.ping ({status})", "{webhook} nahm ein test.ping an ({status})"
    ),
    "delivery.left_out": _t(
        "{webhook} was left out: in the format {format} a test looks like an alarm",
        "{webhook} blieb außen vor: im Format {format} sieht ein Test aus wie ein Alarm",
    ),
    "delivery.no_daemon": _t(
        "no daemon runs, so webhooks were sent a test.ping instead: {webhooks}",
        "kein Dienst läuft, darum bekamen Webhooks stattdessen ein test.ping: {webhooks}",
    ),
    "delivery.all_left_out": _t(
        "nothing was sent, so that nobody is woken: {webhooks}",
        "es wurde nichts gesendet, damit niemand geweckt wird: {webhooks}",
    ),
    "delivery.no_webhook": _t(
        "no webhook gets mails of this mailbox", "kein Webhook bekommt Mails dieses Postfachs"
    ),
    "delivery.daemon": _t(
        "by the daemon, marked as a test: {webhooks}",
        "durch den Dienst, als Test gekennzeichnet: {webhooks}",
    ),
    "delivery.refused": _t("{webhook}: {said}", "{webhook}: {said}"),
    "delivery.waits": _t(
        "{webhook} has not taken it within {seconds:.0f} s: {said}",
        "{webhook} hat sie in {seconds:.0f} s nicht angenommen: {said}",
    ),
    "delivery.unseen": _t(
        "the daemon has not accepted it within {seconds:.0f} s",
        "der Dienst hat sie in {seconds:.0f} s nicht angenommen",
    ),
}


def told(key: str, **values: object) -> Told:
    """Return a sentence with what stands in it."""
    return Told(WORDS[key], values)


def say(key: str, language: Language, **values: object) -> str:
    """Return a sentence in one language."""
    return told(key, **values).of(language)


def name_of(step: str, language: Language) -> str:
    """Return what a step is called; ``webhook:NAME`` carries its name."""
    kind, _, name = step.partition(":")
    return NAMES[kind].of(language).format(name=name)
