"""Structured logs: events with fields, coloured for a person, JSON for a machine; a secret never prints.

Rules
1. A Secret prints as dots by its type. What looks like a preimage, a token or a password in a text is cut out as well.
2. Logs go to standard error; standard output belongs to what was asked for.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from farebox.core.errors import ConfigError
from farebox.core.secret import Secret

_LOOKS_SECRET: Final = re.compile(
    r"(?:L402|LSAT|Payment|Bearer|Basic)\s+[A-Za-z0-9+/_=:.-]{16,}"  # an Authorization value
    r"|(?<=://)[^/\s@]*:[^/\s@]+(?=@)"  # a password in a URL
    r"|\b[0-9a-fA-F]{64}\b"  # a preimage; a payment hash looks the same, and is no loss in a log
    r"|\bln(?:bc|tb|tbs|bcrt)[0-9a-z]{100,}"  # an invoice names its payee and secret
)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut secrets out of every field of a log event."""
    for name, value in event.items():
        if isinstance(value, Secret):
            event[name] = "•••"
        elif isinstance(value, str) and len(value) > 16:
            event[name] = _LOOKS_SECRET.sub("•••", value)
    return event


def configure(level: str = "info", *, as_json: bool | None = None) -> None:
    """Set up logging for a command that stays running. Standard logging goes the same way. Raises ConfigError."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"--log-level is debug, info, warning or error, not {level}")
    machine = not sys.stderr.isatty() if as_json is None else as_json
    renderer: Any = structlog.processors.JSONRenderer() if machine else structlog.dev.ConsoleRenderer(pad_event_to=12)
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = [structlog.processors.format_exc_info, redact, renderer] if machine else [redact, renderer]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))
