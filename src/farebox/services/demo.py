"""The demo writer: something to sell that needs no model, and says so.

It picks three of a few fixed sentences about L402 by the words of the prompt. The same prompt gives the same answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from farebox.catalog.capability import Capability
from farebox.catalog.price import Price
from farebox.core.amount import Amount
from farebox.core.fiat import Fiat

DEFAULT_PATH: Final = "/api/dvm"
MODEL: Final = "farebox-demo-writer (no model: three of a few fixed sentences, chosen by your words)"

_MOST_PROMPT: Final = 16_000
_POINTS: Final = 3
_WORD: Final = re.compile(r"[a-z0-9]+")
# What a prompt has to mention, and what is then said; the first three are said when it mentions nothing.
_TEXT: Final = (
    (
        "l402 protocol standard what explain summary http status 402",
        "L402 puts a price on an HTTP call: the answer 402 Payment Required carries a Lightning invoice and a token.",
    ),
    (
        "pay payment paying lightning invoice sats bitcoin wallet buy buyer",
        "Paying the invoice reveals a preimage; the token and the preimage together are the proof of payment.",
    ),
    (
        "retry client request call again use agent agents machine api",
        "The same request is sent again with the proof and is answered; no account, card or API key is needed.",
    ),
    (
        "macaroon token caveat caveats credential attenuate delegate security",
        "The token is a macaroon: its holder can narrow it with caveats and pass it on, and the seller can tell.",
    ),
    (
        "sell seller shop server gateway paywall earn business price pricing",
        "A seller needs only a node that can receive: it is checked by arithmetic, not by asking a bank.",
    ),
    (
        "lsat history name old version origin lightninglabs labs aperture",
        "It was called LSAT until 2023, and clients still accept that name in the header.",
    ),
    (
        "small micropayment micropayments cheap cost fee fees cents satoshi satoshis",
        "Amounts can be far below a cent, so one call can be sold by itself instead of a month of them.",
    ),
    (
        "refund lost fail failure error twice replay safe idempotent once",
        "A careful seller keeps the answer, so that showing the same proof again costs nothing and loses nothing.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Three points, and who wrote them."""

    result: str
    model: str


async def write_points(prompt: Annotated[str, Field(min_length=1, max_length=_MOST_PROMPT)]) -> Note:
    """Three bullet points about L402 from a fixed text, chosen by the words of the prompt."""
    words = frozenset(_WORD.findall(prompt.lower()))
    mentioned = [len(words & frozenset(topic.split())) for topic, _ in _TEXT]
    ranked = sorted(range(len(_TEXT)), key=lambda place: (-mentioned[place], place))
    points = [_TEXT[place][1] for place in sorted(ranked[:_POINTS])]
    return Note(result="\n".join(f"- {point}" for point in points), model=MODEL)


def demo_capability(price: str | Amount | Fiat | Price, *, path: str = DEFAULT_PATH) -> Capability:
    """The demo writer on sale: `{"prompt": …}` to `{"result": …, "model": …}`. Raises MalformedAmount."""
    return Capability.of(write_points, price=price, name="text", path=path, rerun=True)
