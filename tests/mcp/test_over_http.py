"""The wallet's server over HTTP: who gets in, and as whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from farebox.core.allowance import Allowance
from farebox.core.amount import Amount
from farebox.core.errors import CredentialRejected, StoreUnavailable
from farebox.mcp import admitted_by_token, http_app

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
ACCEPT = ("accept", "application/json, text/event-stream")
ANN = ("authorization", "Bearer fbx_ann")


@dataclass
class Gate:
    """Knows two tokens; counts how often it was asked. away: the purse can't be read."""

    asked: list[str] = field(default_factory=list)
    away: bool = False

    def __call__(self, token: str) -> Allowance:
        self.asked.append(token)
        if self.away:
            raise StoreUnavailable("locked")
        if token not in ("fbx_ann", "fbx_bob"):
            raise CredentialRejected("not good")
        return Allowance(most=Amount.sats(1 if token == "fbx_ann" else 2))


def server() -> MCPServer[Any]:
    """Tells its caller what they may spend."""
    made: MCPServer[Any] = MCPServer("desk", log_level="CRITICAL")

    async def most(ctx: Context[Any, Any]) -> str:
        return str((await admitted_by_token(ctx)).most)

    made.add_tool(most)
    return made


def answer(gate: Gate, *headers: tuple[str, str], hosts: Sequence[str] = (), path: str = "/mcp") -> httpx.Response:
    """What a request with these headers is told."""

    async def main() -> httpx.Response:
        async with http_app(server(), admit=gate, hosts=hosts) as app:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8404") as http:
                return await http.post(path, json=LIST, headers=[ACCEPT, *headers])

    return asyncio.run(main())


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer")],
        [("authorization", "Bearer fbx_eve")],
        [("authorization", "Basic fbx_ann")],
        [("authorization", "fbx_ann")],
        [("authorization", "Bearer " + "x" * 9000)],
        [ANN, ANN],
        [ANN, ("authorization", "Bearer fbx_bob")],
        [("proxy-authorization", "Bearer fbx_ann")],
        [("cookie", "token=fbx_ann")],
    ],
)
def test_nobody_gets_in_without_one_good_token(headers: Any) -> None:
    told = answer(Gate(), *headers)

    assert (401, 'Bearer realm="farebox"') == (told.status_code, told.headers["www-authenticate"])
    assert "fbx_" not in told.text


@pytest.mark.parametrize("path", ["/mcp", "/", "/mcp/../x"])
def test_whoever_is_not_let_in_learns_of_no_path(path: str) -> None:
    assert 401 == answer(Gate(), path=path).status_code


def test_a_purse_that_can_not_be_read_lets_nobody_in() -> None:
    assert 503 == answer(Gate(away=True), ANN).status_code


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (421, [("host", "wallet.evil.example")]),
        (421, [("host", "127.0.0.1.evil.example:8404")]),
        (403, [("origin", "https://evil.example")]),
        (403, [("origin", "null")]),
        (403, [("origin", "http://127.0.0.1.evil.example:1")]),
    ],
)
def test_a_page_that_was_led_here_gets_nowhere(status: int, headers: Any) -> None:
    assert status == answer(Gate(), ANN, *headers).status_code


def test_the_public_s_name_is_heard_when_it_was_told() -> None:
    asked = [ANN, ("host", "wallet.example"), ("origin", "https://wallet.example")]

    assert [421, 200] == [answer(Gate(), *asked, hosts=hosts).status_code for hosts in ([], ["wallet.example"])]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_each_request_is_admitted_by_its_own_token(mode: str) -> None:
    gate = Gate()

    async def main() -> list[str]:
        async with http_app(server(), admit=gate) as app:
            told = []
            for token in ("fbx_ann", "fbx_bob"):
                http = httpx2.AsyncClient(
                    transport=httpx2.ASGITransport(app=app), headers={"authorization": f"Bearer {token}"}
                )
                transport = streamable_http_client("http://127.0.0.1:8404/mcp", http_client=http)
                async with Client(transport, mode=mode) as client:
                    told.append((await client.call_tool("most")).structured_content["result"])
            return told

    assert ["1 sat", "2 sat"] == asyncio.run(main())
    assert {"fbx_ann", "fbx_bob"} == set(gate.asked)


def test_a_tool_that_is_reached_in_another_way_spends_nothing() -> None:
    async def main() -> Any:
        async with Client(server()) as client:
            return await client.call_tool("most")

    assert asyncio.run(main()).is_error
