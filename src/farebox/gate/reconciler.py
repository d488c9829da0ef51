"""The reconciler: learns from the node what was paid, whether or not anybody shows a proof for it.

Rules
1. It reads the node's settlements from the cursor that the ledger keeps, and has the ledger settle them and move the
   cursor in one transaction (reliability: 3.1, rows 2 and 4). Down for a moment or a week, it reads on where it was.
2. What it remembers itself only spares work: forgetting all of it changes nothing but the time that it takes.
3. Below it is a slow net, for a node that tells nothing by itself or has told something wrongly: invoices that have
   just ended are looked up one by one, a few a second; at a node that has no stream the open ones are, all the time.
   What such a node tells all the same is believed as a look-up is, and spares the net nothing.
4. It never spins. However the node behaves, there is a pause between two questions; while nobody answers, a longer one,
   and never one so long that what was missed is not read within 5 seconds of the node's return.
5. Any number of them may run on one ledger, and do the same work twice. There is one for each node: it asks about the
   invoices that its node made, and about those that none of the others is known to have made.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Never, TypeVar

from farebox.core.errors import Unavailable
from farebox.core.payment import Payment
from farebox.core.ports import Conversation, InvoiceState, Ledger, Receiver
from farebox.core.settlement import Learnt, Settlement, SettlementNotices, SettlementStream
from farebox.gate.asking import Converse, in_time

T = TypeVar("T")

PACE: Final = timedelta(milliseconds=250)  # between two questions
LONGEST_PAUSE: Final = timedelta(seconds=2)  # while the node or the ledger does not answer
WAIT: Final = timedelta(seconds=30)  # a node that can wait for the next settlement is asked to
NET_PACE: Final = timedelta(seconds=1)
NET_MOST: Final = 5  # look-ups for each round of the net
_ANSWER_WITHIN: Final = timedelta(seconds=90)
_ENDED_FOR: Final = timedelta(seconds=5)  # what was under way when an invoice ended has arrived by then, mostly
_CLOCKS_DIFFER: Final = timedelta(hours=1)  # a node's from the ledger's
_FAR_AWAY: Final = datetime(9999, 1, 1, tzinfo=UTC)
_MOST_AT_ONCE: Final = 200  # settlements in a transaction, so that nobody waits for long
_MOST_REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLost:
    """Nothing is learnt of a node just now; told once. reason: what the node or the ledger said."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFound:
    """Settlements of a node are read again, and what was missed has been."""

    node: str


Told = Callable[[Learnt | StreamLost | StreamFound], None]


class Reconciler:
    """Keeps a ledger in agreement with a node: `await reconciler.follow()` and `await reconciler.cast_net()`, for ever.

    others: the names of the receivers beside this one. told: hears what was learnt, and when the node is lost and
    found.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        receiver: Receiver,
        converse: Converse,
        others: Sequence[str] = (),
        told: Told | None = None,
    ) -> None:
        self._ledger = ledger
        self._receiver = receiver
        self._stream = receiver if isinstance(receiver, SettlementStream) else None
        self._notices = receiver if isinstance(receiver, SettlementNotices) else None
        self._converse = converse
        self._others = tuple(others)
        self._told = told or (lambda _: None)
        self._cursor: str | None = None  # None: ask the ledger
        self._seen: OrderedDict[Settlement, None] = OrderedDict()
        self._netted: Payment | None = None

    async def follow(self) -> Never:
        """Read what the node tells, for ever. At a node that tells nothing by itself there is nothing to do."""
        while self._stream is not None:
            await self._persist(self.catch_up, PACE, stream=True)
        while self._notices is not None:
            await self._persist(self.hear, PACE, stream=True)
        while True:
            await asyncio.Future[None]()

    async def cast_net(self) -> Never:
        """Look up what the stream may have missed, for ever."""
        while True:
            await self._persist(self.look_up_due, NET_PACE, stream=False)

    # --- one round ----------------------------------------------------------------------------------------------------

    async def catch_up(self) -> Learnt:
        """Read everything that was settled since the cursor. Raises NodeUnavailable, StoreUnavailable."""
        learnt, more = Learnt(), self._stream is not None
        while more and self._stream is not None:
            read_from = self._cursor if self._cursor is not None else await self._first_cursor(self._stream)
            told = await self._ask(self._stream.settlements(read_from, wait=WAIT))
            news = [each for each in told.settled if each not in self._seen]
            read = await self._keep(news, read_from, told.cursor)
            self._cursor = told.cursor if read.moved else None  # else another process has read on: so do we, from there
            learnt, more = learnt + read, told.more
        return learnt

    async def hear(self) -> Learnt:
        """Wait for what a node without a stream tells. Raises NodeUnavailable, StoreUnavailable."""
        found = () if self._notices is None else await self._ask(self._notices.notices(wait=WAIT))
        return await self._settle(found, "", "") if found else Learnt()

    async def look_up_due(self) -> Learnt:
        """Look up a few unpaid invoices. Raises NodeUnavailable, StoreUnavailable."""
        until = _FAR_AWAY if self._stream is None else self._ledger.now() - _ENDED_FOR
        due = await self._ledger.due_payments(until=until, after=self._netted, most=NET_MOST, others=self._others)
        found = []
        for payment in due:
            status = await self._ask(self._receiver.lookup_invoice(payment.payment_hash))
            if status.state is InvoiceState.PAID:
                found.append(Settlement(payment_hash=payment.payment_hash, received=status.received))
        learnt = await self._settle(found, "", "") if found else Learnt()
        # Where there is a stream, each is looked up once, for its end has passed. Where there is none, begin again.
        self._netted = due[-1] if due else None if self._stream is None else self._netted
        return learnt

    # --- small print --------------------------------------------------------------------------------------------------

    async def _first_cursor(self, stream: SettlementStream) -> str:
        kept = await self._ledger.find_cursor(self._receiver.name)
        if kept is not None:
            return kept
        oldest = await self._ledger.oldest_unsettled(others=self._others)
        return await self._ask(stream.cursor_at((oldest or self._ledger.now()) - _CLOCKS_DIFFER))

    async def _keep(self, news: Sequence[Settlement], read_from: str, cursor: str) -> Learnt:
        """Have it settled in some transactions, the last of which moves the cursor."""
        if not news and cursor == read_from:
            return Learnt()
        learnt = Learnt()
        for start in range(0, max(1, len(news)), _MOST_AT_ONCE):
            is_last = start + _MOST_AT_ONCE >= len(news)
            part = news[start : start + _MOST_AT_ONCE]
            learnt += await self._settle(part, read_from, cursor if is_last else read_from)
        for each in news:
            self._seen[each] = None
        while len(self._seen) > _MOST_REMEMBERED:
            self._seen.popitem(last=False)
        return learnt

    async def _settle(self, settled: Sequence[Settlement], read_from: str, cursor: str) -> Learnt:
        return await self._ledger.settle_from_stream(
            settled, receiver=self._receiver.name, read_from=read_from, cursor=cursor
        )

    async def _ask(self, conversation: Conversation[T]) -> T:
        return await in_time(self._converse, conversation, _ANSWER_WITHIN)

    async def _persist(self, one_round: Callable[[], Awaitable[Learnt]], pace: timedelta, *, stream: bool) -> None:
        """One round that succeeds, after any number that did not, and the pause behind it."""
        pause, lost = pace, False
        learnt: Learnt | None = None
        while learnt is None:
            try:
                learnt = await one_round()
            except Unavailable as error:
                if stream and not lost:
                    self._told(StreamLost(node=self._receiver.name, reason=str(error)))
                lost = True
                await asyncio.sleep(pause.total_seconds())
                pause = min(2 * pause, LONGEST_PAUSE)
        if learnt.funded or learnt.strays:
            self._told(learnt)
        if stream and lost:
            self._told(StreamFound(node=self._receiver.name))
        await asyncio.sleep(pace.total_seconds())
