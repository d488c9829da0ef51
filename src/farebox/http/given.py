"""What stands in the header section of an answer that was paid for, refused, or is given again."""

from __future__ import annotations

import re
from typing import Final

from farebox.core.exchange import Pairs, Wire
from farebox.core.payment import Answer, Payment, PaymentState
from farebox.http import problem
from farebox.http.request import RawHeaders

# What the answer's author says to caches, in all the ways in which caches are spoken to; ours is the only word on it.
_TO_CACHES: Final = frozenset(
    (
        *(b"cache-control", b"expires", b"pragma", b"age", b"x-accel-expires", b"surrogate-control"),
        *(b"cdn-cache-control", b"cloudflare-cdn-cache-control", b"fastly-cache-control", b"edge-control"),
    )
)
# Told anew for every delivery, or about one connection only.
_NOT_KEPT: Final = _TO_CACHES | frozenset(
    (b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"date", b"server")
)
_NOT_PASSED_ON: Final = _TO_CACHES | {b"connection"}
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search


def writable(headers: RawHeaders) -> bool:
    """Whether header fields can be sent as they are: no server writes others, and what split them would be a way in."""
    return all(_NAME(name) and not _CONTROL(value) for name, value in headers)


def without_word_to_caches(headers: RawHeaders) -> RawHeaders:
    """Header fields without what they tell caches, nor about the connection."""
    return [(name, value) for name, value in headers if name.lower() not in _NOT_PASSED_ON]


def kept_headers(headers: RawHeaders) -> Pairs:
    """Those that are kept to be given again."""
    kept = [(name, value) for name, value in headers if name not in _NOT_KEPT]
    kept.append((b"cache-control", b"private"))
    kept += problem.exposed(kept)
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in kept)


def paid_headers(headers: RawHeaders, receipt: Wire) -> RawHeaders:
    """The answer's own and the receipt; private, so that no cache gives it to another caller."""
    kept = without_word_to_caches(headers)
    kept.append((b"cache-control", b"private"))
    return [*kept, *problem.exposed(kept), *problem.raw_headers(receipt)]


def unpaid_headers(headers: RawHeaders, *, kept: bool = True) -> RawHeaders:
    """Those of an answer that refuses the call: nobody's for long, and readable by a page of any origin.

    kept: whether its payment is, and has not gone back.
    """
    own = without_word_to_caches(headers)
    told = [(b"payment-kept", b"true" if kept else b"false")]
    return [*own, (b"cache-control", b"no-store"), *told, *problem.exposed(own)]


def replayed_headers(answer: Answer, receipt: Wire) -> RawHeaders:
    """Those of a kept answer that is given once more, its length among them."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    headers += problem.raw_headers(receipt)
    return [*headers, (b"payment-replayed", b"true"), (b"content-length", b"%d" % len(answer.body))]


def without_length(headers: RawHeaders) -> RawHeaders:
    """Those of an answer whose length is told anew."""
    return [(name, value) for name, value in headers if name != b"content-length"]


def told_of(payment: Payment) -> str:
    """What became of the money of a call that failed, for the problem's `payment` member."""
    match payment.state:
        case PaymentState.CREDIT:
            return "kept as credit"
        case PaymentState.EXPIRED:
            return "given back; ask anew"
        case _:
            return "kept; show the same proof again"
