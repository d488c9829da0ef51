"""Sold and bought over channels with a wallet that is asked over Nostr (NIP-47), which is Electrum's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from farebox import Client
from farebox.core.amount import Amount
from farebox.testing.real_electrum import RealElectrum

pytestmark = pytest.mark.lightning

PRICE = Amount.sats(21)
PATIENCE_S = 30.0
CONFIG = """
receiver = "{receiver}"
store = "sqlite:///farebox.db"
free_calls = 0

[[route]]
path = "/*"
price = "21 sat"
upstream = "{upstream}"
"""

OpenShop = Callable[[str], AbstractContextManager[Any]]


@pytest.mark.parametrize("seller", ["lnd", "Electrum"])
def test_a_call_is_paid_over_a_channel(
    electrum: RealElectrum, open_shop: OpenShop, writer: Any, writer_url: str, tmp_path: Path, seller: str
) -> None:
    regtest = electrum.regtest
    narrow = regtest.seller.url(regtest.seller.bake("invoices:read", "invoices:write"))
    receiver, wallet = (narrow, electrum.uri) if seller == "lnd" else (electrum.narrow, regtest.buyer.url())
    config = tmp_path / "farebox.toml"
    config.write_text(CONFIG.format(receiver=receiver, upstream=writer_url))
    budget = {"wallet": wallet, "budget": "500 sat/day", "purse": tmp_path / "purse.db"}
    with open_shop(str(config)) as shop, Client(**budget, trust_env=False, timeout=PATIENCE_S) as client:
        answer = client.post(shop.url, content="hello")
        assert (200, [answer.json()["text"]]) == (answer.status_code, writer.runs["hello"])
        assert PRICE == answer.extensions["farebox"].paid


def test_a_shop_does_not_open_with_a_connection_that_can_pay(
    electrum: RealElectrum, farebox: Any, writer_url: str
) -> None:
    told = farebox(
        *("serve", "--upstream", writer_url, "--price", "21sat", "--receiver", electrum.uri, "--listen", "127.0.0.1:0")
    )
    assert 1 == told.returncode
    assert "--allow-spending-key" in told.stderr
    assert "Traceback" not in told.stderr
