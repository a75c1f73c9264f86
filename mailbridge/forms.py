"""The format of a webhook's bodies, from its section of the configuration."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlsplit

from mailbridge.config import Config, Webhook
from mailbridge.errors import PermanentError
from mailbridge.event import Link
from mailbridge.formats.base import Format
from mailbridge.formats.native import NativeFormat
from mailbridge.links import Links


def build_format(name: str, webhook: Webhook, links: Links | None = None) -> Format:
    """Return what renders for this webhook and judges its answers.

    ``links`` makes the links to attachments, where the webhook wants them. Jinja2 is read only for
    those that have a template.
    """
    link = _link(links) if webhook.attachments.mode == "link" else None
    attachments = (webhook.attachments.mode, webhook.attachments.max)
    place = f"webhooks.{name}"
    match webhook.format:
        case "mailbridge":
            return NativeFormat(*attachments, link=link)
        case "cloudevents":
            from mailbridge.formats.cloudevents import CloudEventsFormat

            return CloudEventsFormat(*attachments, link)
        case "raw":
            from mailbridge.formats.raw import RawFormat

            return RawFormat()
        case "template":
            return _templated(webhook, place, link)
        case "divera":
            from mailbridge.formats.divera import DiveraFormat

            divera = webhook.divera
            path = urlsplit(webhook.url.reveal()).path
            return DiveraFormat(
                path, divera.alarm, divera.instructions, place=f"{place}.divera.alarm"
            )
        case "alamos-fe2":
            return _alamos(webhook, place)


def _templated(webhook: Webhook, place: str, link: Link | None) -> Format:
    from mailbridge.formats.templated import TemplatedFormat

    return TemplatedFormat(
        webhook.template or "",
        webhook.template_content_type,
        place=f"{place}.template",
        attachments_mode=webhook.attachments.mode,
        attachments_max=webhook.attachments.max,
        link=link,
    )


def _alamos(webhook: Webhook, place: str) -> Format:
    from mailbridge.formats.alamos import AlamosFormat

    alamos = webhook.alamos
    if alamos is None:
        msg = "the configuration lets no format alamos-fe2 pass without its section"
        raise ValueError(msg)
    return AlamosFormat(
        alamos.authorization.reveal(),
        alamos.alarm,
        alamos.custom,
        sender=alamos.sender,
        place=f"{place}.alamos",
    )


def _link(links: Links | None) -> Link:
    if links is None:
        # `check` has seen both in the file; a daemon takes them at its next start.
        raise PermanentError(
            "links to attachments need http.listen and state.key, and this daemon has not both",
            code="attachments.no_links",
            fix="restart the daemon: a reload takes neither",
        )

    def link(message_id: str, index: int, since: datetime) -> str:
        return links.make(message_id, index, since=since)

    return link


def links_of(config: Config, *, port: int | None = None) -> Links | None:
    """Return what makes and checks links to attachments, ``None`` without HTTP or a state key.

    ``port`` is the one that is listened at, where the file leaves it open.
    """
    http = config.http
    keys = [key.reveal() for key in config.state.key]
    if http.listen == "off" or not keys:
        return None
    host = f"[{http.host}]" if ":" in http.host else http.host
    return Links(http.public_url or f"http://{host}:{port or http.port}", keys)


def hidden(webhook: Webhook) -> list[str]:
    """Return the secrets that the bodies hold: no answer that repeats one is shown with it."""
    return [webhook.alamos.authorization.reveal()] if webhook.alamos is not None else []
