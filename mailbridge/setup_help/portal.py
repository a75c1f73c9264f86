"""The steps in the portal for one mailbox, and what goes wrong most, in English and German. Pure.

The names of pages and buttons are those of the Entra admin center in each language.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mailbridge.catalogue.base import Language
from mailbridge.setup_help import portal_words as words
from mailbridge.setup_help.needs import Needs

_PORTAL: Final = {
    "public": "https://entra.microsoft.com",
    "usgov": "https://entra.microsoft.us",
    "usgov-dod": "https://entra.microsoft.us",
    "china": "https://portal.azure.cn",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalStep:
    """A step: what it is about, and what is done, line by line."""

    title: str
    lines: Sequence[str]


def portal_steps(needs: Needs, language: Language) -> list[PortalStep]:
    """Return the steps in their order; the script is one of them."""
    if needs.managed:
        names = ["identity", "script", "verify"]
    else:
        names = ["registration", *_authentication(needs), *_credential(needs)]
        names += ["permissions", "consent", "script"]
        names += ["login"] * (needs.sign_in == "delegated") + ["verify"]
    return [
        PortalStep(
            title=words.title(name, language),
            lines=list(_LINES[name](needs, language))
            if name in _LINES
            else [_line(name, needs, language)],
        )
        for name in names
    ]


def pitfalls(needs: Needs, language: Language) -> list[str]:
    """Return what goes wrong most with a set-up like this one."""
    names = []
    if needs.application:
        names += ["object_id", "propagation_token"]
    if needs.application and not needs.managed:
        names.append("consent")
    if needs.sign_in == "delegated":
        names += ["wrong_account", "own_consent"]
    if needs.sign_in == "password":
        names += ["password"]
    if needs.credential == "client_secret":
        names.append("secret_id")
    names.append("propagation")
    if not needs.application:
        names.append("security_defaults")
    if needs.sends:
        names.append("smtp_auth")
        if needs.application:
            names.append("smtp_security_defaults")
    if "pop3" in needs.protocols:
        names.append("pop3")
    return [words.pitfall(name, language, **_values(needs)) for name in names]


def _values(needs: Needs) -> dict[str, str]:
    return {
        "name": needs.name,
        "address": needs.address,
        "account": needs.account,
        "app": needs.app,
        "client_id": needs.client_id,
        "tenant": needs.tenant,
        "portal": _PORTAL[needs.cloud],
    }


def _line(name: str, needs: Needs, language: Language, /, **more: str) -> str:
    return words.line(name, language, **{**_values(needs), **more})


def _registration(needs: Needs, language: Language) -> Iterator[str]:
    yield _line("registration", needs, language)
    yield _line("registration.ids", needs, language)


def _authentication(needs: Needs) -> list[str]:
    given = needs.given
    wanted = given.web_redirects or given.desktop_redirects or _is_public(needs)
    return ["authentication"] * bool(wanted)


def _is_public(needs: Needs) -> bool:
    return not needs.credential and not needs.application


def _redirects(needs: Needs, language: Language) -> Iterator[str]:
    web = "redirect.consent" if needs.application else "redirect.web"
    for uri in needs.given.web_redirects:
        yield _line(web, needs, language, uri=uri)
    for uri in needs.given.desktop_redirects:
        yield _line("redirect.desktop", needs, language, uri=uri)
    if _is_public(needs):
        yield _line("public_client", needs, language)


def _credential(needs: Needs) -> list[str]:
    return ["credential"] * bool(needs.credential)


def _credential_lines(needs: Needs, language: Language) -> Iterator[str]:
    yield _line(f"credential.{needs.credential}", needs, language)


def _permissions(needs: Needs, language: Language) -> Iterator[str]:
    names = ", ".join(needs.permissions)
    kind = "application" if needs.application else "delegated"
    if kind == "delegated":
        names += ", offline_access"
    yield _line(f"permissions.{kind}", needs, language, names=names)


def _consent(needs: Needs, language: Language) -> Iterator[str]:
    yield _line("consent", needs, language)
    for url in needs.given.consent_links:
        yield _line("consent.link", needs, language, url=url)


def _verify(needs: Needs, language: Language) -> Iterator[str]:
    # A line for a shell: an address may have a quote in it.
    address = shlex.quote(needs.address)
    yield _line("verify.sends" if needs.sends else "verify", needs, language, address=address)


#: steps of which more than one line depends on the mailbox
_LINES: Final = {
    "registration": _registration,
    "authentication": _redirects,
    "credential": _credential_lines,
    "permissions": _permissions,
    "consent": _consent,
    "verify": _verify,
}
