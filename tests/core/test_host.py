"""One spelling for each host."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

import idna
import pytest
import yarl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.core.host import can_be_called, canonical_host, canonical_origin, is_loopback

NUMBERS = st.one_of(
    st.integers(0, 2**32).map(str),
    st.integers(0, 2**32).map(lambda number: f"0{number:o}"),
    st.integers(0, 2**32).map(lambda number: f"0x{number:x}"),
    st.integers(0, 300).map(str),
    st.sampled_from(["0x", "08", "1_0", "00", "0x0X1", "", "+1", "١", "1e1"]),
)


@pytest.mark.parametrize(
    ("spelling", "host"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("xn--BCHER-kva.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),  # which is not strasse.example
        ("ｓｈｏｐ。example", "shop.example"),
        ("☕.example", "xn--53h.example"),
        ("*.☕.Straße.example", "*.xn--53h.strasse.example"),
        ("☕..example", "☕..example"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("127.0.256", "127.0.1.0"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),  # which leads to this machine
        ("0", "127.0.0.1"),
        ("0x0.0", "127.0.0.1"),
        ("[::]", "[::1]"),
        ("[::ffff:0.0.0.0]", "127.0.0.1"),
        ("0.0.0.1", "0.0.0.1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[::FFFF:7f00:1]", "127.0.0.1"),
        ("[0:0::1]", "[::1]"),
        ("2001:DB8::7", "[2001:db8::7]"),
        ("[::1%lo]", "[::1]"),
        ("[::1%25lo]", "[::1]"),  # as RFC 6874 had it; httpx and aiohttp connect to `::1%251` as to `::1`
        ("::1%251", "[::1]"),
        ("[::%257]", "[::1]"),
        ("[::ffff:127.0.0.1%251]", "127.0.0.1"),
        ("[2001:DB8::7%4294967295]", "[2001:db8::7]"),
        ("[fe80::1%25eth0]", "[fe80::1]"),
        ("[::1%]", "[::1%]"),
        ("127.0.0.1%251", "127.0.0.1%251"),
        ("fe80::%eth0/10", "fe80::%eth0/10"),
        ("localhost.", "localhost"),
        ("*", "*"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
        ("10.0.0.*", "10.0.0.*"),
        ("127.0.0.1.", "127.0.0.1."),  # a name to a resolver, and none of this machine
        ("127.0.0.1.evil.example", "127.0.0.1.evil.example"),
        ("0x7f.1.evil.example", "0x7f.1.evil.example"),
        ("256.0.0.1", "256.0.0.1"),
        ("1.2.3.4.5", "1.2.3.4.5"),
        ("4294967296", "4294967296"),
        ("127.0.0.08", "127.0.0.08"),
        ("shop.example:8402", "shop.example:8402"),
        ("[nothing:", "[nothing:"),
        ("", ""),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_host_has_one_spelling(spelling: str, host: str) -> None:
    assert host == canonical_host(spelling)
    assert host == canonical_host(host)


@given(st.lists(NUMBERS, min_size=1, max_size=5))
@settings(deadline=None, max_examples=300)
def test_numbers_are_read_as_the_system_reads_them(numbers: list[str]) -> None:
    text = ".".join(numbers)
    try:
        address = IPv4Address(socket.inet_aton(text))
        expected = "127.0.0.1" if address.is_unspecified else str(address)
    except (OSError, UnicodeError):
        with pytest.raises(ValueError, match=r".*"):
            IPv4Address(canonical_host(text))
    else:
        assert expected == canonical_host(text)


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=300)
def test_whatever_is_written_is_spelt_once_and_for_all(text: str) -> None:
    once = canonical_host(text)
    assert once == canonical_host(once)
    assert once == "".join(once.split())


@given(st.lists(st.text(st.characters(categories=["Ll", "Lo", "Nd"]), min_size=1, max_size=8), min_size=1, max_size=3))
@settings(deadline=None, max_examples=300)
def test_a_name_is_spelt_as_http_clients_spell_it(labels: list[str]) -> None:
    name = ".".join([*labels, "example"])
    try:
        expected = idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError:
        return  # no client would ask for it
    assert expected == canonical_host(name)


@given(st.lists(st.text(st.characters(categories=["L", "So", "Nd"]), min_size=1, max_size=8), min_size=1, max_size=3))
@example(["☕"])
@example(["ex_ü"])
@example(["I❤"])
@example(["_x", "straße"])
@settings(deadline=None, max_examples=300)
def test_a_name_is_spelt_as_the_client_spells_it_that_refuses_least(labels: list[str]) -> None:
    name = ".".join([*labels, "example"])
    try:
        expected = (yarl.URL(f"http://{name}/").raw_host or "").lower()
    except ValueError:
        return
    assert " " in expected or expected == canonical_host(name)


@pytest.mark.parametrize(
    ("host", "port", "can_be"),
    [
        ("a.example", None, True),
        ("a.example.", 65535, True),
        ("::1", 80, True),
        ("a..example", None, False),
        (".example", None, False),
        ("a" * 64, None, False),
        ("a.example", 0, False),
        ("a.example", 65536, False),
    ],
)
def test_a_host_that_no_resolver_takes_can_not_be_called(host: str, port: int | None, can_be: bool) -> None:
    assert can_be is can_be_called(host, port)


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("shop.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("[fe80::1]", False),
        ("localhost.evil.example", False),
        ("notlocalhost", False),
        ("shop", False),
        ("", False),
    ],
)
def test_loopback_is_what_nobody_else_can_reach(host: str, is_it: bool) -> None:
    assert is_it is is_loopback(host)


@pytest.mark.parametrize("zone", ["1", "7", "251", "4294967295"])
def test_a_zone_by_its_number_leads_to_the_same_machine(zone: str) -> None:
    [(*_, (address, *_))] = socket.getaddrinfo(f"::1%{zone}", 80, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    assert "::1" == str(address).partition("%")[0]
    assert "[::1]" == canonical_host(f"::1%{zone}")


@pytest.mark.parametrize(
    ("origin", "spelt"),
    [
        ("https://api.example.com:443", "https://api.example.com:443"),
        ("HTTPS://API.example.com.:443", "https://api.example.com:443"),
        ("http://127.1:8402", "http://127.0.0.1:8402"),
        ("http://[::FFFF:127.0.0.1]:8402", "http://127.0.0.1:8402"),
        ("http://[0:0::1]:8402", "http://[::1]:8402"),
        ("http://[::1%251]:8402", "http://[::1]:8402"),
        ("mcp", "mcp"),
        ("https://shop.example", "https://shop.example"),
    ],
)
def test_an_origin_has_one_spelling(origin: str, spelt: str) -> None:
    assert spelt == canonical_origin(origin)
