"""What lnd says, read strictly: errors, outcomes of payments, settlements, and numbers and bytes told as texts."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from farebox.core.amount import Amount
from farebox.core.exchange import HASH_BYTES
from farebox.core.ports import Failed, HttpReply, NodeFacts, PayOutcome, Unresolved
from farebox.core.settlement import Settlement
from farebox.lightning.outcome import in_flight, proven
from farebox.lightning.reply import (
    Told,
    count,
    fault_of,
    hash_of,
    member,
    msats,
    need,
    network_of,
    one_line,
    read_lines,
    text,
)

FORBIDDEN: Final = "the macaroon does not allow it"
_FOREIGN: Final = "it is not a macaroon of this node"
_OWN_CERTIFICATE: Final = "; name the node's own with cert=PATH/tls.cert"
_UNTRUSTED: Final = ("self", "issuer", "signature")  # what OpenSSL says of certificates that nobody vouches for
_MOST_DIGITS: Final = 19
_HELP: Final = MappingProxyType(
    {
        "no route": "within the fee limit; open a channel towards the seller, or to a node that is better connected",
        "insufficient balance": "open a channel, or have the node paid first",
        "incorrect payment details": "the seller gave it back: the call failed, or the invoice is no longer wanted",
    }
)
_OK: Final = 200
_UNREADY: Final = (12, 14)  # gRPC: unimplemented, unavailable


@dataclass(frozen=True, slots=True)
class LndError:
    """What lnd says instead of doing it: gRPC's code, and words."""

    code: int
    message: str

    @property
    def forbidden(self) -> bool:
        """Whether the macaroon is too narrow."""
        return "permission denied" in self.message or "verification failed" in self.message

    @property
    def foreign(self) -> bool:
        """Whether the macaroon is another node's, or was revoked."""
        return "verification failed" in self.message or self.message.endswith("invalid ID")

    @property
    def unready(self) -> bool:
        """Whether lnd is not at work yet: its wallet is locked or not made, or it is still starting."""
        return self.code in _UNREADY or "wallet locked" in self.message or "wallet not created" in self.message


def error_of(reply: HttpReply) -> LndError | None:
    """Of a call that answers once, and of a stream, which has it one level deeper."""
    told = next(iter(read_lines(reply.body)), None) if reply.status else None
    inner = None if told is None else told.get("error")
    error = inner if isinstance(inner, dict) else told
    if error is None or not isinstance(error.get("code"), int):
        return None
    return LndError(count(error, "code") or 0, one_line(text(error, "message") or "no reason"))


def outcome_of(reply: HttpReply, payment_hash: bytes) -> PayOutcome:
    """The last that a stream of payments says of one."""
    lines = read_lines(reply.body) if reply.status == _OK else []
    told = lines[-1].get("result") if lines else None
    if not isinstance(told, dict) or hash_of(told, "payment_hash") != payment_hash:
        return Unresolved(reason=complaint(reply))
    match text(told, "status"):
        case "SUCCEEDED":
            return proven(told, "payment_preimage", payment_hash, fee=msats_of(told, "fee_msat"), by="lnd")
        case "FAILED":
            why = (text(told, "failure_reason") or "").removeprefix("FAILURE_REASON_").lower().replace("_", " ")
            return Failed(reason=f"lnd: {why} ({_HELP[why]})" if why in _HELP else f"lnd: {why}")
        case _:
            return in_flight()


def sensible(reply: HttpReply) -> Told:
    """The object that lnd answered. Raises NodeUnavailable."""
    return need(reply, complaint(reply))


def complaint(reply: HttpReply) -> str:
    """What is wrong with a reply, in words that may be shown to anyone."""
    error = error_of(reply)
    if error is not None:
        return f"lnd: {_FOREIGN if error.foreign else FORBIDDEN if error.forbidden else error.message}"
    untrusted = "certificate: " in reply.reason and any(word in reply.reason for word in _UNTRUSTED)
    return fault_of(reply, "lnd") + (_OWN_CERTIFICATE if untrusted else "")


def settlements_of(told: Told) -> list[Settlement]:
    """What was received for an invoice, if lnd says that it is settled."""
    payment_hash, received = octets_of(told, "r_hash"), msats_of(told, "amt_paid_msat")
    if text(told, "state") != "SETTLED" or payment_hash is None or received is None:
        return []
    return [Settlement(payment_hash=payment_hash, received=received)]


def number_of(told: Told, name: str) -> int | None:
    """A whole number, 0 or more, told as a text."""
    value = text(told, name)
    return int(value) if value is not None and value.isdecimal() and len(value) <= _MOST_DIGITS else None


def index_of(told: Told) -> int:
    """The place of an invoice among those that were settled; 0 for one that was not."""
    return number_of(told, "settle_index") or 0


def msats_of(told: Told, name: str) -> Amount | None:
    """An amount that is told as a text, in millisatoshis."""
    number = number_of(told, name)
    return None if number is None else msats({name: number}, name)


def octets_of(told: Told, name: str) -> bytes | None:
    """32 bytes that are told in base64."""
    try:
        octets = base64.b64decode(text(told, name) or "", validate=True)
    except ValueError:
        return None
    return octets if len(octets) == HASH_BYTES else None


def facts_of(info: HttpReply, balance: HttpReply) -> NodeFacts:
    """What lnd says of itself and of its channels. Raises NodeUnavailable."""
    told, channels = _allowed(info), _allowed(balance)
    chains, synced = told.get("chains"), told.get("synced_to_chain")
    first = chains[0] if isinstance(chains, list) and chains else None
    return NodeFacts(
        network=network_of(first, "network") if isinstance(first, dict) else None,
        synced=synced if isinstance(synced, bool) else None,
        inbound=msats_of(member(channels, "remote_balance"), "msat"),
    )


def _allowed(reply: HttpReply) -> Told:
    """What lnd says, and nothing where the macaroon is too narrow to be told."""
    error = error_of(reply)
    return {} if error is not None and error.forbidden else sensible(reply)
