"""Who a caller is: the prefix that free calls and bare hashes are bound to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.errors import ConfigError
from farebox.http.client import ClientPrefix

FORWARDED = b"x-forwarded-for"


@pytest.mark.parametrize(
    ("peer", "prefix"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("not an address", "local"),
        ("fe80::1%eth0", "local"),
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
        (b"", "10.0.0.1/32"),
        (b"10.0.0.9", "10.0.0.1/32"),
        (b"2001:db8::1", "2001:db8::/64"),
    ],
)
def test_behind_a_listed_proxy_the_client_is_the_first_unlisted_hop_from_the_right(told: bytes, prefix: str) -> None:
    assert ClientPrefix(["10.0.0.0/8"])("10.0.0.1", [(b"X-Forwarded-For", told)]) == prefix


def test_several_header_lines_are_one_chain() -> None:
    lines = [(FORWARDED, b"1.1.1.1"), (FORWARDED, b"198.51.100.1")]
    assert ClientPrefix(["10.0.0.0/8"])("10.0.0.1", lines) == "198.51.100.1/32"


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "*", "10.0.0.1/8", ""])
def test_a_list_of_proxies_that_takes_in_everyone_or_makes_no_sense_is_refused(network: str) -> None:
    with pytest.raises(ConfigError):
        ClientPrefix([network])
