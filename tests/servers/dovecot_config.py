"""The configuration of a private Dovecot 2.3 that takes Exchange's kind of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.servers.tokens import Introspection, TokenRules

#: the auth binary of Debian, and of distributions that use libexec
AUTH_BINARIES = (Path("/usr/lib/dovecot/auth"), Path("/usr/libexec/dovecot/auth"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where one instance lives and what it listens on."""

    base: Path
    certificate: Path
    key: Path
    imaps: int
    imap: int
    pop3s: int
    pop3: int
    lmtp: int
    #: the account that everything runs as; empty when started by root
    account: str
    group: str
    password: str
    granted: str
    extra: str


def checks_audience() -> bool:
    """Whether this build has the setting ``audience`` (Debian added it with a security update).

    Older builds compare ``scope`` with the claim ``aud`` when there is no claim ``scope``; the
    new ones no longer do, and to the old ones the new setting is a fatal error.
    """
    for binary in AUTH_BINARIES:
        if binary.exists():
            return b"\x00audience\x00" in binary.read_bytes()
    msg = "Dovecot's auth binary was not found; install dovecot-imapd"
    raise RuntimeError(msg)


def write(layout: Layout, rules: TokenRules | Introspection) -> Path:
    """Write all configuration files of an instance and return the main one."""
    if isinstance(rules, TokenRules):
        keys = layout.base / "keys/default/RS256"
        keys.mkdir(parents=True)
        (keys / rules.kid).write_bytes(rules.public_key)
    person = rules.person if isinstance(rules, TokenRules) else "preferred_username"
    user = _oauth2(layout, rules, kind="user", username=(person, "%Lu"))
    (layout.base / "oauth2-user.conf").write_text(user)
    # Both sides of the comparison of names expand to the literal "app", so that a token without
    # any user name opens every mailbox that the filter of the passdb lets through.
    claim = "tid" if isinstance(rules, TokenRules) else "idtyp"
    app = _oauth2(layout, rules, kind="app", username=(claim, "app"))
    (layout.base / "oauth2-app.conf").write_text(app)
    path = layout.base / "dovecot.conf"
    apps_first = isinstance(rules, TokenRules) and rules.unmarked
    passdbs = _passdbs(layout, apps_first=apps_first)
    path.write_text(_main(layout) + _logins(layout) + passdbs + layout.extra)
    return path


def _oauth2(
    layout: Layout, rules: TokenRules | Introspection, *, kind: str, username: tuple[str, str]
) -> str:
    attribute, name_format = username
    if isinstance(rules, Introspection):
        checks = _asked(rules, kind)
    else:
        checks = _checked(layout, rules)
        if kind == "app" or not rules.unmarked:
            checks += ["active_attribute = idtyp", f"active_value = {kind}"]
    lines = [
        *checks,
        f"username_attribute = {attribute}",
        f"username_format = {name_format}",
        "openid_configuration_url = https://login.test/.well-known/openid-configuration",
    ]
    return "\n".join(lines) + "\n"


def _asked(introspection: Introspection, kind: str) -> list[str]:
    """Ask the OAuth server about each token: one that it has revoked is refused at once.

    About such a one the answer says ``active: false`` and nothing else.
    """
    return [
        "introspection_mode = post",
        f"introspection_url = {introspection.url}",
        "force_introspection = yes",
        "active_attribute = active",
        "active_value = true",
        # Tokens of people have other scopes; and no literal of a name tells the two apart.
        *([f"scope = {introspection.app_scope}"] if kind == "app" else ()),
        f"tls_ca_cert_file = {introspection.ca}",
        "timeout_msecs = 5000",
    ]


def _checked(layout: Layout, rules: TokenRules) -> list[str]:
    """Verify the token itself, and ask nobody."""
    lines = [
        "introspection_mode = local",
        f"local_validation_key_dict = fs:posix:prefix={layout.base}/keys/",
    ]
    if rules.issuer:
        lines.append(f"issuers = {rules.issuer}")
    if rules.audience:
        setting = "audience" if checks_audience() else "scope"
        lines.append(f"{setting} = {rules.audience}")
    return lines


def _main(layout: Layout) -> str:
    if layout.account:
        owner = ""
        users = f"""
default_internal_user = {layout.account}
default_internal_group = {layout.group}
default_login_user = {layout.account}
first_valid_uid = 1
first_valid_gid = 0
"""
    else:
        owner = "uid=mail gid=mail "
        users = "first_valid_uid = 8\nfirst_valid_gid = 8\n"
    return f"""
base_dir = {layout.base}/run
state_dir = {layout.base}/state
instance_name = {layout.base.name}
log_path = {layout.base}/dovecot.log
auth_verbose = yes
protocols = imap pop3 lmtp
listen = 127.0.0.1, 127.0.0.2
ssl = required
ssl_cert = <{layout.certificate}
ssl_key = <{layout.key}
ssl_min_protocol = TLSv1.2
hostname = mail.test
postmaster_address = postmaster@mail.test
{users}
mail_fsync = never
mail_location = maildir:~/Maildir
mail_max_userip_connections = 2000
default_vsz_limit = 1G
default_client_limit = 5000
auth_failure_delay = 0
disable_plaintext_auth = yes
namespace inbox {{
  inbox = yes
  separator = /
}}
userdb {{
  driver = static
  args = {owner}home={layout.base}/mail/%u allow_all_users=yes
}}
protocol pop3 {{
  pop3_uidl_format = %08Xu%08Xv
}}
"""


def _logins(layout: Layout) -> str:
    chroot = "  chroot =\n" if layout.account else ""
    stats = "service stats {\n  chroot =\n}\n" if layout.account else ""
    # Shared imap processes: each process may watch many mailboxes with one inotify instance, of
    # which a user has only 128; beyond that Dovecot silently stops to push.
    return f"""
service anvil {{
  client_limit = 8000
{chroot}  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
{stats}service auth {{
  client_limit = 8000
}}
service imap-login {{
  service_count = 0
  process_min_avail = 1
  process_limit = 2
  client_limit = 4000
{chroot}  inet_listener imap {{
    port = {layout.imap}
  }}
  inet_listener imaps {{
    port = {layout.imaps}
    ssl = yes
  }}
}}
service imap {{
  process_limit = 2000
  client_limit = 100
  service_count = 0
}}
service pop3-login {{
  service_count = 0
  client_limit = 4000
  process_limit = 2
{chroot}  inet_listener pop3 {{
    port = {layout.pop3}
  }}
  inet_listener pop3s {{
    port = {layout.pop3s}
    ssl = yes
  }}
}}
service pop3 {{
  process_limit = 2000
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {layout.lmtp}
  }}
}}
"""


def _passdbs(layout: Layout, *, apps_first: bool) -> str:
    plain = f"""
auth_mechanisms = xoauth2 oauthbearer plain login
passdb {{
  driver = static
  mechanisms = plain login
  args = password={layout.password}
}}
"""
    people = f"""
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {layout.base}/oauth2-user.conf
}}
"""
    apps = f"""
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {layout.base}/oauth2-app.conf
  username_filter = {layout.granted}
}}
"""
    head = plain if layout.password else "\nauth_mechanisms = xoauth2 oauthbearer\n"
    # A token without the name of a person is a fault, not a refusal, where it should have one.
    return head + (apps + people if apps_first else people + apps)
