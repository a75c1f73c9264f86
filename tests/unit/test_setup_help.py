"""`mailbridge setup`: the script has what a mailbox needs and nothing else, and nothing breaks out.

Every script is read by a parser of PowerShell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import tree_sitter_powershell
from hypothesis import example, given, strategies
from tree_sitter import Language, Node, Parser

from mailbridge.setup_help.needs import ROLES, SCOPES, Given, Needs
from mailbridge.setup_help.portal import pitfalls, portal_steps
from mailbridge.setup_help.powershell import comment, quoted
from mailbridge.setup_help.script import script

POWERSHELL = Parser(Language(tree_sitter_powershell.language()))
OBJECT = "aaaaaaaa-0000-4000-8000-000000000001"
#: what every script does: get the module, connect, show
ALWAYS = {
    *("Get-Module", "Install-Module", "Import-Module", "Connect-ExchangeOnline"),
    *("Set-CASMailbox", "Get-CASMailbox", "Format-List", "Write-Host"),
}
PRINCIPAL = {"Get-ServicePrincipal", "New-ServicePrincipal", "Remove-ServicePrincipal"}
FULL_ACCESS = {"Get-MailboxPermission", "Add-MailboxPermission", "Where-Object", "Out-Null"}
SEND_AS = {"Get-RecipientPermission", "Add-RecipientPermission", "Where-Object", "Out-Null"}
GRAPH = {"Connect-MgGraph", "Get-MgServicePrincipal"}
APP_ROLES = {
    "Get-MgServicePrincipalAppRoleAssignment",
    "New-MgServicePrincipalAppRoleAssignment",
}
SWITCHES = {
    "imap": "-ImapEnabled $true",
    "pop3": "-PopEnabled $true",
    "smtp": "-SmtpClientAuthenticationDisabled $false",
}


def needs(**more: Any) -> Needs:
    given: dict[str, Any] = {
        "name": "alarm",
        "address": "alarm@feuerwehr.example",
        "sign_in": "application",
        "protocols": ("imap",),
        "send_as": (),
        "app": "alarm-app",
        "client_id": "66666666-7777-8888-9999-000000000000",
        "tenant": "11111111-2222-3333-4444-555555555555",
        "cloud": "public",
        "credential": "client_secret",
        "given": Given(object_id=OBJECT),
        **more,
    }
    return Needs(**{"account": given["address"], **given})


def nodes(node: Node, kind: str) -> Iterator[Node]:
    if node.type == kind:
        yield node
    for child in node.children:
        yield from nodes(child, kind)


def parsed(text: str) -> Node:
    """Return the tree of a script; fails when it is none."""
    root = POWERSHELL.parse(text.encode()).root_node
    assert not root.has_error, text
    return root


def cmdlets(text: str) -> set[str]:
    return {(one.text or b"").decode() for one in nodes(parsed(text), "command_name")}


def literals(text: str) -> list[str]:
    found = nodes(parsed(text), "verbatim_string_characters")
    return [(one.text or b"").decode() for one in found]


def switches(text: str) -> set[str]:
    lines = [line for line in text.splitlines() if line.startswith("Set-CASMailbox")]
    return {
        f"{name} {value}" for line in lines for name, value in re.findall(r"(-\w+) (\$\w+)", line)
    } - {"-Identity $Mailbox", "-Identity $Account"}


GRID = list(
    product(("application", "delegated", "password"), ("imap", "pop3", None), (True, False))
)


@pytest.mark.parametrize(("sign_in", "fetch", "sends"), [one for one in GRID if one[1] or one[2]])
@pytest.mark.parametrize("language", ["en", "de"])
def test_a_script_has_exactly_the_cmdlets_that_its_mailbox_needs(
    sign_in: str,
    fetch: str | None,
    sends: bool,  # noqa: FBT001 - a parameter of the grid
    language: Any,
) -> None:
    """By sign-in and protocols: no right and no switch more, and each of them."""
    protocols = tuple(one for one in (fetch, "smtp" if sends else None) if one)
    wanted = needs(sign_in=sign_in, protocols=protocols)
    text = script(wanted, language)

    expected = set(ALWAYS)
    if sign_in == "application":
        expected |= PRINCIPAL | FULL_ACCESS
    if sends:
        expected |= {"Get-TransportConfig"}
    if sends and sign_in == "application":
        expected |= {"Test-ServicePrincipalAuthorization", "Format-Table"}
    assert cmdlets(text) == expected
    assert switches(text) == {SWITCHES[one] for one in protocols}
    table = ROLES if sign_in == "application" else SCOPES
    assert wanted.permissions == [table[one] for one in protocols]
    said = str(portal_steps(wanted, language))
    named = set(re.findall(r"\b(?:IMAP|POP|SMTP)\.\w+(?:\.All)?", said))
    assert named == set(wanted.permissions)


def test_sending_as_somebody_else_needs_the_right_for_each() -> None:
    """The mailbox's own address needs none; the rights are asked for before they are given."""
    text = script(
        needs(
            protocols=("imap", "smtp"),
            send_as=("Alarm@feuerwehr.example", "info@feuerwehr.example", "wehr@feuerwehr.example"),
        ),
        "en",
    )
    assert cmdlets(text) >= SEND_AS
    assert "foreach ($Sender in 'info@feuerwehr.example', 'wehr@feuerwehr.example') {" in text
    assert text.count("Get-RecipientPermission") == 3
    assert "Alarm@" not in text


def test_a_shared_mailbox_is_opened_to_the_person_who_signs_in() -> None:
    """FullAccess and SendAs for the person; SMTP is switched on where the person signs in."""
    shared = needs(
        sign_in="delegated", account="leiter@feuerwehr.example", protocols=("imap", "smtp")
    )
    text = script(shared, "en")
    expected = ALWAYS | FULL_ACCESS | SEND_AS | {"Get-TransportConfig"}
    assert cmdlets(text) == expected
    assert "$Account = 'leiter@feuerwehr.example'" in text
    assert "Set-CASMailbox -Identity $Mailbox -ImapEnabled $true\n" in text
    assert "Set-CASMailbox -Identity $Account -SmtpClientAuthenticationDisabled $false\n" in text
    assert "-User $Account -AccessRights FullAccess -AutoMapping $false" in text


def test_without_an_object_id_the_script_looks_it_up() -> None:
    """By the app id, as that of the enterprise application; Graph is asked before Exchange."""
    with_id, without = script(needs(), "en"), script(needs(given=Given()), "en")
    assert f"$ObjectId = '{OBJECT}'" in with_id
    assert not GRAPH & cmdlets(with_id)
    assert cmdlets(without) == cmdlets(with_id) | GRAPH
    assert without.index("Connect-MgGraph") < without.index("Connect-ExchangeOnline")
    assert OBJECT not in without


def test_a_managed_identity_gets_its_permissions_by_the_script() -> None:
    """The portal has no page for them, and there is no app registration to walk through."""
    wanted = needs(credential="managed_identity", protocols=("imap", "smtp"))
    text = script(wanted, "en")
    assert cmdlets(text) >= GRAPH | APP_ROLES
    assert "'IMAP.AccessAsApp', 'SMTP.SendAsApp'" in text
    titles = [step.title for step in portal_steps(wanted, "en")]
    assert titles == ["Managed identity", "Exchange Online", "Try it"]


@pytest.mark.parametrize(
    ("cloud", "exchange", "graph"),
    [
        ("public", None, None),
        ("usgov", "O365USGovGCCHigh", "USGov"),
        ("usgov-dod", "O365USGovDoD", "USGovDoD"),
        ("china", "O365China", "China"),
    ],
)
def test_national_clouds_are_connected_to_by_name(
    cloud: str, exchange: str | None, graph: str | None
) -> None:
    """-ExchangeEnvironmentName and -Environment for those, and nothing for the public one."""
    text = script(needs(cloud=cloud, given=Given()), "en")
    parsed(text)
    assert re.findall(r"-ExchangeEnvironmentName (\S+)", text) == ([exchange] if exchange else [])
    assert re.findall(r"-Environment (\S+)", text) == ([graph] if graph else [])


HOSTILE = [
    "o'neil@feuerwehr.example",
    "o\u2019neil@feuerwehr.example",
    "a\u2018b\u201ac\u201bd@feuerwehr.example",
    "x'; Remove-Mailbox -Identity y; '@feuerwehr.example",
    "$(Get-Process)@feuerwehr.example",
    '`"@feuerwehr.example',
    "#>@feuerwehr.example",
]


@pytest.mark.parametrize("address", HOSTILE)
@pytest.mark.parametrize("sign_in", ["application", "delegated"])
def test_no_address_breaks_out_of_its_quotes(address: str, sign_in: str) -> None:
    """Quotes of every kind that PowerShell takes for one are doubled; the script stays the same."""
    more = {"protocols": ("imap", "smtp"), "sign_in": sign_in}
    plain = needs(account="b@x.example", address="a@x.example", send_as=("c@x.example",), **more)
    nasty = needs(account=address, address="a@x.example", send_as=(address + "x",), **more)
    both = needs(account="b@x.example", address=address, send_as=("c@x.example",), **more)
    for wanted in (nasty, both):
        text = script(wanted, "en")
        code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        assert cmdlets(text) == cmdlets(script(plain, "en"))
        assert len(literals(text)) == len(literals(script(plain, "en")))
        assert (
            code.count("\n")
            == sum(not line.startswith("#") for line in script(plain, "en").splitlines()) - 1
        )


@given(strategies.text())
@example("'")
@example("\u2019\u2019")
@example("a\nb")
def test_a_text_stays_a_text(text: str) -> None:
    """Whatever is quoted is one literal with nothing behind it; control characters are refused."""
    try:
        literal = quoted(text)
    except ValueError:
        assert re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", text)
        return
    inside = literal[1:-1]
    assert literal[0] == literal[-1] == "'"
    assert re.sub("(['\u2018\u2019\u201a\u201b])\\1", r"\1", inside) == text
    assert not re.search(
        "['\u2018\u2019\u201a\u201b]", re.sub("(['\u2018\u2019\u201a\u201b])\\1", "", inside)
    )


@given(strategies.text())
def test_a_comment_stays_on_its_line(text: str) -> None:
    """What is told in a comment can be no code."""
    assert len(comment(text).splitlines()) == 1


@pytest.mark.parametrize("language", ["en", "de"])
def test_what_goes_wrong_most_is_told_to_those_whom_it_concerns(language: Any) -> None:
    """Object id and consent for apps, security defaults for people, SMTP AUTH for senders."""
    app = " ".join(pitfalls(needs(protocols=("imap", "smtp")), language))
    person = " ".join(pitfalls(needs(sign_in="delegated"), language))
    assert ("New-ServicePrincipal" in app, "New-ServicePrincipal" in person) == (True, False)
    assert ("5.7.139" in app, "5.7.139" in person) == (True, False)
    assert "mailbridge login" in person
    assert ("Sicherheitsstandards" if language == "de" else "Security defaults") in person


def test_every_redirect_and_consent_link_is_in_the_steps() -> None:
    """To the letter: Entra compares them so."""
    given = Given(
        consent_links=["https://login.example/x?y=1"],
        web_redirects=["https://mailbridge.example/oauth/callback"],
        desktop_redirects=["http://localhost"],
    )
    lines = [
        line
        for step in portal_steps(needs(sign_in="delegated", credential="", given=given), "en")
        for line in step.lines
    ]
    text = "\n".join(lines)
    assert "Web: https://mailbridge.example/oauth/callback" in text
    assert "Mobile and desktop applications: http://localhost" in text
    assert "https://login.example/x?y=1" in text
    assert "Allow public client flows" in text
    assert "Certificates & secrets" not in text
