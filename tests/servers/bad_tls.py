"""Servers whose TLS is wrong in one way, a port that answers nobody, one that says one thing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from mailbridge.sandbox.ca import LOOPBACK_NAMES, Authority, write_private

#: what is wrong -> names in the certificate, and how its time lies
_SHIFTS: Final = {"expired": timedelta(days=-200), "not_yet_valid": timedelta(days=10)}


def bad_context(what: str, authority: Authority, files: Path) -> ssl.SSLContext:
    """Return a server's context: ``authority`` is trusted by the client, what is wrong is not.

    ``expired``, ``not_yet_valid``, ``hostname``, ``inspected`` (a chain that ends in another
    authority), ``unknown_authority`` (the same without its end), ``self_signed``,
    ``old_protocol`` (nothing newer than TLS 1.1).
    """
    names = ("mail.other.example",) if what == "hostname" else LOOPBACK_NAMES
    signer = Authority() if what in {"inspected", "unknown_authority"} else authority
    certificate, key = signer.issue(names, shifted=_SHIFTS.get(what, timedelta(0)))
    if what == "self_signed":
        certificate, key = _self_signed()
    if what == "inspected":
        certificate += signer.pem
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain = files / f"{what}.pem"
    write_private(chain, certificate + key)
    context.load_cert_chain(chain)
    chain.unlink()
    if what == "old_protocol":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def _self_signed() -> tuple[bytes, bytes]:
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(pem), private


@asynccontextmanager
async def listening(
    context: ssl.SSLContext | None,
    *,
    says: bytes = b"",
    hangs_up: bool = False,
    resets: bool = False,
) -> AsyncIterator[int]:
    """Listen on loopback, say one thing, and wait for the other side to go; yields the port.

    ``resets`` ends a connection with RST once the other side has spoken.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if says:
                writer.write(says)
                await writer.drain()
            if resets:
                await reader.read(1)
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            elif not hangs_up:
                await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextmanager
def refusing(context: ssl.SSLContext) -> Iterator[int]:
    """Yield a port where every handshake fails with the alert that OpenSSL sends for it.

    In a thread, on a plain socket: asyncio drops the alert of a handshake that it fails.
    """

    def serve(server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(10)
                context.wrap_socket(client, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def black_hole() -> Iterator[int]:
    """Yield a port that takes no connection and refuses none: its queue is full (listen(2))."""
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)  # noqa: FBT003 - the socket's own signature
            client.connect_ex(("127.0.0.1", port))
        yield port
