"""What the gate says, as HTTP answers: problems (RFC 9457) and the 402 that asks for money.

Rules
1. The 402 carries one invoice in every dialect: one `WWW-Authenticate` line that begins with L402, and a JSON body.
2. Its body is a problem and at the same time a superset of what body-reading clients of the field look for; `status` is
   the word they expect, which RFC 9457 lets a reader of numbers ignore.
3. Nothing of a 402 may be cached, and a browser may read all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from farebox.catalog.pricing import rate_members
from farebox.core.amount import Amount
from farebox.core.errors import CallerError, Unavailable
from farebox.core.exchange import Json, Wire
from farebox.core.fiat import Conversion
from farebox.core.payment import Answer, FreeCall
from farebox.gate import Challenged
from farebox.http.request import RawHeaders, Send

_EXPOSED: Final = (
    b"WWW-Authenticate, Payment-Receipt, Payment-Replayed, Payment-Kept, Retry-After, RateLimit, RateLimit-Policy, "
    b"Location"
)
_ALLOWED: Final = b"Authorization, Content-Type, Accept, X-Payment-Hash, Idempotency-Key"
_CORS: Final[RawHeaders] = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", _EXPOSED),
]
_HELD: Final = (
    " The payment is held until the call has succeeded, so it is under way for as long as the call takes; if the call "
    "fails, it goes back to you."
)
PROBLEM_TYPE: Final = "urn:farebox:problem:"
PAYMENT_REQUIRED: Final = "https://paymentauth.org/problems/payment-required"


def exposed(headers: RawHeaders) -> RawHeaders:
    """What has to be added to an answer so that a page of any origin can read it, unless its author said otherwise."""
    if any(name.lower() == b"access-control-allow-origin" for name, _ in headers):
        return [] if any(n.lower() == b"access-control-expose-headers" for n, _ in headers) else _CORS[1:]
    return list(_CORS)


async def answer(send: Send, status: int, headers: RawHeaders, body: bytes, *, head: bool) -> None:
    """Send a whole answer; for a HEAD only its head."""
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


def raw_headers(wire: Wire) -> RawHeaders:
    """The headers of a wire, those of one name joined into one line (RFC 9110, 5.3)."""
    lines: dict[str, str] = {}
    for name, value in wire.headers:
        lines[name] = f"{lines[name]}, {value}" if name in lines else value
    return [(name.encode(), value.encode("latin-1")) for name, value in lines.items()]


def problem(error: CallerError | Unavailable, extra: Mapping[str, Json] | None = None) -> tuple[RawHeaders, bytes]:
    """An error as a problem: headers and body."""
    body: dict[str, Json] = {
        "type": PROBLEM_TYPE + error.type,
        "title": error.title,
        "status": error.status,
        "error": error.type,
    }
    if error.detail:
        body["detail"] = error.detail
    body |= {name: value for name, value in error.evidence.items() if value is not None}
    body |= extra or {}
    headers: RawHeaders = [
        (b"content-type", b"application/problem+json"),
        (b"cache-control", b"no-store"),
        *_CORS,
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b'L402 realm="farebox", Payment realm="farebox"'))
    return headers, json.dumps(body, ensure_ascii=False).encode()


def free_headers(call: FreeCall, now: datetime) -> RawHeaders:
    """What is left of the free tier (draft-ietf-httpapi-ratelimit-headers)."""
    seconds = max(0, round((call.resets_at - now).total_seconds()))
    return [
        (b"ratelimit-policy", _free_policy(call.limit).encode()),
        (b"ratelimit", f'"free";r={call.remaining};t={seconds}'.encode()),
    ]


def _free_policy(calls: int) -> str:
    return f'"free";q={calls};w=86400'


def payment_required(
    challenged: Challenged, *, endpoint: str, free_calls: int, now: datetime, conversion: Conversion | None = None
) -> Answer:
    """The 402. conversion: how a price in fiat came to what is asked for now; an older invoice says nothing of it."""
    quote, invoice = challenged.quote, challenged.invoice
    if conversion is not None and conversion.amount != quote.amount:
        conversion = None
    payment_hash = invoice.payment_hash.hex()
    sats = quote.amount.in_sats_ceil()
    body: dict[str, Json] = {
        "type": PAYMENT_REQUIRED,
        "title": "Payment Required",
        "status": "payment_required",
        "error": "Payment required",
        "detail": f"{endpoint} costs {_cost(quote.amount, conversion)}."
        if challenged.retry_after is None
        else "This invoice is not paid yet, or its payment has not arrived yet; show the same proof again in a moment.",
        "message": (
            f"Pay {quote.amount} to call {endpoint}: pay the Lightning invoice, then send the very same request "
            f"again with one of: the header `X-Payment-Hash: {payment_hash}`; the query parameter "
            f"`payment_hash={payment_hash}` (both from the same address as this request); the header "
            "`Authorization: L402 <macaroon>:<preimage>`. A paid answer can be fetched again with the same proof."
            + (_HELD if challenged.held else "")
        ),
        "amount_sats": sats,
        "amount_msat": quote.amount.msat,
        "invoice": invoice.text,
        "payment_request": invoice.text,
        "payment_hash": payment_hash,
        "expires_at": invoice.expires_at.isoformat().replace("+00:00", "Z"),
        "network": invoice.network.value,
        "endpoint": endpoint,
        "free_tier": free_calls,
        "pricing_url": "/pricing",
    }
    if challenged.held:
        body["settle"] = "on-success"
    if conversion is not None:
        body |= rate_members(conversion.price, conversion.rate)
    wire = Wire(body=body) | challenged.wire
    headers = [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        *((name.decode(), value.decode("latin-1")) for name, value in raw_headers(Wire(headers=wire.headers))),
        *((name.decode(), value.decode()) for name, value in _CORS),
    ]
    if challenged.retry_after is not None:
        headers.append(("retry-after", str(max(1, round(challenged.retry_after.total_seconds())))))
    if challenged.free_call is not None:
        headers += [(n.decode(), v.decode()) for n, v in free_headers(challenged.free_call, now)]
    elif free_calls:  # whether one is left was not looked at
        headers.append(("ratelimit-policy", _free_policy(free_calls)))
    return Answer(status=402, headers=tuple(headers), body=json.dumps(dict(wire.body), ensure_ascii=False).encode())


def _cost(amount: Amount, conversion: Conversion | None) -> str:
    if conversion is None:
        return str(amount)
    price, rate = conversion.price, conversion.rate
    return (
        f"{price}, which is {amount} at {rate.per_btc:f} {rate.currency} for a bitcoin "
        f"({rate.source}, {rate.seen_at:%Y-%m-%d %H:%M:%S} UTC)"
    )


def preflight(methods: Sequence[str], headers: RawHeaders) -> RawHeaders:
    """The headers that let a page of any origin make a paid call (Fetch, CORS preflight)."""
    asked = b", ".join(value for name, value in headers if name.lower() == b"access-control-request-headers")
    allowed = ", ".join(methods).encode()
    return [
        *_CORS,
        (b"access-control-allow-methods", allowed),
        (b"access-control-allow-headers", asked + b", " + _ALLOWED if asked else _ALLOWED),
        (b"access-control-max-age", b"600"),
        (b"allow", allowed),
        (b"vary", b"Access-Control-Request-Headers"),
    ]
