"""A price in fiat through the gate: the invoice fixes what a call costs, whatever becomes of the rate."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from farebox.catalog.catalog import Catalog
from farebox.catalog.rates import RatesInForce
from farebox.catalog.routes import Route, RouteTable
from farebox.core.amount import NOTHING, Amount
from farebox.core.errors import ConfigError, RateUnavailable
from farebox.core.fiat import Fiat
from farebox.core.payment import PaymentState
from farebox.core.ports import Capability
from farebox.dialects.http_auth import read_challenges
from farebox.gate import Terms
from farebox.http.paywall import Paywall
from farebox.http.quotes import Quotes
from farebox.http.rates import Rates
from farebox.http.sale import Sale
from farebox.http.shopfront import shop
from farebox.lightning import open_receiver
from farebox.testing.market import Market, Service

pytestmark = pytest.mark.anyio

FIAT, SATS, FRACTION = "/fiat", "/sats", "/fraction"
PRICES = {f"POST {FIAT}": "0.5 US cent", f"POST {SATS}": "21 sat", f"POST {FRACTION}": "500 msat"}
BEYOND = timedelta(minutes=11)  # the stale limit


@dataclass
class Teller:
    """Says what a bitcoin costs."""

    says: str | None = "64000"
    name: str = "rates.test"

    async def read(self, now: datetime) -> tuple[Decimal, datetime]:
        if self.says is None:
            raise RateUnavailable("it is away")
        return Decimal(self.says), now


@dataclass
class Shop:
    """A paywall with prices in fiat, and a buyer who pays by hand."""

    market: Market
    http: httpx.AsyncClient
    rates: Rates
    teller: Teller
    service: Service
    wall: Any = field(repr=False, default=None)

    async def call(self, path: str = FIAT, prompt: str = "hi", **headers: str) -> httpx.Response:
        return await self.http.post(path, json={"prompt": prompt}, headers=headers)

    async def asked(self, path: str = FIAT, prompt: str = "hi") -> dict[str, Any]:
        answer = await self.call(path, prompt)
        assert 402 == answer.status_code, answer.text
        return dict(answer.json())

    async def move(self, says: str | None, after: timedelta = timedelta(minutes=1)) -> None:
        """The rate is another from now on, or there is none."""
        self.teller.says = says
        self.market.clock.pass_by(after)
        for _ in range(100):
            found = await self.rates.find_all(["USD"])
            if (says is None and not found) or (says is not None and found and Decimal(says) == found["USD"].per_btc):
                return
            await asyncio.sleep(0)
        raise AssertionError("the rate did not move")


@asynccontextmanager
async def opened(terms: Terms | None = None) -> AsyncIterator[Shop]:
    market, teller, service = Market.open(terms), Teller(), Service()
    rates = Rates({"USD": [teller]}, clock=market.clock, in_force=RatesInForce(most_jump_percent=1000))
    wall = Paywall(service, gate=market.gate, prices=PRICES, rates=rates)
    transport = httpx.ASGITransport(app=wall, client=("192.0.2.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as http:
        yield Shop(market, http, rates, teller, service, wall)
    await market.close()


def l402(asked: httpx.Response, preimage: bytes) -> dict[str, str]:
    return {"authorization": f"L402 {asked.json()['macaroon']}:{preimage.hex()}"}


def payment_hash(asked: httpx.Response, preimage: bytes) -> dict[str, str]:
    return {"x-payment-hash": asked.json()["payment_hash"]}


def payment(asked: httpx.Response, preimage: bytes) -> dict[str, str]:
    import base64

    (found,) = [c for c in read_challenges([asked.headers["www-authenticate"]]) if c.scheme.lower() == "payment"]
    proof = {"challenge": dict(found.parameters), "payload": {"preimage": preimage.hex()}}
    return {"authorization": "Payment " + base64.urlsafe_b64encode(json.dumps(proof).encode()).rstrip(b"=").decode()}


DIALECTS = [l402, payment, payment_hash]


# --- the 402 ----------------------------------------------------------------------------------------------------------


async def test_a_402_names_the_price_the_rate_and_who_said_it() -> None:
    async with opened() as shop:
        asked = await shop.asked()
    assert (8, 8000) == (asked["amount_sats"], asked["amount_msat"])  # 7.8125, rounded up
    assert {"amount": "0.005", "currency": "USD"} == asked["price"]
    assert {
        "currency": "USD",
        "per_btc": "64000",
        "seen_at": "2026-01-02T03:04:05Z",
        "source": "rates.test",
    } == asked["rate"]
    assert (
        "/fiat costs 0.005 USD, which is 8 sat at 64000 USD for a bitcoin (rates.test, 2026-01-02 03:04:05 UTC)."
        == asked["detail"]
    )


async def test_a_price_in_satoshis_needs_no_rate_and_names_none() -> None:
    async with opened() as shop:
        shop.teller.says = None
        asked = await shop.asked(SATS)
    assert (21, "/sats costs 21 sat.") == (asked["amount_sats"], asked["detail"])
    assert not {"price", "rate"} & set(asked)


async def test_a_caller_s_unpaid_invoice_is_the_same_until_the_rate_has_moved_and_both_can_be_paid() -> None:
    async with opened() as shop:
        first, again = await shop.call(), await shop.asked()
        await shop.move("32000")
        moved = await shop.call()
        assert first.json()["invoice"] == again["invoice"] != moved.json()["invoice"]
        assert [8, 16] == [each.json()["amount_sats"] for each in (first, moved)]
        for asked in (first, moved):
            preimage = shop.market.pay(asked.json()["invoice"])
            assert 200 == (await shop.call(**l402(asked, preimage))).status_code
        rows = await shop.market.gate.ledger.recent_payments(9)
        assert {Amount.sats(8), Amount.sats(16)} == {row.captured for row in rows}


# --- a rate that moves between challenge and retry --------------------------------------------------------------------


@pytest.mark.parametrize("show", DIALECTS)
@pytest.mark.parametrize("moved_to", ["640000", "6400", None])
async def test_what_is_paid_is_served_for_the_price_of_its_invoice_wherever_the_rate_went(
    show: Callable[[httpx.Response, bytes], dict[str, str]], moved_to: str | None
) -> None:
    async with opened() as shop:
        asked = await shop.call()
        preimage = shop.market.pay(asked.json()["invoice"])
        await shop.move(moved_to, timedelta(minutes=1) if moved_to else BEYOND)
        answers = [await shop.call(**show(asked, preimage)) for _ in range(2)]
        assert [200, 200] == [each.status_code for each in answers], answers[0].text
        assert answers[0].content == answers[1].content
        (row,) = await shop.market.gate.ledger.recent_payments(9)
        assert (PaymentState.SPENT, Amount.sats(8), Amount.sats(8)) == (row.state, row.price, row.captured)
        assert 1 == shop.service.calls


@pytest.mark.parametrize("show", [l402, payment])
async def test_a_paid_call_that_failed_is_run_again_for_the_same_price(
    show: Callable[[httpx.Response, bytes], dict[str, str]],
) -> None:
    async with opened() as shop:
        asked = await shop.call()
        preimage = shop.market.pay(asked.json()["invoice"])
        shop.service.failing = 1
        assert 502 == (await shop.call(**show(asked, preimage))).status_code
        await shop.move("6400")
        assert 200 == (await shop.call(**show(asked, preimage))).status_code
        (row,) = await shop.market.gate.ledger.recent_payments(9)
        assert Amount.sats(8) == row.captured


async def test_an_invoice_that_is_not_paid_yet_is_told_again_as_it_is_and_names_no_rate_of_now() -> None:
    async with opened() as shop:
        asked = await shop.call()
        await shop.move("6400")
        unpaid = await shop.call(**payment_hash(asked, b""))
    told = unpaid.json()
    assert (402, asked.json()["invoice"], 8) == (unpaid.status_code, told["invoice"], told["amount_sats"])
    assert not {"price", "rate"} & set(told)


# --- no rate ----------------------------------------------------------------------------------------------------------


async def test_beyond_the_stale_limit_a_call_is_told_503_and_is_never_free_while_others_go_on() -> None:
    async with opened(Terms(free_calls=5)) as shop:
        await shop.call()
        await shop.move(None, BEYOND)
        answers = [await shop.call(prompt=f"{n}") for n in range(3)]
        head = await shop.http.head(FIAT)
        asked_in_sats = await shop.http.post(f"{SATS}?l402=require", json={"prompt": "x"})
        calls = shop.service.calls
        await shop.move("64000", timedelta(seconds=10))
        back = await shop.http.post(f"{FIAT}?l402=require", json={"prompt": "x"})
    for answer in answers:
        problem = answer.json()
        assert (503, "10", "rate-unavailable") == (
            answer.status_code,
            answer.headers["retry-after"],
            problem["error"],
        )
        assert ("urn:farebox:problem:rate-unavailable", "there is no rate for USD") == (
            problem["type"],
            problem["detail"],
        )
        assert "no-store" == answer.headers["cache-control"]
    assert (503, 402, 402) == (head.status_code, asked_in_sats.status_code, back.status_code)
    assert 1 == calls  # the free one, before


async def test_a_rate_by_which_a_call_costs_more_than_there_is_asks_for_nothing() -> None:
    async with opened() as shop:
        shop.teller.says = "0.000000000001"
        answer = await shop.call()
    assert (503, "by its rate this costs more than there is") == (answer.status_code, answer.json()["detail"])


async def test_made_up_proofs_are_turned_away_without_a_rate_as_with_one() -> None:
    async with opened() as shop:
        shop.teller.says = None
        unknown = await shop.call(**{"x-payment-hash": "ab" * 32})
        malformed = await shop.call(authorization="L402 nonsense")
    assert (503, 400) == (unknown.status_code, malformed.status_code)


# --- the free tier ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("up_to", "status"), [("8 sat", 200), ("7 sat", 402)])
async def test_a_call_is_free_as_long_as_it_costs_no_more_in_satoshis_than_the_free_tier_allows(
    up_to: str, status: int
) -> None:
    async with opened(replace(Terms(free_calls=1), free_up_to=Amount.read(up_to))) as shop:
        assert status == (await shop.call()).status_code


# --- other faces ------------------------------------------------------------------------------------------------------


async def test_the_price_list_tells_fiat_with_its_present_satoshis() -> None:
    market, teller = Market.open(), Teller()
    catalog = Catalog()

    @catalog.sell(price="$0.005")
    async def spell(word: str) -> str:
        return word

    rates = Rates({"USD": [teller]}, clock=market.clock)
    transport = httpx.ASGITransport(app=shop(catalog, market.gate, rates=rates))  # type: ignore[arg-type] # another Scope
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as http:
        (listed,) = (await http.get("/pricing")).json()["priced_endpoints"]
        teller.says = None
        market.clock.pass_by(BEYOND)
        (without,) = (await http.get("/pricing")).json()["priced_endpoints"]
    assert (8, 8000, "sat", "request") == tuple(
        listed[name] for name in ("price_sats", "amount_msat", "currency", "unit")
    )
    assert {"amount": "0.005", "currency": "USD"} == listed["price"] == without["price"]
    assert ("64000", "rates.test") == (listed["rate"]["per_btc"], listed["rate"]["source"])
    assert not {"price_sats", "amount_msat", "currency", "rate"} & set(without)
    await market.close()


async def test_a_fastapi_route_is_priced_in_fiat() -> None:
    market = Market.open()
    market.gate.rates = Rates({"USD": "64000"}, clock=market.clock)
    app = FastAPI()

    @app.post("/rank")
    async def rank(sale: Annotated[Sale, Depends(market.gate.price("0.5 US cent"))]) -> str:
        return str(sale.price)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop.test") as http:
        asked = await http.post("/rank", json={})
        preimage = market.pay(asked.json()["invoice"])
        paid = await http.post("/rank", json={}, headers=l402(asked, preimage))
    assert ("fixed", 200, "8 sat") == (asked.json()["rate"]["source"], paid.status_code, paid.json())
    await market.close()


def test_a_currency_of_which_nobody_says_the_rate_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="POST /x costs 2 CHF, and nobody says what a bitcoin costs in CHF; name"):
        Quotes().check([Route.read("POST /x", "2 CHF")], [open_receiver("phoenixd+http://:p@127.0.0.1:9")])


@pytest.mark.parametrize(("dearest", "prices"), [("2 USD", ["2 USD", "1 USD"]), ("1 USD", ["9000 sat", "1 USD"])])
def test_a_probe_sees_the_dearest_price_where_fiat_is_dearer_than_bitcoin(dearest: str, prices: list[str]) -> None:
    table = RouteTable.read({f"{method} /x": price for method, price in zip(["POST", "PUT"], prices, strict=True)})
    found = table.lookup("HEAD", "/x")
    assert found is not None
    assert Fiat.read(dearest) == found.price


# --- fractions of a satoshi -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", [l402, payment_hash])
async def test_half_a_satoshi_is_asked_for_paid_and_earned_to_the_millisatoshi(
    show: Callable[[httpx.Response, bytes], dict[str, str]],
) -> None:
    async with opened() as shop:
        asked = await shop.call(FRACTION)
        preimage = shop.market.pay(asked.json()["invoice"])
        answer = await shop.call(FRACTION, **show(asked, preimage))
        balance = await shop.market.gate.ledger.balance()
    assert (1, 500, 200) == (asked.json()["amount_sats"], asked.json()["amount_msat"], answer.status_code)
    assert (Amount.msats(500), NOTHING) == (balance.earned, balance.held)


async def test_a_price_with_a_fraction_is_not_offered_in_a_dialect_of_whole_satoshis() -> None:
    async with opened() as shop:
        asked = await shop.call(FRACTION)
    assert ["L402"] == [each.scheme for each in read_challenges([asked.headers["www-authenticate"]])]


@pytest.mark.parametrize(("price", "instead"), [("500 msat", "1 sat"), ("1500 msat", "2 sat")])
def test_a_node_that_asks_for_whole_satoshis_only_is_named_at_the_start(price: str, instead: str) -> None:
    node = open_receiver("phoenixd+http://:secret@127.0.0.1:9740")
    assert Capability.MSAT not in node.capabilities
    with pytest.raises(ConfigError) as refused:
        Quotes().check([Route.read("POST /x", price)], [open_receiver("sandbox:"), node])
    assert (
        f"POST /x costs {price}, and phoenixd at 127.0.0.1:9740 asks for whole satoshis only; price it at {instead}, "
        "or be paid by a node that can (docs/nodes.md)"
    ) == refused.value.detail
    Quotes().check([Route.read("POST /x", "2000 msat"), Route.read("/y", "free"), Route.read("/z", "2 USD")], [node])
