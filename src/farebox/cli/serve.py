"""`farebox serve`: the gateway and the shop of one operator, on one port.

Rules
1. One gate for everything that is sold here.
2. Without a node it uses the sandbox, says so loudly, and then listens on loopback only, unless told otherwise.
3. While it uses the sandbox it opens phoenixd's HTTP API on a loopback port, so that another terminal can pay.
4. On SIGTERM it stops taking calls, lets the running ones end, and closes the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from farebox.catalog.capability import Capability
from farebox.catalog.routes import Route
from farebox.cli.announcement import announce, warn_of_silent_upstreams, warn_of_what_is_not_held, write_state
from farebox.cli.config import Config, RouteConfig, Settle
from farebox.cli.credential import ask_again, check_credentials
from farebox.cli.housekeeping import keep_house
from farebox.cli.listening import listening_socket, url_of
from farebox.cli.sandbox_api import Wallets, sandbox_address, sandbox_api
from farebox.cli.seals import sealing
from farebox.cli.state import LiveKeyRing, key_file, made_dir
from farebox.cli.telemetry import Watch, open_watch, warn_of_open_metrics
from farebox.core.errors import ConfigError, StoreUnavailable
from farebox.core.fiat import Fiat
from farebox.core.host import is_loopback
from farebox.core.ports import Ledger, Receiver
from farebox.core.secret import Keys, Secret
from farebox.http.manners import Manners
from farebox.http.proxy import Proxy
from farebox.http.rates import Rates
from farebox.http.request import AsgiApp
from farebox.http.selling import Gate, now, open_gate, opened_receivers
from farebox.http.shopfront import shopfront
from farebox.services.demo import demo_capability
from farebox.services.text import text_capability
from farebox.stores import open_ledger
from farebox.stores.ledger import SqlLedger

if TYPE_CHECKING:
    from farebox.lightning.sandbox import Sandbox

log = structlog.get_logger("farebox")

_SAVE_EVERY_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """What another process of the same shop has for this one, so that all of them share it."""

    ledger: Ledger | None = None
    receivers: Sequence[Receiver] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGate:
    """A gate, and what there is besides it. store: the URL of its ledger; books: the ledger, if it was opened here."""

    gate: Gate
    store: str
    sandbox: Sandbox | None
    watch: Watch
    keys: Keys
    books: SqlLedger | None

    def sealing(self) -> AbstractAsyncContextManager[None]:
        """While inside, the audit log is sealed; by the one process that has the ledger."""
        return contextlib.nullcontext() if self.books is None else sealing(self.books, self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenShop(OpenGate):
    """A shop that is ready to serve, not yet listening."""

    app: AsgiApp


def store_of(config: Config, folder: Path) -> str:
    """The URL of a shop's ledger."""
    return config.store or f"sqlite:///{made_dir(folder).resolve() / 'ledger.db'}"


@asynccontextmanager
async def opened_gate(config: Config, folder: Path, lent: Lent | None = None) -> AsyncIterator[OpenGate]:
    """The gate of a shop, and what it stands on, opened, and closed again in order. Raises ConfigError, WalletError.

    lent: what is not opened here; whoever lends it has seen to the node's credential.
    """
    lent = lent or Lent()
    async with AsyncExitStack() as stack:
        store = store_of(config, folder)
        keys = LiveKeyRing(key_file(config.keys, folder))
        sandbox: Sandbox | None = None
        receivers = lent.receivers
        if not receivers and config.is_sandbox:
            from farebox.lightning.sandbox import Sandbox

            sandbox = Sandbox.open(made_dir(folder) / "sandbox.db", clock=now)
            stack.callback(sandbox.close)
            receivers = (sandbox.seller,)
        elif not receivers:
            receivers = opened_receivers(config.receiver)
        watch = open_watch(stack, metrics=config.metrics is not None, clock=now, environ=os.environ)
        books: SqlLedger | None = None
        ledger = watch.ledger(
            lent.ledger or (books := open_ledger(store, keep_answers=config.terms.keep_answers, keys=keys))
        )
        gate = open_gate(receiver=receivers, store=ledger, keys=keys, terms=config.terms, observer=watch.observer)
        stack.push_async_callback(gate.close)
        if not lent.receivers and not config.allow_spending_key:
            for receiver in await check_credentials(gate):
                stack.callback(asyncio.create_task(ask_again(gate, receiver)).cancel)
        if not lent.receivers:
            warn_of_what_is_not_held(config, receivers)
        yield OpenGate(gate=gate, store=store, sandbox=sandbox, watch=watch, keys=keys, books=books)


@asynccontextmanager
async def opened(config: Config, folder: Path, lent: Lent | None = None) -> AsyncIterator[OpenShop]:
    """Everything that a shop needs, opened, and closed again in order. Raises ConfigError, WalletError."""
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(opened_gate(config, folder, lent))
        served: dict[Route, Capability | AsgiApp] = {}
        for line in config.route:
            route, target = _sold(line)
            if isinstance(target, Proxy):
                stack.push_async_callback(target.aclose)
            if route in served:
                raise ConfigError(f"{route.resource} is listed twice")
            served[route] = at.watch.behind(target, line.upstream)
        manners = Manners(
            trusted_proxies=tuple(config.trusted_proxies),
            client_header=config.client_header,
            authority=config.public_url.rstrip("/") if config.public_url else None,
            most_body=config.most_body_bytes,
            most_answer=config.most_answer_bytes,
            spool=str(made_dir(folder / "spool")),
        )
        rates = config.rates.open()
        app = at.watch.served(shopfront(served, at.gate, manners=manners, rates=rates))
        await stack.enter_async_context(_kept(rates, {r.price.currency for r in served if isinstance(r.price, Fiat)}))
        yield OpenShop(
            app=app, gate=at.gate, store=at.store, sandbox=at.sandbox, watch=at.watch, keys=at.keys, books=at.books
        )


@asynccontextmanager
async def _kept(rates: Rates, currencies: Set[str]) -> AsyncIterator[None]:
    """While inside, the rates of these currencies are looked at. A shop opens without one: such calls are told so."""
    if not currencies:
        yield
        return
    found = await rates.find_all(currencies)
    for missing in sorted(currencies - found.keys()):
        log.warning("no-rate", currency=missing, mend="calls priced in it are told 503 until there is one")
    keeping = asyncio.create_task(rates.keep(currencies))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def _sold(line: RouteConfig) -> tuple[Route, Capability | AsgiApp]:
    """A line of the price list, and what is behind it."""
    key = f"{line.method or ('POST' if line.upstream is None else '*')} {line.path}"
    if line.upstream is not None:
        target: Capability | AsgiApp = Proxy(
            line.upstream,
            idle_timeout=timedelta(seconds=line.upstream_timeout_s),
            headers=dict(line.upstream_headers),
        )
        rerun = line.rerun
    elif line.openai is not None and line.model is not None:
        api_key = Secret(line.api_key) if line.api_key else None
        target, rerun = text_capability(line.openai, line.model, api_key=api_key, price=line.price), True
    else:
        target, rerun = demo_capability(price=line.price), True
    route = Route.read(key, line.price, summary=line.summary)
    return Route(
        method=route.method,
        path=route.path,
        price=route.price,
        name=route.name,
        summary=route.summary,
        rerun=rerun,
        charge_for=line.charge_for,
        on_success=line.settle is Settle.ON_SUCCESS,
    ), target


def check_exposure(config: Config, *, sandbox_allowed: bool) -> None:
    """Refuse to sell for play money to the public. Raises ConfigError."""
    host, _ = config.address
    if config.is_sandbox and not is_loopback(host) and not sandbox_allowed:
        raise ConfigError(
            f"the sandbox moves no real money, and {host} can be reached by others; "
            "set `receiver` to your node, or say --sandbox if you mean it"
        )


async def run(config: Config, *, folder: Path, state_file: Path | None = None, announced: bool = True) -> None:
    """Serve until a signal says to stop. Raises ConfigError, WalletError."""
    from farebox.cli.server import Stoppable

    host, port = config.address
    bound = listening_socket(host, port)
    with contextlib.closing(bound), metrics_socket(config) as metrics:
        async with opened(config, folder) as shop, _wallets(shop, folder) as wallets:
            url = url_of(host, bound.getsockname()[1])
            if announced:
                announce(config, url, wallets)
            if state_file is not None:
                write_state(state_file, url=url, wallets=wallets, store=shop.store)
            await warn_of_silent_upstreams(config)
            async with (
                upkeep(shop.gate),
                shop.sealing(),
                saving(shop.gate),
                shop.watch.reporting(metrics, shop.store, shop.gate.ledger),
            ):
                await Stoppable(shop.app).serve(sockets=[bound])


@asynccontextmanager
async def _wallets(shop: OpenShop, folder: Path) -> AsyncIterator[Wallets | None]:
    if shop.sandbox is None:
        yield None
        return
    with sandbox_address(folder) as (bound, wallets):
        async with sandbox_api(shop.sandbox, folder, bound):
            yield wallets


@asynccontextmanager
async def upkeep(gate: Gate) -> AsyncIterator[None]:
    """While inside, what a shop has to do besides answering; of the processes of one shop, one does it."""
    house = asyncio.create_task(keep_house(gate))
    try:
        yield
    finally:
        house.cancel()
        await asyncio.gather(house, return_exceptions=True)


@asynccontextmanager
async def saving(gate: Gate) -> AsyncIterator[None]:
    """While inside, answers that the ledger could not be given are given to it as soon as it is there again."""

    async def save() -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            with contextlib.suppress(StoreUnavailable):
                await gate.save_answers()

    task = asyncio.create_task(save())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(StoreUnavailable):
            await gate.save_answers()


@contextlib.contextmanager
def metrics_socket(config: Config) -> Iterator[socket.socket | None]:
    """A socket where metrics are to be read, if they are. Raises ConfigError."""
    at = config.metrics_address
    if at is None:
        yield None
        return
    warn_of_open_metrics(at[0])
    with contextlib.closing(listening_socket(*at, option="--metrics")) as bound:
        log.info("metrics", url=f"{url_of(at[0], bound.getsockname()[1])}/metrics")
        yield bound
