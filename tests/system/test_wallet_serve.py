"""`farebox wallet serve`, and buying paid MCP tools: processes of their own, the official SDK, a shop that sells."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from farebox import open_buyer
from farebox.core.budget import Budget
from farebox.core.purse_token import KEY_BYTES, PurseToken
from farebox.core.secret import Secret
from farebox.mcp import PaidSession
from farebox.stores import open_purse
from farebox.testing.paid_tools import used

pytestmark = pytest.mark.system

COMMAND = str(Path(sys.executable).with_name("farebox"))
PATIENCE_S = 20.0


@pytest.fixture
def shop(open_shop: Any, writer_url: str) -> Iterator[Any]:
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as shop:
        yield shop


def connected(server: Any, use: Callable[[Any], Awaitable[Any]]) -> Any:
    """What `use` makes of a client that is connected."""
    # The SDK gives up its first question after ten seconds, in which a busy machine may not have started a server.
    return used(server, use, mode="legacy" if isinstance(server, StdioServerParameters) else "auto")


@pytest.fixture
def over_stdio(shop: Any, tmp_path: Path) -> Any:
    """The command, as a client starts it; nothing but it knows the wallet."""

    def command(*options: str, **more: str) -> StdioServerParameters:
        environment = {"FAREBOX_WALLET": shop.place["buyer_wallet"], "FAREBOX_STATE": str(tmp_path / "buyer"), **more}
        return StdioServerParameters(command=COMMAND, args=["wallet", "serve", *options], env=environment)

    return command


@pytest.fixture
def purse_token(tmp_path: Path) -> Any:
    """The token of a sub-purse with this limit."""

    def made(limit: str, name: str = "researcher") -> str:
        (tmp_path / "buyer").mkdir(exist_ok=True)
        with closing(open_purse(tmp_path / "buyer" / "purse.db")) as purse:
            sub = purse.add_purse(name, Budget.read(limit).windows, Secret(secrets.token_bytes(KEY_BYTES)))
        return PurseToken.mint(name, sub.key).reveal()

    return made


# --- over standard input ----------------------------------------------------------------------------------------------


def test_a_model_buys_from_a_shop_and_sees_price_budget_and_history(shop: Any, over_stdio: Any, writer: Any) -> None:
    async def use(client: Any) -> Any:
        call = {"url": shop.url + "/write", "body": "hello"}
        return [
            await client.call_tool("price", call),
            await client.call_tool("fetch", {**call, "max": "21 sat"}),
            await client.call_tool("budget", {}),
            await client.call_tool("history", {}),
        ]

    price, fetched, budget, history = (
        result.structured_content for result in connected(over_stdio("--allow-private", "--budget", "500 sat/day"), use)
    )

    assert (21_000, True) == (price["price_msat"], price["fits"])
    assert ({"text": writer.runs["hello"][0]}, 21_000) == (fetched["json"], fetched["paid_msat"])
    assert 479_000 == budget["budget"][0]["left_msat"]
    assert (21_000, True, fetched["payment_hash"]) == tuple(
        history["purchases"][0][name] for name in ("paid_msat", "served", "payment_hash")
    )


def test_what_only_this_machine_can_reach_is_not_called_unless_it_is_allowed(
    shop: Any, over_stdio: Any, writer: Any
) -> None:
    async def use(client: Any) -> Any:
        names = (
            shop.url,
            shop.url.replace("127.0.0.1", "localhost"),
            "http://169.254.169.254/latest",
            "http://[::1]:1/",
        )
        return [await client.call_tool("fetch", {"url": url, "body": "hello"}) for url in names]

    refused = connected(over_stdio(), use)
    allowed = connected(over_stdio("--allow", "127.0.0.0/8"), use)

    assert [("network", False)] * 4 == [
        tuple(result.structured_content[name] for name in ("type", "money_moved")) for result in refused
    ]
    assert [False, True] == [allowed[0].is_error, allowed[2].is_error]
    assert {"hello"} == set(writer.runs)


def test_no_secret_of_the_wallet_s_reaches_the_model(shop: Any, over_stdio: Any) -> None:
    async def use(client: Any) -> Any:
        call = {"url": shop.url + "/write", "body": "hello"}
        tools = [tool.model_dump_json() for tool in (await client.list_tools()).tools]
        results = [
            (await client.call_tool(name, arguments)).model_dump_json()
            for name, arguments in (
                ("fetch", call), ("history", {}), ("budget", {}), ("fetch", {**call, "max": "1 sat"}),
            )
        ]  # fmt: skip
        return "".join(tools + results)

    told = connected(over_stdio("--allow-private"), use)

    password = shop.place["buyer_wallet"].removeprefix("phoenixd+http://:").partition("@")[0]
    assert password not in told
    assert "preimage" not in told


def test_a_budget_is_shared_by_all_that_are_started(shop: Any, over_stdio: Any) -> None:
    def buy(name: str) -> Any:
        call = {"url": shop.url + "/write", "body": name}
        return used(
            over_stdio("--allow-private", "--budget", "30 sat/day"), lambda client: client.call_tool("fetch", call)
        )

    assert [False, True] == [buy("one").is_error, buy("two").is_error]


def test_the_command_ends_with_its_caller(shop: Any, over_stdio: Any) -> None:
    asked = over_stdio()
    with subprocess.Popen(
        [asked.command, *asked.args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**asked.env, "PATH": "/usr/bin:/bin"},
    ) as process:  # fmt: skip
        said, complaints = process.communicate(b"", timeout=PATIENCE_S)

    assert (0, b"", b"") == (process.returncode, said, complaints)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_though_its_caller_is_still_there(tmp_path: Path, number: signal.Signals) -> None:
    environment = {"FAREBOX_WALLET": "phoenixd+http://:pw@127.0.0.1:9", "FAREBOX_STATE": str(tmp_path)}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    with subprocess.Popen(
        [COMMAND, "wallet", "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**environment, "PATH": "/usr/bin:/bin"},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps(hello).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(number)

        assert -number == process.wait(PATIENCE_S)
        assert b"" == process.stderr.read()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--budget", "much"], "A budget is"),
        (["--http", "nowhere"], "--http is host:port"),
        (["--http", "0.0.0.0:0"], "--public-url"),
        (["--public-url", "https://wallet.example"], "--public-url goes with --http"),
        (["--http", "127.0.0.1:0", "--public-url", "wallet"], "--public-url is such as"),
        (["--http", "127.0.0.1:0", "--token", "fbx_x"], "leave out --token"),
        (["--token", "fbx_x"], "token"),
        (["--allow", "http://x/"], "--allow is"),
    ],
)
def test_what_can_not_be_served_is_said_in_one_line(farebox: Any, options: list[str], complaint: str) -> None:
    told = farebox("wallet", "serve", *options, FAREBOX_WALLET="phoenixd+http://:pw@127.0.0.1:9")

    assert told.returncode in (1, 2, 3)
    (line,) = told.stderr.splitlines()
    assert complaint in json.loads(line)["message"]


def test_the_wallet_s_balance_is_told_as_before(shop: Any, farebox: Any) -> None:
    wallet = shop.place["buyer_wallet"]

    told = [farebox("wallet", wallet), farebox("wallet", FAREBOX_WALLET=wallet), farebox("wallet", "show", wallet)]

    assert [1_000_000_000] * 3 == [json.loads(each.stdout)["balance_msat"] for each in told]


def test_a_token_narrows_what_is_bought_and_does_so_for_all_who_hold_it(
    shop: Any, over_stdio: Any, purse_token: Any
) -> None:
    token = purse_token("30 sat/day")
    narrower = PurseToken.read(token).attenuate(hosts=["api.example.com"]).reveal()

    def buy(name: str, **more: str) -> Any:
        call = {"url": shop.url + "/write", "body": name}
        return used(over_stdio("--allow-private", **more), lambda client: client.call_tool("fetch", call))

    told = [
        buy("one", FAREBOX_PURSE=narrower),
        buy("two", FAREBOX_PURSE=token),
        buy("three", FAREBOX_PURSE=token),
        buy("four"),
    ]

    assert ["host-refused", None, "over-budget", None] == [each.structured_content.get("type") for each in told]


# --- over HTTP --------------------------------------------------------------------------------------------------------


@contextmanager
def wallet_over_http(shop: Any, folder: Path, *options: str) -> Iterator[str]:
    """Its URL."""
    environment = {"FAREBOX_WALLET": shop.place["buyer_wallet"], "FAREBOX_STATE": str(folder), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [COMMAND, "wallet", "serve", "--http", "127.0.0.1:0", *options],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            told = process.stderr.readline()
            assert "/mcp" in told, told + process.stderr.read()
            yield next(word for word in told.split() if word.startswith("http://"))
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(PATIENCE_S), process.stderr.read()
        finally:
            process.kill()


@asynccontextmanager
async def with_token(url: str, token: str) -> AsyncIterator[Any]:
    """The transport of a client that shows a token."""
    bearer = {"authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=bearer, trust_env=False, timeout=PATIENCE_S) as http,
        streamable_http_client(url, http_client=http) as lines,
    ):
        yield lines


def test_whoever_shows_a_token_buys_over_http(shop: Any, tmp_path: Path, writer: Any, purse_token: Any) -> None:
    with wallet_over_http(shop, tmp_path / "buyer", "--allow-private") as url:
        call = {"url": shop.url + "/write", "body": "hello"}
        result = connected(with_token(url, purse_token("100 sat/day")), lambda client: client.call_tool("fetch", call))

    assert {"text": writer.runs["hello"][0]} == result.structured_content["json"]
    assert ["500 sat/day", 79_000] == [
        result.structured_content["budget"][0]["window"],
        result.structured_content["budget"][-1]["left_msat"],
    ]


def test_nobody_without_a_good_token_and_no_page_of_a_browser_gets_in(
    shop: Any, tmp_path: Path, purse_token: Any
) -> None:
    token = purse_token("100 sat/day")
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    plain = {"accept": "application/json, text/event-stream"}
    good = {**plain, "authorization": f"Bearer {token}"}
    cases = [
        (401, plain),
        (401, {**plain, "authorization": "Bearer nonsense"}),
        (401, {**plain, "authorization": f"Basic {token}"}),
        (401, {**plain, "authorization": f"Bearer {token[:-3]}AAA"}),
        (421, {**good, "host": "wallet.evil.example"}),
        (403, {**good, "origin": "https://evil.example"}),
    ]
    with wallet_over_http(shop, tmp_path / "buyer") as url, httpx.Client(trust_env=False) as http:
        seen = [http.post(url, json=asked, headers=headers).status_code for _, headers in cases]
        welcome = http.post(url, json=asked, headers={**good, "origin": url.removesuffix("/mcp")}).status_code

    assert [status for status, _ in cases] == seen
    assert welcome not in (401, 403, 421)


# --- paid tools -------------------------------------------------------------------------------------------------------


@contextmanager
def tools_over_stdio(receiver: str) -> Iterator[tuple[Any, str]]:
    yield (
        StdioServerParameters(command=sys.executable, args=["-m", "farebox.testing.paid_tools", receiver]),
        "weather",
    )


@contextmanager
def tools_over_http(receiver: str) -> Iterator[tuple[Any, str]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as reserved:
        port = reserved.getsockname()[1]
    command = [sys.executable, "-m", "farebox.testing.paid_tools", receiver, str(port)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.05)
            url = f"http://127.0.0.1:{port}/mcp"
            yield url, url
        finally:
            process.terminate()


@pytest.mark.parametrize("open_tools", [tools_over_stdio, tools_over_http])
def test_a_tool_that_costs_is_bought_from_a_running_server(shop: Any, tmp_path: Path, open_tools: Any) -> None:
    buyer = open_buyer(wallet=shop.place["buyer_wallet"], budget="50 sat/day", purse=tmp_path / "purse.db")

    with closing(buyer), open_tools(shop.place["seller_wallet"]) as (server, name):

        async def use(client: Any) -> Any:
            session = PaidSession(client, server=name, buyer=buyer, errors="text")
            free = await session.call_tool("today")
            return free, *[await session.call_tool("forecast", {"city": city}) for city in ("Bern", "Rome", "Oslo")]

        free, bern, rome, oslo = connected(server, use)

    assert [0, 21_000, 21_000] == [each.meta["farebox"]["paid_msat"] for each in (free, bern, rome)]
    assert {"city": "Bern", "weather": "sun"} == bern.structured_content
    assert (True, "over-budget") == (oslo.is_error, oslo.structured_content["type"])
