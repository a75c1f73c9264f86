"""The distribution's Dovecot, private to a test: IMAPS, POP3S and LMTP on loopback, XOAUTH2.

``Dovecot`` is a context manager and needs no event loop, so that tests, campaigns and
benchmarks use the same one. Mailboxes come into being on first use; every address works.
"""

from __future__ import annotations

import contextlib
import grp
import imaplib
import itertools
import json
import os
import pwd
import shutil
import smtplib
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import trustme
from imapclient import imap_utf7

from tests.servers import dovecot_config
from tests.servers.tokens import Introspection, Minter, TokenRules

_COUNTER = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    r"""One message as it lies on the server: its UID, flags (such as ``\Seen``), Message-ID."""

    uid: int
    flags: frozenset[str]
    message_id: str


class Dovecot:
    r"""A Dovecot 2.3 in the foreground on ephemeral ports of 127.0.0.1 and 127.0.0.2.

    On 127.0.0.1 Dovecot takes cleartext for safe; connect to 127.0.0.2 to see it refused.
    ``rules`` verify bearer tokens, or name whom to ask about them; with ``password`` everyone
    may also sign in with that password (for programs without XOAUTH2). ``granted`` is the
    filter of mailboxes that application tokens open. ``run_as`` names the account to run under
    when started by root; by default root starts it as usual and anybody else runs it under the
    own account.
    ``probe_token`` mints a token for the ready check; without it and without a password a
    refusal by the auth process counts as ready.
    """

    def __init__(  # noqa: PLR0913 - each is a property of a server that some test needs
        self,
        rules: TokenRules | Introspection,
        *,
        password: str = "",
        probe_token: Callable[[], str] | None = None,
        granted: str = "*@* !ungranted@*",
        run_as: str = "",
        extra: str = "",
    ) -> None:
        self._rules = rules
        self._password = password
        self._probe_token = probe_token
        self._granted = granted
        self._account = run_as or ("" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        self.host = "localhost"

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start, and return when a login has been answered; raises ``RuntimeError`` if not."""
        _require_version()
        self.base = Path(tempfile.mkdtemp(prefix="mbd-", dir="/tmp"))
        self.base.chmod(0o755)
        self._write_tls()
        for _ in range(3):
            self._configure()
            self._spawn()
            if self._ready():
                return self
            taken = "Address already in use" in self.log
            self._end_process()
            if not taken:
                break
        log = self.log
        self.stop()
        raise RuntimeError(f"Dovecot did not get ready; its log says:\n{log[-4000:]}")

    def stop(self) -> None:
        """Stop the server and remove everything that it wrote."""
        self._end_process()
        shutil.rmtree(self.base, ignore_errors=True)

    def pause(self) -> None:
        """Stop the server and keep its mail; ``resume`` starts it again on the same ports."""
        self._end_process()

    def resume(self) -> None:
        """Start again what was paused."""
        self._spawn()
        if not self._ready():
            raise RuntimeError(f"Dovecot did not come back:\n{self.log[-4000:]}")

    def reload(self) -> None:
        """Make it read its configuration again."""
        self.doveadm("reload")

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop and clean up."""
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of Dovecot's master."""
        if self._process is None:
            raise RuntimeError("Dovecot is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has logged so far; the reason for a refused token stands only here."""
        path = self.base / "dovecot.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def doveadm(self, *arguments: str) -> str:
        """Run doveadm on this instance and return what it prints."""
        command = ["doveadm", "-c", str(self._config), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, **self._identity()
        )
        if done.returncode:
            raise RuntimeError(f"doveadm {arguments[0]} failed: {done.stderr.strip()}")
        return str(done.stdout)

    # -- mail ---------------------------------------------------------------------------------

    def deliver(
        self, address: str, raw: bytes, folder: str = "INBOX", *, seen: bool = False
    ) -> None:
        """Put one message into a folder by a maildir file, as a local delivery agent does."""
        path = self._folder(address, folder)
        name = self._name(raw)
        spot = path / "tmp" / name
        spot.write_bytes(raw)
        self._own(spot)
        spot.rename(path / "cur" / f"{name}:2,S" if seen else path / "new" / name)

    def deliver_lmtp(self, address: str, raw: bytes) -> None:
        """Deliver by LMTP; what the server adds are Return-Path, Delivered-To and Received."""
        with smtplib.LMTP("127.0.0.1", self.lmtp_port) as client:
            client.sendmail("sender@mail.test", [address], raw)

    def seed(self, address: str, messages: Iterable[bytes], folder: str = "INBOX") -> int:
        """Write many messages at once, in order, then index them; returns how many."""
        path = self._folder(address, folder)
        count = 0
        for count, raw in enumerate(messages, 1):
            # In cur/ the order of the UIDs is that of the names; a fixed time keeps it sorted.
            spot = path / "cur" / f"{1_700_000_000 + count}.{self._name(raw)}:2,"
            spot.write_bytes(raw)
            self._own(spot)
        self.doveadm("index", "-u", address, folder)
        return count

    def read(self, address: str, folder: str = "INBOX") -> list[Stored]:
        """List what the folder holds, by UID."""
        fields = "uid flags hdr.message-id"
        text = self.doveadm("-f", "json", "fetch", "-u", address, fields, "mailbox", folder, "all")
        return [
            Stored(
                uid=int(row["uid"]),
                flags=frozenset(row["flags"].split()),
                message_id=row["hdr.message-id"],
            )
            for row in json.loads(text or "[]")
        ]

    def new_uidvalidity(self, address: str, value: int, folder: str = "INBOX") -> None:
        """Give the folder another UIDVALIDITY, as a restored mailbox has."""
        self.doveadm("mailbox", "update", "--uid-validity", str(value), "-u", address, folder)

    def client_context(self) -> ssl.SSLContext:
        """Return a TLS context that trusts this server's authority and nothing else."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def login(self, address: str, token: str, *, host: str = "127.0.0.1") -> imaplib.IMAP4_SSL:
        """Sign in by XOAUTH2 with the standard library's client; raises ``imaplib.IMAP4.error``."""
        client = imaplib.IMAP4_SSL(
            host, self.imaps_port, ssl_context=self.client_context(), timeout=10
        )
        answer = f"user={address}\x01auth=Bearer {token}\x01\x01".encode()
        try:
            client.authenticate("XOAUTH2", lambda challenge: b"" if challenge else answer)
        except BaseException:
            client.shutdown()
            raise
        return client

    # -- inside -------------------------------------------------------------------------------

    def _write_tls(self) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", "mail.test", "127.0.0.1", "127.0.0.2")
        self.ca_file = self.base / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        self._key_file, self._cert_file = self.base / "server.key", self.base / "server.pem"
        leaf.private_key_pem.write_to_path(self._key_file)
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(self._cert_file, append=True)

    def _configure(self) -> None:
        ports = _free_ports(5)
        self.imaps_port, self.imap_port, self.pop3s_port, self.pop3_port, self.lmtp_port = ports
        shutil.rmtree(self.base / "keys", ignore_errors=True)
        owner = pwd.getpwnam(self._account or "mail")
        self._uid, self._gid = owner.pw_uid, owner.pw_gid
        layout = dovecot_config.Layout(
            base=self.base,
            certificate=self._cert_file,
            key=self._key_file,
            imaps=self.imaps_port,
            imap=self.imap_port,
            pop3s=self.pop3s_port,
            pop3=self.pop3_port,
            lmtp=self.lmtp_port,
            account=self._account,
            group=grp.getgrgid(self._gid).gr_name,
            password=self._password,
            granted=self._granted,
            extra=self._extra,
        )
        self._config = dovecot_config.write(layout, self._rules)
        self._mail = self.base / "mail"
        self._mail.mkdir(exist_ok=True)
        self._own(self._mail)
        if self._account:
            for path in [self.base, *self.base.rglob("*")]:
                self._own(path)

    def _spawn(self) -> None:
        with (self.base / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                # It ends with whoever started it, even when that one is killed.
                ["setpriv", "--pdeathsig", "TERM", "--", "dovecot", "-F", "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                **self._identity(),
            )

    def _identity(self) -> dict[str, Any]:
        if self._account and os.geteuid() == 0:
            return {"user": self._uid, "group": self._gid, "extra_groups": []}
        return {}

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
        """Wait for a login: the ports open before the auth process can be used."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            with contextlib.suppress(OSError, imaplib.IMAP4.abort):
                if self._probe():
                    return True
            time.sleep(0.02)
        return False

    def _probe(self) -> bool:
        address = "ready@probe.test"
        if self._probe_token is None and self._password:
            client = imaplib.IMAP4_SSL(
                "127.0.0.1", self.imaps_port, ssl_context=self.client_context(), timeout=10
            )
            with client:
                return client.login(address, self._password)[0] == "OK"
        token = self._probe_token() if self._probe_token else "not.a.token"
        try:
            self.login(address, token).logout()
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as refusal:
            return self._probe_token is None and "AUTHENTICATIONFAILED" in str(refusal)
        return True

    def _folder(self, address: str, folder: str) -> Path:
        path = self._mail / address
        for part in ("", "Maildir"):
            self._make(path / part)
        path /= "Maildir"
        if folder.upper() != "INBOX":
            path /= "." + imap_utf7.encode(folder.replace("/", ".")).decode("ascii")
            self._make(path)
        for part in ("cur", "new", "tmp"):
            self._make(path / part)
        return path

    def _make(self, path: Path) -> None:
        if not path.exists():
            path.mkdir()
            self._own(path)

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self._uid, self._gid)

    @staticmethod
    def _name(raw: bytes) -> str:
        wire = len(raw) + raw.count(b"\n") - raw.count(b"\r\n")
        now = time.time_ns()
        unique = f"M{now // 1000 % 1_000_000}P{os.getpid()}Q{next(_COUNTER)}"
        return f"{now // 1_000_000_000}.{unique}.mail,S={len(raw)},W={wire}"


def _require_version() -> None:
    if shutil.which("dovecot") is None:
        raise RuntimeError(
            "Dovecot is not installed: apt-get install dovecot-imapd dovecot-pop3d dovecot-lmtpd"
        )
    done = subprocess.run(["dovecot", "--version"], capture_output=True, text=True, check=True)
    version = done.stdout.split()[0]
    if tuple(int(part) for part in version.split(".")[:2]) != (2, 3):
        raise RuntimeError(
            f"Dovecot {version} has another configuration syntax than 2.3, which these tests "
            "are written for (Debian 12, Ubuntu 22.04 and 24.04 have 2.3)"
        )


def _free_ports(count: int) -> list[int]:
    """Ports that were free on all addresses a moment ago; a lost race is tried again by start."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="session")
def minter() -> Minter:
    """Make the key that the session's Dovecot trusts."""
    return Minter()


@pytest.fixture(scope="session")
def dovecot(minter: Minter) -> Iterator[Dovecot]:
    """One Dovecot for the whole session; use addresses of your own to stay apart."""
    with Dovecot(minter.rules, probe_token=minter.mint_app) as server:
        yield server
