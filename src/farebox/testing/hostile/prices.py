"""Sellers who say one price and ask for another."""

from __future__ import annotations

from typing import Final

from farebox.core.bolt11 import Invoice
from farebox.core.errors import ChallengeUnreadable, InvoiceRefused, OverBudget
from farebox.testing.hostile.stage import Act, Scenario, Seller


def _in_two_dialects(seller: Seller, invoice: Invoice) -> Act:
    l402, payment = seller.l402(invoice), seller.payment(invoice, amount="1")

    def act(request: object) -> object:
        answer, other = l402(request), payment(request)
        answer.headers["www-authenticate"] += ", " + other.headers["www-authenticate"]
        return answer

    return act


PRICES: Final = (
    Scenario(
        "the body says 1 sat beside the header's invoice for a million",
        lambda s: [s.l402(s.invoice(1_000_000), {"amount_sats": 1})],
        InvoiceRefused,
    ),
    Scenario(
        "the body says 1 msat beside the header's invoice",
        lambda s: [s.l402(s.invoice(), {"price_msat": 1})],
        InvoiceRefused,
    ),
    Scenario(
        "the protocol's own member says 1 sat",
        lambda s: [s.l402(s.invoice(1_000_000), {"protocols": {"l402": {"price_sats": 1}}})],
        InvoiceRefused,
    ),
    Scenario(
        "a body alone says 1 sat and has an invoice for a million",
        lambda s: [s.bare(s.invoice(1_000_000), amount_sats=1)],
        InvoiceRefused,
    ),
    Scenario(
        "the body says 1 sat in text", lambda s: [s.l402(s.invoice(1_000_000), {"amount_sats": "1"})], InvoiceRefused
    ),
    Scenario(
        "the body says nothing is to be paid", lambda s: [s.l402(s.invoice(), {"amount_sats": 0})], InvoiceRefused
    ),
    Scenario(
        "the body says a fraction of a satoshi more",
        lambda s: [s.l402(s.invoice(), {"amount_sats": 21.5})],
        InvoiceRefused,
    ),
    Scenario(
        "the body says a price below zero", lambda s: [s.l402(s.invoice(), {"amount_sats": -21})], ChallengeUnreadable
    ),
    Scenario(
        "the body says a price below zero in text",
        lambda s: [s.bare(s.invoice(), amount_sats="-1")],
        ChallengeUnreadable,
    ),
    Scenario("the body says true", lambda s: [s.l402(s.invoice(), {"price_sats": True})], ChallengeUnreadable),
    Scenario(
        "the body says a price in words",
        lambda s: [s.l402(s.invoice(1_000_000), {"price_sats": "one"})],
        ChallengeUnreadable,
    ),
    Scenario(
        "the body says a price as a list", lambda s: [s.bare(s.invoice(1_000_000), price_sats=[1])], ChallengeUnreadable
    ),
    Scenario("the body says infinity", lambda s: [s.bare(s.invoice(), amount_sats=float("inf"))], ChallengeUnreadable),
    Scenario("the body says NaN", lambda s: [s.bare(s.invoice(), amount_sats=float("nan"))], ChallengeUnreadable),
    Scenario(
        "the exact price is the invoice's and the one for people is 1 sat",
        lambda s: [s.l402(s.invoice(1_000_000), {"price_msat": 1_000_000_000, "price_sats": 1})],
        ChallengeUnreadable,
    ),
    Scenario(
        "the body names its price twice",
        lambda s: [
            s.says(402, body=b'{"amount_sats": 1, "invoice": "%b", "amount_sats": 21}' % s.invoice().text.encode())
        ],
        ChallengeUnreadable,
    ),
    Scenario(
        "a Payment request says 1 sat and has an invoice for a million",
        lambda s: [s.payment(s.invoice(1_000_000), amount="1")],
        InvoiceRefused,
    ),
    Scenario("a Payment request says 0 sat", lambda s: [s.payment(s.invoice(), amount="0")], ChallengeUnreadable),
    Scenario(
        "a Payment request says a price below zero",
        lambda s: [s.payment(s.invoice(), amount="-21")],
        ChallengeUnreadable,
    ),
    Scenario("a Payment request says 2.1e1", lambda s: [s.payment(s.invoice(), amount="2.1e1")], ChallengeUnreadable),
    Scenario(
        "a Payment request says its price as a number",
        lambda s: [s.payment(s.invoice(), amount=21)],
        ChallengeUnreadable,
    ),
    Scenario(
        "a Payment request says NaN", lambda s: [s.payment(s.invoice(), amount=float("nan"))], ChallengeUnreadable
    ),
    Scenario(
        "a Payment request asks in dollars", lambda s: [s.payment(s.invoice(), currency="usd")], ChallengeUnreadable
    ),
    Scenario("an x402 offer says 1 msat", lambda s: [s.x402(s.invoice(), amount="1")], InvoiceRefused),
    Scenario(
        "an x402 offer says satoshis where millisatoshis belong",
        lambda s: [s.x402(s.invoice(), amount="21")],
        InvoiceRefused,
    ),
    Scenario(
        "an x402 offer says a price below zero", lambda s: [s.x402(s.invoice(), amount="-21000")], ChallengeUnreadable
    ),
    Scenario(
        "an x402 offer says its price as a float", lambda s: [s.x402(s.invoice(), amount=21000.0)], ChallengeUnreadable
    ),
    Scenario("an x402 offer says no price", lambda s: [s.x402(s.invoice(), amount=None)], ChallengeUnreadable),
    Scenario(
        "two dialects ask different prices for one invoice",
        lambda s: [_in_two_dialects(s, s.invoice(1_000_000))],
        InvoiceRefused,
    ),
    Scenario(
        "the price is what was said and over the most for one call",
        lambda s: [s.l402(s.invoice(), {"amount_sats": 21})],
        OverBudget,
        max="20 sat",
    ),
    Scenario(
        "the price is over the budget by its routing fee",
        lambda s: [s.l402(s.invoice(100_000_000), {"amount_sats": 100_000_000})],
        OverBudget,
    ),
)
