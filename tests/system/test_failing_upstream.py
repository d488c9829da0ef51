"""An upstream that fails some of three times, in each way: no satoshi is kept without an answer or credit for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from farebox.catalog.routes import Route
from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import Payment, PaymentState
from farebox.http.proxy import Proxy
from farebox.testing.faults import EVENT, WHOLE, Fault, faulty
from farebox.testing.gateway import bought, gateway, heard
from farebox.testing.market import Market

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
MOST_ATTEMPTS = 3
IDLE = timedelta(milliseconds=40)


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    market = Market.open()
    yield market
    await market.close()


async def checked(market: Market, delivered: int, bought_so_far: int) -> Payment:
    """The newest payment, of books that say: earned is what was delivered, and all the rest is owed or on a tab."""
    ledger = market.gate.ledger
    payment = (await ledger.recent_payments(1))[0]
    balance = await ledger.balance()
    assert [] == list(await ledger.audit())
    assert balance.balanced
    assert (PRICE * bought_so_far, PRICE * delivered) == (balance.received, balance.earned)
    assert (payment.state is PaymentState.SPENT) == (payment.captured == PRICE)
    return payment


@pytest.mark.parametrize("rerun", [True, False], ids=["rerun", "not rerun"])
@pytest.mark.parametrize("fault", Fault)
async def test_a_failed_call_is_made_again_or_is_credit_and_after_exactly_three_attempts_always_credit(
    market: Market, fault: Fault, rerun: bool
) -> None:
    path = "/stream" if fault.flows else "/call"
    route = Route(method="POST", path="/*", price=PRICE, rerun=rerun)
    allowed = MOST_ATTEMPTS if rerun or fault.is_known else 1
    delivered = 0
    async with (
        faulty() as upstream,
        gateway(market.gate, {route: (proxy := Proxy(upstream.url, idle_timeout=IDLE))}) as url,
        httpx.AsyncClient(trust_env=False, timeout=10) as http,
    ):
        for failures in range(1, MOST_ATTEMPTS + 1):
            proof = await bought(market, http, "POST", url + path, content=b"%d" % failures)
            upstream.faults = [fault] * failures
            runs = len(upstream.seen)
            for attempt in range(1, min(failures, allowed) + 1):
                told = await heard(http, "POST", url + path, content=b"%d" % failures, headers=proof)
                assert told == (200, EVENT, False) if fault.flows else (502, True) == (told[0], told[2])
                payment = await checked(market, delivered, failures)
                owed = PaymentState.CREDIT if attempt == allowed else PaymentState.FUNDED
                assert (owed, attempt, NOTHING) == (payment.state, payment.attempts, payment.captured)
            told = await heard(http, "POST", url + path, content=b"%d" % failures, headers=proof)
            if failures < allowed:
                delivered += 1
                assert (200, EVENT * 2 if fault.flows else WHOLE, True) == told
            else:
                assert (409, True) == (told[0], told[2])
            payment = await checked(market, delivered, failures)
            assert (PaymentState.SPENT if failures < allowed else PaymentState.CREDIT) is payment.state
            assert min(failures + 1, allowed) == len(upstream.seen) - runs
        keys = {request.values(b"idempotency-key")[0] for request in upstream.seen}
        assert MOST_ATTEMPTS == len(keys)
        await proxy.aclose()


async def test_an_upstream_that_can_not_be_reached_uses_up_nothing_however_often_it_is_asked(market: Market) -> None:
    async with faulty() as upstream:
        url_of_nobody = upstream.url
    route = Route(method="POST", path="/*", price=PRICE)
    async with (
        gateway(market.gate, {route: (proxy := Proxy(url_of_nobody))}) as url,
        httpx.AsyncClient(trust_env=False, timeout=10) as http,
    ):
        proof = await bought(market, http, "POST", url + "/call", content=b"x")
        for _ in range(MOST_ATTEMPTS * 2):
            told = await heard(http, "POST", url + "/call", content=b"x", headers=proof)
            payment = await checked(market, 0, 1)
            assert (502, PaymentState.FUNDED, 0) == (told[0], payment.state, payment.attempts)
        await proxy.aclose()
