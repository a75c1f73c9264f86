"""What SMTP servers say of the sender: what it may, and what it has used up."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="smtp.send_as_denied",
        kind="configuration",
        cause=Text(
            en="the account may not send as this address",
            de="das Konto darf nicht unter dieser Adresse senden",
        ),
        fix=Text(
            en="In Exchange Online PowerShell: `Add-RecipientPermission $sender -Trustee "
            "$object_id -AccessRights SendAs -Confirm:$$false`; or send as $address. It can "
            "take an hour. Then send the mail again.",
            de="In der Exchange Online PowerShell: `Add-RecipientPermission $sender -Trustee "
            "$object_id -AccessRights SendAs -Confirm:$$false`; oder als $address senden. "
            "Es kann eine Stunde dauern. Danach die Nachricht erneut senden.",
        ),
        fix_delegated=Text(
            en="In Exchange Online PowerShell: `Add-RecipientPermission $sender -Trustee "
            "$account -AccessRights SendAs -Confirm:$$false`; or send as $account. It can "
            "take an hour. Then send the mail again.",
            de="In der Exchange Online PowerShell: `Add-RecipientPermission $sender -Trustee "
            "$account -AccessRights SendAs -Confirm:$$false`; oder als $account senden. Es "
            "kann eine Stunde dauern. Danach die Nachricht erneut senden.",
        ),
        seen=(
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
            (
                "554 5.2.252 SendAsDenied; alarm@x not allowed to send as info@x; "
                "STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied"
            ),
        ),
    ),
    Entry(
        code="smtp.rate_limited",
        kind="passing",
        cause=Text(
            en="more messages a minute than the server permits the mailbox",
            de="mehr Nachrichten pro Minute, als der Server dem Postfach erlaubt",
        ),
        fix=Text(
            en="Nothing is lost; mailbridge waits. Lower `send.limits.per_minute` (Exchange "
            "permits 30), or see who else sends as $address.",
            de="Es geht nichts verloren; mailbridge wartet. `send.limits.per_minute` senken "
            "(Exchange erlaubt 30) oder nachsehen, wer noch als $address sendet.",
        ),
        seen=(
            ("421 4.4.2 Message submission rate for this client has exceeded the configured limit"),
        ),
    ),
    Entry(
        code="smtp.recipients_used_up",
        kind="passing",
        cause=Text(
            en="the mailbox has used up its recipients of the day",
            de="das Postfach hat seine Empfänger des Tages aufgebraucht",
        ),
        fix=Text(
            en="Wait: the limit is of the last 24 hours. Lower "
            "`send.limits.recipients_per_day` if other programs send as $address too.",
            de="Warten: die Grenze gilt für die letzten 24 Stunden. "
            "`send.limits.recipients_per_day` senken, wenn auch andere Programme als "
            "$address senden.",
        ),
        seen=(
            "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException",
            (
                "550 5.1.90 Your message can't be sent because you've reached your daily limit for "
                "message recipients"
            ),
        ),
    ),
    Entry(
        code="smtp.mailbox_full",
        kind="configuration",
        cause=Text(
            en="the sender's own mailbox is full, so that no copy can be kept in its sent items",
            de="das Postfach des Absenders ist voll, sodass keine Kopie in den gesendeten "
            "Elementen abgelegt werden kann",
        ),
        fix=Text(
            en="Delete or archive mail of $address, or give it more room; the mail is kept and "
            "sent then.",
            de="In $address E-Mails löschen oder archivieren oder mehr Platz geben; die "
            "Nachricht bleibt erhalten und wird dann gesendet.",
        ),
        seen=(
            (
                "554 5.2.2 mailbox full; "
                "STOREDRV.Submission.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded"
            ),
        ),
    ),
    Entry(
        code="smtp.sender_blocked",
        kind="configuration",
        cause=Text(
            en="Microsoft has blocked the account for sending spam",
            de="Microsoft hat das Konto wegen Spamversands gesperrt",
        ),
        fix=Text(
            en="Microsoft Defender portal > Email & collaboration > Review > Restricted "
            "entities: find out what sent spam, then unblock $address.",
            de="Microsoft Defender-Portal > E-Mail und Zusammenarbeit > Überprüfen > "
            "Eingeschränkte Entitäten: herausfinden, was Spam gesendet hat, dann $address "
            "freigeben.",
        ),
        seen=(
            "550 5.1.8 Access denied, bad outbound sender",
            "550 5.7.501 Access denied, spam abuse detected",
            "550 5.7.502 Access denied, banned sender",
        ),
    ),
    Entry(
        code="smtp.tenant_blocked",
        kind="configuration",
        cause=Text(
            en="Microsoft does not take mail of this tenant for now",
            de="Microsoft nimmt von diesem Mandanten derzeit keine E-Mails an",
        ),
        fix=Text(
            en="Microsoft Defender portal > Email & collaboration > Review > Restricted "
            "entities; for a new or trial tenant ask Microsoft's support to lift it.",
            de="Microsoft Defender-Portal > E-Mail und Zusammenarbeit > Überprüfen > "
            "Eingeschränkte Entitäten; bei einem neuen oder Testmandanten den "
            "Microsoft-Support um Freigabe bitten.",
        ),
        seen=(
            "550 5.7.705 Access denied, tenant has exceeded threshold",
            (
                "550 5.7.703 Your message can't be delivered because messages from this "
                "organization are blocked"
            ),
            "550 5.7.708 Access denied, traffic not accepted from this IP",
        ),
    ),
    Entry(
        code="smtp.unregistered_domain",
        kind="configuration",
        cause=Text(
            en="the sender's domain is not registered in the tenant",
            de="die Domäne des Absenders ist im Mandanten nicht registriert",
        ),
        fix=Text(
            en="Microsoft 365 admin center > Settings > Domains: add the domain of $sender, or "
            "send as an address of a domain that stands there.",
            de="Microsoft 365 Admin Center > Einstellungen > Domänen: die Domäne von $sender "
            "hinzufügen oder unter einer Adresse einer Domäne senden, die dort steht.",
        ),
        seen=(
            (
                "550 5.7.750 Service unavailable. Client blocked from sending from unregistered "
                "domains"
            ),
        ),
    ),
    Entry(
        code="smtp.tenant_limit",
        kind="passing",
        cause=Text(
            en="the tenant has used up its outside recipients of the day",
            de="der Mandant hat seine externen Empfänger des Tages aufgebraucht",
        ),
        fix=Text(
            en="Wait; the limit grows with the licences: Exchange admin center > Reports > "
            "Mail flow > Tenant outbound external recipients.",
            de="Warten; die Grenze wächst mit den Lizenzen: Exchange Admin Center > Berichte > "
            "Nachrichtenfluss > Externe Empfänger des Mandanten.",
        ),
        seen=(
            (
                "550 5.7.232 Your message can't be sent because your trial tenant has exceeded its "
                "tenant external recipient rate limit"
            ),
            (
                "550 5.7.233 Your message can't be sent because your tenant has exceeded its "
                "tenant external recipient rate limit"
            ),
        ),
    ),
    Entry(
        code="smtp.in_doubt",
        kind="configuration",
        cause=Text(
            en="the mail was handed over whole, and the server's word on it is lost: nobody "
            "knows whether it was taken",
            de="die Nachricht wurde vollständig übergeben, und die Antwort des Servers ging "
            "verloren: niemand weiß, ob sie angenommen wurde",
        ),
        fix=Text(
            en="mailbridge looks for it in the sent items of $address and sends it again only "
            "if it is not there. Where it cannot look, look there yourself, then "
            "`mailbridge queue retry ID` or `mailbridge queue drop ID --yes`.",
            de="mailbridge sucht sie in den gesendeten Elementen von $address und sendet sie "
            "nur erneut, wenn sie dort fehlt. Wo es nicht nachsehen kann, selbst dort "
            "nachsehen, danach `mailbridge queue retry ID` oder `mailbridge queue drop ID "
            "--yes`.",
        ),
    ),
)
