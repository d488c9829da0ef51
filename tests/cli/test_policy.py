"""What the environment says of every command that pays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from farebox.cli.output import Exit, exit_code
from farebox.cli.policy import open_by_policy
from farebox.core.errors import FareboxError
from farebox.testing.shopping import Face


def opened(**more: Any) -> Any:
    face = Face("client")
    usual: dict[str, Any] = {"budget": "500 sat/calendar day", "time_zone": None}
    return open_by_policy(wallet=face.wallet, purse=face.purse, **(usual | more))


def test_without_a_word_of_it_everybody_may_be_paid_and_nobody_is_pinned() -> None:
    limits = opened().payer._limits
    assert (("*",), (), (), False, 10) == (
        limits.allow,
        limits.deny,
        limits.plain_http,
        limits.pin_payee,
        limits.price_jump,
    )


def test_the_environment_says_who_is_paid_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PAY": "api.example.com, *.example.org",
        "NEVER_PAY": "bad.example.org",
        "PLAIN_HTTP": "10.0.0.7",
        "PIN_PAYEE": "yes",
        "PRICE_JUMP": "0",
        "APPROVAL_WEBHOOK": "https://decide.example.com",
        "APPROVAL_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    }.items():
        monkeypatch.setenv(f"FAREBOX_{name}", value)
    buyer = opened(time_zone=" Europe/Paris ", approve_above="5 sat", approval_patience=timedelta(seconds=3))
    limits = buyer.payer._limits
    assert (("api.example.com", "*.example.org"), ("bad.example.org",), ("10.0.0.7",), True, None) == (
        limits.allow,
        limits.deny,
        limits.plain_http,
        limits.pin_payee,
        limits.price_jump,
    )
    assert [ZoneInfo("Europe/Paris")] == [window.zone for window in limits.budget.windows]
    assert buyer.drivers.blocking.ask_approval is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PIN_PAYEE", "perhaps"),
        ("PRICE_JUMP", "-1"),
        ("PRICE_JUMP", "ten"),
        ("APPROVAL_WEBHOOK", "https://decide.example.com"),  # without a secret
    ],
)
def test_what_can_not_be_meant_is_one_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"FAREBOX_{name}", value)
    with pytest.raises(FareboxError) as refused:
        opened()
    assert Exit.USAGE == exit_code(refused.value)
    assert "\n" not in str(refused.value)
