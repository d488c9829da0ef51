"""Buy answers with requests: `Session`, and `Adapter` for a session of one's own.

    with farebox.requests.Session(wallet="phoenixd+http://:password@127.0.0.1:9740", budget="500 sat/day") as session:
        answer = session.post(url, json={"prompt": "…"})
        answer.farebox.paid

Rules
1. All paying is done in the adapter, which sees each hop of a redirect; a session of farebox's only mounts it.
2. Only the origin that the caller named is paid. The session follows redirects with the request as it was, without the
   proof; within the origin the adapter shows it again, and never pays twice for one call.
3. A body is bought with only if it can be sent again: bytes, text, JSON, forms, files. It is read into memory. A
   generator, a pipe or an encoder that streams is left untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Unpack

from farebox.core.exchange import Wire
from farebox.core.lazy import extra
from farebox.http.buy_hops import Shown, Trail
from farebox.http.buy_read import (
    Basket,
    answered,
    can_call,
    digest_of,
    is_short_problem,
    target_of,
    with_members,
    with_query,
)
from farebox.http.buyer import Buyer, Terms, chosen_buyer
from farebox.payer import Answered, Bought, Deliver, NoAnswer, OutgoingCall, Send
from farebox.payer.verdict import is_failure

with extra("requests"):
    import requests
    from requests.adapters import BaseAdapter, HTTPAdapter
    from urllib3.exceptions import HTTPError

_PAYMENT_REQUIRED: Final = 402
_LENGTHS: Final = ("Content-Length", "Transfer-Encoding")
_PART_BYTES: Final = 8192
_SILENCE_S: Final = 10.0
_LOST: Final = (requests.RequestException, HTTPError, OSError, ValueError)  # the last for a chunk of less than nothing

_call: ContextVar[_Call | None] = ContextVar("farebox_call", default=None)  # none in a session of one's own


class Adapter(BaseAdapter):
    """Pays for what a session of one's own asks: `session.mount("https://", farebox.requests.Adapter(wallet=…))`.

    buyer: of `farebox.open_buyer`; or instead of it wallet, budget, max and purse, as they are told there.
    over: the adapter that carries the calls, such as `HTTPAdapter(max_retries=3)`. Each answer has a `payer.Bought` as
    `farebox`. Calls raise a PurchaseError, which says whether money moved; StoreUnavailable, and nothing was paid, when
    the purse can't be written; and requests' own errors for what went wrong before anything was to be paid.
    """

    def __init__(self, *, over: BaseAdapter | None = None, **terms: Unpack[Terms]) -> None:
        super().__init__()
        self.buyer = chosen_buyer(**terms)
        self._is_buyer_ours = terms.get("buyer") is None
        self._over = HTTPAdapter() if over is None else over

    def send(  # type: ignore[override] # the rest is handed on as it came
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - so it is called
        **options: Any,
    ) -> requests.Response:
        """Send a request, and pay for its answer if need be; see requests for the options."""
        if not can_call(str(request.url)):
            raise requests.exceptions.InvalidURL("nobody can have such a host or port", request=request)
        origin = target_of(str(request.url))[0]
        trail = _trail_of(request) or Trail(origin=origin)
        shown = trail.at(origin)
        if shown is not None:
            response = self._show_again(request, shown, options)
        else:
            exchange = _Exchange(request, trail, whole=not stream)
            response = self._buy(exchange, options)
            owed = exchange.owed or trail.owed
            trail = Trail(origin=trail.origin, call=trail.call, shown=exchange.shown, owed=owed)
            if (call := _call.get()) is not None:
                call.owed = owed
        response.connection = self  # type: ignore[assignment] # an auth of the caller's sends again through it
        if response.is_redirect:
            request.hooks = _Redirected(request, trail)
        if trail.owed is not None and not _is_followed(response):
            if is_failure(response.status_code):
                self.buyer.drivers.note(trail.owed.trouble)
            else:
                _watch(response.raw, self.buyer, trail.owed)
        return response

    def _buy(self, exchange: _Exchange, options: dict[str, Any]) -> requests.Response:
        drivers, telling = self.buyer.drivers, self.buyer.purchase(exchange.call)
        try:
            while (step := drivers.advance(telling)) is not None:
                match step:
                    case Send():
                        telling.reply(self._send_one(exchange, step, options))
                    case Deliver():
                        telling.reply(self._deliver(exchange, step))
                if telling.step is not None and not isinstance(telling.step, Deliver):
                    exchange.answer.close()
        except BaseException:
            if exchange.response is not None:
                exchange.response.close()
            raise
        finally:
            telling.close()
        return exchange.end(telling.result)

    def _send_one(self, exchange: _Exchange, step: Send, options: dict[str, Any]) -> Answered | NoAnswer:
        try:
            return exchange.heard(self._over.send(exchange.outgoing(step.proof), stream=True, **options))
        except _LOST as error:
            if not step.is_owed:
                raise
            return NoAnswer(reason=type(error).__name__)

    def _deliver(self, exchange: _Exchange, step: Deliver) -> NoAnswer | None:
        if _is_followed(exchange.answer):
            exchange.owed = step
            return None
        if not exchange.whole:
            _watch(exchange.answer.raw, self.buyer, step)
            return None
        is_framed = _is_framed(exchange.answer.raw)
        try:
            content = exchange.answer.content
        except _LOST as error:
            return NoAnswer(reason=type(error).__name__)
        if not (content or is_framed or exchange.answer.is_redirect or exchange.came_empty):
            exchange.came_empty = True
            return NoAnswer(reason="an answer without a length, and empty")
        self.buyer.drivers.note(step.outcome)
        return None

    def _show_again(
        self, request: requests.PreparedRequest, shown: Shown, options: dict[str, Any]
    ) -> requests.Response:
        """What a paid answer redirected to, within the origin."""
        response = self._over.send(_with_proof(request, shown.proof), stream=True, **options)
        if response.status_code == _PAYMENT_REQUIRED:
            response.close()
            raise shown.refused(str(request.url))
        return _carrying(response, shown.bought)

    def close(self) -> None:
        """Close the connections, and the purse if it was opened here."""
        self._over.close()
        if self._is_buyer_ours:
            self.buyer.close()


class Session(requests.Session):
    """A requests.Session that pays for what it is asked to pay for, within a budget.

    buyer; or wallet, budget, max and purse; over: see Adapter. For what errors it raises, too.
    """

    def __init__(self, *, over: BaseAdapter | None = None, **terms: Unpack[Terms]) -> None:
        super().__init__()
        adapter = Adapter(over=over, **terms)
        self.buyer = adapter.buyer
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """What requests calls, also for each hop of a redirect that it follows."""
        if _call.get() is not None:
            return super().send(request, **options)
        call = _Call(follows=options.get("allow_redirects", True))
        whole = _call.set(call)
        try:
            return super().send(request, **options)
        except Exception:
            if call.owed is not None:
                self.buyer.drivers.note(call.owed.trouble)
            raise
        finally:
            _call.reset(whole)


# --- one call ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Call:
    """One call of a Session, with all its hops. follows: whether redirects are followed. owed: as in Trail."""

    follows: bool
    owed: Deliver | None = None


class _Exchange:
    """One call as the adapter sees it: the request, and the answer heard last."""

    def __init__(self, request: requests.PreparedRequest, trail: Trail, *, whole: bool) -> None:
        self.request = request
        self.whole = whole
        self.response: requests.Response | None = None
        self.shown: Shown | None = None
        self.owed: Deliver | None = None
        self.came_empty = False  # and may have been cut off in its head; if it comes so twice, it is the answer
        self._proof: Wire | None = None
        origin, url, path = target_of(str(request.url))
        method, body = str(request.method), _replayable(request)

        def digest() -> bytes | None:
            return None if body is None else digest_of(method, url, _as_text(request.headers), body)

        if trail.call is None:
            trail.call = OutgoingCall(origin=trail.origin, url=url, method=method, path=path, digest=digest)
        self.call = trail.call.led(strays=trail.strays(origin))

    @property
    def answer(self) -> requests.Response:
        if self.response is None:
            raise TypeError("there is no answer yet")
        return self.response

    def outgoing(self, proof: Wire | None) -> requests.PreparedRequest:
        self._proof = proof
        return self.request if proof is None else _with_proof(self.request, proof)

    def heard(self, response: requests.Response) -> Answered:
        self.response = response
        body = _hear(response)
        lines = getattr(response.raw.headers, "iteritems", response.raw.headers.items)()
        return answered(response.status_code, target_of(str(self.request.url))[0], lines, body)

    def end(self, bought: Bought) -> requests.Response:
        if self._proof is not None and not bought.reused:
            self.shown = Shown(proof=self._proof, bought=bought)
        return _carrying(self.answer, bought)


def _is_followed(response: requests.Response) -> bool:
    """Whether the session goes where it leads."""
    call = _call.get()
    return call is not None and call.follows and response.is_redirect and bool(response.headers["location"])


def _carrying(response: requests.Response, bought: Bought) -> requests.Response:
    response.farebox = bought  # type: ignore[attr-defined] # where a caller finds what it cost
    return response


class _Redirected(dict[str, Any]):
    """The hooks of a request that is redirected: its copies share them, and so are known for what they are."""

    def __init__(self, request: requests.PreparedRequest, trail: Trail) -> None:
        super().__init__(request.hooks)
        self.request = request
        self.trail = trail


def _trail_of(request: requests.PreparedRequest) -> Trail | None:
    """How a request came about; None for one that the caller makes, also when it is made again."""
    hooks = request.hooks
    return hooks.trail if isinstance(hooks, _Redirected) and hooks.request is not request else None


# --- the request ------------------------------------------------------------------------------------------------------


def _replayable(request: requests.PreparedRequest) -> bytes | None:
    """The body, read into memory; None, and it is left untouched, when it can be read only once."""
    body: Any = request.body
    if body is None:
        return b""
    if hasattr(body, "read"):
        if not isinstance(vars(request)["_body_position"], int) or not _is_seekable(body):
            return None
        body = body.read()
        vars(request)["_body_position"] = None  # what is in memory needs no rewinding
        for name in _LENGTHS:
            request.headers.pop(name, None)
        request.headers["Content-Length"] = str(len(body.encode() if isinstance(body, str) else body))
    if not isinstance(body, str | bytes | bytearray):
        return None
    request.body = body.encode() if isinstance(body, str) else bytes(body)
    return request.body


def _is_seekable(body: Any) -> bool:
    told = getattr(body, "seekable", None)
    return bool(told()) if told is not None else hasattr(body, "seek")


def _as_text(headers: Mapping[str, Any]) -> dict[str, str]:
    """Header values as they go out; requests takes bytes, too."""
    return {
        str(name).lower(): value.decode("latin-1") if isinstance(value, bytes) else str(value)
        for name, value in headers.items()
    }


def _with_proof(request: requests.PreparedRequest, proof: Wire) -> requests.PreparedRequest:
    """A copy with a proof, which replaces headers, parameters and JSON members of the same names."""
    proven = request.copy()
    names = dict.fromkeys(name for name, _ in proof.headers)
    for name in names:
        proven.headers[name] = ", ".join(proof.all(name))
    proven.url = with_query(str(request.url), proof.query)
    if proof.body and isinstance(request.body, bytes):
        proven.body = with_members(request.body, proof.body)
        proven.headers["Content-Length"] = str(len(proven.body))
    return proven


# --- the answer -------------------------------------------------------------------------------------------------------


def _hear(response: requests.Response) -> bytes | None:
    """What the payer has to read of an answer. A 402 is used up by it, a problem is read, the rest is left unread."""
    if response.status_code == _PAYMENT_REQUIRED:
        basket = Basket(response.headers, is_decoded=False)
        with suppress(*_LOST):
            for part in _raw_parts(response.raw):
                if not basket.take(part):
                    break
        response.close()
        return basket.body()
    return response.content if is_short_problem(response.status_code, response.headers) else None


def _raw_parts(raw: Any) -> Iterator[bytes]:
    """What has come, as it comes: `read` would wait for a whole part, however slowly it drips."""
    wire = raw
    for name in ("_fp", "fp", "raw", "_sock"):  # nothing public leads to the socket of an answer that ends with it
        wire = getattr(wire, name, None)
    if wire is not None:
        wire.settimeout(min(wire.gettimeout() or _SILENCE_S, _SILENCE_S))
    read = getattr(raw, "read1", raw.read)
    while part := read(_PART_BYTES, decode_content=False):
        yield part


def _is_framed(raw: Any) -> bool:
    """Whether an answer without a body is known to be whole: http.client takes a head that was cut off for one."""
    return raw.length_remaining is not None or bool(raw.chunked)


def _watch(raw: Any, buyer: Buyer, step: Deliver) -> None:
    """Have the purse told when the last byte was read, or the answer breaks off, in whichever way the caller reads."""
    is_told, is_whole = False, _is_framed(raw)

    def tell() -> None:
        nonlocal is_told
        if not is_told and is_whole:
            is_told = True
            buyer.drivers.note(step.outcome)

    @contextmanager
    def _noting() -> Iterator[None]:
        try:
            yield
        except _LOST:
            buyer.drivers.note(step.trouble)
            raise

    def watched(name: str) -> None:
        read = getattr(raw, name)

        def reading(amt: int | None = None, *given: Any, **named: Any) -> Any:
            nonlocal is_whole
            with _noting():
                part = read(amt, *given, **named)
            is_whole = is_whole or bool(part)
            if raw.length_remaining == 0 or amt is None or (amt and not part):
                tell()
            return part

        setattr(raw, name, reading)

    def streaming(*given: Any, **named: Any) -> Iterator[bytes]:
        with _noting():
            yield from stream(*given, **named)
        tell()

    if raw.length_remaining == 0:
        tell()
        return
    stream = raw.stream
    raw.stream = streaming
    watched("read")
    if hasattr(raw, "read1"):
        watched("read1")
