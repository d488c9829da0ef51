"""A real wallet service (NIP-47) on this machine: Electrum with a channel to a regtest hub, behind a real relay.

Rules
1. Electrum, its server and the relay are other people's, and begin from nothing, in a folder of their own. What they
   are started from `scripts/lightning --electrum` makes ready.
2. Electrum opened its channel and gave two fifths of it away, so that it can pay and be paid, always through the hub.
3. It believes in a changed fee only when the last change is a minute old. So the hub asks for one in the channel to the
   buyer when Electrum first hears of it, and Electrum goes on paying that; to the seller it pays none.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from farebox.core.amount import NOTHING, Amount
from farebox.testing.regtest import CAPACITY, GIVEN, Node, Refused, Regtest, free_ports

FUNDS: Final = Amount.sats(20_000_000)
FEE_TO_BUYER: Final = Amount.sats(3)
_MOST_FEE: Final = Amount.sats(100)
_SATS_OF_A_COIN: Final = 100_000_000
_LEVELS: Final = (144, 25, 10, 5, 2, 1)  # blocks, for which it wants to know what a transaction costs
_SATS_PER_KB: Final = 1000


class RealElectrum:
    """The wallet, as a context manager. uri: of a connection that may pay; narrow: of one that can only be paid.

    programs: where `scripts/lightning` has put what it made.
    """

    def __init__(self, regtest: Regtest, folder: Path, programs: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.regtest = regtest
        self.uri = self.narrow = ""
        self._folder = folder
        self._relay: Any = None
        self._point = ""
        venv = programs.parent / "electrum/venv/bin"
        self._server_port, port = free_ports(2)
        user, password = "farebox", os.urandom(8).hex()
        self._settings: dict[str, object] = {
            "config_version": 3,
            "server": f"127.0.0.1:{self._server_port}:t",
            "oneserver": True,
            "auto_connect": False,
            "check_updates": False,
            "rpcuser": user,
            "rpcpassword": password,
            "rpchost": "127.0.0.1",
            "rpcport": port,
            "use_gossip": True,  # else it wants to pay through nodes that find the way for it (trampoline)
            "lightning_payment_fee_cutoff_msat": _MOST_FEE.msat,
            "log_to_file": False,
        }
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", auth=(user, password), timeout=30, trust_env=False
        )
        self.server = Node("electrum-server", folder, self._serving(venv), self._listens)
        command = [str(venv / "python"), "-W", "ignore", str(venv / "run_electrum")]
        self.node = Node(
            "electrum", folder, [*command, "--regtest", "-D", str(folder / "home"), "daemon"], self._is_connected
        )

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
        self._http.close()
        self.node.stop()
        self.server.stop()
        if self._relay is not None:
            self._relay.shutdown()

    def ask(self, method: str, **given: object) -> Any:
        """What its owner is told. Raises Refused, httpx.HTTPError."""
        told = self._http.post("/", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": given}).json()
        if told.get("error"):
            raise Refused(f"{method}: {told['error']}")
        return told["result"]

    def pays(self, invoice: str) -> bool:
        """Pay, as its owner would."""
        paid: bool = self.ask("lnpay", invoice=invoice, timeout=20)["success"]
        return paid

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """While this lasts nobody talks to it, so that it finds no way to anybody."""
        hub, key = self.regtest.hub, self.ask("nodeid").partition("@")[0]
        hub.ask(f"/v1/peers/{key}", method="DELETE")
        self.node.wait_for(lambda: self._channel_states("peer_state") != ["GOOD"], "is cut off")
        try:
            yield
        finally:
            self._join()

    # --- starting -----------------------------------------------------------------------------------------------------

    def _serving(self, venv: Path) -> list[str]:
        host, user, password = self.regtest.bitcoind.rpc
        settings = {
            "COIN": "Bitcoin",
            "NET": "regtest",
            "DB_ENGINE": "leveldb",
            "DB_DIRECTORY": str(self._folder / "server"),
            "DAEMON_URL": f"http://{user}:{password}@{host}/",
            "SERVICES": f"tcp://127.0.0.1:{self._server_port},rpc://127.0.0.1:{free_ports(1)[0]}",
            "PEER_DISCOVERY": "off",
            "PEER_ANNOUNCE": "",
            "COST_SOFT_LIMIT": "0",
            "COST_HARD_LIMIT": "0",
            "ALLOW_ROOT": "1",
            "DAEMON_POLL_INTERVAL_BLOCKS": "100",
            "DAEMON_POLL_INTERVAL_MEMPOOL": "100",
        }
        named = [f"{name}={value}" for name, value in settings.items()]
        return [shutil.which("env") or "env", *named, str(venv / "electrumx_server")]

    def _start(self) -> None:
        (self._folder / "server").mkdir()
        self.server.start()
        self._relay, relay = asyncio.run(_relay())
        self._settings |= {"nostr_relays": relay, "plugins": {"nwc": {"enabled": True, "relay": relay}}}
        config = self._folder / "home/regtest/config"
        config.parent.mkdir(parents=True)
        config.write_text(json.dumps(self._settings))
        self.node.start()
        self.ask("load_wallet", wallet_path=self.ask("create")["path"])
        # What it would estimate on so young a chain is wild.
        self.ask("test_inject_fee_etas", fee_est=str(dict.fromkeys(_LEVELS, _SATS_PER_KB)))
        self.uri = self.ask("nwc_add_connection", name="that pays")
        self.narrow = self.ask("nwc_add_connection", name="that is paid", daily_limit_sat=0)
        self._open_channel()

    def _open_channel(self) -> None:
        hub, wait_for = self.regtest.hub, self.node.wait_for
        self._charge_to_buyer()
        self.regtest.bitcoind.send(self.ask("createnewaddress"), FUNDS)
        self.regtest.mine(1)
        wait_for(lambda: float(self.ask("getbalance").get("confirmed", 0)), "has coins")
        self._point = self.ask(
            "open_channel",
            connection_string=f"{hub.key}@127.0.0.1:{hub.peer}",
            amount=_coins(CAPACITY),
            push_amount=_coins(GIVEN),
        )
        transaction = self._point.partition(":")[0]
        wait_for(lambda: transaction in self.regtest.bitcoind.ask("getrawmempool"), "has opened a channel")
        self.regtest.mine(6)
        wait_for(lambda: self._channel_states("state") == ["OPEN"], "has its channel")
        self._join()
        for payee in (self.regtest.seller, self.regtest.buyer):
            invoice = payee.invoice(Amount.sats(1))
            wait_for(lambda invoice=invoice: self.pays(invoice), "has heard of every channel")  # type: ignore[misc]
        self.regtest.charge(NOTHING)

    def _charge_to_buyer(self) -> None:
        buyer, hub = self.regtest.buyer, self.regtest.hub
        (channel,) = buyer.ask("/v1/channels")["channels"]
        transaction, _, output = channel["channel_point"].partition(":")
        point = {"funding_txid_str": transaction, "output_index": int(output)}
        fee = {"base_fee_msat": str(FEE_TO_BUYER.msat), "fee_rate": 0, "time_lock_delta": 40}
        hub.ask("/v1/chanpolicy", {"chan_point": point, **fee})

    def _join(self) -> None:
        """Be connected to the hub, and be able to use the channel."""
        hub = self.regtest.hub
        with suppress(Refused):  # it may be just about to
            self.ask("add_peer", connection_string=f"{hub.key}@127.0.0.1:{hub.peer}")
        self.node.wait_for(lambda: self._channel_states("peer_state") == ["GOOD"], "is connected to the hub")
        self.node.wait_for(self._is_usable, "can use its channel")

    def _is_usable(self) -> bool:
        told = self.regtest.hub.ask("/v1/channels?active_only=true")["channels"]
        return any(each["channel_point"] == self._point for each in told)

    def _channel_states(self, name: str) -> list[str]:
        return [each[name] for each in self.ask("list_channels")]

    def _is_connected(self) -> bool:
        connected: bool = self.ask("getinfo")["connected"]
        return connected

    def _listens(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._server_port), 1):
            return True


async def _relay() -> tuple[Any, str]:
    from nostr_sdk import LocalRelayBuilder, RateLimit  # type: ignore[import-untyped]  # it says nothing of its types

    relay = LocalRelayBuilder().rate_limit(RateLimit(max_reqs=500, notes_per_minute=10**8)).build()
    await relay.run()
    return relay, str(await relay.url())


def _coins(amount: Amount) -> str:
    return f"{amount.in_sats_exact() / _SATS_OF_A_COIN:.8f}"
