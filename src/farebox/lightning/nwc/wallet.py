"""Nostr Wallet Connect (NIP-47): a wallet that is asked over Nostr relays, as Receiver and as Wallet.

Rules
1. What the wallet can do, and which encryption it reads, it says in an event that the relays keep; without the tag
   `encryption`, or without the event, that is NIP-04. What this connection may do, `get_info` says.
2. An invoice or payment is settled when its `state` says so, or, where there is no state, when it has a `settled_at`.
   Wallets also show the preimage of what nobody has paid.
3. A payment has failed when the wallet refuses it with a code that says that it did not begin, or with PAYMENT_FAILED,
   and a look-up does not know better. INTERNAL, OTHER and silence may be anything.
4. A request to pay expires when nobody waits for it any more, so that a wallet that was away does not pay hours later.
5. Nothing is asked of a wallet that has not answered yet, except what it can do. So one that is away pays nothing for
   certain, until it was heard once.
6. There is no limit for the fee: `fee` is what the wallet says that it took.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Final, Self

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, decode, fitting
from farebox.core.errors import MalformedAmount, MalformedInvoice, NodeUnavailable, WalletError
from farebox.core.exchange import Json
from farebox.core.ports import (
    Capabilities,
    Capability,
    Clock,
    Conversation,
    Failed,
    InvoiceState,
    InvoiceStatus,
    NodeFacts,
    Paid,
    PayOutcome,
    Unresolved,
)
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement
from farebox.lightning.nwc.connection import (
    NIP44,
    NOT_FOUND,
    PAYMENT_RECEIVED,
    Answer,
    Connection,
    complaint,
    event_of,
    fee_of,
    methods_of,
    notifications_of,
    outcome_of,
    read_connection,
    state_of,
)
from farebox.lightning.nwc.notices import Notices
from farebox.lightning.reply import Told, count, hash_of, msats, preimage_of, text
from farebox.nostr import Event

_ANSWER_WITHIN: Final = timedelta(seconds=10)
_PAY_WITHIN: Final = timedelta(seconds=60)
_NIP04: Final = "nip04"
_NOT_BEGUN: Final = frozenset(
    (
        *("RATE_LIMITED", "NOT_IMPLEMENTED", "INSUFFICIENT_BALANCE", "QUOTA_EXCEEDED"),
        *("RESTRICTED", "UNAUTHORIZED", "UNSUPPORTED_ENCRYPTION"),
    )
)
_PAYMENT_FAILED, _UNSUPPORTED = "PAYMENT_FAILED", "UNSUPPORTED_ENCRYPTION"
_HOLD: Final = frozenset(("make_hold_invoice", "settle_hold_invoice", "cancel_hold_invoice"))
_PAYS: Final = ("pay_", "multi_pay_")
_NETWORKS: Final = MappingProxyType(
    {
        "mainnet": Network.MAINNET,
        "testnet": Network.TESTNET,
        "signet": Network.SIGNET,
        "regtest": Network.REGTEST,
    }
)


def _now() -> datetime:
    return datetime.now(UTC)


class NostrWalletConnect:
    """A wallet behind a connection URI. Make one with `NostrWalletConnect.from_url("nostr+walletconnect://…")`.

    Its conversations yield RelayCall. A connection that is allowed make_invoice, lookup_invoice and get_info only can
    be paid and can't pay. clock: what requests are dated with.
    """

    def __init__(self, connection: Connection, *, clock: Clock = _now, pay_within: timedelta = _PAY_WITHIN) -> None:
        self._connection = connection
        self._clock = clock
        self._pay_within = pay_within
        self._heard = False  # whether the wallet itself has answered
        self._encryption = _NIP04
        self._announced: frozenset[str] | None = None
        self._methods: frozenset[str] | None = None
        self._told_network: Network | None = None
        self._network: Network | None = None
        self._whole_sats_only = False
        self._notifies = False
        self._notices = Notices(connection)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = _now, pay_within: timedelta = _PAY_WITHIN) -> Self:
        """Read a connection URI. pay_within: after so long without an answer a payment is unresolved.

        Raises WalletError.
        """
        return cls(read_connection(url), clock=clock, pay_within=pay_within)

    @classmethod
    def open_receiver(cls, url: str) -> Self:
        """The wallet, to be paid. Raises WalletError."""
        return cls.from_url(url)

    @classmethod
    def open_wallet(cls, url: str) -> Self:
        """The wallet, to pay. Raises WalletError."""
        return cls.from_url(url)

    @property
    def name(self) -> str:
        """`nwc 69effe7b at relay.getalby.com`."""
        return self._connection.name

    @property
    def network(self) -> Network | None:
        """The chain of its invoices, else what `get_info` says; None until it was asked."""
        return self._network or self._told_network

    @property
    def capabilities(self) -> Capabilities:
        """What follows from the methods that it allows and what it tells of; nothing before they are known."""
        methods = self._methods or frozenset()
        able = {Capability.LOOKUP} if "lookup_invoice" in methods else set()
        able |= {Capability.HOLD, Capability.OWN_PREIMAGE} if methods >= _HOLD else set()
        return frozenset(able | {Capability.STREAM} if self._notifies else able)

    # --- being paid ---------------------------------------------------------------------------------------------------

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new invoice for exactly this amount. Raises NodeUnavailable, also for one of another amount.

        Raises WalletError for nothing, and for a fraction of a satoshi once the wallet was seen to leave it out.
        """
        return (yield from self._make("make_invoice", {}, amount, description, expires_in))

    def create_hold_invoice(
        self, amount: Amount, *, payment_hash: bytes, description: str, expires_in: timedelta
    ) -> Conversation[Invoice]:
        """An invoice that is held when it is paid. Raises NodeUnavailable, WalletError as `create_invoice` does."""
        named: dict[str, Json] = {"payment_hash": payment_hash.hex()}
        invoice = yield from self._make("make_hold_invoice", named, amount, description, expires_in)
        if invoice.payment_hash != payment_hash:
            raise NodeUnavailable("the wallet made another invoice than it was asked for")
        return invoice

    def settle_invoice(self, preimage: Secret[bytes]) -> Conversation[InvoiceStatus]:
        """Take what is held; where it then stands. Raises NodeUnavailable."""
        octets = preimage.reveal()
        yield from self._ask("settle_hold_invoice", {"preimage": octets.hex()})
        return (yield from self.lookup_invoice(sha256(octets).digest()))

    def cancel_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """Give back what is held, or let nobody pay; where it then stands. Raises NodeUnavailable."""
        yield from self._ask("cancel_hold_invoice", {"payment_hash": payment_hash.hex()})
        return (yield from self.lookup_invoice(payment_hash))

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        """What the wallet says of one of its invoices, never what it shows of it. Raises NodeUnavailable."""
        answer = yield from self._ask("lookup_invoice", {"payment_hash": payment_hash.hex()})
        if answer.code == NOT_FOUND:
            return InvoiceStatus(state=InvoiceState.UNKNOWN)
        told = _sensible(answer)
        if hash_of(told, "payment_hash") != payment_hash or text(told, "type") not in (None, "incoming"):
            raise NodeUnavailable("the wallet tells something else than it was asked")
        state = state_of(told)
        if state is None:  # pending, or a wallet that knows no states
            expires_s = count(told, "expires_at")
            expired = expires_s is not None and expires_s <= self._clock().timestamp()
            return InvoiceStatus(state=InvoiceState.CANCELLED if expired else InvoiceState.OPEN)
        received = msats(told, "amount") if state is InvoiceState.PAID else NOTHING
        if received is None or (state is InvoiceState.PAID and not received):
            raise NodeUnavailable("the wallet does not tell what it received")
        return InvoiceStatus(state=state, received=received)

    def notices(self, *, wait: timedelta) -> Conversation[tuple[Settlement, ...]]:
        """What the wallet tells that it received, looked up; nothing where it does not tell. Raises NodeUnavailable."""
        untold = yield from self._learn()
        if untold is not None:
            raise NodeUnavailable(untold)
        return (yield from self._notices.hear(self.lookup_invoice, wait=wait)) if self._notifies else ()

    @property
    def narrow(self) -> str:
        """What to allow in the wallet."""
        return (
            "make a connection in the wallet that is allowed get_info, make_invoice and lookup_invoice, and no payments"
        )

    def facts(self) -> Conversation[NodeFacts]:
        """The chain, where `get_info` tells it. Raises NodeUnavailable."""
        untold = yield from self._learn()
        if untold is not None:
            raise NodeUnavailable(untold)
        return NodeFacts(network=self.network)

    def spends(self) -> Conversation[bool | None]:
        """Whether this connection may pay, by the methods that the wallet lists for it; None when it can't be told."""
        untold = yield from self._learn()
        methods = self._methods if untold is None else self._announced
        if methods is None:
            return None
        pays = any(method.startswith(_PAYS) for method in methods)
        return None if pays and untold is not None else pays  # it may announce more than this connection is allowed

    # --- paying -------------------------------------------------------------------------------------------------------

    def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Conversation[PayOutcome]:
        """Pay it, or find out that it is paid already. `fee_limit` is not passed on, for there is no such thing."""
        untold = yield from self._learn()
        if untold is not None:  # nothing but questions was sent so far
            return Failed(reason=untold)
        if self._methods is not None and "pay_invoice" not in self._methods:
            return Failed(reason="the wallet's connection is not allowed to pay (pay_invoice)")
        if self.network not in (None, invoice.network):
            return Failed(reason=f"the invoice is for {invoice.network}, the wallet is on {self.network}")
        if invoice.expires_at <= self._clock():  # refused with PAYMENT_FAILED, an Electrum says no more of it than that
            earlier = yield from self.lookup_payment(invoice.payment_hash)
            unheard = isinstance(earlier, Unresolved) and not earlier.known
            return Failed(reason="the invoice has expired") if unheard else earlier
        asked: dict[str, Json] = {"invoice": invoice.text}
        answer = yield from self._request("pay_invoice", asked, within=self._pay_within, expires=True)
        if not answer.sent:
            return Failed(reason=answer.complaint)
        if answer.result is None and not answer.code:
            return Unresolved(reason=answer.complaint)
        preimage = None if answer.result is None else preimage_of(answer.result, "preimage", invoice.payment_hash)
        if preimage is not None and answer.result is not None and "fees_paid" in answer.result:
            return Paid(preimage=preimage, fee=fee_of(answer.result))
        looked = yield from self._look_up(invoice.payment_hash)
        found = outcome_of(looked, invoice.payment_hash)
        if preimage is not None:  # Electrum tells the fee only when it is looked up
            return found if isinstance(found, Paid) else Paid(preimage=preimage, fee=NOTHING)
        return _judged(answer, looked, found)

    def lookup_payment(self, payment_hash: bytes) -> Conversation[PayOutcome]:
        """What became of a payment."""
        return outcome_of((yield from self._look_up(payment_hash)), payment_hash)

    def balance(self) -> Conversation[Amount]:
        """What can be spent, whatever the connection's own budget is. Raises WalletError."""
        answer = yield from self._ask("get_balance", {})
        balance = None if answer.result is None else msats(answer.result, "balance")
        if balance is None:
            raise WalletError(f"{self.name}: {answer.complaint or 'its balance can not be read'}")
        return balance

    # --- small print --------------------------------------------------------------------------------------------------

    def _make(
        self, method: str, named: Mapping[str, Json], amount: Amount, description: str, expires_in: timedelta
    ) -> Conversation[Invoice]:
        if not amount:
            raise WalletError("a wallet can't ask for nothing: an invoice needs an amount")
        if self._whole_sats_only and not _is_whole(amount):
            raise WalletError(f"the wallet can't ask for {amount}: it knows whole satoshis only")
        asked: dict[str, Json] = {
            **named,
            "amount": amount.msat,
            "description": fitting(description),
            "expiry": expires_in // timedelta(seconds=1),
        }
        made = _sensible((yield from self._ask(method, asked)))
        try:
            invoice = decode(text(made, "invoice") or "")
        except MalformedInvoice:
            raise NodeUnavailable("the wallet made an invoice that can't be read") from None
        if invoice.amount != amount:
            if not _is_whole(amount) and invoice.amount == Amount.sats(amount.in_sats_floor()):
                self._whole_sats_only = True
            raise NodeUnavailable(f"the wallet was asked for {amount} and made an invoice of {invoice.amount}")
        if hash_of(made, "payment_hash") not in (None, invoice.payment_hash):
            raise NodeUnavailable("the wallet made another invoice than it says")
        if self._network not in (None, invoice.network):
            raise NodeUnavailable("the wallet made an invoice for another network than before")
        self._network = invoice.network
        return invoice

    def _look_up(self, payment_hash: bytes) -> Conversation[Answer]:
        return (yield from self._ask("lookup_invoice", {"payment_hash": payment_hash.hex()}))

    def _ask(self, method: str, params: Mapping[str, Json]) -> Conversation[Answer]:
        untold = yield from self._learn()
        if untold is not None:
            return Answer(complaint=untold, sent=False)
        return (yield from self._request(method, params))

    def _learn(self) -> Conversation[str | None]:
        """Find out what the wallet can do, until it has answered once; what keeps us from knowing it."""
        if self._heard:
            return None
        asked = self._connection.ask_info(within=_ANSWER_WITHIN)
        reply = yield asked
        if reply.status == 0:
            return complaint(reply)
        event = event_of(asked, reply)
        self._announced = frozenset(event.content.split()) if event is not None and event.content.strip() else None
        self._encryption = NIP44 if event is not None and NIP44 in _words(event, "encryption") else _NIP04
        self._methods = self._announced
        self._notifies = event is not None and PAYMENT_RECEIVED in _words(event, "notifications")
        if self._announced is None or "get_info" in self._announced:
            answer = yield from self._request("get_info", {})
            if answer.result is None and not answer.code:
                return answer.complaint
            told = answer.result or {}
            self._told_network = _NETWORKS.get(text(told, "network") or "")
            self._methods = methods_of(told) or self._announced
            self._notifies |= PAYMENT_RECEIVED in notifications_of(told)
        self._heard = True
        return None

    def _request(
        self, method: str, params: Mapping[str, Json], *, within: timedelta = _ANSWER_WITHIN, expires: bool = False
    ) -> Conversation[Answer]:
        call = self._connection.request(
            method, params, encryption=self._encryption, now=self._clock(), within=within, expires=expires
        )
        answer = self._connection.read(method, call, (yield call))
        if answer.code == _UNSUPPORTED:
            self._heard = False  # it has learnt another one meanwhile; asked again next time
        return answer


def _judged(answer: Answer, looked: Answer, found: PayOutcome) -> PayOutcome:
    """What is to be believed when the wallet refused to pay, or said that it paid without proof, and was looked up."""
    if answer.result is not None:
        return found if isinstance(found, Paid) else Unresolved(reason="the wallet says that it paid, without proof")
    match found:
        case Paid():
            return found
        case Failed():
            return Failed(reason=answer.complaint)
        case Unresolved(known=False):
            certain = answer.code in _NOT_BEGUN or answer.code == _PAYMENT_FAILED
            return Failed(reason=answer.complaint) if certain else Unresolved(reason=answer.complaint, known=False)
        case Unresolved():
            if answer.code in _NOT_BEGUN and looked.code:  # it answers, and does not let us look
                return Failed(reason=answer.complaint)
            return Unresolved(reason=f"{answer.complaint}; {found.reason}")


def _words(event: Event, name: str) -> set[str]:
    """What stands in the tags of this name, in one text or in several."""
    return {word for tag in event.tags if tag[:1] == (name,) for words in tag[1:] for word in words.split()}


def _is_whole(amount: Amount) -> bool:
    try:
        amount.in_sats_exact()
    except MalformedAmount:
        return False
    return True


def _sensible(answer: Answer) -> Told:
    if answer.result is None:
        raise NodeUnavailable(answer.complaint)
    return answer.result
