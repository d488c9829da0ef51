"""Ready-made capabilities to put on sale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.core.lazy import lazily

if TYPE_CHECKING:
    from farebox.services.demo import demo_capability
    from farebox.services.text import TextModel, text_capability

__all__ = ["TextModel", "demo_capability", "text_capability"]

__getattr__ = lazily(
    __name__,
    {
        "TextModel": "farebox.services.text",
        "demo_capability": "farebox.services.demo",
        "text_capability": "farebox.services.text",
    },
)
