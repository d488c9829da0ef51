"""Carry a call to a JSON-RPC server on a unix socket, as Core Lightning's `lightning-rpc`: it is no HTTP.

Rules
1. The call is `POST unix:///rpc/METHOD`, its body the JSON of the parameters, its line names the socket.
2. A result is a reply of 200 with the result as its body; an error is 500, with the error as its body.
3. Each call has a connection of its own. What did not connect was not sent; every other trouble may have arrived.
4. A call has its timeout for all of it, so that a server that tells byte after byte is not waited for without end.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from contextlib import suppress
from typing import Final

from farebox.core.conversation import HttpCall, HttpReply
from farebox.core.json_text import is_too_deep, load_json

PREFIX: Final = "unix:///rpc/"
_ID: Final = "farebox"
_CHUNK: Final = 65_536
_ENDED: Final = "the connection ended"
_TIMEOUT: Final = "ReadTimeout"  # as httpx calls it


def is_unix_rpc(call: HttpCall) -> bool:
    """Whether this is how the call is to be carried."""
    return call.url.startswith(PREFIX) and call.line is not None and call.line.socket is not None


def ask_unix_rpc(call: HttpCall, *, most_bytes: int) -> HttpReply:
    """The reply to a call, waiting for it; a larger one than so many bytes is none."""
    until = None if call.timeout is None else time.monotonic() + call.timeout.total_seconds()
    sent = False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_left(until))
            connection.connect(_path(call))
            sent = True
            connection.sendall(_request(call))
            body = bytearray()
            while len(body) <= most_bytes:
                connection.settimeout(_left(until))
                chunk = connection.recv(_CHUNK)
                body += chunk
                reply = _read(body) if chunk else _nothing(_ENDED)
                if reply is not None:
                    return reply
            return _too_large(most_bytes)
    except (OSError, ValueError) as trouble:
        return _nothing(_reason(trouble), sent=sent)


async def aask_unix_rpc(call: HttpCall, *, most_bytes: int) -> HttpReply:
    """The reply to a call, awaiting it; a larger one than so many bytes is none."""
    within = None if call.timeout is None else call.timeout.total_seconds()
    sent = False
    try:
        async with asyncio.timeout(within):
            reader, writer = await asyncio.open_unix_connection(_path(call))
            sent = True
            try:
                writer.write(_request(call))
                await writer.drain()
                return await _aread(reader, most_bytes)
            finally:
                writer.transport.abort()  # nothing unsent is waited for
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, ValueError) as trouble:
        return _nothing(_reason(trouble), sent=sent)


async def _aread(reader: asyncio.StreamReader, most_bytes: int) -> HttpReply:
    body = bytearray()
    while len(body) <= most_bytes:
        chunk = await reader.read(_CHUNK)
        body += chunk
        reply = _read(body) if chunk else _nothing(_ENDED)
        if reply is not None:
            return reply
    return _too_large(most_bytes)


def _request(call: HttpCall) -> bytes:
    """The parameters go as they are: UTF-8, of which Core Lightning takes no `\\u`."""
    head = json.dumps({"jsonrpc": "2.0", "id": _ID, "method": call.url.removeprefix(PREFIX)})
    return head[:-1].encode() + b', "params": ' + (call.body or b"{}") + b"}\n\n"


def _read(body: bytearray) -> HttpReply | None:
    """The reply, as soon as it is whole: an object may end wherever a brace does."""
    if not body.rstrip().endswith(b"}"):
        return None
    if is_too_deep(body.decode("utf-8", "replace")):
        return _nothing("the reply can't be read")
    try:
        told = load_json(bytes(body))
    except ValueError:
        return None
    if not isinstance(told, dict) or told.get("id") != _ID or ("result" in told) == ("error" in told):
        return _nothing("the reply can't be read")
    failed = "error" in told
    inner = told["error"] if failed else told["result"]
    return HttpReply(status=500 if failed else 200, body=json.dumps(inner).encode())


def _path(call: HttpCall) -> str:
    if call.line is None or call.line.socket is None:
        raise ValueError("the call names no socket")
    return call.line.socket


def _left(until: float | None) -> float | None:
    if until is None:
        return None
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _nothing(reason: str, *, sent: bool = True) -> HttpReply:
    return HttpReply(status=0, sent=sent, reason=reason)


def _too_large(most_bytes: int) -> HttpReply:
    return _nothing(f"the reply is larger than {most_bytes} bytes")


def _reason(trouble: Exception) -> str:
    """The system's word for what failed; the text of an error may quote what was sent."""
    if isinstance(trouble, TimeoutError):
        return _TIMEOUT
    return os.strerror(trouble.errno).lower() if isinstance(trouble, OSError) and trouble.errno else "no such socket"
