"""Names that are imported when they are first used, and what is said where an extra is not installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("statement", "missing", "extra"),
    [
        ("import farebox.aiohttp", "aiohttp", "aiohttp"),
        ("import farebox.http.fastapi", "starlette", "fastapi"),
        ("import farebox.httpx2", "httpx2", "httpx2"),
        ("import farebox.langchain", "langchain_core", "langchain"),
        ("from farebox.mcp import PaidSession", "mcp", "mcp"),
        ("import farebox.pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("import farebox.requests", "requests", "requests"),
    ],
)
def test_where_an_extra_is_not_installed_the_error_says_how_to_install_it(
    statement: str, missing: str, extra: str
) -> None:
    without = f"import sys; sys.modules[{missing!r}] = None; {statement}"
    ran = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, timeout=60)
    *_, told = ran.stderr.splitlines()
    assert 1 == ran.returncode
    assert told.startswith("ModuleNotFoundError: ")
    assert missing in told
    assert told.endswith(f"pip install 'farebox[{extra}]'")
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
