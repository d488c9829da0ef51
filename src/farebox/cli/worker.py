"""A child of `farebox serve --workers`: `python -m farebox.cli.worker`, told what to be over its standard input.

Rules
1. A worker answers calls and does nothing else. The keeper has what there is one of: it serves the ledger's file to the
   workers, it has the sandbox and does the upkeep.
2. A child that can't begin says why, in a line, and ends. One that has begun ends when it is told to, or when its
   supervisor is gone, and answers first whom it has heard.
3. The keeper goes on for as long as workers need it, whatever signals come.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

from farebox.cli.config import Config
from farebox.cli.logs import configure, log_what_nobody_catches
from farebox.cli.orders import Fixed, Line, Orders, Ready, Refused, Role, Word, read_orders
from farebox.cli.running import event_loop
from farebox.cli.sandbox_api import sandbox_app
from farebox.cli.seals import sealing
from farebox.cli.serve import Lent, check_exposure, opened, opened_gate, saving, store_of, upkeep
from farebox.cli.server import DRAIN, Draining
from farebox.cli.state import LiveKeyRing, key_file
from farebox.cli.telemetry import Watch
from farebox.core.errors import ConfigError, FareboxError
from farebox.core.ports import Ledger
from farebox.http.selling import opened_receivers
from farebox.stores import open_ledger
from farebox.stores.remote import ServedLedger, ledger_socket, open_remote_ledger, serve_ledger

LEAVE: Final = timedelta(minutes=10)  # a call may take this long, after its worker was replaced
_LAST_REPLIES: Final = timedelta(seconds=1)
_MEMORY: Final = "sqlite::memory:"
_ORPHANED: Final = DRAIN + timedelta(seconds=5)


def main() -> int:
    """Do what is ordered. The exit code: 0, or 1 when that can't be done."""
    for number in (signal.SIGINT, signal.SIGHUP):  # meant for the supervisor, also when a terminal sends it to us all
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=0)
    orders = read_orders(control)
    if orders.role is Role.KEEPER:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(_obey(orders, control))


async def _obey(orders: Orders, control: socket.socket) -> int:
    line = await Line.over(control)
    begun = False
    try:
        config = orders.source.read()
        configure(orders.log_level, known=config.secrets, worker=orders.number if orders.number else orders.role)
        log_what_nobody_catches()
        role = _kept if orders.role is Role.KEEPER else _worked
        async with role(config, orders, line) as (ready, over):
            line.say(ready)
            begun = True
            await over
    except FareboxError as error:
        if begun:
            raise
        line.say(Refused(kind=error.type, detail=error.detail))
        return 1
    finally:
        await line.close()
    return 0


# --- a worker ---------------------------------------------------------------------------------------------------------

Begun = tuple[Ready, asyncio.Task[None]]  # what it says, and what ends when it has


@asynccontextmanager
async def _worked(config: Config, orders: Orders, line: Line) -> AsyncIterator[Begun]:
    folder = Path(orders.folder)
    lent = Lent(
        ledger=None if orders.ledger is None else open_remote_ledger(Path(orders.ledger)),
        receivers=opened_receivers((orders.seller,) if orders.seller else config.receiver),
    )
    async with (
        opened(config, folder, lent) as shop,
        saving(shop.gate),
        _reporting(shop.watch, shop.store, shop.gate.ledger),
    ):
        server = Draining(shop.app)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.drain, DRAIN)
        serving = asyncio.create_task(server.serve(sockets=[socket.socket(fileno=each) for each in orders.sockets]))
        listening = asyncio.create_task(_listen(line, server))
        opening = asyncio.create_task(server.opened.wait())
        await asyncio.wait((serving, opening), return_when=asyncio.FIRST_COMPLETED)
        try:
            yield Ready(), serving
        finally:
            opening.cancel()
            listening.cancel()


async def _listen(line: Line, server: Draining) -> None:
    while True:
        match await line.hear_word():
            case Word.LEAVE:
                server.drain(LEAVE)
            case Word.STOP:
                server.drain(DRAIN, last=True)
            case Word.END:
                server.end()
            case None:
                server.drain(DRAIN, last=True)
                return


@asynccontextmanager
async def _reporting(watch: Watch, store: str, ledger: Ledger) -> AsyncIterator[None]:
    if not watch.worker:  # the supervisor audits, and reads out nothing
        yield
        return
    async with watch.reporting(None, store, ledger):
        yield


# --- the keeper -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _kept(config: Config, orders: Orders, line: Line) -> AsyncIterator[Begun]:
    folder = Path(orders.folder)
    store = store_of(config, folder)
    _check(config, orders, store)
    async with AsyncExitStack() as stack:
        keys = LiveKeyRing(key_file(config.keys, folder))
        ledger = open_ledger(store, keep_answers=config.terms.keep_answers, keys=keys)
        at = await stack.enter_async_context(opened_gate(config, folder, Lent(ledger=ledger)))
        await stack.enter_async_context(_reporting(at.watch, store, at.gate.ledger))
        served: ServedLedger | None = None
        if store.startswith("sqlite:") and orders.ledger is not None:
            bound = ledger_socket(Path(orders.ledger))
            served = await stack.enter_async_context(serve_ledger(ledger, bound))
        api: Draining | None = None
        if at.sandbox is not None:
            api = Draining(sandbox_app(at.sandbox, folder))
            await stack.enter_async_context(_serving(api, orders.sockets))
        kept_up = await stack.enter_async_context(AsyncExitStack())
        await kept_up.enter_async_context(upkeep(at.gate))
        await kept_up.enter_async_context(sealing(ledger, at.keys))
        over = asyncio.create_task(_keep(line, kept_up, served, api))
        ready = Ready(version=version("farebox"), workers=config.worker_count or 1, serves_ledger=served is not None)
        yield ready, over


def _check(config: Config, orders: Orders, store: str) -> None:
    check_exposure(config, sandbox_allowed=orders.sandbox_allowed)
    if config.worker_count is None:
        raise ConfigError("`workers` is gone from the configuration; to serve without them, stop and start again")
    if store == _MEMORY:
        raise ConfigError("a ledger in memory can't be shared by workers; name a file")
    now = Fixed(listen=config.listen, store=store, sandbox=config.is_sandbox)
    if orders.fixed not in (None, now):
        raise ConfigError("`listen`, `store`, and whether it is the sandbox, can't change while serving: restart")


@asynccontextmanager
async def _serving(api: Draining, sockets: tuple[int, ...]) -> AsyncIterator[None]:
    serving = asyncio.create_task(api.serve(sockets=[socket.socket(fileno=each) for each in sockets]))
    await api.opened.wait()
    try:
        yield
    finally:
        api.drain(_LAST_REPLIES)
        await serving


async def _keep(line: Line, kept_up: AsyncExitStack, served: ServedLedger | None, api: Draining | None) -> None:
    """Returns when nobody needs us any more."""
    while (word := await line.hear_word()) is Word.LEAVE:
        await kept_up.aclose()
        if api is not None:
            api.drain(LEAVE)
    await kept_up.aclose()
    if served is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout((_ORPHANED if word is None else _LAST_REPLIES).total_seconds()):
                await served.deserted()


if __name__ == "__main__":
    raise SystemExit(main())
