"""Buying with each client: the same sentences for farebox's own clients and for `Auth` in httpx and httpx2."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Network
from farebox.core.errors import (
    ChallengeUnreadable,
    InvoiceRefused,
    MalformedValue,
    OverBudget,
    PaymentUnresolved,
    StoreUnavailable,
)
from farebox.core.payment import DrawState
from farebox.core.ports import Unresolved
from farebox.core.secret import KeyRing
from farebox.dialects import PaymentAuth, PaymentHash
from farebox.http.buy import AsyncClient, Auth, Client
from farebox.http.buyer import default_purse_path
from farebox.payer import Bought
from farebox.testing.buyers import Mint, ScriptedWallet
from farebox.testing.market import StillClock
from farebox.testing.shopping import ALL, ANSWER, CLIENTS, PROMPT, SHOP, Face


@pytest.fixture(params=ALL)
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


# --- what a buyer gets ------------------------------------------------------------------------------------------------


def test_an_answer_with_a_price_is_paid_and_says_what_it_cost(face: Face) -> None:
    answer = face.call()

    assert (200, ANSWER) == (answer.status_code, answer.json())
    bought = answer.extensions["farebox"]
    assert Bought(paid=Amount.sats(21), payment_hash=face.wallet.payments[0], dialect="L402") == bought
    assert face.row.served


def test_an_answer_without_a_price_says_that_it_was_free(face: Face) -> None:
    face.shop.script = [face.shop.answers()]

    answer = face.call("GET")

    assert answer.json() == ANSWER
    assert answer.extensions["farebox"].free
    assert [None] == face.shop.proofs()


def test_the_same_request_is_sent_again_but_for_the_proof(face: Face) -> None:
    face.call(headers={"Idempotency-Key": "k", "Accept-Encoding": "br", "Cookie": "a=b"}, params={"q": "1"})

    first, second = face.shop.seen
    assert first.content == second.content
    assert PROMPT == json.loads(first.content)
    assert (first.method, first.url) == (second.method, second.url)
    assert "authorization" not in first.headers
    assert second.headers["authorization"].startswith("L402 ")
    assert {**first.headers} == {name: value for name, value in second.headers.items() if name != "authorization"}


def test_a_proof_takes_the_place_of_the_caller_s_own_authorization(face: Face) -> None:
    face.call(headers={"Authorization": "Bearer sk-secret"})

    first, second = face.shop.proofs()
    assert first == "Bearer sk-secret"
    assert second is not None
    assert second.startswith("L402 ")
    assert 1 == len(face.shop.seen[1].headers.get_list("authorization"))


@pytest.mark.parametrize("dialect", [PaymentAuth(KeyRing.generate()), PaymentHash()])
def test_every_dialect_is_spoken(face: Face, dialect: Any) -> None:
    face.shop.dialect = dialect

    assert dialect.name == face.call().extensions["farebox"].dialect


def test_a_later_answer_to_the_same_call_is_paid_anew(face: Face) -> None:
    client = face.open()
    face.call(client=client)

    assert not face.call(client=client).extensions["farebox"].replayed
    assert len(face.wallet.payments) == 2


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_user_name_in_the_address_does_not_take_the_place_of_the_proof(client: Any) -> None:
    face = Face("client" if client is Client else "async client")

    face.call(url="https://me:pw@shop.example/api/dvm")

    assert [True, False] == [str(proof).startswith("Basic ") for proof in face.shop.proofs()]
    assert "pw" not in face.row.url


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_client_s_own_auth_is_used_until_there_is_a_proof(client: Any) -> None:
    face = Face("client" if client is Client else "async client")

    assert face.call(auth=("me", "pw")).json() == ANSWER

    assert [True, False] == [str(proof).startswith("Basic ") for proof in face.shop.proofs()]


# --- refused before paying --------------------------------------------------------------------------------------------


def test_a_price_over_the_budget_is_refused_before_paying(face: Face) -> None:
    with pytest.raises(OverBudget) as refusal:
        face.call(client=face.open(budget="21 sat/day"))

    assert refusal.value.evidence["origin"] == "https://shop.example:443"
    assert face.wallet.payments == []


def test_a_price_over_the_most_for_one_call_is_refused_before_paying(face: Face) -> None:
    with pytest.raises(OverBudget):
        face.call(client=face.open(max="20 sat"))

    assert 21 == face.call(client=face.open(max="21 sat")).extensions["farebox"].paid.in_sats_exact()


def test_an_invoice_for_another_network_than_the_wallet_s_is_refused(face: Face) -> None:
    face.shop.script = [face.shop.asks(face.mint.invoice(network=Network.MAINNET))]

    with pytest.raises(InvoiceRefused):
        face.call()


def test_a_402_that_cannot_be_paid_is_an_error_and_never_an_answer(face: Face) -> None:
    face.shop.script = [face.library.Response(402, text="pay me")]

    with pytest.raises(ChallengeUnreadable):
        face.call()


@pytest.mark.parametrize("status", [401, 407])
def test_a_challenge_with_another_status_is_handed_on_and_not_paid(face: Face, status: int) -> None:
    asks = face.shop.asks()
    face.shop.script = [face.library.Response(status, headers=asks.headers)]

    assert face.call().status_code == status
    assert face.wallet.payments == []


def test_a_disk_that_is_full_keeps_the_wallet_shut(face: Face) -> None:
    face.purse.full = True

    with pytest.raises(StoreUnavailable):
        face.call()

    assert face.wallet.payments == []


# --- a client's own ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_can_ask_for_the_price_and_pay_nothing(kind: str) -> None:
    face = Face(kind)
    client = face.open(budget="1 sat/day")
    request = client.build_request("POST", SHOP, json=PROMPT)

    offer = face.run(client.ask(request))

    assert Amount.sats(21) == offer.amount
    assert face.wallet.payments == []


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_can_look_up_what_is_open_and_what_is_left(kind: str) -> None:
    face = Face(kind)
    client = face.open()
    face.wallet.on_pay = [Unresolved(reason="timed out")]
    with pytest.raises(PaymentUnresolved):
        face.call(client=client)

    resumed = face.run(client.resume())
    balance = face.run(client.balance())

    assert [DrawState.CAPTURED] == [purchase.state for purchase in resumed]
    assert Amount.sats(1000) == balance


def test_a_purse_that_was_handed_in_is_left_open(face: Face) -> None:
    client = face.open()

    face.run(client.aclose() if face.is_async else client.close())

    assert not face.purse.closed


def test_a_purse_that_was_opened_here_is_closed_with_the_client(tmp_path: Path) -> None:
    wallet = ScriptedWallet(Mint(StillClock()))
    path = tmp_path / "deep" / "purse.db"

    with Client(wallet=wallet, budget="500 sat/day", purse=path) as client:
        assert client.resume() == ()
    with pytest.raises(StoreUnavailable):
        client.resume()

    async def main() -> Any:
        async with AsyncClient(wallet=wallet, budget="500 sat/day", purse=str(path)) as aclient:
            assert await aclient.resume() == ()
        return aclient

    closed = asyncio.run(main())
    with pytest.raises(StoreUnavailable):
        asyncio.run(closed.resume())
    auth = Auth(wallet=wallet, budget="500 sat/day", purse=path)
    auth.close()


def test_the_purse_of_a_user_is_kept_with_the_state_of_their_programs() -> None:
    assert Path.home() / ".local/state/farebox/purse.db" == default_purse_path()


def test_one_auth_serves_both_libraries(tmp_path: Path) -> None:
    class Mine(Auth):
        """One's own."""

    for kind in (Auth, Mine):
        auth = kind(wallet=ScriptedWallet(Mint(StillClock())), budget="1 sat/day", purse=":memory:")

        assert isinstance(auth, httpx.Auth)
        assert isinstance(auth, httpx2.Auth)
        assert isinstance(auth, kind)
        auth.close()


@pytest.mark.system
def test_nobody_who_does_not_use_httpx2_loads_it() -> None:

    said = subprocess.run(
        [sys.executable, "-c", "import sys, farebox.http.buy; print('httpx2' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout == "False\n"


@pytest.mark.parametrize("terms", [{"max": 50}, {"max": 50.0}, {"budget": 9000}, {"budget": ["500 sat/day"]}])
def test_a_limit_that_is_no_text_is_refused_when_it_is_said(terms: Any, tmp_path: Path) -> None:
    wallet = ScriptedWallet(Mint(StillClock()))

    with pytest.raises(MalformedValue, match="say it as text"):
        Client(wallet=wallet, purse=tmp_path / "purse.db", **terms)
