"""`farebox call --dry-run` on a running shop pays nothing, and says to the millisatoshi what the call then costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farebox.http.request import Receive, Scope, Send

pytestmark = pytest.mark.system

PRICES = {
    ("POST", "/fixed"): "21 sat",
    ("GET", "/fixed"): "2 sat",
    ("POST", "/fiat"): "0.5 US cent",
    ("POST", "/msat"): "1500 msat",
    ("GET", "/files/*"): "3 sat",
    ("GET", "/files/dear/*"): "$0.02",
}
CALLS = [
    ("POST", "/fixed", 21_000),
    ("GET", "/fixed", 2_000),
    ("POST", "/fiat", 8_000),  # 0.5 cent at 62 500 USD for a bitcoin
    ("POST", "/msat", 1_500),
    ("GET", "/files/a", 3_000),
    ("GET", "/files/dear/b", 32_000),
]


async def tell_rate(scope: Scope, receive: Receive, send: Send) -> None:
    """A service that says what a bitcoin costs."""
    body = json.dumps({"data": {"amount": "62500"}}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def free_calls() -> int:
    return 0


@pytest.fixture
def shop(free_calls: int, open_shop: Any, writer_url: str, serve_app: Any, tmp_path: Path) -> Iterator[Any]:
    with serve_app(tell_rate) as rates:
        routes = "".join(
            f'[[route]]\npath = "{path}"\nmethod = "{method}"\nprice = "{price}"\nupstream = "{writer_url}"\n'
            for (method, path), price in PRICES.items()
        )
        config = tmp_path / "farebox.toml"
        config.write_text(f'free_calls = {free_calls}\n[rates]\nUSD = "{rates}/#/data/amount"\n{routes}')
        with open_shop(str(config)) as shop:
            yield shop


@pytest.fixture
def call(shop: Any, farebox: Any) -> Any:
    return lambda *arguments, **more: farebox(
        "call", *arguments, "--json", **{"FAREBOX_WALLET": shop.place["buyer_wallet"], "FAREBOX_STATE": "buyer", **more}
    )


def test_a_dry_run_pays_nothing_and_agrees_with_what_the_call_then_costs(
    shop: Any, call: Any, farebox: Any, writer: Any
) -> None:
    asked: list[tuple[int, dict[str, Any]]] = []
    for method, path, _ in CALLS:
        told = call(f"{shop.url}{path}", "-X", method, *(["-d", path] if method == "POST" else []), "--dry-run")
        asked.append((told.returncode, json.loads(told.stdout)))
    full = json.loads(farebox("wallet", shop.place["buyer_wallet"]).stdout)["balance_msat"]
    assert {10} == {code for code, _ in asked}
    assert ({}, 1_000_000_000) == (writer.runs, full)

    paid = []
    for method, path, _ in CALLS:
        told = call(f"{shop.url}{path}", "-X", method, *(["-d", path] if method == "POST" else []))
        paid.append(json.loads(told.stdout)["amount_msat"])
    assert [msat for _, _, msat in CALLS] == [row["amount_msat"] for _, row in asked] == paid
    left = json.loads(farebox("budget", FAREBOX_STATE="buyer").stdout)["left_msat"]
    assert 500_000 - sum(paid) == left


def test_a_dry_run_tells_to_whom_on_what_chain_until_when_and_in_which_dialect(shop: Any, call: Any) -> None:
    row = json.loads(call(f"{shop.url}/fixed", "--dry-run", "--prefer", "payment").stdout)
    assert ("regtest", "Payment", 1_000, True) == tuple(
        row[name] for name in ("network", "dialect", "fee_limit_msat", "fits")
    )
    assert 66 == len(row["payee"])
    assert "T" in row["expires"]


@pytest.mark.parametrize("limit", [("--max", "20sat"), ("--budget", "21 sat/day"), ("--budget", "10 sat/call")])
def test_a_dry_run_of_what_would_not_be_paid_tells_its_price_and_ends_with_3(
    limit: tuple[str, str], shop: Any, call: Any
) -> None:
    told = call(f"{shop.url}/fixed", "-d", "hello", "--dry-run", *limit)
    row = json.loads(told.stdout)
    assert (3, 21_000, False) == (told.returncode, row["amount_msat"], row["fits"])


def test_a_price_can_be_asked_for_without_a_wallet(shop: Any, call: Any) -> None:
    told = call(f"{shop.url}/fixed", "-d", "hello", "--dry-run", FAREBOX_WALLET="")
    assert (10, 21_000) == (told.returncode, json.loads(told.stdout)["amount_msat"])


@pytest.mark.parametrize("free_calls", [1])
def test_a_dry_run_takes_no_free_call_and_says_that_there_are_some(shop: Any, call: Any, writer: Any) -> None:
    asked = [json.loads(call(f"{shop.url}/fixed", "-d", "hello", "--dry-run").stdout) for _ in range(2)]
    made = json.loads(call(f"{shop.url}/fixed", "-d", "hello").stdout)
    assert [(21_000, 1)] * 2 == [(row["amount_msat"], row["free_calls_a_day"]) for row in asked]
    assert (0, 1) == (made["amount_msat"], len(writer.runs["hello"]))


def test_a_dry_run_of_what_another_server_gives_for_nothing_says_that_the_call_was_made(
    call: Any, writer: Any, writer_url: str
) -> None:
    told = call(f"{writer_url}/", "-d", "hello", "--dry-run")
    row = json.loads(told.stdout)
    assert (0, True, 0, 1) == (told.returncode, row["free"], row["amount_msat"], len(writer.runs["hello"]))
    assert "the call has been made" in row["told"]


def test_a_dry_run_of_what_is_not_there_ends_with_7(shop: Any, call: Any) -> None:
    told = call(f"{shop.url}/nothing", "--dry-run")
    assert (7, 404, False) == (told.returncode, *(json.loads(told.stdout)[name] for name in ("status", "free")))


def test_a_dry_run_shows_no_proof_that_is_kept(shop: Any, call: Any, writer: Any) -> None:
    writer.failing = True
    assert 8 == call(f"{shop.url}/fixed", "-d", "hello", "--timeout", "5").returncode
    writer.failing = False
    runs = len(writer.runs["hello"])
    told = call(f"{shop.url}/fixed", "-d", "hello", "--dry-run")
    assert (10, runs) == (told.returncode, len(writer.runs["hello"]))
