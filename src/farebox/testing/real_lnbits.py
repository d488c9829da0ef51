"""A real LNbits on this machine, with its own database and API: on its FakeWallet, without a node, or on a real lnd.

Rules
1. It is installed with pip into an environment of its own in a cache folder, once; the folder has to stay where it is.
2. Every run begins from nothing, in a folder of its own, on a port that was free; and ends with what it started.
3. FakeWallet makes invoices for mainnet (`lnbc`). It pays invoices of this LNbits only, for no fee, at once.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from farebox.core.amount import Amount
from farebox.testing.regtest import Lightning, Node, NotStarted, free_ports

FUNDS: Final = Amount.sats(1_000_000)
_VERSION: Final = "1.6.2"
_PACKAGES: Final = (f"lnbits=={_VERSION}", "bitstring<5")  # it can't be imported with bitstring 5
_PYTHONS: Final = ("python3.11", "python3.12", "python3.10")
_PASSWORD: Final = "only on loopback"
_MOST_FEE: Final = Amount.sats(100)
_MOST_SATS: Final = 100_000_000
_SETTINGS: Final = {
    "LNBITS_BACKEND_WALLET_CLASS": "FakeWallet",
    "FAKE_WALLET_SECRET": "test",
    "AUTH_SECRET_KEY": "test",
    "LNBITS_ADMIN_UI": "true",
    "LNBITS_EXTENSIONS_DEACTIVATE_ALL": "true",
    "LNBITS_EXTENSIONS_DEFAULT_INSTALL": "",
    "ENABLE_LOG_TO_FILE": "false",
    "LNBITS_RATE_LIMIT_NO": "1000000",
    "LNBITS_RATE_LIMIT_UNIT": "second",
    "LNBITS_PRICE_AGGREGATOR_ENABLED": "false",  # else each invoice waits for a rate
    "LNBITS_EXCHANGE_RATE_PROVIDERS": "[]",
    "LNBITS_CALLBACK_ALLOW_PRIVATE_IPS": "true",
    "LNBITS_LNURL_ALLOW_PRIVATE_IPS": "true",
    "LNBITS_MAX_INCOMING_PAYMENT_AMOUNT_SATS": str(_MOST_SATS),
    "LNBITS_MAX_OUTGOING_PAYMENT_AMOUNT_SATS": str(_MOST_SATS),
    "LNBITS_ALLOW_CUSTOM_WALLET_LIGHTNING_ADDRESSES": "true",
}


class RealLNbits:
    """url: as it is asked. seller, buyer: the keys of two wallets, `inkey` and `adminkey`; both have `FUNDS`.

    cache: where it is installed, which takes a minute the first time. folder: of this run, and empty. lnd: what makes
    and pays its invoices; else it is its FakeWallet.
    """

    def __init__(self, cache: Path, folder: Path, *, lnd: Lightning | None = None) -> None:
        self._cache = cache
        self._folder = folder
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.seller: dict[str, str] = {}
        self.buyer: dict[str, str] = {}
        self._http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        settings = {
            **_SETTINGS,
            **({} if lnd is None else _on(lnd)),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "LNBITS_DATA_FOLDER": str(folder / "data"),
            "LNBITS_EXTENSIONS_PATH": str(folder / "extensions"),
        }
        self.node = Node(
            "lnbits",
            folder,
            [
                shutil.which("env") or "env",
                f"--chdir={folder}",  # it serves lnbits/static from where it was started
                *(f"{name}={value}" for name, value in settings.items()),
                str(cache / "venv/bin/uvicorn"),  # the command `lnbits` starts it as a child, and leaves it behind
                "lnbits.__main__:app",
                *("--host", "127.0.0.1", "--port", str(self.port)),
            ],
            self._is_up,
        )

    def __enter__(self) -> Self:
        try:
            self.install(self._cache)
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
        """End it."""
        self._http.close()
        self.node.stop()

    def wallet_url(self, key: str) -> str:
        """As it is given to farebox."""
        return f"lnbits+{self.url}?key={key}"

    def new_wallet(self, name: str) -> dict[str, str]:
        """The keys of a wallet in which there is nothing yet."""
        wallet = self._ask("POST", "/api/v1/account", {"name": name})
        return {key: str(wallet[key]) for key in ("id", "inkey", "adminkey")}

    def name_wallet(self, wallet: dict[str, str], name: str) -> str:
        """Give a wallet a Lightning Address, of LNbits' own."""
        self._ask("PATCH", "/api/v1/wallet", {"lightning_address": name}, {"X-Api-Key": wallet["adminkey"]})
        return f"{name}@127.0.0.1:{self.port}"

    @staticmethod
    def install(cache: Path) -> None:
        """Have it in the cache folder, in `venv`. Raises NotStarted."""
        done = cache / f"lnbits-{_VERSION}"
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if done.exists():
                return
            venv = cache / "venv"
            python = next((found for name in _PYTHONS if (found := shutil.which(name))), sys.executable)
            for command in (
                [python, "-m", "venv", "--clear", str(venv)],
                [str(venv / "bin/pip"), "install", "--quiet", *_PACKAGES],
            ):
                ran = subprocess.run(command, capture_output=True, text=True, check=False)
                if ran.returncode:
                    raise NotStarted(f"LNbits can't be installed: {ran.stderr.strip()[-500:]}")
            done.touch()

    def _start(self) -> None:
        for name in ("data/logs", "extensions/extensions"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (package,) = (self._cache / "venv/lib").glob("python3.*/site-packages/lnbits")
        (self._folder / "lnbits").symlink_to(package)
        self.node.start()
        passwords = {"username": "operator", "password": _PASSWORD, "password_repeat": _PASSWORD}
        told = self._ask("PUT", "/api/v1/auth/first_install", passwords)
        bearer = {"Authorization": f"Bearer {told['access_token']}"}
        self.seller, self.buyer = self.new_wallet("seller"), self.new_wallet("buyer")
        for wallet in (self.seller, self.buyer):
            asked = {"id": wallet["id"], "amount": FUNDS.in_sats_exact()}
            self._ask("PUT", "/users/api/v1/balance", asked, bearer)

    def _is_up(self) -> bool:
        """Whatever it answers: until it is installed everything is a redirect."""
        return self._http.get("/api/v1/wallet").status_code > 0

    def _ask(self, method: str, path: str, asked: object, headers: dict[str, str] | None = None) -> dict[str, Any]:
        reply = self._http.request(method, path, json=asked, headers=headers)
        if not reply.is_success:
            raise NotStarted(f"LNbits answers {reply.status_code} to {method} {path}: {reply.text[:200]}")
        told: dict[str, Any] = reply.json()
        return told


def _on(lnd: Lightning) -> dict[str, str]:
    return {
        "LNBITS_BACKEND_WALLET_CLASS": "LndRestWallet",
        "LND_REST_ENDPOINT": f"https://127.0.0.1:{lnd.rest}",
        "LND_REST_CERT": str(lnd.certificate),
        "LND_REST_MACAROON": lnd.macaroon().read_bytes().hex(),
        "LNBITS_RESERVE_FEE_MIN": str(_MOST_FEE.msat),
        "LNBITS_FUNDING_SOURCE_PAY_INVOICE_WAIT_SECONDS": "2",
    }
