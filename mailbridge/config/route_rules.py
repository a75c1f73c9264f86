"""What must hold between routes, mailboxes and webhooks, and what is allowed but hardly meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mailbridge.config.mailboxes import Mailbox
from mailbridge.config.problems import Map, Path, Problems, did_you_mean, shown
from mailbridge.config.routes import Route
from mailbridge.config.webhooks import Webhook
from mailbridge.route.base import AddressPattern

#: header fields that look like proof, and are written by whoever sends the mail
_CLAIMS = {
    "from": "match.from compares the address alone, and refuses what can be read in two ways",
    "sender": "match.from compares what people see",
    "authentication-results": "`require: {authenticated: true}` knows which one counts",
    "arc-authentication-results": "`require: {authenticated: true}` knows what counts",
    "received-spf": "`require: {authenticated: true}` knows what counts",
    "return-path": "`require: {authenticated: true}` knows what counts",
}


def check_names(document: Map, problems: Problems) -> None:
    """Find names that lead nowhere; judged by what is written, so that faults do not add up."""
    for section, of in (("mailboxes", "routes"), ("routes", "webhooks")):
        entries, known = document.get(section), document.get(of)
        names = list(known) if isinstance(known, dict) else []
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            written = entry.get(of) if isinstance(entry, dict) else None
            for index, word in _words(written):
                if word not in names:
                    path = (section, name, of, *index)
                    problems.add(path, f"no {of[:-1]} has this name", _there(word, names, of))


def _words(written: Any) -> Iterator[tuple[Path, str]]:
    if isinstance(written, str):
        yield (), written
    for index, word in enumerate(written if isinstance(written, list) else ()):
        if isinstance(word, str):
            yield (index,), word


def _there(word: str, names: Sequence[str], section: str) -> str:
    # What cannot be a name may be a secret that was pasted there.
    guess = did_you_mean(word, [name for name in names if shown(name) == name])
    fix = f"did you mean `{guess}`? " if guess else ""
    return fix + f"Under {section} stands: {', '.join(map(shown, names)) or 'nothing'}."


def check_use(
    routes: Mapping[str, Route],
    mailboxes: Mapping[str, Mailbox],
    webhooks: Mapping[str, Webhook],
    problems: Problems,
    *,
    brought: Iterable[str] = (),
) -> None:
    """Warn of routes that nobody uses or reaches, and of webhooks that no mail gets to.

    ``brought`` are the routes that the relay uses.
    """
    used = {name for mailbox in mailboxes.values() for name in mailbox.routes or ()}
    used.update(brought)
    for name in routes:
        if name not in used:
            fix = "name it in the `routes` of a mailbox, or remove it."
            problems.warn(("routes", name), "no mailbox uses this route", fix)
    for name, mailbox in mailboxes.items():
        _check_order(name, mailbox.routes or (), routes, problems)
    if mailboxes and all(mailbox.routes is not None for mailbox in mailboxes.values()):
        _check_reach(routes, webhooks, problems)


def _check_order(
    mailbox: str, names: Sequence[str], routes: Mapping[str, Route], problems: Problems
) -> None:
    for index, name in enumerate(names[:-1]):
        route = routes.get(name)
        if route is not None and route.stop and route.match.is_empty:
            problems.warn(
                ("mailboxes", mailbox, "routes", index + 1),
                f"the route before it, {name}, takes every mail and stops",
                "put it before that one.",
            )
            return


def _check_reach(
    routes: Mapping[str, Route], webhooks: Mapping[str, Webhook], problems: Problems
) -> None:
    reached = {name for route in routes.values() for name in route.webhooks}
    for hook in webhooks.values():
        fallback = getattr(hook, "fallback", None)
        if fallback is not None:
            reached.add(fallback.webhook)
    for name, hook in webhooks.items():
        if name not in reached and "mail.received" in hook.events:
            problems.warn(
                ("webhooks", name),
                "every mailbox has routes, and none of them leads here: it gets no mail",
                "name it in the `webhooks` of a route, or leave mail.received out of its events.",
            )


def check_routes(
    routes: Mapping[str, Route], webhooks: Mapping[str, Webhook], problems: Problems
) -> None:
    """Warn of what a route says and hardly means."""
    for name, route in routes.items():
        path = ("routes", name)
        _check_require(path, route, webhooks, problems)
        _check_senders((*path, "match", "from"), route.match.from_, problems)
        for field in route.match.headers:
            better = _CLAIMS.get(field.lower())
            if better is not None:
                message = "a sender can write into this header field what he likes"
                problems.warn((*path, "match", "headers", field), message, f"{better}.")
        for index, hook in enumerate(route.webhooks):
            if hook in webhooks and "mail.received" not in webhooks[hook].events:
                problems.warn(
                    (*path, "webhooks", index),
                    "the events of this webhook leave out mail.received; it gets this route's "
                    "mails all the same",
                    "add mail.received to its events, or take it out of the route.",
                )


def _check_require(
    path: Path, route: Route, webhooks: Mapping[str, Webhook], problems: Problems
) -> None:
    wants = route.require
    if "otherwise" in route.model_fields_set and not wants.model_fields_set:
        message = "nothing is required, so this never applies"
        problems.warn((*path, "otherwise"), message, "add `require`, or remove the line.")
    if wants.authenticated and not route.match.from_:
        problems.warn(
            (*path, "require", "authenticated"),
            "whose mail is wanted is not said: anybody can prove a domain of his own",
            'add `from: ["*@ils.example"]` to `match`.',
        )
    alarms = any(hook in webhooks and webhooks[hook].profile == "alarm" for hook in route.webhooks)
    if alarms and "authenticated" not in wants.model_fields_set:
        problems.warn(
            path,
            "this route leads to an alarm, and anybody can write any address into From",
            "add `require: {authenticated: true}`, or `authenticated: false` if it is meant.",
        )


def _check_senders(path: Path, patterns: Sequence[AddressPattern], problems: Problems) -> None:
    """Warn of globs that let strangers in."""
    for index, pattern in enumerate(patterns):
        domain = pattern.glob.rpartition("@")[2]
        if domain in ("", "*"):
            continue
        if domain.startswith("*") and not domain.startswith("*."):
            problems.warn(
                (*path, index),
                "the domain begins with * and no dot, so that of a stranger can end in the same",
                "write two items: *@ils.example and *@*.ils.example.",
            )
        if domain.endswith(("*", "?")):
            problems.warn(
                (*path, index),
                "the domain ends with a wildcard, so anybody can own one that fits",
                "write the domain to its end.",
            )
