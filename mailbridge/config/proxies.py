"""``proxy`` keys: a URL, a reference to one that holds a password, or ``off``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

from mailbridge.config.problems import fault
from mailbridge.config.secrets import Secret, reading, reference_schema, resolve, there
from mailbridge.proxy.place import Proxy, ProxyUrlError, parse

_FIX = "write http://HOST:PORT, socks5://HOST:PORT, socks5h://HOST:PORT, or off."


def _proxy(value: Any, info: ValidationInfo) -> Proxy | None:
    """Return the proxy, ``None`` for ``off``; ``model_fields_set`` tells that from no word."""
    if isinstance(value, Proxy):
        return value
    if value is None:
        raise fault("this has no value", _FIX)
    if value in ("off", False):
        return None
    referred = isinstance(value, dict | Secret)
    found = resolve(value, info) if referred else None
    if found is not None and not there(found):
        return None  # whoever needs no secret needs no way to a server
    text = found.reveal() if found is not None else value
    if not isinstance(text, str):
        raise fault("this is not the URL of a proxy", _FIX)
    try:
        proxy = parse(text)
    except ProxyUrlError as error:
        raise fault(str(error), error.fix) from None
    if proxy.user and not referred:
        raise fault(
            "a user or a password is never written into this file",
            "write `proxy: {env: NAME}` with the whole URL as that variable's value; replace the "
            "password if others could read this file.",
        )
    for secret in proxy.secrets:
        reading(info).remember(secret)
    return proxy


ProxySetting = Annotated[
    Proxy | None,
    BeforeValidator(_proxy),
    PlainSerializer(lambda proxy: proxy and proxy.url),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^(http|socks5h?)://[^@/?#]+:[0-9]+/?$"},
                {"enum": ["off", False]},
                reference_schema(),
            ]
        }
    ),
]
