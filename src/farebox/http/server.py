"""How `farebox serve` reads HTTP from a socket: uvicorn's parser, with what it leaves to others.

Rules
1. A request is what stood in front of its body. Trailers are no header fields (RFC 9110, 6.5.1) and are dropped.
2. Header fields are bounded while they arrive, not when they are all there.
3. What two servers may read differently is refused: one Host, one framing, one target, HTTP/1.0 or 1.1.
4. A body behind an `Upgrade` would be lost, so such a request is refused. A websocket is made only where uvicorn is
   told to make them, and then the connection is no longer ours.
5. What can't be read is answered last, after every request in front of it, and ends the connection. The caller gets
   time to hear that answer.
6. A caller is waited for, but not for ever (`Watch`).
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from farebox.core.errors import (
    CallerError,
    HeadersTooLarge,
    MalformedRequest,
    RequestTimeout,
    TargetTooLong,
    Unavailable,
)
from farebox.http import problem
from farebox.http.request import MOST_HEADER_BYTES, MOST_HEADERS, AsgiApp
from farebox.http.watch import Patience, Wait, Waiting, Watch

MOST_TARGET_BYTES: Final = 8192
_MOST_UNHEARD: Final = MOST_HEADER_BYTES + MOST_TARGET_BYTES
_MOST_PIPELINED: Final = 32
_HOST: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=:\[\]-]*").fullmatch  # RFC 9110, 7.2
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#]*)[/?]").match  # RFC 9112, 3.2.2


def strict_http(patience: Patience | None = None) -> type[asyncio.Protocol]:
    """What uvicorn is to speak: `uvicorn.Config(app, http=strict_http())`. One for each server."""
    watch = Watch(patience or Patience())
    return cast("type[asyncio.Protocol]", partial(StrictHttp, watch=watch))  # uvicorn only calls it


class StrictHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, stricter."""

    transport: asyncio.Transport

    def __init__(self, *, watch: Watch, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._watch = watch
        self._request = 0  # how many heads were whole
        self._in_head = self._in_body = False
        self._size = self._target_size = 0
        self._host: bytes | None = None
        self._coding: bytes | None = None
        self._framed = False
        self._refusal: CallerError | None = None
        self._unheard = 0  # bytes that came without any part of a message being whole
        self._heard = 0  # bytes of bodies
        self._running: RequestResponseCycle | None = None
        self._last_words: CallerError | None = None  # to be said when what came before is answered
        self._deaf = False  # to whatever else comes
        self._leaving = False
        self._caught_up = 0  # how often the caller was behind in reading, and caught up

    # --- called by the event loop -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A caller."""
        super().connection_made(transport)
        if not self._watch.take(self):
            self._leave(Unavailable("too many connections are open"))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whichever side."""
        self._watch.drop(self)
        if self._running is not None:
            _tell_gone(self._running)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._unheard += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # the request is answered as if it had not asked; the parser can't read on
            if self._should_upgrade():
                self._watch.drop(self)
                self.handle_websocket_upgrade()
        except httptools.HttpParserError as error:
            own = isinstance(error, httptools.HttpParserCallbackError)
            self._refuse_the_rest(self._refusal or MalformedRequest(None if own else str(error)))
        else:
            if self._unheard > _MOST_UNHEARD:
                self._refuse_the_rest(_too_large())

    def resume_writing(self) -> None:
        """The caller has caught up with reading."""
        self._caught_up += 1
        super().resume_writing()

    # --- called by the parser -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        self._size = self._target_size = 0
        self._host = self._coding = None
        self._framed = False
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        self._unheard = 0
        self._target_size += len(url)
        if self._target_size > MOST_TARGET_BYTES:
            self._refuse(TargetTooLong(f"at most {MOST_TARGET_BYTES} bytes"))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer field."""
        self._unheard = 0
        self._size += len(name) + len(value)
        if self._size > MOST_HEADER_BYTES or len(self.headers) >= MOST_HEADERS:
            self._refuse(_too_large())
        if not self._in_head:
            return
        name = name.lower()
        self.headers.append((name, value))
        if name == b"host":
            if self._host is not None:
                self._refuse(MalformedRequest("more than one Host header"))
            if not _HOST(value):
                self._refuse(MalformedRequest("the Host header is no host"))
            self._host = value
        elif name == b"transfer-encoding":
            self._coding = value
        elif name == b"content-length":
            self._framed = value.strip(b" \t0") != b""
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        """The head is whole."""
        version, upgrade = self.parser.get_http_version(), self.parser.should_upgrade()
        self._check_head(version, upgrade=upgrade)
        if version == "1.0":  # which knows no interim answers
            self.expect_100_continue = False
        super().on_headers_complete()
        self._request += 1
        self._in_head, self._in_body = False, True
        if upgrade and not self._should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unheard = 0
        self._heard += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._unheard = 0
        self._in_body = False
        self._watch.busy(self)
        super().on_message_complete()

    def _check_head(self, version: str, *, upgrade: bool) -> None:
        if version not in ("1.0", "1.1"):
            self._refuse(MalformedRequest("this is not HTTP/1.1"))
        if self._host is None and version == "1.1":
            self._refuse(MalformedRequest("no Host header"))
        if self._coding is not None and (self._coding.lower() != b"chunked" or version == "1.0"):
            self._refuse(MalformedRequest("the Transfer-Encoding is `chunked`, in HTTP/1.1, or none"))
        if upgrade and (self._framed or self._coding is not None):
            self._refuse(MalformedRequest("an upgrade of the protocol is not made here; send the request without it"))
        if upgrade and self._at_work() and self._should_upgrade():
            self._refuse(MalformedRequest("an upgrade of the protocol waits until everything is answered"))
        if not self.url.startswith(b"/"):
            absolute = _ABSOLUTE(self.url)
            if absolute is None or absolute[1].lower() != (self._host or b"").lower():
                self._refuse(MalformedRequest("the request target is not a path of the Host that is asked"))
        if b"#" in self.url:
            self._refuse(MalformedRequest("the request target has a fragment"))
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._refuse(MalformedRequest(f"more than {_MOST_PIPELINED} requests wait for their answers"))

    def _refuse(self, error: CallerError) -> None:
        self._refusal = error
        raise error  # ends the parsing; what follows is `_refuse_the_rest`

    # --- answers ------------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: AsgiApp) -> None:  # type: ignore[override]  # ours
        self._running = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]  # our word for the same

    def on_response_complete(self) -> None:
        """A request is answered."""
        if self._leaving:
            return
        super().on_response_complete()
        if not self._at_work():
            if self._last_words is not None:
                self._leave(self._last_words)
            else:
                self._watch.idle(self)

    def shutdown(self) -> None:
        """The server stops."""
        if self._leaving:
            self.transport.abort()
        else:
            super().shutdown()

    def _at_work(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _refuse_the_rest(self, error: CallerError) -> None:
        """Answer the requests that came in front, then this, and then close."""
        self._deaf = True
        if self._in_body:  # the request whose body is broken is told by this
            _tell_gone(self.cycle)
            if self.cycle is not self._running:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self.transport.close()
                return
            else:
                self._running = None
        if self._at_work():
            self._last_words = error
        else:
            self._leave(error)

    def _leave(self, error: CallerError | Unavailable) -> None:
        """Say a last word, and go on listening for a while: closing at once would have the caller's system drop it."""
        self._deaf = True
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._leaving = True
        headers, body = problem.problem(error)
        lines = [STATUS_LINE[error.status]]
        for name, value in [*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close")]:
            lines += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*lines, b"\r\n", body]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    # --- called by the watch ------------------------------------------------------------------------------------------

    def waits_for(self) -> Waiting:
        """What it waits for now."""
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            return Waiting(Wait.READER, self._caught_up, -unsent)
        return Waiting(self._wait(), self._request, self._heard)

    def _wait(self) -> Wait:
        if self._leaving:
            return Wait.LEAVING
        if self._in_body:
            if self.cycle.response_complete:
                return Wait.LEAVING
            ours = self.flow.read_paused or self.cycle.waiting_for_100_continue or self.cycle is not self._running
            return Wait.NOTHING if ours else Wait.BODY
        if self._at_work():
            return Wait.NOTHING
        return Wait.HEAD if self._in_head or self.timeout_keep_alive_task is None else Wait.NOTHING

    def run_out(self, wait: Wait) -> None:
        """The patience with this has run out."""
        if wait is Wait.BODY or (wait is Wait.HEAD and (self._in_head or self._unheard)):
            self._refuse_the_rest(RequestTimeout())
        else:
            self.transport.abort()

    def make_room(self) -> None:
        """Close it now, for another one."""
        self.transport.abort()


def _tell_gone(cycle: RequestResponseCycle) -> None:
    """Have an app that still waits for its caller, or writes to it, go on without."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"at most {MOST_HEADERS} fields of {MOST_HEADER_BYTES} bytes together")
