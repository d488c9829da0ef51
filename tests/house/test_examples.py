"""The examples in the documents: all of them compile, and those marked `<!-- runs -->` run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

FENCE = re.compile(r"^(?P<mark><!-- runs -->\s*\n)?```python[^\n]*\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


def examples(root: Path) -> list[tuple[str, str, bool]]:
    """Where each Python example stands, its code, and whether it is to be run."""
    documents = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    found = []
    for document in sorted(documents):
        text = document.read_text(encoding="utf-8")
        for fence in FENCE.finditer(text):
            line = text.count("\n", 0, fence.start("code"))
            found.append((f"{document.relative_to(root)}:{line}", fence["code"], fence["mark"] is not None))
    return found


def test_every_python_example_is_python(root: Path) -> None:
    for where, code, _ in examples(root):
        assert compile("\n" + code, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


@pytest.mark.system
def test_every_example_that_claims_to_run_runs(root: Path, tmp_path: Path) -> None:
    for where, code, runs in examples(root):
        if runs:
            ran = subprocess.run(
                [sys.executable, "-W", "error", "-"],
                input=code,
                capture_output=True,
                text=True,
                cwd=tmp_path,
                timeout=20,
                check=False,
            )
            assert ran.returncode == 0, f"{where}: {ran.stderr}"


def test_an_example_is_found_with_its_mark() -> None:
    text = "x\n<!-- runs -->\n```python\na\n```\n```python\nb\n```\n```sh\nc\n```\n"
    assert [(fence["code"], fence["mark"] is not None) for fence in FENCE.finditer(text)] == [
        ("a\n", True),
        ("b\n", False),
    ]
