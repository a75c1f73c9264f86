"""The configuration of a private Cyrus IMAP 3 behind a gate that verifies Exchange's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: what the distribution's cyrus-common installs
PROGRAMS = Path("/usr/lib/cyrus/bin")
#: where scripts/servers.sh unpacks the daemons that cannot be installed beside Dovecot's
UNPACKED = Path(__file__).parents[2] / ".cache/cyrus/usr/lib/cyrus/bin"
#: the daemons that cyrus-imapd and cyrus-pop3d bring
DAEMONS = ("imapd", "pop3d", "idled")
#: whoever signs in under this name administers the server
ADMIN = "administrator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where one instance lives. Its sockets are files: nobody but the gate is meant to connect."""

    base: Path
    #: the account and the group that everything runs under
    account: str
    group: str
    #: what stands between the levels of a folder's name
    separator: Literal["/", "."] = "/"

    @property
    def imap(self) -> Path:
        """The socket of imapd."""
        return self.base / "run/imap"

    @property
    def pop3(self) -> Path:
        """The socket of pop3d."""
        return self.base / "run/pop3"

    @property
    def saslauthd(self) -> Path:
        """The socket where Cyrus asks whether a password is right."""
        return self.base / "run/mux"

    @property
    def imapd_conf(self) -> Path:
        """The configuration of every program."""
        return self.base / "imapd.conf"

    @property
    def cyrus_conf(self) -> Path:
        """What the master process starts."""
        return self.base / "cyrus.conf"


def find(daemon: str) -> Path:
    """Return where a daemon lies; ``RuntimeError`` if it is missing."""
    for folder in (PROGRAMS, UNPACKED):
        if (folder / daemon).exists():
            return folder / daemon
    raise RuntimeError(f"Cyrus's {daemon} is missing: run scripts/servers.sh")


def write(layout: Layout) -> None:
    """Write all files of an instance and make its folders."""
    for folder in ("bin", "conf/socket", "run", "spool"):
        (layout.base / folder).mkdir(parents=True, exist_ok=True)
    layout.imapd_conf.write_text(_settings(layout))
    layout.cyrus_conf.write_text(_services(layout))


def _settings(layout: Layout) -> str:
    base = layout.base
    # "/": a folder "Archive" lies beside the INBOX, as at Exchange and as Cyrus 3 is set up unless
    # told otherwise. ".": it is "INBOX.Archive", as at all Cyrus servers in former times.
    unix = "yes" if layout.separator == "/" else "no"
    return f"""
configdirectory: {base}/conf
defaultpartition: default
partition-default: {base}/spool
proc_path: {base}/run/proc
mboxname_lockpath: {base}/run/lock
idlesocket: {base}/run/idle
notifysocket: {base}/run/notify
servername: cyrus.test
syslog_prefix: {base.name}
cyrus_user: {layout.account}
cyrus_group: {layout.group}
admins: {ADMIN}
unixhierarchysep: {unix}
altnamespace: {unix}
virtdomains: userid
defaultdomain: internal.test
autocreate_quota: 0
autocreate_post: yes
delete_mode: immediate
sasl_mech_list: PLAIN
sasl_pwcheck_method: saslauthd
sasl_saslauthd_path: {layout.saslauthd}
allowplaintext: yes
failedloginpause: 0
skiplist_unsafe: yes
"""


def _services(layout: Layout) -> str:
    conf, own = f"-C {layout.imapd_conf}", layout.base / "bin"
    # -U: how many connections a process serves, one after the other, before it ends
    return f"""
START {{
  recover cmd="{PROGRAMS}/ctl_cyrusdb {conf} -r"
}}
SERVICES {{
  imap cmd="{own}/imapd {conf} -U 200" listen="{layout.imap}" prefork=1
  pop3 cmd="{own}/pop3d {conf} -U 200" listen="{layout.pop3}" prefork=0
}}
DAEMON {{
  idled cmd="{own}/idled {conf}"
}}
"""
