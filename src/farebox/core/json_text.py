"""JSON from strangers, read to a bounded depth (RFC 8259, section 9, lets a reader set one).

The standard reader goes down the stack with each level, until Python gives up. Whatever is finalized down there, when
garbage is collected, fails for want of stack, unseen. So a text is measured first, and what is too deep not gone into.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Final

from farebox.core.exchange import Json

MOST_DEPTH: Final = 200  # levels of arrays and objects; a fifth of the stack that there is
_NO_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^"\[\]{}]++', re.DOTALL)
_PLAIN: Final = json.JSONDecoder()


def load_json(text: str | bytes, decoder: json.JSONDecoder = _PLAIN) -> Json:
    """The value of a JSON text, in UTF-8 where it is bytes. Raises ValueError, also for one that `is_too_deep`."""
    told = text if isinstance(text, str) else text.decode("utf-8-sig")
    if is_too_deep(told):
        raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels")
    value: Json = decoder.decode(told)
    return value


def is_too_deep(text: str) -> bool:
    """Whether a JSON text, or the beginning of one, has more than MOST_DEPTH levels. Takes linear time."""
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return False
    levels = accumulate(1 if bracket in "[{" else -1 for bracket in _NO_BRACKETS.sub("", text))
    return max(levels, default=0) > MOST_DEPTH
