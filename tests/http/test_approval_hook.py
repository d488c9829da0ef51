"""An address that is told of parked calls, and may decide them."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from farebox.core.amount import Amount
from farebox.core.errors import ApprovalDenied, ApprovalNeeded, MalformedValue
from farebox.core.purse import ApprovalState, Guards
from farebox.http.approval_hook import read_key
from farebox.http.buy import AsyncClient, Client
from farebox.http.buyer import open_buyer
from farebox.testing.purse_stage import purchase
from farebox.testing.shopping import PROMPT, SHOP, Face, hasten

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
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


def buy(face: Face, operator: Operator, secret: str = SECRET) -> Any:
    buyer = open_buyer(
        wallet=face.wallet,
        purse=face.purse,
        approve_above="20 sat",
        approval_webhook=operator.url,
        approval_secret=secret,
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

    ((_, body),) = operator.heard
    told = json.loads(body)
    assert (1, 21_000, "POST /api/dvm", SHOP) == (
        told["approval"],
        told["amount_msat"],
        told["resource"],
        told["url"],
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["whsec_", ""])
def test_the_official_library_reads_the_signature_and_refuses_another_body_and_another_key(
    kind: str, prefix: str
) -> None:
    face = Face(kind)
    face.clock.at = datetime.now(UTC)  # which it asks for
    with Operator().listening() as operator:
        buy(face, operator, prefix + SECRET.removeprefix("whsec_"))
    ((headers, body),) = operator.heard
    assert json.loads(body) == Webhook(SECRET).verify(body, headers)
    for key, text in ((SECRET, body + b" "), ("whsec_" + base64.b64encode(bytes(32)).decode(), body)):
        with pytest.raises(WebhookVerificationError, match="No matching signature"):
            Webhook(key).verify(text, headers)


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


@pytest.mark.parametrize("url", ["ftp://a.example", "a.example", "http://"])
def test_a_webhook_without_a_good_address_is_refused(url: str) -> None:
    face = Face("client")
    with pytest.raises(MalformedValue, match="http or https"):
        open_buyer(wallet=face.wallet, purse=face.purse, approval_webhook=url, approval_secret=SECRET)


def in_base64(length: int) -> str:
    return base64.b64encode(b"\xfb" * length).decode()


NO_SECRETS = (
    *(None, "", "whsec_", "a secret of the operator's, in plain words", "whsec_not base64, and long enough for one"),
    *(in_base64(23), f"whsec_{in_base64(23)}", in_base64(65)),
    *(in_base64(32).rstrip("="), in_base64(24).replace("+", "-"), f"WHSEC_{in_base64(32)}", f"{in_base64(32)}é"),
)


@pytest.mark.parametrize("secret", NO_SECRETS)
def test_a_secret_that_is_no_key_of_the_standard_is_refused_in_a_line_that_says_how_to_make_one(
    secret: str | None,
) -> None:
    face = Face("client")
    with pytest.raises(MalformedValue, match=r"echo whsec_\$\(openssl rand -base64 32\)") as refused:
        open_buyer(wallet=face.wallet, purse=face.purse, approval_webhook="https://a.example", approval_secret=secret)
    assert "\n" not in str(refused.value)
    assert not (shown := (secret or "").removeprefix("whsec_")) or shown not in str(refused.value)


@pytest.mark.parametrize("length", [24, 32, 64])
def test_a_key_of_the_lengths_that_the_standard_names_is_taken(length: int) -> None:
    assert length == len(read_key(f"whsec_{in_base64(length)}").reveal())


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
