"""What a purse says to a person and to another program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from farebox.cli.buyer_books import Filter, later, resume, show_budget, show_history
from farebox.cli.call_request import Wanted, read_request
from farebox.cli.options import PurchaseState
from farebox.cli.output import Cell, Exit, exit_code, show
from farebox.core.allowance import account_of
from farebox.core.amount import Amount
from farebox.core.errors import ApprovalDenied, ApprovalNeeded, MalformedValue, TokenRefused, UsageError, WalletMissing
from farebox.core.exchange import Challenge
from farebox.core.purse import Purchase, Purse
from farebox.core.secret import Secret
from farebox.http.buy_wire import read_call
from farebox.payer.purchase import digest_within
from farebox.stores import open_purse

NOW = datetime.now(UTC)
PREIMAGE = Secret(bytes(32))


def purchase(number: int, *labels: str, **more: object) -> Purchase:
    payment_hash = bytes([number]) * 32
    made = Purchase(
        payment_hash=payment_hash,
        request_digest=payment_hash,
        origin="https://api.example.com:443",
        url=f"https://api.example.com/{number}?q=a&b",
        resource="GET /",
        amount=Amount.sats(number),
        fee_limit=Amount.sats(1),
        challenge=Challenge(dialect="L402", invoice="lnbc1", payment_hash=payment_hash),
        invoice_expires_at=NOW + timedelta(hours=1),
        labels=frozenset(labels),
    )
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture
def purse(tmp_path: Path) -> Iterator[Purse]:
    """The purse of a person whose state folder this is: one payment open, one paid and not served, one served."""
    seconds = count()
    purse = open_purse(tmp_path / "purse.db", lambda: NOW - timedelta(minutes=1) + timedelta(seconds=next(seconds)))
    for one in (
        purchase(1, "host:api.example.com"),
        purchase(2, "host:api.example.com", "tag:essay", resource="POST /"),
        purchase(3, "host:other.example", "tag:essay"),
    ):
        purse.hold(one, ())
    for number in (2, 3):
        purse.capture(bytes([number]) * 32, preimage=PREIMAGE, fee=Amount(500))
    purse.mark_served(bytes([3]) * 32)
    yield purse
    purse.close()


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Cell]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def only(**given: object) -> Filter:
    return Filter.read(**{"host": None, "tag": None, "purse": None, "state": None, "since": None, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "amounts"),
    [
        ({}, [3_000, 2_000, 1_000]),
        ({"host": "API.example.com"}, [2_000, 1_000]),
        ({"tag": "essay"}, [3_000, 2_000]),
        ({"tag": "essay", "host": "other.example"}, [3_000]),
        ({"purse": "researcher"}, []),
        ({"state": PurchaseState.HELD}, [1_000]),
        ({"state": PurchaseState.UNSERVED}, [2_000]),
        ({"state": PurchaseState.RELEASED}, []),
        ({"since": "1h"}, [3_000, 2_000, 1_000]),
        ({"since": "2999-01-01"}, []),
    ],
)
def test_only_the_purchases_that_are_wanted_are_told(
    given: dict[str, object],
    amounts: list[int],
    purse: Purse,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_history(only(**given), folder=tmp_path, limit=20, as_csv=False, fields=None, as_json=True)
    assert amounts == [row["amount_msat"] for row in told(capsys)]


def test_so_many_of_those_that_are_wanted_are_told(
    purse: Purse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_history(only(host="api.example.com"), folder=tmp_path, limit=1, as_csv=False, fields=None, as_json=True)
    assert [2_000] == [row["amount_msat"] for row in told(capsys)]


def test_what_a_spreadsheet_would_run_is_a_text_to_it(
    purse: Purse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    purse.release(bytes([1]) * 32, reason='=HYPERLINK("http://x")')
    show_history(only(state=PurchaseState.RELEASED), folder=tmp_path, limit=1, as_csv=True, fields=None, as_json=False)
    assert "'=HYPERLINK" in capsys.readouterr().out


@pytest.mark.parametrize("since", ["yesterday", "7", "-1d", "99999999d", ""])
def test_what_is_neither_a_day_nor_a_span_is_refused(since: str) -> None:
    with pytest.raises(MalformedValue):
        only(since=since)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tag": "a b"}, "a tag is of letters, digits and . _ -"),
        ({"host": "a/b"}, "a host is of letters, digits and . _ -"),
        ({"purse": "a b"}, "a purse is of letters, digits and . _ -"),
        ({"host": "a.example:80"}, "a host is named without a port"),
    ],
)
def test_a_name_that_can_not_be_one_is_told_as_a_name_and_not_as_a_budget(given: dict[str, object], told: str) -> None:
    with pytest.raises(MalformedValue) as refused:
        only(**given)
    assert told == refused.value.detail
    assert "budget" not in str(refused.value)


def test_the_end_of_a_span_is_ahead() -> None:
    assert NOW + timedelta(hours=12) == later("12h", lambda: NOW)
    assert datetime(2030, 1, 2).astimezone() == later("2030-01-02", lambda: NOW)


def test_an_end_that_is_not_ahead_is_refused() -> None:
    for text in ("2020-01-01", NOW.isoformat(), "0h"):
        with pytest.raises(MalformedValue, match="is over already"):
            later(text, lambda: NOW)


def test_a_window_per_host_is_one_for_each_host(
    purse: Purse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_budget(
        "20 sat/day per host", folder=tmp_path, token=None, zone="UTC", fields="window,spent_msat", as_json=True
    )
    assert [
        {"window": "20 sat/day on api.example.com", "spent_msat": 4_500},
        {"window": "20 sat/day on other.example", "spent_msat": 3_500},
    ] == told(capsys)


def test_only_a_calendar_s_window_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = "9 sat/day, 9 sat per calendar day, 9 sat/call"
    show_budget(limits, folder=tmp_path, token=None, zone="UTC", fields="resets", as_json=True)
    assert [False, True, False] == [row["resets"] is not None for row in told(capsys)]
    assert not (tmp_path / "purse.db").exists()


def test_a_token_of_nobody_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenRefused):
        show_budget("9 sat/day", folder=tmp_path, token="fbx_AgEN", zone="UTC", fields=None, as_json=True)


def test_open_payments_are_looked_up_with_a_wallet_and_only_with_one(purse: Purse, tmp_path: Path) -> None:
    with pytest.raises(WalletMissing, match="FAREBOX_WALLET"):
        resume(None, folder=tmp_path, as_json=True)


def test_what_is_owed_is_told_with_the_command_that_gets_it(
    purse: Purse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    purse.capture(bytes([1]) * 32, preimage=PREIMAGE, fee=Amount(0))
    assert Exit.NOT_SERVED is resume(None, folder=tmp_path, as_json=True)
    assert [
        "farebox call 'https://api.example.com/1?q=a&b'  # with the same body, Accept and Content-Type",
        "farebox call 'https://api.example.com/2?q=a&b' -X POST  # with the same body, Accept and Content-Type",
    ] == [row["to_get_it"] for row in told(capsys)]


def test_the_command_for_a_plain_call_is_all_of_it_and_of_a_sub_purse_has_its_token(
    purse: Purse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "https://api.example.com/7?q=a&b"
    digest = read_call(read_request(Wanted(url=url, budget=""))).digest or b""
    for number, of in enumerate((frozenset[str](), frozenset({"purse:bot"})), start=7):
        account = account_of(of)
        paid = replace(purchase(7), payment_hash=bytes([number]) * 32, labels=of)
        purse.hold(replace(paid, request_digest=digest_within(digest, account)), ())
        purse.capture(bytes([number]) * 32, preimage=PREIMAGE, fee=Amount(0))
    purse.capture(bytes([1]) * 32, preimage=PREIMAGE, fee=Amount(0))
    resume(None, folder=tmp_path, as_json=True)
    plain = "farebox call 'https://api.example.com/7?q=a&b'"
    assert [plain, f'{plain} --purse "$(farebox purse show bot --token)"'] == [
        row["to_get_it"] for row in told(capsys) if row["url"] == url
    ]


def test_where_nothing_is_open_there_is_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Exit.DONE is resume(None, folder=tmp_path, as_json=True)
    assert [] == told(capsys)


def test_a_call_that_waits_for_a_person_has_an_exit_code_of_its_own() -> None:
    assert (Exit.APPROVAL_NEEDED, Exit.REFUSED) == (exit_code(ApprovalNeeded()), exit_code(ApprovalDenied()))


def test_a_field_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MalformedValue, match="choose among a, b"):
        show([{"a": 1, "b": 2}], title="", as_json=True, fields="a,c")
    show([{"a": 1, "b": 2}], title="", as_json=True, fields="b")
    assert [{"b": 2}] == told(capsys)


def test_the_exit_codes_are_the_same_wherever_they_are_told() -> None:
    from farebox.cli import app, output

    documented = (Path(__file__).parents[2] / "docs" / "buying.md").read_text()
    epilog = str(app.app.info.epilog)
    for code in Exit:
        assert f"\n    {code:<4}" in str(output.__doc__)
        if code is not Exit.TAMPERED:  # of `farebox ledger verify` alone
            assert f"\n| {code:d} | " in documented
            assert f" {code:d} " in epilog


def test_what_strangers_wrote_is_only_a_text_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("farebox.cli.output.is_person", lambda **_: True)
    show([{"reason": "[bold]no\x1b[2J route[/bold]"}], title="", as_json=False)
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "[bold]no" in shown


def test_a_table_of_values_has_the_members_that_are_wanted(
    purse: Purse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def show_csv(fields: str, *, as_json: bool = False) -> None:
        show_history(only(), folder=tmp_path, limit=9, as_csv=True, fields=fields, as_json=as_json)

    show_csv("amount,url")
    assert ["amount,url", "3 sat,https://api.example.com/3?q=a&b"] == capsys.readouterr().out.splitlines()[:2]
    with pytest.raises(MalformedValue, match="choose among"):
        show_csv("bogus")
    with pytest.raises(UsageError):
        show_csv("url", as_json=True)
