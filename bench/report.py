"""Writes down a run: what it measured, when and on what."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from servers import found

MOST_RATIO = 8.0  # of the paid path to nginx
MOST_AGAIN_US = 15.0  # of the middleware for an answer that is read again
MOST_DECODE_US = 500.0
MOST_PAID_US = 1000.0  # of the buyer, over plain httpx
MOST_KEPT_US = 50.0
MOST_IMPORT_MS = 150.0
MOST_HELP_MS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """rows: name, ratios to nginx and CPU microseconds per request (one per slice), requests.

    inside, buying: of inside.py and buying.py.
    """

    rows: Sequence[tuple[str, Sequence[float], Sequence[float], int]]
    inside: Mapping[str, Any]
    buying: Mapping[str, Sequence[float]]
    slice_s: int


def told(run: Run) -> str:
    """The report, in Markdown."""
    return "\n".join([*_head(), *_over_sockets(run), *_in_process(run), *_buying(run), *_starts(run), ""])


def _head() -> list[str]:
    return [
        "# What a call costs",
        "",
        f"Measured by `scripts/bench` on {datetime.now(UTC):%Y-%m-%d} ({_machine()}).",
        "Only ratios of one run mean anything; what is written as µs differs from hour to hour on the same machine.",
        "",
    ]


def _over_sockets(run: Run) -> list[str]:
    if not run.rows:
        return ["## Against nginx", "", "Not measured: nginx and wrk were not there, or there was one core only.", ""]
    lines = [
        "## Against nginx",
        "",
        "CPU of the server per request for 1 KB of JSON from the same nginx upstream, 64 connections kept alive,",
        "servers on one core, load and upstream on another; "
        f"{len(run.rows[0][1])} interleaved slices of {run.slice_s} s for each row.",
        "",
        "| | × nginx proxy (lowest–highest) | µs CPU per request | requests |",
        "|---|---|---|---|",
    ]
    for name, ratios, spent_us, completed in run.rows:
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        lines.append(f"| {name} | {ratio} | {statistics.median(spent_us):.0f} | {completed:,} |")
    paid = [(name, statistics.median(ratios)) for name, ratios, _, _ in run.rows if "paid" in name]
    lines += ["", *(_verdict(name, ratio, MOST_RATIO, "× nginx") for name, ratio in paid), ""]
    return lines


def _in_process(run: Run) -> list[str]:
    spent = {name: statistics.median(run.inside[name]) for name in ("bare", "unpriced", "again", "first")}
    unpriced, again, first = (spent[name] - spent["bare"] for name in ("unpriced", "again", "first"))
    return [
        "## The middleware, inside the app's own process",
        "",
        "µs of CPU per call over the bare app, which answers 1 KB; no sockets, all threads counted.",
        "",
        "| | µs more than the bare app |",
        "|---|---|",
        f"| a path without a price | {unpriced:.1f} |",
        f"| paid, answer read again | {again:.1f} |",
        f"| paid, first use of each payment (64 at once, every one durable) | {first:.0f} |",
        "",
        _verdict("the middleware on a cache hit", again, MOST_AGAIN_US, "µs"),
        "",
    ]


def _buying(run: Run) -> list[str]:
    spent = {name: statistics.median(slices) for name, slices in run.buying.items()}
    plain = spent["plain"]
    free, kept, paid, busy = (spent[name] - plain for name in ("free", "kept", "paid", "busy"))
    return [
        "## The buyer, inside the program's own process",
        "",
        f"µs of CPU per call over a plain httpx.Client ({plain:.0f} µs for 1 KB); no sockets, all threads counted. The",
        "wallet answers at once, so that its time is apart; what is remembered of a payment is durable.",
        "",
        "| | × plain httpx | µs more |",
        "|---|---|---|",
        f"| a call that costs nothing | {spent['free'] / plain:.2f} | {free:.0f} |",
        f"| a call with a proof that is kept | {spent['kept'] / plain:.2f} | {kept:.0f} |",
        f"| a call that is paid: 402, audit, budget, the call again | {spent['paid'] / plain:.2f} | {paid:.0f} |",
        f"| the same, without the second round trip, which is httpx's | | {paid - plain:.0f} |",
        f"| the same, in a purse that counts some thousand purchases of that day | | {busy - plain:.0f} |",
        "",
        _verdict("a paid call, of our own", paid - plain, MOST_PAID_US, "µs"),
        _verdict("a call with a proof that is kept", kept, MOST_KEPT_US, "µs"),
        "",
    ]


def _starts(run: Run) -> list[str]:
    starts, decode = run.inside["starts"], statistics.median(run.inside["decode"])
    python = starts["python"]
    return [
        "## Small things",
        "",
        "| | |",
        "|---|---|",
        f"| `import farebox` | {starts['import farebox'] - python:.0f} ms (Python itself: {python:.0f} ms) |",
        f"| `farebox --help` | {starts['farebox --help']:.0f} ms |",
        f"| decode a BOLT11 invoice and check its signature | {decode:.0f} µs |",
        "",
        _verdict("`import farebox`", starts["import farebox"], MOST_IMPORT_MS, "ms"),
        _verdict("`farebox --help`", starts["farebox --help"], MOST_HELP_MS, "ms"),
        _verdict("decoding", decode, MOST_DECODE_US, "µs"),
    ]


def _verdict(what: str, measured: float, most: float, unit: str) -> str:
    word = "within" if measured <= most else "OVER"
    return f"* {what}: {measured:.1f} {unit}, {word} the target of {most:g}"


def _machine() -> str:
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    parts = [
        model[1] if model else platform.machine(),
        f"{len(os.sched_getaffinity(0))} cores",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}{'' if optimised else ' built without optimizations'}",
        *(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "httptools")),
        *filter(None, (_version("nginx", r"nginx/([\d.]+)"), _version("wrk", r"wrk\s+(?:debian/)?([\d.]+)"))),
    ]
    return ", ".join(parts)


def _version(program: str, pattern: str) -> str | None:
    path = found(program)
    if path is None:
        return None
    done = subprocess.run([path, "-v"], check=False, capture_output=True, text=True)
    number = re.search(pattern, done.stdout + done.stderr)
    return f"{program} {number[1]}" if number else program
