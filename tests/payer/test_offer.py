from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.budget import Budget
from farebox.core.errors import ChallengeUnreadable, InvoiceRefused
from farebox.core.exchange import Challenge, Credential, Wire
from farebox.core.ports import Dialect
from farebox.payer import Limits, Offer
from farebox.payer.offer import choose_offer
from farebox.testing.buyers import Mint, PlainDialect
from farebox.testing.market import StillClock

CLOCK = StillClock()
MINT = Mint(CLOCK)
PLAIN, OTHER = PlainDialect("Plain"), PlainDialect("Other")
LIMITS = Limits(budget=Budget())
ON_REGTEST = replace(LIMITS, networks=frozenset((Network.REGTEST,)))
NOTHING_TOLD = Wire(headers=(("content-type", "text/html"),))


def challenge(invoice: Invoice, dialect: PlainDialect = PLAIN) -> Challenge:
    return Challenge(
        dialect=dialect.name, invoice=invoice.text, payment_hash=invoice.payment_hash, amount=invoice.amount
    )


def told(*challenges: Challenge) -> Wire:
    wire = Wire()
    for one in challenges:
        wire |= (PLAIN if one.dialect == "Plain" else OTHER).write_challenge(one)
    return wire


def choose(wire: Wire, limits: Limits = LIMITS) -> Offer:
    return choose_offer(wire, dialects=[PLAIN, OTHER], limits=limits, now=CLOCK())


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_the_cheapest_of_several_invoices_is_chosen() -> None:
    dear, cheap = MINT.invoice(Amount.sats(30)), MINT.invoice(Amount.sats(20))

    assert cheap == choose(told(challenge(dear), challenge(cheap, OTHER))).invoice


def test_at_one_price_the_dialect_that_is_spoken_first_is_chosen() -> None:
    invoice = MINT.invoice()

    assert PLAIN is choose(told(challenge(invoice, OTHER), challenge(invoice))).dialect


class BareDialect(PlainDialect):
    """One whose proof shows no preimage."""

    def write_credential(self, credential: Credential) -> Wire:
        return Wire(headers=(("authorization", credential.payment_hash.hex()),))


class LooseDialect(PlainDialect):
    """One whose proof is in a header that redirects take along."""

    def write_credential(self, credential: Credential) -> Wire:
        return Wire(headers=tuple(("x-proof", value) for _, value in super().write_credential(credential).headers))


@pytest.mark.parametrize("order", list(itertools.permutations(("Bare", "Loose", "Other", "Plain"))))
def test_at_one_price_the_safest_proof_comes_first(order: tuple[str, ...]) -> None:
    kinds = {"Bare": BareDialect, "Loose": LooseDialect}
    dialects = [kinds.get(name, PlainDialect)(name) for name in order]
    wire = Wire()
    for dialect in dialects:
        wire |= dialect.write_challenge(challenge(MINT.invoice(), dialect))
    chosen = []
    while dialects:
        offer = choose_offer(wire, dialects=dialects, limits=LIMITS, now=CLOCK(), keeps_proofs=True)
        chosen.append(offer.dialect.name)
        dialects = [dialect for dialect in dialects if dialect is not offer.dialect]

    assert [name for name in order if name in ("Other", "Plain")] == chosen[:2]
    assert ["Loose", "Bare"] == chosen[2:]


def test_what_the_caller_prefers_is_chosen_at_one_price_whatever_the_proof_and_at_no_higher_one() -> None:
    bare = BareDialect("Bare")
    limits = replace(LIMITS, prefer=("Bare", "Other"))

    def chosen(first: Invoice, second: Invoice, other: PlainDialect) -> Dialect:
        wire = PLAIN.write_challenge(challenge(first)) | other.write_challenge(challenge(second, other))
        return choose_offer(wire, dialects=[PLAIN, OTHER, bare], limits=limits, now=CLOCK()).dialect

    dear, cheap = MINT.invoice(Amount.sats(30)), MINT.invoice(Amount.sats(20))
    assert [bare, OTHER, PLAIN] == [chosen(cheap, cheap, bare), chosen(cheap, cheap, OTHER), chosen(cheap, dear, bare)]


def test_a_proof_that_a_redirect_would_take_along_is_not_bought_where_that_can_not_be_kept_from_it() -> None:
    loose, invoice = LooseDialect("Loose"), MINT.invoice()
    wire = loose.write_challenge(challenge(invoice, loose))

    with pytest.raises(InvoiceRefused, match="could not be sent"):
        choose_offer(wire, dialects=[loose], limits=LIMITS, now=CLOCK())
    assert loose is choose_offer(wire, dialects=[loose], limits=LIMITS, now=CLOCK(), keeps_proofs=True).dialect


def test_a_cheaper_invoice_comes_before_a_safer_proof() -> None:
    bare = BareDialect("Bare")
    cheap, dear = MINT.invoice(Amount.sats(20)), MINT.invoice()
    wire = told(challenge(dear)) | bare.write_challenge(challenge(cheap, bare))

    assert bare is choose_offer(wire, dialects=[PLAIN, bare], limits=LIMITS, now=CLOCK()).dialect


def test_what_one_dialect_cannot_read_does_not_hide_another() -> None:
    invoice = MINT.invoice()
    garbled = Wire(headers=(("www-authenticate", "Plain what?"),))

    assert OTHER is choose(garbled | told(challenge(invoice, OTHER))).dialect


def test_an_invoice_that_is_refused_does_not_hide_a_sound_one() -> None:
    unsound, sound = MINT.invoice(Amount.sats(1), expires_in=timedelta(0)), MINT.invoice()

    assert sound == choose(told(challenge(unsound), challenge(sound))).invoice


def test_a_402_that_says_nothing_is_unreadable_and_names_what_is_spoken_here() -> None:
    with pytest.raises(ChallengeUnreadable) as refusal:
        choose(NOTHING_TOLD)

    assert refusal.value.evidence["spoken_here"] == "Plain, Other"


def test_a_402_that_is_garbled_says_so() -> None:
    with pytest.raises(ChallengeUnreadable, match="too few words"):
        choose(Wire(headers=(("www-authenticate", "Plain what?"),)))


def test_a_price_that_is_not_told_beside_the_invoice_is_the_invoice_s() -> None:
    assert Amount.sats(21) == choose(told(replace(challenge(MINT.invoice()), amount=None))).amount


# --- auditing ---------------------------------------------------------------------------------------------------------


def refused(wire: Wire, limits: Limits = LIMITS) -> str:
    with pytest.raises(InvoiceRefused) as refusal:
        choose(wire, limits)
    return refusal.value.detail or ""


@given(asked=st.integers(0, 100_000), invoiced=st.integers(1, 100_000))
def test_an_invoice_for_another_amount_than_was_asked_for_is_refused_to_the_millisatoshi(
    asked: int, invoiced: int
) -> None:
    wire = told(replace(challenge(MINT.invoice(Amount.msats(invoiced))), amount=Amount.msats(asked)))

    if asked == invoiced:
        assert Amount.msats(invoiced) == choose(wire).amount
    else:
        assert "was asked for" in refused(wire)


def test_a_price_told_in_another_dialect_counts_for_the_same_invoice() -> None:
    invoice = MINT.invoice(Amount.sats(1000))

    assert "was asked for" in refused(
        told(replace(challenge(invoice), amount=None), replace(challenge(invoice, OTHER), amount=Amount.sats(1)))
    )


def test_an_invoice_that_names_no_amount_is_refused_whatever_is_told_beside_it() -> None:
    assert "names no amount" in refused(told(replace(challenge(MINT.invoice(None)), amount=Amount.sats(1))))


def test_an_invoice_for_another_payment_than_the_challenge_is_refused() -> None:
    assert "another payment" in refused(told(replace(challenge(MINT.invoice()), payment_hash=bytes(32))))


@pytest.mark.parametrize("network", [Network.MAINNET, Network.TESTNET, Network.SIGNET])
def test_an_invoice_for_another_network_than_the_wallet_s_is_refused(network: Network) -> None:
    assert network in refused(told(challenge(MINT.invoice(network=network))), ON_REGTEST)


def test_an_invoice_for_the_wallet_s_network_is_taken_and_for_any_when_the_wallet_does_not_tell() -> None:
    mainnet = MINT.invoice(network=Network.MAINNET)

    assert Amount.sats(21) == choose(told(challenge(MINT.invoice())), ON_REGTEST).amount
    assert mainnet == choose(told(challenge(mainnet))).invoice


def test_an_invoice_by_the_wallet_s_own_node_is_refused() -> None:
    invoice = MINT.invoice()

    assert "own node" in refused(told(challenge(invoice)), replace(LIMITS, own=frozenset((invoice.payee,))))
    assert invoice == choose(told(challenge(invoice)), replace(LIMITS, own=frozenset((bytes(33),)))).invoice


@pytest.mark.parametrize(
    ("lifetime", "left", "is_sound"), [(600, 30, False), (600, 31, True), (20, 10, False), (20, 11, True)]
)
def test_an_invoice_is_paid_only_with_half_a_minute_or_half_of_its_time_left(
    lifetime: int, left: int, *, is_sound: bool
) -> None:
    invoice = MINT.invoice(age=timedelta(seconds=lifetime - left), expires_in=timedelta(seconds=lifetime))

    if is_sound:
        assert invoice == choose(told(challenge(invoice))).invoice
    else:
        assert "expired" in refused(told(challenge(invoice)))


def test_an_invoice_from_the_future_is_refused_but_for_clocks_that_differ() -> None:
    soon, later = MINT.invoice(age=timedelta(minutes=-10)), MINT.invoice(age=timedelta(minutes=-10, seconds=-1))

    assert soon == choose(told(challenge(soon))).invoice
    assert "future" in refused(told(challenge(later)))


def test_an_invoice_that_lets_the_money_be_held_for_days_is_refused() -> None:
    longest, longer = MINT.invoice(min_final_cltv=160), MINT.invoice(min_final_cltv=161)

    assert longest == choose(told(challenge(longest))).invoice
    assert "161 blocks" in refused(told(challenge(longer)))

    week, more = (MINT.invoice(expires_in=timedelta(days=7, seconds=seconds)) for seconds in (0, 1))

    assert week == choose(told(challenge(week))).invoice
    assert "7 days" in refused(told(challenge(more)))


@given(position=st.integers(0, 10_000), character=st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l1bB"))
def test_an_invoice_that_was_changed_anywhere_is_refused(position: int, character: str) -> None:
    invoice = MINT.invoice()
    position %= len(invoice.text)
    changed = invoice.text[:position] + character + invoice.text[position + 1 :]

    if changed == invoice.text:
        assert invoice == choose(told(challenge(invoice))).invoice
    else:
        assert refused(told(replace(challenge(invoice), invoice=changed)))


def test_a_challenge_that_is_void_is_refused_and_another_for_the_same_invoice_is_not() -> None:
    invoice = MINT.invoice()
    void = replace(challenge(invoice), expires_at=CLOCK())

    assert "void" in refused(told(void))
    assert OTHER is choose(told(void, challenge(invoice, OTHER))).dialect


@pytest.mark.parametrize("token", ["line\nbreak", "nul\0", "naïve", "x" * 16_384])
def test_a_proof_that_could_not_be_sent_is_found_out_before_paying(token: str) -> None:
    assert "could not be sent" in refused(told(replace(challenge(MINT.invoice()), token=token)))


@pytest.mark.parametrize(
    ("price", "limit"), [(1, 1000), (99_999, 1000), (100_000, 1000), (100_001, 1001), (10**9, 10**7)]
)
def test_the_fee_limit_is_one_sat_or_one_per_cent_whichever_is_more(price: int, limit: int) -> None:
    assert Amount.msats(limit) == LIMITS.fee_limit(Amount.msats(price))
