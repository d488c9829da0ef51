"""Conversations: what a backend says over a line, and what it hears, without touching either.

Rules
1. A backend's method is a generator that yields a call and is sent a reply, so that the blocking and the awaiting
   client share it and it is tested without a socket. A backend without a network returns without yielding.
2. A reply says whether the backend may have seen the call. What it may have seen is never taken for not done.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from farebox.core.secret import Secret

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How a backend is reached that is not simply at its URL.

    certificate: PEM of the only one that is believed, or of who signed it; the host has to be named in it all the same.
    socket: the path of a unix socket, for the host that the URL names.
    """

    certificate: str | None = None
    socket: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """One request to a backend. `headers` may hold a secret, so it does not print.

    timeout: None means to wait as long as the backend keeps the connection. line: None for the plain one.
    endless: for a reply that goes on for ever: what has come of it is the reply, as soon as something has and nothing
    more comes for so long; and when the timeout has passed, whatever has come by then, if it is nothing.
    """

    method: str
    url: str
    headers: Secret[str] | None = None  # "name: value" lines
    body: bytes = field(default=b"", repr=False)
    timeout: timedelta | None = timedelta(seconds=10)
    line: Line | None = None
    endless: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayCall:
    """Publish a signed event over Nostr's relays and wait for the one that answers it; or read what they keep.

    relays: their URLs, which do not print. event: its JSON; None to read only. author: the public key, in hexadecimal
    digits, whose answer is wanted. kinds: of the answer. answers: the id that it has to name in an `e` tag.
    The reply is an HttpReply all the same: 200 with the JSON of the event that answers; 404 when nothing is kept.
    """

    relays: tuple[str, ...] = field(repr=False)
    author: str
    kinds: tuple[int, ...]
    event: str | None = field(default=None, repr=False)
    answers: str | None = None
    timeout: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeCall:
    """Wait until a backend has something to tell, over a websocket that stays open from one such call to the next.

    What it says is not handed on: that only means that it is time to ask. url: `ws://…` or `wss://…`.
    The reply is 200 when something was said since the last such call, or when the websocket was opened just now and
    what was said before was missed; 204 when nothing was said for so long. Any other means that there is no websocket
    now and nothing was waited for, and says why as it does for an HttpCall.
    """

    url: str
    headers: Secret[str] | None = None  # "name: value" lines
    timeout: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenCall:
    """Hear what an author tells somebody by itself, over relays that are listened to from one such call to the next.

    author, addressed: public keys, in hexadecimal digits; the second has to be named in a `p` tag.
    The reply is 200 with a JSON array of the events that came since the last such call; 204 when none came for so long;
    0 when no relay is listened to by then. What comes while nobody listens is missed.
    """

    relays: tuple[str, ...] = field(repr=False)
    author: str
    kinds: tuple[int, ...]
    addressed: str
    timeout: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """The backend's reply, or that there was none. The body may hold a preimage, so it does not print.

    status: 0 when no reply came. sent: whether the backend may have seen the request.
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    sent: bool = True
    reason: str = ""


Call = HttpCall | RelayCall | WakeCall | ListenCall
Conversation = Generator[Call, HttpReply, T]
