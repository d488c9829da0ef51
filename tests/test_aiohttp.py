"""What is aiohttp's own when it buys; what all libraries have in common is told in tests/http/test_buy*.py."""

from __future__ import annotations

import io
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from farebox.aiohttp import ClientSession
from farebox.core.errors import BodyNotReplayable, OriginChanged, PaidRedirect, StoreUnavailable
from farebox.dialects import L402
from farebox.testing.shopping import ANSWER, PROMPT, SHOP, Face, Parts
from farebox.testing.wires import AiohttpWire

pytestmark = pytest.mark.anyio


@pytest.fixture
def face() -> Face:
    return Face("aiohttp async")


def opened(face: Face, **options: Any) -> ClientSession:
    return ClientSession(buyer=face.open().buyer, connector=AiohttpWire(face.shop), **options)


async def test_an_answer_says_what_it_cost(face: Face) -> None:
    async with opened(face) as session, session.post(SHOP, json=PROMPT) as answer:
        assert "21 sat" == str(answer.farebox.paid)  # type: ignore[attr-defined]
        assert ANSWER == await answer.json()


def form(file: Any) -> aiohttp.FormData:
    made = aiohttp.FormData({"b": "1"})
    made.add_field("a", file, filename="a.txt")
    return made


@pytest.mark.parametrize(
    "body",
    [
        lambda: {"data": b"bytes"},
        lambda: {"data": "téxt"},
        lambda: {"data": {"a": "1"}},
        lambda: {"json": [1]},
        lambda: {"data": io.BytesIO(b"a file")},
        lambda: {"data": io.StringIO("téxt")},
        lambda: {"data": form(io.BytesIO(b"a file"))},
        lambda: {"data": form(b"bytes")},
        lambda: {},
    ],
)
async def test_a_body_that_can_be_sent_again_is_sent_again_the_same(face: Face, body: Any) -> None:
    async with opened(face) as session, session.post(SHOP, **body()) as answer:
        assert 200 == answer.status

    first, second = face.shop.seen
    assert first.content == second.content
    for name in ("content-length", "content-type"):
        assert first.headers.get(name) == second.headers.get(name)


async def test_a_file_is_sent_again_from_where_it_stood(face: Face, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        file.seek(5)
        async with opened(face) as session, session.post(SHOP, data=file) as answer:
            assert 200 == answer.status

    assert [b"56789", b"56789"] == [request.content for request in face.shop.seen]


async def test_a_file_that_changes_meanwhile_is_sent_again_as_it_was(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    def ask(request: httpx.Request) -> Any:
        path.write_bytes(b"9876543210")
        return face.shop(request)

    with path.open("rb") as file:
        async with (
            ClientSession(buyer=face.open().buyer, connector=AiohttpWire(ask)) as session,
            session.post(SHOP, data=file) as answer,
        ):
            assert 200 == answer.status

    assert [b"0123456789"] * 2 == [request.content for request in face.shop.seen]


async def test_where_a_kept_proof_is_redirected_the_call_may_still_be_paid(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(L402, "reusable_until", lambda _self, _challenge, *, now: now + timedelta(days=1))
    async with opened(face) as session:
        await (await session.post(SHOP, json=PROMPT)).read()
        face.shop.script = [face.shop.redirects(307, "/v2"), face.shop.asks()]

        async with session.post(SHOP, json=PROMPT) as answer:
            assert ANSWER == await answer.json()

    assert 2 == len(face.wallet.payments)


async def parts() -> AsyncIterator[bytes]:
    yield b"{}"


def pipe() -> Any:
    reading, writing = os.pipe()
    os.write(writing, b"{}")
    os.close(writing)
    return os.fdopen(reading, "rb")


@pytest.mark.parametrize("once", [parts, pipe])
@pytest.mark.parametrize("wrap", [lambda body: body, form])
async def test_a_body_that_can_be_read_only_once_is_refused_before_paying(face: Face, once: Any, wrap: Any) -> None:
    body = once()
    async with opened(face) as session:
        with pytest.raises(BodyNotReplayable):
            await session.post(SHOP, data=wrap(body))
    if once is pipe:
        body.close()

    assert [] == face.wallet.payments
    (sent,) = face.shop.seen
    assert b"{}" in sent.content


async def test_redirects_are_followed_unless_told_otherwise_and_never_with_the_proof_elsewhere(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.redirects(307, "https://evil.example/"), face.shop.answers()]

    async with opened(face) as session, session.post(SHOP, json=PROMPT) as answer:
        assert ANSWER == await answer.json()

    assert [False, True, False] == ["authorization" in request.headers for request in face.shop.seen]


async def test_a_proof_does_not_come_back_from_another_origin(face: Face) -> None:
    face.shop.script = [
        face.shop.asks(),
        face.shop.redirects(307, "https://evil.example/"),
        face.shop.redirects(307, SHOP + "/v2"),
        face.shop.answers(),
    ]

    async with opened(face) as session, session.post(SHOP, json=PROMPT):
        assert [False, True, False, False] == ["authorization" in request.headers for request in face.shop.seen]


async def test_another_origin_that_asks_after_the_redirect_of_a_paid_answer_is_not_paid(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.redirects(302, "https://evil.example/"), face.shop.asks()]

    async with opened(face) as session:
        with pytest.raises(OriginChanged):
            await session.post(SHOP, json=PROMPT)

    assert 1 == len(face.wallet.payments)


async def test_a_seller_that_redirects_a_paid_call_and_asks_again_is_not_paid_again(face: Face) -> None:
    face.shop.script = [face.shop.asks(), face.shop.redirects(307, "/v2"), face.shop.asks()]

    async with opened(face) as session:
        with pytest.raises(PaidRedirect) as failure:
            await session.post(SHOP, json=PROMPT)

    assert failure.value.evidence["payment_hash"] == face.wallet.payments[0].hex()
    assert str(failure.value.evidence["location"]).endswith("/v2")
    assert 1 == len(face.wallet.payments)


async def test_a_call_inside_a_call_s_middleware_is_a_call_of_its_own(face: Face) -> None:
    asked: list[str] = []

    async def asking(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if not asked:
            asked.append("once")
            async with request.session.post("https://other.example/", json=PROMPT) as answer:
                assert 200 == answer.status
        return await handler(request)

    async with opened(face, middlewares=[asking]) as session, session.post(SHOP, json=PROMPT) as answer:
        assert ANSWER == await answer.json()

    assert 2 == len(face.wallet.payments)


async def test_middlewares_of_one_call_leave_the_paying_in_place(face: Face) -> None:
    async with opened(face) as session, session.post(SHOP, json=PROMPT, middlewares=()) as answer:
        assert ANSWER == await answer.json()


async def lines(answer: aiohttp.ClientResponse) -> bytes:
    return b"".join([line async for line in answer.content])


async def chunked(answer: aiohttp.ClientResponse) -> bytes:
    return b"".join([part async for part in answer.content.iter_chunked(7)])


async def chunks(answer: aiohttp.ClientResponse) -> bytes:
    return b"".join([part async for part, _ in answer.content.iter_chunks()])


async def exactly(answer: aiohttp.ClientResponse) -> bytes:
    return await answer.content.readexactly(len(json.dumps(ANSWER)))


async def until(answer: aiohttp.ClientResponse) -> bytes:
    return await answer.content.readuntil(b"}")


@pytest.mark.parametrize("read", [aiohttp.ClientResponse.read, lines, chunked, chunks, exactly, until])
async def test_an_answer_is_served_by_whichever_way_of_reading_ends_it(
    face: Face, read: Callable[[aiohttp.ClientResponse], Awaitable[bytes]]
) -> None:
    body = json.dumps(ANSWER).encode()
    face.shop.script = [face.shop.asks(), face.shop.answer(200, Parts([body]), {"content-length": str(len(body))})]

    async with opened(face) as session, session.post(SHOP, json=PROMPT) as answer:
        assert not face.row.served
        assert body == await read(answer)
        assert face.row.served


async def test_an_answer_that_is_left_early_is_not_served(face: Face) -> None:
    endless = Parts([bytes(65_536)] * 1024)
    face.shop.script = [face.shop.asks(), face.shop.answer(200, endless, {})]

    async with opened(face) as session, session.post(SHOP, json=PROMPT) as answer:
        assert await answer.content.read(10)

    assert endless.closed
    assert not face.row.served


async def test_an_answer_that_breaks_off_is_had_by_the_same_call_without_paying(face: Face) -> None:
    lost = face.library.RemoteProtocolError("cut")
    face.shop.script = [face.shop.asks(), face.shop.answers(Parts([b"{"], lost))]
    async with opened(face) as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.post(SHOP, json=PROMPT) as answer:
                await answer.read()

        async with session.post(SHOP, json=PROMPT) as answer:
            assert ANSWER == await answer.json()
            assert answer.farebox.replayed  # type: ignore[attr-defined]

    assert 1 == len(face.wallet.payments)


async def test_a_purse_that_was_opened_here_is_closed_with_the_session(face: Face, tmp_path: Path) -> None:
    async with ClientSession(wallet=face.wallet, budget="500 sat/day", purse=tmp_path / "purse.db") as session:
        assert () == await session.buyer.aresume()
    with pytest.raises(StoreUnavailable):
        await session.buyer.aresume()
