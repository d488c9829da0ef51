"""A shop whose service or disk is in trouble: nobody pays for nothing, and nothing that was paid is lost."""

from __future__ import annotations

import resource
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from farebox.core.amount import NOTHING, Amount

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
SOLD = ("--price", "21sat", "--free-calls", "0")
MOST_ATTEMPTS = 3


class Garbage(socketserver.BaseRequestHandler):
    """Speaks something, and not HTTP."""

    def handle(self) -> None:
        """One connection."""
        self.request.recv(65536)
        self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff\xfe no such thing\r\n")


@contextmanager
def speaking_garbage() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Garbage) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


async def test_a_service_that_is_down_costs_nothing_and_is_called_when_it_is_up(
    open_shop: Any, serve_app: Any, writer: Any, payer: Any, read_books: Any
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    with open_shop("--upstream", f"http://127.0.0.1:{port}", *SOLD) as shop:
        proof = await payer.buy(shop, "hello")
        down = await payer.http.post(shop.url, content="hello", headers=proof)
        kept, _ = await read_books(shop)
        with serve_app(writer, port=port):
            up = await payer.http.post(shop.url, content="hello", headers=proof)
        earned, _ = await read_books(shop)
    assert (502, "upstream-failed") == (down.status_code, down.json()["error"])
    assert "kept; show the same proof again" == down.json()["payment"]
    assert (PRICE, NOTHING) == (kept.held, kept.earned)
    assert (200, [up.json()["text"]]) == (up.status_code, writer.runs["hello"])
    assert (NOTHING, PRICE) == (earned.held, earned.earned)


async def test_a_post_that_was_answered_with_garbage_is_owed_at_once(
    open_shop: Any, payer: Any, read_books: Any
) -> None:
    with speaking_garbage() as url, open_shop("--upstream", url, *SOLD) as shop:
        proof = await payer.buy(shop, "hello")
        answer = await payer.http.post(shop.url, content="hello", headers=proof)
        balance, _ = await read_books(shop)
    assert (502, "upstream-failed") == (answer.status_code, answer.json()["error"])
    assert "kept as credit" == answer.json()["payment"]  # it may have run, and must not run twice
    assert (PRICE, NOTHING) == (balance.credit, balance.earned)


async def test_a_get_that_is_answered_with_garbage_may_be_tried_three_times(
    open_shop: Any, payer: Any, read_books: Any
) -> None:
    with speaking_garbage() as url, open_shop("--upstream", url, *SOLD) as shop:
        asked = (await payer.http.get(shop.url)).json()
        await payer.pay(shop.place["buyer_wallet"], asked["invoice"])
        proof = {"x-payment-hash": asked["payment_hash"]}
        answers = [await payer.http.get(shop.url, headers=proof) for _ in range(MOST_ATTEMPTS)]
        balance, _ = await read_books(shop)
    kept = "kept; show the same proof again"
    assert [502] * MOST_ATTEMPTS == [answer.status_code for answer in answers]
    assert [kept, kept, "kept as credit"] == [answer.json()["payment"] for answer in answers]
    assert (PRICE, NOTHING) == (balance.credit, balance.earned)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux sets the limits of another process")
async def test_a_full_disk_is_told_as_503_and_all_is_there_when_there_is_room_again(
    open_shop: Any, writer: Any, writer_url: str, payer: Any, read_books: Any
) -> None:
    prompts = [f"prompt {number}" for number in range(5)]
    with open_shop("--upstream", writer_url, *SOLD) as shop:
        proofs = {prompt: await payer.buy(shop, prompt) for prompt in prompts}

        async def call_all() -> list[Any]:
            return [await payer.http.post(shop.url, content=prompt, headers=proofs[prompt]) for prompt in prompts]

        no_limit = resource.prlimit(shop.process.pid, resource.RLIMIT_FSIZE)
        written = (shop.folder / "seller" / "ledger.db-wal").stat().st_size
        resource.prlimit(shop.process.pid, resource.RLIMIT_FSIZE, (written, no_limit[1]))
        full = [*await call_all(), await payer.http.post(shop.url, content="another")]
        ran_meanwhile = dict(writer.runs)
        resource.prlimit(shop.process.pid, resource.RLIMIT_FSIZE, no_limit)
        roomy = await call_all()
        balance, _ = await read_books(shop)
    assert [(503, "store-unavailable")] * 6 == [(answer.status_code, answer.json()["error"]) for answer in full]
    assert all("retry-after" in answer.headers for answer in full)
    assert {} == ran_meanwhile
    assert [(200, writer.runs[prompt]) for prompt in prompts] == [(a.status_code, [a.json()["text"]]) for a in roomy]
    assert (PRICE * 5, PRICE * 5) == (balance.received, balance.earned)
