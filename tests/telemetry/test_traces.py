"""A priced call as spans, seen by OpenTelemetry's own exporter in memory."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from farebox.core.errors import ConfigError, UpstreamFailed
from farebox.http.paywall import Paywall
from farebox.telemetry.observers import Observers
from farebox.telemetry.traces import Traces, open_provider
from farebox.testing.market import Market, Service

pytestmark = pytest.mark.anyio

PATH = "/api/dvm"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Traced:
    """A shop with one route, traced, and a buyer."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces = Traces(provider)
        self.market = Market.open(observer=Observers([self.traces]))
        self.service = Service()
        self.sent: list[str] = []  # every secret and hash that was on the wire
        behind = self.traces.upstream(self.service, host="upstream.test", port=9000)
        app = Paywall(behind, gate=self.market.gate, prices={f"POST {PATH}": "21 sat"})
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.traces.served(app), client=("192.0.2.7", 4711)),
            base_url="http://shop.test",
        )

    async def ask(self, *, path: str = PATH, **headers: str) -> httpx.Response:
        return await self.http.post(path, json={"prompt": "hi"}, headers=headers)

    async def buy(self) -> str:
        """Pay; the Authorization value that proves it."""
        asked = (await self.ask()).json()
        preimage = self.market.pay(asked["invoice"]).hex()
        self.sent += [preimage, asked["payment_hash"], asked["invoice"], asked["macaroon"]]
        return f"L402 {asked['macaroon']}:{preimage}"

    def spans(self) -> dict[str, ReadableSpan]:
        """What has ended since this was asked last, by name."""
        ended = self._exporter.get_finished_spans()
        self._exporter.clear()
        return {span.name: span for span in ended}


@pytest.fixture
async def traced() -> AsyncIterator[Traced]:
    traced = Traced()
    yield traced
    await traced.http.aclose()
    await traced.market.close()


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_challenge_is_a_server_span_with_the_decision_and_the_invoice_inside(traced: Traced) -> None:
    await traced.ask()
    spans = traced.spans()
    served, admit, invoice = spans[f"POST {PATH}"], spans["admit"], spans["create_invoice"]
    assert 3 == len(spans)
    assert (None, id_of(served), id_of(admit)) == (served.parent, parent_of(admit), parent_of(invoice))
    assert (SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT) == (served.kind, admit.kind, invoice.kind)
    assert {
        "http.request.method": "POST",
        "http.route": PATH,
        "http.response.status_code": 402,
        "url.scheme": "http",
        "url.path": PATH,
        "network.protocol.version": "1.1",
        "server.address": "shop.test",
    } == told(served)
    assert {"farebox.decision": "challenged", "farebox.amount_msat": 21_000} == told(admit)


async def test_a_paid_call_is_admitted_asked_upstream_and_captured(traced: Traced) -> None:
    proof = await traced.buy()
    traced.spans()
    assert 200 == (await traced.ask(authorization=proof)).status_code
    spans = traced.spans()
    served, admit, upstream, capture = (spans[name] for name in (f"POST {PATH}", "admit", "upstream", "capture"))
    assert 4 == len(spans)
    assert {id_of(served)} == {parent_of(admit), parent_of(upstream)}
    assert id_of(upstream) == parent_of(capture)
    assert "granted" == told(admit)["farebox.decision"]
    assert {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "upstream.test",
        "server.port": 9000,
    } == told(upstream)


async def test_a_callers_trace_is_gone_on_with_and_passed_upstream(traced: Traced) -> None:
    proof = await traced.buy()
    traced.spans()
    await traced.ask(authorization=proof, traceparent=TRACEPARENT, tracestate="vendor=1")
    spans = traced.spans()
    served, upstream = spans[f"POST {PATH}"], spans["upstream"]
    assert int(PARENT, 16) == parent_of(served)
    assert {int(TRACE, 16)} == {span.context.trace_id for span in spans.values() if span.context}
    seen = dict(traced.service.seen[-1]["headers"])
    assert f"00-{TRACE}-{id_of(upstream):016x}-01".encode() == seen[b"traceparent"]
    assert b"vendor=1" == seen[b"tracestate"]
    assert 1 == [name for name, _ in traced.service.seen[-1]["headers"]].count(b"traceparent")


@pytest.mark.parametrize("crooked", ["", "00-xyz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é" * 55])
async def test_a_trace_that_can_not_be_read_is_none(traced: Traced, crooked: str) -> None:
    answer = await traced.http.post(PATH, json={"prompt": "hi"}, headers=[(b"traceparent", crooked.encode())])
    assert (402, None) == (answer.status_code, traced.spans()[f"POST {PATH}"].parent)


async def test_a_replay_says_so_on_the_request_itself(traced: Traced) -> None:
    proof = await traced.buy()
    await traced.ask(authorization=proof)
    traced.spans()
    assert "true" == (await traced.ask(authorization=proof)).headers["payment-replayed"]
    spans = traced.spans()
    assert [f"POST {PATH}"] == list(spans)
    assert "replayed" == told(spans[f"POST {PATH}"])["farebox.decision"]


async def test_a_service_that_fails_is_an_error_upstream_and_of_the_request(traced: Traced) -> None:
    proof = await traced.buy()
    traced.spans()
    traced.service.failing = 1
    assert 502 == (await traced.ask(authorization=proof)).status_code
    spans = traced.spans()
    served, upstream = spans[f"POST {PATH}"], spans["upstream"]
    assert {StatusCode.ERROR} == {served.status.status_code, upstream.status.status_code}
    assert ("502", "500") == (told(served)["error.type"], told(upstream)["error.type"])
    assert ["released"] == [event.name for span in spans.values() for event in span.events]


async def test_a_caller_who_is_refused_is_no_error_of_ours(traced: Traced) -> None:
    await traced.ask(authorization="L402 nothing")
    spans = traced.spans()
    assert "malformed-credential" == told(spans["admit"])["error.type"]
    assert {StatusCode.UNSET} == {span.status.status_code for span in spans.values()}


async def test_no_span_holds_a_secret_a_hash_an_invoice_or_a_caller(traced: Traced) -> None:
    proof = await traced.buy()
    await traced.ask(authorization=proof)
    await traced.ask(authorization=proof)
    await traced.ask(authorization=proof.replace("L402", "Bearer"))
    payment_hash = traced.sent[1]
    await traced.ask(path=f"{PATH}?payment_hash={payment_hash}", x_payment_hash=payment_hash)
    for secret in list(traced.sent):
        await traced.ask(path=f"/files/{secret}/{secret.upper()}?token={secret}")
    written = json.dumps([span.to_json() for span in traced._exporter.get_finished_spans()])
    assert "/files/" in written
    assert [] == [secret for secret in [*traced.sent, "192.0.2.7"] if secret.lower() in written.lower()]


async def test_a_function_is_a_span_that_fails_with_it(traced: Traced) -> None:
    async def write(prompt: str) -> str:
        if not prompt:
            raise UpstreamFailed("model says no: sk-secret")
        return prompt

    def plain(prompt: str) -> str:
        return prompt[1:]

    spanned, spanned_plain = traced.traces.function(write, "write"), traced.traces.function(plain, "plain")
    assert ("hi", "i") == (await spanned(prompt="hi"), spanned_plain(prompt="hi"))  # type: ignore[misc]
    with pytest.raises(UpstreamFailed):
        await spanned(prompt="")  # type: ignore[misc]
    failed = traced.spans()["upstream"]
    assert ("upstream-failed", StatusCode.ERROR) == (told(failed)["error.type"], failed.status.status_code)
    assert "sk-secret" not in str(failed.to_json())


async def test_what_is_not_http_passes_through(traced: Traced) -> None:
    seen: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    for wrapped in (traced.traces.served(app), traced.traces.upstream(app, host="h", port=1)):
        await wrapped({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert (["lifespan"] * 2, {}) == (seen, traced.spans())


def test_an_exporter_that_is_not_installed_is_told() -> None:
    with pytest.raises(ConfigError, match="no exporter carrier_pigeon is installed"):
        open_provider("carrier_pigeon", protocol="http/protobuf")


def test_a_service_without_a_name_is_farebox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    assert "farebox" == open_provider("none", protocol="").resource.attributes["service.name"]
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-shop")
    assert "my-shop" == open_provider("none", protocol="").resource.attributes["service.name"]
