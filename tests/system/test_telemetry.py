"""A shop as its operator watches it: metrics where they were asked for, traces where OpenTelemetry's variables say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.system, pytest.mark.anyio]

PROMPT = "three words please"
TRACE = "0af7651916cd43dd8448eb211c80319c"
ROUTE = {"resource": "POST /"}


def metrics_of(shop: Any) -> str:
    """The address that it told in its log."""
    found = re.search(r'"url": "(http://[^"]+/metrics)"', shop.told)
    assert found, shop.told
    return found[1]


def scraped(url: str) -> Any:
    """A function that says what a sample is."""
    text = httpx.get(url, trust_env=False, timeout=20).text
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return lambda name, **labels: sum(
        each.value for each in samples if each.name == f"farebox_{name}" and labels.items() <= each.labels.items()
    )


async def test_a_sale_is_in_the_metrics_and_the_metrics_are_not_in_the_shop(
    open_shop: Any, writer_url: str, payer: Any
) -> None:
    arguments = ("--upstream", writer_url, "--price", "21sat", "--free-calls", "0", "--metrics", "127.0.0.1:0")
    with open_shop(*arguments) as shop:
        proof = await payer.buy(shop, PROMPT)
        for _ in range(3):
            assert 200 == (await payer.http.post(shop.url, content=PROMPT, headers=proof)).status_code
        assert 409 == (await payer.http.post(shop.url, content="unpaid", headers=await other(payer, shop))).status_code
        value = scraped(metrics_of(shop))
        counted = {
            "challenges": value("challenges_total", invoice="new"),
            "conversions": value("conversions_total"),
            "paid calls": value("paid_calls_total"),
            "earned": value("earned_msat_total"),
            "replays": value("replays_total"),
            "mismatches": value("refusals_total", reason="request-mismatch"),
            "live": value("live_holds"),
            "invoices": value("node_request_duration_seconds_count", request="create_invoice"),
            "captures": value("ledger_operation_duration_seconds_count", operation="capture"),
            "balanced": value("ledger_balanced"),
        }
        assert {
            "challenges": 2,
            "conversions": 1,
            "paid calls": 1,
            "earned": 21_000,
            "replays": 2,
            "mismatches": 1,
            "live": 0,
            "invoices": 2,
            "captures": 1,
            "balanced": 1,
        } == counted
        answer = await payer.http.get(f"{shop.url}/metrics")
        assert "farebox_" not in answer.text
        hashes = re.findall(r"[0-9a-f]{64}", httpx.get(metrics_of(shop), trust_env=False).text)
        assert [] == hashes


async def other(payer: Any, shop: Any) -> Any:
    """A proof that was paid for another request than the one it is shown with."""
    return await payer.buy(shop, "something else")


class Collector(ThreadingHTTPServer):
    """What takes OTLP over HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


async def test_a_sale_is_traced_from_its_caller_to_its_service(
    open_shop: Any, writer_url: str, payer: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as shop:
        proof = await payer.buy(shop, PROMPT)
        told = {**proof, "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        assert 200 == (await payer.http.post(shop.url, content=PROMPT, headers=told)).status_code
        assert 0 == shop.stop()  # which sends what has not been sent yet
    ours = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    assert ["/*", "admit", "capture", "upstream"] == sorted(span.name for span in ours)
    assert [] == re.findall(rb"[0-9a-f]{64}|lnbcrt", b"".join(span.SerializeToString() for span in collector.spans))


IMPORTED = """
import asyncio, sys
from pathlib import Path
from farebox.cli.config import checked
from farebox.cli.serve import opened

async def main():
    route = {"path": "/x", "price": "21 sat", "demo": True}
    async with opened(checked({"route": [route]}, "x"), Path("state")) as shop:
        async with shop.watch.reporting(None, shop.store, shop.gate.ledger):
            print(*sorted({name.partition(".")[0] for name in sys.modules}))

asyncio.run(main())
"""


def test_what_nobody_asked_for_is_not_imported(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTED],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={"PATH": ""},
    )  # fmt: skip
    loaded = set(ran.stdout.split())
    assert "farebox" in loaded
    assert not {"prometheus_client", "opentelemetry"} & loaded


@pytest.mark.full
async def test_workers_are_summed_at_one_address_and_a_dead_one_keeps_what_it_counted(
    open_shop: Any, writer_url: str, payer: Any
) -> None:
    arguments = ("--upstream", writer_url, "--price", "21sat", "--free-calls", "0", "--metrics", "127.0.0.1:0")
    with open_shop(*arguments, "--workers", "2") as shop:
        for sale in range(8):
            proof = await payer.buy(shop, f"{PROMPT} {sale}")
            assert 200 == (await payer.http.post(shop.url, content=f"{PROMPT} {sale}", headers=proof)).status_code
        assert 168_000 == scraped(metrics_of(shop))("earned_msat_total")
        for worker in children(shop.process.pid)[1:]:  # the first is the keeper
            os.kill(worker, signal.SIGKILL)
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:  # on connections that nobody has cut
            proof = await type(payer)(http).buy(shop, "one more")
            assert 200 == (await http.post(shop.url, content="one more", headers=proof)).status_code
        value = scraped(metrics_of(shop))
        assert (189_000, 9, 0) == (value("earned_msat_total"), value("paid_calls_total"), value("live_holds"))


def children(pid: int) -> list[int]:
    """The processes that this one has started, oldest first."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
