"""Whom the proxy may be sent to: judged by the address that is connected to."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import httpcore
import httpx
import pytest

from farebox.core.errors import ConfigError
from farebox.http.forward.reach import Address, CheckedTransport, OutOfReach, Reach

PUBLIC = ip_address("93.184.216.34")


def is_open(reach: Reach, address: str, host: str = "shop.test", port: int = 443) -> bool:
    return reach.is_open(host, ip_address(address), port)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_the_public_internet_is_open(address: str) -> None:
    assert is_open(Reach(), address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::"),
    ],
)
def test_what_only_this_machine_or_its_network_reaches_is_not(address: str) -> None:
    assert not is_open(Reach(), address)
    assert (address in ("0.0.0.0", "::")) != is_open(Reach(private=True), address)


def test_a_private_host_can_be_allowed_by_name_by_address_and_by_network() -> None:
    assert is_open(Reach(allow=["shop.test"]), "10.0.0.1")
    assert is_open(Reach(allow=["SHOP.test."]), "10.0.0.1")
    assert not is_open(Reach(allow=["shop.test"]), "10.0.0.1", host="a.shop.test")
    assert is_open(Reach(allow=["*.shop.test"]), "10.0.0.1", host="a.shop.test")
    assert not is_open(Reach(allow=["*.shop.test"]), "10.0.0.1")
    assert is_open(Reach(allow=["10.0.0.0/8"]), "10.0.0.1")
    assert is_open(Reach(allow=["[::1]"]), "::1")
    assert not is_open(Reach(allow=["10.0.0.2"]), "10.0.0.1")


def test_denied_is_denied_whatever_else_is_allowed() -> None:
    reach = Reach(deny=["evil.test", "*.evil.test", "93.184.216.0/24"], allow=["93.184.216.34"], private=True)
    for host in ("evil.test", "EVIL.test", "evil.test.", "a.b.evil.test"):
        with pytest.raises(OutOfReach):
            reach.check_host(host)
    reach.check_host("notevil.test")
    assert not is_open(reach, "93.184.216.34")
    assert not is_open(reach, "::ffff:93.184.216.34")


def test_the_proxys_own_address_is_never_open() -> None:
    reach = Reach(private=True, own=lambda: [(ip_address("127.0.0.1"), 8403)])
    assert not is_open(reach, "127.0.0.1", port=8403)
    assert not is_open(reach, "::ffff:127.0.0.1", port=8403)
    assert is_open(reach, "127.0.0.1", port=8402)


@pytest.mark.parametrize("listed", ["bücher.example", "*.BÜCHER.example", "xn--bcher-kva.example."])
@pytest.mark.parametrize("asked", ["xn--bcher-kva.example", "XN--BCHER-kva.example.", "bücher.example"])
def test_a_name_is_one_however_it_is_spelt(listed: str, asked: str) -> None:
    asked = f"a.{asked}" if listed.startswith("*") else asked
    with pytest.raises(OutOfReach):
        Reach(deny=[listed]).check_host(asked)
    assert is_open(Reach(allow=[listed]), "10.0.0.1", host=asked)


@pytest.mark.parametrize("listed", ["127.1", "2130706433", "0x7f.1", "::ffff:127.0.0.1", "[::FFFF:7f00:1]", "0.0.0.0"])
def test_an_address_is_one_however_it_is_spelt(listed: str) -> None:
    assert not is_open(Reach(deny=[listed], private=True), "127.0.0.1")
    assert is_open(Reach(deny=[listed], private=True), "127.0.0.2")


@pytest.mark.parametrize("listed", ["", "☕..example", "a*b.test", "10.0.0.0/33", "shop.test:80", "http://shop.test"])
def test_what_is_no_host_is_not_listed(listed: str) -> None:
    with pytest.raises(ConfigError):
        Reach(allow=[listed])


class Nowhere(httpcore.AsyncNetworkBackend):
    """A network on which nobody answers, and that writes down who was called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def connect_tcp(self, host: str, port: int, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
        self.called.append(f"{host}:{port}")
        raise httpcore.ConnectError("nobody")


async def called(*addresses: str, reach: Reach | None = None) -> tuple[type[Exception], list[str]]:
    async def resolve(_host: str, _port: int) -> Sequence[Address]:
        return [ip_address(each) for each in addresses]

    transport, network = CheckedTransport(reach or Reach(), tls=httpx.create_ssl_context(), resolve=resolve), Nowhere()
    transport._pool._network_backend._network = network  # type: ignore[attr-defined]  # what a socket would be
    with pytest.raises(httpx.ConnectError) as told:
        await transport.handle_async_request(httpx.Request("GET", "http://shop.test/"))
    await transport.aclose()
    return type(told.value), network.called


@pytest.mark.anyio
async def test_only_addresses_that_were_judged_are_connected_to() -> None:
    assert (httpx.ConnectError, [f"{PUBLIC}:80"]) == await called("127.0.0.1", str(PUBLIC), "10.0.0.1")


@pytest.mark.anyio
async def test_a_name_of_private_addresses_alone_is_refused_without_a_connection() -> None:
    assert (OutOfReach, []) == await called("127.0.0.1", "::1")
    assert (OutOfReach, []) == await called()


@pytest.mark.anyio
async def test_a_denied_name_is_not_even_looked_up() -> None:
    assert (OutOfReach, []) == await called(str(PUBLIC), reach=Reach(deny=["shop.test"]))


@pytest.mark.anyio
@pytest.mark.parametrize("port", [0, 65536, 99999])
async def test_a_port_that_there_is_not_is_trouble_of_the_network(port: int) -> None:
    transport = CheckedTransport(Reach(private=True), tls=httpx.create_ssl_context())
    with pytest.raises(httpx.ConnectError):
        await transport.handle_async_request(httpx.Request("GET", f"http://127.0.0.1:{port}/"))
