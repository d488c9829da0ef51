from __future__ import annotations

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.lightning.invoice import check_amount, read_made, whole_sats
from farebox.lightning.sandbox import Sandbox
from farebox.testing.backends import NOBODYS_HASH, PRICE, TEN_MINUTES


@pytest.fixture
def invoice(sandbox: Sandbox) -> Invoice:
    return sandbox.seller.issue(PRICE, description="a test", expires_in=TEN_MINUTES)


def test_what_can_be_asked_for_is_told_in_whole_satoshis() -> None:
    assert whole_sats(Amount.sats(21), by="Acme") == 21


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        (Amount.msats(0), "Acme can't ask for nothing: an invoice needs an amount"),
        (Amount.msats(1_500), "Acme can't ask for 1500 msat: it knows whole satoshis only"),
    ],
)
def test_what_can_not_be_asked_for_is_refused(amount: Amount, reason: str) -> None:
    with pytest.raises(WalletError) as caught:
        whole_sats(amount, by="Acme")
    assert reason == caught.value.detail


def test_nothing_is_refused_also_where_fractions_are_known() -> None:
    check_amount(Amount.msats(1), by="Acme")
    with pytest.raises(WalletError, match="Acme can't ask for nothing"):
        check_amount(Amount.msats(0), by="Acme")


@pytest.mark.parametrize("network", [None, Network.REGTEST])
def test_the_invoice_that_was_asked_for_is_passed_on(invoice: Invoice, network: Network | None) -> None:
    made = {"text": invoice.text, "hash": invoice.payment_hash.hex()}
    assert invoice == read_made(made, "text", PRICE, network=network, by="Acme")
    assert invoice == read_made(made, "text", PRICE, network=network, by="Acme", payment_hash="hash")


@pytest.mark.parametrize("payment_hash", [NOBODYS_HASH.hex(), None, ""])
def test_an_invoice_whose_hash_is_told_otherwise_or_not_at_all_is_refused(
    invoice: Invoice, payment_hash: object
) -> None:
    made = {"text": invoice.text, "hash": payment_hash}
    with pytest.raises(NodeUnavailable, match="Acme made another invoice than it was asked for"):
        read_made(made, "text", PRICE, network=None, by="Acme", payment_hash="hash")


@pytest.mark.parametrize(
    ("amount", "network"), [(PRICE + Amount.msats(1), None), (PRICE - Amount.msats(1), None), (PRICE, Network.MAINNET)]
)
def test_an_invoice_for_another_amount_or_chain_is_refused(
    invoice: Invoice, amount: Amount, network: Network | None
) -> None:
    with pytest.raises(NodeUnavailable, match="Acme made another invoice than it was asked for"):
        read_made({"text": invoice.text}, "text", amount, network=network, by="Acme")


@pytest.mark.parametrize("text", ["", "lnbcrt1", None, 7])
def test_what_is_no_invoice_is_refused(text: object) -> None:
    with pytest.raises(NodeUnavailable, match="Acme made an invoice that can't be read"):
        read_made({"text": text}, "text", PRICE, network=None, by="Acme")
