"""Answers that get lost between two real sockets, at any byte."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import pytest

from farebox.core.exchange import Quote, Wire
from farebox.core.secret import KeyRing
from farebox.dialects import L402
from farebox.http.buy import Client
from farebox.testing.buyers import KeptPurse, Mint, ScriptedWallet
from farebox.testing.market import StillClock

pytestmark = pytest.mark.system

ANSWER = b'{"result": "one, two, three"}'


@dataclass
class CuttingShop:
    """Sells an answer, and cuts the connection at the byte `cut_at` when it gives it for the first time."""

    mint: Mint
    cut_at: int = 0
    given: set[bytes] = field(default_factory=set)
    url: str = ""
    dialect: L402 = field(default_factory=lambda: L402(KeyRing.generate()))

    @contextmanager
    def open(self) -> Iterator[None]:
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            host, port = server.getsockname()
            self.url = f"http://{host}:{port}/"
            threading.Thread(target=self._serve, args=(server,), daemon=True).start()
            yield

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += connection.recv(65_536)
        lines = asked.decode().split("\r\n")[1:]
        headers = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        proof = self.dialect.read_credential(Wire(headers=headers))
        if proof is None:
            connection.sendall(self._challenge())
            return
        answer = written(200, ANSWER)
        connection.sendall(answer if proof.payment_hash in self.given else answer[: self.cut_at])
        self.given.add(proof.payment_hash)

    def _challenge(self) -> bytes:
        invoice = self.mint.invoice()
        assert invoice.amount is not None
        quote = Quote(amount=invoice.amount, resource="GET /", digest=bytes(32))
        challenge = self.dialect.issue(quote, invoice, valid_until=invoice.expires_at)
        assert challenge is not None
        wire = self.dialect.write_challenge(challenge)
        ((_, value),) = wire.headers
        return written(402, json.dumps(wire.body).encode(), f"WWW-Authenticate: {value}\r\n")


def written(status: int, body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n{more}\r\n".encode() + body


def test_an_answer_that_is_cut_at_any_byte_is_had_again_without_paying() -> None:
    clock = StillClock()
    mint = Mint(clock)
    wallet, purse = ScriptedWallet(mint), KeptPurse(clock)
    shop = CuttingShop(mint)
    with shop.open(), Client(wallet=wallet, budget="100000 sat/day", purse=purse, trust_env=False) as client:
        client._buyer.payer._clock = clock
        client._buyer.drivers._pause = lambda _: None
        for shop.cut_at in range(len(written(200, ANSWER))):
            assert client.get(shop.url).content == ANSWER

    assert len(wallet.payments) == len(written(200, ANSWER))
    assert all(row.served for row in purse.rows.values())


def test_a_wallet_is_asked_over_a_connection_of_its_own() -> None:
    clock = StillClock()
    mint = Mint(clock)
    wallet = ScriptedWallet(mint)
    shop = CuttingShop(mint, cut_at=10_000)
    with shop.open(), Client(wallet=wallet, budget="500 sat/day", purse=KeptPurse(clock), trust_env=False) as client:
        client._buyer.payer._clock = clock
        wallet.talks_to = shop.url

        assert client.get(shop.url).content == ANSWER
