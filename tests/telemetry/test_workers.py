"""What several processes counted, read in one place; they are real ones."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from farebox.telemetry.workers import SharedMetrics

pytestmark = pytest.mark.system

# Counts some events, says so, and then waits to be ended.
WORKER = """
import sys
from datetime import timedelta
from prometheus_client import CollectorRegistry
from farebox.core.amount import Amount
from farebox.gate.events import AnswerReplayed, CallCaptured, HoldEnded, HoldTaken
from farebox.telemetry.metrics import Metrics
from farebox.telemetry.observers import Observers
metrics = Metrics(CollectorRegistry())
observe = Observers([metrics])
for _ in range(int(sys.argv[1])):
    observe(HoldTaken(resource="/x", amount=Amount(5), first=True))
    observe(CallCaptured(resource="/x", amount=Amount(5)))
    observe(AnswerReplayed(resource="/x", remembered=True))
observe(HoldEnded(resource="/x", took=timedelta(seconds=1)))
metrics.flush()
print("counted", flush=True)
sys.stdin.read()
"""


class Workers:
    def __init__(self, shared: SharedMetrics) -> None:
        self.shared = shared
        self.registry = CollectorRegistry()
        self.registry.register(shared)

    def start(self, calls: int) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, str(calls)],
            env={**os.environ, **self.shared.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout is not None
        assert "counted\n" == worker.stdout.readline()
        return worker

    def kill(self, worker: subprocess.Popen[str]) -> None:
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        self.shared.bury(worker.pid)

    def read(self) -> tuple[float | None, ...]:
        """Earned, replays, live holds, and how many calls took less than 2.5 s."""
        value = self.registry.get_sample_value
        return (
            value("farebox_earned_msat_total", {"resource": "/x"}),
            value("farebox_replays_total", {"resource": "/x", "source": "memory"}),
            value("farebox_live_holds"),
            value("farebox_call_duration_seconds_bucket", {"resource": "/x", "le": "2.5"}),
        )


def test_workers_are_summed_and_the_dead_keep_what_they_counted_but_hold_nothing(tmp_path: Path) -> None:
    workers = Workers(SharedMetrics(tmp_path / "metrics"))
    one, two = workers.start(3), workers.start(4)
    assert (35, 7, 5, 2) == workers.read()
    workers.kill(one)
    assert (35, 7, 3, 2) == workers.read()
    workers.kill(two)
    assert (35, 7, None, 2) == workers.read()
    assert ["counter_dead.db", "histogram_dead.db"] == sorted(file.name for file in (tmp_path / "metrics").iterdir())
    third = workers.start(1)
    assert (40, 8, 0, 3) == workers.read()
    workers.kill(third)
    assert (40, 8, None, 3) == workers.read()


def test_what_an_earlier_run_left_is_forgotten(tmp_path: Path) -> None:
    workers = Workers(SharedMetrics(tmp_path))
    worker = workers.start(1)
    worker.communicate("")
    assert (None,) * 4 == Workers(SharedMetrics(tmp_path)).read()


def test_a_worker_that_counted_nothing_can_be_buried(tmp_path: Path) -> None:
    SharedMetrics(tmp_path).bury(1)
    assert [] == list(tmp_path.iterdir())
