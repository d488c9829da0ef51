"""The request that a model means, if it may be sent.

Rules
1. A URL is one of http or https, written out, without user information: it is kept in the purse and shown.
2. Fields that shape the connection, and those that are for a proxy, are not a model's to set.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import httpx

from farebox.core.host import can_be_called
from farebox.payer import Offer

_MOST_BODY_BYTES: Final = 1024 * 1024
_METHOD: Final = re.compile(r"[A-Z]{1,16}", re.ASCII)
_METHODS_REFUSED: Final = frozenset(("CONNECT", "TRACE"))
_HEADERS_REFUSED: Final = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect")
)
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")


class Unsendable(Exception):
    """The arguments make no request that may be sent; its text says why."""


class PaysForCalls(Protocol):
    """What is needed of a client: `farebox.AsyncClient` is one. It must not follow redirects by itself."""

    def build_request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> httpx.Request:
        """A request of this client's."""

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Send it, and pay if need be."""

    async def ask(self, request: httpx.Request) -> Offer | None:
        """Send it and pay nothing: what it would cost."""

    def digest(self, request: httpx.Request) -> bytes | None:
        """What the same request made again is known by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a model says of a call. Of the three bodies there is one at most."""

    url: str
    method: str
    headers: Mapping[str, str] | None
    text: str
    json: object
    base64: str


def read_request(client: PaysForCalls, wanted: Wanted) -> httpx.Request:
    """The request that is meant. Raises Unsendable."""
    if sum((bool(wanted.text), wanted.json is not None, bool(wanted.base64))) > 1:
        raise Unsendable("give one of body, body_json and body_base64")
    headers = {name.lower(): value for name, value in (wanted.headers or {}).items()}
    for name in headers:
        if name in _HEADERS_REFUSED or name.startswith(("proxy-", "farebox-")):
            raise Unsendable(f"the header {name[:60]} can't be set here")
    content, kind = _body(wanted)
    method = (wanted.method or ("POST" if content else "GET")).upper()
    if not _METHOD.fullmatch(method) or method in _METHODS_REFUSED:
        raise Unsendable("the method is GET, POST, PUT, PATCH, DELETE or HEAD")
    if kind:
        headers.setdefault("content-type", kind)
    try:
        request = client.build_request(
            method, wanted.url, headers=headers | {"accept-encoding": "identity"}, content=content or None
        )
        host = request.url.host  # which is spelt out here
    except (ValueError, TypeError, httpx.InvalidURL):
        raise Unsendable("a header or the URL can't be sent") from None
    if not can_be_called(request.url.raw_host.decode("ascii"), request.url.port):
        raise Unsendable("nobody can have such a host or port")
    if _CONTROL.search(wanted.url) or request.url.scheme not in ("http", "https") or not host:
        raise Unsendable("a URL is written out, such as https://api.example.com/v1/score")
    if request.url.userinfo:
        raise Unsendable("a URL has no user name and password here; send an Authorization header")
    return request


def _body(wanted: Wanted) -> tuple[bytes, str]:
    """The body, and what it is unless the headers say something else."""
    try:
        if wanted.json is not None:
            content, kind = json.dumps(wanted.json, ensure_ascii=False, allow_nan=False).encode(), "application/json"
        elif wanted.base64:
            content, kind = base64.b64decode(wanted.base64, validate=True), ""
        else:
            content, kind = wanted.text.encode(), "text/plain; charset=utf-8" if wanted.text else ""
    except (ValueError, TypeError, RecursionError):
        raise Unsendable("the body can't be read as what it is said to be") from None
    if len(content) > _MOST_BODY_BYTES:
        raise Unsendable(f"a body has {_MOST_BODY_BYTES} bytes at most here")
    return content, kind
