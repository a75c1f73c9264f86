"""Bearer tokens: guessing is slow, and slow only for whoever guesses."""

from __future__ import annotations

import asyncio

import pytest

from mailbridge.http import tokens as tokens_module
from mailbridge.http.problems import Refusal
from mailbridge.http.tokens import FREE, LONGEST_WAIT, PATIENCE, REMEMBERED, Tokens

TOKEN = "made-up-token-of-the-erp-system"


class Time:
    """A clock of seconds, and sleeps that let it go on at once; notes how long each was."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def tokens(time: Time) -> Tokens:
    return Tokens(
        {"erp": TOKEN, "dash": "another-made-up-token"}, clock=time.clock, sleep=time.sleep
    )


async def guess(tokens: Tokens, count: int, *, address: str = "192.0.2.1") -> list[int]:
    """Try wrong tokens one after the other; returns the statuses."""
    statuses = []
    for number in range(count):
        with pytest.raises(Refusal) as refused:
            await tokens.client(address, f"guess-{number}")
        statuses.append(refused.value.status)
    return statuses


async def test_a_good_token_never_waits(tokens: Tokens, time: Time) -> None:
    """Who has a token is named, however often it asks, and never slept for."""
    names = [await tokens.client("192.0.2.1", TOKEN) for _ in range(100)]
    assert set(names) == {"erp"}
    assert time.slept == []


async def test_guesses_wait_ever_longer(tokens: Tokens, time: Time) -> None:
    """The first wrong tokens of an address cost nothing, each further one twice as much."""
    statuses = await guess(tokens, FREE + 10)
    assert set(statuses) == {401}
    assert time.slept[:FREE] == [0.0] * FREE
    assert time.slept[FREE : FREE + 5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert time.slept[-1] == LONGEST_WAIT


async def test_guesses_at_the_same_time_stand_in_one_line(tokens: Tokens, time: Time) -> None:
    """Many connections guess no faster than one: beyond a few in line the answer is 429."""
    gate = asyncio.Event()

    async def standing(seconds: float) -> None:
        time.slept.append(seconds)
        await gate.wait()

    tokens._sleep = standing
    tries = [asyncio.create_task(tokens.client("192.0.2.1", f"guess-{n}")) for n in range(200)]
    for _ in range(3):
        await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(*tries, return_exceptions=True)
    statuses = [answer.status for answer in answers if isinstance(answer, Refusal)]
    assert len(statuses) == 200
    assert statuses.count(401) <= 10
    assert max(time.slept) <= PATIENCE
    late = next(
        answer for answer in answers if isinstance(answer, Refusal) and answer.status == 429
    )
    assert int(late.headers["retry-after"]) > 0


async def test_the_right_guess_waits_as_the_wrong_ones(tokens: Tokens, time: Time) -> None:
    """A line that is full is full for a right token too, else its end would tell which is right."""
    await guess(tokens, 12)
    before = len(time.slept)
    assert await tokens.client("192.0.2.1", TOKEN) == "erp"
    assert time.slept[before:] == [LONGEST_WAIT]


async def test_guesses_do_not_slow_a_client_behind_the_same_proxy(
    tokens: Tokens, time: Time
) -> None:
    """A client that was let in from an address before goes on at once, whoever guesses there."""
    await tokens.client("192.0.2.1", TOKEN)
    await guess(tokens, 20)
    before = len(time.slept)
    assert await tokens.client("192.0.2.1", TOKEN) == "erp"
    assert len(time.slept) == before
    # Another client of that address has not been let in yet: it might be a guess that is right.
    assert await tokens.client("192.0.2.1", "another-made-up-token") == "dash"
    assert len(time.slept) == before + 1


async def test_guesses_do_not_slow_other_addresses(tokens: Tokens, time: Time) -> None:
    """Every address has a line of its own; those of one IPv6 network share it."""
    await guess(tokens, 10, address="2001:db8::1")
    before = len(time.slept)
    assert await tokens.client("2001:db8:0:1::1", TOKEN) == "erp"
    assert await tokens.client("192.0.2.9", TOKEN) == "erp"
    assert len(time.slept) == before
    await tokens.client("2001:db8::ffff", TOKEN)
    assert len(time.slept) == before + 1


async def test_an_address_is_forgiven(tokens: Tokens, time: Time) -> None:
    """Some quiet minutes later, a typing error costs nothing again."""
    await guess(tokens, 10)
    time.now += 301.0
    before = len(time.slept)
    await guess(tokens, 1)
    assert time.slept[before:] == [0.0]


async def test_memory_is_bounded(
    tokens: Tokens, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many addresses guess, only so many are remembered, the latest of them."""
    monkeypatch.setattr(tokens_module, "REMEMBERED", 50)
    assert REMEMBERED <= 10_000
    for number in range(200):
        address = f"198.51.{number // 100}.{number % 100}"
        await guess(tokens, 1, address=address)
        await tokens.client(address, TOKEN)
    assert len(tokens._lines) == 50
    assert len(tokens._proven) == 50
    assert "198.51.1.99" in tokens._lines


def test_no_token_is_kept(tokens: Tokens) -> None:
    """Nothing that can be reached from the object holds a token, only hashes do."""
    held = repr([vars(tokens), tokens._hashes])
    assert TOKEN not in held
    assert {len(digest) for _, digest in tokens._hashes} == {32}
