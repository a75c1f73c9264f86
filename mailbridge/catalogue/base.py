"""What the catalogue of failures is made of.

An entry is data: adapters ask it what kind of failure a code is and what to tell, the diagnosis
fills in a mailbox's own ids, and the troubleshooting page is printed from it. Codes are stable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: what to do about a failure, and so how often it is tried again
#:
#: ``passing``        wait: the daemon tries again by itself
#: ``configuration``  a person has to change something; tried again every 15 minutes
#: ``sign_in_again``  the person who signed in has to do so once more
#: ``bug``            mailbridge, or a server, does not keep to the protocol: report it
Kind = Literal["passing", "configuration", "sign_in_again", "bug"]
Language = Literal["en", "de"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A sentence in each language; ``$address`` and the other fields of ``Ids`` stand for ids.

    ``$$`` is a dollar sign, as PowerShell's ``$$true`` needs it.
    """

    en: str
    de: str

    def of(self, language: Language) -> str:
        """Return the sentence in one language."""
        return self.de if language == "de" else self.en


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One known failure. ``seen``: the server's own words (or Python's) by which it is known."""

    code: str
    kind: Kind
    cause: Text
    fix: Text
    #: where a person signs in (delegated, password) and that needs another fix
    fix_delegated: Text | None = None
    seen: tuple[str, ...] = ()
    #: errors of this code bring a fix that names what only they know (a folder, a proxy's origin):
    #: in English it is shown instead
    own_fix: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """What is filled into a fix: never a secret. What is not known is empty."""

    mailbox: str = ""
    address: str = ""
    #: who signs in; empty where the address itself does
    account: str = ""
    #: whom a mail is from, where that is another address
    sender: str = ""
    app: str = ""
    tenant: str = ""
    client_id: str = ""
    #: of the enterprise application, read from the token
    object_id: str = ""
    #: ``host:port`` of the server that failed
    server: str = ""
    #: the command or link by which the person signs in
    login: str = ""
    #: how the mailbox signs in, where the fix depends on it
    sign_in: str = field(default="application")
