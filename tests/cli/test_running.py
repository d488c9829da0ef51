"""A password on the command line is warned of, for everybody on the machine can read it."""

from __future__ import annotations

import pytest

from farebox.cli.config import checked
from farebox.cli.running import warn_of_visible_secrets

URL = "phoenixd+http://:node-password@127.0.0.1:9740"
ROUTE = {"path": "/x", "price": "1 sat", "openai": "http://m/v1", "model": "m", "api_key": "plain-words-key"}


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (["serve", "--receiver", URL], True),
        (["serve", f"--receiver={URL}"], True),
        (["serve", "--api-key", "plain-words-key"], True),
        (["serve", "--receiver", "$MY_NODE"], False),
        (["serve", "shop.toml", "--listen", "127.0.0.1:8402"], False),
    ],
)
def test_a_secret_among_the_arguments_is_warned_of_and_not_repeated(
    arguments: list[str], warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_visible_secrets(checked({"receiver": URL, "route": [ROUTE]}, "x"), arguments)
    told = capsys.readouterr().err
    assert warned == ("'$MY_NODE'" in told)
    assert "node-password" not in told
    assert "plain-words-key" not in told
