"""Forged proofs: what can be done to a paid proof without the seller's keys, each with its name.

Every mutation is of one of two kinds. A forgery says something else than the proof that it was made from, and has to be
refused. Another spelling says the same, so it may be taken, and buys nothing that the first did not buy.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from farebox.core.exchange import Json
from farebox.core.macaroon import Macaroon

_KEY_ID: Final = slice(34, 38)
_HASH: Final = slice(2, 34)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A paid proof: its token and preimage, and the same as a credential of the Payment scheme."""

    macaroon: Macaroon
    preimage: bytes
    payment: dict[str, Json]

    @property
    def l402(self) -> str:
        """The Authorization value of the L402 dialect."""
        return write_l402(self.macaroon, self.preimage)

    @property
    def payment_auth(self) -> str:
        """The Authorization value of the Payment scheme."""
        return write_payment(self.payment)


def write_l402(macaroon: Macaroon, preimage: bytes, *, scheme: str = "L402") -> str:
    """An Authorization value."""
    return f"{scheme} {macaroon.write_base64()}:{preimage.hex()}"


def write_payment(members: dict[str, Json]) -> str:
    """An Authorization value."""
    return "Payment " + base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


Mutation = Callable[[Proof, Proof, random.Random], str]


# --- forgeries of an L402 token ---------------------------------------------------------------------------------------


def _flip_a_bit(proof: Proof, other: Proof, chance: random.Random) -> str:
    octets = bytearray(proof.macaroon.write())
    octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)
    return f"L402 {base64.b64encode(octets).decode()}:{proof.preimage.hex()}"


def _flip_a_bit_of_the_preimage(proof: Proof, other: Proof, chance: random.Random) -> str:
    octets = bytearray(proof.preimage)
    octets[chance.randrange(32)] ^= 1 << chance.randrange(8)
    return write_l402(proof.macaroon, bytes(octets))


def _change_a_character(proof: Proof, other: Proof, chance: random.Random) -> str:
    text = proof.macaroon.write_base64()
    at = chance.randrange(len(text.rstrip("=")))
    now = chance.choice([each for each in "ABCabc019-_+/=:, \t\x00é" if _standard(each) != text[at]])
    return f"L402 {text[:at]}{now}{text[at + 1 :]}:{proof.preimage.hex()}"


def _strip_caveats(proof: Proof, other: Proof, chance: random.Random) -> str:
    kept = list(proof.macaroon.caveats)
    for _ in range(chance.randint(1, len(kept))):
        kept.pop(chance.randrange(len(kept)))
    return write_l402(replace(proof.macaroon, caveats=tuple(kept)), proof.preimage)


def _reorder_caveats(proof: Proof, other: Proof, chance: random.Random) -> str:
    order = list(proof.macaroon.caveats)
    while tuple(order) == proof.macaroon.caveats:
        chance.shuffle(order)
    return write_l402(replace(proof.macaroon, caveats=tuple(order)), proof.preimage)


def _add_a_caveat_unsigned(proof: Proof, other: Proof, chance: random.Random) -> str:
    caveats = list(proof.macaroon.caveats)
    caveats.insert(chance.randint(0, len(caveats)), chance.choice((*caveats, b"farebox_valid_until=99999999999")))
    return write_l402(replace(proof.macaroon, caveats=tuple(caveats)), proof.preimage)


def _edit_a_caveat(proof: Proof, other: Proof, chance: random.Random) -> str:
    caveats = list(proof.macaroon.caveats)
    at = chance.randrange(len(caveats))
    name, _, value = caveats[at].partition(b"=")
    now = chance.choice(
        [b"99999999999", b"", other.macaroon.caveats[at].partition(b"=")[2], value + b" ", b"0" + value]
    )
    caveats[at] = name + b"=" + (now if now != value else value[::-1] + b"0")
    return write_l402(replace(proof.macaroon, caveats=tuple(caveats)), proof.preimage)


def _add_an_unknown_caveat(proof: Proof, other: Proof, chance: random.Random) -> str:
    name = chance.choice((b"admin", b"services_", b"Services", b"farebox_valid_unti1", b"expires", b"ip", b" services"))
    return write_l402(proof.macaroon.attenuate(name + b"=" + bytes([chance.randrange(33, 127)])), proof.preimage)


def _add_a_widening_caveat(proof: Proof, other: Proof, chance: random.Random) -> str:
    """Signed as a holder can sign it, and meant to let in more."""
    wider = chance.choice(
        (
            b"farebox_valid_until=99999999999",
            b"farebox_valid_until=-1",
            b"services=farebox:1",
            b"services=farebox:0,other:0",
            b"farebox_price_msat=0",
            b"farebox_request=" + chance.randbytes(32).hex().encode(),
            b"farebox_capabilities=all",
            b"preimage=" + chance.randbytes(32).hex().encode(),
            b"services",
            b"=",
        )
    )
    return write_l402(proof.macaroon.attenuate(wider), proof.preimage)


def _name_another_key(proof: Proof, other: Proof, chance: random.Random) -> str:
    named = chance.choice((other.macaroon.identifier[_KEY_ID], chance.randbytes(4)))
    return _with_identifier(proof, _KEY_ID, named if named != proof.macaroon.identifier[_KEY_ID] else bytes(4))


def _name_another_payment(proof: Proof, other: Proof, chance: random.Random) -> str:
    """A token of one payment with the hash and the preimage of another, which is paid too."""
    return _with_identifier(proof, _HASH, other.macaroon.identifier[_HASH], other.preimage)


def _show_another_preimage(proof: Proof, other: Proof, chance: random.Random) -> str:
    return write_l402(proof.macaroon, other.preimage)


def _move_it(proof: Proof, other: Proof, chance: random.Random) -> str:
    location = chance.choice((b"LSAT", b"l402", b"lsat ", b"https://elsewhere.example", b"\x00"))
    return write_l402(replace(proof.macaroon, location=location), proof.preimage)


def _take_the_signature_of_another(proof: Proof, other: Proof, chance: random.Random) -> str:
    signature = chance.choice(
        (other.macaroon.signature, bytes(32), chance.randbytes(32), proof.macaroon.signature[::-1])
    )
    return write_l402(replace(proof.macaroon, signature=signature), proof.preimage)


def _mint_it_oneself(proof: Proof, other: Proof, chance: random.Random) -> str:
    """Under a key that the seller does not have, or has not got any more."""
    key = chance.choice((chance.randbytes(32), bytes(32), b"", proof.preimage, proof.macaroon.signature))
    minted = Macaroon.mint(key, proof.macaroon.identifier, location=b"lsat", caveats=proof.macaroon.caveats)
    return write_l402(minted, proof.preimage)


def _show_two_payments(proof: Proof, other: Proof, chance: random.Random) -> str:
    tokens = [proof.macaroon.write_base64(), other.macaroon.write_base64()]
    chance.shuffle(tokens)
    return f"L402 {','.join(tokens)}:{proof.preimage.hex()}"


def _cut_it_short(proof: Proof, other: Proof, chance: random.Random) -> str:
    text = proof.l402
    return text[: chance.randrange(len("L402 x"), len(text))]


# --- forgeries of a Payment credential --------------------------------------------------------------------------------


def _edit_a_parameter(proof: Proof, other: Proof, chance: random.Random) -> str:
    challenge = _challenge(proof)
    name = chance.choice([each for each in challenge if each not in ("method", "intent")])
    value = challenge[name]
    at = chance.randrange(len(value))
    challenge[name] = value[:at] + chance.choice([each for each in "AZaz09-_" if each != value[at]]) + value[at + 1 :]
    return write_payment({**proof.payment, "challenge": dict(challenge)})


def _leave_out_a_parameter(proof: Proof, other: Proof, chance: random.Random) -> str:
    challenge = _challenge(proof)
    challenge.pop(chance.choice([each for each in challenge if each not in ("method", "intent")]))
    return write_payment({**proof.payment, "challenge": dict(challenge)})


def _swap_a_parameter(proof: Proof, other: Proof, chance: random.Random) -> str:
    challenge, others = _challenge(proof), _challenge(other)
    name = chance.choice([each for each in challenge if challenge[each] != others[each]])
    challenge[name] = others[name]
    return write_payment({**proof.payment, "challenge": dict(challenge)})


def _edit_what_is_sealed_in(proof: Proof, other: Proof, chance: random.Random) -> str:
    challenge = _challenge(proof)
    name, member, value = chance.choice(
        (
            ("opaque", "valid_until", "99999999999"),
            ("opaque", "kid", chance.randbytes(4).hex()),
            ("opaque", "digest", chance.randbytes(32).hex()),
            ("request", "amount", "1"),
            ("request", "currency", "msat"),
        )
    )
    challenge[name] = _base64url(json.dumps({**_members(challenge[name]), member: value}))
    return write_payment({**proof.payment, "challenge": dict(challenge)})


def _show_another_preimage_to_a_challenge(proof: Proof, other: Proof, chance: random.Random) -> str:
    preimage = chance.choice((other.preimage, chance.randbytes(32), bytes(32)))
    return write_payment({**proof.payment, "payload": {"preimage": preimage.hex()}})


# --- other spellings --------------------------------------------------------------------------------------------------


def _spell_the_scheme(proof: Proof, other: Proof, chance: random.Random) -> str:
    scheme = chance.choice(("L402", "l402", "LSAT", "lsat", "Lsat"))
    return write_l402(proof.macaroon, proof.preimage, scheme=scheme)


def _spell_the_base64(proof: Proof, other: Proof, chance: random.Random) -> str:
    text = proof.macaroon.write_base64()
    if chance.random() < 0.5:
        text = text.replace("+", "-").replace("/", "_")
    bare = text.rstrip("=")
    text = bare + chance.choice(("=" * (-len(bare) % 4), "", "=", "==", "==="))
    if chance.random() < 0.2:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice((" ", "\t", "\n", "\r\n")) + text[at:]
    return f"L402 {text}:{proof.preimage.hex()}"


def _spell_the_preimage(proof: Proof, other: Proof, chance: random.Random) -> str:
    digits = proof.preimage.hex()
    digits = "".join(chance.choice((each, each.upper())) for each in digits)
    return f"L402 {proof.macaroon.write_base64()}:{digits}{chance.choice(('', ' '))}"


def _say_it_twice(proof: Proof, other: Proof, chance: random.Random) -> str:
    tokens = ",".join([proof.macaroon.write_base64()] * chance.randint(2, 4))
    return f"L402 {tokens}:{proof.preimage.hex()}"


def _narrow_it(proof: Proof, other: Proof, chance: random.Random) -> str:
    """What a holder may do: say a caveat again, or end it sooner; or bind it to the preimage that is shown."""
    again = chance.choice(proof.macaroon.caveats)
    name, _, value = again.partition(b"=")
    if name.endswith(b"_valid_until"):
        again = name + b"=%d" % (int(value) - chance.randrange(1000))
    narrower = chance.choice((again, b"preimage=" + proof.preimage.hex().encode()))
    return write_l402(proof.macaroon.attenuate(narrower), proof.preimage)


def _spell_the_json(proof: Proof, other: Proof, chance: random.Random) -> str:
    challenge = list(_challenge(proof).items())
    chance.shuffle(challenge)
    members: dict[str, Json] = {"payload": proof.payment["payload"], "challenge": dict(challenge), "x": chance.random()}
    text = base64.urlsafe_b64encode(json.dumps(members, indent=chance.choice((None, 1, 4))).encode()).decode()
    scheme = chance.choice(("Payment", "payment", "PAYMENT"))
    return f"{scheme} {text if chance.random() < 0.5 else text.rstrip('=')}"


FORGERIES: Final[tuple[Mutation, ...]] = (
    _flip_a_bit,
    _flip_a_bit_of_the_preimage,
    _change_a_character,
    _strip_caveats,
    _reorder_caveats,
    _add_a_caveat_unsigned,
    _edit_a_caveat,
    _add_an_unknown_caveat,
    _add_a_widening_caveat,
    _name_another_key,
    _name_another_payment,
    _show_another_preimage,
    _move_it,
    _take_the_signature_of_another,
    _mint_it_oneself,
    _show_two_payments,
    _cut_it_short,
    _edit_a_parameter,
    _leave_out_a_parameter,
    _swap_a_parameter,
    _edit_what_is_sealed_in,
    _show_another_preimage_to_a_challenge,
)
SPELLINGS: Final[tuple[Mutation, ...]] = (
    _spell_the_scheme,
    _spell_the_base64,
    _spell_the_preimage,
    _say_it_twice,
    _narrow_it,
    _spell_the_json,
)


# --- small print ------------------------------------------------------------------------------------------------------


def _standard(character: str) -> str:
    return {"-": "+", "_": "/"}.get(character, character)


def _with_identifier(proof: Proof, part: slice, octets: bytes, preimage: bytes | None = None) -> str:
    identifier = bytearray(proof.macaroon.identifier)
    identifier[part] = octets
    return write_l402(replace(proof.macaroon, identifier=bytes(identifier)), preimage or proof.preimage)


def _challenge(proof: Proof) -> dict[str, str]:
    challenge = proof.payment["challenge"]
    assert isinstance(challenge, dict)
    return {name: str(value) for name, value in challenge.items()}


def _members(text: str) -> dict[str, Json]:
    members = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert isinstance(members, dict)
    return members


def _base64url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
