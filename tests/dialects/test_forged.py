"""Forged, edited and re-spelt proofs before a real gate and ledger (reliability: A12, F4, F6)."""

from __future__ import annotations

import ast
import asyncio
import math
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox.core.amount import Amount
from farebox.core.errors import CredentialRejected, FareboxError, NodeUnavailable
from farebox.core.exchange import Credential, Quote, Wire
from farebox.core.macaroon import Macaroon
from farebox.core.payment import Answer, PaymentState
from farebox.core.secret import KeyRing
from farebox.dialects import L402, PaymentAuth, PaymentHash
from farebox.gate import Challenged, Grant, Terms, Visit
from farebox.gate.terms import UNLIMITED
from farebox.http.selling import Gate, Talk
from farebox.stores import open_ledger
from farebox.testing.dialects import NOW, QUOTE, sample_credential, sample_invoice
from farebox.testing.forging import FORGERIES, SPELLINGS, Proof
from farebox.testing.market import Market

FORGED = [2_000, pytest.param(100_000, marks=pytest.mark.full)]
FOREIGN = [200, pytest.param(5_000, marks=pytest.mark.full)]
SAMPLES = 100_000
CLIENT = "192.0.2.7/32"
Tell = Callable[[str], object]
ANSWER = Answer(status=200, headers=(), body=b"what was sold")


@pytest.fixture
def chance(seed: int, tell: Tell) -> random.Random:
    tell(f"seed {seed}: FAREBOX_SEED={seed} repeats it")
    return random.Random(seed)


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    market = Market.open(store=f"sqlite:///{tmp_path / 'ledger.db'}")
    yield market
    await market.close()


def quote_of(number: int) -> Quote:
    return Quote(amount=Amount.sats(21), resource="POST /api/dvm", digest=number.to_bytes(32, "big"))


def visit(quote: Quote, *headers: tuple[str, str], client: str = CLIENT) -> Visit:
    return Visit(quote=quote, wire=Wire(headers=headers), client=client)


async def buy(market: Market, gate: Gate, number: int) -> Proof:
    """A paid proof that was not shown yet."""
    caller = f"198.51.{number // 250}.{number % 250}/32"  # each is a caller of its own, who may ask for an invoice
    asked = await gate.admit(visit(quote_of(number), client=caller))
    assert isinstance(asked, Challenged)
    preimage = market.pay(asked.invoice.text)
    (challenge,) = PaymentAuth().read_challenges(asked.wire)
    return Proof(
        macaroon=Macaroon.read_base64(str(asked.wire.body["macaroon"])),
        preimage=preimage,
        payment={"challenge": dict(challenge.parameters), "payload": {"preimage": preimage.hex()}},
    )


async def show(gate: Gate, quote: Quote, *headers: tuple[str, str]) -> str:
    """What became of a call: `Grant` (and it was charged), `Replay`, `Challenged`, or the error."""
    try:
        decision = await gate.admit(visit(quote, *headers))
    except FareboxError as error:
        return type(error).__name__
    if isinstance(decision, Grant):
        await decision.capture(ANSWER)
    return type(decision).__name__


# --- A12 --------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("forged", FORGED)
async def test_of_so_many_forged_proofs_none_is_granted_anything(
    market: Market, chance: random.Random, tell: Tell, forged: int
) -> None:
    gate, outcomes = market.gate, Counter[str]()
    unused = [await buy(market, gate, number) for number in range(10)]
    used = [await buy(market, gate, number) for number in range(10, 20)]
    for number, proof in enumerate(used, 10):
        assert await show(gate, quote_of(number), ("authorization", proof.l402)) == "Grant"
    proofs = unused + used
    for n in range(forged):
        number = chance.randrange(len(proofs))
        other = proofs[(number + chance.randrange(1, len(proofs))) % len(proofs)]
        forge = FORGERIES[n % len(FORGERIES)]
        value = forge(proofs[number], other, chance)
        outcome = await show(gate, quote_of(number), ("authorization", value))
        assert outcome in ("CredentialRejected", "MalformedCredential", "Challenged"), (n, forge.__name__, value)
        outcomes[outcome] += 1
    tell(f"{forged} forged: {dict(outcomes)}")
    for number, proof in enumerate(unused):
        assert await show(gate, quote_of(number), ("authorization", proof.l402)) == "Grant"
    assert forged == outcomes.total()
    assert outcomes["CredentialRejected"] > forged / 3


@pytest.mark.anyio
@pytest.mark.parametrize("spelt", [200, pytest.param(10_000, marks=pytest.mark.full)])
async def test_however_a_proof_is_spelt_and_however_often_it_buys_one_answer(
    market: Market, chance: random.Random, tell: Tell, spelt: int
) -> None:
    gate, outcomes = market.gate, Counter[str]()
    payments = spelt // 20
    for number in range(payments):
        proof = await buy(market, gate, number)
        ways: list[tuple[str, str]] = [
            ("authorization", chance.choice(SPELLINGS)(proof, proof, chance)) for _ in range(16)
        ]
        bound = proof.macaroon.attenuate(b"preimage=" + proof.preimage.hex().encode()).write().hex()
        ways += [
            ("macaroon", bound),
            ("grpc-metadata-macaroon", bound.upper()),
            ("authorization", proof.l402),
            ("authorization", proof.payment_auth),
        ]
        chance.shuffle(ways)
        outcomes.update(await asyncio.gather(*(show(gate, quote_of(number), way) for way in ways)))
    tell(f"{spelt} shown for {payments} payments: {dict(outcomes)}")
    assert payments == outcomes["Grant"]
    assert spelt == outcomes["Grant"] + outcomes["Replay"] + outcomes["MalformedCredential"]
    assert outcomes["Replay"] > spelt / 2
    states = [payment.state for payment in await gate.ledger.recent_payments(spelt)]
    assert [PaymentState.SPENT] * payments == states


@pytest.mark.anyio
async def test_each_forgery_and_each_spelling_is_what_it_claims_to_be(market: Market, chance: random.Random) -> None:
    """A spelling that is always refused, or a forgery that changes nothing, would prove nothing."""
    gate = market.gate
    proof, other = await buy(market, gate, 1), await buy(market, gate, 2)
    for spell in SPELLINGS:
        ways = [("authorization", spell(proof, other, chance)) for _ in range(40)]
        told = {await show(gate, quote_of(1), way) for way in ways}
        assert told & {"Grant", "Replay"}, spell.__name__
    for forge in FORGERIES:
        assert not {proof.l402, proof.payment_auth} & {forge(proof, other, chance) for _ in range(40)}, forge.__name__


# --- F6 ---------------------------------------------------------------------------------------------------------------


def tenant(market: Market, ring: KeyRing, name: str) -> Gate:
    """A shop of its own on the same node, as two shops of one operator are."""
    return Gate(
        ledger=open_ledger("sqlite::memory:", market.clock),
        receiver=market.sandbox.seller,
        dialects=(L402(ring, service=name), PaymentAuth(ring, realm=name), PaymentHash()),
        converse=Talk(),
        clock=market.clock,
        terms=Terms(free_calls=0, limits=UNLIMITED),
    )


@pytest.mark.anyio
@pytest.mark.parametrize("shared", [False, True], ids=["keys of their own", "the same keys"])
@pytest.mark.parametrize("foreign", FOREIGN)
async def test_what_was_bought_from_one_shop_buys_nothing_from_another(
    market: Market, chance: random.Random, tell: Tell, foreign: int, shared: bool
) -> None:
    one = tenant(market, market.ring, "alpha")
    two = tenant(market, market.ring if shared else KeyRing.generate(), "beta")
    outcomes = Counter[str]()
    try:
        proofs = [await buy(market, one, number) for number in range(10)]
        for number, proof in enumerate(proofs[:5]):  # some are used up, some are not
            assert await show(one, quote_of(number), ("authorization", proof.l402)) == "Grant"
        for _ in range(foreign):
            market.clock.pass_by(timedelta(milliseconds=100))  # made-up hashes are looked up 20 times a second
            number = chance.randrange(len(proofs))
            proof = proofs[number]
            payment_hash = proof.macaroon.identifier[2:34].hex()
            way = chance.choice(
                (
                    ("authorization", proof.l402),
                    ("authorization", f"LSAT {proof.l402.removeprefix('L402 ')}"),
                    ("authorization", proof.payment_auth),
                    ("authorization", f"L402 {payment_hash}"),
                    ("x-payment-hash", payment_hash),
                )
            )
            outcomes[await show(two, quote_of(chance.choice((number, 99))), way)] += 1
        tell(f"{foreign} foreign: {dict(outcomes)}")
        assert {CredentialRejected.__name__, NodeUnavailable.__name__} == set(outcomes)
        assert (foreign, []) == (outcomes.total(), list(await two.ledger.recent_payments(10)))
        for number, proof in enumerate(proofs):
            again = await show(one, quote_of(number), ("authorization", proof.l402))
            assert again == ("Replay" if number < 5 else "Grant")
    finally:
        await one.close()
        await two.close()


@pytest.mark.anyio
async def test_a_shop_with_the_same_keys_and_ledger_and_another_name_refuses_too(market: Market) -> None:
    proof = await buy(market, market.gate, 1)
    other = Gate(
        ledger=market.gate.ledger,
        receiver=market.sandbox.seller,
        dialects=(L402(market.ring, service="beta"), PaymentAuth(market.ring, realm="beta")),
        converse=Talk(),
        clock=market.clock,
        terms=Terms(free_calls=0, limits=UNLIMITED),
    )
    for value in (proof.l402, proof.payment_auth):
        assert await show(other, quote_of(1), ("authorization", value)) == "CredentialRejected"
    assert await show(market.gate, quote_of(1), ("authorization", proof.l402)) == "Grant"


# --- F4 ---------------------------------------------------------------------------------------------------------------

SOURCE = Path(farebox.__file__).parent
SECRET_OPERAND = re.compile(r"\b\w*(?:signature|seal|password|digest\(\)|_sign\(|hmac)\b", re.IGNORECASE)
# Both sides are in the caller's hands.
HARMLESS = re.compile(r"len\(|sha256\(preimage\)|sha256\(credential\.preimage\.reveal\(\)\)|^seal$")


@pytest.mark.parametrize("room", ["core", "dialects", "gate", "lightning"])
def test_nothing_that_was_signed_is_compared_but_in_constant_time(room: str) -> None:
    offenders = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in sorted((SOURCE / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and any(isinstance(each, ast.Eq | ast.NotEq | ast.In) for each in node.ops)
        for operand in map(ast.unparse, (node.left, *node.comparators))
        if SECRET_OPERAND.search(operand) and not HARMLESS.search(operand)
    ]
    assert offenders == []


@pytest.mark.parametrize(
    "module", ["core/secret.py", "core/macaroon.py", "dialects/payment_auth.py", "lightning/phoenixd_api.py"]
)
def test_what_checks_a_secret_does_it_in_constant_time(module: str) -> None:
    assert "hmac.compare_digest(" in (SOURCE / module).read_text()


def welch_t(one: Sequence[float], two: Sequence[float]) -> float:
    def moments(sample: Sequence[float]) -> tuple[float, float]:
        mean = math.fsum(sample) / len(sample)
        return mean, math.fsum((each - mean) ** 2 for each in sample) / (len(sample) - 1) / len(sample)

    (mean_one, error_one), (mean_two, error_two) = moments(one), moments(two)
    return (mean_one - mean_two) / math.sqrt(error_one + error_two)


def timed(check: Callable[[Any], object], near: Sequence[Any], far: Sequence[Any], chance: random.Random) -> float:
    """Welch's t of how long near and far misses take, in random order, without the slowest tenth of both together."""
    taken: tuple[list[int], list[int]] = ([], [])
    clock = time.perf_counter_ns
    for _ in range(SAMPLES):
        kind = chance.getrandbits(1)
        shown = chance.choice(far if kind else near)
        began = clock()
        check(shown)
        taken[kind].append(clock() - began)
    limit = sorted(taken[0] + taken[1])[SAMPLES * 9 // 10]
    return welch_t(*([each for each in kind if each <= limit] for kind in taken))


def near_miss(octets: bytes, chance: random.Random) -> bytes:
    """All of it right but for the last byte."""
    return octets[:-1] + bytes([octets[-1] ^ chance.randrange(1, 256)])


def test_a_comparison_that_leaks_is_seen_by_the_measurement(chance: random.Random) -> None:
    secret = chance.randbytes(4096)

    def leaking(shown: bytes) -> bool:
        return all(one == two for one, two in zip(secret[:64], shown[:64], strict=True))

    near, far = [near_miss(secret[:64], chance) for _ in range(64)], [chance.randbytes(64) for _ in range(64)]
    taken: tuple[list[int], list[int]] = ([], [])
    for n in range(2_000):
        shown = (far if n % 2 else near)[n % 64]
        began = time.perf_counter_ns()
        leaking(shown)
        taken[n % 2].append(time.perf_counter_ns() - began)
    assert abs(welch_t(*(sorted(kind)[:900] for kind in taken))) > 4.5


@pytest.mark.full
@pytest.mark.alone
def test_how_long_a_macaroon_takes_to_be_refused_says_nothing_of_its_signature(
    chance: random.Random, tell: Tell
) -> None:
    key = chance.randbytes(32)
    good = Macaroon.mint(key, chance.randbytes(66), location=b"lsat", caveats=(b"services=farebox:0",))
    near = [replace(good, signature=near_miss(good.signature, chance)) for _ in range(2_000)]
    far = [replace(good, signature=chance.randbytes(32)) for _ in range(2_000)]
    t = timed(lambda shown: shown.verify(key), near, far, chance)
    tell(f"Welch t = {t:.2f} over {SAMPLES} samples")
    assert abs(t) < 4.5


@pytest.mark.full
@pytest.mark.alone
def test_how_long_a_payment_credential_takes_to_be_refused_says_nothing_of_its_seal(
    chance: random.Random, tell: Tell
) -> None:
    dialect = PaymentAuth(KeyRing.generate(), realm="farebox")
    challenge = dialect.issue(QUOTE, sample_invoice(), valid_until=NOW + timedelta(days=1))
    assert challenge is not None
    good = sample_credential(challenge)
    sealed = dict(good.parameters)["id"]
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    def with_id(text: str) -> Credential:
        return replace(good, parameters=(("id", text), *good.parameters[1:]))

    near = [with_id(sealed[:-1] + chance.choice(digits.replace(sealed[-1], ""))) for _ in range(2_000)]
    far = [with_id("".join(chance.choices(digits, k=len(sealed)))) for _ in range(2_000)]

    def refused(shown: Credential) -> None:
        try:
            dialect.verify(shown, now=NOW)
        except CredentialRejected:
            return
        raise AssertionError("a changed seal was taken")

    t = timed(refused, near, far, chance)
    tell(f"Welch t = {t:.2f} over {SAMPLES} samples")
    assert abs(t) < 4.5
