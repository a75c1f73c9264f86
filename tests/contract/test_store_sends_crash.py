"""Deaths while a mail is handed over: nothing is lost, and nobody who has it gets it again.

The points are those of the design's table: O1 before a mail is accepted, O2 before that is
answered, O3 before the doubt is noted, O4 and O5 at the dot, O6 after the answer, O7 after an
answer for some; O8, a token that lapses, is no death and stands with the outcomes.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailbridge.errors import PermanentError, TemporaryError
from mailbridge.model import Delivery, Recipient
from mailbridge.store.store import Store
from mailbridge.store.tables import utc_now
from tests.conftest import Clock
from tests.contract.conftest import OpenStore
from tests.contract.mails import claim
from tests.contract.sendings import (
    SINK,
    TWO,
    again,
    keyed,
    open_to,
    outgoing,
    over,
    states,
    status,
    told,
    unwanted,
    well,
)
from tests.contract.sends_victim import Victims

A, B = TWO


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    """Give processes that die where they are told to."""
    with Victims.started() as started:
        yield started


async def found(store: Store) -> Delivery:
    """Claim the mail that a process left behind, as soon as its claim is over."""
    async with asyncio.timeout(30):
        while not (taken := await claim(store, SINK)):
            await store.rescue()
            await asyncio.sleep(0.05)
    (one,) = taken
    return one


async def test_o1_a_mail_that_was_not_committed_is_not_there(
    victims: Victims, url: str, open_store: OpenStore
) -> None:
    """The client saw no answer and asks again under its key: that makes the one mail."""
    await asyncio.to_thread(victims.die, url, "before it is accepted")
    store = await open_store(url, now=utc_now)
    assert await store.sends.status("out_1") is None
    assert not (await store.sends.accept(keyed(2, "k"))).known
    assert [one.event_id for one in await claim(store, SINK)] == ["out_2"]


async def test_o2_a_lost_answer_is_given_again(
    victims: Victims, url: str, open_store: OpenStore
) -> None:
    """The same key gives the same id, and another body under it is refused."""
    await asyncio.to_thread(victims.die, url, "before it is answered")
    store = await open_store(url, now=utc_now)
    assert (await store.sends.accept(keyed(2, "k"))).id == "out_1"
    with pytest.raises(PermanentError):
        await store.sends.accept(keyed(3, "k", "other"))
    assert [one.event_id for one in await claim(store, SINK)] == ["out_1"]


@pytest.mark.parametrize("point", ["before the doubt", "amid the doubt"])
async def test_o3_before_the_doubt_is_noted_it_is_simply_sent_again(
    victims: Victims, url: str, open_store: OpenStore, point: str
) -> None:
    """No dot was written, so nobody has it and nobody need look."""
    await asyncio.to_thread(victims.die, url, point)
    store = await open_store(url, now=utc_now)
    delivery = await found(store)
    assert delivery.send is not None
    assert (delivery.send.in_doubt_at, delivery.send.doubtful, open_to(delivery)) == (None, (), TWO)


@pytest.mark.parametrize("point", ["at the dot", "after the answer"])
async def test_o4_to_o6_at_the_dot_it_comes_back_in_doubt(
    victims: Victims, url: str, open_store: OpenStore, point: str
) -> None:
    """Whoever takes it up knows that he has to look; what he finds ends it without a second dot."""
    await asyncio.to_thread(victims.die, url, point)
    store = await open_store(url, now=utc_now)
    delivery = await found(store)
    assert delivery.send is not None
    assert delivery.send.in_doubt_at is not None
    assert delivery.send.doubtful == TWO
    await store.sends.answered(delivery, told("taken", *TWO, reply="found in the sent items"))
    await store.resolve([well(delivery)])
    assert (await status(store)).state == "sent"


async def test_o6_an_answer_that_was_noted_needs_no_look(
    victims: Victims, url: str, open_store: OpenStore
) -> None:
    """Between the answer and the outcome a death costs nothing: nobody is left to send to."""
    await asyncio.to_thread(victims.die, url, "before the outcome")
    store = await open_store(url, now=utc_now)
    delivery = await found(store)
    assert delivery.send is not None
    assert (open_to(delivery), delivery.send.in_doubt_at) == ((), None)
    await store.resolve([well(delivery)])
    assert (await status(store)).state == "sent"


async def test_o7_who_has_it_is_not_asked_again(
    victims: Victims, url: str, open_store: OpenStore
) -> None:
    """After an answer for one of two, only the other is open, and not in doubt."""
    await asyncio.to_thread(victims.die, url, "for one of two")
    store = await open_store(url, now=utc_now)
    delivery = await found(store)
    assert delivery.send is not None
    assert (open_to(delivery), delivery.send.doubtful) == ((B,), ())


# --- two hosts


async def test_two_hosts_send_each_mail_once(postgres_url: str, open_store: OpenStore) -> None:
    """Hosts that accept and claim at the same time lose nothing and share nothing."""
    hosts = [await open_store(postgres_url, owner=f"host:{number}") for number in (1, 2)]
    given = await asyncio.gather(
        *(
            hosts[number % 2].sends.accept(
                outgoing(
                    number,
                    mailbox=f"box{number % 3}",
                    client="erp",
                    key=f"k{number // 2}",
                    digest="d",
                )
            )
            for number in range(80)
        )
    )
    ids = {one.id for one in given}
    assert len(ids) == 40
    assert all(given[n].id == given[n + 1].id for n in range(0, 80, 2))
    taken: list[str] = []

    async def work(store: Store) -> None:
        for box in range(3):
            while some := await claim(store, f"send:box{box}", limit=3):
                for one in some:
                    await store.sends.in_doubt(one, TWO)
                    await store.sends.answered(one, told("taken", *TWO))
                    taken.append(one.event_id)
                await store.resolve([well(one) for one in some])

    await asyncio.gather(*(work(store) for store in hosts))
    assert sorted(taken) == sorted(ids)
    rows = [await hosts[0].sends.status(name) for name in ids]
    assert {row.state for row in rows if row is not None} == {"sent"}


# --- whatever happens, in whatever order


@dataclass
class World:
    """A store, a mail server that remembers who got what, and claims that somebody holds."""

    store: Store
    clock: Clock
    rng: random.Random
    hands: list[Delivery] = field(default_factory=list)
    #: who has which mail, as far as the store was told in time
    known: set[tuple[str, str]] = field(default_factory=set)
    accepted: int = 0

    async def step(self, what: str) -> None:
        match what:
            case "accept":
                self.accepted += 1
                await self.store.sends.accept(outgoing(self.accepted, A, B, "c@example.org"))
            case "claim":
                for one in await claim(self.store, SINK, limit=2):
                    self.check(one)
                    self.hands.append(one)
            case "crash":
                # Those who held the claims live on, and come back late.
                self.clock.advance(31)
                await self.store.rescue()
            case "wait":
                self.clock.advance(60)
            case "retry":
                await self.store.requeue([f"out_{self.rng.randint(1, max(1, self.accepted))}"])
            case _:
                if self.hands:
                    await self.work(what, self.rng.choice(self.hands))

    async def work(self, what: str, one: Delivery) -> None:
        due = self.clock() + timedelta(seconds=30)
        some = [to for to in open_to(one) if self.rng.random() < 0.6]
        try:
            if what == "doubt":
                await self.store.sends.in_doubt(one, some)
            elif what == "answer":
                said = [self.answer(one, to) for to in some]
                await self.store.sends.answered(one, said)
            else:
                ways = {"well": well, "over": over}
                resolve = ways.get(what) or (
                    lambda it: {"again": again, "no": unwanted}[what](it, due)
                )
                await self.store.resolve([resolve(one)])
        except TemporaryError as error:
            if error.code != "send.claim_lost":
                raise

    def answer(self, one: Delivery, address: str) -> Recipient:
        state = self.rng.choice(["taken", "taken", "refused", "open"])
        return told(state, address)[0]  # type: ignore[arg-type]  # one of them

    def check(self, one: Delivery) -> None:
        again = [to for to in open_to(one) if (one.event_id, to) in self.known]
        assert again == [], "somebody who has the mail would get it again"

    async def look(self) -> None:
        """Remember what the store says of who has a mail: it may never take that back."""
        for number in range(1, self.accepted + 1):
            has = {
                to for to, state in (await states(self.store, number)).items() if state == "taken"
            }
            before = {to for name, to in self.known if name == f"out_{number}"}
            assert before <= has
            self.known |= {(f"out_{number}", to) for to in has}

    async def end(self) -> None:
        """Let a working server answer for everything that is left."""
        for _ in range(40):
            self.clock.advance(3_600)
            await self.store.rescue()
            taken = await claim(self.store, SINK) or await claim(self.store, SINK, alone=True)
            for one in taken:
                self.check(one)
                await self.store.sends.answered(one, told("taken", *open_to(one)))
                await self.store.resolve([well(one)])
            if not taken and await self.store.next_due(SINK) is None:
                break
        ends = [(await status(self.store, n)).state for n in range(1, self.accepted + 1)]
        assert set(ends) <= {"sent", "failed", "held"}, ends


STEPS = st.lists(
    st.sampled_from(
        [
            *("accept", "claim", "claim", "crash", "wait", "retry", "doubt", "doubt"),
            *("answer", "answer", "answer", "again", "again", "no", "well", "over"),
        ]
    ),
    min_size=8,
    max_size=40,
)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an empty database, so that not every example has to make its own."""
    file = tmp_path_factory.mktemp("pattern") / "mailbridge.db"

    async def make() -> None:
        await (await Store.open(f"sqlite:///{file}")).close()

    asyncio.run(make())
    return file


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 2**32))
def test_whatever_happens_nobody_gets_it_again_and_everything_ends(
    pattern: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int
) -> None:
    """Any order of claims, deaths, late words and partial answers keeps both promises."""
    file = tmp_path_factory.mktemp("world") / "mailbridge.db"
    shutil.copy(pattern, file)

    async def run() -> None:
        clock = Clock()
        store = await Store.open(f"sqlite:///{file}", now=clock, synchronous="OFF")
        try:
            world = World(store, clock, random.Random(seed))
            for step in ["accept", "claim", *steps]:
                await world.step(step)
                await world.look()
            await world.end()
        finally:
            await store.close()

    asyncio.run(run())
