"""Strike: an account at Strike, asked over its API (https://docs.strike.me/api).

Rules
1. What is received is found again by its payment hash, for Strike lists its receives by that. Only a receive that is
   COMPLETED counts, whatever preimage is shown.
2. What is paid is not: Strike knows a payment by an id of its own, which it tells only in the answer to executing it.
   So a wallet has no LOOKUP. A payment whose answer was lost stays unresolved, and the buyer has to look at Strike.
3. A quote costs nothing; executing it pays. So what goes wrong before has failed, and the fee is compared with the
   limit in between. A quote is executed once. There is no idempotency key: it would only keep a failed payment from
   being tried again. That an invoice is not paid twice is left to Strike, which then says that it was processed.
4. What executing says has failed only with the state FAILED, or with a code that Strike documents as a refusal.
5. Strike does not say when the time of an invoice is over, and there is no clock here: what was not paid is OPEN.
6. Amounts are texts with decimals, in bitcoin. An account is asked for satoshis that stay bitcoin.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Final, Self
from urllib.parse import urlsplit

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, fitting
from farebox.core.errors import MalformedAmount, NodeUnavailable, WalletError
from farebox.core.exchange import Json
from farebox.core.ports import (
    Capabilities,
    Capability,
    Conversation,
    Failed,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    Paid,
    PayOutcome,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.lightning.api import PAY_WITHIN, Api
from farebox.lightning.invoice import read_made, whole_sats
from farebox.lightning.outcome import is_unsent, no_proof
from farebox.lightning.reply import (
    Told,
    fault_of,
    hash_of,
    member,
    need,
    objects,
    preimage_of,
    read_list,
    read_object,
    read_reply,
    text,
)
from farebox.lightning.url import read_url

RECEIVES: Final = frozenset({Capability.DESCRIPTION_HASH, Capability.LOOKUP})
PAYS: Final = frozenset({Capability.FEE_LIMIT})
_FORM: Final = "strike+https://api.strike.me?key=KEY"
_SCHEMES: Final = MappingProxyType({"strike+https": "https"})
_STRIKE: Final = "api.strike.me"
_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_BITCOIN: Final = re.compile(r"[0-9]{1,8}(\.[0-9]{1,20})?", re.ASCII)
_SATOSHI_DECIMALS, _MSAT_DECIMALS = 8, 11
_MOST_DESCRIPTION_UNITS: Final = 250  # as .NET counts them: UTF-16 units
_NO_QUOTE: Final = "00000000-0000-0000-0000-000000000000"
_GOOD: Final = (200, 201, 202)
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _UNPROCESSABLE = 400, 401, 403, 404, 422
_REFUSALS: Final = frozenset(
    (
        *("AMOUNT_TOO_HIGH", "AMOUNT_TOO_LOW", "BALANCE_TOO_LOW", "TOO_MANY_TRANSACTIONS", "SELF_PAYMENT_NOT_ALLOWED"),
        *("INVALID_LN_INVOICE", "INVALID_RECIPIENT", "INVALID_STATE_FOR_INVOICE_EXPIRED", "LN_ROUTE_NOT_FOUND"),
        "PAYMENT_QUOTE_EXPIRED",
    )
)
_BEGUN: Final = frozenset(
    (
        *("DUPLICATE_PAYMENT_QUOTE", "INVALID_STATE_FOR_INVOICE_PAID", "LN_INVOICE_PROCESSED"),
        *("PAYMENT_PROCESSED", "PROCESSING_CONFLICT", "PROCESSING_PAYMENT"),
    )
)
_CAN_NOT_FIND: Final = "Strike can't be asked for a payment by its payment hash: look at the history of the account"


class Strike:
    """An account at Strike as Receiver, or as Wallet.

    Make one with `Strike.open_receiver("strike+https://api.strike.me?key=…")` or `Strike.open_wallet(…)`. To be paid
    the key needs the scopes `partner.receive-request.create` and `partner.receive-request.read`; to pay it needs
    `partner.payment-quote.lightning.create`, `partner.payment-quote.execute`, `partner.payment.read` and
    `partner.balances.read`.
    """

    def __init__(self, *, base_url: str, key: Secret[str], capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        headers = f"authorization: Bearer {key.reveal()}\ncontent-type: application/json\naccept: application/json"
        self._api = Api(base_url=base_url, headers=Secret(headers))
        self._network = Network.MAINNET if urlsplit(base_url).hostname == _STRIKE else None

    @classmethod
    def open_receiver(cls, url: str) -> Self:
        """The account of `strike+https://api.strike.me?key=…`, to be paid. Raises WalletError."""
        base_url, key = _read(url)
        return cls(base_url=base_url, key=key, capabilities=RECEIVES)

    @classmethod
    def open_wallet(cls, url: str) -> Self:
        """The account of `strike+https://api.strike.me?key=…`, to pay. Raises WalletError."""
        base_url, key = _read(url)
        return cls(base_url=base_url, key=key, capabilities=PAYS)

    @property
    def name(self) -> str:
        """`strike at api.strike.me`."""
        return f"strike at {self._api.place}"

    @property
    def network(self) -> Network | None:
        """Mainnet; elsewhere than at Strike's own address, None until an invoice was made."""
        return self._network

    @property
    def capabilities(self) -> Capabilities:
        """What was received can be found again by its hash; what was paid can't."""
        return self._capabilities

    @property
    def narrow(self) -> str:
        """As it is made in Strike's dashboard."""
        return (
            "make a key at https://dashboard.strike.me with the scopes partner.receive-request.create and "
            "partner.receive-request.read only"
        )

    # --- being paid ---------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount; the description is cut to the 250 characters that Strike takes.

        Raises WalletError for a fraction of a satoshi and for nothing, with nothing sent; NodeUnavailable.
        """
        sats = whole_sats(amount, by="Strike")
        bolt11: dict[str, Json] = {
            "amount": {"amount": f"{Decimal(sats).scaleb(-_SATOSHI_DECIMALS):f}", "currency": "BTC"},
            "expiryInSeconds": expires_in // timedelta(seconds=1),
        }
        if shortened := _shortened(description):
            bolt11["description"] = shortened
        asked: dict[str, Json] = {"bolt11": bolt11, "targetCurrency": "BTC"}
        made = member(_sensible((yield self._api.call("POST", "/v1/receive-requests", asked))), "bolt11")
        invoice = read_made(made, "invoice", amount, network=self._network, by="Strike")
        self._network = invoice.network
        return invoice

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """What was received for an invoice of ours; OPEN when nothing was, expired or not. Raises NodeUnavailable."""
        receives = yield from self._listed("/receive-requests/receives", payment_hash)
        completed = [each for each in receives if text(each, "state") == "COMPLETED"]
        if completed:
            amounts = [_bitcoin(each, "amountReceived") or _bitcoin(each, "amountCredited") for each in completed]
            if any(_names_another(member(each, "lightning"), payment_hash) for each in completed) or None in amounts:
                raise NodeUnavailable("Strike tells something else than it was asked")
            return InvoiceStatus(state=InvoiceState.PAID, received=sum(filter(None, amounts), NOTHING))
        requests = yield from self._listed("/receive-requests", payment_hash)
        if not requests:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        if hash_of(member(requests[0], "bolt11"), "paymentHash") != payment_hash:
            raise NodeUnavailable("Strike tells something else than it was asked")
        return InvoiceStatus(state=InvoiceState.OPEN)

    def spends(self) -> Conversation[bool | None]:
        """Whether the key may execute a quote; None when it is not said. It is asked to execute one that is none."""
        reply = yield self._api.call("PATCH", f"/v1/payment-quotes/{_NO_QUOTE}/execute")
        if reply.status == _NOT_FOUND and _code(reply) == "NOT_FOUND":
            return True
        return False if reply.status in (_UNAUTHORIZED, _FORBIDDEN) else None

    # --- paying -------------------------------------------------------------------------------------------------------

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it, if what Strike wants on top is within the limit. Paid before, that is known, and not its proof."""
        if invoice.amount is None or self._network not in (None, invoice.network):
            return Failed(reason="Strike can't pay an invoice without an amount, or for another chain")
        asked: dict[str, Json] = {"lnInvoice": invoice.text, "sourceCurrency": "BTC"}
        reply = yield self._api.call("POST", "/v1/payment-quotes/lightning", asked)
        if _code(reply) in _BEGUN:
            return Unresolved(reason=f"{_complaint(reply)}; {_CAN_NOT_FIND}")
        quoted = read_reply(reply, *_GOOD)
        quote_id = None if quoted is None else _id(quoted, "paymentQuoteId")
        if quoted is None or quote_id is None:
            return Failed(reason=_complaint(reply))
        fee = _fee(quoted, invoice.amount)
        if fee is None:
            return Failed(reason="Strike's quote does not tell the fee in bitcoin")
        if fee > fee_limit:
            return Failed(reason=f"the fee of {fee} is over the limit of {fee_limit}")
        path = f"/v1/payment-quotes/{quote_id}/execute"
        reply = yield self._api.call("PATCH", path, within=PAY_WITHIN)
        if is_unsent(reply):
            return Failed(reason=_complaint(reply))
        told = read_reply(reply, *_GOOD)
        if told is None:
            refused = reply.status in (_BAD_REQUEST, _UNPROCESSABLE) and _code(reply) in _REFUSALS
            if refused or reply.status in (_UNAUTHORIZED, _FORBIDDEN):
                return Failed(reason=_complaint(reply))
            return Unresolved(reason=f"{_complaint(reply)}; {_CAN_NOT_FIND}")
        outcome = _outcome(told, invoice, fee)
        payment_id, completed = _id(told, "paymentId"), text(told, "state") == "COMPLETED"
        if not isinstance(outcome, Unresolved) or payment_id is None:
            return outcome
        reply = yield self._api.call("GET", f"/v1/payments/{payment_id}")  # the proof comes a little later
        told = read_reply(reply, *_GOOD)
        if told is None or text(told, "paymentId") != payment_id:
            return outcome
        later = _outcome(told, invoice, fee)
        return outcome if isinstance(later, Failed) and completed else later

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """Always unresolved: Strike finds no payment by its hash. Nothing is asked."""
        yield from ()
        return Unresolved(reason=_CAN_NOT_FIND)

    def balance(self) -> Conversation[Amount]:
        """The bitcoin that can be spent; other currencies are not counted. Raises WalletError."""
        reply = yield self._api.call("GET", "/v1/balances")
        balances = read_list(reply.body) if reply.status in _GOOD else None
        if balances is None:
            raise WalletError(f"{self.name}: {_complaint(reply)}")
        for each in balances:
            if text(each, "currency") == "BTC":
                available = _decimal(text(each, "available"))
                if available is None:
                    raise WalletError(f"{self.name}: Strike's balance can't be read")
                return available
        return NOTHING

    # --- small print --------------------------------------------------------------------------------------------------

    def _listed(self, path: str, payment_hash: bytes) -> Conversation[list[Told]]:
        told = _sensible((yield self._api.call("GET", f"/v1{path}?$paymentHash={payment_hash.hex()}&$top=100")))
        listed = objects(told, "items")
        if listed is None:
            raise NodeUnavailable("Strike's list can't be read")
        return listed


def _outcome(told: Told, invoice: Invoice, quoted_fee: Amount) -> PayOutcome:
    """What Strike says of a payment."""
    match text(told, "state"):
        case "COMPLETED":
            lightning = member(told, "lightning")
            preimage = preimage_of(lightning, "preImage", invoice.payment_hash)
            if preimage is None:
                return Unresolved(reason=f"{no_proof('Strike')}; {_CAN_NOT_FIND}")
            fee = _fee(told, invoice.amount or NOTHING)
            return Paid(preimage=preimage, fee=quoted_fee if fee is None else fee)
        case "FAILED":
            return Failed(reason="Strike says that the payment failed")
    return Unresolved(reason=f"the payment is in flight; {_CAN_NOT_FIND}")


def _fee(told: Told, amount: Amount) -> Amount | None:
    """What is taken on top of the amount, whatever it is called."""
    total = _bitcoin(told, "totalAmount")
    return None if total is None or total < amount else total - amount


def _bitcoin(told: Told, name: str) -> Amount | None:
    """An amount of bitcoin; None for one of another currency."""
    amount = member(told, name)
    return _decimal(text(amount, "amount")) if text(amount, "currency") == "BTC" else None


def _decimal(told: str | None) -> Amount | None:
    if told is None or not _BITCOIN.fullmatch(told):
        return None
    msats = Decimal(told).scaleb(_MSAT_DECIMALS)
    try:
        return Amount.msats(int(msats)) if msats == int(msats) else None
    except MalformedAmount:
        return None


def _names_another(lightning: Told, payment_hash: bytes) -> bool:
    """Whether a receive is one of another payment hash; between accounts at Strike it names none."""
    return "paymentHash" in lightning and hash_of(lightning, "paymentHash") != payment_hash


def _id(told: Told, name: str) -> str | None:
    """An id that may stand in a path."""
    value = text(told, name)
    return value if value is not None and _ID.fullmatch(value) else None


def _code(reply: HttpReply) -> str:
    """The code of an error; empty where there is none."""
    told = None if reply.status in _GOOD else read_object(reply.body)
    code = None if told is None else text(member(told, "data"), "code")
    return code if code is not None and re.fullmatch(r"[A-Z_]{1,60}", code) else ""


def _sensible(reply: HttpReply) -> Told:
    return need(reply, _complaint(reply), *_GOOD)


def _complaint(reply: HttpReply) -> str:
    """What is wrong with a reply, in words that may be shown to anyone."""
    if reply.status == _UNAUTHORIZED:
        return "Strike does not know the key"
    if reply.status == _FORBIDDEN:
        return "the key lacks a scope at Strike for this"
    return f"{fault_of(reply, 'Strike')} {_code(reply)}".rstrip()


def _read(url: str) -> tuple[str, Secret[str]]:
    read = read_url(url, _FORM, _SCHEMES, "key!")
    return read.base_url, read.key(_FORM)


def _shortened(description: str) -> str:
    units = description.encode("utf-16-le", "surrogatepass")[: 2 * _MOST_DESCRIPTION_UNITS].decode(
        "utf-16-le", "ignore"
    )
    return fitting(units)
