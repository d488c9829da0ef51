"""What a request asks of the proxy: one reading of each target, or none."""

from __future__ import annotations

import pytest

from farebox.http.forward.refusal import Refusal
from farebox.http.forward.target import Fetch, Here, Own, Place, Target, Tunnel, read_target

HERE = Here(names=frozenset(("127.0.0.1:8403", "localhost:8403")))
HOST = b"127.0.0.1:8403"


def read(target: str, host: bytes | None = HOST, method: bytes = b"GET", tunnel: Tunnel | None = None) -> Target:
    return read_target(method, target.encode("latin-1"), host, here=HERE, tunnel=tunnel)


def refused(target: str, host: bytes | None = HOST, method: bytes = b"GET", tunnel: Tunnel | None = None) -> int:
    with pytest.raises(Refusal) as told:
        read(target, host, method, tunnel)
    return told.value.status


@pytest.mark.parametrize(
    ("target", "host", "url"),
    [
        ("http://shop.test/a?b=c", b"shop.test", "http://shop.test/a?b=c"),
        ("http://shop.test", b"shop.test", "http://shop.test/"),
        ("http://shop.test?b", b"shop.test", "http://shop.test/?b"),
        ("http://shop.test:80/a", b"shop.test", "http://shop.test/a"),
        ("http://shop.test/a", b"SHOP.test:80", "http://shop.test/a"),
        ("http://shop.test:8402/a", b"shop.test:8402", "http://shop.test:8402/a"),
        ("HTTP://Shop.Test/A", b"shop.test", "http://shop.test/A"),
        ("https://shop.test/a", b"shop.test", "https://shop.test/a"),
        ("http://[2001:DB8::1]:8402/a", b"[2001:db8::1]:8402", "http://[2001:db8::1]:8402/a"),
        ("http://192.0.2.1/", b"192.0.2.1", "http://192.0.2.1/"),
    ],
)
def test_the_absolute_form_is_a_url_to_fetch(target: str, host: bytes, url: str) -> None:
    asked = read(target, host)
    assert isinstance(asked, Fetch)
    assert (url, "") == (asked.url, asked.server)


def test_the_absolute_form_may_do_without_a_host_in_http_1_0() -> None:
    assert isinstance(read("http://shop.test/", None), Fetch)


@pytest.mark.parametrize(
    ("target", "url", "server"),
    [
        ("/pay/https://shop.test/a?b=http://c", "https://shop.test/a?b=http://c", "/pay/https://shop.test"),
        ("/pay/http://shop.test:8402", "http://shop.test:8402/", "/pay/http://shop.test:8402"),
        ("/pay/http://shop.test?a/b", "http://shop.test/?a/b", "/pay/http://shop.test"),
        ("/pay/https:/shop.test/a", "https://shop.test/a", "/pay/https:/shop.test"),
        ("/pay/HTTP://[2001:DB8::1]:80/", "http://[2001:db8::1]/", "/pay/HTTP://[2001:DB8::1]:80"),
        ("/pay/elsewhere/https://shop.test/a", "https://shop.test/a", "/pay/elsewhere/https://shop.test"),
        ("/pay/elsewhere/https:/shop.test", "https://shop.test/", "/pay/elsewhere/https:/shop.test"),
    ],
)
def test_behind_pay_stands_a_url_to_fetch(target: str, url: str, server: str) -> None:
    asked = read(target)
    assert isinstance(asked, Fetch)
    assert (url, server) == (asked.url, asked.server)


@pytest.mark.parametrize(
    "target", ["/pay/elsewhere/", "/pay/elsewhere/elsewhere/http://a/", "/pay/Elsewhere/http://a/"]
)
def test_behind_elsewhere_stands_a_url_too(target: str) -> None:
    assert 400 == refused(target)


def test_connect_asks_for_a_tunnel() -> None:
    assert Tunnel(place=Place(host="shop.test", port=443)) == read("shop.test:443", b"shop.test:443", b"CONNECT")
    assert Tunnel(place=Place(host="shop.test", port=443)) == read("Shop.Test:443", b"shop.test", b"CONNECT")


def test_a_client_that_sends_everything_to_the_proxy_can_ask_for_the_proxy_itself() -> None:
    assert Own(path="/budget") == read("http://127.0.0.1:8403/budget")
    asked = read("http://localhost:8403/pay/https://shop.test/", b"localhost:8403")
    assert isinstance(asked, Fetch)
    assert "https://shop.test/" == asked.url


def test_within_a_tunnel_a_path_is_fetched_from_its_end() -> None:
    tunnel = Tunnel(place=Place(host="shop.test", port=443))
    asked = read("/a?b", b"shop.test", tunnel=tunnel)
    assert isinstance(asked, Fetch)
    assert "https://shop.test/a?b" == asked.url
    assert 421 == refused("/a", b"other.test", tunnel=tunnel)
    assert 421 == refused("/a", b"shop.test:444", tunnel=tunnel)
    assert 421 == refused("/a", None, tunnel=tunnel)
    assert 400 == refused("https://other.test/", b"shop.test", tunnel=tunnel)
    assert 400 == refused("other.test:443", b"shop.test", b"CONNECT", tunnel)


def test_within_a_tunnel_the_proxy_can_not_be_asked_for_itself() -> None:
    tunnel = Tunnel(place=Place(host="shop.test", port=443))
    asked = read("/pay/http://other.test/", b"shop.test", tunnel=tunnel)
    assert isinstance(asked, Fetch)
    assert "https://shop.test/pay/http://other.test/" == asked.url


@pytest.mark.parametrize(
    "target",
    [
        "http://shop.test/#a",
        "http://user@shop.test/",
        "http://user:password@shop.test/",
        "http://shop.test@evil.test/",
        "http://shop.test\\@evil.test/",
        "http:shop.test/",
        "http://",
        "http:///a",
        "http://shop.test:0/",
        "http://shop.test:65536/",
        "http://shop.test:+80/",
        "http://shop.test:/",
        "http://shop test/",
        "http://shop%2etest/",
        "http://sh\xf6p.test/",
        "http://shop..test/",
        "http://.shop.test/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://127.0.0.0x1/",
        "http://[::1%25lo]/",
        "http://[::1/",
        "http://::1/",
        "ftp://shop.test/",
        "file:///etc/passwd",
        "ws://shop.test/",
        "gopher://shop.test/",
        "data:,a",
        "*",
        "shop.test:443",
    ],
)
def test_what_can_be_read_in_two_ways_or_none_is_refused(target: str) -> None:
    host = target.partition("://")[2].partition("/")[0].encode("latin-1") or HOST
    assert 400 == refused(target, host)
    assert 400 == refused(f"/pay/{target}")


def test_one_slash_less_is_made_up_for_behind_pay_alone() -> None:
    assert 400 == refused("http:/shop.test/", b"shop.test")
    assert Own(path="//shop.test/") == read("//shop.test/")


@pytest.mark.parametrize("host", [b"other.test", b"shop.test:81", b"shop.test@other.test", b"", b"127.0.0.1:8403"])
def test_a_host_that_is_not_that_of_the_url_is_refused(host: bytes) -> None:
    assert 400 == refused("http://shop.test/", host)


@pytest.mark.parametrize("host", [b"evil.test:8403", b"127.0.0.1", b"127.0.0.1:80", b"", None])
def test_the_proxy_itself_is_asked_under_its_own_name_only(host: bytes | None) -> None:
    assert 400 == refused("/budget", host)
    assert 400 == refused("/pay/https://shop.test/", host)


@pytest.mark.parametrize("port", [22, 25, 110, 6000, 6667])
def test_a_port_where_something_else_than_http_is_spoken_is_refused(port: int) -> None:
    assert 403 == refused(f"http://shop.test:{port}/", f"shop.test:{port}".encode())
    assert 403 == refused(f"shop.test:{port}", f"shop.test:{port}".encode(), b"CONNECT")


@pytest.mark.parametrize(
    "target", ["shop.test", "http://shop.test:443", "shop.test:443/a", "user@shop.test:443", ":443"]
)
def test_a_tunnel_needs_a_host_and_a_port_and_nothing_else(target: str) -> None:
    assert 400 == refused(target, None, b"CONNECT")
