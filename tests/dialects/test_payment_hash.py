"""The bare payment hash."""

from dataclasses import replace

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import MalformedChallenge, MalformedCredential
from farebox.core.exchange import Challenge, Credential, Json, Wire
from farebox.core.ports import Dialect
from farebox.dialects import L402, PaymentHash
from farebox.testing.dialects import NOW, QUOTE, DialectSuite, sample_invoice

INVOICE = sample_invoice()
HASH = INVOICE.payment_hash.hex()
OTHER = "0" * 64
CREDENTIAL = Credential(dialect="payment_hash", payment_hash=INVOICE.payment_hash)
CHALLENGE = Challenge(dialect="payment_hash", invoice=INVOICE.text, payment_hash=INVOICE.payment_hash)


def header(name: str, value: str) -> Wire:
    return Wire(headers=((name, value),))


def offer(body: dict[str, Json], *values: str) -> tuple[Challenge, ...]:
    return PaymentHash().read_challenges(
        Wire(headers=tuple(("www-authenticate", value) for value in values), body=body)
    )


class TestTheSuite(DialectSuite):
    sealed = False

    def seller(self) -> Dialect:
        return PaymentHash()

    def buyer(self) -> Dialect:
        return PaymentHash()

    def challenges(self) -> tuple[Challenge, ...]:
        return (self.issued(), replace(self.issued(), amount=None), replace(self.issued(), amount=Amount.msats(1500)))


SHOWN = {
    "the header": header("x-payment-hash", HASH),
    "the header with blanks": header("x-payment-hash", f" {HASH}\t"),
    "the query": Wire(query=(("q", "x"), ("payment_hash", HASH))),
    "the body": Wire(body={"prompt": "x", "payment_hash": HASH}),
    "L402": header("authorization", f"L402 {HASH}"),
    "l402": header("authorization", f"l402  {HASH}"),
    "LSAT": header("authorization", f"LSAT {HASH}"),
    "no scheme": header("authorization", HASH),
    "capitals": header("x-payment-hash", HASH.upper()),
}


@pytest.mark.parametrize("place", SHOWN)
def test_the_hash_is_read_wherever_the_field_puts_it(place: str) -> None:
    assert PaymentHash().read_credential(SHOWN[place]) == CREDENTIAL


def test_the_same_hash_in_every_place_is_one_credential() -> None:
    everywhere = Wire()
    for wire in SHOWN.values():
        everywhere = everywhere | wire
    assert PaymentHash().read_credential(everywhere) == CREDENTIAL


@pytest.mark.parametrize(
    "other",
    [
        header("x-payment-hash", OTHER),
        Wire(query=(("payment_hash", OTHER),)),
        Wire(body={"payment_hash": OTHER}),
        header("authorization", f"L402 {OTHER}"),
        header("authorization", OTHER),
    ],
)
def test_two_different_hashes_are_malformed(other: Wire) -> None:
    for wire in (SHOWN["the header"] | other, other | SHOWN["L402"]):
        with pytest.raises(MalformedCredential):
            PaymentHash().read_credential(wire)


@pytest.mark.parametrize(
    "value", ["", "abc", HASH[:-1], HASH + "0", f"{HASH},{HASH}", f"L402 {HASH}", "g" * 64, "٠" * 64]
)
def test_what_is_no_hash_is_malformed_where_only_a_hash_may_be(value: str) -> None:
    for wire in (
        header("x-payment-hash", value),
        Wire(query=(("payment_hash", value),)),
        Wire(body={"payment_hash": value}),
    ):
        with pytest.raises(MalformedCredential):
            PaymentHash().read_credential(wire)


@pytest.mark.parametrize("value", [1, True, [HASH], {"hash": HASH}])
def test_a_body_member_that_is_no_text_is_malformed(value: Json) -> None:
    with pytest.raises(MalformedCredential):
        PaymentHash().read_credential(Wire(body={"payment_hash": value}))


def test_a_body_member_that_is_null_was_left_out() -> None:
    assert PaymentHash().read_credential(Wire(body={"payment_hash": None})) is None


@pytest.mark.parametrize(
    "value",
    [f"L402 {HASH}:{HASH}", f"L402 abc:{HASH}", f"Bearer {HASH}", f"Basic {HASH}", HASH[:-1], f"L402 {HASH[:-1]}"],
)
def test_an_authorization_that_is_no_bare_hash_is_not_this_language(value: str) -> None:
    assert PaymentHash().read_credential(header("authorization", value)) is None


def test_a_credential_never_has_a_preimage() -> None:
    for wire in SHOWN.values():
        credential = PaymentHash().read_credential(wire)
        assert credential is not None
        assert credential.preimage is None


def test_the_hash_is_shown_in_authorization_which_clients_drop_when_they_leave_the_origin() -> None:
    assert PaymentHash().write_credential(CREDENTIAL) == header("authorization", f"L402 {HASH}")


def test_there_is_no_seal_to_check() -> None:
    assert PaymentHash().verify(CREDENTIAL, now=NOW) > NOW
    challenge = PaymentHash().issue(QUOTE, INVOICE, valid_until=NOW)
    assert challenge == replace(CHALLENGE, amount=QUOTE.amount)


def test_the_challenge_adds_members_and_no_header_that_would_hide_another() -> None:
    wire = PaymentHash().write_challenge(replace(CHALLENGE, amount=QUOTE.amount))
    assert wire.headers == ()
    assert wire.body == {
        "protocols": {
            "payment_hash": {
                "price_sats": 21,
                "price_msat": 21_000,
                "payment_request": INVOICE.text,
                "payment_hash": HASH,
                "verify_header": "X-Payment-Hash",
                "verify_query_arg": "payment_hash",
                "verify_body_member": "payment_hash",
            },
            "l402": {"verify_header": "X-Payment-Hash", "verify_query_arg": "payment_hash"},
        }
    }


# --- what a buyer reads -----------------------------------------------------------------------------------------------

# The two shops of the field, as they answer.
SCORING: dict[str, Json] = {
    "status": "payment_required",
    "payment_hash": HASH,
    "invoice": INVOICE.text,
    "amount_sats": 21,
    "message": "Pay 21 sats to access /score.",
    "protocols": {
        "l402": {
            "price_sats": 21,
            "payment_request": INVOICE.text,
            "payment_hash": HASH,
            "verify_header": "X-Payment-Hash",
            "verify_query_arg": "payment_hash",
        }
    },
    "free_tier": 50,
    "endpoint": "/score",
}
MAXIMUM: dict[str, Json] = {
    "error": "Payment required",
    "payment_request": INVOICE.text,
    "payment_hash": HASH,
    "amount_sats": 21,
}


def test_the_shops_of_the_field_are_understood() -> None:
    expected = (replace(CHALLENGE, amount=Amount.sats(21)),)
    assert offer(SCORING, f'L402 invoice="{INVOICE.text}", macaroon="none"') == expected
    assert offer(SCORING) == expected
    assert offer(MAXIMUM) == expected


@pytest.mark.parametrize("name", ["invoice", "pr", "payment_request"])
def test_an_invoice_alone_under_any_of_its_names_is_an_offer(name: str) -> None:
    assert offer({name: INVOICE.text}) == (CHALLENGE,)
    assert offer({name: INVOICE.text.upper()}, "Bearer") == (CHALLENGE,)


def test_a_header_with_macaroon_none_is_an_offer_without_any_body() -> None:
    for value in (f'L402 invoice="{INVOICE.text}", macaroon="none"', f'LSAT invoice="{INVOICE.text}"'):
        assert offer({}, value) == (CHALLENGE,)


def test_beside_a_sealed_challenge_the_body_is_an_offer_only_if_it_says_that_hashes_are_taken() -> None:
    for sealed in (f'L402 macaroon="AgEE", invoice="{INVOICE.text}"', 'Payment id="x", request="e30"'):
        assert offer(MAXIMUM, sealed) == ()
        assert offer(SCORING, sealed) == (replace(CHALLENGE, amount=Amount.sats(21)),)


def test_a_broken_header_takes_nothing_away_from_the_body() -> None:
    assert offer(MAXIMUM, 'L402 macaroon="open') == (replace(CHALLENGE, amount=Amount.sats(21)),)


def test_the_joined_offer_of_our_own_shop_is_understood() -> None:
    dialect, sealed = PaymentHash(), L402()
    token = replace(CHALLENGE, dialect="L402", token="AgEE", amount=QUOTE.amount)
    wire = sealed.write_challenge(token) | dialect.write_challenge(replace(CHALLENGE, amount=QUOTE.amount))
    assert dialect.read_challenges(wire) == (replace(CHALLENGE, amount=QUOTE.amount),)
    assert sealed.read_challenges(wire) == (token,)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"invoice": "INV-0001"},
        {"invoice": 7},
        {"invoice": None},
        {"pr": ["x"]},
        {"protocols": []},
        {"protocols": {"l402": 1}},
    ],
)
def test_a_body_without_an_invoice_is_not_this_language(body: dict[str, Json]) -> None:
    assert offer(body) == ()


@pytest.mark.parametrize(
    "body",
    [
        {"invoice": "lnbc1junk"},
        {"invoice": INVOICE.text[:-1]},
        {"invoice": INVOICE.text, "payment_hash": OTHER},
        {"invoice": INVOICE.text, "payment_hash": ""},
    ],
)
def test_an_invoice_that_can_t_be_read_or_is_not_the_one_told_is_malformed(body: dict[str, Json]) -> None:
    with pytest.raises(MalformedChallenge):
        offer(body)
