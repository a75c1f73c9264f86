"""What a route reads out of a mail, in the forms in which control centres write."""

from __future__ import annotations

import io
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailbridge.parse import parse
from mailbridge.route import pdf
from mailbridge.route.base import (
    FieldSpec,
    HtmlTableField,
    KeyValuesField,
    RegexField,
    RouteFault,
    XPathField,
)
from mailbridge.route.extract import FIELDS_BYTES, compile_extract

ILS = """\
---------------- Alarmfax der ILS Musterstadt ----------------
Absender   : ILS Musterstadt
Einsatznummer: B 1.2 261121 45
---- MITTEILER ----
Name       : Mustermann            Rufnummer : 0171 55
---- EINSATZORT ----
Straße     : Hauptstr.             Haus-Nr. : 12
Abschnitt  :
Ortsteil   : Nord - Musterstadt
X= 4468503,33   Y= 5333320,12
---- EINSATZGRUND ----
Schlagw.   : #B1234#Gebäude#Wohnhaus
Stichwort B: B 3        Stichwort T:        Stichwort S:
Prio.      : 1
---- EINSATZMITTEL ----
Name       : FL MUS 1/40/1
Alarmiert  : 10:00:12    Aus :
---- BEMERKUNG ----
starke Rauchentwicklung
"""
XML = (
    '<?xml version="1.0" encoding="ISO-8859-1"?>\n<INCIDENT xmlns="urn:ils"><ENR>4711</ENR>'
    "<ORT>Öd</ORT><TME><BEZEICHNUNG>LF 20</BEZEICHNUNG><BEZEICHNUNG>DLK</BEZEICHNUNG></TME>"
    "</INCIDENT>"
)


def mail(text: str, *, kind: str = "plain", attachment: tuple[str, bytes] | None = None) -> bytes:
    """Return a mail with one body, and perhaps one attachment."""
    import base64

    head = (
        b"From: ILS <ils@ils.example>\r\nSubject: Einsatzalarmierung - F3Y\r\nMIME-Version: 1.0\r\n"
    )
    body = (
        f"Content-Type: text/{kind}; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    ).encode() + base64.encodebytes(text.encode())
    if attachment is None:
        return head + body
    name, content = attachment
    part = (
        "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
        f'Content-Disposition: attachment; filename="{name}"\r\n\r\n'
    ).encode() + base64.encodebytes(content)
    return (
        head
        + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        + body
        + b"\r\n--b\r\n"
        + part
        + b"\r\n--b--\r\n"
    )


def extracted(raw: bytes, **fields: FieldSpec) -> Any:
    return compile_extract(fields).extract(parse(raw))


def pairs(text: str) -> Any:
    return extracted(mail(text), all=KeyValuesField())["all"]


def a_pdf(text: str) -> bytes:
    """Return a PDF of one page with this text."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    page = writer.add_blank_page(300, 300)
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    page[NameObject("/Resources")] = DictionaryObject(
        {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
    )
    stream = DecodedStreamObject()
    shown = "".join(f"({line}) Tj 0 -14 Td " for line in text.split("\n"))
    stream.set_data(f"BT /F1 12 Tf 10 280 Td {shown}ET".encode("latin-1"))
    page[NameObject("/Contents")] = writer._add_object(stream)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_regex_gives_its_group_value() -> None:
    """A field holds what the regex points at, from text, subject or html; without it, nothing."""
    raw = mail("Stichwort:  B3 Zimmerbrand \r\nOrt: Öd\r\n")
    found = extracted(
        raw,
        keyword=RegexField(regex=r"Stichwort:\s*(?P<value>.+)"),
        code=RegexField(regex=r"- (\w+)$", place="subject"),
        none=RegexField(regex="Prio: (.)"),
        html=RegexField(regex="x", place="html"),
        file=RegexField(regex="x", attachment="*.txt"),
    )
    assert found == {
        "keyword": "B3 Zimmerbrand",
        "code": "F3Y",
        "none": None,
        "html": None,
        "file": None,
    }


def test_key_value_lines_as_a_control_centre_writes_them() -> None:
    """Padded keys, two pairs in a line, empty values, repeated keys and sections are understood."""
    found = pairs(ILS)
    assert found["Einsatznummer"] == "B 1.2 261121 45"
    assert found["Name"] == ["Mustermann", "FL MUS 1/40/1"]
    assert found["Rufnummer"] == "0171 55"
    assert found["Straße"] == "Hauptstr."
    assert found["Haus-Nr."] == "12"
    assert found["Abschnitt"] == ""
    assert found["Ortsteil"] == "Nord - Musterstadt"
    assert found["Stichwort B"] == "B 3"
    assert found["Stichwort T"] == found["Stichwort S"] == ""
    assert found["Alarmiert"] == "10:00:12"


def test_a_value_goes_on_until_an_empty_line() -> None:
    """Lines without a key belong to the value above; what follows an empty line does not."""
    found = pairs("Meldung: Rauch aus dem Dach,\n  Personen im Haus\n\nMit freundlichen Grüßen\n")
    assert found == {"Meldung": "Rauch aus dem Dach,\nPersonen im Haus"}


def test_times_and_links_are_no_keys() -> None:
    """A time of day and a web address are not taken for a pair."""
    assert pairs("10:00:12 alarmiert\nhttps://ils.example/4711\nOrt: Öd") == {"Ort": "Öd"}
    assert extracted(mail("nur Text"), all=KeyValuesField())["all"] is None


def test_html_tables_give_their_labels() -> None:
    """The cell beside a label is found, whatever the case, colons and white space of the label."""
    html = (
        "<table><tr><td><table><tr><th>Einsatz&shy;stichwort:</th><td> B3 <b>Zimmer</b>brand"
        "</td><td>Ort :</td><td>Am&nbsp;Markt<br>5</td></tr><tr><td>Info</td><td></td></tr>"
        "<tr><td>INFO:</td><td>Schlüssel</td></tr></table></td><td>Rahmen</td></tr></table>"
        "<script>alarm()</script>"
    ).replace("&shy;", "")
    raw = mail(html, kind="html")
    found = extracted(
        raw,
        keyword=HtmlTableField(label="einsatzstichwort"),
        place=HtmlTableField(label="Ort:"),
        info=HtmlTableField(label="Info"),
        none=HtmlTableField(label="Prio"),
        all=HtmlTableField(),
    )
    assert found["keyword"] == "B3 Zimmerbrand"
    assert found["place"] == "Am Markt 5"
    assert found["info"] == "Schlüssel"
    assert found["none"] is None
    assert found["all"] == {
        "Einsatzstichwort": "B3 Zimmerbrand",
        "Ort": "Am Markt 5",
        "Info": "",
        "INFO": "Schlüssel",
    }


@pytest.mark.parametrize("where", ["attachment", "text", "within"])
def test_xml_is_read_where_it_stands(where: str) -> None:
    """XPath finds names in an attachment and in a body, whatever namespace and words around."""
    glob = "*.xml" if where == "attachment" else ""
    raw = {
        "attachment": mail("siehe Anhang", attachment=("Einsatz.XML", XML.encode("utf-8"))),
        "text": mail(XML),
        "within": mail(f"Guten Tag,\n{XML}\nIhre Leitstelle"),
    }[where]
    found = extracted(
        raw,
        number=XPathField(xpath="//ENR/text()", attachment=glob),
        units=XPathField(xpath="//BEZEICHNUNG", attachment=glob),
        place=XPathField(xpath="string(//ORT)", attachment=glob),
        count=XPathField(xpath="count(//BEZEICHNUNG)", attachment=glob),
        none=XPathField(xpath="//PRIO/text()", attachment=glob),
    )
    assert found == {
        "number": "4711",
        "units": ["LF 20", "DLK"],
        "place": "Öd",
        "count": 2.0,
        "none": None,
    }


def test_xml_of_an_enemy_is_harmless(tmp_path: Any) -> None:
    """Entities are not resolved, neither of files nor of each other, and nothing is fetched."""
    secret = tmp_path / "secret"
    secret.write_text("canary")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    for document in (
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]><a><ENR>&x;</ENR></a>',
        f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><a><ENR>&l11;</ENR></a>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><a><ENR>&y;</ENR></a>',
        "<a>" * 100_000,
        "<ENR/>" * 100_000,
    ):
        found = extracted(mail(document), number=XPathField(xpath="//ENR"))
        assert len(str(found)) < 100
        assert "canary" not in str(found)


def test_the_text_of_a_pdf_is_read() -> None:
    """Regexes and pairs reach into a PDF that lies beside the text, whatever it is called."""
    raw = mail(
        "siehe Anhang", attachment=("depesche.dat", a_pdf("Stichwort: B3\nOrt: Musterstadt"))
    )
    found = extracted(
        raw,
        keyword=RegexField(regex=r"Stichwort:\s*(.+)", attachment="depesche.*"),
        all=KeyValuesField(attachment="*.dat"),
    )
    assert found == {"keyword": "B3", "all": {"Stichwort": "B3", "Ort": "Musterstadt"}}


@pytest.mark.parametrize("content", [b"%PDF-1.7\nnothing", b"%PDF-" + bytes(range(256)) * 50])
def test_a_broken_pdf_is_no_text(content: bytes) -> None:
    """What cannot be read as a PDF leaves the field empty, and the mail goes on."""
    raw = mail("x", attachment=("a.pdf", content))
    assert extracted(raw, a=RegexField(regex=".", attachment="*.pdf")) == {"a": None}


def test_a_pdf_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that runs out of its time is killed, and the field is empty."""
    monkeypatch.setattr(pdf, "SECONDS", 0.01)
    raw = mail("x", attachment=("a.pdf", a_pdf("Ort: Öd")))
    assert extracted(raw, a=RegexField(regex=".", attachment="*.pdf")) == {"a": None}


def test_a_pdf_is_read_once_for_all_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten fields of one attachment start one reader."""
    reads: list[bytes] = []

    def read(content: bytes) -> str:
        reads.append(content)
        return "Ort: Öd"

    monkeypatch.setattr("mailbridge.route.places.text_of_pdf", read)
    raw = mail("x", attachment=("a.pdf", a_pdf("x")))
    fields: dict[str, FieldSpec] = {
        f"f{n}": RegexField(regex="Ort: (.+)", attachment="*.pdf") for n in range(10)
    }
    assert set(extracted(raw, **fields).values()) == {"Öd"}
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("spec", "at"),
    [
        (RegexField(regex="(?=x)"), ("f", "regex")),
        (XPathField(xpath="//["), ("f", "xpath")),
        (XPathField(xpath="//a:b"), ("f", "xpath")),
        (XPathField(xpath=" "), ("f", "xpath")),
        (KeyValuesField(separator=" "), ("f", "key_values")),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_its_place(
    spec: FieldSpec, at: tuple[str, ...]
) -> None:
    """A mistake in the file is found when it is read, never when a mail comes."""
    with pytest.raises(RouteFault) as fault:
        compile_extract({"f": spec})
    assert fault.value.at == at
    assert fault.value.fix


def test_fields_are_bounded_as_a_whole() -> None:
    """Whatever a mail holds, its fields fit into what is stored with it."""
    text = "\n".join(f"Feld{n}: {'x' * 1000}" for n in range(300))
    fields: dict[str, FieldSpec] = {"all": KeyValuesField(), "one": RegexField(regex="Feld1: (x+)")}
    found = extracted(mail(text), **fields)
    assert len(orjson.dumps(found)) <= FIELDS_BYTES
    assert found["one"]


PIECES = [
    *(
        "Ort: ",
        ":",
        "   ",
        "\n",
        "----",
        "=",
        "<table><tr><td>",
        "</td><td>",
        "</tr>",
        "<a>",
        "</a>",
    ),
    *("<?xml", "&x;", "]]>", "<!DOCTYPE a [", "\u0000", "\ud800", "Ä" * 50, "<a b='" * 3, "\u202e"),
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60), st.sampled_from(["plain", "html"]))
def test_no_mail_makes_extraction_raise(pieces: list[str], kind: str) -> None:
    """Whatever stands in a mail, extraction gives plain JSON."""
    text = "".join(pieces).encode("utf-8", "replace").decode()
    found = extracted(
        mail(text, kind=kind, attachment=("a.xml", text.encode())),
        regex=RegexField(regex="Ort: (.*)", place="html"),
        pairs=KeyValuesField(),
        odd=KeyValuesField(separator="="),
        table=HtmlTableField(),
        label=HtmlTableField(label="Ort"),
        xml=XPathField(xpath="//a"),
        file=XPathField(xpath="//@b", attachment="*.xml"),
    )
    orjson.dumps(found)


def test_work_grows_with_the_text_alone() -> None:
    """Long lines of keys, gaps and separators cost no more than their length."""
    rng = random.Random(7)
    text = "".join(rng.choice(["k:", "   ", " :", "\n", "x" * 70]) for _ in range(100_000))
    assert len(orjson.dumps(pairs(text))) <= FIELDS_BYTES
