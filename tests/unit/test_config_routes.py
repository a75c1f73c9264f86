"""What people get wrong when they write routes, and what they are warned of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml

from mailbridge import config
from mailbridge.route.base import AddressPattern, HtmlTableField, RegexField, XPathField

BASE = r"""
apps:
  main: {tenant: feuerwehr.example, client_id: 66666666-7777-8888-9999-000000000000}
mailboxes:
  alarm:
    address: alarm@feuerwehr.example
    app: main
    sign_in: delegated
    routes: [alarm, archive]
routes:
  alarm:
    match:
      from: ["*@ils.example", {regex: 'x@y\.example'}]
      to: alarm@feuerwehr.example
      subject: '(?i)einsatz|alarm'
      headers: {X-Kind: '^alarm'}
      attachment: ['*.xml']
      has_attachment: null
    require: {authenticated: true, max_age: 15m, not_duplicate_within: 5m}
    otherwise: hold
    extract:
      keyword: {regex: 'Stichwort:\s*(?P<value>.+)'}
      fields: {key_values: ':'}
      number: {xpath: '//Einsatznummer/text()', attachment: '*.xml'}
      place: {html_table: Ort}
      table: {html_table: true}
      first: {regex: '^(\w+)', in: subject}
    webhooks: [divera]
    stop: true
  archive:
    webhooks: erp
webhooks:
  divera: {url: https://divera.example/alarm, profile: alarm}
  erp: {url: https://erp.example/hook}
state: {key: {env: KEY}}
"""
CANARY = "Zk9~canary.Qq7"
ENVIRON = {"KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}

Read = Callable[[str], config.Checked]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_check(text: str) -> config.Checked:
        path = tmp_path / "mailbridge.yaml"
        path.write_text(text, encoding="utf-8")
        return config.check(path, environ=ENVIRON)

    return write_and_check


def test_routes_are_read_as_they_are_written(read: Read) -> None:
    """Every key of a route arrives where it is used, in the order of the file."""
    checked = read(BASE)
    assert (checked.problems, checked.warnings) == ([], [])
    assert checked.config is not None
    assert checked.config.mailboxes["alarm"].routes == ("alarm", "archive")
    spec = checked.config.routes["alarm"].spec("alarm")
    assert spec.name == "alarm"
    assert spec.match.from_ == (
        AddressPattern(glob="*@ils.example"),
        AddressPattern(regex=r"x@y\.example"),
    )
    assert spec.match.to == (AddressPattern(glob="alarm@feuerwehr.example"),)
    assert spec.match.subject == "(?i)einsatz|alarm"
    assert spec.match.headers == {"X-Kind": "^alarm"}
    assert spec.match.attachment == ("*.xml",)
    assert spec.match.has_attachment is None
    assert spec.require.authenticated
    assert spec.require.max_age == timedelta(minutes=15)
    assert spec.require.not_duplicate_within == timedelta(minutes=5)
    assert list(spec.extract) == ["keyword", "fields", "number", "place", "table", "first"]
    assert spec.extract["number"] == XPathField(xpath="//Einsatznummer/text()", attachment="*.xml")
    assert spec.extract["place"] == HtmlTableField(label="Ort")
    assert spec.extract["table"] == HtmlTableField()
    assert spec.extract["first"] == RegexField(regex=r"^(\w+)", place="subject")
    assert (spec.otherwise, spec.webhooks, spec.stop) == ("hold", ("divera",), True)
    assert checked.config.routes["archive"].webhooks == ("erp",)
    assert checked.config.routes["archive"].match.is_empty
    assert not checked.config.routes["alarm"].match.is_empty


def test_a_mailbox_without_routes_has_none(read: Read) -> None:
    """Leaving the line out is told apart from naming routes."""
    checked = read(BASE.replace("    routes: [alarm, archive]\n", ""))
    assert checked.config is not None
    assert checked.config.mailboxes["alarm"].routes is None


def test_what_check_takes_the_schema_takes() -> None:
    """An editor with the JSON Schema has nothing against a file that is right."""
    document = yaml.safe_load(BASE)
    jsonschema.Draft202012Validator(config.schema()).validate(document)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("match:\n      from:", "match:\n      form:"),
        ("otherwise: hold", "otherwise: keep"),
        ("has_attachment: null", "has_attachment: 3"),
        ("from: [", "from: [x, "),
        ("{key_values: ':'}", "{key_values: ':', in: text}"),
    ],
)
def test_what_the_schema_refuses_check_refuses(read: Read, old: str, new: str) -> None:
    """An editor marks what the daemon would refuse."""
    assert BASE.count(old) == 1
    text = BASE.replace(old, new)
    assert read(text).problems
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(config.schema()).validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("old", "new", "path", "says", "fix"),
    [
        ("[alarm, archive]", "[alram]", "mailboxes.alarm.routes[0]", "no route", "`alarm`?"),
        ("[alarm, archive]", "[alarm, alarm]", "mailboxes.alarm.routes[1]", "twice", "once"),
        ("[divera]", "[erp, dievra]", "routes.alarm.webhooks[1]", "no webhook", "`divera`?"),
        ("webhooks: erp", "require: {}", "routes.archive.webhooks", "missing", "webhooks: [NAME]"),
        ("      from: [", "      form: [", "routes.alarm.match.form", "not known", "`from`?"),
        (
            "    otherwise: hold",
            "    from: [a@b.example]",
            "routes.alarm.from",
            "not known here",
            "`match:`",
        ),
        ('"*@ils.example"', "ils.example", "routes.alarm.match.from[0]", "no @", "*@ils.example"),
        ('"*@ils.example"', "a@b@c", "routes.alarm.match.from[0]", "one address", "each item"),
        (
            '"*@ils.example"',
            '"ILS <a@b.example>"',
            "routes.alarm.match.from[0]",
            "pattern of one address",
            "without name",
        ),
        (
            '"*@ils.example"',
            '"[ab]@ils.example"',
            "routes.alarm.match.from[0]",
            "mean nothing",
            "only * and ?",
        ),
        (
            "(?i)einsatz|alarm",
            f"{CANARY}(?=x)",
            "routes.alarm.match.subject",
            "at character 15 stands look-ahead",
            "RE2",
        ),
        (
            "(?i)einsatz|alarm",
            r"(a)\1",
            "routes.alarm.match.subject",
            "character 4 stands a backref",
            "RE2",
        ),
        (
            "(?i)einsatz|alarm",
            "xx(a",
            "routes.alarm.match.subject",
            "not closed at character 3",
            "Syntax",
        ),
        (
            "(?i)einsatz|alarm",
            "((a{100}){100}){100}",
            "routes.alarm.match.subject",
            "above 1000",
            "Syntax",
        ),
        ("'(?i)einsatz|alarm'", "''", "routes.alarm.match.subject", "empty", "remove"),
        (
            r"x@y\.example",
            "x[",
            "routes.alarm.match.from[1].regex",
            "not closed at character 2",
            "Syntax",
        ),
        ("'^alarm'", "'^ala('", "routes.alarm.match.headers.X-Kind", "not closed", "Syntax"),
        ("X-Kind:", "'X Kind':", "routes.alarm.match.headers.(unreadable key)", "name", "blanks"),
        (
            "['*.xml']",
            "['in/*.xml']",
            "routes.alarm.match.attachment[0]",
            "no folders",
            "name alone",
        ),
        ("max_age: 15m", "max_age: 15", "routes.alarm.require.max_age", "not a duration", "90s"),
        ("max_age: 15m", "max_age: 60d", "routes.alarm.require.max_age", "outside", "within"),
        ("otherwise: hold", "otherwise: keep", "routes.alarm.otherwise", "none of", "hold"),
        ("{key_values: ':'}", "{keyvalues: ':'}", "routes.alarm.extract.fields", "how", "{regex"),
        (
            "{key_values: ':'}",
            "{key_values: ':', in: html}",
            "routes.alarm.extract.fields.in",
            "not known",
            "attachment, key_values",
        ),
        (
            "//Einsatznummer/text()",
            "//[",
            "routes.alarm.extract.number.xpath",
            "XPath",
            "//Einsatz",
        ),
        ("in: subject", "in: body", "routes.alarm.extract.first.in", "no part", "attachment"),
        ("keyword:", "'key word':", "routes.alarm.extract.(unreadable key)", "name of a field", ""),
    ],
)
def test_a_mistake_is_named_with_line_key_and_fix(  # noqa: PLR0913, PLR0917 - the table's columns
    read: Read, old: str, new: str, path: str, says: str, fix: str
) -> None:
    """Each mistake has its own line, key path, message and fix, and no value is repeated."""
    assert BASE.count(old) == 1
    text = BASE.replace(old, new)
    found = [problem for problem in read(text).problems if problem.path == path]
    assert len(found) == 1, read(text).problems
    assert says in found[0].message
    assert fix in found[0].fix
    line = next(at for at, row in enumerate(text.splitlines(), 1) if new in row or new == row)
    assert found[0].line in {line, line - 1}
    assert CANARY not in str(found[0])


def test_all_mistakes_of_a_route_are_told_at_once(read: Read) -> None:
    """Nobody mends a route once per fault."""
    text = (
        BASE.replace("(?i)einsatz|alarm", "a(")
        .replace('"*@ils.example"', "ils")
        .replace(r"'^(\w+)'", r"'^(\w+'")
        .replace("{html_table: Ort}", "{table: Ort}")
        .replace("max_age: 15m", "max_age: x")
    )
    assert [problem.path for problem in read(text).problems] == [
        "routes.alarm.match.from[0]",
        "routes.alarm.match.subject",
        "routes.alarm.require.max_age",
        "routes.alarm.extract.place",
        "routes.alarm.extract.first.regex",
    ]


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ("[alarm, archive]", "[alarm]", "routes.archive", "no mailbox uses"),
        ("[alarm, archive]", "[alarm]", "webhooks.erp", ""),
        ("webhooks: erp", "webhooks: divera", "webhooks.erp", "it gets no mail"),
        ("[alarm, archive]", "[archive, alarm]", "mailboxes.alarm.routes[1]", "takes every mail"),
        (
            "    require: {authenticated: true, max_age: 15m, not_duplicate_within: 5m}\n",
            "",
            "routes.alarm.otherwise",
            "never applies",
        ),
        ("authenticated: true, ", "", "routes.alarm", "anybody can write any address"),
        ("[divera]", "[divera, erp]", "", ""),
        (
            "*@ils.example",
            "*@*ils.example",
            "routes.alarm.match.from[0]",
            "begins with * and no dot",
        ),
        ("*@ils.example", "*@ils.*", "routes.alarm.match.from[0]", "ends with a wildcard"),
        ("*@ils.example", "*@*.ils.example", "", ""),
        (
            "      from: [\"*@ils.example\", {regex: 'x@y\\.example'}]\n",
            "",
            "routes.alarm.require.authenticated",
            "whose mail is wanted",
        ),
        (
            "X-Kind:",
            "Authentication-Results:",
            "routes.alarm.match.headers.Authentication-Results",
            "what he likes",
        ),
        (
            "profile: alarm}",
            "profile: alarm, events: [delivery.dead]}",
            "routes.alarm.webhooks[0]",
            "all the same",
        ),
    ],
)
def test_what_is_hardly_meant_is_warned_of(
    read: Read, old: str, new: str, path: str, says: str
) -> None:
    """What works, and may wake people for a forged mail or reach nobody, is said."""
    assert BASE.count(old) == 1
    text = BASE.replace(old, new)
    if new == "[archive, alarm]":
        text = text.replace("webhooks: erp", "webhooks: erp\n    stop: true")
    checked = read(text)
    assert checked.problems == []
    warnings = {warning.path: warning.message for warning in checked.warnings}
    if says:
        assert says in warnings[path]
    else:
        assert path not in warnings
        assert path or not warnings
