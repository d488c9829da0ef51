"""The answer table: for each proof and each state of its payment, one answer. Each row is a sentence here."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any

import httpx
import pytest

from farebox.core.amount import Amount
from farebox.core.errors import NodeUnavailable, StoreUnavailable, WalletError
from farebox.core.macaroon import Macaroon
from farebox.core.ports import InvoiceState, InvoiceStatus
from farebox.core.secret import KeyRing
from farebox.gate import Terms
from farebox.gate.admission import Pace
from farebox.http.paywall import Manners
from farebox.testing.market import Service

pytestmark = pytest.mark.anyio

UNKNOWN_HASH = "ab" * 32


@dataclass
class Shop:
    buyer: Any
    service: Service = field(default_factory=Service)

    @property
    def ledger(self) -> Any:
        return self.buyer.market.gate.ledger


@pytest.fixture
def open_shop(open_face: Any) -> Any:
    @asynccontextmanager
    async def opened(terms: Terms | None = None, **service: Any) -> AsyncIterator[Shop]:
        sold = Service(**service)
        async with open_face("middleware", sold, terms=terms, manners=Manners()) as buyer:
            yield Shop(buyer, sold)

    return opened


def failing(error: Exception) -> Any:
    async def fail(*_: object, **__: object) -> None:
        raise error

    return fail


async def test_no_proof_gets_a_challenge(open_shop: Any) -> None:
    async with open_shop() as shop:
        answer = await shop.buyer.ask()
    assert (answer.status_code, answer.json()["amount_msat"]) == (402, 21_000)


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "L402 abc")],
        [("authorization", f"L402 !!!!:{'0' * 64}")],
        [("authorization", f"L402 {'A' * 9000}:{'0' * 64}")],
        [("authorization", "Payment !!!")],
        [("authorization", f"L402 {UNKNOWN_HASH}:{UNKNOWN_HASH}")],
        [("x-payment-hash", "not a hash")],
        [("x-payment-hash", "ab" * 33)],
        [("x-payment-hash", UNKNOWN_HASH), ("x-payment-hash", "cd" * 32)],
        [("x-payment-hash", UNKNOWN_HASH), ("authorization", f"L402 {'cd' * 32}")],
        [("authorization", f"L402 {UNKNOWN_HASH}"), ("authorization", f"L402 {'cd' * 32}")],
    ],
)
async def test_a_malformed_or_doubled_proof_is_400(open_shop: Any, headers: list[tuple[str, str]]) -> None:
    async with open_shop() as shop:
        answer = await shop.buyer.http.post("/api/dvm", json={"prompt": "hi"}, headers=headers)
        payments = await shop.ledger.recent_payments(1)
    assert (answer.status_code, answer.json()["error"]) == (400, "malformed-credential")
    assert payments == []


async def edited(shop: Shop, edit: Any) -> Any:
    """The answer to a good proof after an edit of its macaroon and preimage, and whether it was still good after."""
    asked = await shop.buyer.challenged()
    preimage = shop.buyer.market.pay(asked["invoice"])
    macaroon, shown = edit(asked["macaroon"], preimage)
    answer = await shop.buyer.ask(authorization=f"L402 {macaroon}:{shown.hex()}")
    after = await shop.buyer.ask(authorization=f"L402 {asked['macaroon']}:{preimage.hex()}")
    return answer, after.status_code


def with_caveat(caveat: str) -> Any:
    def edit(macaroon: str, preimage: bytes) -> tuple[str, bytes]:
        return Macaroon.read_base64(macaroon).attenuate(caveat.encode()).write_base64(), preimage

    return edit


def with_flipped_signature(macaroon: str, preimage: bytes) -> tuple[str, bytes]:
    raw = bytearray(base64.b64decode(macaroon))
    raw[-1] ^= 1
    return base64.b64encode(raw).decode(), preimage


@pytest.mark.parametrize(
    "edit",
    [
        with_flipped_signature,
        with_caveat("colour=red"),
        with_caveat("farebox_valid_until=1"),
        lambda macaroon, preimage: (macaroon, bytes(32)),
    ],
    ids=["signature", "unknown caveat", "expired caveat", "preimage"],
)
async def test_a_proof_that_is_not_good_is_401_with_no_new_invoice_and_the_payment_stays_good(
    open_shop: Any, edit: Any
) -> None:
    async with open_shop() as shop:
        answer, after = await edited(shop, edit)
        payments = await shop.ledger.recent_payments(10)
    assert (answer.status_code, answer.json()["error"], after) == (401, "credential-rejected", 200)
    assert answer.headers["www-authenticate"].startswith("L402 ")
    assert "invoice" not in answer.json()
    assert len(payments) == 1


async def test_a_token_of_a_key_that_is_not_in_the_ring_is_401(open_shop: Any) -> None:
    async with open_shop() as shop:
        asked = await shop.buyer.challenged()
        preimage = shop.buyer.market.pay(asked["invoice"])
        shop.buyer.market.keys.now = KeyRing.generate()
        answer = await shop.buyer.ask(authorization=f"L402 {asked['macaroon']}:{preimage.hex()}")
    assert answer.status_code == 401


async def test_an_unknown_hash_gets_a_fresh_challenge_of_the_usual_shape(open_shop: Any) -> None:
    async with open_shop() as shop:
        answer = await shop.buyer.ask(**{"x-payment-hash": UNKNOWN_HASH})
        usual = await shop.buyer.ask("other")
    assert answer.status_code == 402
    assert answer.json().keys() == usual.json().keys()
    assert answer.json()["payment_hash"] != UNKNOWN_HASH


async def test_a_paid_hash_that_the_ledger_lost_is_503_and_never_a_new_invoice(open_shop: Any) -> None:
    async def nothing(_: bytes) -> None:
        return None

    async with open_shop() as shop:
        asked = await shop.buyer.challenged()
        shop.buyer.market.pay(asked["invoice"])
        shop.ledger.find_payment = nothing
        answer = await shop.buyer.ask(**{"x-payment-hash": asked["payment_hash"]})
        payments = await shop.ledger.recent_payments(10)
    assert answer.status_code == 503
    assert len(payments) == 1


async def test_a_hash_that_is_not_paid_yet_gets_the_same_invoice_and_a_retry_after(open_shop: Any) -> None:
    async with open_shop() as shop:
        asked = await shop.buyer.challenged()
        answer = await shop.buyer.ask(**{"x-payment-hash": asked["payment_hash"]})
    assert (answer.status_code, answer.json()["invoice"]) == (402, asked["invoice"])
    assert answer.headers["retry-after"] == "1"


async def test_an_unreachable_node_is_503_for_a_hash_and_no_matter_for_a_preimage(
    open_shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop() as shop:
        asked = await shop.buyer.challenged()
        preimage = shop.buyer.market.pay(asked["invoice"])

        def gone(*_: object, **__: object) -> Any:
            raise NodeUnavailable("gone")
            yield

        monkeypatch.setattr(type(shop.buyer.market.sandbox.seller), "lookup_invoice", gone)
        by_hash = await shop.buyer.ask(**{"x-payment-hash": asked["payment_hash"]})
        by_preimage = await shop.buyer.ask(authorization=f"L402 {asked['macaroon']}:{preimage.hex()}")
    assert (by_hash.status_code, by_hash.json()["error"]) == (503, "node-unavailable")
    assert int(by_hash.headers["retry-after"]) >= 1
    assert by_preimage.status_code == 200


async def test_a_node_that_makes_no_invoice_is_503(open_shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_shop() as shop:

        def gone(*_: object, **__: object) -> Any:
            raise NodeUnavailable("gone")
            yield

        monkeypatch.setattr(type(shop.buyer.market.sandbox.seller), "create_invoice", gone)
        answer = await shop.buyer.ask()
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)


@pytest.mark.parametrize("method", ["reusable_payment", "open_payment", "hold", "find_payment", "capture"])
async def test_an_unreachable_ledger_is_503_and_afterwards_nothing_is_lost(open_shop: Any, method: str) -> None:
    async with open_shop() as shop:
        asked = await shop.buyer.challenged()
        preimage = shop.buyer.market.pay(asked["invoice"])
        proof = {"authorization": f"L402 {asked['macaroon']}:{preimage.hex()}"}
        setattr(shop.ledger, method, failing(StoreUnavailable("disk full")))
        if method in ("reusable_payment", "open_payment"):
            answer = await shop.buyer.ask("something else")
        elif method == "find_payment":
            answer = await shop.buyer.ask(**{"x-payment-hash": asked["payment_hash"]})
        else:
            answer = await shop.buyer.ask(**proof)
        delattr(shop.ledger, method)
        shop.buyer.market.clock.pass_by(timedelta(minutes=1))
        after = await shop.buyer.ask(**proof)
    assert (answer.status_code, answer.json()["error"]) == (503, "store-unavailable")
    assert "retry-after" in answer.headers
    assert after.status_code == 200


async def test_another_request_with_an_unused_payment_is_409_and_the_payment_kept(open_shop: Any) -> None:
    async with open_shop() as shop:
        proof = await shop.buyer.buy("one")
        other = await shop.buyer.ask("two", authorization=proof)
        own = await shop.buyer.ask("one", authorization=proof)
    assert (other.status_code, other.json()["error"], own.status_code) == (409, "request-mismatch", 200)


async def test_another_request_with_a_running_payment_is_409(open_shop: Any) -> None:
    async with open_shop(held=True) as shop:
        proof = await shop.buyer.buy("one")
        running = asyncio.create_task(shop.buyer.ask("one", authorization=proof))
        await shop.service.entered.wait()
        other = await shop.buyer.ask("two", authorization=proof)
        shop.service.go_on.set()
        await running
    assert (other.status_code, other.json()["error"]) == (409, "request-mismatch")


async def test_another_request_with_a_used_payment_gets_a_fresh_challenge(open_shop: Any) -> None:
    async with open_shop() as shop:
        proof = await shop.buyer.buy("one")
        await shop.buyer.ask("one", authorization=proof)
        other = await shop.buyer.ask("two", authorization=proof)
    assert other.status_code == 402


async def test_a_payment_whose_call_is_running_waits_for_its_answer(open_shop: Any) -> None:
    async with open_shop(held=True) as shop:
        proof = await shop.buyer.buy()
        first = asyncio.create_task(shop.buyer.ask(authorization=proof))
        await shop.service.entered.wait()
        second = asyncio.create_task(shop.buyer.ask(authorization=proof))
        shop.service.go_on.set()
        answers = await asyncio.gather(first, second)
    assert answers[0].content == answers[1].content
    assert shop.service.calls == 1


async def test_a_call_that_runs_longer_than_the_patience_is_409_with_retry_after(open_shop: Any) -> None:
    async with open_shop(Terms(free_calls=0, patience=timedelta(milliseconds=20)), held=True) as shop:
        proof = await shop.buyer.buy()
        first = asyncio.create_task(shop.buyer.ask(authorization=proof))
        await shop.service.entered.wait()
        second = await shop.buyer.ask(authorization=proof)
        shop.service.go_on.set()
        served = await first
    assert (second.status_code, second.json()["error"]) == (409, "call-in-progress")
    assert int(second.headers["retry-after"]) >= 1
    assert served.status_code == 200


async def test_a_used_payment_gets_its_stored_answer_even_from_a_gate_that_forgot(open_shop: Any) -> None:
    async with open_shop() as shop:
        proof = await shop.buyer.buy()
        first = await shop.buyer.ask(authorization=proof)
        shop.buyer.market.gate._given.clear()
        again = await shop.buyer.ask(authorization=proof)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["payment-replayed"] == "true"


async def test_a_used_payment_whose_answer_is_gone_is_410(open_shop: Any) -> None:
    async with open_shop() as shop:
        proof = await shop.buyer.buy()
        await shop.buyer.ask(authorization=proof)
        shop.buyer.market.gate._given.clear()

        async def gone(_: bytes) -> None:
            return None

        shop.ledger.find_answer = gone
        answer = await shop.buyer.ask(authorization=proof)
    assert (answer.status_code, answer.json()["error"]) == (410, "answer-gone")


async def test_a_payment_in_credit_is_409(open_shop: Any) -> None:
    async with open_shop(failing=3) as shop:
        proof = await shop.buyer.buy()
        for _ in range(3):
            await shop.buyer.ask(authorization=proof)
        answer = await shop.buyer.ask(authorization=proof)
    assert (answer.status_code, answer.json()["error"]) == (409, "call-undeliverable")


async def test_an_invoice_that_ran_out_unpaid_gets_a_fresh_challenge(open_shop: Any) -> None:
    async with open_shop() as shop:
        asked = await shop.buyer.challenged()
        shop.buyer.market.clock.pass_by(timedelta(minutes=30))
        await shop.ledger.expire_payments(grace=timedelta(minutes=1))
        answer = await shop.buyer.ask(**{"x-payment-hash": asked["payment_hash"]})
    assert answer.status_code == 402
    assert answer.json()["payment_hash"] != asked["payment_hash"]
    assert "retry-after" not in answer.headers


async def test_late_money_counts(open_shop: Any) -> None:
    async with open_shop() as shop:
        asked = await shop.buyer.challenged()
        preimage = shop.buyer.market.pay(asked["invoice"])
        shop.buyer.market.clock.pass_by(timedelta(minutes=30))
        await shop.ledger.expire_payments(grace=timedelta(minutes=1))
        answer = await shop.buyer.ask(authorization=f"L402 {asked['macaroon']}:{preimage.hex()}")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (InvoiceStatus(state=InvoiceState.PAID, received=Amount.msats(20_999)), 402),
        (InvoiceStatus(state=InvoiceState.HELD, received=Amount.sats(21)), 402),
        (InvoiceStatus(state=InvoiceState.CANCELLED), 402),
        (InvoiceStatus(state=InvoiceState.OPEN, received=Amount.sats(21)), 402),
        (InvoiceStatus(state=InvoiceState.PAID, received=Amount.sats(30)), 200),
    ],
    ids=["underpaid", "held", "cancelled", "open", "overpaid"],
)
async def test_only_what_is_paid_in_full_and_for_good_is_served(
    open_shop: Any, monkeypatch: pytest.MonkeyPatch, status: InvoiceStatus, expected: int
) -> None:
    async with open_shop() as shop:
        asked = await shop.buyer.challenged()

        def told(*_: object, **__: object) -> Any:
            return status
            yield

        monkeypatch.setattr(type(shop.buyer.market.sandbox.seller), "lookup_invoice", told)
        answer = await shop.buyer.ask(**{"x-payment-hash": asked["payment_hash"]})
        balance = await shop.ledger.balance()
    assert answer.status_code == expected
    assert balance.earned == (Amount.sats(21) if expected == 200 else Amount(0))
    assert balance.balanced


async def test_a_bare_hash_is_taken_only_from_the_client_that_was_challenged(open_shop: Any) -> None:
    async with open_shop() as shop:
        asked = await shop.buyer.challenged()
        preimage = shop.buyer.market.pay(asked["invoice"])
        app = shop.buyer.http._transport.app
        elsewhere = httpx.ASGITransport(app=app, client=("198.51.100.1", 1))
        async with httpx.AsyncClient(transport=elsewhere, base_url="http://shop.test") as thief:
            by_hash = await thief.post(
                "/api/dvm", json={"prompt": "hi"}, headers={"x-payment-hash": asked["payment_hash"]}
            )
            by_preimage = await thief.post(
                "/api/dvm",
                json={"prompt": "hi"},
                headers={"authorization": f"L402 {asked['macaroon']}:{preimage.hex()}"},
            )
        own = await shop.buyer.ask(**{"x-payment-hash": asked["payment_hash"]})
    assert by_hash.status_code == 401
    assert by_preimage.status_code == own.status_code == 200


async def test_a_caller_who_asks_again_gets_the_same_invoice_while_it_has_half_its_time(open_shop: Any) -> None:
    async with open_shop() as shop:
        first = await shop.buyer.challenged()
        shop.buyer.market.clock.pass_by(timedelta(minutes=4))
        soon = await shop.buyer.challenged()
        shop.buyer.market.clock.pass_by(timedelta(minutes=2))
        later = await shop.buyer.challenged()
    assert soon["invoice"] == first["invoice"] != later["invoice"]


async def test_rotating_the_keys_leaves_live_tokens_good(open_shop: Any) -> None:
    async with open_shop() as shop:
        first, second = sha256(b"first").digest(), sha256(b"second").digest()
        keys = shop.buyer.market.keys
        keys.now = KeyRing([first])
        old = await shop.buyer.buy("before")
        keys.now = KeyRing([first, second])
        before = await shop.buyer.ask("before", authorization=old)
        new = await shop.buyer.buy("after")
        keys.now = KeyRing([second])
        after = await shop.buyer.ask("after", authorization=new)
        revoked = await shop.buyer.ask("before", authorization=old)
    assert (before.status_code, after.status_code, revoked.status_code) == (200, 200, 401)


async def test_made_up_hashes_do_not_make_the_node_busy(open_shop: Any) -> None:
    async with open_shop() as shop:
        shop.buyer.market.gate._unknown_look_ups = Pace(per_second=1e-3, at_once=20)
        answers = [await shop.buyer.ask(**{"x-payment-hash": f"{n:064x}"}) for n in range(25)]
    assert [answer.status_code for answer in answers] == [402] * 20 + [503] * 5


async def test_a_wallet_error_of_the_node_is_503_and_not_a_traceback(
    open_shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop() as shop:

        def refused(*_: object, **__: object) -> Any:
            raise WalletError("sub-satoshi prices can't be asked for here")
            yield

        monkeypatch.setattr(type(shop.buyer.market.sandbox.seller), "create_invoice", refused)
        answer = await shop.buyer.ask()
    assert (answer.status_code, answer.json()["error"]) == (503, "node-unavailable")
