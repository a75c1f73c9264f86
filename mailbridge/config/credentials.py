"""``apps.NAME.credential``: what an app registration proves itself with, one of four kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, model_validator

from mailbridge import client_certificate
from mailbridge.client_certificate import CertificateFault
from mailbridge.config.problems import fault
from mailbridge.config.secrets import (
    SECRETS_SCHEMA,
    ClientSecret,
    Secret,
    is_guid,
    one_or_more,
    reading,
    there,
)
from mailbridge.config.sections import Section
from mailbridge.config.values import Day, resolved

#: where Azure's workload identity tells a program in Kubernetes that its token lies
TOKEN_FILE_VARIABLE = "AZURE_FEDERATED_TOKEN_FILE"  # noqa: S105 - the name of a variable
_KINDS = ("client_secret", "certificate", "federated", "managed_identity")
_PATH_SCHEMA = {"type": "string", "minLength": 1}


class Certificate(Section):
    """A certificate and its private key, in one file."""

    file: Annotated[Path, BeforeValidator(resolved), WithJsonSchema(_PATH_SCHEMA)] = Field(
        description="PEM with the private key and the certificate, or PFX; read again when it "
        "changes"
    )
    passphrase: Secret | None = Field(None, description="what the key is encrypted with")

    @model_validator(mode="after")
    def _opens(self) -> Certificate:
        """Open it, as a sign-in would. Whether it is still good is a matter of the day."""
        if self.passphrase is not None and not there(self.passphrase):
            return self
        try:
            content = client_certificate.content_of(self.file)
            client_certificate.parse(content, self.passphrase.reveal() if self.passphrase else "")
        except CertificateFault as found:
            key = found.part if self.passphrase is not None else "file"
            raise fault(str(found), found.fix, key=key) from None
        return self


def _token_file(value: Any, info: ValidationInfo) -> Path:
    if value is None:
        named = reading(info).environ.get(TOKEN_FILE_VARIABLE, "")
        if not named:
            raise fault(
                f"no file is named, and {TOKEN_FILE_VARIABLE} is not set",
                "write `federated: {file: PATH}` with the file that the token is renewed in.",
            )
        value = named
    return resolved(value, info)


class Federated(Section):
    """A token of another identity provider: Kubernetes, GitHub, another cloud."""

    file: Annotated[
        Path,
        BeforeValidator(_token_file),
        Field(validate_default=True),
        WithJsonSchema(_PATH_SCHEMA),
    ] = Field(
        None,  # type: ignore[assignment] # the validator makes it a path
        description="the file that the token is renewed in, read for each request; default: "
        f"${TOKEN_FILE_VARIABLE}",
    )


def _identity(value: Any) -> str:
    fix = "write system, or the client id of a user-assigned identity (a GUID)."
    if not isinstance(value, str) or not (value == "system" or is_guid(value)):
        raise fault("this is no managed identity", fix)
    return value.lower()


class Credential(Section):
    """What an app registration signs in with."""

    client_secret: Annotated[
        tuple[ClientSecret, ...],
        BeforeValidator(one_or_more),
        Field(min_length=1, max_length=8),
        WithJsonSchema(SECRETS_SCHEMA),
    ] = Field((), description="the secret's value, or a list [new, old] while rotating")
    certificate: Certificate | None = Field(None, description="instead of a secret")
    federated: Federated | None = Field(None, description="instead of a secret")
    managed_identity: Annotated[
        str | None, BeforeValidator(_identity), WithJsonSchema({"type": "string"})
    ] = Field(None, description="instead of a secret, in Azure: system, or a client id")
    expires: Day | None = Field(None, description="when the secret ends; warned of in time")

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        return next((kind for kind in _KINDS if getattr(self, kind)), "")

    @model_validator(mode="after")
    def _is_one(self) -> Credential:
        written = [kind for kind in _KINDS if kind in self.model_fields_set]
        names = ", ".join(_KINDS)
        if not written:
            raise fault("no credential is named here", f"write one of {names}.")
        if len(written) > 1:
            raise fault("these exclude each other", "keep one of them.", key=written[1])
        if self.expires is not None and written[0] != "client_secret":
            raise fault(
                "only the end of a client secret has to be written here",
                "remove it; that of a certificate is read from the file.",
                key="expires",
            )
        return self
