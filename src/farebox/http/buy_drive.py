"""The two drivers of a purchase, blocking and awaiting: they do the steps of the payer's story and decide nothing.

A flow yields the requests to send and is sent the answers, as both HTTP clients' `Auth` wants it; the steps that
concern the wallet, the purse and the time are done in between, in an awaiting program without blocking its loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import suppress
from typing import Generic, TypeVar

import httpx

from farebox.core.errors import FareboxError, StoreUnavailable
from farebox.core.ports import Conversation, PayOutcome, Purse, Wallet
from farebox.http.buy_wire import adrop, ahear, awatch, drop, hear, library_of, read_call, watch, with_proof
from farebox.http.converse import Lines, aconverse, converse, trust
from farebox.payer import (
    Answered,
    Bought,
    Deliver,
    LookUp,
    NoAnswer,
    Pay,
    Remember,
    Reply,
    Send,
    Step,
    Story,
    Wait,
    remember,
)

T = TypeVar("T")
C = TypeVar("C")

Heard = httpx.Response | NoAnswer


class Telling(Generic[T]):
    """A story being told: the step that it asks for now, and at its end its result."""

    result: T

    def __init__(self, story: Story[T]) -> None:
        self._story = story
        self.step: Step | None = None
        self._move(lambda: next(story))

    def reply(self, reply: Reply) -> None:
        """Tell the story what its step came to."""
        self._move(lambda: self._story.send(reply))

    def trouble(self, error: FareboxError) -> None:
        """Tell the story that its step raised."""
        self._move(lambda: self._story.throw(error))

    def close(self) -> None:
        """Break off; what is held stays held."""
        self._story.close()

    def _move(self, move: Callable[[], Step]) -> None:
        try:
            self.step = move()
        except StopIteration as end:
            self.step = None
            self.result = end.value


class Exchange:
    """One call as the drivers see it: the request, and the answer heard last.

    whole: the answer is read to its end before it counts as come; otherwise the caller reads it.
    """

    def __init__(self, request: httpx.Request, *, whole: bool) -> None:
        self.request = request
        self.call = read_call(request)
        self.whole = whole
        self.response: httpx.Response | None = None
        self._asked = request  # what the seller asked money for in the end, after redirects within the origin

    @property
    def answer(self) -> httpx.Response:
        """The answer heard last. Raises TypeError before there is one."""
        if self.response is None:
            raise TypeError("there is no answer yet")
        return self.response

    def outgoing(self, step: Send) -> httpx.Request:
        """What to send: the request itself, or one with the proof."""
        return self.request if step.proof is None else with_proof(self._asked, step.proof)

    def end(self, result: object) -> None:
        """Have the answer carry what it cost."""
        if isinstance(result, Bought):
            self.answer.extensions["farebox"] = result

    def heard(self, response: httpx.Response, answer: Answered) -> Answered:
        """Keep what came."""
        self.response = response
        if answer.origin == self.call.origin and answer.status == httpx.codes.PAYMENT_REQUIRED:
            self._asked = response.request
        return answer


class Drivers:
    """Drives the payer's stories with a wallet, a purse and a way to wait."""

    def __init__(
        self,
        *,
        wallet: Wallet,
        purse: Purse,
        pause: Callable[[float], None] = time.sleep,
        apause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.wallet = wallet
        self.purse = purse
        self._pause = pause
        self._apause = apause

    # --- blocking ---------------------------------------------------------------------------------------------------

    def tell(self, exchange: Exchange, telling: Telling[T]) -> Generator[httpx.Request, Heard, None]:
        """Drive a story that sends a call."""
        try:
            while (step := telling.step) is not None:
                if exchange.response is not None and not isinstance(step, Deliver):
                    drop(exchange.response)
                try:
                    reply: Reply
                    match step:
                        case Send():
                            heard = yield exchange.outgoing(step)
                            reply = heard if isinstance(heard, NoAnswer) else exchange.heard(heard, hear(heard))
                        case Deliver():
                            reply = self._deliver(exchange, step.outcome)
                        case _:
                            reply = self._do(step)
                except FareboxError as error:
                    telling.trouble(error)
                else:
                    telling.reply(reply)
        finally:
            telling.close()
        exchange.end(telling.result)

    def run(self, story: Story[T]) -> T:
        """Drive a story that sends nothing."""
        telling = Telling(story)
        try:
            while (step := telling.step) is not None:
                telling.reply(self._do(step))
        finally:
            telling.close()
        return telling.result

    def _do(self, step: Step) -> Reply:
        match step:
            case Pay() | LookUp():
                return self.talk(self._conversation(step))
            case Wait(span=span):
                self._pause(span.total_seconds())
                return None
            case Send() | Deliver():
                raise TypeError(f"{type(step).__name__} belongs to a call")
            case _:
                return remember(self.purse, step)

    def talk(self, conversation: Conversation[C]) -> C:
        """Talk with the wallet, over a client of its own."""
        with httpx.Client(verify=trust(httpx, None), trust_env=False) as client:
            return converse(conversation, client)

    def _deliver(self, exchange: Exchange, outcome: Remember) -> NoAnswer | None:
        response = exchange.answer

        def served() -> None:
            with suppress(StoreUnavailable):  # the answer is here; at worst the same proof is shown once more
                remember(self.purse, outcome)

        if not exchange.whole and not response.is_stream_consumed:
            watch(response, served)
            return None
        try:
            response.read()
        except library_of(response).RequestError as error:
            return NoAnswer(reason=type(error).__name__)
        served()
        return None

    # --- awaiting ---------------------------------------------------------------------------------------------------

    async def atell(self, exchange: Exchange, telling: Telling[T]) -> AsyncGenerator[httpx.Request, Heard]:
        """The same for an awaiting client."""
        try:
            while (step := telling.step) is not None:
                if exchange.response is not None and not isinstance(step, Deliver):
                    await adrop(exchange.response)
                try:
                    reply: Reply
                    match step:
                        case Send():
                            heard = yield exchange.outgoing(step)
                            reply = heard if isinstance(heard, NoAnswer) else exchange.heard(heard, await ahear(heard))
                        case Deliver():
                            reply = await self._adeliver(exchange, step.outcome)
                        case _:
                            reply = await self._ado(step)
                except FareboxError as error:
                    telling.trouble(error)
                else:
                    telling.reply(reply)
        finally:
            telling.close()
        exchange.end(telling.result)

    async def arun(self, story: Story[T]) -> T:
        """Drive a story that sends nothing."""
        telling = Telling(story)
        try:
            while (step := telling.step) is not None:
                telling.reply(await self._ado(step))
        finally:
            telling.close()
        return telling.result

    async def _ado(self, step: Step) -> Reply:
        match step:
            case Pay() | LookUp():
                return await self.atalk(self._conversation(step))
            case Wait(span=span):
                await self._apause(span.total_seconds())
                return None
            case Send() | Deliver():
                raise TypeError(f"{type(step).__name__} belongs to a call")
            case _:
                return await asyncio.to_thread(remember, self.purse, step)

    async def atalk(self, conversation: Conversation[C]) -> C:
        """Talk with the wallet, over lines of its own."""
        lines = Lines()
        try:
            return await aconverse(conversation, lines)
        finally:
            await lines.aclose()

    async def _adeliver(self, exchange: Exchange, outcome: Remember) -> NoAnswer | None:
        response = exchange.answer

        async def served() -> None:
            with suppress(StoreUnavailable):  # the answer is here; at worst the same proof is shown once more
                await asyncio.to_thread(remember, self.purse, outcome)

        if not exchange.whole and not response.is_stream_consumed:
            awatch(response, served)
            return None
        try:
            await response.aread()
        except library_of(response).RequestError as error:
            return NoAnswer(reason=type(error).__name__)
        await served()
        return None

    def _conversation(self, step: Pay | LookUp) -> Conversation[PayOutcome]:
        match step:
            case Pay(invoice=invoice, fee_limit=fee_limit):
                return self.wallet.pay_invoice(invoice, fee_limit=fee_limit)
            case LookUp(payment_hash=payment_hash):
                return self.wallet.lookup_payment(payment_hash)
