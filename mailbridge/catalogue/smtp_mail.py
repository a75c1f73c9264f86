"""What SMTP servers answer to one mail or one recipient."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="smtp.too_large",
        kind="configuration",
        cause=Text(
            en="the mail is larger than the server permits the mailbox",
            de="die Nachricht ist größer, als der Server dem Postfach erlaubt",
        ),
        fix=Text(
            en="Make it smaller, or raise the limit: `Set-Mailbox $address -MaxSendSize "
            "150MB`. Then send the mail again.",
            de="Die Nachricht verkleinern oder die Grenze anheben: `Set-Mailbox $address "
            "-MaxSendSize 150MB`. Danach die Nachricht erneut senden.",
        ),
        seen=(
            "552 5.3.4 Message size exceeds fixed maximum message size",
            "STOREDRV.Submission.Exception:MessageSubmissionExceededException.MapiExceptionMaxSubmissionExceeded",
        ),
    ),
    Entry(
        code="smtp.header_too_large",
        kind="configuration",
        cause=Text(
            en="the header of the mail is larger than the server permits",
            de="der Kopf der Nachricht ist größer, als der Server erlaubt",
        ),
        fix=Text(
            en="Send it to fewer recipients at once, and leave out long header fields.",
            de="An weniger Empfänger auf einmal senden und lange Kopfzeilen weglassen.",
        ),
        seen=("552 5.3.4 Header size exceeds fixed maximum size",),
    ),
    Entry(
        code="smtp.too_many_recipients",
        kind="passing",
        cause=Text(
            en="more recipients at once than the server takes",
            de="mehr Empfänger auf einmal, als der Server annimmt",
        ),
        fix=Text(
            en="Nothing is to be done: mailbridge sends to the others in another round. "
            "`Get-Mailbox $address` shows RecipientLimits.",
            de="Es ist nichts zu tun: mailbridge sendet an die übrigen in einem weiteren "
            "Durchgang. `Get-Mailbox $address` zeigt RecipientLimits.",
        ),
        seen=("452 4.5.3 Too many recipients", "550 5.5.3 Too many recipients"),
    ),
    Entry(
        code="smtp.recipient_unknown",
        kind="configuration",
        cause=Text(en="there is no such recipient", de="es gibt keinen solchen Empfänger"),
        fix=Text(
            en="Correct the recipient's address and send the mail again to it.",
            de="Die Adresse des Empfängers berichtigen und die Nachricht erneut an ihn senden.",
        ),
        seen=(
            (
                "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address "
                "lookup"
            ),
            "550 5.1.1",
        ),
    ),
    Entry(
        code="smtp.recipient_refused",
        kind="configuration",
        cause=Text(
            en="mail to this recipient is not permitted",
            de="E-Mails an diesen Empfänger sind nicht erlaubt",
        ),
        fix=Text(
            en="Ask the recipient, or the administrators of both sides, for the reason.",
            de="Beim Empfänger oder bei den Administratoren beider Seiten nach dem Grund fragen.",
        ),
        seen=(
            "550 5.7.505 Access denied, banned recipient",
            "550 5.7.513 Service unavailable, client blocked",
        ),
    ),
    Entry(
        code="smtp.recipient_busy",
        kind="passing",
        cause=Text(
            en="the recipient has got too much mail in the last hour",
            de="der Empfänger hat in der letzten Stunde zu viele E-Mails erhalten",
        ),
        fix=Text(
            en="Nothing is to be done: the mail is kept and sent later.",
            de="Es ist nichts zu tun: die Nachricht bleibt erhalten und wird später gesendet.",
        ),
        seen=(
            (
                "550 5.2.121 Recipient's per hour message receive limit from specific sender "
                "exceeded"
            ),
            (
                "550 5.2.122 The recipient has exceeded their limit for the number of messages "
                "they can receive per hour"
            ),
        ),
    ),
    Entry(
        code="smtp.from_refused",
        kind="configuration",
        cause=Text(
            en="the server does not take this From: the domain's DMARC policy forbids it, or "
            "it is not one valid address",
            de="der Server nimmt dieses From nicht an: die DMARC-Richtlinie der Domäne "
            "verbietet es, oder es ist nicht genau eine gültige Adresse",
        ),
        fix=Text(
            en="Send as an address of a domain that the tenant owns and whose SPF and DKIM "
            "include Exchange Online.",
            de="Unter einer Adresse einer Domäne senden, die dem Mandanten gehört und deren "
            "SPF und DKIM Exchange Online einschließen.",
        ),
        seen=(
            "550 5.7.509 Access denied, sending domain does not pass DMARC verification",
            "550 5.7.512 Access denied, message must be RFC 5322 section 3.6.2 compliant",
        ),
    ),
    Entry(
        code="smtp.invalid_address",
        kind="configuration",
        cause=Text(
            en="the server does not take this for an address",
            de="der Server hält das nicht für eine Adresse",
        ),
        fix=Text(
            en="Correct the address and send the mail again.",
            de="Die Adresse berichtigen und die Nachricht erneut senden.",
        ),
        seen=("501 5.1.7 Invalid address", "550 5.1.3", "501 5.5.4 Invalid arguments"),
    ),
    Entry(
        code="smtp.policy",
        kind="configuration",
        cause=Text(
            en="a rule of the server forbids it: a transport rule, a restricted group, or no "
            "mail to the outside",
            de="eine Regel des Servers verbietet es: eine Transportregel, eine eingeschränkte "
            "Gruppe oder kein Versand nach außen",
        ),
        fix=Text(
            en="Exchange admin center > Mail flow > Rules, and the recipient's delivery "
            "restrictions; the words of the server say which.",
            de="Exchange Admin Center > Nachrichtenfluss > Regeln und die "
            "Zustelleinschränkungen des Empfängers; die Worte des Servers sagen, welche.",
        ),
        seen=("550 5.7.1",),
    ),
    Entry(
        code="smtp.refused",
        kind="configuration",
        cause=Text(en="the server refuses", de="der Server lehnt ab"),
        fix=Text(
            en="The words of the server say what is wrong; mend that and send the mail again.",
            de="Die Worte des Servers sagen, was nicht stimmt; das beheben und die Nachricht "
            "erneut senden.",
        ),
    ),
    Entry(
        code="smtp.no_smtputf8",
        kind="configuration",
        cause=Text(
            en="an address is international, and the server has no SMTPUTF8",
            de="eine Adresse ist international, und der Server kann kein SMTPUTF8",
        ),
        fix=Text(
            en="Use the recipient's address in plain ASCII.",
            de="Die Adresse des Empfängers in reinem ASCII verwenden.",
        ),
    ),
    Entry(
        code="smtp.no_8bitmime",
        kind="configuration",
        cause=Text(
            en="the mail has bytes beyond ASCII, and the server has no 8BITMIME",
            de="die Nachricht enthält Bytes jenseits von ASCII, und der Server kann kein 8BITMIME",
        ),
        fix=Text(
            en="Encode its parts as quoted-printable or base64.",
            de="Ihre Teile als quoted-printable oder base64 kodieren.",
        ),
    ),
)
