"""No bytes are two requests to one server and one to the next (target E4), on sockets and behind a real nginx."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from farebox.http.paywall import Paywall
from farebox.http.request import Receive, Scope, Send
from farebox.http.server import strict_http
from farebox.testing.market import Market
from farebox.testing.nginx import Nginx, nginx_path, opened_nginx
from farebox.testing.raw_http import Backroom, NotHttp, RawCaller, calling, opened_backroom
from farebox.testing.smuggling import CORPUS, HOST, Scenario

pytestmark = [pytest.mark.system, pytest.mark.anyio]

LAST = b"GET /free/last HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


class Goods:
    """What is sold; it notes each whole request."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            more = message["more_body"]
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, http=strict_http(), ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def statuses(caller: RawCaller, scenario: Scenario) -> tuple[int, ...]:
    """The answers to a scenario; where the connection has to stay open, it is asked for one more thing."""
    caller.say(scenario.said)
    heard = [await caller.hear() for _ in scenario.answers]
    if scenario.waits:
        return tuple(answer.status for answer in heard if answer)
    if not scenario.closes and scenario.answers[-1] != 400:
        caller.say(LAST)
        last = await caller.hear()
        assert last is not None
        assert last.status == 200
    heard += await caller.hear_all()
    return tuple(answer.status for answer in heard if answer)


def test_the_corpus_is_large_and_its_names_tell_it_apart() -> None:
    assert len(CORPUS) >= 60
    assert len(CORPUS) == len({scenario.name for scenario in CORPUS})


async def test_what_can_be_read_in_two_ways_is_refused_and_what_stands_behind_it_is_never_run(
    tell: Callable[[str], object],
) -> None:
    market, goods = Market.open(), Goods()
    wrong = []
    async with served(Paywall(goods, gate=market.gate, prices={"/paid": "21 sat"})) as port:
        for scenario in CORPUS:
            goods.paths.clear()
            async with calling(port) as caller:
                told = await statuses(caller, scenario)
            runs = [path for path in goods.paths if path != "/free/last"]
            if (told, runs) != (scenario.answers, ["/free"] * scenario.served):
                wrong.append((scenario.name, told, runs))
    await market.close()
    tell(f"E4: {len(CORPUS)} scenarios on sockets, {len(wrong)} not as expected")
    assert [] == wrong


# --- behind nginx -----------------------------------------------------------------------------------------------------

BEHIND = """
location / {
    proxy_pass http://gateway;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_request_buffering off;
    proxy_next_upstream off;
}
"""
HTTP = """
client_header_timeout 200ms;
client_body_timeout 200ms;
keepalive_timeout 200ms;
lingering_close off;
ignore_invalid_headers %s;
underscores_in_headers on;
large_client_header_buffers 4 32k;
upstream gateway { server 127.0.0.1:%s; keepalive 2; }
"""


@pytest.fixture
def backroom() -> Iterator[Backroom]:
    with opened_backroom() as room:
        yield room


async def through(nginx: Nginx, number: int, scenario: Scenario, canaries: list[tuple[str, str]]) -> None:
    """Say a scenario to nginx until it hangs up, with paths of its own; then ask for something harmless."""
    said = scenario.said.replace(b"/free", b"/free/%d" % number).replace(b"/paid", b"/paid/%d" % number)
    async with calling(nginx.port) as caller:
        caller.say(said)
        with contextlib.suppress(NotHttp):  # nginx answers HTTP/0.9 in kind
            await (caller.hear() if scenario.waits else caller.hear_all())
    async with calling(nginx.port) as caller:
        path = f"/free/canary-{number}"
        caller.say(f"GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n".encode())
        answer = await caller.hear()
        canaries.append((path, answer.body.decode() if answer else ""))


def numbers(line: str) -> int:
    """Which scenario a path or a request line belongs to."""
    found = re.search(r"/(?:free|paid)/(?:canary-)?([0-9]+)", line)
    return int(found[1]) if found else -1


def events(told: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


@pytest.mark.skipif(nginx_path() is None and os.environ.get("CI") != "true", reason="there is no nginx")
@pytest.mark.parametrize("strict", ["on", "off"])
async def test_nginx_and_the_gateway_agree_on_the_number_of_requests(
    strict: str, open_shop: Any, backroom: Backroom, tmp_path: Path, tell: Callable[[str], object]
) -> None:
    config = tmp_path / "farebox.toml"
    route = '[[route]]\npath = "%s"\nupstream = "http://127.0.0.1:%d"\nprice = "%s"\n'
    paths = [("/free", "free"), ("/free/*", "free"), ("/paid/*", "21 sat")]
    config.write_text("free_calls = 0\n" + "".join(route % (path, backroom.port, price) for path, price in paths))
    canaries: list[tuple[str, str]] = []
    with open_shop(str(config)) as shop:
        with opened_nginx(tmp_path / "nginx", server=BEHIND, http=HTTP % (strict, shop.port)) as nginx:
            room = asyncio.Semaphore(16)

            async def bounded(number: int, scenario: Scenario) -> None:
                async with room:
                    await through(nginx, number, scenario, canaries)

            await asyncio.gather(*(bounded(number, scenario) for number, scenario in enumerate(CORPUS)))
        told = events(shop.told)
    logged = nginx.logged()
    forwarded = [each for each in logged if each.upstream]
    asked_for_money = sum(each.upstream == (402,) for each in forwarded)
    by_nginx = Counter(numbers(each.request) for each in forwarded if each.upstream == (200,))
    by_us = Counter(numbers(seen.path) for seen in backroom.seen)
    agreeing = sum(by_nginx[number] == by_us[number] for number in range(len(CORPUS)))
    tell(
        f"E4: nginx (ignore_invalid_headers {strict}) and the gateway agree on {agreeing}/{len(CORPUS)} scenarios: "
        f"{len(logged)} requests, {len(forwarded)} passed on, {by_nginx.total()} served, {asked_for_money} not paid"
    )
    assert {1} == {len(each.upstream) for each in forwarded}  # one answer to each
    assert by_nginx == by_us
    assert asked_for_money == sum(event["event"] == "challenged" for event in told)
    assert [] == [seen.path for seen in backroom.seen if "/paid" in seen.path]
    assert [(path, path) for path, _ in canaries] == canaries
    assert [] == [event for event in told if event["level"] in ("error", "critical")]
