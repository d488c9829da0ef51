"""Paying, and what comes after it, with each client."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests

from farebox.core.amount import Amount
from farebox.core.errors import PaidNotServed, PaymentUnresolved, SellerShunned
from farebox.core.payment import DrawState
from farebox.core.ports import Paid, Unresolved
from farebox.core.secret import Secret
from farebox.dialects import L402
from farebox.testing.shopping import ALL, ANSWER, CLIENTS, FACES, OTHERS, PROMPT, SHOP, Face, Parts


@pytest.fixture(params=ALL)
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


# --- paying -----------------------------------------------------------------------------------------------------------


def test_a_payment_of_which_nobody_can_tell_stays_held_and_is_looked_up_by_the_next_call(face: Face) -> None:
    face.wallet.on_pay = [Unresolved(reason="timed out")]
    client = face.open()
    with pytest.raises(PaymentUnresolved):
        face.call(client=client)
    assert DrawState.HELD is face.row.state

    answer = face.call(client=client)

    assert answer.extensions["farebox"].replayed
    assert len(face.wallet.payments) == 1


def test_a_wallet_that_proves_nothing_has_not_paid(face: Face) -> None:
    face.wallet.on_pay = [Paid(preimage=Secret(bytes(32)), fee=Amount(0))]

    with pytest.raises(PaymentUnresolved):
        face.call()


@pytest.mark.parametrize("kind", [kind for kind in ALL if "async" not in kind])
def test_a_program_that_is_interrupted_while_paying_leaves_the_amount_held(kind: str) -> None:
    face = Face(kind)

    def pay(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    face.wallet.pay_invoice = pay  # type: ignore[method-assign] # a wallet that is interrupted
    with pytest.raises(KeyboardInterrupt):
        face.call()

    assert DrawState.HELD is face.row.state


@pytest.mark.parametrize("kind", [kind for kind in ALL if "async" in kind])
def test_a_task_that_is_cancelled_while_paying_leaves_the_amount_held(kind: str) -> None:
    face = Face(kind)

    async def main() -> None:
        paying = asyncio.Event()
        client = face.open()
        buyer = client.auth.buyer if kind.startswith("auth") else client.buyer

        async def for_ever(conversation: Any) -> Any:
            conversation.close()
            paying.set()
            await asyncio.Event().wait()

        buyer.drivers.awaiting = replace(buyer.drivers.awaiting, talk=for_ever)
        task = asyncio.create_task(client.post(SHOP, json=PROMPT))
        await paying.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    assert DrawState.HELD is face.row.state


@pytest.mark.parametrize("kind", [kind for kind in ALL if "async" in kind])
def test_an_awaiting_program_is_not_blocked_by_the_purse(kind: str) -> None:
    face = Face(kind)
    threads: set[int] = set()
    hold = face.purse.hold

    def noting(*given: Any) -> Any:
        threads.add(threading.get_ident())
        return hold(*given)

    face.purse.hold = noting  # type: ignore[method-assign, assignment] # the same purse, which notes where it is asked
    face.call()

    assert 1 == len(threads)
    assert threading.get_ident() not in threads


# --- after paying -----------------------------------------------------------------------------------------------------


def test_a_seller_that_says_to_come_again_is_shown_the_same_proof(face: Face) -> None:
    face.shop.script = [
        face.shop.asks(),
        face.library.Response(503, headers={"retry-after": "3"}),
        face.library.Response(
            409,
            json={"type": "urn:farebox:problem:call-in-progress"},
            headers={"content-type": "application/problem+json"},
        ),
    ]

    assert face.call().json() == ANSWER

    _, *proofs = face.shop.proofs()
    assert [proofs[0]] * 3 == proofs
    assert [3.0, 1.0] == face.waits
    assert len(face.wallet.payments) == 1


def test_a_conflict_of_the_caller_s_own_is_handed_on_whole(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.problem(409, "about:blank")]

    answer = face.call()

    assert (409, {"type": "about:blank"}) == (answer.status_code, answer.json())
    assert face.row.served


def test_a_second_invoice_after_paying_is_an_error_and_not_paid(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.asks()]

    with pytest.raises(PaidNotServed) as failure:
        face.call()

    assert failure.value.money_moved is True
    assert len(face.wallet.payments) == 1


def test_an_answer_counts_as_served_when_its_last_byte_was_read(face: Face) -> None:
    served: list[bool] = []

    def read(response: Any) -> Any:
        served.append(face.row.served)
        body = response.read()
        served.append(face.row.served)
        return body

    async def aread(response: Any) -> Any:
        served.append(face.row.served)
        body = await response.aread()
        served.append(face.row.served)
        return body

    assert ANSWER == json.loads(face.stream(read, aread))
    assert [False, True] == served


def test_a_streamed_answer_is_not_read_ahead(face: Face) -> None:
    parts = Parts([b"data: 1\n\n"] + [bytes(65_536)] * 64)
    face.shop.script = [face.shop.asks(), face.shop.answer(200, parts, {"content-type": "text/event-stream"})]

    def first(response: Any) -> Any:
        return next(response.iter_raw()), parts.taken

    async def afirst(response: Any) -> Any:
        raw = response.aiter_raw()
        part = await anext(raw), parts.taken
        await raw.aclose()
        return part

    part, taken = face.stream(first, afirst)
    assert part.startswith(b"data: 1\n\n")
    assert taken <= (9 if face.kind != "aiohttp async" else 4 * 65_536)  # which buffers so much
    assert not face.row.served
    assert parts.closed


@pytest.mark.parametrize("kind", [*FACES, *CLIENTS[2:]])
def test_a_streamed_answer_knows_how_long_it_took(kind: str) -> None:
    face = Face(kind)

    def read(response: Any) -> Any:
        response.read()
        return response.elapsed

    async def aread(response: Any) -> Any:
        await response.aread()
        return response.elapsed

    assert face.stream(read, aread).total_seconds() >= 0


@pytest.mark.parametrize("kind", [*CLIENTS, "requests"])
def test_a_client_asks_again_for_an_answer_that_broke_off(kind: str) -> None:
    face = Face(kind)
    face.shop.script = [
        face.shop.asks(),
        face.library.ConnectError("refused"),
        face.shop.answers(Parts([b'{"result'], face.library.RemoteProtocolError("cut"))),
    ]

    answer = face.call()

    assert answer.json() == ANSWER
    assert not answer.extensions["farebox"].replayed
    assert len(face.wallet.payments) == 1


@pytest.mark.parametrize("kind", [*CLIENTS, *OTHERS])
def test_a_client_gives_up_on_an_answer_that_breaks_off_four_times(kind: str) -> None:
    face = Face(kind)
    face.shop.script = [face.shop.asks(), *[face.library.ReadTimeout("slow")] * 4]

    with pytest.raises(PaidNotServed, match=r"ReadTimeout|ServerDisconnected|ClientOSError"):
        face.call()

    assert len(face.wallet.payments) == 1
    assert not face.row.served


@pytest.mark.parametrize("kind", [*CLIENTS, *OTHERS])
def test_a_call_that_gets_lost_before_it_has_a_price_raises_what_its_library_raises(kind: str) -> None:
    face = Face(kind)
    face.shop.script = [face.library.ConnectTimeout("slow")]

    with pytest.raises((httpx.ConnectTimeout, httpx2.ConnectTimeout, requests.Timeout, aiohttp.ClientError)):
        face.call()


@pytest.mark.parametrize("kind", FACES[2:])
@pytest.mark.parametrize("where", ["head", "body"])
def test_an_auth_shows_the_proof_of_a_lost_answer_when_the_call_is_made_again(kind: str, where: str) -> None:
    face = Face(kind)
    lost = face.library.RemoteProtocolError("cut")
    face.shop.script = [face.shop.asks(), lost if where == "head" else face.shop.answers(Parts([b"{"], lost))]
    with pytest.raises(face.library.RemoteProtocolError):
        face.call()
    assert not face.row.served

    answer = face.call()

    assert answer.json() == ANSWER
    assert answer.extensions["farebox"].replayed
    assert len(face.wallet.payments) == 1


@pytest.mark.parametrize("kind", FACES[2:])
def test_answers_that_an_auth_never_hears_of_are_held_against_the_seller(kind: str) -> None:
    face = Face(kind)
    client = face.open()
    for number in range(2):
        face.shop.script = [face.shop.asks(), face.library.RemoteProtocolError("cut")]
        with pytest.raises(face.library.RemoteProtocolError):
            face.call(url=f"{SHOP}?{number}", client=client)

    with pytest.raises(SellerShunned):
        face.call(url=f"{SHOP}?2", client=client)

    assert 2 == len(face.wallet.payments)


@pytest.mark.parametrize("kind", FACES[2:])
def test_an_answer_that_the_caller_did_not_wait_for_is_not_held_against_the_seller(kind: str) -> None:
    face = Face(kind)

    async def cancelled() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr] # there is one
        await asyncio.sleep(0)

    def interrupted(_: Any) -> Any:
        if face.is_async:
            return cancelled()
        raise KeyboardInterrupt

    face.shop.script = [face.shop.asks()]
    face.shop.serve = interrupted  # type: ignore[method-assign]
    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        face.call()

    assert (1, False, None) == (len(face.wallet.payments), face.row.served, face.row.undelivered_at)


def test_a_problem_that_breaks_off_when_it_was_paid_for_is_an_answer_that_got_lost(face: Face) -> None:
    def breaks_off() -> Any:
        headers = {"content-type": "application/problem+json", "content-length": "500"}
        return face.shop.answer(500, Parts([b"{"], face.library.ReadError("cut")), headers)

    face.shop.script = [face.shop.asks(), *[breaks_off() for _ in range(4)]]

    with pytest.raises(PaidNotServed):
        face.call()

    assert (1, False) == (len(face.wallet.payments), face.row.served)
    assert face.row.undelivered_at is not None
    assert ANSWER == face.call().json()
    assert 1 == len(face.wallet.payments)


@pytest.mark.parametrize("kind", CLIENTS[:2])
@pytest.mark.parametrize("to", ["http://xn--/", "http://xn--a.example/"])
def test_a_redirect_to_what_idna_can_not_read_is_the_librarys_own_error(kind: str, to: str) -> None:
    face = Face(kind)
    face.shop.script = [face.shop.redirects(302, to)]

    with pytest.raises((httpx.RemoteProtocolError, httpx2.RemoteProtocolError), match="no address"):
        face.call()


# --- a proof that is good for more than one call ----------------------------------------------------------------------


@pytest.fixture
def reusable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token is good for a day, whatever it says."""
    monkeypatch.setattr(L402, "reusable_until", lambda _self, _challenge, *, now: now + timedelta(days=1))


@pytest.mark.usefixtures("reusable")
def test_a_proof_that_is_still_good_is_shown_at_once_and_nothing_is_paid(face: Face) -> None:
    client = face.open()
    face.call(client=client)

    bought = face.call(client=client).extensions["farebox"]

    assert (True, Amount(0)) == (bought.reused, bought.paid)
    _, first, second = face.shop.proofs()
    assert first == second
    assert 1 == len(face.wallet.payments)


@pytest.mark.usefixtures("reusable")
@pytest.mark.parametrize("status", [401, 402, 410])
def test_a_kept_proof_that_is_refused_is_dropped_and_the_call_paid(face: Face, status: int) -> None:
    client = face.open()
    face.call(client=client)
    face.shop.script = [face.shop.asks() if status == 402 else face.library.Response(status)]

    answer = face.call(client=client)

    assert (ANSWER, False) == (answer.json(), answer.extensions["farebox"].reused)
    assert 2 == len(face.wallet.payments)
    _, old, tried, *between, new = face.shop.proofs()
    assert old == tried != new
    assert ([] if status == 402 else [None]) == between


@pytest.mark.usefixtures("reusable")
def test_a_call_with_a_kept_proof_that_gets_lost_raises_what_its_library_raises(face: Face) -> None:
    client = face.open()
    face.call(client=client)
    face.shop.script = [face.library.ConnectError("refused")]

    with pytest.raises((face.library.ConnectError, requests.ConnectionError, aiohttp.ClientError)):
        face.call(client=client)

    assert 1 == len(face.wallet.payments)
