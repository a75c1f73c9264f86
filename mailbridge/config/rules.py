"""What must hold between the sections, and what is allowed but hardly meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from mailbridge import client_certificate
from mailbridge.client_certificate import CertificateFault
from mailbridge.config.clouds import CLOUDS, clash
from mailbridge.config.credentials import Certificate, Credential
from mailbridge.config.formats import MAILS_ONLY
from mailbridge.config.mailboxes import Mailbox
from mailbridge.config.models import App
from mailbridge.config.problems import Map, Path, Problems, did_you_mean, shown
from mailbridge.config.secrets import there
from mailbridge.config.sending import Send
from mailbridge.config.urls import holds_key
from mailbridge.config.webhooks import Webhook

#: how long before its end a client secret is warned of
SOON = timedelta(days=30)
MICROSOFT_SMTP = {cloud.smtp for cloud in CLOUDS.values()}
#: by key of ``send.limits``: what a mailbox of Exchange Online has
EXCHANGE_LIMITS = {"per_minute": 30, "connections": 3, "recipients_per_day": 10_000}


def check_apps(
    apps: Mapping[str, App], used: Iterable[str], now: datetime, problems: Problems
) -> None:
    """Judge app registrations; ``used`` are the names that mailboxes mention."""
    mentioned = set(used)
    for name, app in apps.items():
        path = ("apps", name)
        other = clash(app.tenant, app.cloud)
        if other is not None:
            message = "the login URL of `tenant` belongs to another cloud"
            problems.add((*path, "tenant"), message, f"add `cloud: {other}` to this app.")
        if app.tenant_id == app.client_id:
            message = "this is the same GUID as the tenant"
            fix = "copy the Application (client) ID, not the Directory (tenant) ID."
            problems.add((*path, "client_id"), message, fix)
        if name not in mentioned:
            problems.warn(path, "no mailbox uses this app", "remove it, or name it in a mailbox.")
        if app.credential is not None:
            _check_credential((*path, "credential"), app.credential, now, problems)


def _check_credential(
    path: Path, credential: Credential, now: datetime, problems: Problems
) -> None:
    """Warn of what ends soon or is not there; the daemon runs on for the sake of other apps."""
    if credential.expires is not None:
        fix = "make a new one in Entra and write both while rotating: [new, old]."
        days = (credential.expires - now.date()).days
        _warn_of_end((*path, "expires"), "the client secret", days, fix, problems)
    if credential.certificate is not None:
        _check_certificate((*path, "certificate"), credential.certificate, now, problems)
    if credential.federated is not None and not credential.federated.file.is_file():
        problems.warn(
            (*path, "federated", "file"),
            "there is no such file now",
            "see that the token is projected there; until then nothing signs in with this app.",
        )


def _check_certificate(path: Path, section: Certificate, now: datetime, problems: Problems) -> None:
    if section.passphrase is not None and not there(section.passphrase):
        return
    passphrase = section.passphrase.reveal() if section.passphrase is not None else ""
    try:
        content = client_certificate.content_of(section.file)
        found = client_certificate.parse(content, passphrase)
    except CertificateFault:
        return  # it was opened a moment ago; the sign-in says what has become of it
    if now < found.expires_at:
        try:
            found.check(now)
        except CertificateFault as early:
            problems.warn((*path, "file"), str(early), early.fix)
    fix = "make a new one, upload its public part to the app and put it in place of the file."
    days = (found.expires_at - now).days
    _warn_of_end((*path, "file"), "the certificate", days, fix, problems)


def _warn_of_end(path: Path, what: str, days: int, fix: str, problems: Problems) -> None:
    if days <= SOON.days:
        said = f"ends in {days} days" if days >= 0 else f"ended {-days} days ago"
        problems.warn(path, f"{what} {said}", fix)


def check_sign_in(
    mailboxes: Mapping[str, Mailbox],
    apps: Mapping[str, App],
    problems: Problems,
    *,
    has_key: bool,
) -> None:
    """Judge how mailboxes sign in; ``has_key`` tells whether ``state.key`` is set."""
    for name, mailbox in mailboxes.items():
        path = ("mailboxes", name, "sign_in")
        if mailbox.sign_in == "application":
            continue
        if mailbox.sign_in == "delegated" and not has_key:
            problems.add(
                path,
                "delegated sign-in stores what people consent to, and state.key is not set",
                "make one with `mailbridge secret key` and write `state: {key: {file: PATH}}`.",
            )
        app = apps.get(mailbox.app)
        if app is not None and app.credential is not None and app.credential.managed_identity:
            problems.add(
                path,
                "a managed identity signs in for itself only",
                "write `sign_in: application`, or name an app with another credential.",
            )
        if mailbox.sign_in == "password":
            problems.warn(
                path,
                "Microsoft has deprecated signing in with a password (ROPC): it ends with the "
                "first second factor or policy, and Microsoft is switching it off",
                "use application access, or `sign_in: delegated` and `mailbridge login`.",
            )


def check_references(document: Map, apps: Mapping[str, App], problems: Problems) -> None:
    """Find names that lead nowhere; judged by what is written, so that faults do not add up."""
    mailboxes = document.get("mailboxes")
    known = document.get("apps")
    names = list(known) if isinstance(known, dict) else []
    for name, mailbox in mailboxes.items() if isinstance(mailboxes, dict) else ():
        app = mailbox.get("app") if isinstance(mailbox, dict) else None
        if not isinstance(app, str):
            continue
        path = ("mailboxes", name, "app")
        if app not in names:
            # What cannot be a name may be a secret that was pasted there.
            fit = [name for name in names if shown(name) == name]
            guess = did_you_mean(app, fit)
            fix = f"did you mean `{guess}`? " if guess else ""
            fix += "Under apps stands: " + (", ".join(map(shown, names)) or "nothing") + "."
            problems.add(path, "no app has this name", fix)
        elif (
            app in apps
            and apps[app].credential is None
            and mailbox.get("sign_in", "application") == "application"
        ):
            problems.add(
                path,
                "application access needs a credential, and this app has none",
                f"add `credential: {{client_secret: {{env: NAME}}}}` to apps.{app}.",
            )


def check_mailboxes(mailboxes: Mapping[str, Mailbox], problems: Problems) -> None:
    """Warn of mailboxes that do nothing, twice the same, or less than they say."""
    places: dict[tuple[str, str], str] = {}
    for name, mailbox in mailboxes.items():
        path = ("mailboxes", name)
        if mailbox.send is not None:
            _check_send((*path, "send"), mailbox, mailbox.send, problems)
        if mailbox.fetch.protocol == "none":
            if mailbox.send is None:
                message = "this mailbox fetches nothing and sends nothing"
                fix = "write imap or pop3, or add `send: {}`."
                problems.warn((*path, "fetch", "protocol"), message, fix)
            continue
        written = mailbox.fetch.push and "push" in mailbox.fetch.model_fields_set
        if mailbox.fetch.protocol == "pop3" and written:
            message = "POP3 has no push; the mailbox is polled"
            problems.warn((*path, "fetch", "push"), message, "use imap, or shorten `every`.")
        for folder in mailbox.fetch.folders:
            place = (mailbox.address.casefold(), folder)
            first = places.setdefault(place, name)
            if first != name:
                problems.warn(
                    (*path, "address"),
                    f"mailboxes.{first} watches the same address and folder",
                    "keep one of them: each message is delivered twice, under two ids.",
                )


def _check_send(path: Path, mailbox: Mailbox, send: Send, problems: Problems) -> None:
    """Warn of what Exchange Online would refuse, though another server may not."""
    server, limits = send.server, send.limits
    if server.host and server.host not in MICROSOFT_SMTP:
        return
    if server.tls == "implicit" or server.port not in (0, 25, 587):
        message = "Exchange Online takes mail on port 587 with STARTTLS, and not like this"
        fix = "write `tls: starttls` and no port."
        problems.warn(
            (*path, "server", "tls" if server.tls == "implicit" else "port"), message, fix
        )
    for key, most in EXCHANGE_LIMITS.items():
        asked = getattr(limits, key)
        if asked is None or asked > most:
            message = f"Exchange Online permits a mailbox {most}, and refuses what is beyond"
            problems.warn((*path, "limits", key), message, f"write {most} or less.")
    own = {address.casefold() for address in send.send_as or (mailbox.address,)}
    if mailbox.address.casefold() not in own:
        problems.warn(
            (*path, "send_as"),
            "the mailbox may not send as itself",
            f"add {mailbox.address}, unless that is meant.",
        )


def check_webhooks(webhooks: Mapping[str, Webhook], problems: Problems) -> None:
    """Warn of webhooks whose URL holds a key, or that nobody would hear."""
    for name in webhooks:
        path = ("webhooks", name)
        written = problems.document["webhooks"][name].get("url")
        if isinstance(written, str) and holds_key(written):
            fix = "write `url: {env: NAME}` with the whole URL as the variable's value."
            problems.warn((*path, "url"), "the URL seems to hold a key", fix)
        _check_delivery(path, webhooks[name], problems)
    _check_fallbacks(webhooks, problems)
    if webhooks and not any("mail.received" in hook.events for hook in webhooks.values()):
        fix = "add mail.received to the events of one."
        problems.warn(("webhooks",), "no webhook receives mail.received", fix)


def check_links(
    webhooks: Mapping[str, Webhook], problems: Problems, *, serves: bool, keyed: bool
) -> None:
    """Find links to attachments that nobody could follow, or that nothing could sign."""
    for name, hook in webhooks.items():
        if hook.attachments.mode != "link":
            continue
        path = ("webhooks", name, "attachments", "mode")
        if not serves:
            message = "links lead to the daemon's HTTP server, and nothing listens"
            problems.add(path, message, "write `http: {listen: …}`, or another mode.")
        if not keyed:
            message = "links are signed with state.key, and it is not set"
            fix = "make one with `mailbridge secret key` and write `state: {key: {file: PATH}}`."
            problems.add(path, message, fix)


def _check_delivery(path: Path, hook: Webhook, problems: Problems) -> None:
    written = hook.model_fields_set
    if hook.order == "strict" and "concurrency" in written and hook.concurrency > 1:
        message = "`order: strict` sends the mails of a mailbox one after the other"
        fix = "remove `concurrency`: it counts between mailboxes only."
        problems.warn((*path, "concurrency"), message, fix)
    if "attachments" in written and hook.format in MAILS_ONLY:
        whole = hook.format == "raw"
        message = f"the format {hook.format} sends " + ("the whole mail" if whole else "none")
        problems.warn((*path, "attachments"), message, "remove it: it changes nothing.")


def _check_fallbacks(webhooks: Mapping[str, Webhook], problems: Problems) -> None:
    """Find fallbacks that lead nowhere, or in a circle: somebody has to have it in the end."""
    written = problems.document.get("webhooks")
    for name, hook in webhooks.items():
        if hook.fallback is None:
            continue
        path = ("webhooks", name, "fallback", "webhook")
        other = hook.fallback.webhook
        if other not in written:
            guess = did_you_mean(other, [each for each in written if shown(each) == each])
            fix = f"did you mean `{guess}`? " if guess else ""
            listing = ", ".join(map(shown, written))
            problems.add(
                path, "no webhook has this name", f"{fix}Under webhooks stands: {listing}."
            )
        elif other == name:
            problems.add(path, "this is the webhook itself", "name another one.")
        elif name in (way := _way(webhooks, other)):
            circle = " -> ".join(map(shown, [name, *way[: way.index(name) + 1]]))
            problems.add(path, f"these fallbacks go in a circle: {circle}", "end it somewhere.")


def _way(webhooks: Mapping[str, Webhook], start: str) -> list[str]:
    """Return the webhooks that a delivery falls back to, from ``start`` on, each of them once."""
    way: list[str] = []
    name: str | None = start
    while name is not None and name not in way:
        way.append(name)
        hook = webhooks.get(name)
        name = hook.fallback.webhook if hook is not None and hook.fallback is not None else None
    return [*way, name] if name is not None else way
