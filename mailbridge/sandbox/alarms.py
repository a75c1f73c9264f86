"""Alarm mails as German control centres write them, for the demo and for tests.

The places are made up; the formats are those that are seen: lines of ``Label: value``, an HTML
table, one line of fields, XML, an alarm fax with its PDF. Encodings vary on purpose. They are
put together by hand, which is some twenty times as fast as ``email.message`` and lets a demo
with thousands of mails begin at once.
"""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

#: control centres write local time; winter time keeps the mails independent of zone files
_LOCAL: Final = timezone(timedelta(hours=1))
#: bytes of text in one encoded word
_WORD_BYTES: Final = 45
_SENDER: Final = "einsatz@leitstelle.example"
_SITUATIONS: Final = (
    ("B3 Wohnungsbrand", "Rauchentwicklung aus dem 2. OG, Menschenleben in Gefahr"),
    ("B1 Müllcontainer", "Containerbrand, droht auf Gebäude überzugreifen"),
    ("THL2 Verkehrsunfall", "Pkw gegen Baum, eine Person eingeklemmt"),
    ("THL1 Ölspur", "ca. 300 m Dieselspur in Fließrichtung Süden"),
    ("BMA Auslösung", "Brandmeldeanlage, Melder 12/3, Küche"),
    ("R2 Türöffnung akut", "hilflose Person hinter verschlossener Tür"),
    ("G2 Gasgeruch", "Gasgeruch im Treppenhaus, Gebäude wird geräumt"),
    ("U1 Sturmschaden", "Baum auf Straße, Fahrbahn blockiert"),
)
_STREETS: Final = ("Hauptstraße", "Bahnhofstraße", "Am Mühlbach", "Rosenweg", "Schloßgasse")
_TOWNS: Final = ("Musterstadt", "Überlingshausen", "Neukirchen", "Großweiler", "Altdorf")
_OBJECTS: Final = ("", "", "Grundschule", "Seniorenheim St. Elisabeth", "Sägewerk Höß")
_UNITS: Final = (
    "FL Musterstadt 1/40/1",
    "FL Musterstadt 1/30/1",
    "FL Großweiler 1/42/1",
    "RK Musterstadt 71/1",
    "FL Altdorf 1/11/1",
)
_LABELS: Final = ("ILS Musterstadt", "Leitstelle Süd", "Rettungsleitstelle Überlingshausen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One incident."""

    number: str
    keyword: str
    remark: str
    street: str
    house: int
    town: str
    place: str
    units: tuple[str, ...]
    centre: str
    at: datetime
    longitude: float
    latitude: float

    @property
    def local(self) -> str:
        """The moment as control centres write it."""
        return self.at.astimezone(_LOCAL).strftime("%d.%m.%Y %H:%M:%S")


def _alarm(rng: random.Random, at: datetime) -> Alarm:
    keyword, remark = rng.choice(_SITUATIONS)
    return Alarm(
        number=f"{at:%y%m%d}{rng.randrange(10_000):04d}",
        keyword=keyword,
        remark=remark,
        street=rng.choice(_STREETS),
        house=rng.randrange(1, 120),
        town=rng.choice(_TOWNS),
        place=rng.choice(_OBJECTS),
        units=tuple(rng.sample(_UNITS, rng.randrange(1, 4))),
        centre=rng.choice(_LABELS),
        at=at,
        longitude=round(rng.uniform(9.0, 12.9), 5),
        latitude=round(rng.uniform(47.5, 50.1), 5),
    )


def _fields(alarm: Alarm) -> list[tuple[str, str]]:
    return [
        ("Einsatznummer", alarm.number),
        ("Einsatzbeginn", alarm.local),
        ("Stichwort", alarm.keyword),
        ("Straße", f"{alarm.street} {alarm.house}"),
        ("Ort", alarm.town),
        ("Objekt", alarm.place or "-"),
        ("Einsatzmittel", ", ".join(alarm.units)),
        ("Koordinaten", f"{alarm.latitude}, {alarm.longitude}"),
        ("Bemerkung", alarm.remark),
    ]


def _encoded(text: str) -> str:
    """Return a header's text as RFC 2047 encoded words when it is not ASCII."""
    if text.isascii():
        return text
    words, piece = [], b""
    for char in text:
        octets = char.encode()
        # 45 bytes become 60 characters: with its frame a word stays below the limit of 75.
        if len(piece) + len(octets) > _WORD_BYTES:
            words.append(piece)
            piece = b""
        piece += octets
    words.append(piece)
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(w).decode('ascii')}?=" for w in words)


def _lines(data: bytes) -> bytes:
    return base64.encodebytes(data).replace(b"\n", b"\r\n")


def _text(
    body: str, *, subtype: str = "plain", charset: str = "utf-8", transfer: str = "quoted-printable"
) -> bytes:
    """Return a text entity: headers, empty line, body."""
    head = (
        f'Content-Type: text/{subtype}; charset="{charset}"\r\n'
        f"Content-Transfer-Encoding: {transfer}\r\n\r\n"
    )
    if transfer == "base64":
        return head.encode() + _lines(body.replace("\n", "\r\n").encode(charset))
    printable = binascii.b2a_qp(body.encode(charset), istext=True)
    return head.encode() + printable.replace(b"\n", b"\r\n")


def _attachment(data: bytes, kind: str, filename: str) -> bytes:
    """Return an attachment; a name with umlauts is written as RFC 2231 asks."""
    name = f'="{filename}"' if filename.isascii() else f"*=utf-8''{quote(filename)}"
    head = (
        f"Content-Type: {kind}\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment; filename{name}\r\n\r\n"
    )
    return head.encode() + _lines(data)


def _multipart(kind: str, rng: random.Random, *parts: bytes) -> bytes:
    boundary = f"==={rng.getrandbits(64):016x}=="
    head = f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n'.encode()
    body = b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts)
    return head + body + b"--%s--\r\n" % boundary.encode()


def _key_values(alarm: Alarm, rng: random.Random) -> bytes:
    body = "\n".join(f"{label}: {value}" for label, value in _fields(alarm))
    charset, transfer = rng.choice(
        (("utf-8", "quoted-printable"), ("utf-8", "base64"), ("iso-8859-1", "quoted-printable"))
    )
    return _text(body + "\n", charset=charset, transfer=transfer)


def _html_table(alarm: Alarm, rng: random.Random) -> bytes:
    rows = "\n".join(
        f"<tr><td><b>{escape(label)}:</b></td><td>{escape(value)}</td></tr>"
        for label, value in _fields(alarm)
    )
    page = f"<html><body><h1>Alarmdepesche</h1>\n<table>\n{rows}\n</table></body></html>\n"
    plain = _text(f"Alarmdepesche {alarm.number}: {alarm.keyword}\n")
    return _multipart("alternative", rng, plain, _text(page, subtype="html"))


def _one_line(alarm: Alarm, _rng: random.Random) -> bytes:
    fields = (alarm.town, f"{alarm.street} {alarm.house}", alarm.place, alarm.remark)
    line = ";".join((*fields, alarm.keyword, "", "", ",".join(alarm.units)))
    return _text(line + "\n", charset="windows-1252")


def _xml(alarm: Alarm, rng: random.Random) -> bytes:
    tags = {
        "ENR": alarm.number,
        "STICHWORT": alarm.keyword,
        "EO_BEMERKUNG": alarm.remark,
        "EBEGINN": alarm.local,
        "STRASSE": alarm.street,
        "HAUSNUMMER": str(alarm.house),
        "ORT": alarm.town,
        "OBJEKT": alarm.place,
        "AAO": ";".join(alarm.units),
        "KOORDINATE_LAT": str(alarm.latitude),
        "KOORDINATE_LON": str(alarm.longitude),
    }
    inner = "".join(f"<{tag}>{escape(value)}</{tag}>\n" for tag, value in tags.items())
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<INCIDENT>\n{inner}</INCIDENT>\n'
    plain = _text(f"{alarm.keyword}, {alarm.town}\n")
    part = _attachment(document.encode(), "application/xml", "einsatz.xml")
    return _multipart("mixed", rng, plain, part)


def _fax(alarm: Alarm, rng: random.Random) -> bytes:
    units = "\n".join(f"Name       : {unit}" for unit in alarm.units)
    plain = _text(
        f"---------------- Alarmfax der {alarm.centre} ----------------\n"
        f"Absender   : {alarm.centre}\n"
        f"Einsatznummer: {alarm.number}\n"
        "---- EINSATZORT ----\n"
        f"Straße     : {alarm.street:<22} Haus-Nr. : {alarm.house}\n"
        f"Gemeinde   : {alarm.town}\n"
        f"Objekt     : {alarm.place}\n"
        "---- EINSATZGRUND ----\n"
        f"Schlagw.   : #{alarm.keyword.replace(' ', '#')}\n"
        "Prio.      : 1\n"
        f"---- EINSATZMITTEL ----\n{units}\n"
        f"---- BEMERKUNG ----\n{alarm.remark}\n"
        "---- ALARMFAX ENDE ----\n"
    )
    pdf = _pdf(f"Alarmfax {alarm.number} {alarm.keyword.partition(' ')[0]}")
    name = f"Alarmfax_Übersicht_{alarm.number}.pdf"
    return _multipart("mixed", rng, plain, _attachment(pdf, "application/pdf", name))


def _pdf(title: str) -> bytes:
    """Return a PDF of one page that shows a line of ASCII text."""
    stream = f"BT /F1 18 Tf 72 760 Td ({title}) Tj ET".encode("ascii", "replace")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
            b"/Resources << /Font << /F1 5 0 R >> >> >>"
        ),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R >>\n" % (len(objects) + 1)
    return bytes(out) + b"startxref\n%d\n%%%%EOF\n" % start


_FORMATS: Final[tuple[Callable[[Alarm, random.Random], bytes], ...]] = (
    _key_values,
    _html_table,
    _fax,
    _xml,
    _one_line,
)


def trace_headers(*, sender: str, recipient: str, at: datetime) -> bytes:
    """Return what Exchange Online puts above a mail that came from outside and passed."""
    domain = sender.partition("@")[2]
    stamp = format_datetime(at.astimezone(UTC))
    host = "FR0P281MB0001.DEUP281.PROD.OUTLOOK.COM"
    lines = (
        "Authentication-Results: spf=pass (sender IP is 192.0.2.25)",
        f" smtp.mailfrom={domain}; dkim=pass (signature was verified)",
        f" header.d={domain};dmarc=pass action=none",
        f" header.from={domain};compauth=pass reason=100",
        f"Received-SPF: Pass (protection.outlook.com: domain of {domain} designates",
        " 192.0.2.25 as permitted sender) receiver=protection.outlook.com;",
        f" client-ip=192.0.2.25; helo=mail.{domain}; pr=C",
        f"Received: from mail.{domain} (192.0.2.25) by",
        f" FR0P281CA0041.mail.protection.outlook.com with Microsoft SMTP Server; {stamp}",
        f"Return-Path: {sender}",
        f"X-MS-Exchange-Organization-AuthSource: {host}",
        "X-MS-Exchange-Organization-AuthAs: Anonymous",
        "X-MS-Exchange-Organization-SCL: 1",
        f"Delivered-To: {recipient}",
    )
    return "".join(line + "\r\n" for line in lines).encode("ascii")


def alarm_mail(
    rng: random.Random, *, at: datetime, to: str = "alarm@feuerwehr.example", form: int = 0
) -> bytes:
    """Return one alarm mail as it would lie in the mailbox; ``form`` picks one of the formats."""
    alarm = _alarm(rng, at)
    centre = _encoded(alarm.centre)
    subject = _encoded(f"Einsatzalarmierung - {alarm.keyword} - {alarm.town}, {alarm.street}")
    headers = (
        f"From: {centre} <{_SENDER}>",
        f"To: Feuerwehr Musterstadt <{to}>",
        f"Subject: {subject}",
        f"Date: {format_datetime(at.astimezone(_LOCAL))}",
        f"Message-ID: <{alarm.number}.{rng.getrandbits(64):016x}@leitstelle.example>",
        "X-Priority: 1",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
    )
    own = "".join(line + "\r\n" for line in headers).encode()
    entity = _FORMATS[form % len(_FORMATS)](alarm, rng)
    return trace_headers(sender=_SENDER, recipient=to, at=at) + own + entity


def alarm_mails(
    count: int,
    rng: random.Random,
    *,
    at: datetime | None = None,
    to: str = "alarm@feuerwehr.example",
) -> list[bytes]:
    """Return ``count`` alarm mails in turning formats, one second apart, the last one ``at``.

    With the same ``rng`` and ``at`` (default: now) they are the same bytes.
    """
    last = at or datetime.now(UTC)
    return [
        alarm_mail(rng, at=last - timedelta(seconds=count - 1 - index), to=to, form=index)
        for index in range(count)
    ]
