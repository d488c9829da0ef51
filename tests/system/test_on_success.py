"""Pay on success as a buyer sees it: a gateway over the sandbox, and a client whose wallet waits for its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import PaymentFailed

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
CONFIG = """
free_calls = 0

[[route]]
path = "/*"
price = "21 sat"
upstream = "{upstream}"
settle = "on-success"
"""


@pytest.fixture
def shop(open_shop: Any, writer_url: str, tmp_path: Path) -> Iterator[Any]:
    config = tmp_path / "farebox.toml"
    config.write_text(CONFIG.format(upstream=writer_url))
    with open_shop(str(config)) as shop:
        yield shop


@pytest.fixture
def client(shop: Any, tmp_path: Path) -> Iterator[farebox.Client]:
    wallet = shop.place["buyer_wallet"]
    with farebox.Client(
        wallet=wallet, budget="500 sat/day", purse=tmp_path / "purse.db", trust_env=False, timeout=60
    ) as client:
        yield client


async def test_a_call_that_succeeds_is_paid_for(
    shop: Any, client: farebox.Client, writer: Any, read_books: Any
) -> None:
    answer = client.post(shop.url, content="hello")
    assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["hello"])
    assert PRICE == answer.extensions["farebox"].paid == (await read_books(shop))[0].earned


async def test_a_call_that_fails_is_not_and_its_buyer_may_ask_again_at_once(
    shop: Any, client: farebox.Client, writer: Any, read_books: Any
) -> None:
    writer.failing = True
    with pytest.raises(PaymentFailed):
        client.post(shop.url, content="hello")
    assert NOTHING == (await read_books(shop))[0].received
    writer.failing = False
    assert 200 == client.post(shop.url, content="hello").status_code
    assert (PRICE, 2) == ((await read_books(shop))[0].earned, len(writer.runs["hello"]))
