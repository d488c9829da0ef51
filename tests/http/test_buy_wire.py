"""What goes over the wire when each client buys: bodies, redirects, and the body of a 402."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests

from farebox.core.amount import Amount
from farebox.core.errors import (
    BodyNotReplayable,
    ChallengeUnreadable,
    OriginChanged,
    PaidNotServed,
    PaidRedirect,
    SellerShunned,
    StoreUnavailable,
)
from farebox.core.secret import KeyRing
from farebox.dialects import L402, PaymentAuth, PaymentHash
from farebox.http.buy_read import is_short_problem
from farebox.http.buy_wire import awatch, watch
from farebox.testing.shopping import ALL, ANSWER, CLIENTS, FACES, OTHERS, SHOP, Face, Parts

NO_PLACE = (httpx.InvalidURL, httpx2.InvalidURL, requests.exceptions.InvalidURL, aiohttp.InvalidURL)


@pytest.fixture(params=ALL)
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


# --- bodies -----------------------------------------------------------------------------------------------------------


def test_a_generator_is_sent_once_and_refused_before_paying_when_it_has_a_price(face: Face) -> None:
    def parts() -> Iterator[bytes]:
        yield b"{}"

    async def aparts() -> AsyncIterator[bytes]:
        yield b"{}"

    face.shop.script = [face.shop.answers()]
    assert face.call(content=aparts() if face.is_async else parts()).json() == ANSWER

    with pytest.raises(BodyNotReplayable) as refusal:
        face.call(content=aparts() if face.is_async else parts())
    assert refusal.value.money_moved is False
    assert face.wallet.payments == []
    assert [b"{}", b"{}"] == [request.content for request in face.shop.seen]


@pytest.mark.parametrize(
    "body",
    [
        lambda: {"content": b"bytes"},
        lambda: {"content": "text"},
        lambda: {"json": {"a": 1}},
        lambda: {"data": {"a": "1"}},
        lambda: {"files": {"a": ("a.txt", io.BytesIO(b"a file"))}},
        lambda: {"content": b""},
    ],
)
def test_a_body_that_can_be_sent_again_is(face: Face, body: Callable[[], dict[str, Any]]) -> None:
    assert face.call(**body()).json() == ANSWER

    first, second = face.shop.seen
    assert first.content == second.content
    assert first.headers.get("content-length") == second.headers.get("content-length")


@pytest.mark.parametrize("kind", ["client", "auth httpx", "auth httpx2", *OTHERS])
def test_a_file_is_sent_again_from_its_beginning(kind: str, tmp_path: Path) -> None:
    face = Face(kind)
    (tmp_path / "file").write_bytes(b"a file" * 100_000)

    with (tmp_path / "file").open("rb") as file:
        face.call(content=file)

    assert [b"a file" * 100_000] * 2 == [request.content for request in face.shop.seen]


# --- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "method"), [(307, "POST"), (308, "POST"), (302, "GET"), (303, "GET")])
def test_after_a_redirect_within_the_origin_the_proof_goes_to_whoever_asked(
    face: Face, status: int, method: str
) -> None:
    face.shop.script = [face.shop.redirects(status, "/v2/dvm")]

    assert face.call(client=face.open(follow_redirects=True)).json() == ANSWER

    assert ["/api/dvm", "/v2/dvm", "/v2/dvm"] == [request.url.path for request in face.shop.seen]
    assert ["POST", method, method] == [request.method for request in face.shop.seen]
    assert face.shop.seen[1].content == face.shop.seen[2].content


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/api",
        "http://shop.example/api",
        "https://shop.example:8443/api",
        "https://shop.example.evil/",
    ],
)
def test_another_origin_that_asks_after_a_redirect_is_not_paid(face: Face, to: str) -> None:
    face.shop.script = [face.shop.redirects(307, to)]

    with pytest.raises(OriginChanged):
        face.call(client=face.open(follow_redirects=True))

    assert face.purse.rows == {}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["https://evil.example/api", "http://shop.example/api", "https://shop.example:8443/api"])
def test_a_proof_does_not_follow_a_redirect_to_another_origin(face: Face, status: int, to: str) -> None:
    for dialect in (L402(KeyRing.generate()), PaymentAuth(KeyRing.generate()), PaymentHash()):
        face.shop.seen.clear()
        face.shop.dialect = dialect
        face.shop.script = [face.shop.asks(), face.shop.redirects(status, to), face.shop.answers()]

        assert face.call("GET", client=face.open(follow_redirects=True)).json() == ANSWER

        asked, proven, elsewhere = face.shop.seen
        assert "authorization" in proven.headers
        told = set(map(str.lower, elsewhere.headers)) - set(map(str.lower, asked.headers))
        assert told == set()
        assert face.wallet.payments[-1].hex() not in str(elsewhere.url)


def test_a_redirect_of_the_paid_request_within_the_origin_keeps_the_proof(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.redirects(307, "/v2/dvm")]

    assert face.call(client=face.open(follow_redirects=True)).json() == ANSWER
    assert face.shop.proofs()[1] == face.shop.proofs()[2]


def test_a_paid_redirect_to_what_costs_by_itself_is_told_and_still_there_for_who_follows_none(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.redirects(307, "/v2/dvm"), face.shop.asks()]
    following = face.open(follow_redirects=True)
    for _ in range(3):
        with pytest.raises(PaidRedirect) as failure:
            face.call(client=following)
        assert str(failure.value.evidence["location"]).endswith("/v2/dvm")
        face.shop.script = [face.shop.redirects(307, "/v2/dvm"), face.shop.asks()]
    face.shop.script = [face.shop.redirects(307, "/v2/dvm")]

    answer = face.call(client=face.open())

    assert (307, True) == (answer.status_code, answer.extensions["farebox"].replayed)
    assert (1, None) == (len(face.wallet.payments), face.row.undelivered_at)


def asks_in_x402(face: Face) -> Any:
    """A 402 whose proof goes into a field that HTTP clients take along wherever a redirect leads."""
    invoice = face.mint.invoice()
    offer = {"scheme": "exact", "network": "lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328", "amount": "21000", "asset": "BTC"}
    offer |= {"payTo": invoice.payee.hex(), "maxTimeoutSeconds": 600, "extra": {"invoice": invoice.text}}
    told = base64.b64encode(json.dumps({"x402Version": 2, "accepts": [offer]}).encode()).decode()
    return face.shop.answer(402, Parts([]), {"payment-required": told})


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_call_that_was_led_to_its_price_is_taken_up_again_by_the_way_it_was_led(kind: str) -> None:
    face = Face(kind)
    client = face.open(follow_redirects=True)
    face.shop.script = [face.shop.redirects(307, "/v2"), asks_in_x402(face), *[face.library.ReadTimeout("slow")] * 4]
    with pytest.raises(PaidNotServed):
        face.call(client=client)
    face.shop.script = [face.shop.redirects(307, "/v2"), face.shop.answers()]

    answer = face.call(client=client)

    assert (ANSWER, True, True) == (answer.json(), answer.extensions["farebox"].replayed, face.row.served)
    assert 1 == len(face.wallet.payments)
    shown, led = face.shop.seen[-2:]
    assert ("/v2", shown.headers["payment-signature"]) == (led.url.path, led.headers["payment-signature"])
    assert shown.content == led.content


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("to", ["https://evil.example/api", "http://shop.example/api", "https://shop.example:8443/api"])
def test_a_proof_that_clients_would_take_along_goes_to_no_other_origin(kind: str, to: str) -> None:
    face = Face(kind)
    face.shop.script = [asks_in_x402(face), face.shop.redirects(307, "/v2"), face.shop.redirects(307, to)]

    assert 307 == face.call(client=face.open(follow_redirects=True)).status_code

    assert ["shop.example"] * 3 == [request.url.host for request in face.shop.seen]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_proof_that_goes_round_and_round_is_not_answered(kind: str) -> None:
    face = Face(kind)
    face.shop.script = [asks_in_x402(face), *[face.shop.redirects(307, "/v2") for _ in range(100)]]

    with pytest.raises(PaidRedirect, match="TooManyRedirects"):
        face.call(client=face.open(follow_redirects=True))


def test_a_paid_redirect_to_what_costs_by_itself_is_held_against_the_seller(face: Face) -> None:
    client = face.open(follow_redirects=True)
    for number in range(2):
        face.shop.script = [face.shop.asks(), face.shop.redirects(307, "/v2/dvm"), face.shop.asks()]
        with pytest.raises(PaidRedirect):
            face.call(url=f"{SHOP}?{number}", client=client)

    with pytest.raises(SellerShunned):
        face.call(url=f"{SHOP}?2", client=client)

    assert 2 == len(face.wallet.payments)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("to", ["https://shop.example/v2", "https://other.example/", "ftp://shop.example/v2"])
def test_a_paid_redirect_that_leads_to_no_answer_is_told_and_still_there_for_who_follows_none(
    kind: str, to: str
) -> None:
    face = Face(kind)
    face.shop.script = [face.shop.asks()]
    for _ in range(4):
        face.shop.script += [face.shop.redirects(302, to), face.library.ConnectError("refused")]

    with pytest.raises(PaidRedirect) as failure:
        face.call("GET", client=face.open(follow_redirects=True))

    assert (to, True) == (failure.value.evidence["location"], failure.value.money_moved)
    face.shop.script = [face.shop.redirects(302, to)]
    answer = face.call("GET", client=face.open())
    assert (302, True) == (answer.status_code, answer.extensions["farebox"].replayed)
    assert (1, None) == (len(face.wallet.payments), face.row.undelivered_at)


@pytest.mark.parametrize("to", ["/v2/dvm", "https://other.example/"])
def test_a_paid_redirect_is_served_when_what_it_leads_to_has_come(face: Face, to: str) -> None:
    for number in (1, 2):
        face.purse.rows.clear()
        face.shop.script = [face.shop.asks(), face.shop.redirects(307, to), face.shop.answers()]

        assert face.call(client=face.open(follow_redirects=True)).json() == ANSWER

        assert (number, True) == (len(face.wallet.payments), face.row.served)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("broken", [503, 402])
def test_a_paid_redirect_that_leads_to_no_answer_is_not_paid_again(kind: str, broken: int) -> None:
    face = Face(kind)
    client = face.open(follow_redirects=True)
    face.shop.script = [face.shop.asks(), face.shop.redirects(307, "/v2"), face.shop.problem(broken, "broken")]
    with suppress(PaidRedirect):
        assert broken == face.call(client=client).status_code
    assert not face.row.served
    face.shop.script = [face.shop.redirects(307, "/v2"), face.shop.answers()]

    answer = face.call(client=client)

    assert (ANSWER, True) == (answer.json(), answer.extensions["farebox"].replayed)
    assert (1, True) == (len(face.wallet.payments), face.row.served)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("end", ["401", "429", "500", "nothing", "a part", "round and round"])
def test_a_paid_redirect_that_leads_to_no_answer_is_held_against_the_seller(kind: str, end: str) -> None:
    face = Face(kind)
    client = face.open(follow_redirects=True)
    cut = face.library.RemoteProtocolError("cut")
    ends = {
        "nothing": lambda: [cut],
        "a part": lambda: [face.shop.answers(Parts([b"{"], cut))],
        "round and round": lambda: [face.shop.redirects(307, "/v2") for _ in range(40)],
    }
    errors = (requests.RequestException, aiohttp.ClientError, OSError)
    for number in range(2):
        face.shop.script = [face.shop.asks(), face.shop.redirects(307, "/v2")]
        face.shop.script += ends[end]() if end in ends else [face.shop.problem(int(end), "broken")]
        with suppress(*errors):
            face.call(url=f"{SHOP}?{number}", client=client)

    face.shop.script = []
    with pytest.raises(SellerShunned):
        face.call(url=f"{SHOP}?2", client=client)

    assert 2 == len(face.wallet.payments)


@pytest.mark.parametrize("first", ["client", *OTHERS])
@pytest.mark.parametrize("then", ["client", *OTHERS])
def test_a_call_that_was_led_to_its_price_is_known_by_whichever_library_makes_it_again(first: str, then: str) -> None:
    face, other = Face(first), Face(then)
    other.wallet, other.purse, other.shop = face.wallet, face.purse, face.shop
    face.shop.script = [face.shop.redirects(307, "/v2"), face.shop.asks()]
    face.shop.script += [face.library.ReadTimeout("slow")] * 4
    with pytest.raises(PaidNotServed):
        face.call("GET", client=face.open(follow_redirects=True))
    face.shop.script = [face.shop.redirects(307, "/v2")]

    answer = other.call("GET", client=other.open(follow_redirects=True))

    assert (ANSWER, True) == (answer.json(), answer.extensions["farebox"].replayed)
    assert (1, True) == (len(face.wallet.payments), face.row.served)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_redirect_that_was_paid_for_after_another_one_is_not_paid_again(kind: str) -> None:
    face = Face(kind)
    client = face.open(follow_redirects=True)
    face.shop.script = [
        face.shop.redirects(307, "/v2"),
        face.shop.asks(),
        face.shop.redirects(307, "/v3"),
        face.shop.asks(),
    ]
    with pytest.raises(PaidRedirect):
        face.call(client=client)
    assert not face.row.served
    face.shop.script = [face.shop.redirects(307, "/v2"), face.shop.redirects(307, "/v3"), face.shop.answers()]

    assert ANSWER == face.call(client=client).json()
    assert (1, True) == (len(face.wallet.payments), face.row.served)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_paid_redirect_that_leads_back_by_another_origin_is_not_paid_again(kind: str) -> None:
    face = Face(kind)
    face.shop.script = [
        face.shop.asks(),
        face.shop.redirects(307, "https://evil.example/"),
        face.shop.redirects(307, SHOP + "/v2"),
        face.shop.asks(),
    ]

    with pytest.raises(OriginChanged):
        face.call(client=face.open(follow_redirects=True))

    assert 1 == len(face.wallet.payments)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_paid_redirect_to_what_nobody_can_spell_is_held_against_the_seller(kind: str) -> None:
    face = Face(kind)
    face.shop.script = [face.shop.asks(), *(UnicodeError("label empty or too long") for _ in range(9))]  # http://a..b/

    with pytest.raises(PaidNotServed):
        face.call("GET", client=face.open(follow_redirects=True))

    assert 1 == len(face.wallet.payments)
    assert face.row.undelivered_at is not None


@pytest.mark.parametrize("kind", [*OTHERS, *CLIENTS])
@pytest.mark.parametrize("place", ["shop.example:65979", "shop.example:0", "a..b"])  # some would call port 443
def test_a_redirect_to_a_place_that_nobody_can_have_is_not_followed(kind: str, place: str) -> None:
    face = Face(kind)
    face.shop.script = [face.shop.redirects(302, f"https://{place}/"), face.shop.asks()]

    with pytest.raises(NO_PLACE):
        face.call("GET", client=face.open(follow_redirects=True))

    assert ([SHOP], []) == ([str(request.url) for request in face.shop.seen], face.wallet.payments)


@pytest.mark.parametrize("place", ["shop.example:65979", "a..b"])
def test_a_place_that_nobody_can_have_is_neither_asked_nor_paid(face: Face, place: str) -> None:
    with pytest.raises(NO_PLACE):
        face.call("GET", f"https://{place}/")

    assert [] == face.shop.seen


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_paid_redirect_to_a_place_that_nobody_can_have_is_paid_and_not_served(kind: str) -> None:
    face = Face(kind)
    face.shop.script = [face.shop.asks(), *(face.shop.redirects(302, "https://shop.example:65979/") for _ in range(9))]

    with pytest.raises(PaidNotServed):
        face.call("GET", client=face.open(follow_redirects=True))

    assert 1 == len(face.wallet.payments)
    assert {SHOP} == {str(request.url) for request in face.shop.seen}


def test_a_redirect_is_what_was_bought_when_redirects_are_not_followed(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.redirects(303, "/result")]

    answer = face.call()

    assert answer.status_code == 303
    assert Amount.sats(21) == answer.extensions["farebox"].paid


# --- the body of a 402 ------------------------------------------------------------------------------------------------


def body_only(face: Face, encode: Callable[[bytes], bytes], **headers: str) -> Any:
    """A 402 that tells its invoice in its body alone."""
    invoice = face.mint.invoice()
    told = {"invoice": invoice.text, "payment_hash": invoice.payment_hash.hex(), "amount_sats": 21}
    coding = {name.replace("_", "-"): value for name, value in headers.items()}
    parts = Parts([encode(json.dumps(told).encode())])
    return face.shop.answer(402, parts, {"content-type": "application/json"} | coding)


@pytest.mark.parametrize(
    ("coding", "encode"),
    [("", bytes), ("identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)],
)
def test_a_402_that_tells_its_invoice_in_json_alone_is_paid(
    face: Face, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    face.shop.script = [body_only(face, encode, content_encoding=coding), face.shop.answers()]

    assert face.call().extensions["farebox"].dialect == "payment_hash"


@pytest.mark.parametrize(
    ("headers", "encode"),
    [
        ({"content_type": "text/html"}, bytes),
        ({"content_type": "text/plain"}, bytes),
        ({"content_encoding": "br"}, bytes),
        ({"content_encoding": "gzip, gzip"}, lambda body: gzip.compress(gzip.compress(body))),
        ({"content_encoding": "gzip"}, lambda body: body),
        ({"content_encoding": "gzip"}, lambda body: gzip.compress(body + b" " * 65_536)),
        ({}, lambda body: body + b" " * 65_536),
        ({}, lambda body: b"[" * 60_000),
        ({}, lambda body: body[:-1]),
        ({}, lambda body: b"[" + body + b"]"),
    ],
)
def test_a_body_that_is_not_small_json_is_not_believed(
    face: Face, headers: dict[str, str], encode: Callable[[bytes], bytes]
) -> None:
    face.shop.script = [body_only(face, encode, **headers)]

    with pytest.raises((ChallengeUnreadable, aiohttp.ClientError)):  # aiohttp hangs up where it can't decode
        face.call()
    assert face.wallet.payments == []


@cache
def packed(mebibytes: int) -> bytes:
    """So much of nothing, compressed, which takes its time."""
    return gzip.compress(b" " * (mebibytes * 2**20))


def test_a_bomb_beside_a_challenge_is_left_unread_and_the_challenge_paid(face: Face) -> None:
    bomb = Parts([packed(64)] * 64)
    asks = face.shop.asks()
    headers = dict(asks.headers) | {"content-encoding": "gzip"}
    face.shop.script = [face.shop.answer(402, bomb, headers)]

    assert face.call().json() == ANSWER

    assert bomb.taken <= 2 * len(bomb.parts[0])
    assert bomb.closed


@pytest.mark.parametrize("status", [401, 402, 500, 503])
def test_an_endless_answer_to_a_proof_is_not_read(face: Face, status: int) -> None:
    endless = Parts([bytes(65_536)] * 1024)
    face.shop.script = [face.shop.asks(), face.shop.answer(status, endless, {"content-type": "application/json"})]

    with suppress(PaidNotServed):
        face.call()

    assert endless.taken <= 4 * 65_536  # aiohttp buffers a little before anybody reads
    assert endless.closed


def test_a_402_that_breaks_off_is_read_by_its_headers(face: Face) -> None:
    asks = face.shop.asks()
    face.shop.script = [face.shop.answer(402, Parts([b"{"], face.library.ReadError("cut")), dict(asks.headers))]

    assert face.call().json() == ANSWER


def test_a_small_body_that_would_unfold_to_a_large_one_is_not_unfolded(face: Face) -> None:
    bomb = packed(32)
    assert len(bomb) < 65_536
    face.shop.script = [body_only(face, lambda _: bomb, content_encoding="gzip")]

    tracemalloc.start()
    with pytest.raises(ChallengeUnreadable):
        face.call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8 * 2**20


def test_a_body_that_takes_too_long_is_left(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farebox.http.buy_read._READ_WITHIN", timedelta(0))
    slow = Parts([b"{"] * 1000)
    face.shop.script = [face.shop.answer(402, slow, dict(face.shop.asks().headers))]

    assert face.call().json() == ANSWER
    assert slow.taken <= 2


@pytest.mark.parametrize("kind", FACES[2:])
def test_what_is_left_of_a_402_in_the_history_is_its_head(kind: str) -> None:
    face = Face(kind)
    asks = face.shop.asks()
    face.shop.script = [face.shop.answer(402, Parts([b"not gzip"]), dict(asks.headers) | {"content-encoding": "gzip"})]

    (asked,) = face.call().history

    assert (402, b"") == (asked.status_code, asked.content)
    assert "content-encoding" not in asked.headers


# --- the end of a stream of events ------------------------------------------------------------------------------------


class Torn(httpx.SyncByteStream, httpx.AsyncByteStream):
    """These parts, and then the connection breaks."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self.parts
        raise httpx.ReadError("torn")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part
        raise httpx.ReadError("torn")


def told_of(*parts: bytes, is_async: bool, **headers: str) -> list[str]:
    """What was told while these events were read: that they are whole, or that they broke off."""
    told: list[str] = []

    async def atell(word: str) -> None:
        told.append(word)

    response = httpx.Response(200, headers={"content-type": "text/event-stream"} | headers, stream=Torn(*parts))
    with suppress(httpx.ReadError):
        if is_async:
            awatch(response, partial(atell, "whole"), partial(atell, "broken"))
            asyncio.run(response.aread())
        else:
            watch(response, partial(told.append, "whole"), partial(told.append, "broken"))
            response.read()
    return told


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "awaiting"])
@pytest.mark.parametrize(
    "parts",
    [
        (b"data: a\n\n", b"data: [DONE]\n\n"),
        (b"data: a\n\ndata: [DONE]\n\n",),
        (b"data: a\n", b"\n", b"data: [DO", b"NE]", b"\n", b"\n"),
        (b"data:[DONE]\r\n\r\n",),
        (b"data: [DONE]\n",),
    ],
)
def test_events_are_whole_with_their_last_line_and_told_so_once(parts: tuple[bytes, ...], is_async: bool) -> None:
    assert told_of(*parts, is_async=is_async) == ["whole"]


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "awaiting"])
@pytest.mark.parametrize(
    "parts",
    [
        (b'data: {"text": "it ends with data: [DONE]', b'"}\n\n'),
        (b"data: and then data: [DONE]\n\n",),
        (b"data: [DONE]",),
        (b"data: [DONE] of 3\n\n",),
        (b"data: [DONE]\n\ndata: more\n\n",),
        (),
    ],
)
def test_what_only_looks_like_the_last_line_of_events_ends_nothing(parts: tuple[bytes, ...], is_async: bool) -> None:
    assert told_of(*parts, is_async=is_async) == ["broken"]


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "awaiting"])
def test_a_connection_that_breaks_behind_the_last_line_of_events_just_ends(is_async: bool) -> None:
    """Whoever heard of a break would ask again, and the purse knows of nothing any more that it could show."""

    async def ignored() -> None: ...

    stream = Torn(b"data: a\n\n", b"data: [DONE]\n\n")
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)
    if is_async:
        awatch(response, ignored, ignored)
        assert b"".join(stream.parts) == asyncio.run(response.aread())
    else:
        watch(response, lambda: None, lambda: None)
        assert b"".join(stream.parts) == response.read()


def test_a_purse_that_fails_at_the_end_of_events_is_told_of_all_the_same() -> None:
    def fail() -> None:
        raise StoreUnavailable("locked")

    stream = Torn(b"data: [DONE]\n\n")
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)
    watch(response, fail, fail)
    with pytest.raises(StoreUnavailable):
        response.read()


@pytest.mark.parametrize("length", ["0" * 5000, "9" * 5000, "\u0663", "-1", "1 ", "", "65537"])
def test_a_problem_of_a_length_that_is_none_is_left_to_its_caller(length: str) -> None:
    kind = {"content-type": "application/problem+json"}
    assert not is_short_problem(404, {**kind, "content-length": length})
    assert is_short_problem(404, {**kind, "content-length": "65536"})


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {"content-encoding": "identity"}])
def test_only_of_plain_events_is_the_end_known_by_a_line(headers: dict[str, str]) -> None:
    assert told_of(b"data: [DONE]\n\n", is_async=False, **headers) == ["broken"]
