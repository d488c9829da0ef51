"""farebox.toml: what is not known is refused with the nearest name that is."""

from pathlib import Path

import pytest

from farebox.cli.config import TEMPLATE, checked, read_config
from farebox.core.errors import ConfigError

ROUTE = {"path": "/api/dvm", "price": "21 sat", "demo": True}


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "farebox.toml"
    file.write_text(text)
    return file


def test_the_template_is_a_shop_that_opens(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, TEMPLATE))
    assert [(line.path, line.price, line.demo) for line in config.route] == [("/api/dvm", "21 sat", True)]
    assert config.store == f"sqlite:///{tmp_path.resolve()}/farebox.db"
    assert config.keys == tmp_path / "farebox.keys"
    assert config.address == ("127.0.0.1", 8402)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reciever": "sandbox:"}, "`reciever` is not known; did you mean `receiver`?"),
        ({"zzz": 1}, "`zzz` is not known; known are"),
        ({"route": [ROUTE | {"prise": "1 sat"}]}, "route 1: `prise` is not known; did you mean `price`?"),
        ({"route": [ROUTE, ROUTE | {"price": "21"}]}, "route 2: `price`: "),
        ({"route": [ROUTE | {"price": "0 sat"}]}, "a price is more than nothing"),
        ({"route": [{"path": "/x", "price": "1 sat"}]}, "needs exactly one of `upstream`, `openai` and `demo`"),
        ({"route": [{"path": "/x", "price": "1 sat", "openai": "http://m/v1"}]}, "`openai` and `model` go together"),
        ({"route": [{"path": "/x", "price": "1 sat", "upstream": "ftp://x"}]}, "a URL such as http://127.0.0.1:9000"),
        ({"route": []}, "`route`"),
        ({"free_calls": -1}, "`free_calls`"),
        ({"receiver": "$FAREBOX_NOT_SET"}, "the environment has no FAREBOX_NOT_SET"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(change: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        checked({"route": [ROUTE]} | change, "farebox.toml")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["listen = ", "[[route]\n", "\xff"])
def test_a_file_that_is_not_toml_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"farebox\.toml"):
        read_config(written(tmp_path, text))


def test_a_value_that_begins_with_a_dollar_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_NODE", "phoenixd+http://:secret@127.0.0.1:9740")
    config = checked({"receiver": "$MY_NODE", "route": [ROUTE]}, "farebox.toml")
    assert config.receiver == "phoenixd+http://:secret@127.0.0.1:9740"


@pytest.mark.parametrize("listen", ["8402", "127.0.0.1", "127.0.0.1:x", ":8402", "127.0.0.1:99999"])
def test_a_listen_address_needs_host_and_port(listen: str) -> None:
    with pytest.raises(ConfigError):
        _ = checked({"listen": listen, "route": [ROUTE]}, "x").address


def test_a_flag_replaces_what_the_file_says(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, TEMPLATE)).with_flags({"listen": "127.0.0.1:9"})
    assert (config.address, config.store) == (("127.0.0.1", 9), f"sqlite:///{tmp_path.resolve()}/farebox.db")
