"""The wallet's server over streamable HTTP: nobody without a purse token, and no page of a browser's.

Rules
1. Every request shows `Authorization: Bearer TOKEN`, and what its tool may spend is what that token says: a session is
   worth nothing, so none is kept.
2. `Host` and `Origin` are ours, or the request is refused: a page that was led to this address gets nowhere.
3. Who is refused is told nothing but that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.transport_security import TransportSecuritySettings

from farebox.core.allowance import Allowance
from farebox.core.errors import FareboxError, StoreUnavailable

PATH: Final = "/mcp"

_ALLOWANCE: Final = "farebox.allowance"
_LOOPBACK: Final = ("127.0.0.1:*", "localhost:*", "[::1]:*")
_MOST_TOKEN: Final = 8 * 1024

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Admit = Callable[[str], Allowance]


@asynccontextmanager
async def http_app(server: MCPServer[Any], *, admit: Admit, hosts: Sequence[str] = ()) -> AsyncIterator[App]:
    """The server as an ASGI app, at `/mcp`, for as long as this is open; one for each server.

    admit: what the holder of a token may spend; blocking, raises TokenRefused. hosts: names besides those of this
    machine under which it may be called, such as `wallet.example:443`.
    """
    known = [*_LOOPBACK, *hosts]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=known,
        allowed_origins=[f"{scheme}://{host}" for host in known for scheme in ("http", "https")],
    )
    inner: App = server.streamable_http_app(
        streamable_http_path=PATH, json_response=True, stateless_http=True, transport_security=security
    )
    async with server.session_manager.run():
        yield _TokenNeeded(inner, admit)


async def admitted_by_token(ctx: Context[Any, Any]) -> Allowance:
    """What the caller of a tool may spend, by the token of the very request. Raises TypeError behind no `http_app`."""
    request = ctx.request_context.request
    allowance = None if request is None else request.scope.get(_ALLOWANCE)
    if not isinstance(allowance, Allowance):
        raise TypeError("a tool was called without a token")
    return allowance


class _TokenNeeded:
    def __init__(self, app: App, admit: Admit) -> None:
        self._app = app
        self._admit = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = _token(scope)
        try:
            allowance = None if token is None else await asyncio.to_thread(self._admit, token)
        except StoreUnavailable as error:
            await _refuse(send, 503, error.title)
        except FareboxError:
            await _refuse(send, 401, "The purse token is not good")
        else:
            if allowance is None:
                await _refuse(send, 401, "Show a purse token: Authorization: Bearer TOKEN")
            else:
                await self._app({**scope, _ALLOWANCE: allowance}, receive, send)


def _token(scope: Scope) -> str | None:
    shown = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if len(shown) != 1 or len(shown[0]) > _MOST_TOKEN:
        return None
    scheme, _, token = shown[0].decode("latin-1").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="farebox"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
