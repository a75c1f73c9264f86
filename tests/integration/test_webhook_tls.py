"""TLS to webhooks: verified always, fails closed with words, heals by itself."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from mailbridge.errors import PermanentError
from mailbridge.model import Deferred, Delivered
from mailbridge.sinks.connector import Deadlines
from mailbridge.sinks.webhook import WebhookSink
from tests.integration.test_webhook import attempt, delivery, sink_to
from tests.servers.receiver import Receiver, answer, receiving

HOST = "hook.example"


async def loopback(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Give a private certificate authority."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    """Give the authority's certificate as a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def server_context(authority: trustme.CA, *names: str, **validity: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or (HOST,)), **validity).configure_cert(context)
    return context


@asynccontextmanager
async def secured(
    context: ssl.SSLContext, host: str = HOST, **settings: Any
) -> AsyncIterator[tuple[Receiver, WebhookSink]]:
    async with (
        receiving(tls=context) as receiver,
        sink_to(receiver.url(host=host), resolve=loopback, **settings) as sink,
    ):
        yield receiver, sink


async def test_a_private_authority_is_trusted_when_named(
    authority: trustme.CA, ca_file: str
) -> None:
    """With `ca`, a receiver with a private certificate is reached, and the connection reused."""
    async with secured(server_context(authority), ca=ca_file) as (receiver, sink):
        outcomes = [await attempt(sink, delivery(n)) for n in range(5)]
    assert {type(outcome) for outcome in outcomes} == {Delivered}
    assert receiver.connections == 1


async def test_a_private_authority_adds_to_the_system_store(ca_file: str) -> None:
    """Naming a private authority does not take away the public ones."""
    plain, private = sink_to("https://a.example/"), sink_to("https://a.example/", ca=ca_file)
    own = len(plain._tls_context().get_ca_certs())
    assert len(private._tls_context().get_ca_certs()) == own + 1


async def test_nothing_depends_on_certificate_variables(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private authority works whatever the environment says about certificate files."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "/nonexistent")
    async with secured(server_context(authority), ca=ca_file) as (_, sink):
        assert isinstance(await attempt(sink), Delivered)


async def test_unknown_authority(authority: trustme.CA) -> None:
    """A certificate of an unknown authority is refused before any byte of mail is sent."""
    async with secured(server_context(authority)) as (receiver, sink):
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert outcome.reason.startswith("hook.example: TLS: certificate refused: ")
    assert not receiver.requests


async def test_wrong_name(authority: trustme.CA, ca_file: str) -> None:
    """A certificate for another name is refused, for the name in the URL is what counts."""
    context = server_context(authority, "other.example", "127.0.0.1")
    async with secured(context, ca=ca_file) as (receiver, sink):
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert "certificate refused: Hostname mismatch" in outcome.reason
    assert not receiver.requests


async def test_expired_and_renewed(authority: trustme.CA, ca_file: str) -> None:
    """An expired certificate defers, and its renewal heals without a restart."""
    past = datetime.now(UTC) - timedelta(days=2)
    validity = {"not_before": past, "not_after": past + timedelta(days=1)}
    context = server_context(authority, **validity)
    async with secured(context, ca=ca_file) as (receiver, sink):
        first = await attempt(sink)
        authority.issue_cert(HOST).configure_cert(context)
        second = await attempt(sink)
    assert isinstance(first, Deferred)
    assert "certificate refused: certificate has expired" in first.reason
    assert isinstance(second, Delivered)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("host", ["hook.example.", "HOOK.example"])
async def test_odd_spellings_of_the_name(authority: trustme.CA, ca_file: str, host: str) -> None:
    """A trailing dot and capital letters are the same name to TLS."""
    async with secured(server_context(authority), host, ca=ca_file) as (_, sink):
        assert isinstance(await attempt(sink), Delivered)


async def test_a_name_beyond_ascii(authority: trustme.CA, ca_file: str) -> None:
    """A URL with umlauts in its name is reached under its encoded name."""
    context = server_context(authority, "xn--lschzug-90a.example")
    async with secured(context, "l\u00f6schzug.example", ca=ca_file) as (receiver, sink):
        outcome = await attempt(sink)
    assert isinstance(outcome, Delivered)
    assert receiver.requests[0].headers["host"] == f"xn--lschzug-90a.example:{receiver.port}"


async def test_an_address_in_the_certificate(authority: trustme.CA, ca_file: str) -> None:
    """A LAN server without a name is reached when its certificate names the address."""
    context = server_context(authority, "127.0.0.1")
    async with secured(context, "127.0.0.1", ca=ca_file) as (_, sink):
        assert isinstance(await attempt(sink), Delivered)


async def test_old_tls_is_refused(authority: trustme.CA, ca_file: str) -> None:
    """A receiver that has nothing newer than TLS 1.1 gets no mail."""
    context = server_context(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.deprecated_call():
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.deprecated_call():
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with secured(context, ca=ca_file) as (receiver, sink):
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert outcome.reason.startswith("hook.example: TLS: ")
    assert not receiver.requests


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificate(
    authority: trustme.CA, ca_file: str, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A receiver that asks for a client certificate gets ours; without one the mail waits."""
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    authority.configure_trust(context)
    ours = authority.issue_cert("mailbridge.example")
    certificate, key = str(tmp_path / "client.pem"), str(tmp_path / "client.key")
    for blob in ours.cert_chain_pems:
        blob.write_to_path(certificate, append=True)
    ours.private_key_pem.write_to_path(key)
    settings = {"ca": ca_file, "client_certificate": certificate, "client_key": key}
    async with secured(context, **settings) as (receiver, sink):
        assert isinstance(await attempt(sink), Delivered)
    assert receiver.requests[0].client_certificate
    async with secured(context, ca=ca_file) as (receiver, sink):
        outcome = await attempt(sink)
    assert isinstance(outcome, Deferred)
    assert not receiver.requests


@pytest.mark.parametrize("setting", ["ca", "client_certificate"])
@pytest.mark.parametrize("content", [None, "", "geheim"], ids=["missing", "empty", "text"])
async def test_unusable_files(tmp_path: Path, setting: str, content: str | None) -> None:
    """A TLS file that is missing or no certificate is named when the sink is opened."""
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    sink = sink_to("https://hook.example/", **{setting: str(path)})
    with pytest.raises(PermanentError, match=r"webhook erp: TLS file .*file\.pem") as caught:
        await sink.open()
    assert "geheim" not in str(caught.value)


async def test_plain_text_where_tls_is_expected() -> None:
    """A receiver that speaks plain HTTP on an https URL gets nothing but a TLS greeting."""
    greeting = asyncio.get_running_loop().create_future()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting.set_result(await reader.read(3))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with sink_to(f"https://{HOST}:{port}/", resolve=loopback) as sink:
        outcome = await attempt(sink)
    server.close()
    await server.wait_closed()
    assert isinstance(outcome, Deferred)
    assert outcome.reason == "hook.example: TLS: wrong version number"
    assert (await greeting)[0] == 0x16


@pytest.mark.parametrize("silent", [True, False])
async def test_truncated_handshake(silent: bool) -> None:  # noqa: FBT001 - parametrised
    """A receiver that hangs or hangs up in the handshake costs the TLS deadline at most."""
    over = asyncio.Event()

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        if silent:
            await over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = {"resolve": loopback, "deadlines": Deadlines(tls=0.4)}
    async with sink_to(f"https://{HOST}:{port}/", **settings) as sink:
        outcome = await attempt(sink)
    over.set()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0)
    assert isinstance(outcome, Deferred)
    expected = "TLS took longer than 0.4 s" if silent else "TLS: Connection reset"
    assert outcome.reason == f"hook.example: {expected}"


async def test_the_answer_of_a_tls_receiver_is_judged_alike(
    authority: trustme.CA, ca_file: str
) -> None:
    """Statuses mean the same over TLS, and a closing connection is no failure."""
    async with secured(server_context(authority), ca=ca_file) as (receiver, sink):
        receiver.script = answer(503, b"busy", {"Retry-After": "7"}, close=True)
        first = await attempt(sink)
        receiver.script = answer(200, close=True)
        second = await attempt(sink)
    assert isinstance(first, Deferred)
    assert (first.status, first.retry_after, first.detail) == (503, 7.0, "busy")
    assert isinstance(second, Delivered)
    assert receiver.connections == 2
