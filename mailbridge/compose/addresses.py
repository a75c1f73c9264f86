"""Addresses of outgoing mail: read strictly, written so that nobody reads another one.

There is one grammar for what can be told to a server (``sinks.smtp_message``), and one for what
stands in a header (``parse.addresses``). An address has to pass both, unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from mailbridge.compose.draft import Fault, Written
from mailbridge.compose.text import NAME_LENGTH, broken
from mailbridge.parse.addresses import parse
from mailbridge.parse.parsed import Findings
from mailbridge.sinks.smtp_message import BadAddress, on_the_wire

#: the code of what is no address
BAD: Final = "send.bad_address"
#: characters of one text with addresses
TEXT_LENGTH: Final = 64 * 1024


class Party(NamedTuple):
    """Somebody who writes or gets mail; the domain of the address is in its ASCII form."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        """The domain of the address."""
        return self.address.rpartition("@")[2]


def read(written: Written, where: str, faults: list[Fault]) -> list[Party]:
    """Return whom a text names; what is wrong with it is added to ``faults``."""
    for text, place in ((written.address, where), (written.name, f"{where}.name")):
        if fault := broken(text):
            faults.append(Fault(where=place, detail=fault))
            return []
    if len(written.address) > TEXT_LENGTH or len(written.name) > NAME_LENGTH:
        faults.append(Fault(where=where, detail="this is longer than addresses and names may be"))
        return []
    found = parse(written.address, Findings())
    bare = not written.name or (len(found.addresses) == 1 and not found.addresses[0].name)
    if not found.addresses or found.ambiguous or not bare:
        faults.append(Fault(where=where, detail="this is not an address", code=BAD))
        return []
    parties = []
    for name, address in found.addresses:
        party = _party(written.name or name or "", address or "", where, faults)
        if party is not None:
            parties.append(party)
    return parties


def _party(name: str, address: str, where: str, faults: list[Fault]) -> Party | None:
    try:
        wire = on_the_wire(address)
    except BadAddress as bad:
        faults.append(Fault(where=where, detail=str(bad), code=BAD))
        return None
    again = parse(wire, Findings())
    if again.ambiguous or [one.address for one in again.addresses] != [wire]:
        faults.append(Fault(where=where, detail="this address can be read in two ways"))
        return None
    name = " ".join(name.split())
    if len(name) > NAME_LENGTH or broken(name):
        faults.append(Fault(where=where, detail="this name cannot stand in a mail"))
        return None
    return Party(name, wire)


def read_all(written: Sequence[Written], where: str, faults: list[Fault]) -> list[Party]:
    """Return whom a list names, in its order."""
    return [
        party
        for number, one in enumerate(written)
        for party in read(one, f"{where}.{number}", faults)
    ]


def same(one: str, other: str) -> bool:
    """Tell whether two addresses are the same: domains have no capitals, local parts have."""
    return _key(one) == _key(other)


def each_once(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return addresses without those that are there twice, in their order."""
    found: dict[tuple[str, str], str] = {}
    for one in addresses:
        found.setdefault(_key(one), one)
    return tuple(found.values())


def _key(address: str) -> tuple[str, str]:
    local, _, domain = address.rpartition("@")
    return local, domain.lower()
