"""Services that exist already, put on sale unchanged, over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import farebox as face
from farebox.core.amount import Amount
from farebox.http.request import Message, Receive, Scope, Send
from farebox.testing.market import whole_body

pytestmark = pytest.mark.system

PRICE = Amount.sats(21)
EVENTS = 5


class Existing:
    """A service that knows nothing of payment: it tells what it was asked, and at `/events` it streams.

    The next event is sent only when the one before has been heard.
    """

    def __init__(self) -> None:
        self.seen: list[Scope] = []
        self.heard = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        self.seen.append(scope)
        body = await whole_body(receive)
        if scope["path"] == "/events":
            await self._stream(send)
            return
        told = {
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        headers = [(b"content-type", b"application/json"), (b"x-own", b"kept"), (b"x-own", b"twice")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(EVENTS):
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
            async with asyncio.timeout(10):
                while self.heard <= number:
                    await asyncio.sleep(0.005)
        last: Message = {"type": "http.response.body", "body": b""}
        await send(last)


@pytest.fixture
def existing() -> Existing:
    return Existing()


@pytest.fixture
def shop(existing: Existing, serve_app: Any, open_shop: Any) -> Iterator[Any]:
    with serve_app(existing) as url, open_shop("--upstream", url, "--price", "21sat", "--free-calls", "0") as shop:
        yield shop


@pytest.fixture
def client(shop: Any, tmp_path: Path) -> Iterator[face.Client]:
    with face.Client(
        wallet=shop.place["buyer_wallet"],
        budget="500 sat/day",
        purse=tmp_path / "purse.db",
        trust_env=False,
        timeout=20,
    ) as client:
        yield client


def test_a_get_with_its_query_reaches_the_service_as_it_was_asked(shop: Any, client: face.Client) -> None:
    answer = client.get(f"{shop.url}/search/a%20b?q=l402&page=2&q=x%2By")
    assert 201 == answer.status_code
    assert ("GET", "/search/a%20b", "q=l402&page=2&q=x%2By") == tuple(
        answer.json()[name] for name in ("method", "path", "query")
    )
    assert ["kept", "twice"] == answer.headers.get_list("x-own")
    assert PRICE == answer.extensions["farebox"].paid


def test_a_post_reaches_the_service_without_its_proof(shop: Any, client: face.Client, existing: Existing) -> None:
    answer = client.post(f"{shop.url}/things", json={"prompt": "hi"}, headers={"x-mine": "1"})
    (seen,) = existing.seen
    headers = dict(seen["headers"])
    assert (201, hashlib.sha256(b'{"prompt":"hi"}').hexdigest()) == (answer.status_code, answer.json()["sha256"])
    assert (b"1", b"application/json") == (headers[b"x-mine"], headers[b"content-type"])
    assert b"authorization" not in headers


def test_a_stream_of_events_is_heard_event_by_event_to_its_end(
    shop: Any, client: face.Client, existing: Existing
) -> None:
    told = []
    with client.stream("GET", f"{shop.url}/events") as answer:
        for line in answer.iter_lines():
            if line:
                told.append(line)
                existing.heard += 1
    assert [f"data: {number}" for number in range(EVENTS)] == told
    assert PRICE == answer.extensions["farebox"].paid


def test_an_upload_of_900_kb_arrives_whole(shop: Any, client: face.Client) -> None:
    upload = bytes(range(256)) * 3600
    answer = client.put(f"{shop.url}/files/upload.bin", content=upload)
    assert (900 * 1024, hashlib.sha256(upload).hexdigest()) == (answer.json()["bytes"], answer.json()["sha256"])


@pytest.mark.parametrize("told_before", [True, False])
@pytest.mark.anyio
async def test_an_upload_over_the_limit_is_refused_before_there_is_an_invoice(
    told_before: bool, shop: Any, existing: Existing, read_books: Any
) -> None:
    chunk = bytes(64 * 1024)

    async def chunks() -> Any:
        for _ in range(20):
            yield chunk

    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        answer = await http.post(f"{shop.url}/files", content=chunk * 20 if told_before else chunks())
    _, payments = await read_books(shop)
    assert (413, "body-too-large") == (answer.status_code, answer.json()["error"])
    assert ([], []) == (payments, existing.seen)


def test_a_shop_that_sells_everything_still_tells_its_prices_and_its_health(shop: Any, existing: Existing) -> None:
    pricing = httpx.get(f"{shop.url}/pricing", trust_env=False)
    health = httpx.get(f"{shop.url}/health", trust_env=False)
    assert (200, 200, {"status": "ok"}) == (pricing.status_code, health.status_code, health.json())
    assert "/*" in pricing.text
    assert [] == existing.seen


# --- an OpenAI-compatible model ---------------------------------------------------------------------------------------


class Model:
    """A model behind `POST /v1/chat/completions`; it fails when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], dict[bytes, bytes]]] = []
        self.failing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        asked = json.loads(await whole_body(receive))
        self.asked.append((f"{scope['method']} {scope['path']}", asked, dict(scope["headers"])))
        choice = {"index": 0, "message": {"role": "assistant", "content": f"Words, {len(self.asked)}."}}
        answer = {"id": "x", "object": "chat.completion", "model": asked["model"], "choices": [choice]}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 500 if self.failing else 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def test_a_model_is_sold_by_one_command(serve_app: Any, open_shop: Any, farebox: Any) -> None:
    model = Model()
    key = "sk-of-the-seller-0123456789"
    with (
        serve_app(model) as url,
        open_shop("--openai", f"{url}/v1", "--model", "tiny", "--api-key", key) as shop,
    ):
        call = ("call", f"{shop.url}/api/dvm", "-d", '{"prompt":"Three words"}', "--max", "21sat", "--json")
        wallet = ("--wallet", shop.place["buyer_wallet"], "--state-dir", "buyer")
        free, paid = farebox(*call, *wallet), farebox(*call, *wallet)
        model.failing = True
        failed = httpx.post(
            f"{shop.url}/api/dvm",
            json={"prompt": "Three words"},
            headers={"x-payment-hash": json.loads(paid.stdout)["payment_hash"]},
        )
    told = [json.loads(each.stdout) for each in (free, paid)]
    assert [0, 0] == [free.returncode, paid.returncode], (free, paid)
    assert [0, 21_000] == [each["amount_msat"] for each in told]
    assert {"result": "Words, 2.", "model": "tiny"} == told[1]["body"] == failed.json()  # bought once, kept since
    (line, asked, headers), _ = model.asked
    assert "POST /v1/chat/completions" == line
    assert ("tiny", [{"role": "user", "content": "Three words"}]) == (asked["model"], asked["messages"])
    assert f"Bearer {key}".encode() == headers[b"authorization"]
    assert key not in shop.told


# --- a farebox.toml ---------------------------------------------------------------------------------------------------


def test_what_init_writes_can_be_served_as_it_is(open_shop: Any, farebox: Any, tmp_path: Path) -> None:
    wrote = farebox("init")
    again = farebox("init")
    with open_shop(str(tmp_path / "farebox.toml")) as shop:
        asked = [httpx.post(f"{shop.url}/api/dvm", json={"prompt": "l402"}, trust_env=False) for _ in range(2)]
        unknown = httpx.get(f"{shop.url}/", trust_env=False)
    books = farebox("ledger", "farebox.toml", "--json")
    assert (0, 1) == (wrote.returncode, again.returncode)
    assert [200, 402] == [each.status_code for each in asked]
    assert (404, "route-unknown") == (unknown.status_code, unknown.json()["error"])
    assert "SANDBOX: no real money" in shop.told
    assert (tmp_path / "farebox.db").exists()
    assert 0o600 == stat.S_IMODE((tmp_path / "farebox.keys").stat().st_mode)
    assert [True, "open"] == [
        json.loads(line)[name] for line, name in zip(books.stdout.splitlines(), ("balanced", "state"), strict=True)
    ]
