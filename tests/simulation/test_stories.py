"""Many seeds, each a story in which everything fails; and proof that a broken guard would be noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Final

import pytest
import structlog

from farebox.core.payment import Payment
from farebox.core.ports import InvoiceState
from farebox.gate.door import Gate
from farebox.http.recorder import Recorder
from farebox.stores import moves
from farebox.testing.simulation import Faults, simulate

Tell = Callable[[str], object]

SEED: Final = int(os.environ.get("FAREBOX_SEED", "0"))
STORIES: Final = 40
MOST_TO_CATCH: Final = 1000


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


def stories(first: int, last: int, faults: Faults | None = None) -> Counter[str]:
    """What happened in the stories of these seeds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    tally: Counter[str] = Counter()
    for seed in range(first, last):
        told = simulate(seed, faults)
        tally.update(payments=told.payments, answered=told.answered, credited=told.credited)
        tally.update(calls=told.calls, runs=told.runs, crashes=told.crashes)
        tally.update({str(status): count for status, count in told.statuses.items()})
    return tally


def told_by(count: int) -> Counter[str]:
    """As many stories, on all processors."""
    processes = os.cpu_count() or 1
    piece = -(-count // (processes * 8))
    firsts = range(SEED, SEED + count, piece)
    total: Counter[str] = Counter()
    with ProcessPoolExecutor(processes) as pool:
        for tally in pool.map(stories, firsts, [min(first + piece, SEED + count) for first in firsts]):
            total += tally
    return total


def check(tally: Counter[str], count: int, tell: Tell) -> None:
    tell(f"C8: {count} stories from seed {SEED}: {dict(tally)}")
    assert tally["payments"] == tally["answered"] + tally["credited"]
    assert {"200", "402", "409", "502", "503"} <= set(tally)
    assert tally["crashes"] > count / 10


def test_whatever_fails_every_payment_ends_in_one_answer_or_in_credit(tell: Tell) -> None:
    check(stories(SEED, SEED + STORIES), STORIES, tell)


@pytest.mark.full
def test_10_000_stories(tell: Tell) -> None:
    check(told_by(10_000), 10_000, tell)


@pytest.mark.soak
def test_100_000_stories(tell: Tell) -> None:
    check(told_by(100_000), 100_000, tell)


def test_a_seed_tells_the_same_story_whatever_else_is_different() -> None:
    script = "from farebox.testing.simulation import Faults, simulate; print([simulate(seed) for seed in range(3)])"
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout.splitlines()[-1]
        for hash_seed in ("0", "1")
    }
    assert 1 == len(told)


# --- a death at every step --------------------------------------------------------------------------------------------

_TROUBLES: Final = (
    *("store_away", "store_doubt", "node_away", "node_doubt", "crash", "pause", "reply_lost"),
    *("upstream", "late", "never", "hold", "under"),
)
QUIET: Final = Faults(**dict.fromkeys(_TROUBLES, 0.0))


def deaths(seeds: range) -> int:
    """A story of one buyer for each of its steps, in which whoever takes that step dies of it; how many."""
    count = 0
    for seed in seeds:
        told = simulate(seed, QUIET, buyers=1)
        assert (1, 0) == (told.answered, told.crashes)
        for step in range(len(told.steps)):
            died = simulate(seed, QUIET, buyers=1, die_at=step)
            assert 1 == died.answered + died.credited
            assert died.steps[: step + 1] == told.steps[: step + 1]
            count += died.crashes
    return count


def test_a_process_that_dies_at_any_step_of_a_sale_loses_and_doubles_nothing(
    tell: Tell,
) -> None:
    count = deaths(range(SEED, SEED + 2))
    tell(f"C2: {count} deaths from seed {SEED}")
    assert count >= 2 * 20


@pytest.mark.full
def test_a_process_that_dies_at_any_step_of_50_sales_loses_and_doubles_nothing(
    tell: Tell,
) -> None:
    count = deaths(range(SEED, SEED + 50))
    tell(f"C2: {count} deaths from seed {SEED}")
    assert count >= 50 * 20


# --- broken on purpose ------------------------------------------------------------------------------------------------


def without(statement: str, *guards: tuple[str, str]) -> Mapping[str, str]:
    """The statements, one of them without a guard."""
    text = moves.SQL[statement]
    for guard, instead in guards:
        assert guard in text
        text = text.replace(guard, instead)
    return {**moves.SQL, statement: text}


def no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(moves, "SQL", without("capture", ("AND epoch = :epoch ", "AND epoch >= :epoch ")))


def no_late_money(patch: pytest.MonkeyPatch) -> None:
    sql = dict(moves.SQL)
    for name in ("settle", "settle_proven", "claim_proven"):
        assert "('open', 'expired')" in sql[name]
        sql[name] = sql[name].replace("('open', 'expired')", "('open')")
    patch.setattr(moves, "SQL", sql)


def serve_unsettled(patch: pytest.MonkeyPatch) -> None:
    async def settled(self: Gate, payment: Payment) -> InvoiceState:
        await self.ledger.settle(payment.payment_hash, payment.price)
        return InvoiceState.PAID

    patch.setattr(Gate, "_asked_node", settled)


def release_what_may_have_run(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recorder, "_rerun", property(lambda self: True, lambda self, value: None), raising=False)


def claim_a_live_hold(patch: pytest.MonkeyPatch) -> None:
    sql = dict(moves.SQL)
    for name in ("claim", "claim_proven"):
        guard = "(lease_until_ms IS NULL OR (:rerun AND lease_until_ms <= :now_ms))"
        assert guard in sql[name]
        sql[name] = sql[name].replace(guard, "(:rerun OR :now_ms > 0)")
    patch.setattr(moves, "SQL", sql)


def answer_any_request(patch: pytest.MonkeyPatch) -> None:
    sql = dict(moves.SQL)
    for name in ("claim", "claim_proven"):
        assert "AND digest = :digest" in sql[name]
        sql[name] = sql[name].replace("AND digest = :digest", "AND :digest IS NOT NULL")
    patch.setattr(moves, "SQL", sql)


MUTANTS: Final = (
    *(no_fence, no_late_money, serve_unsettled, release_what_may_have_run, claim_a_live_hold, answer_any_request),
)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_guard_that_is_taken_away_is_noticed(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tell: Tell
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError, match="seed") as noticed:
        stories(SEED, SEED + MOST_TO_CATCH, Faults(pause=0.08))
    tell(f"{mutant.__name__}: {noticed.value}")
