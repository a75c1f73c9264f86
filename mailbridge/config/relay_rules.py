"""What must hold between the relay, mailboxes and routes, and what is allowed but hardly meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mailbridge.config.http import is_loopback
from mailbridge.config.mailboxes import Mailbox
from mailbridge.config.problems import Problems, did_you_mean, shown
from mailbridge.config.relay import Relay
from mailbridge.config.routes import Route

#: the mailbox under which mail stands that was brought by SMTP
NAME = "relay"


def check_relay(
    relay: Relay,
    mailboxes: Mapping[str, Mailbox],
    routes: Mapping[str, Route],
    problems: Problems,
) -> None:
    """Judge the section by what it says and by what it names."""
    _check_senders(relay, mailboxes, problems)
    _check_inbound(relay, mailboxes, routes, problems)
    if relay.listen == "off":
        return
    if not relay.accept.senders and not relay.inbound:
        message = "this listens and takes nothing"
        fix = "add `accept: {senders: …}` or `inbound:`, or remove the section."
        problems.warn((NAME,), message, fix)
    _check_reach(relay, problems)


def _check_senders(relay: Relay, mailboxes: Mapping[str, Mailbox], problems: Problems) -> None:
    names = _written(problems, "mailboxes")
    for sender, name in relay.accept.senders.items():
        path = (NAME, "accept", "senders", sender)
        if name not in names:
            problems.add(path, "no mailbox has this name", _there(name, names, "mailboxes"))
        elif name in mailboxes and mailboxes[name].send is None:
            fix = f"add `send: {{}}` to mailboxes.{shown(name)}."
            problems.add(path, "this mailbox sends nothing", fix)


def _check_inbound(
    relay: Relay,
    mailboxes: Mapping[str, Mailbox],
    routes: Mapping[str, Route],
    problems: Problems,
) -> None:
    if relay.inbound and NAME in mailboxes:
        message = "mail that is brought by SMTP stands under this name"
        problems.add(("mailboxes", NAME), message, "give the mailbox another name.")
    names = _written(problems, "routes")
    for address, wanted in relay.inbound.items():
        for index, name in enumerate(wanted):
            path = (NAME, "inbound", address, index)
            if name not in names:
                problems.add(path, "no route has this name", _there(name, names, "routes"))
            elif name in routes and routes[name].require.authenticated:
                problems.warn(
                    path,
                    "this route requires proof of the sender, and mail that is brought by SMTP "
                    f"has none: it will {_FATES[routes[name].otherwise]}",
                    "use a route without `authenticated`, and let only your mail gateway in by "
                    "accept.networks.",
                )


_FATES = {"hold": "be held", "deliver": "be delivered all the same", "drop": "be dropped"}


def _check_reach(relay: Relay, problems: Problems) -> None:
    networks = relay.accept.networks
    local = is_loopback(relay.host)
    if not local and all(network.is_loopback for network in networks):
        message = "this listens for other machines, and only this one may connect"
        fix = "add their networks, like 192.168.20.0/24, or listen on 127.0.0.1."
        problems.warn((NAME, "accept", "networks"), message, fix)
    for index, network in enumerate(networks):
        # A whole address family is not private, and neither is anybody's provider.
        if not (network.is_private or network.is_link_local) and not relay.auth and not local:
            problems.warn(
                (NAME, "accept", "networks", index),
                "this is no private network: whoever reaches the port from there may send",
                "write the addresses of your own machines, or add `auth`.",
            )
    if relay.auth and relay.tls is None and not local:
        message = "other machines cannot sign in: passwords are taken only after STARTTLS"
        problems.add((NAME, "auth"), message, "add `tls: {certificate: …, key: …}`.")


def _written(problems: Problems, section: str) -> list[str]:
    entries: Any = problems.document.get(section)
    return list(entries) if isinstance(entries, dict) else []


def _there(word: str, names: Iterable[str], section: str) -> str:
    # What cannot be a name may be a secret that was pasted there.
    names = list(names)
    guess = did_you_mean(word, [name for name in names if shown(name) == name])
    fix = f"did you mean `{guess}`? " if guess else ""
    return fix + f"Under {section} stands: {', '.join(map(shown, names)) or 'nothing'}."


def named_routes(relay: Relay | None) -> Iterable[str]:
    """Return the routes that the relay uses."""
    return () if relay is None else (name for names in relay.inbound.values() for name in names)
