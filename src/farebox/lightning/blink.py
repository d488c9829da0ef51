"""Blink: a bitcoin wallet at Blink, asked over its GraphQL interface (https://dev.blink.sv).

Rules
1. An answer of status 200 may hold nothing but errors, and a payment that failed is one. Only `status` counts.
2. A payment is what the wallet's transactions of its hash say: paid with a proof, failed if all that were sent are
   FAILURE. Between accounts at Blink there may be no proof; such a payment stays unresolved.
3. Blink calls failed whatever went wrong, so that is believed only after a look at the transactions.
4. Blink takes the most that routing may cost, and gives back what was too much as a transaction of its own. It knows no
   limit for that, so `fee_limit` is not passed on; the fee is what was taken in the end.
5. An invoice lasts whole minutes, from one to a day: outside of that Blink would take a time of its own.
6. Everything is in whole satoshis. A wallet in dollars is not asked.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, Self

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, fitting
from farebox.core.errors import NodeUnavailable, WalletError
from farebox.core.exchange import Json
from farebox.core.ports import (
    Capabilities,
    Capability,
    Conversation,
    Failed,
    HttpCall,
    HttpReply,
    InvoiceState,
    InvoiceStatus,
    Paid,
    PayOutcome,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement, Settlements
from farebox.lightning.api import ANSWER_WITHIN, PAY_WITHIN, Api
from farebox.lightning.backend import TwoPorts
from farebox.lightning.invoice import read_made, whole_sats
from farebox.lightning.outcome import in_flight, is_unsent, never_heard, no_proof
from farebox.lightning.reply import (
    Told,
    count,
    fault_of,
    hash_of,
    member,
    network_of,
    objects,
    one_line,
    preimage_of,
    read_object,
    read_reply,
    sats,
    text,
    whole,
)
from farebox.lightning.url import read_url

CAPABILITIES: Final = frozenset({Capability.LOOKUP, Capability.STREAM})
_FORM: Final = "blink+https://api.blink.sv?key=KEY[&wallet=ID]"
_STATES: Final = MappingProxyType({"PENDING": InvoiceState.OPEN, "EXPIRED": InvoiceState.CANCELLED})
_MINUTE, _MOST_MINUTES = timedelta(minutes=1), 24 * 60
_READ_AGAIN_S, _MOST_DIGITS = 60, 19
_OK, _BAD_REQUEST, _UNAUTHORIZED = 200, 400, 401
_REFUSED: Final = "Blink refuses the key, or it lacks a scope: READ and RECEIVE to be paid, READ and WRITE to pay"

_SENT: Final = (
    "direction status settlementAmount settlementFee "
    "settlementVia { ... on SettlementViaLn { preImage } ... on SettlementViaIntraLedger { preImage } }"
)
_ACCOUNT: Final = (
    "query account { globals { network } me { defaultAccount { wallets { id walletCurrency balance } } } }"
)
_SCOPES: Final = "query scopes { authorization { scopes } }"
_CREATE: Final = (
    "mutation create($input: LnInvoiceCreateInput!) { lnInvoiceCreate(input: $input) "
    "{ invoice { paymentRequest paymentHash } errors { code message } } }"
)
_PAY: Final = (
    "mutation pay($input: LnInvoicePaymentInput!) { lnInvoicePaymentSend(input: $input) "
    "{ status errors { code message } transaction { " + _SENT + " } } }"
)
_AT: Final = ("me", "defaultAccount", "walletById")
_WALLET: Final = "me { defaultAccount { walletById(walletId: $wallet) "
_INVOICE: Final = (
    "query invoice($wallet: WalletId!, $hash: PaymentHash!) { "
    + _WALLET
    + "{ invoiceByPaymentHash(paymentHash: $hash) "
    "{ paymentHash paymentStatus ... on LnInvoice { satoshis } } } } } }"
)
_PAYMENTS: Final = (
    "query payments($wallet: WalletId!, $hash: PaymentHash!) { " + _WALLET + "{ "
    "transactionsByPaymentHash(paymentHash: $hash) { " + _SENT + " } } } } }"
)
_RECEIVED: Final = (
    "query received($wallet: WalletId!, $after: String) { " + _WALLET + "{ transactions(first: 100, after: $after) "
    "{ pageInfo { hasNextPage endCursor } edges { node { createdAt direction status settlementAmount "
    "initiationVia { ... on InitiationViaLn { paymentHash } } } } } } } } }"
)


class Blink(TwoPorts):
    """A bitcoin wallet at Blink as Receiver and as Wallet.

    Make one with `Blink.from_url("blink+https://api.blink.sv?key=blink_…")`. With a key of the scopes READ and RECEIVE
    it can be paid and can't pay.
    """

    capabilities: Capabilities = CAPABILITIES

    def __init__(self, *, base_url: str, key: Secret[str], wallet: str | None = None) -> None:
        headers = Secret(f"x-api-key: {key.reveal()}\ncontent-type: application/json")
        self._api = Api(base_url=base_url, headers=headers)
        self._asked_for = wallet
        self._wallet: str | None = None
        self._network: Network | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read `blink+https://api.blink.sv?key=…&wallet=…`; without a wallet it is the first in bitcoin.

        Raises WalletError.
        """
        read = read_url(url, _FORM, {"blink+https": "https"}, "key!", "wallet")
        return cls(base_url=read.base_url, key=read.key(_FORM), wallet=read.given.get("wallet") or None)

    @property
    def name(self) -> str:
        """`blink at api.blink.sv`."""
        return f"blink at {self._api.place}"

    @property
    def network(self) -> Network | None:
        """Blink's chain; None until it was asked, which everything but `spends` does."""
        return self._network

    @property
    def narrow(self) -> str:
        """As it is made in Blink's dashboard."""
        return "make a key at https://dashboard.blink.sv with the scopes READ and RECEIVE, and without WRITE"

    # --- being paid ---------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount, which lasts whole minutes: less than asked for, if need be.

        Raises WalletError for a fraction of a satoshi and for nothing, with nothing sent; NodeUnavailable.
        """
        sats_asked = whole_sats(amount, by="Blink")
        yield from self._need_wallet()
        asked: dict[str, Json] = {
            "walletId": self._wallet,
            "amount": sats_asked,
            "memo": fitting(description),
            "expiresIn": min(max(expires_in // _MINUTE, 1), _MOST_MINUTES),
        }
        reply = yield self._call(_CREATE, input=asked)
        made = member(payload := member(_data(reply), "lnInvoiceCreate"), "invoice")
        if text(made, "paymentRequest") is None:
            raise NodeUnavailable(_why(payload) or _complaint(reply))
        return read_made(made, "paymentRequest", amount, network=self._network, by="Blink", payment_hash="paymentHash")

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """What Blink says of one of the wallet's invoices: its `paymentStatus`. Raises NodeUnavailable."""
        yield from self._need_wallet()
        reply = yield self._call(_INVOICE, wallet=self._wallet, hash=payment_hash.hex())
        told = member(_data(reply), *_AT, "invoiceByPaymentHash")
        if not told and _codes(reply, at="invoiceByPaymentHash") & {"LIGHTNING_PAYMENT_ERROR", "NOT_FOUND"}:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        if hash_of(told, "paymentHash") != payment_hash:
            raise NodeUnavailable(_complaint(reply))
        status, received = text(told, "paymentStatus") or "", sats(told, "satoshis")
        if status == "PAID" and received is not None:
            return InvoiceStatus(state=InvoiceState.PAID, received=received)
        if status not in _STATES:
            raise NodeUnavailable("Blink tells something else than it was asked")
        return InvoiceStatus(state=_STATES[status])

    def spends(self) -> Conversation[bool | None]:
        """Whether the key has the scope WRITE; None when Blink does not say."""
        reply = yield self._call(_SCOPES)
        scopes = member(_data(reply), "authorization").get("scopes")
        if reply.status == _UNAUTHORIZED:
            return False
        return "WRITE" in scopes if isinstance(scopes, list) else None

    def settlements(self, cursor: str, *, wait: timedelta) -> Conversation[Settlements]:
        """What was received since the second that the cursor is, and a minute before; Blink answers at once.

        It lists the newest first. What it gives back of a payment of ours has the hash of that, and is left out. Raises
        NodeUnavailable.
        """
        yield from self._need_wallet()
        since = int(cursor) if cursor.isascii() and cursor.isdigit() and len(cursor) < _MOST_DIGITS else 0
        newest, after = since, None
        received, sent = dict[bytes, Settlement](), set[bytes]()
        while True:
            reply = yield self._call(_RECEIVED, wallet=self._wallet, after=after)
            page = member(_data(reply), *_AT, "transactions")
            edges, oldest = page.get("edges"), since
            if not isinstance(edges, list):
                raise NodeUnavailable(_complaint(reply))
            for edge in edges:
                node = member(edge, "node") if isinstance(edge, dict) else {}
                created, payment_hash = count(node, "createdAt"), hash_of(member(node, "initiationVia"), "paymentHash")
                if created is None:
                    raise NodeUnavailable("Blink's transactions can't be read")
                newest, oldest = max(newest, created), created
                amount = sats(node, "settlementAmount")
                if payment_hash is None or created < since - _READ_AGAIN_S:
                    continue
                if text(node, "direction") == "SEND":
                    sent.add(payment_hash)
                elif text(node, "direction") == "RECEIVE" and text(node, "status") == "SUCCESS" and amount is not None:
                    received[payment_hash] = Settlement(payment_hash=payment_hash, received=amount)
            more, following = member(page, "pageInfo"), text(member(page, "pageInfo"), "endCursor")
            ended = more.get("hasNextPage") is not True or following in (None, after)
            if not edges or ended or oldest < since - _READ_AGAIN_S:
                settled = tuple(each for each in received.values() if each.payment_hash not in sent)
                return Settlements(settled=settled, cursor=str(newest))
            after = following

    def cursor_at(self, at: datetime) -> Conversation[str]:
        """The instant itself, in seconds since 1970: by it Blink's transactions are told apart."""
        yield from ()
        return str(max(0, int(at.astimezone(UTC).timestamp())))

    # --- paying -------------------------------------------------------------------------------------------------------

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it. `fee_limit` is not passed on, for Blink knows no such thing."""
        if (untold := (yield from self._learn_wallet())) is not None:  # nothing but a question was sent so far
            return Failed(reason=untold)
        if invoice.network != self._network:
            return Failed(reason=f"the invoice is for {invoice.network}, the wallet is on {self._network}")
        asked: dict[str, Json] = {"walletId": self._wallet, "paymentRequest": invoice.text}
        reply = yield self._call(_PAY, within=PAY_WITHIN, input=asked)
        if is_unsent(reply) or reply.status == _UNAUTHORIZED:
            return Failed(reason=_complaint(reply))
        payload = member(_data(reply), "lnInvoicePaymentSend")
        status, reason = text(payload, "status"), _why(payload)
        if status is None and reason is None:
            refused = reply.status in (_OK, _BAD_REQUEST) and "NOT_AUTHORIZED" in _codes(reply)
            return Failed(reason=_REFUSED) if refused else Unresolved(reason=_complaint(reply))
        found = yield from self._find(invoice.payment_hash)
        if isinstance(found, Paid):
            return found
        match status:
            case "SUCCESS":
                return _outcome([member(payload, "transaction")], invoice.payment_hash, otherwise=no_proof("Blink"))
            case "FAILURE" | None:
                reason = reason or "Blink says that the payment failed"
                if isinstance(found, Failed) or not found.known:
                    return Failed(reason=reason)
                return Unresolved(reason=f"{reason}; {found.reason}")
            case "PENDING" | "ALREADY_PAID" if isinstance(found, Failed) or found.known:
                return found
        return Unresolved(reason="Blink does not say what became of the payment")

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What became of a payment. Raises WalletError when the key is refused."""
        outcome = yield from self._find(payment_hash)
        if isinstance(outcome, Unresolved) and outcome.reason == _REFUSED:
            raise WalletError(f"{self.name}: {_REFUSED}")
        return outcome

    def balance(self) -> Conversation[Amount]:
        """What the wallet holds. Raises WalletError."""
        reply = yield self._call(_ACCOUNT)
        balance = sats(self._read_wallet(_data(reply)) or {}, "balance")
        if balance is None:
            raise WalletError(f"{self.name}: {_complaint(reply)}")
        return balance

    # --- small print --------------------------------------------------------------------------------------------------

    def _find(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        if (untold := (yield from self._learn_wallet())) is not None:
            return Unresolved(reason=untold)
        reply = yield self._call(_PAYMENTS, wallet=self._wallet, hash=payment_hash.hex())
        listed = objects(member(_data(reply), *_AT), "transactionsByPaymentHash")
        return Unresolved(reason=_complaint(reply)) if listed is None else _outcome(listed, payment_hash)

    def _need_wallet(self) -> Conversation[None]:
        if (untold := (yield from self._learn_wallet())) is not None:
            raise NodeUnavailable(untold)

    def _learn_wallet(self) -> Conversation[str | None]:
        """Ask for the wallet and the chain, once; why they are not known."""
        if self._wallet is not None and self._network is not None:
            return None
        reply = yield self._call(_ACCOUNT)
        wallet = self._read_wallet(_data(reply))
        if self._network is None or wallet is None:
            return _complaint(reply) if self._network is None else "the key opens no such wallet in bitcoin at Blink"
        self._wallet = text(wallet, "id")
        return None

    def _read_wallet(self, data: Told) -> Told | None:
        """The wallet in bitcoin that the URL names, or the first."""
        self._network = network_of(member(data, "globals"), "network") or self._network
        wallets = member(data, "me", "defaultAccount").get("wallets")
        for each in wallets if isinstance(wallets, list) else []:
            told = each if isinstance(each, dict) else {}
            wanted = text(told, "id") is not None and self._asked_for in (None, text(told, "id"))
            if wanted and text(told, "walletCurrency") == "BTC":
                return told
        return None

    def _call(self, query: str, *, within: timedelta = ANSWER_WITHIN, **variables: Json) -> HttpCall:
        return self._api.call("POST", "/graphql", {"query": query, "variables": variables}, within=within)


def _outcome(transactions: list[Told], payment_hash: bytes, *, otherwise: str | None = None) -> PayOutcome:
    """What the transactions of one payment hash say. otherwise: the reason when they prove nothing."""
    sent = [each for each in transactions if text(each, "direction") == "SEND"]
    for each in sent:
        preimage = preimage_of(member(each, "settlementVia"), "preImage", payment_hash)
        if text(each, "status") == "SUCCESS" and preimage is not None:
            return Paid(preimage=preimage, fee=_fee(each, transactions))
    if otherwise is not None:
        return Unresolved(reason=otherwise)
    if not transactions:
        return never_heard("Blink")
    statuses = {text(each, "status") for each in sent}
    if statuses == {"FAILURE"}:
        return Failed(reason="Blink says that the payment failed")
    return Unresolved(reason=no_proof("Blink")) if "SUCCESS" in statuses else in_flight()


def _fee(paid: Told, transactions: list[Told]) -> Amount:
    """What all transactions together took beyond the amount: at most the fee that was taken first."""
    most = count(paid, "settlementFee") or 0
    amount = -whole(paid, "settlementAmount") - most
    taken = -sum(whole(each, "settlementAmount") for each in transactions)
    return sats({"fee": min(max(taken - amount, 0), most)}, "fee") or NOTHING


def _data(reply: HttpReply) -> Told:
    return member(read_reply(reply) or {}, "data")


def _codes(reply: HttpReply, *, at: str = "") -> set[str | None]:
    """The codes of the errors that happened there, or do not say where."""
    errors = (read_object(reply.body) or {}).get("errors")
    told = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    there = [each for each in told if not at or not isinstance(path := each.get("path"), list) or at in path]
    return {text(member(each, "extensions"), "code") or text(each, "code") for each in there}


def _why(told: Told) -> str | None:
    """The message of the first error, in one line."""
    errors = told.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    words = (text(first, "message") if isinstance(first, dict) else None) or ""
    line = one_line(words)
    return f"Blink: {line}" if line else None


def _complaint(reply: HttpReply) -> str:
    """What is wrong with a reply, in words that may be shown to anyone."""
    if reply.status == _UNAUTHORIZED or "NOT_AUTHORIZED" in _codes(reply):
        return _REFUSED
    return _why(read_reply(reply) or {}) or fault_of(reply, "Blink")
