"""A shop that could be robbed does not open, and says in one line what to do (reliability: F1)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import structlog

from farebox.cli.config import checked
from farebox.cli.serve import check_exposure, opened
from farebox.core.errors import ConfigError

pytestmark = pytest.mark.anyio

ROUTE = {"path": "/x", "price": "1 sat", "demo": True}
GOOD = sha256(b"a key").hexdigest()


def wrote(text: str, mode: int = 0o600, folder_mode: int = 0o700) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(mode)
        path.parent.chmod(folder_mode)

    return write


@pytest.mark.parametrize(
    ("prepared", "told"),
    [
        pytest.param(wrote(""), "there is no key", id="no key"),
        pytest.param(wrote(GOOD[:-2]), "32 random bytes", id="a short key"),
        pytest.param(wrote("00" * 32), "32 random bytes", id="zeros"),
        pytest.param(wrote(b"changeme".hex() * 4), "32 random bytes", id="a default"),
        pytest.param(wrote(b"correct horse battery staple, you know".hex()), "32 random bytes", id="a sentence"),
        pytest.param(wrote(bytes(range(32)).hex()), "32 random bytes", id="a count"),
        pytest.param(wrote(GOOD[:32] * 2), "32 random bytes", id="half a key twice"),
        pytest.param(wrote(f"{GOOD}\n{'11' * 32}\n"), "32 random bytes", id="a good key and a weak one"),
        pytest.param(wrote("secret"), "not a key file", id="a word"),
        pytest.param(wrote(GOOD, 0o640), "chmod 600", id="readable by the group"),
        pytest.param(wrote(GOOD, 0o604), "chmod 600", id="readable by everyone"),
        pytest.param(wrote(GOOD, 0o600, 0o777), "chmod o-w", id="replaceable by everyone"),
    ],
)
async def test_a_shop_with_a_bad_key_file_does_not_open(
    tmp_path: Path, prepared: Callable[[Path], None], told: str
) -> None:
    path = tmp_path / "shop" / "keys"
    prepared(path)
    config = checked({"keys": path, "route": [ROUTE]}, "farebox.toml")
    with pytest.raises(ConfigError) as refused:
        async with opened(config, tmp_path / "state"):
            pass
    path.parent.chmod(0o700)
    assert told in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any(line in str(refused.value) for line in path.read_text().split())


@pytest.mark.parametrize("proxies", [["*"], ["0.0.0.0/0"], ["::/0"], ["10.0.0.1", "*"], ["0.0.0.0/1", "128.0.0.0/1"]])
async def test_a_shop_that_trusts_everyone_as_its_proxy_does_not_open(tmp_path: Path, proxies: list[str]) -> None:
    config = checked({"trusted_proxies": proxies, "route": [ROUTE]}, "farebox.toml")
    with pytest.raises(ConfigError, match=r"trusted_proxies: .*list your own"):
        async with opened(config, tmp_path):
            pass


@pytest.mark.parametrize("listen", ["0.0.0.0:8402", "[::]:8402", "192.0.2.7:8402", "shop.example:8402"])
def test_play_money_is_not_taken_from_the_public(listen: str) -> None:
    with pytest.raises(ConfigError, match="--sandbox"):
        check_exposure(checked({"listen": listen, "route": [ROUTE]}, "farebox.toml"), sandbox_allowed=False)


async def test_a_shop_whose_node_asks_for_whole_satoshis_only_does_not_open_with_a_fraction(tmp_path: Path) -> None:
    shop = {"receiver": "phoenixd+http://:p@127.0.0.1:9", "allow_spending_key": True}
    config = checked({**shop, "route": [ROUTE | {"price": "500 msat"}]}, "farebox.toml")
    with pytest.raises(ConfigError, match=r"POST /x costs 500 msat, and phoenixd at .* asks for whole"):
        async with opened(config, tmp_path):
            pass


async def test_a_shop_that_can_not_learn_a_rate_does_not_open(tmp_path: Path) -> None:
    config = checked({"route": [ROUTE | {"price": "2 CHF"}]}, "farebox.toml")
    with pytest.raises(ConfigError, match="nobody says what a bitcoin costs in CHF"):
        async with opened(config, tmp_path):
            pass


async def test_a_shop_opens_without_a_rate_and_says_so(tmp_path: Path) -> None:
    rates = {"USD": f"file:{tmp_path}/missing.json"}
    config = checked({"rates": rates, "route": [ROUTE | {"price": "2 USD"}]}, "farebox.toml")
    with structlog.testing.capture_logs() as told:
        async with opened(config, tmp_path):
            pass
    assert ["rate-not-read", "no-rate"] == [line["event"] for line in told if "rate" in line["event"]][:2]


async def test_a_shop_in_good_order_opens(tmp_path: Path) -> None:
    path = tmp_path / "shop" / "keys"
    wrote(GOOD)(path)
    async with opened(checked({"keys": path, "route": [ROUTE]}, "farebox.toml"), tmp_path / "state") as shop:
        assert shop.sandbox is not None
