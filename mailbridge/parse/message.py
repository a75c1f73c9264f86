"""Puts a message together: header fields, structure, the text, the html, the attachments."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from mailbridge.parse import (
    addresses,
    charset,
    describe,
    fast,
    filenames,
    parts,
    plain,
    tnef,
    walk,
)
from mailbridge.parse import headers as header_fields
from mailbridge.parse.describe import DESCRIBED
from mailbridge.parse.parsed import (
    ATTACHMENTS,
    FILENAME_BYTES,
    HTML_BYTES,
    TEXT_BYTES,
    Address,
    Attachment,
    Body,
    Findings,
    Header,
    ParsedMessage,
)

_ID = re.compile(r"<[^<>\s]{1,998}>")
_REFERENCES: Final = 1000
_FILENAME_RAW: Final = 4 * FILENAME_BYTES
_TOKEN: Final = 60


def parse(raw: bytes) -> ParsedMessage:
    """Read a message. Never raises, whatever the bytes; never long, whatever the size.

    Two ways lead to the same result: fast-mail-parser, for all that is surely harmless, and a
    tolerant walk for the rest. Should both fail, the header fields alone are returned.
    """
    findings = Findings()
    try:
        return _parse(raw, findings)
    except Exception:  # noqa: BLE001 - the mail must reach its receiver even past a bug of ours
        return _bytewise(raw)


def _parse(raw: bytes, findings: Findings) -> ParsedMessage:
    if not raw or raw.isspace():
        findings.defect("empty")
    start = header_fields.preamble(raw, findings)
    section = header_fields.section(raw, start, findings)
    headers = tuple(header_fields.headers(section, findings))
    first = {key: raw for _, _, raw, key in reversed(headers)}
    root = parts.root_of(first, findings)
    leaves, parser = _body(root, raw, min(section.body_at, len(raw)), findings)
    content = _content(leaves, findings)
    subject = next((value for _, value, _, key in headers if key == "subject"), None)
    return _message(headers, first, subject, root, content, parser, findings)


def _body(
    root: parts.Root, raw: bytes, body_at: int, findings: Findings
) -> tuple[list[parts.Leaf], Literal["fast", "tolerant"]]:
    # What the fast way finds wrong before it gives up is found again by the other one.
    tentative = Findings(findings.defects.copy(), findings.limits.copy())
    try:
        leaves = fast.leaves_of(root, raw, body_at, tentative)
    except parts.Refused:
        return walk.leaves_of(root, raw, body_at, findings), "tolerant"
    findings.defects, findings.limits = tentative.defects, tentative.limits
    return leaves, "fast"


class _Content(NamedTuple):
    text: Body | None
    html: Body | None
    text_from_html: bool
    attachments: tuple[Attachment, ...]


def _content(leaves: list[parts.Leaf], findings: Findings) -> _Content:
    """Choose the first text and the first html; every other part is listed as attachment."""
    text: Body | None = None
    html: Body | None = None
    attachments: list[Attachment] = []
    hidden: tuple[Body | None, Body | None] = (None, None)
    for leaf in leaves:
        declared = leaf.headers.get("content-disposition", "")
        attached = declared.lstrip()[:10].lower() == "attachment"
        label = leaf.parameters.get("charset")
        if text is None and leaf.content_type == "text/plain" and not attached:
            text = _lines(charset.body(leaf.content, label, TEXT_BYTES, findings, "text"))
        elif html is None and leaf.content_type == "text/html" and not attached:
            html = charset.body(leaf.content, label, HTML_BYTES, findings, "html")
        elif len(attachments) < ATTACHMENTS:
            found = _attachment(leaf, declared, findings)
            attachments.append(found)
            if found.kind == "tnef":
                hidden = _unpack(found, attachments, findings)
        else:
            findings.limit("attachments")
    if text is None and html is None:
        text, html = hidden
    if html is None or text is not None:
        return _Content(text, html, text_from_html=False, attachments=tuple(attachments))
    said, whole = plain.text_of(html.content)
    if not whole:
        findings.limit("text")
    derived = charset.derived(said, TEXT_BYTES, findings, "text")
    if html.truncated or not whole:
        derived = derived._replace(truncated=True)
    return _Content(derived, html, text_from_html=True, attachments=tuple(attachments))


def _lines(text: Body) -> Body:
    """Let lines end in a line feed alone, as strings do everywhere but on the wire."""
    if "\r" not in text.content:
        return text
    content, label, cut, size = text
    return Body("\n".join(content.split("\r\n")), label, cut, size)


def _attachment(leaf: parts.Leaf, declared: str, findings: Findings) -> Attachment:
    disposition, parameters = header_fields.parameters(declared, findings)
    name = parameters.get("filename") or leaf.parameters.get("name")
    if name and "=?" in name:
        name = header_fields.decode_words(name, findings)
    raw_name = charset.clean_line(name, findings) if name else None
    content_id = leaf.headers.get("content-id")
    kind, details = _kind(leaf.content_type, leaf.content)
    return Attachment(
        filenames.cleaned(raw_name) if raw_name else None,
        raw_name[:_FILENAME_RAW] if raw_name else None,
        leaf.content_type,
        len(leaf.content),
        hashlib.sha256(leaf.content).hexdigest(),
        charset.clean_line(disposition[:_TOKEN], findings) or None,
        charset.clean_line(content_id.strip().strip("<>"), findings) if content_id else None,
        leaf.content,
        kind,
        details,
    )


def _kind(content_type: str, content: bytes) -> tuple[Any, Mapping[str, Any] | None]:
    if tnef.is_tnef(content_type, content):
        return "tnef", None
    if content_type in DESCRIBED:
        return describe.describe(content_type, content)
    return "file", None


def _unpack(
    winmail: Attachment, attachments: list[Attachment], findings: Findings
) -> tuple[Body | None, Body | None]:
    """List the files of a winmail.dat behind it; return the text and the html that it holds."""
    found = tnef.unpack(winmail.content, findings)
    for inner in found.files:
        if len(attachments) >= ATTACHMENTS:
            findings.limit("attachments")
            break
        content_type = parts.valid_type(inner.content_type) or "application/octet-stream"
        name = charset.clean_line(inner.name, findings) or None
        kind, details = _kind(content_type, inner.content)
        attachments.append(
            Attachment(
                filenames.cleaned(name) if name else None,
                name[:_FILENAME_RAW] if name else None,
                content_type,
                len(inner.content),
                hashlib.sha256(inner.content).hexdigest(),
                "attachment",
                charset.clean_line(inner.content_id, findings) or None,
                inner.content,
                # One within another stays closed: its bytes are there.
                "file" if kind == "tnef" else kind,
                details,
                winmail.filename or "winmail.dat",
            )
        )
    text = found.text and _lines(
        charset.body(found.text, found.charset, TEXT_BYTES, findings, "text")
    )
    html = found.html and charset.body(found.html, found.charset, HTML_BYTES, findings, "html")
    return text or None, html or None


def _message(  # noqa: PLR0913, PLR0917 - the pieces of one message, put together once
    headers: tuple[Header, ...],
    first: dict[str, str],
    subject: str | None,
    root: parts.Root,
    content: _Content,
    parser: Literal["fast", "tolerant", "none"],
    findings: Findings,
) -> ParsedMessage:
    authors = _authors(headers, findings)
    named = _Named(first, findings)
    date_raw = first.get("date")
    moment = header_fields.date(date_raw) if date_raw else None
    if date_raw and moment is None:
        findings.defect("date-invalid")
    references = tuple(_ID.findall(first.get("references", "")))
    senders = named.mailboxes("sender")
    recipients = {name: named.mailboxes(name) for name in ("reply-to", "to", "cc", "bcc")}
    return ParsedMessage(
        headers=headers,
        from_=authors.addresses,
        from_fields=authors.fields,
        from_ambiguous=authors.ambiguous,
        from_raw=first.get("from"),
        sender=senders[0] if senders else None,
        reply_to=recipients["reply-to"],
        to=recipients["to"],
        cc=recipients["cc"],
        bcc=recipients["bcc"],
        delivered_to=tuple([value for _, value, _, key in headers if key == "delivered-to"]),
        subject=subject,
        date=moment,
        date_raw=date_raw,
        message_id=_id_of(first.get("message-id")),
        in_reply_to=_id_of(first.get("in-reply-to")),
        references=references[-_REFERENCES:],
        content_type=root.content_type,
        report_type=root.parameters.get("report-type"),
        text=content.text,
        html=content.html,
        text_from_html=content.text_from_html,
        attachments=content.attachments,
        parser=parser,
        # Read last: every line above may still have found something.
        status=findings.status(),
        defects=tuple(findings.defects),
        limits_hit=tuple(findings.limits),
    )


class _Named(NamedTuple):
    """The address fields of a message, each read from its first occurrence."""

    first: dict[str, str]
    findings: Findings

    def mailboxes(self, name: str) -> tuple[Address, ...]:
        raw = self.first.get(name)
        return addresses.parse(raw, self.findings).addresses if raw else ()


class _Authors(NamedTuple):
    addresses: tuple[Address, ...]
    fields: int
    ambiguous: bool


def _authors(headers: tuple[Header, ...], findings: Findings) -> _Authors:
    raws = [raw for _, _, raw, key in headers if key == "from"]
    fields = [addresses.parse(raw, findings) for raw in raws]
    found = tuple([address for field in fields for address in field.addresses])
    ambiguous = any([field.ambiguous for field in fields])  # noqa: C419 - of one, nearly always
    if ambiguous or len(fields) > 1:
        findings.defect("from-ambiguous")
    if not fields:
        findings.defect("from-missing")
    return _Authors(found, len(fields), ambiguous or len(fields) != 1 or len(found) != 1)


def _id_of(value: str | None) -> str | None:
    if not value:
        return None
    match = _ID.search(value)
    return match[0] if match else value


def _bytewise(raw: bytes) -> ParsedMessage:
    """Keep what can be read of the header fields with no parser at all."""
    headers = []
    for line in raw[: 64 * 1024].split(b"\n")[:200]:
        name, colon, value = line.decode("ascii", "replace").partition(":")
        if not line.strip():
            break
        if colon and name.isprintable() and " " not in name:
            text = "".join(c if c.isprintable() else "\ufffd" for c in value.strip())
            headers.append(Header(name, text, text, name.lower()))
    return ParsedMessage(status="failed", defects=("parser-failed",), headers=tuple(headers))
