"""The two drivers of a purchase, blocking and awaiting: they do the steps of the payer's story and decide nothing.

Rules
1. What concerns the wallet, the purse and the time is done here, once for every library and every face.
2. `Send` and `Deliver` belong to the library that carries the call: `advance` stops at them, and the face replies.
3. An awaiting program's loop is never blocked: the purse is asked in a thread.
4. A face that is interrupted closes the telling; what is held stays held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from farebox.core.errors import FareboxError, StoreUnavailable
from farebox.core.ports import Conversation, PayOutcome, Purse, Wallet
from farebox.payer.steps import AskApproval, Deliver, LookUp, Pay, Remember, Reply, Send, Step, Story, Wait, remember

T = TypeVar("T")


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


class Talk(Protocol):
    """Carries a conversation with a wallet to its end, blocking."""

    def __call__(self, conversation: Conversation[T]) -> T:
        """What the conversation came to."""


class TalkAsync(Protocol):
    """Carries a conversation with a wallet to its end, awaiting."""

    async def __call__(self, conversation: Conversation[T]) -> T:
        """What the conversation came to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocking:
    """How a blocking program talks with a wallet, lets time pass (in seconds) and has a parked call decided."""

    talk: Talk
    pause: Callable[[float], None]
    ask_approval: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaiting:
    """How an awaiting program does."""

    talk: TalkAsync
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ask_approval: Callable[[int], Awaitable[None]] | None = None


class Drivers:
    """Drives the payer's stories with a wallet, a purse and a way to wait."""

    def __init__(self, *, wallet: Wallet, purse: Purse, blocking: Blocking, awaiting: Awaiting) -> None:
        self.wallet = wallet
        self.purse = purse
        self.blocking = blocking
        self.awaiting = awaiting

    # --- blocking ---------------------------------------------------------------------------------------------------

    def advance(self, telling: Telling[T]) -> Send | Deliver | None:
        """Do what the story asks until it wants something of the library that carries the call; None at its end."""
        while (step := telling.step) is not None and not isinstance(step, Send | Deliver):
            try:
                reply = self._do(step)
            except FareboxError as error:
                telling.trouble(error)
            else:
                telling.reply(reply)
        return step

    def run(self, story: Story[T]) -> T:
        """Drive a story that sends nothing. Raises TypeError for one that does."""
        telling = Telling(story)
        try:
            if (step := self.advance(telling)) is not None:
                raise _homeless(step)
        finally:
            telling.close()
        return telling.result

    def note(self, outcome: Remember) -> None:
        """Have the purse told, when the last byte has come; at worst the same proof is shown once more."""
        with suppress(StoreUnavailable):
            remember(self.purse, outcome)

    def _do(self, step: Step) -> Reply:
        match step:
            case Pay() | LookUp():
                return self.blocking.talk(self._conversation(step))
            case Wait(span=span):
                self.blocking.pause(span.total_seconds())
                return None
            case AskApproval(number=number):
                if self.blocking.ask_approval is not None:
                    self.blocking.ask_approval(number)
                return None
            case Send() | Deliver():
                raise _homeless(step)
            case _:
                return remember(self.purse, step)

    # --- awaiting ---------------------------------------------------------------------------------------------------

    async def aadvance(self, telling: Telling[T]) -> Send | Deliver | None:
        """The same, awaiting."""
        while (step := telling.step) is not None and not isinstance(step, Send | Deliver):
            try:
                reply = await self._ado(step)
            except FareboxError as error:
                telling.trouble(error)
            else:
                telling.reply(reply)
        return step

    async def arun(self, story: Story[T]) -> T:
        """Drive a story that sends nothing. Raises TypeError for one that does."""
        telling = Telling(story)
        try:
            if (step := await self.aadvance(telling)) is not None:
                raise _homeless(step)
        finally:
            telling.close()
        return telling.result

    async def anote(self, outcome: Remember) -> None:
        """Have the purse told, when the last byte has come."""
        with suppress(StoreUnavailable):
            await asyncio.to_thread(remember, self.purse, outcome)

    async def _ado(self, step: Step) -> Reply:
        match step:
            case Pay() | LookUp():
                return await self.awaiting.talk(self._conversation(step))
            case Wait(span=span):
                await self.awaiting.pause(span.total_seconds())
                return None
            case AskApproval(number=number):
                if self.awaiting.ask_approval is not None:
                    await self.awaiting.ask_approval(number)
                return None
            case Send() | Deliver():
                raise _homeless(step)
            case _:
                return await asyncio.to_thread(remember, self.purse, step)

    def _conversation(self, step: Pay | LookUp) -> Conversation[PayOutcome]:
        match step:
            case Pay(invoice=invoice, fee_limit=fee_limit):
                return self.wallet.pay_invoice(invoice, fee_limit=fee_limit)
            case LookUp(payment_hash=payment_hash):
                return self.wallet.lookup_payment(payment_hash)


def _homeless(step: Step) -> TypeError:
    return TypeError(f"{type(step).__name__} belongs to a call")
