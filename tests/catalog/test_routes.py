"""Which call costs what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.catalog.routes import Route, RouteTable
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError


def price_of(table: RouteTable, method: str, path: str) -> int | str | None:
    """Satoshis, `free`, or None for what is not listed."""
    route = table.lookup(method, path)
    if route is None:
        return None
    return "free" if route.price is None else route.price.in_sats_exact()


@pytest.mark.parametrize(
    ("key", "method", "path"),
    [
        ("POST /api/dvm", "POST", "/api/dvm"),
        ("post /api/dvm", "POST", "/api/dvm"),
        ("  GET   /files/* ", "GET", "/files/*"),
        ("* /x", "*", "/x"),
        ("/x", "*", "/x"),
        ("/", "*", "/"),
        ("/users/{id}/posts/{post_id}", "*", "/users/{id}/posts/{post_id}"),
        ("GET /%C3%BCber", "GET", "/über"),
        ("GET /über", "GET", "/über"),
    ],
)
def test_a_key_is_read_as_a_method_and_a_path(key: str, method: str, path: str) -> None:
    route = Route.read(key, "21 sat")
    assert (method, path, Amount.sats(21)) == (route.method, route.path, route.price)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "POST",
        "api/dvm",
        "POST api/dvm",
        "GET POST /x",
        "G3T /x",
        "/x y",
        "//x",
        "/a/../b",
        "/a;b",
        "/a%2fb",
        "/%61",
        "/a*",
        "/*/a",
        "/a/**",
        "/{id",
        "/{}",
        "/a{id}",
        "/{path:path}",
        "/{1}",
    ],
)
def test_a_key_that_names_no_route_is_a_configuration_error(key: str) -> None:
    with pytest.raises(ConfigError):
        Route.read(key, "21 sat")


@pytest.mark.parametrize("price", ["21", "cheap", "0 sat", ""])
def test_a_price_that_is_none_is_a_configuration_error_that_names_the_route(price: str) -> None:
    with pytest.raises(ConfigError, match="POST /api/dvm"):
        Route.read("POST /api/dvm", price)


@pytest.mark.parametrize("price", ["free", None])
def test_what_is_free_has_no_price(price: str | None) -> None:
    assert Route.read("/health", price).price is None


def test_a_route_names_itself_as_the_seller_lists_it() -> None:
    assert [Route.read(key, "1 sat").resource for key in ("POST /api/dvm", "* /x")] == ["POST /api/dvm", "/x"]
    assert [Route.read("/x", "1 sat", name=name).title for name in ("", "x")] == ["/x", "x"]


TABLE = RouteTable.read(
    {
        "POST /api/dvm": "21 sat",
        "* /api/*": "2 sat",
        "GET /api/free": "free",
        "GET /users/{id}": "3 sat",
        "GET /users/{id}/posts": "4 sat",
        "GET /users/me": "5 sat",
        "GET /users/*": "6 sat",
        "DELETE /users/{id}": "free",
        "/any": "7 sat",
        "PUT /any": "8 sat",
        "/only": "free",
    }
)


@pytest.mark.parametrize(
    ("price", "method", "path"),
    [
        (21, "POST", "/api/dvm"),
        (2, "GET", "/api/dvm"),
        (2, "GET", "/api/"),
        (2, "GET", "/api/a/b/c"),
        (2, "GET", "/api/a\nb"),
        (None, "GET", "/api"),
        ("free", "GET", "/api/free"),
        (2, "POST", "/api/free"),
        (5, "GET", "/users/me"),
        (3, "GET", "/users/you"),
        (4, "GET", "/users/you/posts"),
        (6, "GET", "/users/you/photos"),
        (6, "GET", "/users/"),
        ("free", "DELETE", "/users/you"),
        (None, "DELETE", "/users/you/posts"),
        (7, "PATCH", "/any"),
        (8, "PUT", "/any"),
        ("free", "OPTIONS", "/only"),
        (None, "GET", "/elsewhere"),
        (None, "GET", "/"),
    ],
)
def test_the_most_specific_route_is_found(price: int | str | None, method: str, path: str) -> None:
    assert price == price_of(TABLE, method, path)


def test_the_order_in_which_routes_are_listed_does_not_matter() -> None:
    backwards = RouteTable(reversed([*TABLE]))
    paths = ["/api/dvm", "/api/free", "/users/me", "/users/you", "/users/you/posts", "/any"]
    assert [price_of(TABLE, "GET", path) for path in paths] == [price_of(backwards, "GET", path) for path in paths]


@pytest.mark.parametrize(
    ("price", "keys"),
    [
        (1, {"GET /x": "1 sat", "POST /x": "2 sat", "* /*": "3 sat"}),
        (2, {"POST /x": "2 sat", "* /*": "free"}),
        (2, {"POST /x": "2 sat", "PUT /x": "free"}),
        (3, {"* /x": "3 sat", "POST /x": "2 sat"}),
        (4, {"POST /*": "4 sat"}),
        (5, {"GET /*": "5 sat", "POST /{y}": "4 sat"}),
        ("free", {"GET /x": "free", "POST /x": "2 sat"}),
        (None, {"GET /y": "1 sat"}),
    ],
)
def test_head_is_looked_up_as_get_and_then_as_whatever_is_sold_there(
    price: int | str | None, keys: dict[str, str]
) -> None:
    assert price == price_of(RouteTable.read(keys), "HEAD", "/x")


@pytest.mark.parametrize("path", ["/API/dvm", "/api/dvm/", "/Api/DVM/"])
@pytest.mark.parametrize("rest", [{}, {"* /*": "free"}, {"* /api/*": "free"}])
def test_a_near_spelling_of_a_priced_path_is_never_free(path: str, rest: dict[str, str]) -> None:
    table = RouteTable.read({"POST /api/dvm": "21 sat"} | rest)
    assert price_of(table, "POST", path) == 21
    assert price_of(table, "post", path) == 21


def test_a_near_spelling_of_a_priced_pattern_is_never_free() -> None:
    table = RouteTable.read({"GET /Users/{id}": "3 sat", "* /*": "free"})
    assert [price_of(table, "GET", path) for path in ("/users/7", "/USERS/7/", "/Users/7", "/users")] == [
        3,
        3,
        3,
        "free",
    ]


def test_a_free_route_that_is_listed_as_spelt_stays_free_beside_a_priced_near_spelling() -> None:
    table = RouteTable.read(
        {"GET /docs": "1 sat", "GET /docs/": "free", "GET /files/{id}": "free", "* /files/*": "2 sat"}
    )
    assert [price_of(table, "GET", path) for path in ("/docs/", "/files/7")] == ["free", "free"]


def test_the_methods_of_a_path_are_told_for_the_allow_header() -> None:
    assert {"GET", "DELETE", "HEAD"} == TABLE.methods("/users/you")
    assert {"*", "PUT", "HEAD"} == TABLE.methods("/any")
    assert set() == TABLE.methods("/elsewhere")


@pytest.mark.parametrize(
    "keys", [("POST /x", "post /x"), ("/x", "* /x"), ("/users/{id}", "/users/{name}"), ("GET /a/*", "GET  /a/*")]
)
def test_two_routes_of_the_same_method_and_path_are_a_configuration_error(keys: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="twice"):
        RouteTable(Route.read(key, "1 sat") for key in keys)


def test_a_table_is_walked_in_the_order_of_its_routes() -> None:
    assert [route.resource for route in RouteTable.read({"/b": "1 sat", "/a": "free"})] == ["/b", "/a"]
    assert len(RouteTable.read({"/b": "1 sat", "/a": "free"})) == 2


@given(st.text(), st.text())
def test_any_method_and_path_can_be_looked_up(method: str, path: str) -> None:
    route = TABLE.lookup(method, path)
    assert route is None or route in [*TABLE]


@pytest.mark.parametrize(
    "raw_path",
    [
        b"//api/dvm",
        b"/api//dvm",
        b"/x/../api/dvm",
        b"/api/./dvm",
        b"/api%2fdvm",
        b"/api\\dvm",
        b"/api%5Cdvm",
        b"/%61pi/dvm",
        b"/%2561pi/dvm",
        b"/x/%2e%2e/api/dvm",
        b"/x/%252e%252e%252fapi/dvm",
        b"/api/dvm;v=1",
        b"/api;v=1/dvm",
        b"/api/dvm%00.png",
        b"/API//DVM/",
        b"/api/dvm%0a",
        b"/api/dvm%20",
        b"/files/\xff",
        b"/us%65rs/a%2fb",
        b"/x%2f..%2ffiles%2fa",
        b"/api%c0%afdvm",
        b"/api%e0%80%afdvm",
        b"/api%u002fdvm",
        b"/api/dvm//..",
        b"/api/dvm/%20..;/x",
        b"http://shop.test/api/dvm",
        b"/api/dvm%3f%00",
        b"/%ef%bd%81pi/%00/dvm",
        b"/" + b"a" * 5000,
    ],
)
def test_a_crooked_path_that_some_server_takes_for_a_priced_one_is_told_apart(raw_path: bytes) -> None:
    table = RouteTable.read({"POST /api/dvm": "1 sat", "/files/*": "1 sat", "GET /Users/{id}": "1 sat", "/*": "free"})
    assert table.could_mean(raw_path)


@pytest.mark.parametrize("raw_path", [b"/static//x.css", b"/a;b", b"/api/dvm/%2e", b"/%ff", b"/api/../dvm", b"*", b""])
def test_a_crooked_path_that_leads_nowhere_near_a_price_is_let_be(raw_path: bytes) -> None:
    table = RouteTable.read({"POST /api/dvm": "1 sat", "/static/*": "free"})
    assert table.could_mean(raw_path) == (raw_path == b"/api/dvm/%2e")


@pytest.mark.parametrize(
    "path",
    ["/api/dvm.", "/api/dvm ", "/api /dvm", "/ api/dvm", "/api/dvm?x", "/api/dvm#x", "/ａpi/dvm", "/.../api/dvm"],
)
def test_a_spelling_that_some_servers_take_for_a_priced_path_is_priced_as_that_path(path: str) -> None:
    table = RouteTable.read({"POST /api/dvm": "1 sat", "/*": "free"})
    found = table.lookup("POST", path)
    assert found is not None
    assert "POST /api/dvm" == found.resource


def test_a_path_that_no_table_can_match_may_still_name_a_route() -> None:
    route = Route(method="GET", path="/{path:path}", price=Amount.sats(1))
    assert route.resource == "GET /{path:path}"
    with pytest.raises(ConfigError):
        RouteTable([route])


def test_a_route_can_be_charged_for_some_refusals() -> None:
    assert (404, 410) == Route(method="GET", path="/x", price=Amount.sats(1), charge_for=(404, 410)).charge_for


@pytest.mark.parametrize("status", [200, 399, 401, 402, 407, 500, 0, -404])
def test_no_route_can_be_charged_for_what_is_no_answer(status: int) -> None:
    with pytest.raises(ConfigError, match="from 400 to 499"):
        Route(method="GET", path="/x", price=Amount.sats(1), charge_for=(404, status))
