"""The words of the mail log: complete in both languages, and never in the way of a fact."""

from __future__ import annotations

import string
from typing import get_args

import pytest

from mailbridge.cli import mail_log
from mailbridge.cli.words import WORDS, Language, language, reason, word
from mailbridge.http.models import ShownState


def _places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_every_key_and_the_same_facts() -> None:
    """Nobody gets a hole or half of the facts for speaking German."""
    assert set(get_args(Language)) == set(WORDS)
    english, german = WORDS["en"], WORDS["de"]
    assert english.keys() == german.keys()
    for key, text in english.items():
        assert text, key
        assert german[key], key
        assert _places(text) == _places(german[key]), key


def test_every_state_has_its_word() -> None:
    """Whatever state a message or a delivery is in, there is a word for it in both languages."""
    states = {*get_args(mail_log.MessageState), *get_args(ShownState)}
    for lang in WORDS:
        names = [word(lang, state) for state in states]
        assert len(set(names)) == len(states)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "de"),
        ({"LANG": "de"}, "de"),
        ({"LANG": "de_AT@euro", "LC_ALL": ""}, "de"),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "en_GB.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "de_CH.UTF-8", "LC_MESSAGES": "C"}, "de"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "den_CA"}, "en"),
    ],
)
def test_the_language_is_that_of_the_environment(environ: dict[str, str], wanted: str) -> None:
    """As other programs do: LC_ALL, then LC_MESSAGES, then LANG; all but German is English."""
    assert language(environ) == wanted


@pytest.mark.parametrize(
    ("stored", "german"),
    [
        ("matches, authenticated, young enough", "passt, echt, jung genug"),
        ("matches; the route has no webhook", "passt; die Route hat keinen Webhook"),
        ("duplicate of msg_A 12 s before", "Duplikat von msg_A, 12 s danach"),
        (
            "routing failed; too old: received 20m ago, and max_age is 15m",
            "das Befragen der Routen misslang; zu alt: vor 20m empfangen, und max_age ist 15m",
        ),
        (
            "subject: the regex finds nothing in «Alarm; a, b»",
            "subject: der reguläre Ausdruck findet nichts in «Alarm; a, b»",
        ),
        ("HTTP 503", "HTTP 503"),
        ("rejected at attempt 3: HTTP 422", "beim 3. Versuch abgelehnt: HTTP 422"),
    ],
)
def test_our_own_reasons_are_told_in_german(stored: str, german: str) -> None:
    """Why a mail was held is understood by who has to decide; others' words stay theirs."""
    assert reason("de", stored) == german
    assert reason("en", stored) == stored
