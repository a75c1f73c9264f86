"""What the daemon answers over HTTP, put together; nothing of it is loaded where none is wanted."""

from __future__ import annotations

import functools
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mailbridge.answers import Answers
from mailbridge.build import Builder, Daemon, utc_now
from mailbridge.compose.draft import Handed, Origin
from mailbridge.expecting import author
from mailbridge.http.control import Command
from mailbridge.operate import Operator
from mailbridge.sign_in_desk import SignInDesk, public_url
from mailbridge.test_mail import compose

if TYPE_CHECKING:
    from fastapi import APIRouter

    from mailbridge.http.server import HttpServer


class Serving:
    """The HTTP server of a daemon, and the desk where people sign in by their browser."""

    def __init__(  # noqa: PLR0913 - the composition root names each once
        self,
        *,
        daemon: Daemon,
        operator: Operator,
        builder: Builder,
        sockets: list[socket.socket],
        mended: Callable[[str], None],
        run: Callable[..., Awaitable[Any]],
    ) -> None:
        """``sockets`` listen already; there is at least one."""
        from mailbridge.http.oauth import oauth_routes
        from mailbridge.http.sending import BODY_LIMITS, send_routes
        from mailbridge.http.server import http_server

        port = sockets[0].getsockname()[1]
        self.desk = SignInDesk(
            public_url=public_url(daemon.config, port=port),
            config=lambda: daemon.config,
            sign_ins=builder.sign_ins,
            mended=mended,
            now=utc_now,
            run=run,
            send=functools.partial(_test_mail, daemon, operator),
        )
        routers = [
            oauth_routes(self.desk),
            send_routes(operator.outbox),
            *_attachments(daemon),
        ]
        self.server: HttpServer = http_server(
            http=daemon.config.http,
            sockets=sockets,
            operations=Answers(daemon, operator, builder.sign_ins),
            health=daemon.health,
            routers=routers,
            body_limits=BODY_LIMITS,
        )

    def commands(self) -> dict[str, Command]:
        """Return what the control socket can ask of it."""
        return dict(self.desk.commands())


async def _test_mail(daemon: Daemon, operator: Operator, mailbox: str) -> str:
    """Queue a test mail from a mailbox to itself; returns its id."""
    box = daemon.config.mailboxes[mailbox]
    mail = compose(sender=author(box), to=box.address, at=utc_now())
    # Announced, so that no alarm server takes it for a mail when it arrives.
    await operator.expecting.expect(
        {"mailbox": mailbox, "nonce": mail.nonce, "message_id": mail.message_id}
    )
    handed = Handed(raw=mail.raw, sender=mailbox, recipients=(box.address,))
    taken = await operator.outbox.hand_over(handed, Origin(via="api", client="sign-in"))
    return taken.id


def _attachments(daemon: Daemon) -> list[APIRouter]:
    links = daemon.links
    if links is None:
        return []
    from mailbridge.http.attachments import attachment_routes

    return [attachment_routes(links, daemon.store.raw, now=utc_now)]


def serving(
    daemon: Daemon,
    operator: Operator,
    builder: Builder,
    sockets: list[socket.socket],
    **others: Any,
) -> Serving | None:
    """Return what answers over HTTP, ``None`` when nothing listens."""
    if not sockets:
        return None
    make = functools.partial(Serving, daemon=daemon, operator=operator, builder=builder)
    return make(sockets=sockets, **others)
