"""Structured logs: events with fields, coloured for a person, JSON for a machine; a secret never prints.

Rules
1. A Secret prints as dots by its type. What looks like a preimage, a token or a password in a text is cut out as well,
   and so is every secret that the shop was configured with, whatever it looks like.
2. A traceback shows lines of source, never the values of variables, and is cut like any other text. So is one of an
   error that nobody caught.
3. Logs go to standard error; standard output belongs to what was asked for.
4. Some of what is logged was written by strangers: on a terminal it is a text and no command.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, unquote

import structlog

from farebox.cli.output import plain
from farebox.core.errors import UsageError
from farebox.core.secret import Secret

DOTS: Final = "•••"
_SHORTEST: Final = 7  # characters; shorter ones would be found in ordinary words
_ENCODED: Final = r"(?:[A-Za-z0-9+/_-]|%[0-9A-Fa-f]{2})"  # of base64, as it is or percent-encoded
_LOOKS_SECRET: Final = re.compile(
    r"(?i:\b(?:L402|LSAT|Payment|Bearer|Basic))\s+(?:[A-Za-z0-9+/_=:.,-]|%[0-9A-Fa-f]{2}){16,}"  # an Authorization
    r"|(?<=://)[^/\s@:]{0,256}:[^\s@]{1,512}(?=@)"  # a password in a URL
    r"|[0-9a-fA-F]{64,}"  # a preimage or key; a payment hash looks the same, and is no loss in a log
    rf"|(?<![A-Za-z0-9+/_-])Ag{_ENCODED}{{60,}}(?:=|%3[Dd]){{0,2}}"  # a macaroon
    r"|(?<![A-Za-z0-9+/_-])eyJ[A-Za-z0-9_-]{20,}"  # JSON in base64: a Payment credential, a JWT
    rf"|(?<![A-Za-z0-9+/_%-])(?:{_ENCODED}{{43}}(?:=|%3[Dd])|[A-Za-z0-9+/_-]{{43}}(?![A-Za-z0-9+/_-]))"  # 32 bytes
    r"|\bln(?:bcrt|bc|tbs|tb)[0-9a-z]{100,}"  # an invoice names its payee and secret
    r"|\bb(?P<quote>['\"])(?=[^\r\n]{0,512}\\x)(?:\\.|(?!(?P=quote)).){16,4096}(?P=quote)"  # bytes as Python shows them
    r"|(?i:password|preimage|api[_-]?key|macaroon|secret|token)[\"']?\s*[:=]\s*[\"']?[^\s\"'&,;}]{6,}"  # said to be one
)
_Event = MutableMapping[str, Any]


class Redactor:
    """A log processor that cuts secrets out of every field of an event.

    known: secrets that are cut out wherever they stand, also percent-encoded.
    """

    def __init__(self, known: Sequence[Secret[str]] = ()) -> None:
        spellings = {spelt for each in known for spelt in _spellings(each.reveal()) if len(spelt) >= _SHORTEST}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if spellings else None

    def __call__(self, _logger: object, _method: str, event: _Event) -> _Event:
        """The same event without secrets."""
        for name, value in event.items():
            if name not in ("level", "timestamp"):  # ours, and written for every line
                event[name] = self.clean(value)
        return event

    def clean(self, value: object) -> object:
        """A value that may be shown: numbers as they are, texts cut, everything else as its text, cut."""
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, Secret | bytes | bytearray | memoryview):
            return DOTS
        if isinstance(value, Mapping):
            return {self.cut(str(name)): self.clean(each) for name, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.clean(each) for each in value]
        return self.cut(value if isinstance(value, str) else repr(value))

    def cut(self, text: str) -> str:
        """A text without what is known or looks to be secret."""
        if len(text) < _SHORTEST:
            return text
        if self._known is not None:
            text = self._known.sub(DOTS, text)
        return _LOOKS_SECRET.sub(DOTS, text)


def _texts(_logger: object, _method: str, event: _Event) -> _Event:
    return {name: plain(value) if isinstance(value, str) else value for name, value in event.items()}


def _spellings(secret: str) -> tuple[str, ...]:
    return secret, unquote(secret), quote(secret, safe=""), quote(unquote(secret), safe="")


def configure(
    level: str = "info",
    *,
    as_json: bool | None = None,
    known: Sequence[Secret[str]] = (),
    worker: int | str | None = None,
) -> None:
    """Set up logging for a command that stays running. Standard logging goes the same way.

    known: secrets to be cut out wherever they stand. worker: which of several processes this is, told in every line.
    Raises UsageError.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise UsageError(f"--log-level is debug, info, warning or error, not {level}")
    machine = not sys.stderr.isatty() if as_json is None else as_json
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if machine
        # Its own way with tracebacks shows the values of all local variables, a caller's proof among them.
        else structlog.dev.ConsoleRenderer(pad_event_to=12, exception_formatter=structlog.dev.plain_traceback)
    )
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if worker is not None:
        shared.append(lambda _logger, _method, event: {**event, "worker": worker})
    last: list[Any] = [structlog.processors.format_exc_info, Redactor(known), *([] if machine else [_texts]), renderer]
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


def log_what_nobody_catches() -> Callable[[], None]:
    """Errors that reach the end of the process, of a thread or of a finalizer go to the log; undone by calling it."""
    before = sys.excepthook, threading.excepthook, sys.unraisablehook
    log = structlog.get_logger("farebox")

    def tell(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or not issubclass(kind, Exception):  # Ctrl-C and the like
            before[0](kind, error or kind(), trace)
            return
        log.critical("not-caught", exc_info=(kind, error, trace))

    def undo() -> None:
        sys.excepthook, threading.excepthook, sys.unraisablehook = before

    sys.excepthook = tell
    threading.excepthook = lambda told: tell(told.exc_type, told.exc_value, told.exc_traceback)
    sys.unraisablehook = lambda told: tell(told.exc_type, told.exc_value, told.exc_traceback)
    return undo
