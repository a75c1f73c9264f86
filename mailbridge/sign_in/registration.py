"""An app registration as it is asked for tokens: with each of its credentials, as far as needed.

::

    newest credential ── its proof as it stands now ──► Entra ──► answer
          │                     └ refused, and it is not the one that Entra took last ──► that one
          └ refused ──► the next credential …  ──► the refusal of the newest

Only a refusal of the credential itself leads on; an outage never does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from mailbridge.catalogue.base import Ids
from mailbridge.catalogue.lookup import explain as mends
from mailbridge.errors import MailbridgeError, SignInRejected
from mailbridge.proxy.place import Proxy
from mailbridge.sign_in.credentials import Credential, Proof
from mailbridge.sign_in.entra_errors import CREDENTIAL_ERRORS, refusal
from mailbridge.sign_in.failures import copied, of_msal

log = structlog.get_logger(__name__)

#: what the app is asked; the argument is a ``MsalClient``, the result msal's dictionary
Question = Callable[[Any], Mapping[str, Any]]
Answer = Mapping[str, Any]
Explain = Callable[[Mapping[str, Any]], MailbridgeError]

#: Entra's words for "show your credential" and "do not show one"
_CREDENTIAL_NEEDED: Final = "AADSTS7000218"
_CREDENTIAL_UNWANTED: Final = "AADSTS700025"
#: a refused credential at a server that has no numbers (RFC 6749, 5.2); Entra's always has one
_NO_NUMBER: Final = "entra.invalid_client"
#: msal's clients that are kept; each has fetched a discovery document
_KEPT: Final = 4


@dataclass(slots=True, kw_only=True)
class _Slot:
    """A credential and where it stands; ``good`` is the proof of it that Entra took last."""

    number: int
    credential: Credential
    good: Proof | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    slot: _Slot | None
    proof: Proof | None
    #: no longer what the credential says, but what Entra took last
    former: bool = False


class Registration:
    """One app registration, the newest credential first. Ask it in one thread at a time.

    ``in_use`` names the credential that Entra took last, ``number`` counts it from 0;
    ``proof`` is what it was taken for.
    """

    def __init__(  # noqa: PLR0913 - the fields of an app registration
        self,
        *,
        name: str,
        authority_url: str,
        client_id: str,
        credentials: Sequence[Credential],
        ca: Path | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self.name = name
        self.client_id = client_id
        self.in_use = ""
        self.number: int | None = None
        self.proof: Proof | None = None
        self._authority_url = authority_url
        tenant = authority_url.rstrip("/").rpartition("/")[2]
        self._ids = Ids(app=name, tenant=tenant, client_id=client_id)
        self._ca = ca
        self._proxy = proxy
        self._slots = [_Slot(number=i, credential=one) for i, one in enumerate(credentials)]
        self._bare_first = not credentials
        self._clients: dict[str, Any] = {}

    @property
    def credentials(self) -> Sequence[Credential]:
        """Its credentials, the newest first."""
        return [slot.credential for slot in self._slots]

    def app_token(self, scope: str) -> Answer | MailbridgeError:
        """Ask for a token of the app itself; blocks."""

        def question(client: Any) -> Mapping[str, Any]:
            # It is time for another token, and msal would serve its own copy of the last one.
            client.remove_tokens_for_client()
            return client.acquire_token_for_client([scope])  # type: ignore[no-any-return] # untyped

        return self.ask(question)

    def ask_openly(
        self, question: Question, *, explain: Explain | None = None
    ) -> Answer | MailbridgeError:
        """Ask without any credential what needs none: where to sign in, a device code. Blocks."""
        return self._once(None, question, explain or self._refusal, str)

    def ask(
        self,
        question: Question,
        *,
        explain: Explain | None = None,
        bare: bool = False,
        hide: Callable[[str], str] = str,
    ) -> Answer | MailbridgeError:
        """Ask Entra; blocks. Returns msal's answer, or the error, free of every secret.

        ``bare``: where people have signed in, Entra decides by the platform of the redirect URI
        whether it wants a credential, and refuses one that it does not want. So both are tried.
        ``hide`` takes the question's own secrets out of a text.
        """
        if not self._slots and not bare:
            return SignInRejected(
                f"the app {self.name} has no credential", code="app.no_credential"
            )
        first: MailbridgeError | None = None
        for attempt in self._tries(bare=bare):
            if isinstance(attempt, MailbridgeError):
                error = attempt
            else:
                outcome = self._once(attempt.proof, question, explain or self._refusal, hide)
                if not isinstance(outcome, MailbridgeError):
                    self._accept(attempt)
                    return outcome
                error = outcome
            first = first or error
            if not _leads_on(error.code):
                return error
        assert first is not None  # noqa: S101 - there was at least one attempt
        return first

    def _tries(self, *, bare: bool) -> Iterator[_Try | MailbridgeError]:
        """Yield what to ask with, in order; a credential that cannot be read is its error."""
        nothing = _Try(slot=None, proof=None)
        if bare and self._bare_first:
            yield nothing
        for slot in self._slots:
            try:
                proof: Proof | MailbridgeError = slot.credential.proof()
            except MailbridgeError as error:
                proof = copied(error, self._hide)
            if isinstance(proof, MailbridgeError):
                yield proof
            else:
                yield _Try(slot=slot, proof=proof)
            if slot.good is not None and (
                isinstance(proof, MailbridgeError) or proof.mark != slot.good.mark
            ):
                yield _Try(slot=slot, proof=slot.good, former=True)
        if bare and not self._bare_first:
            yield nothing

    def _accept(self, attempt: _Try) -> None:
        """Remember what Entra took, and say so when it is another one than before."""
        slot, proof = attempt.slot, attempt.proof
        if slot is None or proof is None:
            self._bare_first, self.proof, self.number = True, None, None
            self.in_use = "no credential"
            return
        self._bare_first = False
        which = f" {slot.number + 1} of {len(self._slots)}" if len(self._slots) > 1 else ""
        in_use = f"{proof.label}{which}" + (", as it was before it changed" * attempt.former)
        changed = slot.good is not None and slot.good.mark != proof.mark
        if changed or in_use != self.in_use:
            log.info("credential.in_use", app=self.name, credential=in_use)
        slot.good = self.proof = proof
        self.number, self.in_use = slot.number, in_use

    def _once(
        self, proof: Proof | None, question: Question, explain: Explain, hide: Callable[[str], str]
    ) -> Answer | MailbridgeError:
        """Ask once. Foreign errors end here, without their cause (see ``token_http``)."""

        def hidden(text: str) -> str:
            return self._hide(hide(text))

        mark = proof.mark if proof is not None else ""
        try:
            answer = question(self._client(mark, proof))
        except MailbridgeError as error:
            failure = error
        except Exception as exc:  # noqa: BLE001 - an unknown error is a temporary one, by contract
            failure = of_msal(exc, hidden)
        else:
            if "error" not in answer:
                return answer
            failure = explain(answer)
        # What came before any answer of Entra's knows no ids.
        failure.fix = failure.fix or mends(failure.code, self._ids)[1]
        # msal remembers refusals, so the next question gets a new client.
        self._clients.pop(mark, None)
        return copied(failure, hidden)

    def _refusal(self, answer: Mapping[str, Any]) -> MailbridgeError:
        return refusal(answer, self._ids)

    def _client(self, mark: str, proof: Proof | None) -> Any:
        if mark not in self._clients:
            from mailbridge.sign_in.msal_client import connect

            if len(self._clients) >= _KEPT:
                self._clients.clear()
            self._clients[mark] = connect(
                authority_url=self._authority_url,
                ids=self._ids,
                credential=proof.value if proof is not None else None,
                ca=self._ca,
                proxy=self._proxy,
            )
        return self._clients[mark]

    def _hide(self, text: str) -> str:
        for slot in self._slots:
            text = slot.credential.hide(text)
        return text


def _leads_on(code: str) -> bool:
    """Tell whether an error is about the credential alone, so that another may still be good."""
    return (
        code in CREDENTIAL_ERRORS
        or code in (_CREDENTIAL_NEEDED, _CREDENTIAL_UNWANTED, _NO_NUMBER)
        or code.startswith("certificate.")
    )
