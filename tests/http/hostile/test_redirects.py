"""Redirects to other origins (target B6): 500 of them, in every dialect, before and after paying."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import pytest

from farebox.core.errors import OriginChanged
from farebox.testing.hostile import Scenario, Seller
from farebox.testing.hostile.redirects import PLACES, STATUSES
from farebox.testing.hostile.stage import TOKEN
from farebox.testing.shopping import Face


def ask(seller: Seller, dialect: str) -> Any:
    invoice = seller.invoice()
    match dialect:
        case "L402":
            return seller.l402(invoice)
        case "Payment":
            return seller.payment(invoice)
        case "x402":
            return seller.x402(invoice)
        case "payment_hash":
            return seller.bare(invoice, amount_sats=21)
    return seller.says(402, [("www-authenticate", f'LSAT macaroon="{TOKEN}", invoice="{invoice.text}"')])


DIALECTS: Final = ("L402", "LSAT", "Payment", "x402", "payment_hash")
WAYS: Final = list(product(DIALECTS, STATUSES, PLACES))


def before(dialect: str, status: int, place: str) -> Scenario:
    return Scenario(
        name="before",
        acts=lambda s: [s.redirects(status, f"{place}/paid"), ask(s, dialect)],
        ends=OriginChanged,
        follows=True,
    )


def after(dialect: str, status: int, place: str) -> Scenario:
    return Scenario(
        name="after",
        acts=lambda s: [ask(s, dialect), s.redirects(status, f"{place}/answer"), s.serves()],
        paid=1,
        follows=True,
    )


@pytest.mark.parametrize("kind", ["client", "async client"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_other_origin_is_paid_or_hears_of_a_payment(dialect: str, kind: str) -> None:
    for each, status, place in WAYS:
        if each == dialect:
            before(dialect, status, place).play(Face(kind))
            after(dialect, status, place).play(Face(kind))


def test_there_are_five_hundred_of_them() -> None:
    assert 500 == 2 * len(WAYS)
