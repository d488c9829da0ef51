"""Agents of Pydantic AI call the tools that pay."""

from __future__ import annotations

import httpx
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from farebox.http.buyer import open_buyer
from farebox.pydantic_ai import tools
from farebox.testing.shopping import ANSWER, SHOP, Face


def told(face: Face, call: ToolCallPart, budget: str = "500 sat/day") -> str:
    """What an agent's model hears of one call of a tool."""
    heard: list[str] = []

    def think(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        last = messages[-1]
        assert isinstance(last, ModelRequest)
        heard.extend(str(part.content) for part in last.parts if isinstance(part, ToolReturnPart))
        return ModelResponse(parts=[TextPart("done")] if heard else [call])

    buyer = open_buyer(wallet=face.wallet, budget=budget, purse=face.purse, clock=face.clock)
    bag = tools(buyer, hosts=["shop.example"], transport=httpx.MockTransport(face.shop))
    assert "done" == Agent(FunctionModel(think), tools=bag).run_sync("go").output
    (result,) = heard
    return result


def test_a_model_s_tool_call_is_paid_and_answered() -> None:
    face = Face("client")

    result = told(face, ToolCallPart("fetch", {"url": SHOP, "method": "POST", "body": "{}"}))

    assert result.startswith("status: 200 OK\n")
    assert ANSWER["result"] in result
    assert face.row.served


def test_a_model_is_told_what_it_may_not_spend() -> None:
    face = Face("client")

    assert told(face, ToolCallPart("fetch", {"url": SHOP}), budget="20 sat/day").startswith("error: over-budget\n")
    assert "budget left: 500 sat of 500 sat/day" == told(face, ToolCallPart("budget_left", {}))
