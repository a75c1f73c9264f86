"""What mailbridge itself refuses: mails to send, templates, probes that did not come through."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="send.no_mailbox",
        kind="configuration",
        cause=Text(
            en="it is not clear which mailbox is to send this mail",
            de="es ist nicht klar, welches Postfach diese Nachricht senden soll",
        ),
        fix=Text(
            en="Name a mailbox that has a `send` section: `--from NAME`, `from` in the "
            "request, or `relay.accept.senders`.",
            de="Ein Postfach mit einem Abschnitt `send` nennen: `--from NAME`, `from` in der "
            "Anfrage oder `relay.accept.senders`.",
        ),
        own_fix=True,
    ),
    Entry(
        code="send.not_allowed",
        kind="configuration",
        cause=Text(
            en="no mailbox may send as this address",
            de="kein Postfach darf unter dieser Adresse senden",
        ),
        fix=Text(
            en="Add the address to `send.send_as` of the mailbox. If it is not the mailbox's "
            "own, Exchange has to permit it, too: `Add-RecipientPermission $sender -Trustee "
            "$object_id -AccessRights SendAs`.",
            de="Die Adresse bei `send.send_as` des Postfachs ergänzen. Ist es nicht die eigene "
            "des Postfachs, muss es auch Exchange erlauben: `Add-RecipientPermission "
            "$sender -Trustee $object_id -AccessRights SendAs`.",
        ),
        own_fix=True,
    ),
    Entry(
        code="send.too_large",
        kind="configuration",
        cause=Text(
            en="the mail is larger than mailbridge takes",
            de="die Nachricht ist größer, als mailbridge annimmt",
        ),
        fix=Text(
            en="Make it smaller: send a link instead of the file.",
            de="Die Nachricht verkleinern: einen Link statt der Datei senden.",
        ),
        own_fix=True,
    ),
    Entry(
        code="send.long_line",
        kind="configuration",
        cause=Text(
            en="a line of the mail is longer than servers take",
            de="eine Zeile der Nachricht ist länger, als Server annehmen",
        ),
        fix=Text(
            en="Encode that part as quoted-printable or base64.",
            de="Diesen Teil als quoted-printable oder base64 kodieren.",
        ),
        own_fix=True,
    ),
    Entry(
        code="send.loop",
        kind="configuration",
        cause=Text(
            en="the mail goes in circles: it passed here before",
            de="die Nachricht dreht sich im Kreis: sie war schon einmal hier",
        ),
        fix=Text(
            en="Look for a rule that forwards what mailbridge sends to a mailbox that "
            "mailbridge forwards.",
            de="Nach einer Regel suchen, die das, was mailbridge sendet, an ein Postfach "
            "weiterleitet, das mailbridge weiterleitet.",
        ),
        own_fix=True,
    ),
    Entry(
        code="send.key_conflict",
        kind="configuration",
        cause=Text(
            en="this Idempotency-Key was used before, for another mail",
            de="dieser Idempotency-Key wurde schon für eine andere Nachricht verwendet",
        ),
        fix=Text(
            en="Use a key of its own for every mail; repeat a request without a change.",
            de="Für jede Nachricht einen eigenen Schlüssel verwenden; eine Anfrage nur "
            "unverändert wiederholen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="template.failed",
        kind="configuration",
        cause=Text(
            en="the webhook's template fails with this mail",
            de="die Vorlage des Webhooks scheitert an dieser Nachricht",
        ),
        fix=Text(
            en="Mend the template; `mailbridge parse FILE.eml --webhook NAME` shows what it "
            "makes. The mail waits meanwhile.",
            de="Die Vorlage berichtigen; `mailbridge parse DATEI.eml --webhook NAME` zeigt, "
            "was sie ergibt. Die Nachricht wartet so lange.",
        ),
        own_fix=True,
    ),
    Entry(
        code="template.no_json",
        kind="configuration",
        cause=Text(
            en="what the webhook's template gives is no JSON",
            de="was die Vorlage des Webhooks ergibt, ist kein JSON",
        ),
        fix=Text(
            en="Write `{{ value | tojson }}` where a value stands without quotes. The mail "
            "waits meanwhile.",
            de="`{{ wert | tojson }}` schreiben, wo ein Wert ohne Anführungszeichen steht. Die "
            "Nachricht wartet so lange.",
        ),
        own_fix=True,
    ),
    Entry(
        code="format.mails_only",
        kind="configuration",
        cause=Text(
            en="the webhook's format sends mails only, and this event is none",
            de="das Format des Webhooks sendet nur Nachrichten, und dieses Ereignis ist keine",
        ),
        fix=Text(
            en="Take the event out of the webhook's `events`.",
            de="Das Ereignis aus `events` des Webhooks entfernen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="attachments.no_links",
        kind="configuration",
        cause=Text(
            en="links to attachments need `http.listen` and `state.key`, and this daemon has "
            "not both",
            de="Links zu Anhängen brauchen `http.listen` und `state.key`, und dieser Dienst "
            "hat nicht beides",
        ),
        fix=Text(
            en="Restart the daemon: a reload takes neither.",
            de="Den Dienst neu starten: ein Neuladen übernimmt keins von beiden.",
        ),
        own_fix=True,
    ),
    Entry(
        code="probe.not_sent",
        kind="passing",
        cause=Text(
            en="the scheduled test mail was not sent in time",
            de="die geplante Testnachricht wurde nicht rechtzeitig gesendet",
        ),
        fix=Text(
            en="`mailbridge test-mailbox $mailbox` shows what keeps it from sending; "
            "`mailbridge queue list` shows what waits.",
            de="`mailbridge test-mailbox $mailbox` zeigt, was das Senden verhindert; "
            "`mailbridge queue list` zeigt, was wartet.",
        ),
        own_fix=True,
    ),
    Entry(
        code="probe.bounced",
        kind="configuration",
        cause=Text(
            en="the scheduled test mail came back", de="die geplante Testnachricht kam zurück"
        ),
        fix=Text(
            en="The report in the message names the reason: mostly a rule or a limit of the "
            "mailbox $address.",
            de="Der Bericht in der Meldung nennt den Grund: meist eine Regel oder Grenze des "
            "Postfachs $address.",
        ),
        own_fix=True,
    ),
    Entry(
        code="probe.lost",
        kind="configuration",
        cause=Text(
            en="the server took the scheduled test mail, and it has not arrived in a folder "
            "that is watched",
            de="der Server nahm die geplante Testnachricht an, und sie kam in keinem "
            "überwachten Ordner an",
        ),
        fix=Text(
            en="Look for it in Junk Email, in the mailbox's rules (`Get-InboxRule -Mailbox "
            "$address`), and by a message trace in the Exchange admin center. If mail only "
            "takes longer, write more for `probe.within`.",
            de="Sie im Junk-Ordner, in den Regeln des Postfachs (`Get-InboxRule -Mailbox "
            "$address`) und in der Nachrichtenablaufverfolgung des Exchange Admin Centers "
            "suchen. Dauert es nur länger, `probe.within` erhöhen.",
        ),
        own_fix=True,
    ),
    Entry(
        code="probe.not_delivered",
        kind="passing",
        cause=Text(
            en="the scheduled test mail arrived, and a webhook did not have it in time",
            de="die geplante Testnachricht kam an, und ein Webhook erhielt sie nicht rechtzeitig",
        ),
        fix=Text(
            en="See `mailbridge status` and `mailbridge queue list`; `mailbridge test-webhook "
            "NAME` tries a webhook at once.",
            de="`mailbridge status` und `mailbridge queue list` ansehen; `mailbridge "
            "test-webhook NAME` probiert einen Webhook sofort.",
        ),
        own_fix=True,
    ),
    Entry(
        code="control.silent",
        kind="passing",
        cause=Text(
            en="the daemon does not answer on its control socket",
            de="der Dienst antwortet nicht an seinem Steuer-Socket",
        ),
        fix=Text(
            en="Look at `systemctl status mailbridge`; it may just be busy for a moment. A "
            "command for a daemon that hangs works after `systemctl restart mailbridge`.",
            de="`systemctl status mailbridge` ansehen; vielleicht ist er nur einen Moment "
            "beschäftigt. Hängt er, hilft `systemctl restart mailbridge`.",
        ),
        own_fix=True,
    ),
)
