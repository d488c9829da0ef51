"""What is used up by a request is given back after it, however many there are (target D7)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.system, pytest.mark.anyio]

OFFERED_PER_S = 20_000  # more than is taken: the next request is sent when there is an answer
PIECES = 10  # of the load; the first two are for what grows once
DAY_MIB = 24  # 1 MiB an hour
DAY_REQUESTS = 10_000_000
NOISE_MIB = 8.0  # arenas of the allocator come and go
BUYERS = 8
BOUGHT = 200
AT_REST_S = 20.0
CONFIG = """
trusted_proxies = ["127.0.0.1"]
free_calls_a_day = 1000
[[route]]
path = "/*"
method = "POST"
price = "21 sat"
upstream = "{upstream}"
rerun = true
"""


@dataclass(frozen=True)
class Used:
    """What a process has of the machine."""

    memory_mib: float
    files: int
    threads: int


def used(pid: int) -> Used:
    place = Path(f"/proc/{pid}")
    pages = int((place / "statm").read_text().split()[1])
    return Used(
        memory_mib=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        files=len(list((place / "fd").iterdir())),
        threads=len(list((place / "task").iterdir())),
    )


async def at_rest(pid: int, before: Used) -> Used:
    """As it is when the connections of the last piece are closed."""
    until = time.monotonic() + AT_REST_S
    while (now := used(pid)).files > before.files and time.monotonic() < until:
        await asyncio.sleep(0.1)
    return now


async def flooded(listen: str, seconds: float, seed: int) -> int:
    """How many unpaid requests were taken."""
    command = ["-m", "farebox.testing.flood", listen, "--rate", f"{OFFERED_PER_S}", "--seconds", f"{seconds}"]
    flood = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--seed", f"{seed}", "--connections", "16", stdout=asyncio.subprocess.PIPE
    )
    told, _ = await flood.communicate()
    return int(json.loads(told)["sent"])


async def bought_again(url: str, proofs: list[tuple[str, dict[str, str]]], over: asyncio.Event) -> int:
    """How many paid answers were given, each buyer one after the other, until it is over."""

    async def one(http: httpx.AsyncClient, number: int) -> int:
        given = 0
        while not over.is_set():
            prompt, proof = proofs[(number + given * BUYERS) % len(proofs)]
            answer = await http.post(url, content=prompt, headers=proof)
            assert 200 == answer.status_code, answer.text
            given += 1
            await asyncio.sleep(0.02)
        return given

    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        return sum(await asyncio.gather(*(one(http, number) for number in range(BUYERS))))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    "seconds",
    [pytest.param(60, marks=[pytest.mark.full, pytest.mark.alone]), pytest.param(3600, marks=pytest.mark.soak)],
    ids=["a minute", "an hour"],
)
async def test_no_memory_file_or_thread_is_kept_for_a_request_that_is_over(
    open_shop: Any,
    payer: Any,
    writer_url: str,
    seed: int,
    tell: Callable[[str], object],
    tmp_path: Path,
    seconds: int,
) -> None:
    config = tmp_path / "shop.toml"
    config.write_text(CONFIG.format(upstream=writer_url))
    with open_shop(str(config), "--free-calls", "0") as shop:
        proofs = [(f"{number}", dict(await payer.buy(shop, f"{number}"))) for number in range(BOUGHT)]
        assert 0 == shop.stop()
        shop.arguments = (str(config), "--invoices-per-s", "50", "--log-level", "warning")
        shop.start()
        readings, unpaid, paid = [used(shop.process.pid)], 0, 0
        for piece in range(PIECES):
            over = asyncio.Event()
            buying = asyncio.create_task(bought_again(shop.url, proofs, over))
            unpaid += await flooded(shop.listen, seconds / PIECES, seed + piece)
            over.set()
            paid += await buying
            readings.append(await at_rest(shop.process.pid, readings[0]))
    warm, last = readings[2], readings[-1]
    share = (unpaid + paid) / DAY_REQUESTS
    tell(
        f"D7: {unpaid} unpaid and {paid} paid requests in {seconds} s: memory {warm.memory_mib:.1f} MiB after a fifth, "
        f"{last.memory_mib:.1f} after all; files {warm.files} and {last.files}, threads {warm.threads} and "
        f"{last.threads} (seed {seed})"
    )
    assert last.files <= warm.files
    assert last.threads <= warm.threads
    assert last.memory_mib - warm.memory_mib <= NOISE_MIB + DAY_MIB * share
