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
import ipaddress
import json
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog

from farebox.catalog.capability import Capability
from farebox.catalog.routes import Route
from farebox.cli.config import Config, RouteConfig
from farebox.cli.output import tell
from farebox.cli.state import key_ring, made_dir, read_json, sandbox_file, write_private
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError
from farebox.core.ports import Receiver
from farebox.core.secret import Secret
from farebox.http.paywall import Manners
from farebox.http.proxy import Proxy
from farebox.http.request import AsgiApp
from farebox.http.selling import Gate, now, open_gate
from farebox.http.shopfront import shopfront
from farebox.lightning import open_receiver
from farebox.services.demo import demo_capability
from farebox.services.text import text_capability

if TYPE_CHECKING:
    import uvicorn

    from farebox.lightning.sandbox import Sandbox

log = structlog.get_logger("farebox")

DRAIN: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallets:
    """The sandbox's two wallets, as URLs for anyone on this machine; each holds a password."""

    buyer: Secret[str]
    seller: Secret[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenShop:
    """A shop that is ready to serve, not yet listening."""

    app: AsgiApp
    gate: Gate
    store: str
    sandbox: Sandbox | None


@asynccontextmanager
async def opened(config: Config, folder: Path) -> AsyncIterator[OpenShop]:
    """Everything that a shop needs, opened, and closed again in order. Raises ConfigError, WalletError."""
    async with AsyncExitStack() as stack:
        store = config.store or f"sqlite:///{made_dir(folder).resolve() / 'ledger.db'}"
        ring = key_ring(config.keys or folder / "keys")
        sandbox: Sandbox | None = None
        receiver: Receiver
        if config.receiver == "sandbox:":
            from farebox.lightning.sandbox import Sandbox

            sandbox = Sandbox.open(made_dir(folder) / "sandbox.db", clock=now)
            stack.callback(sandbox.close)
            receiver = sandbox.seller
        else:
            receiver = open_receiver(config.receiver)
        gate = open_gate(receiver=receiver, store=store, keys=ring, terms=config.terms)
        stack.push_async_callback(gate.close)
        served: dict[Route, Capability | AsgiApp] = {}
        for line in config.route:
            route, target = _sold(line)
            if isinstance(target, Proxy):
                stack.push_async_callback(target.aclose)
            if route in served:
                raise ConfigError(f"{route.resource} is listed twice")
            served[route] = target
        manners = Manners(
            trusted_proxies=tuple(config.trusted_proxies),
            client_header=config.client_header,
            authority=config.public_url.rstrip("/") if config.public_url else None,
            most_body=config.most_body_bytes,
            most_answer=config.most_answer_bytes,
        )
        yield OpenShop(app=shopfront(served, gate, manners=manners), gate=gate, store=store, sandbox=sandbox)


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
        method=route.method, path=route.path, price=route.price, name=route.name, summary=route.summary, rerun=rerun
    ), target


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket. Raises ConfigError in one line when the address is taken or not ours."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # where the address is told once more
        raise ConfigError(f"can't listen on {host}:{port} ({reason}); choose another with --listen host:port") from None


def check_exposure(config: Config, *, sandbox_allowed: bool) -> None:
    """Refuse to sell for play money to the public. Raises ConfigError."""
    host, _ = config.address
    try:
        public = not ipaddress.ip_address(host).is_loopback
    except ValueError:
        public = host != "localhost"
    if config.receiver == "sandbox:" and public and not sandbox_allowed:
        raise ConfigError(
            f"the sandbox moves no real money, and {host} can be reached by others; "
            "set `receiver` to your node, or say --sandbox if you mean it"
        )


async def run(config: Config, *, folder: Path, state_file: Path | None = None, announce: bool = True) -> None:
    """Serve until a signal says to stop. Raises ConfigError, WalletError."""
    host, port = config.address
    bound = listening_socket(host, port)
    with contextlib.closing(bound):
        async with opened(config, folder) as shop:
            server = _stoppable(shop.app)
            url = _url(host, bound.getsockname()[1])
            async with _sandbox_api(shop, folder) as wallets:
                if announce:
                    _announce(config, url, wallets)
                if state_file is not None:
                    write_private(state_file, json.dumps(_state(url, wallets, shop.store)))
                await _warn_of_silent_upstreams(config)
                sweeper = asyncio.create_task(_sweep(shop.gate))
                try:
                    await server.serve(sockets=[bound])
                finally:
                    sweeper.cancel()


def _stoppable(app: AsgiApp) -> uvicorn.Server:
    """A server that returns when a signal has stopped it, where uvicorn's would have the process die of the signal."""
    import uvicorn

    class Stoppable(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Calls that run for too long are left, not cancelled: closing what they use ends them, and tells callers.
            leave = asyncio.get_running_loop().call_later(DRAIN.total_seconds(), setattr, self, "force_exit", True)
            try:
                await super().shutdown(sockets)
            finally:
                leave.cancel()

    return Stoppable(_uvicorn(app))


def _uvicorn(app: AsgiApp, *, cancel_after: timedelta | None = None) -> uvicorn.Config:
    import uvicorn

    from farebox.http.server import StrictHttp

    return uvicorn.Config(
        app,
        http=StrictHttp,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=None if cancel_after is None else round(cancel_after.total_seconds()),
    )


@asynccontextmanager
async def _sandbox_api(shop: OpenShop, folder: Path) -> AsyncIterator[Wallets | None]:
    if shop.sandbox is None:
        yield None
        return
    import uvicorn

    from farebox.lightning.phoenixd_api import phoenixd_api

    class Quiet(uvicorn.Server):
        """A server that leaves the signals to the main one."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    remembered = read_json(folder / "sandbox-passwords.json")
    passwords = {role: remembered.get(role) or secrets.token_hex(32) for role in ("buyer", "seller")}
    write_private(folder / "sandbox-passwords.json", json.dumps(passwords))
    with contextlib.closing(listening_socket("127.0.0.1", 0)) as bound:
        opened_by = {password: role for role, password in passwords.items()}
        api = Quiet(_uvicorn(phoenixd_api(shop.sandbox, opened_by), cancel_after=timedelta(seconds=1)))
        serving = asyncio.create_task(api.serve(sockets=[bound]))
        at = f"127.0.0.1:{bound.getsockname()[1]}"
        wallets = Wallets(
            buyer=Secret(f"phoenixd+http://:{passwords['buyer']}@{at}"),
            seller=Secret(f"phoenixd+http://:{passwords['seller']}@{at}"),
        )
        told = {"buyer_wallet": wallets.buyer.reveal(), "seller_wallet": wallets.seller.reveal()}
        file = sandbox_file(folder, bound.getsockname()[1])
        write_private(file, json.dumps(told))
        try:
            yield wallets
        finally:
            api.should_exit = True
            await serving
            file.unlink(missing_ok=True)


async def _sweep(gate: Gate) -> None:
    """Let unpaid invoices run out, once a minute."""
    while True:
        await asyncio.sleep(60)
        with contextlib.suppress(Exception):
            await gate.ledger.expire_payments(grace=timedelta(minutes=10))


async def _warn_of_silent_upstreams(config: Config) -> None:
    """A line for each service that does not answer now; it may come up later, so the shop opens all the same."""
    for url in {line.upstream or line.openai for line in config.route} - {None}:
        parts = urlsplit(url or "")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(2):
                _, writer = await asyncio.open_connection(parts.hostname, port)
            writer.close()
        except (OSError, TimeoutError) as error:
            reason = "connection refused" if isinstance(error, ConnectionRefusedError) else type(error).__name__
            tell(
                f"warning: {parts.hostname}:{port} does not answer ({reason}); calls fail, unpaid, until it does",
                style="yellow",
            )


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _state(url: str, wallets: Wallets | None, store: str) -> Mapping[str, str | None]:
    return {
        "shop": url,
        "buyer_wallet": wallets.buyer.reveal() if wallets else None,
        "seller_wallet": wallets.seller.reveal() if wallets else None,
        "store": store,
    }


def _announce(config: Config, url: str, wallets: Wallets | None) -> None:
    if wallets is not None:
        tell(
            "SANDBOX: no real money moves here. Set `receiver` (or --receiver) to your node to be paid.",
            style="bold red",
        )
    for line in config.route:
        key = f"{line.method or ('POST' if line.upstream is None else 'any')} {url}{line.path}"
        price = line.price if line.price == "free" else str(Amount.read(line.price))
        tell(f"  {key}  {price}", style="bold")
    tell(f"  prices at {url}/pricing; stop with Ctrl-C")
    log.info("serving", url=url, routes=len(config.route), sandbox=wallets is not None)
