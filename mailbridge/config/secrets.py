"""Where secrets come from, and a type that keeps them out of texts.

A secret stands in the environment, in a file, or in systemd's credentials directory; the
configuration only says where. Values are read when the configuration is loaded; what signs in
reads those of files again, since they are replaced while the daemon runs. For a command that only
asks the daemon (``Reading.absent``) one that cannot be read is a fault of whoever reveals it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mailbridge.config.problems import Map, Problems, fault, looks_secret
from mailbridge.errors import ConfigError, Problem

#: bytes; a client secret has 40, a bearer token a few thousand
MAX_SECRET = 64 * 1024
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_REFERENCE = "write {env: NAME}, {file: PATH} or {credential: NAME}"


def is_guid(text: str) -> bool:
    """Tell whether a text is a GUID, as Entra writes ids."""
    return _GUID.fullmatch(text) is not None


class Secret:
    """A value that no text shows: ``str`` and ``repr`` are ``***``; ``reveal`` gives it.

    ``place`` says where it stands, empty for one that stands in no file and no variable.
    ``absent`` is why it could not be read, where that is no fault of the configuration.
    """

    __slots__ = ("_again", "_value", "absent", "place")

    def __init__(
        self,
        value: str,
        *,
        place: str = "",
        again: Callable[[], str] | None = None,
        absent: Problem | None = None,
    ) -> None:
        """Keep ``value`` as it is; ``again`` reads it anew, and raises a fault when it cannot."""
        self._value = value
        self._again = again
        self.place = place
        self.absent = absent

    def reveal(self) -> str:
        """Return the value, to send and not to keep; ``ConfigError`` when it is ``absent``."""
        if self.absent is not None:
            raise ConfigError([self.absent])
        return self._value

    def read_again(self) -> str | None:
        """Return the value as it stands now; ``None`` when it cannot be read. Blocks."""
        if self._again is None:
            return self._value
        try:
            return self._again()
        except PydanticCustomError:
            return None

    def __repr__(self) -> str:
        """Show that something is there."""
        return "Secret(***)"

    def __str__(self) -> str:
        """Show that something is there."""
        return "***"

    def __eq__(self, other: object) -> bool:
        """Compare by value."""
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        """Hash by value, so that frozen models stay hashable."""
        return hash(("Secret", self._value))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Take a ``Secret`` as it is and a reference by reading what it points to."""
        del source, handler
        return core_schema.with_info_plain_validator_function(
            resolve, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe a reference, which is all that the file may hold."""
        del schema, handler
        return reference_schema()


def reference_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``{env: NAME}``, ``{file: PATH}`` or ``{credential: NAME}``."""
    about = {
        "env": "the name of an environment variable",
        "file": "a path; a relative one is looked up beside the configuration file",
        "credential": "the name of a systemd credential (LoadCredential=)",
    }
    return {
        "type": "object",
        "description": "where a secret stands; never the secret itself",
        "properties": {
            key: {"type": "string", "minLength": 1, "description": text}
            for key, text in about.items()
        },
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }


def one_or_more(value: Any) -> Any:
    """Take a single value for a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


#: one secret, or a list of them, the newest first
SECRETS_SCHEMA = {
    "anyOf": [
        reference_schema(),
        {"type": "array", "items": reference_schema(), "minItems": 1, "maxItems": 8},
    ]
}


@dataclass(slots=True, kw_only=True)
class Reading:
    """What validators need to know of the file they read; handed to pydantic as its context."""

    base: Path
    environ: Mapping[str, str] = field(repr=False)
    problems: Problems
    remember: Callable[[str], None]
    #: secrets that cannot be read are left to whoever needs them
    absent: bool = False


def reading(info: ValidationInfo) -> Reading:
    """Return the context; models that are built by hand read from this process's surroundings."""
    if info.context is not None:
        return cast("Reading", info.context)
    return Reading(
        base=Path.cwd(), environ=os.environ, problems=Problems(""), remember=lambda _: None
    )


def resolve(value: Any, info: ValidationInfo) -> Secret:
    """Read a secret; the messages show names of variables and nothing else of the file."""
    if isinstance(value, Secret):
        return value
    if value is None:
        raise fault("this has no value", f"{_REFERENCE}.")
    if not isinstance(value, dict):
        raise fault(
            "a secret is never written into this file",
            f"{_REFERENCE}; replace the secret if others could read this file.",
        )
    if len(value) != 1 or not set(value) <= {"env", "file", "credential"}:
        raise fault("a reference to a secret names exactly one place", f"{_REFERENCE}.")
    (kind, name) = next(iter(value.items()))
    if not isinstance(name, str) or not name:
        raise fault(f"`{kind}` needs a name", f"{_REFERENCE}.", key=kind)
    context = reading(info)
    # A variable of the environment cannot change, and a warning was given when it was due.
    later = Reading(
        base=context.base,
        environ=context.environ,
        problems=Problems(""),
        remember=context.remember,
    )
    again = functools.partial(_read, kind, name, value, later) if kind != "env" else None
    place = f"{kind} {context.base / name}" if kind == "file" else f"{kind} {name}"
    try:
        return Secret(_read(kind, name, value, context), place=place, again=again)
    except PydanticCustomError as error:
        if not context.absent or (kind == "env" and not _is_variable(name)):
            raise
        return Secret("", absent=_problem(error, context))


def _problem(error: PydanticCustomError, context: Reading) -> Problem:
    """Return what is said to whoever needs a secret that is not there."""
    about = error.context or {}
    message = f"this needs a secret, and {about['message']}"
    return Problem(
        file=context.problems.file, line=None, path="", message=message, fix=about["fix"]
    )


def there(secret: Secret | None) -> bool:
    """Tell whether there is a secret, and a value of it to be judged."""
    return secret is not None and secret.absent is None


def _read(kind: str, name: str, value: dict[str, Any], context: Reading) -> str:
    """Return a secret that can be used; the logs never show it from now on."""
    text = _text(kind, name, value, context).rstrip("\r\n")
    if not text:
        raise fault("the secret is empty", "store its value there.", key=kind)
    if any(char < " " or char == "\x7f" for char in text):
        raise fault(
            "the secret holds a line break or another control character",
            "store the bare value, on one line.",
            key=kind,
        )
    context.remember(text)
    return text


def _text(kind: str, name: str, value: dict[str, Any], context: Reading) -> str:
    """Return the stored text of one reference."""
    if kind == "env":
        return _from_environment(name, context)
    if kind == "file":
        return _from_file(context.base / name, name, value, context)
    directory = context.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        raise fault(
            "systemd gave this process no credentials ($CREDENTIALS_DIRECTORY is not set)",
            "add `LoadCredential=NAME:/path` to the unit, or use {file: PATH} outside of systemd.",
            key=kind,
        )
    if "/" in name or name in (".", ".."):
        raise fault("a credential is named without a path", "write the name alone.", key=kind)
    return _from_file(Path(directory) / name, name, value, context, kind="credential")


def _is_variable(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not looks_secret(name)


def _from_environment(name: str, context: Reading) -> str:
    if not _is_variable(name):
        raise fault(
            "`env` takes the name of an environment variable, and this is none",
            "write {env: MAILBRIDGE_SECRET} and set that variable to the secret.",
            key="env",
        )
    if name not in context.environ:
        raise fault(
            f"the environment variable {name} is not set",
            f"set {name} for mailbridge (systemd: EnvironmentFile=), or use {{file: PATH}}.",
            key="env",
        )
    return context.environ[name]


def _from_file(
    path: Path, name: str, value: dict[str, Any], context: Reading, *, kind: str = "file"
) -> str:
    label = name if name.startswith(("/", "./", "../")) else "it"
    missing = "store the secret there and let the user that runs mailbridge read it."
    if kind == "credential":
        missing = "add `LoadCredential=NAME:/path` for it to the unit."
    try:
        mode = path.stat().st_mode
        raw = _start_of(path) if stat.S_ISREG(mode) else None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "not a path"
        message = f"the {kind} of this secret cannot be read ({label}: {reason})"
        raise fault(message, missing, key=kind) from None
    if raw is None:
        raise fault(f"the {kind} is not a regular file", "name a file.", key=kind)
    if len(raw) > MAX_SECRET:
        raise fault(f"the {kind} is larger than 64 KiB", "name the right file.", key=kind)
    if kind == "file" and mode & stat.S_IROTH:
        at = (value.path, value.lines["file"]) if isinstance(value, Map) else ((), None)
        context.problems.warn(
            (*at[0], "file"),
            "every user of this machine can read this secret",
            "chmod 0640 the file, owned by root and the group of mailbridge.",
            line=at[1],
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise fault(f"the {kind} is not UTF-8 text", "store the bare value.", key=kind) from None


def _start_of(path: Path) -> bytes:
    """Read one byte more than a secret may have."""
    with path.open("rb") as file:
        return file.read(MAX_SECRET + 1)


def _client_secret(secret: Secret) -> Secret:
    if there(secret) and is_guid(secret.reveal().strip()):
        raise fault(
            "this looks like the secret's ID, not its value",
            "in Entra, Certificates & secrets, copy the column Value; it is shown only right "
            "after the secret was made, so make a new one if it is gone.",
        )
    return secret


def _signing_secret(secret: Secret) -> Secret:
    if not there(secret):
        return secret
    try:
        key = base64.b64decode(secret.reveal().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:  # noqa: PLR2004 - the bounds that Standard Webhooks sets
        raise fault(
            "this is not a signing secret (whsec_ and 24 to 64 bytes of base64)",
            "make one with `mailbridge secret webhook` and give it to the receiver too.",
        )
    return secret


def _state_key(secret: Secret) -> Secret:
    if not there(secret):
        return secret
    try:
        key = base64.b64decode(secret.reveal(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:  # noqa: PLR2004 - AES-256
        raise fault(
            "this is not a state key (32 bytes of base64)",
            "make one with `mailbridge secret key`.",
        )
    return secret


ClientSecret = Annotated[Secret, AfterValidator(_client_secret)]
SigningSecret = Annotated[Secret, AfterValidator(_signing_secret)]
StateKey = Annotated[Secret, AfterValidator(_state_key)]
