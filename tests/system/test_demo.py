"""The first command of the README."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.system


def test_the_demo_goes_as_it_tells(farebox: Any) -> None:
    ran = farebox("demo")
    assert (0, "") == (ran.returncode, ran.stderr), ran.stdout
    assert ran.stdout.count("✓") >= 10
