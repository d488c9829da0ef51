"""A backend whose replies are written down one by one, for testing what is made of each."""

from __future__ import annotations

import json
from typing import Final, TypeVar

from farebox.core.conversation import Call, Conversation, HttpReply
from farebox.core.exchange import Json

T = TypeVar("T")

NO_CONNECTION: Final = HttpReply(status=0, sent=False, reason="ConnectError")
NO_REPLY: Final = HttpReply(status=0, sent=True, reason="ReadTimeout")


def tell(conversation: Conversation[T], *replies: HttpReply) -> tuple[T, list[Call]]:
    """The outcome of a conversation whose calls get these replies, all of them, and the calls."""
    calls = []
    waiting = list(replies)
    try:
        calls.append(next(conversation))
        while True:
            calls.append(conversation.send(waiting.pop(0)))
    except StopIteration as end:
        assert waiting == []
        return end.value, calls


def said(status: int = 200, /, **members: Json) -> HttpReply:
    """A reply that is a JSON object of these members."""
    return HttpReply(status=status, body=json.dumps(members).encode())
