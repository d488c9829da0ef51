"""What `farebox approvals …` does: a person's word on calls that cost more than may be spent without it."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from farebox.cli.books import moment
from farebox.cli.buyer_books import opened_purse
from farebox.cli.output import Cell, is_person, print_json, say, show, show_one
from farebox.core.purse import Approval

_LOOK_EVERY_S = 1.0
_DIGITS = 12  # of a request's digest, so that two of one URL can be told apart


def show_approvals(*, folder: Path, every: bool, fields: str | None, as_json: bool) -> None:
    """The calls that wait, or with `every` also those that do no more. Raises StoreUnavailable."""
    with opened_purse(folder) as purse:
        parked = purse.approvals(pending=not every)
    show([_row(each) for each in parked], title="Parked calls", as_json=as_json, empty="none", fields=fields)


def decide(number: int, *, approved: bool, folder: Path, as_json: bool) -> None:
    """Give the word on a call. Raises DecisionRefused, StoreUnavailable."""
    with opened_purse(folder) as purse:
        decided = purse.decide(number, approved=approved)
    show_one(_row(decided), title="Decided", as_json=as_json)


def watch_approvals(*, folder: Path, as_json: bool, pause: Callable[[float], None] = time.sleep) -> None:
    """Tell each call once, as it is parked; ends with KeyboardInterrupt. Raises StoreUnavailable."""
    told: set[int] = set()
    for look in count():
        with opened_purse(folder, silent=look > 0) as purse:
            parked = purse.approvals(pending=True)
        for each in sorted(parked, key=lambda one: one.number):
            if each.number not in told:
                told.add(each.number)
                _tell(each, as_json=as_json)
        pause(_LOOK_EVERY_S)


def _tell(approval: Approval, *, as_json: bool) -> None:
    if not is_person(as_json=as_json):
        print_json(_row(approval))
        return
    say(f"{approval.amount} for {approval.resource} at {approval.origin}, until {moment(approval.expires_at)}:")
    say(f"    farebox approvals approve {approval.number}    (or deny {approval.number})", style="dim")


def _row(approval: Approval) -> dict[str, Cell]:
    return {
        "number": approval.number,
        "state": approval.state.value,
        "amount": str(approval.amount),
        "resource": approval.resource,
        "url": approval.url,
        "request": approval.request_digest.hex()[:_DIGITS],
        "labels": " ".join(sorted(approval.labels)),
        "expires": moment(approval.expires_at),
        "asked": moment(approval.asked_at),
        "amount_msat": approval.amount.msat,
        "payee": approval.payee.hex() or None,
    }
