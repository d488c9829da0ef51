"""LangChain's own machinery calls the tools that pay."""

from __future__ import annotations

import asyncio

import httpx
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from farebox.http.buyer import open_buyer
from farebox.langchain import tools
from farebox.testing.shopping import ANSWER, SHOP, Face


def opened(face: Face, budget: str = "500 sat/day") -> list[BaseTool]:
    buyer = open_buyer(wallet=face.wallet, budget=budget, purse=face.purse, clock=face.clock)
    return tools(buyer, hosts=["shop.example"], transport=httpx.MockTransport(face.shop))


def test_a_model_s_tool_call_is_paid_and_answered() -> None:
    fetch, _ = opened(Face("client"))
    call = ToolCall(name="fetch", args={"url": SHOP, "method": "POST", "body": "{}"}, id="1", type="tool_call")

    for told in (fetch.invoke(call), asyncio.run(fetch.ainvoke(call))):
        assert isinstance(told, ToolMessage)
        assert "success" == told.status
        assert "paid: 21 sat" in str(told.content)
        assert ANSWER["result"] in str(told.content)


def test_a_model_is_told_what_it_may_not_spend() -> None:
    fetch, left = opened(Face("client"), budget="20 sat/day")

    assert str(fetch.invoke({"url": SHOP})).startswith("error: over-budget")
    assert "budget left: 20 sat of 20 sat/day" == left.invoke({}) == asyncio.run(left.ainvoke({}))


def test_arguments_that_do_not_fit_are_told_to_the_model() -> None:
    fetch, _ = opened(Face("client"))

    assert "validation" in str(fetch.invoke({"url": SHOP, "method": "BREW"})).lower()


def test_every_argument_is_explained_to_the_model() -> None:
    fetch, left = opened(Face("client"))

    assert ["fetch", "budget_left"] == [fetch.name, left.name]
    assert all(each.get("description") for each in fetch.args.values())
    assert {"url", "method", "body"} == set(fetch.args)
