"""A flood of callers who never pay: what it may cost, and that nobody who has paid notices it."""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
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


@dataclass
class Seen:
    """What was measured, in milliseconds and MiB."""

    idle: list[float] = field(default_factory=list)
    flooded: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    flood: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0
    stolen: list[float] = field(default_factory=list)

    def told(self) -> str:
        quick, slow = [f"{statistics.median(each):.1f}/{p99(each):.1f}" for each in (self.idle, self.flooded)]
        return (
            f"offered {self.flood['offered']} in {self.took_s:.0f} s, taken {self.flood['sent']}, "
            f"answered {self.flood['answers']}; paid call p50/p99 ms idle {quick}, flooded {slow}; "
            f"of the machine other machines took {', '.join(f'{each:.1%}' for each in self.stolen)} "
            f"before, during and after; "
            f"memory {self.memory[0]:.0f} MiB, at most {max(self.memory):.0f}; seed {self.flood['seed']}"
        )

    @contextmanager
    def steal(self) -> Iterator[None]:
        """Notes what share of the processors' time the machines around this one took meanwhile."""
        before = cpu_times()
        yield
        taken = [after - first for first, after in zip(before, cpu_times(), strict=True)]
        self.stolen.append(taken[7] / (sum(taken) or 1))


def cpu_times() -> list[int]:
    """proc(5), /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, in ticks."""
    return [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100, method="inclusive")[98]


def memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def paced(payer: Any, url: str, proofs: list[tuple[str, dict[str, str]]], apart_s: float) -> AsyncIterator[float]:
    """Paid calls one after the other, as far apart with a flood as without: how long each took, in milliseconds."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    for prompt, proof in proofs:
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        due_s += apart_s
        began_s = time.perf_counter()
        answer = await payer.http.post(url, content=prompt, headers=proof)
        assert 200 == answer.status_code, answer.text
        yield (time.perf_counter() - began_s) * 1000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("seconds", "calls", "slower"),
    [
        (6, 60, 20),
        pytest.param(60, 500, 2, marks=[pytest.mark.full, pytest.mark.alone]),
        pytest.param(600, 2000, 2, marks=pytest.mark.soak),
    ],
    ids=["6 s", "60 s", "10 minutes"],
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
    slower: int,
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
        with seen.steal():
            seen.idle += [each async for each in paced(payer, shop.url, proofs[: idle // 2], apart_s)]
        before = (await read_books(shop))[1]
        with seen.steal():
            await flooded(shop, payer, proofs[idle:], seen, apart_s=apart_s, seconds=seconds, seed=seed)
        with seen.steal():
            seen.idle += [each async for each in paced(payer, shop.url, proofs[idle // 2 : idle], apart_s)]
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
    assert p99(seen.flooded) <= slower * p99(seen.idle)


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
    async for latency in paced(payer, shop.url, proofs, apart_s):
        seen.flooded.append(latency)
        seen.memory.append(memory_mib(shop.process.pid))
    told, _ = await flood.communicate()
    seen.took_s = time.perf_counter() - began
    seen.memory.append(memory_mib(shop.process.pid))
    seen.flood = json.loads(told)
