"""The distribution's Postfix, private to a test: submission on loopback, XOAUTH2 by Dovecot.

``Postfix`` is a context manager that brings a Dovecot of its own: it asks that one's auth
service about tokens, and hands it by LMTP what it has taken, for every domain. So what was
submitted here can be read there. Nothing ever leaves the machine.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import smtplib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.servers.dovecot import Dovecot
from tests.servers.tokens import Minter, TokenRules

_DAEMONS = (Path("/usr/lib/postfix/sbin"), Path("/usr/libexec/postfix"))
_QUEUES = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
    *("maildrop", "saved", "trace"),
)
#: by recipient: what the server answers instead of taking it
REFUSALS = {
    "defer": "451 4.7.0 Temporary server error. Please try again later",
    "busy": "432 4.3.2 Concurrent connections limit exceeded",
    "reject": "550 5.1.1 User unknown",
}


class Postfix:
    """A Postfix 3 in the foreground on an ephemeral port of 127.0.0.1; needs root.

    A mail from another address than the one signed in is refused (553 5.7.1), as are recipients
    ``defer@``, ``busy@`` and ``reject@`` of any domain: see ``REFUSALS``. ``extra`` are further
    lines of main.cf.
    """

    def __init__(
        self,
        rules: TokenRules,
        *,
        probe_token: Callable[[], str] | None = None,
        extra: str = "",
    ) -> None:
        self._rules = rules
        self._probe_token = probe_token
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        self.host = "localhost"

    def start(self) -> Self:
        """Start both servers; returns when Postfix greets. Raises ``RuntimeError`` if not."""
        if os.geteuid() != 0:
            raise RuntimeError("Postfix's master changes users, so these tests need root")
        self.base = Path(tempfile.mkdtemp(prefix="mbp-", dir="/tmp"))
        self.base.chmod(0o755)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        # A socket in a folder of ours, which cannot be taken by anybody as a port can.
        socket_path = self.base / "auth"
        listener = f"  unix_listener {socket_path} {{\n    mode = 0666\n  }}\n"
        self.dovecot = Dovecot(
            self._rules,
            probe_token=self._probe_token,
            extra=f"service auth {{\n{listener}}}\n",
        ).start()
        self.ca_file = self.dovecot.ca_file
        self._lay_out()
        for _ in range(3):
            self.port = _free_port()
            self._configure(socket_path)
            self._spawn()
            if self._ready():
                return
            taken = "Address already in use" in self.log
            self._end_process()
            if not taken:
                break
        raise RuntimeError(f"Postfix did not get ready; its log says:\n{self.log[-4000:]}")

    def stop(self) -> None:
        """Stop both servers and remove everything that they wrote."""
        self._end_process()
        if (dovecot := getattr(self, "dovecot", None)) is not None:
            dovecot.stop()
        shutil.rmtree(self.base, ignore_errors=True)

    def pause(self) -> None:
        """Stop Postfix and keep its queue; ``resume`` starts it again on the same port."""
        self._end_process()

    def resume(self) -> None:
        """Start again what was paused."""
        self._spawn()
        if not self._ready():
            raise RuntimeError(f"Postfix did not come back:\n{self.log[-4000:]}")

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop and clean up."""
        self.stop()

    @property
    def log(self) -> str:
        """All that it has logged so far."""
        texts = [self.base / "maillog", self.base / "stderr"]
        return "".join(path.read_text(errors="replace") for path in texts if path.exists())

    @property
    def waiting(self) -> int:
        """How many mails it has taken and not handed on yet."""
        spool = self.base / "spool"
        queues = ("maildrop", "incoming", "active", "deferred")
        return sum(1 for queue in queues for path in (spool / queue).rglob("*") if path.is_file())

    def read(self, address: str, folder: str = "INBOX") -> list[bytes]:
        """Return what has arrived in a mailbox, oldest first, as IMAP would give it."""
        path = self.dovecot.base / "mail" / address / "Maildir"
        if folder != "INBOX":
            path /= f".{folder}"
        found = [one for part in ("new", "cur") for one in path.glob(f"{part}/*")]
        return [one.read_bytes() for one in sorted(found, key=lambda one: one.name)]

    def wait_for(self, address: str, count: int = 1, *, seconds: float = 20.0) -> list[bytes]:
        """Return the mails of a mailbox once there are so many; ``AssertionError`` if not."""
        deadline = time.monotonic() + seconds
        while len(mails := self.read(address)) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(mails)} of {count} arrived:\n{self.log[-2000:]}")
            time.sleep(0.02)
        return mails

    # -- inside -------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Make the folders that Postfix's own start script would make, in 2 s instead of 0."""
        owner = pwd.getpwnam("postfix")
        for name in ("etc", "spool", "spool/pid"):
            (self.base / name).mkdir()
        for name in ("data", *(f"spool/{queue}" for queue in _QUEUES)):
            self._owned(self.base / name, owner.pw_uid, 0o700)
        self._owned(self.base / "spool/private", owner.pw_uid, 0o700)
        self._owned(self.base / "spool/public", owner.pw_uid, 0o710)
        # postlogd writes as postfix; the master makes no files there.
        (self.base / "maillog").touch()
        os.chown(self.base / "maillog", owner.pw_uid, 0)

    @staticmethod
    def _owned(path: Path, uid: int, mode: int) -> None:
        path.mkdir(mode=mode)
        os.chown(path, uid, 0)

    def _configure(self, auth: Path) -> None:
        etc = self.base / "etc"
        (etc / "main.cf").write_text(_MAIN.format(base=self.base, auth=auth, **self._facts()))
        (etc / "master.cf").write_text(_MASTER.format(port=self.port))
        (etc / "sender_login").write_text("/^(.*)$/ ${1}\n")
        refusals = "".join(f"/^{name}@/ {text}\n" for name, text in REFUSALS.items())
        (etc / "recipients").write_text(refusals)
        with (etc / "main.cf").open("a") as main:
            main.write(self._extra)

    def _facts(self) -> dict[str, object]:
        return {
            "daemons": _daemons(),
            "certificate": self.dovecot.base / "server.pem",
            "key": self.dovecot.base / "server.key",
            "lmtp": self.dovecot.lmtp_port,
        }

    def _spawn(self) -> None:
        with (self.base / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                # It ends with whoever started it, even when that one is killed.
                [
                    *("setpriv", "--pdeathsig", "TERM", "--"),
                    *(str(_daemons() / "master"), "-d", "-c", str(self.base / "etc")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                # A group of its own: the master ends its children by a signal to its group.
                start_new_session=True,
            )

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
        # What the master has started belongs to its group, and outlives it for a moment.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

    def _ready(self) -> bool:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            with (
                contextlib.suppress(OSError, smtplib.SMTPException),
                smtplib.SMTP("127.0.0.1", self.port, timeout=10) as client,
            ):
                return client.noop()[0] == 250
            time.sleep(0.02)
        return False


def _daemons() -> Path:
    for folder in _DAEMONS:
        if (folder / "master").exists():
            return folder
    raise RuntimeError("Postfix is not installed: apt-get install postfix")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


_MAIN = """\
compatibility_level = 3.6
config_directory = {base}/etc
daemon_directory = {daemons}
queue_directory = {base}/spool
data_directory = {base}/data
maillog_file = {base}/maillog
maillog_file_prefixes = {base}
multi_instance_enable = no
myhostname = mail.test
mydomain = test
myorigin = mail.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks =
alias_maps =
alias_database =
local_recipient_maps =
local_transport = error:no local mail
biff = no
virtual_mailbox_domains = static:all
virtual_mailbox_maps = static:all
virtual_transport = lmtp:inet:127.0.0.1:{lmtp}
default_transport = discard
relay_transport = discard
smtp_dns_support_level = disabled
lmtp_host_lookup = native
append_dot_mydomain = no
strict_rfc821_envelopes = yes
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {auth}
smtpd_sasl_security_options = noanonymous
smtpd_sender_login_maps = regexp:{base}/etc/sender_login
smtpd_recipient_restrictions = check_recipient_access regexp:{base}/etc/recipients,
    permit_sasl_authenticated, reject
smtpd_sender_restrictions = reject_sender_login_mismatch
smtpd_relay_restrictions = permit_sasl_authenticated, reject
message_size_limit = 36700160
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
"""

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
lmtp      unix - - n - - lmtp
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


@pytest.fixture(scope="module")
def postfix(minter: Minter) -> Iterator[Postfix]:
    """One Postfix for the module; use addresses of your own to stay apart."""
    with Postfix(minter.rules, probe_token=minter.mint_app) as server:
        yield server
