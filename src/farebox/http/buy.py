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

from collections.abc import AsyncGenerator, Generator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from farebox.core.amount import Amount
from farebox.core.budget import Budget
from farebox.core.ports import Clock, Dialect, Purchase, Purse, Wallet
from farebox.dialects import L402, PaymentAuth, PaymentHash
from farebox.http.buy_drive import Drivers, Exchange, Heard, Telling
from farebox.http.buy_wire import of_library
from farebox.lightning import open_wallet
from farebox.payer import Bought, Limits, NoAnswer, Offer, Payer
from farebox.stores import open_purse
from farebox.stores.engine import utc_now

T = TypeVar("T")

_NO_AUTH: Final = httpx.Auth()


def default_purse_path() -> Path:
    """`~/.local/state/farebox/purse.db`, which every program of a user shares unless told otherwise."""
    return Path.home() / ".local" / "state" / "farebox" / "purse.db"


def default_dialects() -> tuple[Dialect, ...]:
    """All that a buyer speaks without keys, the safest proof first: a preimage before a bare hash."""
    return L402(), PaymentAuth(), PaymentHash()


class Buyer:
    """A wallet, a budget and a purse, ready to buy; Auth and both clients are made of one.

    wallet: its URL, or the wallet itself. budget: such as `500 sat/day, 50 sat/call`, fees included.
    max: the highest price of one call, such as `21 sat`, without the fee; None for what the budget allows.
    purse: its file, or the purse itself; None for the one that all programs of a user share.
    dialects: in which to pay, the preferred one first; None for L402, Payment and the bare payment hash.
    Raises WalletError, MalformedBudget, MalformedAmount; ConfigError or StoreUnavailable for an unusable purse.
    """

    def __init__(
        self,
        *,
        wallet: str | Wallet,
        budget: str | Budget,
        max: str | Amount | None,
        purse: str | Path | Purse | None,
        dialects: Sequence[Dialect] | None,
        clock: Clock = utc_now,
    ) -> None:
        self.wallet = open_wallet(wallet) if isinstance(wallet, str) else wallet
        limits = Limits(
            budget=Budget.read(budget) if isinstance(budget, str) else budget,
            most=Amount.read(max) if isinstance(max, str) else max,
            networks=frozenset() if self.wallet.network is None else frozenset((self.wallet.network,)),
        )
        self.payer = Payer(dialects=default_dialects() if dialects is None else dialects, limits=limits, clock=clock)
        self.is_purse_ours = purse is None or isinstance(purse, str | Path)
        if purse is None or isinstance(purse, str | Path):
            purse = open_purse(default_purse_path() if purse is None else purse, clock)
        self.drivers = Drivers(wallet=self.wallet, purse=purse)

    def purchase(self, request: httpx.Request, *, whole: bool) -> tuple[Exchange, Telling[Bought]]:
        """A purchase, ready to be driven."""
        exchange = Exchange(request, whole=whole)
        return exchange, Telling(self.payer.purchase(exchange.call))

    def question(self, request: httpx.Request) -> tuple[Exchange, Telling[Offer | None]]:
        """A question for the price, ready to be driven."""
        exchange = Exchange(request, whole=False)
        return exchange, Telling(self.payer.ask(exchange.call))

    def close(self) -> None:
        """Let go of the purse, unless it was handed in."""
        if self.is_purse_ours:
            self.drivers.purse.close()


class Auth(httpx.Auth):
    """Pays for what a client of one's own asks: `httpx.Client(auth=farebox.Auth(wallet=…, budget=…))`; httpx2's too.

    Takes what `Client` takes. An answer that gets lost on its way raises the client's own error, because an `Auth` does
    not hear of it; make the same call again, and the proof is shown without paying.
    """

    def __new__(cls, **_: object) -> Self:
        """Of a class that is also httpx2's `Auth`, where httpx2 is installed."""
        kind = of_library(cls, import_module("httpx2"), "Auth") if find_spec("httpx2") else cls
        return super().__new__(kind)

    def __init__(
        self,
        *,
        wallet: str | Wallet,
        budget: str | Budget,
        max: str | Amount | None = None,
        purse: str | Path | Purse | None = None,
        dialects: Sequence[Dialect] | None = None,
    ) -> None:
        self._buyer = Buyer(wallet=wallet, budget=budget, max=max, purse=purse, dialects=dialects)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """What a blocking client drives."""
        return self._buyer.drivers.tell(*self._buyer.purchase(request, whole=False))

    def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """What an awaiting client drives."""
        return self._buyer.drivers.atell(*self._buyer.purchase(request, whole=False))

    def close(self) -> None:
        """Let go of the purse, if it was opened here."""
        self._buyer.close()


class Client(httpx.Client):
    """An httpx.Client that pays for what it is asked to pay for, within a budget.

    wallet, budget, max, purse, dialects: see Buyer; everything else is httpx's. An answer that was asked for without a
    price costs nothing and comes as it is. Each answer has a `payer.Bought` as `extensions["farebox"]`.
    Calls raise a PurchaseError, which says whether money moved; StoreUnavailable, and nothing was paid, when the purse
    can't be written; and httpx's own errors for what went wrong before anything was to be paid.
    """

    def __init__(
        self,
        *,
        wallet: str | Wallet,
        budget: str | Budget,
        max: str | Amount | None = None,
        purse: str | Path | Purse | None = None,
        dialects: Sequence[Dialect] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._buyer = Buyer(wallet=wallet, budget=budget, max=max, purse=purse, dialects=dialects)

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and pay for its answer if need be; see httpx for the options."""
        exchange, telling = self._buyer.purchase(request, whole=not stream)
        self._drive(exchange, telling, options)
        if not stream:
            _read(exchange.answer)
        return exchange.answer

    def ask(self, request: httpx.Request, **options: Any) -> Offer | None:
        """Send a request and pay nothing: what its answer would cost, audited; None when it was answered as it is.

        Raises what would keep it from being paid. The budget's windows are not looked at.
        """
        exchange, telling = self._buyer.question(request)
        self._drive(exchange, telling, options)
        exchange.answer.close()
        return telling.result

    def resume(self) -> tuple[Purchase, ...]:
        """Look up every payment whose outcome is open; returns them as they now stand."""
        return self._buyer.drivers.run(self._buyer.payer.resume())

    def balance(self) -> Amount:
        """What the wallet can spend. Raises WalletError."""
        return self._buyer.drivers.talk(self._buyer.wallet.balance())

    def _drive(self, exchange: Exchange, telling: Telling[T], options: dict[str, Any]) -> None:
        flow = self._buyer.drivers.tell(exchange, telling)
        try:
            outgoing = next(flow)
            while True:
                outgoing = flow.send(self._send_one(exchange, outgoing, options))
        except StopIteration:
            return
        except BaseException:
            if exchange.response is not None:
                exchange.response.close()
            raise
        finally:
            flow.close()

    def _send_one(self, exchange: Exchange, outgoing: httpx.Request, options: dict[str, Any]) -> Heard:
        if outgoing is exchange.request:
            return super().send(outgoing, stream=True, **options)
        try:
            return super().send(outgoing, stream=True, **(options | {"auth": _NO_AUTH}))
        except httpx.RequestError as error:
            return NoAnswer(reason=type(error).__name__)

    def close(self) -> None:
        """Close the connections, and the purse if it was opened here."""
        super().close()
        self._buyer.close()

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._buyer.close()


class AsyncClient(httpx.AsyncClient):
    """An httpx.AsyncClient that pays for what it is asked to pay for, within a budget: see Client. Needs asyncio."""

    def __init__(
        self,
        *,
        wallet: str | Wallet,
        budget: str | Budget,
        max: str | Amount | None = None,
        purse: str | Path | Purse | None = None,
        dialects: Sequence[Dialect] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._buyer = Buyer(wallet=wallet, budget=budget, max=max, purse=purse, dialects=dialects)

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and pay for its answer if need be; see httpx for the options."""
        exchange, telling = self._buyer.purchase(request, whole=not stream)
        await self._drive(exchange, telling, options)
        if not stream:
            await _aread(exchange.answer)
        return exchange.answer

    async def ask(self, request: httpx.Request, **options: Any) -> Offer | None:
        """Send a request and pay nothing: what its answer would cost; see Client."""
        exchange, telling = self._buyer.question(request)
        await self._drive(exchange, telling, options)
        await exchange.answer.aclose()
        return telling.result

    async def resume(self) -> tuple[Purchase, ...]:
        """Look up every payment whose outcome is open; returns them as they now stand."""
        return await self._buyer.drivers.arun(self._buyer.payer.resume())

    async def balance(self) -> Amount:
        """What the wallet can spend. Raises WalletError."""
        return await self._buyer.drivers.atalk(self._buyer.wallet.balance())

    async def _drive(self, exchange: Exchange, telling: Telling[T], options: dict[str, Any]) -> None:
        flow = self._buyer.drivers.atell(exchange, telling)
        try:
            outgoing = await anext(flow)
            while True:
                outgoing = await flow.asend(await self._send_one(exchange, outgoing, options))
        except StopAsyncIteration:
            return
        except BaseException:
            if exchange.response is not None:
                await exchange.response.aclose()
            raise
        finally:
            await flow.aclose()

    async def _send_one(self, exchange: Exchange, outgoing: httpx.Request, options: dict[str, Any]) -> Heard:
        if outgoing is exchange.request:
            return await super().send(outgoing, stream=True, **options)
        try:
            return await super().send(outgoing, stream=True, **(options | {"auth": _NO_AUTH}))
        except httpx.RequestError as error:
            return NoAnswer(reason=type(error).__name__)

    async def aclose(self) -> None:
        """Close the connections, and the purse if it was opened here."""
        await super().aclose()
        self._buyer.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await super().__aexit__(kind, error, trace)
        self._buyer.close()


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
