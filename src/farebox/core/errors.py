"""Every error, and whose fault it is.

    FareboxError
    ├── CallerError                what a buyer sent; the gate answers it as a problem (RFC 9457)
    │   ├── MalformedRequest       400  the request can't be read one way only
    │   │   └── TargetTooLong          414
    │   ├── MalformedCredential    400  a proof is badly spoken, doubled, or there are two
    │   ├── CredentialRejected     401  the proof is well formed and not good
    │   ├── RouteUnknown           404
    │   ├── MethodUnknown          405
    │   ├── RequestTimeout         408  the request came too slowly
    │   ├── RequestMismatch        409  good proof, bought for another request; the payment is kept
    │   ├── CallInProgress         409  good proof, its call is still running
    │   ├── CallUndeliverable      409  the call failed too often; its price is kept as credit
    │   ├── AnswerGone             410  the answer was given and is no longer kept
    │   ├── BodyTooLarge           413
    │   ├── ArgumentsInvalid       422  a capability can't be called like that; nothing was charged
    │   ├── TooManyUnpaidCalls     429  this caller asks faster than it pays
    │   │   └── TooManyUnpaidInvoices  429  this caller has not paid those that it has
    │   └── HeadersTooLarge        431
    ├── Unavailable                503 the seller can't tell just now; nothing was lost, ask again
    │   ├── GateOverloaded         more callers ask for an invoice than there can be invoices
    │   ├── NodeUnavailable        the Lightning node doesn't answer, or not sensibly
    │   ├── RateUnavailable        nobody has said lately what a bitcoin costs
    │   ├── StoreUnavailable       the ledger or the purse can't be written or read
    │   └── UpstreamFailed         502 the seller's own service did not answer; the payment is kept
    │       └── PaymentReturned        the same, of a call that was to be paid on success; the payment goes back
    ├── PurchaseError              why a purchase did not succeed; says whether money moved
    │   ├── NothingPaid
    │   │   ├── OverBudget             a limit of the buyer's own
    │   │   ├── ApprovalNeeded         a person has to say yes to it first; it is parked
    │   │   ├── ApprovalDenied         a person said no
    │   │   ├── HostRefused            the buyer does not pay this host
    │   │   ├── OriginInsecure         it would be paid over plain HTTP, where anybody between can take the money
    │   │   ├── PriceJumped            far above the last price that was seen here
    │   │   ├── PayeeChanged           another node than the one that was paid here before
    │   │   ├── SellerShunned          it took money and did not serve, too often
    │   │   ├── TooManyInFlight        too many payments to it are on their way
    │   │   ├── TokenRefused           the purse token is not good
    │   │   ├── ChallengeUnreadable    a 402 that asks for nothing we can pay
    │   │   ├── InvoiceRefused         the invoice failed the audit
    │   │   ├── BodyNotReplayable      the request can't be sent twice
    │   │   ├── OriginChanged          another origin than the named one asks for money
    │   │   └── PaymentFailed          the wallet says for certain that it did not pay
    │   ├── PaymentUnresolved      the wallet can't tell; the amount stays held
    │   └── PaidNotServed          paid, and the answer did not come; ask again with the same proof
    │       ├── PaidAsCredit       the seller can't deliver it and owes what was paid
    │       └── PaidRedirect       what was paid for leads to no answer
    ├── MalformedValue             a text or number that is not what it should be
    │   ├── MalformedAmount
    │   │   └── MalformedPrice         also in fiat
    │   ├── MalformedBudget
    │   ├── MalformedInvoice       BOLT11
    │   ├── MalformedMacaroon
    │   ├── MalformedChallenge
    │   └── SealBroken             a kept answer that was changed
    └── OperatorError              what the person who runs farebox can mend: one line that says what to do
        ├── ConfigError
        │   └── UsageError             what was said on the command line, or for it in the environment
        │       └── WalletMissing
        ├── DecisionRefused        a parked call that does not wait for a word any more
        ├── RefundRefused          a credit can't be paid back like this; nothing was paid
        └── WalletError

A docstring is the message, the class name is the problem type, evidence is in attributes. No error carries a secret.
"""

from __future__ import annotations

from typing import ClassVar

from farebox.core.error import Evidence as Evidence
from farebox.core.error import FareboxError as FareboxError


class CallerError(FareboxError):
    """The request can't be served as it was sent."""

    status: ClassVar[int] = 400
    retry_after_s: ClassVar[int | None] = None


class MalformedRequest(CallerError):
    """The request can be read in more than one way, so it is not read at all."""


class TargetTooLong(MalformedRequest):
    """The path and query of the request are too long."""

    status = 414


class MalformedCredential(CallerError):
    """The proof of payment is malformed, doubled, or there is more than one."""


class CredentialRejected(CallerError):
    """The proof of payment is not valid here."""

    status = 401


class RouteUnknown(CallerError):
    """Nothing is sold at this path."""

    status = 404


class MethodUnknown(CallerError):
    """This path is not sold under this method."""

    status = 405


class RequestTimeout(CallerError):
    """The request did not arrive in time; send it again."""

    status = 408


class RequestMismatch(CallerError):
    """This payment was made for another request; it is kept, send the request it was made for."""

    status = 409


class CallInProgress(CallerError):
    """The call that this payment bought is still running; ask again with the same proof."""

    status = 409
    retry_after_s = 2


class CallUndeliverable(CallerError):
    """The call failed too often; what was paid for it is kept as credit."""

    status = 409


class AnswerGone(CallerError):
    """This payment was used and its answer is no longer kept."""

    status = 410


class BodyTooLarge(CallerError):
    """The request body is larger than this seller accepts."""

    status = 413


class ArgumentsInvalid(CallerError):
    """The arguments do not fit what is sold here; nothing was charged."""

    status = 422


class TooManyUnpaidCalls(CallerError):
    """Too many calls came from this address without a payment; pay for one, or ask again in a moment."""

    status = 429
    retry_after_s = 1


class TooManyUnpaidInvoices(TooManyUnpaidCalls):
    """Too many invoices of this address are unpaid; pay one, or wait until they have run out."""

    retry_after_s = 30


class HeadersTooLarge(CallerError):
    """The request has too many or too large header fields."""

    status = 431


class Unavailable(FareboxError):
    """The seller can't tell just now; nothing was lost, ask again."""

    status: ClassVar[int] = 503
    retry_after_s: ClassVar[int] = 2


class GateOverloaded(Unavailable):
    """More is asked without a payment than can be answered just now; a payment is not affected, ask again."""


class NodeUnavailable(Unavailable):
    """The seller's Lightning node does not answer just now; nothing was lost, ask again."""


class RateUnavailable(Unavailable):
    """What this costs in bitcoin can't be told just now; a payment is not affected, ask again."""

    retry_after_s = 10


class StoreUnavailable(Unavailable):
    """What has to be remembered can't be written or read just now; nothing was lost, ask again."""


class UpstreamFailed(Unavailable):
    """The seller's service did not answer; a payment made for this call is kept, ask again with the same proof."""

    status = 502


class PaymentReturned(UpstreamFailed):
    """The call failed, and was to be paid on success: what was held for it goes back to its payer."""


class PurchaseError(FareboxError):
    """The purchase did not succeed."""


class NothingPaid(PurchaseError):
    """Nothing was paid."""

    money_moved = False


class OverBudget(NothingPaid):
    """The price is over the budget."""

    next_step = "Raise the limit (`--budget`, `--max`), wait until the window has moved on, or do without."


class ApprovalNeeded(NothingPaid):
    """The price needs a person's approval first; the call is parked."""

    next_step = "Have it approved (`farebox approvals`), then make the same call again."


class ApprovalDenied(NothingPaid):
    """A person refused to pay for this call."""

    next_step = "Do without; do not ask again."


class HostRefused(NothingPaid):
    """This host is not paid."""

    next_step = "Only who set the allow and deny lists can change that."


class OriginInsecure(NothingPaid):
    """Nothing is paid over plain HTTP, except on this machine."""

    next_step = "Use https, or name the host among those that may be paid over plain HTTP (`plain_http`)."


class PriceJumped(NothingPaid):
    """The price is far above the last one seen for this call."""

    next_step = "Look at it; if it is right, say that you accept it (`--accept-price`)."


class PayeeChanged(NothingPaid):
    """Another node than before would be paid."""

    next_step = "Ask the seller whether its node has changed; then forget the old one."


class SellerShunned(NothingPaid):
    """This seller took money and did not serve, too often."""

    next_step = "Make one again that `farebox resume` lists, or wait. `farebox history --state unserved` has them all."


class TooManyInFlight(NothingPaid):
    """Too many payments to this host are on their way."""

    next_step = "Ask again when they have arrived; `farebox resume` looks them up."


class TokenRefused(NothingPaid):
    """The purse token is not good."""

    next_step = "Ask whoever gave it to you for another one."


class ChallengeUnreadable(NothingPaid):
    """The server asks for payment in a way that can't be paid here."""

    next_step = "Look at the 402 answer; ask the seller which protocols it speaks."


class InvoiceRefused(NothingPaid):
    """The invoice is not what was asked for, so it was not paid."""

    next_step = "Do not pay it by hand; ask again, and tell the seller if it stays so."


class BodyNotReplayable(NothingPaid):
    """The request body can be read only once, so the request could not be sent again after paying."""

    next_step = "Send bytes, text, JSON or a file instead of a generator."


class OriginChanged(NothingPaid):
    """Another origin than the one that was called asks for the money."""

    next_step = "Call that origin by its own name if you mean to pay it."


class PaymentFailed(NothingPaid):
    """The wallet did not pay, for certain."""

    next_step = "See the reason; the amount is free again in the budget."


class PaymentUnresolved(PurchaseError):
    """The wallet can't tell yet whether it paid; the amount stays held in the budget."""

    next_step = "Make the same call again: the payment is looked up first and never made twice."


class PaidNotServed(PurchaseError):
    """The call was paid and its answer did not come."""

    money_moved = True
    next_step = "Make the same call again: the same proof is shown first and nothing is paid anew."


class PaidAsCredit(PaidNotServed):
    """The call was paid, its answer is not to be had any more, and what was paid is credit with the seller."""

    next_step = "Ask the seller for it and name the payment hash. The same call would be paid anew."


class PaidRedirect(PaidNotServed):
    """The call was paid, and what it bought is a redirect that leads to no answer. `location` is where."""

    next_step = "Call where it leads by itself, or make the same call again without following redirects."


class MalformedValue(FareboxError, ValueError):
    """A value is not what it should be."""


class MalformedAmount(MalformedValue):
    """An amount is a whole number with a unit, such as `21 sat` or `500 msat`."""


class MalformedPrice(MalformedAmount):
    """A price is written such as `21 sat`, `500 msat`, `0.5 US cent`, `$0.005` or `2 EUR`."""


class MalformedBudget(MalformedValue):
    """A budget is an amount for a span, such as `500 sat/day` or `50 sat/call`."""


class MalformedInvoice(MalformedValue):
    """This is not a valid BOLT11 invoice."""


class MalformedMacaroon(MalformedValue):
    """This is not a valid macaroon."""


class MalformedChallenge(MalformedValue):
    """The challenge can't be read."""


class SealBroken(MalformedValue):
    """A kept answer is not as it was sealed."""


class OperatorError(FareboxError):
    """Farebox can't run like this."""


class ConfigError(OperatorError):
    """The configuration can't be used."""


class UsageError(ConfigError):
    """The command was called wrongly."""


class WalletMissing(UsageError):
    """There is no wallet to pay with; name one by FAREBOX_WALLET or --wallet, or have a sandbox running."""

    next_step = (
        "A wallet is such as phoenixd+http://:PASSWORD@127.0.0.1:9740. The sandbox of a `farebox serve` is found by "
        "itself, if need be by its folder (--state-dir); `farebox demo --keep` tells the wallet of its shop."
    )


class DecisionRefused(OperatorError):
    """This call does not wait for an approval."""


class RefundRefused(OperatorError):
    """The refund was refused, and nothing was paid."""


class WalletError(OperatorError):
    """The wallet or node can't be used."""
