"""What a process keeps in mind is bounded, and never wrong."""

from datetime import UTC, datetime, timedelta

import pytest

from farebox.core.exchange import Credential, Wire
from farebox.core.payment import Answer, FreeCall, FreeScope
from farebox.core.secret import KeyRing, Secret
from farebox.gate.memory import GivenAnswers, RunOut, SpentProofs, VerifiedProofs
from farebox.testing.market import TurningKeys

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CREDENTIAL = Credential(dialect="L402", payment_hash=bytes(32), preimage=Secret(bytes(32)))


def test_a_proof_is_remembered_until_it_runs_out() -> None:
    proofs = VerifiedProofs()
    proofs.keep("L402 a:b", CREDENTIAL, NOW)
    assert proofs.find("L402 a:b", NOW - timedelta(seconds=1)) == CREDENTIAL
    assert proofs.find("L402 a:b", NOW) is None
    assert proofs.find("L402 a:c", NOW - timedelta(seconds=1)) is None


def test_every_proof_is_forgotten_when_the_keys_change() -> None:
    keys = TurningKeys()
    proofs = VerifiedProofs(keys)
    later = NOW + timedelta(seconds=1)
    assert proofs.find("L402 a:b", NOW) is None
    proofs.keep("L402 a:b", CREDENTIAL, later)
    assert proofs.find("L402 a:b", NOW) == CREDENTIAL
    keys.now = KeyRing.generate()
    assert proofs.find("L402 a:b", NOW) is None
    assert "L402 a:b" not in proofs


def test_the_oldest_proof_is_forgotten_when_there_are_too_many() -> None:
    proofs = VerifiedProofs()
    for n in range(5000):
        proofs.keep(str(n), CREDENTIAL, NOW + timedelta(days=1))
    assert proofs.find("0", NOW) is None
    assert proofs.find("4999", NOW) == CREDENTIAL


def test_an_answer_is_given_again_only_for_its_own_request() -> None:
    given = GivenAnswers()
    kept = given.keep(b"hash", b"digest", Answer(status=200, headers=(), body=b"x"), Wire())
    assert given.find(b"hash", b"digest") is kept
    assert given.find(b"hash", b"other") is None
    assert given.find(b"other", b"digest") is None


def test_the_oldest_answers_are_forgotten_when_they_are_too_large_together() -> None:
    given = GivenAnswers()
    large = Answer(status=200, headers=(), body=b"x" * 2**20)
    for n in range(20):
        given.keep(bytes([n]), b"", large, Wire())
    remembered = [n for n in range(20) if given.find(bytes([n]), b"") is not None]
    assert remembered == list(range(5, 20))


def run_out(scope: FreeScope) -> FreeCall:
    return FreeCall(granted=False, limit=1, remaining=0, resets_at=NOW, scope=scope)


@pytest.mark.parametrize(
    ("scope", "heard"), [(FreeScope.CLIENT, 1), (FreeScope.SUBNET, 2), (FreeScope.EVERYONE, 3)], ids=str
)
def test_whose_free_calls_have_run_out_is_remembered_until_they_are_back(scope: FreeScope, heard: int) -> None:
    memory, call = RunOut(), run_out(scope)
    memory.keep("2001:db8:1:1::/64", call)
    clients = ("2001:db8:1:1::/64", "2001:db8:1:2::/64", "192.0.2.7/32")
    early = NOW - timedelta(seconds=1)
    assert [call] * heard + [None] * (3 - heard) == [memory.find(client, early) for client in clients]
    assert [None] * 3 == [memory.find(client, NOW) for client in clients]


def test_the_oldest_that_has_run_out_is_forgotten_when_there_are_too_many() -> None:
    memory, early = RunOut(), NOW - timedelta(seconds=1)
    for n in range(20_000):
        memory.keep(f"{n}", run_out(FreeScope.CLIENT))
    assert memory.find("0", early) is None
    assert memory.find("19999", early) is not None


def test_a_spent_proof_is_known_by_what_it_bought() -> None:
    spent = SpentProofs()
    spent.keep(b"hash", b"digest")
    assert not spent.bought_another(b"hash", b"digest")
    assert spent.bought_another(b"hash", b"other")
    assert not spent.bought_another(b"unknown", b"other")
