"""What must hold between a probe, its mailbox and the webhooks that are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from mailbridge.config.mailboxes import Mailbox
from mailbridge.config.models import Config
from mailbridge.config.probe import Probe
from mailbridge.config.problems import Path, Problems, did_you_mean, shown
from mailbridge.config.routes import Route
from mailbridge.config.webhooks import Webhook

#: the formats that say what kind of event they carry. An alarm server has no word for a test, and
#: what a template makes of one is anybody's guess: what it calls may wake people.
CARRY_A_MARK = frozenset({"mailbridge", "cloudevents"})


def able(webhooks: Mapping[str, Webhook]) -> tuple[str, ...]:
    """Return the webhooks that can be told of a test without taking it for a mail."""
    return tuple(name for name, hook in webhooks.items() if hook.format in CARRY_A_MARK)


def usual(
    mailbox: Mailbox, webhooks: Mapping[str, Webhook], routes: Mapping[str, Route]
) -> tuple[str, ...]:
    """Return who is told of a test of a mailbox when nobody says: who gets its mails, and can."""
    fit = [name for name in able(webhooks) if "mail.received" in webhooks[name].events]
    if mailbox.routes is None:
        return tuple(fit)
    named = {hook for name in mailbox.routes if name in routes for hook in routes[name].webhooks}
    return tuple(name for name in fit if name in named)


def told(name: str, config: Config) -> tuple[str, ...]:
    """Return who is told of a test mail of a mailbox, which may have no probe."""
    mailbox = config.mailboxes[name]
    if mailbox.probe is not None:
        return mailbox.probe.webhooks
    return usual(mailbox, config.webhooks, config.routes)


def complete(
    mailbox: Mailbox, webhooks: Mapping[str, Webhook], routes: Mapping[str, Route]
) -> Mailbox:
    """Fill in who is told of a probe."""
    probe = mailbox.probe
    if probe is None or probe.webhooks:
        return mailbox
    filled = probe.model_copy(update={"webhooks": usual(mailbox, webhooks, routes)})
    return mailbox.model_copy(update={"probe": filled})


def check_probes(
    mailboxes: Mapping[str, Mailbox],
    webhooks: Mapping[str, Webhook],
    routes: Mapping[str, Route],
    problems: Problems,
) -> None:
    """Judge the probes of mailboxes."""
    for name, mailbox in mailboxes.items():
        if mailbox.probe is None:
            continue
        path = ("mailboxes", name, "probe")
        _check_webhooks(path, mailbox.probe, webhooks, problems)
        if not mailbox.probe.webhooks and not usual(mailbox, webhooks, routes):
            problems.add(
                path,
                "no webhook can be told of a probe",
                "add one of the format mailbridge or cloudevents to the routes, or name it: "
                "`webhooks: [NAME]`.",
            )
        _check_look(path, mailbox, mailbox.probe, problems)
        if other := _twin(name, mailboxes):
            problems.add(
                path,
                f"mailboxes.{other} watches the same folder, and would take the probe for a mail",
                "keep one of the two mailboxes, or this one without `probe`.",
            )


def _twin(name: str, mailboxes: Mapping[str, Mailbox]) -> str | None:
    """Return another mailbox that sees the same mails."""
    address, fetch = mailboxes[name].address.casefold(), mailboxes[name].fetch
    same = (
        other
        for other, box in mailboxes.items()
        if other != name
        and box.address.casefold() == address
        and box.fetch.protocol != "none"
        and {*box.fetch.folders} & {*fetch.folders}
    )
    return next(same, None)


def _check_webhooks(
    path: Path, probe: Probe, webhooks: Mapping[str, Webhook], problems: Problems
) -> None:
    written = problems.document.get("webhooks")
    names = list(written) if isinstance(written, dict) else []
    for number, hook in enumerate(probe.webhooks):
        place = (*path, "webhooks", number)
        if hook not in names:
            guess = did_you_mean(hook, [each for each in names if shown(each) == each])
            fix = f"did you mean `{guess}`? " if guess else ""
            listing = ", ".join(map(shown, names)) or "nothing"
            problems.add(
                place, "no webhook has this name", f"{fix}Under webhooks stands: {listing}."
            )
        elif hook in webhooks and webhooks[hook].format not in CARRY_A_MARK:
            problems.add(
                place,
                f"the format {webhooks[hook].format} cannot say that it is a test: somebody might "
                "be woken",
                "name webhooks of the format mailbridge or cloudevents; try an alarm server with "
                "`mailbridge test-webhook`.",
            )


def _check_look(path: Path, mailbox: Mailbox, probe: Probe, problems: Problems) -> None:
    """Find what makes a probe fail although nothing is wrong."""
    fetch = mailbox.fetch
    pushed = fetch.push and fetch.protocol == "imap"
    if fetch.cron is not None and not pushed:
        message = "the mailbox is looked at by `cron` only, and a probe has to be seen in time"
        problems.warn((*path, "within"), message, "use `every`, or push.")
    elif not pushed and fetch.every + timedelta(seconds=5) > probe.within:
        message = "the mailbox is looked at more seldom than a probe may take"
        problems.add((*path, "within"), message, "shorten `fetch.every`, or write more here.")
    if "INBOX" not in {folder.upper() for folder in fetch.folders}:
        message = "the inbox is not watched, and a probe arrives there unless a rule moves it"
        problems.warn(path, message, "add INBOX to `fetch.folders`, or such a rule.")
