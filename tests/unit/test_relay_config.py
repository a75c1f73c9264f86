"""The section ``relay``: what it means, what people get wrong in it, what they are warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailbridge import config
from mailbridge.relay.listener import policy_of

BASE = """
apps:
  main:
    tenant: feuerwehr.example
    client_id: 66666666-7777-8888-9999-000000000000
    credential: {client_secret: {env: S}, expires: 2098-11-20}
mailboxes:
  alarm: {address: alarm@fw.example, app: main, send: {}, routes: [archive]}
  reads: {address: reads@fw.example, app: main, routes: [archive]}
routes:
  archive: {webhooks: [erp]}
  used: {webhooks: [erp]}
  strict: {match: {from: ['*@ils.example']}, require: {authenticated: true}, webhooks: [erp]}
webhooks: {erp: {url: https://erp.example/hook}}
relay:
"""
ENVIRON = {"S": "abc8Q~made-up-client-secret", "P": "a made-up password", "SHORT": "short"}


def check(home: Path, section: str) -> config.Checked:
    file = home / "mailbridge.yaml"
    file.write_text(BASE + "\n".join(f"  {line}" for line in section.splitlines()) + "\n")
    return config.check(file, environ=ENVIRON)


def test_the_section_of_the_readme_is_understood(tmp_path: Path) -> None:
    """What the interface promises is read, and what is left out is as documented."""
    checked = check(
        tmp_path,
        "listen: 127.0.0.1:2525\n"
        'accept: {networks: [127.0.0.0/8], senders: {"Scanner@FW.example": alarm}}\n'
        "inbound: {Alarm@in.fw.example: [used, archive]}",
    )
    assert not checked.problems
    assert checked.config is not None
    relay = checked.config.relay
    assert relay is not None
    assert (relay.host, relay.port, relay.max_size) == ("127.0.0.1", 2525, 35_000_000)
    assert (relay.tls, relay.auth) == (None, {})
    policy = policy_of(relay)
    assert policy.senders == {"scanner@fw.example": "alarm"}
    assert policy.inbound == {"alarm@in.fw.example": "Alarm@in.fw.example"}
    assert dict(relay.inbound) == {"Alarm@in.fw.example": ("used", "archive")}
    told = [str(one) for one in checked.warnings if "routes.used" in one.path]
    assert told == [], "a route that the relay uses is used"


def test_who_is_named_in_full_may_stand_in_from(tmp_path: Path) -> None:
    """Naming a sender says that his mailbox may send as him; naming a domain does not."""
    checked = check(tmp_path, 'accept: {senders: {"a@fw.example": alarm, "*@x.example": alarm}}')
    assert checked.config is not None
    send = checked.config.mailboxes["alarm"].send
    assert send is not None
    assert send.send_as == ("alarm@fw.example", "a@fw.example")


def test_without_the_section_nothing_listens(tmp_path: Path) -> None:
    """The relay is off unless somebody asks for it; with nothing said, it takes nothing."""
    file = tmp_path / "mailbridge.yaml"
    file.write_text(BASE.replace("relay:\n", ""))
    without = config.check(file, environ=ENVIRON).config
    assert without is not None
    assert without.relay is None
    checked = check(tmp_path, "listen: 127.0.0.1:2525")
    assert checked.config is not None
    assert any("takes nothing" in one.message for one in checked.warnings)


@pytest.mark.parametrize(
    ("section", "path", "message", "fix"),
    [
        ("listen: 2525", "relay.listen", "a host and a port", "HOST:PORT"),
        ("listem: off", "relay.listem", "not known", "did you mean `listen`?"),
        ("accept: {networks: []}", "relay.accept.networks", "not a list", "brackets"),
        ("accept: {networks: 10.0.0.0/8}", "relay.accept.networks", "not a list", "brackets"),
        ("accept: {networks: [10.0.0.1/8]}", "relay.accept.networks[0]", "a host within", "/24"),
        ("accept: {networks: [lan]}", "relay.accept.networks[0]", "not a network", "/24"),
        ("accept: {senders: [a@b.example]}", "relay.accept.senders", "not a map", "scanner@"),
        ('accept: {senders: {"a": alarm}}', "relay.accept.senders.a", "neither an address", "*@"),
        (
            'accept: {senders: {"*a@b.example": alarm}}',
            "relay.accept.senders.(unreadable key)",
            "neither an address",
            "*@",
        ),
        (
            "accept: {senders: {a@b.example: alarm, A@b.example: alarm}}",
            "relay.accept.senders.A@b.example",
            "twice",
            "keep one",
        ),
        (
            "accept: {senders: {a@b.example: alam}}",
            "relay.accept.senders.a@b.example",
            "no mailbox",
            "did you mean `alarm`?",
        ),
        (
            "accept: {senders: {a@b.example: reads}}",
            "relay.accept.senders.a@b.example",
            "sends nothing",
            "send: {}",
        ),
        ("inbound: {a@b.example: [none]}", "relay.inbound.a@b.example[0]", "no route", "archive"),
        ("inbound: {a@b.example: []}", "relay.inbound.a@b.example", "no list of", "[alarm]"),
        ("inbound: {nobody: [archive]}", "relay.inbound.nobody", "not a mail address", "@"),
        ("auth: {a: {env: SHORT}}", "relay.auth.a", "can be guessed", "longer"),
        ("auth: {'a b': {env: P}}", "relay.auth", "cannot be used", "no blanks"),
        ("auth: {a: secret}", "relay.auth.a", "never written into this file", "{file: PATH}"),
        ("auth: {a: {env: P}}\nlisten: 0.0.0.0:25", "relay.auth", "cannot sign in", "tls"),
        ("tls: {certificate: x.pem}", "relay.tls.certificate", "cannot be read", "PEM"),
        ("max_size: 1GB", "relay.max_size", "more than any mail", "smaller"),
        ("max_size: 1B", "relay.max_size", "no mail is as small", "35MB"),
    ],
)
def test_a_mistake_is_named_with_its_fix(
    tmp_path: Path, section: str, path: str, message: str, fix: str
) -> None:
    """Each mistake is found before anything starts, at its key, with what to write."""
    problems = check(tmp_path, section).problems
    assert problems[0].path == path, problems
    assert message in problems[0].message
    assert fix in problems[0].fix
    assert problems[0].line is not None


@pytest.mark.parametrize(
    ("section", "path", "message"),
    [
        ("inbound: {a@b.example: [strict]}", "relay.inbound.a@b.example[0]", "it will be held"),
        (
            "listen: 0.0.0.0:25\ninbound: {a@b.example: archive}",
            "relay.accept.networks",
            "only this one may",
        ),
        (
            "listen: 0.0.0.0:25\naccept: {networks: [0.0.0.0/0], senders: {a@b.example: alarm}}",
            "relay.accept.networks[0]",
            "no private network",
        ),
    ],
)
def test_what_is_hardly_meant_is_warned_of(
    tmp_path: Path, section: str, path: str, message: str
) -> None:
    """What works and surprises is said: mail that is always held, doors that are wide open."""
    checked = check(tmp_path, section)
    assert checked.config is not None
    assert any(one.path == path and message in one.message for one in checked.warnings)


def test_a_mailbox_called_relay_is_refused_beside_inbound(tmp_path: Path) -> None:
    """Mail that is brought stands under that name, and no two things have one name."""
    file = tmp_path / "mailbridge.yaml"
    text = BASE.replace("  reads:", "  relay:") + "  inbound: {a@b.example: [archive]}\n"
    file.write_text(text)
    [problem] = config.check(file, environ=ENVIRON).problems
    assert problem.path == "mailboxes.relay"
