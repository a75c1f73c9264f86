"""What SMTP servers answer to the sign-in."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.phrases import FULL_ACCESS

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="smtp.authenticate_failed",
        kind="configuration",
        cause=Text(
            en="the server refuses the token, and SMTP does not tell why: SMTP.SendAsApp or "
            "SMTP.Send is missing, the service principal is not registered in Exchange or "
            "under a wrong object id, or the mailbox is not the account's to send from",
            de="der Server lehnt das Token ab, und SMTP sagt nicht, warum: SMTP.SendAsApp oder "
            "SMTP.Send fehlt, der Dienstprinzipal ist in Exchange nicht oder mit falscher "
            "Objekt-ID registriert, oder das Konto darf von diesem Postfach nicht senden",
        ),
        fix=Text(
            en=f"If the token claims are complained of above, mend that first. {FULL_ACCESS.en}",
            de=f"Wird oben der Token-Inhalt beanstandet, zuerst das beheben. {FULL_ACCESS.de}",
        ),
        fix_delegated=Text(
            en="If the token claims are complained of above, mend that first: the app needs "
            "the delegated permission SMTP.Send, and the person runs `$login` afterwards. "
            "The account $account needs an Exchange Online licence.",
            de="Wird oben der Token-Inhalt beanstandet, zuerst das beheben: die App braucht "
            "die delegierte Berechtigung SMTP.Send, danach führt die Person `$login` aus. "
            "Das Konto $account braucht eine Exchange-Online-Lizenz.",
        ),
        seen=("535 5.7.3 Authentication unsuccessful",),
    ),
    Entry(
        code="smtp.auth_disabled_tenant",
        kind="configuration",
        cause=Text(
            en="SMTP AUTH is switched off for the whole tenant, and not switched on for this "
            "mailbox",
            de="SMTP AUTH ist für den ganzen Mandanten abgeschaltet und für dieses Postfach "
            "nicht eingeschaltet",
        ),
        fix=Text(
            en="In Exchange Online PowerShell: `Set-CASMailbox -Identity $address "
            "-SmtpClientAuthenticationDisabled $$false` (only this mailbox), or "
            "`Set-TransportConfig -SmtpClientAuthenticationDisabled $$false` (all). It can "
            "take an hour.",
            de="In der Exchange Online PowerShell: `Set-CASMailbox -Identity $address "
            "-SmtpClientAuthenticationDisabled $$false` (nur dieses Postfach) oder "
            "`Set-TransportConfig -SmtpClientAuthenticationDisabled $$false` (alle). Es "
            "kann eine Stunde dauern.",
        ),
        fix_delegated=Text(
            en="In Exchange Online PowerShell: `Set-CASMailbox -Identity $account "
            "-SmtpClientAuthenticationDisabled $$false` (only the account that signs in), "
            "or `Set-TransportConfig -SmtpClientAuthenticationDisabled $$false` (all). It "
            "can take an hour.",
            de="In der Exchange Online PowerShell: `Set-CASMailbox -Identity $account "
            "-SmtpClientAuthenticationDisabled $$false` (nur das Konto, das sich anmeldet) "
            "oder `Set-TransportConfig -SmtpClientAuthenticationDisabled $$false` (alle). "
            "Es kann eine Stunde dauern.",
        ),
        seen=(
            (
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for "
                "the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information."
            ),
        ),
    ),
    Entry(
        code="smtp.auth_disabled_mailbox",
        kind="configuration",
        cause=Text(
            en="SMTP AUTH is switched off for this mailbox",
            de="SMTP AUTH ist für dieses Postfach abgeschaltet",
        ),
        fix=Text(
            en="In Exchange Online PowerShell: `Set-CASMailbox -Identity $address "
            "-SmtpClientAuthenticationDisabled $$false`. Or: Microsoft 365 admin center > "
            "Users > the mailbox > Mail > Manage email apps > Authenticated SMTP. It can "
            "take an hour.",
            de="In der Exchange Online PowerShell: `Set-CASMailbox -Identity $address "
            "-SmtpClientAuthenticationDisabled $$false`. Oder: Microsoft 365 Admin Center > "
            "Benutzer > das Postfach > E-Mail > E-Mail-Apps verwalten > Authentifiziertes "
            "SMTP. Es kann eine Stunde dauern.",
        ),
        fix_delegated=Text(
            en="In Exchange Online PowerShell: `Set-CASMailbox -Identity $account "
            "-SmtpClientAuthenticationDisabled $$false`. Or: Microsoft 365 admin center > "
            "Users > $account > Mail > Manage email apps > Authenticated SMTP. It can take "
            "an hour.",
            de="In der Exchange Online PowerShell: `Set-CASMailbox -Identity $account "
            "-SmtpClientAuthenticationDisabled $$false`. Oder: Microsoft 365 Admin Center > "
            "Benutzer > $account > E-Mail > E-Mail-Apps verwalten > Authentifiziertes SMTP. "
            "Es kann eine Stunde dauern.",
        ),
        seen=(
            (
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for "
                "the Mailbox. Visit https://aka.ms/smtp_auth_disabled for more information."
            ),
        ),
    ),
    Entry(
        code="smtp.credentials_incorrect",
        kind="configuration",
        cause=Text(
            en="the server takes the credentials for wrong",
            de="der Server hält die Anmeldedaten für falsch",
        ),
        fix=Text(
            en="The server took the sign-in for one with a password; mailbridge only ever "
            "sends OAuth tokens. Check that `send.server` leads to smtp.office365.com and "
            "that nothing between changes the sign-in.",
            de="Der Server hat die Anmeldung für eine mit Kennwort gehalten; mailbridge sendet "
            "nur OAuth-Token. Prüfen, ob `send.server` zu smtp.office365.com führt und "
            "nichts dazwischen die Anmeldung verändert.",
        ),
        seen=("535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.",),
    ),
    Entry(
        code="smtp.security_defaults",
        kind="configuration",
        cause=Text(
            en="the tenant's security defaults block this sign-in",
            de="die Sicherheitsstandards des Mandanten blockieren diese Anmeldung",
        ),
        fix=Text(
            en="Leave the security defaults on. They block passwords: use `sign_in: "
            "application` or `sign_in: delegated`, and switch SMTP AUTH on for the mailbox: "
            "`Set-CASMailbox -Identity $address -SmtpClientAuthenticationDisabled $$false`.",
            de="Die Sicherheitsstandards eingeschaltet lassen. Sie blockieren Kennwörter: "
            "`sign_in: application` oder `sign_in: delegated` verwenden und SMTP AUTH für "
            "das Postfach einschalten: `Set-CASMailbox -Identity $address "
            "-SmtpClientAuthenticationDisabled $$false`.",
        ),
        seen=(
            (
                "535 5.7.139 Authentication unsuccessful, user is locked by your organization's "
                "security defaults policy. Contact your administrator."
            ),
        ),
    ),
    Entry(
        code="smtp.policy_blocked",
        kind="configuration",
        cause=Text(
            en="a Conditional Access or authentication policy blocks this sign-in",
            de="eine Richtlinie für bedingten Zugriff oder eine Authentifizierungsrichtlinie "
            "blockiert diese Anmeldung",
        ),
        fix=Text(
            en="Entra admin center > Sign-in logs shows which policy. Exclude the app "
            "$client_id from it, or see `Get-AuthenticationPolicy` in Exchange Online "
            "PowerShell.",
            de="Entra Admin Center > Anmeldeprotokolle zeigt, welche Richtlinie es war. Die "
            "App $client_id davon ausnehmen, oder in der Exchange Online PowerShell "
            "`Get-AuthenticationPolicy` ansehen.",
        ),
        fix_delegated=Text(
            en="Entra admin center > Sign-in logs shows which policy. Exclude the account "
            "$account from it, or use `sign_in: application`.",
            de="Entra Admin Center > Anmeldeprotokolle zeigt, welche Richtlinie es war. Das "
            "Konto $account davon ausnehmen oder `sign_in: application` verwenden.",
        ),
        seen=(
            (
                "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to "
                "be authenticated successfully. Contact your administrator."
            ),
        ),
    ),
    Entry(
        code="smtp.basic_auth",
        kind="configuration",
        cause=Text(en="the server refuses passwords", de="der Server nimmt keine Kennwörter an"),
        fix=Text(
            en="The server took the sign-in for one with a password; mailbridge only ever "
            "sends OAuth tokens. Check that `send.server` leads to smtp.office365.com and "
            "that nothing between changes the sign-in.",
            de="Der Server hat die Anmeldung für eine mit Kennwort gehalten; mailbridge sendet "
            "nur OAuth-Token. Prüfen, ob `send.server` zu smtp.office365.com führt und "
            "nichts dazwischen die Anmeldung verändert.",
        ),
        seen=(
            "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
            "550 5.7.30 Basic authentication is not supported for Client Submission.",
        ),
    ),
    Entry(
        code="smtp.account_locked",
        kind="configuration",
        cause=Text(en="the account is locked", de="das Konto ist gesperrt"),
        fix=Text(
            en="Entra admin center > Users > $account: unblock sign-in; or wait until the lock "
            "ends, and find out in the sign-in logs who tried wrong passwords.",
            de="Entra Admin Center > Benutzer > $account: Anmeldung zulassen; oder warten, bis "
            "die Sperre endet, und in den Anmeldeprotokollen nachsehen, wer falsche "
            "Kennwörter versucht hat.",
        ),
        seen=(
            (
                "535 5.7.139 Authentication unsuccessful, account is locked. Contact your "
                "administrator."
            ),
        ),
    ),
    Entry(
        code="smtp.federation",
        kind="configuration",
        cause=Text(
            en="the organisation's own sign-in server (AD FS) could not be asked",
            de="der eigene Anmeldeserver der Organisation (AD FS) war nicht zu erreichen",
        ),
        fix=Text(
            en="Check that it can be reached from the internet by https, and that its "
            "certificate is valid.",
            de="Prüfen, ob er aus dem Internet per https erreichbar und sein Zertifikat gültig "
            "ist.",
        ),
        seen=("535 5.7.139 Authentication unsuccessful, the federated STS could not be reached.",),
    ),
    Entry(
        code="smtp.auth_refused",
        kind="configuration",
        cause=Text(
            en="Exchange refuses the sign-in for a reason that its words name",
            de="Exchange lehnt die Anmeldung aus einem Grund ab, den seine Worte nennen",
        ),
        fix=Text(
            en="Look at the words of the server and at Entra admin center > Sign-in logs for "
            "$account.",
            de="Die Worte des Servers lesen und Entra Admin Center > Anmeldeprotokolle nach "
            "$account durchsehen.",
        ),
        seen=("535 5.7.139 Authentication unsuccessful",),
    ),
    Entry(
        code="smtp.invalid_xoauth2",
        kind="bug",
        cause=Text(
            en="the server could not read the credential",
            de="der Server konnte die Anmeldedaten nicht lesen",
        ),
        fix=Text(
            en="Check that nothing between changes the sign-in. If it is Exchange Online "
            "itself, report it.",
            de="Prüfen, ob etwas dazwischen die Anmeldung verändert. Ist es Exchange Online "
            "selbst, bitte melden.",
        ),
        seen=("501 5.5.124 Invalid XOAUTH2 auth data",),
    ),
    Entry(
        code="smtp.not_authenticated",
        kind="configuration",
        cause=Text(
            en="the server says that nobody has signed in, although the sign-in was not refused",
            de="der Server sagt, niemand habe sich angemeldet, obwohl die Anmeldung nicht "
            "abgelehnt wurde",
        ),
        fix=Text(
            en="The words in brackets, if there are any, are the real reason. Run `mailbridge "
            "test-mailbox $mailbox`.",
            de="Die Worte in eckigen Klammern, falls vorhanden, nennen den wahren Grund. "
            "`mailbridge test-mailbox $mailbox` ausführen.",
        ),
        seen=(
            "530 5.7.57 Client not authenticated to send mail.",
            (
                "530 5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL "
                "FROM"
            ),
        ),
    ),
    Entry(
        code="smtp.no_xoauth2",
        kind="configuration",
        cause=Text(
            en="the server does not take OAuth tokens here",
            de="der Server nimmt hier keine OAuth-Token an",
        ),
        fix=Text(
            en="Check `send.server`: Exchange Online is smtp.office365.com, port 587, `tls: "
            "starttls`. It may be that SMTP AUTH is off: `Set-CASMailbox -Identity $address "
            "-SmtpClientAuthenticationDisabled $$false`.",
            de="`send.server` prüfen: Exchange Online ist smtp.office365.com, Port 587, `tls: "
            "starttls`. Möglicherweise ist SMTP AUTH abgeschaltet: `Set-CASMailbox "
            "-Identity $address -SmtpClientAuthenticationDisabled $$false`.",
        ),
    ),
)
