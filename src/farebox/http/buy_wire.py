"""What a request and its answers are to the payer; for httpx and httpx2 alike.

Rules
1. A body is bought with only if it can be sent again: bytes, text, JSON, forms, files. A generator is left untouched.
2. Of a 402 at most 64 KiB are read and at most 64 KiB decompressed, within ten seconds; what is larger, slower or coded
   otherwise than in gzip or deflate is left to its headers.
3. Only a body that says it is JSON tells a price. Prose never does.
4. A proof takes the place of whatever credentials the request had. Redirects to another origin lose it, because HTTP
   clients drop `Authorization` there.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, closing, suppress
from datetime import timedelta
from hashlib import sha256
from types import MappingProxyType, ModuleType
from typing import Final, TypeVar, cast

import httpx

from farebox.core.exchange import Json, Wire
from farebox.payer import Answered, OutgoingCall

K = TypeVar("K")

_LIBRARIES: Final = frozenset(("httpx", "httpx2"))
_MOST_BYTES: Final = 64 * 1024
_READ_WITHIN: Final = timedelta(seconds=10)
_PORTS: Final = MappingProxyType({"http": 80, "https": 443})
_WINDOW_BITS: Final = MappingProxyType({"gzip": 31, "x-gzip": 31, "deflate": 15})
_DIGESTED: Final = ("content-type", "accept")
_LENGTHS: Final = frozenset(("content-length", "transfer-encoding"))
_NO_MEMBERS: Final[Mapping[str, Json]] = MappingProxyType({})


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


def origin_of(url: httpx.URL) -> str:
    """`https://host:port`, with the port always."""
    host = url.raw_host.decode("ascii")
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{url.port or _PORTS.get(url.scheme, 0)}"


# --- the request ------------------------------------------------------------------------------------------------------


def read_call(request: httpx.Request) -> OutgoingCall:
    """The call that a request makes. A body that can be sent again is read into memory."""
    url = request.url.copy_with(userinfo=b"", fragment=None)
    digest = _digest(request, str(url), request.read()) if _is_replayable(request) else None
    return OutgoingCall(origin=origin_of(url), url=str(url), digest=digest)


def _is_replayable(request: httpx.Request) -> bool:
    stream = request.stream
    if isinstance(stream, library_of(request).ByteStream) or hasattr(stream, "fields"):  # bytes, or a multipart form
        return True
    given = getattr(stream, "_stream", None)  # where both libraries keep what they were handed; nothing public tells
    return isinstance(given, list | tuple) or (hasattr(given, "read") and hasattr(given, "seek"))


def _digest(request: httpx.Request, url: str, body: bytes) -> bytes:
    fields = [b"farebox call 1", request.method.encode(), url.encode()]
    fields += [request.headers.get(name, "").encode() for name in _DIGESTED]
    fields.append(sha256(body).digest())
    return sha256(b"".join([len(field).to_bytes(4, "big") + field for field in fields])).digest()


def with_proof(request: httpx.Request, proof: Wire) -> httpx.Request:
    """The same request with a proof, which replaces headers, parameters and JSON members of the same names."""
    replaced = _LENGTHS | {name for name, _ in proof.headers}
    headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() not in replaced]
    return type(request)(
        request.method,
        request.url.copy_merge_params(dict(proof.query)) if proof.query else request.url,
        headers=[*headers, *proof.headers],
        content=_with_members(request.read(), proof.body),
        extensions=request.extensions,
    )


def _with_members(body: bytes, members: Mapping[str, Json]) -> bytes:
    if not members:
        return body
    present = _read_object(body)
    return body if present is None else json.dumps({**present, **members}).encode()


# --- the answer -------------------------------------------------------------------------------------------------------


def hear(response: httpx.Response) -> Answered:
    """What the payer has to know of an answer. A 402 is used up by it, a problem is read, the rest is left unread."""
    if response.status_code == httpx.codes.PAYMENT_REQUIRED:
        basket = _Basket(response)
        with suppress(library_of(response).RequestError), closing(_parts(response)) as parts:
            for part in parts:
                if not basket.take(part):
                    break
        drop(response)
        return _answered(response, basket.members())
    if _is_short_problem(response):
        response.read()
        return _answered(response, _read_object(response.content))
    return _answered(response)


async def ahear(response: httpx.Response) -> Answered:
    """The same for an awaiting client."""
    if response.status_code == httpx.codes.PAYMENT_REQUIRED:
        basket = _Basket(response)
        with suppress(library_of(response).RequestError):
            async with aclosing(_aparts(response)) as parts:
                async for part in parts:
                    if not basket.take(part):
                        break
        await adrop(response)
        return _answered(response, basket.members())
    if _is_short_problem(response):
        await response.aread()
        return _answered(response, _read_object(response.content))
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


def _answered(response: httpx.Response, members: Mapping[str, Json] | None = None) -> Answered:
    headers = tuple((name.lower(), value) for name, value in response.headers.multi_items())
    return Answered(
        status=response.status_code,
        origin=origin_of(response.request.url),
        wire=Wire(headers=headers, body=members or _NO_MEMBERS),
    )


def _is_short_problem(response: httpx.Response) -> bool:
    length = response.headers.get("content-length", "")
    return (
        response.is_error
        and _media_type(response) == "application/problem+json"
        and "content-encoding" not in response.headers
        and length.isascii()
        and length.isdigit()
        and int(length) <= _MOST_BYTES
    )


def _media_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


class _Basket:
    """Takes the raw parts of a body while there is room and time."""

    def __init__(self, response: httpx.Response) -> None:
        kind = _media_type(response)
        self._wanted = kind == "application/json" or kind.endswith("+json")
        coding = "" if response.is_stream_consumed else response.headers.get("content-encoding", "")
        self._coding = coding.strip().lower()
        self._raw = bytearray()
        self._until = time.monotonic() + _READ_WITHIN.total_seconds()

    def take(self, part: bytes) -> bool:
        """Whether to go on reading."""
        self._raw += part
        if len(self._raw) > _MOST_BYTES or time.monotonic() > self._until:
            self._wanted = False
        return self._wanted

    def members(self) -> Mapping[str, Json] | None:
        """The JSON object that was taken; None when there is none, or not a small one."""
        return _read_object(_expand(bytes(self._raw), self._coding)) if self._wanted else None


def _expand(raw: bytes, coding: str) -> bytes:
    """The body without its coding; empty when it is too large or not what it says."""
    if coding in ("", "identity"):
        return raw
    if coding not in _WINDOW_BITS:
        return b""
    unpacker = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        body = unpacker.decompress(raw, _MOST_BYTES + 1)
    except zlib.error:
        return b""
    return body if len(body) <= _MOST_BYTES else b""


def _read_object(body: bytes) -> dict[str, Json] | None:
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


# --- an answer that says when it has come whole -----------------------------------------------------------------------


def watch(response: httpx.Response, when_whole: Callable[[], None]) -> None:
    """Have the function called when the last byte of the answer was read."""
    kind = of_library(_Watched, library_of(response), "SyncByteStream")
    response.stream = kind(cast("httpx.SyncByteStream", response.stream), when_whole)


def awatch(response: httpx.Response, when_whole: Callable[[], Awaitable[None]]) -> None:
    """The same for an awaiting client."""
    kind = of_library(_AsyncWatched, library_of(response), "AsyncByteStream")
    response.stream = kind(cast("httpx.AsyncByteStream", response.stream), when_whole)


class _Watched(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, when_whole: Callable[[], None]) -> None:
        self._watched = stream
        self._when_whole = when_whole

    @property
    def elapsed(self) -> timedelta | None:
        """Where httpx2 looks for `Response.elapsed`."""
        elapsed: timedelta | None = getattr(self._watched, "elapsed", None)
        return elapsed

    def __iter__(self) -> Iterator[bytes]:
        yield from self._watched
        self._when_whole()

    def close(self) -> None:
        self._watched.close()


class _AsyncWatched(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, when_whole: Callable[[], Awaitable[None]]) -> None:
        self._watched = stream
        self._when_whole = when_whole

    @property
    def elapsed(self) -> timedelta | None:
        """Where httpx2 looks for `Response.elapsed`."""
        elapsed: timedelta | None = getattr(self._watched, "elapsed", None)
        return elapsed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._watched)
        try:
            async for part in parts:
                yield part
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()
        await self._when_whole()

    async def aclose(self) -> None:
        await self._watched.aclose()
