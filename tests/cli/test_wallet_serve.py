"""What `farebox wallet serve` refuses before it opens anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from farebox.cli import wallet_serve
from farebox.cli.wallet_serve import Wanted, serve
from farebox.core.errors import ConfigError

WALLET = "phoenixd+http://:pw@127.0.0.1:9"


def wanted(**said: Any) -> Wanted:
    usual: dict[str, Any] = {
        "http": None, "public_url": None, "budget": "500 sat/day", "time_zone": None, "most": None, "token": None,
        "allow": (), "allow_private": False, "approve_above": None, "approval_wait_s": 0.0, "timeout_s": 1.0,
    }  # fmt: skip
    return Wanted(**(usual | said))


def test_who_has_not_the_sdk_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wallet_serve, "find_spec", lambda _: None)

    with pytest.raises(ConfigError, match=r"pip install 'farebox\[mcp\]'"):
        serve(wanted(), wallet_url=WALLET, folder=tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "[::]", "wallet.example"])
def test_others_than_this_machine_are_not_heard_unless_the_public_s_url_is_told(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="--public-url"):
        serve(wanted(http=f"{host}:0"), wallet_url=WALLET, folder=tmp_path)
