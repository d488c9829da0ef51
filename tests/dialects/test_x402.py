"""x402 over Lightning, as a buyer speaks it."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Network, sign
from farebox.core.errors import MalformedChallenge, MalformedCredential
from farebox.core.exchange import Challenge, Credential, Receipt, Wire
from farebox.core.ports import Dialect
from farebox.core.secret import Secret
from farebox.dialects import X402
from farebox.testing.dialects import NOW, PREIMAGE, DialectSuite, sample_credential, sample_invoice

INVOICE: Final = sample_invoice()
REGTEST: Final = "lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328"
OFFER: Final[dict[str, Any]] = {
    "scheme": "exact",
    "network": REGTEST,
    "amount": "21000",
    "asset": "BTC",
    "payTo": INVOICE.payee.hex(),
    "maxTimeoutSeconds": 600,
    "extra": {"assetTransferMethod": "bolt11", "paymentFlow": "upfront", "invoice": INVOICE.text},
}
ON_ETHEREUM: Final[dict[str, Any]] = {
    "scheme": "exact",
    "network": "eip155:8453",
    "amount": "10000",
    "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}


def offer(extra: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    return OFFER | changed | {"extra": OFFER["extra"] | (extra or {})}


def encode(members: Any) -> str:
    return base64.b64encode(json.dumps(members).encode()).decode()


def asked(*offers: Any, **members: Any) -> Wire:
    told = {"x402Version": 2, "resource": {"url": "https://a.example/b"}, "accepts": list(offers)} | members
    return Wire(headers=(("payment-required", encode(told)),))


def read(wire: Wire) -> tuple[Challenge, ...]:
    return X402().read_challenges(wire)


class TestTheSuite(DialectSuite):
    sold = False

    def seller(self) -> Dialect:
        return X402()

    def buyer(self) -> Dialect:
        return X402()

    def issued(self) -> Challenge:
        (challenge,) = read(asked(OFFER))
        return challenge


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_an_offer_tells_the_price_to_the_millisatoshi() -> None:
    invoice = sample_invoice(Amount.msats(1))

    (challenge,) = read(asked(offer({"invoice": invoice.text}, amount="1")))

    assert (Amount.msats(1), invoice.payment_hash) == (challenge.amount, challenge.payment_hash)


def test_offers_of_other_networks_and_schemes_are_passed_over() -> None:
    others = [
        ON_ETHEREUM,
        offer(scheme="upto"),
        offer(network="lnbtc:ffffffffffffffffffffffffffffffff"),
        offer(network=["lnbtc"]),
        offer({"assetTransferMethod": "bolt12"}),
        offer({"paymentFlow": "escrow"}),
        "an offer",
    ]

    assert [INVOICE.payment_hash] == [found.payment_hash for found in read(asked(*others, OFFER))]
    assert read(asked(*others)) == ()


@pytest.mark.parametrize(
    "said",
    [
        offer(amount="0"),
        offer(amount="-21000"),
        offer(amount="21000.0"),
        offer(amount="2.1e4"),
        offer(amount=21000),
        offer(amount="9999999999999999999"),
        offer(asset="USD"),
        offer(payTo="02" * 33),
        offer(payTo="anonymous"),
        offer({"requestHash": "00" * 32}),
        offer({"requestHash": 1}),
        offer({"invoice": INVOICE.text[:-1]}),
        offer({"invoice": None}),
        offer(network="lnbtc:000000000019d6689c085ae165831e93"),
        OFFER | {"extra": None},
    ],
)
def test_an_offer_that_its_invoice_does_not_bear_out_is_malformed(said: Any) -> None:
    with pytest.raises(MalformedChallenge):
        read(asked({**said, "extra": said["extra"] or {}}))

    assert 1 == len(read(asked(said, OFFER)))


def test_a_request_hash_is_the_description_hash_of_the_invoice() -> None:
    bound = bytes(range(32))
    invoice = sign(
        secret_key=bytes(31) + b"\x01",
        network=Network.REGTEST,
        amount=Amount.sats(21),
        payment_hash=INVOICE.payment_hash,
        payment_secret=bytes(32),
        description_hash=bound,
        created_at=NOW,
        expires_in=INVOICE.expires_in,
    )

    assert read(asked(offer({"invoice": invoice.text, "requestHash": bound.hex()})))
    with pytest.raises(MalformedChallenge, match="another request"):
        read(asked(offer({"invoice": invoice.text, "requestHash": bytes(32).hex()})))


@pytest.mark.parametrize(
    "value",
    [
        "%%%",
        "e30=",
        encode([1]),
        encode({"x402Version": 1, "accepts": [OFFER]}),
        encode({"x402Version": 2, "accepts": OFFER}),
        encode({"x402Version": 2, "accepts": [OFFER] * 65}),
        base64.b64encode(b'{"x402Version": 2, "x402Version": 2, "accepts": []}').decode(),
        base64.b64encode(b'{"x402Version": 2, "accepts": [NaN]}').decode(),
        base64.b64encode(b"[" * 40_000).decode(),
        "A" * 65_540,
    ],
)
def test_a_header_that_is_not_x402_is_malformed_and_hides_no_other(value: str) -> None:
    bad = Wire(headers=(("payment-required", value),))

    with pytest.raises(MalformedChallenge):
        read(bad)
    assert 1 == len(read(bad | asked(OFFER)))


def test_base64_is_read_in_either_alphabet_and_without_its_padding() -> None:
    (header,) = asked(OFFER, note="???>>>").headers

    spelt = header[1].rstrip("=").replace("+", "-").replace("/", "_")
    assert spelt != header[1]
    assert read(Wire(headers=((header[0], spelt),))) == read(asked(OFFER))


# --- what is shown ----------------------------------------------------------------------------------------------------


def shown() -> Credential:
    (challenge,) = read(asked(ON_ETHEREUM, OFFER, extensions={"bazaar": {"info": {}}}))
    return sample_credential(challenge)


def test_the_offer_that_was_paid_is_shown_as_it_came_with_the_preimage() -> None:
    (header,) = X402().write_credential(shown()).headers

    assert header[0] == "payment-signature"
    assert json.loads(base64.b64decode(header[1], validate=True)) == {
        "x402Version": 2,
        "accepted": OFFER,
        "resource": {"url": "https://a.example/b"},
        "extensions": {"bazaar": {"info": {}}},
        "payload": {"preimage": PREIMAGE.hex()},
    }


def test_a_proof_without_a_preimage_or_an_offer_is_not_written() -> None:
    for credential in (
        Credential(dialect="x402", payment_hash=bytes(32)),
        Credential(dialect="x402", payment_hash=bytes(32), preimage=Secret(PREIMAGE), parameters=(("accepted", "x"),)),
    ):
        with pytest.raises(MalformedCredential):
            X402().write_credential(credential)
    with pytest.raises(MalformedChallenge):
        X402().write_challenge(Challenge(dialect="x402", invoice="", payment_hash=bytes(32)))


def payment(**changed: Any) -> Wire:
    told = {"x402Version": 2, "accepted": OFFER, "payload": {"preimage": PREIMAGE.hex()}} | changed
    return Wire(headers=(("payment-signature", encode(told)),))


@pytest.mark.parametrize(
    "wire",
    [
        payment(x402Version=1),
        payment(accepted=None),
        payment(payload=None),
        payment(payload={"preimage": PREIMAGE.hex().upper()}),
        payment(payload={"preimage": 5}),
        payment(accepted=offer({"invoice": "lnbcrt1"})),
        payment() | payment(),
        Wire(headers=(("payment-signature", "%"),)),
    ],
)
def test_a_badly_spoken_proof_is_malformed(wire: Wire) -> None:
    with pytest.raises(MalformedCredential):
        X402().read_credential(wire)


def test_a_proof_of_another_network_is_not_this_language() -> None:
    assert X402().read_credential(payment(accepted=ON_ETHEREUM)) is None


# --- what is told -----------------------------------------------------------------------------------------------------

RECEIPT: Final = {"success": True, "transaction": INVOICE.payment_hash.hex(), "network": REGTEST}


def told(*receipts: Any) -> Wire:
    return Wire(headers=tuple(("payment-response", encode(receipt)) for receipt in receipts))


def test_a_receipt_names_the_payment_and_tells_neither_amount_nor_time() -> None:
    assert X402().read_receipt(told(RECEIPT)) == Receipt(payment_hash=INVOICE.payment_hash, amount=None, at=None)


@pytest.mark.parametrize("changed", [{"success": False}, {"success": 1}, {"network": "eip155:8453"}, {"network": []}])
def test_a_receipt_of_something_else_is_none(changed: dict[str, Any]) -> None:
    assert X402().read_receipt(told(RECEIPT | changed)) is None


@pytest.mark.parametrize("wire", [told(RECEIPT, RECEIPT), told(RECEIPT | {"transaction": "0xabc"}), told([1])])
def test_a_receipt_that_names_no_payment_is_malformed(wire: Wire) -> None:
    with pytest.raises(MalformedChallenge):
        X402().read_receipt(wire)
