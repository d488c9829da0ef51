"""A shop as a stranger's tool sees it, by an OpenAPI description (target E2): nothing it is sent makes it fail.

The description is written here from the capabilities' own schemas, with every status that a shop may answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import uvicorn
from pydantic import Field

from farebox.catalog import Catalog
from farebox.gate import Terms
from farebox.http.request import Message, Receive, Scope, Send
from farebox.http.server import strict_http
from farebox.http.shopfront import shop
from farebox.testing.market import Market

pytestmark = [pytest.mark.system, pytest.mark.anyio]

SOME = 10  # of each operation, and each way of testing it
MANY = 1_200
STATUSES = {
    "400": "it can be read in two ways, or its proof is malformed",
    "401": "the proof is not valid here",
    "402": "not paid",
    "405": "not sold under this method",
    "409": "paid for another request, or still running",
    "410": "paid, and no longer kept",
    "413": "the body is too large",
    "422": "it can't be called like that",
    "429": "too many unpaid invoices",
    "431": "the header fields are too large",
}
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def described(catalog: Catalog) -> dict[str, Any]:
    """The OpenAPI document of a catalog."""
    paths: dict[str, Any] = {}
    problem = {"application/problem+json": {"schema": {"type": "object", "required": ["type", "title", "status"]}}}
    proofs = [
        {"name": "X-Payment-Hash", "in": "header", "schema": {"type": "string"}},
        {"name": "payment_hash", "in": "query", "schema": {"type": "string"}},
    ]
    for capability in catalog:
        operation: dict[str, Any] = {
            "operationId": capability.name,
            "parameters": proofs,
            "security": [{}, {"l402": []}],
            "responses": {
                "200": {"description": "sold", "content": {"application/json": {"schema": capability.output_schema}}},
                **{status: {"description": why, "content": problem} for status, why in STATUSES.items()},
            },
        }
        if capability.method != "GET":
            content = {"application/json": {"schema": capability.input_schema}}
            operation["requestBody"] = {"required": True, "content": content}
        paths[capability.path] = {capability.method.lower(): operation}
    document = {"openapi": "3.1.0", "info": {"title": "a shop", "version": "1"}, "paths": paths}
    return document | {"components": {"securitySchemes": {"l402": {"type": "http", "scheme": "L402"}}}}


def stock() -> Catalog:
    catalog = Catalog()

    @catalog.sell(price="1 sat")
    async def summarise(
        text: Annotated[str, Field(max_length=500)],
        sentences: Annotated[int, Field(ge=1, le=10)] = 3,
        tone: Literal["dry", "warm"] | None = None,
        tags: list[str] | None = None,
    ) -> str:
        """Summarise a text."""
        return f"{text[:sentences]} {tone} {tags}"

    @catalog.sell(price="2 sat", method="PUT")
    async def convert(amount: float, rates: dict[str, float]) -> dict[str, float]:
        """Convert an amount."""
        return {name: rate for name, rate in rates.items() if amount >= 0}

    @catalog.sell(price="500 msat", method="GET", path="/time/of-day")
    async def time_of_day() -> int:
        """The hour."""
        return 12

    return catalog


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, http=strict_http(), ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize(
    ("free_calls", "count"),
    [
        pytest.param(0, SOME, id="unpaid"),
        pytest.param(0, MANY, id="unpaid-many", marks=pytest.mark.full),
        pytest.param(10_000, MANY, id="free-many", marks=pytest.mark.full),
    ],
)
async def test_nothing_that_a_stranger_sends_is_answered_with_a_failure_or_a_status_that_nobody_told(
    free_calls: int, count: int, seed: int, tmp_path: Path, tell: Callable[[str], object]
) -> None:
    market, catalog = Market.open(Terms(free_calls=free_calls)), stock()
    (tmp_path / "openapi.json").write_text(json.dumps(described(catalog)))
    sold, statuses = shop(catalog, market.gate), Counter[int]()

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        async def count_it(message: Message) -> None:
            statuses.update([message["status"]] if message["type"] == "http.response.start" else [])
            await send(message)

        await sold(scope, receive, count_it)

    async with served(counted) as url:
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url, "--checks", CHECKS),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(count), "--seed", str(seed)),
            *("--generation-database", "none", "--report", "json", "--report-json-path", "told.json"),
            *("--warnings", "off", "--continue-on-failure", "--no-color"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await run.communicate()
    await market.close()
    cases = json.loads((tmp_path / "told.json").read_text())["test_cases"]
    tell(f"E2, {'free' if free_calls else 'unpaid'}: {cases}, answers {dict(statuses)}; FAREBOX_SEED={seed}")
    assert 0 == run.returncode, (seed, told.decode())
    assert (0, 0, 0) == (cases["with_failures"], cases["without_checks"], cases["errored"]), seed
    assert cases["generated"] >= 2 * count
    assert {422, 200 if free_calls else 402} <= set(statuses)
    assert set(statuses) <= {200, 204, *map(int, STATUSES)}  # 204 to OPTIONS, which is sold nowhere
