"""Wallets that err, and sellers who have the money."""

from __future__ import annotations

from typing import Any, Final

from farebox.core.amount import NOTHING
from farebox.core.errors import PaidAsCredit, PaidNotServed, PaymentFailed, PaymentUnresolved, WalletError
from farebox.core.ports import Failed, Paid, Unresolved
from farebox.core.secret import Secret
from farebox.testing.hostile.stage import Act, Scenario, Seller


def _proof(name: str, preimage: bytes) -> Scenario:
    return Scenario(
        name,
        lambda s: [s.l402(s.invoice()), s.serves()],
        PaymentUnresolved,
        paid=1,
        wallet=lambda s: [Paid(preimage=Secret(preimage), fee=NOTHING)],
    )


def _not_served(name: str, *acts: Any) -> Scenario:
    """Paid, and then this, the last of it for ever."""
    return Scenario(name, lambda s: [s.l402(s.invoice()), *[act(s) for act in acts]], PaidNotServed, paid=1)


def _problem(seller: Seller, status: int, kind: str) -> Act:
    length = str(len(f'{{"type": "{kind}"}}'))
    return seller.says(status, [("content-length", length)], {"type": kind}, kind="application/problem+json")


def _new_each_time(seller: Seller) -> Act:
    return lambda request: seller.l402(seller.invoice())(request)


AFTER_PAYING: Final = (
    _proof("the wallet gives another preimage", b"\x07" * 32),
    _proof("the wallet gives a preimage of zeros", bytes(32)),
    _proof("the wallet gives an id for a preimage", b"payment_id_0123"),
    _proof("the wallet gives nothing for a preimage", b""),
    Scenario(
        "the wallet gives the payment hash for a preimage",
        lambda s: [s.l402(s.invoice()), s.serves()],
        PaymentUnresolved,
        paid=1,
        wallet=lambda s: [Paid(preimage=Secret(next(iter(s.mint.preimages))), fee=NOTHING)],
    ),
    Scenario(
        "the wallet does not reply",
        lambda s: [s.l402(s.invoice()), s.serves()],
        PaymentUnresolved,
        paid=1,
        wallet=lambda s: [Unresolved(reason="timed out")],
    ),
    Scenario(
        "the wallet breaks",
        lambda s: [s.l402(s.invoice()), s.serves()],
        PaymentUnresolved,
        paid=1,
        wallet=lambda s: [WalletError("it does not answer")],
    ),
    Scenario(
        "the route would cost more than the fee limit",
        lambda s: [s.l402(s.altered("r", b"0" * 82)), s.serves()],
        PaymentFailed,
        paid=1,
        wallet=lambda s: [Failed(reason="no route within the fee limit")],
    ),
    _not_served("another invoice after the payment", lambda s: s.l402(s.invoice())),
    _not_served("a dearer invoice after the payment", lambda s: s.bare(s.invoice(1_000_000))),
    _not_served("a new invoice after each proof", _new_each_time),
    _not_served("a 402 without anything after the payment", lambda s: s.says(402, kind="")),
    _not_served("a 401 for ever", lambda s: s.says(401)),
    _not_served("a 500 for ever", lambda s: s.says(500)),
    _not_served("a 502 for ever", lambda s: s.says(502)),
    _not_served("a 503 for ever", lambda s: s.says(503)),
    _not_served("a 429 for ever", lambda s: s.says(429, [("retry-after", "1")])),
    _not_served("a 425 for ever", lambda s: s.says(425)),
    _not_served("Retry-After of a year", lambda s: s.says(503, [("retry-after", "31536000")])),
    _not_served("Retry-After of more seconds than there are", lambda s: s.says(503, [("retry-after", "9" * 400)])),
    _not_served("Retry-After below zero", lambda s: s.says(503, [("retry-after", "-5")])),
    _not_served("Retry-After in the past", lambda s: s.says(503, [("retry-after", "Mon, 01 Jan 1990 00:00:00 GMT")])),
    _not_served(
        "Retry-After at the end of time", lambda s: s.says(503, [("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")])
    ),
    _not_served("Retry-After in words", lambda s: s.says(429, [("retry-after", "soon")])),
    _not_served("no answer for ever", lambda s: s.breaks()),
    _not_served("no connection for ever", lambda s: s.breaks("ConnectError")),
    _not_served("a protocol error for ever", lambda s: s.breaks("RemoteProtocolError")),
    _not_served("an answer to another proof", lambda s: _problem(s, 409, "request-mismatch")),
    _not_served("an answer that is gone", lambda s: _problem(s, 410, "answer-gone")),
    _not_served("a credential that is rejected under a 400", lambda s: _problem(s, 400, "credential-rejected")),
    Scenario(
        "an upstream that fails for good",
        lambda s: [s.l402(s.invoice()), _problem(s, 409, "call-undeliverable")],
        PaidAsCredit,
        paid=1,
    ),
    Scenario("the same invoice for ever", lambda s: [s.l402(s.invoice())], PaidNotServed, paid=1),
    Scenario(
        name="garbage with a 200",
        acts=lambda s: [s.l402(s.invoice()), s.says(200, body=b"\x00garbage", kind="application/octet-stream")],
        paid=1,
    ),
    Scenario(
        name="a receipt for another payment",
        acts=lambda s: [s.l402(s.invoice()), s.serves([("payment-receipt", "e30"), ("payment-response", "e30=")])],
        paid=1,
    ),
    Scenario(
        name="a challenge beside the answer that was bought",
        acts=lambda s: [s.l402(s.invoice()), s.l402(s.invoice(), status=200)],
        paid=1,
    ),
)
