"""What Entra says about people who sign in: what it means for their grant.

::

    needs_consent         the person signs in again (`mailbridge login NAME`)
    needs_admin_consent   an administrator agrees first
    rejected              signing in again would end the same way

A network fault, an outage and an error that nobody knows say nothing about a grant. What an error
means in words, and what helps, stands in the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from mailbridge.catalogue.base import Ids
from mailbridge.catalogue.lookup import CATALOGUE, explain
from mailbridge.errors import MailbridgeError, SignInRejected
from mailbridge.sign_in.base import State
from mailbridge.sign_in.entra_errors import (
    PAUSES,
    code_of,
    correlation,
    first_line,
    known,
    number_of,
    refusal,
)

#: what an error of Entra's amounts to where somebody has signed in, by AADSTS number
PEOPLE: Final[Mapping[int, State]] = {
    # refresh tokens, codes and device codes
    **dict.fromkeys((700082, 70008, 50173, 70043, 700084), "needs_consent"),
    **dict.fromkeys((50132, 50133, 50089, 50085, 50058, 70000, 9002313), "needs_consent"),
    **dict.fromkeys((54005, 501481, 50147, 70018, 70019, 70020), "needs_consent"),
    # a second factor, a policy
    **dict.fromkeys((50076, 50074, 50078, 50158, 500121), "needs_consent"),
    **dict.fromkeys((50079, 50072, 53004, 53010), "needs_consent"),
    **dict.fromkeys((53000, 53001, 53002, 53003, 53011, 50097, 50131, 50005), "needs_consent"),
    **dict.fromkeys((530032, 530034, 530035), "needs_consent"),
    # consent
    **dict.fromkeys((65001, 65004), "needs_consent"),
    **dict.fromkeys((90094, 90095), "needs_admin_consent"),
    90008: "rejected",
    # accounts and passwords
    **dict.fromkeys((50057, 50126, 50034, 50055, 50144, 50056, 50064, 50135), "rejected"),
    **dict.fromkeys((50020, 16000, 50014, 51004, 90072, 50105, 80012, 80013), "rejected"),
}
#: values of ``error`` that ask for the person, whatever the number (OpenID Connect Core, 3.1.2.6)
_INTERACTIVE: Final = frozenset({"interaction_required", "consent_required", "login_required"})
#: the same where there is no number: another server than Entra, or a device (RFC 6749, 8628)
_ASK_THE_PERSON: Final = _INTERACTIVE | {
    "invalid_grant",
    "access_denied",
}
#: what devices are told, where the number that comes along means another thing elsewhere
_DEVICE: Final = frozenset({"authorization_declined", "expired_token", "bad_verification_code"})
_DEVICE_NUMBERS: Final = frozenset({70018, 70019, 70020})


def explainer(ids: Ids) -> Callable[[Mapping[str, Any]], MailbridgeError]:
    """Return what turns an OAuth error answer into our error for the account in ``ids``.

    ``ids.login`` is the command that signs in again.
    """

    def judge(answer: Mapping[str, Any]) -> MailbridgeError:
        number, kind = number_of(answer), str(answer.get("error") or "")[:60]
        code = code_of(answer)
        if kind in _DEVICE and number not in _DEVICE_NUMBERS:
            code = f"entra.{kind}"
        entry = CATALOGUE.get(code)
        if entry is not None and (code in _STATES or code in PAUSES):
            cause, _ = explain(code, ids)
            told = correlation(answer) if entry.kind == "bug" else ""
            return known(entry, f"{ids.account}: {cause} ({code}){told}", ids)
        if entry is None and kind in (_INTERACTIVE if number else _ASK_THE_PERSON):
            said = first_line(str(answer.get("error_description") or ""))
            return SignInRejected(
                f"{ids.account}: {said or 'a person has to sign in'} (entra.{kind})"
                + correlation(answer),
                code=f"entra.{kind}",
                fix=f"Sign in again: `{ids.login}`.",
            )
        return refusal(answer, ids)

    return judge


def refused_consent(app: str, answer: Mapping[str, Any]) -> MailbridgeError:
    """Return why an administrator's consent came to nothing, in words of our own alone.

    Anybody can make up an answer to an admin consent link, so none of its text is repeated.
    """
    number, code = number_of(answer), code_of(answer)
    again = f"Open the link of `mailbridge consent-url {app}` again, as an administrator."
    cause, fix = explain(code, Ids(app=app))
    state = PEOPLE.get(number)
    if not number:
        denied = answer.get("error") == "permission_denied"
        return SignInRejected(
            cause if denied else "the sign-in was cancelled",
            code="entra.permission_denied" if denied else "entra.access_denied",
            fix=again,
        )
    if state == "needs_admin_consent":
        return SignInRejected(cause, code=code, fix=again)
    if state is not None:
        return SignInRejected(f"{cause} ({code})", code=code, fix=again)
    entry = CATALOGUE.get(code)
    mends = fix if entry is not None and entry.kind == "configuration" else again
    return SignInRejected(f"Entra refused it ({code})", code=code, fix=mends)


_STATES: Final[Mapping[str, State]] = {
    **{f"AADSTS{number}": state for number, state in PEOPLE.items()},
    **{f"entra.{kind}": "needs_consent" for kind in sorted(_ASK_THE_PERSON | _DEVICE)},
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
