"""What stands behind `/pay/`: many servers, each kept apart from the others, though a client sees one origin."""

from __future__ import annotations

from http.cookiejar import CookieJar
from urllib.request import Request

import httpx
import pytest

from farebox.http.forward.prefix import behind

HERE = "http://127.0.0.1:8403"
SHOP = httpx.URL("https://shop.test/a/b")


class _Told:
    """An answer, as a cookie jar wants it."""

    def __init__(self, cookie: bytes) -> None:
        self._headers = httpx.Headers([(b"set-cookie", cookie)])

    def info(self) -> _Told:
        return self

    def get_all(self, name: str, default: list[str]) -> list[str]:
        return self._headers.get_list(name) or default


def told(cookie: bytes, server: str = "/pay/https://shop.test") -> bytes:
    field = behind((b"Set-Cookie", cookie), SHOP, server)
    assert field is not None
    return field[1]


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        (b"a=b", b"a=b"),
        (b"a=b; Path=/", b"a=b; Path=/pay/https://shop.test/"),
        (b"a=b;path = /x;Secure", b"a=b;Secure; Path=/pay/https://shop.test/x"),
        (b"a=b; Path=/x; Path=/y", b"a=b; Path=/pay/https://shop.test/y"),
        (b"a=b; Domain=.test; HttpOnly", b"a=b; HttpOnly"),
        (b"a=b; Path; Max-Age=5", b"a=b; Max-Age=5"),
        (b"a=b; Path=x", b"a=b"),
        (b"", b""),
    ],
)
def test_a_cookie_is_for_the_paths_of_its_own_server(cookie: bytes, expected: bytes) -> None:
    assert expected == told(cookie)


@pytest.mark.parametrize("cookie", [b"a=b", b"a=b; Path=/", b"a=b; Domain=127.0.0.1; Path=/", b"a=b; Path=//"])
def test_a_client_sends_a_cookie_to_the_server_that_set_it_and_to_no_other(cookie: bytes) -> None:
    jar = CookieJar()
    jar.extract_cookies(_Told(told(cookie)), Request(f"{HERE}/pay/https://shop.test/a"))  # type: ignore[arg-type] # as httpx

    def sent(path: str) -> str | None:
        request = Request(f"{HERE}{path}")
        jar.add_cookie_header(request)
        return request.get_header("Cookie")

    assert "a=b" == sent("/pay/https://shop.test//" if b"//" in cookie else "/pay/https://shop.test/c")
    others = ("http://shop.test/a", "https://shop.test.evil/a", "https://evil.test/a", "elsewhere/https://shop.test/a")
    assert [None] * 5 == [sent(path) for path in ("/budget", *(f"/pay/{other}" for other in others))]


def test_a_redirect_behind_elsewhere_stays_there() -> None:
    field = behind((b"location", b"https://shop.test/c"), SHOP, "/pay/elsewhere/https://shop.test")
    assert (b"location", b"/pay/elsewhere/https://shop.test/c") == field


@pytest.mark.parametrize(
    ("asked", "to", "is_at_home"),
    [
        ("http://shop.test/", b"https://shop.test/", True),
        ("http://shop.test:8402/", b"https://shop.test/", False),
        ("http://shop.test/", b"https://shop.test:8443/", False),
        ("https://shop.test/", b"http://shop.test/", False),
        ("https://shop.test/", b"https://www.shop.test/", False),
    ],
)
def test_the_same_host_behind_tls_is_home(asked: str, to: bytes, is_at_home: bool) -> None:
    field = behind((b"location", to), httpx.URL(asked), "/pay/" + asked.rstrip("/"))
    assert (b"location", (b"/pay/" if is_at_home else b"/pay/elsewhere/") + to) == field
