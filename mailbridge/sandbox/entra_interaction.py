"""One sign-in in a browser, page by page, whatever it is for.

::

    account ─► password ─► second factor ─► may this person? ─► consent ─► done
       └ picker ─┘ (nothing of this when the browser has signed in before)

Cancel leads back to who asked, at every page.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from aiohttp import web

from mailbridge.sandbox import entra_pages as pages
from mailbridge.sandbox import entra_user_errors as errors
from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_policy import check_password, check_person, check_second_factor
from mailbridge.sandbox.entra_scopes import consented
from mailbridge.sandbox.entra_state import State

Purpose = Literal["authorize", "device", "admin"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Session:
    """That a browser has signed in somebody, and how."""

    user: User
    amr: tuple[str, ...]
    at: datetime


@dataclass(slots=True, kw_only=True, eq=False)
class Profile:
    """One browser, known by its cookie, and who has signed in there."""

    sessions: dict[str, Session] = field(default_factory=dict)

    def living(self) -> dict[str, Session]:
        """Return the sessions that no revocation has ended since."""
        return {
            upn: one
            for upn, one in self.sessions.items()
            if not any(
                since is not None and one.at <= since
                for since in (one.user.valid_from, one.user.reset_at, one.user.password_since)
            )
        }


@dataclass(slots=True, kw_only=True, eq=False)
class Interaction:
    """What one person is being asked. ``names`` are the permissions that need consent.

    ``done`` and ``failed`` make the last answer: a redirect to the app, or a closing page.
    """

    state: State
    profile: Profile
    context: str
    purpose: Purpose
    app: App
    names: list[str]
    done: Callable[[Session], web.Response] = field(repr=False)
    failed: Callable[[EntraError | None], web.Response] = field(repr=False)
    begun_at: datetime
    offline: bool = False
    prompt: str = ""
    login_hint: str = ""
    step: str = ""
    user: User | None = None
    amr: tuple[str, ...] = ()
    at: datetime | None = None
    confirmed: bool = False
    agreed: bool = False
    #: nothing more is to be asked
    over: bool = False

    # --- pages -------------------------------------------------------------------------------

    def begin(self) -> web.Response:
        """Return the first page, or the end when there is nothing to ask."""
        living = self.profile.living()
        hinted = self.state.directory.find_user(self.login_hint)
        if self.prompt == "select_account" and living:
            upns = [one.user.upn for one in living.values()]
            return self._show("picker", pages.picker(self.context, upns))
        if self.prompt not in {"select_account", "login"}:
            wanted = self.login_hint.lower()
            fitting = [one for upn, one in living.items() if not wanted or upn == wanted]
            if len(fitting) == 1:
                self._resume(fitting[0])
                return self._after_password()
        if self.prompt == "none":
            return self._end(errors.not_signed_in())
        if hinted is not None and self.prompt != "select_account":
            self.user = hinted
            return self._ask_password()
        return self._ask("account", value=self.login_hint)

    def _end(self, error: EntraError | None) -> web.Response:
        self.over = True
        return self.failed(error)

    def _done(self, session: Session) -> web.Response:
        self.over = True
        return self.done(session)

    def _resume(self, session: Session) -> None:
        self.user, self.amr, self.at = session.user, session.amr, session.at

    def _show(self, step: str, page: web.Response) -> web.Response:
        self.step = step
        return page

    def _ask(self, step: str, *, value: str = "", error: EntraError | None = None) -> web.Response:
        return self._show(step, pages.question(step, self.context, value=value, error=error))

    def _ask_password(self, error: EntraError | None = None) -> web.Response:
        return self._ask("password", value=self._person.upn, error=error)

    @property
    def _person(self) -> User:
        assert self.user is not None  # noqa: S101 - the steps come in order
        return self.user

    # --- what comes back ---------------------------------------------------------------------

    def take(self, form: dict[str, str]) -> web.Response:
        """Take the fields of the page that was shown last and return the next one."""
        if form.get("action") == "cancel":
            return self._cancelled()
        handlers = {
            "account": self._take_account,
            "picker": self._take_account,
            "password": self._take_password,
            "mfa": self._take_code,
            "enroll": self._take_enrollment,
            "confirm": self._take_confirmation,
            "consent": self._take_consent,
        }
        handler = handlers.get(self.step)
        return self.begin() if handler is None else handler(form)

    def _cancelled(self) -> web.Response:
        if self.step == "admin":
            return self._end(errors.admin_needed())
        if self.step == "consent":
            return self._end(errors.declined())
        return self._end(None)

    def _take_account(self, form: dict[str, str]) -> web.Response:
        if form.get("action") == "other":
            return self._ask("account")
        upn = form.get("loginfmt", "").strip()
        user = self.state.directory.find_user(upn)
        if user is None:
            error = errors.unknown_user(self.state.directory.tenant_id)
            return self._ask("account", value=upn, error=error)
        self.user = user
        session = self.profile.living().get(user.upn.lower())
        if self.step == "picker" and session is not None:
            self._resume(session)
            return self._after_password()
        return self._ask_password()

    def _take_password(self, form: dict[str, str]) -> web.Response:
        try:
            check_password(self.state, self._person, form.get("passwd", ""))
        except EntraError as error:
            return self._ask_password(error)
        self.amr, self.at = ("pwd",), self.state.now()
        return self._after_password()

    def _take_code(self, form: dict[str, str]) -> web.Response:
        given = form.get("otc", "").replace(" ", "").encode()
        if not hmac.compare_digest(given, self._person.mfa_code.encode()):
            return self._ask("mfa", error=errors.mfa_failed())
        self.amr = ("pwd", "mfa")
        return self._after_password()

    def _take_enrollment(self, _form: dict[str, str]) -> web.Response:
        self._person.mfa, self.amr = "required", ("pwd", "mfa")
        return self._after_password()

    def _take_confirmation(self, _form: dict[str, str]) -> web.Response:
        self.confirmed = True
        return self._after_password()

    def _take_consent(self, form: dict[str, str]) -> web.Response:
        person = self._person
        if form.get("action") != "accept":
            return self._ask_consent()
        if form.get("organization") and person.admin:
            self.app.admin_scopes |= set(self.names)
        elif self.purpose != "admin":
            self.app.user_scopes.setdefault(person.object_id, set()).update(self.names)
        self.agreed = True
        return self._after_password()

    # --- once the person is known ------------------------------------------------------------

    def _after_password(self) -> web.Response:
        """Ask for whatever is still missing, and end when nothing is."""
        person = self._person
        try:
            check_second_factor(person, self.amr)
        except EntraError as error:
            if self.prompt == "none":
                return self._end(error)
            if person.mfa == "enroll":
                return self._show("enroll", pages.enroll(self.context))
            return self._ask("mfa")
        session = Session(user=person, amr=self.amr, at=self.at or self.state.now())
        self.profile.sessions[person.upn.lower()] = session
        try:
            check_person(self.state, self.app, person)
            if self.purpose == "device" and self.state.directory.security_defaults:
                raise errors.security_defaults()
        except EntraError as error:
            return self._end(error)
        if self.purpose == "device" and not self.confirmed:
            return self._show("confirm", pages.confirm_device(self.context, self.app, person))
        return self._consent() or self._done(session)

    def _consent(self) -> web.Response | None:
        """Return the page that asks for consent, unless there is nothing to consent to."""
        person = self._person
        missing = set(self.names) - consented(self.app, person)
        wanted = self.purpose == "admin" or bool(missing) or self.prompt == "consent"
        if self.agreed or not wanted:
            return None
        if self.prompt == "none":
            return self._end(errors.no_consent(self.app))
        own = self.purpose != "admin" and (self.state.directory.user_consent or not missing)
        if not person.admin and not own:
            return self._show("admin", pages.admin_needed(self.context, self.app))
        return self._ask_consent()

    def _ask_consent(self) -> web.Response:
        names = [*self.names, *(["offline_access"] if self.offline else [])]
        page = pages.consent(
            self.context, self.app, self._person, names, admin=self.purpose == "admin"
        )
        return self._show("consent", page)
