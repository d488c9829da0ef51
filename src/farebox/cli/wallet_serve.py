"""`farebox wallet serve`: the wallet's MCP server, over standard input and output or over HTTP.

Rules
1. Over standard input whoever started the process is whom it serves; a token narrows that. Over HTTP each request shows
   a token, and only this machine is heard unless the public's URL is told.
2. Standard output is the protocol's; all else goes to standard error.
3. Only addresses of the public internet are called, unless the person who started it said otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from farebox.cli.books import found_wallet, purse_place, wallet_needed
from farebox.cli.config import host_and_port
from farebox.cli.listening import listening_socket, url_of
from farebox.cli.logs import configure, log_what_nobody_catches
from farebox.cli.output import as_usage, tell
from farebox.cli.policy import finish_earlier, open_by_policy
from farebox.core.allowance import Allowance
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, UsageError
from farebox.core.host import is_loopback
from farebox.core.secret import Secret
from farebox.http.buy import AsyncClient
from farebox.http.buyer import Buyer
from farebox.http.converse import trust
from farebox.http.forward.reach import CheckedTransport, Reach
from farebox.payer.broken_off import WITHIN

if TYPE_CHECKING:
    from mcp.server import MCPServer

DEFAULT_HTTP: Final = "127.0.0.1:8404"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for on the command line."""

    http: str | None
    public_url: str | None
    budget: str
    time_zone: str | None
    most: str | None
    token: str | None
    allow: tuple[str, ...]
    allow_private: bool
    approve_above: str | None
    approval_wait_s: float
    timeout_s: float


def serve(wanted: Wanted, *, wallet_url: str | None, folder: Path) -> None:
    """Serve until the caller is gone or a signal ends it. Raises ConfigError, WalletError, MalformedBudget."""
    _check(wanted)
    configure("warning", known=[Secret(secret) for secret in (wallet_url, wanted.token) if secret])
    log_what_nobody_catches()
    wallet = wallet_needed(found_wallet(wallet_url, folder))
    with as_usage():
        reach = Reach(allow=wanted.allow, private=wanted.allow_private)
    own = Allowance(most=Amount.read(wanted.most) if wanted.most else None)
    buyer = open_by_policy(
        wallet=wallet,
        budget=wanted.budget,
        time_zone=wanted.time_zone,
        purse=purse_place(folder),
        approve_above=wanted.approve_above,
        approval_patience=timedelta(seconds=wanted.approval_wait_s),
    )
    if wanted.http is None:
        # A thread waits in the caller's line, and would keep the process; what is being paid is found again as after a
        # crash.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.closing(buyer):
        asyncio.run(_serve(wanted, buyer, own, reach))


def _check(wanted: Wanted) -> None:
    if find_spec("mcp") is None:
        raise ConfigError("`farebox wallet serve` needs the extra `mcp`: pip install 'farebox[mcp]'")
    if wanted.http is None and wanted.public_url is not None:
        raise UsageError("--public-url goes with --http")
    if wanted.http is not None and wanted.token is not None:
        raise UsageError("over HTTP each caller shows a token of its own; leave out --token and FAREBOX_PURSE")
    if wanted.http is not None:
        host, _ = _address(wanted.http)
        if not _hosts(wanted.public_url) and not is_loopback(host):
            told = (
                f"{host} can be reached by others; say what they call it, by --public-url https://…, with TLS in front"
            )
            raise UsageError(told)


async def _serve(wanted: Wanted, buyer: Buyer, own: Allowance, reach: Reach) -> None:
    from farebox.mcp import admitted_by_token, wallet_server

    def admit(token: str) -> Allowance:
        return own.narrowed(buyer.admit(token))

    async def admitted(_: object) -> Allowance:
        return own if wanted.token is None else await asyncio.to_thread(admit, wanted.token)

    within = WITHIN + timedelta(seconds=wanted.timeout_s + wanted.approval_wait_s)
    transport = CheckedTransport(reach, tls=trust(httpx, None))
    nothing = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # one caller's cookies are not another's
    async with AsyncClient(
        buyer=buyer, transport=transport, timeout=wanted.timeout_s, trust_env=False, cookies=nothing
    ) as client:
        earlier = asyncio.create_task(finish_earlier(buyer))
        if wanted.http is None:
            await admitted(None)  # a token that is not good is told at once
            server = wallet_server(client=client, buyer=buyer, admitted=admitted, within=within)
            await server.run_stdio_async()
        else:
            server = wallet_server(client=client, buyer=buyer, admitted=admitted_by_token, within=within)
            await _over_http(server, admit, wanted.http, _hosts(wanted.public_url))
        earlier.cancel()


async def _over_http(server: MCPServer[Any], admit: Callable[[str], Allowance], address: str, hosts: list[str]) -> None:
    from farebox.cli.server import Stoppable
    from farebox.mcp import http_app

    host, port = _address(address)
    with contextlib.closing(listening_socket(host, port, option="--http")) as bound:
        async with http_app(server, admit=admit, hosts=hosts) as app:
            url = url_of(host, bound.getsockname()[1])
            tell(f"the wallet is served at {url}/mcp to whoever shows a purse token; stop with Ctrl-C")
            await Stoppable(app).serve(sockets=[bound])


def _address(text: str) -> tuple[str, int]:
    with as_usage():
        return host_and_port("--http", text, DEFAULT_HTTP)


def _hosts(public_url: str | None) -> list[str]:
    """What `Host` says of callers under this URL."""
    if public_url is None:
        return []
    url = urlsplit(public_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise UsageError(f"--public-url is such as https://wallet.example, not {public_url}")
    return [url.netloc.rpartition("@")[2]]
