"""The suite that every dialect passes: subclass it, say how the dialect is made, and run pytest.

    class TestL402(DialectSuite):
        def seller(self) -> Dialect: return L402(KEYS)
        def buyer(self) -> Dialect: return L402()

What it proves: what is written is read again as it was; what was tampered with is refused; unknown parameters are
ignored; several challenges in one header are told apart; foreign schemes are nothing to the dialect; and whatever comes
over the wire, only the typed errors come out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network, sign
from farebox.core.errors import CredentialRejected, MalformedChallenge, MalformedCredential
from farebox.core.exchange import Challenge, Credential, Json, Quote, Receipt, Wire
from farebox.core.ports import Dialect
from farebox.core.secret import Secret

NOW: Final = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
PREIMAGE: Final = bytes(range(32))
QUOTE: Final = Quote(
    amount=Amount.sats(21), resource="POST /api/dvm", digest=sha256(b"a request").digest(), description="one call"
)
_CHALLENGES: Final = "www-authenticate"
FOREIGN: Final = (
    'Basic realm="a, b", charset="UTF-8"',
    "Bearer",
    "Negotiate YWJj==",
    'Digest qop="auth, auth-int", nonce=x',
)

_inherited: Final = settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None, max_examples=60)
_json: Final[st.SearchStrategy[Json]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
_members: Final = st.dictionaries(
    st.sampled_from(("invoice", "payment_request", "pr", "payment_hash", "macaroon", "amount_sats", "protocols", "x")),
    _json,
    max_size=4,
)


def sample_invoice(amount: Amount = QUOTE.amount, preimage: bytes = PREIMAGE) -> Invoice:
    """A signed regtest invoice of ten minutes from `NOW`."""
    return sign(
        secret_key=bytes(31) + b"\x01",
        network=Network.REGTEST,
        amount=amount,
        payment_hash=sha256(preimage).digest(),
        payment_secret=bytes(32),
        description=QUOTE.description,
        created_at=NOW,
        expires_in=timedelta(minutes=10),
    )


def sample_credential(challenge: Challenge, preimage: bytes = PREIMAGE) -> Credential:
    """What a buyer who has paid the challenge shows."""
    return Credential(
        dialect=challenge.dialect,
        payment_hash=challenge.payment_hash,
        preimage=Secret(preimage),
        token=challenge.token,
        parameters=challenge.parameters,
    )


class DialectSuite(ABC):
    """Subclass it as `Test…`. Every test gets a fresh seller and a fresh buyer.

    sealed: whether the seller can tell a credential that was made up; a dialect without a seal at least never reads a
    changed proof as the same payment.
    sold: whether anything is sold in it yet; where nothing is, `issued` is overridden, and no credential is good.
    """

    sealed = True
    sold = True

    @abstractmethod
    def seller(self) -> Dialect:
        """The dialect with keys."""

    @abstractmethod
    def buyer(self) -> Dialect:
        """The dialect without keys."""

    def issued(self) -> Challenge:
        """A challenge for the sample quote."""
        challenge = self.seller().issue(QUOTE, sample_invoice(), valid_until=NOW + timedelta(days=1))
        assert challenge is not None
        return challenge

    def challenges(self) -> tuple[Challenge, ...]:
        """Challenges that have to survive the wire; a subclass may add its own."""
        return (self.issued(),)

    def credentials(self) -> tuple[Credential, ...]:
        """Credentials that have to survive the wire; a subclass may add its own."""
        paid = sample_credential(self.issued())
        return (paid if self.sealed else replace(paid, preimage=None),)

    def receipts(self) -> tuple[Receipt, ...]:
        """Receipts that have to survive the wire; none where the dialect has no receipt."""
        return ()

    # --- read(write(x)) == x ------------------------------------------------------------------------------------------

    def test_a_challenge_is_read_as_it_was_written(self) -> None:
        for challenge in self.challenges():
            assert (challenge,) == self.buyer().read_challenges(self.seller().write_challenge(challenge))

    def test_a_credential_is_read_as_it_was_written(self) -> None:
        for credential in self.credentials():
            assert credential == self.seller().read_credential(self.buyer().write_credential(credential))

    def test_a_receipt_is_read_as_it_was_written(self) -> None:
        for receipt in self.receipts():
            assert receipt == self.buyer().read_receipt(self.seller().write_receipt(receipt))

    def test_an_answer_without_a_receipt_has_none(self) -> None:
        assert self.buyer().read_receipt(Wire(headers=(("content-type", "text/plain"),))) is None

    def test_a_challenge_is_for_the_dialect_and_payment_that_it_names(self) -> None:
        challenge = self.issued()
        assert (self.seller().name, sample_invoice().payment_hash, sample_invoice().text, QUOTE.amount) == (
            challenge.dialect,
            challenge.payment_hash,
            challenge.invoice,
            challenge.amount,
        )

    def test_a_paid_challenge_is_a_good_credential(self) -> None:
        if not self.sold:
            assert self.seller().issue(QUOTE, sample_invoice(), valid_until=NOW + timedelta(days=1)) is None
            with pytest.raises(CredentialRejected):
                self.seller().verify(self._shown(), now=NOW)
            return
        until = self.seller().verify(self._shown(), now=NOW)
        assert until > NOW

    def test_the_seal_tells_the_price_the_request_and_until_when_it_may_be_claimed(self) -> None:
        told = self.seller().sealed(self._shown())
        if not (self.sealed and self.sold):
            assert told is None
            return
        assert told is not None
        assert (QUOTE.amount, QUOTE.digest, NOW + timedelta(days=1)) == (told.price, told.digest, told.valid_until)
        assert told.invoice in ("", sample_invoice().text)

    def test_proof_names_are_in_lower_case_and_leave_authorization_out(self) -> None:
        names = self.seller().proof_headers
        assert names == {name.lower() for name in names} - {"authorization"}

    # --- tampering ----------------------------------------------------------------------------------------------------

    def test_a_proof_that_was_tampered_with_is_refused(self) -> None:
        seller, shown = self.seller(), self._shown()
        (header,) = self.buyer().write_credential(shown).headers
        for changed in _changed(header[1]):
            credential = _read(seller, Wire(headers=((header[0], changed),)))
            if credential is None:
                continue
            if self.sealed:
                with pytest.raises(CredentialRejected):
                    seller.verify(credential, now=NOW)
            else:
                assert credential.payment_hash != shown.payment_hash

    def test_another_preimage_is_refused(self) -> None:
        if self.sealed:
            forged = replace(self._shown(), preimage=Secret(bytes(32)))
            with pytest.raises(CredentialRejected):
                self.seller().verify(forged, now=NOW)
        else:
            assert self._shown().preimage is None

    def test_a_proof_renamed_to_another_payment_is_refused(self) -> None:
        other = replace(self._shown(), payment_hash=sha256(bytes(32)).digest(), preimage=Secret(bytes(32)))
        if self.sealed:
            with pytest.raises(CredentialRejected):
                self.seller().verify(other, now=NOW)
        else:
            assert other.payment_hash != self._shown().payment_hash

    def test_a_proof_that_may_be_good_again_is_so_for_a_time_that_is_still_to_come(self) -> None:
        for challenge in self.challenges():
            until = self.buyer().reusable_until(challenge, now=NOW)
            assert until is None or until > NOW

    # --- company ------------------------------------------------------------------------------------------------------

    def test_unknown_parameters_are_ignored(self) -> None:
        challenge = self.issued()
        wire = self.seller().write_challenge(challenge)
        more = Wire(
            headers=tuple(
                (name, value + (', x-unknown="a, b"' if name == _CHALLENGES else "")) for name, value in wire.headers
            ),
            body={**wire.body, "x-unknown": [1], "protocols": {**_object(wire.body.get("protocols")), "unknown": {}}},
        )
        assert (challenge,) == self.buyer().read_challenges(more)

    def test_several_challenges_in_one_header_are_told_apart(self) -> None:
        challenge = self.issued()
        wire = self.seller().write_challenge(challenge)
        joined = ", ".join((FOREIGN[0], *wire.all(_CHALLENGES), *FOREIGN[1:]))
        others = tuple(pair for pair in wire.headers if pair[0] != _CHALLENGES)
        assert (challenge,) == self.buyer().read_challenges(
            Wire(headers=((_CHALLENGES, joined), *others), body=wire.body)
        )

    def test_several_header_lines_are_read_whatever_their_order(self) -> None:
        challenge = self.issued()
        wire = self.seller().write_challenge(challenge)
        foreign = tuple(("www-authenticate", value) for value in FOREIGN)
        for headers in (wire.headers + foreign, foreign + wire.headers):
            assert (challenge,) == self.buyer().read_challenges(Wire(headers=headers, body=wire.body))

    def test_foreign_schemes_are_nothing_to_it(self) -> None:
        foreign = Wire(headers=tuple(("www-authenticate", value) for value in FOREIGN), body={"error": "no"})
        assert not self.buyer().read_challenges(foreign)
        for value in ("Basic YTpi", "Bearer abc", "DPoP x.y.z", "", "nonsense"):
            assert self.seller().read_credential(Wire(headers=(("authorization", value),))) is None

    def test_a_foreign_credential_beside_ours_changes_nothing(self) -> None:
        shown = self._shown()
        ours = self.buyer().write_credential(shown)
        basic = Wire(headers=(("authorization", "Basic YTpi"),))
        assert shown == self.seller().read_credential(basic | ours) == self.seller().read_credential(ours | basic)

    def test_an_oversized_proof_is_refused_or_passed_over(self) -> None:
        (header,) = self.buyer().write_credential(self._shown()).headers
        assert _read(self.seller(), Wire(headers=((header[0], header[1] + "A" * 100_000),))) is None

    # --- whatever comes over the wire ---------------------------------------------------------------------------------

    @given(value=st.text(max_size=300), members=_members)
    @_inherited
    def test_any_answer_is_read_or_refused_with_the_typed_error(self, value: str, members: dict[str, Json]) -> None:
        buyer = self.buyer()
        names = (_CHALLENGES, "payment-receipt", "payment-required", "payment-response")
        wire = Wire(headers=tuple((name, value) for name in names), body=members)
        for read in (buyer.read_challenges, buyer.read_receipt):
            assert _outcome(read, wire) in ("read", "refused")

    @given(text=st.text(max_size=300), member=_json, scheme=st.sampled_from(("L402 ", "LSAT ", "Payment ", "")))
    @_inherited
    def test_any_request_is_read_or_refused_with_the_typed_error(self, text: str, member: Json, scheme: str) -> None:
        for header in ("authorization", *self.seller().proof_headers):
            wire = Wire(
                headers=((header, scheme + text),), query=(("payment_hash", text),), body={"payment_hash": member}
            )
            credential = _read(self.seller(), wire)
            assert credential is None or credential.dialect == self.seller().name

    @given(data=st.data())
    @_inherited
    def test_a_damaged_challenge_is_read_or_refused_with_the_typed_error(self, data: st.DataObject) -> None:
        challenge = self.issued()
        wire = self.seller().write_challenge(challenge)
        damaged = tuple((name, data.draw(_damaged(value))) for name, value in wire.headers)
        assert _outcome(self.buyer().read_challenges, Wire(headers=damaged, body=wire.body)) in ("read", "refused")

    def _shown(self) -> Credential:
        return self.credentials()[0]


def _read(seller: Dialect, wire: Wire) -> Credential | None:
    try:
        return seller.read_credential(wire)
    except MalformedCredential:
        return None


def _outcome(read: Callable[[Wire], object], wire: Wire) -> str:
    try:
        read(wire)
    except MalformedChallenge:
        return "refused"
    return "read"


def _changed(text: str) -> Iterator[str]:
    """The text with each character in turn made another one, dropped, or said twice; but for blanks and padding."""
    for at, character in enumerate(text):
        if character in " =":
            continue
        for other in ("b" if character not in "bB" else "c", "", character * 2):
            yield text[:at] + other + text[at + 1 :]


@st.composite
def _damaged(draw: st.DrawFn, text: str) -> str:
    at = draw(st.integers(0, len(text)))
    length = draw(st.integers(0, 5))
    return text[:at] + draw(st.text(max_size=4)) + text[at + length :]


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
