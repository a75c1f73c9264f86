"""What errors of sockets and of TLS come from: their codes in the catalogue of failures.

Python has one exception for many causes whose fixes differ. What tells them apart is OpenSSL's
number for a certificate (``verify_code``, the X509_V_ERR_* of x509_vfy.h), OpenSSL's name of a
reason, and the kernel's errno. Sentences are not looked at: they change with the version.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Mapping
from typing import Final

#: by OpenSSL's verify_code
_CERTIFICATES: Final[Mapping[int, str]] = {
    9: "tls.clock",  # not yet valid
    10: "tls.clock",  # expired
    18: "tls.self_signed",
    19: "tls.inspected",  # an authority at the chain's end that nobody here trusts
    20: "tls.unknown_authority",
    21: "tls.unknown_authority",
    62: "tls.hostname",
    64: "tls.hostname",  # an IP address instead of a name
}
#: by OpenSSL's reason
_REASONS: Final[Mapping[str, str]] = {
    "WRONG_VERSION_NUMBER": "tls.wrong_port",
    "RECORD_LAYER_FAILURE": "tls.wrong_port",
    "PACKET_LENGTH_TOO_LONG": "tls.wrong_port",
    "UNSUPPORTED_PROTOCOL": "tls.old_protocol",
    "NO_PROTOCOLS_AVAILABLE": "tls.old_protocol",
    "TLSV1_ALERT_PROTOCOL_VERSION": "tls.old_protocol",
}
_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL})


class Unanswered(TimeoutError):  # noqa: N818 - named for what happened
    """Nobody has even taken the connection."""


class NoGreeting(TimeoutError):  # noqa: N818 - named for what happened
    """The server has taken the connection and said nothing."""


def tls_code(exc: BaseException) -> str:
    """Return the code of what TLS failed for; empty when it is nothing in particular."""
    # Both attributes are OpenSSL's: an error that Python itself raises has neither.
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _CERTIFICATES.get(getattr(exc, "verify_code", 0), "tls.certificate")
    if isinstance(exc, ssl.SSLError):
        return _REASONS.get(getattr(exc, "reason", None) or "", "")
    return ""


def connection_code(exc: OSError) -> str:
    """Return the code of what kept a connection from being made; empty for anything else."""
    if isinstance(exc, ConnectionRefusedError):
        return "tcp.refused"
    if isinstance(exc, Unanswered) or exc.errno == errno.ETIMEDOUT:
        return "tcp.timeout"
    return "tcp.unreachable" if exc.errno in _NO_WAY else ""
