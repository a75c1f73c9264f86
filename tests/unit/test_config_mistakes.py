"""What people get wrong in the file, and the line, key and fix that they are told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailbridge import config
from mailbridge.errors import ConfigError, Problem

BASE = """\
state:
  database: sqlite:////tmp/mailbridge.db
  keep: {delivered: 30d}
http:
  listen: off
apps:
  main:
    tenant: 11111111-2222-3333-4444-555555555555
    client_id: 66666666-7777-8888-9999-000000000000
    credential:
      client_secret: {env: APP_SECRET}
      expires: 2028-11-20
mailboxes:
  alarm:
    address: alarm@feuerwehr.example
    app: main
    sign_in: application
    fetch:
      protocol: imap
      every: 60s
      folders: [INBOX]
      start: new
      after: keep
      server: {host: outlook.office365.com}
webhooks:
  erp:
    format: mailbridge
    url: https://erp.example/hook
    signing_secrets: [{env: SIGNING}]
    headers: {X-Source: mailbridge}
    attachments: {mode: meta}
    concurrency: 8
    allow_private: false
    tls: {}
"""
CANARY = "Zk9~canary.Qq7"
ENVIRON = {
    "APP_SECRET": "abc8Q~made-up-client-secret",
    "SIGNING": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "EMPTY": "",
    "GUID": "99999999-aaaa-bbbb-cccc-dddddddddddd",
    "TWO_LINES": "one\ntwo",
    "SHORT": "abc",
    "BLANKS": "made up of words with blanks",
    "API_TOKEN": "made-up-api-token-for-a-client",
    "HTTP_URL": "http://example.com/x",
}
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """``old`` becomes ``new``; the problem is in the line with ``at``, or with ``new``'s start."""

    old: str
    new: str
    path: str
    says: str
    fix: str
    at: str = ""


def m(  # noqa: PLR0913 - the columns of the table below
    old: str, new: str, path: str, says: str, fix: str, *, at: str = ""
) -> Mistake:
    return Mistake(old=old, new=new, path=path, says=says, fix=fix, at=at)


SECRET = "client_secret: {env: APP_SECRET}"
SECRET_PATH = "apps.main.credential.client_secret"
REFERENCE = "{env: NAME}, {file: PATH} or {credential: NAME}"
TENANT = "11111111-2222-3333-4444-555555555555"
URL = "https://erp.example/hook"

MISTAKES = [
    # keys
    m("address:", "adress:", "mailboxes.alarm.adress", "not known", "did you mean `address`?"),
    m(
        "address: alarm@feuerwehr.example",
        "# none",
        "mailboxes.alarm.address",
        "is missing",
        "add `address: alarm@feuerwehr.example`",
        at="  alarm:",
    ),
    m(
        "sign_in: application",
        "folders: [A]",
        "mailboxes.alarm.folders",
        "not known here",
        "below `fetch:`",
    ),
    m("http:\n", "htpp:\n", "htpp", "not known", "did you mean `http`?"),
    m(
        "concurrency: 8",
        "concurrency: 8\n    concurrency: 9",
        "webhooks.erp.concurrency",
        "twice (first in line 32)",
        "keep one",
        at="concurrency: 9",
    ),
    m(
        "allow_private:",
        "allow-private:",
        "webhooks.erp.allow-private",
        "not known",
        "did you mean `allow_private`?",
    ),
    m(
        "    concurrency: 8",
        "    mailboxes: {}",
        "webhooks.erp.mailboxes",
        "not known",
        "to the left margin",
    ),
    m("http:\n", "routes: [a]\nhttp:\n", "routes", "not a map", "routes: {alarm: "),
    m("listen: off", "listen: on", "http.listen", "a host and a port", "127.0.0.1:8025"),
    m("listen: off", "listen: 8025", "http.listen", "a host and a port", "HOST:PORT"),
    m("listen: off", "listen: localhost", "http.listen", "a host and a port", "HOST:PORT"),
    m("listen: off", "listen: :8025", "http.listen", "a host and a port", "HOST:PORT"),
    m("listen: off", "listen: ::1:8025", "http.listen", "stands in brackets", "[::1]:8025"),
    m("listen: off", "listen: 127.0.0.1:http", "http.listen", "not a port", "HOST:PORT"),
    m("listen: off", "listen: 127.0.0.1:65536", "http.listen", "not a port", "HOST:PORT"),
    m("listen: off", "listen: a b:80", "http.listen", "not the name or address", "HOST:PORT"),
    m("listen: off", "listen:", "http.listen", "no value", "HOST:PORT"),
    m("listen: off", "api_tokens: [a]", "http.api_tokens", "not a map", "api_tokens: {erp:"),
    m(
        "listen: off",
        "api_tokens: {Erp: {env: API_TOKEN}}",
        "http.api_tokens",
        "name of a client cannot",
        "small letters",
    ),
    m(
        "listen: off",
        "api_tokens: {erp: literal}",
        "http.api_tokens.erp",
        "never written into this file",
        "{env: NAME}",
    ),
    m(
        "listen: off",
        "api_tokens: {erp: {env: SHORT}}",
        "http.api_tokens.erp",
        "fewer than 20 characters",
        "mailbridge secret key",
    ),
    m(
        "listen: off",
        "api_tokens: {erp: {env: BLANKS}}",
        "http.api_tokens.erp",
        "cannot be sent as a bearer token",
        "mailbridge secret key",
    ),
    m(
        "listen: off",
        "api_tokens: {a: {env: API_TOKEN}, b: {env: API_TOKEN}}",
        "http.api_tokens.b",
        "have the same token",
        "one for each client",
    ),
    m("listen: off", "public_url: mail.example", "http.public_url", "not a web", "https://"),
    m("listen: off", "public_url: http://mail.example", "http.public_url", "unencrypted", "https"),
    m("listen: off", "public_url: https://a.example?x=1", "http.public_url", "neither", "https"),
    m("sign_in: application", "routes: []", "mailboxes.alarm.routes", "empty", "remove the line"),
    m(
        "protocol: imap",
        "protocol: pop3\n      folders: [INBOX, Archive]",
        "mailboxes.alarm.fetch.folders",
        "the inbox only",
        "remove `folders`",
        at="      folders: [INBOX, Archive]",
    ),
    m(
        "protocol: imap",
        "protocol: pop3\n      after: seen",
        "mailboxes.alarm.fetch.after",
        "neither flags nor folders",
        "keep or delete",
        at="      after: seen",
    ),
    m("format: mailbridge", "format: divera", "webhooks.erp.format", "access key", "access_key"),
    m("format: mailbridge", "order: loose", "webhooks.erp.order", "none of the words", "strict"),
    m(
        "format: mailbridge",
        "fallback: {webhook: sms}",
        "webhooks.erp.fallback.after",
        "missing",
        "after",
    ),
    m("mode: meta", "mode: link", "webhooks.erp.attachments.mode", "nothing listens", "http"),
    # proxies
    m(
        "credential:\n",
        "proxy: http://user:Zk9~canary.Qq7@proxy.example:3128\n    credential:\n",
        "apps.main.proxy",
        "never written into this file",
        "`proxy: {env: NAME}` with the whole URL",
    ),
    m(
        "{host: outlook.office365.com}",
        "{proxy: proxy.example:3128}",
        "mailboxes.alarm.fetch.server.proxy",
        "not the URL of a proxy",
        "http://HOST:PORT, socks5://HOST:PORT or socks5h://HOST:PORT",
    ),
    m(
        "tls: {}",
        "proxy: http://proxy.example\n    tls: {}",
        "webhooks.erp.proxy",
        "needs its port",
        "http://HOST:PORT",
    ),
    m(
        "tls: {}",
        "proxy: https://proxy.example:443\n    tls: {}",
        "webhooks.erp.proxy",
        "TLS to the proxy itself is not supported",
        "write http://",
    ),
    m(
        "tls: {}",
        "proxy: socks4://proxy.example:1080\n    tls: {}",
        "webhooks.erp.proxy",
        "no kind of proxy that is known",
        "socks5://",
    ),
    m(
        "tls: {}",
        "proxy: http://proxy.example:3128/path\n    tls: {}",
        "webhooks.erp.proxy",
        "something stands behind the port",
        "remove it",
    ),
    m("tls: {}", "proxy:\n    tls: {}", "webhooks.erp.proxy", "has no value", "or off"),
    m("tls: {}", "proxy: [x]\n    tls: {}", "webhooks.erp.proxy", "not the URL of a", "or off"),
    m("tls: {}", "proxy: {env: SHORT}\n    tls: {}", "webhooks.erp.proxy", "not the URL", "http:"),
    m(
        "tls: {}",
        "proxy: {env: NONE}\n    tls: {}",
        "webhooks.erp.proxy.env",
        "not set",
        "set NONE",
    ),
    # types
    m(
        "    fetch:\n",
        "    fetch: imap\n    x:\n",
        "mailboxes.alarm.fetch",
        "not a map",
        "indented",
        at="fetch: imap",
    ),
    m(
        "protocol: imap",
        "protocol: smtp",
        "mailboxes.alarm.fetch.protocol",
        "none of the words",
        "one of: imap, pop3, none",
    ),
    m(
        "protocol: imap",
        "push: yes",
        "mailboxes.alarm.fetch.push",
        "neither true nor false",
        "true or false",
    ),
    m("app: main", "app: true", "mailboxes.alarm.app", "not text", "in quotes"),
    m("app: main", "app:", "mailboxes.alarm.app", "no value", "write one"),
    m(
        "allow_private: false",
        "allow_private: off",
        "webhooks.erp.allow_private",
        "neither",
        "true or false",
    ),
    m(
        "concurrency: 8",
        "concurrency: many",
        "webhooks.erp.concurrency",
        "not a whole number",
        "1 to 256",
    ),
    m("concurrency: 8", "concurrency: 0", "webhooks.erp.concurrency", "outside", "1 to 256"),
    m("concurrency: 8", "concurrency: true", "webhooks.erp.concurrency", "not a whole", "1 to"),
    m("every: 60s", "every: 60", "mailboxes.alarm.fetch.every", "not a duration", "90s, 5m"),
    m("every: 60s", "every:", "mailboxes.alarm.fetch.every", "no value", "90s, 5m"),
    m("every: 60s", "every: 1s", "mailboxes.alarm.fetch.every", "outside of 5s to 7d", "within"),
    m("delivered: 30d", "delivered: 30x", "state.keep.delivered", "not a duration", "7d"),
    m("mode: meta", "max: 10", "webhooks.erp.attachments.max", "not a size", "25MB"),
    m("mode: meta", "max: 2GB", "webhooks.erp.attachments.max", "more than any mail", "smaller"),
    m(
        "every: 60s",
        "every: 60s\n      cron: '* * * * *'",
        "mailboxes.alarm.fetch.cron",
        "exclude each other",
        "keep one",
        at="cron",
    ),
    m("every: 60s", "cron: '* * * *'", "mailboxes.alarm.fetch.cron", "five fields", "in quotes"),
    m(
        "every: 60s",
        "cron: '0 7 * * 1-5'",
        "mailboxes.alarm.fetch.cron",
        "weekdays as numbers",
        "mon-fri",
    ),
    m("every: 60s", "cron: '99 * * * *'", "mailboxes.alarm.fetch.cron", "not a cron", "five"),
    m("every: 60s", "cron: '0 0 30 2 *'", "mailboxes.alarm.fetch.cron", "no day fits", "month"),
    m(
        "folders: [INBOX]",
        "folders: INBOX",
        "mailboxes.alarm.fetch.folders",
        "not a list",
        "[INBOX]",
    ),
    m("folders: [INBOX]", "folders: []", "mailboxes.alarm.fetch.folders", "not a list", "[INBOX]"),
    m(
        "folders: [INBOX]",
        "folders: [INBOX, inbox]",
        "mailboxes.alarm.fetch.folders",
        "twice",
        "once",
    ),
    m(
        "folders: [INBOX]",
        'folders: ["a\\r\\nb"]',
        "mailboxes.alarm.fetch.folders[0]",
        "not the name of a folder",
        "INBOX",
    ),
    m(
        "folders: [INBOX]",
        "folders:\n      - INBOX\n      - {a: b}",
        "mailboxes.alarm.fetch.folders[1]",
        "not the name",
        "INBOX",
        at="- {a: b}",
    ),
    m(
        "start: new",
        "start: yesterday",
        "mailboxes.alarm.fetch.start",
        "neither new nor all",
        "2026-11-01",
    ),
    m("start: new", "start: 2026-13-01", "mailboxes.alarm.fetch.start", "neither", "2026-11-01"),
    m(
        "after: keep",
        "after: archive",
        "mailboxes.alarm.fetch.after",
        "not something to do",
        "keep, seen, delete",
    ),
    m(
        "after: keep",
        "after: {move: }",
        "mailboxes.alarm.fetch.after.move",
        "name of a folder",
        "Processed",
    ),
    m(
        "after: keep",
        "after: {move: Inbox}",
        "mailboxes.alarm.fetch.after",
        "delivered again",
        "not in `folders`",
    ),
    m(
        "expires: 2028-11-20",
        "expires: 20.11.2028",
        "apps.main.credential.expires",
        "not a date",
        "2028-11-20",
    ),
    m(
        "address: alarm@feuerwehr.example",
        "address: alarm",
        "mailboxes.alarm.address",
        "not a mail address",
        "alarm@feuerwehr.example",
    ),
    m(
        "{host: outlook.office365.com}",
        "{host: 'https://x'}",
        "mailboxes.alarm.fetch.server.host",
        "not a host name",
        "without scheme",
    ),
    m(
        "{host: outlook.office365.com}",
        "{port: 99999}",
        "mailboxes.alarm.fetch.server.port",
        "outside of 1 to 65535",
        "whole number",
    ),
    m(
        "{host: outlook.office365.com}",
        "{tls: none}",
        "mailboxes.alarm.fetch.server.tls",
        "none of the words",
        "implicit, starttls",
    ),
    m(
        "{host: outlook.office365.com}",
        "{ca: /no/such.pem}",
        "mailboxes.alarm.fetch.server.ca",
        "cannot be read (No such file",
        "PEM",
    ),
    m(
        "{host: outlook.office365.com}",
        "{ca: mailbridge.yaml}",
        "mailboxes.alarm.fetch.server.ca",
        "no certificate",
        "PEM",
    ),
    # names
    m(
        "app: main",
        "app: mian",
        "mailboxes.alarm.app",
        "no app has this name",
        "did you mean `main`? Under apps stands: main.",
    ),
    m(
        "  alarm:\n",
        "  Alarm!:\n",
        "mailboxes.(unreadable key)",
        "cannot be used",
        "small letters",
        at="Alarm!",
    ),
    m(
        "webhooks:\n  erp:",
        "webhooks: []\nx:\n  erp:",
        "webhooks",
        "not a map from names",
        "erp",
        at="webhooks: []",
    ),
    m(
        "    credential:\n      client_secret: {env: APP_SECRET}\n      expires: 2028-11-20\n",
        "",
        "mailboxes.alarm.app",
        "needs a credential",
        "apps.main",
        at="app: main",
    ),
    # Entra
    m(TENANT, "common", "apps.main.tenant", "one tenant, not any", "Directory (tenant) ID"),
    m(TENANT, "My Company", "apps.main.tenant", "neither a GUID nor", "Directory (tenant) ID"),
    m(
        TENANT,
        f"http://login.microsoftonline.com/{TENANT}",
        "apps.main.tenant",
        "https://host/",
        "https://login.microsoftonline.com/<tenant>",
    ),
    m(
        TENANT,
        f"https://login.microsoftonline.us/{TENANT}",
        "apps.main.tenant",
        "another cloud",
        "cloud: usgov",
    ),
    m(
        "client_id: 66666666-7777-8888-9999-000000000000",
        f"client_id: {TENANT}",
        "apps.main.client_id",
        "same GUID as the tenant",
        "Application (client) ID",
    ),
    m(
        "client_id: 66666666-7777-8888-9999-000000000000",
        "client_id: my-app",
        "apps.main.client_id",
        "not a GUID",
        "Application (client) ID",
    ),
    # secrets
    m(SECRET, f"client_secret: {CANARY}", SECRET_PATH, "never written into this file", REFERENCE),
    m(SECRET, f"client_secret: [{CANARY}]", SECRET_PATH + "[0]", "never written", REFERENCE),
    m(SECRET, f"client_secret: {{{CANARY}: x}}", SECRET_PATH, "exactly one place", REFERENCE),
    m(
        SECRET,
        f"client_secret: {{env: {CANARY}}}",
        SECRET_PATH + ".env",
        "name of an environment",
        "MAILBRIDGE_SECRET",
    ),
    m(
        SECRET,
        f"client_secret: {{file: {CANARY}}}",
        SECRET_PATH + ".file",
        "cannot be read",
        "store the secret there",
    ),
    m(
        SECRET,
        "client_secret: {env: NOT_SET}",
        SECRET_PATH + ".env",
        "NOT_SET is not set",
        "EnvironmentFile=",
    ),
    m(SECRET, "client_secret: {env: EMPTY}", SECRET_PATH + ".env", "empty", "store its value"),
    m(SECRET, "client_secret: {env: TWO_LINES}", SECRET_PATH + ".env", "line break", "one line"),
    m(SECRET, "client_secret: {env: APP_SECRET, file: x}", SECRET_PATH, "exactly one", REFERENCE),
    m(
        SECRET,
        "client_secret: {env: GUID}",
        SECRET_PATH,
        "the secret's ID, not its value",
        "copy the column Value",
    ),
    m(
        SECRET,
        "client_secret: {file: /no/such/file}",
        SECRET_PATH + ".file",
        "/no/such/file: No such file",
        "store the secret",
    ),
    m(SECRET, "client_secret: {file: /}", SECRET_PATH + ".file", "not a regular file", "a file"),
    m(
        SECRET,
        "client_secret: {credential: x}",
        SECRET_PATH + ".credential",
        "no credentials",
        "LoadCredential=",
    ),
    m(SECRET, "client_secret:", SECRET_PATH, "no value", REFERENCE),
    m(SECRET, "client_secret: []", SECRET_PATH, "empty", "at least one"),
    m(SECRET, f"client_secret: *{CANARY}", "", "alias", "in quotes"),
    m(SECRET, f"client_secret: !{CANARY}", SECRET_PATH, "tags", "in quotes"),
    m(SECRET, f"client_secret: @{CANARY}", "", "keeps for itself", "in quotes"),
    m(SECRET, f"client_secret: {CANARY}: x", "", "no key can be", "in quotes"),
    m(
        "sqlite:////tmp/mailbridge.db",
        f"postgresql://u:{CANARY}@db.example/x",
        "state.database",
        "a password is never written",
        "database: {env: NAME}",
    ),
    m(
        "sqlite:////tmp/mailbridge.db",
        "mysql://db.example/x",
        "state.database",
        "SQLite or Postgre",
        "postgresql://",
    ),
    m(
        "sqlite:////tmp/mailbridge.db",
        "sqlite://",
        "state.database",
        "no database file",
        "/absolute/path.db",
    ),
    m("  keep:", "  key: {env: SHORT}\n  keep:", "state.key", "not a state key", "secret key"),
    m(
        "{env: SIGNING}",
        "{env: SHORT}",
        "webhooks.erp.signing_secrets[0]",
        "not a signing secret",
        "mailbridge secret webhook",
    ),
    m(
        "[{env: SIGNING}]",
        "{env: SIGNING}",
        "webhooks.erp.signing_secrets",
        "not a list",
        "in brackets",
    ),
    # webhooks
    m(URL, "http://erp.example/hook", "webhooks.erp.url", "in your own network only", "https://"),
    m(URL, "https://10.0.0.5/", "webhooks.erp.url", "is private", "allow_private: true"),
    m(URL, "https://[::ffff:127.0.0.1]/", "webhooks.erp.url", "is private", "allow_private"),
    m(URL, "https://2130706433/", "webhooks.erp.url", "is private", "allow_private: true"),
    m(URL, "https://0x7f.1/", "webhooks.erp.url", "is private", "allow_private: true"),
    m(URL, "https://localhost./", "webhooks.erp.url", "is private", "allow_private: true"),
    m(URL, "https://169.254.169.254/", "webhooks.erp.url", "neither public nor", "own address"),
    m(URL, "https://999.1.1.1/", "webhooks.erp.url", "neither public nor", "own address"),
    m(URL, f"https://user:{CANARY}@erp.example/", "webhooks.erp.url", "do not belong", "headers"),
    m(URL, "ftp://erp.example/", "webhooks.erp.url", "not a web address", "https://host/path"),
    m(URL, "https://erp.example:99999/", "webhooks.erp.url", "cannot be read", "https://host"),
    m(URL, "https://erp.example/#top", "webhooks.erp.url", "fragment", "remove it"),
    m(URL, "{env: HTTP_URL}", "webhooks.erp.url", "in your own network only", "https://"),
    m(f"url: {URL}", "url:", "webhooks.erp.url", "no value", "write"),
    m(
        "X-Source: mailbridge",
        f"Authorization: {CANARY}",
        "webhooks.erp.headers.Authorization",
        "never written",
        REFERENCE,
    ),
    m(
        "X-Source: mailbridge",
        f"X-Api-Key: {CANARY}",
        "webhooks.erp.headers.X-Api-Key",
        "never written",
        REFERENCE,
    ),
    m(
        "X-Source: mailbridge",
        f"X-Token: {CANARY}",
        "webhooks.erp.headers.X-Token",
        "never written",
        REFERENCE,
    ),
    m(
        "X-Source: mailbridge",
        "webhook-id: x",
        "webhooks.erp.headers.webhook-id",
        "itself",
        "remove it",
    ),
    m(
        "X-Source: mailbridge",
        "'X Y': x",
        "webhooks.erp.headers.(unreadable key)",
        "not the name of a header",
        "letters",
    ),
    m(
        "X-Source: mailbridge",
        'X-Source: "a\\nb"',
        "webhooks.erp.headers.X-Source",
        "not the text of a header",
        "ASCII",
    ),
    m(
        "X-Source: mailbridge",
        "X-A: {env: NOT_SET}",
        "webhooks.erp.headers.X-A.env",
        "is not set",
        "EnvironmentFile=",
    ),
    m(
        "tls: {}",
        "tls: {client_key: /no/such}",
        "webhooks.erp.tls.client_key",
        "cannot be read",
        "private key",
    ),
    m(
        "tls: {}",
        "events: [mail.recieved]",
        "webhooks.erp.events[0]",
        "none of the words",
        "mail.received",
    ),
    m("tls: {}", "events: []", "webhooks.erp.events", "empty", "at least one"),
    # YAML
    m("  listen: off", "\tlisten: off", "", "takes no tabs", "spaces", at="\tlisten"),
    m("folders: [INBOX]", "folders: [INBOX", "", "not closed", "close it"),
    m("app: main", 'app: "main', "", "not closed", "close it"),
    m("http:\n", "---\nhttp:\n", "", "second document", "one document"),
    m("http:\n", "? [a]\n: b\nhttp:\n", "", "plain word", "key: value", at="? [a]"),
    m("tls: {}", "tls: {<<: 5}", "webhooks.erp.tls", "takes a map", "&name"),
    m("    app: main", "   app: main", "", "broken here or just above", "indent"),
]


Read = Callable[[str], config.Checked]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_check(text: str) -> config.Checked:
        path = tmp_path / "mailbridge.yaml"
        path.write_text(text, encoding="utf-8")
        return config.check(path, environ=ENVIRON, now=lambda: NOW)

    return write_and_check


def test_the_base_has_no_mistakes(read: Read) -> None:
    """Each case below changes a file that is valid without the change."""
    assert read(BASE)[1:] == ([], [])


def marked_line(text: str, mistake: Mistake) -> int:
    marker = mistake.at or mistake.new.split("\n")[0]
    lines = [at for at, line in enumerate(text.splitlines(), 1) if marker in line]
    assert len(lines) == 1, f"{marker!r} is not in exactly one line"
    return lines[0]


def case_id(mistake: Mistake) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{mistake.path}-{mistake.new[:30]}")


@pytest.mark.parametrize("mistake", MISTAKES, ids=case_id)
def test_a_mistake_is_named_with_line_key_and_fix(read: Read, mistake: Mistake) -> None:
    """Each mistake has its own line, key path, message and fix, and no value is repeated."""
    assert BASE.count(mistake.old) == 1
    text = BASE.replace(mistake.old, mistake.new)
    checked = read(text)
    assert checked.config is None
    found = [problem for problem in checked.problems if mistake.says in problem.message]
    assert len(found) == 1, checked.problems
    problem = found[0]
    assert (problem.path, problem.line) == (mistake.path, marked_line(text, mistake))
    assert mistake.fix in problem.fix
    assert problem.message.endswith(".")
    for each in [*checked.problems, *checked.warnings]:
        assert each.fix
        assert CANARY not in str(each)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(read: Read) -> None:
    """One check shows every fault, so that nobody mends the file once per fault."""
    text = (
        BASE.replace("listen: off", "listen: on")
        .replace("client_secret: {env", "client_secret: {evn")
        .replace("address: alarm@", "adress: alarm@")
        .replace("every: 60s", "every: 60")
        .replace("concurrency: 8", "concurrency: x")
        .replace("app: main", "app: other")
    )
    assert [(p.line, p.path) for p in read(text).problems] == [
        (5, "http.listen"),
        (11, "apps.main.credential.client_secret"),
        (14, "mailboxes.alarm.address"),
        (15, "mailboxes.alarm.adress"),
        (16, "mailboxes.alarm.app"),
        (20, "mailboxes.alarm.fetch.every"),
        (32, "webhooks.erp.concurrency"),
    ]


def test_a_problem_is_one_line_that_editors_can_jump_to() -> None:
    """A problem reads ``file:line: path: message. Fix: …``."""
    problem = Problem(file="m.yaml", line=3, path="http.listen", message="wrong.", fix="mend it.")
    assert str(problem) == "m.yaml:3: http.listen: wrong. Fix: mend it."


@pytest.mark.parametrize("section", ["apps", "mailboxes", "webhooks"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_nothing_runs_without_apps_mailboxes_and_webhooks(
    read: Read, section: str, how: str
) -> None:
    """Each of the three sections needs an entry, and the fix shows one."""
    start = BASE.index(f"{section}:\n")
    end = re.compile(r"^\S", re.MULTILINE).search(BASE, start + 1)
    rest = BASE[end.start() :] if end else ""
    text = BASE[:start] + (f"{section}:\n" if how == "empty" else "") + rest
    found = [problem for problem in read(text).problems if problem.path == section]
    assert [problem.message.startswith("at least one") for problem in found] == [True]
    assert section in found[0].fix


WARNINGS = [
    (
        ("      protocol: imap", "      protocol: pop3\n      push: true"),
        "mailboxes.alarm.fetch.push",
        "no push",
    ),
    (("protocol: imap", "protocol: none"), "mailboxes.alarm.fetch.protocol", "fetches nothing"),
    (("2028-11-20", "2026-12-01"), "apps.main.credential.expires", "ends in 9 days"),
    (("2028-11-20", "2026-11-01"), "apps.main.credential.expires", "ended 21 days ago"),
    ((URL, URL + "?accesskey=x"), "webhooks.erp.url", "seems to hold a key"),
    (("tls: {}", "events: [delivery.dead]"), "webhooks", "no webhook receives mail.received"),
    (
        ("webhooks:", "  two: {address: ALARM@feuerwehr.example, app: main}\nwebhooks:"),
        "mailboxes.two.address",
        "same address and folder",
    ),
    (
        ("mailboxes:", f"  spare: {{tenant: {TENANT}, client_id: {ENVIRON['GUID']}}}\nmailboxes:"),
        "apps.spare",
        "no mailbox uses this app",
    ),
]


@pytest.mark.parametrize(("change", "path", "says"), WARNINGS, ids=[case[2] for case in WARNINGS])
def test_what_works_but_is_hardly_meant_is_a_warning(
    read: Read, change: tuple[str, str], path: str, says: str
) -> None:
    """A warning names its place like a problem and does not keep the daemon from starting."""
    checked = read(BASE.replace(*change))
    assert checked.problems == []
    assert checked.config is not None
    assert [(warning.path, says in warning.message) for warning in checked.warnings] == [
        (path, True)
    ]
    assert checked.warnings[0].line is not None


def test_a_secret_that_everybody_can_read_is_warned_of(tmp_path: Path, read: Read) -> None:
    """A world-readable secret file works, with a warning at the line of its reference."""
    (tmp_path / "open.secret").write_text("abc8Q~made-up")
    (tmp_path / "open.secret").chmod(0o644)
    checked = read(BASE.replace("{env: APP_SECRET}", "{file: open.secret}"))
    assert checked.config is not None
    assert [(warning.path, warning.line) for warning in checked.warnings] == [
        ("apps.main.credential.client_secret.file", 11)
    ]
    assert "chmod 0640" in checked.warnings[0].fix


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "empty"), (b"\xff\xfe", "UTF-8"), (b"x" * 70000, "64 KiB")]
)
def test_a_secret_file_must_hold_a_secret(
    tmp_path: Path, read: Read, content: bytes, says: str
) -> None:
    """Empty, binary and huge files are refused with the line of the reference."""
    (tmp_path / "app.secret").write_bytes(content)
    (tmp_path / "app.secret").chmod(0o600)
    problems = read(BASE.replace("{env: APP_SECRET}", "{file: app.secret}")).problems
    assert [(problem.line, says in problem.message) for problem in problems] == [(11, True)]


FILES = [
    (b"", None, "empty"),
    (b"# only a comment\n", None, "empty"),
    (b"- a\n- b\n", 1, "map of sections"),
    (b"just text\n", 1, "map of sections"),
    ("a: 1\n".encode("utf-16"), 1, "UTF-16"),
    (b"apps:\n  x: \xe4\n", 2, "not UTF-8"),
    (b"apps:\n  x: a\x00b\n", 2, "control character"),
    (b"apps:\n  x: [" + b"[" * 5000, 2, None),
    (b"a: " + b"{a: " * 200 + b"1" + b"}" * 200, 1, "too deep"),
    (b"a: &a [*a]\n", 1, "contains itself"),
    (b"#" + b"x" * (9 * 2**20), None, "larger than 8 MiB"),
]


@pytest.mark.parametrize(("content", "line", "says"), FILES, ids=[str(c[0][:20]) for c in FILES])
def test_a_file_that_is_no_configuration_is_refused_clearly(
    tmp_path: Path, content: bytes, line: int | None, says: str | None
) -> None:
    """Whatever the file holds, the answer is a problem with a fix."""
    path = tmp_path / "mailbridge.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ=ENVIRON)
    first = caught.value.problems[0]
    assert first.line == line
    assert says is None or says in first.message
    assert first.fix


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    """Editors on Windows put one there, and it means nothing."""
    path = tmp_path / "mailbridge.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert config.load(path, environ=ENVIRON).mailboxes["alarm"].app == "main"


def test_aliases_of_aliases_are_bounded(read: Read) -> None:
    """A billion laughs in nine lines is refused after a bounded number of values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 9):
        items = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{items}]")
    problems = read("\n".join(lines) + "\n" + BASE).problems
    bombs = [problem for problem in problems if "aliases make more than" in problem.message]
    assert len(bombs) == 1
    assert bombs[0].fix


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_a_path_that_is_no_file_is_refused_clearly(tmp_path: Path, kind: str) -> None:
    """A missing file, a directory and a pipe give a problem; none of them hangs."""
    path = tmp_path / "mailbridge.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ=ENVIRON)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].file == str(path)
    assert caught.value.problems[0].fix
