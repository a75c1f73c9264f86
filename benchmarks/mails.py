"""The mail that all contestants read: the same for everyone, made from a seed.

Of 100 messages 80 are multipart/alternative with 3 to 10 kB of quoted-printable text, 15 are
50 kB of 8bit HTML, and 5 are 300 kB with a PDF-like attachment in base64; umlauts in the text,
RFC 2047 in the subject and RFC 2231 in the filename. The mean is 27 kB, the median 8 kB.
Each carries ``TKN-`` and twelve digits in its Message-ID, by which the receiver counts it.
"""

from __future__ import annotations

import base64
import quopri
import random
from collections.abc import Iterator
from email.header import Header
from functools import cache

WORDS = [
    "Übung",
    "Straße",
    "Gefahrgut",
    "Einsatz",
    "Brücke",
    "Löschzug",
    "Größe",
    "Leitstelle",
    "Meldung",
    "Fahrzeug",
    "Hydrant",
    "Wetter",
    "Bereitschaft",
    "Lage",
    "Führung",
    "Kräfte",
    "Anfahrt",
    "Objekt",
    "Keller",
    "Geschoss",
    "Rauch",
    "alarm",
    "report",
    "Menschenleben",
    "Wasser",
    "Versorgung",
    "Rückmeldung",
    "ärztlich",
    "Höhe",
    "Länge",
    "Maß",
]
SEED = 20261121


def mails(count: int, *, first: int = 0) -> Iterator[bytes]:
    """Yield ``count`` messages with the numbers ``first``, ``first + 1``, …; CRLF throughout."""
    rng = random.Random(SEED + first)
    for number in range(first, first + count):
        slot = rng.random()
        if slot < 0.80:
            body = _alternative(rng, number)
        elif slot < 0.95:
            body = _page(rng)
        else:
            body = _with_attachment(rng, number)
        yield _head(rng, number) + body


def _text(rng: random.Random, size: int) -> str:
    lines: list[str] = []
    total = 0
    while total < size:
        line = " ".join(rng.choices(WORDS, k=rng.randint(6, 14)))
        lines.append(line)
        total += len(line) + 2
    return "\r\n".join(lines)


def _head(rng: random.Random, number: int) -> bytes:
    subject = Header(
        f"Einsatz {number}: {' '.join(rng.choices(WORDS, k=4))}", "utf-8", maxlinelen=70
    ).encode(linesep="\r\n")
    sender = Header("Leitstelle Süd", "utf-8").encode()
    hops = "".join(
        f"Received: from mx{hop}.ils.example (mx{hop}.ils.example [192.0.2.{hop}])\r\n"
        f"\tby relay{hop}.mail.example with ESMTPS id {rng.getrandbits(64):016x}\r\n"
        f"\tfor <alarm@feuerwehr.example>; Sat, 21 Nov 2026 10:{hop:02}:00 +0100\r\n"
        for hop in range(1, 4)
    )
    return (
        f"{hops}"
        f"Authentication-Results: spf=pass smtp.mailfrom=ils.example; dkim=pass; dmarc=pass\r\n"
        f"From: {sender} <leitstelle@ils.example>\r\n"
        f"To: Alarm <alarm@feuerwehr.example>\r\n"
        f"Subject: {subject}\r\n"
        f"Date: Sat, 21 Nov 2026 10:04:00 +0100\r\n"
        f"Message-ID: <TKN-{number:012}@ils.example>\r\n"
        f"MIME-Version: 1.0\r\n"
    ).encode("ascii")


def _crlf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _quoted(text: str) -> bytes:
    return _crlf(quopri.encodestring(text.replace("\r\n", "\n").encode()))


def _alternative(rng: random.Random, number: int) -> bytes:
    # Quoted-printable adds about a tenth; the two parts together end at 3 to 10 kB.
    text = _text(rng, rng.randint(700, 2900))
    page = f"<html><body><p>{text.replace(chr(10), '<br>')}</p></body></html>"
    mark = f"alt-{number:012}"
    return b"".join(
        [
            f'Content-Type: multipart/alternative; boundary="{mark}"\r\n\r\n'.encode(),
            f"--{mark}\r\nContent-Type: text/plain; charset=utf-8\r\n".encode(),
            b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
            _quoted(text),
            f"\r\n--{mark}\r\nContent-Type: text/html; charset=utf-8\r\n".encode(),
            b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
            _quoted(page),
            f"\r\n--{mark}--\r\n".encode(),
        ]
    )


@cache
def _big_text(variant: int) -> str:
    return _text(random.Random(variant), 41_000)


def _page(rng: random.Random) -> bytes:
    text = _big_text(rng.randrange(20)) + "\r\n" + _text(rng, 2_000)
    return (
        b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        + f"<html><body><div>\r\n{text}\r\n</div></body></html>\r\n".encode()
    )


def _with_attachment(rng: random.Random, number: int) -> bytes:
    mark = f"mix-{number:012}"
    blob = b"%PDF-1.7\n" + rng.randbytes(215_000)
    return b"".join(
        [
            f'Content-Type: multipart/mixed; boundary="{mark}"\r\n\r\n'.encode(),
            f"--{mark}\r\nContent-Type: text/plain; charset=utf-8\r\n".encode(),
            b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
            _quoted(_text(rng, 2_000)),
            f"\r\n--{mark}\r\nContent-Type: application/pdf\r\n".encode(),
            b"Content-Disposition: attachment; filename*=utf-8''Lageplan%20Stra%C3%9Fe.pdf\r\n",
            b"Content-Transfer-Encoding: base64\r\n\r\n",
            _crlf(base64.encodebytes(blob)),
            f"\r\n--{mark}--\r\n".encode(),
        ]
    )
