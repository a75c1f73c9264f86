"""Asks the routes of a mailbox about a mail, in their order, and writes down what each said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from mailbridge.model import Ruling, Step
from mailbridge.parse.parsed import ParsedMessage
from mailbridge.route import require
from mailbridge.route.base import (
    Extractor,
    Otherwise,
    RouteFault,
    RouteSpec,
)
from mailbridge.route.extract import compile_extract
from mailbridge.route.match import Match, Sight, compile_match

#: what is said of a mail in whose routing we have failed
FAILED: Final = "routing failed"


class _Nothing:
    """The extractor of a route that extracts nothing."""

    def extract(self, message: ParsedMessage) -> Mapping[str, Any]:
        """Find nothing."""
        del message
        return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Route:
    """A compiled route."""

    spec: RouteSpec
    match: Match
    extractor: Extractor


def compile_route(spec: RouteSpec) -> Route:
    """Return the compiled route; raises ``RouteFault`` with ``at`` below the route."""
    try:
        match = compile_match(spec.match)
    except RouteFault as fault:
        raise fault.below("match") from None
    try:
        extractor = compile_extract(spec.extract) if spec.extract else _Nothing()
    except RouteFault as fault:
        raise fault.below("extract") from None
    return Route(spec, match, extractor)


class Router:
    """The routes of one mailbox, in order; safe to use from several threads at once."""

    __slots__ = ("_routes",)

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)

    def rule(
        self, message: ParsedMessage, *, received_at: datetime | None, now: datetime
    ) -> Ruling:
        """Return what every route says of a mail.

        ``received_at`` is the server's word; without it the mail is taken to have come ``now``.
        What its sender wrote into Date counts for nothing.
        """
        sight = Sight(message)
        # A server whose clock is ahead must not make its mails young for longer.
        came = now if received_at is None else min(received_at, now)
        steps: list[Step] = []
        stopped = ""
        for route in self._routes:
            if stopped:
                steps.append(_passed_by(route.spec, f"not asked: {stopped} is the last for it"))
                continue
            objection = route.match.objection(sight)
            if objection is not None:
                steps.append(_passed_by(route.spec, objection))
                continue
            steps.append(_taken(route, sight, came, now))
            if route.spec.stop:
                stopped = route.spec.name
        return tuple(steps)

    def failed(self) -> Ruling:
        """Return the ruling of a mail that could not be judged: held wherever it might belong."""
        return tuple(
            Step(
                route=route.spec.name,
                verdict="hold",
                reason=FAILED,
                webhooks=route.spec.webhooks,
            )
            for route in self._routes
        )


def _passed_by(spec: RouteSpec, reason: str) -> Step:
    return Step(route=spec.name, verdict="passed_by", reason=reason)


def _taken(route: Route, sight: Sight, came: datetime, now: datetime) -> Step:
    """Return the word of a route that matches."""
    spec, wants = route.spec, route.spec.require
    doubt = require.unauthenticated(sight) if wants.authenticated else None
    late = require.too_old(came, now, wants.max_age) if wants.max_age is not None else None
    failing = [said for said in (doubt, late) if said is not None]
    fields = route.extractor.extract(sight.message)
    # A forged mail, or an old one, must neither make the next genuine one a duplicate nor tell
    # anything of the form that genuine ones have.
    within = None if failing else wants.not_duplicate_within
    reason = "; ".join(failing) or _why(spec)
    return Step(
        route=spec.name,
        verdict=_verdict(spec, failing=bool(failing)),
        reason=reason if spec.webhooks else f"{reason}; the route has no webhook",
        webhooks=spec.webhooks,
        otherwise=spec.otherwise,
        expires_at=None if wants.max_age is None else came + wants.max_age,
        duplicate_key=require.duplicate_key(sight.message, fields) if within else "",
        duplicate_within=within,
        wanted=() if doubt else tuple(spec.extract),
        fields=fields,
    )


def _verdict(spec: RouteSpec, *, failing: bool) -> Otherwise:
    if not spec.webhooks:
        return "drop"  # a route that only keeps mails from those behind it
    return spec.otherwise if failing else "deliver"


def _why(spec: RouteSpec) -> str:
    """Say in which way a mail was good enough."""
    wants = spec.require
    met = [
        name
        for name, wanted in (
            ("authenticated", wants.authenticated),
            ("young enough", wants.max_age is not None),
        )
        if wanted
    ]
    return ", ".join(["matches", *met])
