"""The recorder: takes the answer of a paid call from the app, decides with it, and passes it on.

Rules (reliability, 3.4: streams)
1. An ordinary answer is captured, which stores it, and only then sent.
2. A stream (by its type, its announced length or its size) flows at once from its copy; it is captured before its last
   byte leaves. A caller who reads slowly keeps nobody waiting while there is a copy.
3. What fails before a byte has left becomes a problem; what breaks afterwards breaks the connection, so that nobody
   takes a part for the whole. Either way the payment is released, or given up if the call must not run twice.
4. The caller's going away changes nothing about an ordinary answer. A stream is then read on for so long and so many
   bytes, and captured if that made it whole, because it can be fetched again.
5. What would need more, or is too large to be kept, is given once: a caller who had some of it and left has had what he
   wanted, and it is stopped and captured. So leaving is neither a way to credit nor to a second run. What such a caller
   has not read of it by then, which is what the sockets hold, can be lost with the connection.
6. When another call has taken over the payment meanwhile, this answer is discarded, and the other one's given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from enum import Enum, auto
from typing import Final

import structlog

from farebox.core.errors import CallerError, CallInProgress, PaymentReturned, Unavailable, UpstreamFailed
from farebox.core.payment import Answer, PaymentState
from farebox.gate import HeldCall
from farebox.http.flow import Flow
from farebox.http.given import (
    kept_headers,
    paid_headers,
    replayed_headers,
    told_of,
    unpaid_headers,
    without_length,
    writable,
)
from farebox.http.manners import Manners
from farebox.http.request import AsgiApp, Message, RawHeaders, Receive, Scope, Send
from farebox.http.spool import Spools

log = structlog.get_logger("farebox")

_STREAMS: Final = (
    *(b"text/event-stream", b"application/x-ndjson", b"application/jsonl", b"application/json-seq"),
    *(b"multipart/x-mixed-replace", b"audio/", b"video/"),
)
_MOST_ODD_MESSAGES: Final = 3  # from a server that has said that the request was over


class _Mode(Enum):
    WAITING = auto()  # for the head of the answer
    HOLDING = auto()  # an ordinary answer: kept back until it is stored
    FLOWING = auto()  # a stream: sent as it comes
    REFUSING = auto()  # 4xx: passed on, not charged
    FAILING = auto()  # 5xx: swallowed
    ENDED = auto()


class BrokenOff(Exception):
    """The answer stopped in the middle; the connection has to be broken so that the caller knows."""


class Recorder:
    """Runs one granted call: `await Recorder(...).run(app, scope, receive)`.

    rerun: whether a call of unknown outcome may be run again; if not, its price becomes credit.
    charge_for: statuses between 400 and 499 that are charged like a success.
    gone: a receive of the server's, which says when the caller has gone away; None where that can't be told.
    Raises a CallerError or Unavailable when nothing was sent, BrokenOff when something was.
    """

    def __init__(
        self,
        grant: HeldCall,
        send: Send,
        *,
        head: bool,
        rerun: bool,
        manners: Manners,
        spools: Spools,
        charge_for: Collection[int] = (),
        gone: Receive | None = None,
    ) -> None:
        self._grant = grant
        self._send = send
        self._head = head
        self._rerun = rerun
        self._manners = manners
        self._spools = spools
        self._charge_for = charge_for
        self._gone = gone
        self._mode = _Mode.WAITING
        self._status = 0
        self._headers: RawHeaders = []
        self._chunks: list[bytes] = []
        self._flow: Flow | None = None
        self._size = 0
        self._announced: int | None = None
        self._error: CallerError | Unavailable | None = None
        self._limit = asyncio.timeout(None)
        self._listener: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._ending = self._over = False
        self._caller_gone = False
        self._heard = False  # some of a stream's body was handed to the caller
        self._drained = 0
        self._kept = True  # what was paid, when the call is refused
        self._withheld = False

    async def run(self, app: AsgiApp, scope: Scope, receive: Receive) -> None:
        """Run the call to its end."""
        try:
            await self._run(app, scope, receive)
            if self._flow is not None and not await self._flow.ended() and not self._caller_gone:
                raise BrokenOff
        except (CallerError, Unavailable) as error:
            if self._flow is None or self._withheld:
                raise
            await self._flow.caught_up()
            raise BrokenOff from error
        finally:
            if self._listener is not None:
                self._listener.cancel()
            if self._flow is not None:
                self._flow.close()

    def leave(self) -> None:
        """The caller has gone away."""
        if self._caller_gone:
            return
        self._caller_gone = True
        if self._flown:
            self._drain()

    async def _run(self, app: AsgiApp, scope: Scope, receive: Receive) -> None:
        try:
            failure, unknown = await self._run_app(app, scope, receive)
        finally:
            self._over = True
        if self._error is not None:
            raise self._error
        if self._mode is _Mode.ENDED:
            return
        if self._mode is _Mode.FAILING:
            what = f"answered {self._status}" if self._status >= 500 else "wrote a header field that can't be sent"
            failure = UpstreamFailed(f"the seller's service {what}", upstream_status=self._status)
            unknown = False
        if self._flown and self._heard and self._caller_gone and self._limit.expired():
            await self._decide(None)
        else:
            failure = await self._let_go(failure, unknown=unknown or self._flown)
        raise failure

    async def _run_app(self, app: AsgiApp, scope: Scope, receive: Receive) -> tuple[UpstreamFailed, bool]:
        """How it failed, unless it ended, and whether nobody knows what it did."""
        try:
            async with self._limit:
                await app(scope, receive, self._take)
        except UpstreamFailed as error:
            return error, error.evidence.get("sent") is True
        except Exception:
            if self._limit.expired():
                return UpstreamFailed("it was stopped before its answer was over", sent=True), True
            log.exception("app-failed", resource=scope.get("path"))
            return UpstreamFailed("the seller's service failed"), False
        return UpstreamFailed("the seller's service broke off its answer"), False

    @property
    def _flown(self) -> bool:
        return self._mode is _Mode.FLOWING

    @property
    def _given_once(self) -> bool:
        return self._heard and self._size > self._manners.most_answer

    async def _let_go(self, failure: UpstreamFailed, *, unknown: bool) -> UpstreamFailed:
        if unknown and not self._rerun:
            payment = await self._grant.give_up()
        else:
            payment = await self._grant.release(ran=failure.evidence.get("sent") is not False)
        if payment.state is PaymentState.EXPIRED:
            failure = PaymentReturned(failure.detail, **failure.evidence)
        log.warning(
            "released",
            reason=str(failure),
            state=payment.state.value,
            attempt=self._grant.hold.attempt,
            caller_gone=self._caller_gone,
        )
        return failure.with_evidence(payment=told_of(payment))

    # --- what the app sends -------------------------------------------------------------------------------------------

    async def _take(self, message: Message) -> None:
        async with self._turn:  # an app may send from several tasks
            if self._over or self._mode is _Mode.ENDED or self._error is not None:
                return
            if message["type"] == "http.response.start":
                self._start(message)
                if self._announces_stream():
                    await self._begin_flow()
            elif message["type"] == "http.response.body":
                await self._body(message.get("body", b""), last=not message.get("more_body", False))

    def _start(self, message: Message) -> None:
        self._status = message["status"]
        self._headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        if self._status >= 500 or not writable(self._headers):
            self._mode = _Mode.FAILING
        elif self._status >= 400 and self._status not in self._charge_for:
            self._mode = _Mode.REFUSING
        else:
            self._mode = _Mode.HOLDING

    def _announces_stream(self) -> bool:
        if self._mode is not _Mode.HOLDING:
            return False
        streams = False
        for name, value in self._headers:
            if name == b"content-type" and value.lower().startswith(_STREAMS):
                streams = True
            elif name == b"content-length" and value.isdigit():
                self._announced = int(value)
        return streams or (self._announced or 0) > self._manners.held_back

    async def _body(self, chunk: bytes, *, last: bool) -> None:
        if self._mode is _Mode.WAITING:
            return
        self._size += len(chunk)
        if self._flow is not None:
            await self._flow_on(self._flow, chunk, last=last)
        elif self._mode is not _Mode.FAILING:
            self._chunks.append(chunk)
            if not last and self._size > self._manners.held_back:
                if self._mode is not _Mode.HOLDING:  # of a refusal, more than anyone wants to know
                    self._mode = _Mode.FAILING
                    await self._stop()
                chunks, self._chunks = self._chunks, []
                await self._flow_on(await self._begin_flow(), b"".join(chunks), last=False)
        elif not last and self._size > self._manners.held_back:
            await self._stop()
        if last and self._mode is not _Mode.FAILING:
            await self._end()

    async def _begin_flow(self) -> Flow:
        """From here on it is a stream."""
        self._mode = _Mode.FLOWING
        headers = paid_headers(self._headers, self._grant.receipt)
        start = {"type": "http.response.start", "status": self._status, "headers": headers}
        if not self._grant.is_paid:  # it is given as a whole, when it is
            self._withheld, self._caller_gone = True, True
        self._flow = flow = Flow(self._spools.open(), self._deliver, start, self._break_off)
        if self._gone is not None and not self._withheld:
            self._listener = asyncio.get_running_loop().create_task(self._listen(self._gone))
            await asyncio.sleep(0)  # it hears at once of a caller who left before
        if self._caller_gone:
            self._drain()
        return flow

    async def _flow_on(self, flow: Flow, chunk: bytes, *, last: bool) -> None:
        if self._announced is not None and self._size > self._announced:
            await self._stop()  # nobody could be given the end of it
        if self._caller_gone:
            self._drained += len(chunk)
            if not flow.spool.whole or (self._drained > self._manners.most_drained and not last):
                await self._stop()
        # The last byte stays, whatever the app says of more to come.
        await flow.add(chunk, leaves=not last and (self._announced is None or self._size < self._announced))

    # --- the decision -------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        self._ending = True
        if self._limit.when() is not None and not self._limit.expired():
            self._limit.reschedule(None)  # a charge that has begun is not to be cancelled
        mode = self._mode
        try:
            if self._flow is None:
                await self._decide(b"".join(self._chunks))
            else:
                async with self._flow.spool.read() as body:
                    if body is None and not await self._gives_all(self._flow):
                        return  # nobody would ever have it, so it has broken off
                    await self._decide(body)
                    if self._withheld and body is not None:
                        await self._give_withheld(body)
        except CallInProgress as error:
            if mode is _Mode.FLOWING or not await self._give_the_other():
                self._error = self._error or error
            return
        except (CallerError, Unavailable) as error:
            self._error = error
            return
        self._mode = _Mode.ENDED
        if self._flow is not None:
            self._flow.end()
            return
        headers = without_length(self._headers)
        if mode is _Mode.HOLDING:
            headers = paid_headers(headers, self._grant.receipt)
        else:
            headers = unpaid_headers(headers, kept=self._kept)
        await self._give_whole(headers, b"".join(self._chunks))

    async def _gives_all(self, flow: Flow) -> bool:
        """Whether the caller has had an answer of which there is no copy, or enough of it."""
        whole = not self._caller_gone and await flow.gives_all() and self._announced in (None, self._size)
        return self._given_once if self._caller_gone else whole

    async def _decide(self, body: bytes | None) -> None:
        if self._mode is _Mode.REFUSING or (body is None and self._head):
            # A HEAD has delivered nothing of an answer that is too large to be kept for its GET.
            payment = await self._grant.release(refused=True)
            self._kept = payment.state is not PaymentState.EXPIRED
            log.info("not-charged", status=self._status, payment=payment.state.value)
            return
        kept = None if body is None else Answer(status=self._status, headers=kept_headers(self._headers), body=body)
        await self._grant.capture(kept)
        log.info(
            "paid",
            amount_msat=self._grant.hold.amount.msat,
            status=self._status,
            bytes=self._size,
            caller_gone=self._caller_gone,
        )

    async def _give_withheld(self, body: bytes) -> None:
        self._caller_gone = False
        await self._give_whole(paid_headers(without_length(self._headers), self._grant.receipt), body)
        self._caller_gone = True

    async def _give_the_other(self) -> bool:
        """Give the answer of the call that took over; False when there is none yet."""
        try:
            answer = await self._grant.find_other_answer()
        except Unavailable as error:
            self._error = error
            return False
        if answer is None:
            return False
        self._mode = _Mode.ENDED
        await self._deliver_whole(answer.status, replayed_headers(answer, self._grant.receipt), answer.body)
        return True

    # --- a caller who goes away ---------------------------------------------------------------------------------------

    async def _listen(self, gone: Receive) -> None:
        with suppress(OSError, RuntimeError):  # a server that can't tell
            for _ in range(_MOST_ODD_MESSAGES):
                if (await gone())["type"] == "http.disconnect":
                    self.leave()
                    return

    def _drain(self) -> None:
        if not self._ending:
            within = self._manners.drain_within.total_seconds()
            self._stop_at(asyncio.get_running_loop().time() + within)

    def _break_off(self) -> None:
        """The caller can't be given any more of it."""
        if not self._ending:
            self._stop_at(asyncio.get_running_loop().time())

    def _stop_at(self, when: float) -> None:
        with suppress(RuntimeError):  # it is over, or being stopped
            self._limit.reschedule(when)

    async def _stop(self) -> None:
        """End the app, in whose send this is."""
        loop = asyncio.get_running_loop()
        self._stop_at(loop.time())
        await loop.create_future()

    # --- what the caller gets -----------------------------------------------------------------------------------------

    async def _give_whole(self, headers: RawHeaders, body: bytes) -> None:
        await self._deliver_whole(self._status, [*headers, (b"content-length", b"%d" % len(body))], body)

    async def _deliver_whole(self, status: int, headers: RawHeaders, body: bytes) -> None:
        await self._deliver({"type": "http.response.start", "status": status, "headers": headers})
        await self._deliver({"type": "http.response.body", "body": body})

    async def _deliver(self, message: Message) -> bool:
        """Hand it to the caller; False when it has gone away."""
        if self._caller_gone:
            return False
        if self._head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        try:
            async with asyncio.timeout(self._manners.reading_within.total_seconds()):
                await self._send(message)
            self._heard = self._heard or (bool(message.get("body")) and not self._caller_gone)
        except OSError:  # the server's word for a caller who went away, and ours for one who has stopped reading
            self.leave()
        return not self._caller_gone
