"""Where the answer of `farebox call` goes: to standard output, into a file, or into memory.

Rules
1. An answer is passed on as it comes; only what is to stand in a JSON object is held in memory, up to 16 MiB.
2. A file is whole or not there: what is on its way is in `FILE.part`, which takes the name when it is whole.
3. What broke off is taken up where it broke off, if the server says that it is still the same (ETag, Last-Modified,
   RFC 9110, 13.1.5), and else from the start. What was printed already is not printed twice.
4. A pipe gets the bytes as they are. A terminal gets text: what a stranger wrote can't command it.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import httpx

from farebox.cli.call_request import refuse_control
from farebox.cli.output import plain
from farebox.core.errors import ConfigError, UsageError
from farebox.core.json_text import load_json

_MOST_IN_MEMORY: Final = 16 * 1024 * 1024
_MOST_NOTE: Final = 64 * 1024
_VALIDATOR: Final = re.compile(r"[\x20-\x7e]{1,1024}")  # what a field can hold, and a reasonable one does
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class Place(Protocol):
    """Takes an answer, as often as it has to be asked for until it is whole."""

    @property
    def size(self) -> int:
        """Bytes of the answer that are here."""

    def asking(self, request: httpx.Request) -> httpx.Request:
        """The request that gets what is still missing."""

    def begins(self, answer: httpx.Response) -> bool:
        """Ready for the body of this answer; False when it does not fit what is here, and all has to be asked for."""

    def take(self, part: bytes) -> None:
        """The next bytes. Raises ConfigError when they can't be put there."""

    def finish(self) -> None:
        """The answer is whole."""


class AnotherAnswer(Exception):
    """The answer that came again is not the one of which some is printed already."""


class Printed:
    """Standard output, or a pipe or device that was named as a file."""

    def __init__(self, onto: BinaryIO) -> None:
        self.size = 0
        self._onto = onto
        self._hash = sha256()
        self._skip = 0
        self._again = sha256()
        self._terminal = Terminal(onto) if onto.isatty() else None

    def asking(self, request: httpx.Request) -> httpx.Request:
        """The request as it is: what is printed is only compared."""
        return request

    def begins(self, answer: httpx.Response) -> bool:
        """True: what was printed before is skipped."""
        self._skip, self._again = self.size, sha256()
        return True

    def take(self, part: bytes) -> None:
        """Print it, as far as it is not printed yet. Raises AnotherAnswer."""
        if self._skip:
            seen, part = part[: self._skip], part[self._skip :]
            self._skip -= len(seen)
            self._again.update(seen)
            if not self._skip and self._again.digest() != self._hash.digest():
                raise AnotherAnswer
        if part:
            self._hash.update(part)
            self.size += len(part)
            self._write(part)

    def head(self, lines: Sequence[str]) -> None:
        """Print the head of an answer before its body."""
        self._write("\r\n".join([*lines, "", ""]).encode())

    def finish(self) -> None:
        """Ends the line on a terminal."""
        if self._skip:
            raise AnotherAnswer
        if self._terminal is not None:
            self._terminal.finish()

    def _write(self, part: bytes) -> None:
        try:
            if self._terminal is not None:
                self._terminal.write(part)
                return
            self._onto.write(part)
            self._onto.flush()  # so that an event is seen when it comes
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"can't write what was answered ({error.strerror})") from None


class Terminal:
    """A terminal that shows bytes of strangers as the text that they are, in UTF-8, and obeys none of them."""

    def __init__(self, onto: BinaryIO) -> None:
        self._onto = onto
        self._text = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder("utf-8")(errors="replace"), translate=False
        )
        self._ends_line = True

    def write(self, part: bytes) -> None:
        """Show them, but for what is the beginning of a character that is still to come."""
        self._show(self._text.decode(part))

    def finish(self) -> None:
        """Show what is left, and end the line."""
        self._show(self._text.decode(b"", final=True))
        if not self._ends_line:
            self._show("\n")

    def _show(self, text: str) -> None:
        if text:
            self._ends_line = text.endswith("\n")
            self._onto.write(plain(text.replace("\r\n", "\n")).encode())
            self._onto.flush()  # so that an event is seen when it comes


class Remembered:
    """Memory, for what stands in a JSON object."""

    def __init__(self) -> None:
        self._parts = bytearray()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self._parts)

    @property
    def body(self) -> bytes:
        """All of it."""
        return bytes(self._parts)

    def asking(self, request: httpx.Request) -> httpx.Request:
        """The request as it is."""
        return request

    def begins(self, answer: httpx.Response) -> bool:
        """True: from the start."""
        self._parts.clear()
        return True

    def take(self, part: bytes) -> None:
        """Keep it. Raises ConfigError for too much."""
        self._parts += part
        if len(self._parts) > _MOST_IN_MEMORY:
            raise ConfigError("the answer is too large for a JSON object; make the same call with -o FILE")

    def finish(self) -> None:
        """Nothing more to do."""


class Download:
    """A file, with `FILE.part` and `FILE.part.json` beside it until it is whole.

    key: tells the same call made again. resume: go on with what an earlier one left.
    """

    def __init__(self, file: Path, *, key: str, resume: bool) -> None:
        self.file = file = Path(os.path.realpath(file))
        self.part = _part_of(file)
        self._note = _note_of(file)
        self._key = key
        self._validator = ""
        self._opened: BinaryIO | None = None
        self.size = 0
        if resume:
            told = _read_note(self._note)
            if told.get("call") == key and self.part.is_file():
                self._validator = _if_sendable(told.get("validator"))
                self.size = self.part.stat().st_size if self._validator else 0

    def asking(self, request: httpx.Request) -> httpx.Request:
        """A request for the rest, where something is here that the server can tell to be the same."""
        if not self.size or not self._validator or request.method != "GET" or "range" in request.headers:
            return request  # a range is of a GET (RFC 9110, 14.2)
        wanted = {"range": f"bytes={self.size}-", "if-range": self._validator, "accept-encoding": "identity"}
        headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() not in wanted]
        headers += wanted.items()
        return httpx.Request(request.method, request.url, headers=headers, stream=request.stream)

    def begins(self, answer: httpx.Response) -> bool:
        """Whether the answer is the rest (206), or the whole, for which the file is emptied. Raises ConfigError."""
        asked = "if-range" in answer.request.headers
        span = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        goes_on = asked and answer.status_code == httpx.codes.PARTIAL_CONTENT
        if goes_on and (span is None or int(span[1]) != self.size or int(span[2]) + 1 != int(span[3])):
            goes_on = False
        if asked and not goes_on and answer.status_code != httpx.codes.OK:
            self.size, self._validator = 0, ""
            return False
        try:
            self._close()
            self._opened = _opened(self.part, append=goes_on)
            if not goes_on:
                self.size, self._validator = 0, _validator(answer)
                with _opened(self._note, append=False) as note:
                    note.write(json.dumps({"call": self._key, "validator": self._validator}).encode())
        except OSError as error:
            raise self._unwritable(error) from None
        return True

    def take(self, part: bytes) -> None:
        """Write it. Raises ConfigError."""
        try:
            if self._opened is not None:
                self._opened.write(part)
                self._opened.flush()  # so that a full disk is seen before the answer counts as served
        except OSError as error:
            raise self._unwritable(error) from None
        self.size += len(part)

    def finish(self) -> None:
        """Give the file its name. Raises ConfigError."""
        try:
            if self._opened is not None:
                self._opened.flush()
                os.fsync(self._opened.fileno())
            self._close()
            self.part.replace(self.file)
            self._note.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def leave(self) -> None:
        """Close what is open; what is here stays for `-c`."""
        with suppress(OSError):
            self._close()

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _unwritable(self, error: OSError) -> ConfigError:
        self.leave()
        return ConfigError(
            f"can't write to {self.part} ({error.strerror}); what was paid is not lost, the same call with -c goes on"
        )


def check_output(file: Path) -> None:
    """Before anything is sent: whether the answer can be put there. Raises UsageError, MalformedValue."""
    refuse_control("name of the file", str(file))
    folder = file.parent
    writable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    if file.is_dir() or not writable or (file.exists() and not os.access(file, os.W_OK)):
        raise UsageError(f"can't write the answer to {file}; nothing was sent")
    real = Path(os.path.realpath(file))
    for beside in (_part_of(real), _note_of(real)):
        if beside.is_symlink():
            raise UsageError(f"{beside} is a link, and not of this download; remove it. Nothing was sent")


def is_whole(file: Path) -> bool:
    """Whether a download is finished: the file has something in it, and there is no `FILE.part` any more."""
    file = Path(os.path.realpath(file))
    return file.is_file() and file.stat().st_size > 0 and not _part_of(file).exists()


def _part_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _note_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.part.json")


def _read_note(note: Path) -> dict[str, object]:
    """What an earlier call has noted; empty where there is nothing, or nothing of ours."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(note, flags), "rb") as file:
            told = load_json(file.read(_MOST_NOTE))
    except (OSError, ValueError):
        return {}
    return dict(told) if isinstance(told, dict) else {}


def _opened(part: Path, *, append: bool) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC) | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(part, flags, 0o666), "wb")


def _validator(answer: httpx.Response) -> str:
    """What tells that it is still the same: a strong ETag, or a date; nothing where there is none."""
    if "content-encoding" in answer.headers or answer.status_code != httpx.codes.OK:
        return ""
    tag: str = answer.headers.get("etag", "")
    if tag:
        return "" if tag.startswith("W/") else _if_sendable(tag)
    return _if_sendable(answer.headers.get("last-modified"))


def _if_sendable(validator: object) -> str:
    """A validator that can stand in a header field; else none."""
    return validator if isinstance(validator, str) and _VALIDATOR.fullmatch(validator) else ""
