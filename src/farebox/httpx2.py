"""httpx2's clients, paying within a budget: what the OpenAI SDK and others take as their `http_client`."""

from __future__ import annotations

from farebox.core.lazy import extra
from farebox.http.buy import Paying, PayingAsync

with extra("httpx2"):
    import httpx2


class Client(Paying, httpx2.Client):  # type: ignore[misc] # it is typed by httpx's, which httpx2's has the shape of
    """An httpx2.Client that pays: see farebox.Client."""


class AsyncClient(PayingAsync, httpx2.AsyncClient):  # type: ignore[misc] # as above
    """An httpx2.AsyncClient that pays: see farebox.AsyncClient. Needs asyncio."""
