"""What a valid file becomes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from mailbridge import config
from mailbridge.config import Config, Secret
from mailbridge.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
ENVIRON = {
    "ALARM_SECRET": "abc8Q~made-up-client-secret",
    "ERP_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "ERP_AUTHORIZATION": "Bearer made-up-bearer-value",
    "ALARM_SERVER_URL": "http://10.0.0.5/alarm?accesskey=made-up-access-key",
}
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINIMAL = """\
apps:
  one: {tenant: contoso.example, client_id: 66666666-7777-8888-9999-000000000000,
        credential: {client_secret: {env: ALARM_SECRET}}}
mailboxes:
  alarm: {address: alarm@feuerwehr.example, app: one}
webhooks:
  erp: {url: "https://erp.example/hooks/mail"}
"""

Read = Callable[[str], config.Checked]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_check(text: str) -> config.Checked:
        path = tmp_path / "mailbridge.yaml"
        path.write_text(text, encoding="utf-8")
        return config.check(path, environ=ENVIRON, now=lambda: NOW)

    return write_and_check


def valid(checked: config.Checked) -> Config:
    assert checked.problems == []
    assert checked.config is not None
    return checked.config


def test_the_example_loads_as_it_is_shipped() -> None:
    """The example has neither problems nor warnings once its secrets are there."""
    checked = config.check(EXAMPLE, environ=ENVIRON, now=lambda: NOW)
    loaded = valid(checked)
    assert checked.warnings == []
    assert loaded.webhooks["erp"].signing_secrets[0].reveal() == ENVIRON["ERP_WEBHOOK_SECRET"]
    assert loaded.webhooks["erp"].headers["Authorization"].reveal() == ENVIRON["ERP_AUTHORIZATION"]
    assert loaded.webhooks["erp"].headers["X-Source"].reveal() == "mailbridge"
    assert loaded.webhooks["alarm-server"].url.reveal() == ENVIRON["ALARM_SERVER_URL"]
    assert loaded.webhooks["alarm-server"].origin == "http://10.0.0.5"
    assert loaded.webhooks["alarm-server"].events == ("mail.received",)
    assert loaded.apps["alarm-app"].credential is not None
    assert loaded.apps["alarm-app"].credential.expires == date(2028, 11, 20)


def test_a_minimal_file_gets_the_documented_defaults(read: Read) -> None:
    """Three entries suffice: everything else has the default of the documentation."""
    loaded = valid(read(MINIMAL))
    fetch = loaded.mailboxes["alarm"].fetch
    assert (fetch.protocol, fetch.push, fetch.every, fetch.cron) == (
        "imap",
        True,
        timedelta(seconds=60),
        None,
    )
    assert (fetch.folders, fetch.start, fetch.after.action) == (("INBOX",), "new", "keep")
    assert (fetch.server.host, fetch.server.port, fetch.server.tls) == (
        "outlook.office365.com",
        993,
        "implicit",
    )
    webhook = loaded.webhooks["erp"]
    assert (webhook.format, webhook.profile, webhook.order) == ("mailbridge", "default", "none")
    assert (webhook.attachments.mode, webhook.attachments.max) == ("meta", 10_000_000)
    assert (webhook.concurrency, webhook.allow_private) == (8, False)
    assert webhook.events == config.EVENTS
    assert loaded.http.listen == "off"
    keep = loaded.state.keep
    assert (keep.delivered.days, keep.dead.days, keep.log.days) == (30, 90, 180)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "sqlite:///mailbridge.db"),
        ({"STATE_DIRECTORY": "/var/lib/mailbridge"}, "sqlite:////var/lib/mailbridge/mailbridge.db"),
        ({"STATE_DIRECTORY": "/a:/b"}, "sqlite:////a/mailbridge.db"),
    ],
)
def test_the_database_defaults_to_the_state_directory(
    tmp_path: Path, environ: dict[str, str], expected: str
) -> None:
    """The state directory of systemd is used when there is one, the first if there are several."""
    path = tmp_path / "mailbridge.yaml"
    path.write_text(MINIMAL)
    loaded = config.load(path, environ=ENVIRON | environ, now=lambda: NOW)
    assert loaded.state.database.reveal() == expected


def test_a_database_url_never_shows_its_password(read: Read) -> None:
    """The label of a database names host and database, and no user or password."""
    place = "postgresql://mail:hunter22@db.example:5433/mailbridge"
    ENVIRON["DATABASE_URL"] = place
    try:
        loaded = valid(read("state: {database: {env: DATABASE_URL}}\n" + MINIMAL))
    finally:
        del ENVIRON["DATABASE_URL"]
    assert loaded.state.database.reveal() == place
    assert loaded.state.database_label == "postgresql://db.example:5433/mailbridge"
    assert "hunter22" not in repr(loaded)


@pytest.mark.parametrize(
    ("tenant", "cloud", "authority", "tenant_id", "microsoft"),
    [
        (
            "11111111-2222-3333-4444-555555555555",
            "public",
            "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555",
            "11111111-2222-3333-4444-555555555555",
            True,
        ),
        (
            "Contoso.onmicrosoft.com",
            "usgov",
            "https://login.microsoftonline.us/contoso.onmicrosoft.com",
            "contoso.onmicrosoft.com",
            True,
        ),
        (
            "contoso.example",
            "china",
            "https://login.partner.microsoftonline.cn/contoso.example",
            "contoso.example",
            True,
        ),
        (
            "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token",
            "public",
            "https://login.microsoftonline.com/contoso.example",
            "contoso.example",
            True,
        ),
        (
            "https://login.windows.net/contoso.example/",
            "public",
            "https://login.microsoftonline.com/contoso.example",
            "contoso.example",
            True,
        ),
        (
            "https://localhost:14443/11111111-2222-3333-4444-555555555555",
            "public",
            "https://localhost:14443/11111111-2222-3333-4444-555555555555",
            "11111111-2222-3333-4444-555555555555",
            False,
        ),
        (
            "https://[::1]:14443/contoso.example/v2.0",
            "public",
            "https://[::1]:14443/contoso.example",
            "contoso.example",
            False,
        ),
    ],
)
def test_a_tenant_is_understood_in_every_form_that_guides_use(  # noqa: PLR0913 - one parameter a column
    read: Read, tenant: str, cloud: str, authority: str, tenant_id: str, *, microsoft: bool
) -> None:
    """An id, a domain, a login URL and a token endpoint lead to the same authority."""
    text = MINIMAL.replace("tenant: contoso.example", f'tenant: "{tenant}", cloud: {cloud}')
    app = valid(read(text)).apps["one"]
    assert (app.authority_url, app.tenant_id, app.is_microsoft_host) == (
        authority,
        tenant_id,
        microsoft,
    )


@pytest.mark.parametrize(
    ("cloud", "host", "scope"),
    [
        ("public", "outlook.office365.com", "https://outlook.office365.com/.default"),
        ("usgov", "outlook.office365.us", "https://outlook.office365.us/.default"),
        ("usgov-dod", "outlook-dod.office365.us", "https://outlook-dod.office365.us/.default"),
        ("china", "partner.outlook.cn", "https://partner.outlook.cn/.default"),
    ],
)
def test_national_clouds_bring_their_hosts(read: Read, cloud: str, host: str, scope: str) -> None:
    """The mail server and the scope follow from the cloud of the app."""
    loaded = valid(read(MINIMAL.replace("tenant:", f"cloud: {cloud}, tenant:")))
    assert loaded.apps["one"].scope == scope
    assert loaded.mailboxes["alarm"].fetch.server.host == host


def fetch_with(settings: str) -> str:
    return MINIMAL.replace("app: one}", f"app: one, fetch: {{{settings}}}}}")


def test_what_was_written_is_what_is_meant(read: Read) -> None:
    """No plain word of YAML turns into a boolean, a date, an octal number or a time."""
    text = fetch_with("folders: [on, 2026, 2026-11-01, 007, 1:30, no, inbox], every: 5m")
    fetch = valid(read("http: {listen: off}\n" + text)).mailboxes["alarm"].fetch
    assert fetch.folders == ("on", "2026", "2026-11-01", "007", "1:30", "no", "INBOX")
    assert fetch.every == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("written", "start"),
    [("new", "new"), ("all", "all"), ("2026-11-01", date(2026, 11, 1)), ('"all"', "all")],
)
def test_start_takes_new_all_and_a_date(read: Read, written: str, start: object) -> None:
    """A date needs no quotes."""
    assert valid(read(fetch_with(f"start: {written}"))).mailboxes["alarm"].fetch.start == start


def test_after_takes_a_folder_to_move_to(read: Read) -> None:
    """``{move: Folder}`` is the action move with its folder."""
    after = valid(read(fetch_with("after: {move: Processed}"))).mailboxes["alarm"].fetch.after
    assert (after.action, after.folder) == ("move", "Processed")


def test_cron_takes_five_fields_and_starttls_its_port(read: Read) -> None:
    """A cron expression is kept as written; starttls changes the default port."""
    text = fetch_with('cron: "*/5 6-20 * * mon-fri", server: {tls: starttls, host: 127.0.0.1}')
    fetch = valid(read(text)).mailboxes["alarm"].fetch
    assert fetch.cron == "*/5 6-20 * * mon-fri"
    assert (fetch.server.host, fetch.server.port) == ("127.0.0.1", 143)


@pytest.mark.parametrize(
    ("written", "size"),
    [("500KB", 500_000), ("25MB", 25_000_000), ("10MiB", 10 * 2**20), ('"1 mb"', 1_000_000)],
)
def test_sizes_have_units(read: Read, written: str, size: int) -> None:
    """MB counts in thousands, MiB in 1024s."""
    text = MINIMAL.replace('mail"}', f'mail", attachments: {{mode: inline, max: {written}}}}}')
    assert valid(read(text)).webhooks["erp"].attachments.max == size


def test_anchors_share_settings(read: Read) -> None:
    """An alias and a merge key stand for what they name; own keys win."""
    text = MINIMAL.replace(
        "alarm: {address: alarm@feuerwehr.example, app: one}",
        "alarm: &base {address: alarm@feuerwehr.example, app: one, fetch: &f {every: 5m}}\n"
        "  office: {<<: *base, address: office@feuerwehr.example}\n"
        "  other: {address: other@feuerwehr.example, app: one, fetch: *f}",
    )
    boxes = valid(read(text)).mailboxes
    assert [box.fetch.every.seconds for box in boxes.values()] == [300, 300, 300]
    assert boxes["office"].address == "office@feuerwehr.example"


def test_secrets_come_from_files_and_credentials(tmp_path: Path) -> None:
    """A relative file lies beside the configuration; a final line break is not part of it."""
    (tmp_path / "one.secret").write_bytes(b"from-a-file~1\r\n")
    (tmp_path / "one.secret").chmod(0o600)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "new-secret").write_text("from-systemd~1\n")
    path = tmp_path / "mailbridge.yaml"
    both = "client_secret: [{credential: new-secret}, {file: one.secret}]"
    path.write_text(MINIMAL.replace("client_secret: {env: ALARM_SECRET}", both))
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    checked = config.check(path, environ=environ, now=lambda: NOW)
    credential = valid(checked).apps["one"].credential
    assert credential is not None
    assert [secret.reveal() for secret in credential.client_secret] == [
        "from-systemd~1",
        "from-a-file~1",
    ]
    assert checked.warnings == []


def test_a_configuration_cannot_be_changed(read: Read) -> None:
    """Values are frozen, and their texts show no secret."""
    loaded = valid(read(MINIMAL))
    with pytest.raises(ValidationError):
        loaded.mailboxes["alarm"].address = "other@feuerwehr.example"  # type: ignore[misc]
    for text in (repr(loaded), str(loaded), loaded.model_dump_json()):
        assert ENVIRON["ALARM_SECRET"] not in text
        assert "***" in text


def test_a_secret_shows_itself_only_when_asked() -> None:
    """str, repr, format and comparisons keep the value to themselves; reveal gives it."""
    secret = Secret("s3cr3t-value")
    assert f"{secret} {secret!r} {secret!s}" == "*** Secret(***) ***"
    assert secret == Secret("s3cr3t-value")
    assert secret != Secret("other")
    assert len({secret, Secret("s3cr3t-value")}) == 1
    assert secret.reveal() == "s3cr3t-value"


class _Core(yaml.SafeLoader):
    """Reads YAML as editors do that follow version 1.2."""


_Core.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":timestamp", ":bool"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Core.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))


def test_the_json_schema_accepts_the_example_and_refuses_mistakes() -> None:
    """The published schema is valid, takes the example, and refuses unknown keys and literals."""
    schema = json.loads(json.dumps(config.schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    example = yaml.load(EXAMPLE.read_text(encoding="utf-8"), _Core)
    assert [error.message for error in validator.iter_errors(example)] == []
    example["mailboxes"]["alarm"]["adress"] = "x"
    example["apps"]["alarm-app"]["credential"]["client_secret"] = "literal"
    example["webhooks"]["erp"]["concurrency"] = 0
    example["mailboxes"]["alarm"]["fetch"]["every"] = 60
    places = {".".join(map(str, error.path)) for error in validator.iter_errors(example)}
    assert places == {
        "mailboxes.alarm",
        "apps.alarm-app.credential",
        "webhooks.erp.concurrency",
        "mailboxes.alarm.fetch.every",
    }


def test_the_file_is_found_where_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--config wins over the environment, that over the working directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"looked for \$MAILBRIDGE_CONFIG") as caught:
        config.find(environ={})
    assert str(tmp_path / "mailbridge.yaml") in str(caught.value)
    assert "/etc/mailbridge/mailbridge.yaml" in str(caught.value)
    (tmp_path / "mailbridge.yaml").write_text(MINIMAL)
    assert config.find(environ={}) == Path("mailbridge.yaml")
    assert config.find(environ={"MAILBRIDGE_CONFIG": "/x/y.yaml"}) == Path("/x/y.yaml")
    assert config.find(Path("z.yaml"), environ={"MAILBRIDGE_CONFIG": "/x/y"}) == Path("z.yaml")


def leaves(schema: dict[str, object], node: dict[str, object], path: str) -> list[str]:
    """Return the paths of all keys below a node of the JSON Schema, as the reference has them."""
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    found: list[str] = []
    properties = node.get("properties", {})
    assert isinstance(properties, dict)
    for name, value in properties.items():
        options = [value, *value.get("anyOf", ())]
        references = [option["$ref"].rpartition("/")[2] for option in options if "$ref" in option]
        for reference in references:
            found += leaves(schema, definitions[reference], f"{path}{name}.")
        if not references:
            found.append(f"{path}{name}")
    return found


def test_every_key_is_documented() -> None:
    """The reference has a row for each key of each section, and no row for anything else."""
    schema = config.schema()
    expected = {
        "state": leaves(schema, schema["$defs"]["State"], ""),
        "http": leaves(schema, schema["$defs"]["Http"], ""),
        "apps.NAME": leaves(schema, schema["$defs"]["App"], ""),
        "mailboxes.NAME": leaves(schema, schema["$defs"]["Mailbox"], ""),
        "routes.NAME": leaves(schema, schema["$defs"]["Route"], ""),
        "webhooks.NAME": leaves(schema, schema["$defs"]["Webhook"], ""),
    }
    text = (EXAMPLE.parent / "docs" / "config.md").read_text(encoding="utf-8")
    for section, keys in expected.items():
        part = text.partition(f"## `{section}`\n")[2].partition("\n## ")[0]
        assert sorted(re.findall(r"^\| `([a-z_.]+)` \|", part, re.MULTILINE)) == sorted(keys)
