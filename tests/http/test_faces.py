"""The same sentences against each face: middleware, FastAPI dependency, shop and gateway stand on one gate."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from farebox.core.bolt11 import decode
from farebox.core.payment import PaymentState
from farebox.gate import Terms
from farebox.http.paywall import Manners
from farebox.testing.market import Service

pytestmark = pytest.mark.anyio

GATEWAY = pytest.param("gateway", marks=pytest.mark.system)
OVER_HTTP = ["middleware", GATEWAY]  # where what is sold is given the request; elsewhere it is given arguments
BODY_OURS = ["middleware", "shop", GATEWAY]  # FastAPI reads the body itself, and its server bounds it
OWN_STATUS = ["middleware", "fastapi", GATEWAY]  # a capability answers or fails


async def test_a_call_without_proof_gets_a_402_with_an_invoice_for_the_price(face_name: str, open_face: Any) -> None:
    async with open_face(face_name, Service()) as buyer:
        answer = await buyer.ask()
    body = answer.json()
    assert answer.status_code == 402
    assert decode(body["invoice"]).payment_hash.hex() == body["payment_hash"]
    assert decode(body["invoice"]).amount.in_sats_exact() == body["amount_sats"] == 21
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_402_has_every_key_that_readers_of_the_field_look_for(face_name: str, open_face: Any) -> None:
    async with open_face(face_name, Service(), terms=Terms(free_calls=0)) as buyer:
        body = (await buyer.ask()).json()
    assert body["status"] == "payment_required"
    assert body["payment_request"] == body["invoice"]
    assert body["endpoint"] == "/api/dvm"
    assert body["free_tier"] == 0
    assert body["payment_hash"] in body["message"]
    l402 = body["protocols"]["l402"]
    assert (l402["price_sats"], l402["payment_request"], l402["payment_hash"]) == (
        21,
        body["invoice"],
        body["payment_hash"],
    )


async def test_each_way_to_show_the_payment_gets_the_answer_and_is_charged_once(face_name: str, open_face: Any) -> None:
    service = Service()
    async with open_face(face_name, service) as buyer:
        asked = await buyer.ask()
        body = asked.json()
        preimage = buyer.market.pay(body["invoice"])
        proofs: list[dict[str, str]] = [
            {"authorization": f"L402 {body['macaroon']}:{preimage.hex()}"},
            {"authorization": f"LSAT {body['macaroon']}:{preimage.hex()}"},
            {"authorization": buyer.payment_credential(asked, preimage)},
            {"x-payment-hash": body["payment_hash"]},
            {"authorization": f"L402 {body['payment_hash']}"},
            {"authorization": body["payment_hash"]},
        ]
        answers = [await buyer.ask(**proof) for proof in proofs]
        in_query = await buyer.http.post(
            "/api/dvm", params={"payment_hash": body["payment_hash"]}, json={"prompt": "hi"}
        )
        in_body = await buyer.http.post("/api/dvm", json={"prompt": "hi", "payment_hash": body["payment_hash"]})
        balance = await buyer.market.gate.ledger.balance()
    texts = [(answer.status_code, answer.json()) for answer in (*answers, in_query, in_body)]
    assert texts == [(200, {"result": "hi #1"})] * 8
    assert service.calls == 1
    assert balance.earned.in_sats_exact() == balance.received.in_sats_exact() == 21


async def test_a_paid_answer_carries_a_receipt_and_is_private(face_name: str, open_face: Any) -> None:
    async with open_face(face_name, Service()) as buyer:
        first = await buyer.ask(authorization=await buyer.buy())
    assert "payment-receipt" in first.headers
    assert first.headers["cache-control"] == "private"
    assert "payment-replayed" not in first.headers


async def test_the_same_proof_and_request_again_is_a_replay_that_costs_nothing(face_name: str, open_face: Any) -> None:
    service = Service()
    async with open_face(face_name, service) as buyer:
        proof = await buyer.buy()
        first = await buyer.ask(authorization=proof)
        again = await buyer.ask(authorization=proof)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["payment-replayed"] == "true"
    assert service.calls == 1


async def test_64_parallel_retries_are_one_call_and_64_equal_answers(face_name: str, open_face: Any) -> None:
    service = Service(held=True)
    async with open_face(face_name, service) as buyer:
        proof = await buyer.buy()
        asking = [asyncio.create_task(buyer.ask(authorization=proof)) for _ in range(64)]
        await service.entered.wait()
        service.go_on.set()
        answers = await asyncio.gather(*asking)
        balance = await buyer.market.gate.ledger.balance()
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert service.calls == 1
    assert balance.earned.in_sats_exact() == 21


async def test_a_failed_call_is_not_charged_and_runs_again_with_the_same_proof(face_name: str, open_face: Any) -> None:
    service = Service(failing=1)
    async with open_face(face_name, service) as buyer:
        proof = await buyer.buy()
        failed = await buyer.ask(authorization=proof)
        held = await buyer.market.gate.ledger.balance()
        served = await buyer.ask(authorization=proof)
    assert (failed.status_code, failed.json()["error"]) == (502, "upstream-failed")
    assert "retry-after" in failed.headers
    assert "payment-receipt" not in failed.headers
    assert (held.held.in_sats_exact(), held.earned.in_sats_exact()) == (21, 0)
    assert (served.status_code, served.json()) == (200, {"result": "hi #2"})


async def test_the_third_failure_turns_the_payment_into_credit(face_name: str, open_face: Any) -> None:
    service = Service(failing=3)
    async with open_face(face_name, service) as buyer:
        proof = await buyer.buy()
        statuses = [(await buyer.ask(authorization=proof)).status_code for _ in range(3)]
        after = await buyer.ask(authorization=proof)
        balance = await buyer.market.gate.ledger.balance()
    assert statuses == [502, 502, 502]
    assert (after.status_code, after.json()["error"]) == (409, "call-undeliverable")
    assert (balance.credit.in_sats_exact(), balance.earned.in_sats_exact()) == (21, 0)
    assert service.calls == 3


async def test_a_proof_for_another_request_is_refused_and_stays_good(face_name: str, open_face: Any) -> None:
    service = Service()
    async with open_face(face_name, service) as buyer:
        proof = await buyer.buy("one")
        other = await buyer.ask("two", authorization=proof)
        own = await buyer.ask("one", authorization=proof)
    assert (other.status_code, other.json()["error"]) == (409, "request-mismatch")
    assert (own.status_code, service.calls) == (200, 1)


async def test_a_used_proof_buys_nothing_else_and_is_asked_for_new_money(face_name: str, open_face: Any) -> None:
    async with open_face(face_name, Service()) as buyer:
        proof = await buyer.buy("one")
        await buyer.ask("one", authorization=proof)
        other = await buyer.ask("two", authorization=proof)
    assert other.status_code == 402
    assert other.json()["payment_hash"] != proof


@pytest.mark.parametrize("face_name", BODY_OURS)
async def test_a_body_over_the_limit_is_refused_before_an_invoice_is_made(face_name: str, open_face: Any) -> None:
    async with open_face(face_name, Service(), manners=Manners(most_body=100)) as buyer:
        answer = await buyer.ask("x" * 200)
        payments = await buyer.market.gate.ledger.recent_payments(10)
    assert (answer.status_code, answer.json()["error"]) == (413, "body-too-large")
    assert payments == []


async def test_one_free_call_for_a_client_in_24_hours_then_money(face_name: str, open_face: Any) -> None:
    async with open_face(face_name, Service(), terms=Terms(free_calls=1)) as buyer:
        free, asked = await buyer.ask(), await buyer.ask()
        buyer.market.clock.pass_by(timedelta(hours=23, minutes=59))
        still = await buyer.ask()
        buyer.market.clock.pass_by(timedelta(minutes=2))
        next_day = await buyer.ask()
    statuses = [answer.status_code for answer in (free, asked, still, next_day)]
    assert statuses == [200, 402, 402, 200]
    assert free.headers["ratelimit"] == '"free";r=0;t=86400'
    assert asked.headers["ratelimit-policy"] == '"free";q=1;w=86400'


async def test_64_first_calls_at_once_are_one_free_call(face_name: str, open_face: Any) -> None:
    service = Service()
    async with open_face(face_name, service, terms=Terms(free_calls=1)) as buyer:
        answers = await asyncio.gather(*(buyer.ask(f"{n}") for n in range(64)))
    assert sorted(answer.status_code for answer in answers) == [200] + [402] * 63
    assert service.calls == 1


@pytest.mark.parametrize("question", [{"params": {"l402": "require"}}, {"headers": {"prefer": "wait=5, l402=require"}}])
async def test_require_and_an_empty_body_get_a_402_and_leave_the_free_call(
    question: Any, face_name: str, open_face: Any
) -> None:
    async with open_face(face_name, Service(), terms=Terms(free_calls=1)) as buyer:
        forced = await buyer.http.post("/api/dvm", json={"prompt": "hi"}, **question)
        probed = None if face_name == "fastapi" else await buyer.http.post("/api/dvm", json={})
        free = await buyer.ask()
    assert forced.status_code == 402
    assert forced.headers["ratelimit-policy"] == '"free";q=1;w=86400'
    assert "ratelimit" not in forced.headers
    assert probed is None or probed.status_code == 402
    assert free.status_code == 200


async def test_what_was_paid_with_require_in_the_url_is_the_same_request_without_it(
    face_name: str, open_face: Any
) -> None:
    async with open_face(face_name, Service()) as buyer:
        forced = (await buyer.http.post("/api/dvm", params={"l402": "require"}, json={"prompt": "hi"})).json()
        preimage = buyer.market.pay(forced["invoice"])
        answer = await buyer.ask(authorization=f"L402 {forced['macaroon']}:{preimage.hex()}")
    assert answer.status_code == 200


@pytest.mark.parametrize("face_name", OVER_HTTP)
async def test_the_service_never_sees_the_proof(face_name: str, open_face: Any) -> None:
    service = Service()
    async with open_face(face_name, service) as buyer:
        proof = await buyer.buy()
        payment_hash = (await buyer.market.gate.ledger.recent_payments(1))[0].payment_hash.hex()
        await buyer.http.post(
            "/api/dvm",
            params={"payment_hash": payment_hash},
            headers={"authorization": proof, "x-payment-hash": payment_hash},
            json={"prompt": "hi"},
        )
    headers = [pair for pair in service.seen[0]["headers"] if pair[0] != b"idempotency-key"]
    shown = repr(headers) + repr(service.seen[0]["query_string"])
    assert payment_hash not in shown
    assert proof.rpartition(":")[2] not in shown
    assert b"authorization" not in dict(service.seen[0]["headers"])


@pytest.mark.parametrize("face_name", OVER_HTTP)
async def test_an_own_authorization_reaches_the_service_when_the_proof_came_otherwise(
    face_name: str, open_face: Any
) -> None:
    service = Service()
    async with open_face(face_name, service) as buyer:
        asked = await buyer.challenged()
        buyer.market.pay(asked["invoice"])
        await buyer.ask(authorization="Bearer mine", **{"x-payment-hash": asked["payment_hash"]})
    assert dict(service.seen[0]["headers"])[b"authorization"] == b"Bearer mine"


@pytest.mark.parametrize("face_name", OWN_STATUS)
async def test_an_answer_that_refuses_the_call_is_passed_on_and_not_charged(face_name: str, open_face: Any) -> None:
    service = Service(status=422)
    async with open_face(face_name, service) as buyer:
        proof = await buyer.buy()
        refused = await buyer.ask(authorization=proof)
        service.status = 200
        served = await buyer.ask(authorization=proof)
        payment = (await buyer.market.gate.ledger.recent_payments(1))[0]
    assert (refused.status_code, served.status_code) == (422, 200)
    assert payment.state is PaymentState.SPENT


async def test_a_caller_who_goes_away_can_fetch_the_answer_that_was_paid(face_name: str, open_face: Any) -> None:
    service = Service(held=True)
    async with open_face(face_name, service) as buyer:
        proof = await buyer.buy()
        asking = asyncio.create_task(buyer.ask(authorization=proof))
        await service.entered.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        service.go_on.set()
        answer = await buyer.ask(authorization=proof)
    assert (answer.status_code, answer.json()) == (200, {"result": "hi #1"})
    assert service.calls == 1
