"""Several watchers as one observer, none of which can harm the gate.

A watcher offers `handlers`: which kinds of events it listens to, and what it does with each. Events that nobody listens
to cost one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import structlog

from farebox.gate.events import Event

log = structlog.get_logger("farebox")

Handlers = Mapping[type, Callable[[Any], None]]  # by the type of an event; each handler takes its own


class Watcher(Protocol):
    """Something that watches a gate."""

    @property
    def handlers(self) -> Handlers:
        """What it does with which kind of event."""


class Observers:
    """Tells each event to whoever listens to its kind. A handler that raises is told nothing more; that is logged."""

    def __init__(self, watchers: Iterable[Watcher]) -> None:
        self._handlers: dict[type, tuple[Callable[[Any], None], ...]] = {}
        for watcher in watchers:
            for kind, handler in watcher.handlers.items():
                self._handlers[kind] = (*self._handlers.get(kind, ()), handler)

    def __call__(self, event: Event) -> None:
        """Tell whoever listens."""
        for handler in self._handlers.get(type(event), ()):
            try:
                handler(event)
            except Exception:  # noqa: BLE001 - whatever it is, what watches a payment must not break it
                self._silence(handler, type(event))

    def _silence(self, handler: Callable[[Any], None], kind: type) -> None:
        self._handlers[kind] = tuple(each for each in self._handlers[kind] if each is not handler)
        log.exception("observer-failed", handler=handler.__qualname__, kind=kind.__name__)
