"""What several entries of the catalogue say in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mailbridge.catalogue.base import Entry, Kind, Text

#: registers the app in Exchange and lets it open the mailbox
FULL_ACCESS: Final = Text(
    en="In Exchange Online PowerShell: `New-ServicePrincipal -AppId $client_id -ObjectId "
    "$object_id`, then `Add-MailboxPermission -Identity $address -User $object_id -AccessRights "
    "FullAccess`. If `Get-ServicePrincipal` shows this app under another ObjectId (mostly that of "
    "the app registration instead of the enterprise application), `Remove-ServicePrincipal` it "
    "first. It can take an hour until Exchange knows.",
    de="In der Exchange Online PowerShell: `New-ServicePrincipal -AppId $client_id -ObjectId "
    "$object_id`, danach `Add-MailboxPermission -Identity $address -User $object_id -AccessRights "
    "FullAccess`. Zeigt `Get-ServicePrincipal` diese App unter einer anderen ObjectId (meist jener "
    "der App-Registrierung statt der Unternehmensanwendung), zuerst diese mit "
    "`Remove-ServicePrincipal` entfernen. Es kann eine Stunde dauern, bis Exchange das weiß.",
)

#: the same where a person signs in, and not the app
FULL_ACCESS_PERSON: Final = Text(
    en="If the mailbox is not the person's own, in Exchange Online PowerShell: "
    "`Add-MailboxPermission -Identity $address -User $account -AccessRights FullAccess`. It can "
    "take an hour until Exchange knows. If another account has signed in by mistake, run `$login` "
    "again.",
    de="Gehört das Postfach nicht der Person selbst, in der Exchange Online PowerShell: "
    "`Add-MailboxPermission -Identity $address -User $account -AccessRights FullAccess`. Es kann "
    "eine Stunde dauern, bis Exchange das weiß. Hat sich versehentlich ein anderes Konto "
    "angemeldet, `$login` erneut ausführen.",
)

#: an end that the daemon mends by itself
BY_ITSELF: Final = Text(
    en="Nothing is to be done: mailbridge connects again by itself and loses nothing. If it goes "
    "on for long, look at the network between this machine and $server.",
    de="Es ist nichts zu tun: mailbridge verbindet sich von selbst neu und verliert nichts. Hält "
    "es lange an, das Netz zwischen diesem Rechner und $server prüfen.",
)

#: what nobody but the makers can mend
REPORT: Final = Text(
    en="Report it with the words of the server; mailbridge should not have sent that. The mail "
    "stays in the mailbox, and everything else goes on.",
    de="Bitte mit den Worten des Servers melden: mailbridge hätte das nicht senden dürfen. Die "
    "Nachricht bleibt im Postfach, alles andere läuft weiter.",
)

#: a mail of this kind is refused again each time
SEND_ANOTHER: Final = Text(
    en="Change the mail and send it again.",
    de="Die Nachricht ändern und neu senden.",
)

#: the way out is shut
OPEN_FIREWALL: Final = Text(
    en="Open outgoing TCP to $server in the firewall. If only a proxy leads outside, name it in "
    "`server.proxy` of this mailbox (https_proxy is not for mail).",
    de="In der Firewall ausgehendes TCP zu $server öffnen. Führt nur ein Proxy nach draußen, ihn "
    "in `server.proxy` dieses Postfachs nennen (https_proxy gilt nicht für Mail).",
)

#: where a proxy's address stands
PROXY_URL: Final = Text(
    en="Check kind, host and port of the proxy: `http://`, `socks5h://` or `socks5://` in "
    "`server.proxy` of the mailbox or apps.$app.proxy, or in all_proxy and https_proxy of the "
    "environment.",
    de="Art, Host und Port des Proxys prüfen: `http://`, `socks5h://` oder `socks5://` in "
    "`server.proxy` des Postfachs oder apps.$app.proxy, oder in all_proxy und https_proxy der "
    "Umgebung.",
)


def alike(  # noqa: PLR0913 - the columns of an entry
    name: str,
    protocols: Sequence[str],
    kind: Kind,
    *,
    cause: Text,
    fix: Text,
    seen: tuple[str, ...] = (),
) -> tuple[Entry, ...]:
    """Return the entries of what is the same in several protocols: ``imap.eof``, ``pop3.eof``."""
    return tuple(
        Entry(code=f"{protocol}.{name}", kind=kind, cause=cause, fix=fix, seen=seen)
        for protocol in protocols
    )
