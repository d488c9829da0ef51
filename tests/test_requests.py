"""What is requests' own when it buys; what all libraries have in common is told in tests/http/test_buy*.py."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from requests.auth import HTTPBasicAuth

from farebox.core.errors import BodyNotReplayable, OriginChanged, PaidNotServed, PaidRedirect, StoreUnavailable
from farebox.core.exchange import Wire
from farebox.dialects import L402
from farebox.requests import Adapter, Session, _with_proof
from farebox.testing.shoppers import RequestsClient
from farebox.testing.shopping import ANSWER, PROMPT, SHOP, Face, Parts
from farebox.testing.wires import RequestsWire


@pytest.fixture
def face() -> Face:
    return Face("requests")


def opened(face: Face, **options: Any) -> Session:
    client: RequestsClient = face.open(**options)
    return client.session


def test_an_answer_says_what_it_cost(face: Face) -> None:
    answer: Any = opened(face).post(SHOP, json=PROMPT)

    assert "21 sat" == str(answer.farebox.paid)
    assert ANSWER == answer.json()


def test_an_adapter_makes_a_session_of_one_s_own_pay(face: Face) -> None:
    session = requests.Session()
    session.mount("https://shop.example/", Adapter(buyer=opened(face).buyer, over=RequestsWire(face.shop)))

    assert ANSWER == session.post(SHOP, json=PROMPT).json()
    assert face.row.served


@pytest.mark.parametrize(
    "body",
    [
        lambda: {"data": b"bytes"},
        lambda: {"data": bytearray(b"bytes")},
        lambda: {"data": "téxt"},
        lambda: {"data": {"a": "1"}},
        lambda: {"data": [("a", "1"), ("a", "2")]},
        lambda: {"json": [1]},
        lambda: {"data": io.BytesIO(b"a file")},
        lambda: {"data": io.StringIO("téxt")},
        lambda: {"files": {"a": ("a.txt", io.BytesIO(b"a file"))}, "data": {"b": "1"}},
        lambda: {},
    ],
)
def test_a_body_that_can_be_sent_again_is_sent_again_the_same(face: Face, body: Any) -> None:
    assert 200 == opened(face).post(SHOP, **body()).status_code

    first, second = face.shop.seen
    assert first.content == second.content
    assert first.headers.get("content-length") == second.headers.get("content-length") == str(len(first.content))
    assert first.headers.get("content-type") == second.headers.get("content-type")


def test_a_file_that_was_read_in_part_is_sent_from_there(face: Face) -> None:
    file = io.BytesIO(b"0123456789")
    file.seek(5)

    opened(face).post(SHOP, data=file)

    assert [b"56789", b"56789"] == [request.content for request in face.shop.seen]


class Streamed:
    """A file that can be read once, as an encoder that streams is."""

    def __init__(self) -> None:
        self._rest = b"{}"

    def __iter__(self) -> Iterator[bytes]:
        yield self.read()

    def read(self, _: int = -1) -> bytes:
        rest, self._rest = self._rest, b""
        return rest


class Told(Streamed):
    """The same, which knows where it stands and can't go back."""

    def tell(self) -> int:
        return 0

    def seekable(self) -> bool:
        return False


def pipe() -> Any:
    reading, writing = os.pipe()
    os.write(writing, b"{}")
    os.close(writing)
    return os.fdopen(reading, "rb")


@pytest.mark.parametrize("once", [pipe, Streamed, Told, lambda: iter([b"{}"])])
def test_a_body_that_can_be_read_only_once_is_refused_before_paying(face: Face, once: Any) -> None:
    body = once()
    with pytest.raises(BodyNotReplayable):
        opened(face).post(SHOP, data=body)
    if once is pipe:
        body.close()

    assert [] == face.wallet.payments
    assert [b"{}"] == [request.content for request in face.shop.seen]


def test_redirects_are_followed_unless_told_otherwise_and_never_with_the_proof_elsewhere(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.redirects(307, "https://evil.example/"), face.shop.answers()]

    assert ANSWER == opened(face).post(SHOP, json=PROMPT).json()

    _, proven, elsewhere = face.shop.seen
    assert "authorization" in proven.headers
    assert "authorization" not in elsewhere.headers


def test_a_proof_does_not_come_back_from_another_origin(face: Face) -> None:
    face.shop.script = [
        face.shop.asks(),
        face.shop.redirects(307, "https://evil.example/"),
        face.shop.redirects(307, SHOP + "/v2"),
        face.shop.answers(),
    ]

    opened(face).post(SHOP, json=PROMPT)

    assert ["authorization" in request.headers for request in face.shop.seen] == [False, True, False, False]


def test_another_origin_that_asks_after_the_redirect_of_a_paid_answer_is_not_paid(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.redirects(302, "https://evil.example/"), face.shop.asks()]

    with pytest.raises(OriginChanged):
        opened(face).post(SHOP, json=PROMPT)

    assert 1 == len(face.wallet.payments)


def test_a_seller_that_redirects_a_paid_call_and_asks_again_is_not_paid_again(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.redirects(307, "/v2"), face.shop.asks()]

    with pytest.raises(PaidRedirect) as failure:
        opened(face).post(SHOP, json=PROMPT)

    assert failure.value.evidence["payment_hash"] == face.wallet.payments[0].hex()
    assert str(failure.value.evidence["location"]).endswith("/v2")
    assert 1 == len(face.wallet.payments)


def test_a_request_that_was_redirected_can_be_made_again_as_a_call_of_its_own(face: Face) -> None:
    session = opened(face)
    request = session.prepare_request(requests.Request("POST", SHOP, json=PROMPT))
    for _ in range(2):
        face.shop.script = [face.shop.asks(), face.shop.redirects(307, "/v2")]
        assert ANSWER == session.send(request).json()

    assert 2 == len(face.wallet.payments)


def test_an_auth_of_the_caller_s_that_sends_again_does_it_through_the_paying_adapter(face: Face) -> None:
    session = opened(face)

    answer = session.get(SHOP, auth=HTTPBasicAuth("me", "pw"))

    assert session.get_adapter(SHOP) is answer.connection


def test_an_answer_is_served_by_whichever_way_of_reading_ends_it(face: Face) -> None:
    ways: list[Any] = [
        lambda answer: b"".join(answer.iter_content(7)),
        lambda answer: b"".join(answer.iter_lines()),
        lambda answer: answer.content,
        lambda answer: answer.raw.read(),
        lambda answer: b"".join(iter(lambda: answer.raw.read(5), b"")),
        lambda answer: b"".join(answer.raw.stream(3)),
    ]
    for way in ways:
        face.purse.rows.clear()
        with opened(face).post(SHOP, json=PROMPT, stream=True) as answer:
            assert not face.row.served
            assert b"one, two, three" in way(answer)
            assert face.row.served


def test_an_answer_that_is_closed_early_is_not_served(face: Face) -> None:
    parts = Parts([b"x" * 10] * 10)
    face.shop.script = [face.shop.asks(), face.shop.answer(200, parts, {})]

    with opened(face).post(SHOP, json=PROMPT, stream=True) as answer:
        assert b"x" * 10 == next(answer.iter_content(10))

    assert parts.closed
    assert not face.row.served


def test_an_answer_without_a_body_is_served_at_once(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.answer(200, Parts([]), {"content-length": "0"})]

    with opened(face).post(SHOP, json=PROMPT, stream=True):
        assert face.row.served


def test_an_empty_answer_that_may_have_been_cut_off_in_its_head_is_asked_for_twice(face: Face) -> None:
    face.shop.script = [face.shop.asks(), *[face.shop.answer(200, Parts([]), {}) for _ in range(2)]]

    assert b"" == opened(face).post(SHOP, json=PROMPT).content

    assert [None, True, True] == [proof and proof.startswith("L402") for proof in face.shop.proofs()]
    assert face.row.served


def test_an_empty_answer_that_may_have_been_cut_off_in_its_head_is_not_served_to_who_reads_it(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.answer(200, Parts([]), {})]

    with opened(face).post(SHOP, json=PROMPT, stream=True) as answer:
        assert b"" == answer.content

    assert not face.row.served


def test_where_a_kept_proof_is_redirected_the_call_may_still_be_paid(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(L402, "reusable_until", lambda _self, _challenge, *, now: now + timedelta(days=1))
    session = opened(face)
    session.post(SHOP, json=PROMPT)
    face.shop.script = [face.shop.redirects(307, "/v2"), face.shop.asks()]

    assert ANSWER == session.post(SHOP, json=PROMPT).json()

    assert 2 == len(face.wallet.payments)


def test_several_challenges_in_several_headers_are_all_read(face: Face) -> None:
    asks = face.shop.asks()
    (told,) = [value for name, value in asks.headers.items() if name == "www-authenticate"]
    asks.headers = httpx.Headers([("www-authenticate", 'Basic realm="x"'), ("www-authenticate", told)])
    face.shop.script = [asks]

    assert ANSWER == opened(face).post(SHOP, json=PROMPT).json()


def test_a_purse_that_was_opened_here_is_closed_with_the_session(face: Face, tmp_path: Path) -> None:
    with Session(wallet=face.wallet, budget="500 sat/day", purse=tmp_path / "purse.db") as session:
        assert () == session.buyer.resume()
    with pytest.raises(StoreUnavailable):
        session.buyer.resume()


def test_a_proof_may_be_a_parameter_or_a_member_of_the_body() -> None:
    request = requests.Request("POST", SHOP + "?a=1&payment_hash=old&b=%20", json={"x": 1}).prepare()

    proven = _with_proof(request, Wire(query=(("payment_hash", "new"),), body={"payment_hash": "new"}))

    assert SHOP + "?a=1&b=%20&payment_hash=new" == proven.url
    assert {"x": 1, "payment_hash": "new"} == requests.compat.json.loads(proven.body or "")
    assert str(len(proven.body or "")) == proven.headers["content-length"]
    assert b'{"x": 1}' == request.body


def test_a_chunk_of_less_than_nothing_is_an_answer_that_broke_off(face: Face) -> None:
    """requests lets the ValueError through that is raised below it."""
    torn = [face.shop.answer(200, Parts([b"x"], ValueError("read length must be non-negative")), {}) for _ in range(9)]
    face.shop.script = [face.shop.asks(), *torn]

    with pytest.raises(PaidNotServed):
        opened(face).post(SHOP, json=PROMPT)
    assert 1 == len(face.wallet.payments)
    assert face.row.undelivered_at is not None
