"""Proxies without a network: their URLs, the environment, and what is said to them."""

from __future__ import annotations

import base64
import random
import traceback
from collections.abc import Mapping

import pytest

from mailbridge.errors import Unavailable
from mailbridge.proxy.environment import Kind, from_environment, goes_around, is_inside
from mailbridge.proxy.errand import Errand
from mailbridge.proxy.handshake import HEAD_BYTES, conversation
from mailbridge.proxy.place import Proxy, ProxyUrlError, parse

PASSWORD = "pä:ss/w#rd-canary"
URL = "http://us%20er:p%C3%A4%3Ass%2Fw%23rd-canary@proxy.example:3128"
YES = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 p\r\n\r\n"
SOCKS_YES = b"\x05\x00\x00\x01\x0a\x00\x00\x01\x04\x38"


# -- URLs -------------------------------------------------------------------------------------


def test_a_url_with_everything_is_read_and_shown_without_its_secrets() -> None:
    """Scheme, host, port and the decoded user and password; only host and port are ever seen."""
    proxy = parse(URL)
    assert (proxy.scheme, proxy.host, proxy.port) == ("http", "proxy.example", 3128)
    assert (proxy.user, proxy.password) == ("us er", PASSWORD)
    assert (proxy.place, proxy.url) == ("proxy.example:3128", "http://proxy.example:3128")
    for text in (repr(proxy), str(proxy), proxy.url, repr([proxy])):
        assert "canary" not in text
        assert "us er" not in text


def test_an_ipv6_proxy_is_shown_in_brackets() -> None:
    """An address with colons does not run into its port."""
    assert parse("socks5://[2001:db8::1]:1080").url == "socks5://[2001:db8::1]:1080"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("proxy.example:3128", "not the URL"),
        ("", "not the URL"),
        ("http://", "not the URL"),
        ("http://proxy.example", "needs its port"),
        ("http://proxy.example:0", "needs its port"),
        ("http://proxy.example:99999", "cannot be read"),
        ("https://proxy.example:443", "TLS to the proxy"),
        ("socks4://proxy.example:1080", "no kind of proxy"),
        ("ftp://proxy.example:21", "no kind of proxy"),
        ("http://proxy.example:3128/canary", "something stands behind"),
        ("http://proxy.example:3128?canary", "something stands behind"),
        ("http://user:can#ary@proxy.example:3128", "cannot be read"),
        ("http://proxy.example:3128 ", "blank or control"),
        ("http://pro\r\nxy:3128", "blank or control"),
        ("http://pro(xy:3128", "neither a name nor an address"),
        ("http://:canary@proxy.example:3128", "a password without a user"),
        ("http://a%3Ab:canary@proxy.example:3128", "a colon"),
        ("http://user:%FFcanary@proxy.example:3128", "not UTF-8"),
        (f"socks5://user:{'canary' * 50}@proxy.example:3128", "longer than 255"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_repeated(url: str, says: str) -> None:
    """Every mistake has its own words, which hold nothing of the URL, and a fix."""
    with pytest.raises(ProxyUrlError) as caught:
        parse(url)
    assert says in str(caught.value)
    assert caught.value.fix
    assert "canary" not in "".join(traceback.format_exception(caught.value)) + caught.value.fix


# -- the environment --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "kind", "variable"),
    [
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "https", "https_proxy"),
        ({"HTTPS_PROXY": "http://b:2", "all_proxy": "http://c:3"}, "https", "HTTPS_PROXY"),
        ({"https_proxy": "", "ALL_PROXY": "http://c:3"}, "https", "ALL_PROXY"),
        ({"all_proxy": "http://c:3", "ALL_PROXY": "http://d:4"}, "https", "all_proxy"),
        ({"http_proxy": "http://a:1"}, "http", "http_proxy"),
        ({"http_proxy": "http://a:1"}, "https", ""),
        ({"HTTP_PROXY": "http://stranger:1"}, "http", ""),
        ({"https_proxy": "http://a:1"}, "http", ""),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "mail", ""),
        ({"https_proxy": "http://a:1", "all_proxy": "socks5h://c:3"}, "mail", "all_proxy"),
        ({"ALL_PROXY": "socks5h://c:3"}, "mail", "ALL_PROXY"),
        ({}, "mail", ""),
    ],
)
def test_which_variable_counts_for_what(
    environ: Mapping[str, str], kind: Kind, variable: str
) -> None:
    """As with curl: the kind's own variable, small letters first, then all_proxy."""
    proxy = from_environment(environ, kind, "target.example")
    assert (proxy.variable if proxy else "") == variable


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("proxy.example", "http://proxy.example:1080"),
        ("socks5h://proxy.example/", "socks5h://proxy.example:1080"),
        ("http://user:pw@proxy.example:3128/", "http://proxy.example:3128"),
        (" http://proxy.example:3128\n", "http://proxy.example:3128"),
    ],
)
def test_the_environment_may_leave_out_what_curl_lets_it(text: str, url: str) -> None:
    """Scheme and port have the defaults of curl there."""
    proxy = from_environment({"all_proxy": text}, "mail", "target.example")
    assert proxy is not None
    assert proxy.url == url


def test_a_variable_that_cannot_be_used_is_not_ignored() -> None:
    """To go on without it would be a connection past the proxy; its name is told, not its text."""
    environ = {"all_proxy": "https://user:canary@proxy.example:443"}
    with pytest.raises(ProxyUrlError) as caught:
        from_environment(environ, "mail", "target.example")
    assert "all_proxy" in str(caught.value)
    assert "`proxy: off`" in caught.value.fix
    assert "canary" not in str(caught.value) + caught.value.fix


@pytest.mark.parametrize(
    ("listed", "host", "direct"),
    [
        ("target.example", "target.example", True),
        ("target.example", "TARGET.example.", True),
        ("example", "target.example", True),
        (".example", "target.example", True),
        ("*.example", "target.example", True),
        ("arget.example", "target.example", False),
        ("target.example", "mytarget.example", False),
        ("a.example b.example,target.example", "target.example", True),
        ("*", "target.example", True),
        ("8.8.8.8", "8.8.8.8", True),
        ("8.8.0.0/16", "8.8.8.8", True),
        ("8.8.0.0/16", "8.9.8.8", False),
        ("8.8.8", "8.8.8.8", False),
        ("2600::/16", "2600::1", True),
        ("[2600::1]", "2600::1", True),
        ("nonsense/99,8.8.8.8", "8.8.8.8", True),
        (",, ,", "target.example", False),
    ],
)
def test_no_proxy(listed: str, host: str, direct: object) -> None:
    """Names with all below them, addresses, networks, and the star that means everything."""
    for variable in ("no_proxy", "NO_PROXY"):
        environ = {"all_proxy": "http://proxy.example:1", variable: listed}
        assert (from_environment(environ, "mail", host) is None) is direct


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST.", "alarm.localhost", "127.0.0.1", "127.8.9.1", "::1"),
        *("10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1", "169.254.0.1"),
        *("fd00::1", "fe80::1", "::ffff:10.0.0.1", "[::1]"),
    ],
)
def test_the_environment_sends_nothing_inside_through_a_proxy(host: str) -> None:
    """Loopback and private targets are reached directly, whatever the variables say."""
    assert from_environment({"all_proxy": "http://proxy.example:1"}, "mail", host) is None


def test_a_broken_variable_does_not_matter_to_what_is_inside() -> None:
    """A sandbox on loopback runs on a machine with any variables."""
    assert from_environment({"all_proxy": "?"}, "mail", "localhost") is None


def test_only_a_proxy_of_the_environment_is_gone_around() -> None:
    """What the file names is used for every target, also for one inside."""
    explicit = parse("http://proxy.example:1")
    around = Proxy(scheme="http", host="proxy.example", port=1, variable="all_proxy")
    assert not goes_around(explicit, "localhost", 993)
    assert goes_around(around, "localhost", 993)
    assert not goes_around(around, "nowhere.invalid", 993)


def test_public_addresses_are_not_inside() -> None:
    """The ends of the ranges are where they are."""
    assert [is_inside(a) for a in ("172.15.0.1", "172.32.0.1", "11.0.0.1", "2600::1")] == [
        False,
        False,
        False,
        False,
    ]


# -- the conversation -------------------------------------------------------------------------


def errand(url: str, host: str = "mail.example", port: int = 993) -> Errand:
    return Errand(proxy=parse(url), host=host, port=port)


def talk(asked: Errand, answers: bytes) -> tuple[bytes, int]:
    """Hold a conversation; returns what was said, and how many bytes of the answers were read."""
    speech = conversation(asked)
    said, read = b"", 0
    step = next(speech)
    try:
        while True:
            heard = b""
            if isinstance(step, bytes):
                said += step
            else:
                heard = answers[read : read + step]
                assert len(heard) == step, "it waits for more than the proxy says"
                read += step
            step = speech.send(heard)
    except StopIteration:
        return said, read


def test_a_connect_request() -> None:
    """The request names the target twice, and us, and nothing that the proxy need not know."""
    said, _ = talk(errand("http://proxy.example:3128"), YES)
    line, host, agent, *rest = said.decode().split("\r\n")
    assert (line, host, rest) == (
        "CONNECT mail.example:993 HTTP/1.1",
        "Host: mail.example:993",
        ["", ""],
    )
    assert agent.startswith("User-Agent: mailbridge/")


def test_a_connect_request_with_a_password_and_an_ipv6_target() -> None:
    """Basic sign-in in UTF-8, and brackets around an address with colons."""
    said, _ = talk(errand(URL, "2001:db8::1"), YES)
    pair = base64.b64encode(f"us er:{PASSWORD}".encode())
    assert said.startswith(b"CONNECT [2001:db8::1]:993 HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic " + pair + b"\r\n" in said


@pytest.mark.parametrize(
    "answer",
    [
        YES,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 299 Fine\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\nA: b\r\n\r\n" + YES,
    ],
)
def test_a_yes_ends_exactly_where_the_target_begins(answer: bytes) -> None:
    """Not one byte behind the proxy's answer is read: that is what the target says."""
    assert talk(errand("http://p:1"), answer + b"* OK IMAP4 ready\r\n")[1] == len(answer)


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n', "auth", "wants a user"),
        (b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\n\r\n", "auth", "only Kerberos or NTLM"),
        (b"HTTP/1.1 407 No\r\nproxy-authenticate: Negotiate, Basic x=1\r\n\r\n", "auth", "wants"),
        (b"HTTP/1.1 403 canary\r\n\r\n", "forbidden", "does not permit connections to mail.exam"),
        (b"HTTP/1.1 502 canary\r\n\r\n", "target", "cannot reach mail.example:993 (HTTP 502)"),
        (b"HTTP/1.1 503 canary\r\n\r\n", "target", "cannot reach"),
        (b"HTTP/1.1 504 canary\r\n\r\n", "target", "cannot reach"),
        (b"HTTP/1.1 500 canary\r\n\r\n", "refused", "refuses to connect to mail.example:993"),
        (b"HTTP/1.1 302 canary\r\nLocation: http://x/\r\n\r\n", "refused", "HTTP 302"),
        (b"SSH-2.0-OpenSSH_9\r\n", "protocol", "does not speak HTTP CONNECT"),
        (b"\x15\x03\x01\x00\x02", "protocol", "does not speak HTTP CONNECT"),
        (b"HTTP/2 200\r\n\r\n", "protocol", "does not speak HTTP CONNECT"),
        (b"HTTP/1.1 20\r\n\r\n", "protocol", "could not be understood"),
        (b"Hello\r\n\r\n", "protocol", "could not be understood"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000, "protocol", "could not be understood"),
        (b"HTTP/1.1 100 C\r\n\r\n" * 2000, "protocol", "could not be understood"),
    ],
)
def test_a_no_of_an_http_proxy(answer: bytes, code: str, says: str) -> None:
    """Each answer has its cause, its fix and its code; the proxy's own words are not repeated."""
    with pytest.raises(Unavailable) as caught:
        talk(errand("http://p.example:1"), answer)
    assert caught.value.code == f"proxy.{code}"
    assert says in str(caught.value)
    assert str(caught.value).startswith("proxy p.example:1 ")
    assert caught.value.fix
    assert "canary" not in str(caught.value) + caught.value.fix


def test_an_answer_without_end_is_given_up() -> None:
    """A proxy that never ends its headers is read up to a bound, not for ever."""
    with pytest.raises(Unavailable) as caught:
        talk(errand("http://p:1"), b"H" * (HEAD_BYTES + 1))
    assert caught.value.code == "proxy.protocol"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("mail.example", b"\x03\x0cmail.example"),
        ("192.0.2.7", b"\x01\xc0\x00\x02\x07"),
        ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + b"\x00" * 11 + b"\x01"),
    ],
)
def test_a_socks_request(host: str, address: bytes) -> None:
    """Names are left to the proxy, addresses go as addresses (RFC 1928, 4 and 5)."""
    answers = b"\x05\x00" + SOCKS_YES
    said, read = talk(errand("socks5h://p:1", host), answers + b"* OK IMAP4 ready\r\n")
    assert said == b"\x05\x01\x00" + b"\x05\x01\x00" + address + b"\x03\xe1"
    assert read == len(answers)


def test_a_socks_sign_in() -> None:
    """User and password go in their bytes, which their lengths count (RFC 1929)."""
    user, password = b"us er", PASSWORD.encode()
    said, _ = talk(errand(URL.replace("http", "socks5h", 1)), b"\x05\x02\x01\x00" + SOCKS_YES)
    assert said.startswith(
        b"\x05\x02\x00\x02\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
    )


@pytest.mark.parametrize(
    "address", [b"\x01" + bytes(4), b"\x04" + bytes(16), b"\x03\x05proxy", b"\x03\x00"]
)
def test_a_socks_yes_ends_exactly_where_the_target_begins(address: bytes) -> None:
    """Whatever kind of address the proxy tells, what follows it is left in the socket."""
    answers = b"\x05\x00\x05\x00\x00" + address + b"\x04\x38"
    assert talk(errand("socks5h://p:1"), answers + b"+OK POP3 ready\r\n")[1] == len(answers)


@pytest.mark.parametrize(
    ("url", "answers", "code", "says"),
    [
        ("socks5h://p:1", b"\x05\xff", "auth", "wants a user and a password"),
        ("socks5h://p:1", b"\x05\x02", "auth", "wants a user and a password"),
        ("socks5h://u:canary@p:1", b"\x05\xff", "auth", "refuses the user or the password"),
        ("socks5h://u:canary@p:1", b"\x05\x02\x01\x01", "auth", "refuses the user or the"),
        ("socks5h://p:1", b"\x05\x00\x05\x01\x00", "refused", "SOCKS5 reply 1"),
        ("socks5h://p:1", b"\x05\x00\x05\x02\x00", "forbidden", "does not permit"),
        ("socks5h://p:1", b"\x05\x00\x05\x03\x00", "target", "network unreachable"),
        ("socks5h://p:1", b"\x05\x00\x05\x04\x00", "target", "host unreachable"),
        ("socks5h://p:1", b"\x05\x00\x05\x05\x00", "target", "connection refused"),
        ("socks5h://p:1", b"\x05\x00\x05\x06\x00", "target", "no answer in time"),
        ("socks5h://p:1", b"\x05\x00\x05\x63\x00", "refused", "SOCKS5 reply 99"),
        ("socks5h://p:1", b"HTTP/1.1 400 Bad\r\n", "protocol", "does not speak SOCKS5"),
        ("socks5h://p:1", b"\x05\x00HTTP", "protocol", "does not speak SOCKS5"),
        ("socks5h://p:1", b"\x05\x00\x05\x00\x00\x09zz", "protocol", "does not speak SOCKS5"),
    ],
)
def test_a_no_of_a_socks_proxy(url: str, answers: bytes, code: str, says: str) -> None:
    """Each reply of RFC 1928 has its cause, its fix and its code."""
    with pytest.raises(Unavailable) as caught:
        talk(errand(url), answers)
    assert (caught.value.code, says in str(caught.value)) == (f"proxy.{code}", True)
    assert caught.value.fix
    assert "canary" not in str(caught.value) + caught.value.fix


@pytest.mark.parametrize("url", ["http://p:1", "socks5h://p:1"])
@pytest.mark.parametrize("host", ["a\r\nX: y", "a b", "", "ä.example", "a" * 256])
def test_a_target_that_is_no_host_is_not_asked_for(url: str, host: str) -> None:
    """A line break in a name would be a second request: nothing is said at all."""
    with pytest.raises(Unavailable) as caught:
        conversation(errand(url, host))
    assert "was not asked" in str(caught.value)
    assert (host or "X: y") not in str(caught.value)


def test_any_bytes_end_in_a_yes_or_a_named_no(rng: random.Random) -> None:
    """Whatever a proxy says, in any of 4,000 random answers, no other error comes of it."""
    starts = [b"", b"HTTP/1.1 ", b"HTTP/1.1 200 ", b"\x05", b"\x05\x00\x05\x00\x00"]
    ends: set[str] = set()
    for number in range(4000):
        answers = rng.choice(starts) + rng.randbytes(rng.randrange(40)) + b"\r\n\r\n" + bytes(600)
        url = ("http://p:1", "socks5h://u:w@p:1")[number % 2]
        try:
            talk(errand(url), answers)
            ends.add("yes")
        except Unavailable as no:
            ends.add(no.code)
        except AssertionError:
            ends.add("waits")
    assert {"yes", "proxy.protocol", "proxy.auth"} <= ends
