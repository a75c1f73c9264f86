"""``mailboxes.NAME.probe``: when a mailbox tries whether a mail comes through to its webhooks."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field

from mailbridge.config.problems import fault
from mailbridge.config.routes import Names
from mailbridge.config.sections import Section, file_default
from mailbridge.config.values import Cron, Interval

#: less than this is not enough for a mail, however fast all of its stations are
LEAST = timedelta(seconds=10)


def _enough(value: timedelta) -> timedelta:
    if value < LEAST:
        raise fault("a mail needs longer than that", "write 10s or more.")
    return value


class Probe(Section):
    """A test mail by the clock. After loading, ``webhooks`` is always filled in."""

    cron: Cron = Field(description="when: five fields, local time, weekdays as names")
    within: Annotated[Interval, AfterValidator(_enough)] = Field(
        timedelta(minutes=5),
        description="how long it may take until the webhooks have been told; 10s or more",
        json_schema_extra=file_default("5m"),
    )
    webhooks: Names = Field(
        (),
        description="who is told of its arrival (test.ping); default: those of the mailbox's "
        "routes, or all, whose format is mailbridge or cloudevents",
        json_schema_extra={"minItems": 1},
    )
