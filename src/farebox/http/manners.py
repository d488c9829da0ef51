"""How a paywall behaves towards callers and towards what it sells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a paywall reads requests, and how it keeps and passes on answers.

    trusted_proxies, client_header: whose word about a caller's address is believed, and in which header. The server
    must not believe any by itself: with uvicorn's own command, say `--no-proxy-headers`.
    authority: `https://host` as the public knows it; None to take it from the request.
    most_body: bytes of a priced request's body; more is refused with 413 before an invoice is made.
    most_answer: bytes of an answer that are kept to be given again. A larger one is given once: it is charged before
    its last part leaves, and whoever loses the connection at that very end hears 410 afterwards.
    held_back: up to so many bytes an ordinary answer is stored before its first byte leaves; a larger one flows while
    it is copied.
    vary: further request headers that make it another request.
    spool: the folder for copies of answers too large for memory while they flow; None for the system's temporary one,
    which on some systems is memory too.
    drain_within, most_drained: for how long, and for how many bytes, an answer is read on after its caller went away,
    so that it is whole and can be fetched again; what needs more was given, once, to whoever had some of it.
    reading_within: how long a caller may take no byte of an answer until it counts as gone.
    """

    trusted_proxies: Sequence[str] = ()
    client_header: str = "x-forwarded-for"
    authority: str | None = None
    most_body: int = 1024 * 1024
    most_answer: int = 16 * 1024 * 1024
    held_back: int = 1024 * 1024
    vary: tuple[str, ...] = ()
    spool: str | None = None
    drain_within: timedelta = timedelta(minutes=10)
    most_drained: int = 16 * 1024 * 1024
    reading_within: timedelta = timedelta(seconds=60)
