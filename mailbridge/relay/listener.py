"""The listener: opened before anything else begins, served in the daemon's own event loop.

::

    relay = Relay(…);  relay.open();  await relay.run(stop);  await relay.close()

Each mail is answered with 250 only after the commits that make it durable: first those of its
inbound addresses, which a repeat does not double, and last the one that queues it for sending.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import structlog

from mailbridge.compose.draft import Handed, Origin, Taken
from mailbridge.config.relay import Relay as Section
from mailbridge.errors import (
    ConfigError,
    MailbridgeError,
    PermanentError,
    Problem,
    StoreFull,
    StoreRefused,
)
from mailbridge.health import RelayHealth
from mailbridge.http.listening import listen_at
from mailbridge.relay.bounds import Bounds, Limits
from mailbridge.relay.conversation import Conversation
from mailbridge.relay.hooks import Brought, aside
from mailbridge.relay.inbound import Inbound, tells_itself_apart
from mailbridge.relay.policy import Policy, ToQueue, ToRoutes, key

log = structlog.get_logger()

#: characters of a reason that a reply has room for
_REASON: Final = 400


#: what a client is told of a mail that is not to be sent, by the error's code
_REPLIES: Final = {
    "send.not_allowed": "550 5.7.60",
    "send.no_mailbox": "550 5.7.1",
    "send.too_large": "552 5.3.4",
    "send.loop": "554 5.4.6",
}


class Outbox(Protocol):
    """A ``Protocol``: where mails are handed over that are to be sent."""

    async def hand_over(self, handed: Handed, origin: Origin) -> Taken:
        """Make a mail durable.

        Raises ``PermanentError`` for what is not to be sent like this, ``StoreFull``, or
        ``TemporaryError``.
        """


class Relay:
    """A listener and its sessions. ``apply`` takes another section while it runs."""

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        section: Section,
        *,
        outbox: Outbox,
        inbound: Inbound,
        hostname: str,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.bounds = Bounds(limits or Limits(), clock)
        self.figures = RelayHealth()
        self._hostname = hostname
        self._outbox = outbox
        self._inbound = inbound
        self._wait = wait
        self._sockets: list[socket.socket] = []
        self._sessions: set[Conversation] = set()
        self._storing: set[asyncio.Task[str]] = set()
        self._section = section
        self._tls: ssl.SSLContext | None = None
        self.policy = policy_of(section)

    @property
    def port(self) -> int:
        """Where it listens; 0 before ``open``, and when it is off."""
        return self._sockets[0].getsockname()[1] if self._sockets else 0

    def open(self) -> None:
        """Take the port. Raises ``ConfigError`` when it is taken, or a certificate unusable."""
        # Its own log has every command with its addresses, and passwords that were mistyped.
        logging.getLogger("mail.log").setLevel(logging.CRITICAL + 1)
        self._tls = tls_of(self._section)
        if self._section.listen != "off":
            self._sockets = listen_at(self._section.host, self._section.port, key="relay.listen")
            self.figures.listening = f"{self._section.host}:{self.port}"

    def apply(self, section: Section, inbound: Inbound) -> bool:
        """Take another section, and let every session go by it at once.

        ``False`` when ``listen`` is another: that needs a new listener. Raises ``ConfigError``,
        with nothing changed, when the certificate cannot be used.
        """
        tls = tls_of(section)
        if section.listen != self._section.listen:
            return False
        self._section, self._tls, self._inbound = section, tls, inbound
        self.policy = policy_of(section)
        return True

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop``; mails that are coming in then have a few seconds to end."""
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(self._session, sock=one) for one in self._sockets]
        if servers:
            log.info("relay.listening", port=self.port)
        try:
            await stop.wait()
        finally:
            for server in servers:
                server.close()
            await self._finish()

    async def close(self) -> None:
        """Give back the port; a mail that is being stored is waited for."""
        for one in self._sockets:
            one.close()
        await self._finish()

    async def _finish(self) -> None:
        for session in list(self._sessions):
            session.leave()
        if tasks := [one.task for one in self._sessions if one.task is not None]:
            _, late = await asyncio.wait(tasks, timeout=self.bounds.limits.stop)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._storing:
            await asyncio.wait(self._storing)

    def _session(self) -> Conversation:
        tls = self._section.tls
        session = _Session(
            self,
            max_size=self._section.max_size,
            hostname=self._hostname,
            tls_context=self._tls,
            require_starttls=tls is not None and tls.require,
        )
        session.keep_in(self._sessions)
        return session

    async def wait(self, seconds: float) -> None:
        """See ``Desk``."""
        await self._wait(seconds)

    async def take(self, mail: Brought) -> str:
        """See ``Desk``. What has begun to be stored goes on when the client leaves."""
        task = asyncio.create_task(self._take(mail))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)
        return await asyncio.shield(task)

    async def _take(self, mail: Brought) -> str:
        about = {"client": mail.client, "size": len(mail.content), "recipients": len(mail.words)}
        begun = time.perf_counter()
        try:
            taken = await self._commit(mail)
        except StoreFull as error:
            self.figures.put_off[error.code] += 1
            log.error("relay.not_taken", **about, error=str(error), code=error.code)  # noqa: TRY400 - no bug
            return "452 4.3.1 The disk is full here; try again later"
        except PermanentError as error:
            if isinstance(error, StoreRefused):
                return self._later(error, about)
            self.figures.refused[error.code] += 1
            log.warning("relay.refused", **about, reason=error.code)
            log.debug("relay.refused_mail", sender=mail.sender, error=str(error))
            reply = _REPLIES.get(error.code, "554 5.6.0")
            return f"{reply} {_one_line(f'{error} {error.fix}')}"
        except MailbridgeError as error:
            return self._later(error, about)
        except Exception:
            self.figures.put_off["internal"] += 1
            log.exception("relay.bug", **about)
            return "451 4.3.0 Something went wrong here; try again later"
        about["took_ms"] = round((time.perf_counter() - begun) * 1000, 1)
        self.figures.taken += 1
        log.info("relay.taken", **about, id=taken)
        log.debug("relay.taken_addresses", id=taken, sender=mail.sender)
        return f"250 2.0.0 Taken as {' '.join(taken)}"

    def _later(self, error: MailbridgeError, about: dict[str, object]) -> str:
        self.figures.put_off[error.code] += 1
        log.warning("relay.not_taken", **about, error=str(error), code=error.code)
        return "451 4.3.0 Not stored; try again later"

    async def _commit(self, mail: Brought) -> list[str]:
        """Store a mail for all of its recipients; a repeat after a failure halfway is harmless."""
        routed = dict.fromkeys(w.address for _, w in mail.words if isinstance(w, ToRoutes))
        queued: dict[str, list[str]] = {}
        for recipient, word in mail.words:
            if isinstance(word, ToQueue):
                queued.setdefault(word.mailbox, []).append(recipient)
        taken = [(await self._inbound.take(address, mail)).id for address in routed]
        for mailbox, recipients in queued.items():
            handed = Handed(raw=mail.content, sender=mailbox, recipients=tuple(recipients))
            origin = await aside(functools.partial(_origin, mail.sender, handed), mail.content)
            taken.append((await self._outbox.hand_over(handed, origin)).id)
        return taken


class _Session(Conversation):
    """A session that stands in a set while it lasts."""

    def keep_in(self, sessions: set[Conversation]) -> None:
        self._sessions = sessions

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._sessions.add(self)
        if self.task is not None:
            self.task.add_done_callback(lambda _: self._sessions.discard(self))


def _origin(sender: str, handed: Handed, content: bytes) -> Origin:
    """Return a key by which a mail that is brought again, since our 250 got lost, is known."""
    if not tells_itself_apart(content):
        return Origin(via="relay")
    hashed = hashlib.sha256("\0".join((handed.sender, sender, *handed.recipients, "")).encode())
    hashed.update(content)
    digest = hashed.hexdigest()
    return Origin(via="relay", client="smtp:relay", key=digest, digest=digest)


def _one_line(text: str) -> str:
    plain = text.encode("ascii", "replace").decode()
    return " ".join(plain.split())[:_REASON]


def policy_of(section: Section) -> Policy:
    """Return what a section says, in the form in which it is asked."""
    senders: dict[str, str] = {}
    domains: dict[str, str] = {}
    for sender, mailbox in section.accept.senders.items():
        local, _, domain = sender.rpartition("@")
        if local == "*":
            domains[key(f"x@{domain}").rpartition("@")[2]] = mailbox
        else:
            senders[key(sender)] = mailbox
    return Policy(
        networks=section.accept.networks,
        senders=senders,
        domains=domains,
        inbound={key(address): address for address in section.inbound},
        passwords={user: secret.reveal() for user, secret in section.auth.items()},
    )


def tls_of(section: Section) -> ssl.SSLContext | None:
    """Return the context for STARTTLS, ``None`` without one. Raises ``ConfigError``."""
    if section.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        _load(context, section.tls.certificate, section.tls.key)
    except (OSError, ValueError) as error:
        problem = Problem(
            file="the configuration",
            line=None,
            path="relay.tls",
            message=f"the certificate and its key cannot be used ({type(error).__name__}).",
            fix="write PEM files that belong together; the key has no passphrase.",
        )
        raise ConfigError([problem]) from error
    return context


def _load(context: ssl.SSLContext, certificate: Path, key_file: Path) -> None:
    # Without this, a key with a passphrase would ask for it at the terminal.
    context.load_cert_chain(certificate, key_file, password=lambda: "")
