"""What ``/v1/send`` takes and answers, described for programs; commands speak the same."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    WithJsonSchema,
)

from mailbridge.compose.draft import Auto, Draft, File, State, Written
from mailbridge.http.models import Name, Row

#: as in ``compose``, where they are held to
RECIPIENTS = 500
FILES = 100
FIELDS = 50


class _Asked(BaseModel):
    """What a client writes; a member that is not known is a fault, not ignored."""

    model_config = ConfigDict(extra="forbid")


class Person(_Asked):
    """Somebody with an address."""

    address: str = Field(max_length=64 * 1024)
    name: str = ""

    def written(self) -> Written:
        """Return it as it is read."""
        return Written(self.address, self.name)


def _person(value: Any) -> Any:
    return {"address": value} if isinstance(value, str) else value


def _people(value: Any) -> Any:
    return [_person(one) for one in (value if isinstance(value, list) else [value])]


_PERSON = {
    "anyOf": [
        {"type": "string", "maxLength": 64 * 1024, "examples": ["Leitstelle <ils@ils.example>"]},
        {
            "type": "object",
            "properties": {
                "address": {"type": "string", "maxLength": 64 * 1024},
                "name": {"type": "string"},
            },
            "required": ["address"],
            "additionalProperties": False,
        },
    ]
}
_PEOPLE = {
    "anyOf": [*_PERSON["anyOf"], {"type": "array", "items": _PERSON, "maxItems": RECIPIENTS}]
}
Who = Annotated[Person, BeforeValidator(_person), WithJsonSchema(_PERSON)]
Everybody = Annotated[
    list[Person],
    Field(max_length=RECIPIENTS),
    BeforeValidator(_people),
    WithJsonSchema(_PEOPLE),
]


class SendFile(_Asked):
    """An attachment; with a `content_id`, an image that the html shows (`cid:`)."""

    content_base64: str = Field(repr=False)
    filename: str = ""
    content_type: str = ""
    content_id: str = ""


class SendRequest(_Asked):
    """A mail to be composed and sent."""

    sender: Who = Field(
        alias="from", description="an address of a mailbox's `send_as`, or a mailbox's name"
    )
    mailbox: Name | None = Field(
        None, description="which mailbox sends, when several may as this address"
    )
    to: Everybody = Field(default_factory=list)
    cc: Everybody = Field(default_factory=list)
    bcc: Everybody = Field(default_factory=list, description="stands nowhere in the mail")
    reply_to: Everybody = Field(default_factory=list)
    subject: str = ""
    text: str | None = Field(None, repr=False)
    html: str | None = Field(None, repr=False)
    attachments: list[SendFile] = Field(default_factory=list, max_length=FILES)
    headers: dict[str, str] = Field(
        default_factory=dict,
        max_length=FIELDS,
        description="further header fields, but those of structure, way and trust",
    )
    auto: StrictBool | Literal["replied"] = Field(
        default=True, description="a machine's mail: nobody's absence notice answers it"
    )

    def draft(self) -> Draft:
        """Return it as it is composed."""
        kinds: dict[object, Auto] = {True: "generated", False: "no", "replied": "replied"}
        return Draft(
            sender=self.sender.written(),
            mailbox=self.mailbox or "",
            to=tuple(one.written() for one in self.to),
            cc=tuple(one.written() for one in self.cc),
            bcc=tuple(one.written() for one in self.bcc),
            reply_to=tuple(one.written() for one in self.reply_to),
            subject=self.subject,
            text=self.text,
            html=self.html,
            files=tuple(File(**one.model_dump()) for one in self.attachments),
            headers=tuple(self.headers.items()),
            auto=kinds[self.auto],
        )


class SendQuery(_Asked):
    """What is said beside a whole mail (`message/rfc822`)."""

    sender: str = Field(
        "",
        alias="from",
        max_length=320,
        description="the mailbox that sends, by name or address; default: by the mail's From",
    )
    to: list[str] = Field(
        default_factory=list,
        max_length=RECIPIENTS,
        description="who gets it, instead of To, Cc and Bcc",
    )


class Sent(BaseModel):
    """A mail that is durable here and will be sent."""

    id: str
    message_id: str
    mailbox: str
    state: State


class SentTo(Row):
    """What became of a mail for one recipient."""

    address: str
    state: Literal["open", "doubt", "taken", "refused"]
    code: str
    reply: str = Field(description="the server's word")


class BouncedAt(Row):
    """A report that came back."""

    recipient: str
    at: AwareDatetime
    report: str


class SendStatus(Row):
    """What became of a mail."""

    id: str
    message_id: str
    mailbox: str
    state: State = Field(
        description="in_doubt: nobody knows yet whether the server has it; partly: some have it, "
        "others never will; held: a person decides"
    )
    reason: str
    via: Literal["api", "cli", "sendmail", "relay"]
    accepted_at: AwareDatetime
    ended_at: AwareDatetime | None
    next_attempt_at: AwareDatetime | None
    attempts: int
    reply: str = Field(description="the server's last word")
    size: int
    recipients: list[SentTo]
    bounces: list[BouncedAt]


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of a model without references, to stand anywhere in a document."""
    schema = model.model_json_schema(by_alias=True)
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return whole(parts[value["$ref"].rpartition("/")[2]])
            return {key: whole(one) for key, one in value.items()}
        return [whole(one) for one in value] if isinstance(value, list) else value

    found: dict[str, Any] = whole(schema)
    return found


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the members of a model as OpenAPI describes parameters of a query."""
    schema = model.model_json_schema(by_alias=True)
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": about,
            **({"description": about["description"]} if "description" in about else {}),
        }
        for name, about in schema["properties"].items()
    ]
