"""The recorder: takes the answer of a paid call from the app, decides with it, and passes it on.

Rules
1. An ordinary answer is captured, which stores it, and only then sent.
2. A stream (by its type, its announced length or its size) flows at once and is copied; it is captured before its last
   byte leaves.
3. What fails before a byte has left becomes a problem; what breaks afterwards breaks the connection, so that nobody
   takes a part for the whole. Either way the payment is released, or given up if the call must not run twice.
4. The caller's going away changes nothing.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import structlog

from farebox.core.errors import CallerError, Unavailable, UpstreamFailed
from farebox.core.payment import Answer, Payment, PaymentState
from farebox.gate import Grant
from farebox.http import problem
from farebox.http.request import AsgiApp, Message, RawHeaders, Receive, Scope, Send

log = structlog.get_logger("farebox")

_STREAMS: Final = (
    *(b"text/event-stream", b"application/x-ndjson", b"application/jsonl", b"application/json-seq"),
    *(b"multipart/x-mixed-replace", b"audio/", b"video/"),
)
# Told anew for every delivery, or about one connection only.
_NOT_KEPT: Final = frozenset(
    (b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"date", b"cache-control", b"server")
)


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
    Raises a CallerError or Unavailable when nothing was sent, BrokenOff when something was.
    """

    def __init__(self, grant: Grant, send: Send, *, head: bool, held_back: int, most_answer: int, rerun: bool) -> None:
        self._grant = grant
        self._send = send
        self._head = head
        self._held_back = held_back
        self._most_answer = most_answer
        self._rerun = rerun
        self._mode = _Mode.WAITING
        self._status = 0
        self._headers: RawHeaders = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._announced: int | None = None
        self._tail = b""
        self._error: CallerError | Unavailable | None = None
        self._caller_gone = False

    async def run(self, app: AsgiApp, scope: Scope, receive: Receive) -> None:
        """Run the call to its end."""
        failure: UpstreamFailed | None = None
        unknown = False
        try:
            await app(scope, receive, self._take)
        except UpstreamFailed as error:
            failure, unknown = error, error.evidence.get("sent") is True
        except Exception:
            log.exception("app-failed", resource=scope.get("path"))
            failure = UpstreamFailed("the seller's service failed")
        if self._error is not None:
            if self._flown:
                raise BrokenOff from self._error
            raise self._error
        if self._mode is _Mode.ENDED:
            return
        flown = self._flown
        if self._mode is _Mode.FAILING:
            failure = UpstreamFailed(f"the seller's service answered {self._status}", upstream_status=self._status)
            unknown = False
        failure = failure or UpstreamFailed("the seller's service broke off its answer")
        failure = await self._let_go(failure, unknown=unknown)
        if flown:
            raise BrokenOff from failure
        raise failure

    @property
    def _flown(self) -> bool:
        return self._mode is _Mode.FLOWING

    async def _let_go(self, failure: UpstreamFailed, *, unknown: bool) -> UpstreamFailed:
        if unknown and not self._rerun:
            payment = await self._grant.give_up()
        else:
            payment = await self._grant.release(ran=failure.evidence.get("sent") is not False)
        log.warning("released", reason=str(failure), state=payment.state.value, attempt=self._grant.hold.attempt)
        return failure.with_evidence(payment=_told(payment))

    async def _take(self, message: Message) -> None:
        if self._mode is _Mode.ENDED or self._error is not None:
            return
        if message["type"] == "http.response.start":
            self._start(message)
            if self._mode is _Mode.FLOWING:
                await self._deliver_head()
            return
        if message["type"] != "http.response.body":
            return
        await self._body(message.get("body", b""), last=not message.get("more_body", False))

    def _start(self, message: Message) -> None:
        self._status = message["status"]
        self._headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        if self._status >= 500:
            self._mode = _Mode.FAILING
        elif self._status >= 400:
            self._mode = _Mode.REFUSING
        else:
            self._mode = _Mode.FLOWING if self._is_stream() else _Mode.HOLDING

    def _is_stream(self) -> bool:
        streams = False
        for name, value in self._headers:
            if name == b"content-type" and value.lower().startswith(_STREAMS):
                streams = True
            elif name == b"content-length" and value.isdigit():
                self._announced = int(value)
        return streams or (self._announced or 0) > self._held_back

    async def _body(self, chunk: bytes, *, last: bool) -> None:
        if self._mode in (_Mode.FAILING, _Mode.WAITING):
            return
        self._size += len(chunk)
        if self._mode is _Mode.FLOWING:
            if self._size <= self._most_answer:
                self._chunks.append(chunk)
            if not last:
                if self._announced is not None and self._size >= self._announced:
                    self._tail += chunk  # holds the last byte, whatever the app says of more to come
                else:
                    await self._deliver({"type": "http.response.body", "body": chunk, "more_body": True})
                return
        else:
            self._chunks.append(chunk)
            if self._size > self._held_back and not last and self._mode is _Mode.HOLDING:
                self._mode = _Mode.FLOWING
                await self._deliver_head()
                await self._deliver({"type": "http.response.body", "body": b"".join(self._chunks), "more_body": True})
                return
        if last:
            await self._end(chunk)

    async def _end(self, last_chunk: bytes) -> None:
        body = b"".join(self._chunks) if self._size <= max(self._most_answer, self._held_back) else None
        try:
            if self._mode is _Mode.REFUSING or (body is None and self._head):
                # A HEAD has delivered nothing of an answer that is too large to be kept for its GET.
                payment = await self._grant.release()
                log.info("not-charged", status=self._status, payment=payment.state.value)
            else:
                kept = None if body is None else Answer(status=self._status, headers=self._kept_headers(), body=body)
                await self._grant.capture(kept)
                log.info("paid", amount_msat=self._grant.hold.amount.msat, status=self._status, bytes=self._size)
        except (CallerError, Unavailable) as error:
            self._error = error
            return
        mode, self._mode = self._mode, _Mode.ENDED
        if mode is _Mode.FLOWING:
            await self._deliver({"type": "http.response.body", "body": self._tail + last_chunk})
            return
        headers = [(name, value) for name, value in self._headers if name != b"content-length"]
        headers = self._paid_headers(headers) if mode is _Mode.HOLDING else _unpaid_headers(headers)
        headers.append((b"content-length", b"%d" % self._size))
        await self._deliver({"type": "http.response.start", "status": self._status, "headers": headers})
        await self._deliver({"type": "http.response.body", "body": b"".join(self._chunks)})

    def _kept_headers(self) -> tuple[tuple[str, str], ...]:
        kept = [(name, value) for name, value in self._headers if name not in _NOT_KEPT]
        kept.append((b"cache-control", b"private"))
        kept += problem.exposed(kept)
        return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in kept)

    def _paid_headers(self, headers: RawHeaders) -> RawHeaders:
        """The answer's own headers and the receipt; private, so that no cache gives it to another caller."""
        kept = [(name, value) for name, value in headers if name not in (b"cache-control", b"connection")]
        kept.append((b"cache-control", b"private"))
        return [*kept, *problem.exposed(kept), *problem.raw_headers(self._grant.receipt)]

    async def _deliver_head(self) -> None:
        await self._deliver(
            {"type": "http.response.start", "status": self._status, "headers": self._paid_headers(self._headers)}
        )

    async def _deliver(self, message: Message) -> None:
        if self._caller_gone:
            return
        if self._head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        try:
            await self._send(message)
        except OSError:  # the server's word for a caller who went away
            self._caller_gone = True


def _unpaid_headers(headers: RawHeaders) -> RawHeaders:
    """Those of an answer that refuses the call: nobody's for long, and readable by a page of any origin."""
    kept = [(name, value) for name, value in headers if name not in (b"cache-control", b"connection")]
    return [*kept, (b"cache-control", b"no-store"), (b"payment-kept", b"true"), *problem.exposed(kept)]


def _told(payment: Payment) -> str:
    """What became of the money, for the problem's `payment` member."""
    return "kept as credit" if payment.state is PaymentState.CREDIT else "kept; show the same proof again"
