"""A flood: unpaid requests from many client prefixes, offered at a rate that does not wait for the answers.

    python -m farebox.testing.flood 127.0.0.1:8402 --rate 10000 --seconds 10 --seed 7

It says in JSON what was offered, what the server took, and how it was answered. Each connection carries one request at
a time, so what is due while all of them wait for their answers is offered and not taken; it is not sent later.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_TICK_S: Final = 0.002
_STATUS: Final = slice(9, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """What to offer. clients: so many prefixes, a quarter of them of IPv6. body: bytes of each request's body."""

    rate: int
    seconds: float
    connections: int = 64
    clients: int = 100_000
    path: str = "/"
    body: int = 16
    seed: int = 0


@dataclass(slots=True)
class Tally:
    """What became of it. not_taken: due while every connection waited. lost: connections that the server closed."""

    offered: int = 0
    sent: int = 0
    not_taken: int = 0
    lost: int = 0
    answers: Counter[str] = field(default_factory=Counter)


class _Caller(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, crowd: _Crowd) -> None:
        self._crowd = crowd
        self._transport: asyncio.Transport | None = None
        self._coming = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._crowd.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._crowd.lose(self)

    def ask(self, request: bytes) -> None:
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._coming += data
        head, found, body = self._coming.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, told = head.lower().partition(b"content-length:")
        if len(body) >= int(told.split(b"\r\n", 1)[0] or 0):
            status, self._coming = self._coming[_STATUS].decode(), b""
            self._crowd.answered(self, status)


class _Crowd:
    """All the callers, and what is left to be asked."""

    def __init__(self, flood: Flood, host: str, port: int) -> None:
        self._flood = flood
        self._where = host, port
        self._chance = random.Random(flood.seed)
        self._clients = [self._client() for _ in range(flood.clients)]
        self._asked = 0
        self.idle: deque[_Caller] = deque()
        self.tally = Tally()
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self) -> Tally:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._open() for _ in range(self._flood.connections)))
        began_s = loop.time()
        while (gone_s := loop.time() - began_s) < self._flood.seconds:
            due = int(gone_s * self._flood.rate) - self.tally.offered
            self.tally.offered += due
            taken = min(due, len(self.idle))
            self.tally.sent += taken
            self.tally.not_taken += due - taken
            for _ in range(taken):
                self.idle.popleft().ask(self._request())
            await asyncio.sleep(_TICK_S)
        return self.tally

    def answered(self, caller: _Caller, status: str) -> None:
        self.tally.answers[status] += 1
        self.idle.append(caller)

    def lose(self, caller: _Caller) -> None:
        self.tally.lost += 1
        if caller in self.idle:
            self.idle.remove(caller)
        task = asyncio.ensure_future(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Caller(self), *self._where)
        except OSError:
            self.tally.lost += 1

    def _request(self) -> bytes:
        self._asked += 1
        client = self._chance.choice(self._clients)
        body = b"%0*d" % (self._flood.body, self._asked)
        return (
            b"POST %b HTTP/1.1\r\nhost: shop.example\r\nx-forwarded-for: %b\r\nuser-agent: flood\r\naccept: */*\r\n"
            b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n%b"
            % (self._flood.path.encode(), client, len(body), body)
        )

    def _client(self) -> bytes:
        if self._chance.random() < 0.25:
            return b"2001:db8:%x:%x::1" % (self._chance.getrandbits(16), self._chance.getrandbits(16))
        return b"10.%d.%d.%d" % tuple(self._chance.getrandbits(8) for _ in range(3))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Offer unpaid requests from many clients.")
    parser.add_argument("where", help="host:port, on this machine")
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--path", default="/")
    parser.add_argument("--body", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args(arguments))
    host, _, port = given.pop("where").rpartition(":")
    if host not in ("127.0.0.1", "localhost", "::1"):
        parser.error("only this machine is flooded")
    tally = asyncio.run(_Crowd(Flood(**given), host, int(port)).run())
    told = {
        "offered": tally.offered,
        "sent": tally.sent,
        "not_taken": tally.not_taken,
        "lost": tally.lost,
        "answers": dict(tally.answers),
    }
    sys.stdout.write(json.dumps({**told, **given}) + "\n")


if __name__ == "__main__":
    main()
