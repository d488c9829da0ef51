"""Text from any OpenAI-compatible model, as a capability on sale at `POST /api/dvm`.

Rules
1. A model that refuses, breaks off, or answers with nothing has failed: nothing is charged for it.
2. Why it failed is told in a few words; neither the key, the model's address nor its own error text is passed on.
3. Asking again does no harm, so a paid call whose outcome nobody knows may be run again.
"""

# Without `from __future__ import annotations`: the limits in the types of `write` below exist only while it is made.

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final
from urllib.parse import urlsplit

import httpx
from pydantic import Field

from farebox.catalog.capability import Capability
from farebox.catalog.price import Price
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, UpstreamFailed
from farebox.core.exchange import Json
from farebox.core.fiat import Fiat
from farebox.core.json_text import load_json
from farebox.core.secret import Secret

DEFAULT_PATH: Final = "/api/dvm"
DEFAULT_TIMEOUT: Final = timedelta(seconds=120)
MOST_PROMPT: Final = 16_000
MOST_TOKENS: Final = 4096

_KEY: Final = re.compile(r"[!-~]+")
_MOST_ANSWER_BYTES: Final = 4 * 1024 * 1024
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model wrote, and which model."""

    result: str
    model: str


class TextModel:
    """One model behind an OpenAI-compatible API.

    base_url: up to and with the version, such as `http://127.0.0.1:11434/v1`. timeout: how long it may be silent.
    client: a client of the caller's own, which the caller closes; without it each call opens one, which reads no proxy
    and no password from the environment. Raises ConfigError for a URL that is none or has a password in it, and for
    a key that can't be sent.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: Secret[str] | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        if api_key is not None and not _KEY.fullmatch(api_key.reveal()):
            raise ConfigError("The model's key is empty or has characters that no key has.")
        self.model = model
        self._url = f"{_checked(base_url)}/chat/completions"
        self._api_key = api_key
        self._timeout = httpx.Timeout(timeout.total_seconds(), connect=_CONNECT_TIMEOUT.total_seconds())
        self._client = client
        self._tls: ssl.SSLContext | None = None

    async def complete(self, prompt: str, *, max_tokens: int | None = None) -> Completion:
        """What the model answers to one prompt.

        Raises UpstreamFailed; `sent` is False when the model certainly was not asked.
        """
        asked: dict[str, Json] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": False,
        }
        if max_tokens is not None:
            asked["max_tokens"] = max_tokens
        async with self._connected() as client:
            status, body = await self._post(client, asked)
        if status != httpx.codes.OK:
            raise UpstreamFailed("The model refused the call.", sent=True, upstream_status=status)
        return Completion(result=_text_in(body), model=self.model)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[httpx.AsyncClient]:
        if self._client is not None:
            yield self._client
            return
        if self._tls is None:  # reading the certificates takes many milliseconds, so once and not per call
            self._tls = httpx.create_ssl_context(trust_env=False)
        async with httpx.AsyncClient(verify=self._tls, trust_env=False) as client:
            yield client

    async def _post(self, client: httpx.AsyncClient, asked: dict[str, Json]) -> tuple[int, bytes]:
        headers = {"accept": "application/json"}
        if self._api_key is not None:
            headers["authorization"] = f"Bearer {self._api_key.reveal()}"
        body = bytearray()
        try:
            async with client.stream(
                "POST", self._url, json=asked, headers=headers, timeout=self._timeout, follow_redirects=False
            ) as response:
                if response.status_code != httpx.codes.OK:
                    return response.status_code, b""
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_ANSWER_BYTES:
                        raise UpstreamFailed("The model's answer is too long.", sent=True)
        except _NEVER_SENT:
            raise UpstreamFailed("The model can't be reached.", sent=False) from None
        except httpx.TimeoutException:
            raise UpstreamFailed("The model took too long.", sent=True) from None
        except httpx.HTTPError:
            raise UpstreamFailed("The model broke off its answer.", sent=True) from None
        return httpx.codes.OK, bytes(body)


def text_capability(
    base_url: str,
    model: str,
    *,
    price: str | Amount | Fiat | Price,
    api_key: Secret[str] | None = None,
    name: str = "text",
    path: str = DEFAULT_PATH,
    timeout: timedelta = DEFAULT_TIMEOUT,
    most_prompt: int = MOST_PROMPT,
    most_tokens: int = MOST_TOKENS,
    client: httpx.AsyncClient | None = None,
) -> Capability:
    """A model on sale: `{"prompt": …, "max_tokens"?: …}` to `{"result": …, "model": …}`.

    most_prompt: characters. most_tokens: the most that a caller may ask for. The rest as for TextModel. Raises
    ConfigError, and MalformedAmount for the price.
    """
    text = TextModel(base_url, model, api_key=api_key, timeout=timeout, client=client)

    async def write(
        prompt: Annotated[str, Field(min_length=1, max_length=most_prompt, description="What to write.")],
        max_tokens: Annotated[int, Field(ge=1, le=most_tokens, description="How long at most.")] | None = None,
    ) -> Completion:
        return await text.complete(prompt, max_tokens=max_tokens)

    return Capability.of(
        write, price=price, name=name, path=path, summary=f"Text by {model}.", timeout=timeout, rerun=True
    )


def _checked(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        # An address with a password may be printed by whoever handles it; a key has a place of its own.
        plain = not (parts.username or parts.password or parts.query or parts.fragment)
        httpx.URL(base_url)
    except (ValueError, httpx.InvalidURL):
        good = plain = False
    if not good or not plain:
        raise ConfigError(
            "A model's address is a plain URL such as http://127.0.0.1:11434/v1; a key is given apart from it."
        )
    return base_url.rstrip("/")


def _text_in(body: bytes) -> str:
    """The first choice's text. Raises UpstreamFailed."""
    try:
        answer = load_json(body)
    except ValueError:
        raise UpstreamFailed("The model's answer can't be read.", sent=True) from None
    match answer:
        case {"choices": [{"message": {"content": str(text)}}, *_]} if text.strip():
            return text
        case {"choices": [{"message": {"content": str() | None}}, *_]}:
            raise UpstreamFailed("The model answered with nothing.", sent=True)
    raise UpstreamFailed("The model's answer can't be read.", sent=True)
