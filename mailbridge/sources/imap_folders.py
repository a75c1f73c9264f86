r"""Which folder of the server a configured name means: pure functions over what LIST tells.

A name is looked for as it is written, with the server's separator in place of ``/``, below the
personal namespace, and at last without regard to case. ``\Sent`` and its like mean a role
(RFC 6154): the folder that LIST marks with it, else one with a name that mail programs and
Exchange give to it. The configured name stays what ids are derived from; only the connection
uses the server's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

INBOX: Final = "INBOX"

#: names by language: en, de, fr, es, it; those of Exchange first
_ROLES: Final[dict[str, tuple[str, ...]]] = {
    r"\sent": (
        *("Sent Items", "Sent", "Sent Messages", "Sent Mail"),
        *("Gesendete Elemente", "Gesendete Objekte", "Gesendet"),
        *("Éléments envoyés", "Messages envoyés", "Envoyés"),
        *("Elementos enviados", "Enviados"),
        *("Posta inviata", "Inviata", "Inviati"),
    ),
    r"\drafts": ("Drafts", "Draft", "Entwürfe", "Brouillons", "Borradores", "Bozze"),
    r"\trash": (
        *("Deleted Items", "Deleted Messages", "Trash", "Bin"),
        *("Gelöschte Elemente", "Gelöschte Objekte", "Papierkorb"),
        *("Éléments supprimés", "Corbeille"),
        *("Elementos eliminados", "Papelera"),
        *("Posta eliminata", "Cestino"),
    ),
    r"\junk": (
        *("Junk Email", "Junk E-mail", "Junk", "Spam", "Bulk Mail"),
        *("Junk-E-Mail", "Junk-Mail", "Courrier indésirable", "Indésirables"),
        *("Correo no deseado", "Correo electrónico no deseado", "Posta indesiderata"),
    ),
    r"\archive": ("Archive", "Archives", "Archiv", "Archivo", "Archivio"),
    r"\all": (),
    r"\flagged": (),
    r"\important": (),
}
#: what Exchange lists among the mail folders although it holds something else, by language;
#: fetching from them gives notices that nothing could be retrieved
_NO_MAIL: Final[tuple[frozenset[str], ...]] = tuple(
    frozenset(name.casefold() for name in names)
    for names in (
        ("Calendar", "Contacts", "Tasks", "Notes", "Journal"),
        ("Kalender", "Kontakte", "Aufgaben", "Notizen", "Journal"),
        ("Calendrier", "Contacts", "Tâches", "Notes", "Journal"),
        ("Calendario", "Contactos", "Tareas", "Notas", "Diario"),
        ("Calendario", "Contatti", "Attività", "Note", "Diario"),
    )
)
#: so many of a language's names, and the mailbox speaks it
_FLUENT: Final = 3
_CLOSED: Final = frozenset({r"\noselect", r"\nonexistent"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A folder as LIST tells it; attributes in lower case, no separator in a flat mailbox."""

    name: str
    separator: str
    attributes: frozenset[str]


def listed(row: Sequence[Any]) -> Listed:
    """Return what imapclient read from a line of LIST."""
    attributes, separator, name = row
    return Listed(
        name=str(name),
        separator=separator.decode("ascii", "replace") if separator else "",
        attributes=frozenset(_text(one).lower() for one in attributes),
    )


def _text(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def is_role(wanted: str) -> bool:
    r"""Whether a configured name means a role, like ``\Sent``."""
    return wanted.startswith("\\")


def may_hold_no_mail(wanted: str) -> bool:
    """Whether the name is one that Exchange gives to a calendar and the like."""
    return any(wanted.casefold() in names for names in _NO_MAIL)


class Directory:
    """The folders of one mailbox. ``prefix`` is the personal namespace, ``INBOX.`` say."""

    def __init__(self, folders: Iterable[Listed], *, prefix: str = "") -> None:
        self._folders = tuple(folders)
        self._open = [one.name for one in self._folders if not one.attributes & _CLOSED]
        self._prefix = prefix
        separators = [one.separator for one in self._folders if one.separator]
        self.separator = separators[0] if separators else "/"

    def find(self, wanted: str) -> str | None:
        """Return the server's name of the folder that is meant; ``None`` if there is none."""
        if is_role(wanted):
            return self._with_role(wanted.lower())
        if wanted.upper() == INBOX:
            return next((name for name in self._open if name.upper() == INBOX), INBOX)
        written = self.written(wanted)
        return self._alike((wanted, written, self._below(written)))

    def written(self, wanted: str) -> str:
        """Return the name with the server's separator."""
        return wanted.replace("/", self.separator)

    def to_create(self, wanted: str) -> str | None:
        """Return the name under which a missing folder is to be created.

        ``None`` for a role: nobody can say which name that folder should have.
        """
        if is_role(wanted):
            return None
        return self._below(self.written(wanted))

    @property
    def names(self) -> list[str]:
        """The folders that can be opened, as the server names them."""
        return list(self._open)

    def holds_no_mail(self, name: str) -> bool:
        """Whether this is Exchange's calendar, contacts, tasks, notes or journal.

        Only in the mailbox's own language, since somebody whose calendar is called Calendar may
        keep mail in a folder named Kalender; and only where the others are there as well.
        """
        there = {one.casefold() for one in self._open}
        return any(name.casefold() in names and len(names & there) >= _FLUENT for names in _NO_MAIL)

    def _below(self, name: str) -> str:
        if not self._prefix or name.startswith(self._prefix):
            return name
        return self._prefix + name

    def _with_role(self, role: str) -> str | None:
        marked = [one.name for one in self._folders if role in one.attributes]
        marked = [name for name in marked if name in self._open]
        if marked:
            # Shared folders of others are marked, too; one's own is nearer to the top.
            return min(marked, key=lambda name: (not name.startswith(self._prefix), len(name)))
        for known in _ROLES.get(role, ()):
            if (found := self._alike([known, self._below(known)])) is not None:
                return found
        return None

    def _alike(self, names: Iterable[str]) -> str | None:
        """Return the first of these that is there, else the one that differs in case only.

        Or in how an umlaut is composed: what was typed on one system is not what another lists.
        """
        names = tuple(names)
        if exact := next((name for name in names if name in self._open), None):
            return exact
        wanted = {_folded(name) for name in names}
        found = [name for name in self._open if _folded(name) in wanted]
        return found[0] if len(found) == 1 else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
