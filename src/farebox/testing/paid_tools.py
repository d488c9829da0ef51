"""A seller of MCP tools on the official SDK: the Payment scheme in JSON-RPC, told by our own dialect.

As a program it is a server over stdio, or over HTTP with a port: `-m farebox.testing.paid_tools RECEIVER [PORT]`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any, Literal

import httpx
from mcp import Client, MCPError
from mcp.server import MCPServer
from mcp.server.extension import Extension
from mcp_types import CallToolRequestParams, CallToolResult

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.errors import CredentialRejected, MalformedCredential
from farebox.core.exchange import Challenge, Credential, Json, Quote, Receipt, Wire
from farebox.core.ports import Clock, Receiver
from farebox.core.secret import KeyRing
from farebox.dialects import PaymentAuth
from farebox.dialects.canonical_json import read_members, write_canonical, write_members
from farebox.http.converse import aconverse
from farebox.lightning import open_receiver
from farebox.stores.engine import utc_now

CREDENTIAL = "org.paymentauth/credential"
RECEIPT = "org.paymentauth/receipt"
PRICE = Amount.sats(21)

_OBJECTS = ("request", "opaque")
_PATIENCE_S = 30.0


@dataclass
class PaidTools(Extension):
    """Asks for a payment for each call of these tools, and lets it run once it is proven.

    prices: by the tool's name. make_invoice: for a quote. script: what happens instead, once each: an error to raise,
    or a function that makes a result of the parameters. calls: the proof, or None, of each call that came.
    """

    prices: dict[str, Amount]
    make_invoice: Callable[[Quote], Awaitable[Invoice]]
    clock: Clock = utc_now
    dialect: PaymentAuth = field(default_factory=lambda: PaymentAuth(KeyRing.generate()))
    script: list[Any] = field(default_factory=list)
    calls: list[dict[str, Any] | None] = field(default_factory=list)
    answers: dict[bytes, CallToolResult] = field(default_factory=dict)

    identifier = "org.paymentauth/payment"

    async def intercept_tool_call(self, params: CallToolRequestParams, ctx: Any, call_next: Any) -> Any:
        """What the SDK calls in place of the tool."""
        shown: Any = (params.meta or {}).get(CREDENTIAL)
        self.calls.append(shown)
        if self.script and (instead := self.script.pop(0)) is not None:
            if isinstance(instead, Exception):
                raise instead
            return instead(params)
        price = self.prices.get(params.name)
        if price is None:
            return await call_next(ctx)
        quote = Quote(amount=price, resource=f"tool {params.name}", digest=_digest(params))
        if shown is None:
            raise await self.payment_required(quote)
        credential = self._checked(shown, quote)
        if credential is None:
            raise await self.payment_required(quote, failure="verification-failed")
        answer = self.answers.get(credential.payment_hash)
        if answer is None:
            ran = await call_next(ctx)
            assert isinstance(ran, CallToolResult)
            answer = self.answers[credential.payment_hash] = self._with_receipt(ran, credential)
        return answer

    async def payment_required(self, quote: Quote, failure: str | None = None) -> MCPError:
        """The error that asks for a payment."""
        invoice = await self.make_invoice(quote)
        challenge = self.dialect.issue(quote, invoice, valid_until=invoice.expires_at + timedelta(hours=1))
        assert challenge is not None
        return asking(challenge, failure=failure)

    def _checked(self, shown: Any, quote: Quote) -> Credential | None:
        told = {name: write_members(value) if name in _OBJECTS else value for name, value in shown["challenge"].items()}
        text = write_members({"challenge": told, "payload": shown["payload"]})
        try:
            credential = self.dialect.read_credential(Wire(headers=(("authorization", f"Payment {text}"),)))
            assert credential is not None
            self.dialect.verify(credential, now=self.clock())
        except (MalformedCredential, CredentialRejected):
            return None
        sealed = self.dialect.sealed(credential)
        return credential if sealed is not None and sealed.digest == quote.digest else None

    def _with_receipt(self, result: CallToolResult, credential: Credential) -> CallToolResult:
        challenge_id = dict(credential.parameters)["id"]
        receipt = Receipt(payment_hash=credential.payment_hash, amount=None, at=self.clock(), challenge_id=challenge_id)
        ((_, text),) = self.dialect.write_receipt(receipt).headers
        return result.model_copy(update={"meta": {**(result.meta or {}), RECEIPT: read_members(text)}})


def asking(challenge: Challenge, *, failure: str | None = None, **more: Json) -> MCPError:
    """The error that asks for what a challenge of the Payment dialect asks for. more: members of the challenge."""
    native: dict[str, Json] = {
        name: read_members(value) if name in _OBJECTS else value for name, value in challenge.parameters
    }
    data: dict[str, Json] = {"httpStatus": 402, "challenges": [native | more]}
    if failure is not None:
        return MCPError(
            code=-32043, message="Payment Verification Failed", data=data | {"failure": {"reason": failure}}
        )
    return MCPError(code=-32042, message="Payment Required", data=data)


def _digest(params: CallToolRequestParams) -> bytes:
    return sha256(write_canonical({"name": params.name, "arguments": params.arguments or {}}).encode()).digest()


def used(server: Any, use: Callable[[Any], Awaitable[Any]], *, mode: Literal["auto", "legacy"] = "auto") -> Any:
    """What `use` makes of a client that is connected to a server. Raises what it raises, not a group of it."""

    async def main() -> Any:
        async with Client(server, mode=mode) as client:
            try:
                return await use(client)
            except Exception as error:  # noqa: BLE001 - it would leave the client as one of a group
                return error

    made = asyncio.run(main())
    if isinstance(made, Exception):
        raise made
    return made


def paid_server(tools: PaidTools) -> MCPServer[Any]:
    """A server with a tool that costs, `forecast`, and one that does not, `today`."""
    server: MCPServer[Any] = MCPServer("weather", extensions=[tools], log_level="WARNING")
    server.add_tool(forecast)
    server.add_tool(today)
    return server


async def forecast(city: str, days: int = 1) -> dict[str, str]:
    """The weather to come. Costs 21 sat."""
    return {"city": city, "weather": "sun" * days}


async def today() -> str:
    """The weather of today, for nothing."""
    return "rain"


def invoices_of(receiver: Receiver) -> Callable[[Quote], Awaitable[Invoice]]:
    """Invoices of a node or wallet."""

    async def make_invoice(quote: Quote) -> Invoice:
        asked = receiver.create_invoice(quote.amount, description=quote.resource, expires_in=timedelta(minutes=10))
        async with httpx.AsyncClient(trust_env=False, timeout=_PATIENCE_S) as http:
            return await aconverse(asked, http)

    return make_invoice


def main(receiver_url: str) -> None:
    """Serve over stdio, or over HTTP on the port that is told next."""
    server = paid_server(PaidTools({"forecast": PRICE}, invoices_of(open_receiver(receiver_url))))
    if sys.argv[2:]:
        asyncio.run(server.run_streamable_http_async(port=int(sys.argv[2])))
    else:
        asyncio.run(server.run_stdio_async())


if __name__ == "__main__":
    main(sys.argv[1])
