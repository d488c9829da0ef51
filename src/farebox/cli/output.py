"""How the command line speaks: tables and colour to a person, JSON to a pipe, one line for an error.

Exit codes
    0   done
    1   farebox itself failed, or the shop can't run like this
    2   the command was called wrongly
    3   over budget, or refused before paying
    4   the payment failed; nothing was paid
    5   the payment is unresolved; its amount stays held
    6   the network or the server could not be reached
    7   the server refused the call
    8   paid, and the answer did not come
    9   the ledger is not as it was sealed, or its books do not balance
    10  dry run: the call would cost something
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Literal

from farebox.core.errors import (
    FareboxError,
    MalformedValue,
    NothingPaid,
    PaidNotServed,
    PaymentFailed,
    PaymentUnresolved,
    PurchaseError,
    RefundRefused,
)

Cell = str | int | float | bool | None


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


def is_person(*, as_json: bool = False) -> bool:
    """Whether standard output is a terminal and nobody asked for JSON."""
    return sys.stdout.isatty() and not as_json


def show(
    rows: Sequence[Mapping[str, Cell]], *, title: str, as_json: bool, empty: str = "nothing yet", whole: bool = False
) -> None:
    """A table, or one JSON object per line. whole: of hashes, which are to be copied."""
    if not is_person(as_json=as_json):
        for row in rows:
            print(json.dumps(dict(row), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not rows:
        console.print(f"{title}: {empty}", style="dim")
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    told = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
    for name in told:
        cell = rows[0][name]
        justify: Literal["left", "right"] = "right" if isinstance(cell, int | float) else "left"
        table.add_column(name.replace("_", " "), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(_short(name, row[name], whole=whole) for name in told))
    console.print(table)


def _short(name: str, cell: Cell, *, whole: bool) -> str:
    """A cell of a table on a terminal; the whole hash and the whole instant are in the JSON."""
    if cell is None:
        return ""
    text = str(cell)
    if name == "payment_hash" and not whole:
        return f"{text[:12]}…"
    return text[5:16] if name in ("when", "created", "settled") else text


def show_one(row: Mapping[str, Cell], *, title: str, as_json: bool) -> None:
    """One thing: its names and values below one another, or one JSON object."""
    if not is_person(as_json=as_json):
        print(json.dumps(dict(row), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    for name, cell in row.items():
        table.add_row(name.replace("_", " "), "" if cell is None else str(cell))
    table.columns[1].overflow = "fold"
    Console().print(table)


def tell(text: str, *, style: str = "") -> None:
    """A line for a person, on standard error so that a pipe stays clean."""
    if sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True, highlight=False).print(text, style=style or None, markup=False, soft_wrap=True)
    else:
        print(text, file=sys.stderr)


def say(text: str, *, style: str = "") -> None:
    """A line of what was asked for, on standard output, coloured on a terminal."""
    if is_person():
        from rich.console import Console

        Console(highlight=False).print(text, style=style or None, markup=False, soft_wrap=True)
    else:
        print(text, flush=True)


def exit_code(error: FareboxError) -> Exit:
    """What an error means to a shell."""
    match error:
        case MalformedValue():
            return Exit.USAGE
        case PaymentFailed():
            return Exit.PAYMENT_FAILED
        case NothingPaid() | RefundRefused():
            return Exit.REFUSED
        case PaymentUnresolved():
            return Exit.UNRESOLVED
        case PaidNotServed():
            return Exit.NOT_SERVED
        case _:
            return Exit.FAILED


@contextmanager
def errors_told(*, as_json: bool = False) -> Iterator[None]:
    """Turns an error of ours into one line (or one JSON object) on standard error, and its exit code."""
    try:
        yield
    except FareboxError as error:
        if as_json or not sys.stderr.isatty():
            told: dict[str, Cell] = {"error": True, "exit_code": exit_code(error), "message": str(error)}
            told |= error.as_json() if isinstance(error, PurchaseError) else {"type": error.type}
            print(json.dumps(told, ensure_ascii=False), file=sys.stderr)
        else:
            tell(f"farebox: {error.title}: {error.detail}" if error.detail else f"farebox: {error}", style="red")
            if isinstance(error, PurchaseError) and error.next_step:
                tell(error.next_step)
        raise SystemExit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
