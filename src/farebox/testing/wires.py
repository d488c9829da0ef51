"""What carries a call to a shop without a socket, for libraries that know nothing of httpx's transports."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import aiohttp
import httptools
import httpx
import requests
import urllib3
from aiohttp.client_proto import ResponseHandler
from requests.adapters import BaseAdapter, HTTPAdapter

Ask = Callable[[httpx.Request], httpx.Response]


class RequestsWire(BaseAdapter):
    """Carries what requests sends."""

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self._ask = ask
        self.closed = False

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        """The shop's answer, its body not read yet."""
        assert options["stream"]
        body: Any = request.body
        asked = httpx.Request(
            str(request.method),
            str(request.url),
            headers={name: _text(value) for name, value in request.headers.items()},
            content=body.read() if hasattr(body, "read") else body,
        )
        asked.read()
        try:
            told = self._ask(asked)
        except httpx.TimeoutException as error:
            raise requests.ReadTimeout(str(error)) from error
        except httpx.TransportError as error:
            raise requests.ConnectionError(str(error)) from error
        raw = urllib3.HTTPResponse(
            body=Drip(told),
            headers=urllib3.HTTPHeaderDict(told.headers.multi_items()),
            status=told.status_code,
            reason=told.reason_phrase,
            preload_content=False,
            decode_content=False,
            request_method=request.method,
        )
        return HTTPAdapter().build_response(request, raw)

    def close(self) -> None:
        """Nothing to close."""
        self.closed = True


class Drip(io.RawIOBase):
    """The body of an answer, as it comes from a socket: part by part, and it may break off."""

    def __init__(self, told: httpx.Response) -> None:
        self._told = told
        self._parts: Iterator[bytes] = iter([told.content]) if told.is_stream_consumed else told.iter_raw()
        self._rest = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def read1(self, most: int | None = -1) -> bytes:
        """What is there, or the next part."""
        if not self._rest:
            try:
                self._rest = next(self._parts, b"")
            except httpx.TransportError as error:
                raise urllib3.exceptions.ProtocolError(str(error)) from error
        part = self._rest if most is None or most < 0 else self._rest[:most]
        self._rest = self._rest[len(part) :]
        return part

    def read(self, most: int | None = -1) -> bytes:
        """So much, waiting for it as a socket's file does."""
        wanted = -1 if most is None else most
        found = bytearray()
        while wanted < 0 or len(found) < wanted:
            part = self.read1(wanted - len(found) if wanted >= 0 else -1)
            if not part:
                break
            found += part
        return bytes(found)

    def close(self) -> None:
        """Tell the shop."""
        self._told.close()
        super().close()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# --- aiohttp ----------------------------------------------------------------------------------------------------------


class AiohttpWire(aiohttp.BaseConnector):
    """Carries what aiohttp sends: its own protocol reads the shop's answer, byte by byte."""

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self._ask = ask

    async def _create_connection(self, req: aiohttp.ClientRequest, *_: Any) -> ResponseHandler:
        protocol: ResponseHandler = self._factory()
        protocol.connection_made(_Line(protocol, self._ask, str(req.url.origin())))
        return protocol


class _Line(asyncio.Transport):
    """One connection, as the client's protocol sees it."""

    def __init__(self, protocol: ResponseHandler, ask: Ask, origin: str) -> None:
        super().__init__()
        self._protocol = protocol
        self._ask = ask
        self._origin = origin
        self._running = asyncio.Event()
        self._running.set()
        self._parser = httptools.HttpRequestParser(self)
        self._answering: asyncio.Task[None] | None = None
        self._closed = False

    # what the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url, self._body = b"", b""
        self._headers: list[tuple[str, str]] = []

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        self._headers.append((name.decode(), value.decode()))

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """It is here whole."""
        method, url = self._parser.get_method().decode(), self._origin + self._url.decode()
        request = httpx.Request(method, url, headers=self._headers, content=self._body)
        self._answering = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: httpx.Request) -> None:
        try:
            told = self._ask(request)
            is_sized = "content-length" in told.headers
            lines = [f"HTTP/1.1 {told.status_code} {told.reason_phrase}"]
            lines += [f"{name}: {value}" for name, value in told.headers.multi_items()]
            lines += [] if is_sized else ["transfer-encoding: chunked"]
            self._protocol.data_received("\r\n".join([*lines, "", ""]).encode())
            try:
                for part in [told.content] if told.is_stream_consumed else told.iter_raw():
                    await asyncio.sleep(0)
                    await self._running.wait()
                    self._protocol.data_received(part if is_sized else b"%x\r\n%b\r\n" % (len(part), part) * bool(part))
            finally:
                told.close()
            if not is_sized:
                self._protocol.data_received(b"0\r\n\r\n")
        except httpx.TransportError as error:
            self._hang_up(ConnectionResetError(str(error)))

    def _hang_up(self, error: Exception | None) -> None:
        if not self._closed:
            self._closed = True
            self._protocol.connection_lost(error)

    # what the protocol calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """The client sends."""
        self._parser.feed_data(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """The client sends."""
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        """The client has enough for now."""
        self._running.clear()

    def resume_reading(self) -> None:
        """The client wants more."""
        self._running.set()

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """The client is done."""
        if self._answering is not None:
            self._answering.cancel()
        self._hang_up(None)

    def abort(self) -> None:
        """The client is done at once."""
        self.close()
