"""The MCP faces: a session that pays for tools, and a server through which a model buys within a budget.

Needs the extra `mcp`, which is the official SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.core.lazy import lazily

if TYPE_CHECKING:
    from farebox.mcp.buy import PaidSession
    from farebox.mcp.over_http import admitted_by_token, http_app
    from farebox.mcp.wallet import wallet_server

__all__ = ["PaidSession", "admitted_by_token", "http_app", "wallet_server"]

__getattr__ = lazily(
    __name__,
    {
        "PaidSession": "farebox.mcp.buy",
        "admitted_by_token": "farebox.mcp.over_http",
        "http_app": "farebox.mcp.over_http",
        "wallet_server": "farebox.mcp.wallet",
    },
    needs="mcp",
)
