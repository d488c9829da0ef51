"""Metrics of several worker processes, summed by the one that supervises them.

How a supervisor uses this:

    shared = SharedMetrics(folder)                    # before the first worker starts: makes the folder, and empties it
    start_worker(env={**os.environ, **shared.environment})     # a fresh interpreter: the choice is made when it imports
    registry = CollectorRegistry()
    registry.register(shared)
    books = BooksMetrics(registry, version=…)         # of the process that audits the ledger; not of the workers
    with listening(bound, registry): …                # the supervisor's /metrics; workers listen nowhere
    shared.bury(pid)                                  # for each worker that has ended, after it was waited for

Rules
1. A worker counts into files of its own, mapped into memory: what it counted survives it, however it dies.
2. A worker that ended holds nothing any more, and what it counted is added to one pair of files for all the dead, so
   that files do not grow in number with each restart.
3. The supervisor's own metrics are plain: it imports prometheus_client before anything sets the variable for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

_SUMMED: Final = ("counter", "histogram")
_DEAD: Final = "dead"


class SharedMetrics:
    """A folder into which workers count, as a collector that sums them."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, and forget what an earlier run left there."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob("*.db*"):
            left.unlink()
        self._folder = folder
        self._lock = threading.Lock()  # nobody reads while the dead are moved

    @property
    def environment(self) -> Mapping[str, str]:
        """What has to be in the environment of each worker."""
        return {VARIABLE: str(self._folder)}

    def collect(self) -> Iterable[Metric]:
        """The metrics of all workers, dead and alive, summed."""
        with self._lock:
            return list(MultiProcessCollector(None, str(self._folder)).collect())

    def bury(self, pid: int) -> None:
        """A worker has ended: keep what it counted, forget what it held."""
        with self._lock:
            mark_process_dead(pid, str(self._folder))
            for kind in _SUMMED:
                self._add_to_the_dead(kind, pid)

    def _add_to_the_dead(self, kind: str, pid: int) -> None:
        ended = self._folder / f"{kind}_{pid}.db"
        if not ended.exists():
            return
        dead, whole = self._folder / f"{kind}_{_DEAD}.db", self._folder / f"{kind}_{_DEAD}.db.new"
        whole.unlink(missing_ok=True)
        together = [str(file) for file in (dead, ended) if file.exists()]
        summed = MmapedDict(str(whole))
        for metric in MultiProcessCollector.merge(together, accumulate=False):
            for sample in metric.samples:
                names, values = list(sample.labels), list(sample.labels.values())
                key = mmap_key(metric.name, sample.name, names, values, metric.documentation)
                summed.write_value(key, sample.value, 0.0)
        summed.close()
        whole.replace(dead)
        ended.unlink()
