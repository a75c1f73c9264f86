"""The listener is no open relay, whatever its configuration and whoever asks."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailbridge.relay.bounds import Bounds, Limits
from mailbridge.relay.inbound import digest, tells_itself_apart
from mailbridge.relay.policy import (
    NOBODY,
    Policy,
    Refusal,
    ToQueue,
    ToRoutes,
    ip_of,
    is_local,
)

DOMAINS = ["fw.example", "office.example", "evil.example", "x.fw.example"]
LOCALS = ["scanner", "alarm", "*", "x"]
addresses = st.builds("{}@{}".format, st.sampled_from(LOCALS), st.sampled_from(DOMAINS))
octets = st.integers(0, 2)
clients = st.one_of(
    st.builds("10.0.{}.{}".format, octets, octets),
    st.builds("::ffff:10.0.{}.{}".format, octets, octets),
    st.sampled_from(["127.0.0.1", "::1", "fe80::1%eth0", "2001:db8::1", "", "unknown"]),
)
networks = st.lists(
    st.sampled_from(
        ["127.0.0.0/8", "10.0.0.0/24", "10.0.1.1/32", "::1/128", "fe80::/10", "0.0.0.0/0", "::/0"]
    ).map(ipaddress.ip_network),
    max_size=3,
).map(tuple)
mailboxes = st.sampled_from(["alarm", "office"])
policies = st.builds(
    Policy,
    networks=networks,
    senders=st.dictionaries(addresses, mailboxes, max_size=3),
    domains=st.dictionaries(st.sampled_from(DOMAINS), mailboxes, max_size=2),
    inbound=st.lists(addresses, max_size=3).map(lambda found: {one: one for one in found}),
    passwords=st.sampled_from([{}, {"user": "a password"}]),
)
spelled = st.builds(
    lambda address, upper: address.upper() if upper else address, addresses, st.booleans()
)


@given(policies, clients, st.one_of(st.just(NOBODY), spelled), spelled, st.booleans())
def test_it_is_no_open_relay(
    policy: Policy, client: str, sender: str, recipient: str, signed_in: object
) -> None:
    """Only who is in a network, is named as a sender, and signed in where asked, sends a mail."""
    word = policy.judge(
        client=client, sender=sender, recipient=recipient, signed_in=bool(signed_in)
    )
    address = ip_of(client)
    within = address is not None and any(address in network for network in policy.networks)
    lower = sender.lower()
    named = policy.senders.get(lower) or policy.domains.get(lower.partition("@")[2])
    may = within and named is not None and (signed_in or not policy.passwords)
    if recipient.lower() in policy.inbound:
        assert isinstance(word, ToRoutes if within else Refusal)
    elif may:
        assert word == ToQueue(named or "")
    else:
        assert isinstance(word, Refusal)
        assert word.reply[0] == "5"
        assert word.reason
        assert word.reply.isascii()
        assert "\n" not in word.reply
    if not within:
        assert isinstance(word, Refusal)


def test_a_whole_address_goes_before_its_domain() -> None:
    """Who is named in full is sent through his own mailbox, the others of his domain not."""
    policy = Policy(
        networks=(ipaddress.ip_network("::1/128"),),
        senders={"a@fw.example": "one"},
        domains={"fw.example": "two"},
    )

    def mailbox(sender: str) -> object:
        return policy.judge(client="::1", sender=sender, recipient="x@y.example", signed_in=False)

    assert mailbox("A@FW.example") == ToQueue("one")
    assert mailbox("b@fw.example") == ToQueue("two")
    assert isinstance(mailbox("a@x.fw.example"), Refusal)
    assert isinstance(mailbox("*@fw.example.evil.example"), Refusal)


def test_this_machine_is_known_by_every_spelling() -> None:
    """IPv4 within IPv6 is the same machine, and what is no address is no machine of ours."""
    found = ["127.9.9.9", "::1", "::ffff:127.0.0.1", "10.0.0.1", "localhost"]
    assert [is_local(one) for one in found] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("apart", "head"),
    [
        (True, b"Message-ID: <1@x>\r\nDate: today\r\n"),
        (True, b"message-id:<1@x>\r\ndate:today\r\n"),
        (True, b"Received: from a by b; today\r\n"),
        (False, b"Message-ID: <1@x>\r\n"),
        (False, b"Date: today\r\n"),
        (False, b"Message-ID:\r\nDate: \r\n"),
        (False, b"Subject: x\r\n Date: a\r\n Message-ID: b\r\n"),
        (False, b""),
        (False, b"Subject: x\n\nReceived: a\n"),
    ],
)
def test_only_a_mail_that_tells_itself_apart_is_known_again(apart: object, head: bytes) -> None:
    """Two alarms of a device without a clock are two, though they are the same to the byte."""
    content = head + b"\r\nReceived: x\r\nMessage-ID: x\r\nDate: x\r\n"
    assert tells_itself_apart(content) is apart
    assert (digest("a@b.example", content) == digest("a@b.example", content)) is apart
    assert digest("a@b.example", content) != digest("c@b.example", content)


def test_counts_return_to_nothing() -> None:
    """However connections and mails overlap, what they used is free again afterwards."""
    moment = 0.0
    bounds = Bounds(Limits(connections=3, per_address=2, memory=100), lambda: moment)
    assert [bounds.enter(client) for client in "aaabb"] == [True, True, False, True, False]
    with bounds.holding() as one, bounds.holding() as two:
        assert one.grow(b"x" * 60)
        assert not two.grow(b"x" * 60)
        assert two.grow(b"x" * 40)
        one.release()
        assert not one.content
        assert two.grow(b"x" * 60)
        assert len(two.content) == bounds.memory == 100
    assert bounds.memory == 0
    for client in "aab":
        bounds.leave(client)
    assert bounds.connections == 0


def test_failures_are_forgiven_and_never_fill_memory() -> None:
    """A mistyped password is forgotten after a while, and a flood of addresses in part."""
    moment = [0.0]
    bounds = Bounds(Limits(), lambda: moment[0])
    for _ in range(20):
        bounds.failed("a")
    assert bounds.delay("a") == 30
    moment[0] = 1000.0
    assert bounds.delay("a") == 0
    for number in range(5000):
        bounds.failed(str(number))
        bounds.worth_saying(str(number), "x")
    assert len(bounds._failures) <= 1024
    assert len(bounds._said) <= 1024
