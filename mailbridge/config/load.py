"""From a file to a ``Config``, or to every problem that it has."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from mailbridge.config import document as document_
from mailbridge.config import probe_rules, relay_rules, route_rules, rules
from mailbridge.config.clouds import CLOUDS
from mailbridge.config.explain import explain, unknown
from mailbridge.config.http import Http, check_http
from mailbridge.config.mailboxes import Mailbox
from mailbridge.config.models import App, Config, State
from mailbridge.config.problems import Map, Problems
from mailbridge.config.relay import Relay
from mailbridge.config.routes import Route
from mailbridge.config.secrets import Reading, Secret
from mailbridge.config.sections import Section
from mailbridge.config.surroundings import Surroundings
from mailbridge.config.urls import default_database
from mailbridge.config.webhooks import Webhook
from mailbridge.errors import ConfigError, Problem
from mailbridge.log import register_secret

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PORTS = {
    ("imap", "implicit"): 993,
    ("imap", "starttls"): 143,
    ("pop3", "implicit"): 995,
    ("pop3", "starttls"): 110,
    ("smtp", "implicit"): 465,
    ("smtp", "starttls"): 587,
}
_HINTS = {
    "apps": "apps: {alarm-app: {tenant: …, client_id: …, credential: {client_secret: {env: …}}}}",
    "mailboxes": "mailboxes: {alarm: {address: alarm@feuerwehr.example, app: alarm-app}}",
    "webhooks": "webhooks: {erp: {url: https://erp.example/hooks/mail}}",
    "routes": "routes: {alarm: {match: {from: [alarm@ils.example]}, webhooks: [erp]}}",
}

SectionT = TypeVar("SectionT", bound=Section)


class Checked(NamedTuple):
    """What a check found: a configuration only if there are no problems."""

    config: Config | None
    problems: list[Problem]
    warnings: list[Problem]


def _utc() -> datetime:
    return datetime.now(UTC)


def find(explicit: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Path:
    """Return the configuration file to use; raises ``ConfigError`` with where it looked.

    ``explicit`` (``--config``) and ``$MAILBRIDGE_CONFIG`` are taken as they are, even if no
    such file exists: ``load`` says so then, instead of another file being used silently.
    """
    surroundings = os.environ if environ is None else environ
    if explicit is not None:
        return explicit
    if surroundings.get("MAILBRIDGE_CONFIG"):
        return Path(surroundings["MAILBRIDGE_CONFIG"])
    candidates = [Path("mailbridge.yaml"), Path("/etc/mailbridge/mailbridge.yaml")]
    for candidate in candidates:
        if os.path.lexists(candidate):
            return candidate
    raise ConfigError(
        [
            Problem(
                file=str(candidates[0]),
                line=None,
                path="",
                message="no configuration file; looked for $MAILBRIDGE_CONFIG (not set), "
                f"{candidates[0].absolute()} and {candidates[1]}.",
                fix="name one with --config FILE, or start from config.example.yaml; "
                "`mailbridge demo` needs none.",
            )
        ]
    )


def load(
    path: Path,
    *,
    environ: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = _utc,
) -> Config:
    """Return the configuration; raises ``ConfigError`` with all of its problems.

    Reads the file and the secrets it points to, and nothing else: no network is touched.
    """
    checked = check(path, environ=environ, now=now)
    if checked.config is None:
        raise ConfigError(checked.problems)
    return checked.config


def check(
    path: Path,
    *,
    environ: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = _utc,
    absent: bool = False,
) -> Checked:
    """Return the configuration if it is valid, every problem, and every warning.

    With ``absent``, secrets that cannot be read are problems of whoever reveals them.
    """
    surroundings = os.environ if environ is None else environ
    problems = Problems(str(path))
    document = document_.read(path, problems)
    config = None
    if document is not None:
        problems.document = document
        config = _Loader(document, path, surroundings, problems, absent=absent).config(now)
    problems.sort()
    return Checked(None if problems.errors else config, problems.errors, problems.warnings)


class _Loader:
    """Validates section by section, so that a fault in one does not hide those of others."""

    def __init__(
        self,
        document: Map,
        path: Path,
        environ: Mapping[str, str],
        problems: Problems,
        *,
        absent: bool = False,
    ) -> None:
        self._document = document
        self._problems = problems
        self._environ = environ
        self._context = Reading(
            base=path.absolute().parent,
            environ=environ,
            problems=problems,
            remember=register_secret,
            absent=absent,
        )

    def config(self, now: Callable[[], datetime]) -> Config | None:
        """Return the whole, ``None`` when a part of it is missing."""
        for key in self._document:
            if key not in Config.model_fields:
                unknown(key, Config, (key,), self._problems)
        state = self._section(State, "state")
        http = self._section(Http, "http")
        apps = self._entries(App, "apps")
        mailboxes = self._entries(Mailbox, "mailboxes")
        webhooks = self._entries(Webhook, "webhooks")
        routes = self._entries(Route, "routes") if self._document.get("routes") else {}
        relay = self._section(Relay, "relay") if "relay" in self._document else None
        rules.check_apps(apps, self._mentioned(), now(), self._problems)
        rules.check_references(self._document, apps, self._problems)
        rules.check_mailboxes(mailboxes, self._problems)
        # A key that is written and wrong is a fault of its own.
        has_key = state is None or bool(state.key)
        rules.check_sign_in(mailboxes, apps, self._problems, has_key=has_key)
        rules.check_webhooks(webhooks, self._problems)
        route_rules.check_names(self._document, self._problems)
        route_rules.check_routes(routes, webhooks, self._problems)
        probe_rules.check_probes(mailboxes, webhooks, routes, self._problems)
        brought = relay_rules.named_routes(relay)
        route_rules.check_use(routes, mailboxes, webhooks, self._problems, brought=brought)
        if relay is not None:
            relay_rules.check_relay(relay, mailboxes, routes, self._problems)
        if http is not None:
            check_http(http, self._problems)
            rules.check_links(webhooks, self._problems, serves=http.listen != "off", keyed=has_key)
        if self._problems.errors or state is None or http is None:
            return None
        if "database" not in state.model_fields_set:
            place = Secret(default_database(self._environ))
            state = state.model_copy(update={"database": place})
        around = Surroundings(self._environ, self._problems)
        named = {} if relay is None else relay.named
        complete = Config(
            state=state,
            http=http,
            apps={name: around.app(app) for name, app in apps.items()},
            mailboxes={
                name: around.mailbox(
                    probe_rules.complete(
                        _complete(box, apps[box.app], named.get(name, ())), webhooks, routes
                    )
                )
                for name, box in mailboxes.items()
            },
            webhooks={name: around.webhook(hook) for name, hook in webhooks.items()},
            routes=routes,
            relay=relay,
        )
        return None if self._problems.errors else complete

    def _only_sends(self) -> bool:
        """Whether no mailbox is fetched, so that there is nothing to give to a webhook."""
        mailboxes = self._document.get("mailboxes")
        entries = list(mailboxes.values()) if isinstance(mailboxes, dict) else []
        fetches = [
            not isinstance(one, dict)
            or not isinstance(one.get("fetch"), dict)
            or one["fetch"].get("protocol") != "none"
            for one in entries
        ]
        return bool(entries) and not any(fetches)

    def _mentioned(self) -> list[str]:
        mailboxes = self._document.get("mailboxes")
        entries = mailboxes.values() if isinstance(mailboxes, dict) else ()
        return [str(entry.get("app")) for entry in entries if isinstance(entry, dict)]

    def _section(self, model: type[SectionT], name: str) -> SectionT | None:
        if name not in self._document:
            return model()
        return self._validate(model, self._document[name], (name,))

    def _entries(self, model: type[SectionT], section: str) -> dict[str, SectionT]:
        """Return the valid entries of ``apps``, ``mailboxes``, ``webhooks`` or ``routes``."""
        entries = self._document.get(section)
        if not entries and section == "webhooks" and self._only_sends():
            return {}
        if not entries and not isinstance(entries, str | bool | list):
            kind = {"apps": "app", "mailboxes": "mailbox", "webhooks": "webhook"}[section]
            message = f"at least one {kind} is needed"
            self._problems.add((section,), message, f"add for example `{_HINTS[section]}`.")
            return {}
        if not isinstance(entries, dict):
            fix = f"write it as `{_HINTS[section]}`."
            self._problems.add((section,), "this is not a map from names to settings", fix)
            return {}
        result = {}
        for name, entry in entries.items():
            if not _NAME.fullmatch(name):
                fix = "use up to 64 small letters, digits, `.`, `_` and `-`."
                self._problems.add((section, name), "this name cannot be used", fix)
            valid = self._validate(model, entry, (section, name))
            if valid is not None:
                result[name] = valid
        return result

    def _validate(
        self, model: type[SectionT], data: Any, path: tuple[str | int, ...]
    ) -> SectionT | None:
        try:
            return model.model_validate(data, context=self._context)
        except ValidationError as exc:
            explain(exc, model, path, self._problems, data)
            return None


def _complete(mailbox: Mailbox, app: App, named: Sequence[str]) -> Mailbox:
    """Fill in the servers of the app's cloud and the ports that go with TLS, and who may send.

    ``named`` are senders that the relay lets the mailbox send as.
    """
    cloud = CLOUDS[app.cloud]
    server = mailbox.fetch.server
    server = server.model_copy(
        update={
            "host": server.host or cloud.imap,
            "port": server.port or _PORTS.get((mailbox.fetch.protocol, server.tls), 0),
        }
    )
    fetch = mailbox.fetch.model_copy(update={"server": server})
    send = mailbox.send
    if send is not None:
        way = send.server
        way = way.model_copy(
            update={"host": way.host or cloud.smtp, "port": way.port or _PORTS["smtp", way.tls]}
        )
        allowed = tuple(dict.fromkeys((*(send.send_as or (mailbox.address,)), *named)))
        send = send.model_copy(update={"server": way, "send_as": allowed})
    return mailbox.model_copy(update={"fetch": fetch, "send": send})
