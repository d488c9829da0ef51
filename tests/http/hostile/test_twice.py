"""Sellers who are called more than once: who take money and never serve (target B9), or change what they asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import InvoiceRefused, NothingPaid, OverBudget, PaidNotServed
from farebox.testing.hostile import Seller
from farebox.testing.hostile.stage import BUDGET, HOME, check_nothing_leaked
from farebox.testing.shopping import FACES, SHOP, Face


def opened(kind: str) -> tuple[Face, Seller]:
    face = Face(kind)
    face.shop = seller = Seller(face)  # type: ignore[assignment]  # all that a face needs of it is that it answers
    return face, seller


@pytest.mark.parametrize("kind", ["client", "async client"])
@pytest.mark.parametrize(
    "refuse",
    [
        lambda s: s.says(500),
        lambda s: s.says(401),
        lambda s: s.says(503, [("retry-after", "1")]),
        lambda s: s.breaks(),
        lambda s: lambda request: s.l402(s.invoice())(request),
        lambda s: s.says(402, kind=""),
    ],
)
def test_a_seller_who_takes_money_and_never_serves_is_paid_twice_at_most(
    refuse: Callable[[Seller], Any], kind: str
) -> None:
    face, seller = opened(kind)
    refusing = refuse(seller)
    seller.acts = [lambda r: (refusing if "authorization" in r.headers else seller.l402(seller.invoice()))(r)]
    client = face.open(budget=BUDGET)
    ends: list[type[Exception]] = []
    for number in range(8):
        with pytest.raises((PaidNotServed, NothingPaid)) as end:
            face.call(url=f"{HOME}/{number % 4}", client=client)
        ends.append(end.type)

    assert 2 == len(face.wallet.payments)
    assert [PaidNotServed] * 2 == ends[:2]
    assert all(issubclass(end, NothingPaid) for end in ends[2:4])
    assert Amount.sats(42) == sum((row.amount for row in face.purse.rows.values()), Amount.sats(0))


@pytest.mark.parametrize("kind", ["client", "async client"])
@pytest.mark.parametrize("sats", [22, 1_000_000])
def test_an_invoice_that_is_swapped_between_the_question_and_the_call_is_not_paid(sats: int, kind: str) -> None:
    face, seller = opened(kind)
    seller.acts = [seller.l402(seller.invoice()), seller.l402(seller.invoice(sats))]
    asking = face.open(budget=BUDGET)
    offer = face.run(asking.ask(asking.build_request("POST", SHOP)))

    with pytest.raises(OverBudget):
        face.call(client=face.open(budget=BUDGET, max=str(offer.amount)))

    assert face.wallet.payments == []
    check_nothing_leaked(seller, face.mint, called=())


@pytest.mark.parametrize("kind", ["client", "async client"])
def test_a_question_is_answered_to_the_satoshi_that_the_call_then_costs(kind: str) -> None:
    face, seller = opened(kind)
    seller.acts = [seller.l402(seller.invoice()), seller.l402(seller.invoice()), seller.serves()]
    client = face.open(budget=BUDGET)
    offer = face.run(client.ask(client.build_request("POST", SHOP)))
    assert face.wallet.payments == []

    assert offer.amount == face.call(client=client).extensions["farebox"].paid


@pytest.mark.parametrize("kind", FACES[2:])
def test_an_auth_shows_no_proof_that_a_redirect_would_take_along(kind: str) -> None:
    face, seller = opened(kind)
    seller.acts = [seller.x402(seller.invoice())]

    with pytest.raises(InvoiceRefused):
        face.call()

    assert face.wallet.payments == []


@pytest.mark.parametrize("kind", FACES[2:])
def test_nor_one_that_a_client_with_the_same_purse_has_paid_for(kind: str) -> None:
    face, seller = opened("client")
    seller.acts = [seller.x402(seller.invoice()), seller.breaks()]
    with pytest.raises(PaidNotServed):
        face.call()
    other, observer = opened(kind)
    observer.acts = [observer.serves()]
    other.purse = face.purse

    with pytest.raises(PaidNotServed):
        other.call()

    check_nothing_leaked(observer, face.mint, called=())
