"""Callers who lie about their address to a real server: each is told apart by its connection, or by a listed proxy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from farebox.catalog.routes import Route
from farebox.core.client_prefix import LOCAL
from farebox.gate.terms import UNLIMITED, Terms
from farebox.http.manners import Manners
from farebox.testing.gateway import gateway
from farebox.testing.market import Market, Service
from farebox.testing.raw_http import RawCaller, RawMessage
from farebox.testing.spoofing import spoofed

pytestmark = [pytest.mark.system, pytest.mark.anyio]

SPOOFS = [300, pytest.param(10_000, marks=pytest.mark.full)]
PATH = "/api/dvm"


def request(fields: list[tuple[bytes, bytes]]) -> bytes:
    """A call that would be free, were it the first. What no server lets pass in a field is left out."""
    body = b'{"prompt": "hi"}'
    lines = [b"%b: %b" % (name, bytes(byte for byte in value if byte >= 0x20 or byte == 9)) for name, value in fields]
    head = [b"POST %b HTTP/1.1" % PATH.encode(), b"host: shop.test", b"content-length: %d" % len(body), *lines]
    return b"\r\n".join([*head, b"", body])


@pytest.mark.parametrize("spoofs", SPOOFS)
@pytest.mark.parametrize(
    ("trusted", "appended", "prefix"),
    [
        pytest.param((), b"", "local", id="direct"),
        pytest.param(("127.0.0.1",), b"198.51.100.1", "198.51.100.1/32", id="listed proxy"),
        pytest.param((), b"198.51.100.1", "local", id="tunnel that is not listed"),
    ],
)
async def test_of_so_many_liars_at_one_address_only_the_first_call_is_free(
    spoofs: int,
    trusted: tuple[str, ...],
    appended: bytes,
    prefix: str,
    seed: int,
    tell: Callable[[str], object],
) -> None:
    chance = random.Random(seed)
    market, service = Market.open(Terms(free_calls=1, limits=UNLIMITED)), Service()
    statuses: list[int] = []
    async with gateway(
        market.gate, {Route.read(f"POST {PATH}", "21 sat"): service}, manners=Manners(trusted_proxies=trusted)
    ) as url:
        caller = await RawCaller.call(int(url.rpartition(":")[2]))
        for _ in range(spoofs):
            caller.say(request(spoofed(chance, appended)))
            answer = await caller.hear()
            assert isinstance(answer, RawMessage)
            statuses.append(answer.status)
        await caller.close()
        payments = await market.gate.ledger.recent_payments(spoofs)
    await market.close()
    tell(f"D1 on sockets: {spoofs} liars at one address, {Counter(statuses)} (seed {seed})")
    # One caller, so there is one free call, and one invoice that it is asked to pay again and again; without an address
    # of its own it is asked to pay another one each time.
    assert ([200], {402}) == (statuses[:1], set(statuses[1:])), seed
    assert ({prefix}, 1) == ({payment.client for payment in payments}, service.calls), seed
    assert (spoofs - 1 if prefix == LOCAL else 1) == len(payments), seed
