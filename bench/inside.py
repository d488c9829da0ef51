"""What the middleware costs inside one process: an ASGI app called in a tight loop, without sockets.

`python bench/inside.py ROUNDS` prints JSON: for each row the CPU microseconds per call, one number per slice, all
threads of the process counted. Slices are interleaved: A B C … C B A.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
import uvloop
from mint import mint

from farebox.core.amount import Amount
from farebox.core.bolt11 import decode
from farebox.core.exchange import Quote
from farebox.gate import Terms
from farebox.http.converse import aconverse
from farebox.http.paywall import Paywall
from farebox.http.selling import Gate, open_gate

BODY = b'{"data":"' + b"x" * 1010 + b'"}'
ANSWER = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
PRICED, FREE = "/paid", "/free"
AT_ONCE = 64
CALLS = {"bare": 4000, "unpriced": 4000, "again": 2000, "first": 1024}
STARTS = 9


async def bare(_scope: Any, _receive: Any, send: Any) -> None:
    """The app itself."""
    await send({"type": "http.response.start", "status": 200, "headers": ANSWER})
    await send({"type": "http.response.body", "body": BODY})


def scope_of(path: str, proof: str = "") -> dict[str, Any]:
    """A GET as a server tells it."""
    headers = [(b"host", b"shop.example"), (b"user-agent", b"bench"), (b"accept", b"*/*")]
    if proof:
        headers.append((b"authorization", proof.encode()))
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 8402),
    }


async def receive() -> dict[str, Any]:
    """A request without a body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    """A server that throws the answer away, if it is the right one."""
    if message["type"] == "http.response.start" and message["status"] != 200:
        raise AssertionError(f"answered {message['status']}")


class Rows:
    """The four ways to call."""

    def __init__(self, paywall: Paywall, proofs: Iterator[str], used: str) -> None:
        self._paywall = paywall
        self._proofs = proofs
        self._again = scope_of(PRICED, used)

    async def bare(self, calls: int) -> None:
        for _ in range(calls):
            await bare(scope_of(FREE), receive, send)

    async def unpriced(self, calls: int) -> None:
        for _ in range(calls):
            await self._paywall(scope_of(FREE), receive, send)

    async def again(self, calls: int) -> None:
        for _ in range(calls):
            await self._paywall(dict(self._again), receive, send)

    async def first(self, calls: int) -> None:
        async def worker() -> None:
            for _ in range(calls // AT_ONCE):
                await self._paywall(scope_of(PRICED, next(self._proofs)), receive, send)

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def measured(row: Callable[[int], Awaitable[None]], calls: int) -> float:
    """CPU microseconds per call."""
    began = time.process_time_ns()
    await row(calls)
    return (time.process_time_ns() - began) / calls / 1000


async def measure(rounds: int, folder: Path) -> dict[str, list[float]]:
    """Every row, in interleaved slices."""
    gate = open_gate(store=f"sqlite:///{folder / 'ledger.db'}", terms=Terms(free_calls=0))
    paywall = Paywall(bare, gate=gate, prices={f"GET {PRICED}": "1 sat"})
    digest = paywall.reader.take(scope_of(PRICED), b"", "GET").digest
    quote = Quote(amount=Amount.sats(1), resource=f"GET {PRICED}", digest=digest)
    proofs = iter(await mint(gate.ledger, gate.dialects[0], quote, CALLS["first"] * (2 * rounds + 1) + 1))
    used = next(proofs)
    await paywall(scope_of(PRICED, used), receive, send)
    rows = Rows(paywall, proofs, used)
    told: dict[str, list[float]] = {name: [] for name in CALLS}
    for name, calls in CALLS.items():
        await measured(getattr(rows, name), calls)
    for _ in range(rounds):
        for name in [*CALLS, *reversed(CALLS)]:
            told[name].append(await measured(getattr(rows, name), CALLS[name]))
    told["decode"] = await decoding(gate, rounds)
    await gate.close()
    return told


async def decoding(gate: Gate, rounds: int) -> list[float]:
    """CPU microseconds to decode a BOLT11 invoice and check its signature; no invoice is decoded twice."""
    talk = gate.receivers[0].create_invoice
    slices = []
    for _ in range(rounds):
        texts = [
            (
                await aconverse(talk(Amount.sats(21), description=secrets.token_hex(8), expires_in=timedelta(hours=1)))
            ).text
            for _ in range(100)
        ]
        began = time.process_time_ns()
        for text in texts:
            decode(text)
        slices.append((time.process_time_ns() - began) / len(texts) / 1000)
    return slices


def starting(*arguments: str) -> float:
    """Milliseconds of wall time that a command takes, the median of some."""
    spans = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        spans.append(time.perf_counter() - began)
    return statistics.median(spans) * 1000


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    with tempfile.TemporaryDirectory() as temporary, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result: dict[str, object] = dict(runner.run(measure(int(sys.argv[1]), Path(temporary))))
    result["starts"] = {
        "python": starting(sys.executable, "-c", "pass"),
        "import farebox": starting(sys.executable, "-c", "import farebox"),
        "farebox --help": starting(str(Path(sys.executable).with_name("farebox")), "--help"),
    }
    print(json.dumps({**result, "at": datetime.now(UTC).isoformat()}))
