"""Quotes: what a call of a route costs now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from farebox.catalog.price import Price
from farebox.catalog.routes import Route
from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, MalformedAmount, RateUnavailable
from farebox.core.exchange import Quote, Unpriced
from farebox.core.fiat import Conversion, Fiat
from farebox.core.ports import Capability, Receiver
from farebox.http.rates import Rates


class Quotes:
    """Makes quotes: `quote, conversion = await quotes.quote(route, digest)`."""

    def __init__(self, rates: Rates | None = None) -> None:
        self.rates = rates or Rates()

    def check(self, routes: Iterable[Route], receivers: Sequence[Receiver]) -> None:
        """Raises ConfigError for a price that one of these nodes can't ask for, or of which nobody says the rate."""
        whole = next((each.name for each in receivers if Capability.MSAT not in each.capabilities), None)
        for route in routes:
            price = route.price
            if isinstance(price, Fiat):
                if not self.rates.knows(price.currency):
                    raise ConfigError(
                        f"{route.resource} costs {price}, and nobody says what a bitcoin costs in {price.currency}; "
                        "name a source of that rate, in `rates` (docs/prices.md)"
                    )
            elif price is not None and not price.whole and whole is not None:
                raise ConfigError(
                    f"{route.resource} costs {price}, and {whole} asks for whole satoshis only; price it at "
                    f"{Amount.sats(price.in_sats_ceil())}, or be paid by a node that can (docs/nodes.md)"
                )

    async def quote(self, route: Route, digest: bytes) -> tuple[Quote, Conversion | None]:
        """What a call costs now, and how that came of a price in fiat.

        Where that can't be told, a quote that says so to whoever asks it for the amount.
        """
        assert route.price is not None
        conversion = None
        try:
            if isinstance(route.price, Fiat):
                conversion = Conversion(price=route.price, rate=await self.rates.find(route.price.currency))
            rate = None if conversion is None else conversion.rate
            quote = Price(amount=route.price).quote(
                resource=route.resource, digest=digest, description=route.title, rate=rate
            )
        except RateUnavailable as trouble:
            why = trouble
        except MalformedAmount:
            why = RateUnavailable("by its rate this costs more than there is")
        else:
            return quote, conversion
        return Unpriced(why, resource=route.resource, digest=digest, description=route.title), None
