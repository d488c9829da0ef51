"""farebox.toml: what is not known is refused with the nearest name that is."""

import os
from pathlib import Path

import pytest

from farebox.cli.config import TEMPLATE, Source, checked, read_config, read_place
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError
from farebox.gate import Terms

URL = "phoenixd+http://:secret@127.0.0.1:9740"
ROUTE = {"path": "/api/dvm", "price": "21 sat", "demo": True}


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "farebox.toml"
    file.write_text(text)
    return file


def test_the_template_is_a_shop_that_opens(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, TEMPLATE))
    assert [(line.path, line.price, line.demo) for line in config.route] == [("/api/dvm", "21 sat", True)]
    assert config.store == f"sqlite:///{tmp_path.resolve()}/farebox.db"
    assert config.keys == tmp_path / "farebox.keys"
    assert config.address == ("127.0.0.1", 8402)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reciever": "sandbox:"}, "`reciever` is not known; did you mean `receiver`?"),
        ({"zzz": 1}, "`zzz` is not known; known are"),
        ({"route": [ROUTE | {"prise": "1 sat"}]}, "route 1: `prise` is not known; did you mean `price`?"),
        ({"route": [ROUTE, ROUTE | {"price": "21"}]}, "route 2: `price`: "),
        ({"route": [ROUTE | {"price": "0 sat"}]}, "a price is more than nothing"),
        ({"route": [{"path": "/x", "price": "1 sat"}]}, "needs exactly one of `upstream`, `openai` and `demo`"),
        ({"route": [{"path": "/x", "price": "1 sat", "openai": "http://m/v1"}]}, "`openai` and `model` go together"),
        ({"route": [{"path": "/x", "price": "1 sat", "upstream": "ftp://x"}]}, "a URL such as http://127.0.0.1:9000"),
        ({"route": []}, "`route`"),
        ({"free_calls": -1}, "`free_calls`"),
        ({"invoices_per_s": 0}, "`invoices_per_s`"),
        ({"free_up_to": "much"}, "`free_up_to`"),
        ({"free_up_to": "2 USD"}, "`free_up_to`"),
        ({"route": [ROUTE | {"price": "2 UDS"}]}, "UDS is no currency of ISO 4217"),
        ({"route": [ROUTE | {"price": "0 USD"}]}, "`0.5 US cent`"),
        ({"rates": {"UDS": "64000"}}, "`rates`: `UDS` is not known; did you mean"),
        ({"rates": {"refresh": 60}}, "`rates`: `refresh` is not known; did you mean `refresh_s`?"),
        ({"rates": {"USD": "rates.json"}}, "`rates`: a source of rates is `https://"),
        ({"rates": {"USD": []}}, "`rates`: `USD`: a text in quotes"),
        ({"rates": {"USD": 64000.5}}, "`rates`: `USD`: a text in quotes"),
        ({"rates": {"USD": ["64000", "$FAREBOX_NOT_SET"]}}, "the environment has no FAREBOX_NOT_SET"),
        ({"rates": {"refresh_s": 60, "stale_after_s": 60}}, "at least twice `refresh_s`"),
        ({"rates": {"refresh_s": 0}}, "`rates.refresh_s`"),
        ({"receiver": "$FAREBOX_NOT_SET"}, "the environment has no FAREBOX_NOT_SET"),
        ({"receiver": ["shop@example.com", "$FAREBOX_NOT_SET"]}, "the environment has no FAREBOX_NOT_SET"),
        ({"receiver": []}, "`receiver`"),
        ({"receiver": 7}, "`receiver`"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(change: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        checked({"route": [ROUTE]} | change, "farebox.toml")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["listen = ", "[[route]\n", "\xff"])
def test_a_file_that_is_not_toml_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"farebox\.toml"):
        read_config(written(tmp_path, text))


def test_a_value_that_begins_with_a_dollar_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_NODE", "phoenixd+http://:secret@127.0.0.1:9740")
    config = checked({"receiver": "$MY_NODE", "route": [ROUTE]}, "farebox.toml")
    assert config.receiver == ("phoenixd+http://:secret@127.0.0.1:9740",)


def test_where_a_shop_keeps_things_is_read_without_what_the_environment_lacks_for_the_rest(tmp_path: Path) -> None:
    route = '[[route]]\npath = "/x"\nprice = "$2"\ndemo = true\napi_key = "$FAREBOX_NOT_SET"\n'
    places = 'receiver = "$FAREBOX_NOT_SET"\nstore = "sqlite:///own.db"\nkeys = "own.keys"\n'
    file = written(tmp_path, places + route)
    assert f"sqlite:///{tmp_path.resolve()}/own.db" == read_place(file, "store").store
    assert tmp_path / "own.keys" == read_place(file, "keys").keys
    with pytest.raises(ConfigError, match="did you mean `store`"):
        read_place(written(tmp_path, places.replace("store", "stroe") + route), "store")


def test_several_receivers_are_taken_in_their_order_and_each_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_NODE", "phoenixd+http://:secret@127.0.0.1:9740")
    config = checked({"receiver": ["$MY_NODE", "shop@example.com"], "route": [ROUTE]}, "farebox.toml")
    assert ("phoenixd+http://:secret@127.0.0.1:9740", "shop@example.com") == config.receiver
    assert ["secret"] == [secret.reveal() for secret in config.secrets]


def test_only_the_sandbox_alone_is_play_money() -> None:
    shops = [
        checked({"route": [ROUTE]} | given, "here") for given in ({}, {"receiver": ["sandbox:"]}, {"receiver": URL})
    ]
    assert [True, True, False] == [shop.is_sandbox for shop in shops]


@pytest.mark.parametrize("listen", ["8402", "127.0.0.1", "127.0.0.1:x", ":8402", "127.0.0.1:99999"])
def test_a_listen_address_needs_host_and_port(listen: str) -> None:
    with pytest.raises(ConfigError):
        _ = checked({"listen": listen, "route": [ROUTE]}, "x").address


def test_a_flag_replaces_what_the_file_says(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, TEMPLATE)).with_flags({"listen": "127.0.0.1:9"})
    assert (config.address, config.store) == (("127.0.0.1", 9), f"sqlite:///{tmp_path.resolve()}/farebox.db")


def test_refusals_that_are_charged_are_told_by_their_statuses() -> None:
    config = checked({"route": [ROUTE | {"charge_for": [404, 410]}, ROUTE]}, "here")
    assert [(404, 410), ()] == [line.charge_for for line in config.route]
    with pytest.raises(ConfigError, match="charge_for"):
        checked({"route": [ROUTE | {"charge_for": "404"}]}, "here")


@pytest.mark.parametrize(("written", "count"), [(4, 4), ("4", 4), (1, 1)])
def test_so_many_workers_as_were_asked_for(written: object, count: int) -> None:
    assert count == checked({"workers": written, "route": [ROUTE]}, "x").worker_count


@pytest.mark.parametrize("written", ["auto", 0, "0"])
def test_auto_is_a_worker_for_each_core(written: object) -> None:
    assert len(os.sched_getaffinity(0)) == checked({"workers": written, "route": [ROUTE]}, "x").worker_count


def test_without_workers_there_is_one_process() -> None:
    assert checked({"route": [ROUTE]}, "x").worker_count is None


@pytest.mark.parametrize("wrong", ["many", "-1", -1, 257, True, 1.5])
def test_a_number_of_workers_that_is_none_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(ConfigError, match="workers"):
        checked({"workers": wrong, "route": [ROUTE]}, "x")


def test_a_source_is_read_as_it_is_now_with_the_flags_on_top(tmp_path: Path) -> None:
    file = written(tmp_path, TEMPLATE)
    source = Source(file=file, flags={"listen": "127.0.0.1:9"})
    assert (("127.0.0.1", 9), 1) == (source.read().address, source.read().free_calls)
    file.write_text(TEMPLATE.replace("free_calls = 1 ", "free_calls = 7 "))
    assert (("127.0.0.1", 9), 7) == (source.read().address, source.read().free_calls)
    assert ["/x"] == [line.path for line in Source(file=None, flags={"route": [{**ROUTE, "path": "/x"}]}).read().route]


@pytest.mark.parametrize("price", ["0.5 US cent", "$0.005", "0.005 USD"])
def test_a_price_in_fiat_is_a_price(price: str) -> None:
    assert "0.005 USD" == checked({"route": [ROUTE | {"price": price}]}, "x").route[0].price


def test_rates_are_read_where_the_seller_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_RATES", "https://rates.test/?key=hidden#/EUR")
    text = '[rates]\nUSD = ["file:rates.json#/USD", "64000"]\nEUR = "$MY_RATES"\nCHF = 57000\nrefresh_s = 5\n'
    config = read_config(written(tmp_path, f'{text}[[route]]\npath = "/x"\nprice = "$2"\ndemo = true\n'))
    again = config.with_flags({"listen": "127.0.0.1:9"})
    assert {
        "USD": [f"file:{tmp_path.resolve()}/rates.json#/USD", "64000"],
        "EUR": ["https://rates.test/?key=hidden#/EUR"],
        "CHF": ["57000"],
    } == again.rates.sources
    assert (5, 600, "hidden" in repr(config)) == (again.rates.refresh_s, again.rates.stale_after_s, False)
    assert all(again.rates.open().knows(currency) for currency in ("USD", "EUR", "CHF", "JPY"))


def test_what_callers_may_ask_for_before_they_pay_is_the_seller_s_to_say() -> None:
    config = checked(
        {
            **{"free_calls": 2, "free_calls_per_subnet": 3, "free_calls_a_day": 4, "free_up_to": "5 sat"},
            **{"calls_per_client_s": 6, "calls_at_once": 7, "unpaid_per_client": 8, "unpaid_invoices": 9},
            **{"invoices_per_s": 30, "workers": 3, "route": [ROUTE]},
        },
        "x",
    )
    terms, limits = config.terms, config.terms.limits
    assert (2, 3, 4, Amount.sats(5)) == (
        terms.free_calls,
        terms.free_limit_of_subnet,
        terms.free_calls_of_all,
        terms.free_up_to,
    )
    assert (6, 7, 8, 9) == (
        limits.calls_per_s,
        limits.calls_at_once,
        limits.unpaid_invoices,
        limits.all_unpaid_invoices,
    )
    assert 10 == limits.invoices_per_s  # each worker has its share


def test_a_shop_that_says_nothing_has_the_limits_of_the_terms() -> None:
    assert Terms() == checked({"route": [ROUTE]}, "x").terms
    assert 4 == Terms().free_limit_of_subnet
