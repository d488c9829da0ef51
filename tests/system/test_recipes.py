"""Every recipe of docs/buying-libraries.md, and the README's, buys from a running shop."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from farebox.core.errors import OverBudget
from farebox.http.request import Receive, Scope, Send
from farebox.httpx2 import AsyncClient, Client
from farebox.stores import open_purse
from farebox.testing.market import whole_body

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
RECIPE = re.compile(r"^<!-- recipe(?P<needs>: model)? -->\s*\n```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
BUY = re.compile(r"^## Buy\n(?P<section>.*?)^## ", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)

MODEL = """
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel


def think(messages, info):
    told = [part.content for part in messages[-1].parts if part.part_kind == "tool-return"]
    call = {"url": "http://127.0.0.1:8402/api/dvm", "method": "POST", "body": "{}"}
    return ModelResponse(parts=[TextPart(told[0]) if told else ToolCallPart("fetch", call)])


model = FunctionModel(think)
"""


class Words:
    """A service with an answer for everybody, and a model that streams if it is asked to."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        asked = json.loads(await whole_body(receive))
        if asked.get("stream"):
            kind, parts = b"text/event-stream", [*map(event, ("three", "plain", "words")), b"data: [DONE]\n\n"]
        else:
            kind, parts = b"application/json", [json.dumps(completion({"message": WORDS})).encode()]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


WORDS = {"role": "assistant", "content": "three plain words"}


def completion(choice: dict[str, Any]) -> dict[str, Any]:
    choices = [{"index": 0, "finish_reason": None, **choice}]
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny", "choices": choices}


def event(word: str) -> bytes:
    told = completion({"delta": {"content": word}}) | {"object": "chat.completion.chunk"}
    return f"data: {json.dumps(told)}\n\n".encode()


@pytest.fixture
def shop(serve_app: Any, open_shop: Any) -> Iterator[Any]:
    with serve_app(Words()) as url, open_shop("--upstream", url, "--price", "21sat", "--free-calls", "0") as shop:
        yield shop


def recipes() -> dict[str, str]:
    """Each recipe, by the line where it stands."""
    found = {}
    page = (ROOT / "docs" / "buying-libraries.md").read_text()
    for fence in RECIPE.finditer(page):
        line = page.count("\n", 0, fence.start("code"))
        found[f"docs/buying-libraries.md:{line}"] = MODEL * bool(fence["needs"]) + fence["code"]
    (buy,) = BUY.finditer((ROOT / "README.md").read_text())
    shown = [program["code"] for program in PROGRAM.finditer(buy["section"])]
    return {**found, **{f"README.md, program {number}": code for number, code in enumerate(shown, start=1)}}


# Runs each as a program of its own would, but in one process, for the libraries take their time to load.
RUN = """
import contextlib, io, json, sys

told = {}
for where, code in json.load(sys.stdin).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, where, "exec"), {"__name__": "__main__"})
    told[where] = out.getvalue()
print(json.dumps(told))
"""


def test_every_recipe_buys_from_a_running_shop(shop: Any, tmp_path: Path) -> None:
    here = {"phoenixd+http://:PASSWORD@127.0.0.1:9740": shop.place["buyer_wallet"]}
    here["127.0.0.1:8402"] = shop.url.removeprefix("http://")
    blocks = recipes()
    for stands, goes in here.items():
        blocks = {where: code.replace(stands, goes) for where, code in blocks.items()}
    ran = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(blocks),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
        timeout=60,
    )
    assert (0, "") == (ran.returncode, ran.stderr)
    told = json.loads(ran.stdout)
    assert len(told) >= 10
    assert [] == [where for where, text in told.items() if "plain" not in text]
    # Each tells what it cost; the last one tells instead what all of them have left.
    *others, last = told
    assert [] == [where for where in others if "21 sat" not in told[where]]
    spent = 500 - int(re.findall(r"(\d+) sat", told[last])[0])
    assert (0, True) == (spent % 21, spent >= 21 * len(told))


# --- the OpenAI SDK ---------------------------------------------------------------------------------------------------


def asking(shop: Any, tmp_path: Path, budget: str = "500 sat/day") -> tuple[dict[str, Any], dict[str, Any]]:
    terms = {"wallet": shop.place["buyer_wallet"], "budget": budget, "purse": tmp_path / "purse.db"}
    return {"base_url": f"{shop.url}/v1", "api_key": "none", "max_retries": 0}, {**terms, "trust_env": False}


def assert_all_served(file: Path, count: int) -> None:
    with closing(open_purse(file)) as purse:
        assert [True] * count == [row.served for row in purse.history(9)]


QUESTION: Any = [{"role": "user", "content": "Three words"}]


def test_the_openai_sdk_is_answered_and_streamed_to(shop: Any, tmp_path: Path) -> None:
    settings, terms = asking(shop, tmp_path)
    with openai.OpenAI(**settings, http_client=Client(**terms)) as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION)
        with client.chat.completions.create(model="tiny", messages=QUESTION, stream=True) as events:
            words = [each.choices[0].delta.content for each in events]
        with client.chat.completions.create(model="tiny", messages=QUESTION, stream=True) as events:
            again = [each.choices[0].delta.content for each in events]
    assert_all_served(terms["purse"], 3)  # the SDK leaves a stream where it says that it is done

    assert words == again
    assert "three plain words" == answer.choices[0].message.content
    assert ["three", "plain", "words"] == words


def test_the_awaiting_openai_sdk_is_answered_and_streamed_to(shop: Any, tmp_path: Path) -> None:
    settings, terms = asking(shop, tmp_path)

    async def main() -> None:
        async with openai.AsyncOpenAI(**settings, http_client=AsyncClient(**terms)) as client:
            answer = await client.chat.completions.create(model="tiny", messages=QUESTION)
            events = await client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
            words = [each.choices[0].delta.content async for each in events]
            assert_all_served(terms["purse"], 2)
            assert ("three plain words", ["three", "plain", "words"]) == (answer.choices[0].message.content, words)
            assert () == await client._client.resume()  # type: ignore[attr-defined] # ours

    asyncio.run(main())


def test_the_openai_sdk_tells_why_a_call_was_not_paid(shop: Any, tmp_path: Path) -> None:
    settings, terms = asking(shop, tmp_path, budget="20 sat/day")
    with openai.OpenAI(**settings, http_client=Client(**terms)) as client, pytest.raises(OverBudget):
        client.chat.completions.create(model="tiny", messages=QUESTION)
