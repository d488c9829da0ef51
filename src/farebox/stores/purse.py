"""The buyer's purse: what was, or is about to be, paid for, and whether a budget has room for more.

Rules
1. The intent is written, and its amount and fee limit held, before a wallet is asked to pay.
2. A budget is kept by one conditional statement under the file's write lock, so any number of processes share it.
3. The purse's time never runs backwards: setting a clock back frees nothing.
4. What is held counts in every window however old it is; what was paid counts a whole window from when that was known.
5. The file holds preimages, which are worth the calls they paid for, so it is for its owner alone.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import ConfigError, OverBudget, StoreUnavailable
from farebox.core.payment import DRAW_MOVES, DrawState
from farebox.core.ports import KEPT, Clock, Purchase
from farebox.core.secret import Secret
from farebox.stores.engine import Connection, edges, in_ms, span_in_ms, utc_now
from farebox.stores.purchases import purchase_of, row_of
from farebox.stores.sqlite import SqliteConnection, open_file
from farebox.stores.statements import statements

SQL: Final = statements("purse")

_PER_CALL_MS: Final = -1  # no instant of a purse: marks a window that counts nothing but the call itself
_OTHERS: Final = 0o077


def open_purse(path: Path | str, clock: Clock = utc_now) -> SqlitePurse:
    """The purse in a file, made and migrated as needed; `:memory:` is gone when closed.

    Raises ConfigError, in one line, for a place that can't be written to and a file that is not a purse, is newer than
    this farebox or can't be closed to other users; StoreUnavailable when other processes keep it locked.
    """
    file = None if str(path) == ":memory:" else Path(path).expanduser()
    # The folder too, for a user who has never bought anything.
    connection = open_file(file, room="purse", moves={"draw_moves": edges(DRAW_MOVES)}, make_folder=True)
    if file is not None:
        try:
            _close_to_others(file)
        except OSError as error:
            connection.close()
            told = f"The purse {file} can't be closed to other users ({error.strerror}); choose a place of your own."
            raise ConfigError(told) from None
    return SqlitePurse(connection, clock)


def _close_to_others(file: Path) -> None:
    for one in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        if one.exists() and one.stat().st_mode & _OTHERS:
            one.chmod(0o600)


class SqlitePurse:
    """A core.ports.Purse in SQLite; see there for what each method promises. Threads may share it, forks may not."""

    def __init__(self, connection: SqliteConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._turn = threading.Lock()
        self._process = os.getpid()

    def hold(self, purchase: Purchase, limits: Sequence[Window]) -> Purchase | None:
        """Write the intent and hold amount + fee limit within every window, in one conditional statement.

        None when it is held. When the payment is held or captured already: that row, and nothing is written.
        Raises OverBudget naming the first window without room and what is left in it, and StoreUnavailable.
        """
        with self._transaction() as tx:
            known = tx.execute(SQL["find"], {"payment_hash": purchase.payment_hash}).fetchone()
            if known is not None and (row_known := purchase_of(known)).state is not DrawState.RELEASED:
                return row_known
            now_ms = self._now_ms(tx)
            asked = purchase.amount + purchase.fee_limit
            row = {**row_of(purchase), "asked_msat": asked.msat, "now_ms": now_ms, "per_call": _PER_CALL_MS}
            rows, bounds = _windows(limits, now_ms)
            if tx.execute(SQL["hold"].replace(":windows", rows), {**row, **bounds}).fetchone() is not None:
                return None
            raise _over_budget(tx, asked, limits, now_ms)

    def capture(self, payment_hash: bytes, *, preimage: Secret[bytes], fee: Amount) -> None:
        """It was paid; keep the proof until it is served. Saying it twice changes nothing.

        Raises StoreUnavailable, also for what was released or never held.
        """
        with self._transaction() as tx:
            row = {"payment_hash": payment_hash, "preimage": preimage.reveal(), "fee_msat": fee.msat}
            if tx.execute(SQL["capture"], {**row, "now_ms": self._now_ms(tx)}).fetchone() is None:
                _must_be(tx, payment_hash, DrawState.CAPTURED)

    def release(self, payment_hash: bytes, *, reason: str) -> None:
        """It certainly was not paid; free the amount. Saying it twice changes nothing.

        Raises StoreUnavailable, also for what was captured or never held.
        """
        with self._transaction() as tx:
            if tx.execute(SQL["release"], {"payment_hash": payment_hash, "reason": reason}).fetchone() is None:
                _must_be(tx, payment_hash, DrawState.RELEASED)

    def mark_served(self, payment_hash: bytes) -> None:
        """The paid answer arrived. Raises StoreUnavailable, also for what was not paid."""
        with self._transaction() as tx:
            if tx.execute(SQL["mark_served"], {"payment_hash": payment_hash}).fetchone() is None:
                _must_be(tx, payment_hash, DrawState.CAPTURED)

    def mark_kept(self, payment_hash: bytes) -> None:
        """The seller keeps the payment for its call. Raises StoreUnavailable, also for what was not paid."""
        with self._transaction() as tx:
            if tx.execute(SQL["mark_kept"], {"payment_hash": payment_hash, "reason": KEPT}).fetchone() is None:
                _must_be(tx, payment_hash, DrawState.CAPTURED)

    def unfinished(self, request_digest: bytes | None = None) -> Sequence[Purchase]:
        """HELD, or paid and not served; oldest first; of one request or of all."""
        name = "unfinished" if request_digest is None else "unfinished_of_request"
        return self._purchases(name, {"request_digest": request_digest})

    def spent(self, window: Window) -> Amount:
        """What counts against a window now: captured with fees, and everything held."""
        with self._reading() as tx:
            return _spent(tx, window, self._now_ms(tx))

    def history(self, limit: int) -> Sequence[Purchase]:
        """The newest purchases first."""
        return self._purchases("history", {"most": limit})

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._connection.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _now_ms(self, tx: Connection) -> int:
        [(newest_ms,)] = tx.execute(SQL["newest"]).fetchall()
        return max(in_ms(self._clock()), int(newest_ms))

    def _purchases(self, name: str, asked: Mapping[str, object]) -> Sequence[Purchase]:
        with self._reading() as tx:
            return [purchase_of(row) for row in tx.execute(SQL[name], asked).fetchall()]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._turn:
            if os.getpid() != self._process:
                raise StoreUnavailable("A purse can't be used in a process forked from the one that opened it.")
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise StoreUnavailable(f"{error}.") from None

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._reading() as tx:
            self._connection.begin()
            try:
                yield tx
                self._connection.commit()
            except BaseException:
                with suppress(sqlite3.Error):  # where it can't be undone now, the next begin fails and says so
                    self._connection.rollback()
                raise


# --- parts of a transaction -------------------------------------------------------------------------------------------


def _windows(limits: Sequence[Window], now_ms: int) -> tuple[str, Mapping[str, int]]:
    """The rows that `:windows` stands for, and their values."""
    values: dict[str, int] = {}
    for number, window in enumerate(limits):
        values[f"since_{number}_ms"] = _since_ms(window, now_ms)
        values[f"limit_{number}_msat"] = window.limit.msat
    rows = ", ".join(f"(:since_{number}_ms, :limit_{number}_msat)" for number in range(len(limits)))
    return rows or "(NULL, NULL)", values  # a row of nothing is violated by nothing


def _since_ms(window: Window, now_ms: int) -> int:
    return _PER_CALL_MS if window.span is None else now_ms - span_in_ms(window.span)


def _spent(tx: Connection, window: Window, now_ms: int) -> Amount:
    if window.span is None:
        return Amount(0)
    [(spent_msat,)] = tx.execute(SQL["spent"], {"since_ms": _since_ms(window, now_ms)}).fetchall()
    return Amount(spent_msat)


def _over_budget(tx: Connection, asked: Amount, limits: Sequence[Window], now_ms: int) -> OverBudget:
    left = [(window, window.limit.less(_spent(tx, window, now_ms))) for window in limits]
    window, rest = next((window, rest) for window, rest in left if rest < asked)
    return OverBudget(
        f"{window} has {rest} left, and this may cost {asked}.",
        window=str(window),
        limit_msat=window.limit.msat,
        left_msat=rest.msat,
        asked_msat=asked.msat,
    )


def _must_be(tx: Connection, payment_hash: bytes, state: DrawState) -> None:
    """A move that changed nothing was done before; anything else contradicts what is written."""
    row = tx.execute(SQL["find"], {"payment_hash": payment_hash}).fetchone()
    found = None if row is None else purchase_of(row).state
    if found is not state:
        raise StoreUnavailable(f"A purchase that is {found or 'unknown'} can't become {state}.")
