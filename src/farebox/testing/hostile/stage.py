"""The stage: a seller who does as a scenario says, a buyer who calls it, and what must hold whatever the seller does.

A scenario is one line of a table: its name, what the seller answers in turn (the last answer again and again), and how
the call has to end. Written against whichever HTTP library the buyer uses, hence the `Any`.
"""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from hashlib import sha256
from typing import Any, Final

from farebox.core.amount import Amount
from farebox.core.bech32 import (
    CHARACTERS,
    bytes_to_digits,
    digits_to_number,
    number_to_digits,
    read_bech32,
    write_bech32,
)
from farebox.core.bolt11 import Invoice
from farebox.core.errors import FareboxError, PurchaseError
from farebox.core.payment import DrawState
from farebox.core.ports import PayOutcome
from farebox.core.signature import public_key, sign_recoverable
from farebox.dialects.http_auth import write_challenge
from farebox.testing.buyers import NODE_KEY, Mint
from farebox.testing.shopping import ANSWER, SHOP, Face, Parts

Act = Callable[[Any], Any]
Fields = Iterable[tuple[str, str]]

HOME: Final = "https://shop.example"
ELSEWHERE: Final = "https://evil.example"
TOKEN: Final = "AgEEbHNhdAJCAAB/+w=="
MINE: Final = (("Authorization", "Bearer sk-mine"), ("Cookie", "session=mine"))
BUDGET: Final = "100000000 sat/day"  # so that nothing but the audit stands in the way
_REGTEST: Final = "lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328"
_PROOFS: Final = ("authorization", "x-payment-hash", "cookie", "macaroon", "grpc-metadata-macaroon")
_LONGEST_WAIT_S: Final = 120
_MOST_MEMORY: Final = 8 * 2**20
_SIGNATURE_DIGITS: Final = 104


class Seller:
    """Answers each request with the next of its acts. Has a mint, and makes acts of all kinds."""

    def __init__(self, face: Face) -> None:
        self.library = face.library
        self.mint: Mint = face.mint
        self.acts: Sequence[Act] = ()
        self.seen: list[Any] = []

    def __call__(self, request: Any) -> Any:
        """What the transport asks."""
        self.seen.append(request)
        answer = self.acts[min(len(self.seen), len(self.acts)) - 1](request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    # --- invoices -----------------------------------------------------------------------------------------------------

    def invoice(self, sats: int | None = 21, **more: Any) -> Invoice:
        """A new one for so much; None for one without an amount."""
        return self.mint.invoice(None if sats is None else Amount.sats(sats), **more)

    def altered(self, letter: str, digits: bytes, signature: bytes | None = None) -> str:
        """A new invoice with one more field: see `altered`."""
        return altered(self.invoice().text, letter, digits, signature)

    # --- answers ------------------------------------------------------------------------------------------------------

    def says(self, status: int, fields: Fields = (), body: Any = b"", kind: str = "application/json") -> Act:
        """An answer; the body as bytes, as parts, or as what is told in JSON."""
        headers = [(name.encode(), value.encode()) for name, value in fields]
        if kind:
            headers.append((b"content-type", kind.encode()))

        def act(request: Any) -> Any:
            told = body if isinstance(body, bytes | list) else json.dumps(body).encode()
            parts = Parts(told if isinstance(told, list) else [told])
            parts.__class__ = type("Body", (Parts, self.library.SyncByteStream, self.library.AsyncByteStream), {})
            return self.library.Response(status, headers=headers, stream=parts)

        return act

    def serves(self, fields: Fields = ()) -> Act:
        """What is sold."""
        return self.says(200, fields, ANSWER)

    def breaks(self, error: str = "ReadError") -> Act:
        """No answer: an error of the HTTP library."""
        return lambda request: getattr(self.library, error)("broken", request=request)

    def redirects(self, status: int, to: str) -> Act:
        """A redirect."""
        return self.says(status, [("location", to)], kind="")

    def l402(self, invoice: Invoice | str, body: Any = b"{}", *, token: str = TOKEN, status: int = 402) -> Act:
        """An L402 challenge, and what is told beside it."""
        text = invoice if isinstance(invoice, str) else invoice.text
        return self.says(status, [("www-authenticate", f'L402 macaroon="{token}", invoice="{text}"')], body)

    def bare(self, invoice: Invoice | str, **told: Any) -> Act:
        """An invoice in the body alone."""
        return self.says(402, body={"invoice": invoice if isinstance(invoice, str) else invoice.text} | told)

    def payment(self, invoice: Invoice, *, details: Any = (), parameters: Any = (), **request: Any) -> Act:
        """A Payment challenge."""
        told = {"invoice": invoice.text, "paymentHash": invoice.payment_hash.hex()} | dict(details)
        asked = {"amount": "21", "currency": "sat", "methodDetails": told} | request
        text = base64.urlsafe_b64encode(json.dumps(asked).encode()).decode().rstrip("=")
        named = {"id": "1", "realm": "shop", "method": "lightning", "intent": "charge", "request": text}
        field = write_challenge("Payment", tuple((named | dict(parameters)).items()))
        return self.says(402, [("www-authenticate", field)])

    def x402(self, invoice: Invoice, *others: Any, extra: Any = (), **changed: Any) -> Act:
        """An x402 offer, and others beside it."""
        offer: dict[str, Any] = {"scheme": "exact", "network": _REGTEST, "amount": "21000", "asset": "BTC"}
        offer |= {"payTo": invoice.payee.hex(), "maxTimeoutSeconds": 600} | changed
        offer |= {"extra": {"invoice": invoice.text} | dict(extra)}
        told = {"x402Version": 2, "accepts": [*others, offer]}
        return self.says(402, [("payment-required", base64.b64encode(json.dumps(told).encode()).decode())])


def altered(text: str, letter: str, digits: bytes, signature: bytes | None = None) -> str:
    """An invoice with one more field, and signed for it; or with this for a signature."""
    prefix, data = read_bech32(text)
    signed = data[:-_SIGNATURE_DIGITS] + _field(letter, digits)
    if signature is None:
        signature = bytes_to_digits(sign_recoverable(NODE_KEY, _message_hash(prefix, signed)))
    return write_bech32(prefix, signed + signature)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of a table.

    name: in plain words. acts: what the seller answers in turn. ends: the error that the last call raises; None when it
    is answered. paid: how often the wallet is asked to pay, in all. calls: what is called, one after the other.
    wallet: what the wallet answers in turn, instead of paying. own: the wallet's node is the one that signs the
    invoices. max: the most for one call. follows: the buyer follows redirects. bounded: how much memory it takes is
    looked at.
    """

    name: str
    acts: Callable[[Seller], Sequence[Act]]
    ends: type[Exception] | None = None
    _: KW_ONLY
    paid: int = 0
    calls: tuple[str, ...] = (SHOP,)
    wallet: Callable[[Seller], list[PayOutcome | Exception]] = lambda seller: []
    own: bool = False
    max: str | None = None
    follows: bool = False
    bounded: bool = False

    def play(self, face: Face) -> None:
        """Let it happen to a buyer, and see that it ends as told and that nothing is paid or told that must not be."""
        seller = Seller(face)
        seller.acts = self.acts(seller)
        face.shop = seller  # type: ignore[assignment]  # all that a face needs of it is that it answers
        face.wallet.on_pay = self.wallet(seller)
        if self.own:
            face.wallet.public_key = public_key(NODE_KEY)  # type: ignore[attr-defined]  # not every wallet tells
        client = face.open(budget=BUDGET, max=self.max, follow_redirects=self.follows, max_redirects=5)
        outcome = self._call(face, client)
        if self.ends is None:
            assert outcome.status_code < 400 or not self.paid, outcome
        else:
            assert isinstance(outcome, self.ends), repr(outcome)
            _check_error(outcome, face, paid=self.paid)
        assert self.paid == len(face.wallet.payments)
        assert self.paid == len(set(face.wallet.payments))
        check_fee_limits(face)
        check_nothing_leaked(seller, face.mint, called=self.calls if self.paid else ())
        assert all(0 <= seconds <= _LONGEST_WAIT_S for seconds in face.waits), face.waits

    def _call(self, face: Face, client: Any) -> Any:
        for url in self.calls[:-1]:
            face.call(url=url, client=client, headers=MINE)
        if self.bounded:
            tracemalloc.start()
        try:
            return face.call(url=self.calls[-1], client=client, headers=MINE)
        except (FareboxError, face.library.HTTPError, face.library.InvalidURL) as error:
            return error
        finally:
            if self.bounded:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert peak < _MOST_MEMORY, peak


def _check_error(error: Exception, face: Face, *, paid: int) -> None:
    """It says whether money moved, as JSON too, and tells no secret."""
    told = str(error)
    states = {row.state for row in face.purse.unfinished()}
    if isinstance(error, PurchaseError):
        members = error.as_json()
        told += json.dumps(members)
        assert members["money_moved"] is error.money_moved
        assert error.next_step
        may_be_open = {False: set(), True: {DrawState.CAPTURED}, None: {DrawState.HELD}}[error.money_moved]
        assert states <= may_be_open
    else:
        assert not isinstance(error, FareboxError) or not paid
        assert states == set()
    assert not any(preimage.hex() in told for preimage in face.mint.preimages.values())
    assert TOKEN not in told


def check_fee_limits(face: Face) -> None:
    """The wallet is told what routing may cost: 1 sat or 1 %."""
    amounts = [face.purse.rows[payment_hash].amount for payment_hash in face.wallet.payments]
    assert face.wallet.fee_limits == [max(Amount.sats(1), amount.share(1)) for amount in amounts]


def check_nothing_leaked(seller: Seller, mint: Mint, *, called: Iterable[str]) -> None:
    """Nobody but the origins that were called heard a proof; nor, but for the first of them, what is the caller's own.

    called: the addresses; none where nothing is paid, so that nobody may hear a proof.
    """
    secrets = {secret.hex() for pair in mint.preimages.items() for secret in pair}
    ours = {_origin(seller.library.URL(url)) for url in called}
    for request in seller.seen:
        names = {name.lower() for name in request.headers}
        if _origin(request.url) not in ours | {HOME}:
            assert not names & set(_PROOFS), names
            assert not any(name.startswith("payment") for name in names), names
        if _origin(request.url) not in ours:
            told = f"{request.url} {dict(request.headers)} {request.content!r}"
            assert not any(secret in told for secret in secrets), told
            assert "payment-signature" not in names


def _origin(url: Any) -> str:
    is_usual = url.port in (None, {"http": 80, "https": 443}.get(url.scheme))
    return f"{url.scheme}://{url.host}" + ("" if is_usual else f":{url.port}")


def _field(letter: str, digits: bytes) -> bytes:
    length = number_to_digits(len(digits)).rjust(2, b"0")
    return number_to_digits(CHARACTERS.index(letter)) + length + digits


def _message_hash(prefix: str, signed: bytes) -> bytes:
    bits = len(signed) * 5
    filled = digits_to_number(signed) << (-bits % 8)
    return sha256(prefix.encode() + filled.to_bytes((bits + 7) // 8, "big")).digest()
