"""Metrics are read at an address of their own."""

import gzip
import http.client
import socket
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from farebox.gate.events import AnswerReplayed
from farebox.telemetry.exposition import listening
from farebox.telemetry.metrics import Metrics
from farebox.telemetry.observers import Observers

pytestmark = pytest.mark.system


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """Where the metrics of a gate that replayed one answer are read."""
    registry = CollectorRegistry()
    Observers([Metrics(registry)])(AnswerReplayed(resource="/x", remembered=True))
    bound = socket.create_server(("127.0.0.1", 0))
    with listening(bound, registry):
        yield bound.getsockname()[:2]


def get(address: tuple[str, int], path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    asked = http.client.HTTPConnection(*address, timeout=5)
    asked.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = asked.getresponse()
    body = answer.read()
    asked.close()
    return answer, body


COUNTED = b'farebox_replays_total{resource="/x",source="memory"} 1.0'


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("", "text/plain; version=0.0.4"),
        ("text/plain;version=1.0.0", "text/plain; version=1.0.0"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_metrics_are_answered_in_the_format_that_was_asked_for(
    address: tuple[str, int], accept: str, answered: str
) -> None:
    answer, body = get(address, "/metrics", accept=accept)
    assert (200, True) == (answer.status, str(answer.getheader("content-type")).startswith(answered))
    assert COUNTED in body


def test_whoever_can_unpack_it_gets_it_packed(address: tuple[str, int]) -> None:
    answer, body = get(address, "/metrics", accept_encoding="gzip")
    assert "gzip" == answer.getheader("content-encoding")
    assert COUNTED in gzip.decompress(body)


@pytest.mark.parametrize("path", ["/", "/metricsx", "/pricing"])
def test_nothing_else_is_there(address: tuple[str, int], path: str) -> None:
    answer, body = get(address, path)
    assert (404, False) == (answer.status, b"farebox_" in body)


def test_the_address_is_free_again_afterwards() -> None:
    bound = socket.create_server(("127.0.0.1", 0))
    at = bound.getsockname()[:2]
    with listening(bound, CollectorRegistry()):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(at, timeout=5)
