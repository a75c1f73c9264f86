"""Kill a sign-in at every step of a refresh, and see that it signs in again by itself.

    python -m tests.campaigns.refresh --kills 120 --seed 1

A person has consented once. From then on each use of the refresh token brings another one, and a
process is killed (SIGKILL) again and again: before it asks Entra, while Entra answers, before,
within and after the commit of the new token, after the access token was used, while a new login
is adopted, and at random moments; sometimes twice in a row. Whatever is started next has to
sign in without a person, at three kinds of servers (see ``rotation``).
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.table import Table

from mailbridge.store.sealing import Key
from tests.campaigns import spool
from tests.campaigns.nursery import Nursery
from tests.campaigns.refresher import MUTANTS, Mutant, Settings
from tests.campaigns.rotation import SERVERS, LoginService, Server

Step = Literal[
    "read",  # the process is about to read the grant and to ask
    "asked",  # Entra has the request
    "answered",  # Entra has replaced the token, and nobody has the answer
    "save",  # the answer is there, the commit not begun
    "commit",  # within the commit, at one of its system calls
    "saved",  # committed, and nothing used
    "use",  # the access token was used
    "adopt-save",  # a person has signed in anew, and that is not yet kept
    "adopt-commit",
    "adopt-saved",
    "adopted",
    "random",
]
STEPS: tuple[Step, ...] = get_args(Step)

#: the system calls of a commit that a process is killed at
CALLS = ("pwrite64:when=1", "pwrite64:when=2", "fdatasync:when=1")
#: seconds until a kill at a random moment; a refresh takes about 0.04
LONGEST = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How often to kill, and what is broken on purpose."""

    kills: int = 120
    seed: int = 1
    mutant: Mutant = ""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the kills at one step. ``lost``: no readable grant was left."""

    tried: int = 0
    lost: int = 0
    locked_out: int = 0


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What came out. ``broken`` holds one sentence for each broken promise."""

    steps: dict[Step, Tally] = field(default_factory=dict)
    starts: int = 0
    refreshes: int = 0
    twice_in_a_row: int = 0
    within_a_commit: int = 0
    former_used: int = 0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """How many times a process was killed."""
        return sum(tally.tried for tally in self.steps.values())

    @property
    def lost(self) -> int:
        """After how many kills there was no grant any more."""
        return sum(tally.lost for tally in self.steps.values())

    @property
    def locked_out(self) -> int:
        """After how many kills a person had to sign in."""
        return sum(tally.locked_out for tally in self.steps.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Where a process is to die: at the first step of that name after ``after`` refreshes."""

    step: Step
    after: int
    server: Server


class Campaign:
    """One sign-in, killed again and again."""

    def __init__(self, plan: Plan, folder: Path, login_service: LoginService) -> None:
        self.verdict = Verdict(steps={step: Tally() for step in STEPS})
        self._plan = plan
        self._folder = folder
        self._logins = login_service
        self._rng = random.Random(plan.seed)
        self._key = base64.b64encode(self._rng.randbytes(32)).decode()
        self._database = folder / "mailbridge.db"
        self._last: Death | None = None
        self._proven = True
        settings = Settings(
            socket=str(folder / "campaign.sock"),
            database=f"sqlite:///{self._database}",
            key=self._key,
            authority=login_service.authority,
            tenant_id=login_service.directory.tenant_id,
            client_id=login_service.client.client_id,
            ca=str(login_service.write_ca(folder)),
            mutant=plan.mutant,
        )
        self._process = Nursery(settings, folder)

    def run(self) -> Verdict:
        """Kill as often as planned, then live once more in peace."""
        begun = time.monotonic()
        with self._process:
            self._first_login()
            for death in self._deaths():
                self._live(death)
                if self.verdict.broken:
                    break
            else:
                self._live(None)
        self.verdict.seconds = time.monotonic() - begun
        self.verdict.former_used = self._process.log.read_text().count("grant.former_used")
        return self.verdict

    def _deaths(self) -> Iterator[Death]:
        """Go through all steps and servers; every third death comes before the first refresh."""
        every = list(itertools.product(STEPS, SERVERS))
        while len(every) < self._plan.kills:
            every += every
        self._rng.shuffle(every)
        for number, (step, server) in enumerate(every[: self._plan.kills]):
            after = 0 if number % 3 == 2 else self._rng.randint(1, 2)
            yield Death(step=step, after=after, server=server)

    def _first_login(self) -> None:
        """Let the person consent, as `mailbridge login` does."""
        self._process.start()
        self._process.answer()
        self._until("next")
        self._adopt()
        self._until("adopted")
        self._process.answer()
        self._until("next")
        self._process.answer("stop")
        self._process.ended()

    def _until(self, step: str) -> None:
        while (told := self._process.hear()) is not None and told["step"] != step:
            self._process.answer()
        if told is None:
            log = self._process.log.read_text()
            raise RuntimeError(f"the process ended by itself:\n{log[-3000:]}")

    def _adopt(self) -> None:
        self._adopting = self._logins.login()
        self._process.answer(f"adopt {self._adopting}")

    # -- one life ---------------------------------------------------------------------------

    def _live(self, death: Death | None) -> None:
        """Start, sign in, and die where it is said; without ``death`` stop after a refresh."""
        self._logins.server = death.server if death else "keeps"
        self._logins.trap = None
        self._armed = False
        self._refreshes = 0
        if death is not None and death.after == 0 and not self._proven:
            self.verdict.twice_in_a_row += 1
        self._process.start()
        self.verdict.starts += 1
        self._process.answer()
        while (told := self._process.hear()) is not None:
            if not self._goes_on(told, death):
                break
        code = self._process.ended()
        if death is not None and code != -signal.SIGKILL and not self.verdict.broken:
            log = self._process.log.read_text()
            raise RuntimeError(f"the process ended by itself with {code}:\n{log[-3000:]}")
        if death is not None and code == -signal.SIGKILL:
            self._bury(death)

    def _goes_on(self, told: dict[str, str], death: Death | None) -> bool:
        """Answer one step; tells whether the process lives on."""
        step = told["step"]
        if step == "refused":
            self._locked_out(told)
            return False
        if step == "use":
            self._used(told["token"])
        if step == "adopted":
            self._logins.end_others(self._adopting)
        if step == "next":
            self._next(death)
            return True
        if death is not None and self._armed and self._dies_at(step, death):
            self._process.kill()
            return False
        self._process.answer()
        return True

    def _next(self, death: Death | None) -> None:
        """Say what to do next; from here on the process may be one that is to die."""
        if death is None:
            self._process.answer("stop" if self._refreshes else "refresh")
            return
        if self._refreshes < death.after:
            self._process.answer("refresh")
            return
        if self._armed:  # it has got away so far
            self._process.answer("refresh")
            return
        self._armed = True
        if death.step in ("asked", "answered"):
            self._logins.trap = (death.step, self._process.pid)
        if death.step == "random":
            self._process.kill_after(self._rng.uniform(0.0, LONGEST))
        if death.step.startswith("adopt"):
            self._adopt()
        else:
            self._process.answer("refresh")

    def _dies_at(self, step: str, death: Death) -> bool:
        """Tell whether it is to die now; within a commit, set the trap and let it walk on."""
        wanted = death.step.removeprefix("adopt-")
        if wanted != "commit":
            return step == wanted
        if step == "save":
            self._process.trap(self._rng.choice(CALLS), f"{self._database}-wal")
        # One that has got away with its commit dies behind it.
        return step == "saved"

    # -- what is counted --------------------------------------------------------------------

    def _used(self, token: str) -> None:
        """See that the refresh token which came with a used token is durable by now."""
        self._refreshes += 1
        self.verdict.refreshes += 1
        self._proven = True
        new = self._logins.used(token)
        stored = self._stored()
        if stored is None or stored["refresh_token"] != new:
            self.verdict.broken.append("an access token was used before its grant was committed")

    def _bury(self, death: Death) -> None:
        """Look at what the dead process has left, and let the server fail over."""
        self.verdict.within_a_commit += self._process.sprung()
        tally = self.verdict.steps[death.step]
        tally.tried += 1
        self._last, self._proven = death, False
        damage = spool.check(self._database, self._folder / "copy")
        if damage != "ok" or self._stored() is None:
            tally.lost += 1
            self.verdict.broken.append(f"killed at {death.step}, no grant is left ({damage})")
        self._logins.fail_over()

    def _locked_out(self, told: dict[str, str]) -> None:
        death = self._last
        where = f"{death.step} ({death.server})" if death else "no step"
        if death is not None:
            self.verdict.steps[death.step].locked_out += 1
        self.verdict.broken.append(
            f"killed at {where}, the next start was refused: {told['code']}, {told['state']}"
        )

    def _stored(self) -> dict[str, Any] | None:
        """Return the grant in the database, ``None`` when there is none that can be read."""
        with spool.copied(self._database, self._folder / "copy") as database:
            rows = database.execute("SELECT name, sealed FROM grants").fetchall()
        key = Key.parse(self._key)
        return json.loads(key.unseal(*rows[0])) if len(rows) == 1 else None


def run(plan: Plan, console: Console | None = None) -> Verdict:
    """Run with a login service of its own, and return what came out."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mb-refresh-")))
        login_service = stack.enter_context(LoginService())
        verdict = Campaign(plan, folder, login_service).run()
        if verdict.broken and console is not None:
            log = (folder / "log").read_text(errors="replace")
            console.print(f"last lines of the log:\n{log[-3000:]}", markup=False)
    return verdict


def table(verdict: Verdict) -> Table:
    """Return the figures as people read them."""
    shown = Table(title="refresh test")
    for name in ("killed", "tried", "grants lost", "locked out"):
        shown.add_column(name, justify="left" if name == "killed" else "right")
    for step, tally in verdict.steps.items():
        shown.add_row(step, *map(str, (tally.tried, tally.lost, tally.locked_out)))
    shown.add_section()
    shown.add_row("in all", *map(str, (verdict.tried, verdict.lost, verdict.locked_out)))
    return shown


def main() -> int:
    """Run from the command line; returns 1 when a promise was broken."""
    default = Plan()
    parser = argparse.ArgumentParser(description="kill a sign-in at every step of a refresh")
    parser.add_argument("--kills", type=int, default=default.kills)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument(
        "--mutant", choices=MUTANTS, default="", help="break the promise on purpose"
    )
    given = parser.parse_args()
    console = Console(soft_wrap=True)
    verdict = run(Plan(kills=given.kills, seed=given.seed, mutant=given.mutant), console)
    console.print(table(verdict))
    console.print(
        f"{verdict.starts} starts, {verdict.refreshes} refreshes; killed twice in a row: "
        f"{verdict.twice_in_a_row}, at a system call of a commit: {verdict.within_a_commit}; "
        f"signed in by the former token: {verdict.former_used}; {verdict.seconds:.0f} s"
    )
    for sentence in verdict.broken:
        console.print(f"BROKEN {sentence}", markup=False)
    if verdict.broken:
        console.print(f"run it again with --seed {given.seed}")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
