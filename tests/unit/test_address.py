"""Webhooks reach public addresses, inner ones only when that is meant, and some never."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.errors import Unavailable
from mailbridge.sinks.address import (
    MAX_ADDRESSES,
    Guard,
    SystemResolver,
    check_url,
    classify,
    exact_url,
    pinned,
)

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "52.96.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.169.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80e::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]
PRIVATE = [
    "10.0.0.0",
    "10.255.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "::1",
    "fc00::1",
    "fdff:ffff::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "febf::1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        *[(address, "public") for address in PUBLIC],
        *[(address, "private") for address in PRIVATE],
        *[(address, "never") for address in NEVER],
    ],
)
def test_block_table(address: str, reach: str) -> None:
    """Each address of the table is judged as the documentation says."""
    assert classify(address)[0] == reach


@pytest.mark.parametrize("address", [*PUBLIC, *PRIVATE, *NEVER])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("allow_private", [False, True])
def test_guard_follows_the_table(address: str, scheme: str, allow_private: bool) -> None:  # noqa: FBT001 - parametrised
    """A public address needs https, allow_private adds the private, http is for those alone."""
    allowed = (address in PUBLIC and scheme == "https") or (address in PRIVATE and allow_private)
    refusal = Guard(scheme=scheme, allow_private=allow_private).refusal(address)
    assert (refusal is None) == allowed
    if refusal is not None:
        assert address in refusal


def test_a_private_address_names_the_setting() -> None:
    """The operator of a LAN alarm server reads which setting opens the way to it."""
    refusal = Guard(scheme="https", allow_private=False).refusal("192.168.1.20")
    assert refusal is not None
    assert "allow_private: true" in refusal


@given(st.ip_addresses(v=4))
def test_ipv4_agrees_with_the_standard_library(address: ipaddress.IPv4Address) -> None:
    """Nothing that Python's own registry calls special or not global passes as public."""
    special = not address.is_global or address.is_multicast
    if special:
        assert classify(str(address))[0] != "public"


@given(st.ip_addresses(v=6))
def test_ipv6_agrees_with_the_standard_library(address: ipaddress.IPv6Address) -> None:
    """What Python's own registry calls not global passes only as translated public IPv4."""
    nat64 = address in ipaddress.ip_network("64:ff9b::/96") or address.ipv4_mapped is not None
    if not nat64 and (not address.is_global or address.is_multicast):
        assert classify(str(address))[0] != "public"


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/x?y=z",
        "https://hooks.example:8443/",
        "https://hooks.example./",
        "https://8.8.8.8/",
        "https://[2606:4700::1]/",
        "https://user:password@hooks.example/",
        "https://bücher.example/",
        "HTTPS://HOOKS.EXAMPLE/",
    ],
)
def test_good_urls(url: str) -> None:
    """A public https URL is fine as it is."""
    assert check_url(url, allow_private=False) is None
    assert check_url(url, allow_private=True) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/",
        "https://localhost./",
        "https://alarm.localhost/",
        "http://127.0.0.1/",
        "http://192.168.1.5:8083/rest",
        "https://10.1.2.3/",
        "http://[::1]:80/",
        "http://[fd12::1]/",
        "https://[::ffff:10.0.0.1]/",
        "http://alarm-server/",
        "http://\uff11\uff12\uff17.0.0.1/",
    ],
)
def test_inner_urls_need_allow_private(url: str) -> None:
    """What is loopback or private, or http at all, needs the setting, and is told so."""
    problem = check_url(url, allow_private=False)
    assert problem is not None
    assert "allow_private" in problem
    assert check_url(url, allow_private=True) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "javascript:alert(1)",
        "//hooks.example/",
        "https://",
        "https:///path",
        "https://./",
        "https://hooks.example:99999/",
        "https://hooks.example:0/",
        "https://hooks.example:x/",
        "https://[::1/",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nHost: x",
        "https://hooks.example/\x00",
        "https://169.254.169.254/latest/meta-data/",
        "http://169.254.169.254/",
        "https://[fe80::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[::]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://0/",
        "https://2852039166/",
        "https://example.com@169.254.169.254/",
        "https://169.254.169.254./",
        "http://8.8.8.8/",
        "https://\uff11\uff16\uff19.254.169.254/",
        "https://\u2460\u2461\u2466.1/",
    ],
)
def test_bad_urls_are_refused_in_any_case(url: str) -> None:
    """Other schemes, unreadable URLs, odd notations and forbidden addresses are never taken."""
    assert check_url(url, allow_private=False) is not None
    assert check_url(url, allow_private=True) is not None


def test_the_problem_of_a_url_never_shows_its_secret() -> None:
    """A URL may hold a token in any part but the host, so only the host is repeated."""
    for url in (
        "ftp://user:canary1@host/canary2?canary3#canary4",
        "https://user:canary1@10.0.0.1/canary2?canary3#canary4",
        "https://user:canary1@host:99999/canary2?canary3",
        "http://user:canary1@host/canary2?canary3",
        "https://user:canary1@[host/canary2",
    ):
        assert "canary" not in (check_url(url, allow_private=False) or "")


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    """No text makes the check of a URL raise."""
    for prefix in ("", "https://", "http://"):
        for allow_private in (False, True):
            problem = check_url(prefix + text, allow_private=allow_private)
            assert problem is None or problem


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/a%2Fb?sp=%2Ftriggers%2Frun&sig=a%2bb%3D",
        "https://hooks.example",
        "https://hooks.example/%7euser?x=%41",
    ],
)
def test_a_url_is_requested_as_it_was_written(url: str) -> None:
    """Escapes in a signed URL are left alone, since unescaping them would break the signature."""
    path = url.removeprefix("https://hooks.example")
    assert exact_url(url).raw_path_qs == (path or "/")


class Names:
    """A resolver whose answers are laid down, and which counts the questions."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Give the next answer; the last one for ever."""
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return answer


OUTSIDE = Guard(scheme="https", allow_private=False)


async def test_only_judged_addresses_come_out() -> None:
    """Of a mixed answer only what may be connected to is left."""
    names = Names(["10.0.0.1", "8.8.8.8", "::1", "8.8.8.8", "169.254.169.254"])
    assert await pinned("hooks.example", 443, guard=OUTSIDE, resolve=names) == ["8.8.8.8"]
    assert names.asked == 1


async def test_an_inner_answer_is_refused_with_the_host_and_the_setting() -> None:
    """A name that points inside is refused by a sentence with which the fault can be mended."""
    with pytest.raises(Unavailable) as caught:
        await pinned("erp.example", 443, guard=OUTSIDE, resolve=Names(["10.0.0.1"]))
    assert "erp.example" in str(caught.value)
    assert "10.0.0.1" in str(caught.value)
    assert "allow_private" in str(caught.value)


async def test_no_address_at_all_is_unavailable() -> None:
    """An empty answer of DNS is a passing failure that names the host."""
    with pytest.raises(Unavailable, match=r"erp\.example: DNS has no address"):
        await pinned("erp.example", 443, guard=OUTSIDE, resolve=Names([]))


async def test_a_hundred_addresses_are_cut() -> None:
    """A name with hundreds of addresses costs no more tries than eight."""
    names = Names([f"8.8.8.{i}" for i in range(200)])
    got = await pinned("hooks.example", 443, guard=OUTSIDE, resolve=names)
    assert len(got) == MAX_ADDRESSES


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "169.254.169.254", "0x7f.1", "localhost"])
async def test_literal_hosts_are_judged_without_a_question(host: str) -> None:
    """A host that is an address is judged like an answer, and DNS is not asked about it."""
    names = Names(["8.8.8.8"])
    with pytest.raises(Unavailable):
        await pinned(host, 443, guard=OUTSIDE, resolve=names)
    assert names.asked == 0


async def test_system_resolver_shares_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many connections at once cost one look-up, and one more soon after costs none."""
    asked: list[bytes] = []

    def look_up(host: bytes, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = SystemResolver()
    answers = await asyncio.gather(*[resolver("hooks.example", 443) for _ in range(20)])
    again = await resolver("hooks.example", 443)
    resolver.close()
    assert [*answers, again] == [["192.0.2.7"]] * 21
    assert asked == [b"hooks.example"]


async def test_system_resolver_does_not_remember_a_failure() -> None:
    """A name that DNS does not know fails each time anew, and never as anything but OSError."""
    resolver = SystemResolver()
    # A label of 64 characters: the C library refuses it without asking any server.
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await resolver("a" * 64 + ".invalid", 443)
    resolver.close()


async def test_system_resolver_finds_loopback() -> None:
    """The real resolver of the system answers in the form that the guard reads."""
    resolver = SystemResolver()
    answers = await resolver("localhost", 443)
    resolver.close()
    assert {classify(answer)[0] for answer in answers} == {"private"}
