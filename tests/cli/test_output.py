"""How the command line tells what went wrong: by exit codes, by objects of the same members, and as text alone."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from contextlib import AbstractContextManager, redirect_stderr

import httpx
import pytest

from farebox.cli.call import network_told, spelt
from farebox.cli.call_request import Wanted
from farebox.cli.output import Exit, as_usage, errors_told, exit_code, plain, print_json
from farebox.core.errors import (
    ConfigError,
    DecisionRefused,
    FareboxError,
    MalformedBudget,
    NodeUnavailable,
    OverBudget,
    PaidNotServed,
    PaymentUnresolved,
    RefundRefused,
    StoreUnavailable,
    TokenRefused,
    UsageError,
    WalletError,
    WalletMissing,
)

WRITTEN = "a\N{ZERO WIDTH JOINER}b\N{ZERO WIDTH NON-JOINER}c\n\td"  # as Persian, Hindi and emoji are
MEMBERS = ["error", "exit_code", "message", "type", "title", "detail", "money_moved", "next_step"]
HALF = json.loads('"\\ud800"')
ESCAPE = "no\x1b]0;mine\x07 \x7f\x9b2J \N{RIGHT-TO-LEFT OVERRIDE}"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def told(
    error: Exception, trouble: AbstractContextManager[None], onto: io.StringIO | None = None
) -> tuple[object, str]:
    """The exit code that an error ends a command with, and what it writes to standard error."""
    onto = onto or io.StringIO()
    with pytest.raises(SystemExit) as ended, redirect_stderr(onto), trouble:
        raise error
    return ended.value.code, onto.getvalue()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("can't read nosuch"), Exit.USAGE),
        (WalletMissing(), Exit.USAGE),
        (DecisionRefused("7 is not known"), Exit.USAGE),
        (MalformedBudget(), Exit.USAGE),
        (ConfigError("the port is taken"), Exit.FAILED),
        (WalletError("it refuses the password"), Exit.FAILED),
        (StoreUnavailable("locked"), Exit.FAILED),
        (NodeUnavailable("no answer"), Exit.FAILED),
        (TokenRefused("it has run out"), Exit.REFUSED),
        (RefundRefused("it is paid back"), Exit.REFUSED),
        (PaymentUnresolved(), Exit.UNRESOLVED),
        (PaidNotServed(), Exit.NOT_SERVED),
    ],
)
def test_only_what_was_said_wrongly_is_a_wrong_call(error: FareboxError, code: Exit) -> None:
    assert code is exit_code(error)


@pytest.mark.parametrize(
    ("error", "moved"),
    [
        (UsageError("can't read nosuch"), False),
        (WalletMissing(), False),
        (StoreUnavailable("locked"), False),
        (OverBudget("500 sat/day has 12 sat left", asked_msat=21_000), False),
        (PaymentUnresolved(), None),
        (PaidNotServed(), True),
    ],
)
def test_every_error_is_an_object_with_the_same_members(error: FareboxError, moved: bool | None) -> None:
    code, line = told(error, errors_told())
    row = json.loads(line)
    assert MEMBERS == list(row)[: len(MEMBERS)]
    assert (True, code, moved, error.next_step) == tuple(
        row[name] for name in ("error", "exit_code", "money_moved", "next_step")
    )


def test_a_server_that_can_not_be_reached_is_told_with_the_same_members() -> None:
    wanted = Wanted(url="http://127.0.0.1:1/", budget="1 sat/day")
    code, line = told(httpx.ConnectError("refused"), network_told(wanted))
    row = json.loads(line)
    assert (Exit.NETWORK, MEMBERS) == (code, list(row)[: len(MEMBERS)])
    assert row["money_moved"] is False


def test_where_nobody_can_tell_whether_money_moved_the_object_does_not() -> None:
    assert json.loads(told(StoreUnavailable(), errors_told(moved=None))[1])["money_moved"] is None


def test_who_has_no_wallet_is_told_both_ways_to_one() -> None:
    row = json.loads(told(WalletMissing(), errors_told())[1])
    assert all(way in row["message"] for way in ("FAREBOX_WALLET", "--wallet", "sandbox"))
    assert all(way in row["next_step"] for way in ("phoenixd+http://", "farebox serve", "--state-dir", "farebox demo"))


def test_an_error_that_a_server_wrote_is_only_a_text_to_a_terminal() -> None:
    written = told(PaidNotServed(ESCAPE), errors_told(), Screen())[1]
    assert "no�]0;mine� ��2J �" in written
    assert PaidNotServed.next_step in written


def test_json_on_a_terminal_is_only_a_text_too_and_still_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"body": ESCAPE + HALF, "name": "smørrebrød"}
    print_json(row)
    line = capsys.readouterr().out
    assert row == json.loads(line)
    assert line.rstrip("\n").isprintable()
    assert "smørrebrød" in line


def test_what_a_room_below_can_not_use_was_said_wrongly() -> None:
    with pytest.raises(UsageError, match="no wallet has the scheme"), as_usage():
        raise WalletError("no wallet has the scheme bogus")
    with pytest.raises(StoreUnavailable), as_usage():
        raise StoreUnavailable("locked")


def test_no_character_that_is_not_seen_or_turns_the_writing_round_reaches_a_terminal() -> None:
    unseen = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Cf", "Zl", "Zp")]
    assert [] == [each for each in unseen if plain(each) == each and each not in WRITTEN]
    assert WRITTEN == plain(WRITTEN)


def test_json_stays_json_whatever_a_stranger_wrote() -> None:
    onto, row = io.StringIO(), {"body": "\N{LANGUAGE TAG}\N{LEFT-TO-RIGHT MARK}\N{LINE SEPARATOR}" + HALF}
    print_json(row, onto=onto)
    assert row == json.loads(onto.getvalue())
    assert onto.getvalue().isascii()


@pytest.mark.parametrize("error", [UnicodeError("label too long"), httpx.InvalidURL("nobody can have it")])
def test_a_redirect_to_what_is_no_address_is_trouble_of_the_network(error: Exception) -> None:
    with pytest.raises(httpx.InvalidURL, match="the server redirects to what is no address"), spelt():
        raise error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_is_written_in_whatever_encoding_the_output_has(encoding: str) -> None:
    row = {"body": "caf\u00e9 \u2615 \U0001f642", "half": HALF}
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)

    print_json(row, onto=out)

    assert row == json.loads(out.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined] # a BytesIO
