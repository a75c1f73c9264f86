"""Sealing: what one key closed opens only with that key, in its place, unchanged."""

from __future__ import annotations

import base64
import hmac
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.errors import PermanentError, StoreRefused
from mailbridge.store.sealing import FORMAT, NONCE_BYTES, Key, ring

KEY = Key(bytes(range(32)))
OTHER = Key(bytes(range(1, 33)))
PLAIN = b'{"refresh_token": "0.AVwA-canary-refresh-token"}'
NAME = KEY.name("alarm-app", "alarm@feuerwehr.example")
#: ``PLAIN`` under ``KEY`` and ``NAME``, as version 1 of the format wrote it
STORED = (
    "01191ba096c5a89d825567fabd2376209cc6a2171dd3af1feb5d2a715642b588b52191502c0f7b760fe7c9010f"
    "ee3583e4422be03da3f8ecf9cf5cce93b86e7fa16ad04354cee7cfa9489294a8"
)


@given(st.binary(max_size=200), st.text(), st.text())
def test_what_was_sealed_opens_again(plain: bytes, app: str, account: str) -> None:
    """Any content comes back byte for byte, under any name."""
    name = KEY.name(app, account)
    assert KEY.unseal(name, KEY.seal(name, plain)) == plain


def test_every_changed_bit_is_noticed() -> None:
    """Whichever bit of a sealed row changes, it does not open and shows nothing."""
    sealed = KEY.seal(NAME, PLAIN)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PermanentError) as refused:
            KEY.unseal(NAME, bytes(changed))
        assert refused.value.code == ("grant.format" if bit < 8 else "grant.damaged")


def test_a_cut_or_longer_row_is_noticed() -> None:
    """A row of which a part is missing, or to which something was added, does not open."""
    sealed = KEY.seal(NAME, PLAIN)
    for changed in [sealed[:length] for length in range(len(sealed))] + [sealed + b"\0"]:
        with pytest.raises(PermanentError):
            KEY.unseal(NAME, changed)


def test_a_row_opens_in_its_own_place_only() -> None:
    """A row copied over another's shows nothing to whoever asks for that one."""
    sealed = KEY.seal(NAME, PLAIN)
    with pytest.raises(PermanentError, match="changed after it was written"):
        KEY.unseal(KEY.name("alarm-app", "office@feuerwehr.example"), sealed)


def test_another_format_is_refused_by_its_number() -> None:
    """A row of an older or newer format is named as such, also if the rest would fit."""
    sealed = KEY.seal(NAME, PLAIN)
    for number in (0, FORMAT + 1, 255):
        with pytest.raises(PermanentError, match=f"format {number}, .* only {FORMAT}") as refused:
            KEY.unseal(NAME, bytes([number]) + sealed[1:])
        assert refused.value.code == "grant.format"


def test_the_format_is_bound_to_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a former format cannot be passed off as one of the present format."""
    monkeypatch.setattr("mailbridge.store.sealing.FORMAT", FORMAT + 1)
    newer = KEY.seal(NAME, PLAIN)
    monkeypatch.undo()
    with pytest.raises(PermanentError) as refused:
        KEY.unseal(NAME, bytes([FORMAT]) + newer[1:])
    assert refused.value.code == "grant.damaged"


def test_another_key_opens_nothing() -> None:
    """The key alone decides, not its check value or the name of the row."""
    with pytest.raises(PermanentError):
        OTHER.unseal(NAME, KEY.seal(NAME, PLAIN))


def test_no_nonce_comes_twice() -> None:
    """10,000 times the same content gives 10,000 nonces, and no two rows that are alike."""
    sealed = [KEY.seal(NAME, PLAIN) for _ in range(10_000)]
    assert len({row[1 : 1 + NONCE_BYTES] for row in sealed}) == 10_000
    assert len({row[1 + NONCE_BYTES :] for row in sealed}) == 10_000


def test_nothing_of_the_content_or_the_name_is_left() -> None:
    """Neither the row nor its name holds a piece of what went into them."""
    stored = KEY.seal(NAME, PLAIN) + NAME
    pieces = [PLAIN[at : at + 4] for at in range(len(PLAIN) - 3)]
    pieces += [b"alar", b"feue", b"exam"]
    assert [piece for piece in pieces if piece in stored] == []


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_names_differ_with_what_they_are_of(one: list[str], two: list[str]) -> None:
    """No two things share a name, however their parts are cut; under another key all differ."""
    assert (KEY.name(*one) == KEY.name(*two)) == (one == two)
    assert KEY.name(*one) != OTHER.name(*one)


def test_the_check_value_tells_keys_apart_and_is_stable() -> None:
    """It is what the database knows of the key, so it must never come out differently."""
    assert KEY.check == "8cc062efa8234604110d2532b549d0ba"
    assert KEY.name("a", "b").hex().startswith("87b73ab37370a1cc365b84347758ad61")
    assert KEY.fits(KEY.check)
    assert not KEY.fits(OTHER.check)
    assert not KEY.fits("")
    assert not KEY.fits("\ud800é")


def test_a_row_of_the_first_release_opens() -> None:
    """A row that was stored once opens for ever; this one is written down here."""
    assert KEY.unseal(NAME, bytes.fromhex(STORED)) == PLAIN


def test_the_parts_of_a_key_are_made_as_rfc_5869_says() -> None:
    """HKDF by hand, from the standard library alone, comes to the same check value."""
    extracted = hmac.digest(bytes(32), bytes(range(32)), "sha256")
    expanded = hmac.digest(extracted, b"mailbridge state key: check value", "sha256")
    assert KEY.check == expanded[:16].hex()


def test_a_key_shows_itself_nowhere() -> None:
    """Neither text of a key holds the key or anything that is derived from it but the check."""
    for text in (repr(KEY), str(KEY), f"{KEY}"):
        assert text == f"Key({KEY.fingerprint})"
    assert KEY.fingerprint == KEY.check[:8]


@pytest.mark.parametrize(
    "text", ["", "hunter2-secret", base64.b64encode(b"x" * 31).decode(), "é" * 44, "=" * 44]
)
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    """A key mistyped at a prompt is not repeated by the error, nor held by its frames' error."""
    with pytest.raises(StoreRefused, match="32 bytes of base64") as refused:
        ring([text])
    assert refused.value.code == "store.bad_key"
    assert refused.value.__context__ is None
    assert not text or text not in "".join(traceback.format_exception(refused.value))
