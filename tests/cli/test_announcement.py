"""What an operator is told when a shop opens."""

import pytest

from farebox.cli.announcement import announce
from farebox.cli.config import checked


def test_a_route_that_is_paid_on_success_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    route = {"path": "/a", "price": "21 sat", "demo": True}
    config = checked({"route": [route | {"settle": "on-success"}, route | {"path": "/b"}]}, "a test")
    announce(config, "http://shop", None)
    told = capsys.readouterr().err
    assert "POST http://shop/a  21 sat, on success\n" in told
    assert "POST http://shop/b  21 sat\n" in told
