"""What routes have read is not read again by the webhooks, and never stands for another mail."""

from __future__ import annotations

import hashlib

import pytest

from mailbridge.parse import lately as module
from mailbridge.parse import parse
from mailbridge.parse.lately import PATIENCE, Lately
from mailbridge.parse.parsed import ParsedMessage


def mail(number: int, size: int = 100) -> bytes:
    return f"Subject: mail {number}\r\n\r\n".encode() + b"x" * size


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Give the list of everything that is really parsed."""
    seen: list[bytes] = []

    def counted(raw: bytes) -> ParsedMessage:
        seen.append(raw)
        return parse(raw)

    monkeypatch.setattr(module, "parse", counted)
    return seen


def test_a_mail_is_parsed_once_for_its_routes_and_all_of_its_webhooks(parsed: list[bytes]) -> None:
    """Three readers of the same bytes cost one parse, and all see the same."""
    lately = Lately()
    first = lately.parse(mail(1))
    assert lately.again(bytes(mail(1)), digest(mail(1))) == first == parse(mail(1))
    assert lately.again(bytes(mail(1)), digest(mail(1))) == first
    assert parsed == [mail(1)]


def test_other_bytes_are_never_answered_with_a_kept_mail(parsed: list[bytes]) -> None:
    """A mail that was not read before is parsed from its own bytes."""
    lately = Lately()
    lately.parse(mail(1))
    assert lately.again(mail(2), digest(mail(2))).subject == "mail 2"
    assert parsed == [mail(1), mail(2)]


def test_the_room_is_kept_to_whatever_comes(parsed: list[bytes]) -> None:
    """Of a queue longer than the room, the oldest are found again; a mail larger is not kept."""
    lately = Lately(room=30_000)
    for number in range(10):
        lately.parse(mail(number, 4000))
    lately.parse(mail(99, 40_000))
    parsed.clear()
    for number in range(10):
        lately.again(mail(number, 4000), digest(mail(number, 4000)))
    lately.again(mail(99, 40_000), digest(mail(99, 40_000)))
    assert parsed == [*(mail(number, 4000) for number in range(3, 10)), mail(99, 40_000)]


def test_what_was_asked_for_makes_room_for_new_mails(parsed: list[bytes]) -> None:
    """In a steady stream every mail is found again, however small the room is."""
    lately = Lately(room=10_000)
    for number in range(50):
        lately.parse(mail(number))
        lately.again(mail(number), digest(mail(number)))
    assert len(parsed) == 50


def test_mails_that_nobody_asks_for_give_way_after_a_while(parsed: list[bytes]) -> None:
    """Held and dropped mails do not keep the room from those that are delivered."""
    moment = [0.0]
    lately = Lately(room=10_000, now=lambda: moment[0])
    for number in range(5):
        lately.parse(mail(number))
    moment[0] = PATIENCE + 1
    lately.parse(mail(7))
    parsed.clear()
    lately.again(mail(7), digest(mail(7)))
    assert parsed == []


def test_the_same_bytes_again_and_again_cost_no_room(parsed: list[bytes]) -> None:
    """One mail in many mailboxes leaves as much room for the others as it takes itself."""
    lately = Lately(room=10_000)
    for _ in range(10):
        lately.parse(mail(1))
        lately.again(mail(1), digest(mail(1)))
    for number in (2, 3):
        lately.parse(mail(number))
    parsed.clear()
    for number in (2, 3):
        lately.again(mail(number), digest(mail(number)))
    assert parsed == []
