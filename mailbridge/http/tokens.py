"""Who may ask: bearer tokens (RFC 6750), and patience that wears out with those who guess.

Everything under ``/v1`` needs a token. Tokens are kept as hashes and compared in constant time.
An address that sends wrong ones waits ever longer, in one line, whatever it sends from then on;
the daemon and other addresses do not. A client whose token was good from the same address before
does not stand in that line: who guesses behind a shared proxy shuts nobody out.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from mailbridge.http.problems import Refusal

log = structlog.get_logger(__name__)

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

#: wrong tokens of one address that cost no time; a program that was just reconfigured
FREE: Final = 3
#: seconds that the next one waits, doubled with each
FIRST_WAIT: Final = 0.25
LONGEST_WAIT: Final = 5.0
#: seconds in line after which the answer is 429 instead
PATIENCE: Final = 10.0
#: seconds without a wrong token after which an address is as good as new
FORGOTTEN: Final = 300.0
#: addresses that are remembered, the longest silent are forgotten first
REMEMBERED: Final = 4096
#: requests of one client that are answered at the same time
AT_ONCE: Final = 64
_NO_TOKENS_FIX: Final = (
    "write `http.api_tokens: {NAME: {file: PATH}}` in the configuration and restart; "
    "`mailbridge secret key` makes a token."
)


@dataclass(slots=True)
class _Line:
    """Those who wait behind the wrong tokens of one address; moments of the clock."""

    wrong: int = 0
    last: float = 0.0
    #: when the last in line has its turn
    ends: float = 0.0


class Tokens:
    """Knows clients by their tokens, of which it keeps hashes only."""

    def __init__(
        self,
        tokens: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._hashes = [(name, _hash(token)) for name, token in tokens.items()]
        self._clock = clock
        self._sleep = sleep
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()
        #: wrong tokens since the start
        self.refused = 0

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._hashes)

    async def client(self, address: str, token: str) -> str:
        """Return whose token this is; raises ``Refusal``, in its time."""
        place = _network(address)
        name = self._name(token)
        if name is None or (place in self._lines and (place, name) not in self._proven):
            await self._sleep(self._stand_in_line(place))
        if name is None:
            self._say(place)
            headers = {"www-authenticate": 'Bearer realm="mailbridge", error="invalid_token"'}
            raise Refusal(401, "http.token", "this token is not known here", headers=headers)
        _remember(self._proven, (place, name), None)
        return name

    def _name(self, token: str) -> str | None:
        """Compare with every token, whichever fits: the time it takes tells nothing."""
        given, found = _hash(token), None
        for name, known in self._hashes:
            if hmac.compare_digest(given, known):
                found = name
        return found

    def _stand_in_line(self, place: str) -> float:
        """Return the seconds until this try has its turn; raises ``Refusal`` if too many."""
        now = self._clock()
        line = self._lines.get(place) or _Line()
        if now - line.last > FORGOTTEN:
            line = _Line()
        more = line.wrong - FREE
        wait = 0.0 if more < 0 else min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(more, 10))
        turn = max(now, line.ends) + wait
        if turn - now > PATIENCE:
            headers = {"retry-after": str(math.ceil(turn - now))}
            detail = "too many wrong tokens came from this address"
            raise Refusal(429, "http.too_many_tokens", detail, headers=headers)
        line.wrong, line.last, line.ends = line.wrong + 1, now, turn
        _remember(self._lines, place, line)
        return turn - now

    def _say(self, place: str) -> None:
        """Count, and log the 1st, 2nd, 4th, 8th … of an address: a flood of them is no flood."""
        self.refused += 1
        line = self._lines.get(place)
        wrong = line.wrong if line else 1
        if wrong & (wrong - 1) == 0:
            log.warning("http.wrong_token", address=place, wrong=wrong)


def _remember(memory: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _network(address: str) -> str:
    """Return whom an address stands for: whoever has one of IPv6 has the /64 around it."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class Door:
    """ASGI: lets nobody to ``/v1`` without a token; ``state.client`` names who came in.

    Stands before anything of the body is read, so that only clients can make us hold large ones.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens
        self._inside: defaultdict[str, int] = defaultdict(int)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 429, or pass the request on."""
        path = scope["path"]
        if path != "/v1" and not path.startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        try:
            name = await self._client(scope)
        except Refusal as refusal:
            await refusal.answer(scope["state"].get("request_id"))(scope, receive, send)
            return
        scope["state"]["client"] = name
        self._inside[name] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside[name] -= 1

    async def _client(self, scope: Scope) -> str:
        headers = {"www-authenticate": 'Bearer realm="mailbridge"'}
        if not self._tokens:
            detail = "the API is closed: no client has a token"
            raise Refusal(401, "http.no_tokens", detail, fix=_NO_TOKENS_FIX, headers=headers)
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer" or not token.strip():
            fix = "send `Authorization: Bearer TOKEN`, with one of http.api_tokens."
            detail = "this needs a bearer token"
            raise Refusal(401, "http.no_token", detail, fix=fix, headers=headers)
        address = scope["client"][0] if scope.get("client") else ""
        name = await self._tokens.client(address, token.strip().decode("latin-1"))
        if self._inside[name] >= AT_ONCE:
            detail = f"{AT_ONCE} requests of this client are being answered"
            raise Refusal(429, "http.busy", detail, headers={"retry-after": "1"})
        return name
