"""Sellers who send the buyer elsewhere, before they are paid and after."""

from __future__ import annotations

from typing import Any, Final

import httpx
import httpx2

from farebox.core.errors import OriginChanged, PaidNotServed
from farebox.testing.hostile.stage import ELSEWHERE, HOME, Scenario

STATUSES: Final = (301, 302, 303, 307, 308)
PLACES: Final = (
    ELSEWHERE,
    "http://shop.example",
    "https://shop.example:8443",
    "https://shop.example.evil.example",
    "https://api.shop.example",
    "https://shop.example@evil.example",
    "https://sh\u043ep.example",
    "https://shop.example.",
    "https://203.0.113.7",
    "//evil.example",
)
NO_PLACES: Final = (
    "lightning:lnbc1",
    "file:///etc/passwd",
    "https://[",
    "http://a:99999999/",
    "//",
    "https://\u00fe\u200b/",
)
_LIBRARY_ERRORS: Final[Any] = (httpx.RequestError, httpx2.RequestError, httpx.InvalidURL, httpx2.InvalidURL)


def _before(status: int, place: str) -> Scenario:
    return Scenario(
        f"{status} to {place!a} before it asks",
        lambda s: [s.redirects(status, f"{place}/paid"), s.l402(s.invoice())],
        OriginChanged,
        follows=True,
    )


def _nowhere(place: str) -> Scenario:
    return Scenario(
        f"a redirect to {place!a}, which is no place, before it asks",
        lambda s: [s.redirects(302, place)],
        _LIBRARY_ERRORS,
        follows=True,
    )


def _nowhere_after(place: str) -> Scenario:
    return Scenario(
        f"a redirect to {place!a}, which is no place, of the paid call",
        lambda s: [s.l402(s.invoice()), s.redirects(302, place)],
        PaidNotServed,
        paid=1,
        follows=True,
    )


def _after(status: int, place: str) -> Scenario:
    return Scenario(
        name=f"{status} to {place!a} of the paid call",
        acts=lambda s: [s.l402(s.invoice()), s.redirects(status, f"{place}/answer"), s.serves()],
        paid=1,
        follows=True,
    )


def _with_cookie(seller: Any) -> Any:
    sound = seller.l402(seller.invoice())

    def act(request: Any) -> Any:
        answer = sound(request)
        answer.headers["set-cookie"] = "proof=1; Domain=example; Path=/"
        return answer

    return act


REDIRECTS: Final = (
    *[_before(status, place) for status, place in zip(STATUSES * 2, PLACES, strict=True)],
    *[_after(status, place) for status, place in zip(STATUSES * 2, PLACES, strict=True)],
    Scenario(
        name="a redirect elsewhere and home again before it asks",
        acts=lambda s: [
            s.redirects(307, f"{ELSEWHERE}/"),
            s.redirects(307, f"{HOME}/paid"),
            s.l402(s.invoice()),
            s.serves(),
        ],
        paid=1,
        follows=True,
    ),
    Scenario(
        name="a redirect of an x402 call that was paid",
        acts=lambda s: [s.x402(s.invoice()), s.redirects(307, f"{ELSEWHERE}/answer"), s.serves()],
        paid=1,
        follows=True,
    ),
    Scenario(
        name="a cookie for everybody with the challenge, and a redirect of the paid call",
        acts=lambda s: [_with_cookie(s), s.redirects(302, f"{ELSEWHERE}/answer"), s.serves()],
        paid=1,
        follows=True,
    ),
    Scenario(
        "redirects without an end before it asks", lambda s: [s.redirects(302, "/again")], _LIBRARY_ERRORS, follows=True
    ),
    Scenario(
        "redirects without an end of the paid call",
        lambda s: [s.l402(s.invoice()), s.redirects(302, "/again")],
        PaidNotServed,
        paid=1,
        follows=True,
    ),
    *[_nowhere(place) for place in NO_PLACES],
    *[_nowhere_after(place) for place in NO_PLACES],
    Scenario(
        name="a challenge with a redirect that is not followed",
        acts=lambda s: [
            s.says(302, [("location", "/x"), ("www-authenticate", f"L402 macaroon=AA==, invoice={s.invoice().text}")])
        ],
    ),
)
