"""The depth of JSON is bounded before anybody parses it, at a cost that grows with its length."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mailbridge.http.bodies import DEPTH, shallow

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"]}" * (depth // 2)


@given(JSON)
def test_what_people_send_is_shallow(value: object) -> None:
    """Any JSON of ordinary depth passes, whatever brackets and quotes stand in its strings."""
    assert shallow(json.dumps(value).encode())
    assert shallow(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def test_depth_is_bounded() -> None:
    """Exactly ``DEPTH`` levels pass, one more does not, in lists and objects alike."""
    assert shallow(nested(DEPTH))
    assert not shallow(nested(DEPTH + 2))
    assert shallow(b"[" * DEPTH + b"]" * DEPTH)
    assert not shallow(b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1))
    assert not shallow(b"[" * 500_000)


def test_brackets_in_strings_do_not_count() -> None:
    """A text of brackets, with quotes and backslashes in it, is a text."""
    text = "[{" * 1000 + '"\\' * 10
    assert shallow(json.dumps({"text": text}).encode())


def test_strings_without_an_end_cost_no_more() -> None:
    """A mebibyte of escaped quotes that never ends is gone through once, not once for each."""
    import re

    from mailbridge.http import bodies

    # The pattern matches wherever a string begins, so that no start is tried twice.
    for hostile in (b'"' + b'\\"' * 500_000, b'"' + b'\\"' * 500_000 + b"\\", b'"' * 100_001):
        matches = list(re.finditer(bodies._STRING, hostile))
        assert sum(len(match[0]) for match in matches) == len(hostile)
        assert shallow(b"[]" * DEPTH + hostile)


def test_parts_are_bounded() -> None:
    """As many lists and strings as a large request has pass, a body that is nothing else does not.

    Each costs time in which nothing else runs, and memory many times its length.
    """
    assert shallow(b"[" + b'[],{"a":"b"},' * 40_000 + b"1]")
    assert not shallow(b"[" + b"[]," * 110_000 + b"1]")
    assert not shallow(b"[" * 40 + b"]" * 40 + b'"",' * 210_000)
