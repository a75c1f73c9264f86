"""``mailboxes.NAME.send``: its defaults, its clouds, its proxy, and what is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailbridge import config
from mailbridge.config import Send

TEXT = """\
apps:
  one:
    tenant: contoso.example
    client_id: 66666666-7777-8888-9999-000000000000
    credential: {client_secret: {env: SECRET}}
    cloud: CLOUD
mailboxes:
  alarm:
    address: alarm@feuerwehr.example
    app: one
    fetch: {protocol: PROTOCOL}
    SEND
webhooks:
  erp: {url: "https://erp.example/hooks/mail"}
"""


def check(
    tmp_path: Path,
    send: str,
    *,
    cloud: str = "public",
    protocol: str = "imap",
    environ: dict[str, str] | None = None,
) -> config.Checked:
    path = tmp_path / "mailbridge.yaml"
    text = TEXT.replace("CLOUD", cloud).replace("SEND", send).replace("PROTOCOL", protocol)
    path.write_text(text, encoding="utf-8")
    return config.check(path, environ={"SECRET": "abc8Q~made-up-client-secret"} | (environ or {}))


def sends(checked: config.Checked) -> Send:
    assert checked.problems == []
    assert checked.config is not None
    send = checked.config.mailboxes["alarm"].send
    assert send is not None
    return send


@pytest.mark.parametrize(
    ("cloud", "host"),
    [
        ("public", "smtp.office365.com"),
        ("usgov", "smtp.office365.us"),
        ("usgov-dod", "outlook-dod.office365.us"),
        ("china", "smtp.partner.outlook.cn"),
    ],
)
def test_an_empty_section_takes_exchange_online(tmp_path: Path, cloud: str, host: str) -> None:
    """`send: {}` is enough: the server of the app's cloud, its limits, the mailbox itself."""
    checked = check(tmp_path, "send: {}", cloud=cloud)
    send = sends(checked)
    assert (send.server.host, send.server.port, send.server.tls) == (host, 587, "starttls")
    assert (send.limits.per_minute, send.limits.connections) == (30, 3)
    assert send.limits.recipients_per_day == 10_000
    assert send.send_as == ("alarm@feuerwehr.example",)
    assert send.in_doubt == "resend"
    assert checked.warnings == []


def test_a_mailbox_without_the_section_does_not_send(tmp_path: Path) -> None:
    """Nothing is made up for a mailbox that never sends."""
    checked = check(tmp_path, "")
    assert checked.config is not None
    assert checked.config.mailboxes["alarm"].send is None


def test_a_mailbox_may_send_only(tmp_path: Path) -> None:
    """`fetch.protocol: none` is fine with `send`, and warned of without."""
    assert check(tmp_path, "send: {}", protocol="none").warnings == []
    assert [w.path for w in check(tmp_path, "", protocol="none").warnings] == [
        "mailboxes.alarm.fetch.protocol"
    ]


def test_another_server_has_its_own_port_and_budgets(tmp_path: Path) -> None:
    """With implicit TLS the port is 465, and budgets can be switched off; nobody warns of it."""
    checked = check(
        tmp_path,
        "send: {server: {host: mail.example, tls: implicit}, in_doubt: hold,"
        " limits: {per_minute: off, recipients_per_day: off, connections: 8}}",
    )
    send = sends(checked)
    assert (send.server.port, send.limits.per_minute, send.limits.connections) == (465, None, 8)
    assert send.limits.recipients_per_day is None
    assert send.in_doubt == "hold"
    assert checked.warnings == []


def test_the_proxy_of_the_environment_is_for_sending_too(tmp_path: Path) -> None:
    """A proxy for mail is used to submit, also where nothing is fetched; `off` wins."""
    environ = {"ALL_PROXY": "socks5h://proxy.example:1080"}
    for protocol in ("imap", "none"):
        send = sends(check(tmp_path, "send: {}", protocol=protocol, environ=environ))
        assert send.server.proxy is not None
        assert send.server.proxy.variable == "ALL_PROXY"
    off = sends(check(tmp_path, "send: {server: {proxy: off}}", environ=environ))
    assert off.server.proxy is None


@pytest.mark.parametrize(
    ("send", "path"),
    [
        ("{server: {tls: implicit}}", "send.server.tls"),
        ("{server: {port: 465}}", "send.server.port"),
        ("{limits: {per_minute: 31}}", "send.limits.per_minute"),
        ("{limits: {connections: 4}}", "send.limits.connections"),
        ("{limits: {recipients_per_day: off}}", "send.limits.recipients_per_day"),
        ("{send_as: [info@feuerwehr.example]}", "send.send_as"),
    ],
)
def test_what_exchange_online_would_refuse_is_warned_of(
    tmp_path: Path, send: str, path: str
) -> None:
    """Settings that only another server would take are pointed out before they cost a mail."""
    checked = check(tmp_path, f"send: {send}")
    assert checked.problems == []
    assert [warning.path for warning in checked.warnings] == [f"mailboxes.alarm.{path}"]


@pytest.mark.parametrize(
    ("send", "path", "words"),
    [
        ("{server: {tls: none}}", "server.tls", "starttls"),
        ("{limits: {per_minute: 0}}", "limits.per_minute", "outside"),
        ("{limits: {per_minute: much}}", "limits.per_minute", "whole number"),
        ("{limits: {connections: 51}}", "limits.connections", "outside"),
        ("{send_as: alarm@feuerwehr.example}", "send_as", "list of addresses"),
        ("{send_as: [alarm]}", "send_as", "not a mail address"),
        ("{in_doubt: forget}", "in_doubt", "resend"),
        ("{budget: 1}", "budget", "not known"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, send: str, path: str, words: str
) -> None:
    """Each fault of the section names its key and says what is wanted."""
    [problem] = check(tmp_path, f"send: {send}").problems
    assert problem.path.startswith(f"mailboxes.alarm.send.{path}")
    assert words in f"{problem.message} {problem.fix}"


@pytest.mark.parametrize(("protocol", "problems"), [("none", 0), ("imap", 1), ("pop3", 1)])
def test_who_only_sends_needs_no_webhook(tmp_path: Path, protocol: str, problems: int) -> None:
    """Where nothing is fetched there is nothing to give to one; else one is asked for."""
    path = tmp_path / "mailbridge.yaml"
    text = TEXT.replace("CLOUD", "public").replace("SEND", "send: {}")
    path.write_text(text.replace("PROTOCOL", protocol).partition("webhooks:")[0])
    checked = config.check(path, environ={"SECRET": "abc8Q~made-up-client-secret"})
    assert ["webhook" in one.message for one in checked.problems] == [True] * problems
