"""A shop whose node credential can spend does not open, unless that is meant (reliability: F1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farebox.cli.config import checked
from farebox.cli.serve import opened
from farebox.core.errors import ConfigError

pytestmark = [pytest.mark.system, pytest.mark.anyio]


async def test_a_node_password_that_can_pay_is_refused_and_the_limited_one_is_taken(
    open_shop: Any, farebox: Any, tmp_path: Path
) -> None:
    with open_shop("--upstream", "http://127.0.0.1:9", "--price", "21sat") as node:
        spending, limited = node.place["buyer_wallet"], node.place["seller_wallet"]
        sold = ("--upstream", "http://127.0.0.1:9", "--price", "21sat", "--listen", "127.0.0.1:0")
        refused = farebox("serve", *sold, "--state-dir", "state", FAREBOX_RECEIVER=spending)
        shop = {"route": [{"path": "/x", "price": "1 sat", "demo": True}]}
        async with opened(checked({**shop, "receiver": limited}, "a shop"), tmp_path / "limited"):
            pass
        meant = checked({**shop, "receiver": spending, "allow_spending_key": True}, "a shop")
        async with opened(meant, tmp_path / "meant"):
            pass
        with pytest.raises(ConfigError, match="can spend"):
            async with opened(checked({**shop, "receiver": spending}, "a shop"), tmp_path / "refused"):
                pass
    (told,) = [line for line in refused.stderr.splitlines() if line.startswith("{")]
    assert (1, True) == (refused.returncode, "--allow-spending-key" in json.loads(told)["message"])
    assert spending.partition("://:")[2].partition("@")[0] not in refused.stderr
    assert refused.stdout == ""
