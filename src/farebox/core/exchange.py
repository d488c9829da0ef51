"""Challenge, Credential, Receipt: the three nouns that travel, and the Quote they are about.

Rules
1. A Challenge asks for money, a Credential shows that it was paid, a Receipt says what it bought.
2. A dialect turns each of them into a Wire and back; no dialect knows another.
3. The payment hash is the name of a payment everywhere. It is not a secret; the preimage is.
4. Token, parameters and the parts of a message can be half a proof or a whole one, so they do not print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from farebox.core.amount import Amount
from farebox.core.errors import Unavailable
from farebox.core.secret import Secret

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
Pairs = tuple[tuple[str, str], ...]

HASH_BYTES = 32

_NO_MEMBERS: Mapping[str, Json] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """The parts of a message in which a dialect finds or leaves its words.

    headers: (lower-case name, value) pairs, one per header line, in order.
    query: decoded (name, value) pairs of the request target.
    body: members of a JSON object; for a request only those members that some dialect names in `proof_fields`.
    """

    headers: Pairs = field(default=(), repr=False)
    query: Pairs = field(default=(), repr=False)
    body: Mapping[str, Json] = field(default_factory=lambda: _NO_MEMBERS, repr=False)

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a header, in order; the name in lower case."""
        return tuple(value for header, value in self.headers if header == name)

    def __or__(self, other: Wire) -> Wire:
        """Both messages in one: headers and query after one another, JSON objects merged member by member."""
        if not (other.headers or other.query or other.body):
            return self
        return Wire(
            headers=self.headers + other.headers,
            query=self.query + other.query,
            body=_merged(self.body, other.body),
        )


def _merged(one: Mapping[str, Json], two: Mapping[str, Json]) -> dict[str, Json]:
    merged = dict(one)
    for name, value in two.items():
        present = merged.get(name)
        if isinstance(present, dict) and isinstance(value, dict):
            merged[name] = _merged(present, value)
        else:
            merged[name] = value
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The price of one particular call.

    resource: what is sold, as the seller lists it, such as `POST /api/dvm`.
    digest: SHA-256 of the request that the price is for (reliability: one payment, one request).
    description: a short text for the invoice.
    """

    amount: Amount
    resource: str
    digest: bytes
    description: str = ""


class Unpriced(Quote):
    """The quote of a call whose price can't be told just now: whoever asks for the amount is told why.

    A call that is paid for already needs no price.
    """

    __slots__ = ("_why",)
    _why: Unavailable

    def __init__(self, why: Unavailable, *, resource: str, digest: bytes, description: str = "") -> None:
        object.__setattr__(self, "_why", why)
        object.__setattr__(self, "resource", resource)
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "description", description)

    def __repr__(self) -> str:
        return f"Unpriced({self._why!r})"

    @property
    def amount(self) -> Amount:
        """Raises what stands in the way."""
        raise self._why


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a 402 asks for, in one dialect.

    dialect: the name of the dialect it was read from or is to be written in.
    invoice: BOLT11 text.
    amount: the price as told *beside* the invoice, or None when nothing but the invoice tells it.
    token: the L402 token (base64) or empty.
    parameters: every parameter that has to be echoed, as on the wire and in its order.
    expires_at: the instant after which the challenge says it is void, if it says so.
    """

    dialect: str
    invoice: str
    payment_hash: bytes
    amount: Amount | None = None
    token: str = field(default="", repr=False)
    parameters: Pairs = field(default=(), repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The proof that a challenge was paid.

    preimage: 32 bytes whose SHA-256 is the payment hash; None when only the hash is shown.
    token, parameters: echoed from the challenge.
    """

    dialect: str
    payment_hash: bytes
    preimage: Secret[bytes] | None = None
    token: str = field(default="", repr=False)
    parameters: Pairs = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What stands under the seal of a credential: the terms on which its invoice was offered.

    digest: of the request that the price is for. valid_until: the end of the claim window. invoice: where it is told.
    """

    price: Amount
    digest: bytes
    valid_until: datetime
    invoice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a payment bought: which payment, how much, when; None for what the dialect does not tell.

    challenge_id: the id of the challenge that it answers, where the dialect has one.
    """

    payment_hash: bytes
    amount: Amount | None
    at: datetime | None
    challenge_id: str | None = None
