"""What a buyer's tests are made of: a mint of invoices, a wallet that does as it is told, a plain dialect.

Nothing here opens a socket or a file.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, sign
from farebox.core.errors import MalformedChallenge
from farebox.core.exchange import Challenge, Credential, Quote, Receipt, Sealed, Wire
from farebox.core.ports import (
    Capabilities,
    Capability,
    Clock,
    Conversation,
    HttpCall,
    Paid,
    PayOutcome,
    Unresolved,
)
from farebox.core.secret import Secret

NODE_KEY = bytes(31) + b"\x01"
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


class Mint:
    """Makes invoices and remembers their preimages."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.preimages: dict[bytes, bytes] = {}

    def invoice(
        self,
        amount: Amount | None = Amount(21_000),  # noqa: B008 - a frozen value
        *,
        network: Network = Network.REGTEST,
        age: timedelta = timedelta(0),
        expires_in: timedelta = timedelta(minutes=10),
        min_final_cltv: int = 18,
    ) -> Invoice:
        """A new invoice, signed."""
        preimage = hashlib.sha256(b"preimage %d" % len(self.preimages)).digest()
        payment_hash = hashlib.sha256(preimage).digest()
        self.preimages[payment_hash] = preimage
        return sign(
            secret_key=NODE_KEY,
            network=network,
            amount=amount,
            payment_hash=payment_hash,
            payment_secret=bytes(32),
            description="a test",
            created_at=self._clock() - age,
            expires_in=expires_in,
            min_final_cltv=min_final_cltv,
        )

    def paid(self, payment_hash: bytes, fee: Amount = NOTHING) -> Paid:
        """The proof of a payment."""
        return Paid(preimage=Secret(self.preimages[payment_hash]), fee=fee)


class ScriptedWallet:
    """A wallet that pays from a mint, unless told what to answer; counts what it was asked.

    on_pay, on_look_up: the answers still to give, each an outcome or an error to raise. settled: what arrived.
    talks_to: an address that it asks before it pays.
    """

    name = "a scripted wallet"
    capabilities: Capabilities = frozenset(
        {Capability.FEE_LIMIT, Capability.LOOKUP, Capability.MSAT, Capability.PAYS_ONCE}
    )

    def __init__(self, mint: Mint, network: Network | None = Network.REGTEST) -> None:
        self.network = network
        self.on_pay: list[PayOutcome | Exception] = []
        self.on_look_up: list[PayOutcome | Exception] = []
        self.payments: list[bytes] = []
        self.look_ups: list[bytes] = []
        self.fee_limits: list[Amount] = []
        self.settled: set[bytes] = set()
        self.talks_to: str | None = None
        self._mint = mint

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """What the script says, or Paid."""
        self.payments.append(invoice.payment_hash)
        self.fee_limits.append(fee_limit)
        if self.talks_to is not None:
            yield HttpCall(method="POST", url=self.talks_to)
        return self._told(self.on_pay, invoice.payment_hash, self._mint.paid(invoice.payment_hash))

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What the script says, or what has become of the payment."""
        self.look_ups.append(payment_hash)
        known = payment_hash in self.payments
        otherwise = self._mint.paid(payment_hash) if known else Unresolved(reason="never heard of it", known=False)
        return self._told(self.on_look_up, payment_hash, otherwise)
        yield  # a conversation is a generator

    def balance(self) -> Conversation[Amount]:
        """A thousand satoshis."""
        return Amount.sats(1000)
        yield

    def _told(self, script: list[PayOutcome | Exception], payment_hash: bytes, otherwise: PayOutcome) -> PayOutcome:
        outcome = script.pop(0) if script else otherwise
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, Paid):
            self.settled.add(payment_hash)
        return outcome


class PlainDialect:
    """A dialect of one header line: `WWW-Authenticate: <name> <invoice> <msat> <payment hash> <expiry> <token>`.

    A dash stands for what is not told.
    """

    proof_headers: frozenset[str] = frozenset()
    proof_fields: frozenset[str] = frozenset()

    def __init__(self, name: str = "Plain", reusable_for: timedelta | None = None) -> None:
        self.name = name
        self.reusable_for = reusable_for

    def write_challenge(self, challenge: Challenge) -> Wire:
        """The header line."""
        price = "-" if challenge.amount is None else str(challenge.amount.msat)
        until = "-" if challenge.expires_at is None else challenge.expires_at.isoformat()
        words = (self.name, challenge.invoice, price, challenge.payment_hash.hex(), until, challenge.token or "-")
        return Wire(headers=(("www-authenticate", " ".join(words)),))

    def read_challenges(self, wire: Wire) -> tuple[Challenge, ...]:
        """Every header line of this name."""
        lines = [line.split(" ", 5) for line in wire.all("www-authenticate")]
        return tuple(self._read(words) for words in lines if words[0] == self.name)

    def _read(self, words: list[str]) -> Challenge:
        if len(words) < 6:
            raise MalformedChallenge("it has too few words")
        _, invoice, price, payment_hash, until, token = words
        return Challenge(
            dialect=self.name,
            invoice=invoice,
            payment_hash=bytes.fromhex(payment_hash),
            amount=None if price == "-" else Amount(int(price)),
            expires_at=None if until == "-" else datetime.fromisoformat(until),
            token="" if token == "-" else token,
        )

    def reusable_until(self, challenge: Challenge, *, now: datetime) -> datetime | None:
        """As the test says."""
        return None if self.reusable_for is None else now + self.reusable_for

    def write_credential(self, credential: Credential) -> Wire:
        """`Authorization: <name> <token and preimage>`."""
        assert credential.preimage is not None
        value = f"{self.name} {credential.token}{credential.preimage.reveal().hex()}"
        return Wire(headers=(("authorization", value),))

    def read_credential(self, wire: Wire) -> Credential | None:
        """The proof, if it is one of this name."""
        for value in wire.all("authorization"):
            name, _, preimage = value.partition(" ")
            if name == self.name:
                proof = bytes.fromhex(preimage)
                payment_hash = hashlib.sha256(proof).digest()
                return Credential(dialect=name, payment_hash=payment_hash, preimage=Secret(proof))
        return None

    def write_receipt(self, receipt: Receipt) -> Wire:
        """`X-Receipt: <payment hash>`."""
        return Wire(headers=(("x-receipt", receipt.payment_hash.hex()),))

    def read_receipt(self, wire: Wire) -> Receipt | None:
        """The receipt, if there is one."""
        for value in wire.all("x-receipt"):
            try:
                return Receipt(payment_hash=bytes.fromhex(value), amount=None, at=NOON)
            except ValueError:
                raise MalformedChallenge("the receipt is no payment hash") from None
        return None

    def issue(self, quote: Quote, invoice: Invoice, *, valid_until: datetime) -> Challenge:
        """The invoice and its price."""
        return Challenge(
            dialect=self.name, invoice=invoice.text, payment_hash=invoice.payment_hash, amount=quote.amount
        )

    def verify(self, credential: Credential, *, now: datetime) -> datetime:
        """Everything is good for ever."""
        return datetime.max.replace(tzinfo=UTC)

    def sealed(self, credential: Credential) -> Sealed | None:
        """Nothing is."""
        return None
