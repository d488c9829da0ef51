"""`farebox call --dry-run`: what a call would cost, audited, and whether it would be paid; nothing is paid.

Rules
1. The call is asked with its own method and body, and without any proof that is kept.
2. A seller that knows `Prefer: l402=require` (RFC 7240) names its price and does nothing else. Any other seller may
   answer a call that costs nothing by doing it, and that is told.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx

from farebox.cli.books import found_wallet, purse_to_read
from farebox.cli.call import buyer_of, client_options, narrowed, network_told, spelt
from farebox.cli.call_request import Wanted, read_request
from farebox.cli.call_wait import NoWallet, Told
from farebox.cli.output import Cell, Exit, show_one
from farebox.core.amount import Amount
from farebox.core.errors import ApprovalNeeded
from farebox.http.buy import Client
from farebox.payer import Offer

_FREE: Final = re.compile(r'"free";q=(\d{1,6});w=86400')  # draft-ietf-httpapi-ratelimit-headers


def dry_run(wanted: Wanted, *, wallet_url: str | None, folder: Path) -> Exit:
    """Tell the price. Raises what would keep it from being paid but the limits, which are told."""
    request = read_request(wanted, probing=True)
    most = Amount.read(wanted.most) if wanted.most else None
    told = Told(quiet=wanted.quiet, verbose=wanted.verbose)
    wallet = found_wallet(wallet_url, folder) or NoWallet()
    place = purse_to_read(folder, silent=True)
    with closing(buyer_of(replace(wanted, most=None), told, wallet, place)) as buyer:
        answers: list[httpx.Response] = []
        client = Client(buyer=buyer, **client_options(wanted, told))
        with client, narrowed(wanted, buyer), network_told(wanted), spelt():
            client.event_hooks["response"].append(answers.append)
            offer = client.ask(request)
    if offer is None:
        return _unpriced(wanted, answers[-1])
    return _priced(wanted, offer, most, free_calls=_free_calls(answers))


def _free_calls(answers: list[httpx.Response]) -> int | None:
    """How many calls a day the seller says are free; whether one of them is left is not told."""
    policy = _FREE.search(answers[-1].headers.get("ratelimit-policy", "")) if answers else None
    return int(policy[1]) if policy else None


def _unpriced(wanted: Wanted, answer: httpx.Response) -> Exit:
    refused = answer.status_code >= 400
    told = f"the server answered {answer.status_code} {answer.reason_phrase}".rstrip()
    if not refused:
        told += " instead of naming a price, so the call has been made, for nothing; its answer is dropped"
    row: dict[str, Cell] = {
        "url": wanted.url,
        "status": answer.status_code,
        "free": not refused,
        "price": None if refused else "nothing",
        "amount_msat": None if refused else 0,
        "told": told,
    }
    show_one(row, title="Price", as_json=wanted.as_json)
    return Exit.SERVER_REFUSED if refused else Exit.DONE


def _priced(wanted: Wanted, offer: Offer, most: Amount | None, *, free_calls: int | None) -> Exit:
    objection = offer.objection
    parked = isinstance(objection, ApprovalNeeded)
    within = objection is None and (most is None or offer.amount <= most)
    why = str(objection.detail or objection.title) if objection else f"the most for one call is {most}"
    row: dict[str, Cell] = {
        "url": wanted.url,
        "free": False,
        "price": str(offer.amount),
        "amount_msat": offer.amount.msat,
        "fee_limit": str(offer.fee_limit),
        "fee_limit_msat": offer.fee_limit.msat,
        "free_calls_a_day": free_calls,
        "payee": offer.invoice.payee.hex(),
        "network": offer.invoice.network.value,
        "expires": offer.invoice.expires_at.isoformat(timespec="seconds"),
        "dialect": offer.dialect.name,
        "max": None if most is None else str(most),
        "budget": wanted.budget,
        "last_price": None if offer.last_price is None else str(offer.last_price),
        "fits": within,
        "needs_approval": parked,
        "why": None if within else why,
        "problem": None if within else objection.type if objection else "over-budget",
    }
    show_one(row, title="Price", as_json=wanted.as_json)
    if within:
        return Exit.DRY_RUN
    return Exit.APPROVAL_NEEDED if parked else Exit.REFUSED
