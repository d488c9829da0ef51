"""What Core Lightning says, read strictly: errors in either form, outcomes of payments, and amounts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from farebox.core.amount import NOTHING, Amount
from farebox.core.exchange import Json
from farebox.core.ports import Failed, HttpReply, Paid, PayOutcome, Unresolved
from farebox.lightning.outcome import in_flight, never_heard, no_proof, proven
from farebox.lightning.reply import (
    Told,
    fault_of,
    hash_of,
    msats,
    need,
    objects,
    one_line,
    preimage_of,
    read_object,
    read_reply,
    text,
)

TIMED_OUT: Final = 904  # of waitanyinvoice: nothing was paid
ALREADY_PAID: Final = 219
_MISSING: Final = -32602
_NO_METHOD: Final = -32601
_BAD_RUNE: Final = frozenset({1501, 1503})  # not of this node; withdrawn
_NOT_PERMITTED: Final = 1502
_REFUSED: Final = frozenset({401, 403})
_GOOD: Final = (200, 201)
# What xpay says when it has not begun, or is done: arguments, no such method, destination, route, fee, expiry, time.
_ENDED: Final = frozenset({_MISSING, _NO_METHOD, 203, 205, 206, 207, 209, 210})
_QUOTED: Final = re.compile(r"invalid token.*", re.DOTALL)  # cln quotes what it was given, which may be a rune
_MSATS: Final = re.compile(r"([0-9]{1,19})msat", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClnError:
    """What Core Lightning says instead of doing it."""

    code: int
    message: str

    @property
    def forbidden(self) -> bool:
        """The rune does not allow it, so that it was not even begun."""
        return self.code in _BAD_RUNE | _REFUSED | {_NOT_PERMITTED}

    @property
    def ended(self) -> bool:
        """A payment was refused, or given up for good."""
        return self.code in _ENDED

    @property
    def allowed(self) -> bool | None:
        """Of a call without arguments: whether the rune allows the method; None when this does not tell."""
        if self.code == _NOT_PERMITTED:
            return False if re.search(r"\bmethod\b", self.message) else None  # else a restriction of another kind
        if self.code in _BAD_RUNE:
            return False
        return True if self.code == _MISSING and "missing required parameter" in self.message else None

    @property
    def unheard_of(self) -> bool:
        """There is no such method, so it can't pay either."""
        return self.code == _NO_METHOD


def succeeded(reply: HttpReply) -> bool:
    """clnrest says 201, and older ones and the socket 200."""
    return reply.status in _GOOD


def error_of(reply: HttpReply) -> ClnError | None:
    """`{"code", "message"}`, or in an older one `{"error": {"code", "message"}}`; or only a status that refuses."""
    if reply.status == 0 or succeeded(reply):
        return None
    told = read_object(reply.body)
    inner = None if told is None else told.get("error")
    error = inner if isinstance(inner, dict) else told
    code = None if error is None else error.get("code")
    if error is not None and isinstance(code, int) and not isinstance(code, bool):
        words = _QUOTED.sub("invalid token", text(error, "message") or "no reason")
        return ClnError(code, one_line(words))
    return ClnError(reply.status, "refused") if reply.status in _REFUSED else None


def complaint(reply: HttpReply, method: str) -> str:
    """What is wrong with a reply, in words that may be shown to anyone."""
    error = error_of(reply)
    if error is None:
        return fault_of(reply, "cln")
    return forbidden(method) if error.forbidden else f"cln: {error.message}"


def forbidden(method: str) -> str:
    """That the rune does not allow a method."""
    return f"cln: the rune does not allow {method}"


def sensible(reply: HttpReply, method: str) -> Told:
    """The members of a good reply. Raises NodeUnavailable."""
    return need(reply, complaint(reply, method), *_GOOD)


def rows_of(reply: HttpReply, name: str) -> list[Told] | None:
    """The objects of a list in a reply; None when it is none, or holds something else."""
    told = read_reply(reply, *_GOOD)
    return None if told is None else objects(told, name)


def outcome_of_xpay(reply: HttpReply, payment_hash: bytes) -> PayOutcome:
    """What a reply to xpay says that is no error."""
    told = read_reply(reply, *_GOOD)
    if told is None:
        return Unresolved(reason=complaint(reply, "xpay"))
    return proven(told, "payment_preimage", payment_hash, fee=fee_of(told), by="cln")


def outcome_of_pays(rows: Sequence[Told], payment_hash: bytes) -> PayOutcome:
    """What all attempts at one payment come to: proven by one of them, or failed when every one has."""
    if not rows:
        return never_heard("cln")
    if any(hash_of(row, "payment_hash") != payment_hash for row in rows):
        return Unresolved(reason="cln tells something else than it was asked")
    complete = [row for row in rows if text(row, "status") == "complete"]
    for row in complete:
        preimage = preimage_of(row, "preimage", payment_hash)
        if preimage is not None:
            return Paid(preimage=preimage, fee=fee_of(row))
    if complete:
        return Unresolved(reason=no_proof("cln"))
    if all(text(row, "status") == "failed" for row in rows):
        return Failed(reason="cln says that the payment failed")
    return in_flight()


def fee_of(told: Told) -> Amount:
    """What was sent beyond what arrived; nothing where it is not told."""
    sent, arrived = msats_of(told, "amount_sent_msat"), msats_of(told, "amount_msat")
    return sent - arrived if sent is not None and arrived is not None and sent > arrived else NOTHING


def msats_of(told: Told, name: str) -> Amount | None:
    """An amount: a number, or from an older one a text, `1000msat`."""
    value: Json = told.get(name)
    match = _MSATS.fullmatch(value) if isinstance(value, str) else None
    return msats(told if match is None else {name: int(match[1])}, name)
