"""Faults and quirks of the sandbox, by name; ``CATALOGUE`` is their one table.

::

    tenant.faults.add("imap.throttled", times=2, mailbox="alarm@feuerwehr.example")
    tenant.faults.add("imap.fetch_bad", uid=7)
    tenant.faults.add("token.429", retry_after=2)
    tenant.faults.clear("imap.fetch_bad")
    assert tenant.faults.fired["imap.throttled"] == 2

``times=None`` lasts until it is cleared. Of several that fit, the first one added strikes.
Those in ``STATES`` last, rather than strike: ``times`` and ``fired`` say nothing there.
Every fault takes ``mailbox`` (imap, pop3, smtp) or ``client_id`` (token); those of mail also take
the options ``command`` (``"FETCH"`` fits ``UID FETCH`` too) and ``folder`` to narrow them down.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from mailbridge.sandbox.fault_catalogue import CATALOGUE

_NARROWING: Final = frozenset({"command", "folder"})


@dataclass(slots=True, kw_only=True, eq=False)
class Fault:
    """One armed fault: whom it may strike, how often still, and its options."""

    name: str
    mailbox: str | None
    client_id: str | None
    times: int | None
    options: dict[str, Any]

    def __getitem__(self, option: str) -> Any:
        """Return the value of an option, the default included."""
        return self.options[option]


class Faults:
    """The armed faults of a tenant. Use it in the event loop's thread only."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []
        #: how often each fault has struck
        self.fired: Counter[str] = Counter()

    def add(
        self,
        name: str,
        *,
        times: int | None = None,
        mailbox: str | None = None,
        client_id: str | None = None,
        **options: object,
    ) -> Fault:
        """Arm a fault. ``ValueError`` for a name or option that the catalogue lacks."""
        kind = CATALOGUE.get(name)
        if kind is None:
            raise ValueError(f"no fault is called {name!r}; there are: {', '.join(CATALOGUE)}")
        unknown = set(options) - set(kind.options) - _NARROWING
        if unknown:
            raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}")
        fault = Fault(
            name=name,
            mailbox=mailbox.lower() if mailbox else None,
            client_id=client_id.lower() if client_id else None,
            times=times,
            options={"command": None, "folder": None, **kind.options, **options},
        )
        self._armed.append(fault)
        return fault

    def clear(self, name: str | None = None, *, mailbox: str | None = None) -> None:
        """Disarm all faults, or those of this name, or those of this mailbox."""
        self._armed = [
            fault
            for fault in self._armed
            if (name is not None and fault.name != name)
            or (mailbox is not None and fault.mailbox != mailbox.lower())
        ]

    def take(  # noqa: PLR0913 - what a fault can be narrowed down to, all by name
        self,
        name: str,
        *,
        mailbox: str = "",
        client_id: str = "",
        command: str = "",
        folder: str = "",
        uids: Collection[int] = (),
    ) -> Fault | None:
        """Return the first armed fault that fits and use up one of its times."""
        for fault in self._armed:
            if fault.name != name or not _fits(fault, command, folder, uids):
                continue
            if fault.mailbox not in {None, mailbox.lower()}:
                continue
            if fault.client_id not in {None, client_id.lower()}:
                continue
            self.fired[name] += 1
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._armed.remove(fault)
            return fault
        return None

    def active(self, name: str, *, mailbox: str = "") -> list[Fault]:
        """Return the armed faults of this name for a mailbox, using none of them up."""
        address = mailbox.lower()
        return [f for f in self._armed if f.name == name and f.mailbox in {None, address}]

    @staticmethod
    async def hold(fault: Fault) -> None:
        """Wait for the fault's ``seconds``; without a number until cancelled."""
        if fault["seconds"] is None:
            await asyncio.Event().wait()
        await asyncio.sleep(fault["seconds"])


def _fits(fault: Fault, command: str, folder: str, uids: Collection[int]) -> bool:
    wanted = fault["command"]
    if wanted is not None and wanted.upper() not in {command, command.removeprefix("UID ")}:
        return False
    if fault["folder"] is not None and fault["folder"].lower() != folder.lower():
        return False
    uid = fault.options.get("uid")
    return uid is None or uid in uids
