"""A whole shop, started as an operator starts it: the `farebox` command in a process of its own, on a free port.

Whatever a shop goes through, it ends in good order: with exit code 0, without a traceback, its books balanced.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from farebox.core.amount import Amount
from farebox.core.bolt11 import decode
from farebox.core.payment import Balance, Payment
from farebox.core.ports import Paid, PayOutcome
from farebox.http.converse import aconverse
from farebox.http.request import Receive, Scope, Send
from farebox.lightning import open_wallet
from farebox.stores import open_ledger
from farebox.testing.market import whole_body

COMMAND = Path(sys.executable).with_name("farebox")
PATIENCE_S = 20.0
OPEN_WITHIN_S = 60.0  # of four workers at once on a busy machine


# --- the command ------------------------------------------------------------------------------------------------------


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of somebody who has never used farebox."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAREBOX_", "XDG_", "OPENAI_"))}
    return {**kept, "HOME": str(home), **more}


@dataclass
class Shop:
    """A shop and its process: started, stopped, killed and started again in one folder, on one port."""

    folder: Path
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    place: Mapping[str, str] = field(default_factory=dict)
    listen: str = "127.0.0.1:0"

    @property
    def url(self) -> str:
        return self.place["shop"]

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def told(self) -> str:
        """All that it wrote to standard error."""
        return (self.folder / "stderr").read_text()

    def start(self) -> None:
        """Returns when it is open."""
        state = self.folder / "state.json"
        state.unlink(missing_ok=True)
        command = [str(COMMAND), "serve", *self.arguments, "--listen", self.listen, "--state", str(state)]
        command += ["--state-dir", str(self.folder / "seller")]
        if "--invoices-per-s" not in command:  # the tests are many buyers behind one address
            command += ["--invoices-per-s", "100000"]
        with (self.folder / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=self.folder,
                env=environment(self.folder),
            )
        until = time.monotonic() + OPEN_WITHIN_S
        while not state.exists():
            assert self.process.poll() is None, self.told
            assert time.monotonic() < until, self.told
            time.sleep(0.01)
        self.place = json.loads(state.read_text())
        self.listen = self.url.removeprefix("http://")
        assert httpx.get(f"{self.url}/health", trust_env=False, timeout=PATIENCE_S).json() == {"status": "ok"}

    def stop(self) -> int:
        """Ask it to stop; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_S)

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=PATIENCE_S)


@contextmanager
def opened_shop(folder: Path, *arguments: str) -> Iterator[Shop]:
    folder.mkdir(parents=True, exist_ok=True)
    shop = Shop(folder, arguments)
    try:
        shop.start()
        yield shop
        if shop.process is not None and shop.process.returncode is None:
            assert (0, "") == (shop.stop(), "Traceback" * ("Traceback" in shop.told)), shop.told
        with ThreadPoolExecutor(1) as elsewhere:  # a loop may be running here
            assert [] == elsewhere.submit(asyncio.run, _books(shop.place["store"])).result()[1]
    finally:
        if shop.process is not None and shop.process.poll() is None:
            shop.kill()


@pytest.fixture
def open_shop(tmp_path: Path) -> Any:
    """Opens a shop: `with open_shop("--upstream", url, "--price", "21sat") as shop`."""
    return lambda *arguments: opened_shop(tmp_path / "shop", *arguments)


@pytest.fixture
def open_shop_in(tmp_path: Path) -> Any:
    """Opens one of several shops: `with open_shop_in("second", "--upstream", url, "--price", "21sat") as shop`."""
    return lambda folder, *arguments: opened_shop(tmp_path / folder, *arguments)


@dataclass
class Forwarder:
    """`farebox proxy` and its process."""

    folder: Path
    process: subprocess.Popen[bytes]
    place: Mapping[str, str]

    @property
    def told(self) -> str:
        """All that it wrote to standard error."""
        return (self.folder / "stderr").read_text()

    @property
    def token(self) -> Mapping[str, str]:
        """The header for `/pay/`."""
        return {"farebox-purse": self.place["token"]}


@contextmanager
def opened_forwarder(folder: Path, wallet: str, *arguments: str) -> Iterator[Forwarder]:
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.json"
    state.unlink(missing_ok=True)
    command = [str(COMMAND), "proxy", "--listen", "127.0.0.1:0", "--state", str(state), *arguments]
    own = environment(folder, FAREBOX_WALLET=wallet, FAREBOX_STATE=str(folder / "buyer"))
    with (folder / "stdout").open("ab") as stdout, (folder / "stderr").open("ab") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=folder, env=own)
    until = time.monotonic() + PATIENCE_S
    try:
        while not state.exists():
            assert process.poll() is None, (folder / "stderr").read_text()
            assert time.monotonic() < until, (folder / "stderr").read_text()
            time.sleep(0.01)
        forwarder = Forwarder(folder, process, json.loads(state.read_text()))
        yield forwarder
        process.send_signal(signal.SIGTERM)
        assert (0, "") == (process.wait(timeout=PATIENCE_S), "Traceback" * ("Traceback" in forwarder.told))
        assert forwarder.place["token"] not in forwarder.told
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def open_forwarder(tmp_path: Path) -> Any:
    """Opens a proxy that pays: `with open_forwarder(wallet, "--limit", "50 sat/day") as forwarder`."""
    return lambda wallet, *arguments: opened_forwarder(tmp_path / "forwarder", wallet, *arguments)


@pytest.fixture
def farebox(tmp_path: Path) -> Any:
    """Runs the command to its end: `farebox("init")`, in a folder of its own with an empty home."""

    def run(*arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(COMMAND), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=tmp_path,
            env=environment(tmp_path, **more),
        )

    return run


@pytest.fixture
def start_farebox(tmp_path: Path) -> Iterator[Any]:
    """Starts the command and does not wait for its end: `process = start_farebox("call", url)`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **more: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [str(COMMAND), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment(tmp_path, **more),
            # Whoever runs the tests in the background may have it ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE_S)


LND_CONFIG = """
public_url = "https://shop.example"
receiver = "{receiver}"
store = "{store}"
keys = "{keys}"
free_calls = 0
unpaid_per_client = 100000

[[route]]
path = "/*"
price = "21 sat"
upstream = "{upstream}"
rerun = true

[[route]]
path = "/dear"
price = "4000000 sat"
upstream = "{upstream}"
"""


@pytest.fixture
def lnd_config(regtest: Any, writer_url: str, tmp_path: Path) -> Any:
    """Writes the configuration of shops whose node is lnd: `str(lnd_config(store="…", port=1234))`, both optional.

    They can be paid and can't pay: the macaroon was baked for invoices alone. port: of a line to the node.
    """

    def written(*, store: str = "sqlite:///farebox.db", port: int | None = None) -> Path:
        receiver = regtest.seller.url(regtest.seller.bake("invoices:read", "invoices:write"))
        if port is not None:
            receiver = receiver.replace(f":{regtest.seller.rest}?", f":{port}?")
        config = tmp_path / "farebox.toml"
        config.write_text(
            LND_CONFIG.format(receiver=receiver, store=store, keys=tmp_path / "keys", upstream=writer_url)
        )
        return config

    return written


# --- what is sold -----------------------------------------------------------------------------------------------------


@dataclass
class Writer:
    """A service that never gives the same answer twice, and knows how often it ran for each prompt.

    It answers with a text of constant length, as JSON, or at `/stream` as a stream of events.
    takes_s: how long that takes, on average. held: for as long as this is so, it does not answer.
    failing: it answers 500.
    """

    takes_s: float = 0.0
    held: bool = False
    failing: bool = False
    runs: dict[str, list[str]] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        prompt = (await whole_body(receive)).decode()
        written = secrets.token_hex(32)
        self.runs.setdefault(prompt, []).append(written)
        if self.takes_s:
            await asyncio.sleep(random.uniform(0, 2 * self.takes_s))
        while self.held:
            await asyncio.sleep(0.005)
        if self.failing:
            await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        if scope["path"] == "/stream":
            await _send_events(send, written)
            return
        body = json.dumps({"text": written}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _send_events(send: Send, written: str) -> None:
    events = [f"data: {written[start : start + 16]}\n\n".encode() for start in range(0, len(written), 16)]
    events.append(b"data: [DONE]\n\n")
    length = b"%d" % sum(map(len, events))  # told, so that it does not hang on how the events fall into chunks
    headers = [(b"content-type", b"text/event-stream"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in events:
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def served(app: Any, *, port: int = 0, ws: Any = "none") -> Iterator[str]:
    config = uvicorn.Config(app, port=port, lifespan="off", log_config=None, http="httptools", ws=ws)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + PATIENCE_S
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        server.force_exit = True  # a test that failed may have left a call that never ends
        thread.join()


@pytest.fixture
def serve_app() -> Any:
    """Serves an ASGI app in a thread of its own: `with serve_app(app) as url`."""
    return served


@pytest.fixture
def writer() -> Writer:
    """The service that is sold."""
    return Writer()


@pytest.fixture
def writer_url(writer: Writer) -> Iterator[str]:
    """Where it is."""
    with served(writer) as url:
        yield url


# --- money ------------------------------------------------------------------------------------------------------------


class Payer:
    """Buys by hand, so that each step can go wrong by itself."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def challenge(self, url: str, prompt: str) -> Mapping[str, Any]:
        """The body of the 402."""
        asked = await self.http.post(url, content=prompt)
        assert asked.status_code == 402, asked.text
        return asked.json()

    async def buy(self, shop: Shop, prompt: str, path: str = "/") -> Mapping[str, str]:
        """A paid proof for one call, as headers."""
        asked = await self.challenge(shop.url + path, prompt)
        paid = await self.pay(shop.place["buyer_wallet"], asked["invoice"])
        assert isinstance(paid, Paid), paid
        return {"authorization": f"L402 {asked['macaroon']}:{paid.preimage.reveal().hex()}"}

    async def pay(self, wallet: str, invoice: str) -> PayOutcome:
        """What a wallet says of paying."""
        bought = decode(invoice)
        return await aconverse(open_wallet(wallet).pay_invoice(bought, fee_limit=Amount.sats(1)), self.http)

    async def look_up(self, wallet: str, invoice: str) -> PayOutcome:
        """What a wallet says has become of it."""
        return await aconverse(open_wallet(wallet).lookup_payment(decode(invoice).payment_hash), self.http)

    async def balance(self, wallet: str) -> Amount:
        """What is in a wallet."""
        return await aconverse(open_wallet(wallet).balance(), self.http)


@pytest.fixture
async def payer() -> AsyncIterator[Payer]:
    """Somebody who buys step by step."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(trust_env=False, timeout=30, limits=limits) as http:
        yield Payer(http)


async def _books(store: str) -> tuple[tuple[Balance, list[Payment]], list[str]]:
    ledger = open_ledger(store)
    try:
        balance, wrong = await ledger.balance(), list(await ledger.audit())
        if not balance.balanced:
            wrong.append(f"the books do not balance: {balance}")
        return (balance, list(await ledger.recent_payments(100_000))), wrong
    finally:
        await ledger.close()


@pytest.fixture
def read_books() -> Any:
    """`balance, payments = await read_books(shop)`, of books that balance."""

    async def read(shop: Shop) -> tuple[Balance, list[Payment]]:
        told, wrong = await _books(shop.place["store"])
        assert [] == wrong
        return told

    return read
