"""What the store itself reads of a mail: its Message-ID, from any bytes whatever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailbridge.store.scan import LONGEST, SCANNED, message_id, storable


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"Message-ID: <a@b>\r\n\r\n", "<a@b>"),
        (b"From: x\nMESSAGE-id \t:  <a@b>\n\nbody", "<a@b>"),
        (b"Message-ID:\r\n <a\r\n\t@b>\r\nTo: x\r\n\r\n", "<a@b>"),
        (b"Message-ID: (note) <a@b> trailing\r\n\r\n", "<a@b>"),
        (b"Message-ID: a@b\r\n\r\n", "a@b"),
        (b"Message-ID: <a@b>\r\nMessage-ID: <c@d>\r\n\r\n", "<a@b>"),
        (b"Message-ID: <\x00\xff@b>\r\n\r\n", "<\\x00\ufffd@b>"),
        (b"Message-ID: <a@b>", "<a@b>"),
        (b"Message-ID:\r\n\r\n", None),
        (b"X-Message-ID: <a@b>\r\n\r\n", None),
        (b"From: x\r\n\r\nMessage-ID: <a@b>\r\n", None),
        (b"\r\nMessage-ID: <a@b>\r\n\r\n", None),
        (b"", None),
    ],
)
def test_the_message_id_of_a_header_block(raw: bytes, found: str | None) -> None:
    """Folded, oddly written, repeated, broken or in the body: found where it is one."""
    assert message_id(raw) == found


def test_a_message_id_is_bounded_in_length_and_in_search() -> None:
    """A header of megabytes costs a bounded search and fills no column."""
    assert message_id(b"Message-ID: <" + b"a" * 10**6) == "<" + "a" * (LONGEST - 1)
    assert message_id(b"X: " + b"y" * SCANNED + b"\r\nMessage-ID: <a@b>\r\n\r\n") is None


@given(st.binary(max_size=2_000), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_storable_answer(noise: bytes, value: bytes) -> None:
    """Whatever a stranger sends, nothing is raised and the answer fits into a text column."""
    for raw in (noise, b"Message-ID:" + value + b"\r\n" + noise):
        found = message_id(raw)
        if found is not None:
            assert 0 < len(found) <= LONGEST
            assert b"\x00" not in found.encode("utf-8")


@given(st.text(st.characters(exclude_categories=[])), st.text(st.characters(exclude_categories=[])))
@settings(max_examples=300, deadline=None)
def test_storable_texts_are_storable(one: str, other: str) -> None:
    """Every text becomes one that UTF-8 and PostgreSQL take; ordinary text is left alone."""
    assert "\x00" not in storable(one)
    storable(one).encode("utf-8")
    if "\x00" not in other and not any(0xD800 <= ord(char) <= 0xDFFF for char in other):
        assert storable(other) == other
