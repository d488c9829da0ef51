"""Buy what MCP tools sell: a session of the official SDK that pays for them, within a budget.

    async with Client("https://tools.example/mcp") as client:
        session = farebox.mcp.PaidSession(client, server="https://tools.example/mcp", buyer=farebox.open_buyer(…))
        result = await session.call_tool("forecast", {"city": "Bern"})
        result.meta["farebox"]["paid_msat"]

Rules
1. The same story as with HTTP: audited, held in the budget, paid at most once, found again after a crash.
2. The same call is one to the same server of the same tool with the same arguments; members of `_meta` don't count.
3. Whoever is paid is the server that the caller named, for it alone is talked with.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from mcp import MCPError
from mcp_types import CallToolResult

from farebox.core.errors import ConfigError, FareboxError
from farebox.core.exchange import Wire
from farebox.mcp.buy_wire import NO_CHALLENGES, read_error, read_result, write_proof
from farebox.mcp.told import KnowsLimits, WindowLeft, error_result, windows_left
from farebox.payer import Answered, Bought, Deliver, Drivers, NoAnswer, OutgoingCall, Send, Telling, allowance_here

COST: Final = "farebox"  # the member of a result's `_meta` that tells what it cost

_PORTS: Final = {"http": 80, "https": 443}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


class CallsTools(Protocol):
    """What is needed of a session: the SDK's `Client` and its `ClientSession` both are one."""

    async def call_tool(self, name: str, arguments: dict[str, Any] | None = None, **options: Any) -> Any:
        """Call a tool."""


class Buys(KnowsLimits, Protocol):
    """What is needed of a `farebox.Buyer`."""

    drivers: Drivers

    def purchase(self, call: OutgoingCall) -> Telling[Bought]:
        """A purchase, ready to be driven."""


class PaidSession:
    """A session whose paid tools are paid for; everything else it leaves to the session that it was given.

    session: the SDK's `Client` or `ClientSession`, open. server: the URL that it talks with, or for a server without
    one a name of your own. buyer: of `farebox.open_buyer`. errors: "text" to get a purchase that failed as a result
    which says so, for a model to act on, instead of a PurchaseError.
    Raises ConfigError for a server without a name.
    """

    def __init__(
        self, session: CallsTools, *, server: str, buyer: Buys, errors: Literal["raise", "text"] = "raise"
    ) -> None:
        self._session = session
        self._buyer = buyer
        self._errors = errors
        self._server = server
        self._origin, self._url = _place(server)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: Any = None,
        *,
        meta: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Call a tool, and pay for it if need be: its result, with what it cost as `meta["farebox"]`.

        Raises a PurchaseError, which says whether money moved; StoreUnavailable, and nothing was paid, when the purse
        can't be written; and the session's own errors for what went wrong before anything was to be paid.
        """
        options |= {"read_timeout_seconds": read_timeout_seconds, "progress_callback": progress_callback}
        exchange = _Exchange(self._session, self._origin, name, arguments, dict(meta or {}), options)
        call = OutgoingCall(
            origin=self._origin,
            url=f"{self._url}#{name}",
            method="TOOL",
            path=f"/{name}",
            digest=_digest(self._server, name, arguments),
        )
        try:
            bought = await self._drive(exchange, self._buyer.purchase(call))
        except FareboxError as error:
            if self._errors == "raise":
                raise
            return error_result(error, await self._left())
        return _with_cost(exchange.result, bought)

    async def _left(self) -> list[WindowLeft]:
        """What is left, for an error that stands without it too."""
        with suppress(FareboxError):
            return await asyncio.to_thread(windows_left, self._buyer, allowance_here())
        return []

    async def _drive(self, exchange: _Exchange, telling: Telling[Bought]) -> Bought:
        drivers = self._buyer.drivers
        try:
            while (step := await drivers.aadvance(telling)) is not None:
                match step:
                    case Send():
                        telling.reply(await exchange.send(step))
                    case Deliver():  # what came, came whole
                        await drivers.anote(step.outcome)
                        telling.reply(None)
        finally:
            telling.close()
        return telling.result


class _Exchange:
    """One call: how it is sent, and the result heard last."""

    def __init__(
        self,
        session: CallsTools,
        origin: str,
        name: str,
        arguments: dict[str, Any] | None,
        meta: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        self._session = session
        self._origin = origin
        self._call = (name, arguments)
        self._meta = meta
        self._options = options
        self._challenges = NO_CHALLENGES
        self.result: Any = None

    async def send(self, step: Send) -> Answered | NoAnswer:
        """Send the call. Raises whatever the session raises for one to which no answer is owed."""
        proof = {} if step.proof is None else write_proof(step.proof, self._challenges)
        meta = self._meta | proof or None
        if not step.is_owed:
            return await self._send(meta, shown=False)
        try:
            return await self._send(meta, shown=True)
        except Exception as error:  # noqa: BLE001 - whatever it was, the money is spent and no answer is here
            return NoAnswer(reason=type(error).__name__)

    async def _send(self, meta: Mapping[str, Any] | None, *, shown: bool) -> Answered | NoAnswer:
        try:
            self.result = await self._session.call_tool(*self._call, meta=meta, **self._options)
        except MCPError as error:
            heard, challenges = read_error(error, self._origin, shown=shown)
            if heard is None:
                raise
            self._challenges = challenges or self._challenges
            return heard
        if isinstance(self.result, CallToolResult):
            return read_result(self.result, self._origin, shown=shown)
        # It asks for input first, in further calls, or ends another way: what was paid is for the call that gets there.
        kept = Wire(headers=(("payment-kept", "true"),)) if shown else Wire()
        return Answered(status=422 if shown else 200, origin=self._origin, wire=kept)


def _place(server: str) -> tuple[str, str]:
    """The origin that is paid, and the address for the purse, without user information, query and fragment."""
    url = urlsplit(server)
    if url.scheme in _PORTS and url.hostname:
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        origin = f"{url.scheme}://{host}:{url.port or _PORTS[url.scheme]}"
        return origin, origin + url.path
    if not _NAME.fullmatch(server):
        raise ConfigError("a server is named by its URL, or by a name of letters, digits and . _ -")
    return f"mcp://{server}:0", f"mcp://{server}"


def _digest(server: str, name: str, arguments: Mapping[str, Any] | None) -> bytes | None:
    """SHA-256 of server, tool and arguments; None for arguments that are no JSON."""
    try:
        told = json.dumps(dict(arguments or {}), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    fields = [each.encode("utf-8", "surrogatepass") for each in ("farebox tool call 1", server, name, told)]
    return sha256(b"".join([len(field).to_bytes(4, "big") + field for field in fields])).digest()


def _with_cost(result: Any, bought: Bought) -> Any:
    """The result with what it cost, which no server can say in our place."""
    if not isinstance(result, CallToolResult):
        return result
    cost = {
        "paid_msat": bought.paid.msat,
        "fee_msat": bought.fee.msat,
        "payment_hash": bought.payment_hash.hex() if bought.payment_hash else None,
        "replayed": bought.replayed,
    }
    return result.model_copy(update={"meta": {**(result.meta or {}), COST: cost}})
