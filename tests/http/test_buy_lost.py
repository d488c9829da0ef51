"""Answers that get lost between two real sockets, at any byte."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
import pytest
import requests

from farebox.aiohttp import ClientSession
from farebox.core.errors import SellerShunned
from farebox.core.exchange import Quote, Wire
from farebox.core.secret import KeyRing
from farebox.dialects import L402
from farebox.http.buy import AsyncClient, Client
from farebox.http.buyer import open_buyer
from farebox.requests import Session
from farebox.testing.buyers import Mint, ScriptedWallet
from farebox.testing.kept_purse import KeptPurse
from farebox.testing.market import StillClock
from farebox.testing.shopping import hasten

pytestmark = pytest.mark.system

ANSWER = b'{"result": "one, two, three"}'


@dataclass
class CuttingShop:
    """Sells an answer, and cuts the connection at the byte `cut_at` when it gives it for the first time."""

    mint: Mint
    cut_at: int = 0
    given: set[bytes] = field(default_factory=set)
    url: str = ""
    silent: bool = False  # a 402 does not end
    waiting: list[socket.socket] = field(default_factory=list)
    dialect: L402 = field(default_factory=lambda: L402(KeyRing.generate()))

    @contextmanager
    def open(self) -> Iterator[None]:
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            host, port = server.getsockname()
            self.url = f"http://{host}:{port}/"
            threading.Thread(target=self._serve, args=(server,), daemon=True).start()
            yield
        for connection in self.waiting:
            connection.close()

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
            challenge = self._challenge()
            if self.silent:
                self.waiting.append(connection.dup())
            connection.sendall(challenge[:-5] if self.silent else challenge)
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


@pytest.mark.parametrize("library", ["httpx", "requests"])
def test_an_answer_that_is_cut_at_any_byte_is_had_again_without_paying(library: str) -> None:
    clock = StillClock()
    mint = Mint(clock)
    wallet, purse = ScriptedWallet(mint), KeptPurse(clock)
    shop = CuttingShop(mint)
    buyer = open_buyer(wallet=wallet, budget="100000 sat/day", purse=purse)
    hasten(buyer, clock, [])
    client: Any = Client(buyer=buyer, trust_env=False) if library == "httpx" else Session(buyer=buyer)
    with shop.open(), client:
        for shop.cut_at in range(len(written(200, ANSWER))):
            assert client.get(shop.url).content == ANSWER

    assert len(wallet.payments) == len(written(200, ANSWER))
    assert all(row.served for row in purse.rows.values())


def read_streamed(library: str, buyer: Any, url: str) -> bytes:
    """The answer, as a caller reads it that takes it part by part."""
    if library == "requests":
        with Session(buyer=buyer) as session, session.get(url, stream=True) as answer:
            return b"".join(answer.iter_content(1024))
    if library == "httpx":
        with Client(buyer=buyer, trust_env=False) as client, client.stream("GET", url) as response:
            return b"".join(response.iter_bytes())

    async def main() -> bytes:
        if library == "aiohttp":
            async with ClientSession(buyer=buyer) as session, session.get(url) as answer:
                return await answer.read()
        async with AsyncClient(buyer=buyer, trust_env=False) as client, client.stream("GET", url) as response:
            return await response.aread()

    return asyncio.run(main())


BROKEN = (httpx.RequestError, requests.RequestException, aiohttp.ClientError)


@pytest.mark.parametrize("library", ["httpx", "httpx async", "requests", "aiohttp"])
def test_a_streamed_answer_that_breaks_off_is_held_against_the_seller_until_it_is_had(library: str) -> None:
    clock = StillClock()
    mint = Mint(clock)
    wallet, purse = ScriptedWallet(mint), KeptPurse(clock)
    shop = CuttingShop(mint, cut_at=len(written(200, ANSWER)) - 4)
    buyer = open_buyer(wallet=wallet, budget="500 sat/day", purse=purse)
    hasten(buyer, clock, [])
    with shop.open():
        for number in range(2):
            with pytest.raises(BROKEN):
                read_streamed(library, buyer, f"{shop.url}{number}")
        assert [(False, True)] * 2 == [(row.served, row.undelivered_at is not None) for row in purse.rows.values()]
        with pytest.raises(SellerShunned):
            read_streamed(library, buyer, f"{shop.url}2")

        assert ANSWER == read_streamed(library, buyer, f"{shop.url}0")

    assert (2, [True, False]) == (len(wallet.payments), [row.served for row in purse.rows.values()])


@pytest.mark.parametrize("library", ["requests", "aiohttp"])
def test_a_402_that_falls_silent_is_left_to_its_headers(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"farebox.{library}._SILENCE_S", 0.1)
    clock = StillClock()
    mint = Mint(clock)
    shop = CuttingShop(mint, cut_at=10_000, silent=True)
    buyer = open_buyer(wallet=ScriptedWallet(mint), budget="500 sat/day", purse=KeptPurse(clock))
    hasten(buyer, clock, [])

    async def main() -> bytes:
        async with ClientSession(buyer=buyer) as session, session.get(shop.url) as answer:
            return await answer.read()

    with shop.open(), Session(buyer=buyer) as session:
        assert ANSWER == (session.get(shop.url).content if library == "requests" else asyncio.run(main()))


def test_a_wallet_is_asked_over_a_connection_of_its_own() -> None:
    clock = StillClock()
    mint = Mint(clock)
    wallet = ScriptedWallet(mint)
    shop = CuttingShop(mint, cut_at=10_000)
    with shop.open(), Client(wallet=wallet, budget="500 sat/day", purse=KeptPurse(clock), trust_env=False) as client:
        hasten(client.buyer, clock, [])
        wallet.talks_to = shop.url

        assert client.get(shop.url).content == ANSWER
