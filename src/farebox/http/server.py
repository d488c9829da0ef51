"""How `farebox serve` reads HTTP from a socket: uvicorn's parser, with what it leaves to others.

Rules
1. A request is what stood in front of its body. Trailers are no header fields (RFC 9110, 6.5.1) and are dropped.
2. Header fields are bounded while they arrive, not when they are all there.
3. A body behind an `Upgrade` that nobody makes would be lost, so such a request is refused.
"""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from farebox.core.errors import CallerError, HeadersTooLarge, MalformedRequest
from farebox.http import problem
from farebox.http.request import MOST_HEADER_BYTES, MOST_HEADERS

_MOST_BYTES: Final = MOST_HEADER_BYTES + 8192  # and a request target


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"at most {MOST_HEADERS} fields of {MOST_HEADER_BYTES} bytes together")


class StrictHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, stricter."""

    _complete = False
    _size = 0
    _refusal: CallerError | None = None
    _unheard = 0  # bytes that came without any part of a message being whole

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        self._unheard += len(data)
        super().data_received(data)
        if self._unheard > _MOST_BYTES and not self.transport.is_closing():
            self._refusal = _too_large()
            self.send_400_response("")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unheard = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._unheard = 0
        super().on_message_complete()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._complete = False
        self._size = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        self._bound(len(url), fields=0)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer field."""
        self._bound(len(name) + len(value), fields=len(self.headers))
        if not self._complete:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._complete = True
        upgrade = self.parser.should_upgrade()
        if upgrade and any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self.headers
        ):
            self._refuse(MalformedRequest("an upgrade of the protocol is not made here; send the request without it"))
        super().on_headers_complete()
        if upgrade:  # the parser reads nothing behind it
            self.cycle.keep_alive = False

    def _bound(self, size: int, *, fields: int) -> None:
        self._size += size
        self._unheard = 0
        if self._size > _MOST_BYTES or fields >= MOST_HEADERS:
            self._refuse(_too_large())

    def _refuse(self, error: CallerError) -> None:
        self._refusal = error
        raise error  # ends the parsing; what follows is `send_400_response`

    def _unsupported_upgrade_warning(self) -> None:
        """Not worth a line: the request is answered as if it had not asked."""

    def send_400_response(self, msg: str) -> None:
        """Answer what can't be read, as a problem, and close the connection."""
        answering = getattr(self, "cycle", None)  # there is none before the first head is whole
        if answering and answering.response_started and not answering.response_complete:
            self.transport.close()
            return
        error = self._refusal or MalformedRequest()
        headers, body = problem.problem(error)
        lines = [STATUS_LINE[error.status]]
        for name, value in [*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close")]:
            lines += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*lines, b"\r\n", body]))
        self.transport.close()
