"""Three real mail servers behind one face, and a ledger that plays the store for a source."""

from __future__ import annotations

import asyncio
import imaplib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from mailbridge.model import (
    AccessToken,
    Batch,
    Checkpoint,
    Fingerprint,
    Gap,
    MessageRef,
    RawMessage,
)
from mailbridge.sandbox.directory import App
from mailbridge.sandbox.tenant import Tenant
from mailbridge.sources.base import Known, Session
from mailbridge.sources.imap import ImapSource
from mailbridge.sources.transport import MailServer
from tests.servers.cyrus import Cyrus
from tests.servers.dovecot import Dovecot
from tests.servers.tokens import Minter

Fetched = dict[MessageRef, RawMessage]


def mail(number: int, *, size: int = 400, message_id: str | None = None) -> bytes:
    """Return an alarm mail with a Message-ID of its own (none with an empty one)."""
    name = f"<alarm-{number}@ils.example>" if message_id is None else message_id
    header = [
        "Received: from ils.example by mx.example; Sat, 21 Nov 2026 12:00:00 +0000",
        "From: ILS <alarm@ils.example>",
        f"Subject: Einsatz {number}",
        *([f"Message-ID: {name}"] if name else []),
        "",
        "",
    ]
    text = "\r\n".join(header) + f"Stichwort: B3 {number}\r\n"
    return (text + "x" * max(0, size - len(text) - 2) + "\r\n").encode()


class Rig(Protocol):
    """A mail server with one mailbox, and how to look at it from the other side."""

    server: MailServer
    address: str
    #: characters that the name of a folder cannot have there
    refused_in_names: str
    #: whether a session goes on reading what another one has expunged (RFC 2180, 4.1.1)
    keeps_expunged: bool

    async def token(self) -> AccessToken:
        """Give a token that the server takes."""

    async def deliver(
        self, raw: bytes, *, folder: str = "INBOX", received_at: datetime | None = None
    ) -> None:
        """Let a mail arrive."""

    async def deliver_smallest(self) -> int:
        """Let the smallest mail arrive that the server can hold, and return its size."""

    async def create(self, folder: str) -> None:
        """Create a folder."""

    async def look(self, folder: str = "INBOX") -> list[tuple[int, frozenset[str], str]]:
        r"""Return UID, flags (\Recent aside) and Message-ID of what lies in a folder."""

    async def expunge(self, uid: int) -> None:
        """Let somebody else delete a message of the INBOX."""

    async def renumber(self) -> None:
        """Give the INBOX another UIDVALIDITY."""

    async def kill_sessions(self) -> None:
        """End whatever serves the mailbox at this moment, without a word if possible."""


class SandboxRig:
    """The sandbox tenant."""

    refused_in_names = ""
    keeps_expunged = False

    def __init__(self, tenant: Tenant, app: App, address: str = "alarm@feuerwehr.example") -> None:
        self.tenant, self.app, self.address = tenant, app, address
        self.box = tenant.add_mailbox(address)
        tenant.grant(app, self.box)
        self.server = MailServer(host="localhost", port=tenant.imap.port, ca=tenant.ca_file)
        self._audience = "https://outlook.office365.com"

    async def token(self) -> AccessToken:
        """Mint a token as Entra would."""
        value = self.tenant.tokens.app_token(self.app, audience=self._audience)
        return AccessToken(value=value, expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def deliver(
        self, raw: bytes, *, folder: str = "INBOX", received_at: datetime | None = None
    ) -> None:
        """Let a mail arrive."""
        self.box.deliver(raw, folder=folder, received_at=received_at)

    async def deliver_smallest(self) -> int:
        """Deliver nothing at all."""
        self.box.deliver(b"")
        return 0

    async def create(self, folder: str) -> None:
        """Create a folder."""
        self.box.create(folder)

    async def look(self, folder: str = "INBOX") -> list[tuple[int, frozenset[str], str]]:
        """Return what lies in a folder."""
        return [
            (message.uid, frozenset(message.flags), _message_id(message.raw))
            for message in self.box.folder(folder)
        ]

    async def expunge(self, uid: int) -> None:
        """Delete a message."""
        self.box.folder("INBOX").remove(uid)

    async def renumber(self) -> None:
        """Give the INBOX another UIDVALIDITY."""
        self.box.folder("INBOX").reset_uidvalidity(first_uid=500)

    async def kill_sessions(self) -> None:
        """Drop the connections."""
        self.tenant.imap.drop(self.address)

    def commands(self, name: str) -> list[str]:
        """Return the lines of a command that the server got, ``FETCH`` for ``UID FETCH`` too."""
        return [one.line for one in self.tenant.imap.commands if one.name.split()[-1] == name]


class DovecotRig:
    """The distribution's Dovecot."""

    refused_in_names = ""
    keeps_expunged = False

    def __init__(self, dovecot: Dovecot, minter: Minter, address: str) -> None:
        self.dovecot, self.minter, self.address = dovecot, minter, address
        self.server = MailServer(
            host="localhost", port=dovecot.imaps_port, ca=Path(dovecot.ca_file)
        )
        self._epoch = 1000

    async def token(self) -> AccessToken:
        """Mint a token that Dovecot verifies."""
        value = self.minter.mint_app()
        return AccessToken(value=value, expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def deliver(
        self, raw: bytes, *, folder: str = "INBOX", received_at: datetime | None = None
    ) -> None:
        """Append a mail, so that its INTERNALDATE can be chosen."""
        stamp = imaplib.Time2Internaldate(received_at or datetime.now(UTC))
        quoted = f'"{folder}"'
        await self._as_somebody(lambda client: client.append(quoted, "", stamp, raw))

    async def deliver_smallest(self) -> int:
        """Put an empty file there; Dovecot refuses to append nothing."""
        self.dovecot.deliver(self.address, b"")
        return 0

    async def create(self, folder: str) -> None:
        """Create a folder."""
        await asyncio.to_thread(
            self.dovecot.doveadm, "mailbox", "create", "-u", self.address, folder
        )

    async def look(self, folder: str = "INBOX") -> list[tuple[int, frozenset[str], str]]:
        """Return what lies in a folder."""
        stored = await asyncio.to_thread(self.dovecot.read, self.address, folder)
        return [(one.uid, one.flags - {"\\Recent"}, one.message_id) for one in stored]

    async def expunge(self, uid: int) -> None:
        """Delete a message."""

        def delete(client: imaplib.IMAP4) -> None:
            client.select("INBOX")
            client.uid("STORE", str(uid), "+FLAGS.SILENT", "(\\Deleted)")
            client.expunge()

        await self._as_somebody(delete)

    async def renumber(self) -> None:
        """Give the INBOX another UIDVALIDITY."""
        self._epoch += 1
        await asyncio.to_thread(self.dovecot.new_uidvalidity, self.address, self._epoch)

    async def kill_sessions(self) -> None:
        """Let Dovecot kick the user; it says a last word."""
        await asyncio.to_thread(self.dovecot.doveadm, "kick", self.address)

    async def _as_somebody(self, verb: Callable[[imaplib.IMAP4], object]) -> None:
        def work() -> None:
            with self.dovecot.login(self.address, self.minter.mint_app()) as client:
                verb(client)

        await asyncio.to_thread(work)


class CyrusRig:
    """The distribution's Cyrus."""

    refused_in_names = '"\\{}%;<>^`|'
    keeps_expunged = True

    def __init__(self, cyrus: Cyrus, minter: Minter, address: str) -> None:
        self.cyrus, self.minter, self.address = cyrus, minter, address
        self.server = MailServer(host="localhost", port=cyrus.imaps_port, ca=cyrus.ca_file)

    async def token(self) -> AccessToken:
        """Mint a token that the gate verifies."""
        value = self.minter.mint_app()
        return AccessToken(value=value, expires_at=datetime.now(UTC) + timedelta(hours=1))

    async def deliver(
        self, raw: bytes, *, folder: str = "INBOX", received_at: datetime | None = None
    ) -> None:
        """Append a mail, so that its INTERNALDATE can be chosen."""
        await asyncio.to_thread(
            self.cyrus.deliver, self.address, raw, folder, received_at=received_at
        )

    async def deliver_smallest(self) -> int:
        """Append an empty line; Cyrus has no message of no bytes, however it comes."""
        await self.deliver(b"\r\n")
        return 2

    async def create(self, folder: str) -> None:
        """Create a folder."""
        await self._as_somebody(lambda client: client.create_folder(folder))

    async def look(self, folder: str = "INBOX") -> list[tuple[int, frozenset[str], str]]:
        """Return what lies in a folder."""
        stored = await asyncio.to_thread(self.cyrus.read, self.address, folder)
        return [(one.uid, one.flags - {"\\Recent"}, one.message_id) for one in stored]

    async def expunge(self, uid: int) -> None:
        """Delete a message."""

        def delete(client: Any) -> None:
            client.select_folder("INBOX")
            client.delete_messages([uid])
            client.uid_expunge([uid])

        await self._as_somebody(delete)

    async def renumber(self) -> None:
        """Give the INBOX another UIDVALIDITY and its messages other UIDs."""
        await asyncio.to_thread(self.cyrus.recreate, self.address)

    async def kill_sessions(self) -> None:
        """Kill the processes."""
        assert await asyncio.to_thread(self.cyrus.kill_sessions, self.address)

    async def _as_somebody(self, verb: Callable[[Any], object]) -> None:
        def work() -> None:
            with self.cyrus.client(self.address) as client:
                verb(client)

        await asyncio.to_thread(work)


def _message_id(raw: bytes) -> str:
    for line in raw.split(b"\r\n"):
        if line.lower().startswith(b"message-id:"):
            return line[11:].strip().decode()
    return ""


def source_for(rig: Rig, pool: ThreadPoolExecutor, **changed: Any) -> ImapSource:
    """Return a source for the rig's INBOX; ``changed`` replaces single settings."""

    async def refresh(_: AccessToken) -> AccessToken:
        return await rig.token()

    def run(function: Callable[..., Any], *args: Any) -> Any:
        return asyncio.get_running_loop().run_in_executor(pool, function, *args)

    settings: dict[str, Any] = {
        "mailbox": "alarm",
        "address": rig.address,
        "folder": "INBOX",
        "server": rig.server,
        "token": rig.token,
        "refresh": refresh,
        "run": run,
        "now": lambda: datetime.now(UTC),
        "start": "all",
    }
    return ImapSource(**{**settings, **changed})


@dataclass(slots=True)
class Ledger:
    """Keeps what batches bring, by the rules of ``IntakeStore.accept``, in memory.

    ``accepted`` are the messages in the order of their arrival, ``doubled`` those that came
    again under a place that is already known.
    """

    checkpoint: Checkpoint | None = None
    accepted: Fetched = field(default_factory=dict)
    doubled: list[MessageRef] = field(default_factory=list)
    known: dict[MessageRef, str] = field(default_factory=dict)
    gaps: dict[MessageRef, Gap] = field(default_factory=dict)
    vanished: list[MessageRef] = field(default_factory=list)
    before: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    batches: list[Batch] = field(default_factory=list)

    def accept(self, batch: Batch) -> None:
        """Take a batch in."""
        self.batches.append(batch)
        for message in batch.messages:
            if message.ref in self.accepted or message.ref in self.known:
                self.doubled.append(message.ref)
                continue
            self.accepted[message.ref] = message
            self.gaps.pop(message.ref, None)
        self.known.update(dict(batch.known))
        self.before.update(batch.before)
        self.gone.update(batch.gone)
        for gap in batch.gaps:
            if gap.ref not in self.accepted:
                self.gaps[gap.ref] = gap
        for ref in batch.vanished:
            self.gaps.pop(ref, None)
            self.vanished.append(ref)
        self.checkpoint = batch.checkpoint

    def due(self) -> Known:
        """Return what a fetch is told, with every gap due."""
        return Known(checkpoint=self.checkpoint, gaps=tuple(self.gaps.values()))

    async def fingerprints(self, uidvalidity: int) -> Sequence[Fingerprint]:
        """Return the stored messages of an epoch, those recognised under new places included."""
        by_id = {ref.message_id: message for ref, message in self.accepted.items()}
        places = [(ref, message) for ref, message in self.accepted.items()]
        places += [(ref, by_id[known_as]) for ref, known_as in self.known.items()]
        return [
            Fingerprint(
                id=message.ref.message_id,
                uid=ref.uid,
                message_id=_message_id(message.raw),
                received_at=message.received_at,
                size=len(message.raw),
            )
            for ref, message in places
            if ref.uidvalidity == uidvalidity
        ]

    async def unknown(self, uidvalidity: int, uids: Sequence[int]) -> Sequence[int]:
        """Return the UIDs that are neither accepted, nor known, nor a gap."""
        places = [*self.accepted, *self.known, *self.gaps]
        there = {ref.uid for ref in places if ref.uidvalidity == uidvalidity}
        return [uid for uid in uids if uid not in there]

    async def uidls(self) -> Mapping[str, bool]:
        """Return the UIDLs that were dealt with."""
        listed = {ref.uidl for ref in [*self.accepted, *self.gaps] if ref.uidl}
        return {uidl: uidl in self.gone for uidl in listed | self.before}

    async def fetch(self, session: Session, *, stop_after: int | None = None) -> None:
        """Look once and take in all that comes, or the first few batches only."""
        count = 0
        async with aclosing(_generator(session.fetch(self.due(), self))) as batches:
            async for batch in batches:
                self.accept(batch)
                count += 1
                if count == stop_after:
                    return

    async def look(self, source: ImapSource, *, stop_after: int | None = None) -> None:
        """Open a session and look once."""
        async with source.session() as session:
            await self.fetch(session, stop_after=stop_after)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the mails that were accepted, in order."""
        return [number_of(message.raw) for message in self.accepted.values()]

    def forget_gaps(self) -> None:
        """Drop all gaps, as if none were due."""
        self.gaps.clear()

    def rewound(self, uid: int) -> Ledger:
        """Return an empty ledger that stands at an earlier UID."""
        assert self.checkpoint is not None
        return Ledger(checkpoint=replace(self.checkpoint, uid=uid))


def number_of(raw: bytes) -> int:
    """Return the number that ``mail`` was given."""
    for line in raw.split(b"\r\n"):
        if line.startswith(b"Subject: Einsatz "):
            return int(line.rsplit(b" ", 1)[1])
    raise AssertionError(f"no mail of ours: {raw[:80]!r}")


async def _generator(batches: AsyncIterator[Batch]) -> Any:
    async for batch in batches:
        yield batch
