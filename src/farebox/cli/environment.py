"""Text of a configuration that can stand in the environment instead, so that a file can be shown to others."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator


def expanded(text: str) -> str:
    """The text, or what the environment has where it is written as `$NAME`. Raises ValueError when it has not."""
    if not text.startswith("$"):
        return text
    value = os.environ.get(text[1:])
    if not value:
        raise ValueError(f"the environment has no {text[1:]}")
    return value


Text = Annotated[str, AfterValidator(expanded)]
