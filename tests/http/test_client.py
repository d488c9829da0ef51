"""Who a caller is: the prefix that free calls and bare hashes are bound to."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.errors import ConfigError
from farebox.http.client import ClientPrefix
from farebox.testing.spoofing import spoofed

FORWARDED = b"x-forwarded-for"
SPOOFS = [1_000, pytest.param(10_000, marks=pytest.mark.full)]


@pytest.mark.parametrize(
    ("peer", "prefix"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("127.0.0.1", "local"),
        ("::1", "local"),
        ("not an address", "local"),
        (None, "local"),
    ],
)
def test_a_peer_is_its_prefix(peer: str | None, prefix: str) -> None:
    assert ClientPrefix()(peer, []) == prefix


@given(st.binary(max_size=60), st.sampled_from([b"x-forwarded-for", b"x-real-ip", b"forwarded", b"cf-connecting-ip"]))
def test_no_header_of_an_unlisted_peer_changes_who_it_is(value: bytes, name: bytes) -> None:
    assert ClientPrefix()("192.0.2.7", [(name, value)]) == "192.0.2.7/32"
    assert ClientPrefix(["10.0.0.0/8"])("192.0.2.7", [(name, value)]) == "192.0.2.7/32"


@pytest.mark.parametrize(
    ("told", "prefix"),
    [
        (b"198.51.100.1", "198.51.100.1/32"),
        (b"1.1.1.1, 198.51.100.1", "198.51.100.1/32"),
        (b"198.51.100.1, 10.1.1.1", "198.51.100.1/32"),
        (b"198.51.100.1, junk", "10.0.0.1/32"),
        (b"198.51.100.1, ", "10.0.0.1/32"),
        (b"198.51.100.1:4711", "10.0.0.1/32"),
        (b"", "10.0.0.1/32"),
        (b"10.0.0.9", "10.0.0.1/32"),
        (b"1.1.1.1, ::ffff:10.0.0.9", "1.1.1.1/32"),
        (b"1.1.1.1, 2002:a00:9::1", "10.0.0.9/32"),  # made of a listed address, and not that address
        (b"127.0.0.1", "local"),
        (b"2001:db8::1", "2001:db8::/64"),
        (b"::ffff:198.51.100.1", "198.51.100.1/32"),
    ],
)
def test_behind_a_listed_proxy_the_client_is_the_first_unlisted_hop_from_the_right(told: bytes, prefix: str) -> None:
    assert ClientPrefix(["10.0.0.0/8"])("10.0.0.1", [(b"X-Forwarded-For", told)]) == prefix


def test_several_header_lines_are_one_chain() -> None:
    lines = [(FORWARDED, b"1.1.1.1"), (FORWARDED, b"198.51.100.1")]
    assert ClientPrefix(["10.0.0.0/8"])("10.0.0.1", lines) == "198.51.100.1/32"


def test_a_proxy_listed_by_its_mapped_address_is_listed() -> None:
    for listed in ("::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "10.0.0.1"):
        assert ClientPrefix([listed])("::ffff:10.0.0.1", [(FORWARDED, b"198.51.100.1")]) == "198.51.100.1/32"


@pytest.mark.parametrize("spoofs", SPOOFS)
@pytest.mark.parametrize(
    ("peer", "trusted", "appended", "prefix"),
    [
        pytest.param("192.0.2.7", (), b"", "192.0.2.7/32", id="direct"),
        pytest.param("192.0.2.7", ("10.0.0.0/8", "127.0.0.1"), b"", "192.0.2.7/32", id="direct, with a proxy listed"),
        pytest.param("10.0.0.1", ("10.0.0.0/8",), b"198.51.100.1", "198.51.100.1/32", id="trusted proxy"),
        pytest.param("10.0.0.1", ("10.0.0.0/8",), b"2001:db8::1", "2001:db8::/64", id="trusted proxy, IPv6"),
        pytest.param("127.0.0.1", ("127.0.0.1",), b"198.51.100.1", "198.51.100.1/32", id="listed loopback tunnel"),
        pytest.param("127.0.0.1", (), b"198.51.100.1", "local", id="unlisted loopback tunnel"),
        pytest.param("::1", ("127.0.0.1",), b"198.51.100.1", "local", id="the other loopback"),
    ],
)
def test_of_so_many_spoofed_header_sections_none_changes_who_a_caller_is(
    spoofs: int,
    peer: str,
    trusted: tuple[str, ...],
    appended: bytes,
    prefix: str,
    seed: int,
    tell: Callable[[str], object],
) -> None:
    chance = random.Random(seed)
    who = ClientPrefix(trusted)
    told = {who(peer, spoofed(chance, appended)) for _ in range(spoofs)}
    tell(f"D1: {spoofs} header sections, one caller: {', '.join(told)} (seed {seed})")
    assert {prefix} == told


@pytest.mark.parametrize(
    "networks",
    [["0.0.0.0/0"], ["::/0"], ["*"], [" * "], ["0.0.0.0/1", "128.0.0.0/1"], ["::/1", "8000::/1"], ["::ffff:0:0/96"]],
)
def test_a_list_of_proxies_that_takes_in_everyone_is_refused_and_told_why(networks: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"trusted_proxies: .* would let every caller choose an address; list your"):
        ClientPrefix(networks)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "", "localhost"])
def test_a_list_of_proxies_that_makes_no_sense_is_refused(network: str) -> None:
    with pytest.raises(ConfigError, match="trusted_proxies: "):
        ClientPrefix([network])


def test_a_header_of_another_grammar_is_refused_rather_than_never_understood() -> None:
    with pytest.raises(ConfigError, match="X-Forwarded-For"):
        ClientPrefix(["10.0.0.1"], "Forwarded")
