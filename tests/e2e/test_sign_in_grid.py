"""Every way to sign in, for every protocol, end to end; and that the README says just that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailbridge.errors import SignInRejected
from mailbridge.sandbox.tokens import SigningKey
from tests.e2e.grid import KINDS, Kind, Protocol, Servers, prove, table, written

#: what this run has proven so far
PROVEN: dict[str, dict[Protocol, bool]] = {}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as running:
        yield running


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_it_signs_in_for_every_protocol(servers: Servers, kind: Kind) -> None:
    """One sign-in fetches by IMAP and by POP3 and submits by SMTP, at servers of another make."""
    PROVEN[kind.name] = await prove(kind, servers)
    assert PROVEN[kind.name] == {"imap": True, "pop3": True, "smtp": True}


async def test_the_servers_do_verify(servers: Servers) -> None:
    """A token that another key has signed opens nothing, so the proofs above are some."""
    with pytest.raises(SignInRejected):
        await prove(KINDS[0], servers, key=SigningKey.generate())


async def test_the_readme_shows_what_was_proven(servers: Servers) -> None:
    """The table is that of this run; `python -m tests.e2e.grid` writes it anew."""
    for kind in KINDS:
        if kind.name not in PROVEN:
            PROVEN[kind.name] = await prove(kind, servers)
    assert written() == table(PROVEN)
