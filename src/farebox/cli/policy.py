"""The buyer's policy: what holds for every command that pays, and that no call can change, from the environment.

FAREBOX_PAY, FAREBOX_NEVER_PAY     hosts that may, and may not, be paid: `api.example.com, *.example.org`
FAREBOX_PLAIN_HTTP                 hosts that may be paid over plain HTTP besides this machine
FAREBOX_PIN_PAYEE                  1: only the node that was paid first at an origin is paid there
FAREBOX_PRICE_JUMP                 a price so many times the last one is refused; 0 for any price (default: 10)
FAREBOX_APPROVAL_WEBHOOK, FAREBOX_APPROVAL_SECRET    an address that is told of parked calls, and may decide them
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import tzinfo
from pathlib import Path
from typing import Any, Final

import structlog

from farebox.cli.output import as_usage
from farebox.core.errors import FareboxError, UsageError
from farebox.core.ports import Purse, Wallet
from farebox.http.buyer import Buyer, open_buyer, zone_of

log = structlog.get_logger("farebox")

_YES: Final = {"1": True, "true": True, "yes": True, "": False, "0": False, "false": False, "no": False}


def chosen_zone(named: str | None) -> tzinfo:
    """Where a calendar's day begins, as `--time-zone` has it; on this machine for None or "". Raises UsageError."""
    with as_usage():
        return zone_of((named or "").strip() or None)


def open_by_policy(
    *, wallet: Wallet, purse: str | Path | Purse, budget: str, time_zone: str | None, **more: Any
) -> Buyer:
    """A buyer as the environment has it. more: what open_buyer takes, and raises, besides. Raises UsageError."""
    zone = chosen_zone(time_zone)
    jump = _number("FAREBOX_PRICE_JUMP", 10)
    return open_buyer(
        wallet=wallet,
        purse=purse,
        budget=budget,
        allow=_hosts("FAREBOX_PAY") or ("*",),
        deny=_hosts("FAREBOX_NEVER_PAY"),
        plain_http=_hosts("FAREBOX_PLAIN_HTTP"),
        pin_payee=_flag("FAREBOX_PIN_PAYEE"),
        price_jump=jump or None,
        time_zone=zone,
        approval_webhook=_text("FAREBOX_APPROVAL_WEBHOOK") or None,
        approval_secret=_text("FAREBOX_APPROVAL_SECRET") or None,
        **more,
    )


async def finish_earlier(buyer: Buyer) -> None:
    """Look up what earlier processes left open, and say what became of it; trouble with that is another call's."""
    with suppress(FareboxError):
        for purchase in await buyer.aresume():
            log.info(
                "an earlier payment", state=purchase.state.value, origin=purchase.origin,
                payment_hash=purchase.payment_hash.hex(),
            )  # fmt: skip


def _text(name: str) -> str:
    return os.environ.get(name, "").strip()


def _hosts(name: str) -> tuple[str, ...]:
    return tuple(host for part in _text(name).split(",") if (host := part.strip()))


def _flag(name: str) -> bool:
    said = _text(name).lower()
    if said not in _YES:
        raise UsageError(f"{name} is 1 or 0, not {said[:20]}")
    return _YES[said]


def _number(name: str, otherwise: int) -> int:
    said = _text(name)
    if not said:
        return otherwise
    if not (said.isascii() and said.isdigit() and len(said) < 7):
        raise UsageError(f"{name} is a whole number, not {said[:20]}")
    return int(said)
