"""Who may sign in at all: passwords and lockout, second factors, Conditional Access.

The same rules hold in the browser, for passwords without one, and on every refresh.
"""

from __future__ import annotations

import hmac
from datetime import timedelta
from typing import Final

from mailbridge.sandbox import entra_user_errors as errors
from mailbridge.sandbox.directory import App, User
from mailbridge.sandbox.entra_errors import EntraError
from mailbridge.sandbox.entra_state import State

#: wrong passwords in a row before smart lockout, and how long it lasts
LOCKOUT_FAILURES: Final = 10
LOCKOUT: Final = timedelta(minutes=1)


def check_password(state: State, user: User, password: str) -> None:
    """Compare the password, counting failures; raises ``EntraError``.

    While somebody is locked out the right password is refused too, which is what makes a
    program that repeats a wrong one do harm.
    """
    moment = state.now()
    if user.locked_until is not None and moment < user.locked_until:
        raise errors.locked()
    if not hmac.compare_digest(user.password.encode(), password.encode()):
        user.failures += 1
        if user.failures >= LOCKOUT_FAILURES:
            user.failures, user.locked_until = 0, moment + LOCKOUT
        raise errors.wrong_password()
    user.failures, user.locked_until = 0, None
    if user.password_expired:
        raise errors.password_expired()


def check_person(state: State, app: App, user: User) -> None:
    """Raise ``EntraError`` when this person must not sign in to this app, however they do."""
    if not user.enabled:
        raise errors.disabled_user()
    if user.foreign:
        raise errors.foreign_user(user, app, state.directory.display_name)
    if user.blocked or app.blocked:
        raise errors.conditional_access()
    if app.assignment_required and user.object_id not in app.assigned:
        raise errors.not_assigned(user, app)
    if fault := state.faults.take("sign_in.refused", mailbox=user.upn, client_id=app.client_id):
        raise EntraError(
            fault["status"],
            fault["error"],
            fault["code"],
            fault["text"],
            suberror=fault["suberror"],
            kept=fault["kept"],
        )


def check_second_factor(user: User, amr: tuple[str, ...]) -> None:
    """Raise ``EntraError`` when a second factor is wanted that was not given."""
    if not user.mfa or "mfa" in amr:
        return
    raise errors.mfa_enrollment() if user.mfa == "enroll" else errors.mfa_required()
