"""What stands around a call: parked calls, sub-purses, and the books of a buyer, each in a process of its own."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.system


@pytest.fixture
def shop(open_shop: Any, writer_url: str) -> Iterator[Any]:
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as shop:
        yield shop


@pytest.fixture
def buyer(shop: Any, farebox: Any) -> Any:
    """A command of somebody with the play money of the shop."""
    more = {"FAREBOX_WALLET": shop.place["buyer_wallet"], "FAREBOX_STATE": "buyer"}
    return lambda *arguments, **others: farebox(*arguments, **{**more, **others})


def rows(told: Any) -> list[dict[str, Any]]:
    """The JSON objects that a command printed, one a line."""
    assert 0 == told.returncode, told
    return [json.loads(line) for line in told.stdout.splitlines()]


def test_a_call_above_the_limit_is_parked_and_paid_once_it_is_approved(shop: Any, buyer: Any, writer: Any) -> None:
    call = ("call", shop.url, "-d", "hello", "--approve-above", "20sat")
    asked = buyer(*call, "--dry-run")
    assert (11, True, False) == (asked.returncode, *(json.loads(asked.stdout)[k] for k in ("needs_approval", "fits")))
    assert [] == rows(buyer("approvals", "list"))

    parked = buyer(*call)
    said = json.loads(parked.stderr.splitlines()[-1])
    assert (11, "approval-needed", {}) == (parked.returncode, said["type"], writer.runs)
    (waiting,) = rows(buyer("approvals", "list"))
    assert ("pending", 21_000, said["approval"]) == tuple(waiting[k] for k in ("state", "amount_msat", "number"))

    assert ["approved"] == [row["state"] for row in rows(buyer("approvals", "approve", str(waiting["number"])))]
    assert 0 == buyer(*call).returncode
    assert 1 == len(writer.runs["hello"])
    assert 11 == buyer("call", shop.url, "-d", "another", "--approve-above", "20sat").returncode


def test_parked_calls_that_differ_by_their_body_alone_are_told_apart(shop: Any, buyer: Any) -> None:
    for prompt in ("hello", "another", "hello"):
        assert 11 == buyer("call", shop.url, "-d", prompt, "--approve-above", "20sat").returncode
    another, hello = rows(buyer("approvals", "list"))
    assert [12, 12] == [len(each["request"]) for each in (another, hello)]
    assert another["request"] != hello["request"]
    assert hello["request"] == rows(buyer("approvals", "approve", str(hello["number"])))[0]["request"]


def test_a_call_waits_for_the_word_and_is_denied(shop: Any, buyer: Any, start_farebox: Any) -> None:
    watching = start_farebox("approvals", "watch", FAREBOX_STATE="buyer")
    calling = start_farebox(
        *("call", shop.url, "-d", "hello", "--approve-above", "20sat", "--wait-for-approval", "15"),
        FAREBOX_WALLET=shop.place["buyer_wallet"],
        FAREBOX_STATE="buyer",
    )
    number = json.loads(watching.stdout.readline())["number"]
    buyer("approvals", "deny", str(number))
    _, err = calling.communicate(timeout=20)
    assert (3, "approval-denied") == (calling.returncode, json.loads(err.splitlines()[-1])["type"])


def test_a_sub_purse_is_spent_from_with_its_token_and_no_further_than_its_limits(shop: Any, buyer: Any) -> None:
    token = buyer("purse", "add", "researcher", "--limit", "42 sat/day").stdout.strip()
    less = buyer("purse", "attenuate", "--limit", "30 sat/day", stdin=token).stdout.strip()
    other = buyer("purse", "attenuate", "--host", "*.example.com", stdin=token).stdout.strip()

    codes = [
        buyer("call", shop.url, "-d", prompt, "--tag", "essay", FAREBOX_PURSE=with_token).returncode
        for prompt, with_token in (("one", less), ("two", less), ("three", other), ("four", token + "x"))
    ]
    assert [0, 3, 3, 3] == codes
    windows = {row["window"]: row["left_msat"] for row in rows(buyer("budget", "500 sat/day"))}
    assert {"500 sat/day": 479_000, "42 sat/day in researcher": 21_000} == windows

    (bought,) = rows(buyer("history", "--purse", "researcher", "--tag", "essay"))
    assert "purse:researcher" in bought["labels"].split()
    assert [] == rows(buyer("history", "--tag", "poem"))

    assert ["revoked"] == [row["state"] for row in rows(buyer("purse", "revoke", "researcher"))]
    assert 3 == buyer("call", shop.url, "-d", "five", FAREBOX_PURSE=token).returncode


def test_an_empty_token_is_not_taken_for_none(shop: Any, buyer: Any, writer: Any) -> None:
    for arguments, empty in ((("--purse=",), {}), ((), {"FAREBOX_PURSE": ""})):
        refused = buyer("call", shop.url, "-d", "hello", *arguments, **empty)
        assert (2, True) == (refused.returncode, "empty" in json.loads(refused.stderr)["message"])
    assert {} == writer.runs


def test_a_limit_that_a_token_was_narrowed_to_is_named_as_the_token_s(shop: Any, buyer: Any) -> None:
    token = buyer("purse", "add", "researcher", "--limit", "100 sat/day").stdout.strip()
    less = buyer("purse", "attenuate", "--limit", "5 sat/call", stdin=token).stdout.strip()
    refused = buyer("call", shop.url, "-d", "one", FAREBOX_PURSE=less)
    assert 3 == refused.returncode
    told = "5 sat/call of this token (purse researcher) has 5 sat left, and this may cost 22 sat"
    assert told in json.loads(refused.stderr)["message"]


def test_what_is_paid_and_not_served_is_told_with_the_command_that_gets_it(shop: Any, buyer: Any, writer: Any) -> None:
    writer.failing = True
    assert 8 == buyer("call", shop.url, "--timeout", "5").returncode
    writer.failing = False
    told = buyer("resume")
    row = json.loads(told.stdout)
    assert (8, "captured", 21_000) == (told.returncode, row["state"], row["amount_msat"])
    assert [row["payment_hash"]] == [one["payment_hash"] for one in rows(buyer("history", "--state", "unserved"))]

    command = row["to_get_it"].split()
    assert "farebox" == command[0]
    again = buyer(*command[1:])
    assert 0 == again.returncode, again
    assert "paid earlier" in again.stderr
    assert [] == rows(buyer("resume"))


def test_the_history_is_a_table_for_other_programs(shop: Any, buyer: Any) -> None:
    buyer("call", shop.url, "-d", "hello")
    (row,) = csv.DictReader(buyer("history", "--csv").stdout.splitlines())
    assert ("21000", "0", "True", shop.url) == tuple(row[k] for k in ("amount_msat", "fee_msat", "served", "url"))
    assert [{"amount_msat": 21_000, "served": True}] == rows(buyer("history", "--fields", "amount_msat,served"))
    assert [] == rows(buyer("history", "--host", "api.example.com"))
