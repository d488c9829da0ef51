"""A credit is paid back once, whatever dies in between, and only by an invoice that may be paid."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from farebox.cli.refund import CLOCK_SKEW, IDLE, Refunding, Wanted, read_words
from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, Network, sign
from farebox.core.errors import MalformedInvoice, MalformedValue, RefundRefused, WalletError
from farebox.core.exchange import Quote, Wire
from farebox.core.payment import DrawState, Payment, PaymentState
from farebox.core.ports import Paid, PayOutcome, Unresolved
from farebox.core.refund import Refund
from farebox.core.secret import Secret
from farebox.core.settlement import Settlement
from farebox.gate import Challenged, Grant, Visit
from farebox.http.converse import converse
from farebox.lightning.sandbox import Trouble
from farebox.testing.market import Market

pytestmark = pytest.mark.anyio

PRICE, BACK, LITTLE = Amount.sats(21), Amount.sats(20), Amount.sats(5)
QUOTE = Quote(amount=PRICE, resource="GET /x", digest=bytes(32))
CLIENT = "192.0.2.7/32"
TEN_MINUTES = timedelta(minutes=10)


class Dead(BaseException):
    """`kill -9`."""


@dataclass
class Debtor:
    """A shop that owes a payer what it could not deliver, and the payer's own wallet."""

    market: Market
    payment_hash: bytes

    @property
    def ledger(self) -> Any:
        return self.market.gate.ledger

    def invoice(self, amount: Amount = BACK) -> Invoice:
        return self.market.sandbox.buyer.issue(amount, description="give it back", expires_in=TEN_MINUTES)

    def refunding(self, ledger: Any = None, wallet: Any = None) -> Refunding:
        return Refunding(ledger or self.ledger, wallet or self.market.sandbox.seller, talk)

    def wanted(self, invoice: Invoice, **more: Any) -> Wanted:
        return Wanted(payment_hash=self.payment_hash, invoice=invoice, **more)

    async def refund(self, invoice: Invoice, **more: Any) -> Refund:
        return await self.refunding().refund(self.wanted(invoice, **more))

    async def state(self) -> PaymentState:
        payment = await self.ledger.find_payment(self.payment_hash)
        assert isinstance(payment, Payment)
        return payment.state


async def talk(conversation: Any) -> Any:
    return converse(conversation)


@pytest.fixture
async def debtor() -> Any:
    market = Market.open()
    asked = await market.gate.admit(Visit(quote=QUOTE, wire=Wire(), client=CLIENT))
    assert isinstance(asked, Challenged)
    preimage = market.pay(asked.invoice.text)
    proof = ("authorization", f"L402 {asked.wire.body['macaroon']}:{preimage.hex()}")
    grant = await market.gate.admit(Visit(quote=QUOTE, wire=Wire(headers=(proof,)), client=CLIENT))
    assert isinstance(grant, Grant)
    await grant.give_up()
    yield Debtor(market, asked.invoice.payment_hash)
    await market.close()


# --- paying back ------------------------------------------------------------------------------------------------------


async def test_a_credit_is_paid_back_and_the_books_say_so(debtor: Debtor) -> None:
    before = debtor.market.sandbox.buyer.funds()
    refund = await debtor.refund(debtor.invoice())
    assert (DrawState.CAPTURED, PaymentState.REFUNDED) == (refund.state, await debtor.state())
    books = await debtor.ledger.balance()
    assert (Amount.sats(20), Amount.sats(1), NOTHING) == (books.refunded, books.credit, books.held)
    assert before + Amount.sats(20) == debtor.market.sandbox.buyer.funds()


async def test_what_was_paid_back_is_not_paid_again_whatever_the_invoice(debtor: Debtor) -> None:
    first = debtor.invoice()
    await debtor.refund(first)
    before = debtor.market.sandbox.buyer.funds()
    for invoice in (first, debtor.invoice()):
        again = await debtor.refund(invoice)
        assert (DrawState.CAPTURED, first.payment_hash) == (again.state, again.refund_hash)
    assert before == debtor.market.sandbox.buyer.funds()


async def test_a_refund_that_certainly_failed_may_be_tried_again_with_another_invoice(debtor: Debtor) -> None:
    first = debtor.invoice()
    debtor.market.sandbox.script(None, Trouble.FAIL)
    refund = await debtor.refund(first)
    assert (DrawState.RELEASED, PaymentState.CREDIT) == (refund.state, await debtor.state())
    with pytest.raises(RefundRefused, match="tried before"):
        await debtor.refund(first)
    assert DrawState.CAPTURED is (await debtor.refund(debtor.invoice())).state


async def test_a_lost_reply_is_looked_up_and_not_paid_a_second_time(debtor: Debtor) -> None:
    before, invoice = debtor.market.sandbox.buyer.funds(), debtor.invoice()
    debtor.market.sandbox.script(None, Trouble.LOSE_REPLY)
    assert DrawState.HELD is (await debtor.refund(invoice)).state
    assert DrawState.CAPTURED is (await debtor.refund(invoice)).state
    assert before + Amount.sats(20) == debtor.market.sandbox.buyer.funds()


async def test_a_refund_in_flight_stays_held_and_lets_no_other_one_begin(debtor: Debtor) -> None:
    before, invoice = debtor.market.sandbox.buyer.funds(), debtor.invoice()
    debtor.market.sandbox.script(None, Trouble.STAY_IN_FLIGHT)
    assert DrawState.HELD is (await debtor.refund(invoice)).state
    for asked in (invoice, debtor.invoice()):
        assert (DrawState.HELD, invoice.payment_hash) == (
            (refund := await debtor.refund(asked)).state,
            refund.refund_hash,
        )
    assert debtor.market.sandbox.release(invoice.payment_hash)
    assert DrawState.CAPTURED is (await debtor.refund(debtor.invoice())).state
    assert before + Amount.sats(20) == debtor.market.sandbox.buyer.funds()


async def test_a_refund_that_is_found_to_have_failed_makes_room_for_the_next(debtor: Debtor) -> None:
    first = debtor.invoice()
    debtor.market.sandbox.script(None, Trouble.STAY_IN_FLIGHT)
    await debtor.refund(first)
    assert debtor.market.sandbox.buyer.cancel(first.payment_hash)
    assert DrawState.CAPTURED is (await debtor.refund(debtor.invoice())).state
    credit = await debtor.ledger.find_credit(debtor.payment_hash)
    assert 2 == credit.refund.attempt


async def test_a_proof_that_does_not_fit_is_no_payment(debtor: Debtor) -> None:
    class Liar:
        name, network = "a liar", None

        def lookup_payment(self, payment_hash: bytes) -> Any:
            yield from ()
            return Unresolved(reason="never heard of it", known=False)

        def pay_invoice(self, invoice: Invoice, *, fee_limit: Amount) -> Any:
            yield from ()
            return Paid(preimage=Secret(bytes(32)), fee=NOTHING)

    refund = await debtor.refunding(wallet=Liar()).refund(debtor.wanted(debtor.invoice()))
    assert (DrawState.HELD, PaymentState.CREDIT) == (refund.state, await debtor.state())
    assert "does not fit" in refund.reason


async def test_a_wallet_that_can_not_be_used_is_found_out_before_anything_is_written(debtor: Debtor) -> None:
    async def refuse(_: object) -> Any:
        raise WalletError("no permission")

    refunding = Refunding(debtor.ledger, debtor.market.sandbox.seller, refuse)
    with pytest.raises(RefundRefused, match="no permission"):
        await refunding.refund(debtor.wanted(debtor.invoice()))
    assert (await debtor.ledger.find_credit(debtor.payment_hash)).refund is None


async def test_an_invoice_that_the_wallet_has_paid_for_something_else_is_refused(debtor: Debtor) -> None:
    invoice = debtor.invoice()
    debtor.market.sandbox.seller.pay(invoice, fee_limit=None)
    with pytest.raises(RefundRefused, match="paid this invoice before"):
        await debtor.refund(invoice)


async def test_a_wallet_that_refuses_to_pay_leaves_it_unresolved(debtor: Debtor) -> None:
    asked = 0

    async def refuse(conversation: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise WalletError("no permission")
        return converse(conversation)

    refund = await Refunding(debtor.ledger, debtor.market.sandbox.seller, refuse).refund(
        debtor.wanted(debtor.invoice())
    )
    assert (DrawState.HELD, PaymentState.CREDIT) == (refund.state, await debtor.state())


async def test_of_many_commands_at_once_one_pays(debtor: Debtor) -> None:
    before = debtor.market.sandbox.buyer.funds()
    invoices = [debtor.invoice() for _ in range(8)]
    await asyncio.gather(*(debtor.refund(each) for each in invoices * 2), return_exceptions=True)
    assert before + Amount.sats(20) == debtor.market.sandbox.buyer.funds()
    assert DrawState.CAPTURED is (await debtor.refund(invoices[0])).state


# --- what may be paid -------------------------------------------------------------------------------------------------


def of_network(debtor: Debtor, network: Network) -> Invoice:
    return sign(
        secret_key=sha256(b"somebody").digest(),
        network=network,
        amount=Amount.sats(5),
        payment_hash=sha256(b"x").digest(),
        payment_secret=bytes(32),
        description="",
        created_at=debtor.market.clock(),
        expires_in=TEN_MINUTES,
    )


@pytest.mark.parametrize(
    ("invoice", "why"),
    [
        (lambda debtor: debtor.invoice(Amount.sats(21)), "ask for one of at most 20 sat"),
        (lambda debtor: debtor.invoice(PRICE + Amount.msats(1)), "ask for one of at most 20 sat"),
        (lambda debtor: replace(debtor.invoice(), amount=None), "names no amount"),
        (lambda debtor: replace(debtor.invoice(), expires_in=timedelta(0)), "expired"),
        (lambda debtor: of_network(debtor, Network.MAINNET), "not made there"),
        (lambda debtor: debtor.market.sandbox.seller.issue(LITTLE, description="", expires_in=TEN_MINUTES), "own node"),
        (lambda debtor: replace(debtor.invoice(), payment_hash=debtor.payment_hash), "the shop's own"),
    ],
    ids=["no room for the fee", "too much", "no amount", "expired", "another network", "own node", "own invoice"],
)
async def test_an_invoice_that_may_not_be_paid_is_refused_before_anything_is_written(
    debtor: Debtor, invoice: Callable[[Debtor], Invoice], why: str
) -> None:
    before = debtor.market.sandbox.seller.funds()
    with pytest.raises(RefundRefused, match=why):
        await debtor.refund(invoice(debtor))
    credit = await debtor.ledger.find_credit(debtor.payment_hash)
    assert (None, before) == (credit.refund, debtor.market.sandbox.seller.funds())


async def test_the_fee_limit_may_be_chosen(debtor: Debtor) -> None:
    assert DrawState.CAPTURED is (await debtor.refund(debtor.invoice(PRICE), limit=NOTHING)).state
    assert PRICE == (await debtor.ledger.balance()).refunded


async def test_only_a_credit_is_paid_back(debtor: Debtor) -> None:
    asked = await debtor.market.gate.admit(Visit(quote=replace(QUOTE, digest=b"1" * 32), wire=Wire(), client=CLIENT))
    other = Debtor(debtor.market, asked.invoice.payment_hash)
    for why, then in (("nobody has paid", debtor.ledger.settle(other.payment_hash, PRICE)), ("not been made", None)):
        with pytest.raises(RefundRefused, match=why):
            await other.refund(other.invoice())
        if then is not None:
            await then
    with pytest.raises(RefundRefused, match="knows no payment"):
        await Debtor(debtor.market, bytes(32)).refund(debtor.invoice())


async def test_a_stray_is_no_payment_of_this_shop_and_is_called_one(debtor: Debtor) -> None:
    stray = Settlement(payment_hash=bytes(32), received=BACK)
    await debtor.ledger.settle_from_stream([stray], receiver="node", read_from="", cursor="1")
    with pytest.raises(RefundRefused, match="it is a stray"):
        await debtor.refunding().refund(Wanted(payment_hash=bytes(32), invoice=debtor.invoice()))
    with pytest.raises(RefundRefused, match="knows no payment"):
        await debtor.refunding().refund(Wanted(payment_hash=b"\x01" * 32, invoice=debtor.invoice()))


async def test_only_the_wallet_that_was_asked_goes_on(debtor: Debtor) -> None:
    invoice = debtor.invoice()
    debtor.market.sandbox.script(None, Trouble.LOSE_REPLY)
    await debtor.refund(invoice)

    class Moved(type(debtor.market.sandbox.seller)):  # type: ignore[misc]
        name = "the same node at another address"

    wallet = debtor.market.sandbox.seller
    moved = object.__new__(Moved)
    moved.__dict__.update(wallet.__dict__)
    with pytest.raises(RefundRefused, match="same-wallet"):
        await debtor.refunding(wallet=moved).refund(debtor.wanted(invoice))
    refund = await debtor.refunding(wallet=moved).refund(debtor.wanted(invoice, same_wallet=True))
    assert DrawState.CAPTURED is refund.state


# --- whatever dies in between -----------------------------------------------------------------------------------------


class Mortal:
    """Lets so many calls through to what is behind it, and dies before or after the next one."""

    def __init__(self, behind: Any, deaths: list[int], *, after: bool) -> None:
        self._behind = behind
        self._deaths = deaths
        self._after = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._behind, name)
        if not callable(found) or name == "now":
            return found
        if asyncio.iscoroutinefunction(found):

            async def acall(*args: Any, **kwargs: Any) -> Any:
                dies = self._counts()
                if dies and not self._after:
                    raise Dead
                result = await found(*args, **kwargs)
                if dies:
                    raise Dead
                return result

            return acall

        def call(*args: Any, **kwargs: Any) -> Any:
            dies = self._counts()
            if dies and not self._after:
                raise Dead
            result = yield from found(*args, **kwargs)
            if dies:
                raise Dead
            return result

        return call

    def _counts(self) -> bool:
        self._deaths[0] -= 1
        return self._deaths[0] == -1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(8))
async def test_a_command_that_dies_at_any_step_is_made_again_and_pays_once(
    debtor: Debtor, step: int, after: bool
) -> None:
    before, invoice = debtor.market.sandbox.buyer.funds(), debtor.invoice()
    deaths = [step]
    mortal = debtor.refunding(
        Mortal(debtor.ledger, deaths, after=after), Mortal(debtor.market.sandbox.seller, deaths, after=after)
    )
    try:
        refund = await mortal.refund(debtor.wanted(invoice))
        assert step == 7, "every step has been tried"
    except Dead:
        assert step < 7
        refund = await debtor.refund(invoice)
        if refund.state is DrawState.HELD:  # the intent is there, and the wallet has not heard of it
            assert before == debtor.market.sandbox.buyer.funds()
            debtor.market.clock.pass_by(IDLE)
            refund = await debtor.refund(invoice)
    assert (DrawState.CAPTURED, PaymentState.REFUNDED) == (refund.state, await debtor.state())
    assert before + Amount.sats(20) == debtor.market.sandbox.buyer.funds()


async def test_an_intent_that_never_reached_the_wallet_is_given_up_when_its_invoice_has_run_out(debtor: Debtor) -> None:
    invoice = debtor.invoice()
    with pytest.raises(Dead):
        await debtor.refunding(wallet=Mortal(debtor.market.sandbox.seller, [1], after=False)).refund(
            debtor.wanted(invoice)
        )
    debtor.market.clock.pass_by(TEN_MINUTES + CLOCK_SKEW + timedelta(seconds=1))
    refund = await debtor.refund(invoice)
    assert (DrawState.RELEASED, PaymentState.CREDIT) == (refund.state, await debtor.state())
    assert DrawState.CAPTURED is (await debtor.refund(debtor.invoice())).state


async def test_a_wallet_and_a_ledger_that_tell_different_stories_are_told_of(debtor: Debtor) -> None:
    invoice = debtor.invoice()
    debtor.market.sandbox.script(None, Trouble.LOSE_REPLY)
    refund = await debtor.refund(invoice)
    waiting = asyncio.Event()

    async def slow(conversation: Any) -> PayOutcome:
        outcome: PayOutcome = converse(conversation)
        await debtor.ledger.release_refund(refund, reason="somebody was wrong")
        waiting.set()
        return outcome

    with pytest.raises(RefundRefused, match="different stories"):
        await Refunding(debtor.ledger, debtor.market.sandbox.seller, slow).refund(debtor.wanted(invoice))
    assert waiting.is_set()


# --- words ------------------------------------------------------------------------------------------------------------


def test_the_words_of_the_command_are_told_apart() -> None:
    assert (None, None) == read_words([])
    assert ("shop.toml", None) == read_words(["shop.toml"])
    assert (None, ("hash", "invoice")) == read_words(["hash", "invoice"])
    assert ("shop.toml", ("hash", "invoice")) == read_words(["shop.toml", "hash", "invoice"])
    with pytest.raises(MalformedValue):
        read_words(["1", "2", "3", "4"])


async def test_a_hash_and_an_invoice_are_read_as_people_paste_them(debtor: Debtor) -> None:
    invoice = debtor.invoice()
    read = Wanted.read(bytes(32).hex(), f" LIGHTNING:{invoice.text.upper()}\n", "2 sat")
    assert (bytes(32), invoice, Amount.sats(2)) == (read.payment_hash, read.invoice, read.fee_limit)
    assert Amount.sats(1) == Wanted.read(bytes(32).hex(), invoice.text).fee_limit
    for words, wrong in ((("00", invoice.text), MalformedValue), ((bytes(32).hex(), "lnbc1"), MalformedInvoice)):
        with pytest.raises(wrong):
            Wanted.read(*words)


async def test_who_shows_a_wrong_preimage_is_not_paid_back(debtor: Debtor) -> None:
    preimage, invoice = bytes(range(32)), debtor.invoice().text
    payment_hash = sha256(preimage).hexdigest()
    assert payment_hash == Wanted.read(payment_hash, invoice, preimage=preimage.hex()).payment_hash.hex()
    for shown, wrong in (("00" * 32, RefundRefused), (payment_hash, RefundRefused), ("yes", MalformedValue)):
        with pytest.raises(wrong):
            Wanted.read(payment_hash, invoice, preimage=shown)
