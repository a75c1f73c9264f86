"""``mailboxes``: which mailboxes are watched, and how; ``sending`` has how they send."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, WithJsonSchema, model_validator

from mailbridge.config.probe import Probe
from mailbridge.config.problems import fault
from mailbridge.config.proxies import ProxySetting
from mailbridge.config.routes import Names
from mailbridge.config.secrets import Secret
from mailbridge.config.sections import Section, file_default
from mailbridge.config.sending import Send
from mailbridge.config.values import (
    Address,
    Certificates,
    Cron,
    Folder,
    Folders,
    Host,
    Interval,
    Port,
    Start,
)


class Server(Section):
    """A mail server. After loading, ``host`` and ``port`` are always filled in."""

    host: Host = Field(
        "",
        description="default: Exchange Online of the app's cloud",
        json_schema_extra=file_default("outlook.office365.com"),
    )
    port: Port = Field(
        0,
        description="default: 993, or 143 with starttls",
        json_schema_extra={"default": 993, "minimum": 1, "maximum": 65535},
    )
    tls: Literal["implicit", "starttls"] = Field("implicit", description="never without TLS")
    ca: Certificates | None = Field(None, description="PEM file with a private CA")
    proxy: ProxySetting = Field(
        None, description="the way to it; off: none, whatever the environment says"
    )


class After(Section):
    """What the server is told about a message once it is durable here."""

    action: Literal["keep", "seen", "delete", "move"] = "keep"
    folder: Folder | None = None


def _after(value: Any) -> Any:
    fix = "write keep, seen, delete, or {move: Processed}."
    if isinstance(value, After):
        return value
    if isinstance(value, dict) and list(value) == ["move"]:
        folder = value["move"]
        if not isinstance(folder, str) or not folder.strip():
            raise fault("`move` needs the name of a folder", fix, key="move")
        return {"action": "move", "folder": folder}
    if value not in ("keep", "seen", "delete"):
        raise fault("this is not something to do with a message", fix)
    return {"action": value}


class Fetch(Section):
    """How a mailbox is watched."""

    protocol: Literal["imap", "pop3", "none"] = Field("imap", description="imap, pop3 or none")
    push: StrictBool = Field(
        True,  # noqa: FBT003 - pydantic takes the default by place
        description="IMAP IDLE where the server has it; `every` stays on as a safety net",
    )
    every: Interval = Field(
        timedelta(seconds=60),
        description="how often to look; 5s or more",
        json_schema_extra=file_default("60s"),
    )
    cron: Cron | None = Field(
        None, description="instead of every: five fields, local time, weekdays as names"
    )
    folders: Folders = Field(("INBOX",), description="the folders to watch", min_length=1)
    start: Start = Field(
        "new", description="first run: new (only what arrives from now), all, or a date"
    )
    after: Annotated[
        After,
        BeforeValidator(_after),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["keep", "seen", "delete"]},
                    {
                        "type": "object",
                        "properties": {"move": {"type": "string", "minLength": 1}},
                        "required": ["move"],
                        "additionalProperties": False,
                    },
                ]
            }
        ),
    ] = Field(
        default_factory=After,
        description="once accepted: keep, seen, delete or {move: Folder}",
        json_schema_extra=file_default("keep"),
    )
    server: Server = Field(default_factory=Server, description="default: Exchange Online")

    @model_validator(mode="after")
    def _fits(self) -> Fetch:
        if self.cron is not None and "every" in self.model_fields_set:
            raise fault("`every` and `cron` exclude each other", "keep one of them.", key="cron")
        if self.after.action == "move" and self.after.folder in self.folders:
            raise fault(
                "messages would be moved into a folder that is watched, and delivered again",
                "move them to a folder that is not in `folders`.",
                key="after",
            )
        if self.protocol == "pop3" and tuple(self.folders) != ("INBOX",):
            raise fault("POP3 shows the inbox only", "remove `folders`.", key="folders")
        if self.protocol == "pop3" and self.after.action not in ("keep", "delete"):
            raise fault("POP3 has neither flags nor folders", "write keep or delete.", key="after")
        if len(set(self.folders)) != len(self.folders):
            raise fault("a folder is named twice", "name it once.", key="folders")
        return self


class Mailbox(Section):
    """One mailbox, how it is watched and how it sends."""

    address: Address = Field(description="the mailbox's primary address")
    app: str = Field(description="the name of an entry under apps")
    sign_in: Literal["application", "delegated", "password"] = Field(
        "application",
        description="application access (client credentials), delegated (a person consents once: "
        "`mailbridge login NAME`), or password (ROPC, deprecated by Microsoft)",
    )
    signed_in_as: Address | None = Field(
        None, description="delegated only: who signs in, when the mailbox is shared"
    )
    password: Secret | None = Field(None, description="only with sign_in: password")
    fetch: Fetch = Field(default_factory=Fetch, description="how the mailbox is watched")
    routes: Names | None = Field(
        None,
        min_length=1,
        description="the routes that are asked about its mails, in this order; without this line "
        "every webhook gets every mail",
    )
    send: Send | None = Field(None, description="how it sends; leave out if it never does")
    probe: Probe | None = Field(
        None, description="a test mail to itself by the clock, which has to reach the webhooks"
    )

    @property
    def account(self) -> str:
        """Who signs in where a person does."""
        return self.signed_in_as or self.address

    @model_validator(mode="after")
    def _can_probe(self) -> Mailbox:
        if self.probe is None:
            return self
        if self.send is None:
            message = "a probe is sent by the mailbox itself, and it does not send"
            raise fault(message, "add `send: {}`.", key="probe")
        if self.fetch.protocol == "none":
            message = "a probe has to arrive in the mailbox, and nothing is fetched from it"
            raise fault(message, "write `fetch: {protocol: imap}` or pop3.", key="probe")
        return self

    @model_validator(mode="after")
    def _signs_in(self) -> Mailbox:
        if self.signed_in_as is not None and self.sign_in != "delegated":
            raise fault(
                "nobody signs in but with sign_in: delegated",
                "remove it, or write `sign_in: delegated`.",
                key="signed_in_as",
            )
        if self.password is not None and self.sign_in != "password":
            raise fault(
                "a password is not used but with sign_in: password", "remove it.", key="password"
            )
        if self.password is None and self.sign_in == "password":
            raise fault(
                "sign_in: password needs one",
                "add `password: {file: PATH}` (or env, or credential); better, use application "
                "access.",
                key="sign_in",
            )
        return self
