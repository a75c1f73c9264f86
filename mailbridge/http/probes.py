"""Whether the daemon lives, and whether it sees: for supervisors, without a token."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from mailbridge.health import FolderHealth, Health, Sight
from mailbridge.http.problems import Problem, Refusal

#: seconds without progress of a wanted check after which a mailbox is not ready, whatever its
#: record says: should the watch over the loops itself be stuck, this still tells
OVERDUE: Final = 60.0
#: why, in words without an address; the cause in full is for those with a token
WHY: Final = {
    Sight.STARTING: "no check has been proven since the start",
    Sight.OK: "a check is due and has not been proven for a minute",
    Sight.DEGRADED: "a check fails or is overdue",
    Sight.NOT_CONNECTED: "signed in, but the server does not open the mailbox",
    Sight.PARKED: "a person has to act",
}
MISSED: Final = "the last test mail that it sent to itself has not come through"
_WORST: Final = (Sight.OK, Sight.STARTING, Sight.DEGRADED, Sight.NOT_CONNECTED, Sight.PARKED)


class Alive(BaseModel):
    """The process lives and its event loop turns."""

    status: str = Field(examples=["ok"])


class Ready(BaseModel):
    """Every mailbox that is fetched has proven a check lately."""

    status: str = Field(examples=["ready"])
    mailboxes: int = Field(description="how many are fetched")


class Unseen(BaseModel):
    """A mailbox that is not seen now."""

    mailbox: str
    state: Sight
    why: str
    code: str = Field(description="what is wrong, for a program; may be empty")


class NotReady(Problem):
    """Some mailboxes are not seen."""

    mailboxes: list[Unseen]


def probes(health: Health) -> APIRouter:
    """Return the routes for supervisors: ``/healthz`` and ``/readyz``."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="The process lives")
    async def healthz() -> Alive:
        return Alive(status="ok")

    @router.get("/readyz", summary="Every mailbox is seen", responses={503: {"model": NotReady}})
    async def readyz() -> Ready:
        blind = unseen(health)
        if blind:
            names = ", ".join(one["mailbox"] for one in blind[:20])
            more = f" and {len(blind) - 20} more" if len(blind) > 20 else ""  # noqa: PLR2004 - enough to read
            detail = f"not seen now: {names}{more}"
            raise Refusal(503, "not_ready", detail, members={"mailboxes": blind})
        return Ready(status="ready", mailboxes=len({one.mailbox for one in health.folders}))

    return router


def unseen(health: Health) -> list[dict[str, Any]]:
    """Return the mailboxes that have not proven a check lately; by name alone, with the reason."""
    worst: dict[str, FolderHealth] = {}
    for folder in health.folders:
        if _seen(folder):
            continue
        known = worst.get(folder.mailbox)
        if known is None or _WORST.index(folder.sight) > _WORST.index(known.sight):
            worst[folder.mailbox] = folder
    blind = [
        {"mailbox": name, "state": str(one.sight), "why": WHY[one.sight], "code": one.code}
        for name, one in worst.items()
    ]
    return blind + [
        {"mailbox": name, "state": str(Sight.DEGRADED), "why": MISSED, "code": "probe.missed"}
        for name, probe in health.probes.items()
        if probe.missed_since is not None and name not in worst
    ]


def _seen(folder: FolderHealth) -> bool:
    return folder.sight is Sight.OK and not folder.overdue(OVERDUE)
