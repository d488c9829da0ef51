"""The sandbox over real sockets and in several processes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import httpx2
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice
from farebox.core.ports import Conversation, Paid, Unresolved
from farebox.http.converse import Lines, aconverse, converse
from farebox.lightning.phoenixd import Phoenixd
from farebox.lightning.phoenixd_api import phoenixd_api
from farebox.lightning.sandbox import Sandbox, Trouble
from farebox.testing.backends import FEE_LIMIT, PRICE, TEN_MINUTES, ReceiverSuite, WalletSuite
from farebox.testing.sandbox_world import SandboxWorld
from farebox.testing.settlement_streams import StreamSuite

T = TypeVar("T")

pytestmark = pytest.mark.system


class Served:
    """A server on a free loopback port, for one application after the other."""

    def __init__(self) -> None:
        self.app: Any = None
        self.port = 0
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        await self.app(scope, receive, send)

    def serve(self, sandbox: Sandbox) -> int:
        self.app = phoenixd_api(sandbox, {"seller's": "seller", "buyer's": "buyer"})
        return self.port


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    served = Served()
    uvicorn_server = uvicorn.Server(
        uvicorn.Config(served, log_config=None, log_level="critical", ws="websockets-sansio", lifespan="off")
    )
    with socket.create_server(("127.0.0.1", 0)) as bound:
        served.port = bound.getsockname()[1]
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield served
        uvicorn_server.should_exit = True
        thread.join()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
    return port


class SocketWorld(SandboxWorld):
    """The adapter against phoenixd's API in front of the sandbox, over a real socket."""

    def __init__(self, sandbox: Sandbox, forward: Callable[[timedelta], None], client: httpx.Client, port: int) -> None:
        super().__init__(sandbox, forward)
        self._client = client
        self._go_to(port)

    def _go_to(self, port: int) -> None:
        self.receiver = Phoenixd.from_url(f"phoenixd+http://:seller's@127.0.0.1:{port}")
        self.wallet = Phoenixd.from_url(f"phoenixd+http://:buyer's@127.0.0.1:{port}")

    def ask(self, conversation: Conversation[T]) -> T:
        return converse(conversation, self._client)

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        served = self.receiver, self.wallet
        self._go_to(closed_port())
        yield
        self.receiver, self.wallet = served


class _OverASocket:
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any, server: Served) -> Iterator[SocketWorld]:
        with httpx.Client(trust_env=False) as client:
            yield SocketWorld(sandbox, clock.forward, client, server.serve(sandbox))


class TestReceiverOverASocket(_OverASocket, ReceiverSuite):
    pass


class TestWalletOverASocket(_OverASocket, WalletSuite):
    pass


class ListeningWorld(SocketWorld):
    """The same, over lines that stay open, and with the websocket to wait on."""

    wait = timedelta(seconds=5)
    many = 40

    def __init__(self, sandbox: Sandbox, forward: Callable[[timedelta], None], client: httpx.Client, port: int) -> None:
        super().__init__(sandbox, forward, client, port)
        self._runner, self._lines = asyncio.Runner(), Lines()

    def ask(self, conversation: Conversation[T]) -> T:
        return self._runner.run(aconverse(conversation, self._lines))

    def close(self) -> None:
        self._runner.run(self._lines.aclose())
        self._runner.close()


class TestStreamOverAWebsocket(StreamSuite):
    @pytest.fixture
    def world(self, sandbox: Sandbox, clock: Any, server: Served) -> Iterator[ListeningWorld]:
        with httpx.Client(trust_env=False) as client:
            world = ListeningWorld(sandbox, clock.forward, client, server.serve(sandbox))
            yield world
            world.close()


def test_an_awaiting_httpx2_client_learns_of_a_lost_reply_and_finds_the_payment(
    sandbox: Sandbox, server: Served
) -> None:
    invoice = sandbox.seller.issue(PRICE, description="a test", expires_in=TEN_MINUTES)
    sandbox.script(invoice.payment_hash, Trouble.LOSE_REPLY)

    async def bought(port: int) -> tuple[object, object]:
        wallet = Phoenixd.from_url(f"phoenixd+http://:buyer's@127.0.0.1:{port}")
        async with httpx2.AsyncClient(trust_env=False) as client:
            first = await aconverse(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), client)
            return first, await aconverse(wallet.lookup_payment(invoice.payment_hash), client)

    first, found = asyncio.run(bought(server.serve(sandbox)))
    assert first == Unresolved(reason="phoenixd did not answer (RemoteProtocolError)")
    assert isinstance(found, Paid)


# --- the websocket ----------------------------------------------------------------------------------------------------


async def opened(port: int, **how: Any) -> Any:
    return await connect(f"ws://127.0.0.1:{port}/websocket", proxy=None, **how)


def basic(password: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f':{password}'.encode()).decode()}"}


@pytest.mark.parametrize(
    "how", [{"additional_headers": basic("seller's")}, {"additional_headers": {"sec-websocket-protocol": "seller's"}}]
)
def test_the_websocket_says_what_a_node_was_paid_since_it_was_opened(
    sandbox: Sandbox, server: Served, how: dict[str, Any]
) -> None:
    async def story(port: int) -> None:
        earlier, invoice = issue(sandbox, 2)
        sandbox.buyer.pay(earlier, fee_limit=None)
        async with await opened(port, **how) as listener:
            sandbox.buyer.pay(invoice, fee_limit=None)
            said = json.loads(await asyncio.wait_for(listener.recv(), 5))
        assert said == {
            "type": "payment_received",
            "amountSat": 21,
            "paymentHash": invoice.payment_hash.hex(),
            "timestamp": round(sandbox_now * 1000),
        }

    sandbox_now = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    asyncio.run(story(server.serve(sandbox)))


@pytest.mark.parametrize("how", [{}, {"additional_headers": basic("nobody's")}, {"subprotocols": ["nobody"]}])
def test_the_websocket_is_not_opened_without_the_password(
    sandbox: Sandbox, server: Served, how: dict[str, Any]
) -> None:
    with pytest.raises(InvalidStatus):
        asyncio.run(opened(server.serve(sandbox), **how))


def test_the_websocket_ends_when_the_node_goes_away(sandbox: Sandbox, server: Served) -> None:
    async def story(port: int) -> None:
        async with await opened(port, additional_headers=basic("seller's")) as listener:
            with sandbox.seller.out_of_reach():
                await asyncio.wait_for(listener.wait_closed(), 5)

    asyncio.run(story(server.serve(sandbox)))


def test_a_shop_learns_of_payments_over_the_websocket_and_does_not_ask_meanwhile(
    sandbox: Sandbox, server: Served
) -> None:
    async def story(port: int) -> None:
        node = Phoenixd.from_url(f"phoenixd+http://:seller's@127.0.0.1:{port}")
        lines = Lines()
        cursor = await aconverse(node.cursor_at(datetime(2029, 1, 1, tzinfo=UTC)), lines)
        first = await aconverse(node.settlements(cursor, wait=TEN_MINUTES), lines)  # the websocket is opened
        assert () == first.settled
        waiting = asyncio.create_task(aconverse(node.settlements(first.cursor, wait=TEN_MINUTES), lines))
        await asyncio.sleep(0.3)
        asked = server.asked
        await asyncio.sleep(0.5)
        assert asked == server.asked
        (invoice,) = issue(sandbox, 1)
        paid_s = asyncio.get_running_loop().time()
        sandbox.buyer.pay(invoice, fee_limit=None)
        told = await waiting
        assert [invoice.payment_hash] == [each.payment_hash for each in told.settled]
        assert asyncio.get_running_loop().time() - paid_s < 3
        await lines.aclose()

    asyncio.run(story(server.serve(sandbox)))


# --- several processes ------------------------------------------------------------------------------------------------

PAYER = """
import sys
from pathlib import Path
from farebox.core.bolt11 import decode
from farebox.lightning.sandbox import Sandbox

sandbox = Sandbox.open(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    outcome = sandbox.buyer.pay(decode(line.strip()), fee_limit=None)
    print(outcome.preimage.reveal().hex(), flush=True)
"""


def start_payer(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PAYER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def issue(sandbox: Sandbox, count: int) -> list[Invoice]:
    return [sandbox.seller.issue(PRICE, description="a test", expires_in=TEN_MINUTES) for _ in range(count)]


def test_two_processes_that_pay_the_same_invoices_pay_each_once(tmp_path: Path) -> None:
    sandbox = Sandbox.open(tmp_path / "sandbox.db")
    invoices = issue(sandbox, 30)
    payers = [start_payer(tmp_path / "sandbox.db") for _ in range(2)]
    try:
        told = "\n".join(invoice.text for invoice in invoices) + "\n"
        for payer in payers:
            assert payer.stdout is not None
            assert payer.stdout.readline() == "ready\n"
        threads = [threading.Thread(target=lambda p=payer: proofs.append(p.communicate(told)[0])) for payer in payers]
        proofs: list[str] = []
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert proofs[0] == proofs[1]
        hashes = [hashlib.sha256(bytes.fromhex(line)).digest() for line in proofs[0].splitlines()]
        assert [invoice.payment_hash for invoice in invoices] == hashes
        assert sandbox.seller.funds() == PRICE * 30
        assert sandbox.buyer.funds() == Amount.sats(1_000_000) - PRICE * 30
    finally:
        for payer in payers:
            payer.kill()
            payer.wait()
        sandbox.close()


def test_a_killed_process_forgets_nothing_that_it_has_answered(tmp_path: Path) -> None:
    sandbox = Sandbox.open(tmp_path / "sandbox.db")
    invoices = issue(sandbox, 40)
    payer = start_payer(tmp_path / "sandbox.db")
    try:
        assert payer.stdin is not None
        assert payer.stdout is not None
        assert payer.stdout.readline() == "ready\n"
        for invoice in invoices:
            payer.stdin.write(invoice.text + "\n")
        payer.stdin.flush()
        answered = [payer.stdout.readline().strip() for _ in range(7)]
        os.kill(payer.pid, signal.SIGKILL)
        answered += payer.stdout.read().split()
    finally:
        payer.kill()
        payer.wait()
        payer.stdout.close()
        payer.stdin.close()
    for invoice, proof in zip(invoices, answered, strict=False):
        outcome = converse(sandbox.buyer.lookup_payment(invoice.payment_hash))
        assert isinstance(outcome, Paid)
        assert bytes.fromhex(proof) == outcome.preimage.reveal()
    paid = [invoice for invoice in invoices if sandbox.seller.invoice_status(invoice.payment_hash).received == PRICE]
    assert len(answered) <= len(paid) <= len(answered) + 1
    assert sandbox.seller.funds() == PRICE * len(paid)
    assert sandbox.buyer.funds() == Amount.sats(1_000_000) - PRICE * len(paid)
    sandbox.close()


def test_many_processes_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    payers = [start_payer(tmp_path / "sandbox.db") for _ in range(4)]
    told = [payer.communicate("")[0] for payer in payers]
    assert told == ["ready\n"] * 4
    sandbox = Sandbox.open(tmp_path / "sandbox.db")
    assert (sandbox.seller.funds(), sandbox.buyer.funds()) == (NOTHING, Amount.sats(1_000_000))
    sandbox.close()
