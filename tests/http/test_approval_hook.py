"""An address that is told of parked calls, and may decide them."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from farebox.core.amount import Amount
from farebox.core.errors import ApprovalDenied, ApprovalNeeded, ConfigError
from farebox.core.purse import ApprovalState, Guards
from farebox.http.buy import AsyncClient, Client
from farebox.http.buyer import open_buyer
from farebox.testing.purse_stage import purchase
from farebox.testing.shopping import PROMPT, SHOP, Face, hasten

SECRET = b"a secret of the operator's"
KINDS = ("client", "async client")


@dataclass
class Operator:
    """Somebody who decides: what is answered, and what was heard."""

    status: int = 200
    answer: bytes = b'{"decision": "approve"}'
    url: str = ""
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[Operator]:
        """On loopback."""
        operator = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                operator.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(operator.status)
                self.send_header("content-length", str(len(operator.answer)))
                self.send_header("location", operator.url)
                self.end_headers()
                self.wfile.write(operator.answer)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}/approve"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def buy(face: Face, operator: Operator) -> Any:
    buyer = open_buyer(
        wallet=face.wallet,
        purse=face.purse,
        approve_above="20 sat",
        approval_webhook=operator.url,
        approval_secret=SECRET,
        clock=face.clock,
    )
    hasten(buyer, face.clock, face.waits)
    client = (AsyncClient if face.is_async else Client)(buyer=buyer, transport=face.library.MockTransport(face.shop))
    return face.call(json=PROMPT, client=client)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_the_operator_approves_at_once_is_paid_at_once(kind: str) -> None:
    face = Face(kind)
    with Operator().listening() as operator:
        assert Amount.sats(21) == buy(face, operator).extensions["farebox"].paid

    ((headers, body),) = operator.heard
    told = json.loads(body)
    assert (1, 21_000, "POST /api/dvm", SHOP) == (
        told["approval"],
        told["amount_msat"],
        told["resource"],
        told["url"],
    )
    signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
    signature = base64.b64encode(hmac.digest(SECRET, signed, "sha256")).decode()
    assert f"v1,{signature}" == headers["webhook-signature"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_the_operator_denies_is_not_paid(kind: str) -> None:
    face = Face(kind)
    with Operator(answer=b'{"decision": "deny"}').listening() as operator, pytest.raises(ApprovalDenied):
        buy(face, operator)
    assert [] == face.wallet.payments


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (202, b'{"decision": "approve"}'),
        (307, b'{"decision": "approve"}'),
        (500, b'{"decision": "approve"}'),
        (200, b""),
        (200, b"approve"),
        (200, b'["approve"]'),
        (200, b'{"decision": ["approve"]}'),
        (200, b'{"decision": "APPROVE"}'),
        (200, b'{"decision": "approve"}' + b" " * 5000),
        (200, b"[" * 4000),
    ],
)
def test_anything_else_leaves_it_parked(kind: str, status: int, answer: bytes) -> None:
    face = Face(kind)
    with Operator(status, answer).listening() as operator, pytest.raises(ApprovalNeeded):
        buy(face, operator)
    assert [ApprovalState.PENDING] == [one.state for one in face.purse.parked]
    assert 1 == len(operator.heard)
    assert [] == face.wallet.payments


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_who_is_away_leaves_it_parked(kind: str) -> None:
    face = Face(kind)
    with Operator().listening() as operator:
        pass
    with pytest.raises(ApprovalNeeded):
        buy(face, operator)


@pytest.mark.parametrize(
    ("url", "secret"),
    [("ftp://a.example", SECRET), ("a.example", SECRET), ("http://", SECRET), ("http://a.example", b"")],
)
def test_a_webhook_without_a_good_address_or_a_secret_is_refused(url: str, secret: bytes) -> None:
    face = Face("client")
    with pytest.raises(ConfigError):
        open_buyer(wallet=face.wallet, purse=face.purse, approval_webhook=url, approval_secret=secret)


def test_an_approval_that_somebody_decided_meanwhile_stays_so() -> None:
    face = Face("async client")
    with Operator().listening() as operator:
        buyer = open_buyer(
            wallet=face.wallet, purse=face.purse, approve_above="20 sat", approval_webhook=operator.url,
            approval_secret=SECRET, clock=face.clock,
        )  # fmt: skip
        asked = buyer.drivers.awaiting.ask_approval
        assert asked is not None
        with pytest.raises(ApprovalNeeded):
            face.purse.hold(purchase(face.clock), [], Guards(approval_above=Amount.sats(1)))
        face.purse.decide(1, approved=False)
        asyncio.run(asked(1))  # type: ignore[arg-type] # a coroutine
    assert [] == operator.heard
    assert [ApprovalState.DENIED] == [one.state for one in face.purse.parked]
