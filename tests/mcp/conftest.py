"""A seller of tools on the real SDK, in memory, and everything to buy from it with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from farebox.core.bolt11 import Invoice
from farebox.core.exchange import Quote
from farebox.core.ports import Purchase
from farebox.http.buyer import Buyer, open_buyer
from farebox.mcp import PaidSession
from farebox.testing.buyers import Mint, ScriptedWallet
from farebox.testing.kept_purse import KeptPurse
from farebox.testing.market import StillClock
from farebox.testing.paid_tools import PRICE, PaidTools, paid_server, used
from farebox.testing.shopping import hasten

SERVER = "https://tools.example/mcp"


@dataclass
class Stall:
    """A seller of tools, and a wallet and a purse to buy with. waits: seconds that a buyer would have waited."""

    mode: Literal["auto", "legacy"] = "auto"
    clock: StillClock = field(default_factory=StillClock)
    waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mint = Mint(self.clock)
        self.wallet = ScriptedWallet(self.mint)
        self.purse = KeptPurse(self.clock)
        self.tools = PaidTools({"forecast": PRICE}, self._make_invoice, self.clock)
        self.server = paid_server(self.tools)

    async def _make_invoice(self, quote: Quote) -> Invoice:
        return self.mint.invoice(quote.amount)

    def buyer(self, budget: str = "500 sat/day", **terms: Any) -> Buyer:
        buyer = open_buyer(wallet=self.wallet, budget=budget, purse=self.purse, **terms)
        hasten(buyer, self.clock, self.waits)
        return buyer

    def session(self, client: Any, *, server: str = SERVER, budget: str = "500 sat/day", **options: Any) -> PaidSession:
        return PaidSession(client, server=server, buyer=self.buyer(budget), **options)

    def run(self, use: Callable[[Any], Awaitable[Any]]) -> Any:
        """What `use` makes of a client that is connected."""
        return used(self.server, use, mode=self.mode)

    def call(self, name: str = "forecast", arguments: Any = None, **options: Any) -> Any:
        """The result of one call through a session of its own."""
        arguments = {"city": "Bern"} if arguments is None and name == "forecast" else arguments
        return self.run(lambda client: self.session(client, **options).call_tool(name, arguments))

    @property
    def rows(self) -> list[Purchase]:
        return list(self.purse.rows.values())


@pytest.fixture(params=["auto", "legacy"])
def stall(request: pytest.FixtureRequest) -> Stall:
    """Over the protocol of today, and over the one with a handshake."""
    return Stall(request.param)


@pytest.fixture
def one_stall() -> Stall:
    """Over the protocol of today."""
    return Stall()
