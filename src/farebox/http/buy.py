"""Buy answers with an HTTP client: `Client`, `AsyncClient`, and `Auth` for a client of one's own.

    with farebox.Client(wallet="phoenixd+http://:password@127.0.0.1:9740", budget="500 sat/day") as client:
        answer = client.post(url, json={"prompt": "…"})
        answer.extensions["farebox"].paid

Rules
1. Whoever called it gets the answer that was bought, or an error that says whether money moved; never a bare 402.
2. Only the origin that the caller named is paid.
3. What a budget has left is remembered in the purse, which all programs of one user share by default.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx

from farebox.core.amount import Amount
from farebox.core.budget import Budget
from farebox.core.ports import Purchase, Purse, Wallet
from farebox.http.buy_drive import Exchange, Heard, aflow, flow
from farebox.http.buy_wire import check_place, led_to, library_of, misled, of_library, read_call
from farebox.http.buyer import Buyer, Terms, chosen_buyer
from farebox.payer import Offer, Telling

T = TypeVar("T")


class Auth(httpx.Auth):
    """Pays for what a client of one's own asks: `httpx.Client(auth=farebox.Auth(wallet=…, budget=…))`; httpx2's too.

    Takes what `Client` takes. An answer that gets lost on its way raises the client's own error, because an `Auth` does
    not hear of it; make the same call again, and the proof is shown without paying.
    """

    def __new__(cls, **_: object) -> Self:
        """Of a class that is also httpx2's `Auth`, where httpx2 is installed."""
        kind = of_library(cls, import_module("httpx2"), "Auth") if find_spec("httpx2") else cls
        return super().__new__(kind)

    def __init__(self, **terms: Unpack[Terms]) -> None:
        self.buyer = chosen_buyer(**terms)
        self._is_buyer_ours = terms.get("buyer") is None

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """What a blocking client drives."""
        exchange = Exchange(request, whole=False)
        return flow(self.buyer.drivers, exchange, self.buyer.purchase(exchange.call))

    def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """What an awaiting client drives."""
        exchange = Exchange(request, whole=False)
        return aflow(self.buyer.drivers, exchange, self.buyer.purchase(exchange.call))

    def close(self) -> None:
        """Let go of the purse, if it was opened here."""
        if self._is_buyer_ours:
            self.buyer.close()


# What both libraries' clients have in common is typed by httpx's.
if TYPE_CHECKING:
    _Blocking = httpx.Client
    _Awaiting = httpx.AsyncClient
else:
    _Blocking = _Awaiting = object


class Paying(_Blocking):
    """Makes a client of httpx or httpx2 pay for what it is asked to pay for, within a budget.

    buyer: of `farebox.open_buyer`; or instead of it wallet, budget, max and purse, as they are told there. Everything
    else is the library's. An answer that was asked for without a price costs nothing and comes as it is. Each answer
    has a `payer.Bought` as `extensions["farebox"]`.
    Calls raise a PurchaseError, which says whether money moved; StoreUnavailable, and nothing was paid, when the purse
    can't be written; and the library's own errors for what went wrong before anything was to be paid.
    """

    def __init__(
        self,
        *,
        buyer: Buyer | None = None,
        wallet: str | Wallet | None = None,
        budget: str | Budget | None = None,
        max: str | Amount | None = None,
        purse: str | Path | Purse | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.buyer = chosen_buyer(buyer=buyer, wallet=wallet, budget=budget, max=max, purse=purse)
        self._is_buyer_ours = buyer is None

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and pay for its answer if need be; see the library for the options."""
        follows = _follows(options, default=self.follow_redirects)
        exchange = Exchange(request, whole=not stream, keeps_proofs=True, follows=follows)
        self._drive(exchange, self.buyer.purchase(exchange.call), options)
        if not stream:
            _read(exchange.answer)
        return exchange.answer

    def ask(self, request: httpx.Request, **options: Any) -> Offer | None:
        """Send a request and pay nothing: what its answer would cost, audited; None when it was answered as it is.

        Raises what would keep it from being paid. The budget's windows are not looked at.
        """
        exchange = Exchange(request, whole=False, keeps_proofs=True)
        telling = self.buyer.question(exchange.call)
        self._drive(exchange, telling, options)
        exchange.answer.close()
        return telling.result

    def resume(self) -> tuple[Purchase, ...]:
        """Look up every payment whose outcome is open; returns them as they now stand."""
        return self.buyer.resume()

    def balance(self) -> Amount:
        """What the wallet can spend. Raises WalletError."""
        return self.buyer.balance()

    def _drive(self, exchange: Exchange, telling: Telling[T], options: dict[str, Any]) -> None:
        story = flow(self.buyer.drivers, exchange, telling)
        try:
            outgoing = next(story)
            while True:
                outgoing = story.send(self._send_one(exchange, outgoing, options))
        except StopIteration:
            return
        except BaseException:
            if exchange.response is not None:
                exchange.response.close()
            raise
        finally:
            story.close()

    def _send_one(self, exchange: Exchange, outgoing: httpx.Request, options: dict[str, Any]) -> Heard:
        library = library_of(outgoing)
        if outgoing is not exchange.request:
            options = options | exchange.manner | {"auth": library.Auth()}
        try:
            response = super().send(outgoing, stream=True, **options)
            while (onward := exchange.onward(response)) is not None:
                response.close()
                earlier, response = response, super().send(onward, stream=True, **options)
                response.history = [*earlier.history, earlier]
            return response
        except UnicodeError:
            return exchange.unheard(misled(outgoing))
        except (library.RequestError, library.InvalidURL) as error:
            return exchange.unheard(error, led_to(error, outgoing))

    def _send_single_request(self, request: httpx.Request) -> httpx.Response:
        check_place(request)  # also of each hop of a redirect, which nothing public shows
        return super()._send_single_request(request)

    def close(self) -> None:
        """Close the connections, and the purse if it was opened here."""
        super().close()
        self._close_buyer()

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._close_buyer()

    def _close_buyer(self) -> None:
        if self._is_buyer_ours:
            self.buyer.close()


class PayingAsync(_Awaiting):
    """Makes an awaiting client of httpx or httpx2 pay: see Paying. Needs asyncio."""

    def __init__(
        self,
        *,
        buyer: Buyer | None = None,
        wallet: str | Wallet | None = None,
        budget: str | Budget | None = None,
        max: str | Amount | None = None,
        purse: str | Path | Purse | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.buyer = chosen_buyer(buyer=buyer, wallet=wallet, budget=budget, max=max, purse=purse)
        self._is_buyer_ours = buyer is None

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and pay for its answer if need be; see the library for the options."""
        follows = _follows(options, default=self.follow_redirects)
        exchange = Exchange(request, whole=not stream, keeps_proofs=True, follows=follows)
        await self._drive(exchange, self.buyer.purchase(exchange.call), options)
        if not stream:
            await _aread(exchange.answer)
        return exchange.answer

    async def ask(self, request: httpx.Request, **options: Any) -> Offer | None:
        """Send a request and pay nothing: what its answer would cost; see Paying."""
        exchange = Exchange(request, whole=False, keeps_proofs=True)
        telling = self.buyer.question(exchange.call)
        await self._drive(exchange, telling, options)
        await exchange.answer.aclose()
        return telling.result

    def digest(self, request: httpx.Request) -> bytes | None:
        """What the same request made again is known by; None for one whose body can be sent only once."""
        return read_call(request).digest

    async def resume(self) -> tuple[Purchase, ...]:
        """Look up every payment whose outcome is open; returns them as they now stand."""
        return await self.buyer.aresume()

    async def balance(self) -> Amount:
        """What the wallet can spend. Raises WalletError."""
        return await self.buyer.abalance()

    async def _drive(self, exchange: Exchange, telling: Telling[T], options: dict[str, Any]) -> None:
        story = aflow(self.buyer.drivers, exchange, telling)
        try:
            outgoing = await anext(story)
            while True:
                outgoing = await story.asend(await self._send_one(exchange, outgoing, options))
        except StopAsyncIteration:
            return
        except BaseException:
            if exchange.response is not None:
                await exchange.response.aclose()
            raise
        finally:
            await story.aclose()

    async def _send_one(self, exchange: Exchange, outgoing: httpx.Request, options: dict[str, Any]) -> Heard:
        library = library_of(outgoing)
        if outgoing is not exchange.request:
            options = options | exchange.manner | {"auth": library.Auth()}
        try:
            response = await super().send(outgoing, stream=True, **options)
            while (onward := exchange.onward(response)) is not None:
                await response.aclose()
                earlier, response = response, await super().send(onward, stream=True, **options)
                response.history = [*earlier.history, earlier]
            return response
        except UnicodeError:
            return exchange.unheard(misled(outgoing))
        except (library.RequestError, library.InvalidURL) as error:
            return exchange.unheard(error, led_to(error, outgoing))

    async def _send_single_request(self, request: httpx.Request) -> httpx.Response:
        check_place(request)  # as in Paying
        return await super()._send_single_request(request)

    async def aclose(self) -> None:
        """Close the connections, and the purse if it was opened here."""
        await super().aclose()
        self._close_buyer()

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await super().__aexit__(kind, error, trace)
        self._close_buyer()

    def _close_buyer(self) -> None:
        if self._is_buyer_ours:
            self.buyer.close()


class Client(Paying, httpx.Client):
    """An httpx.Client that pays: see Paying."""


class AsyncClient(PayingAsync, httpx.AsyncClient):
    """An httpx.AsyncClient that pays: see Paying. Needs asyncio."""


def _follows(options: dict[str, Any], *, default: bool) -> bool:
    told = options.get("follow_redirects")
    return told if isinstance(told, bool) else default  # the library has an object of its own for its default


def _read(response: httpx.Response) -> None:
    try:
        response.read()
    except BaseException:
        response.close()
        raise


async def _aread(response: httpx.Response) -> None:
    try:
        await response.aread()
    except BaseException:
        await response.aclose()
        raise
