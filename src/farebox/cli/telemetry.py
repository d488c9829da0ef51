"""What watches a shop while `farebox serve` runs: metrics, traces, alerts, and the audit of its books.

Rules
1. Alerts are always on. Metrics are on when an address for them is configured, or a supervisor sums those of its
   workers; traces when OTEL_* variables say where they go. What is off is not imported.
2. In a worker (PROMETHEUS_MULTIPROC_DIR is set) nothing listens and nobody audits: its supervisor does both.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from farebox.catalog.capability import Capability
from farebox.cli.output import tell
from farebox.core.host import is_loopback
from farebox.core.ports import Clock, Ledger
from farebox.gate import Observer
from farebox.http.request import AsgiApp
from farebox.stores import open_ledger
from farebox.telemetry.alerts import Alerts
from farebox.telemetry.auditor import Auditor, Looked
from farebox.telemetry.observers import Observers, Watcher
from farebox.telemetry.timed_ledger import timed

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from farebox.telemetry.metrics import Metrics
    from farebox.telemetry.traces import Traces

WORKER: Final = "PROMETHEUS_MULTIPROC_DIR"
_FILE: Final = "sqlite:///"
_FLUSH_EVERY_S: Final = 1.0
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What watches one shop, and the wrappers by which it does."""

    observer: Observer
    clock: Clock
    metrics: Metrics | None = None
    registry: CollectorRegistry | None = None
    traces: Traces | None = None
    worker: bool = False

    def ledger(self, ledger: Ledger) -> Ledger:
        """The ledger, timed where there are metrics."""
        return ledger if self.metrics is None else timed(ledger, self.metrics.ledger_operation)

    def served(self, app: AsgiApp) -> AsgiApp:
        """The whole shop, traced where there are traces."""
        return app if self.traces is None else self.traces.served(app)

    def behind(self, target: Capability | AsgiApp, upstream: str | None) -> Capability | AsgiApp:
        """What is sold by one route, traced likewise. upstream: the URL that it asks, if it asks one."""
        if self.traces is None:
            return target
        if isinstance(target, Capability):
            return dataclasses.replace(target, function=self.traces.function(target.function, target.name))
        parts = urlsplit(upstream or "")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return self.traces.upstream(target, host=parts.hostname or "", port=port)

    @asynccontextmanager
    async def reporting(self, bound: socket.socket | None, store: str, ledger: Ledger) -> AsyncIterator[None]:
        """While inside: metrics can be read at a bound socket, and the books are looked into.

        store: the URL of the ledger; a file is opened once more, so that nobody waits for the one who looks into it.
        """
        async with AsyncExitStack() as stack:
            if self.worker:
                stack.push_async_callback(_ended, asyncio.create_task(self._flushing()))
                yield
                return
            told: tuple[Looked, ...] = ()
            if self.registry is not None:
                from farebox.telemetry.exposition import listening
                from farebox.telemetry.metrics import BooksMetrics

                told = (BooksMetrics(self.registry, version=version("farebox")).looked,)
                if bound is not None:
                    stack.enter_context(listening(bound, self.registry))
            if store.startswith(_FILE):
                ledger = open_ledger(store)
                stack.push_async_callback(ledger.close)
            auditor = Auditor(ledger, self.clock, told=told)
            stack.push_async_callback(_ended, asyncio.create_task(auditor.run()))
            yield

    async def _flushing(self) -> None:
        while self.metrics is not None:
            try:
                await asyncio.sleep(_FLUSH_EVERY_S)
            finally:  # also when it is over
                self.metrics.flush()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def open_watch(stack: ExitStack | AsyncExitStack, *, metrics: bool, clock: Clock, environ: Mapping[str, str]) -> Watch:
    """What watches a shop; what it has to let go of in the end is pushed on the stack. Raises ConfigError."""
    worker = WORKER in environ
    watchers: list[Watcher] = [Alerts(clock)]
    counted = registry = None
    if metrics or worker:
        from prometheus_client import CollectorRegistry

        from farebox.telemetry.metrics import Metrics

        registry = CollectorRegistry()
        counted = Metrics(registry)
        watchers.append(counted)
    traces = _open_traces(stack, environ)
    if traces is not None:
        watchers.append(traces)
    return Watch(
        observer=Observers(watchers), clock=clock, metrics=counted, registry=registry, traces=traces, worker=worker
    )


def _open_traces(stack: ExitStack | AsyncExitStack, environ: Mapping[str, str]) -> Traces | None:
    """Traces as the environment wants them: OpenTelemetry's own variables, and nothing of ours."""
    exporters = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(environ.get, _ENDPOINTS)) else "none")
    if exporters == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        tell("warning: OTEL_* variables want traces, and the extra `otel` is not installed", style="yellow")
        return None
    from opentelemetry import trace

    from farebox.telemetry.traces import Traces, open_provider

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return Traces(trace.get_tracer_provider())  # somebody started us with one
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    provider = open_provider(exporters, protocol=protocol or "http/protobuf")
    stack.callback(provider.shutdown)
    trace.set_tracer_provider(provider)  # also for what is sold here, where it makes spans of its own
    return Traces(provider)


def warn_of_open_metrics(host: str) -> None:
    """A line when others than this machine may read the metrics."""
    if is_loopback(host):
        return
    tell(
        f"warning: metrics on {host} tell what you earn to whoever reaches that address; keep it off the public net",
        style="yellow",
    )
