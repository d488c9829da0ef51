"""What a call costs its buyer inside one process: farebox.Client beside a plain httpx.Client, without sockets.

`python bench/buying.py ROUNDS` prints JSON: for each row the CPU microseconds per call, one number per slice, all
threads counted. Slices are interleaved: A B C … C B A. The wallet proves each payment at once, so that its time is
apart; the purse is a file, and every step of a payment in it is durable. `paid` has a new purse in each slice, `busy`
one that counts some thousand purchases of that day.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from farebox.core.exchange import Quote
from farebox.core.secret import KeyRing
from farebox.dialects import L402, PaymentAuth
from farebox.http.buy import Client
from farebox.http.buyer import open_buyer
from farebox.stores.engine import utc_now
from farebox.testing.buyers import Mint, ScriptedWallet

BODY = json.dumps({"data": "x" * 1010}).encode()
KIND = {"content-type": "application/json"}
CALLS = {"plain": 1000, "free": 500, "kept": 1000, "paid": 200, "busy": 200}
BOUGHT_BEFORE = 2000
URL = "https://shop.example/scores?of=42"


class Seller:
    """Answers a proof, and asks anything else for a payment of its own, in two dialects at once."""

    def __init__(self, *, sells_once: bool) -> None:
        self.mint = Mint(utc_now)
        keys = KeyRing.generate()
        self._dialects = (L402(keys), PaymentAuth(keys, realm="bench"))
        self._sells_once = sells_once
        self.asks: list[httpx.Response] = []

    def prepare(self, calls: int) -> None:
        """Make the 402 answers beforehand."""
        for _ in range(calls):
            invoice = self.mint.invoice()
            assert invoice.amount is not None
            quote = Quote(amount=invoice.amount, resource="GET /scores", digest=bytes(32))
            lines, members = [], {}
            for dialect in self._dialects:
                challenge = dialect.issue(quote, invoice, valid_until=invoice.expires_at)
                assert challenge is not None
                wire = dialect.write_challenge(challenge)
                lines += [value for _, value in wire.headers]
                members |= dict(wire.body)
            if not self._sells_once:
                lines = [f'L402 macaroon="AgEEb3BhcXVl", invoice="{invoice.text}"']
            headers = {"www-authenticate": ", ".join(lines), **KIND}
            self.asks.append(httpx.Response(402, headers=headers, content=json.dumps(members).encode()))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """What the transport asks."""
        if "authorization" in request.headers:
            return httpx.Response(200, headers=KIND, content=BODY)
        return self.asks.pop()


def answers(_request: httpx.Request) -> httpx.Response:
    """A server without prices."""
    return httpx.Response(200, headers=KIND, content=BODY)


def measured(call: Callable[[], object], calls: int) -> float:
    """CPU microseconds per call."""
    began = time.process_time_ns()
    for _ in range(calls):
        call()
    return (time.process_time_ns() - began) / calls / 1000


def measure(rounds: int, folder: Path) -> dict[str, list[float]]:
    """Every row, in interleaved slices."""
    once, again = Seller(sells_once=True), Seller(sells_once=False)
    opened = []

    def paying(name: str, seller: Seller) -> httpx.Client:
        wallet = ScriptedWallet(seller.mint)
        opened.append(open_buyer(wallet=wallet, budget="1000000000 sat/day", purse=folder / f"{name}.db"))
        return Client(buyer=opened[-1], transport=httpx.MockTransport(seller))

    keeping, busy = paying("again", again), paying("busy", once)
    free = Client(buyer=opened[0], transport=httpx.MockTransport(answers))
    plain = httpx.Client(transport=httpx.MockTransport(answers))
    again.prepare(1)
    assert keeping.get(URL).extensions["farebox"].paid
    assert keeping.get(URL).extensions["farebox"].reused
    once.prepare(BOUGHT_BEFORE + (CALLS["paid"] + CALLS["busy"]) * 2 * rounds)
    for client, calls in (
        (plain, CALLS["plain"]),
        (free, CALLS["free"]),
        (keeping, CALLS["kept"]),
        (busy, BOUGHT_BEFORE),
    ):
        measured(lambda client=client: client.get(URL), calls)  # type: ignore[misc] # bound at once
    gc.collect()
    gc.freeze()  # what was prepared is the sellers', and no buyer's garbage
    told: dict[str, list[float]] = {name: [] for name in CALLS}
    for number in range(rounds):
        for place, name in enumerate([*CALLS, *reversed(CALLS)]):
            rows = {"plain": plain, "free": free, "kept": keeping, "busy": busy}
            client = rows[name] if name in rows else paying(f"new-{number}-{place}", once)
            told[name].append(measured(lambda client=client: client.get(URL), CALLS[name]))  # type: ignore[misc]
    for each in opened:
        each.close()
    return told


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(int(sys.argv[1]), Path(temporary))))
