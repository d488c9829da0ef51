"""Sellers whose invoice is not what it should be."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from farebox.core.bolt11 import Network
from farebox.core.errors import ChallengeUnreadable, InvoiceRefused, PaymentFailed
from farebox.core.ports import Failed
from farebox.testing.hostile.stage import ELSEWHERE, HOME, Scenario

_OTHER_HASH: Final = "00" * 32

INVOICES: Final = (
    Scenario("an invoice without an amount", lambda s: [s.l402(s.invoice(None))], InvoiceRefused),
    Scenario(
        "an invoice without an amount beside a small price",
        lambda s: [s.bare(s.invoice(None), amount_sats=1)],
        InvoiceRefused,
    ),
    Scenario(
        "an invoice for real money to a wallet of toy money",
        lambda s: [s.l402(s.invoice(network=Network.MAINNET))],
        InvoiceRefused,
    ),
    Scenario("an invoice for the test network", lambda s: [s.l402(s.invoice(network=Network.TESTNET))], InvoiceRefused),
    Scenario("an invoice for signet", lambda s: [s.bare(s.invoice(network=Network.SIGNET))], InvoiceRefused),
    Scenario("an invoice that has run out", lambda s: [s.l402(s.invoice(age=timedelta(minutes=11)))], InvoiceRefused),
    Scenario(
        "an invoice that runs out in five seconds",
        lambda s: [s.l402(s.invoice(age=timedelta(seconds=595)))],
        InvoiceRefused,
    ),
    Scenario("an invoice that never was good", lambda s: [s.l402(s.invoice(expires_in=timedelta(0)))], InvoiceRefused),
    Scenario("an invoice from tomorrow", lambda s: [s.l402(s.invoice(age=timedelta(days=-1)))], InvoiceRefused),
    Scenario(
        "an invoice in mixed case",
        lambda s: [s.l402((text := s.invoice().text)[:60] + text[60:].upper())],
        ChallengeUnreadable,
    ),
    Scenario(
        "an invoice with a changed character",
        lambda s: [s.bare((text := s.invoice().text)[:70] + ("q" if text[70] != "q" else "p") + text[71:])],
        ChallengeUnreadable,
    ),
    Scenario("an invoice that is cut short", lambda s: [s.l402(s.invoice().text[:-20])], ChallengeUnreadable),
    Scenario(
        "an invoice that nobody signed",
        lambda s: [s.l402(s.altered("x", b"1", signature=b"0" * 104))],
        ChallengeUnreadable,
    ),
    Scenario(
        "an invoice that is signed for another node than it names",
        lambda s: [s.l402(s.altered("n", b"0" * 53))],
        ChallengeUnreadable,
    ),
    Scenario("an invoice with two payment hashes", lambda s: [s.l402(s.altered("p", b"0" * 52))], ChallengeUnreadable),
    Scenario("an invoice with two payment secrets", lambda s: [s.l402(s.altered("s", b"0" * 52))], ChallengeUnreadable),
    Scenario("an invoice with two expiries", lambda s: [s.l402(s.altered("x", b"10"))], ChallengeUnreadable),
    Scenario(
        "an invoice that demands a feature nobody knows",
        lambda s: [s.l402(s.altered("9", b"v" * 20))],
        ChallengeUnreadable,
    ),
    Scenario(
        "an invoice that lets the money be held for weeks",
        lambda s: [s.l402(s.invoice(min_final_cltv=2016))],
        InvoiceRefused,
    ),
    Scenario(
        "an invoice that may be paid for fifty years",
        lambda s: [s.l402(s.invoice(expires_in=timedelta(days=50 * 365)))],
        InvoiceRefused,
    ),
    Scenario(
        "an invoice with letters that only look like its own",
        lambda s: [s.bare(s.invoice().text.replace("c", "\u0441", 1))],
        ChallengeUnreadable,
    ),
    Scenario("an invoice with blanks around it", lambda s: [s.bare(s.invoice().text + " ")], ChallengeUnreadable),
    Scenario(
        "an invoice of a hundred kilobytes",
        lambda s: [s.l402("lnbcrt210n1" + "q" * 50_000)],
        ChallengeUnreadable,
        bounded=True,
    ),
    Scenario("an invoice of the wallet's own node", lambda s: [s.l402(s.invoice())], InvoiceRefused, own=True),
    Scenario(
        "an invoice that the wallet finds to be its own",
        lambda s: [s.l402(s.invoice())],
        PaymentFailed,
        paid=1,
        wallet=lambda s: [Failed(reason="self-payments not allowed")],
    ),
    Scenario(
        "a body with another payment hash than its invoice",
        lambda s: [s.bare(s.invoice(), payment_hash=_OTHER_HASH)],
        ChallengeUnreadable,
    ),
    Scenario(
        "a Payment request with another payment hash than its invoice",
        lambda s: [s.payment(s.invoice(), details={"paymentHash": _OTHER_HASH})],
        ChallengeUnreadable,
    ),
    Scenario(
        "a Payment request with another network than its invoice",
        lambda s: [s.payment(s.invoice(), details={"network": "mainnet"})],
        ChallengeUnreadable,
    ),
    Scenario(
        "a Payment challenge that has run out before its invoice",
        lambda s: [s.payment(s.invoice(), parameters={"expires": "2020-01-01T00:00:00Z"})],
        InvoiceRefused,
    ),
    Scenario(
        "an x402 offer that is to be paid to another node",
        lambda s: [s.x402(s.invoice(), payTo="02" * 33)],
        ChallengeUnreadable,
    ),
    Scenario(
        "an x402 offer that is bound to another request than its invoice",
        lambda s: [s.x402(s.invoice(), extra={"requestHash": _OTHER_HASH})],
        ChallengeUnreadable,
    ),
    Scenario(
        "an x402 offer on another network than its invoice",
        lambda s: [s.x402(s.invoice(), network="lnbtc:000000000019d6689c085ae165831e93")],
        ChallengeUnreadable,
    ),
    Scenario(
        "the invoice of a call that was paid, for another call",
        lambda s: [asks := s.l402(s.invoice()), s.serves(), asks],
        InvoiceRefused,
        paid=1,
        calls=(f"{HOME}/one", f"{HOME}/two"),
    ),
    Scenario(
        "the invoice of a call that was paid, at another origin",
        lambda s: [asks := s.l402(s.invoice()), s.serves(), asks],
        InvoiceRefused,
        paid=1,
        calls=(f"{HOME}/one", f"{ELSEWHERE}/one"),
    ),
)
