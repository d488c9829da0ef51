"""What a caller of the proxy is told instead of an answer: a problem (RFC 9457), and never a 402.

Rules
1. A caller that can't pay must not take a problem for a price, and one that tries again by itself must not do so for
   ever: what our own limits refuse is 403, and what was paid and can't be had any more is 410.
2. 502, 503 and 504 are for what may be better in a moment, and tell whether money moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import httpx

from farebox.core.errors import (
    FareboxError,
    PaidAsCredit,
    PaidNotServed,
    PaymentFailed,
    PaymentUnresolved,
    PurchaseError,
    StoreUnavailable,
    TooManyInFlight,
    WalletError,
)
from farebox.core.exchange import Json
from farebox.http.problem import PROBLEM_TYPE

Header = tuple[bytes, bytes]

_NOTHING: Final[Mapping[str, Json]] = MappingProxyType({})
_TAKEN: Final = frozenset(("type", "title", "status", "detail"))  # what a problem's own members are called


class Refusal(Exception):
    """A problem to answer with: no money moved, unless its members tell otherwise.

    kind: its type's last word, such as `over-budget`. members: what else it tells.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str | None = None,
        *,
        members: Mapping[str, Json] = _NOTHING,
        headers: tuple[Header, ...] = (),
    ) -> None:
        super().__init__(detail or title)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.members = members
        self.headers = headers

    def body(self) -> bytes:
        """The problem, as JSON."""
        told: dict[str, Json] = {"type": PROBLEM_TYPE + self.kind, "title": self.title, "status": self.status}
        if self.detail is not None:
            told["detail"] = self.detail
        for name, value in {"money_moved": False, **self.members}.items():
            told[f"seller_{name}" if name in _TAKEN else name] = value
        return json.dumps(told, ensure_ascii=False).encode()


def malformed(detail: str) -> Refusal:
    """A request that is not one, or could be read in two ways."""
    return Refusal(400, "malformed-request", "The request can't be forwarded", detail)


def refusal_of(error: FareboxError | httpx.HTTPError) -> Refusal:
    """What a caller is told of an error of ours, or of a server that can't be reached."""
    match error:
        case PurchaseError():
            return _of_purchase(error)
        case StoreUnavailable() | WalletError():
            return _ours(503, error, retry_after_s=2)
        case FareboxError():
            return _ours(403, error)
        case httpx.TimeoutException():
            return _network(504, "server-silent", "The server did not answer in time", error)
    return _network(502, "server-unreachable", "The server could not be reached, or broke off", error)


def _of_purchase(error: PurchaseError) -> Refusal:
    told = error.as_json()
    status, retry_after_s = _status(error)
    return Refusal(
        status,
        error.type,
        error.title,
        error.detail,
        members={name: value for name, value in told.items() if name not in ("type", "title", "detail")},
        headers=_retry_after(retry_after_s),
    )


def _status(error: PurchaseError) -> tuple[int, int | None]:
    match error:
        case PaymentUnresolved() | TooManyInFlight():
            return 503, 5
        case PaidAsCredit():  # the same call again would be paid anew
            return 410, None
        case PaidNotServed() | PaymentFailed():
            return 502, None
    return 403, None


def _ours(status: int, error: FareboxError, *, retry_after_s: int | None = None) -> Refusal:
    return Refusal(
        status,
        error.type,
        error.title,  # and no detail, which may name files and nodes
        headers=_retry_after(retry_after_s),
    )


def _network(status: int, kind: str, title: str, error: httpx.HTTPError) -> Refusal:
    return Refusal(status, kind, title, type(error).__name__)


def _retry_after(seconds: int | None) -> tuple[Header, ...]:
    return () if seconds is None else ((b"retry-after", b"%d" % seconds),)
