"""Real Lightning on this machine: a chain of one's own (regtest), and three lnd nodes in a row, with channels between.

Rules
1. Every run begins from nothing, in a folder of its own, on ports that were free; and ends with everything it started.
2. The buyer pays the seller through the hub, which asks for nothing unless it is told to; and the other way round, for
   who opened a channel gave two fifths of it away.
3. Whatever can't be started is told in one sentence, with the end of its log.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

import httpx

from farebox.core.amount import NOTHING, Amount

T = TypeVar("T")

CHANNELS: Final = 2
CAPACITY: Final = Amount.sats(5_000_000)
GIVEN: Final = Amount.sats(2_000_000)
_PATIENCE_S: Final = 60.0
_BETWEEN_S: Final = 0.05
_LAST_LINES: Final = 12
_SATS_OF_A_COIN: Final = 100_000_000


class NotStarted(Exception):
    """In one sentence, and what its log says."""


class Node:
    """One process. command: made anew for each start, after which `ready` is asked until it is true."""

    def __init__(self, name: str, folder: Path, command: list[str], ready: Callable[[], object]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready. Raises NotStarted."""
        if not Path(self._command[0]).exists():
            raise NotStarted(f"{self._command[0]} is missing; scripts/lightning makes it ready")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait_for(self._ready, "is ready")

    def wait_for(self, true: Callable[[], T], what: str) -> T:
        """Ask until it is so. Raises NotStarted when it ends or takes too long."""
        until, told = time.monotonic() + _PATIENCE_S, "nothing"
        while time.monotonic() < until:
            if self._process is None or self._process.poll() is not None:
                raise NotStarted(f"{self.name} ended before it {what}\n{self._last_lines()}")
            try:
                if result := true():
                    return result
            except (httpx.HTTPError, OSError, Refused) as error:
                told = str(error)
            time.sleep(_BETWEEN_S)
        raise NotStarted(f"{self.name}: it took too long until it {what}; the last was: {told}\n{self._last_lines()}")

    def pause(self) -> None:
        """Let it stand still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_PATIENCE_S / 2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:])


class Refused(Exception):
    """A node answers that it will not."""


class Lightning:
    """One lnd node, asked as its owner asks it."""

    def __init__(self, name: str, folder: Path, bitcoind: Bitcoind, binary: Path) -> None:
        self.folder = folder / name
        self.rest, rpc, self.peer = free_ports(3)
        host, user, password = bitcoind.rpc
        self.node = Node(
            name,
            folder,
            [
                str(binary),
                f"--lnddir={self.folder}",
                f"--alias={name}",
                "--noseedbackup",
                "--nobootstrap",
                "--bitcoin.regtest",
                "--bitcoin.node=bitcoind",
                f"--bitcoind.rpchost={host}",
                f"--bitcoind.rpcuser={user}",
                f"--bitcoind.rpcpass={password}",
                f"--bitcoind.zmqpubrawblock=tcp://127.0.0.1:{bitcoind.blocks}",
                f"--bitcoind.zmqpubrawtx=tcp://127.0.0.1:{bitcoind.transactions}",
                "--bitcoin.defaultchanconfs=1",
                "--trickledelay=50",
                "--gossip.sub-batch-delay=5ms",
                "--gossip.max-channel-update-burst=1000",  # the hub changes its mind often
                "--gossip.channel-update-interval=1ms",
                f"--listen=127.0.0.1:{self.peer}",
                f"--rpclisten=127.0.0.1:{rpc}",
                f"--restlisten=127.0.0.1:{self.rest}",
            ],
            self.synced,
        )
        self._http: httpx.Client | None = None

    @property
    def certificate(self) -> Path:
        """What it shows when it is asked."""
        return self.folder / "tls.cert"

    def macaroon(self, name: str = "admin") -> Path:
        """One of those that lnd makes: `admin`, `invoice`, `readonly`."""
        return self.folder / f"data/chain/bitcoin/regtest/{name}.macaroon"

    def url(self, macaroon: str = "admin") -> str:
        """As it is given to farebox. macaroon: a name, or the bytes in hexadecimal digits."""
        path = self.macaroon(macaroon)
        asked = urlencode({"macaroon": path if path.exists() else macaroon, "cert": self.certificate})
        return f"lnd+https://127.0.0.1:{self.rest}?{asked}"

    def stop(self) -> None:
        """End it."""
        if self._http is not None:
            self._http.close()
            self._http = None
        self.node.stop()

    def bake(self, *permissions: str) -> str:
        """A narrow macaroon, such as for `invoices:read invoices:write`."""
        asked = [dict(zip(("entity", "action"), each.split(":"), strict=True)) for each in permissions]
        told: str = self.ask("/v1/macaroon", {"permissions": asked})["macaroon"]
        return told

    def ask(self, path: str, asked: object = None, *, method: str | None = None) -> dict[str, Any]:
        """The (last) object that it answers. Raises Refused, httpx.HTTPError, OSError while it is not there."""
        if self._http is None:
            import ssl

            trust = ssl.create_default_context(cafile=self.certificate)
            headers = {"grpc-metadata-macaroon": self.macaroon().read_bytes().hex()}
            self._http = httpx.Client(
                verify=trust, base_url=f"https://127.0.0.1:{self.rest}", headers=headers, timeout=30, trust_env=False
            )
        reply = self._http.request(method or ("GET" if asked is None else "POST"), path, json=asked)
        told: dict[str, Any] = json.loads(reply.text.splitlines()[-1])
        if reply.is_error or "error" in told:
            raise Refused(f"{path}: {reply.text[:200]}")
        return told

    @property
    def key(self) -> str:
        """The node's public key."""
        told: str = self.ask("/v1/getinfo")["identity_pubkey"]
        return told

    def synced(self, height: int = 0) -> bool:
        """Whether it has seen the whole chain, which has so many blocks."""
        told = self.ask("/v1/getinfo")
        return told["synced_to_chain"] is True and int(told["block_height"]) >= height

    def has_channels(self, *others: Lightning) -> bool:
        """Whether it can use a channel with each of these nodes, and knows of all that there are in the row."""
        active = {each["remote_pubkey"] for each in self.ask("/v1/channels?active_only=true")["channels"]}
        known = [each for each in self._edges() if each["node1_policy"] and each["node2_policy"]]
        return active >= {other.key for other in others} and len(known) >= CHANNELS

    def knows_fee(self, key: str, fee: Amount) -> bool:
        """Whether it has heard that a node asks for so much in every channel."""
        policies = [
            each[f"node{side}_policy"] for each in self._edges() for side in (1, 2) if each[f"node{side}_pub"] == key
        ]
        return all(each and int(each["fee_base_msat"]) == fee.msat for each in policies)

    def _edges(self) -> list[dict[str, Any]]:
        edges: list[dict[str, Any]] = self.ask("/v1/graph?include_unannounced=true")["edges"]
        return edges

    def open_channel(self, other: Lightning) -> None:
        """A channel to another node, which is given two fifths of it."""
        peer = {"addr": {"pubkey": other.key, "host": f"127.0.0.1:{other.peer}"}, "timeout": "10"}
        asked = {
            "node_pubkey": base64.b64encode(bytes.fromhex(other.key)).decode(),
            "local_funding_amount": str(CAPACITY.in_sats_exact()),
            "push_sat": str(GIVEN.in_sats_exact()),
            "sat_per_vbyte": "2",
        }
        self.node.wait_for(lambda: int(self.ask("/v1/balance/blockchain")["confirmed_balance"]), "has coins")
        self.node.wait_for(lambda: self.ask("/v1/peers", peer) is not None, "is connected")
        self.node.wait_for(lambda: self.ask("/v1/channels", asked), "has opened a channel")

    def pays(self, invoice: str) -> bool:
        """Pay, as its owner would."""
        asked = {
            "payment_request": invoice,
            "timeout_seconds": 20,
            "fee_limit_msat": "10000",
            "no_inflight_updates": True,
        }
        status: str = self.ask("/v2/router/send", asked)["result"]["status"]
        return status == "SUCCEEDED"

    def has_paid(self, payment_hash: bytes) -> bool:
        """Whether a payment has arrived, and is proven."""
        told = self.ask("/v1/payments?include_incomplete=true&reversed=true&max_payments=20")["payments"]
        return any(each["payment_hash"] == payment_hash.hex() and each["status"] == "SUCCEEDED" for each in told)

    def invoice(self, amount: Amount, expires_in: timedelta = timedelta(minutes=10)) -> str:
        """An invoice, as its owner would make it."""
        asked = {"value_msat": str(amount.msat), "expiry": str(expires_in // timedelta(seconds=1))}
        told: str = self.ask("/v1/invoices", asked)["payment_request"]
        return told


class Bitcoind:
    """The chain."""

    def __init__(self, folder: Path, binary: Path) -> None:
        port, self.blocks, self.transactions = free_ports(3)
        self.rpc = f"127.0.0.1:{port}", "farebox", os.urandom(8).hex()
        (folder / "bitcoind").mkdir()
        host, user, password = self.rpc
        self.node = Node(
            "bitcoind",
            folder,
            [
                str(binary),
                "-regtest",
                f"-datadir={folder}/bitcoind",
                "-server",
                "-txindex",
                "-listen=0",
                "-fallbackfee=0.0002",
                f"-rpcport={port}",
                "-rpcbind=127.0.0.1",
                "-rpcallowip=127.0.0.1",
                f"-rpcuser={user}",
                f"-rpcpassword={password}",
                f"-zmqpubrawblock=tcp://127.0.0.1:{self.blocks}",
                f"-zmqpubrawtx=tcp://127.0.0.1:{self.transactions}",
            ],
            lambda: self.ask("getblockchaininfo"),
        )
        self._http = httpx.Client(base_url=f"http://{host}", auth=(user, password), timeout=30, trust_env=False)

    def ask(self, method: str, *given: object) -> Any:
        """The result. Raises Refused, httpx.HTTPError."""
        told = self._http.post("/", json={"method": method, "params": given}).json()
        if told.get("error"):
            raise Refused(f"{method}: {told['error']}")
        return told["result"]

    def stop(self) -> None:
        """End it."""
        self._http.close()
        self.node.stop()

    def mine(self, blocks: int) -> None:
        """So many blocks."""
        self.ask("generatetoaddress", blocks, self.ask("getnewaddress"))

    def send(self, address: str, amount: Amount) -> None:
        """Coins, which are there with the next block."""
        self.ask("sendtoaddress", address, f"{amount.in_sats_exact() / _SATS_OF_A_COIN:.8f}")


def kept_programs(environment: Mapping[str, str]) -> Path:
    """Where `scripts/lightning` has put `bitcoind` and `lnd`."""
    cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(environment.get("FAREBOX_LIGHTNING") or cache / "farebox/lightning").expanduser() / "bin"


class Regtest:
    """The whole of it, as a context manager. programs: where `bitcoind` and `lnd` are."""

    def __init__(self, folder: Path, programs: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.bitcoind = Bitcoind(folder, programs / "bitcoind")
        self.seller, self.hub, self.buyer = self.nodes = [
            Lightning(name, folder, self.bitcoind, programs / "lnd") for name in ("seller", "hub", "buyer")
        ]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything."""
        for each in self.nodes:
            each.stop()
        self.bitcoind.stop()

    def mine(self, blocks: int) -> None:
        """So many blocks, which every node has seen then."""
        self.bitcoind.mine(blocks)
        height = self.bitcoind.ask("getblockcount")
        for each in self.nodes:
            each.node.wait_for(partial(each.synced, height), f"has seen block {height}")

    def charge(self, fee: Amount) -> None:
        """What the hub asks for, of every payment, from now on; and nobody remembers what failed before."""
        asked = {"global": True, "base_fee_msat": str(fee.msat), "fee_rate": 0, "time_lock_delta": 40}
        self.hub.ask("/v1/chanpolicy", asked)
        for each in (self.buyer, self.seller):
            each.node.wait_for(lambda each=each: each.knows_fee(self.hub.key, fee), "knows the hub's fee")  # type: ignore[misc]
            each.ask("/v2/router/mc/reset", {})

    def wait_for_channels(self) -> None:
        """Returns when every node can use its channels."""
        for each in self.nodes:
            others = (self.seller, self.buyer) if each is self.hub else (self.hub,)
            each.node.wait_for(partial(each.has_channels, *others), "has its channels")

    def _start(self) -> None:
        self.bitcoind.node.start()
        self.bitcoind.ask("createwallet", "miner")
        self.bitcoind.mine(101)
        for each in self.nodes:
            each.node.start()
            self.bitcoind.send(each.ask("/v1/newaddress")["address"], Amount.sats(20_000_000))
        self.mine(1)
        for opener, other in ((self.buyer, self.hub), (self.hub, self.seller)):
            opener.open_channel(other)
        self.mine(6)
        self.wait_for_channels()
        self.charge(NOTHING)
        for payer, payee in ((self.buyer, self.seller), (self.seller, self.buyer)):
            # A channel that is said to be active may refuse for a moment still.
            payer.node.wait_for(lambda payer=payer, payee=payee: payer.pays(payee.invoice(Amount.sats(1))), "has paid")  # type: ignore[misc]


def free_ports(count: int) -> list[int]:
    """Ports that nobody has just now."""
    opened = [socket.socket() for _ in range(count)]
    try:
        for each in opened:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in opened]
    finally:
        for each in opened:
            each.close()
