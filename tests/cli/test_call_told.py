"""What is told of an answer, where the money went, and what is to be done."""

from __future__ import annotations

import io
import json
import sys
import time
from typing import Any

import httpx
import pytest

from farebox.cli.call_place import Remembered
from farebox.cli.call_request import Wanted
from farebox.cli.call_told import tell_answer
from farebox.cli.call_wait import Told
from farebox.cli.output import Exit
from farebox.core.amount import Amount
from farebox.payer import Bought

URL = "https://api.example.com/x"
PAID = Bought(paid=Amount.sats(21), fee=Amount(500), payment_hash=bytes(32))


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def refused(bought: Bought | None, onto: io.StringIO, kept: str | None = None, **more: Any) -> tuple[Exit, str]:
    """The exit code of an answer that refuses the call, and what is written to standard error."""
    headers = {} if kept is None else {"payment-kept": kept}
    answer = httpx.Response(422, headers=headers, request=httpx.Request("POST", URL))
    if bought is not None:
        answer.extensions["farebox"] = bought
    wanted = Wanted(url=URL, budget="500 sat/day", **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", onto)
        told = Told(quiet=wanted.quiet, verbose=False)
        return tell_answer(wanted, told, answer, Remembered(), began=time.monotonic()), onto.getvalue()


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize(
    ("kept", "then"),
    [
        ("true", "Make the same call again: the seller keeps what was paid"),
        ("false", "The seller says that it gives back what was paid."),
        (None, "Ask the seller: what was paid bought this answer."),
        ("perhaps", "Ask the seller: what was paid bought this answer."),
    ],
)
def test_a_refusal_that_was_paid_for_tells_what_moved_and_what_to_do_however_quiet(
    kept: str | None, then: str, *, quiet: bool
) -> None:
    code, line = refused(PAID, io.StringIO(), kept, quiet=quiet)
    row = json.loads(line)
    assert (Exit.SERVER_REFUSED, 7, "server-refused", 422) == (code, row["exit_code"], row["type"], row["status"])
    assert (True, 21_000, 500, "00" * 32) == tuple(
        row[name] for name in ("money_moved", "amount_msat", "fee_msat", "payment_hash")
    )
    assert row["next_step"].startswith(then)

    shown = refused(PAID, Screen(), kept, quiet=quiet)[1]
    assert "the server answered 422 Unprocessable Entity; paid 21 sat (fee 500 msat)" in shown
    assert then in shown


@pytest.mark.parametrize("bought", [None, Bought(), Bought(payment_hash=bytes(32), reused=True)])
def test_a_refusal_for_which_nothing_was_paid_says_so(bought: Bought | None) -> None:
    row = json.loads(refused(bought, io.StringIO(), "true")[1])
    assert (False, "", "the server answered 422 Unprocessable Entity") == tuple(
        row[name] for name in ("money_moved", "next_step", "detail")
    )


def test_a_refusal_has_the_members_of_every_error() -> None:
    row = json.loads(refused(None, io.StringIO(), as_json=True)[1])
    assert ["error", "exit_code", "message", "type", "title", "detail", "money_moved", "next_step"] == list(row)[:8]
