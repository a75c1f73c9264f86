"""Mailboxes, folders and messages as Exchange keeps them; in memory, in one thread."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

#: everything Exchange can set; custom keywords do not exist there
FLAGS: Final = ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft", "$MDNSent")
_CANONICAL: Final = {flag.lower(): flag for flag in FLAGS}

#: default folders by language: name and special-use attribute
DEFAULT_FOLDERS: Final = {
    "en": (
        ("INBOX", "\\Marked"),
        ("Archive", ""),
        ("Calendar", ""),
        ("Contacts", ""),
        ("Deleted Items", "\\Trash"),
        ("Drafts", "\\Drafts"),
        ("Junk Email", "\\Junk"),
        ("Journal", ""),
        ("Notes", ""),
        ("Sent Items", "\\Sent"),
        ("Tasks", ""),
    ),
    "de": (
        ("INBOX", "\\Marked"),
        ("Archiv", ""),
        ("Kalender", ""),
        ("Kontakte", ""),
        ("Gelöschte Elemente", "\\Trash"),
        ("Entwürfe", "\\Drafts"),
        ("Junk-E-Mail", "\\Junk"),
        ("Journal", ""),
        ("Notizen", ""),
        ("Gesendete Elemente", "\\Sent"),
        ("Aufgaben", ""),
    ),
    "fr": (
        ("INBOX", "\\Marked"),
        ("Archive", ""),
        ("Calendrier", ""),
        ("Contacts", ""),
        ("Éléments supprimés", "\\Trash"),
        ("Brouillons", "\\Drafts"),
        ("Courrier indésirable", "\\Junk"),
        ("Journal", ""),
        ("Notes", ""),
        ("Éléments envoyés", "\\Sent"),
        ("Tâches", ""),
    ),
}


def known_flags(flags: Iterable[str]) -> set[str]:
    """Return those flags that Exchange knows, spelt as it does; the others are ignored."""
    return {_CANONICAL[flag.lower()] for flag in flags if flag.lower() in _CANONICAL}


class Watcher(Protocol):
    """A ``Protocol``: is told what happens in a folder."""

    def added(self, uid: int) -> None:
        """Learn that a message has come."""

    def removed(self, uid: int) -> None:
        """Learn that a message is gone."""

    def flagged(self, uid: int) -> None:
        """Learn that the flags of a message have changed."""

    def invalidated(self) -> None:
        """Learn that the folder has another UIDVALIDITY or name, or is no more."""


@dataclass(slots=True, kw_only=True, eq=False)
class Message:
    """A stored message. Its bytes are given out exactly as they came in."""

    uid: int
    raw: bytes = field(repr=False)
    received_at: datetime
    flags: set[str] = field(default_factory=set)
    #: stays when the folder is renumbered, and comes in no other run
    key: str = field(default_factory=lambda: secrets.token_hex(8))


class Folder:
    """One folder: messages by UID, ascending. UIDs are never used twice."""

    def __init__(self, name: str, *, uidvalidity: int, special: str = "") -> None:
        """Take as ``special`` the attribute that LIST shows (Trash, say), or nothing."""
        self.name = name
        self.special = special
        self.uidvalidity = uidvalidity
        self.uidnext = 1
        self.messages: dict[int, Message] = {}
        self.watchers: set[Watcher] = set()

    def __repr__(self) -> str:
        """Name, UIDVALIDITY and number of messages."""
        return f"<Folder {self.name!r} {self.uidvalidity} {len(self.messages)} messages>"

    def __iter__(self) -> Iterator[Message]:
        """Iterate over the messages by ascending UID."""
        return iter(list(self.messages.values()))

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self.messages)

    @property
    def uids(self) -> list[int]:
        """The UIDs, ascending."""
        return list(self.messages)

    def flags(self, uid: int) -> set[str]:
        """Return a copy of a message's flags; ``KeyError`` if it is not here."""
        return set(self.messages[uid].flags)

    def add(self, raw: bytes, *, received_at: datetime, flags: Iterable[str] = ()) -> int:
        """Store a message, tell the watchers, return its UID."""
        uid = self.uidnext
        self.uidnext += 1
        self.messages[uid] = Message(
            uid=uid, raw=raw, received_at=received_at, flags=known_flags(flags)
        )
        for watcher in list(self.watchers):
            watcher.added(uid)
        return uid

    def remove(self, uid: int) -> None:
        """Delete a message for good; nothing happens if it is not there."""
        if self.messages.pop(uid, None) is not None:
            for watcher in list(self.watchers):
                watcher.removed(uid)

    def set_flags(self, uid: int, flags: Iterable[str], *, by: Watcher | None = None) -> None:
        """Replace the flags and tell all watchers but the one that did it."""
        self.messages[uid].flags = known_flags(flags)
        for watcher in list(self.watchers):
            if watcher is not by:
                watcher.flagged(uid)

    def reset_uidvalidity(
        self, uidvalidity: int | None = None, *, first_uid: int = 1, cut: bool = True
    ) -> None:
        """Give the folder a new UIDVALIDITY and every message a new UID, as a mailbox move may.

        Sessions that have it selected lose their connection; those that are not ``cut`` go on
        with numbers that hold no more, and learn nothing of it.
        """
        self.uidvalidity = uidvalidity if uidvalidity is not None else self.uidvalidity + 1
        messages = list(self.messages.values())
        for uid, message in enumerate(messages, start=first_uid):
            message.uid = uid
        self.messages = {message.uid: message for message in messages}
        self.uidnext = first_uid + len(messages)
        if cut:
            self.invalidate()

    def invalidate(self) -> None:
        """Tell the watchers that nothing they know of this folder holds any more."""
        for watcher in list(self.watchers):
            watcher.invalidated()


class Mailbox:
    """A mailbox with its folders. Folder names are text; INBOX is found in any case."""

    def __init__(
        self, address: str, *, uidvalidity: int, now: Callable[[], datetime], language: str = "en"
    ) -> None:
        """Folders get consecutive UIDVALIDITYs from ``uidvalidity`` on."""
        self.address = address
        self.imap_enabled = True
        self.pop_enabled = True
        #: how often the mailbox was moved to another server
        self.moves = 0
        self._now = now
        self._next_uidvalidity = uidvalidity
        self.folders: dict[str, Folder] = {}
        self.subscribed: set[str] = set()
        self.language = language
        for name, special in DEFAULT_FOLDERS[language]:
            self.create(name, special=special)

    def __repr__(self) -> str:
        """Show the address only."""
        return f"<Mailbox {self.address}>"

    @staticmethod
    def _key(name: str) -> str:
        head, slash, rest = name.partition("/")
        return ("INBOX" if head.upper() == "INBOX" else head) + slash + rest

    def find(self, name: str) -> Folder | None:
        """Return the folder, or ``None``."""
        return self.folders.get(self._key(name))

    def folder(self, name: str = "INBOX") -> Folder:
        """Return the folder; ``KeyError`` if there is none."""
        return self.folders[self._key(name)]

    def create(self, name: str, *, special: str = "") -> Folder:
        """Create a folder and those above it; return an existing one as it is."""
        name = self._key(name.rstrip("/"))
        parent, slash, _ = name.rpartition("/")
        if slash:
            self.create(parent)
        if name not in self.folders:
            self.folders[name] = Folder(name, uidvalidity=self._next_uidvalidity, special=special)
            self._next_uidvalidity += 1
            self.subscribed.add(name)
        return self.folders[name]

    def has_children(self, name: str) -> bool:
        """Tell whether a folder lies below this one."""
        return any(other.startswith(name + "/") for other in self.folders)

    def delete(self, name: str) -> None:
        """Delete a folder with all below it; ``KeyError`` if there is none."""
        name = self._key(name)
        for other in [self.folders[name], *self._below(name)]:
            del self.folders[other.name]
            self.subscribed.discard(other.name)
            other.invalidate()

    def rename(self, old: str, new: str) -> None:
        """Rename a folder with all below it; ``KeyError`` if there is none."""
        old, new = self._key(old), self._key(new.rstrip("/"))
        moved = [self.folders[old], *self._below(old)]
        parent, slash, _ = new.rpartition("/")
        if slash:
            self.create(parent)
        for folder in moved:
            del self.folders[folder.name]
            self.subscribed.discard(folder.name)
            folder.name = new + folder.name[len(old) :]
            self.folders[folder.name] = folder
            self.subscribed.add(folder.name)
            folder.invalidate()

    def _below(self, name: str) -> list[Folder]:
        return [other for key, other in self.folders.items() if key.startswith(name + "/")]

    def localise(self, language: str) -> None:
        """Rename the default folders as Outlook does when its language changes."""
        names = zip(DEFAULT_FOLDERS[self.language], DEFAULT_FOLDERS[language], strict=True)
        for (old, _), (new, _) in names:
            if old != new and old in self.folders:
                self.rename(old, new)
        self.language = language

    def uidl(self, message: Message) -> str:
        """Return POP3's name of a message: opaque, and the same until the mailbox is moved."""
        seed = f"{self.address.lower()} {self.moves} {message.key}".encode()
        return "AAMkAD" + base64.b64encode(hashlib.sha256(seed).digest()).decode("ascii")

    def move_to_other_server(self) -> None:
        """Give every folder another UIDVALIDITY and every message another UIDL; none is lost."""
        self.moves += 1
        for folder in self.folders.values():
            folder.reset_uidvalidity(self._next_uidvalidity)
            self._next_uidvalidity += 1

    def deliver(
        self,
        raw: bytes,
        *,
        folder: str = "INBOX",
        received_at: datetime | None = None,
        flags: Iterable[str] = (),
    ) -> int:
        """Let a mail arrive and return its UID. ``received_at`` becomes INTERNALDATE."""
        moment = (received_at or self._now()).astimezone(UTC)
        return self.folder(folder).add(raw, received_at=moment, flags=flags)
