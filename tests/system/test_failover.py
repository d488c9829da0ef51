"""A shop with two nodes goes on selling when the preferred one is killed or hangs, and loses nothing that it made."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.bolt11 import decode
from farebox.core.payment import Payment, PaymentState
from farebox.core.ports import Paid
from farebox.lightning.sandbox import Sandbox
from farebox.stores import open_ledger

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PRICE = Amount.sats(21)
SOLD_WITHIN_S = 2.0
HONOURED_WITHIN_S = 5.0  # of the node's return
BACK_WITHIN_S = 10.0  # as the node that is asked first
PATIENCE_S = 20.0
ONE_AFTER_THE_OTHER = 10
AT_ONCE = 8

NODE = """
import sys
import uvicorn
from pathlib import Path
from farebox.lightning.phoenixd_api import phoenixd_api
from farebox.lightning.sandbox import Sandbox
app = phoenixd_api(Sandbox.open(Path(sys.argv[1])), {"seller": "seller", "buyer": "buyer"})
uvicorn.run(app, port=int(sys.argv[2]), lifespan="off", log_config=None, ws="none")
"""

CONFIG = """
receiver = ["phoenixd+http://:seller@127.0.0.1:{first}", "phoenixd+http://:seller@127.0.0.1:{second}"]
store = "sqlite:///farebox.db"
free_calls = 0
invoice_expires_in_s = 3600
calls_per_client_s = 1e6
calls_at_once = 100000
unpaid_per_client = 100000

[[route]]
path = "/"
price = "21 sat"
upstream = "{upstream}"
rerun = true
"""


@dataclass
class Node:
    """A sandbox's node in a process of its own, which can be killed or made to hang."""

    file: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"phoenixd at 127.0.0.1:{self.port}"

    @property
    def wallet(self) -> str:
        return f"phoenixd+http://:buyer@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it listens."""
        self.process = subprocess.Popen([sys.executable, "-c", NODE, str(self.file), str(self.port)])
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=PATIENCE_S)

    def hang(self) -> None:
        """It takes connections, and says nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """It answers again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def pay(self, invoice: str) -> str:
        """Somebody pays, however the node's process does; the preimage."""

        def paid() -> str:
            sandbox = Sandbox.open(self.file)
            try:
                outcome = sandbox.buyer.pay(decode(invoice), fee_limit=None)
            finally:
                sandbox.close()
            assert isinstance(outcome, Paid), outcome
            return outcome.preimage.reveal().hex()

        return await asyncio.to_thread(paid)


@dataclass
class Scene:
    """A shop, its two nodes, and who buys. served: the answers, by what was asked for."""

    shop: Any
    payer: Any
    nodes: Sequence[Node]
    served: dict[str, bytes] = field(default_factory=dict)

    async def ask(self, prompt: str) -> tuple[Mapping[str, Any], float]:
        """A 402, and the seconds that it took."""
        began = time.monotonic()
        asked = await self.payer.challenge(self.shop.url, prompt)
        return asked, time.monotonic() - began

    async def show(self, prompt: str, **proof: str) -> tuple[int, Mapping[str, str]]:
        """Show a proof; a second answer to it has to be the first one."""
        headers = {name.replace("_", "-"): value for name, value in proof.items()}
        answer = await self.payer.http.post(self.shop.url, content=prompt, headers=headers)
        if answer.status_code == 200:
            assert self.served.setdefault(prompt, answer.content) == answer.content
        return answer.status_code, answer.headers

    async def buy(self, node: Node, *, at_once: int = 1) -> list[float]:
        """Ask so often, pay at this node and be served; the seconds until each 402."""
        prompts = [secrets.token_hex(8) for _ in range(at_once)]
        asked = await asyncio.gather(*(self.ask(prompt) for prompt in prompts))
        for prompt, (told, _) in zip(prompts, asked, strict=True):
            assert node.name == (await self.row(told)).receiver
            outcome = await self.payer.pay(node.wallet, told["invoice"])
            assert isinstance(outcome, Paid), outcome
            proof = {"authorization": f"L402 {told['macaroon']}:{outcome.preimage.reveal().hex()}"}
            assert [200, 200] == [(await self.show(prompt, **proof))[0] for _ in range(2)]
        return [took_s for _, took_s in asked]

    async def honoured(self, prompts: Mapping[str, Mapping[str, Any]]) -> float:
        """Seconds until all of these are served for their bare payment hash."""
        began = time.monotonic()
        waiting = dict(prompts)
        while waiting:
            for prompt, asked in tuple(waiting.items()):
                status, _ = await self.show(prompt, x_payment_hash=asked["payment_hash"])
                assert status in (200, 503)
                if status == 200:
                    del waiting[prompt]
            assert time.monotonic() - began < PATIENCE_S, f"{len(waiting)} are not served"
            await asyncio.sleep(0.1)
        return time.monotonic() - began

    async def row(self, asked: Mapping[str, Any]) -> Payment:
        """A payment, as the ledger has it."""
        ledger = open_ledger(self.shop.place["store"])
        try:
            row = await ledger.find_payment(bytes.fromhex(asked["payment_hash"]))
        finally:
            await ledger.close()
        assert row is not None
        return row

    async def known_within(self, asked: Mapping[str, Any], span_s: float) -> None:
        """Returns when the ledger has learnt by itself that this was paid."""
        until = time.monotonic() + span_s
        while (await self.row(asked)).state is not PaymentState.FUNDED:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


@pytest.fixture
async def scene(open_shop: Any, payer: Any, writer_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [each.getsockname()[1] for each in (one, other)]
    nodes = [Node(tmp_path / f"node {port}.db", port) for port in ports]
    try:
        for node in nodes:
            node.start()
        config = tmp_path / "farebox.toml"
        config.write_text(CONFIG.format(first=ports[0], second=ports[1], upstream=writer_url))
        with open_shop(str(config)) as shop:
            yield Scene(shop, payer, nodes)
    finally:
        for node in nodes:
            if node.process is not None:
                node.kill()


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_calls_are_sold_while_the_preferred_node_is_away_and_what_it_made_is_honoured_when_it_is_back(
    scene: Scene, writer: Any, read_books: Any, tell: Callable[[str], object], how: str
) -> None:
    first, second = scene.nodes
    await scene.buy(first)
    early = {
        prompt: (await scene.ask(prompt))[0] for prompt in ("by hash", "by hash too", "by preimage", "later", "never")
    }

    (first.kill if how == "killed" else first.hang)()
    spans = await scene.buy(second, at_once=AT_ONCE)
    for _ in range(ONE_AFTER_THE_OTHER):
        spans += await scene.buy(second)
    assert max(spans) < SOLD_WITHIN_S
    again, _ = await scene.ask("never")
    assert second.name == (await scene.row(again)).receiver

    await second.pay(again["invoice"])  # and nobody shows it
    preimages = {
        prompt: await first.pay(early[prompt]["invoice"]) for prompt in ("by hash", "by hash too", "by preimage")
    }
    for prompt in ("by hash", "by hash too"):
        status, headers = await scene.show(prompt, x_payment_hash=early[prompt]["payment_hash"])
        assert (503, True) == (status, int(headers["retry-after"]) >= 1)
    proof = f"L402 {early['by preimage']['macaroon']}:{preimages['by preimage']}"
    assert 200 == (await scene.show("by preimage", authorization=proof))[0]
    await scene.known_within(again, HONOURED_WITHIN_S)

    (first.start if how == "killed" else first.go_on)()
    honoured_s = await scene.honoured({prompt: early[prompt] for prompt in ("by hash", "by hash too")})
    assert honoured_s < HONOURED_WITHIN_S
    until = time.monotonic() + BACK_WITHIN_S
    while first.name != (await scene.row((await scene.ask(secrets.token_hex(8)))[0])).receiver:
        assert time.monotonic() < until
        await asyncio.sleep(0.1)
    await scene.buy(first)
    await first.pay(early["later"]["invoice"])
    await scene.honoured({"later": early["later"]})
    assert 200 == (await scene.show("by hash", x_payment_hash=early["by hash"]["payment_hash"]))[0]

    balance, _ = await read_books(scene.shop)
    assert dict.fromkeys(scene.served, 1) == {prompt: len(runs) for prompt, runs in writer.runs.items()}
    assert PRICE * len(scene.served) == balance.earned
    assert PRICE * (len(scene.served) + 1) == balance.received
    if how == "killed":  # a node that hangs is waited for longer than this takes
        assert 1 == scene.shop.told.count("settlements-not-read")
    assert "node-passed-over" in scene.shop.told
    spans.sort()
    tell(
        f"the preferred node {how}: {len(spans)} calls sold at the other one, 402 after {spans[len(spans) // 2]:.2f} s "
        f"(median), {spans[-1]:.2f} s (longest); what it had made was honoured {honoured_s:.2f} s after its return; "
        f"{len(scene.served)} calls were sold, each once"
    )
