"""An OAuth server that nobody here wrote: oidc-provider on Node.js, private to a test.

``OidcProvider`` is a context manager and needs no event loop. Every account works, with every
password; a person's way through its pages is walked by ``Person``. It differs from Entra where
standards leave room: tokens are opaque, errors have no numbers, a refresh token is good for one
time and a second use ends all that came from the same consent.
"""

from __future__ import annotations

import html.parser
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urljoin, urlsplit

import requests
import trustme

from tests.servers.tokens import Introspection

_HERE = Path(__file__).parent / "oidc"
_INSTALLED = Path(__file__).parents[2] / ".cache/oidc"
_MODULE = _INSTALLED / "node_modules/oidc-provider/lib/index.js"

TENANT = "contoso.test"
SCOPES = (
    "https://outlook.office365.com/.default",
    "https://outlook.office.com/IMAP.AccessAsUser.All",
    "https://outlook.office.com/POP.AccessAsUser.All",
    "https://outlook.office.com/SMTP.Send",
)
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_MAIL_SERVER = {"client_id": "mail-server", "client_secret": "introspection-is-for-mail-servers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A registered client. Without ``secret`` and ``jwk`` it is public.

    ``jwk`` is the public key of its certificate.
    """

    client_id: str
    redirects: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)
    jwk: dict[str, Any] | None = None
    scopes: tuple[str, ...] = SCOPES

    @property
    def document(self) -> dict[str, Any]:
        """How the server takes it."""
        people = ["authorization_code", "refresh_token", DEVICE_GRANT]
        shared = {
            "client_id": self.client_id,
            "application_type": "native" if not (self.secret or self.jwk) else "web",
            "redirect_uris": list(self.redirects),
            "response_types": ["code"] if self.redirects else [],
            "grant_types": people if self.redirects else [],
            "scope": " ".join(("openid", "profile", "offline_access", *self.scopes)),
        }
        if self.jwk is not None:
            shared["grant_types"] = [*shared["grant_types"], "client_credentials"]
            method = {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [self.jwk]}}
        elif self.secret:
            shared["grant_types"] = [*shared["grant_types"], "client_credentials"]
            method = {
                "token_endpoint_auth_method": "client_secret_post",
                "client_secret": self.secret,
            }
        else:
            method = {"token_endpoint_auth_method": "none"}
        return shared | method


class OidcProvider:
    """The server. ``lifetime`` is that of access tokens, in seconds."""

    def __init__(self, clients: list[Client], *, lifetime: int = 3600) -> None:
        self._clients = clients
        self._lifetime = lifetime
        self._process: subprocess.Popen[bytes] | None = None
        self.base_url = ""

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start, and return when it listens; raises ``RuntimeError`` if it does not."""
        if not _MODULE.exists() or shutil.which("node") is None:
            raise RuntimeError("the OAuth server of the tests is missing: run scripts/servers.sh")
        self._folder = Path(tempfile.mkdtemp(prefix="mbo-", dir="/tmp"))
        self._issued = self._folder / "issued"
        # Dovecot's workers read the authority's certificate under an account of their own.
        self._folder.chmod(0o755)
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        self.ca_file = self._folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        leaf.private_key_pem.write_to_path(self._folder / "server.key")
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(self._folder / "server.pem", append=True)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["node", str(_HERE / "server.mjs"), str(_MODULE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._settings()).encode() + b"\n")
        self._process.stdin.flush()
        port = self._process.stdout.readline().decode().strip()
        if not port:
            log_text = self.log
            self.stop()
            raise RuntimeError(f"the OAuth server did not start:\n{log_text[-4000:]}")
        self.base_url = f"https://localhost:{port}"
        return self

    def stop(self) -> None:
        """Stop it: it ends with its standard input."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop and clean up."""
        self.stop()

    def _settings(self) -> dict[str, Any]:
        mail_server = {
            **_MAIL_SERVER,
            "token_endpoint_auth_method": "client_secret_basic",
            "redirect_uris": [],
            "response_types": [],
            "grant_types": [],
        }
        return {
            "tenant": TENANT,
            "key": str(self._folder / "server.key"),
            "certificate": str(self._folder / "server.pem"),
            "clients": [mail_server, *(client.document for client in self._clients)],
            "scopes": SCOPES,
            "issued": str(self._issued),
            "lifetime": self._lifetime,
        }

    # -- what it is asked ---------------------------------------------------------------------

    @property
    def authority(self) -> str:
        """The login URL for ``apps.NAME.tenant``."""
        return f"{self.base_url}/{TENANT}"

    @property
    def introspection(self) -> Introspection:
        """What a Dovecot asks about the tokens that it is shown."""
        name, password = _MAIL_SERVER.values()
        place = f"{self.authority}/v2.0/token/introspection"
        return Introspection(
            url=place.replace("://", f"://{name}:{password}@", 1),
            ca=self.ca_file,
            app_scope=SCOPES[0],
        )

    @property
    def log(self) -> str:
        """One line for each request: method, path, grant, status."""
        return (self._folder / "log").read_text(errors="replace")

    @property
    def issued(self) -> list[tuple[str, str]]:
        """Every token that it has handed out: its kind (``refresh_token``) and its value."""
        if not self._issued.exists():
            return []
        pairs = (line.split(" ", 1) for line in self._issued.read_text().splitlines())
        return [(kind, value) for kind, value in pairs]

    def asked(self, grant: str) -> int:
        """How many requests there were for a grant, refused ones too."""
        return sum(f"/token {grant} " in line for line in self.log.splitlines())

    def active(self, token: str) -> bool:
        """Whether the server holds this token for good, as a mail server is told."""
        introspection = self.introspection
        with session(self.ca_file) as http:
            answer = http.post(introspection.url, data={"token": token}, timeout=10)
        answer.raise_for_status()
        return bool(answer.json()["active"])

    def revoke(self, client: Client, token: str) -> None:
        """Revoke a token (RFC 7009); with a refresh token goes all that came of the consent."""
        form = {"token": token, "client_id": client.client_id}
        if client.secret:
            form["client_secret"] = client.secret
        with session(self.ca_file) as http:
            answer = http.post(f"{self.authority}/v2.0/token/revocation", data=form, timeout=10)
        answer.raise_for_status()


def session(ca: Path) -> requests.Session:
    """Return a session that trusts ``ca`` alone and nothing that stands in the environment."""
    made = requests.Session()
    made.trust_env = False
    made.verify = str(ca)
    return made


class Person:
    """Walks the pages in a browser of their own: signs in as ``account`` and agrees to all."""

    def __init__(self, server: OidcProvider, account: str) -> None:
        self._server = server
        self._fields = {"login": account, "password": "any will do"}

    def walk(self, url: str, redirect_uri: str, *, cancel: bool = False) -> dict[str, str]:
        """Open the URL of a sign-in; returns what the redirect URI is called with."""
        with session(self._server.ca_file) as browser:
            landed = self._through(browser, url, redirect_uri, cancel=cancel)
        return dict(parse_qsl(urlsplit(landed).query))

    def enter(self, verification_uri: str, user_code: str, *, cancel: bool = False) -> None:
        """Type a device's code in, sign in and agree, or ``cancel``."""
        self._fields["user_code"] = user_code
        with session(self._server.ca_file) as browser:
            self._through(browser, verification_uri, "", cancel=cancel)

    def _through(
        self, browser: requests.Session, url: str, redirect_uri: str, *, cancel: bool
    ) -> str:
        """Submit one form after the other; returns where the last one led."""
        answer = browser.get(url, timeout=10, allow_redirects=False)
        for _ in range(20):
            if answer.is_redirect:
                place = urljoin(answer.url, answer.headers["location"])
                if redirect_uri and place.startswith(redirect_uri):
                    return place
                answer = browser.get(place, timeout=10, allow_redirects=False)
                continue
            answer.raise_for_status()
            page = _Page.read(answer.text)
            if page.action is None:
                return answer.url
            if cancel and page.way_out:
                place = urljoin(answer.url, page.way_out)
                answer = browser.get(place, timeout=10, allow_redirects=False)
                continue
            filled = {name: self._fields.get(name, value) for name, value in page.fields.items()}
            answer = browser.post(
                urljoin(answer.url, page.action), data=filled, timeout=10, allow_redirects=False
            )
        raise AssertionError(f"the pages never end; the last one is {answer.url}")


class _Page(html.parser.HTMLParser):
    """The form of a page, and its way out."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.way_out = ""

    @classmethod
    def read(cls, text: str) -> Self:
        page = cls()
        page.feed(text)
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = told["action"]
        elif tag == "input" and told.get("name"):
            self.fields[told["name"]] = told.get("value", "")
        elif tag == "a" and told.get("href", "").endswith("/abort"):
            self.way_out = told["href"]
