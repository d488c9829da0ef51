"""What counts as one caller, and what as one neighbourhood."""

import random

import pytest

from farebox.core.client_prefix import LOCAL, address_of, prefix_of, subnet_of


@pytest.mark.parametrize(
    ("address", "prefix", "subnet"),
    [
        ("192.0.2.7", "192.0.2.7/32", None),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("::ffff:192.0.2.7", "192.0.2.7/32", None),
        ("2002:c000:207::1", "192.0.2.7/32", None),
        ("2002:c000:207:ffff::1", "192.0.2.7/32", None),
        ("64:ff9b::192.0.2.7", "192.0.2.7/32", None),
        ("2001:0:4136:e378:8000:63bf:3fff:fdf8", "192.0.2.7/32", None),
        ("64:ff9b:1::192.0.2.7", "64:ff9b:1::/64", "64:ff9b:1::/48"),  # a network's own translation tells nothing
        ("fd00::1", "fd00::/64", "fd00::/48"),
    ],
)
def test_an_address_counts_as_its_prefix_and_neighbourhood(address: str, prefix: str, subnet: str | None) -> None:
    assert (prefix, subnet) == (prefix_of(address), subnet_of(prefix))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "::", "0.0.0.0", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::127.0.0.1"),
        *("fe80::1", "fe80::1%eth0", "169.254.0.1", "", "x", "1.2.3", "1.2.3.4:80", "[2001:db8::1]", "1" * 10_000),
    ],
)
def test_whoever_has_no_address_of_its_own_shares_one_bucket(address: str) -> None:
    assert LOCAL == prefix_of(address)
    assert subnet_of(LOCAL) is None


def test_the_1000_addresses_of_a_64_are_one_caller_and_the_many_64_of_a_48_are_one_neighbourhood() -> None:
    chance = random.Random(48)
    one = {prefix_of(f"2001:db8:1:2:{chance.getrandbits(16):x}::{chance.getrandbits(16):x}") for _ in range(1000)}
    many = {prefix_of(f"2001:db8:1:{number:x}::1") for number in range(1000)}
    assert {"2001:db8:1:2::/64"} == one
    assert (1000, {"2001:db8:1::/48"}) == (len(many), {subnet_of(prefix) for prefix in many})


def test_an_address_is_read_without_blanks_around_it_and_with_nothing_else() -> None:
    assert "192.0.2.7" == str(address_of(" 192.0.2.7\t"))
    assert [None] * 4 == [address_of(text) for text in ("192.0.2.7\xa0", "192.0.2.07", "192.0.2.7\n", "3221225991")]
