"""What a caller is told instead of an answer: what may be tried again, and what may not."""

from __future__ import annotations

import json

import httpx
import pytest

from farebox.core import errors
from farebox.http.forward.refusal import refusal_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.OverBudget(left="0 sat"), 403),
        (errors.ChallengeUnreadable("nothing"), 403),
        (errors.InvoiceRefused("expired"), 403),
        (errors.OriginChanged(), 403),
        (errors.PaymentFailed("no route"), 502),
        (errors.PaymentUnresolved(), 503),
        (errors.PaidNotServed("gone"), 502),
        (errors.PaidAsCredit(), 410),
        (errors.StoreUnavailable("locked"), 503),
        (errors.WalletError("refused"), 503),
        (httpx.ReadTimeout("slow"), 504),
        (httpx.ConnectTimeout("slow"), 504),
        (httpx.ConnectError("nobody"), 502),
        (httpx.RemoteProtocolError("nonsense"), 502),
    ],
)
def test_an_error_has_a_status_that_no_caller_takes_for_a_price(error: httpx.HTTPError, status: int) -> None:
    assert status == refusal_of(error).status
    assert (status == 503) == bool(refusal_of(error).headers)


def test_a_problem_tells_all_that_the_error_does() -> None:
    told = json.loads(refusal_of(errors.OverBudget("too dear", left="3 sat", limit="10 sat/day")).body())
    assert {
        "type": "urn:farebox:problem:over-budget",
        "title": "The price is over the budget",
        "status": 403,
        "detail": "too dear",
        "money_moved": False,
        "next_step": errors.OverBudget.next_step,
        "left": "3 sat",
        "limit": "10 sat/day",
    } == told


def test_what_an_error_knows_of_the_seller_does_not_take_the_problems_own_place() -> None:
    told = json.loads(refusal_of(errors.PaidNotServed("gone", status=500)).body())
    assert (502, 500, True) == (told["status"], told["seller_status"], told["money_moved"])


def test_what_is_wrong_with_the_operators_own_things_is_not_told_to_callers() -> None:
    for error in (errors.StoreUnavailable("/home/me/purse.db is locked"), errors.WalletError("http://node:9740")):
        assert "/" not in refusal_of(error).body().decode().replace("urn:", "")
