"""Measures what a paid call costs in CPU, as ratios to bare nginx on this machine: `scripts/bench`.

Every row gets one slice of load after the other, A B C … C B A, so that a machine that gets slower meanwhile does so
for all. Servers are pinned to one core, the load (wrk) and the upstream (nginx, 1 KB of JSON) to another. A slice's
number is the CPU time of the server's process over the requests that wrk saw completed; a row's ratio is to the nginx
slice of the same pass. Only ratios of one run are to be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mint import mint
from report import Run, told
from servers import HERE, Server, found, free_port, gateway, nginx_proxy, nginx_upstream, proxy_alone

from farebox.cli.state import key_ring
from farebox.core.amount import Amount
from farebox.core.exchange import Quote
from farebox.http.paywall import Paywall
from farebox.http.selling import open_gate

CONNECTIONS = 64
PROOFS_PER_SECOND = 8000  # more than a core can use up
INSTALL = "apt-get install nginx-light wrk"


@dataclass(slots=True)
class Row:
    """One way to be asked. load: the arguments of wrk for the next slice."""

    name: str
    server: Server
    load: Callable[[], Sequence[str]]
    spent_us: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    completed: int = 0


def main() -> None:
    """The whole run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="each is two passes over all rows")
    parser.add_argument("--slice", type=int, default=1, metavar="SECONDS", dest="slice_s")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    missing = [program for program in ("nginx", "wrk", "taskset") if found(program) is None]
    rows: list[Row] = []
    if missing:
        print(f"bench: {' and '.join(missing)} not found, so nothing is compared with nginx; {INSTALL}")
    elif len(cores) < 2:
        print("bench: one core is not enough to compare with nginx: the load must not run on the server's")
    else:
        rows = against_nginx(asked.rounds, asked.slice_s, cores[0], cores[1])
    inside = json.loads(_output([sys.executable, str(HERE / "inside.py"), str(asked.rounds)]))
    buying = json.loads(_output([sys.executable, str(HERE / "buying.py"), str(asked.rounds)]))
    run = Run(
        rows=[(row.name, row.ratios, row.spent_us, row.completed) for row in rows],
        inside=inside,
        buying=buying,
        slice_s=asked.slice_s,
    )
    text = told(run)
    if rows:  # half a report does not replace a whole one
        asked.results.write_text(text)
    print(text)


def against_nginx(rounds: int, slice_s: int, server_core: int, load_core: int) -> list[Row]:
    """The rows over sockets."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farebox-bench-")))
        upstream = stack.enter_context(nginx_upstream(folder / "upstream", load_core))
        yardstick = stack.enter_context(nginx_proxy(folder / "nginx", server_core, upstream))
        alone = stack.enter_context(proxy_alone(folder / "proxy", server_core, upstream))
        slices = 2 * rounds + 1
        port = free_port()
        print(f"bench: minting {slices * slice_s * PROOFS_PER_SECOND} paid proofs", flush=True)
        (folder / "shop").mkdir()
        again, files = asyncio.run(prepare(folder / "shop", port, slices, slice_s * PROOFS_PER_SECOND))
        shop = stack.enter_context(gateway(folder / "shop", server_core, upstream, port))
        fresh = iter(files)
        paid = f"http://{shop.address}/paid"
        rows = [
            Row("nginx proxy", yardstick, lambda: [f"http://{yardstick.address}/paid"]),
            Row("farebox proxy, no gate", alone, lambda: [f"http://{alone.address}/paid"]),
            Row("gateway, paid, answer read again", shop, lambda: ["-H", f"Authorization: {again}", paid]),
            Row(
                "gateway, paid, first use of each payment",
                shop,
                lambda: ["-s", str(HERE / "tokens.lua"), paid, "--", str(next(fresh))],
            ),
        ]
        urllib.request.urlopen(urllib.request.Request(paid, headers={"Authorization": again})).close()
        for row in rows:
            spend(row, slice_s, load_core)
        for number in range(rounds):
            for order in (rows, rows[::-1]):
                spent = {row.name: spend(row, slice_s, load_core) for row in order}
                for row in rows:
                    cpu_us, completed = spent[row.name]
                    row.spent_us.append(cpu_us)
                    row.ratios.append(cpu_us / spent[rows[0].name][0])
                    row.completed += completed
            so_far = ", ".join(f"{row.name} {statistics.median(row.ratios):.2f}" for row in rows[1:])
            print(f"bench: after round {number + 1} of {rounds}: {so_far}", flush=True)
        return rows


async def prepare(folder: Path, port: int, slices: int, proofs: int) -> tuple[str, Sequence[Path]]:
    """A shop's ledger and keys with payments in it: one proof to show again and again, and for each slice a file."""
    gate = open_gate(store=f"sqlite:///{folder / 'ledger.db'}", keys=key_ring(folder / "keys"))
    host = f"127.0.0.1:{port}".encode()
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/paid",
        "raw_path": b"/paid",
        "query_string": b"",
        "headers": [(b"host", host)],
    }
    reader = Paywall(_nothing, gate=gate, prices={"GET /paid": "1 sat"}).reader
    digest = reader.take(scope, b"", "GET").digest
    quote = Quote(amount=Amount.sats(1), resource="GET /paid", digest=digest)
    (again,) = await mint(gate.ledger, gate.dialects[0], quote, 1)
    files = []
    for number in range(slices):
        files.append(folder / f"proofs-{number}")
        files[-1].write_text("\n".join(await mint(gate.ledger, gate.dialects[0], quote, proofs)) + "\n")
    await gate.close()
    return again, files


async def _nothing(_scope: object, _receive: object, _send: object) -> None:
    """An app that is never asked."""


def spend(row: Row, slice_s: int, core: int) -> tuple[float, int]:
    """Load a server for a slice: CPU microseconds per request, and requests."""
    wrk = ["taskset", "-c", str(core), found("wrk") or "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{slice_s}"]
    before = row.server.cpu_s()
    output = _output([*wrk, *row.load()])
    after = row.server.cpu_s()
    failed = re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", output)
    completed = re.search(r"(\d+) requests in", output)
    if failed or completed is None or not int(completed[1]):
        raise SystemExit(f"bench: {row.name}: not every request was answered\n{output}")
    return (after - before) * 1e6 / int(completed[1]), int(completed[1])


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: {command[0]} failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
