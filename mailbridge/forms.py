"""The format of a webhook's bodies, from its section of the configuration."""

from __future__ import annotations

from urllib.parse import urlsplit

from mailbridge.config import Webhook
from mailbridge.formats.base import Format
from mailbridge.formats.native import NativeFormat


def build_format(name: str, webhook: Webhook) -> Format:
    """Return what renders for this webhook and judges its answers.

    Jinja2 is read only for those that have a template.
    """
    attachments = (webhook.attachments.mode, webhook.attachments.max)
    place = f"webhooks.{name}"
    match webhook.format:
        case "mailbridge":
            return NativeFormat(*attachments)
        case "cloudevents":
            from mailbridge.formats.cloudevents import CloudEventsFormat

            return CloudEventsFormat(*attachments)
        case "raw":
            from mailbridge.formats.raw import RawFormat

            return RawFormat()
        case "template":
            return _templated(webhook, place)
        case "divera":
            from mailbridge.formats.divera import DiveraFormat

            divera = webhook.divera
            path = urlsplit(webhook.url.reveal()).path
            return DiveraFormat(
                path, divera.alarm, divera.instructions, place=f"{place}.divera.alarm"
            )
        case "alamos-fe2":
            return _alamos(webhook, place)


def _templated(webhook: Webhook, place: str) -> Format:
    from mailbridge.formats.templated import TemplatedFormat

    return TemplatedFormat(
        webhook.template or "",
        webhook.template_content_type,
        place=f"{place}.template",
        attachments_mode=webhook.attachments.mode,
        attachments_max=webhook.attachments.max,
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


def hidden(webhook: Webhook) -> list[str]:
    """Return the secrets that the bodies hold: no answer that repeats one is shown with it."""
    return [webhook.alamos.authorization.reveal()] if webhook.alamos is not None else []
