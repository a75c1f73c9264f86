"""How an app proves to Entra who it is: each kind of credential is one class.

A credential is asked for msal's ``client_credential`` whenever a token is requested, in a
worker thread, so that one that reads a file or asks another service needs nothing new.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


class Credential(Protocol):
    """A ``Protocol``: what msal signs a token request with."""

    def for_msal(self) -> Any:
        """Return msal's ``client_credential``. May block; raises ``OSError`` or our errors."""

    def hide(self, text: str) -> str:
        """Return ``text`` without anything of this credential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSecret:
    """A client secret. Its value is in no repr."""

    value: str = field(repr=False)

    def for_msal(self) -> str:
        """Return the secret itself."""
        return self.value

    def hide(self, text: str) -> str:
        """Return ``text`` with ``***`` in place of the secret."""
        return text.replace(self.value, "***") if self.value else text
