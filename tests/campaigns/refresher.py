"""What the refresh campaign kills: one delegated sign-in on its own database, step by step.

    python -m tests.campaigns.refresher SETTINGS

This process loads what the sign-in is made of, then becomes one child after another, each of
which opens the store anew as a daemon does. A child tells the campaign before each step and goes
on when it is answered. Its store is the product's; only the telling stands in between.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import os
import socket
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import mailbridge.sign_in.msal_client  # noqa: F401 - loaded once, for all children
from mailbridge.errors import MailbridgeError
from mailbridge.model import Grant
from mailbridge.sign_in.account import Account
from mailbridge.sign_in.delegated import DelegatedSignIn
from mailbridge.sign_in.keeper import Fetched
from mailbridge.sign_in.registration import Registration
from mailbridge.store.base import GrantStore
from mailbridge.store.sealing import ring
from mailbridge.store.store import Store

#: ways to break the promise on purpose; the campaign has to notice each of them
Mutant = Literal["", "use-before-commit", "forget-former", "keep-in-memory"]
MUTANTS: tuple[Mutant, ...] = get_args(Mutant)

RESOURCE = "https://outlook.office.com"
ADDRESS = "alarm@feuerwehr.example"
#: prctl(2), PR_SET_PTRACER and PR_SET_PTRACER_ANY: strace may attach though it is no parent
_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a child needs; handed over as JSON."""

    socket: str
    database: str
    key: str
    authority: str
    tenant_id: str
    client_id: str
    ca: str
    mutant: Mutant = ""


class Campaign:
    """The other end: hears of each step, and lets it happen or does not."""

    def __init__(self, place: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(place)
        self._answers = self._socket.makefile("r")

    def tell(self, step: str, **facts: str) -> str:
        """Say what comes next, and wait for the answer; ends the process when there is none."""
        self._socket.sendall(json.dumps({"step": step, **facts}).encode() + b"\n")
        answer = self._answers.readline().strip()
        if not answer:
            os._exit(1)
        return answer


class Told:
    """A ``GrantStore`` that tells of each call before and after it."""

    def __init__(self, grants: GrantStore, campaign: Campaign, mutant: Mutant) -> None:
        self._grants = grants
        self._campaign = campaign
        self._mutant = mutant
        self._memory: Grant | None = None

    async def grant(self, app: str, account: str) -> Grant | None:
        self._campaign.tell("read")
        return self._memory or await self._grants.grant(app, account)

    async def save_grant(self, grant: Grant) -> None:
        self._campaign.tell("save")
        if self._mutant == "forget-former":
            grant = replace(grant, former=None)
        if self._mutant == "keep-in-memory" and grant.former is not None:
            self._memory = grant
        else:
            await self._grants.save_grant(grant)
        self._campaign.tell("saved")

    async def forget_grant(self, app: str, account: str) -> bool:
        return await self._grants.forget_grant(app, account)


class Eager(DelegatedSignIn):
    """The mutant that hands the access token out while its refresh token is not yet durable."""

    campaign: Campaign

    async def _commit(self, renewed: Any) -> Fetched | MailbridgeError:
        use(self.campaign, renewed.token.value)
        return await super()._commit(renewed)


def digest(token: str) -> str:
    """Return what names a token without being one."""
    return hashlib.sha256(token.encode()).hexdigest()


def use(campaign: Campaign, token: str) -> None:
    """Use an access token, as a login at the mail server does."""
    campaign.tell("use", token=digest(token))


async def live(settings: Settings) -> None:
    """Refresh again and again, or adopt a login, as the campaign says."""
    campaign = Campaign(settings.socket)
    campaign.tell("born", pid=str(os.getpid()))
    store = await Store.open(settings.database, keys=ring([settings.key]))
    sign_in = _sign_in(settings, store.grants, campaign)
    while (wish := campaign.tell("next")) != "stop":
        if wish.startswith("adopt "):
            await sign_in.adopt(granted(settings.tenant_id, wish.removeprefix("adopt ")))
            campaign.tell("adopted")
            continue
        try:
            token = await sign_in.token()
        except MailbridgeError as error:
            campaign.tell("refused", code=error.code, state=sign_in.standing().state)
            break
        use(campaign, token.value)
        await sign_in.reload()
    await sign_in.close()
    await store.close()


def _sign_in(settings: Settings, grants: GrantStore, campaign: Campaign) -> DelegatedSignIn:
    kind = DelegatedSignIn
    if settings.mutant == "use-before-commit":
        kind, Eager.campaign = Eager, campaign
    return kind(
        app=Registration(
            name="desktop",
            authority_url=settings.authority,
            client_id=settings.client_id,
            credentials=(),
            ca=Path(settings.ca),
        ),
        account=Account(
            app="desktop",
            address=ADDRESS,
            tenant_id=settings.tenant_id,
            resource=RESOURCE,
            protocols=("imap",),
            login="mailbridge login alarm",
        ),
        grants=Told(grants, campaign, settings.mutant),
        now=lambda: datetime.now(UTC),
        run=asyncio.to_thread,
    )


def granted(tenant_id: str, refresh_token: str) -> Grant:
    """Return what a login hands over."""
    now = datetime.now(UTC)
    return Grant(
        app="desktop",
        account=ADDRESS,
        refresh_token=refresh_token,
        scopes=(f"{RESOURCE}/IMAP.AccessAsUser.All",),
        tenant_id=tenant_id,
        granted_at=now,
        refreshed_at=now,
    )


def main() -> int:
    """Fork a child for each line on standard input; print how it ended."""
    settings = Settings(**json.loads(sys.argv[1]))
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            os.dup2(2, 1)  # the log goes elsewhere than what is printed below
            ctypes.CDLL(None).prctl(_PTRACER, _ANY, 0, 0, 0)
            asyncio.run(live(settings))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
