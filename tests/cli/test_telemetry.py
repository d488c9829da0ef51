"""What watches a shop is what was asked for, and no more."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from farebox.cli import telemetry
from farebox.cli.config import checked
from farebox.cli.telemetry import Watch, open_watch, warn_of_open_metrics
from farebox.core.errors import ConfigError
from farebox.gate.events import AnswerReplayed
from farebox.stores import open_ledger
from farebox.testing.market import StillClock

ROUTE = {"path": "/x", "price": "1 sat", "demo": True}


def opened(*, metrics: bool = False, **environ: str) -> Watch:
    async def open_and_close() -> Watch:
        async with AsyncExitStack() as stack:
            return open_watch(stack, metrics=metrics, clock=StillClock(), environ=environ)

    return asyncio.run(open_and_close())


@pytest.mark.parametrize(
    ("written", "address"), [(None, None), ("127.0.0.1:9402", ("127.0.0.1", 9402)), ("[::1]:0", ("::1", 0))]
)
def test_metrics_are_read_where_it_is_written(written: str | None, address: tuple[str, int] | None) -> None:
    given = {} if written is None else {"metrics": written}
    assert address == checked({"route": [ROUTE]} | given, "x").metrics_address


@pytest.mark.parametrize("written", ["9402", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"])
def test_what_is_no_address_for_metrics_is_refused_by_its_name(written: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics is host:port, such as 127.0.0.1:9402"):
        _ = checked({"metrics": written, "route": [ROUTE]}, "x").metrics_address


@pytest.mark.parametrize(
    ("host", "warns"), [("127.0.0.1", 0), ("::1", 0), ("localhost", 0), ("0.0.0.0", 1), ("10.0.0.7", 1), ("shop", 1)]
)
def test_metrics_that_others_can_read_are_warned_of(host: str, warns: int, capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_open_metrics(host)
    assert warns == capsys.readouterr().err.count("tell what you earn to whoever reaches that address")


def test_without_being_asked_only_alerts_watch(tmp_path: Path) -> None:
    watch = opened()
    assert (None, None, None, False) == (watch.metrics, watch.registry, watch.traces, watch.worker)
    ledger: Any = object()
    app: Any = object()
    assert (ledger, app, app) == (watch.ledger(ledger), watch.served(app), watch.behind(app, "http://u.test"))


def test_metrics_count_what_the_gate_tells() -> None:
    watch = opened(metrics=True)
    watch.observer(AnswerReplayed(resource="/x", remembered=True))
    assert watch.registry is not None
    (counted,) = [each for each in watch.registry.collect() if each.name == "farebox_replays"]
    assert [1.0] == [each.value for each in counted.samples if each.name.endswith("_total")]


def test_a_worker_counts_and_neither_listens_nor_audits() -> None:
    async def report() -> list[str]:
        async with AsyncExitStack() as stack:
            watch = open_watch(stack, metrics=False, clock=StillClock(), environ={telemetry.WORKER: "/nowhere"})
            ledger = open_ledger("sqlite::memory:")
            before = asyncio.all_tasks()
            async with watch.reporting(None, "sqlite::memory:", ledger):
                running = [str(each.get_coro()) for each in asyncio.all_tasks() - before]
            await ledger.close()
            assert watch.metrics is not None
            return running

    (running,) = asyncio.run(report())
    assert "_flushing" in running


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_SERVICE_NAME": "shop"},
    ],
)
def test_traces_are_made_only_where_they_go_somewhere(environ: dict[str, str]) -> None:
    assert opened(**environ).traces is None


def test_traces_that_are_wanted_and_can_not_be_had_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(telemetry, "find_spec", lambda name: None)
    assert opened(OTEL_TRACES_EXPORTER="otlp").traces is None
    assert "the extra `otel` is not installed" in capsys.readouterr().err


def test_an_exporter_that_is_not_there_is_refused() -> None:
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    with pytest.raises(ConfigError, match="no exporter carrier_pigeon is installed"):
        opened(OTEL_TRACES_EXPORTER="carrier_pigeon")
