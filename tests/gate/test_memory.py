"""What a process keeps in mind is bounded, and never wrong."""

from datetime import UTC, datetime, timedelta

from farebox.core.exchange import Credential, Wire
from farebox.core.payment import Answer
from farebox.core.secret import Secret
from farebox.gate.memory import GivenAnswers, Pace, VerifiedProofs

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CREDENTIAL = Credential(dialect="L402", payment_hash=bytes(32), preimage=Secret(bytes(32)))


def test_a_proof_is_remembered_until_it_runs_out() -> None:
    proofs = VerifiedProofs()
    proofs.keep("L402 a:b", CREDENTIAL, NOW)
    assert proofs.find("L402 a:b", NOW - timedelta(seconds=1)) == CREDENTIAL
    assert proofs.find("L402 a:b", NOW) is None
    assert proofs.find("L402 a:c", NOW - timedelta(seconds=1)) is None


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


def test_a_pace_allows_so_many_in_a_second_and_then_again() -> None:
    pace = Pace(per_second=2)
    at = [NOW, NOW, NOW, NOW + timedelta(milliseconds=999), NOW + timedelta(seconds=1)]
    assert [pace.allows(now) for now in at] == [True, True, False, False, True]
