"""What a TLS connection of ours trusts, whichever protocol it is for."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

import certifi


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that verifies chain and name, TLS 1.2 or newer.

    ``ca`` replaces the system's authorities. Environment variables are not asked: what a
    daemon trusts stands in its configuration alone. Contexts are shared, since each holds
    all authorities in memory; a changed file gives a new one. Raises ``OSError``.
    """
    return _context(ca, 0 if ca is None else ca.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _context(ca: Path | None, _changed_at: int) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        context.load_verify_locations(cafile=str(ca))
        return context
    system = ssl.get_default_verify_paths()
    if Path(system.openssl_cafile).is_file():
        context.load_verify_locations(cafile=system.openssl_cafile)
    elif Path(system.openssl_capath).is_dir() and any(Path(system.openssl_capath).iterdir()):
        context.load_verify_locations(capath=system.openssl_capath)
    else:
        context.load_verify_locations(cafile=certifi.where())
    return context
