"""Finds the folders that the configuration names on the server, asking it only where it must.

The usual name is opened as it is written, without a question. Blocking; raises the errors of
``mailbridge.errors``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from mailbridge.errors import FolderMissing
from mailbridge.sources.imap_errors import Refused, folder_error, folder_missing, words
from mailbridge.sources.imap_folders import Directory, is_role, listed, may_hold_no_mail
from mailbridge.sources.imap_wire import Client

if TYPE_CHECKING:
    from mailbridge.sources.imap_connection import Connection

T = TypeVar("T")


class Folders:
    """The folders of the mailbox that a connection has signed in to."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._directory: Directory | None = None

    def open(self, wanted: str, select: Callable[[str], T]) -> T:
        """Call ``select`` with the server's name of the folder and return what it returns.

        Raises ``FolderMissing`` with the folders that there are; ``SignInRejected`` where the
        server denies the permission.
        """
        name = wanted
        if is_role(wanted) or may_hold_no_mail(wanted):
            found = self._directory_now().find(wanted)
            if found is None:
                raise self._missing(wanted)
            name = found
        try:
            return select(self._with_mail(name))
        except Refused as refused:
            if refused.transient:
                raise
            refusal = refused
        directory = self._directory_now()
        found = directory.find(wanted)
        if found is None:
            raise self._missing(wanted, str(refusal))
        if found == name:
            raise folder_error(refusal, wanted, directory.names)
        return select(self._with_mail(found))

    def target(self, wanted: str) -> str:
        """Return the server's name of a folder to move to; it is created when it is missing."""
        directory = self._directory_now()
        found = directory.find(wanted)
        if found is not None:
            return found
        name = directory.to_create(wanted)
        if name is None:
            raise self._missing(wanted)
        try:
            self._connection.ask("create the folder", self._connection.client.create_folder, name)
        except Refused as refused:
            # Somebody else may have been quicker.
            self._directory = None
            found = self._directory_now().find(wanted)
            if found is None:
                raise folder_error(refused, wanted, self._directory_now().names) from None
            return found
        self._directory = None
        return name

    def _with_mail(self, name: str) -> str:
        if may_hold_no_mail(name) and self._directory_now().holds_no_mail(name):
            raise FolderMissing(
                f"The folder {words(name)!r} holds no mail: it is a calendar, contacts, tasks, "
                "notes or the journal",
                code="imap.folder_without_mail",
                fix="Remove it from `folders`.",
            )
        return name

    def _missing(self, wanted: str, said: str = "") -> FolderMissing:
        what = "No folder is marked or known as" if is_role(wanted) else "There is no folder"
        message = f"{what} {words(wanted)!r}" + (f": {said}" if said else "")
        return folder_missing(message, list(self._directory_now().names))

    def _directory_now(self) -> Directory:
        """List the folders, once for a connection."""
        if self._directory is None:
            client = self._connection.client
            rows = self._connection.ask("list the folders", client.list_folders)
            prefix = self._prefix(client)
            self._directory = Directory(map(listed, rows), prefix=prefix)
        return self._directory

    def _prefix(self, client: Client) -> str:
        """Return what one's own folders lie below (RFC 2342), nothing in most mailboxes."""
        if not client.has_capability("NAMESPACE"):
            return ""
        try:
            personal = self._connection.ask("read the namespace", client.namespace).personal
        except Refused:
            return ""
        return str(personal[0][0]) if personal else ""
