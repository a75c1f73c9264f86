"""Which mailbox sends, and as whom: ``send_as`` is held to before a server is asked. Pure."""

from __future__ import annotations

from typing import Final

from mailbridge.compose.addresses import Party, read, same
from mailbridge.compose.draft import Fault, Written
from mailbridge.config import Config

#: where the From of a whole mail is wrong
_FROM: Final = "message.from"

Chosen = tuple[str, Party] | None


class Senders:
    """The mailboxes of a configuration that send.

    Every method returns the mailbox's name and who stands in From, or ``None`` when there is no
    such thing; why not is added to ``faults``.
    """

    def __init__(self, config: Config) -> None:
        self._boxes = {name: box for name, box in config.mailboxes.items() if box.send is not None}

    def choose(self, written: Written, wanted: str, where: str, faults: list[Fault]) -> Chosen:
        """Choose by an address, or the name of a mailbox; ``wanted`` is a mailbox, or empty."""
        if wanted and not self._sends(wanted, "mailbox", faults):
            return None
        if "@" not in written.address:
            if not self._sends(written.address, where, faults):
                return None
            if wanted not in {"", written.address}:
                detail = "this is another mailbox than `mailbox` names"
                faults.append(Fault(where=where, detail=detail))
                return None
            found = read(Written(self._usual(written.address), written.name), where, faults)
            return (written.address, found[0]) if found else None
        found = read(written, where, faults)
        if len(found) > 1:
            faults.append(Fault(where=where, detail="a mail has one author here"))
        if len(found) != 1:
            return None
        name = self._sending_as(found[0].address, wanted, where, faults)
        return None if name is None else (name, found[0])

    def of_whole(  # noqa: PLR0911 - one case after the other
        self, author: Party | None, said: str, *, display: str, local: bool, faults: list[Fault]
    ) -> Chosen:
        """Choose for a mail that was handed over: ``author`` is in its From, ``said`` beside it.

        ``local`` is mail of programs on this machine: then ``said`` may be anything, as long as
        it does not have to be believed, and who is alone sends what nobody is the author of.
        """
        if local and "@" in said and not self._able(said):
            said = ""
        if author is None:
            if said:
                return self.choose(Written(said, display), "", "from", faults)
            if any(fault.where == _FROM for fault in faults):
                return None
            if local:
                return self._only(display, faults)
            faults.append(Fault(where=_FROM, detail="it does not say whom it is from"))
            return None
        wanted = said
        if "@" in said:
            by_said = self.choose(Written(said), "", "from", [] if local else faults)
            if by_said is None and not local:
                return None
            wanted = by_said[0] if by_said else ""
            if local and wanted not in self._able(author.address):
                wanted = ""
        if wanted and not self._sends(wanted, "from", faults):
            return None
        name = self._sending_as(author.address, wanted, _FROM, faults)
        return None if name is None else (name, author)

    def _only(self, display: str, faults: list[Fault]) -> Chosen:
        if len(self._boxes) != 1:
            detail = f"say which mailbox sends; there are: {self._names}"
            faults.append(Fault(where=_FROM, detail=detail, code="send.no_mailbox"))
            return None
        [name] = self._boxes
        return self.choose(Written(name, display), "", _FROM, faults)

    def _sends(self, name: str, where: str, faults: list[Fault]) -> bool:
        if name in self._boxes:
            return True
        detail = f"no mailbox of this name sends; there are: {self._names}"
        faults.append(Fault(where=where, detail=detail, code="send.no_mailbox"))
        return False

    def _sending_as(self, address: str, wanted: str, where: str, faults: list[Fault]) -> str | None:
        able = [name for name in self._able(address) if wanted in {"", name}]
        own = [name for name in able if same(self._boxes[name].address, address)]
        if len(able) == 1 or len(own) == 1:
            return (own or able)[0]
        if able:
            detail = f"several mailboxes may send as this; say which: {', '.join(able)}"
            faults.append(Fault(where=where, detail=detail, code="send.no_mailbox"))
        else:
            who = f"mailbox {wanted} may not" if wanted else "no mailbox may"
            detail = f"{who} send as this address; `send_as` lists those that it may"
            faults.append(Fault(where=where, detail=detail, code="send.not_allowed"))
        return None

    def _able(self, address: str) -> list[str]:
        """Return the mailboxes that may send as an address."""
        return [
            name
            for name, box in self._boxes.items()
            if box.send is not None and any(same(one, address) for one in box.send.send_as)
        ]

    def _usual(self, name: str) -> str:
        """Return whom a mailbox sends as when nobody says."""
        box = self._boxes[name]
        if box.send is None or name in self._able(box.address):
            return box.address
        return box.send.send_as[0]

    @property
    def _names(self) -> str:
        return ", ".join(self._boxes) or "none"
