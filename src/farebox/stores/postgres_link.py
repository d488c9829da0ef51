"""One connection to PostgreSQL: opened with care, asked many things in one round trip, and never waited for too long.

Rules
1. What is kept is flushed when a commit returns (`synchronous_commit`), whatever the server's or the role's default.
2. Only a server that takes writes is connected to, so that a standby is never asked.
3. Every wait has an end: for a connection, for a lock, for a statement, for a round trip, for a peer that vanished. A
   connection on which an answer is overdue is let go of, because nobody can tell what will come out of it.
4. A statement is prepared once on each connection. What is asked together is sent together, and fails together.
5. A password is in no message.
"""

from __future__ import annotations

import itertools
import select
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format, TransactionStatus

from farebox.core.errors import ConfigError
from farebox.stores.engine import Row
from farebox.stores.postgres_text import Asking

if TYPE_CHECKING:
    from psycopg import abc
    from psycopg.pq.abc import PGconn, PGresult

CONNECT_S: Final = 2
ROUND_TRIP: Final = timedelta(seconds=5)
_STATEMENT: Final = "4s"

# A URL may say otherwise. A peer that vanished is noticed although nothing is sent, or nothing of it acknowledged.
_DEFAULTS: Final[Mapping[str, str | int]] = {
    "application_name": "farebox",
    "connect_timeout": CONNECT_S,
    "target_session_attrs": "read-write",
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
_SETTINGS: Final[Mapping[str, str]] = {
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",  # a gateway that hangs keeps nobody's lock
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
# What is written is found by its key. A plan made while a table was empty must not read it whole when it is not.
_BY_KEY: Final[Mapping[str, str]] = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
)
_OF_THE_DATABASE: Final = ("28", "3D", "42501")  # who may connect, which database there is, who may make what in it
_REFUSALS: Final = (
    "for connection option",
    "authentication failed",
    "does not exist",
    "no password supplied",
    "no pg_hba.conf entry",
)

# Whatever the statement was: it did nothing, and would be right again. The last two are of a connection whose prepared
# statements are no longer what they were, because a migration was applied or a pooler gave us another.
PASSES: Final = ("40001", "40P01", "0A000", "26000")
LOST: Final = ("08", "57P")  # connections, and servers that shut down, crash or start
NO_WRITER: Final = "25006"  # it has become a standby
OUTDATED: Final = ("0A000", "26000", NO_WRITER)  # the connection, though it is open


class Overdue(psycopg.OperationalError):
    """An answer did not come in time; the connection was let go of."""


def read_url(url: str, *, room: str = "ledger") -> str:
    """A connection string with what a URL leaves open. Raises ConfigError, which does not repeat the URL."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its text may hold the password
        raise ConfigError(
            f"a {room} in PostgreSQL is postgresql://user:password@host:port/database; this URL can't be read"
            " (write special characters of a password as %40)"
        ) from None
    return make_conninfo("", **{**_DEFAULTS, **given, "client_encoding": "utf8"})


def place_of(conninfo: str) -> str:
    """What to call the database that a connection string names: user, host, port and database, no password."""
    known = conninfo_to_dict(conninfo)
    user, host = known.get("user"), known.get("host") or known.get("hostaddr") or "localhost"
    port, database = known.get("port") or 5432, known.get("dbname") or user or ""
    return f"postgresql://{f'{user}@' if user else ''}{host}:{port}/{database}"


def told(error: Exception, conninfo: str) -> str:
    """The first line of what a server or libpq says, without a password and without values of a row."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    line = primary or (str(error).strip().splitlines() or [type(error).__name__])[0]
    password = str(conninfo_to_dict(conninfo).get("password") or "")
    return line.replace(password, "…") if password else line


def is_config(error: psycopg.Error) -> bool:
    """Whether connecting can't succeed however often it is tried."""
    state = error.sqlstate or ""
    return state.startswith(_OF_THE_DATABASE) or any(hint in str(error) for hint in _REFUSALS)


def is_for_good(error: psycopg.Error) -> bool:
    """Whether a connection was refused, and will be however often it is tried."""
    return error.sqlstate is None and is_config(error)


def connected(conninfo: str) -> psycopg.Connection:
    """A connection that may be used as psycopg's own. Raises psycopg.Error."""
    return psycopg.connect(conninfo, autocommit=True)


class Link:
    """A connection in pipeline mode, opened when it is needed and again after it was lost."""

    def __init__(self, conninfo: str, *, writes: bool, patience: timedelta | None) -> None:
        """patience: for one round trip; None where whole tables are looked through."""
        self.conninfo = conninfo
        self._settings = {**_SETTINGS, **(_BY_KEY if writes else {})}
        self._settings["statement_timeout"] = "0" if patience is None else _STATEMENT
        self._patience = patience
        self._connection: psycopg.Connection | None = None
        self._pipe: PGconn | None = None
        self._transformer: abc.Transformer | None = None
        self._prepared: dict[str, bytes] = {}
        self._numbers = itertools.count()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self._pipe is not None and self._pipe.status == ConnStatus.OK

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction was begun and not ended, as far as is known."""
        return self._pipe is not None and self._pipe.transaction_status not in (
            TransactionStatus.IDLE,
            TransactionStatus.UNKNOWN,
        )

    def open(self) -> None:
        """Connect. Raises psycopg.Error, within seconds."""
        self.close()
        connection = connected(self.conninfo)
        try:
            names = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in self._settings.items())
            connection.execute(f"SELECT {names}".encode())
            connection.execute(_DURABLE.encode())
            connection.pgconn.enter_pipeline_mode()
        except BaseException:
            connection.close()
            raise
        self._connection, self._pipe = connection, connection.pgconn
        self._transformer = Transformer(connection)

    def close(self) -> None:
        """Let go of it; the server undoes what was not committed."""
        connection, self._connection = self._connection, None
        self._pipe, self._transformer, self._prepared = None, None, {}
        if connection is not None:
            connection.close()

    def ask(self, asked: Sequence[Asking]) -> list[list[Row]]:
        """The rows of each statement, in one round trip. Raises psycopg.Error, of the first that failed."""
        pipe = self._pipe
        if pipe is None:
            raise psycopg.OperationalError("the connection is closed")
        kinds: list[tuple[str, bytes] | None] = []  # of each result that will come: what it prepares, or None for rows
        new: dict[str, bytes] = {}
        try:
            for one in asked:
                text = one.statement.text
                name = self._prepared.get(text) or new.get(text)
                if name is None:
                    name = new[text] = b"farebox_%d" % next(self._numbers)
                    pipe.send_prepare(name, text.encode())
                    kinds.append((text, name))
                pipe.send_query_prepared(name, one.values, one.formats, result_format=Format.BINARY)
                kinds.append(None)
            pipe.pipeline_sync()
            results = self._results(pipe)
        except psycopg.OperationalError as error:
            if error.sqlstate is None or pipe.status != ConnStatus.OK:
                self.close()
            raise
        rows: list[list[Row]] = []
        for result, prepares in zip(results, kinds, strict=True):
            if result.status == ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result)
            if prepares is None:
                rows.append(self._rows(result))
            else:
                self._prepared[prepares[0]] = prepares[1]
        return rows

    def _results(self, pipe: PGconn) -> list[PGresult]:
        """One result for each piece that was sent, in order; those behind one that failed are of no meaning."""
        until = None if self._patience is None else time.monotonic() + self._patience.total_seconds()
        results: list[PGresult] = []
        unsent = bool(pipe.flush())
        while True:
            if not pipe.is_busy():
                result = pipe.get_result()
                if result is None:
                    if pipe.status != ConnStatus.OK:
                        raise self._lost(pipe, results)
                    continue
                if result.status == ExecStatus.PIPELINE_SYNC:
                    return results
                results.append(result)
                continue
            if pipe.status != ConnStatus.OK:
                raise self._lost(pipe, results)
            self._wait(pipe, until, unsent=unsent)
            pipe.consume_input()
            unsent = unsent and bool(pipe.flush())

    def _wait(self, pipe: PGconn, until: float | None, *, unsent: bool) -> None:
        poll = select.poll()
        poll.register(pipe.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
        left = None if until is None else timedelta(seconds=max(0.0, until - time.monotonic()))
        if not poll.poll(None if left is None else left / timedelta(milliseconds=1)):
            raise Overdue("no answer came in time")

    def _lost(self, pipe: PGconn, results: Sequence[PGresult]) -> psycopg.Error:
        """The connection ended; where the server said why, what it said."""
        for result in results:
            if result.error_field(DiagnosticField.SQLSTATE) is not None:
                return errors.error_from_result(result)
        return psycopg.OperationalError(pipe.get_error_message() or "the connection was lost")

    def _rows(self, result: PGresult) -> list[Row]:
        if not result.ntuples or self._transformer is None:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)
