"""Tools for LangChain that pay: one fetches a URL within a budget, one tells what is left of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from farebox.core.lazy import extra
from farebox.http.buy_tool import FETCH, LEFT, Shopper
from farebox.http.buyer import Buyer

with extra("langchain"):
    from langchain_core.tools import BaseTool, StructuredTool


def tools(buyer: Buyer, *, hosts: Collection[str] | None = None, **options: Any) -> list[BaseTool]:
    """`fetch` and `budget_left`, blocking and awaiting, for an agent of LangChain or LangGraph.

    buyer: of `farebox.open_buyer`. hosts: the only ones that may be called; None for the whole public internet.
    options: httpx's, such as `timeout`, and `within`, how long one fetch may take as a whole.
    Whatever goes wrong is told to the model as text.
    """
    shopper = Shopper(buyer, hosts=hosts, **options)
    return [
        StructuredTool.from_function(
            shopper.fetch, shopper.afetch, name="fetch", description=FETCH, handle_validation_error=True
        ),
        StructuredTool.from_function(shopper.left, shopper.aleft, name="budget_left", description=LEFT),
    ]
