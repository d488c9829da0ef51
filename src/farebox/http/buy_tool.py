"""What a language model is given to buy with: two tools that answer in text, whatever comes of them.

Rules
1. A model never sees an exception: it is told what happened, whether money moved, what to do, and what is left.
2. What we say comes first, a line each; what strangers say is cut to one short line, or stands last, under `body:`.
   All of it can be written in UTF-8.
3. A model names no host that its user did not allow: without a list, only addresses of the public internet.
4. An answer is read within bounds of size and time, compressed or not. One that breaks off after it was paid is asked
   for again with the same proof.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from contextvars import copy_context
from datetime import timedelta
from functools import cached_property
from ssl import SSLContext
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import httpx
from pydantic import Field

from farebox.core.errors import FareboxError, HostRefused, PaidNotServed, PurchaseError
from farebox.core.host import can_be_called
from farebox.core.json_text import load_json
from farebox.http.buy import AsyncClient
from farebox.http.buy_wire import read_call
from farebox.http.buyer import Buyer
from farebox.http.converse import trust
from farebox.http.forward.reach import CheckedTransport, OutOfReach, Reach
from farebox.payer import Bought, allowance_here
from farebox.payer.broken_off import WITHIN, broken_off

FETCH: Final = (
    "Fetch a URL over HTTP. If it costs something, it is paid for by itself within the user's budget. The first lines "
    "of the result tell the status, what was paid and what is left; the answer itself stands after `body:` and is what "
    "a stranger wrote. If nothing came, the result tells whether money moved and what to do next."
)
LEFT: Final = "Tell what is left in the user's budget for paid calls. Costs nothing and changes nothing."

_MOST_KEPT: Final = 2**20  # bytes
_MOST_READ: Final = 64 * 2**20  # bytes; an answer that is longer is left in the middle
_MOST_SHOWN: Final = 20_000  # characters, about what a model can take in
_MOST_LINE: Final = 400
_MOST_TRIES: Final = 3
_WINDOW_BITS: Final = MappingProxyType({"gzip": 31, "x-gzip": 31, "deflate": 15})
_UNPRINTED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

Url = Annotated[str, Field(description="The whole address, such as https://api.example.com/v1/search?q=l402")]
Method = Annotated[
    Literal["GET", "POST", "PUT", "PATCH", "DELETE"], Field(description="The HTTP method; POST where there is a body.")
]
Body = Annotated[str | None, Field(description="The request's body: JSON, or plain text. Null for none.")]


class Shopper:
    """Fetches for a model and pays for it: each method returns text, and raises nothing that a model could cause.

    hosts: the only ones that may be called, such as `api.example.com` or `127.0.0.1:8402`; None for every host of the
    public internet, by the address that is connected to. within: how long a fetch may take as a whole, paying and
    waiting for an approval included; what is being paid then stays held. options: httpx's, for the client that fetches;
    a `transport` among them decides by itself whom it reaches.
    """

    def __init__(
        self, buyer: Buyer, *, hosts: Collection[str] | None = None, within: timedelta = WITHIN, **options: Any
    ) -> None:
        self._buyer = buyer
        self._within_s = within.total_seconds()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._options = options

    def fetch(self, url: Url, method: Method = "GET", body: Body = None) -> str:
        """The answer of a URL, paid for if need be, or what came of it."""
        fetched = self.afetch(url, method, body)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(fetched)
        with ThreadPoolExecutor(max_workers=1) as aside:  # the loop of this thread is the caller's
            return aside.submit(copy_context().run, asyncio.run, fetched).result()

    async def afetch(self, url: Url, method: Method = "GET", body: Body = None) -> str:
        """The same, awaiting."""
        trouble: Exception
        try:
            request = self._request(url, method, body)
            try:
                async with (
                    asyncio.timeout(self._within_s),
                    AsyncClient(buyer=self._buyer, **self._settings()) as client,
                ):
                    return await self._fetch(client, request)
            except TimeoutError:
                trouble = await asyncio.to_thread(self._out_of_time, request)
        except OutOfReach:
            trouble = HostRefused("it is not on the public internet, and the user has not allowed it")
        except (FareboxError, httpx.RequestError, httpx.InvalidURL) as error:
            trouble = error
        return _text([*_failure(trouble), *await asyncio.to_thread(self._left)])

    def left(self) -> str:
        """What is left of the budget, a line for each of its windows."""
        return "\n".join(self._left())

    async def aleft(self) -> str:
        """The same, awaiting."""
        return await asyncio.to_thread(self.left)

    # --- fetching ---------------------------------------------------------------------------------------------------

    async def _fetch(self, client: AsyncClient, request: httpx.Request) -> str:
        tries_left, first = _MOST_TRIES, None
        while True:
            tries_left -= 1
            async with aclosing(await client.send(request, stream=True)) as answer:
                page = Page(answer, first)
                first = page.bought
                try:
                    async for part in answer.aiter_bytes() if answer.is_stream_consumed else answer.aiter_raw():
                        if not page.take(part):
                            break
                except httpx.RequestError as error:
                    _give_up(page.bought, error, tries_left)
                else:
                    return _text([*page.told(), *await asyncio.to_thread(self._left), *page.body()])

    def _out_of_time(self, request: httpx.Request) -> Exception:
        why = f"it took longer than {self._within_s:g} s"
        purse, digest = self._buyer.drivers.purse, read_call(request).digest
        return broken_off(purse, digest, why=why, blames_seller=True) or httpx.ReadTimeout(why)

    @cached_property
    def _tls(self) -> SSLContext:
        context: SSLContext = trust(httpx, None)  # making one takes longer than most calls
        return context

    def _settings(self) -> dict[str, Any]:
        settings = {"verify": self._tls, "timeout": 30, **self._options}
        if self._hosts is None and "transport" not in settings:
            settings["transport"] = CheckedTransport(Reach(), tls=settings["verify"])
        return settings

    def _request(self, url: str, method: str, body: str | None) -> httpx.Request:
        """Raises HostRefused for what is not to be called, InvalidURL for what can't be."""
        try:
            target = httpx.URL(url)
            host, content = target.host, None if body is None else body.encode()
        except UnicodeError:
            raise httpx.InvalidURL("the address or the body has letters that can't be sent") from None
        if target.scheme not in ("http", "https") or not host or target.userinfo:
            raise httpx.InvalidURL("it begins with https:// or http:// and names a host, without a user name")
        if not can_be_called(target.raw_host.decode("ascii"), target.port):
            raise httpx.InvalidURL("nobody can have such a host or port")
        self._check_host(target)
        headers = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "farebox"}
        if body is not None:
            headers["content-type"] = "application/json" if _is_json(body) else "text/plain; charset=utf-8"
        return httpx.Request(method, target, headers=headers, content=content)

    def _check_host(self, target: httpx.URL) -> None:
        name = target.host.lower()
        port = target.port or (443 if target.scheme == "https" else 80)
        if self._hosts is not None and not {name, f"{name}:{port}"} & self._hosts:
            raise HostRefused(f"the user allows only {', '.join(sorted(self._hosts))}")

    def _left(self) -> list[str]:
        try:
            left = self._buyer.left(allowance_here())
            return [f"budget left: {each.left} of {each.window}" for each in left] or ["budget: no limit"]
        except FareboxError as error:
            return [f"budget left: not known ({_line(error.title)})"]


class Page:
    """One answer on its way to a model: takes raw parts within bounds. first: of one that broke off before it."""

    def __init__(self, answer: httpx.Response, first: Bought | None = None) -> None:
        bought: Bought = answer.extensions["farebox"]
        self.bought = bought.again_after(first)
        self._answer = answer
        self._coding = "" if answer.is_stream_consumed else answer.headers.get("content-encoding", "").strip().lower()
        self._raw = bytearray()
        self._count = 0

    def take(self, part: bytes) -> bool:
        """Whether to go on reading."""
        self._raw += part[: _MOST_KEPT - len(self._raw)]
        self._count += len(part)
        return self._count <= _MOST_READ

    def told(self) -> list[str]:
        """What we say of it."""
        answer, bought = self._answer, self.bought
        lines = [f"status: {answer.status_code} {_line(answer.reason_phrase)}".rstrip()]
        if "content-type" in answer.headers:
            lines.append(f"type: {_line(answer.headers['content-type'])}")
        if "location" in answer.headers:
            lines.append(f"location: {_line(answer.headers['location'])}")
        if bought.free or bought.reused:
            lines.append("paid: nothing, for an earlier payment is still good" if bought.reused else "paid: nothing")
        else:
            lines.append(f"paid: {bought.paid} (fee {bought.fee}){', in an earlier call' if bought.replayed else ''}")
        if answer.headers.get("payment-kept") == "true":
            lines.append("payment kept: the seller refuses the call; the very same call pays nothing anew")
        return lines

    def body(self) -> list[str]:
        """What the seller says, or why it is not shown."""
        decoded = _expand(bytes(self._raw), self._coding)
        if decoded is None:
            return [f"body: not shown, for it is coded as {_line(self._coding)} and that badly, or unknown here"]
        try:
            text = decoded.decode(self._answer.charset_encoding or "utf-8", errors="strict")
        except (UnicodeError, LookupError):
            text = decoded.decode("utf-8", errors="ignore")
            if len(text.encode()) < 0.9 * len(decoded):
                return [f"body: not shown, {len(decoded)} bytes that are no text"]
        is_cut = len(text) > _MOST_SHOWN or self._count > _MOST_KEPT
        return [f"body, its first {_MOST_SHOWN} characters:" if is_cut else "body:", text[:_MOST_SHOWN]]


def _give_up(bought: Bought, error: httpx.RequestError, tries_left: int) -> None:
    """Raises what the model is to be told, unless the same call may be made again."""
    if bought.payment_hash is None or bought.reused:
        raise error
    if not tries_left:
        reason, told = type(error).__name__, bought.payment_hash.hex()
        raise PaidNotServed(reason, amount_msat=bought.paid.msat, payment_hash=told) from error


def _failure(error: Exception) -> list[str]:
    """What happened, whether money moved, and what to do, for a model."""
    if not isinstance(error, FareboxError):
        return [
            "error: no-answer",
            f"what happened: {type(error).__name__}: {_line(str(error))}",
            "money moved: no",
            "next step: Look at the address; try again later, or do without.",
        ]
    moved = error.money_moved if isinstance(error, PurchaseError) else False
    lines = [
        f"error: {error.type}",
        f"what happened: {_line(f'{error.title}: {error.detail}' if error.detail else error.title)}",
        f"money moved: {_MOVED[moved]}",
    ]
    step = error.next_step if isinstance(error, PurchaseError) else ""
    lines += [f"next step: {step}"] if step else []
    if moved is not False and "payment_hash" in error.evidence:
        lines.append(f"payment hash: {error.evidence['payment_hash']}")
    return lines


_MOVED: Final = MappingProxyType({True: "yes", False: "no", None: "nobody can tell yet, the amount stays held"})


def _text(lines: list[str]) -> str:
    """All of it; half a surrogate pair, of which some charsets make a character, is a question mark."""
    return "\n".join(lines).encode(errors="replace").decode()


def _line(text: str) -> str:
    """A stranger's words on one short line."""
    flat = _UNPRINTED.sub(" ", text).strip()
    return flat if len(flat) <= _MOST_LINE else flat[: _MOST_LINE - 1] + "…"


def _is_json(text: str) -> bool:
    try:
        load_json(text)
    except ValueError:
        return False
    return True


def _expand(raw: bytes, coding: str) -> bytes | None:
    """The body without its coding, so much of it as is shown at most; None when it can't be told."""
    if coding in ("", "identity"):
        return raw
    if coding not in _WINDOW_BITS:
        return None
    unpack: Callable[[bytes, int], bytes] = zlib.decompressobj(_WINDOW_BITS[coding]).decompress
    try:
        return unpack(raw, _MOST_KEPT)
    except zlib.error:
        return None
