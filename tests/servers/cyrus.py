"""The distribution's Cyrus, private to a test: a second IMAP and POP3 server of another make.

Cyrus checks no bearer tokens, so a gate stands in front of it that does, and then copies bytes.
``Cyrus`` is a context manager like ``Dovecot`` and needs no event loop. Mailboxes come into
being at their first sign-in; every address works.
"""

from __future__ import annotations

import contextlib
import grp
import imaplib
import os
import pwd
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import pytest
import trustme
from imapclient import IMAPClient

from tests.servers import cyrus_config
from tests.servers.cyrus_config import ADMIN, DAEMONS, PROGRAMS, Layout
from tests.servers.dovecot import Stored
from tests.servers.tokens import Minter, TokenRules
from tests.servers.xoauth2_gate import Gate, verdict

_SAVED = ["FLAGS", "INTERNALDATE", "BODY.PEEK[]"]
_RECENT = b"\\Recent"


class Cyrus:
    """A Cyrus 3 in the foreground, IMAPS and POP3S on ephemeral ports of 127.0.0.1.

    ``rules`` verify bearer tokens; ``granted`` is the filter of mailboxes that application
    tokens open. Started by root it runs under ``run_as``, otherwise under the own account.
    With the ``separator`` "." folders lie below the INBOX, not beside it. It logs to the
    system's log only, where there is one, under ``base.name``; ``log`` has what it prints and
    why tokens were refused.
    """

    def __init__(
        self,
        rules: TokenRules,
        *,
        probe_token: Callable[[], str],
        granted: str = "*@* !ungranted@*",
        run_as: str = "cyrus",
        separator: Literal["/", "."] = "/",
    ) -> None:
        self._judge = verdict(rules, granted)
        self._probe_token = probe_token
        own = pwd.getpwuid(os.geteuid()).pw_name
        self._account = run_as if os.geteuid() == 0 else own
        self._separator: Literal["/", "."] = separator
        self._process: subprocess.Popen[bytes] | None = None
        self.host = "localhost"

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start, and return when a login has been answered; raises ``RuntimeError`` if not."""
        daemons = [cyrus_config.find(name) for name in DAEMONS]
        self.base = Path(tempfile.mkdtemp(prefix="mbc-", dir="/tmp"))
        self.base.chmod(0o755)
        account = self._owner()
        self._layout = Layout(
            base=self.base,
            account=self._account,
            group=grp.getgrgid(account.pw_gid).gr_name,
            separator=self._separator,
        )
        cyrus_config.write(self._layout)
        for daemon in daemons:  # where they lie, the account may not be able to look
            shutil.copy(daemon, self.base / "bin")
        for path in [self.base, *self.base.rglob("*")]:
            if os.geteuid() == 0:
                os.chown(path, account.pw_uid, account.pw_gid)
        self._write_tls()
        self._password = secrets.token_hex(16)
        self._gate = Gate(
            self._judge,
            password=self._password,
            imap=self._layout.imap,
            pop3=self._layout.pop3,
        )
        try:
            self._spawn()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and remove everything that it wrote."""
        try:
            self.pause()
        finally:
            shutil.rmtree(self.base, ignore_errors=True)

    def pause(self) -> None:
        """Stop the server and keep its mail; ``resume`` starts it again on the same ports."""
        try:
            self._gate.stop()
        finally:
            self._end_process()

    def resume(self) -> None:
        """Start again what was paused."""
        self._spawn()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop and clean up."""
        self.stop()

    @property
    def imaps_port(self) -> int:
        """Where the gate takes IMAP under TLS."""
        return self._gate.imap.port

    @property
    def pop3s_port(self) -> int:
        """Where the gate takes POP3 under TLS."""
        return self._gate.pop3.port

    @property
    def pid(self) -> int:
        """The process id of Cyrus's master."""
        if self._process is None:
            raise RuntimeError("Cyrus is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """What Cyrus printed and the gate refused, so far."""
        path = self.base / "printed"
        printed = path.read_text(errors="replace") if path.exists() else ""
        return printed + "".join(f"refused {line}\n" for line in self._gate.refusals)

    def sessions(self, address: str) -> list[int]:
        """Return the processes that serve a mailbox; they show from their first command on."""
        found = []
        for path in (self.base / "run/proc").iterdir():
            # One line of words, parted by tabs, for each process; it goes with its session.
            with contextlib.suppress(FileNotFoundError):
                if path.name.isdecimal() and address in path.read_text().split("\t"):
                    found.append(int(path.name))
        return found

    def kill_sessions(self, address: str) -> int:
        """Kill the processes that serve a mailbox, as a crash would; returns how many."""
        pids = self.sessions(address)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return len(pids)

    # -- mail ---------------------------------------------------------------------------------

    def deliver(
        self,
        address: str,
        raw: bytes,
        folder: str = "INBOX",
        *,
        flags: Sequence[bytes] = (),
        received_at: datetime | None = None,
    ) -> None:
        """Put one message, which must not be empty, into a folder, as another client does."""
        with self.client(address) as client:
            client.append(folder, raw, flags, received_at)

    def create(self, address: str, folder: str, *, use: str = "") -> None:
        r"""Create a folder; ``use`` marks it with a role such as ``\Sent`` (RFC 6154)."""
        with self.client(address) as client:
            client.create_folder(folder) if not use else client.create_marked(folder, use)

    def read(self, address: str, folder: str = "INBOX") -> list[Stored]:
        """List what the folder holds, by UID."""
        header = b"BODY[HEADER.FIELDS (MESSAGE-ID)]"
        with self.client(address) as client:
            client.select_folder(folder, readonly=True)
            rows = client.fetch(client.search(), ["FLAGS", header.replace(b"[", b".PEEK[", 1)])
        return [
            Stored(
                uid=uid,
                flags=frozenset(flag.decode() for flag in row[b"FLAGS"]),
                message_id=row[header].partition(b":")[2].strip().decode(),
            )
            for uid, row in sorted(rows.items())
        ]

    def recreate(self, address: str) -> None:
        """Restore the INBOX from what it held: the same mail, other UIDs, another UIDVALIDITY.

        All other folders are gone afterwards. Sessions that are open are ended by Cyrus.
        """
        with self.client(address) as client:
            client.select_folder("INBOX", readonly=True)
            saved = client.fetch(client.search(), _SAVED)
        inbox = f"user{self._separator}{address}"
        with self.client(ADMIN) as client:
            client.setacl(inbox, ADMIN, "lrswipkxtecda")
            client.delete_folder(inbox)
            client.create_folder(inbox)
        with self.client(address) as client:
            for _, row in sorted(saved.items()):
                flags = [flag for flag in row[b"FLAGS"] if flag != _RECENT]
                client.append("INBOX", row[b"BODY[]"], flags, row[b"INTERNALDATE"])

    @contextlib.contextmanager
    def client(self, user: str) -> Iterator[Any]:
        """Sign in somebody at Cyrus itself, past the gate: an ``IMAPClient``."""
        with _Direct(str(self._layout.imap)) as client:
            client.plain_login(user, self._password)
            yield client

    def client_context(self) -> ssl.SSLContext:
        """Return a TLS context that trusts this server's authority and nothing else."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def login(self, address: str, token: str) -> imaplib.IMAP4_SSL:
        """Sign in by XOAUTH2 with the standard library's client; raises ``imaplib.IMAP4.error``."""
        client = imaplib.IMAP4_SSL(
            "127.0.0.1", self.imaps_port, ssl_context=self.client_context(), timeout=10
        )
        answer = f"user={address}\x01auth=Bearer {token}\x01\x01".encode()
        try:
            client.authenticate("XOAUTH2", lambda challenge: b"" if challenge else answer)
        except BaseException:
            client.shutdown()
            raise
        return client

    # -- inside -------------------------------------------------------------------------------

    def _owner(self) -> pwd.struct_passwd:
        try:
            return pwd.getpwnam(self._account)
        except KeyError:
            raise RuntimeError(f"no account {self._account}: run scripts/servers.sh") from None

    def _write_tls(self) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        self.ca_file = self.base / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(self._tls)

    def _spawn(self) -> None:
        """Start gate and server, and wait for a login; raises ``RuntimeError``."""
        self._layout.saslauthd.unlink(missing_ok=True)
        self._gate.start(self._tls, self._layout.saslauthd)
        # It ends with whoever started it, even when that one is killed.
        command = ["setpriv", "--pdeathsig", "TERM", "--", str(PROGRAMS / "master"), "-D"]
        command += ["-C", str(self._layout.imapd_conf), "-M", str(self._layout.cyrus_conf)]
        command += ["-p", str(self.base / "run/master.pid")]
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = self._owner()
            identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        with (self.base / "printed").open("ab") as printed:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "CYRUS_VERBOSE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                # When told to end, the master tells everybody in its process group.
                process_group=0,
                **identity,
            )
        if not self._ready():
            raise RuntimeError(f"Cyrus did not get ready; it says:\n{self.log[-4000:]}")

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ready(self) -> bool:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            with contextlib.suppress(OSError, imaplib.IMAP4.abort):
                self.login("ready@probe.test", self._probe_token()).logout()
                return True
            time.sleep(0.02)
        return False


class _UnixWire(imaplib.IMAP4):
    """imaplib on a socket that is a file."""

    def _create_socket(self, timeout: float | None = None) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(timeout)
        made.connect(self.host)
        return made


class _Direct(IMAPClient):  # type: ignore[misc]  # imapclient ships no types
    """IMAPClient on a socket that is a file."""

    def __init__(self, path: str) -> None:
        super().__init__(path, ssl=False, timeout=10)
        self.normalise_times = False

    def create_marked(self, folder: str, use: str) -> None:
        """Create a folder with a role."""
        name = self._normalise_folder(folder)
        self._checkok("create", *self._imap.xatom("CREATE", name, f"(USE ({use}))"))

    def _create_IMAP4(self) -> imaplib.IMAP4:  # noqa: N802 - imapclient's name
        return _UnixWire(self.host, timeout=10)


@pytest.fixture(scope="session")
def cyrus(minter: Minter) -> Iterator[Cyrus]:
    """One Cyrus for the whole session; use addresses of your own to stay apart."""
    with Cyrus(minter.rules, probe_token=minter.mint_app) as server:
        yield server
