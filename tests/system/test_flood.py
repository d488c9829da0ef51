"""A flood of callers who never pay: what it may cost, and that nobody who has paid notices it."""

import asyncio
import json
import os
import statistics
import sys
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from farebox.core.payment import Payment, PaymentState

pytestmark = [pytest.mark.system, pytest.mark.anyio]

OFFERED_PER_S = 10_000
INVOICES_PER_S = 50
FREE_CALLS = 50
MOST_GROWTH_MIB = 64
MOST_IDLE_CALLS = 300
MOST_SLOWER = 2  # p99 of paid calls in a flood, against none
MOST_SLOWER_HERE = 20  # with whatever the machines around this one do meanwhile
MOST_STOLEN = 0.02
SECONDS_BEFORE = 2.0  # of the flood, before the first paid call in it
CONFIG = """
store = "sqlite:///shop.db"
keys = "shop.keys"
trusted_proxies = ["127.0.0.1"]
free_calls_a_day = {free}
[[route]]
path = "/*"
method = "POST"
price = "21 sat"
upstream = "{upstream}"
rerun = true
"""


class Machine:
    """How much of this machine's processors the machines around it took, second by second (proc(5): /proc/stat).

    Whoever shares processors is slower whenever a neighbour has them, flood or not. So how slow a flood makes a paid
    call is asked of the seconds in which they were ours, before it and in it.
    """

    def __init__(self) -> None:
        self._since: list[float] = []
        self._ticks: list[tuple[int, int]] = []

    async def watch(self) -> None:
        """Look each second, for ever."""
        while True:
            ticks = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            self._since.append(time.perf_counter())
            self._ticks.append((ticks[7], sum(ticks)))
            await asyncio.sleep(1)

    def stolen(self, at_s: float) -> float:
        """The share of the processors' time that others took in the second of this moment."""
        after = min(bisect_right(self._since, at_s), len(self._since) - 1)
        (taken_before, before), (taken, now) = self._ticks[after - 1], self._ticks[after]
        return (taken - taken_before) / (now - before)


@dataclass
class Paid:
    """When each paid call began, and how long it took in milliseconds."""

    began_s: list[float] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)

    def undisturbed(self, machine: Machine) -> list[float]:
        """How long those took that were made in seconds in which the processors were ours."""
        return [
            took_ms
            for began_s, took_ms in zip(self.began_s, self.took_ms, strict=True)
            if machine.stolen(began_s) <= MOST_STOLEN
        ]


@dataclass
class Seen:
    """What was measured. memory: in MiB."""

    machine: Machine = field(default_factory=Machine)
    idle: Paid = field(default_factory=Paid)
    flooded: Paid = field(default_factory=Paid)
    memory: list[float] = field(default_factory=list)
    flood: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0

    def told(self) -> str:
        calm_idle, calm_flooded = self.idle.undisturbed(self.machine), self.flooded.undisturbed(self.machine)
        return (
            f"offered {self.flood['offered']} in {self.took_s:.0f} s, taken {self.flood['sent']}, "
            f"answered {self.flood['answers']}; paid calls, p50/p99 ms: idle {quantiles(self.idle.took_ms)}, flooded "
            f"{quantiles(self.flooded.took_ms)}; in seconds in which neighbours took at most {MOST_STOLEN:.0%} of the "
            f"processors: idle {quantiles(calm_idle)}, flooded {quantiles(calm_flooded)}; "
            f"memory {self.memory[0]:.0f} MiB, at most {max(self.memory):.0f}; seed {self.flood['seed']}"
        )


def quantiles(latencies: list[float]) -> str:
    if len(latencies) < 2:
        return f"none of {len(latencies)}"
    return f"{statistics.median(latencies):.1f}/{p99(latencies):.1f} of {len(latencies)}"


def p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100, method="inclusive")[98]


def memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def paced(
    payer: Any, url: str, proofs: list[tuple[str, dict[str, str]]], apart_s: float, seen: Paid
) -> AsyncIterator[None]:
    """Paid calls one after the other, as far apart with a flood as without."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    for prompt, proof in proofs:
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        due_s += apart_s
        began_s = time.perf_counter()
        answer = await payer.http.post(url, content=prompt, headers=proof)
        assert 200 == answer.status_code, answer.text
        seen.began_s.append(began_s)
        seen.took_ms.append((time.perf_counter() - began_s) * 1000)
        yield


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("seconds", "calls", "enough"),
    [
        (5, 40, 0),
        pytest.param(60, 500, 20, marks=[pytest.mark.full, pytest.mark.alone]),
        pytest.param(600, 2000, 150, marks=pytest.mark.soak),
    ],
    ids=["5 s", "60 s", "10 minutes"],
)
async def test_a_flood_is_bounded_and_paid_calls_go_on(
    open_shop: Any,
    payer: Any,
    writer_url: str,
    read_books: Any,
    tell: Callable[[str], object],
    tmp_path: Path,
    seed: int,
    seconds: int,
    calls: int,
    enough: int,
) -> None:
    config = tmp_path / "shop.toml"
    config.write_text(CONFIG.format(upstream=writer_url, free=FREE_CALLS))
    seen = Seen()
    with open_shop(str(config), "--free-calls", "0") as shop:
        idle = min(calls, MOST_IDLE_CALLS)
        proofs = [(f"{n}", await payer.buy(shop, f"{n}")) for n in range(idle + calls)]
        assert 0 == shop.stop()
        shop.arguments = (str(config), "--invoices-per-s", f"{INVOICES_PER_S}", "--log-level", "warning")
        shop.start()
        apart_s = (seconds - SECONDS_BEFORE - 1) / calls
        async with watched(seen.machine):
            async for _ in paced(payer, shop.url, proofs[: idle // 2], apart_s, seen.idle):
                pass
            before = (await read_books(shop))[1]
            await flooded(shop, payer, proofs[idle:], seen, apart_s=apart_s, seconds=seconds, seed=seed)
            async for _ in paced(payer, shop.url, proofs[idle // 2 : idle], apart_s, seen.idle):
                pass
        balance, payments = await read_books(shop)
    tell(f"D5: {seen.told()}")
    unpaid = [each for each in payments if each.state in (PaymentState.OPEN, PaymentState.EXPIRED)]
    assert seen.flood["sent"] > 100 * seconds
    assert 0 < len(unpaid) <= INVOICES_PER_S * (seen.took_s + 1)
    assert FREE_CALLS >= seen.flood["answers"].get("200", 0)
    assert {"402", "503"} <= seen.flood["answers"].keys() <= {"200", "402", "429", "503"}
    assert hashes(before) <= hashes(payments)
    assert idle + calls == sum(each.state is PaymentState.SPENT for each in payments)
    assert balance.earned == balance.received
    assert max(seen.memory) - seen.memory[0] <= MOST_GROWTH_MIB
    assert p99(seen.flooded.took_ms) <= MOST_SLOWER_HERE * p99(seen.idle.took_ms)
    if enough:
        idle_ms, flooded_ms = seen.idle.undisturbed(seen.machine), seen.flooded.undisturbed(seen.machine)
        assert enough <= min(len(idle_ms), len(flooded_ms)), "the machine was too often somebody else's to tell"
        assert p99(flooded_ms) <= MOST_SLOWER * p99(idle_ms)


@asynccontextmanager
async def watched(machine: Machine) -> AsyncIterator[None]:
    watching = asyncio.create_task(machine.watch())
    try:
        yield
    finally:
        watching.cancel()


def hashes(payments: list[Payment]) -> set[bytes]:
    return {each.payment_hash for each in payments}


async def flooded(
    shop: Any,
    payer: Any,
    proofs: list[tuple[str, dict[str, str]]],
    seen: Seen,
    *,
    apart_s: float,
    seconds: int,
    seed: int,
) -> None:
    """Paid calls in the middle of a flood."""
    began = time.perf_counter()
    seen.memory.append(memory_mib(shop.process.pid))
    command = ["-m", "farebox.testing.flood", shop.listen, "--rate", f"{OFFERED_PER_S}", "--seed", f"{seed}"]
    flood = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--seconds", f"{seconds}", stdout=asyncio.subprocess.PIPE
    )
    await asyncio.sleep(SECONDS_BEFORE)
    async for _ in paced(payer, shop.url, proofs, apart_s, seen.flooded):
        seen.memory.append(memory_mib(shop.process.pid))
    told, _ = await flood.communicate()
    seen.took_s = time.perf_counter() - began
    seen.memory.append(memory_mib(shop.process.pid))
    seen.flood = json.loads(told)
