"""How the command line speaks: tables and colour to a person, JSON to a pipe, one line for an error.

Exit codes
    0   done
    1   farebox itself failed, or the shop can't run like this
    2   the command was called wrongly, by its words or by what the environment says for them
    3   over budget, or refused before paying
    4   the payment failed; nothing was paid
    5   the payment is unresolved; its amount stays held
    6   the network or the server could not be reached
    7   the server refused the call
    8   paid, and the answer did not come
    9   the ledger is not as it was sealed, or its books do not balance
    10  dry run: the call would cost something
    11  the call is parked until a person approves it
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Final, Literal, TextIO

from farebox.core.errors import (
    ApprovalNeeded,
    DecisionRefused,
    FareboxError,
    MalformedValue,
    NothingPaid,
    OperatorError,
    PaidNotServed,
    PaymentFailed,
    PaymentUnresolved,
    PurchaseError,
    RefundRefused,
    UsageError,
)

Cell = str | int | float | bool | None

_FOR_PROGRAMS: Final = "_msat"  # the same amount stands beside it for a person
# What commands a terminal, turns the writing round, is not seen (Cf), ends a line (Zl, Zp), or (half a surrogate pair,
# of JSON) can't be written at all. U+200C and U+200D are left: Persian, Hindi and emoji are written with them.
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f"
    r"\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


class Exit(IntEnum):
    """What the exit code says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    PAYMENT_FAILED = 4
    UNRESOLVED = 5
    NETWORK = 6
    SERVER_REFUSED = 7
    NOT_SERVED = 8
    TAMPERED = 9
    DRY_RUN = 10
    APPROVAL_NEEDED = 11


def is_person(*, as_json: bool = False) -> bool:
    """Whether standard output is a terminal and nobody asked for JSON."""
    return sys.stdout.isatty() and not as_json


def plain(text: str) -> str:
    """A text that a terminal takes for nothing but a text: some of what is shown was written by strangers."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def print_json(row: Mapping[str, object], *, onto: TextIO | None = None) -> None:
    """A line of JSON, on standard output or `onto`, which a terminal takes for nothing but a text either.

    Where that has another encoding than UTF-8, which has not all letters, the others are written as JSON can.
    """
    stream = onto or sys.stdout
    line = _line(row, in_ascii=False)
    try:
        line.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        line = _line(row, in_ascii=True)
    print(line, file=stream, flush=True)


def _line(row: Mapping[str, object], *, in_ascii: bool) -> str:
    return _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], json.dumps(row, ensure_ascii=in_ascii))


def show(
    rows: Sequence[Mapping[str, Cell]],
    *,
    title: str,
    as_json: bool,
    empty: str = "nothing yet",
    whole: bool = False,
    fields: str | None = None,
) -> None:
    """A table, or one JSON object per line. whole: of hashes, which are to be copied.

    fields: names with commas between them, of those that are wanted. Raises MalformedValue for an unknown one.
    """
    rows = members_of(rows, fields)
    if not is_person(as_json=as_json):
        for row in rows:
            print_json(row)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not rows:
        console.print(f"{title}: {empty}", style="dim")
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    wanted = [name for name in rows[0] if fields or not name.endswith(_FOR_PROGRAMS)]
    told = [name for name in wanted if any(row[name] not in (None, "") for row in rows)]
    for name in told:
        cell = rows[0][name]
        justify: Literal["left", "right"] = "right" if isinstance(cell, int | float) else "left"
        table.add_column(name.replace("_", " "), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(_short(name, row[name], whole=whole))) for name in told))
    console.print(table)


def members_of(rows: Sequence[Mapping[str, Cell]], fields: str | None) -> Sequence[Mapping[str, Cell]]:
    """The members that are wanted of each row; see `show`."""
    if fields is None or not rows:
        return rows
    names = [name.strip() for name in fields.split(",")]
    if unknown := [name for name in names if name not in rows[0]]:
        raise MalformedValue(f"there is no field {unknown[0]!r}; choose among {', '.join(rows[0])}")
    return [{name: row[name] for name in names} for row in rows]


def _short(name: str, cell: Cell, *, whole: bool) -> str:
    """A cell of a table on a terminal; the whole hash and the whole instant are in the JSON."""
    if cell is None:
        return ""
    text = str(cell)
    if name == "payment_hash" and not whole:
        return f"{text[:12]}…"
    return text[5:16] if name in ("when", "created", "settled", "asked", "expires", "resets") else text


def show_one(row: Mapping[str, Cell], *, title: str, as_json: bool) -> None:
    """One thing: its names and values below one another, or one JSON object."""
    if not is_person(as_json=as_json):
        print_json(row)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_header=False)
    for name, cell in row.items():
        if cell is None or name.endswith(_FOR_PROGRAMS):
            continue
        table.add_row(name.replace("_", " "), Text(plain(str(cell))))
    table.columns[1].overflow = "fold"
    Console().print(table)


def tell(text: str, *, style: str = "") -> None:
    """A line for a person, on standard error so that a pipe stays clean."""
    if sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True, highlight=False).print(plain(text), style=style or None, markup=False, soft_wrap=True)
    else:
        print(text, file=sys.stderr)


def say(text: str, *, style: str = "") -> None:
    """A line of what was asked for, on standard output, coloured on a terminal."""
    if is_person():
        from rich.console import Console

        Console(highlight=False).print(plain(text), style=style or None, markup=False, soft_wrap=True)
    else:
        print(text, flush=True)


def exit_code(error: FareboxError) -> Exit:
    """What an error means to a shell."""
    match error:
        case MalformedValue() | UsageError() | DecisionRefused():
            return Exit.USAGE
        case PaymentFailed():
            return Exit.PAYMENT_FAILED
        case ApprovalNeeded():
            return Exit.APPROVAL_NEEDED
        case NothingPaid() | RefundRefused():
            return Exit.REFUSED
        case PaymentUnresolved():
            return Exit.UNRESOLVED
        case PaidNotServed():
            return Exit.NOT_SERVED
        case _:
            return Exit.FAILED


def complaint_of(error: FareboxError, *, moved: bool | None) -> dict[str, Cell]:
    """An error as an object: the same members whatever went wrong, and the evidence.

    moved: whether money moved, where the error does not tell.
    """
    told: dict[str, Cell] = {"error": True, "exit_code": exit_code(error), "message": str(error), **error.as_json()}
    return told if isinstance(error, PurchaseError) else told | {"money_moved": moved}


def complaint(
    code: Exit, kind: str, *, title: str, detail: str, moved: bool | None, next_step: str = "", **evidence: Cell
) -> dict[str, Cell]:
    """What is no error of ours as an object of the same members. kind: its `type`."""
    told: dict[str, Cell] = {"error": True, "exit_code": code, "message": f"{title}: {detail}", "type": kind}
    return told | {"title": title, "detail": detail, "money_moved": moved, "next_step": next_step} | evidence


def complain(complaint: Mapping[str, Cell], *, as_json: bool) -> None:
    """What went wrong, on standard error: the object for a program, a line or two for a person."""
    if as_json or not sys.stderr.isatty():
        print_json(complaint, onto=sys.stderr)
        return
    title, detail = complaint["title"], complaint["detail"]
    tell(f"farebox: {title}: {detail}" if detail else f"farebox: {complaint['message']}", style="red")
    if complaint["next_step"]:
        tell(str(complaint["next_step"]))


@contextmanager
def errors_told(*, as_json: bool = False, moved: bool | None = False) -> Iterator[None]:
    """Turns an error of ours into one line (or one JSON object) on standard error, and its exit code.

    Where the reader of a pipe has gone it ends with 141, and says nothing. What the machine refuses, such as to write
    to a full disk, is an error of the operator's.
    moved: whether money moved, where the error does not tell; None where nobody can.
    """
    try:
        try:
            yield
        except FareboxError as error:
            complain(complaint_of(error, moved=moved), as_json=as_json)
            forget(sys.stdout)
            raise SystemExit(exit_code(error)) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        finally:
            sys.stdout.flush()  # while it can still be told that nobody reads it
    except BrokenPipeError:
        forget(sys.stdout, sys.stderr)
        raise SystemExit(141) from None  # as of a program that SIGPIPE ends
    except OSError as error:
        forget(sys.stdout)
        complain(complaint_of(OperatorError(str(error)), moved=moved), as_json=as_json)
        raise SystemExit(Exit.FAILED) from None


def forget(*streams: TextIO) -> None:
    """What can't be written any more goes nowhere when Python flushes it on its way out."""
    for stream in streams:
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def as_usage() -> Iterator[None]:
    """What can't be used here was said on the command line, or for it: an OperatorError becomes a UsageError."""
    try:
        yield
    except OperatorError as error:
        raise UsageError(error.detail, **error.evidence) from None
