"""A paid answer that gets lost on its way is fetched again with the same proof, and was made and charged once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest

from farebox.core.amount import NOTHING, Amount
from farebox.core.payment import PaymentState
from farebox.testing.cut import Cut, Way, cut_line

pytestmark = [pytest.mark.system, pytest.mark.anyio]

Tell = Callable[[str], object]

PRICE = Amount.sats(21)
STREAMS = 40
REQUESTS = 20


class Caller:
    """Buys, and listens at a line that is cut."""

    def __init__(self, shop: Any, payer: Any) -> None:
        self._shop = shop
        self._payer = payer

    async def buy(self, prompt: str, path: str = "/") -> Mapping[str, str]:
        """A paid proof for one call."""
        proof: Mapping[str, str] = await self._payer.buy(self._shop, prompt, path)
        return proof

    async def call(self, url: str, prompt: str, proof: Mapping[str, str]) -> httpx.Response:
        """One call; raises TransportError when its answer does not come whole."""
        host = self._shop.url.removeprefix("http://")  # what was paid for includes the name it was asked at
        return await self._payer.http.post(url, content=prompt, headers={**proof, "host": host})

    async def lose(self, path: str, prompt: str, proof: Mapping[str, str], cut: Cut) -> None:
        """The same over a line that is cut."""
        async with cut_line("127.0.0.1", self._shop.port, cut) as line:
            with pytest.raises(httpx.TransportError):
                await self.call(line.url + path, prompt, proof)
        assert line.cuts == 1
        assert cut.way is Way.REQUEST or line.carried == cut.after

    async def length(self, path: str, prompt: str, proof: Mapping[str, str]) -> int:
        """How many bytes the answer to a paid call has, head and all."""
        async with cut_line("127.0.0.1", self._shop.port, Cut(Way.ANSWER, after=2**20, reset=False)) as line:
            answer = await self.call(line.url + path, prompt, proof)
        assert (200, 0) == (answer.status_code, line.cuts)
        return line.carried


def spread(count: int, length: int) -> list[int]:
    """So many places from the first byte to the last, both included."""
    return [place * (length - 1) // (count - 1) for place in range(count)]


@pytest.fixture
async def market(open_shop: Any, writer_url: str, payer: Any) -> AsyncIterator[tuple[Any, Caller]]:
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as shop:
        yield shop, Caller(shop, payer)


@pytest.mark.parametrize("answers", [60, pytest.param(None, marks=pytest.mark.full)], ids=["60 places", "every byte"])
async def test_answers_cut_at_every_place_are_fetched_again_and_charged_once(
    market: tuple[Any, Caller], writer: Any, read_books: Any, tell: Tell, answers: int | None
) -> None:
    shop, caller = market
    length = await caller.length("/", "call whole", await caller.buy("call whole"))
    answers = answers or length
    told: dict[str, str] = {}
    for number, after in enumerate(spread(answers, length)):
        prompt = f"call {number:04}"
        proof = await caller.buy(prompt)
        await caller.lose("/", prompt, proof, Cut(Way.ANSWER, after=after, reset=number % 2 == 0))
        again = await caller.call(f"{shop.url}/", prompt, proof)
        assert (200, "true") == (again.status_code, again.headers["payment-replayed"]), (prompt, after)
        told[prompt] = again.json()["text"]
    balance, payments = await read_books(shop)
    tell(f"A3: {len(told)} answers of {length} bytes cut at 0 to {length - 1}; earned {balance.earned}")
    assert {prompt: [text] for prompt, text in told.items()} == {
        prompt: runs for prompt, runs in writer.runs.items() if prompt != "call whole"
    }
    assert len(told) == len(set(told.values())) == answers
    assert {PaymentState.SPENT} == {payment.state for payment in payments}
    assert PRICE * (answers + 1) == balance.earned == balance.received
    assert NOTHING == balance.held == balance.credit


async def test_streams_that_are_cut_while_they_flow_are_fetched_again_whole(
    market: tuple[Any, Caller], writer: Any, read_books: Any, tell: Tell
) -> None:
    shop, caller = market
    length = await caller.length("/stream", "whole", await caller.buy("whole", "/stream"))
    for number, after in enumerate(spread(STREAMS, length)):
        prompt = f"call {number:03}"
        proof = await caller.buy(prompt, "/stream")
        await caller.lose("/stream", prompt, proof, Cut(Way.ANSWER, after=after, reset=number % 2 == 0))
        again = await caller.call(f"{shop.url}/stream", prompt, proof)
        assert (200, "true") == (again.status_code, again.headers["payment-replayed"]), (prompt, after)
        events = [line.removeprefix("data: ") for line in again.text.splitlines() if line]
        assert [*writer.runs[prompt], "[DONE]"] == ["".join(events[:-1]), events[-1]], (prompt, after)
    balance, _ = await read_books(shop)
    tell(f"{STREAMS} streams of {length} bytes cut at 0 to {length - 1}; earned {balance.earned}")
    assert PRICE * (STREAMS + 1) == balance.earned == balance.received
    assert NOTHING == balance.held == balance.credit


async def test_a_call_cut_while_it_is_sent_did_not_run_and_runs_once_when_it_is_sent_again(
    market: tuple[Any, Caller], writer: Any, read_books: Any, tell: Tell
) -> None:
    shop, caller = market
    asked = len("POST / HTTP/1.1\r\n")
    for number, after in enumerate(spread(REQUESTS, asked + 400)):
        prompt = f"call {number:03}" + "." * 400
        proof = await caller.buy(prompt)
        await caller.lose("/", prompt, proof, Cut(Way.REQUEST, after=after, reset=number % 2 == 0))
        assert prompt not in writer.runs
        answer = await caller.call(f"{shop.url}/", prompt, proof)
        assert (200, writer.runs[prompt]) == (answer.status_code, [answer.json()["text"]]), after
    balance, _ = await read_books(shop)
    tell(f"{REQUESTS} requests cut while they were sent; earned {balance.earned}")
    assert PRICE * REQUESTS == balance.earned == balance.received


async def test_callers_who_leave_while_their_calls_run_find_the_answers_later(
    market: tuple[Any, Caller], writer: Any, read_books: Any, tell: Tell
) -> None:
    shop, caller = market
    writer.held = True
    bought = {f"call {number:03}": await caller.buy(f"call {number:03}") for number in range(REQUESTS)}

    def call_all() -> list[asyncio.Task[httpx.Response]]:
        return [asyncio.create_task(caller.call(f"{shop.url}/", prompt, bought[prompt])) for prompt in bought]

    leaving = call_all()
    async with asyncio.timeout(20):
        while len(writer.runs) < REQUESTS:
            await asyncio.sleep(0.01)
    for call in leaving:
        call.cancel()
    await asyncio.wait(leaving)
    returned = call_all()
    writer.held = False
    answers = await asyncio.gather(*returned)
    balance, _ = await read_books(shop)
    tell(f"{REQUESTS} callers left while their calls ran; earned {balance.earned}")
    assert all(call.cancelled() for call in leaving)
    assert [(200, writer.runs[prompt]) for prompt in bought] == [(a.status_code, [a.json()["text"]]) for a in answers]
    assert PRICE * REQUESTS == balance.earned == balance.received
