"""The section ``http``: where the daemon answers over HTTP, and who may ask."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from mailbridge.config.problems import Problems, fault
from mailbridge.config.secrets import Secret, there
from mailbridge.config.sections import Section
from mailbridge.config.values import is_host

#: characters of an API token; 128 random bits have 22 in base64
SHORTEST_TOKEN = 20
#: RFC 6750, section 2.1: what can be sent after ``Bearer``
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_CLIENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LISTEN_FIX = "write HOST:PORT, like 127.0.0.1:8025 or [::1]:8025, or off."


#: a place to listen at, or none
PLACE_SCHEMA = {
    "anyOf": [{"enum": ["off", False]}, {"type": "string", "pattern": "^.+:[0-9]{1,5}$"}]
}


def listening_place(value: Any) -> str:
    """Return HOST:PORT as it was written, or ``off``."""
    if value is False or value == "off":
        return "off"
    if value is None:
        raise fault("this has no value", _LISTEN_FIX)
    if not isinstance(value, str):
        raise fault("this is not a place to listen at", _LISTEN_FIX)
    host, colon, port = value.rpartition(":")
    if not colon or not host:
        raise fault("a place to listen at has a host and a port", _LISTEN_FIX)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in bare and bare == host:
        raise fault("an IPv6 address stands in brackets", _LISTEN_FIX)
    if not is_host(bare):
        raise fault("this is not the name or address of a host", _LISTEN_FIX)
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:  # noqa: PLR2004 - RFC 9293, 3.1
        raise fault("this is not a port", _LISTEN_FIX)
    return value


def _token(secret: Secret) -> Secret:
    if not there(secret):
        return secret
    value = secret.reveal()
    fix = "make one with `mailbridge secret key`, and give it to that client too."
    if not _TOKEN.fullmatch(value):
        raise fault("this token holds characters that cannot be sent as a bearer token", fix)
    if len(value) < SHORTEST_TOKEN:
        raise fault(
            f"this token has fewer than {SHORTEST_TOKEN} characters: it can be guessed", fix
        )
    return secret


def _clients(value: Any) -> Any:
    fix = "write a name for each client: api_tokens: {erp: {file: /etc/mailbridge/erp.token}}."
    if not isinstance(value, dict):
        raise fault("this is not a map from clients to their tokens", fix)
    for name in value:
        if not isinstance(name, str) or not _CLIENT.fullmatch(name):
            fix = "use up to 64 small letters, digits, `.`, `_` and `-`."
            raise fault("a name of a client cannot be used", fix)
    return value


def _public_url(value: Any) -> str | None:
    fix = "write the address that people and programs use, like https://mailbridge.example."
    if value is None or not isinstance(value, str):
        raise fault("this is not a web address", fix)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise fault("this URL cannot be read", fix) from None
    host = parts.hostname or ""
    if parts.scheme not in {"https", "http"} or not is_host(host) or port == 0:
        raise fault("this is not a web address", fix)
    if parts.query or parts.fragment or parts.username is not None or any(c <= " " for c in value):
        raise fault("a public URL has neither user nor query nor fragment", fix)
    if parts.scheme == "http" and not is_loopback(host):
        raise fault("http:// would send tokens unencrypted", fix)
    return value.rstrip("/")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Http(Section):
    """Health, metrics and the API; nothing listens unless ``listen`` says where."""

    listen: Annotated[
        str,
        BeforeValidator(listening_place),
        WithJsonSchema(PLACE_SCHEMA),
    ] = Field("off", description="HOST:PORT, or off; port 0 is any free one, which the log names")
    api_tokens: Annotated[
        Mapping[str, Annotated[Secret, AfterValidator(_token)]], BeforeValidator(_clients)
    ] = Field(
        default_factory=dict,
        description="a bearer token for each client; none: everything under /v1 is refused",
        json_schema_extra={"propertyNames": {"pattern": "^[a-z0-9][a-z0-9._-]*$"}},
    )
    public_url: Annotated[
        str | None, BeforeValidator(_public_url), WithJsonSchema({"type": "string"})
    ] = Field(
        None,
        description="https://… what links and redirect URIs begin with; default: http://<listen>",
    )

    @model_validator(mode="after")
    def _tells_clients_apart(self) -> Http:
        seen: dict[Secret, str] = {}
        for name, token in self.api_tokens.items():
            if token in seen:
                raise fault(
                    f"{seen[token]} and {name} have the same token",
                    "make one for each client, so that one can be withdrawn alone.",
                    key="api_tokens",
                    inner=name,
                )
            seen[token] = name
        return self

    @property
    def host(self) -> str:
        """Where it listens, without brackets; empty when it does not."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port it listens at; 0 for any, and when it does not listen."""
        return int(self.listen.rpartition(":")[2]) if self.listen != "off" else 0


def check_http(http: Http, problems: Problems) -> None:
    """Warn of what works, but hardly as it was meant."""
    if http.listen == "off":
        for key in ("api_tokens", "public_url"):
            if getattr(http, key):
                fix = "write `listen: 127.0.0.1:8025`, or remove it."
                problems.warn(("http", key), "nothing listens, so this has no effect", fix)
        return
    if http.api_tokens and not is_loopback(http.host) and http.public_url is None:
        problems.warn(
            ("http", "listen"),
            "other machines can reach this, and tokens and mails travel unencrypted",
            "listen on 127.0.0.1 behind a proxy with TLS, and write its address as public_url.",
        )
