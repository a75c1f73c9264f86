"""Which folder of the server a configured name means."""

from __future__ import annotations

import unicodedata

import pytest

from mailbridge.sources.imap_folders import Directory, Listed, listed


def directory(*names: str, separator: str = "/", prefix: str = "", **marked: str) -> Directory:
    """Return a mailbox with these folders; ``Sent="Verschickt"`` marks one with a role."""
    rows = [(name, "") for name in names] + [(name, f"\\{role}") for role, name in marked.items()]
    return Directory(
        [
            Listed(name=name, separator=separator, attributes=frozenset({role.lower()} - {""}))
            for name, role in rows
        ],
        prefix=prefix,
    )


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("INBOX", "Inbox"),
        ("inbox", "Inbox"),
        ("Archive/2026", "Archive/2026"),
        ("archive/2026", "Archive/2026"),
        ("Übung", "Übung"),
        (unicodedata.normalize("NFD", "Übung"), "Übung"),
        ("Archive.2026", None),
        ("2026", None),
    ],
)
def test_a_name_is_found_as_it_is_written_or_nearly(wanted: str, found: str | None) -> None:
    """Case and the composition of umlauts do not count; a part of a path does."""
    assert directory("Inbox", "Archive", "Archive/2026", "Übung").find(wanted) == found


def test_an_exact_name_goes_before_a_similar_one() -> None:
    """Where names differ in case only, just the exact one is meant, and a third is none of them."""
    both = directory("INBOX", "Alarm", "ALARM")

    assert [both.find(name) for name in ("Alarm", "ALARM", "alarm")] == ["Alarm", "ALARM", None]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("Archive/2026", "INBOX.Archive.2026"),
        ("Archive.2026", "INBOX.Archive.2026"),
        ("INBOX/Archive/2026", "INBOX.Archive.2026"),
        ("INBOX.Archive.2026", "INBOX.Archive.2026"),
        ("INBOX", "INBOX"),
        (r"\Trash", "INBOX.Papierkorb"),
    ],
)
def test_the_separator_and_the_namespace_are_the_servers(wanted: str, found: str) -> None:
    """A slash in the configuration means whatever the server has between two levels."""
    there = directory(
        *("INBOX", "INBOX.Archive.2026", "INBOX.Papierkorb"), separator=".", prefix="INBOX."
    )

    assert there.find(wanted) == found


def test_a_new_folder_is_made_where_ones_own_folders_lie() -> None:
    """Below the personal namespace, with the server's separator, and never for a role."""
    there = directory("INBOX", separator=".", prefix="INBOX.")

    assert there.to_create("Fertig/2026") == "INBOX.Fertig.2026"
    assert there.to_create("INBOX/Fertig") == "INBOX.Fertig"
    assert there.to_create(r"\Archive") is None
    assert directory("INBOX").to_create("Fertig/2026") == "Fertig/2026"


def test_a_mark_goes_before_a_name() -> None:
    """What the server marks is the folder, whatever it is called, and one's own is preferred."""
    there = directory("INBOX", "Sent", Sent="Verschickt")
    shared = directory("INBOX", "Mine/Out", prefix="Mine/", Sent="Users/anna/Sent")

    assert there.find(r"\Sent") == there.find(r"\SENT") == "Verschickt"
    assert shared.find(r"\Sent") == "Users/anna/Sent"
    both = Directory(
        [
            Listed(name=name, separator="/", attributes=frozenset({r"\sent"}))
            for name in ("Users/a/S", "Mine/Sent Items")
        ],
        prefix="Mine/",
    )
    assert both.find(r"\Sent") == "Mine/Sent Items"


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (r"\Sent", "Sent Items,Gesendete Elemente,Éléments envoyés,Elementos enviados"),
        (r"\Sent", "Posta inviata,Sent,Gesendet"),
        (r"\Drafts", "Drafts,Entwürfe,Brouillons,Borradores,Bozze"),
        (r"\Trash", "Deleted Items,Gelöschte Elemente,Éléments supprimés,Elementos eliminados"),
        (r"\Trash", "Posta eliminata,Trash,Papierkorb,Corbeille,Papelera,Cestino"),
        (r"\Junk", "Junk Email,Junk-E-Mail,Courrier indésirable,Correo no deseado,Spam"),
        (r"\Junk", "Posta indesiderata"),
        (r"\Archive", "Archive,Archiv,Archives,Archivo,Archivio"),
    ],
)
def test_without_marks_a_role_is_known_by_its_names(role: str, names: str) -> None:
    """English, German, French, Spanish and Italian."""
    for name in names.split(","):
        assert directory("INBOX", "Alarm", name).find(role) == name
    assert directory("INBOX", "Alarm").find(role) is None


def test_what_cannot_be_opened_is_not_found() -> None:
    r"""``\Noselect`` and ``\NonExistent`` are places in a tree, no folders."""
    there = Directory(
        [
            listed(((rb"\Noselect", rb"\HasChildren"), b"/", "Archive")),
            listed(((rb"\NonExistent",), b"/", "Gone")),
            listed(((rb"\HasNoChildren",), None, "INBOX")),
        ]
    )

    assert (there.find("Archive"), there.find("Gone"), there.find(r"\Archive")) == (None,) * 3
    assert there.names == ["INBOX"]


@pytest.mark.parametrize(
    ("names", "refused", "taken"),
    [
        ("Calendar,Contacts,Tasks,Notes,Journal", "Calendar,calendar,Notes", "Kalender,Alarm"),
        ("Kalender,Kontakte,Aufgaben,Notizen,Journal", "Kalender,Journal", "Calendar,Notes"),
        ("Calendrier,Contacts,Tâches,Notes,Journal", "Tâches,Contacts", "Kalender"),
        ("Calendario,Contatti,Attività,Note,Diario", "Attività,Diario", "Tareas"),
        ("Notes,Alarm", "", "Notes"),
    ],
)
def test_a_calendar_is_known_in_the_mailboxs_own_language(
    names: str, refused: str, taken: str
) -> None:
    """Somebody whose calendar is called Calendar may keep mail in a folder named Kalender."""
    there = directory("INBOX", *names.split(","))

    assert all(there.holds_no_mail(name) for name in refused.split(",") if name)
    assert not any(there.holds_no_mail(name) for name in taken.split(","))
