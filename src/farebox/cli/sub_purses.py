"""What `farebox purse …` does: sub-purses, and the tokens with which others spend from them."""

from __future__ import annotations

import json
import secrets
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from farebox.cli.books import moment, purse_place
from farebox.cli.buyer_books import labelled, later, opened_purse, window_row
from farebox.cli.output import Cell, as_usage, is_person, say, show, tell
from farebox.cli.policy import chosen_zone
from farebox.core.budget import Budget, Window
from farebox.core.errors import FareboxError, UsageError
from farebox.core.purse import Purse, SubPurse
from farebox.core.purse_token import KEY_BYTES, PurseToken
from farebox.core.secret import Secret
from farebox.stores import open_purse

_SAFE = "whoever has it can spend from this purse; hand it over as FAREBOX_PURSE, not on a command line"


def add_purse(name: str, limits: tuple[str, ...], *, folder: Path, zone: str | None = None, as_json: bool) -> None:
    """Make a sub-purse and tell its token. Raises MalformedBudget, MalformedValue, UsageError, StoreUnavailable."""
    where = chosen_zone(zone)
    windows = [Window.read(part, where) for limit in limits for part in limit.split(",")]
    purse = open_purse(purse_place(folder), zone=where)
    try:
        before = next((each for each in purse.purses() if each.name == name), None)
        with as_usage():
            made = purse.add_purse(name, windows, Secret(secrets.token_bytes(KEY_BYTES)))
    finally:
        purse.close()
    tell_change(before, made)
    _tell_token(PurseToken.mint(made.name, made.key), made.name, as_json=as_json)


def tell_change(before: SubPurse | None, now: SubPurse) -> None:
    """A line on standard error when a sub-purse that was there already has other limits now."""
    if before is not None and before.limits != now.limits:
        was, limits = Budget(tuple(before.limits)), Budget(tuple(now.limits))
        tell(f"the limit of the purse {now.name} was {was} and is now {limits}")


def show_purses(*, folder: Path, zone: str | None = None, fields: str | None, as_json: bool) -> None:
    """Every sub-purse, a row for each of its limits. Raises UsageError, StoreUnavailable."""
    with opened_purse(folder, chosen_zone(zone)) as purse:
        rows = [row for each in purse.purses() for row in _rows(each, purse)]
    show(rows, title="Purses", as_json=as_json, fields=fields)


def show_purse(name: str, *, token: bool, folder: Path, zone: str | None = None, as_json: bool) -> None:
    """One sub-purse, or its token. Raises UsageError, StoreUnavailable."""
    with opened_purse(folder, chosen_zone(zone)) as purse:
        found = next((each for each in purse.purses() if each.name == name), None)
        if found is None:
            raise UsageError(f"there is no purse {name}; `farebox purse list` tells them")
        if not token:
            show(_rows(found, purse), title=f"Purse {name}", as_json=as_json)
            return
    if found.revoked_at is not None:
        raise UsageError(f"the purse {name} was revoked")
    _tell_token(PurseToken.mint(found.name, found.key), name, as_json=as_json)


def attenuate_token(
    token: str | None, *, limits: tuple[str, ...], hosts: tuple[str, ...], until: str | None, as_json: bool
) -> None:
    """Tell a token that may less. Raises TokenRefused, MalformedBudget, MalformedValue, UsageError."""
    if not (limits or hosts or until):
        raise UsageError("say how it is to be narrowed: --limit, --host or --until")
    windows = [Window.read(part) for limit in limits for part in limit.split(",")]
    end: datetime | None = None if until is None else later(until)
    read = PurseToken.read(sys.stdin.readline().strip() if token is None else token)
    _tell_token(read.attenuate(limits=windows, hosts=hosts, until=end), read.name, as_json=as_json)


def revoke_purse(name: str, *, folder: Path, zone: str | None = None, as_json: bool) -> None:
    """Revoke a sub-purse. Raises UsageError, StoreUnavailable."""
    with opened_purse(folder, chosen_zone(zone)) as purse:
        with as_usage():
            revoked = purse.revoke_purse(name)
        show(_rows(revoked, purse), title="Revoked", as_json=as_json)


def repair_purse(*, folder: Path, as_json: bool) -> None:
    """Set the time of the purse right, by this machine's clock. Raises ConfigError, StoreUnavailable."""
    with opened_purse(folder) as purse:
        latest = purse.repair_time()
    if as_json:
        print(json.dumps({"latest": moment(latest)}))
    elif latest is None:
        say("Nothing was written ahead of this clock.")
    else:
        say(f"What was written up to {moment(latest)} counts from now; open approvals have to be asked for again.")


def known_names(folder: Path) -> list[str]:
    """The names of the sub-purses that can be spent from, for a shell to complete; none where that fails."""
    with suppress(FareboxError), opened_purse(folder, silent=True) as purse:
        return [each.name for each in purse.purses() if each.revoked_at is None]
    return []


def _rows(sub: SubPurse, purse: Purse) -> list[dict[str, Cell]]:
    state = "revoked" if sub.revoked_at is not None else "open"
    made: dict[str, Cell] = {"name": sub.name, "state": state}
    return [
        made | window_row(each, purse) | {"window": str(plain), "created": moment(sub.made_at)}
        for plain, each in zip(sub.limits, labelled(sub.name, sub.limits), strict=True)
    ]


def _tell_token(token: PurseToken, name: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"name": name, "token": token.reveal()}))
        return
    print(token.reveal())
    if is_person():
        tell(_SAFE, style="dim")
