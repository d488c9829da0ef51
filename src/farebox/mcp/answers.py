"""An answer as a model gets it: bounded, and safe whatever its bytes are.

Rules
1. Of a body so much is kept and the rest is read past, so that what was paid for counts as come; after 16 MiB or a
   minute it is broken off, and the same call shows the same proof.
2. gzip and deflate are undone up to the bound; what is coded otherwise is handed on as bytes.
3. What is not text in UTF-8 is base64, or an image or a sound if it says so.
"""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
)
from pydantic_core import to_json

from farebox.core.json_text import load_json

MOST_BYTES: Final = 256 * 1024  # what a model can make something of
_MOST_READ: Final = 16 * 1024 * 1024
_READ_WITHIN_S: Final = 60.0
_ANY_WRAPPER: Final = 47  # zlib: finds out whether it is gzip or zlib
_TELLING: Final = frozenset(
    (
        *("content-type", "content-language", "content-disposition", "location", "link", "etag", "last-modified"),
        *("retry-after", "payment-kept", "x-request-id"),
    )
)  # header fields that a caller may act on


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What was kept of a body. size: of all that came, as it came. cut: whether more was there than was kept."""

    data: bytes
    size: int
    cut: bool


async def read_body(response: httpx.Response) -> Body:
    """Read an answer to its end, and keep its beginning. Raises httpx's errors for one that breaks off."""
    keeping = _Keeping(response)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_READ_WITHIN_S):
                async for part in _parts(response):
                    keeping.take(part)
                    if keeping.size > _MOST_READ:
                        break
                else:
                    keeping.whole = True
    finally:
        await response.aclose()
    return keeping.body()


def told_headers(response: httpx.Response) -> dict[str, str]:
    """The header fields that a caller may act on."""
    return {name: value for name, value in response.headers.items() if name.lower() in _TELLING}


def shown(body: Body, content_type: str, url: str) -> tuple[list[ContentBlock], dict[str, Any]]:
    """A body as content for a model, and as members of structured content."""
    kind = content_type.partition(";")[0].strip().lower()
    told: dict[str, Any] = {"size": body.size, "truncated": body.cut}
    text = _text(body)
    if text is None:
        data = base64.b64encode(body.data).decode()
        if body.cut:  # half an image is none
            told["base64"] = data
            return [], told
        if kind.startswith("image/"):
            return [ImageContent(type="image", data=data, mime_type=kind)], told
        if kind.startswith("audio/"):
            return [AudioContent(type="audio", data=data, mime_type=kind)], told
        told["base64"] = data
        blob = BlobResourceContents(uri=url, blob=data, mime_type=kind or "application/octet-stream")
        return [EmbeddedResource(type="resource", resource=blob)], told
    if not body.cut and (kind == "application/json" or kind.endswith("+json")):
        with suppress(ValueError):
            value = load_json(text)
            to_json(value)  # half a surrogate pair, or too deep for others to read: then it stays text
            told["json"] = value
    if "json" not in told:
        told["text"] = text
    return [TextContent(type="text", text=text)], told


class _Keeping:
    def __init__(self, response: httpx.Response) -> None:
        coding = "" if response.is_stream_consumed else response.headers.get("content-encoding", "").strip().lower()
        self._unpack = zlib.decompressobj(_ANY_WRAPPER) if coding in ("gzip", "x-gzip", "deflate") else None
        self._kept = bytearray()
        self._more = False
        self.size = 0
        self.whole = False

    def take(self, part: bytes) -> None:
        self.size += len(part)
        room = MOST_BYTES + 1 - len(self._kept)
        if room <= 0:
            return
        if self._unpack is None:
            self._kept += part[:room]
            return
        try:
            self._kept += self._unpack.decompress(part, room)
        except zlib.error:
            self._more, self._unpack = True, None  # what came before it may still be of use

    def body(self) -> Body:
        cut = len(self._kept) > MOST_BYTES or self._more or not self.whole
        return Body(data=bytes(self._kept[:MOST_BYTES]), size=self.size, cut=cut)


def _parts(response: httpx.Response) -> AsyncIterator[bytes]:
    return response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw()


def _text(body: Body) -> str | None:
    """The body as text, if it is some: UTF-8 without control characters that no text has."""
    try:
        text = body.data.decode()
    except UnicodeDecodeError as error:
        if not (body.cut and error.end == len(body.data) and len(body.data) - error.start < 4):
            return None
        text = body.data[: error.start].decode()  # the cut went through a character
    return None if "\0" in text else text
