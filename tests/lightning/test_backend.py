from __future__ import annotations

from pathlib import Path

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Network
from farebox.core.errors import WalletError
from farebox.core.ports import Paid
from farebox.http.converse import converse
from farebox.lightning import open_receiver, open_wallet
from farebox.lightning.phoenixd import Phoenixd
from farebox.testing.backends import FEE_LIMIT, PRICE, TEN_MINUTES


def test_a_phoenixd_url_opens_a_phoenixd_node() -> None:
    assert isinstance(open_receiver("phoenixd+http://:p@127.0.0.1:9740"), Phoenixd)
    assert isinstance(open_wallet("phoenixd+https://:p@node.example"), Phoenixd)


def test_the_scheme_may_be_in_capitals() -> None:
    assert open_wallet("PHOENIXD+HTTP://:p@127.0.0.1:9740").name == "phoenixd at 127.0.0.1:9740"


def test_a_seller_and_a_buyer_who_name_the_same_sandbox_meet_in_it() -> None:
    seller, buyer = open_receiver("sandbox:"), open_wallet("sandbox:")
    invoice = converse(seller.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES))
    assert isinstance(converse(buyer.pay_invoice(invoice, fee_limit=FEE_LIMIT)), Paid)
    assert converse(seller.lookup_invoice(invoice.payment_hash)).received == PRICE


def test_a_sandbox_url_with_a_path_is_a_file(tmp_path: Path) -> None:
    wallet = open_wallet(f"sandbox://{tmp_path}/sand%20box.db")
    assert (tmp_path / "sand box.db").exists()
    assert converse(wallet.balance()) == Amount.sats(1_000_000)
    assert wallet.network is Network.REGTEST


@pytest.mark.parametrize("url", ["sandbox://file.db", "sandbox:///x?y=1", "sandbox:///x#buyer"])
def test_a_sandbox_url_that_is_none_says_how_it_is_written(url: str) -> None:
    with pytest.raises(WalletError, match="sandbox:///path/to/file"):
        open_wallet(url)


@pytest.mark.parametrize("url", ["lndk://:hunter2@127.0.0.1", "hunter2", "", "127.0.0.1:9740/hunter2", "://hunter2"])
def test_an_unknown_scheme_names_the_known_ones_and_nothing_secret(url: str) -> None:
    for opened in (open_receiver, open_wallet):
        with pytest.raises(WalletError) as caught:
            opened(url)
        assert "phoenixd+http, phoenixd+https, sandbox" in str(caught.value)
        assert "lightning-address" not in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)
