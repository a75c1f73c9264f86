"""The catalogue's entries of mail, networks and delivery: complete, bilingual, and true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from mailbridge.catalogue import base, lookup
from mailbridge.catalogue.base import Entry, Ids, Language, Text
from mailbridge.catalogue.lookup import CATALOGUE, explain, filled
from mailbridge.diagnose.own import OWN
from mailbridge.sinks.smtp_replies import Phase, Reply
from mailbridge.sinks.smtp_rules import judge
from mailbridge.sources import imap_errors, pop3_errors
from scripts import troubleshooting

ROOT: Final = Path(base.__file__).parents[1]
#: what the daemon raises to an operator is raised here
ADAPTERS: Final = ("sources", "sinks", "proxy", "diagnose", "store")
FIELDS: Final = (
    r"(imap|pop3|smtp|dns|tcp|tls|proxy|webhook|store|grant|send|probe|template|control)(\.|$)"
    r"|secret|config|overdue|internal|format|attachments"
)
LANGUAGES: Final[tuple[Language, ...]] = ("en", "de")
IDS: Final = Ids(
    mailbox="alarm",
    address="alarm@feuerwehr.example",
    account="anna@feuerwehr.example",
    app="alarm-app",
    tenant="T-1",
    client_id="C-1",
    object_id="O-1",
    server="outlook.office365.com:993",
    login="mailbridge login alarm",
)
#: not raised to an operator: raised and caught within mailbridge
INSIDE: Final = frozenset({"send.claim_lost"})

MINE: Final = {code: entry for code, entry in CATALOGUE.items() if re.match(FIELDS, code)}


def codes() -> Iterator[str]:
    """Yield each literal code that an adapter gives to an error."""
    for folder in ADAPTERS:
        for file in sorted((ROOT / folder).glob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.keyword) and node.arg == "code":
                    for leaf in ast.walk(node.value):
                        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                            yield leaf.value


def test_whatever_an_adapter_raises_is_explained() -> None:
    """No operator meets a code that says nothing but what a server said."""
    raised = {code for code in codes() if re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_.]+", code)}
    phased = {f"webhook.{phase}" for phase in ("dns", "connect", "tls")}
    assert len(raised) > 60
    assert (raised | phased) - CATALOGUE.keys() - OWN.keys() - INSIDE == set()


@pytest.mark.parametrize("protocol", ["imap", "pop3", "smtp"])
def test_what_is_made_of_a_protocol_and_a_word_is_explained(protocol: str) -> None:
    """Some codes are put together, and so escape who looks for them in the source."""
    made = {"dns", "timeout", "tls", "connection", "no_greeting", "wrong_port", "eof", "protocol"}
    assert {f"{protocol}.{name}" for name in made} <= CATALOGUE.keys()


@pytest.mark.parametrize("sign_in", ["application", "delegated"])
def test_each_entry_is_whole_in_both_languages(sign_in: str) -> None:
    """Nothing is left to fill in, and no German is English."""
    ids = Ids(**{**{name: getattr(IDS, name) for name in Ids.__slots__}, "sign_in": sign_in})
    wrong = []
    for code, entry in MINE.items():
        told = [explain(code, ids, language) for language in LANGUAGES]
        whole = all(cause and fix for cause, fix in told)
        holes = re.search(r"\$(?!true|false)|<[a-zA-Z]", str(told))
        same = told[0][0] == told[1][0] or (
            told[0][1] == told[1][1] and "pip install" not in told[0][1]
        )
        if not whole or holes or same or entry.cause.en[0] == " ":
            wrong.append(code)
    assert wrong == []


def test_an_id_that_nobody_knows_is_named_in_its_language() -> None:
    """A command that cannot be completed says what is to be put there."""
    for language, wanted in (("en", "<object id of the"), ("de", "<Objekt-ID der")):
        assert wanted in explain("imap.not_connected", Ids(), language)[1]  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [c for c, e in MINE.items() if "-User $object_id" in e.fix.en])
def test_a_person_is_not_told_of_the_apps_permission(code: str) -> None:
    """Where a person signs in, the permission is the person's and not the service principal's."""
    person = Ids(
        address="box@b.example", account="anna@b.example", object_id="O-1", sign_in="delegated"
    )
    for language in LANGUAGES:
        _, fix = explain(code, person, language)
        assert "ServicePrincipal" not in fix
        assert "O-1" not in fix


def test_who_signs_in_for_the_own_mailbox_is_named_by_its_address() -> None:
    """Without another account and another sender it is the mailbox itself."""
    assert filled("$account $sender", Ids(address="a@b.example"), "en") == "a@b.example a@b.example"


def test_a_fix_that_names_what_only_the_error_knows_goes_first() -> None:
    """The folders that there are, or where a proxy was configured: in English it is kept."""
    own = "Write one of these to `fetch.folders`: INBOX."
    assert explain("imap.folder_missing", IDS, "en", fix=own)[1] == own
    assert "INBOX" in explain("imap.folder_missing", IDS, "de", fix=own)[1]
    assert explain("imap.folder_missing", IDS, "de", fix=own)[1] != own
    assert explain("imap.not_connected", IDS, "en", fix=own)[1] != own


def test_an_unknown_code_is_told_in_the_servers_words() -> None:
    """Whatever was said is shown as it is: a dollar sign in it is no id."""
    assert explain("x.new", IDS, "de", said="costs $5", fix="pay $10") == ("costs $5", "pay $10")


def test_two_entries_of_one_code_are_refused() -> None:
    """A code that is written down twice would be told by chance."""
    text = Text(en="a", de="b")
    twice = [Entry(code="x.y", kind="bug", cause=text, fix=text)] * 2
    with pytest.raises(ValueError, match=r"x\.y"):
        lookup._collected([twice])


def _replies() -> Iterator[tuple[str, str]]:
    for code, entry in MINE.items():
        for words in entry.seen:
            if re.match(r"[245]\d\d \d?\.?", words) and code.startswith("smtp."):
                yield code, words


@pytest.mark.parametrize(("code", "words"), list(_replies()))
def test_the_words_of_an_entry_lead_to_it(code: str, words: str) -> None:
    """What the page lists as seen is what the rules of SMTP recognise."""
    status, _, text = words.partition(" ")
    phases: tuple[Phase, ...] = ("mail", "recipient", "data")
    found = {judge(Reply(code=int(status), text=text), phase).code for phase in phases}
    assert found == {code}


@pytest.mark.parametrize(
    ("code", "words"),
    [(c, w) for c, e in MINE.items() for w in e.seen if re.match(r"(NO|BAD|\* BYE) \S+ [^(]*$", w)],
)
def test_the_words_of_imap_lead_to_their_entry(code: str, words: str) -> None:
    """The same of IMAP's; a refused sign-in is known by when it was refused."""
    text = re.sub(r"^(NO|BAD|\* BYE) ", "", words)
    failure = imap_errors._lost(text, "look") if "BYE" in words else None
    failure = failure or imap_errors.answer_error(text, "look")
    if "AUTHENTICATE failed" in words or "NOPERM" in words or "NONEXISTENT" in words:
        assert failure.code == "imap.refused"
    else:
        assert failure.code.partition(".")[2] == code.partition(".")[2]


def test_the_words_of_pop3_lead_to_their_entry() -> None:
    """The same of POP3's, as far as the words alone decide."""
    known = {
        "Command is not valid in this state.": "pop3.wrong_state",
        "Protocol error. 19": "pop3.wrong_port",
        "BYE Connection refused": "pop3.too_many_sessions",
        "Connection is closed. 13": "pop3.server_closed",
        "Server Unavailable. 15": "pop3.server_unavailable",
        "[LOGIN-DELAY] 30 s": "pop3.throttled",
    }
    assert {text: pop3_errors.answer_error(text, "look").code for text in known} == known


def test_the_rules_of_smtp_name_the_person_who_signs_in() -> None:
    """What a delegate lacks is given to the delegate, as the log says it."""
    reply = Reply(code=550, text="5.7.60 SMTP; no")
    found = judge(
        reply, "mail", mailbox="box@b.example", sender="x@b.example", account="anna@b.example"
    )
    assert "Add-RecipientPermission x@b.example -Trustee anna@b.example" in found.fix


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_is_what_the_catalogue_says(language: Language) -> None:
    """Nobody reads a page that is older than the program."""
    page = Path(__file__).parents[2] / troubleshooting.PAGES[language]
    assert page.read_text(encoding="utf-8") == troubleshooting.page(language), (
        "Fix: python -m scripts.troubleshooting"
    )


def test_the_page_has_every_code_once() -> None:
    """A code is found by its heading, and links to it stay good."""
    for language in LANGUAGES:
        headings = re.findall(r"^### (.*)$", troubleshooting.page(language), re.MULTILINE)
        assert sorted(headings) == sorted({*CATALOGUE, *OWN})
        anchors = [troubleshooting.anchor(code) for code in headings]
        assert len(set(anchors)) == len(anchors)
