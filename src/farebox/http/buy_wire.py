"""What a request and its answers are to the payer; for httpx and httpx2 alike.

Rules
1. A body is bought with only if it can be sent again: bytes, text, JSON, forms, files. A generator is left untouched.
2. A proof takes the place of whatever credentials the request had. Redirects to another origin lose it, because HTTP
   clients drop `Authorization` there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing, closing, suppress
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Final, TypeVar, cast

import httpx

from farebox.core.error import FareboxError
from farebox.core.exchange import Wire
from farebox.core.host import can_be_called
from farebox.http.buy_read import Basket, answered, digest_of, is_short_problem, origin_of, with_members
from farebox.payer import Answered, OutgoingCall

K = TypeVar("K")

_LIBRARIES: Final = frozenset(("httpx", "httpx2"))
_PART_BYTES: Final = 64 * 1024
_DONE: Final = re.compile(rb"[\r\n]data: ?\[DONE\][\r\n]+\Z")
_MOST_END: Final = 32  # bytes; of the line itself, and of the ends of lines around it
_LENGTHS: Final = frozenset(("content-length", "transfer-encoding"))


def library_of(message: httpx.Request | httpx.Response) -> ModuleType:
    """httpx or httpx2, whichever made it."""
    for kind in type(message).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in _LIBRARIES:
            return sys.modules[name]
    raise TypeError(f"{type(message).__name__} is neither of httpx nor of httpx2")


def of_library(kind: type[K], library: ModuleType, name: str) -> type[K]:
    """`kind`, and if need be a class that is both it and the library's own `name`: they check with isinstance."""
    base = getattr(library, name)
    return kind if issubclass(kind, base) else type(kind.__name__, (kind, base), {"__doc__": kind.__doc__})


# --- the request ------------------------------------------------------------------------------------------------------


class FileBody(httpx.SyncByteStream):
    """A body that is read from its file whenever it is sent: `httpx.Request(…, stream=FileBody(path))`.

    The request has to tell its length. Raises OSError for a file that can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.length = path.stat().st_size
        next(iter(self), None)

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while part := file.read(_PART_BYTES):
                yield part


def read_call(request: httpx.Request, *, keeps_proofs: bool = False) -> OutgoingCall:
    """The call that a request makes; see OutgoingCall.

    A body that can be sent again is read into memory, unless it is a `FileBody`.
    """
    url = request.url
    if url.userinfo or url.fragment:
        url = url.copy_with(userinfo=b"", fragment=None)
    text, replayable = str(url), _is_replayable(request)
    if replayable and not isinstance(request.stream, (library_of(request).ByteStream, FileBody)):
        request.read()  # before it is sent: a file is sent from where it stands

    def digest() -> bytes | None:
        if not replayable:
            return None
        body = request.stream if isinstance(request.stream, FileBody) else request.read()
        return digest_of(request.method, text, request.headers, body)

    return OutgoingCall(
        origin=origin_at(url),
        url=text,
        method=request.method,
        path=url.path,
        digest=digest,
        keeps_proofs=keeps_proofs,
    )


def check_place(request: httpx.Request) -> None:
    """Raises the library's InvalidURL for a host or port that nobody can have: some systems take 65616 for port 80."""
    if not can_be_called(request.url.raw_host.decode("ascii"), request.url.port):
        raise library_of(request).InvalidURL("nobody can have such a host or port")


def misled(request: httpx.Request) -> httpx.RemoteProtocolError:
    """The library's error for a redirect to what is no host: of some it raises idna's own."""
    error: httpx.RemoteProtocolError = library_of(request).RemoteProtocolError("it redirects to what is no address")
    error.request = request
    return error


def led_to(error: Exception, request: httpx.Request) -> str | None:
    """Where a redirect of the request led, if it is there that this went wrong."""
    try:
        at = error.request.url  # type: ignore[attr-defined] # where it has one
    except (AttributeError, RuntimeError):
        return None
    return None if at == request.url else str(at)


def origin_at(url: httpx.URL) -> str:
    """`https://host:port` of a URL."""
    return origin_of(url.scheme, url.raw_host.decode("ascii"), url.port)


def _is_replayable(request: httpx.Request) -> bool:
    stream = request.stream
    if isinstance(stream, (library_of(request).ByteStream, FileBody)):
        return True
    if hasattr(stream, "fields"):  # a multipart form
        return True
    given = getattr(stream, "_stream", None)  # where both libraries keep what they were handed; nothing public tells
    return isinstance(given, list | tuple) or (hasattr(given, "read") and hasattr(given, "seek"))


def with_proof(request: httpx.Request, proof: Wire) -> httpx.Request:
    """The same request with a proof, which replaces headers, parameters and JSON members of the same names."""
    if not proof.query and not proof.body:
        # What a library finds out when it makes a request is true of this one, too; its own copies lose the body.
        same = object.__new__(type(request))
        vars(same).update(vars(request))
        same.headers = type(request.headers)(request.headers)
        for name, value in proof.headers:
            same.headers[name] = value
        return same
    replaced = _LENGTHS | {name for name, _ in proof.headers}
    headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() not in replaced]
    return type(request)(
        request.method,
        request.url.copy_merge_params(dict(proof.query)) if proof.query else request.url,
        headers=[*headers, *proof.headers],
        content=with_members(request.read(), proof.body),
        extensions=request.extensions,
    )


# --- the answer -------------------------------------------------------------------------------------------------------


def hear(response: httpx.Response) -> Answered:
    """What the payer has to know of an answer. A 402 is used up by it, a problem is read, the rest is left unread."""
    if response.status_code == httpx.codes.PAYMENT_REQUIRED:
        basket = _basket(response)
        with suppress(library_of(response).RequestError), closing(_parts(response)) as parts:
            for part in parts:
                if not basket.take(part):
                    break
        drop(response)
        return _answered(response, basket)
    if is_short_problem(response.status_code, response.headers):
        response.read()
    return _answered(response)


async def ahear(response: httpx.Response) -> Answered:
    """The same for an awaiting client."""
    if response.status_code == httpx.codes.PAYMENT_REQUIRED:
        basket = _basket(response)
        with suppress(library_of(response).RequestError):
            async with aclosing(_aparts(response)) as parts:
                async for part in parts:
                    if not basket.take(part):
                        break
        await adrop(response)
        return _answered(response, basket)
    if is_short_problem(response.status_code, response.headers):
        await response.aread()
    return _answered(response)


def drop(response: httpx.Response) -> None:
    """Be done with an answer. The client reads it to its end before it sends again, so nothing is left to read."""
    response.close()
    _leave_empty(response)


async def adrop(response: httpx.Response) -> None:
    """The same for an awaiting client."""
    await response.aclose()
    _leave_empty(response)


def _leave_empty(response: httpx.Response) -> None:
    library = library_of(response)
    try:
        _ = response.content
    except library.ResponseNotRead:
        response.stream = library.ByteStream(b"")
        response.is_closed = response.is_stream_consumed = False
        response.headers.pop("content-encoding", None)


# What a transport without a socket hands over may be in memory, and decoded, already. All of these are generators,
# which their types don't say.


def _parts(response: httpx.Response) -> Generator[bytes, None, None]:
    parts = response.iter_bytes() if response.is_stream_consumed else response.iter_raw()
    return cast("Generator[bytes, None, None]", parts)


def _aparts(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    parts = response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw()
    return cast("AsyncGenerator[bytes, None]", parts)


def _basket(response: httpx.Response) -> Basket:
    return Basket(response.headers, is_decoded=response.is_stream_consumed)


def _answered(response: httpx.Response, basket: Basket | None = None) -> Answered:
    body = None
    if basket is not None:
        body = basket.body()
    elif is_short_problem(response.status_code, response.headers):
        body = response.content
    url = response.request.url
    location = str(url) if response.history else None
    return answered(response.status_code, origin_at(url), response.headers.multi_items(), body, location=location)


# --- an answer that says when it has come whole -----------------------------------------------------------------------


def watch(response: httpx.Response, when_whole: Callable[[], None], when_broken: Callable[[], None]) -> None:
    """Have a function called when the last byte of the answer was read, or when it breaks off.

    What its caller leaves before the end is neither. A stream of events is whole when it says `[DONE]`, where those who
    read it leave; a connection that breaks after it just ends.
    """
    kind = of_library(_Watched, library_of(response), "SyncByteStream")
    response.stream = kind(cast("httpx.SyncByteStream", response.stream), _end_of(response), when_whole, when_broken)


def awatch(
    response: httpx.Response, when_whole: Callable[[], Awaitable[None]], when_broken: Callable[[], Awaitable[None]]
) -> None:
    """The same for an awaiting client."""
    kind = of_library(_AsyncWatched, library_of(response), "AsyncByteStream")
    stream = cast("httpx.AsyncByteStream", response.stream)
    response.stream = kind(stream, _end_of(response), when_whole, when_broken)


class _End:
    """Whether the parts that went by end as an answer of this kind does. was_seen: whether any did."""

    def __init__(self, mark: re.Pattern[bytes] | None) -> None:
        self._mark = mark
        self._last = b"\n"
        self.was_seen = False

    def is_in(self, part: bytes) -> bool:
        """Whether it ends with this part, which it does once."""
        if self._mark is None or self.was_seen:
            return False
        self._last = (self._last + part)[-_MOST_END:]
        self.was_seen = self._mark.search(self._last) is not None
        return self.was_seen

    def outlasts(self, error: Exception) -> bool:
        """Whether the answer is whole all the same: what breaks after its end is nobody's loss."""
        return self.was_seen and not isinstance(error, FareboxError)


def _end_of(response: httpx.Response) -> _End:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_plain = kind == "text/event-stream" and "content-encoding" not in response.headers
    return _End(_DONE if is_plain else None)


class _Watched(httpx.SyncByteStream):
    def __init__(
        self, stream: httpx.SyncByteStream, end: _End, when_whole: Callable[[], None], when_broken: Callable[[], None]
    ) -> None:
        self._watched = stream
        self._end = end
        self._when_whole = when_whole
        self._when_broken = when_broken

    @property
    def elapsed(self) -> timedelta | None:
        """Where httpx2 looks for `Response.elapsed`."""
        elapsed: timedelta | None = getattr(self._watched, "elapsed", None)
        return elapsed

    def __iter__(self) -> Iterator[bytes]:
        try:
            for part in self._watched:
                if self._end.is_in(part):
                    self._when_whole()
                yield part
        except Exception as error:
            if self._end.outlasts(error):
                return
            if not self._end.was_seen:
                self._when_broken()
            raise
        if not self._end.was_seen:
            self._when_whole()

    def close(self) -> None:
        self._watched.close()


class _AsyncWatched(httpx.AsyncByteStream):
    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        end: _End,
        when_whole: Callable[[], Awaitable[None]],
        when_broken: Callable[[], Awaitable[None]],
    ) -> None:
        self._watched = stream
        self._end = end
        self._when_whole = when_whole
        self._when_broken = when_broken

    @property
    def elapsed(self) -> timedelta | None:
        """Where httpx2 looks for `Response.elapsed`."""
        elapsed: timedelta | None = getattr(self._watched, "elapsed", None)
        return elapsed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._watched)
        try:
            async for part in parts:
                if self._end.is_in(part):
                    await self._when_whole()
                yield part
        except Exception as error:
            if self._end.outlasts(error):
                return
            if not self._end.was_seen:
                await self._when_broken()
            raise
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()
        if not self._end.was_seen:
            await self._when_whole()

    async def aclose(self) -> None:
        await self._watched.aclose()
