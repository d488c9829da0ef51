"""What a buyer's purse says: what is left, what was bought, and what is still owed to the buyer."""

from __future__ import annotations

import csv
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import MappingProxyType
from typing import Final

from farebox.cli.books import found_wallet, moment, purse_to_read, wallet_needed
from farebox.cli.call_request import Wanted, read_request
from farebox.cli.options import PurchaseState
from farebox.cli.output import Cell, Exit, is_person, members_of, plain, show
from farebox.cli.policy import chosen_zone
from farebox.core.allowance import account_of
from farebox.core.budget import EACH, HOST, PURSE, TAG, Budget, Window, label_of
from farebox.core.errors import FareboxError, MalformedValue, UsageError
from farebox.core.payment import DrawState
from farebox.core.ports import Clock
from farebox.core.purse import KEPT, Purchase, Purse
from farebox.http.buy_wire import read_call
from farebox.http.buyer import Buyer, open_buyer
from farebox.payer.purchase import digest_within
from farebox.stores import open_purse
from farebox.stores.engine import utc_now

_SPAN: Final = re.compile(r"(\d{1,5})(min|h|d|w)")
_SPANS: Final = MappingProxyType(
    {"min": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
)
_MOST: Final = 1_000_000
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for one (OWASP, CSV injection)


@contextmanager
def opened_purse(folder: Path, zone: tzinfo = UTC, *, silent: bool = False) -> Iterator[Purse]:
    """A person's purse; an empty one, of which nothing is kept, where there is none. Raises StoreUnavailable.

    zone: where the calendar's days of sub-purses begin. silent: not to tell that there is none where one was named.
    """
    purse = open_purse(purse_to_read(folder, silent=silent), zone=zone)
    try:
        yield purse
    finally:
        purse.close()


# --- what is left -----------------------------------------------------------------------------------------------------


def show_budget(
    limits: str, *, folder: Path, token: str | None, zone: str | None, fields: str | None, as_json: bool
) -> None:
    """Each window of a budget and of every sub-purse: its limit, what is spent, what is left, when it begins anew.

    Raises MalformedBudget, StoreUnavailable, TokenRefused, UsageError.
    """
    from farebox.cli.call_wait import NoWallet

    where = chosen_zone(zone)
    with opened_purse(folder, where) as purse:
        if token is not None:
            buyer = open_buyer(wallet=NoWallet(), budget=limits, purse=purse, time_zone=where)
            windows = [*buyer.budget.windows, *buyer.admit(token).windows]
        else:
            windows = [*Budget.read(limits, where).windows, *_of_purses(purse)]
        rows = [row for window in windows for each in _each(window, purse) for row in (window_row(each, purse),)]
    show(rows, title="Budget", as_json=as_json, fields=fields)


def _of_purses(purse: Purse) -> list[Window]:
    return [window for each in purse.purses() if each.revoked_at is None for window in labelled(each.name, each.limits)]


def labelled(name: str, limits: Sequence[Window]) -> list[Window]:
    """The windows of a sub-purse, counting what is spent from it."""
    return [
        Window(limit=each.limit, per=each.per, calendar=each.calendar, label=PURSE + name, zone=each.zone)
        for each in limits
    ]


def _each(window: Window, purse: Purse) -> Sequence[Window]:
    """The window; for one per host or tag, those of each host or tag at which something was spent in it."""
    if not window.label.endswith(EACH):
        return (window,)
    bought = purse.history(_MOST, since=window.since(utc_now()))
    return window.among({label for purchase in bought for label in purchase.labels})


def window_row(window: Window, purse: Purse) -> dict[str, Cell]:
    """What is spent and left of a window now."""
    spent = purse.spent(window)
    left = window.limit.less(spent)
    return {
        "window": str(window),
        "spent": str(spent),
        "left": str(left),
        "resets": moment(window.ends(utc_now())),
        "limit_msat": window.limit.msat,
        "spent_msat": spent.msat,
        "left_msat": left.msat,
    }


# --- what was bought --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which purchases are wanted."""

    labels: frozenset[str]
    state: PurchaseState | None = None
    since: datetime | None = None

    @classmethod
    def read(
        cls,
        *,
        host: str | None,
        tag: str | None,
        purse: str | None,
        state: PurchaseState | None,
        since: str | None,
        clock: Clock = utc_now,
    ) -> Filter:
        """As it was said. Raises MalformedValue."""
        given = ((HOST, host), (TAG, tag), (PURSE, purse))
        labels = frozenset(label_of(kind, name) for kind, name in given if name is not None)
        return cls(labels=labels, state=state, since=None if since is None else _instant(since, clock))

    def wants(self, purchase: Purchase) -> bool:
        """Whether it is one of them."""
        if not self.labels <= purchase.labels:
            return False
        match self.state:
            case None:
                return True
            case PurchaseState.UNSERVED:
                return is_owed(purchase)
            case _:
                return purchase.state.value == self.state.value


def is_owed(purchase: Purchase) -> bool:
    """Whether it is paid and its answer has not come."""
    return purchase.state is DrawState.CAPTURED and not purchase.served


def _instant(text: str, clock: Clock) -> datetime:
    if span := _SPAN.fullmatch(text.strip()):
        return clock() - int(span[1]) * _SPANS[span[2]]
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise MalformedValue(f"{text[:40]!r} is no day such as 2026-11-01, and no span such as 12h or 7d") from None


def later(text: str, clock: Clock = utc_now) -> datetime:
    """The end of a span from now, or a day that is to come. Raises MalformedValue."""
    now = clock()
    instant = _instant(text, lambda: now)
    end = now + (now - instant) if _SPAN.fullmatch(text.strip()) else instant
    if end <= now:
        raise MalformedValue(f"{text[:40]!r} is over already; say a day that is to come, or a span such as 12h or 7d")
    return end


def show_history(only: Filter, *, folder: Path, limit: int, as_csv: bool, fields: str | None, as_json: bool) -> None:
    """The newest purchases that are wanted. Raises StoreUnavailable, MalformedValue."""
    narrow = bool(only.labels) or only.state is not None
    with opened_purse(folder) as purse:
        found = purse.history(_MOST if narrow else limit, label=min(only.labels, default=""), since=only.since)
    rows = [_bought(purchase) for purchase in found if only.wants(purchase)][:limit]
    if as_csv and as_json:
        raise UsageError("--csv is no --json; leave one of them out")
    if as_csv:
        _write_csv(members_of(rows, fields))
    else:
        told = fields if fields or as_json or not sys.stdout.isatty() else _SHOWN
        show(rows, title="Purchases", as_json=as_json, fields=told)


_SHOWN: Final = "when,state,served,amount,fee,url,reason,payment_hash"


def _bought(purchase: Purchase) -> dict[str, Cell]:
    return {
        "when": moment(purchase.held_at),
        "state": purchase.state.value,
        "served": purchase.served,
        "amount": str(purchase.amount),
        "fee": str(purchase.fee),
        "url": purchase.url,
        "resource": purchase.resource,
        "labels": " ".join(sorted(purchase.labels)),
        "payee": purchase.payee.hex() or None,
        "dialect": purchase.challenge.dialect,
        "reason": purchase.reason or None,
        "amount_msat": purchase.amount.msat,
        "fee_msat": purchase.fee.msat,
        "counted_msat": purchase.counted.msat,
        "payment_hash": purchase.payment_hash.hex(),
    }


def _write_csv(rows: Sequence[Mapping[str, Cell]]) -> None:
    if not rows:
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(map(_cell, row.values()))


def _cell(cell: Cell) -> Cell:
    if not isinstance(cell, str):
        return cell
    text = plain(cell) if is_person() else cell
    return f"'{text}" if text.startswith(_FORMULA) else text


# --- what is still open -----------------------------------------------------------------------------------------------


def resume(wallet_url: str | None, *, folder: Path, as_json: bool) -> Exit:
    """Look up every payment of which nobody can tell, and say of each that is not finished what is to be done.

    Raises UsageError, WalletError, StoreUnavailable. Nothing is paid.
    """
    with opened_purse(folder) as purse:
        before = {each.payment_hash: each for each in purse.unfinished()}
        looked: dict[bytes, Purchase] = {}
        if any(each.state is DrawState.HELD for each in before.values()):
            wallet = wallet_needed(found_wallet(wallet_url, folder))
            buyer: Buyer = open_buyer(wallet=wallet, purse=purse)
            looked = {each.payment_hash: each for each in buyer.resume()}
    now = [looked.get(payment_hash, each) for payment_hash, each in before.items()]
    show([_open(each) for each in now], title="Unfinished", as_json=as_json, empty="nothing", whole=True)
    if any(each.state is DrawState.HELD for each in now):
        return Exit.UNRESOLVED
    return Exit.NOT_SERVED if any(map(is_owed, now)) else Exit.DONE


def _open(purchase: Purchase) -> dict[str, Cell]:
    match purchase.state:
        case DrawState.HELD:
            became = f"nobody can tell yet; {purchase.counted} stay held"
        case DrawState.RELEASED:
            became = f"not paid: {purchase.reason}"
        case DrawState.CAPTURED if purchase.reason == KEPT:
            became = f"paid {purchase.amount}; {KEPT}"
        case _:
            became = f"paid {purchase.amount}, and its answer has not come"
    return {
        "when": moment(purchase.held_at),
        "became": became,
        "to_get_it": _again(purchase) if purchase.state is not DrawState.RELEASED else None,
        "state": purchase.state.value,
        "amount_msat": purchase.amount.msat,
        "url": purchase.url,
        "payment_hash": purchase.payment_hash.hex(),
    }


def _again(purchase: Purchase) -> str:
    """A command for a shell, with what has to be added by hand as a comment: of a request only its digest is kept."""
    method = purchase.resource.partition(" ")[0] or "GET"
    command = ["farebox", "call", purchase.url, *(() if method == "GET" else ("-X", method))]
    account = account_of(purchase.labels)
    told = shlex.join(command)
    if account:
        told += f' --purse "$(farebox purse show {shlex.quote(account.removeprefix(PURSE))} --token)"'
    is_all = False
    with suppress(FareboxError):  # of what is no call over HTTP
        bare = read_call(read_request(Wanted(url=purchase.url, method=method, budget=""))).digest
        is_all = bare is not None and digest_within(bare, account) == purchase.request_digest
    return told if is_all else f"{told}  # with the same body, Accept and Content-Type"
