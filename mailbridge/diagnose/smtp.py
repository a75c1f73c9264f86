"""What ``test-mailbox`` does where a mailbox sends: connect, change to TLS, sign in, no mail."""

from __future__ import annotations

from mailbridge.config import Mailbox, Send
from mailbridge.model import AccessToken
from mailbridge.sinks.smtp_session import sign_in
from mailbridge.sinks.smtp_wire import Patience, SmtpServer, Wire

#: of EHLO's capabilities, those that matter to mail
_TELLING = ("size", "8bitmime", "smtputf8", "dsn")
#: nobody waits longer for a diagnosis
_PATIENCE = Patience(hello=15.0, command=15.0)


class SmtpProbe:
    """The SMTP steps of one mailbox, in this order; each says what it saw."""

    def __init__(self, mailbox: Mailbox, send: Send) -> None:
        server = send.server
        self._mailbox = mailbox
        self._server = SmtpServer(
            host=server.host, port=server.port, tls=server.tls, ca=server.ca, proxy=server.proxy
        )
        self._wire: Wire | None = None

    async def connect(self) -> str:
        """Connect and change to TLS, as the daemon does."""
        server = self._server
        self._wire = wire = await Wire.open(server, _PATIENCE)
        offered = [
            f"{name.upper()} {wire.capabilities[name]}".strip()
            for name in _TELLING
            if name in wire.capabilities
        ]
        how = "STARTTLS" if server.tls == "starttls" else "TLS"
        return f"{server.host} port {server.port}, {how}, certificate trusted; {', '.join(offered)}"

    async def sign_in(self, token: AccessToken) -> str:
        """Sign in by XOAUTH2; nothing is sent."""
        assert self._wire is not None  # noqa: S101 - the step before has succeeded
        user = self._mailbox.account
        await sign_in(self._wire, user, token, mailbox=self._mailbox.address)
        return f"signed in as {user} by XOAUTH2; no mail was sent"

    async def close(self) -> None:
        """Close the connection, if there is one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()
