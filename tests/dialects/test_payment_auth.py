"""The Payment scheme, method lightning, intent charge."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import Network, sign
from farebox.core.errors import ConfigError, CredentialRejected, MalformedChallenge, MalformedCredential
from farebox.core.exchange import Challenge, Credential, Json, Receipt, Wire
from farebox.core.ports import Dialect
from farebox.core.secret import KeyRing
from farebox.dialects import PaymentAuth
from farebox.dialects.canonical_json import read_members, write_base64url, write_members
from farebox.dialects.payment_auth import challenge_id
from farebox.testing.dialects import NOW, PREIMAGE, QUOTE, DialectSuite, sample_credential, sample_invoice

OLD = sha256(b"an old key").digest()
NEW = sha256(b"a new key").digest()
KEYS = KeyRing([NEW])
REALM = "shop.example"
VALID_UNTIL = NOW + timedelta(days=1)
INVOICE = sample_invoice()
HASH = INVOICE.payment_hash.hex()


def seller(keys: KeyRing = KEYS, realm: str = REALM) -> PaymentAuth:
    return PaymentAuth(keys, realm)


def issue(keys: KeyRing = KEYS, realm: str = REALM) -> Challenge:
    challenge = seller(keys, realm).issue(QUOTE, INVOICE, valid_until=VALID_UNTIL)
    assert challenge is not None
    return challenge


def authorization(*values: str) -> Wire:
    return Wire(headers=tuple(("authorization", value) for value in values))


def shown_as(members: Json) -> Wire:
    return authorization(f"Payment {write_base64url(json.dumps(members).encode())}")


def members() -> dict[str, Json]:
    return {"challenge": dict(issue().parameters), "payload": {"preimage": PREIMAGE.hex()}}


def asked(members: dict[str, Json] | str, **changed: str | None) -> tuple[Challenge, ...]:
    told = members if isinstance(members, str) else write_members(members)
    parameters = {
        "id": "an id",
        "realm": 'a, "realm" | it\'s',
        "method": "lightning",
        "intent": "charge",
        "request": told,
        **changed,
    }
    quoted = {name: value.replace('"', '\\"') for name, value in parameters.items() if value is not None}
    header = "Payment " + ", ".join(f'{name}="{value}"' for name, value in quoted.items())
    return PaymentAuth().read_challenges(Wire(headers=(("www-authenticate", header),)))


def request(**changed: Json) -> dict[str, Json]:
    told: dict[str, Json] = {"amount": "21", "currency": "sat", "methodDetails": {"invoice": INVOICE.text}}
    told.update(changed)
    return told


class TestTheSuite(DialectSuite):
    def seller(self) -> Dialect:
        return seller()

    def buyer(self) -> Dialect:
        return PaymentAuth()

    def receipts(self) -> tuple[Receipt, ...]:
        receipt = Receipt(payment_hash=INVOICE.payment_hash, amount=None, at=NOW, challenge_id="an id")
        return (
            receipt,
            replace(receipt, challenge_id=None),
            replace(receipt, at=NOW.replace(microsecond=7)),
            replace(receipt, challenge_id='quote " and é'),
        )


# --- the id -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            {"intent": "charge", "request": "eyJhbW91bnQiOiIxMDAifQ"},
            "_9D0WlPoPRltxAd6AdpQd6auVOOeQGJ_J8BkGeBE_bU",
        ),
        (
            {
                "intent": "session",
                "request": "eyJhbW91bnQiOiIzIn0",
                "expires": "2026-03-15T12:05:00Z",
                "digest": "sha-256=:X48E9q:",
                "opaque": "eyJvcmRlcklkIjoiMTIzIn0",
            },
            "Wb8N5-PD4XjMfYGzuuY2bdpsrCQZzkQUX-A_ByIetHw",
        ),
    ],
)
def test_the_known_vectors_of_the_id_come_out(parameters: dict[str, str], expected: str) -> None:
    named = {"realm": "api.example.com", "method": "lightning", **parameters}
    assert challenge_id(b"mpp-test-vector-secret", named) == expected


def test_the_id_covers_every_slot_but_not_the_description() -> None:
    named = dict(issue().parameters)
    for slot in ("realm", "method", "intent", "request", "expires", "digest", "opaque"):
        assert challenge_id(NEW, named) != challenge_id(NEW, {**named, slot: named.get(slot, "") + "x"})
    assert challenge_id(NEW, named) == challenge_id(NEW, {**named, "description": "x"})


@pytest.mark.parametrize("realm", ["", "a|b", "a\r\nb", "é", "x" * 256])
def test_a_realm_that_would_make_ids_collide_or_headers_break_is_refused(realm: str) -> None:
    with pytest.raises(ConfigError):
        PaymentAuth(KEYS, realm)


# --- what a seller says -----------------------------------------------------------------------------------------------


def test_the_request_is_what_the_charge_draft_asks_for() -> None:
    told = dict(issue().parameters)
    assert read_members(told["request"]) == {
        "amount": "21",
        "currency": "sat",
        "description": "one call",
        "methodDetails": {"invoice": INVOICE.text, "network": "regtest", "paymentHash": HASH},
    }
    assert (told["realm"], told["method"], told["intent"]) == (REALM, "lightning", "charge")
    assert "=" not in told["request"]


def test_the_request_is_canonical_json() -> None:
    text = urlsafe_b64decode(dict(issue().parameters)["request"] + "==").decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_key_digest_and_the_end_of_the_claim_window_travel_in_opaque() -> None:
    assert read_members(dict(issue().parameters)["opaque"]) == {
        "digest": QUOTE.digest.hex(),
        "kid": KEYS.newest.hex(),
        "valid_until": str(int(VALID_UNTIL.timestamp())),
    }


def test_expires_is_when_the_invoice_ends_and_never_later() -> None:
    assert dict(issue().parameters)["expires"] == "2026-03-15T12:10:00Z"
    assert issue().expires_at == INVOICE.expires_at
    sooner = seller().issue(QUOTE, INVOICE, valid_until=NOW + timedelta(seconds=5, microseconds=5))
    assert sooner is not None
    assert sooner.expires_at == NOW + timedelta(seconds=5)


@pytest.mark.parametrize("msat", [0, 1, 999, 1001, 21_500])
def test_a_price_that_is_not_of_whole_satoshis_is_not_offered(msat: int) -> None:
    quote = replace(QUOTE, amount=Amount.msats(msat))
    assert seller().issue(quote, INVOICE, valid_until=VALID_UNTIL) is None


def test_the_body_names_the_challenge() -> None:
    challenge = issue()
    assert seller().write_challenge(challenge).body == {
        "challengeId": dict(challenge.parameters)["id"],
        "protocols": {"payment": {"method": "lightning", "intent": "charge"}},
    }


def test_without_a_description_the_request_has_none_and_testnet_is_not_named() -> None:
    invoice = sign(
        secret_key=bytes(31) + b"\1",
        network=Network.TESTNET,
        amount=QUOTE.amount,
        payment_hash=INVOICE.payment_hash,
        payment_secret=bytes(32),
        description="",
        created_at=NOW,
        expires_in=timedelta(minutes=1),
    )
    challenge = seller().issue(replace(QUOTE, description=""), invoice, valid_until=VALID_UNTIL)
    assert challenge is not None
    assert read_members(dict(challenge.parameters)["request"]) == {
        "amount": "21",
        "currency": "sat",
        "methodDetails": {"invoice": invoice.text, "paymentHash": HASH},
    }


def test_without_keys_nothing_is_issued_or_verified() -> None:
    with pytest.raises(ConfigError):
        PaymentAuth().issue(QUOTE, INVOICE, valid_until=VALID_UNTIL)
    with pytest.raises(ConfigError):
        PaymentAuth().verify(sample_credential(issue()), now=NOW)


# --- what a buyer reads -----------------------------------------------------------------------------------------------


def test_a_foreign_challenge_is_read_and_only_what_has_to_be_echoed_is_kept() -> None:
    (challenge,) = asked(request(), expires="2026-03-15t13:05:00+01:00", opaque="e30", x="y", digest="sha-256=:eA==:")
    assert challenge.amount == Amount.sats(21)
    assert challenge.payment_hash == INVOICE.payment_hash
    assert challenge.expires_at == datetime(2026, 3, 15, 12, 5, tzinfo=UTC)
    names = [name for name, _ in challenge.parameters]
    assert names == ["id", "realm", "method", "intent", "request", "expires", "opaque", "digest"]


def test_the_echo_is_to_the_letter() -> None:
    (challenge,) = asked(request(), description='a "quoted" \\ word')
    (header,) = PaymentAuth().write_credential(sample_credential(challenge)).headers
    echoed = json.loads(urlsafe_b64decode(header[1].removeprefix("Payment ") + "=="))
    assert echoed == {"challenge": dict(challenge.parameters), "payload": {"preimage": PREIMAGE.hex()}}
    assert echoed["challenge"]["realm"] == 'a, "realm" | it\'s'


@pytest.mark.parametrize(
    "changed", [{"method": "tempo"}, {"intent": "session"}, {"method": "Lightning"}, {"intent": None}]
)
def test_another_method_or_intent_is_passed_over(changed: dict[str, str | None]) -> None:
    assert asked("!", **changed) == ()


def test_a_good_challenge_beside_a_bad_one_and_other_methods_is_found() -> None:
    (good,) = seller().write_challenge(issue()).all("www-authenticate")
    bad = 'Payment id="x", realm="r", method="lightning", intent="charge", request="!"'
    tempo = 'Payment id="y", realm="r", method="tempo", intent="charge", request="e30"'
    for value in (f"{bad}, {tempo}, {good}", f"{good}, {bad}"):
        assert PaymentAuth().read_challenges(Wire(headers=(("www-authenticate", value),))) == (issue(),)


OTHER = "0" * 64


@pytest.mark.parametrize(
    ("told", "changed"),
    [
        (request(), {"id": ""}),
        (request(), {"id": None}),
        (request(), {"realm": None}),
        (request(), {"request": ""}),
        (request(), {"expires": "tomorrow"}),
        (request(), {"expires": "2026-03-15"}),
        (request(), {"expires": "2026-02-30T12:00:00Z"}),
        (request(), {"expires": "2026-03-15T12:00:00"}),
        ("!", {}),
        ("e30=", {}),
        (write_base64url(b"[]"), {}),
        (write_base64url(b'{"amount":"1","amount":"21"}'), {}),
        ({}, {}),
        (request(amount="0"), {}),
        (request(amount="-1"), {}),
        (request(amount="021"), {}),
        (request(amount="2.5"), {}),
        (request(amount=21), {}),
        (request(amount="9" * 19), {}),
        (request(amount=None), {}),
        (request(currency="BTC"), {}),
        (request(currency=None), {}),
        (request(methodDetails=None), {}),
        (request(methodDetails={}), {}),
        (request(methodDetails={"invoice": 7}), {}),
        (request(methodDetails={"invoice": INVOICE.text[:-1]}), {}),
        (request(methodDetails={"invoice": INVOICE.text, "paymentHash": OTHER}), {}),
        (request(methodDetails={"invoice": INVOICE.text, "paymentHash": None}), {}),
        (request(methodDetails={"invoice": INVOICE.text, "network": "mainnet"}), {}),
    ],
)
def test_a_challenge_that_can_t_be_paid_or_contradicts_itself_is_malformed(
    told: dict[str, Json] | str, changed: dict[str, str | None]
) -> None:
    with pytest.raises(MalformedChallenge):
        asked(told, **changed)


def test_an_amount_that_is_not_the_invoice_s_is_told_as_it_stands_for_the_audit() -> None:
    (challenge,) = asked(request(amount="1"))
    assert challenge.amount == Amount.sats(1)


def test_a_credential_without_a_preimage_is_not_written() -> None:
    with pytest.raises(MalformedCredential):
        PaymentAuth().write_credential(replace(sample_credential(issue()), preimage=None))


# --- what a seller reads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spell", [str.upper, str.lower, str.title])
@pytest.mark.parametrize("pad", [0, 1])
def test_a_credential_is_read_in_any_case_of_the_scheme_and_padded_or_not(
    spell: Callable[[str], str], pad: int
) -> None:
    text = write_base64url(json.dumps({**members(), "source": "did:key:z"}).encode())
    text += "=" * (pad * (-len(text) % 4))
    assert seller().read_credential(authorization(f"{spell('Payment')} {text}")) == sample_credential(issue())


def test_unknown_members_are_ignored() -> None:
    told = members()
    told["payload"] = {"preimage": PREIMAGE.hex(), "note": [1, 2]}
    told["x"] = 1.5
    credential = seller().read_credential(shown_as(told))
    assert credential is not None
    assert seller().verify(credential, now=NOW) == VALID_UNTIL


def test_two_payment_credentials_are_malformed_even_if_they_are_the_same() -> None:
    value = shown_as(members()).headers[0][1]
    for wire in (authorization(value, value), authorization(value, "Bearer x", "Payment e30")):
        with pytest.raises(MalformedCredential):
            seller().read_credential(wire)


def test_another_method_or_intent_is_not_this_language() -> None:
    for name, value in (("method", "tempo"), ("intent", "session")):
        told = members()
        told["challenge"] = {**dict(issue().parameters), name: value}
        assert seller().read_credential(shown_as(told)) is None


def challenge_with(**changed: Json) -> dict[str, Json]:
    challenge: dict[str, Json] = {**dict(issue().parameters), **changed}
    return {**members(), "challenge": {name: value for name, value in challenge.items() if value is not None}}


@pytest.mark.parametrize(
    "told",
    [
        [],
        {},
        {"challenge": {}, "payload": {}},
        {**members(), "challenge": []},
        {**members(), "payload": PREIMAGE.hex()},
        {**members(), "payload": {}},
        {**members(), "payload": {"preimage": PREIMAGE.hex().upper()}},
        {**members(), "payload": {"preimage": PREIMAGE.hex()[:-1]}},
        {**members(), "payload": {"preimage": 7}},
        challenge_with(id=""),
        challenge_with(id=None),
        challenge_with(id=7),
        challenge_with(request={"amount": "21"}),
        challenge_with(request="!"),
        challenge_with(request=write_base64url(b"[]")),
        challenge_with(request=write_members({})),
        challenge_with(request=write_members({"methodDetails": {"paymentHash": "x"}})),
    ],
)
def test_a_badly_spoken_credential_is_malformed(told: Json) -> None:
    with pytest.raises(MalformedCredential):
        seller().read_credential(shown_as(told))


@pytest.mark.parametrize(
    "value",
    [
        "Payment",
        "Payment ",
        "Payment !",
        "Payment e30",
        "Payment e30=",
        "Payment e3 0",
        "Payment " + write_base64url(b"[" * 10_000),
        "Payment " + write_base64url(b'{"challenge":{},"challenge":{}}'),
        "Payment " + write_base64url(b"\xff"),
        "Payment " + "A" * 16_385,
        "Payment é",
    ],
)
def test_what_is_no_json_object_in_base64url_is_malformed(value: str) -> None:
    with pytest.raises(MalformedCredential):
        seller().read_credential(authorization(value))


def test_slack_in_the_last_character_is_malformed() -> None:
    text = write_base64url(json.dumps(members()).encode() + b" " * ((1 - len(json.dumps(members()))) % 3))
    assert len(text) % 4 == 2
    with pytest.raises(MalformedCredential):
        seller().read_credential(authorization(f"Payment {text[:-1]}{chr(ord(text[-1]) + 1)}"))


# --- what a seller believes -------------------------------------------------------------------------------------------


def test_a_credential_after_expires_is_still_good_until_the_claim_window_ends() -> None:
    credential = sample_credential(issue())
    assert seller().verify(credential, now=INVOICE.expires_at + timedelta(hours=1)) == VALID_UNTIL
    with pytest.raises(CredentialRejected):
        seller().verify(credential, now=VALID_UNTIL)


def test_a_challenge_under_an_older_key_stays_good_until_that_key_is_removed() -> None:
    old = sample_credential(issue(KeyRing([OLD])))
    assert seller(KeyRing([OLD, NEW])).verify(old, now=NOW) == VALID_UNTIL
    with pytest.raises(CredentialRejected):
        seller(KEYS).verify(old, now=NOW)


def test_another_seller_s_challenge_under_the_same_keys_is_refused() -> None:
    with pytest.raises(CredentialRejected):
        seller().verify(sample_credential(issue(realm="other.example")), now=NOW)


def changed_parameters(**changed: str) -> Credential:
    parameters = {**dict(issue().parameters), **changed}
    return replace(sample_credential(issue()), parameters=tuple(parameters.items()))


CHEAPER = write_members({**read_members(dict(issue().parameters)["request"]), "amount": "1"})


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "x"},
        {"id": ""},
        {"id": "é\ud800"},
        {"realm": "other.example"},
        {"intent": "session"},
        {"request": CHEAPER},
        {"request": "!"},
        {"request": dict(issue().parameters)["request"] + "="},
        {"expires": "2036-01-01T00:00:00Z"},
        {"expires": ""},
        {"digest": "sha-256=:eA==:"},
        {"opaque": ""},
        {"opaque": "!"},
        {"opaque": "e30"},
        {"opaque": write_members({"kid": "00000000"})},
        {"opaque": write_members({"kid": KEYS.newest.hex()})},
        {"opaque": write_members({"kid": KEYS.newest.hex(), "valid_until": "99999999999"})},
        {"opaque": write_members({"kid": 7})},
        {"realm": f"{REALM}|lightning", "method": "charge", "intent": dict(issue().parameters)["request"]},
    ],
)
def test_a_challenge_that_was_changed_anywhere_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(CredentialRejected):
        seller().verify(changed_parameters(**changed), now=NOW)


def test_a_description_beside_the_seal_may_change() -> None:
    assert seller().verify(changed_parameters(description="anything"), now=NOW) == VALID_UNTIL


def test_parameters_left_out_are_refused() -> None:
    challenge = issue()
    for name, _ in challenge.parameters:
        parameters = tuple(pair for pair in challenge.parameters if pair[0] != name)
        with pytest.raises(CredentialRejected):
            seller().verify(replace(sample_credential(challenge), parameters=parameters), now=NOW)


def test_a_refusal_tells_no_preimage() -> None:
    with pytest.raises(CredentialRejected) as caught:
        seller().verify(replace(changed_parameters(id="x")), now=NOW)
    assert PREIMAGE.hex() not in str(caught.value)


# --- the receipt ------------------------------------------------------------------------------------------------------


def test_the_receipt_says_what_the_draft_asks_for_and_no_more() -> None:
    at = datetime(2026, 3, 15, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    receipt = Receipt(payment_hash=INVOICE.payment_hash, amount=Amount.sats(21), at=at, challenge_id="an id")
    ((name, value),) = seller().write_receipt(receipt).headers
    assert name == "payment-receipt"
    assert read_members(value) == {
        "status": "success",
        "method": "lightning",
        "timestamp": "2026-03-15T12:00:00Z",
        "reference": HASH,
        "challengeId": "an id",
    }


def receipt_wire(*values: str) -> Wire:
    return Wire(headers=tuple(("payment-receipt", value) for value in values))


RECEIPT: dict[str, Json] = {
    "status": "success",
    "method": "lightning",
    "timestamp": "2026-03-15T12:00:00.123456789Z",
    "reference": HASH,
}


def test_a_foreign_receipt_is_read_and_one_for_another_method_is_not() -> None:
    assert PaymentAuth().read_receipt(receipt_wire(write_members({**RECEIPT, "more": 1, "challengeId": 7}))) == Receipt(
        payment_hash=INVOICE.payment_hash, amount=None, at=NOW.replace(microsecond=123456)
    )
    assert PaymentAuth().read_receipt(receipt_wire(write_members({**RECEIPT, "method": "tempo"}))) is None


@pytest.mark.parametrize(
    "wire",
    [
        receipt_wire(""),
        receipt_wire("!"),
        receipt_wire(write_members(RECEIPT), write_members(RECEIPT)),
        receipt_wire("A" * 16_385),
        receipt_wire(write_members({**RECEIPT, "status": "failed"})),
        receipt_wire(write_members({**RECEIPT, "reference": HASH[:-1]})),
        receipt_wire(write_members({**RECEIPT, "reference": None})),
        receipt_wire(write_members({**RECEIPT, "timestamp": "now"})),
        receipt_wire(write_members({**RECEIPT, "timestamp": 7})),
    ],
)
def test_a_receipt_that_can_t_be_read_is_malformed(wire: Wire) -> None:
    with pytest.raises(MalformedChallenge):
        PaymentAuth().read_receipt(wire)


def test_a_parameter_that_is_no_text_is_not_sent_back() -> None:
    """Some libraries have bytes of a header that are none as halves of surrogate pairs."""
    credential = replace(sample_credential(issue()), parameters=(("id", "\udcff"), ("realm", REALM)))
    with pytest.raises(MalformedCredential):
        seller().write_credential(credential)
