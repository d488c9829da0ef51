"""The sandbox's book: who has how much, which transfers there were, which invoices were made by hand.

Rules
1. Money moves in one transaction with the row that says so. A transfer is claimed by its payment hash, so a second
   payment of the same hash finds the first and moves nothing.
2. What was answered is on the disk before it is answered (WAL, synchronous=FULL): a killed process forgets nothing, and
   two processes may have the same book open.
3. A move is one statement whose WHERE is its precondition: a failed transfer may be tried again, a held one may be paid
   or fail, a paid one stays paid.
4. What is paid has a number, given in the same transaction, so that whoever reads on from a number misses nothing.
5. What is not yet paid has no row, unless it could not be derived: see the package's docstring.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from farebox.core.amount import Amount
from farebox.core.errors import WalletError
from farebox.core.secret import Secret
from farebox.lightning.sandbox.transfer import (
    KeptInvoice,
    Transfer,
    TransferState,
    read_transfer,
    to_ms,
    write_transfer,
)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS seed (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    seed BLOB NOT NULL CHECK (length(seed) = 32)
) STRICT;
CREATE TABLE IF NOT EXISTS node (
    name         TEXT PRIMARY KEY,
    balance_msat INTEGER NOT NULL CHECK (balance_msat >= 0)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transfer (
    payment_hash    BLOB PRIMARY KEY CHECK (length(payment_hash) = 32),
    payer           TEXT NOT NULL,
    payee           TEXT NOT NULL, -- empty when the invoice is by nobody in this world
    invoice         TEXT NOT NULL,
    sent_msat       INTEGER NOT NULL CHECK (sent_msat >= 0), -- what reaches the payee
    fee_msat        INTEGER NOT NULL CHECK (fee_msat >= 0), -- what the payer gives on top
    state           TEXT NOT NULL CHECK (state IN ('held', 'paid', 'failed')),
    preimage        BLOB,
    reason          TEXT NOT NULL,
    created_at_ms   INTEGER NOT NULL,
    completed_at_ms INTEGER,
    CHECK ((state = 'paid') = (preimage IS NOT NULL)),
    CHECK ((state = 'held') = (completed_at_ms IS NULL))
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS invoice ( -- only those that are held when paid, and those that were cancelled
    payment_hash BLOB PRIMARY KEY CHECK (length(payment_hash) = 32),
    payee        TEXT NOT NULL,
    text         TEXT NOT NULL, -- empty when only the hash was known
    cancelled    INTEGER NOT NULL CHECK (cancelled IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settled ( -- what was paid, numbered as it was paid: one writer at a time, so without gaps
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    payment_hash BLOB NOT NULL UNIQUE REFERENCES transfer (payment_hash)
) STRICT;
CREATE INDEX IF NOT EXISTS transfer_completed ON transfer (completed_at_ms) WHERE state = 'paid';
"""
_NUMBER_EARLIER: Final = """
INSERT INTO settled (payment_hash)
SELECT payment_hash FROM transfer
WHERE state = 'paid' AND NOT EXISTS (SELECT 1 FROM settled) ORDER BY completed_at_ms
"""
_NUMBER: Final = "INSERT INTO settled (payment_hash) VALUES (?)"
_SETTLED_SINCE: Final = """
SELECT number, transfer.payment_hash, sent_msat FROM settled JOIN transfer USING (payment_hash)
WHERE number > ? AND payee = ? ORDER BY number LIMIT ?
"""
_SETTLED_BEFORE: Final = """
SELECT COALESCE(MAX(number), 0) FROM settled JOIN transfer USING (payment_hash) WHERE completed_at_ms < ?
"""
_NEWEST: Final = """
SELECT payment_hash FROM transfer
WHERE state = 'paid' AND payee = ? AND completed_at_ms BETWEEN ? AND ?
ORDER BY completed_at_ms DESC LIMIT ? OFFSET ?
"""
_CLAIM: Final = """
INSERT INTO transfer (payment_hash, payer, payee, invoice, sent_msat, fee_msat, state, preimage, reason,
                      created_at_ms, completed_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (payment_hash) DO UPDATE SET
    payer = excluded.payer, payee = excluded.payee, invoice = excluded.invoice, sent_msat = excluded.sent_msat,
    fee_msat = excluded.fee_msat, state = excluded.state, preimage = excluded.preimage, reason = excluded.reason,
    created_at_ms = excluded.created_at_ms, completed_at_ms = excluded.completed_at_ms
WHERE transfer.state = 'failed'
"""
_FIND: Final = """
SELECT payment_hash, payer, payee, invoice, sent_msat, fee_msat, state, preimage, reason, created_at_ms, completed_at_ms
FROM transfer WHERE payment_hash = ?
"""
_TAKE: Final = "UPDATE node SET balance_msat = balance_msat - ?1 WHERE name = ?2 AND balance_msat >= ?1"
_GIVE: Final = "UPDATE node SET balance_msat = balance_msat + ?1 WHERE name = ?2"
_SETTLE: Final = """
UPDATE transfer SET state = 'paid', preimage = ?, completed_at_ms = ? WHERE payment_hash = ? AND state = 'held'
"""
_FAIL: Final = """
UPDATE transfer SET state = 'failed', preimage = NULL, reason = ?, completed_at_ms = ?
WHERE payment_hash = ? AND state = ?
"""
_REMEMBER_INVOICE: Final = "INSERT INTO invoice (payment_hash, payee, text, cancelled) VALUES (?, ?, ?, 0)"
_CANCEL_INVOICE: Final = """
INSERT INTO invoice (payment_hash, payee, text, cancelled) VALUES (?, ?, '', 1)
ON CONFLICT (payment_hash) DO UPDATE SET cancelled = 1
"""
_BUSY_TIMEOUT_S: Final = 10.0
_ASK_AGAIN_AFTER_S: Final = 0.01
SEED_BYTES: Final = 32
REJECTED: Final = "the recipient rejected the payment"


class Book:
    """The book of one sandbox; safe from several threads, and from several processes when it is a file.

    path: None for a book in memory. balances: what each node starts with, when the book is new.
    Raises WalletError when the file can't be opened; sqlite3.Error from any method when it can't be written or read.
    """

    def __init__(self, path: Path | None, *, balances: dict[str, Amount]) -> None:
        self._lock = threading.Lock()
        # Looking up does not wait for a commit on its way to the disk. A book in memory has one connection only.
        self._reader_lock = self._lock if path is None else threading.Lock()
        try:
            if path is not None:
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds the keys of both nodes
            self._writer = _connect(path)
            self._reader = self._writer if path is None else _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise WalletError(f"the sandbox file {path} can't be used: {error}") from None
        # A wallet that was opened by its URL has no owner who would close it.
        weakref.finalize(self, _close, self._reader, self._writer)
        try:
            self.seed = self._set_up(balances)
        except sqlite3.Error as error:
            self.close()
            raise WalletError(f"the sandbox file {path} can't be used: {error}") from None

    def _set_up(self, balances: dict[str, Amount]) -> Secret[bytes]:
        self._writer.executescript(_SCHEMA)
        with self._transaction() as run:
            run.execute("INSERT INTO seed VALUES (1, ?) ON CONFLICT DO NOTHING", (secrets.token_bytes(SEED_BYTES),))
            run.execute(_NUMBER_EARLIER)
            for name, balance in balances.items():
                run.execute("INSERT INTO node VALUES (?, ?) ON CONFLICT DO NOTHING", (name, balance.msat))
        return Secret(self._writer.execute("SELECT seed FROM seed").fetchone()[0])

    # --- reading ------------------------------------------------------------------------------------------------------

    def find_transfer(self, payment_hash: bytes) -> Transfer | None:
        """The transfer of this payment hash, as it stands."""
        with self._reader_lock:
            return read_transfer(self._reader.execute(_FIND, (payment_hash,)).fetchone())

    def find_invoice(self, payment_hash: bytes) -> KeptInvoice | None:
        """What was noted about an invoice; None for most."""
        with self._reader_lock:
            row = self._reader.execute(
                "SELECT payee, text, cancelled FROM invoice WHERE payment_hash = ?", (payment_hash,)
            ).fetchone()
        return None if row is None else KeptInvoice(payee=row[0], text=row[1], cancelled=bool(row[2]))

    def balance(self, node: str) -> Amount:
        """What a node has; money that is held belongs to nobody."""
        with self._reader_lock:
            row = self._reader.execute("SELECT balance_msat FROM node WHERE name = ?", (node,)).fetchone()
        return Amount.msats(row[0])

    def settled_since(self, number: int, payee: str, *, most: int) -> list[tuple[int, bytes, Amount]]:
        """What a node was paid after the transfer of this number: number, payment hash and amount, in order."""
        with self._reader_lock:
            rows = self._reader.execute(_SETTLED_SINCE, (number, payee, most)).fetchall()
        return [(number, payment_hash, Amount.msats(msat)) for number, payment_hash, msat in rows]

    def settled_before(self, at: datetime) -> int:
        """The number of the last transfer that was paid before an instant; 0 when there was none."""
        with self._reader_lock:
            return int(self._reader.execute(_SETTLED_BEFORE, (to_ms(at),)).fetchone()[0])

    def newest_paid(self, payee: str, *, from_ms: int, to_ms: int, most: int, offset: int) -> list[bytes]:
        """The payment hashes of what a node was paid between two instants, the newest first."""
        with self._reader_lock:
            rows = self._reader.execute(_NEWEST, (payee, from_ms, to_ms, most, offset)).fetchall()
        return [payment_hash for (payment_hash,) in rows]

    # --- moving money -------------------------------------------------------------------------------------------------

    def send(self, transfer: Transfer) -> Transfer:
        """Note a transfer and move its money; the transfer as it then stands.

        That is the earlier one of the same payment hash, unless that had failed; and a failed one when the payer has
        not enough or the invoice is cancelled.
        """
        with self._transaction() as run:
            if not run.execute(_CLAIM, write_transfer(transfer)).rowcount:
                earlier = read_transfer(run.execute(_FIND, (transfer.payment_hash,)).fetchone())
                return earlier or transfer
            if transfer.state is TransferState.FAILED:
                return transfer
            cancelled = "SELECT 1 FROM invoice WHERE payment_hash = ? AND cancelled"
            if run.execute(cancelled, (transfer.payment_hash,)).fetchone():
                return self._refuse(run, transfer, REJECTED)
            cost = transfer.sent + transfer.fee
            if not run.execute(_TAKE, (cost.msat, transfer.payer)).rowcount:
                return self._refuse(run, transfer, "not enough funds in wallet to afford payment")
            if transfer.state is TransferState.PAID:
                run.execute(_GIVE, (transfer.sent.msat, transfer.payee))
                run.execute(_NUMBER, (transfer.payment_hash,))
            return transfer

    def settle(self, payment_hash: bytes, preimage: Secret[bytes], *, now: datetime) -> bool:
        """A held transfer reaches its payee; False when none is held."""
        with self._transaction() as run:
            if not run.execute(_SETTLE, (preimage.reveal(), to_ms(now), payment_hash)).rowcount:
                return False
            transfer = read_transfer(run.execute(_FIND, (payment_hash,)).fetchone())
            if transfer is not None:
                run.execute(_GIVE, (transfer.sent.msat, transfer.payee))
                run.execute(_NUMBER, (payment_hash,))
            return True

    def give_back(self, payment_hash: bytes, *, reason: str, now: datetime) -> bool:
        """A held transfer fails and its money goes back to the payer; False when none is held."""
        with self._transaction() as run:
            return self._give_back(run, payment_hash, reason, now)

    # --- invoices -----------------------------------------------------------------------------------------------------

    def remember_invoice(self, payment_hash: bytes, *, payee: str, text: str) -> None:
        """Note an invoice whose preimage only its maker knows."""
        with self._transaction() as run:
            run.execute(_REMEMBER_INVOICE, (payment_hash, payee, text))

    def cancel_invoice(self, payment_hash: bytes, *, payee: str, now: datetime) -> bool:
        """From now on it can't be paid, and what is held goes back; False when it is paid already."""
        with self._transaction() as run:
            transfer = read_transfer(run.execute(_FIND, (payment_hash,)).fetchone())
            if transfer is not None and transfer.state is TransferState.PAID:
                return False
            run.execute(_CANCEL_INVOICE, (payment_hash, payee))
            self._give_back(run, payment_hash, REJECTED, now)
            return True

    def close(self) -> None:
        """Let go of the file."""
        with self._reader_lock:
            self._reader.close()
        with self._lock:
            self._writer.close()

    # --- small print --------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything or nothing; the lock of the file is taken first, so that what is read in it stays true."""
        with self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _refuse(self, run: sqlite3.Connection, transfer: Transfer, reason: str) -> Transfer:
        failed = transfer.failed(reason)
        run.execute(_FAIL, (reason, to_ms(transfer.created_at), transfer.payment_hash, transfer.state))
        return failed

    def _give_back(self, run: sqlite3.Connection, payment_hash: bytes, reason: str, now: datetime) -> bool:
        if not run.execute(_FAIL, (reason, to_ms(now), payment_hash, TransferState.HELD)).rowcount:
            return False
        transfer = read_transfer(run.execute(_FIND, (payment_hash,)).fetchone())
        if transfer is not None:
            run.execute(_GIVE, ((transfer.sent + transfer.fee).msat, transfer.payer))
        return True


def _close(*connections: sqlite3.Connection) -> None:
    for connection in connections:
        connection.close()


def _connect(path: Path | None) -> sqlite3.Connection:
    connection = sqlite3.connect(
        ":memory:" if path is None else path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Of all statements this one does not wait for its lock, which two processes may want for the same new file."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_ASK_AGAIN_AFTER_S)
        else:
            return
