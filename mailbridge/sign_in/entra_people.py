"""What Entra says about people who sign in: why it does, in plain words, and what helps.

::

    needs_consent         the person signs in again (`mailbridge login NAME`)
    needs_admin_consent   an administrator agrees first
    rejected              signing in again would end the same way

A network fault, an outage and an error that nobody knows say nothing about a grant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mailbridge.errors import MailbridgeError, SignInRejected, Throttled
from mailbridge.sign_in.base import State
from mailbridge.sign_in.entra_errors import FIXES, PASSING, first_line, number_of, refusal

#: seconds that smart lockout may last; each try in between prolongs it
LOCKED_PAUSE: Final = 1800.0

_SIGN_IN_LOGS: Final = "Entra > Sign-in logs names the policy: exclude the account or the app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """What one error means. ``{login}`` in the fix becomes the command for this mailbox."""

    state: State
    reason: str
    fix: str = "{login}"


_AGAIN: Final = Why(state="needs_consent", reason="the sign-in is no longer valid")
_UNUSED: Final = Why(
    state="needs_consent", reason="the sign-in was not used for 90 days and has ended"
)
_SECOND_FACTOR: Final = Why(
    state="needs_consent",
    reason="a second factor is asked for, which only a person can give",
    fix="{login}; or use application access, which depends on nobody's phone",
)
_ENROLL: Final = Why(
    state="needs_consent",
    reason="a second factor has to be set up for the account first",
    fix="set it up at https://aka.ms/mfasetup, then {login}",
)
_POLICY: Final = Why(
    state="needs_consent",
    reason="a Conditional Access policy refuses the sign-in",
    fix=_SIGN_IN_LOGS + ", then {login}; or use application access",
)
_DEFAULTS: Final = Why(
    state="needs_consent",
    reason="the tenant's security defaults refuse device codes and passwords",
    fix="{login} without --device; or use application access",
)
_ADMIN: Final = Why(
    state="needs_admin_consent",
    reason="people may not consent by themselves in this tenant",
    fix="send the administrator what `mailbridge consent-url {app}` prints, then {login}",
)
_ELSEWHERE: Final = Why(
    state="rejected",
    reason="the account does not belong to this tenant",
    fix="sign in with an account of the tenant, or correct `tenant`",
)
_PASSWORD_ENDED: Final = Why(
    state="rejected",
    reason="the account's password has expired",
    fix="set a new one; to keep it: Update-MgUser -PasswordPolicies DisablePasswordExpiration",
)

#: by AADSTS number (docs: "Microsoft Entra authentication and authorization error codes")
PEOPLE: Final[Mapping[int, Why]] = {
    700082: _UNUSED,
    70008: _UNUSED,
    **dict.fromkeys((70000, 50132, 50133, 50089, 50085, 9002313), _AGAIN),
    50173: Why(
        state="needs_consent",
        reason="the password was changed or the account's sessions were revoked",
    ),
    70043: Why(
        state="needs_consent",
        reason="a Conditional Access policy wants a new sign-in every so often",
        fix="exclude the account from `Sign-in frequency`, then {login}; or use application access",
    ),
    700084: Why(
        state="needs_consent",
        reason="the redirect URI stands under Single-page application, whose sign-ins last a day",
        fix="register it under Web or Mobile and desktop, then {login}",
    ),
    **dict.fromkeys((50076, 50072, 50074, 50078, 50158, 53004, 53010, 500121), _SECOND_FACTOR),
    50079: _ENROLL,
    65001: Why(
        state="needs_consent",
        reason="nobody has consented to what the mailbox needs",
        fix="{login}",
    ),
    65004: Why(state="needs_consent", reason="consent was declined"),
    90094: _ADMIN,
    90095: _ADMIN,
    90008: Why(
        state="rejected",
        reason="the app lacks a permission that every sign-in needs",
        fix="add Microsoft Graph > Delegated > User.Read to the app",
    ),
    53003: _POLICY,
    **dict.fromkeys((53000, 53001, 53002, 53011, 50097, 50131, 50005, 530032, 530034), _POLICY),
    530035: _DEFAULTS,
    50057: Why(
        state="rejected",
        reason="sign-in is blocked for the account, as it is for a shared mailbox by design",
        fix="use application access, or let somebody with FullAccess sign in and name them in "
        "`signed_in_as`",
    ),
    50126: Why(
        state="rejected",
        reason="user name or password is wrong",
        fix="correct them; passwords of federated accounts (AD FS) cannot be used this way. "
        "Better: application access",
    ),
    50034: Why(
        state="rejected",
        reason="the account is not known in this tenant",
        fix="write the account's user principal name, and compare `tenant`",
    ),
    **dict.fromkeys((50055, 50144, 50056, 50064), _PASSWORD_ENDED),
    50135: Why(
        state="rejected",
        reason="the account's password is held to be known to others",
        fix="set a new password, then {login}",
    ),
    **dict.fromkeys((50020, 16000, 50014, 51004, 90072), _ELSEWHERE),
    54005: Why(state="needs_consent", reason="the sign-in was used twice; it is good for one time"),
    **dict.fromkeys(
        (501481, 50147),
        Why(state="needs_consent", reason="the sign-in does not belong to this attempt"),
    ),
    80012: Why(
        state="rejected",
        reason="the account may not sign in at this hour",
        fix="extend its logon hours in Active Directory",
    ),
}
#: values of ``error`` that ask for the person, whatever the number (OpenID Connect Core, 3.1.2.6)
_INTERACTIVE: Final = frozenset({"interaction_required", "consent_required", "login_required"})
#: the same where there is no number: another server than Entra, or a device (RFC 6749, 8628)
_ASK_THE_PERSON: Final = _INTERACTIVE | {
    "invalid_grant",
    "access_denied",
}
#: what devices are told; the numbers that come along mean other things elsewhere
_DEVICE: Final[Mapping[str, Why]] = {
    "authorization_declined": Why(state="needs_consent", reason="the sign-in was declined"),
    **dict.fromkeys(
        ("expired_token", "bad_verification_code"),
        Why(state="needs_consent", reason="the code has ended; it is good for 15 minutes"),
    ),
}
_LOCKED: Final = 50053


def explainer(
    *, account: str, login: str, app: str
) -> Callable[[Mapping[str, Any]], MailbridgeError]:
    """Return what turns an OAuth error answer into our error for this account.

    ``login`` is the command that signs in again.
    """

    def explain(answer: Mapping[str, Any]) -> MailbridgeError:
        number = number_of(answer)
        if number == _LOCKED:
            return Throttled(
                f"{account}: too many wrong passwords, so Entra refuses the right one too for a "
                "while (AADSTS50053)",
                retry_after=LOCKED_PAUSE,
                code="AADSTS50053",
                fix="Correct the password, and see Entra > Sign-in logs.",
            )
        kind = str(answer.get("error") or "")[:60]
        why = _DEVICE.get(kind) or PEOPLE.get(number)
        code = f"entra.{kind}" if kind in _DEVICE else f"AADSTS{number}"
        if number in PASSING:
            return refusal(answer)
        if why is None and (kind in _INTERACTIVE if number else kind in _ASK_THE_PERSON):
            said = first_line(str(answer.get("error_description") or ""))
            why = Why(state="needs_consent", reason=said or "a person has to sign in")
            code = f"entra.{kind}"
        if why is None:
            return refusal(answer)
        fix = why.fix.format(login=f"run `{login}`", app=app)
        return SignInRejected(
            f"{account}: {why.reason} ({code})", code=code, fix=f"{fix[0].upper()}{fix[1:]}."
        )

    return explain


def refused_consent(app: str, answer: Mapping[str, Any]) -> MailbridgeError:
    """Return why an administrator's consent came to nothing, in words of our own alone.

    Anybody can make up an answer to an admin consent link, so none of its text is repeated.
    """
    number = number_of(answer)
    why = PEOPLE.get(number)
    again = f"Open the link of `mailbridge consent-url {app}` again, as an administrator."
    if why is not None and why.state != "needs_admin_consent":
        return SignInRejected(f"{why.reason} (AADSTS{number})", code=f"AADSTS{number}", fix=again)
    if number in FIXES:
        return SignInRejected(
            f"Entra refused it (AADSTS{number})", code=f"AADSTS{number}", fix=FIXES[number]
        )
    if number:
        said = f"Entra refused it (AADSTS{number})" if why is None else why.reason
        return SignInRejected(said, code=f"AADSTS{number}", fix=again)
    return SignInRejected("the sign-in was cancelled", code="entra.access_denied", fix=again)


_STATES: Final[Mapping[str, State]] = {
    **{f"AADSTS{number}": why.state for number, why in PEOPLE.items()},
    **{f"entra.{kind}": "needs_consent" for kind in (*_ASK_THE_PERSON, *_DEVICE)},
    "sign_in.no_grant": "needs_consent",
    "sign_in.other_account": "needs_consent",
    "sign_in.incomplete": "needs_consent",
}


def person_state(error: MailbridgeError) -> State | None:
    """Return the state that an error of somebody's sign-in amounts to; ``None``: not theirs."""
    return _STATES.get(error.code) if isinstance(error, SignInRejected) else None


#: errors that are about one refresh token: the one before it may still be good
TOKEN_ERRORS: Final = frozenset(
    {
        *("AADSTS70000", "AADSTS70008", "AADSTS700082", "AADSTS9002313", "AADSTS50089"),
        "entra.invalid_grant",
    }
)
