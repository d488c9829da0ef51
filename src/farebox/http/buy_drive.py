"""A purchase as httpx and httpx2 drive it: a flow yields the requests to send and is sent the answers.

That is what both libraries' `Auth` wants; the clients of ours drive the same flow themselves, and so hear of an answer
that got lost, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Final, TypeVar

import httpx

from farebox.core.errors import PaidNotServed
from farebox.core.exchange import Wire
from farebox.http.buy_wire import (
    adrop,
    ahear,
    awatch,
    check_place,
    drop,
    hear,
    library_of,
    origin_at,
    read_call,
    watch,
    with_proof,
)
from farebox.payer import Answered, Bought, Deliver, Drivers, NoAnswer, Remember, Send, Telling

T = TypeVar("T")

_MOST_HOPS: Final = 20  # as the libraries have it

Heard = httpx.Response | NoAnswer


class Exchange:
    """One call as a flow sees it: the request, and the answer heard last.

    whole: the answer is read to its end before it counts as come; otherwise the caller reads it.
    keeps_proofs: the request is sent as `manner` says, so that no redirect takes a proof along. follows: whether the
    caller wants redirects to be followed.
    """

    def __init__(
        self, request: httpx.Request, *, whole: bool, keeps_proofs: bool = False, follows: bool = False
    ) -> None:
        check_place(request)
        self.request = request
        self.call = read_call(request, keeps_proofs=keeps_proofs)
        self.whole = whole
        self.follows = follows
        self.response: httpx.Response | None = None
        self.trouble: Remember | None = None  # see Send, of what is being sent
        self._loose: Wire | None = None  # its proof, where a redirect would take it along to another origin
        self._asked = request  # what the seller asked money for in the end, after redirects within the origin

    @property
    def answer(self) -> httpx.Response:
        """The answer heard last. Raises TypeError before there is one."""
        if self.response is None:
            raise TypeError("there is no answer yet")
        return self.response

    @property
    def manner(self) -> dict[str, bool]:
        """How the request that is sent next has to be sent."""
        return {} if self._loose is None else {"follow_redirects": False}

    def outgoing(self, step: Send) -> httpx.Request:
        """What to send: the request itself, or one with the proof."""
        self.trouble, self._loose = step.trouble, None
        if step.proof is None:
            return self.request
        is_loose = step.proof.query or step.proof.body or any(name != "authorization" for name, _ in step.proof.headers)
        if is_loose and not self.call.keeps_proofs:  # another face paid for it, with the same purse
            raise PaidNotServed("a redirect could take its proof to another origin; make the call with farebox.Client")
        if is_loose:
            self._loose = step.proof
        return with_proof(self._asked, step.proof)

    def onward(self, response: httpx.Response) -> httpx.Request | None:
        """The next hop, where a loose proof was answered with a redirect: it goes along within the origin, no further.

        None for what is the answer. Raises the library's TooManyRedirects.
        """
        led = response.next_request
        if self._loose is None or led is None or not self.follows or origin_at(led.url) != self.call.named:
            return None
        if len(response.history) == _MOST_HOPS:
            raise library_of(led).TooManyRedirects("Exceeded maximum allowed redirects.", request=led)
        return with_proof(led, self._loose)

    def end(self, result: object) -> None:
        """Have the answer carry what it cost."""
        if isinstance(result, Bought):
            self.answer.extensions["farebox"] = result

    def heard(self, answer: Answered) -> Answered:
        """Keep who asked for money."""
        if answer.origin == self.call.named and answer.status == httpx.codes.PAYMENT_REQUIRED:
            self._asked = self.answer.request
        return answer

    def unheard(self, error: Exception, location: str | None = None) -> NoAnswer:
        """What to make of it that no answer came, or none to be read. Raises the error where none was paid for."""
        if self.trouble is None:
            raise error
        return NoAnswer(reason=type(error).__name__, location=location)


def flow(drivers: Drivers, exchange: Exchange, telling: Telling[T]) -> Generator[httpx.Request, Heard, None]:
    """Drive a story that sends a call, for a blocking client."""
    try:
        while (step := drivers.advance(telling)) is not None:
            match step:
                case Send():
                    heard = yield exchange.outgoing(step)
                    telling.reply(heard if isinstance(heard, NoAnswer) else _hear(exchange, heard))
                case Deliver():
                    telling.reply(_deliver(drivers, exchange, step))
            if exchange.response is not None and telling.step is not None and not isinstance(telling.step, Deliver):
                drop(exchange.response)
    except GeneratorExit as left:
        # An `Auth` is not told what became of its request; but that it is left for an error of the library shows.
        if exchange.trouble is not None and isinstance(left.__context__, library_of(exchange.request).RequestError):
            drivers.note(exchange.trouble)
        raise
    finally:
        telling.close()
    exchange.end(telling.result)


def _hear(exchange: Exchange, response: httpx.Response) -> Answered | NoAnswer:
    exchange.response = response
    try:
        return exchange.heard(hear(response))
    except library_of(response).RequestError as error:
        return exchange.unheard(error)


def _deliver(drivers: Drivers, exchange: Exchange, step: Deliver) -> NoAnswer | None:
    response = exchange.answer
    if not exchange.whole and not response.is_stream_consumed:
        watch(response, lambda: drivers.note(step.outcome), lambda: drivers.note(step.trouble))
        return None
    try:
        response.read()
    except library_of(response).RequestError as error:
        return NoAnswer(reason=type(error).__name__)
    drivers.note(step.outcome)
    return None


async def aflow(drivers: Drivers, exchange: Exchange, telling: Telling[T]) -> AsyncGenerator[httpx.Request, Heard]:
    """The same for an awaiting client."""
    try:
        while (step := await drivers.aadvance(telling)) is not None:
            match step:
                case Send():
                    heard = yield exchange.outgoing(step)
                    telling.reply(heard if isinstance(heard, NoAnswer) else await _ahear(exchange, heard))
                case Deliver():
                    telling.reply(await _adeliver(drivers, exchange, step))
            if exchange.response is not None and telling.step is not None and not isinstance(telling.step, Deliver):
                await adrop(exchange.response)
    except GeneratorExit:
        if exchange.trouble is not None and not _is_cancelled():  # as above, where an error does not show
            await drivers.anote(exchange.trouble)
        raise
    finally:
        telling.close()
    exchange.end(telling.result)


async def _ahear(exchange: Exchange, response: httpx.Response) -> Answered | NoAnswer:
    exchange.response = response
    try:
        return exchange.heard(await ahear(response))
    except library_of(response).RequestError as error:
        return exchange.unheard(error)


def _is_cancelled() -> bool:
    """Whether it is the caller who breaks off: a timeout of his, or an end of his program."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _adeliver(drivers: Drivers, exchange: Exchange, step: Deliver) -> NoAnswer | None:
    response = exchange.answer
    if not exchange.whole and not response.is_stream_consumed:
        awatch(response, lambda: drivers.anote(step.outcome), lambda: drivers.anote(step.trouble))
        return None
    try:
        await response.aread()
    except library_of(response).RequestError as error:
        return NoAnswer(reason=type(error).__name__)
    await drivers.anote(step.outcome)
    return None
