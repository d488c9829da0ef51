"""Clients of libraries that are not shaped like httpx's, put so that the same sentences can be said of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import requests

from farebox.aiohttp import ClientSession
from farebox.http.buyer import Buyer
from farebox.payer import Bought
from farebox.requests import Session
from farebox.testing.wires import AiohttpWire, Ask, RequestsWire


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An answer that was read whole."""

    status_code: int
    headers: Any
    content: bytes
    bought: Bought
    parsed: Any = None

    def json(self) -> Any:
        """Its body."""
        return self.parsed

    @property
    def extensions(self) -> dict[str, Bought]:
        """What it cost, where httpx has it."""
        return {"farebox": self.bought}


class RequestsClient:
    """`farebox.requests.Session`, with the methods of an httpx.Client."""

    def __init__(self, buyer: Buyer, ask: Ask, *, follow_redirects: bool = False) -> None:
        self.buyer = buyer
        self.session = Session(buyer=buyer, over=RequestsWire(ask))
        self._follow = follow_redirects

    def request(self, method: str, url: str, **options: Any) -> Told:
        """The answer, read whole."""
        answer = self._send(method, url, **options)
        parsed = answer.json() if "json" in answer.headers.get("content-type", "") and answer.content else None
        return Told(
            status_code=answer.status_code,
            headers=answer.headers,
            content=answer.content,
            bought=answer.farebox,  # type: ignore[attr-defined] # put there by the adapter
            parsed=parsed,
        )

    @contextmanager
    def stream(self, method: str, url: str, **options: Any) -> Iterator[Any]:
        """The answer, not read yet."""
        with self._send(method, url, stream=True, **options) as answer:
            yield RequestsStream(answer)

    def _send(self, method: str, url: str, **options: Any) -> requests.Response:
        if "content" in options:
            options["data"] = options.pop("content")
        return self.session.request(method, url, allow_redirects=self._follow, **options)

    def close(self) -> None:
        """Close the session."""
        self.session.close()


@dataclass(frozen=True, slots=True)
class RequestsStream:
    """An answer of requests that is not read yet."""

    answer: requests.Response

    def read(self) -> bytes:
        """The whole."""
        return self.answer.content

    def iter_raw(self) -> Iterator[bytes]:
        """Part by part."""
        while part := self.answer.raw.read1(65_536):
            yield part


class AiohttpClient:
    """`farebox.aiohttp.ClientSession`, with the methods of an httpx.AsyncClient; opened anew in each event loop."""

    def __init__(self, buyer: Buyer, ask: Ask, *, follow_redirects: bool = False) -> None:
        self.buyer = buyer
        self._ask = ask
        self._follow = follow_redirects

    async def request(self, method: str, url: str, **options: Any) -> Told:
        """The answer, read whole."""
        async with self._opened() as session, self._sent(session, method, url, options) as answer:
            content = await answer.read()
            return Told(
                status_code=answer.status,
                headers=answer.headers,
                content=content,
                bought=answer.farebox,
                parsed=await answer.json() if "json" in answer.content_type and content else None,
            )

    async def post(self, url: str, **options: Any) -> Told:
        """The answer, read whole."""
        return await self.request("POST", url, **options)

    @asynccontextmanager
    async def stream(self, method: str, url: str, **options: Any) -> AsyncIterator[Any]:
        """The answer, not read yet."""
        async with self._opened() as session, self._sent(session, method, url, options) as answer:
            yield AiohttpStream(answer)

    def _opened(self) -> ClientSession:
        return ClientSession(buyer=self.buyer, connector=AiohttpWire(self._ask))

    def _sent(self, session: ClientSession, method: str, url: str, options: dict[str, Any]) -> Any:
        if "content" in options:
            options["data"] = options.pop("content")
        if "files" in options:
            form = aiohttp.FormData()
            for name, (filename, file) in options.pop("files").items():
                form.add_field(name, file, filename=filename)
            options["data"] = form
        return session.request(method, url, allow_redirects=self._follow, **options)

    async def aclose(self) -> None:
        """Nothing is left open."""


@dataclass(frozen=True, slots=True)
class AiohttpStream:
    """An answer of aiohttp that is not read yet."""

    answer: aiohttp.ClientResponse

    async def aread(self) -> bytes:
        """The whole."""
        return await self.answer.read()

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """Part by part."""
        async for part in self.answer.content.iter_any():
            yield part
