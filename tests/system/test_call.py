"""`farebox call` and the buyer's other commands: what they print, and their exit codes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

CONFIG = """
free_calls = {free_calls}

[[route]]
path = "/write"
method = "POST"
price = "21 sat"
upstream = "{upstream}"

[[route]]
path = "/fortune"
price = "2000000 sat"
upstream = "{upstream}"
"""


@pytest.fixture
def free_calls() -> int:
    return 0


@pytest.fixture
def shop(free_calls: int, open_shop: Any, writer_url: str, tmp_path: Path) -> Iterator[Any]:
    config = tmp_path / "farebox.toml"
    config.write_text(CONFIG.format(free_calls=free_calls, upstream=writer_url))
    with open_shop(str(config)) as shop:
        yield shop


@pytest.fixture
def call(shop: Any, farebox: Any) -> Any:
    """`farebox call` by somebody with a wallet."""
    return lambda *arguments, **more: farebox(
        "call", *arguments, FAREBOX_WALLET=shop.place["buyer_wallet"], FAREBOX_STATE="buyer", **more
    )


def complaint(told: Any) -> dict[str, Any]:
    """The JSON object that a command which failed leaves on standard error."""
    (line,) = told.stderr.splitlines()
    return json.loads(line)


@pytest.mark.parametrize("free_calls", [1])
def test_a_free_call_needs_no_wallet(shop: Any, farebox: Any, writer: Any) -> None:
    told = farebox("call", f"{shop.url}/write", "-d", "hello")
    assert 0 == told.returncode, told
    assert {"text": writer.runs["hello"][0]} == json.loads(told.stdout)
    assert "free\n" == told.stderr


def test_a_paid_call_prints_the_answer_and_apart_from_it_what_it_cost(shop: Any, call: Any, writer: Any) -> None:
    told = call(f"{shop.url}/write", "-d", "hello", "--max", "21sat")
    assert 0 == told.returncode, told
    assert {"text": writer.runs["hello"][0]} == json.loads(told.stdout)
    assert told.stderr.startswith("paid 21 sat (fee 0 sat), payment ")


def test_a_call_can_tell_everything_as_one_json_object(shop: Any, call: Any, writer: Any) -> None:
    told = json.loads(call(f"{shop.url}/write", "-d", "hello", "--json").stdout)
    assert (200, True, 21_000, 0) == tuple(told[name] for name in ("status", "paid", "amount_msat", "fee_msat"))
    assert {"text": writer.runs["hello"][0]} == told["body"]


def test_a_body_can_come_from_a_file_or_from_standard_input(shop: Any, call: Any, writer: Any, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("from a file")
    codes = [
        call(f"{shop.url}/write", "-d", "@prompt.txt").returncode,
        call(f"{shop.url}/write", "-d", "@-", stdin="from a pipe").returncode,
    ]
    assert [0, 0] == codes
    assert {"from a file", "from a pipe"} == set(writer.runs)


def test_a_call_over_its_maximum_is_not_paid_and_ends_with_3(shop: Any, call: Any, writer: Any) -> None:
    told = call(f"{shop.url}/write", "-d", "hello", "--max", "20sat")
    said = complaint(told)
    assert (3, "") == (told.returncode, told.stdout)
    assert ("over-budget", False) == (said["type"], said["money_moved"])
    assert {} == writer.runs


def test_a_call_over_the_budget_is_not_paid_and_ends_with_3(shop: Any, call: Any, writer: Any) -> None:
    first, second = (call(f"{shop.url}/write", "-d", prompt, "--budget", "42 sat/day") for prompt in ("one", "two"))
    assert (0, 3) == (first.returncode, second.returncode)
    assert {"one"} == set(writer.runs)
    assert 21_000 == complaint(second)["left_msat"]


def test_a_wallet_that_can_not_pay_ends_with_4_and_leaves_the_budget_free(shop: Any, call: Any, farebox: Any) -> None:
    told = call(f"{shop.url}/fortune", "--budget", "9000000 sat/day")
    left = farebox("budget", "500 sat/day", FAREBOX_STATE="buyer")
    assert (4, "payment-failed") == (told.returncode, complaint(told)["type"])
    assert 500_000 == json.loads(left.stdout)["left_msat"]


def test_a_server_that_can_not_be_reached_ends_with_6(farebox: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    told = farebox("call", f"http://127.0.0.1:{port}/write")
    assert (6, "", "network") == (told.returncode, told.stdout, complaint(told)["type"])


def test_a_page_that_is_not_there_ends_with_7(shop: Any, call: Any) -> None:
    told = call(f"{shop.url}/nothing")
    assert 7 == told.returncode
    assert "route-unknown" == json.loads(told.stdout)["error"]
    assert "the server answered 404" in told.stderr


def test_a_dry_run_tells_the_price_pays_nothing_and_ends_with_10(shop: Any, call: Any, writer: Any) -> None:
    told = call(f"{shop.url}/write", "-d", "hello", "--dry-run")
    price = json.loads(told.stdout)
    assert (10, {}) == (told.returncode, writer.runs)
    assert ("21 sat", 21_000, True, False) == tuple(price[name] for name in ("price", "amount_msat", "fits", "free"))


@pytest.mark.parametrize("free_calls", [1])
def test_a_dry_run_of_what_is_free_ends_with_0(shop: Any, call: Any) -> None:
    told = call(f"{shop.url}/write", "-d", "hello", "--dry-run")
    assert (0, True) == (told.returncode, json.loads(told.stdout)["free"])


def test_a_call_that_costs_and_no_wallet_says_how_to_name_one(shop: Any, farebox: Any) -> None:
    told = farebox("call", f"{shop.url}/write", "-d", "hello")
    assert 1 == told.returncode
    assert "FAREBOX_WALLET" in complaint(told)["message"]


def test_a_shop_on_this_machine_lends_its_play_money(shop: Any, farebox: Any) -> None:
    told = farebox("call", f"{shop.url}/write", "-d", "hello", "--state-dir", str(shop.folder / "seller"))
    assert 0 == told.returncode, told
    assert told.stderr.startswith("paid 21 sat")


def test_the_books_of_both_sides_are_json_in_a_pipe_and_hold_no_secret(shop: Any, call: Any, farebox: Any) -> None:
    call(f"{shop.url}/write", "-d", "hello")
    wallet_url = shop.place["buyer_wallet"]
    told = {
        "ledger": farebox("ledger", shop.place["store"]),
        "budget": farebox("budget", FAREBOX_STATE="buyer"),
        "history": farebox("history", FAREBOX_STATE="buyer"),
        "wallet": farebox("wallet", wallet_url),
    }
    assert {0} == {each.returncode for each in told.values()}
    first = {name: json.loads(each.stdout.splitlines()[0]) for name, each in told.items()}
    assert ("21 sat", True) == (first["ledger"]["earned"], first["ledger"]["balanced"])
    assert 479_000 == first["budget"]["left_msat"]
    assert ("captured", True, "21 sat") == tuple(first["history"][name] for name in ("state", "served", "amount"))
    assert 999_979_000 == first["wallet"]["balance_msat"]
    password = wallet_url.removeprefix("phoenixd+http://:").partition("@")[0]
    assert not any(password in each.stdout + each.stderr for each in told.values())
