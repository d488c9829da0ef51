"""L402 and LSAT, seller's and buyer's side."""

import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymacaroons.serializers import BinarySerializer

from farebox.core.amount import Amount
from farebox.core.errors import ConfigError, CredentialRejected, MalformedChallenge, MalformedCredential
from farebox.core.exchange import Challenge, Credential, Json, Wire
from farebox.core.macaroon import Macaroon
from farebox.core.ports import Dialect
from farebox.core.secret import KeyRing, Secret
from farebox.dialects import L402
from farebox.testing.dialects import NOW, PREIMAGE, QUOTE, DialectSuite, sample_credential, sample_invoice

OLD = sha256(b"an old key").digest()
NEW = sha256(b"a new key").digest()
KEYS = KeyRing([NEW])
VALID_UNTIL = NOW + timedelta(days=1)
INVOICE = sample_invoice()
HASH = INVOICE.payment_hash.hex()


def issue(keys: KeyRing = KEYS, **terms: str) -> Challenge:
    challenge = L402(keys, **terms).issue(QUOTE, INVOICE, valid_until=VALID_UNTIL)
    assert challenge is not None
    return challenge


def shown(challenge: Challenge) -> Credential:
    return sample_credential(challenge)


def macaroon_of(challenge: Challenge) -> Macaroon:
    return Macaroon.read_base64(challenge.token)


def attenuated(*caveats: bytes) -> Credential:
    return replace(shown(issue()), token=macaroon_of(issue()).attenuate(*caveats).write_base64())


def authorization(*values: str) -> Wire:
    return Wire(headers=tuple(("authorization", value) for value in values))


def challenged(*values: str, body: dict[str, Json] | None = None) -> Wire:
    return Wire(headers=tuple(("www-authenticate", value) for value in values), body=body or {})


def read(wire: Wire) -> Credential:
    credential = L402(KEYS).read_credential(wire)
    assert credential is not None
    return credential


class TestTheSuite(DialectSuite):
    def seller(self) -> Dialect:
        return L402(KEYS)

    def buyer(self) -> Dialect:
        return L402()

    def challenges(self) -> tuple[Challenge, ...]:
        issued = self.issued()
        return (
            issued,
            replace(issued, parameters=(("scheme", "LSAT"),)),
            replace(issued, amount=None),
            replace(issued, amount=Amount.msats(1)),
            replace(issued, token="opaque-_~"),
        )

    def credentials(self) -> tuple[Credential, ...]:
        (credential,) = super().credentials()
        return (credential, replace(credential, parameters=(("scheme", "LSAT"),)))


# --- what a seller says -----------------------------------------------------------------------------------------------


def test_the_header_has_macaroon_and_invoice_first_and_one_blank_behind_each_comma() -> None:
    challenge = issue()
    (header,) = L402(KEYS).write_challenge(challenge).headers
    token = re.escape(challenge.token)
    assert header[0] == "www-authenticate"
    assert re.fullmatch(f'L402 macaroon="{token}", invoice="{INVOICE.text}", version="0", token="{token}"', header[1])


def test_the_body_tells_it_as_the_first_shops_did_and_the_exact_price_too() -> None:
    challenge = issue()
    assert L402(KEYS).write_challenge(challenge).body == {
        "macaroon": challenge.token,
        "protocols": {
            "l402": {
                "price_sats": 21,
                "price_msat": 21_000,
                "payment_request": INVOICE.text,
                "payment_hash": HASH,
                "macaroon": challenge.token,
            }
        },
    }


def test_a_price_below_a_satoshi_is_told_exactly_and_rounded_up() -> None:
    wire = L402(KEYS).write_challenge(replace(issue(), amount=Amount.msats(1500)))
    (challenge,) = L402().read_challenges(wire)
    assert Amount.msats(1500) == challenge.amount
    assert '"price_sats": 2' in str(wire.body).replace("'", '"')


def test_the_token_is_padded_standard_base64_of_a_version_two_macaroon_with_the_66_byte_identifier() -> None:
    challenge = issue()
    macaroon = macaroon_of(challenge)
    assert b64encode(b64decode(challenge.token, validate=True)).decode() == challenge.token
    assert macaroon.identifier[:34] == b"\0\0" + INVOICE.payment_hash
    assert macaroon.identifier[34:38] == KEYS.newest
    assert len(macaroon.identifier) == 66
    assert macaroon.location == b"lsat"


def test_the_caveats_name_service_request_price_and_time() -> None:
    assert macaroon_of(issue()).caveats == (
        b"services=farebox:0",
        b"farebox_capabilities=",
        b"farebox_request=" + QUOTE.digest.hex().encode(),
        b"farebox_price_msat=21000",
        b"farebox_valid_until=%d" % int(VALID_UNTIL.timestamp()),
    )


def test_two_tokens_for_one_invoice_differ_and_are_both_good() -> None:
    one, two = issue(), issue()
    assert one.token != two.token
    for challenge in (one, two):
        assert L402(KEYS).verify(shown(challenge), now=NOW) == VALID_UNTIL


def test_without_keys_nothing_is_issued_or_verified() -> None:
    with pytest.raises(ConfigError):
        L402().issue(QUOTE, INVOICE, valid_until=VALID_UNTIL)
    with pytest.raises(ConfigError):
        L402().verify(shown(issue()), now=NOW)


@pytest.mark.parametrize("service", ["", "a=b", "Farebox", "a b", "a,b", "a:b", "x" * 33])
def test_a_service_name_that_would_break_a_caveat_is_refused(service: str) -> None:
    with pytest.raises(ConfigError):
        L402(KEYS, service)


# --- what a buyer reads -----------------------------------------------------------------------------------------------

TOKEN = "AgEEbHNhdAJCAAB/+w=="
SPELLINGS = {
    "deployed": f'L402 macaroon="{TOKEN}", invoice="{INVOICE.text}"',
    "specified": f'L402 version="0", token="{TOKEN}", invoice="{INVOICE.text}"',
    "ours": f'L402 macaroon="{TOKEN}", invoice="{INVOICE.text}", version="0", token="{TOKEN}"',
    "invoice first": f'L402 invoice="{INVOICE.text}", macaroon="{TOKEN}"',
    "unquoted": f"L402 macaroon={TOKEN}, invoice={INVOICE.text}",
    "blanks and capitals": f'l402 Macaroon = "{TOKEN}" ,Invoice= "{INVOICE.text.upper()}"',
    "more parameters": f'L402 realm="a, b", macaroon="{TOKEN}", invoice="{INVOICE.text}", x=y',
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_deployed_spelling_of_a_challenge_is_read(spelling: str) -> None:
    (challenge,) = L402().read_challenges(challenged(SPELLINGS[spelling]))
    assert challenge == Challenge(
        dialect="L402", invoice=INVOICE.text, payment_hash=INVOICE.payment_hash, token=TOKEN, parameters=()
    )


@pytest.mark.parametrize(
    "token", [TOKEN, TOKEN.rstrip("="), TOKEN.replace("/", "_").replace("+", "-"), "not.base64~at:all"]
)
def test_the_token_is_opaque_to_the_buyer_and_echoed_as_it_came(token: str) -> None:
    (challenge,) = L402().read_challenges(challenged(f'L402 macaroon="{token}", invoice="{INVOICE.text}"'))
    wire = L402().write_credential(shown(challenge))
    assert wire == authorization(f"L402 {token}:{PREIMAGE.hex()}")


def test_an_lsat_challenge_is_answered_as_lsat() -> None:
    (challenge,) = L402().read_challenges(challenged(f'LSAT macaroon="{TOKEN}", invoice="{INVOICE.text}"'))
    assert L402().write_credential(shown(challenge)) == authorization(f"LSAT {TOKEN}:{PREIMAGE.hex()}")


def test_aperture_s_two_lines_are_two_challenges() -> None:
    parameters = f'macaroon="{TOKEN}", invoice="{INVOICE.text}"'
    for wire in (
        challenged(f"LSAT {parameters}", f"L402 {parameters}"),
        challenged(f"LSAT {parameters}, L402 {parameters}"),
    ):
        assert [challenge.parameters for challenge in L402().read_challenges(wire)] == [(("scheme", "LSAT"),), ()]


@pytest.mark.parametrize(
    "value",
    [
        f'L402 invoice="{INVOICE.text}", macaroon="none"',
        f'L402 invoice="{INVOICE.text}"',
        f'L402 version="1", token="{TOKEN}", invoice="{INVOICE.text}"',
        f'Payment macaroon="{TOKEN}", invoice="{INVOICE.text}"',
    ],
)
def test_a_challenge_without_a_token_or_of_another_version_is_not_this_language(value: str) -> None:
    assert not L402().read_challenges(challenged(value))


@pytest.mark.parametrize(
    "value",
    [
        f'L402 macaroon="{TOKEN}"',
        f'L402 macaroon="{TOKEN}", invoice=""',
        f'L402 macaroon="{TOKEN}", invoice="lnbc1junk"',
        f'L402 macaroon="{TOKEN}", invoice="{INVOICE.text[:-1]}"',
        f'L402 macaroon="{TOKEN}", token="another", invoice="{INVOICE.text}"',
        f'L402 macaroon="{TOKEN}" invoice="{INVOICE.text}"',
    ],
)
def test_a_challenge_that_can_t_be_paid_is_malformed(value: str) -> None:
    with pytest.raises(MalformedChallenge):
        L402().read_challenges(challenged(value))


def test_a_good_challenge_beside_a_bad_one_is_found() -> None:
    (challenge,) = L402().read_challenges(challenged(f'LSAT macaroon="{TOKEN}", invoice="x", {SPELLINGS["deployed"]}'))
    assert challenge.token == TOKEN


@pytest.mark.parametrize(
    "body",
    [
        {"macaroon": TOKEN, "invoice": INVOICE.text},
        {"token": TOKEN, "payment_request": INVOICE.text},
        {"protocols": {"l402": {"macaroon": TOKEN, "payment_request": INVOICE.text}}},
    ],
)
def test_without_a_header_the_body_is_read(body: dict[str, Json]) -> None:
    (challenge,) = L402().read_challenges(challenged('Basic realm="x"', body=body))
    assert (challenge.token, challenge.invoice) == (TOKEN, INVOICE.text)


def test_the_price_beside_the_invoice_is_told_even_when_it_is_another_one() -> None:
    bodies: list[dict[str, Json]] = [
        {"amount_sats": 5},
        {"price_sats": 5},
        {"amount_sats": 5, "protocols": {"l402": {"price_msat": 5000, "price_sats": 5}}},
    ]
    for body in bodies:
        (challenge,) = L402().read_challenges(challenged(SPELLINGS["deployed"], body=body))
        assert challenge.amount == Amount.sats(5)


@pytest.mark.parametrize("price", ["five", True, -1, 10**30, [5], {"sats": 5}])
def test_a_price_that_can_t_be_read_makes_the_challenge_malformed(price: Json) -> None:
    with pytest.raises(MalformedChallenge):
        L402().read_challenges(challenged(SPELLINGS["deployed"], body={"amount_sats": price}))


def test_a_credential_without_a_preimage_is_not_written() -> None:
    with pytest.raises(MalformedCredential):
        L402().write_credential(replace(shown(issue()), preimage=None))


# --- what a seller reads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["L402", "l402", "LSAT", "Lsat", "L402  "])
@pytest.mark.parametrize("spell", [str.lower, str.upper])
def test_scheme_and_preimage_may_be_in_either_case(scheme: str, spell: Callable[[str], str]) -> None:
    challenge = issue()
    credential = read(authorization(f"{scheme} {challenge.token}:{spell(PREIMAGE.hex())}"))
    assert (INVOICE.payment_hash, Secret(PREIMAGE)) == (credential.payment_hash, credential.preimage)
    assert L402(KEYS).verify(credential, now=NOW) == VALID_UNTIL


def test_every_encoding_of_one_token_is_the_same_payment() -> None:
    raw = macaroon_of(issue()).attenuate(b"preimage=" + PREIMAGE.hex().encode()).write()
    texts = (b64encode(raw).decode(), urlsafe_b64encode(raw).decode())
    wires = [authorization(f"L402 {text}:{PREIMAGE.hex()}") for text in (*texts, *(text.rstrip("=") for text in texts))]
    wires += [Wire(headers=((name, raw.hex()),)) for name in ("macaroon", "grpc-metadata-macaroon")]
    wires += [Wire(headers=(("macaroon", raw.hex().upper()),))]
    for wire in wires:
        credential = read(wire)
        assert credential.payment_hash == INVOICE.payment_hash
        assert L402(KEYS).verify(credential, now=NOW) == VALID_UNTIL


def test_pymacaroons_own_encoding_of_a_narrowed_token_is_accepted() -> None:
    theirs = BinarySerializer().deserialize_raw(macaroon_of(issue()).write())
    theirs.add_first_party_caveat(f"farebox_valid_until={int(NOW.timestamp()) + 60}")
    credential = read(authorization(f"L402 {theirs.serialize()}:{PREIMAGE.hex()}"))
    assert L402(KEYS).verify(credential, now=NOW) == NOW + timedelta(seconds=60)


def test_the_same_proof_as_lsat_and_as_l402_is_one_proof() -> None:
    proof = f"{issue().token}:{PREIMAGE.hex()}"
    credential = read(authorization(f"LSAT {proof}", "Bearer abc", f"L402 {proof}"))
    assert credential.parameters == (("scheme", "LSAT"),)


def test_two_different_proofs_are_malformed() -> None:
    one, two = issue().token, issue().token
    for wire in (
        authorization(f"L402 {one}:{PREIMAGE.hex()}", f"L402 {two}:{PREIMAGE.hex()}"),
        authorization(f"L402 {one}:{PREIMAGE.hex()}", f"LSAT {one}:{bytes(32).hex()}"),
    ):
        with pytest.raises(MalformedCredential):
            L402(KEYS).read_credential(wire)


def test_several_macaroons_with_one_preimage_are_one_proof_and_all_have_to_be_good() -> None:
    one, two = issue().token, issue().token
    credential = read(authorization(f"L402 {one}, {two}:{PREIMAGE.hex()}"))
    assert credential.token == f"{one},{two}"
    assert L402(KEYS).verify(credential, now=NOW) == VALID_UNTIL
    foreign = issue(KeyRing([OLD])).token
    with pytest.raises(CredentialRejected):
        L402(KEYS).verify(read(authorization(f"L402 {one},{foreign}:{PREIMAGE.hex()}")), now=NOW)


def test_macaroons_for_different_payments_are_malformed() -> None:
    other = L402(KEYS).issue(QUOTE, sample_invoice(preimage=bytes(32)), valid_until=VALID_UNTIL)
    assert other is not None
    with pytest.raises(MalformedCredential):
        L402(KEYS).read_credential(authorization(f"L402 {issue().token},{other.token}:{PREIMAGE.hex()}"))


@pytest.mark.parametrize("value", [f"L402 {HASH}", f"LSAT {HASH}", HASH, "Bearer x", "Basic YTpi", "Payment abc"])
def test_a_bare_hash_or_another_scheme_is_not_this_language(value: str) -> None:
    assert L402(KEYS).read_credential(authorization(value)) is None


@pytest.mark.parametrize(
    "value",
    [
        "L402",
        "L402 ",
        "L402 :",
        f"L402 :{HASH}",
        f"L402 {HASH}:{HASH}",
        f"L402 none:{HASH}",
        f"L402 {HASH[:-1]}",
        "L402 {token}",
        "L402 {token}:",
        "L402 {token}:{preimage}0",
        "L402 {token}:{preimage}x",
        "L402 {token}:x{preimage}",
        "L402 {token},:{preimage}",
        "L402 {token}:{preimage}:{preimage}",
        "L402 {token}:{preimage}, L402 {token}:{preimage}",
        "L402 {token}=:{preimage}",
        'L402 token="{token}", preimage="{preimage}"',
        f"L402 {'A' * 8192}:{HASH}",
        "L402 é:{preimage}",
    ],
)
def test_a_badly_spoken_proof_is_malformed(value: str) -> None:
    shown = value.replace("{token}", issue().token).replace("{preimage}", PREIMAGE.hex())
    with pytest.raises(MalformedCredential):
        L402(KEYS).read_credential(authorization(shown))


@pytest.mark.parametrize("caveats", [(), (b"preimage=00",), (b"preimage=" + b"0" * 64, b"preimage=" + b"1" * 64)])
def test_a_macaroon_header_without_its_one_preimage_is_malformed(caveats: tuple[bytes, ...]) -> None:
    value = macaroon_of(issue()).attenuate(*caveats).write().hex()
    with pytest.raises(MalformedCredential):
        L402(KEYS).read_credential(Wire(headers=(("macaroon", value),)))


@pytest.mark.parametrize("value", ["", "zz", "02", "é", "ab" * 5000])
def test_a_macaroon_header_that_is_no_hex_macaroon_is_malformed(value: str) -> None:
    with pytest.raises(MalformedCredential):
        L402(KEYS).read_credential(Wire(headers=(("macaroon", value),)))


# --- what a seller believes -------------------------------------------------------------------------------------------


def test_a_token_under_an_older_key_stays_good_until_that_key_is_removed() -> None:
    old = shown(issue(KeyRing([OLD])))
    assert L402(KeyRing([OLD, NEW])).verify(old, now=NOW) == VALID_UNTIL
    assert macaroon_of(issue(KeyRing([OLD, NEW]))).identifier[34:38] == KEYS.newest
    with pytest.raises(CredentialRejected):
        L402(KEYS).verify(old, now=NOW)


def test_a_token_is_good_until_its_second_and_not_at_it() -> None:
    credential = shown(issue())
    assert L402(KEYS).verify(credential, now=VALID_UNTIL - timedelta(microseconds=1)) == VALID_UNTIL
    with pytest.raises(CredentialRejected):
        L402(KEYS).verify(credential, now=VALID_UNTIL)


def test_no_flipped_bit_of_a_token_is_accepted() -> None:
    challenge, seller, accepted = issue(), L402(KEYS), 0
    raw = b64decode(challenge.token)
    for position in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        try:
            credential = seller.read_credential(
                authorization(f"L402 {b64encode(bytes(flipped)).decode()}:{PREIMAGE.hex()}")
            )
            accepted += credential is not None and bool(seller.verify(credential, now=NOW))
        except (MalformedCredential, CredentialRejected):
            continue
    assert accepted == 0


@settings(deadline=None)
@given(position=st.integers(0, 63), digit=st.sampled_from("0123456789abcdef"))
def test_no_other_preimage_is_accepted(position: int, digit: str) -> None:
    text = PREIMAGE.hex()[:position] + digit + PREIMAGE.hex()[position + 1 :]
    credential = read(authorization(f"L402 {issue().token}:{text}"))
    if text != PREIMAGE.hex():
        with pytest.raises(CredentialRejected):
            L402(KEYS).verify(credential, now=NOW)


def test_stripped_caveats_are_noticed() -> None:
    macaroon = macaroon_of(issue())
    for gone in range(len(macaroon.caveats)):
        caveats = macaroon.caveats[:gone] + macaroon.caveats[gone + 1 :]
        forged = replace(shown(issue()), token=replace(macaroon, caveats=caveats).write_base64())
        with pytest.raises(CredentialRejected):
            L402(KEYS).verify(forged, now=NOW)


UNTIL = int(VALID_UNTIL.timestamp())


@pytest.mark.parametrize(
    ("caveat", "until"),
    [
        (b"farebox_valid_until=%d" % (UNTIL - 60), UNTIL - 60),
        (b"farebox_valid_until=%d" % UNTIL, UNTIL),
        (b"services=farebox:0", UNTIL),
        (b"farebox_capabilities=", UNTIL),
        (b"farebox_price_msat=21000", UNTIL),
        (b"farebox_request=" + QUOTE.digest.hex().encode(), UNTIL),
        (b"preimage=" + PREIMAGE.hex().encode(), UNTIL),
        (b"preimage=" + PREIMAGE.hex().upper().encode(), UNTIL),
    ],
)
def test_a_caveat_that_narrows_or_says_the_same_is_honoured(caveat: bytes, until: int) -> None:
    assert L402(KEYS).verify(attenuated(caveat), now=NOW) == datetime.fromtimestamp(until, UTC)


@pytest.mark.parametrize(
    "caveats",
    [
        (b"farebox_valid_until=%d" % (UNTIL + 1),),
        (b"farebox_valid_until=%d" % (UNTIL - 60), b"farebox_valid_until=%d" % UNTIL),
        (b"farebox_valid_until=%d" % int(NOW.timestamp()),),
        (b"farebox_valid_until=-1",),
        (b"farebox_valid_until=",),
        (b"farebox_valid_until=1e3",),
        (b"farebox_valid_until=" + b"9" * 40,),
        (b"farebox_valid_until= %d" % (UNTIL - 60),),
        (b"services=farebox:1",),
        (b"services=farebox:0,other:0",),
        (b"services=",),
        (b"farebox_capabilities=all",),
        (b"farebox_price_msat=1",),
        (b"farebox_price_msat=21001",),
        (b"farebox_request=" + b"0" * 64,),
        (b"preimage=" + b"0" * 64,),
        (b"preimage=",),
        (b"preimage=" + PREIMAGE.hex().encode(), b"preimage=" + b"0" * 64),
        (b"unknown=1",),
        (b"ip=192.0.2.7",),
        (b"Services=farebox:0",),
        (b" services=farebox:0",),
        (b"farebox_valid_until",),
        (b"\xff\xfe=1",),
        (b"=",),
    ],
)
def test_a_caveat_that_widens_or_is_unknown_or_does_not_hold_is_refused(caveats: tuple[bytes, ...]) -> None:
    with pytest.raises(CredentialRejected):
        L402(KEYS).verify(attenuated(*caveats), now=NOW)


@settings(deadline=None)
@given(caveat=st.binary(min_size=1, max_size=60))
def test_any_added_caveat_is_refused_or_leaves_the_time_as_it_was(caveat: bytes) -> None:
    try:
        until = L402(KEYS).verify(attenuated(caveat), now=NOW)
    except CredentialRejected:
        until = VALID_UNTIL
    assert until == VALID_UNTIL


def test_a_token_for_another_service_or_under_another_purpose_is_refused() -> None:
    with pytest.raises(CredentialRejected):
        L402(KEYS).verify(shown(issue(service="other")), now=NOW)
    identifier = b"\0\0" + INVOICE.payment_hash + KEYS.newest + bytes(28)
    for root_key in (NEW, bytes(32), b""):
        forged = Macaroon.mint(root_key, identifier, location=b"lsat", caveats=macaroon_of(issue()).caveats)
        with pytest.raises(CredentialRejected):
            L402(KEYS).verify(replace(shown(issue()), token=forged.write_base64()), now=NOW)


@pytest.mark.parametrize(
    "identifier",
    [
        INVOICE.payment_hash,
        b"\xff" + INVOICE.payment_hash,
        b"\0\1" + INVOICE.payment_hash + bytes(32),
        b"\0\0" + INVOICE.payment_hash + bytes(31),
        b"\0\0" + INVOICE.payment_hash + bytes(33),
        b"\0\0" + INVOICE.payment_hash + bytes(32),
    ],
)
def test_a_stranger_s_macaroon_is_well_formed_and_refused(identifier: bytes) -> None:
    foreign = Macaroon.mint(b"their key", identifier, location=b"lsat", caveats=(b"services=theirs:0",))
    credential = read(authorization(f"L402 {foreign.write_base64()}:{PREIMAGE.hex()}"))
    with pytest.raises(CredentialRejected):
        L402(KEYS).verify(credential, now=NOW)


def test_a_credential_is_believed_only_for_the_payment_in_its_own_identifier() -> None:
    mine = bytes(32)
    stolen = replace(shown(issue()), payment_hash=sha256(mine).digest(), preimage=Secret(mine))
    with pytest.raises(CredentialRejected):
        L402(KEYS).verify(stolen, now=NOW)


@pytest.mark.parametrize("token", ["", "junk", "AAAA", ","])
def test_a_credential_with_junk_for_a_token_is_refused(token: str) -> None:
    with pytest.raises(CredentialRejected):
        L402(KEYS).verify(replace(shown(issue()), token=token), now=NOW)


def test_a_credential_without_a_preimage_is_refused() -> None:
    with pytest.raises(CredentialRejected):
        L402(KEYS).verify(replace(shown(issue()), preimage=None), now=NOW)


def test_a_refusal_tells_the_caveat_s_name_and_no_secret() -> None:
    with pytest.raises(CredentialRejected, match="caveat=ip") as caught:
        L402(KEYS).verify(attenuated(b"ip=192.0.2.7"), now=NOW)
    assert PREIMAGE.hex() not in str(caught.value)
    with pytest.raises(CredentialRejected) as caught:
        L402(KEYS).verify(attenuated(PREIMAGE.hex().encode()), now=NOW)
    assert PREIMAGE.hex() not in str(caught.value)


# --- good for more than one call --------------------------------------------------------------------------------------


def minted(*caveats: bytes) -> Challenge:
    macaroon = Macaroon.mint(b"key", b"identifier", location=b"elsewhere", caveats=caveats)
    return Challenge(
        dialect="L402", invoice=INVOICE.text, payment_hash=INVOICE.payment_hash, token=macaroon.write_base64()
    )


IN_AN_HOUR = NOW + timedelta(hours=1)
A_YEAR = NOW + timedelta(days=365)


@pytest.mark.parametrize(
    ("caveats", "until"),
    [
        ((), A_YEAR),
        ((b"services=loop:0", b"loop_capabilities="), A_YEAR),
        ((b"loop_valid_until=%d" % IN_AN_HOUR.timestamp(),), IN_AN_HOUR),
        ((b"loop_valid_until=99999999999", b"loop_valid_until=%d" % IN_AN_HOUR.timestamp()), IN_AN_HOUR),
        ((b"RequestPath = /x", b"ExpiresAt = %d" % IN_AN_HOUR.timestamp()), IN_AN_HOUR),
        ((b"loop_valid_until=%d" % NOW.timestamp(),), None),
        ((b"loop_valid_until=soon",), A_YEAR),
    ],
)
def test_a_token_may_be_good_for_other_calls_until_its_caveats_end_it(
    caveats: tuple[bytes, ...], until: datetime | None
) -> None:
    assert until == L402().reusable_until(minted(*caveats), now=NOW)


def test_a_token_of_ours_is_good_for_its_one_request() -> None:
    for service in ("farebox", "my-api_2"):
        issued = L402(KeyRing.generate(), service).issue(QUOTE, INVOICE, valid_until=IN_AN_HOUR)
        assert issued is not None
        assert L402().reusable_until(issued, now=NOW) is None


def test_a_token_that_can_t_be_read_may_be_good_for_other_calls() -> None:
    opaque = Challenge(dialect="L402", invoice=INVOICE.text, payment_hash=INVOICE.payment_hash, token="opaque~token")
    assert A_YEAR == L402().reusable_until(opaque, now=NOW)
